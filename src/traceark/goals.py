"""Changing a goal tree: pure, from the stored tree and what a caller gives to the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traceark.codec.lines import check_model, to_record
from traceark.errors import GoalExistsError, GoalNotFoundError, StaleGoalTreeError
from traceark.headers import TreeFile
from traceark.models import Goal, GoalStats, GoalTree, updated
from traceark.stats import MessageFold, SetGoals, SetStats, Sums, goal_sums, set_from, with_stats

_STATS = ("self_stats", "cumulative_stats")


def replaced(stored: TreeFile | None, given: GoalTree, fold: MessageFold, offset: int, incarnation: str) -> TreeFile:
    """Return the tree file that a caller's tree makes of the stored one.

    Stats that the caller left as they were read, or as a fresh goal has them, go on being counted;
    others are set as of `offset`.

    Raises
    ------
    StaleGoalTreeError
        The tree was read at another revision than the stored one's.
    InvalidValueError
        See `GoalTree.check`.
    """
    given.check()
    was_read = given._revision is not None
    if was_read and (stored is None or stored.changed != given._revision):
        now = "none is there" if stored is None else f"it was changed at revision {stored.changed}"
        raise StaleGoalTreeError(
            f"the goal tree was read at revision {given._revision} and now {now}; read it again and repeat the change"
        )
    before: SetGoals = stored.was_set if stored is not None else {}
    changed = {goal.id: _changed_stats(goal, given, was_read) for goal in given.goals}
    kept = before if was_read else {}
    return _with_set(given, kept, changed, fold, offset, incarnation)


def _changed_stats(goal: Goal, given: GoalTree, was_read: bool) -> frozenset[str]:
    nothing = (GoalStats(), GoalStats())
    own, cumulative = given._read_stats.get(goal.id, nothing) if was_read else nothing
    return frozenset(
        name
        for name, stats, base in (
            ("self_stats", goal.self_stats, own),
            ("cumulative_stats", goal.cumulative_stats, cumulative),
        )
        if stats != base
    )


def added(stored: TreeFile | None, goal: Goal, fold: MessageFold, offset: int, incarnation: str) -> TreeFile | None:
    """Return the tree file with a goal added, or None if that very goal is there already.

    Raises
    ------
    GoalExistsError
        A goal of that id is there, with other content.
    InvalidValueError
        Its parent is unknown.
    """
    check_model(goal)
    tree = stored.tree if stored is not None else GoalTree()
    known = tree.goal(goal.id)
    if known is not None:
        if _without_stats(known) == _without_stats(goal):
            return None
        raise GoalExistsError(f"a goal {goal.id!r} is there already, with other content; use update_goal to change it")
    given = tree.model_copy(update={"goals": [*tree.goals, goal]})
    given.check()
    changed = {goal.id: _changed_stats(goal, given, False)}
    return _with_set(given, stored.was_set if stored is not None else {}, changed, fold, offset, incarnation)


def _without_stats(goal: Goal) -> dict[str, object]:
    return {name: value for name, value in to_record(goal).items() if name not in _STATS}


def changed(
    stored: TreeFile | None, trace_id: str, goal_id: str, updates: Mapping[str, Any], fold: MessageFold, offset: int
) -> TreeFile:
    """Return the tree file with fields of a goal set.

    Raises
    ------
    GoalNotFoundError, UnknownFieldError, InvalidValueError
    """
    known = stored.tree.goal(goal_id) if stored is not None else None
    if stored is None or known is None:
        raise GoalNotFoundError(f"no goal {goal_id!r} in trace {trace_id!r}")
    goal = updated(known, updates)
    check_model(goal)
    given = stored.tree.model_copy(
        update={"goals": [goal if each.id == goal_id else each for each in stored.tree.goals]}
    )
    given.check()
    was_changed = {goal_id: frozenset(name for name in _STATS if name in updates)}
    return _with_set(given, stored.was_set, was_changed, fold, offset, stored.incarnation)


def _with_set(
    given: GoalTree,
    kept: SetGoals,
    changed_stats: Mapping[str, frozenset[str]],
    fold: MessageFold,
    offset: int,
    incarnation: str,
) -> TreeFile:
    was_set: SetGoals = {}
    for goal in given.goals:
        own, cumulative = kept.get(goal.id, (SetStats(), SetStats()))
        if "self_stats" in changed_stats.get(goal.id, ()):
            own = set_from(goal.self_stats, fold.by_goal.get(goal.id) or Sums(), offset)
        was_set[goal.id] = (own, cumulative)
    sums = goal_sums(given.goals, fold.by_goal, was_set)
    for goal in given.goals:
        if "cumulative_stats" in changed_stats.get(goal.id, ()):
            was_set[goal.id] = (was_set[goal.id][0], set_from(goal.cumulative_stats, sums[goal.id][1], offset))
    # Extra fields of given stats are kept; their counted fields are computed anew.
    tree = given.model_copy(deep=True)
    return TreeFile(with_stats(tree, fold.by_goal, was_set), incarnation, 0, offset, 0, was_set)
