"""The suite's part on stores that share an archive: several writers, many records at once, traces that go."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from traceark.errors import (
    InvalidValueError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.layout import MANIFEST, MARKER, trace_prefix
from traceark.models import Goal, GoalTree, Trace
from traceark.store import ArchiveStore
from traceark.testing.places import ArchiveTests, record_run, snapshot
from traceark.testing.scenario import as_given, header, message, scenario, tree_of


class SharingTests(ArchiveTests):
    """Several stores over one archive, and a store's own life."""

    @scenario
    async def test_a_second_store_sees_every_write_at_once(self, store: ArchiveStore) -> None:
        reader = self.open_store()
        await store.create_trace(Trace(trace_id="t"))
        for at in range(1, 6):
            await store.add_message(message(content=at))
            await store.append_event("t", "e", at)
            await store.add_goal("t", Goal(id=str(at)))
            await store.update_message("t-0001", tokens=at)
            assert await snapshot(reader) == await snapshot(store)
            assert len(await reader.get_trace_messages("t")) == at
        assert [trace.trace_id for trace in await reader.list_traces()] == ["t"]

    @scenario
    async def test_two_stores_write_one_trace(self, store: ArchiveStore) -> None:
        other = self.open_store()
        await store.create_trace(Trace(trace_id="t"))
        for at in range(4):
            await (store, other)[at % 2].add_message(message(content=at))
        pairs = [(each, at) for at in range(20) for each in (store, other)]
        await asyncio.gather(*(each.add_message(message(content=at, tokens=1)) for each, at in pairs))
        ids = await asyncio.gather(*(each.append_event("t", "e", at) for each, at in pairs))
        assert sorted(ids) == list(range(1, 41))
        await asyncio.gather(*(each.add_goal("t", Goal(id=f"{at}-{each is store}")) for each, at in pairs[:10]))
        for each in (store, other, self.open_store()):
            messages = await each.get_trace_messages("t")
            assert [one.sequence for one in messages] == list(range(1, 45))
            assert len((await tree_of(each)).goals) == 10
            assert (await header(each)).total_tokens == 40
        await other.close()
        assert await store.verify(deep=True) == []

    @scenario
    async def test_one_store_seals_while_another_writes(self, store: ArchiveStore) -> None:
        other = self.open_store()
        await store.create_trace(Trace(trace_id="t"))
        for at in range(5):
            await store.add_message(message(content=at))
            await other.seal("t")
            await store.append_event("t", "e", at)
            await other.compact("t")
        assert [each.content for each in await other.get_trace_messages("t")] == [0, 1, 2, 3, 4]
        assert [event.payload for event in await store.get_events("t")] == [0, 1, 2, 3, 4]
        await other.close()
        assert await store.verify(deep=True) == []

    @scenario
    async def test_what_another_store_updated_and_sealed_is_counted(self, store: ArchiveStore) -> None:
        other = self.open_store()
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(tokens=1))
        await other.update_message("t-0001", trace_id="t", tokens=100)
        await other.seal("t")
        assert (await header(store)).total_tokens == 100
        await store.add_message(message(tokens=10))
        await store.flush()
        await other.close()
        assert (await header(self.open_store())).total_tokens == 110
        assert await store.verify(deep=True) == []

    @scenario
    async def test_a_trace_of_another_store_is_not_created_again(self, store: ArchiveStore) -> None:
        other = self.open_store()
        made = await asyncio.gather(
            *(each.create_trace(Trace(trace_id="t")) for each in (store, other) * 5), return_exceptions=True
        )
        assert made.count("t") == 1
        assert sum(isinstance(each, TraceExistsError) for each in made) == 9
        await other.close()

    @scenario
    async def test_reading_writes_nothing(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.create_trace(Trace(trace_id="sealed", status="completed"))
        await store.add_message(message("sealed"))
        await store.close()
        before = await self.files()
        async with self.open_store() as reader:
            for trace_id in ("t", "sealed"):
                await snapshot(reader, trace_id)
            await reader.list_traces()
            await reader.get_message("t-0001")
            await reader.verify(deep=True)
        assert await self.files() == before

    @scenario
    async def test_an_empty_place_reads_as_an_empty_archive(self, store: ArchiveStore) -> None:
        assert await store.list_traces() == []
        assert await store.get_trace("t") is None
        assert await store.verify() == []

    @scenario
    async def test_a_closed_store_refuses_to_write(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message())
        await store.close()
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.add_message(message())
        with pytest.raises(StoreClosedError):
            await store.create_trace(Trace(trace_id="u"))

    @scenario
    async def test_few_open_traces_are_enough_for_many(self, store: ArchiveStore) -> None:
        writer = self.store_at(self.archive_url, max_open_traces=2)
        for at in range(6):
            await writer.create_trace(Trace(trace_id=str(at)))
        for turn in range(3):
            await asyncio.gather(*(writer.add_message(message(str(at), content=turn)) for at in range(6)))
        for at in range(6):
            assert [each.content for each in await writer.get_trace_messages(str(at))] == [0, 1, 2]
        await writer.close()
        assert await store.verify(deep=True) == []

    @scenario
    async def test_many_are_added_at_once_or_none(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.create_trace(Trace(trace_id="u"))
        given = [message("t", content=1), message("u", content=2), message("t", message_id="m"), message("t")]
        assert await store.add_messages(given) == ["t-0001", "u-0001", "m", "t-0003"]
        assert await store.add_messages([message("t", message_id="m"), message("t")]) == ["m", "t-0004"]
        assert await store.add_messages([]) == []
        with pytest.raises(InvalidValueError, match="content"):
            await store.add_messages([message("t"), message("t", content=float("nan"))])
        assert len(await store.get_trace_messages("t")) == 4
        assert await store.append_events("t", [("a", 1), ("b", as_given(x=2))]) == [1, 2]
        assert await store.append_events("t", []) == []
        with pytest.raises(InvalidValueError, match="payload"):
            await store.append_events("t", [("a", 1), ("b", as_given(x=float("nan")))])
        assert [(event.event_type, event.payload) for event in await store.get_events("t")] == [
            ("a", 1),
            ("b", {"x": 2}),
        ]
        then = datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
        assert await store.append_events("t", [("c", None, then), ("d", None)]) == [3, 4]
        assert [event.created_at == then for event in await store.get_events("t")] == [False, False, True, False]

    @scenario
    async def test_a_run_that_has_ended_is_added_at_once(self, store: ArchiveStore) -> None:
        ended, tree = Trace(trace_id="t", status="failed", task="all of it"), GoalTree(goals=[Goal(id="1")])
        said = [message(goal_id="1", tokens=3), message(content={"a": [2**70]}, cost=0.5), message(message_id="m")]
        with pytest.raises(InvalidValueError, match="content"):
            await store.add_trace(ended, [*said, message(content=float("nan"))])
        assert await store.get_trace("t") is None
        assert await store.add_trace(ended, said, [("a", 1), ("b", None)], tree) == "t"
        with pytest.raises(TraceExistsError):
            await store.add_trace(ended, said)
        await store.close()
        reader = self.open_store()
        trace = await header(reader)
        assert (trace.status, trace.total_messages, trace.total_tokens, trace.last_event_id) == ("failed", 3, 3, 2)
        messages = await reader.get_trace_messages("t")
        assert [(each.message_id, each.content) for each in messages] == [
            ("t-0001", said[0].content),
            ("t-0002", {"a": [2**70]}),
            ("m", said[2].content),
        ]
        stored = await tree_of(reader)
        assert [(goal.id, goal.self_stats.total_tokens) for goal in stored.goals] == [("1", 3)]
        assert [each.trace_id for each in await reader.list_traces()] == ["t"]
        assert await reader.storage.list(f"{trace_prefix('t')}/messages") != {}
        assert MANIFEST in await reader.storage.list(trace_prefix("t"))
        assert await reader.verify(deep=True) == []

    @scenario
    async def test_an_id_in_several_traces_is_told_apart_by_the_trace(self, store: ArchiveStore) -> None:
        for trace_id in ("t", "u"):
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(message(trace_id, message_id="m", content=trace_id))
        await store.update_message("m", trace_id="u", content="changed")
        found = await store.get_message("m", trace_id="t"), await store.get_message("m", trace_id="u")
        assert [each and each.content for each in found] == ["t", "changed"]
        assert await store.get_message("m", trace_id="absent") is None

    @scenario
    async def test_a_deleted_trace_is_gone_and_its_id_free(self, store: ArchiveStore) -> None:
        await record_run(store)
        other = self.open_store()
        await other.add_message(message(content="by another"))
        await store.delete_trace("t")
        for reader in (store, other, self.open_store()):
            assert await reader.get_trace("t") is None
            assert await reader.get_trace_messages("t") == []
            assert await reader.list_traces() == []
        with pytest.raises(TraceNotFoundError):
            await other.add_message(message())
        with pytest.raises(TraceNotFoundError):
            await store.delete_trace("t")
        await store.create_trace(Trace(trace_id="t"))
        assert await other.add_message(message(content="anew")) == "t-0001"
        assert [each.content for each in await store.get_trace_messages("t")] == ["anew"]
        assert await store.get_events("t") == []
        assert await store.get_goal_tree("t") is None
        await other.close()
        assert await store.verify(deep=True) == []

    @pytest.mark.parametrize("call", ["seal", "compact", "verify"])
    @scenario
    async def test_an_absent_trace_cannot_be_kept(self, store: ArchiveStore, call: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.raises(TraceNotFoundError, match="absent"):
            await getattr(store, call)("absent")

    @scenario
    async def test_a_later_format_is_refused_by_name(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        marker: dict[str, Any] = json.loads((await self.files())[MARKER])
        await self.put({MARKER: json.dumps({**marker, "version": 99}).encode()})
        late = self.open_store()
        with pytest.raises(UnsupportedFormatError, match="99"):
            await late.list_traces()
        with pytest.raises(UnsupportedFormatError, match="99"):
            await late.create_trace(Trace(trace_id="u"))
