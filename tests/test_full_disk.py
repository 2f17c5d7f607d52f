"""Room is made on a disk that has none: what deletes takes what it needs from the catalog, or says what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from traceark.errors import StorageError
from traceark.models import Message, Trace
from traceark.store import ArchiveStore
from traceark.testing.calls import Call, Watcher, watched
from traceark.tombstones import buried

IDS = [f"run-{number}" for number in range(6)]


class Full(Watcher):
    """A disk with so many blocks left; a file is one block, and gives it back when it goes."""

    def __init__(self, root: Path, free: int = 0) -> None:
        self.free = free
        self._root = root
        self._mutex = threading.Lock()

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        with self._mutex:
            if call.name == "write" and call.at == 0:
                if not self.free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.free -= 1
            gives = call.name == "unlink" and self._is_one_block(self._root / call.path)
            result = do()
            self.free += gives
            return result

    def _is_one_block(self, path: Path) -> bool:
        if not path.exists():
            return False
        status = path.stat()
        return status.st_size > 0 and status.st_nlink == 1


async def filled(archive: Path) -> None:
    async with ArchiveStore(archive) as store:
        for trace_id in IDS:
            told = {"trace_id": trace_id, "status": "completed", "created_at": "2020-01-02T00:00:00Z"}
            await store.add_trace(Trace.parse(told), [Message(trace_id=trace_id, role="user", content="hi")])


async def listed(store: ArchiveStore) -> list[str]:
    return sorted(trace.trace_id for trace in await store.list_traces())


async def test_a_trace_is_deleted_on_a_full_disk_and_others_notice(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with ArchiveStore(tmp_path) as other, ArchiveStore(tmp_path) as store:
        assert await listed(other) == await listed(store) == IDS
        with watched(tmp_path, Full(tmp_path)):
            await store.delete_trace(IDS[0])
            assert await listed(store) == await listed(other) == IDS[1:]
        assert {trace_id for trace_id, _ in await buried(store.storage)} == {IDS[0]}
        await other.create_trace(Trace(trace_id="new"))
        assert await listed(store) == await listed(other) == ["new", *IDS[1:]]
    async with ArchiveStore(tmp_path) as store:
        assert await listed(store) == ["new", *IDS[1:]]
        assert await store.verify(deep=True) == []


async def test_who_writes_on_a_disk_that_was_full_goes_on_and_is_listed(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with ArchiveStore(tmp_path) as other, ArchiveStore(tmp_path) as store:
        await other.create_trace(Trace(trace_id="going on"))
        await other.add_message(Message(trace_id="going on", role="user", content="1"))
        with watched(tmp_path, Full(tmp_path)):
            await store.delete_trace(IDS[0])
        async with ArchiveStore(tmp_path) as fresh:
            assert await listed(fresh) == ["going on", *IDS[1:]]
            await other.add_message(Message(trace_id="going on", role="user", content="2"))
            for each in (fresh, store, other):
                told = {trace.trace_id: trace.total_messages for trace in await each.list_traces()}
                assert told["going on"] == 2


async def test_what_expired_is_deleted_on_a_full_disk(tmp_path: Path) -> None:
    await filled(tmp_path)
    with watched(tmp_path, Full(tmp_path)):
        async with ArchiveStore(tmp_path) as store:
            report = await store.expire(timedelta(days=90), dry_run=False)
    assert sorted(report.trace_ids) == IDS
    async with ArchiveStore(tmp_path) as store:
        assert await listed(store) == []
        assert {trace_id for trace_id, _ in await buried(store.storage)} == set(IDS)


async def test_without_room_for_a_tombstone_nothing_is_deleted_and_it_says_what_to_do(tmp_path: Path) -> None:
    await filled(tmp_path)
    shutil.rmtree(tmp_path / "catalog")
    full = Full(tmp_path)
    with watched(tmp_path, full):
        async with ArchiveStore(tmp_path) as store:
            with pytest.raises(StorageError, match=r"no room for its tombstone.*delete something else") as raised:
                await store.delete_trace(IDS[0])
            assert raised.value.errno == errno.ENOSPC
            assert await listed(store) == IDS
        full.free = 3
        async with ArchiveStore(tmp_path) as store:
            await store.delete_trace(IDS[0])
    async with ArchiveStore(tmp_path) as store:
        assert await listed(store) == IDS[1:]
        assert await store.verify(deep=True) == []


async def test_on_a_full_disk_many_delete_one_after_the_other(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with ArchiveStore(tmp_path) as store:
        with watched(tmp_path, Full(tmp_path)):
            await asyncio.gather(*map(store.delete_trace, IDS[1:]))
        assert await listed(store) == IDS[:1]
