"""The suite's part on repair: what is mended, what is kept of it, and what is left alone."""

from __future__ import annotations

from traceark.layout import GOAL_TREE, HEADER, LOST_FOUND, MANIFEST, trace_prefix
from traceark.repair import RepairReport
from traceark.storage import storage_for
from traceark.store import ArchiveStore
from traceark.testing.places import ArchiveTests, Files, record_run, snapshot
from traceark.testing.scenario import header, scenario


class RepairTests(ArchiveTests):
    """Mending without guessing."""

    async def repaired(self) -> RepairReport:
        """Repair the archive."""
        store = self.open_store()
        report = await store.repair(dry_run=False)
        await store.close()
        return report

    async def kept(self) -> Files:
        """Return what repairs kept, by name within their directories."""
        storage = storage_for(self.archive_url, self.options, "os")
        names = await storage.list(LOST_FOUND)
        found = {name.partition("/")[2]: await storage.read(f"{LOST_FOUND}/{name}") for name in names}
        await storage.close()
        return found

    @scenario
    async def test_repair_touches_nothing_of_healthy_traces(self, store: ArchiveStore) -> None:
        await record_run(store)
        await record_run(store, "u")
        await store.compact("t")
        await store.seal("u")
        await store.close()
        before = await self.files()
        report = await self.repaired()
        assert (report.traces, report.mended, report.left) == (2, [], [])
        assert await self.files() == before
        assert await self.kept() == {}

    @scenario
    async def test_a_scratched_manifest_is_written_again(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.seal("t")
        await store.close()
        before, key = await snapshot(self.open_store()), f"{trace_prefix('t')}/{MANIFEST}"
        await self.put({key: b"scratched"})
        report = await self.repaired()
        assert [mend.deed for mend in report.mended] == ["moved", "rewritten", "sealed"]
        assert (await self.kept())[key] == b"scratched"
        assert await self.open_store().verify(deep=True) == []
        assert await snapshot(self.open_store()) == before

    @scenario
    async def test_headers_that_cannot_be_read_are_rebuilt_or_taken_away(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.close()
        before = await snapshot(self.open_store())
        torn = {f"{trace_prefix('t')}/{name}": b'{"trace_id":"t"' for name in (HEADER, GOAL_TREE)}
        await self.put(torn)
        report = await self.repaired()
        assert report.left == []
        assert await self.kept() == torn
        reader = self.open_store()
        assert await reader.verify(deep=True) == []
        after = await snapshot(reader)
        assert (after["messages"], after["events"], after["tree"]) == (before["messages"], before["events"], None)
        assert (await header(reader, "t")).last_event_id == 6
        assert [trace.trace_id for trace in await reader.list_traces()] == ["t"]

    @scenario
    async def test_a_broken_part_gives_way_to_its_segments_or_is_left(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.seal("t")
        await store.close()
        before, files = await snapshot(self.open_store()), await self.files()
        [key] = [key for key in files if "/messages/" in key and key.endswith(".parquet")]
        await self.put({key: files[key][:-1]})
        damaged = await self.files()
        report = await self.repaired()
        if any("/messages/" in name and name.endswith(".jsonl") for name in files):
            # An object store keeps superseded segments a while.
            assert report.left == []
            assert (await self.kept())[key] == files[key][:-1]
            assert await self.open_store().verify(deep=True) == []
            assert await snapshot(self.open_store()) == before
        else:
            assert [each.file for each in report.left] == [key]
            assert await self.files() == damaged
