"""A process that writes and writes, and never asks: the catalog is folded all the same, and takes no memory of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from traceark import ArchiveStore, Trace
from traceark.catalog import catalog
from traceark.catalog.lookup import Lookup

TRACES = 40


@pytest.fixture(autouse=True)
def folded_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_TOLD_FILES", 16)


def change_files(place: Path) -> int:
    return len(list(place.glob("catalog/changes/*.jsonl")))


async def write(store: ArchiveStore, start: int = 0) -> None:
    for number in range(start, start + TRACES):
        await store.create_trace(Trace(trace_id=f"t{number}", status="completed"))
        await asyncio.sleep(0.001)


async def listed(store: ArchiveStore) -> list[str]:
    return sorted(trace.trace_id for trace in await store.list_traces(limit=1000))


def ids(count: int) -> list[str]:
    return sorted(f"t{number}" for number in range(count))


async def test_what_it_tells_is_folded_as_it_goes_and_no_rows_stay_in_memory(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path, durability="os", max_open_traces=1) as store:
        await write(store)
        found = store._pool.catalog
        assert found._folding is not None
        await found._folding
        assert found._table is None and found._known is None
        assert found.notices.count >= TRACES > change_files(tmp_path)
        async with ArchiveStore(tmp_path) as other:
            assert await listed(other) == ids(TRACES)


async def test_who_asks_then_reads_the_snapshot_and_not_all_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def everything(self: Lookup, own: object) -> object:
        raise AssertionError("all directories were looked at")

    async with ArchiveStore(tmp_path, durability="os", max_open_traces=1) as store:
        await write(store)
        monkeypatch.setattr(Lookup, "everything", everything)
        assert await listed(store) == ids(TRACES)
        await write(store, TRACES)
        assert await listed(store) == ids(2 * TRACES)
        assert store._pool.catalog._table is not None
    async with ArchiveStore(tmp_path) as store:
        assert await listed(store) == ids(2 * TRACES)


async def test_one_that_asked_keeps_its_rows(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path, durability="os", max_open_traces=1) as store:
        assert await listed(store) == []
        await write(store)
        found = store._pool.catalog
        assert found._folding is not None
        await found._folding
        assert found._table is not None and change_files(tmp_path) < TRACES


async def test_where_others_fold_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folding: list[catalog.Catalog] = []
    fold = catalog.Catalog.fold

    async def noted(self: catalog.Catalog) -> None:
        folding.append(self)
        await fold(self)

    monkeypatch.setattr(catalog.Catalog, "fold", noted)
    monkeypatch.setattr(catalog, "FOLD_FILES", 2)
    # Far more than are ever there, as others fold after every few.
    monkeypatch.setattr(catalog, "_TOLD_FILES", 60)
    store = ArchiveStore(tmp_path, durability="os", max_open_traces=1)
    async with ArchiveStore(tmp_path) as other:
        for number in range(0, 2 * TRACES, 2):
            for each in range(number, number + 2):
                await store.create_trace(Trace(trace_id=f"t{each}", status="completed"))
            assert await listed(other) == ids(number + 2)
            if (task := other._pool.catalog._folding) is not None:
                await task
        assert store._pool.catalog.notices.count > 60
        assert set(folding) == {other._pool.catalog}
    monkeypatch.setattr(catalog, "FOLD_FILES", 1_000)
    await store.close()
