"""A workload that touches every part of a store, with a ledger of what it was promised; and the check after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from profiles import some
from traceark.errors import TraceNotFoundError
from traceark.layout import HEADER
from traceark.models import Goal, Message, Trace
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.testing.ledger import Ledger
from traceark.verification import Finding

TRACES = ("t", "u")
CONTENT = "x" * 300


Step = tuple[Mapping[Any, object], Callable[[ArchiveStore], Awaitable[object]]]


def message(trace_id: str, at: int) -> Message:
    return Message(
        trace_id=trace_id,
        message_id=f"{trace_id}-m{at}",
        role="user",
        content=CONTENT,
        cost=0.1,
        tokens=at,
        duration_ms=at,
        goal_id="1",
    )


def add(trace_id: str, at: int) -> Step:
    return {("message", f"{trace_id}-m{at}"): at}, lambda store: store.add_message(message(trace_id, at))


def tell(at: int) -> Step:
    return {("event", at): f"event {at}"}, lambda store: store.append_event("t", f"event {at}", {"at": at})


def create(trace_id: str, task: str) -> Step:
    values = {("trace", trace_id): task, ("status", trace_id): "running"}
    return values, lambda store: store.create_trace(Trace(trace_id=trace_id, task=task))


def correct(at: int, tokens: int) -> Step:
    return {("message", f"t-m{at}"): tokens}, lambda store: store.update_message(f"t-m{at}", tokens=tokens)


def reach(status: str) -> Step:
    return {("goal", "1"): status}, lambda store: store.update_goal("t", "1", status=status)


def goal() -> Step:
    return {("goal", "1"): "pending"}, lambda store: store.add_goal(
        "t", Goal(id="1", description="one", status="pending")
    )


def delete(trace_id: str) -> Step:
    values = {("trace", trace_id): None, ("status", trace_id): None, ("message", f"{trace_id}-m1"): None}
    if trace_id == "t":
        values["goal", "1"] = None
    return values, lambda store: store.delete_trace(trace_id)


SEAL: Step = ({}, lambda store: store.seal("t"))
# What one bracket holds is done at once.
STEPS: list[list[Step]] = [
    [create("t", "first")],
    [goal()],
    *([add("t", at)] for at in range(1, 4)),
    [tell(1)],
    [add("t", at) for at in range(4, 8)],
    [correct(2, 20)],
    [reach("in_progress")],
    [({("trace", "t"): "second"}, lambda store: store.update_trace("t", task="second"))],
    [({}, lambda store: store.compact("t"))],
    [add("t", 8), tell(2)],
    [create("u", "u")],
    [add("u", 1)],
    [({("status", "t"): "completed"}, lambda store: store.update_trace("t", status="completed"))],
    [SEAL],
    [add("t", 9)],
    [tell(3)],
    [SEAL],
    [correct(9, 90)],
    [reach("completed")],
    [delete("u")],
    [create("u", "u again")],
    [add("u", 2)],
    [({}, lambda store: store.close())],
]


async def work(store: ArchiveStore, ledger: Ledger, steps: Sequence[list[Step]] = STEPS) -> list[Exception]:
    """Write two traces in every way that there is, one of them deleted and made anew; return what failed."""

    async def do(step: Step) -> None:
        values, call = step
        with ledger.attempt(values):
            await call(store)

    failed: list[Exception] = []
    for together in steps:
        done = await asyncio.gather(*map(do, together), return_exceptions=True)
        for each in done:
            if isinstance(each, Exception):
                failed.append(each)
            elif each is not None:
                raise each
    return failed


async def recovered(store: ArchiveStore) -> dict[Hashable, object]:
    """Return what a store holds of the workload, as its ledger names it."""
    found: dict[Hashable, object] = {}
    for trace_id in TRACES:
        trace = await store.get_trace(trace_id)
        if trace is None:
            continue
        found["trace", trace_id], found["status", trace_id] = trace.task, trace.status
        for message in await store.get_trace_messages(trace_id):
            found["message", message.message_id] = message.tokens
            assert message.content == CONTENT
    tree = await store.get_goal_tree("t")
    for goal in tree.goals if tree is not None else ():
        found["goal", goal.id] = goal.status
    events = []
    if ("trace", "t") in found:
        events = await store.get_events("t")
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))
    assert len({event.event_type for event in events}) == len(events)
    for event in events:
        found["event", int(event.event_type.split()[1])] = event.event_type
    return found


async def sums_up(store: ArchiveStore) -> None:
    """Recount what the store counts, continue every cursor, and find nothing wrong by `verify`."""
    listed = {trace.trace_id for trace in await store.list_traces()}
    for trace_id in TRACES:
        trace = await store.get_trace(trace_id)
        assert (trace is not None) == (trace_id in listed)
        if trace is None:
            continue
        messages = await store.get_trace_messages(trace_id)
        sequences = [message.sequence for message in messages]
        assert sequences == sorted(set(sequences), key=lambda each: each or 0)
        assert (trace.total_messages, trace.total_tokens, trace.total_duration_ms) == (
            len(messages),
            sum(message.tokens or 0 for message in messages),
            sum(message.duration_ms or 0 for message in messages),
        )
        assert Decimal(str(trace.total_cost)) == sum(Decimal("0.1") for _ in messages)
        for message in messages:
            assert await store.get_message(str(message.message_id), trace_id=trace_id) == message
        for message in some(messages, 1):  # a database is opened to find where it is
            assert await store.get_message(str(message.message_id)) == message
        events = await store.get_events(trace_id)
        assert trace.last_event_id == len(events)
        for at in range(len(events) + 1):
            assert await store.get_events(trace_id, at) == events[at:]
        tree = await store.get_goal_tree(trace_id)
        for goal in tree.goals if tree is not None else ():
            own = [message for message in messages if message.goal_id == goal.id]
            assert (goal.self_stats.message_count, goal.self_stats.total_tokens) == (
                len(own),
                sum(message.tokens or 0 for message in own),
            )


async def goes_on(store: ArchiveStore) -> None:
    """Write on, finish, and find all of it whole."""
    for trace_id in TRACES:
        try:
            before = await store.get_trace_messages(trace_id)
            await store.add_message(Message(trace_id=trace_id, message_id=f"{trace_id}-after", role="user"))
        except TraceNotFoundError:
            continue
        assert len(await store.get_trace_messages(trace_id)) == len(before) + 1
        await store.append_event(trace_id, "after", None)
        await store.update_trace(trace_id, status="failed")
        await store.seal(trace_id)
    await store.close()


def damage(findings: list[Finding]) -> list[str]:
    """Leave out what any kill may leave: files that nothing refers to, half a creation or deletion."""
    return [
        str(finding)
        for finding in findings
        if not finding.is_note
        and TEMPORARY not in finding.file
        and not (finding.file.endswith(HEADER) and "missing" in finding.meaning)
    ]
