"""Deleted is gone: a tombstone without content stays, and no sync brings the run back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from traceark.errors import CorruptFileError, TraceNotFoundError
from traceark.layout import HEADER, MANIFEST, TOMBSTONES, trace_prefix
from traceark.models import Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, SyncReport, sync
from traceark.tombstones import Tombstone, buried, read_tombstone

RUN = "run-7"


@pytest.fixture(params=["disk", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "archive")
    else:
        yield f"memory://{tmp_path.name}"
        MemoryStorage.forget(tmp_path.name)


def opened(url: str | Path) -> ArchiveStore:
    return ArchiveStore(url, durability="os")


async def add(url: str | Path, trace_id: str = RUN, content: str = "said", status: str = "completed") -> str:
    """Add a trace as one process does, and close it; return its incarnation."""
    async with opened(url) as store:
        await store.create_trace(Trace(trace_id=trace_id, task="t"))
        await store.add_message(Message(trace_id=trace_id, role="user", content=content))
        if status != "running":
            await store.update_trace(trace_id, status=status)
    return await incarnation(url, trace_id)


async def incarnation(url: str | Path, trace_id: str = RUN) -> str:
    data = await opened(url).storage.read(f"{trace_prefix(trace_id)}/{HEADER}")
    return str(json.loads(data)["_incarnation"])


async def delete(url: str | Path, trace_id: str = RUN, **options: Any) -> None:
    async with opened(url) as store:
        await store.delete_trace(trace_id, **options)


@pytest.mark.parametrize(("status", "told_by"), [("completed", MANIFEST), ("running", HEADER)])
async def test_a_tombstone_tells_what_was_deleted_when_and_why(url: str, status: str, told_by: str) -> None:
    which = await add(url, status=status)
    storage = opened(url).storage
    state = await storage.read(f"{trace_prefix(RUN)}/{told_by}")
    await delete(url, reason="asked for")
    assert await buried(storage) == {(RUN, which)}
    left = await read_tombstone(storage, RUN, which)
    assert (left.hash_of, left.sha256) == (told_by, hashlib.sha256(state).hexdigest())
    assert left.reason == "asked for" and left.deleted_at.endswith("Z")
    assert await storage.list(trace_prefix(RUN)) == {}


async def test_what_was_never_there_leaves_no_tombstone(url: str) -> None:
    await add(url, "other")
    with pytest.raises(TraceNotFoundError):
        await delete(url)
    assert await buried(opened(url).storage) == set()


async def test_a_trace_whose_header_is_damaged_is_buried_by_the_names_of_its_files(url: str) -> None:
    which = await add(url)
    storage = opened(url).storage
    await storage.replace(f"{trace_prefix(RUN)}/{HEADER}", b"{}\n")
    await delete(url)
    assert await buried(storage) == {(RUN, which)}


async def test_a_new_run_of_the_id_may_be_created_and_the_old_one_stays_buried(url: str) -> None:
    old = await add(url)
    await delete(url)
    new = await add(url)
    await delete(url)
    assert old != new and await buried(opened(url).storage) == {(RUN, old), (RUN, new)}


async def test_the_same_run_may_be_added_again_which_takes_the_tombstone_away(tmp_path: Path) -> None:
    trace = Trace.parse({"trace_id": RUN, "status": "completed", "created_at": "2026-01-02T00:00:00Z"})
    for _ in range(2):
        async with opened(tmp_path) as store:
            await store.add_trace(trace)
            assert await buried(store.storage) == set()
            which = await incarnation(tmp_path)
            await store.delete_trace(RUN)
            assert await buried(store.storage) == {(RUN, which)}


async def test_an_interrupted_deletion_is_gone_on_with_by_doing_it_again(url: str) -> None:
    """Killed after the tombstone the trace is whole; killed after the header what is left goes too."""
    which = await add(url)
    storage = opened(url).storage
    await storage.replace(*_tombstone_file(which))
    async with opened(url) as store:
        assert len(await store.get_trace_messages(RUN)) == 1
    await storage.delete([f"{trace_prefix(RUN)}/{HEADER}"])
    await delete(url)
    assert await storage.list(trace_prefix(RUN)) == {}


async def test_files_that_were_never_a_whole_trace_are_not_taken_for_an_interrupted_deletion(url: str) -> None:
    await add(url)
    storage = opened(url).storage
    await storage.delete([f"{trace_prefix(RUN)}/{HEADER}"])
    with pytest.raises(TraceNotFoundError):
        await delete(url)
    assert await storage.list(trace_prefix(RUN))


async def test_a_tombstone_under_another_name_is_refused(url: str) -> None:
    which = await add(url)
    storage = opened(url).storage
    key, data = _tombstone_file(which)
    await storage.create(key.replace(RUN, "other"), data)
    with pytest.raises(CorruptFileError, match="another trace"):
        await read_tombstone(storage, "other", which)


async def test_names_that_say_no_trace_bury_nothing(url: str) -> None:
    storage = opened(url).storage
    for name in ("README", ".tmp-1", "run-7.json", "Run-7.5f3a9c21.json", "run-7.5F3A9C21.json"):
        await storage.create(f"{TOMBSTONES}/{name}", b"")
    assert await buried(storage) == set()


def _tombstone_file(which: str) -> tuple[str, bytes]:
    tombstone = Tombstone(RUN, which, HEADER, "0" * 64)
    return tombstone.key, tombstone.encode()


async def synced(source: str | Path, target: str | Path, options: SyncOptions | None = None) -> SyncReport:
    async with opened(source) as one, opened(target) as other:
        return await sync(one, other, options)


DELETE = SyncOptions(delete=True)


@pytest.fixture
def backup(tmp_path: Path) -> str:
    return str(tmp_path / "backup")


@pytest.mark.parametrize("status", ["completed", "running"])
async def test_no_sync_brings_back_what_was_deleted(url: str, backup: str, status: str) -> None:
    await add(url, status=status)
    await synced(url, backup)
    await delete(url)
    for options in (SyncOptions(dry_run=True), SyncOptions(sync_each=False), DELETE):
        report = await synced(backup, url, options)
        assert report.outcomes == {"buried": 1} and report.is_clean
        assert [(trace.trace_id, trace.outcome) for trace in report.traces] == [(RUN, "buried")]
        assert await opened(url).get_trace(RUN) is None


async def test_a_later_state_of_what_was_deleted_does_not_come_back_either(url: str, backup: str) -> None:
    await add(url, status="running")
    await synced(url, backup)
    await delete(url)
    async with opened(backup) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content="more"))
    assert (await synced(backup, url)).outcomes == {"buried": 1}


async def test_another_run_of_the_id_is_copied(url: str, backup: str) -> None:
    await add(url)
    await delete(url)
    await add(backup, content="another")
    assert (await synced(backup, url)).outcomes == {"new": 1}
    assert (await synced(backup, url)).outcomes == {"same": 1}


async def test_what_was_deleted_before_the_id_was_used_again_does_not_mix_with_it(url: str, backup: str) -> None:
    await add(url)
    await synced(url, backup)
    await delete(url)
    await add(url, content="another")
    assert (await synced(backup, url)).outcomes == {"buried": 1}
    async with opened(url) as store:
        assert [each.content for each in await store.get_trace_messages(RUN)] == ["another"]


async def test_a_tombstone_beside_the_trace_does_not_count(url: str, backup: str) -> None:
    which = await add(url, status="running")
    await synced(url, backup)
    async with opened(backup) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content="more"))
    for place in (url, backup):
        await opened(place).storage.replace(*_tombstone_file(which))
    assert (await synced(backup, url, DELETE)).outcomes == {"forward": 1}


async def test_only_when_asked_is_a_deletion_carried_to_the_target(url: str, backup: str) -> None:
    which = await add(url)
    await synced(url, backup)
    await delete(url, reason="asked for")
    assert (await synced(url, backup)).outcomes == {}
    assert await opened(backup).get_trace(RUN) is not None
    assert (await synced(url, backup, SyncOptions(delete=True, dry_run=True))).outcomes == {"deleted": 1}
    assert await opened(backup).get_trace(RUN) is not None
    assert (await synced(url, backup, DELETE)).outcomes == {"deleted": 1}
    assert await opened(backup).get_trace(RUN) is None
    one, other = [await read_tombstone(opened(place).storage, RUN, which) for place in (url, backup)]
    assert one == other
    assert (await synced(url, backup, DELETE)).outcomes == {}


async def test_a_deleted_run_gives_way_to_the_new_one_of_its_id(url: str, backup: str) -> None:
    old = await add(url)
    await synced(url, backup)
    await delete(url)
    new = await add(url, content="another")
    assert (await synced(url, backup)).outcomes == {"diverged": 1}
    assert (await synced(url, backup, DELETE)).outcomes == {"deleted": 1, "new": 1}
    assert await incarnation(backup) == new and await buried(opened(backup).storage) == {(RUN, old)}


async def test_what_a_mirror_drops_since_the_source_does_not_have_it_may_come_again(url: str, backup: str) -> None:
    await add(url)
    await add(backup, "stranger")
    assert (await synced(url, backup, DELETE)).outcomes == {"new": 1, "deleted": 1}
    assert await buried(opened(backup).storage) == set()


async def test_a_damaged_tombstone_at_the_source_is_told_and_not_carried(url: str, backup: str) -> None:
    which = await add(url)
    await synced(url, backup)
    await delete(url)
    await opened(url).storage.replace(Tombstone(RUN, which, "", "").key, b"{}\n")
    report = await synced(url, backup, DELETE)
    assert await buried(opened(backup).storage) == set()
    assert len(report.problems) == 1 and "was not carried" in report.problems[0]
