"""A wall clock that jumps, back or ahead, changes the times that are written and nothing else: no order goes by it."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from clock import Clock
from profiles import some
from traceark.models import Goal, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

JUMPS = [-timedelta(days=400), -timedelta(hours=1), -timedelta(seconds=1), timedelta(hours=1), timedelta(days=400)]


@pytest.mark.parametrize(("jump", "where"), some(itertools.product(JUMPS, ["disk", "memory"]), 4), ids=str)
async def test_a_clock_that_jumps_changes_no_order_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta, where: str
) -> None:
    clock = Clock()
    clock.set(monkeypatch)
    MemoryStorage.forget("clock")
    place = str(tmp_path / "archive") if where == "disk" else "memory://clock"
    one, two = ArchiveStore(place), ArchiveStore(place)
    await one.create_trace(Trace(trace_id="t", task="before"))
    await one.add_goal("t", Goal(id="1", description="before"))
    for turn in range(6):
        writer, reader = (one, two) if turn % 2 else (two, one)
        await writer.add_message(Message(trace_id="t", message_id=f"m{turn}", role="user", tokens=1, goal_id="1"))
        await writer.append_event("t", f"event {turn}")
        await writer.update_trace("t", task=f"task {turn}")
        await writer.update_message(f"m{turn}", trace_id="t", tokens=2)
        if turn == 2:
            clock.jumped += jump.total_seconds()
        if turn == 3:
            await writer.compact("t")
        for store in (reader, writer):
            trace = await store.get_trace("t")
            assert trace is not None
            assert (trace.task, trace.total_messages, trace.total_tokens) == (f"task {turn}", turn + 1, 2 * turn + 2)
            assert [each.task for each in await store.list_traces()] == [f"task {turn}"]
            assert [each.message_id for each in await store.get_trace_messages("t")] == [
                f"m{at}" for at in range(turn + 1)
            ]
            assert [each.event_type for each in await store.get_events("t", turn)] == [f"event {turn}"]
    messages = await one.get_trace_messages("t")
    times = [each.created_at for each in messages]
    assert None not in times
    before, after = times[2], times[3]
    assert before is not None and after is not None
    assert abs(after - before - jump) < timedelta(minutes=5)
    await one.update_trace("t", status="completed")
    await one.close()
    await two.close()
    async with ArchiveStore(place) as fresh:
        assert await fresh.get_trace_messages("t") == messages
        assert [str(each) for each in await fresh.verify(deep=True) if not each.is_note] == []
