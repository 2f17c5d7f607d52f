"""The catalog is compared with the directories when all traces are verified, and nothing is written."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from traceark.models import Message, Trace
from traceark.store import ArchiveStore
from traceark.verification import Finding


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two sealed traces whose catalog is folded."""

    async def make() -> None:
        async with ArchiveStore(tmp_path / "archive", durability="os") as store:
            for trace_id in ("a", "b"):
                await store.create_trace(Trace.parse({"trace_id": trace_id, "metadata": {"of": trace_id}, "mine": 1}))
                await store.add_message(Message(trace_id=trace_id, role="user", content=1, cost=0.1))
                await store.seal(trace_id)
        async with ArchiveStore(tmp_path / "archive") as store:
            await store.refresh()

    asyncio.run(make())
    return tmp_path / "archive"


def verified(archive: Path, *, deep: bool) -> list[Finding]:
    return asyncio.run(ArchiveStore(archive).verify(deep=deep))


def refreshed(archive: Path) -> None:
    async def refresh() -> None:
        async with ArchiveStore(archive) as store:
            await store.refresh()

    asyncio.run(refresh())


def other_header(archive: Path, folder: Path) -> None:
    """Replace what lies in a directory by the same trace with another header, as no store does."""

    async def write() -> None:
        async with ArchiveStore(folder / "other") as store:
            await store.update_trace("a", task="changed by other means")
            await store.seal("a")

    shutil.copytree(archive, folder / "other")
    asyncio.run(write())
    for name in ("trace.json", "manifest-sha256.txt"):
        shutil.copy(folder / "other" / "traces" / "a" / name, archive / "traces" / "a" / name)


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_where_rows_are_what_lies_there(archive: Path, deep: bool) -> None:
    assert (archive / "catalog").is_dir()
    assert verified(archive, deep=deep) == []


@pytest.mark.parametrize("deep", [False, True])
def test_a_row_that_is_not_what_its_directory_says_is_found_and_refresh_mends_it(
    archive: Path, tmp_path: Path, deep: bool
) -> None:
    other_header(archive, tmp_path)
    (finding,) = verified(archive, deep=deep)
    assert finding.trace_id == "a"
    assert finding.file.startswith("catalog/snapshot-")
    assert "traceark refresh" in finding.remedy
    refreshed(archive)
    assert verified(archive, deep=deep) == []


def test_files_of_another_time_alone_are_nothing_wrong(archive: Path) -> None:
    header = archive / "traces" / "a" / "trace.json"
    os.utime(header, (1, 1))
    assert verified(archive, deep=False) == []


def test_a_damaged_snapshot_is_found(archive: Path) -> None:
    (path,) = (archive / "catalog").glob("snapshot-*.parquet")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    (finding,) = verified(archive, deep=False)
    assert finding.file == f"catalog/{path.name}"
    refreshed(archive)
    assert verified(archive, deep=False) == []


def test_a_directory_that_comes_or_goes_is_noticed_by_readers_and_nothing_wrong(archive: Path) -> None:
    shutil.rmtree(archive / "traces" / "a")
    assert verified(archive, deep=True) == []


def test_a_trace_that_is_being_written_is_nothing_wrong(archive: Path) -> None:
    async def check() -> None:
        async with ArchiveStore(archive) as store:
            await store.add_message(Message(trace_id="a", role="user", content=2))
            assert await store.verify(deep=True) == []
            assert await ArchiveStore(archive).verify(deep=True) == []
        assert await ArchiveStore(archive).verify(deep=True) == []

    asyncio.run(check())
