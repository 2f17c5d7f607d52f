"""The suite's part on events: dense ids, and a cursor that goes on working."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from traceark.errors import InvalidValueError
from traceark.models import Trace
from traceark.protocol import TraceStore
from traceark.testing.scenario import StoreTests, as_given, header, message, scenario


class EventTests(StoreTests):
    """What the protocol says of events."""

    @scenario
    async def test_ids_are_dense_from_one(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        assert [await store.append_event("t", "e", at) for at in range(5)] == [1, 2, 3, 4, 5]
        assert (await header(store)).last_event_id == 5

    @scenario
    async def test_each_trace_counts_its_own(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.create_trace(Trace(trace_id="u"))
        assert await store.append_event("t", "e", None) == 1
        assert await store.append_event("u", "e", None) == 1

    @scenario
    async def test_an_event_comes_back_with_its_time(self, store: TraceStore) -> None:
        before = datetime.now(UTC)
        await store.create_trace(Trace(trace_id="t"))
        await store.append_event("t", "goal_started", {"goal": "1"})
        (event,) = await store.get_events("t")
        assert (event.event_id, event.event_type, event.payload) == (1, "goal_started", {"goal": "1"})
        assert before <= event.created_at <= datetime.now(UTC)

    @scenario
    async def test_a_cursor_gives_what_came_after_it(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for at in range(1, 6):
            await store.append_event("t", "e", at)

        async def after(cursor: int) -> list[int]:
            return [event.event_id for event in await store.get_events("t", cursor)]

        assert await after(0) == [1, 2, 3, 4, 5]
        assert await after(3) == [4, 5]
        assert await after(5) == []
        assert await after(99) == []
        assert await after(-1) == [1, 2, 3, 4, 5]
        assert [event.payload for event in await store.get_events("t", since_event_id=4)] == [5]

    @scenario
    async def test_fifty_tasks_get_fifty_dense_ids(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        ids = await asyncio.gather(*(store.append_event("t", "e", at) for at in range(50)))
        assert sorted(ids) == list(range(1, 51))
        assert {event.event_id: event.payload for event in await store.get_events("t")} == {
            event_id: at for at, event_id in enumerate(ids)
        }

    @scenario
    async def test_a_follower_misses_nothing_while_others_append(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        seen: list[int] = []

        async def follow() -> None:
            while len(seen) < 30:
                seen.extend(event.event_id for event in await store.get_events("t", seen[-1] if seen else 0))
                await asyncio.sleep(0)

        await asyncio.gather(follow(), *(store.append_event("t", "e", at) for at in range(30)))
        assert seen == list(range(1, 31))

    @scenario
    async def test_the_store_appends_no_events_of_its_own(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", as_given(id="1"))
        await store.add_message(message(goal_id="1"))
        await store.update_message("t-0001", content="x")
        await store.update_trace("t", status="completed")
        assert await store.get_events("t") == []
        assert (await header(store)).last_event_id == 0

    @pytest.mark.parametrize("event_type", [None, 5, "\ud800"])
    @scenario
    async def test_a_type_that_is_no_text_is_refused(self, store: TraceStore, event_type: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.raises(InvalidValueError) as caught:
            await store.append_event("t", event_type, None)
        assert caught.value.path == "event_type"
        assert await store.get_events("t") == []
        assert await store.append_event("t", "", None) == 1
