"""The suite's part on archives: what reopening, compacting and sealing must leave as it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from traceark.errors import (
    InvalidValueError,
    MessageConflictError,
    StaleGoalTreeError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.layout import MANIFEST, MARKER, trace_prefix
from traceark.models import Goal, GoalTree, Trace
from traceark.store import ArchiveStore
from traceark.testing.places import ArchiveTests, record_run, snapshot
from traceark.testing.scenario import as_given, header, message, message_of, scenario, tree_of
from traceark.testing.values import HOSTILE_IDS, HUGE_TEXT

WRITES: dict[str, Callable[[ArchiveStore], Awaitable[object]]] = {
    "add_message": lambda store: store.add_message(message(content="more")),
    "update_message": lambda store: store.update_message("t-0001", content="changed"),
    "append_event": lambda store: store.append_event("t", "more", None),
    "update_trace": lambda store: store.update_trace("t", task="changed"),
    "add_goal": lambda store: store.add_goal("t", Goal(id="more")),
    "update_goal": lambda store: store.update_goal("t", "1", status="changed"),
    "update_goal_tree": lambda store: store.update_goal_tree("t", GoalTree(mission="changed")),
}
steps = pytest.mark.parametrize("step", ["nothing", "flush", "compact", "seal", "compact twice", "close"])


async def keep(store: ArchiveStore, step: str, trace_id: str = "t") -> None:
    """Do what a store does to a trace's files without changing what they say."""
    if step == "flush":
        await store.flush()
    elif step == "seal":
        await store.seal(trace_id)
    elif step == "close":
        await store.close()
    elif step.startswith("compact"):
        await store.compact(trace_id)
        if step.endswith("twice"):
            await store.compact(trace_id)


class KeepingTests(ArchiveTests):
    """Reopening, compacting, sealing."""

    @steps
    @scenario
    async def test_whatever_is_done_to_the_files_the_trace_reads_the_same(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        before = await snapshot(store)
        await keep(store, step)
        for reader in (self.open_store(), store):
            if step != "close" or reader is not store:
                assert await snapshot(reader) == before
        assert await self.open_store().verify(deep=True) == []

    @steps
    @scenario
    async def test_writing_goes_on_after_it(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        await keep(store, step)
        writer = self.open_store() if step == "close" else store
        trace = await header(writer)
        assert await writer.add_message(message()) == f"t-{trace.last_sequence + 1:04d}"
        assert await writer.append_event("t", "e", None) == trace.last_event_id + 1
        await writer.update_message("t-0001", content="late")
        assert (await message_of(writer, "t-0001")).content == "late"
        assert await snapshot(self.open_store()) == await snapshot(writer)
        await keep(writer, step)
        assert await self.open_store().verify(deep=True) == []
        await writer.close()

    @steps
    @scenario
    async def test_a_cursor_goes_on_working(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        await keep(store, step)
        for reader in (self.open_store(), self.store_at(await self.copied())):
            assert [event.payload["at"] for event in await reader.get_events("t", 4) if event.payload] == [4, 5]
            assert [event.event_id for event in await reader.get_events("t")][:6] == [1, 2, 3, 4, 5, 6]

    @steps
    @scenario
    async def test_a_known_message_is_known_after_it(self, store: ArchiveStore, step: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m", content="first", tokens=5))
        await store.update_message("m", content="second")
        await store.update_message("m", content="third")
        await keep(store, step)
        writer = self.open_store()
        for content in ("first", "third"):
            assert await writer.add_message(message(message_id="m", content=content, tokens=5)) == "m"
        for content in ("second", "other"):
            with pytest.raises(MessageConflictError):
                await writer.add_message(message(message_id="m", content=content, tokens=5))
        assert (await header(writer)).total_tokens == 5
        await writer.close()

    @steps
    @scenario
    async def test_a_tree_that_nobody_changed_is_not_out_of_date(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        tree = await tree_of(store)
        await store.add_message(message(goal_id="1", tokens=5))
        await keep(store, step)
        writer = self.open_store()
        tree.mission = "changed"
        await writer.update_goal_tree("t", tree)
        assert (await tree_of(writer)).mission == "changed"
        tree.mission = "again"
        await writer.add_goal("t", Goal(id="new"))
        with pytest.raises(StaleGoalTreeError):
            await writer.update_goal_tree("t", tree)
        await writer.close()

    @scenario
    async def test_sums_that_were_set_are_added_to_after_sealing(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t", total_tokens=100, last_sequence=9))
        await store.add_message(message(tokens=5))
        await store.seal("t")
        await store.close()
        writer = self.open_store()
        assert await writer.add_message(message(tokens=1)) == "t-0011"
        assert (await header(writer)).total_tokens == 106
        await writer.close()
        assert (await header(self.open_store())).total_tokens == 106

    @scenario
    async def test_a_manifest_names_every_file_with_its_hash(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.seal("t")
        files = await self.files(trace_id="t")
        prefix = trace_prefix("t") + "/"
        manifest = files.pop(prefix + MANIFEST).decode()
        lines = [line.split("  ", 1) for line in manifest.splitlines()]
        stated = {name: digest for digest, name in lines}
        hashes = {key.removeprefix(prefix): hashlib.sha256(data).hexdigest() for key, data in files.items()}
        assert stated.items() <= hashes.items()
        # An object store keeps superseded segments until no late writer can rely on them.
        assert all(name.endswith(".jsonl") for name in hashes.keys() - stated.keys())

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    @scenario
    async def test_any_write_reopens_a_sealed_trace(
        self, store: ArchiveStore, write: Callable[[ArchiveStore], Awaitable[object]]
    ) -> None:
        await record_run(store)
        await store.seal("t")
        before = await snapshot(store)
        await store.close()
        writer = self.open_store()
        await write(writer)
        after = await snapshot(writer)
        assert after != before
        assert f"{trace_prefix('t')}/{MANIFEST}" not in await self.files()
        assert await snapshot(self.open_store()) == after
        await writer.seal("t")
        assert f"{trace_prefix('t')}/{MANIFEST}" in await self.files()
        assert await snapshot(self.open_store()) == after
        assert await writer.verify(deep=True) == []
        await writer.close()

    @scenario
    async def test_closing_seals_what_is_finished_and_nothing_else(self, store: ArchiveStore) -> None:
        for status in ("running", "completed", "failed", "cancelled"):
            await store.create_trace(Trace(trace_id=status))
            await store.add_message(message(status))
            await store.update_trace(status, status=status)
            await store.append_event(status, "after", None)
        await store.close()
        sealed = {key.split("/")[1] for key in await self.files() if key.endswith(MANIFEST)}
        assert sealed == {"completed", "failed", "cancelled"}
        assert await self.open_store().verify(deep=True) == []

    @scenario
    async def test_16_mib_survive_sealing(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content=HUGE_TEXT))
        await store.add_message(message(content=[HUGE_TEXT, "\ud800"]))
        await store.seal("t")
        first, second = await self.open_store().get_trace_messages("t")
        same = first.content == HUGE_TEXT and second.content == [HUGE_TEXT, "\ud800"]
        assert same, "16 MiB came back changed"

    @scenario
    async def test_hostile_ids_survive_sealing(self, store: ArchiveStore) -> None:
        ids = HOSTILE_IDS[:: self.step]
        for trace_id in ids:
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(message(trace_id, content=trace_id))
            await store.update_trace(trace_id, status="completed")
        await store.close()
        reader = self.open_store()
        listed = await reader.list_traces(limit=1000)
        assert sorted(trace.trace_id for trace in listed) == sorted(ids)
        for trace_id in ids:
            assert [each.content for each in await reader.get_trace_messages(trace_id)] == [trace_id]
        assert await reader.verify(deep=True) == []


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
