"""What a trace that comes in pieces adds to the archive: a plan, and no I/O.

Its records only ever are added, as events; what they make is made anew from all of them, so that messages
and goals change as more is known, and it makes no difference in which order files came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from traceark.importers.base import SourceTrace
from traceark.importers.merge import (
    SPENT,
    STATE,
    SUPERSEDED,
    Plan,
    State,
    Stored,
    given,
    header_updates,
    merged_goals,
    plan_diverged,
)
from traceark.importers.pieces import PiecedTrace, pieces_of
from traceark.importers.times import give_times
from traceark.models import Message

# What else of a message may change as more of its trace is known, beside what may always.
_CHANGING = (
    "content",
    "goal_id",
    "tool_call_id",
    "tool_name",
    "description",
    "status",
    "error",
    "created_at",
)


def plan_pieces(source: SourceTrace, pieced: PiecedTrace, stored: Stored, state: State) -> tuple[Plan, SourceTrace]:
    """Return what to write so that the archive holds what it held and what was told now, and the trace that both make.

    Parameters
    ----------
    source : SourceTrace
        What the pieces make by themselves.
    pieced : PiecedTrace
    stored : Stored
        With the state that `begun` wrote when the trace has just been made.
    state : State
        Of the same format.
    """
    earlier = pieces_of(pieced.format.name, stored.events)
    joined = pieced.after(earlier) if earlier else replace(pieced, fresh=source.events)
    if joined is None:
        return plan_diverged(source, stored, state, []), source
    if earlier:
        source = joined.source()
        give_times(source)
        # Their times follow from the whole trace, as those of all its events do.
        times = {(each.event_type, id(each.payload)): each.created_at for each in source.events}
        joined.fresh = [
            replace(each, created_at=times.get((each.event_type, id(each.payload)), source.trace.created_at))
            for each in joined.fresh
        ]
        pieced.counts = joined.counts
    if not joined.fresh and not state.until:
        return Plan("known" if len(pieced.pieces) >= len(joined.pieces) else "older"), source
    by_id = {str(message.message_id): message for message in stored.messages}
    rows = len(source.digests)
    begins = replace(state, until=rows)
    plan = Plan("grown" if state.rows else "new", events=given(joined.fresh), events_first=True)
    plan.marks = {"metadata": {**stored.trace.metadata, STATE: begins.to_json()}}
    if source.trace.status != "running":
        # Not sealed meanwhile, and if this import does not end, it shows.
        plan.marks["status"] = "running"
    plan.goals = merged_goals(source.goals, stored.goals)
    plan.messages = [message for message in source.messages if message.message_id not in by_id]
    for message in source.messages:
        known = by_id.pop(str(message.message_id), None)
        if known is not None and (updates := _changes(known, message)):
            plan.spent.append((str(message.message_id), updates))
    plan.spent += _superseded([*by_id.values()])
    plan.header = header_updates(source, stored.trace, state)
    return plan, source


def _changes(known: Message, message: Message) -> dict[str, object]:
    """Return what is known better of a message now; what it says no more stays, but for what it spent.

    Its extra fields stay as they are: a store updates those of the model alone.
    """
    is_back = known.status == SUPERSEDED
    updates = {name: getattr(message, name) for name in SPENT if getattr(known, name) != getattr(message, name)}
    for name in _CHANGING:
        told = getattr(message, name)
        if told != getattr(known, name) and (told is not None or (is_back and name == "status")):
            updates[name] = told
    return updates


def _superseded(messages: Sequence[Message]) -> list[tuple[str, dict[str, object]]]:
    """Return updates of messages that other spans tell now: they are other messages, and count there."""
    return [
        (str(message.message_id), {**dict.fromkeys(SPENT), "status": SUPERSEDED})
        for message in messages
        if "span_id" in (message.__pydantic_extra__ or {}) and message.status != SUPERSEDED
    ]
