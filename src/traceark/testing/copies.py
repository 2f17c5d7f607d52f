"""The suite's part on folders: copied, put in and taken out by hand, and damaged."""

from __future__ import annotations

import asyncio

import pytest

from traceark.errors import DamagedTraceError, DamagedTraceWarning
from traceark.layout import HEADER, trace_prefix
from traceark.models import Trace
from traceark.store import ArchiveStore
from traceark.testing.archive import CaseTests, keep
from traceark.testing.places import record_run, snapshot
from traceark.testing.scenario import header, message, scenario


class CopyTests(CaseTests):
    """A folder is the whole thing."""

    @scenario
    async def test_a_copy_reads_the_same_and_goes_its_own_way(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        await keep(store, step)
        original = self.open_store() if step == "close" else store
        before = await snapshot(original)
        async with self.store_at(await self.copied()) as copy:
            assert await snapshot(copy) == before
            assert await copy.verify(deep=True) == []
            await copy.add_message(message(content="in the copy"))
            assert await snapshot(original) == before
            await original.add_message(message(content="in the original"))
            assert (await copy.get_trace_messages("t"))[-1].content == "in the copy"
            assert (await original.get_trace_messages("t"))[-1].content == "in the original"
            await copy.seal("t")
            assert await copy.verify(deep=True) == []
        assert await original.verify(deep=True) == []
        await original.close()

    @scenario
    async def test_archives_merge_by_copying(self, store: ArchiveStore) -> None:
        await record_run(store)
        async with self.store_at(f"{self.archive_url}-other") as other:
            await record_run(other, "u")
            await other.seal("u")
            await self.put(await self.files(f"{self.archive_url}-other", "u"))
            await store.refresh()
            assert sorted(trace.trace_id for trace in await store.list_traces()) == ["t", "u"]
            assert await snapshot(store, "u") == await snapshot(other, "u")
        assert await store.verify(deep=True) == []

    @scenario
    async def test_a_folder_that_is_removed_by_hand_is_gone(self, store: ArchiveStore) -> None:
        await record_run(store)
        await record_run(store, "u")
        await self.remove(*await self.names("t"))
        assert await store.get_trace("t") is None
        assert await store.get_trace_messages("t") == []
        assert await store.get_events("t") == []
        assert [trace.trace_id for trace in await store.list_traces()] == ["u"]

    @scenario
    async def test_a_strangers_file_changes_nothing(self, store: ArchiveStore) -> None:
        await record_run(store)
        before = await snapshot(store)
        await self.put({f"{trace_prefix('t')}/notes.txt": b"mine", f"{trace_prefix('t')}/messages/old.jsonl": b"{}\n"})
        assert await snapshot(store) == before
        assert await snapshot(self.open_store()) == before

    @scenario
    async def test_a_folder_with_another_traces_header_is_reported_and_not_listed(self, store: ArchiveStore) -> None:
        await record_run(store)
        files = await self.files(trace_id="t")
        await self.put(
            {key.replace(trace_prefix("t"), trace_prefix("renamed"), 1): data for key, data in files.items()}
        )
        await store.refresh()
        with pytest.warns(DamagedTraceWarning, match="renamed"):
            assert [trace.trace_id for trace in await store.list_traces()] == ["t"]
        assert any("renamed" in str(finding) for finding in await store.verify())

    @scenario
    async def test_records_that_are_missing_are_named_and_never_left_out(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.create_trace(Trace(trace_id="whole"))
        for at in range(3):
            await store.add_message(message(content=at))
            await store.seal("t")
            await store.append_event("t", "e", None)
        await store.close()
        logs = [key for key in sorted(await self.names("t")) if "/messages/" in key]
        await self.remove(*logs)
        reader = self.open_store()
        with pytest.raises(DamagedTraceError, match=r"\b1\b.*\b3\b"):
            await reader.get_trace_messages("t")
        assert await reader.verify("t") != []
        assert await reader.verify("whole") == []
        with pytest.raises(DamagedTraceError):
            await self.open_store().add_message(message())

    @scenario
    async def test_every_changed_byte_of_a_sealed_trace_is_found(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content="x" * 5000))
        await store.append_event("t", "e", None)
        await store.seal("t")
        assert await store.verify(deep=True) == []
        await store.close()
        # An object store keeps superseded segments a while; nobody reads them, and no manifest names them.
        files = {key: data for key, data in (await self.files(trace_id="t")).items() if not key.endswith(".jsonl")}
        for key, data in files.items():
            for at in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
                await self.put({key: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]})
                findings = await self.open_store().verify("t", deep=True)
                assert findings, f"byte {at} of {key} was changed and nothing was found"
            await self.put({key: data})
        assert await self.open_store().verify("t", deep=True) == []

    @scenario
    async def test_a_damaged_trace_spoils_no_other(self, store: ArchiveStore) -> None:
        await record_run(store)
        await record_run(store, "u")
        await store.close()
        await self.put({f"{trace_prefix('t')}/{HEADER}": b'{"trace_id": "t"'})
        reader = self.open_store()
        await reader.refresh()
        with pytest.warns(DamagedTraceWarning):
            assert [trace.trace_id for trace in await reader.list_traces()] == ["u"]
        with pytest.raises(DamagedTraceError):
            await reader.get_trace("t")
        assert (await header(reader, "u")).trace_id == "u"
        assert await reader.verify("u", deep=True) == []
        assert await reader.verify() != []

    @scenario
    async def test_a_copy_taken_while_tasks_append_is_an_earlier_state(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content=0))
        appending = [asyncio.ensure_future(store.add_message(message(content=at))) for at in range(1, 40)]
        url = await self.copied()
        await asyncio.gather(*appending)
        copied = [each.content for each in await self.store_at(url).get_trace_messages("t")]
        assert copied == [each.content for each in await store.get_trace_messages("t")][: len(copied)]
        assert copied
