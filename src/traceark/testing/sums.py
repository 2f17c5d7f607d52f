"""Totals and stats recounted from nothing, in exact fractions: the oracle's own arithmetic.

Slow on purpose: no running sum, no cache, nothing shared with `traceark.stats`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from traceark.models import Goal, GoalStats, Message

TOTALS = ("total_messages", "total_tokens", "total_cost", "total_duration_ms")
STATS = ("message_count", "total_tokens", "total_cost", "total_duration_ms")
PREVIEW_TOOLS = 5
ARROW = " → "

Adjustments = dict[str, Fraction]


def as_fraction(value: float) -> Fraction:
    """Return a number as it is written: 0.1 is a tenth.

    Examples
    --------
    >>> as_fraction(0.1)
    Fraction(1, 10)
    """
    return Fraction(repr(value))


def counted(messages: Sequence[Message]) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Return count, tokens, cost and milliseconds of some messages, in the order of `TOTALS`."""
    return (
        Fraction(len(messages)),
        Fraction(sum(message.counted_tokens() for message in messages)),
        sum((as_fraction(message.cost or 0) for message in messages), Fraction(0)),
        Fraction(sum(message.duration_ms or 0 for message in messages)),
    )


@dataclass
class SetStats:
    """What a caller set of one goal's own or cumulative stats.

    `preview_after` is the number of messages there were when the preview was set, None if it was not.
    """

    adjustments: Adjustments = field(default_factory=dict)
    preview: str | None = None
    preview_after: int | None = None


# Per goal id: what was set of its own stats and of its cumulative ones.
SetGoals = Mapping[str, tuple[SetStats, SetStats]]
NOTHING_SET = (SetStats(), SetStats())


def recount(
    goals: Sequence[Goal], messages: Sequence[Message], was_set: SetGoals
) -> dict[str, tuple[list[Fraction], list[Fraction]]]:
    """Return, by goal id, the exact own and cumulative values in the order of `STATS`."""
    own = {
        goal.id: _adjusted(
            counted([each for each in messages if each.goal_id == goal.id]), was_set.get(goal.id, NOTHING_SET)[0]
        )
        for goal in goals
    }
    cumulative = {
        goal.id: _adjusted(
            [sum(values, Fraction(0)) for values in zip(*(own[each] for each in _family(goal.id, goals)), strict=True)],
            was_set.get(goal.id, NOTHING_SET)[1],
        )
        for goal in goals
    }
    return {goal.id: (own[goal.id], cumulative[goal.id]) for goal in goals}


def with_stats(goals: Sequence[Goal], messages: Sequence[Message], was_set: SetGoals) -> list[Goal]:
    """Return copies of the goals with their stats recounted.

    Parameters
    ----------
    goals : sequence of Goal
        All goals of a tree.
    messages : sequence of Message
        All messages of the trace, in the order of adding.
    was_set : mapping
        What a caller set, by goal id.
    """
    values = recount(goals, messages, was_set)
    out = []
    for goal in goals:
        own_set, cumulative_set = was_set.get(goal.id, NOTHING_SET)
        own, cumulative = values[goal.id]
        copy = goal.model_copy(deep=True)
        copy.self_stats = _stats(goal.self_stats, own, _preview({goal.id}, messages, own_set))
        family = _family(goal.id, goals)
        copy.cumulative_stats = _stats(goal.cumulative_stats, cumulative, _preview(family, messages, cumulative_set))
        out.append(copy)
    return out


def _adjusted(values: Sequence[Fraction], was_set: SetStats) -> list[Fraction]:
    return [value + was_set.adjustments.get(name, 0) for name, value in zip(STATS, values, strict=True)]


def _family(goal_id: str, goals: Sequence[Goal]) -> set[str]:
    """Return a goal and all its descendants."""
    found = {goal_id}
    for goal in goals:
        if goal.parent_id == goal_id:
            found |= _family(goal.id, goals)
    return found


def _preview(family: set[str], messages: Sequence[Message], was_set: SetStats) -> str | None:
    fresh = messages[was_set.preview_after or 0 :]
    tools = [each.tool_name for each in fresh if each.goal_id in family and each.tool_name is not None]
    if not tools:
        return was_set.preview
    before = was_set.preview.split(ARROW) if was_set.preview else []
    return ARROW.join([*before, *tools][-PREVIEW_TOOLS:])


def _stats(template: GoalStats, values: Sequence[Fraction], preview: str | None) -> GoalStats:
    fields = {**(template.__pydantic_extra__ or {}), "preview": preview}
    for name, value in zip(STATS, values, strict=True):
        fields[name] = float(value) if name == "total_cost" else int(value)
    return GoalStats.parse(fields)
