"""What traces say of each other, side by side.

Pure. That a trace's parent or child is not here is no damage, since directories are copied and
deleted one by one, and is told as a note. What is here must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, trace_prefix
from traceark.verification.finding import Finding


@dataclass(frozen=True, slots=True)
class Links:
    """Where a trace says that it belongs: its parent and the goal there, its own goals, its children by goal."""

    parent: str | None
    parent_goal: str | None
    goals: frozenset[str]
    children: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, header: Header, tree: TreeFile | None) -> Links:
        """Return what a header and a goal tree say."""
        goals = tree.tree.goals if tree is not None else []
        return cls(
            header.trace.parent_trace_id,
            header.trace.parent_goal_id,
            frozenset(goal.id for goal in goals),
            tuple((goal.id, child) for goal in goals for child in goal.sub_trace_ids),
        )


def broken_links(links: Mapping[str, Links], present: Set[str]) -> Iterator[Finding]:
    """Yield what traces say that others do not agree with.

    Parameters
    ----------
    links : mapping of str to Links
        Of each trace that could be read.
    present : set of str
        The ids of all traces, damaged ones too.
    """
    for trace_id in sorted(links):
        told = links[trace_id]
        parent = links.get(told.parent) if told.parent is not None else None
        if told.parent is not None and told.parent not in present:
            yield _note(trace_id, HEADER, f"its parent, trace {told.parent!r}, is not in this archive", told.parent)
        elif parent is not None and told.parent_goal is not None and told.parent_goal not in parent.goals:
            yield Finding(
                trace_id,
                f"{trace_prefix(trace_id)}/{HEADER}",
                None,
                f"its parent_goal_id {told.parent_goal!r} is no goal of its parent, trace {told.parent!r}",
                "set it to a goal that is there (update_trace), or restore the parent's goal_tree.json",
            )
        for goal_id, child in told.children:
            if child not in present:
                yield _note(
                    trace_id, GOAL_TREE, f"trace {child!r}, below goal {goal_id!r}, is not in this archive", child
                )
            elif _is_claimed_alone(links, trace_id, child):
                yield Finding(
                    trace_id,
                    f"{trace_prefix(trace_id)}/{GOAL_TREE}",
                    None,
                    f"goal {goal_id!r} has trace {child!r} below it, "
                    f"which says that its parent is {links[child].parent!r}",
                    "take it out of the goal's sub_trace_ids (update_goal), or set the parent_trace_id of that trace",
                )


def _is_claimed_alone(links: Mapping[str, Links], trace_id: str, child: str) -> bool:
    """Say whether a child names another parent, which knows nothing of it; one that two traces share is no error."""
    named = links[child].parent if child in links else None
    if named is None or named == trace_id or named not in links:
        return False
    return all(each != child for _, each in links[named].children)


def _note(trace_id: str, name: str, meaning: str, missing: str) -> Finding:
    return Finding(
        trace_id,
        f"{trace_prefix(trace_id)}/{name}",
        None,
        meaning,
        f"nothing is wrong with what is here; copy trace {missing!r} here too if it is wanted",
        is_note=True,
    )
