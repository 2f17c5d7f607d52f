"""Bringing one trace of a source to a store: compared with what is there, and written.

Everything goes through a `TraceStore`, in an order that makes a repeated import end where one that
was not interrupted ends: goals, messages, events, and last the header that says how far the
source has been taken; or a new trace in one piece. What to write is decided in `merge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

from traceark.importers import copies
from traceark.importers.base import GOAL_STATUS, SourceTrace
from traceark.importers.merge import Plan, State, Stored, begun, ended, given, plan_import, settled
from traceark.importers.piece_merge import plan_pieces
from traceark.importers.report import Outcome, TraceReport
from traceark.models import TERMINAL, GivenEvent, GoalTree, Message, Trace
from traceark.protocol import TraceStore

# Records written in one call, which share one sync; few enough that a batch is no burden on memory.
_BATCH = 256

# A trace, and the goal of it that started another trace's agent.
Link = tuple[str, str]
T = TypeVar("T")


@runtime_checkable
class BatchStore(TraceStore, Protocol):
    """A store that writes many records with one sync; its `update_message` also takes ``trace_id=``."""

    async def add_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append messages and return their ids."""
        ...

    async def append_events(self, trace_id: str, events: Sequence[GivenEvent]) -> list[int]:
        """Append events, each a type, a payload and perhaps a time, and return their ids."""
        ...


@runtime_checkable
class WholeStore(BatchStore, Protocol):
    """A store that takes a run that has ended in one call; all of it or nothing, where it `adds_at_once`."""

    @property
    def adds_at_once(self) -> bool:
        """Whether a call that is interrupted adds nothing."""
        ...

    async def add_trace(
        self,
        trace: Trace,
        messages: Sequence[Message],
        events: Sequence[GivenEvent],
        goal_tree: GoalTree | None,
    ) -> str:
        """Add a trace with all that belongs to it, and return its id."""
        ...


async def import_trace(store: TraceStore, source: SourceTrace, importer: str, link: Link | None = None) -> TraceReport:
    """Write what a source adds to its trace, or make it; `link` is its parent where that is known."""
    trace_id = source.trace.trace_id
    header = await store.get_trace(trace_id)
    if header is None:
        if _adds_at_once(store) and _is_whole(source):
            return await _add_whole(store, source, importer, link)
        first = copies.begun(source) if source.copied is not None else _linked(begun(source, importer), link)
        await store.create_trace(first)
        header = await store.get_trace(trace_id)
        assert header is not None
    outcome = copies.settled(source, header) if source.copied is not None else settled(source, header)
    if outcome is not None:
        return _report(source, outcome)
    stored = Stored(
        header,
        await store.get_trace_messages(trace_id),
        await store.get_events(trace_id),
        await store.get_goal_tree(trace_id),
    )
    if source.copied is not None:
        # Its parents and goals are those that it had in its archive.
        plan = copies.plan_copy(source, stored)
        await _write(store, trace_id, plan)
        return _report(source, plan.outcome, plan)
    state = State.of(header)
    if source.pieced is not None and state is not None and state.importer == importer:
        plan, source = plan_pieces(source, source.pieced, stored, state)
    else:
        plan = plan_import(source, stored, importer)
    await _write(store, trace_id, plan)
    return _report(source, plan.outcome, plan)


def _adds_at_once(store: TraceStore) -> TypeGuard[WholeStore]:
    """Say whether a store takes whole traces at once; to look at all that its protocol names takes a tenth of a ms."""
    return getattr(store, "adds_at_once", False) is True


def _is_whole(source: SourceTrace) -> bool:
    """Say whether a source is a run that has ended, and no more than a new trace can hold."""
    ids = {message.message_id for message in source.messages}
    whole = source.trace.status in TERMINAL and len(ids) == len(source.messages)
    return whole and (source.copied is None or copies.is_plain(source.copied))


def _linked(trace: Trace, link: Link | None) -> Trace:
    """Return a header with its parent where that is known already, so that it need not be written twice."""
    if link is not None and trace.parent_trace_id in (None, link[0]) and trace.parent_goal_id is None:
        trace.parent_trace_id, trace.parent_goal_id = link
    return trace


async def _add_whole(store: WholeStore, source: SourceTrace, importer: str, link: Link | None) -> TraceReport:
    """Write a new trace in one piece: where it is there, nothing of it is missing."""
    events = given(source.events)
    trace, goals = _linked(ended(source, importer), link), source.goals
    if source.copied is not None:
        trace, goals = copies.ended(source)
    await store.add_trace(trace, source.messages, events, goals)
    return _report(source, "new", Plan("new", messages=source.messages, events=events))


def _report(source: SourceTrace, outcome: Outcome, plan: Plan | None = None) -> TraceReport:
    messages, new = (len(plan.messages), [each[0] for each in plan.events]) if plan is not None else (0, [])
    told, events = _records(source, [each.event_type for each in source.events]), _records(source, new)
    return TraceReport(
        source.trace.trace_id,
        outcome,
        new_messages=messages,
        known_messages=max(0, len(source.messages) - messages),
        new_events=events,
        known_events=told - events if outcome != "diverged" else 0,
        goals=len(source.goals.goals) if source.goals is not None else 0,
        goal_changes=len(source.events) - told,
    )


def _records(source: SourceTrace, event_types: Sequence[str]) -> int:
    """Return how many events are records of a source: not those of goals, unless it is a trace that has them."""
    return sum(source.copied is not None or each != GOAL_STATUS for each in event_types)


async def _write(store: TraceStore, trace_id: str, plan: Plan) -> None:
    if plan.marks:
        await store.update_trace(trace_id, **plan.marks)
    if plan.events_first:
        await _append(store, trace_id, plan.events)
    if plan.goals is not None:
        await store.update_goal_tree(trace_id, plan.goals)
    for messages in _batches(plan.messages):
        if isinstance(store, BatchStore):
            await store.add_messages(messages)
        else:
            for message in messages:
                await store.add_message(message)
    where = {"trace_id": trace_id} if isinstance(store, BatchStore) else {}
    for message_id, updates in plan.spent:
        await store.update_message(message_id, **where, **updates)
    for goal_id, updates in plan.stats:
        await store.update_goal(trace_id, goal_id, **updates)
    if not plan.events_first:
        await _append(store, trace_id, plan.events)
    if plan.header:
        await store.update_trace(trace_id, **plan.header)


async def _append(store: TraceStore, trace_id: str, events: Sequence[GivenEvent]) -> None:
    for batch in _batches(events):
        if isinstance(store, BatchStore):
            await store.append_events(trace_id, batch)
        else:
            for event in batch:
                await store.append_event(trace_id, event[0], event[1])


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
