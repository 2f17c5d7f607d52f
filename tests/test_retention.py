"""Deleted is gone: a tombstone without content stays, and no sync brings the run back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs

from profiles import in_turn
from servers import S3Server
from traceark.errors import CorruptFileError, InvalidValueError, TraceNotFoundError
from traceark.layout import HEADER, MANIFEST, TOMBSTONES, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.rollups.files import ROLLUPS
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, SyncReport, sync
from traceark.tombstones import Tombstone, buried, read_tombstone

RUN = "run-7"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "url" in metafunc.fixturenames:
        kinds = ["disk", *in_turn(["memory", "s3"], metafunc.function.__name__)]
        metafunc.parametrize("url", kinds, indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "archive")
    elif request.param == "s3":
        server: S3Server = request.getfixturevalue("ministack_server")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server.place()
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


@pytest.mark.parametrize("how", ["deleted", "never there", "another run"])
async def test_a_pin_at_the_target_keeps_a_trace_from_a_sync_that_deletes(url: str, backup: str, how: str) -> None:
    if how == "never there":
        await add(backup)
    else:
        await add(url)
        await synced(url, backup)
        await delete(url)
    if how == "another run":
        await add(url, content="of another run")
    await add(url, "other")
    async with opened(backup) as store:
        await store.pin(RUN)
    before = await opened(backup).storage.list(trace_prefix(RUN))
    outcome = "diverged" if how == "another run" else "pinned"
    for options in (SyncOptions(delete=True, dry_run=True), DELETE, DELETE):
        report = await synced(url, backup, options)
        assert {trace.trace_id: trace.outcome for trace in report.traces}[RUN] == outcome
        assert report.is_clean == (outcome == "pinned") and "deleted" not in report.outcomes
    assert await opened(backup).storage.list(trace_prefix(RUN)) == before
    assert await buried(opened(backup).storage) == set()
    async with opened(backup) as store:
        await store.unpin(RUN)
    assert (await synced(url, backup, DELETE)).outcomes["new" if how == "another run" else "deleted"] == 1


async def test_a_damaged_tombstone_at_the_source_is_told_and_not_carried(url: str, backup: str) -> None:
    which = await add(url)
    await synced(url, backup)
    await delete(url)
    await opened(url).storage.replace(Tombstone(RUN, which, "", "").key, b"{}\n")
    report = await synced(url, backup, DELETE)
    assert await buried(opened(backup).storage) == set()
    assert len(report.problems) == 1 and "was not carried" in report.problems[0]


async def test_a_pin_keeps_a_trace_from_expiring_and_changes_no_byte_of_it(url: str) -> None:
    await add(url)
    await add(url, "other")
    storage = opened(url).storage
    before = {name: await storage.read(f"traces/{name}") for name in await storage.list("traces")}
    async with opened(url) as store:
        for _ in range(2):
            await store.pin(RUN)
        assert await store.pinned() == {RUN}
        report = await store.expire(timedelta(0), dry_run=False)
        assert (report.trace_ids, report.pinned) == (["other"], 1)
        after = {name: await storage.read(f"traces/{name}") for name in await storage.list("traces")}
        assert after == {name: data for name, data in before.items() if name.startswith(f"{RUN}/")}
        await store.unpin(RUN)
        assert (await store.expire(timedelta(0))).trace_ids == [RUN]


async def test_what_is_not_there_cannot_be_pinned_and_a_pin_goes_with_its_trace(url: str) -> None:
    await add(url)
    async with opened(url) as store:
        with pytest.raises(TraceNotFoundError):
            await store.pin("other")
        await store.pin(RUN)
        await store.delete_trace(RUN)
        assert await store.pinned() == set()


async def test_expiry_says_what_it_would_delete_and_deletes_nothing(url: str) -> None:
    await add(url)
    storage = opened(url).storage
    weight = sum(entry.size for entry in (await storage.list(trace_prefix(RUN))).values())
    async with opened(url) as store:
        report = await store.expire(timedelta(0))
        assert (report.trace_ids, report.bytes, report.dry_run) == ([RUN], weight, True)
        assert await store.get_trace(RUN) is not None


async def test_only_what_is_old_enough_and_meets_the_filters_expires(url: str) -> None:
    now = datetime.now(UTC)
    async with opened(url) as store:
        for trace_id, days, status in (
            ("new", 80, "completed"),
            ("old", 100, "completed"),
            ("failed", 100, "failed"),
            ("running", 100, "running"),
        ):
            created = (now - timedelta(days=days)).isoformat()
            await store.create_trace(Trace.parse({"trace_id": trace_id, "created_at": created, "status": status}))
        age = timedelta(days=90)
        assert sorted((await store.expire(age)).trace_ids) == ["failed", "old"]
        report = await store.expire(age, keep_failed=True)
        assert (report.trace_ids, report.failed, report.running) == (["old"], 1, 1)
        assert (await store.expire(age, status="failed")).trace_ids == ["failed"]
        assert (await store.expire(age, where="trace_id > 'g'")).trace_ids == ["old"]
        assert (await store.expire(age, until=now - timedelta(days=365))).trace_ids == []
        assert sorted((await store.expire(age, until=now)).trace_ids) == ["failed", "old"]
        assert sorted((await store.expire(age, include_running=True)).trace_ids) == ["failed", "old", "running"]
        with pytest.raises(InvalidValueError):
            await store.expire(timedelta(-1))


async def all_bytes(url: str) -> dict[str, bytes]:
    """Return every file of an archive, those of Parquet as text of all that they hold too."""
    storage = opened(url).storage
    if url.startswith("s3://"):
        found = await asyncio.to_thread(s3fs.S3FileSystem(skip_instance_cache=True).find, url)
        names = [str(name).removeprefix(f"{url.removeprefix('s3://')}/") for name in found]
    elif url.startswith("memory://"):
        names = list(MemoryStorage(url.removeprefix("memory://"))._objects)
    else:
        names = [str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file()]
    held: dict[str, bytes] = {}
    for name in names:
        data = await storage.read(name)
        if name.endswith(".parquet"):
            file = pq.ParquetFile(BytesIO(data))
            data += str(file.metadata.metadata).encode() + json.dumps(file.read().to_pylist(), default=str).encode()
        held[name] = data
    return held


async def holding(url: str, *needles: str) -> set[str]:
    """Return the files in which one of some texts stands."""
    return {name for name, data in (await all_bytes(url)).items() if any(each.encode() in data for each in needles)}


def _place(name: str) -> str:
    return "rollups" if name.startswith(f"{ROLLUPS}/") else name.partition("/")[0]


async def test_what_expired_is_gone_from_every_byte_of_the_archive(url: str) -> None:
    words = ("heliotrope", "quicksilver", "marzipan", "obsidian")
    async with opened(url) as store:
        for trace_id in ("gone", "kept"):
            # Each word is told by another file: the header, the goals, the messages, the events.
            told = [f"{word}-{trace_id}" for word in words]
            await store.create_trace(Trace(trace_id=trace_id, task=told[0]))
            await store.add_goal(trace_id, Goal(id="1", description=told[1]))
            await store.add_message(
                Message(trace_id=trace_id, role="user", content=told[2], message_id=f"id-of-{trace_id}")
            )
            await store.append_event(trace_id, "said", told[3])
            await store.update_trace(trace_id, status="completed")
    async with opened(url) as store:
        assert (await store.optimize()).traces == 2
    needles = [f"{word}-gone" for word in words] + ["id-of-gone"]
    before = await holding(url, *needles)
    assert {_place(name) for name in before} == {"traces", "catalog", "rollups"}
    async with opened(url) as store:
        report = await store.expire(timedelta(0), dry_run=False, where="trace_id = 'gone'")
        assert report.trace_ids == ["gone"] and report.rollups >= 1 and report.unread == []
    assert await holding(url, *needles) == set()
    assert {_place(name) for name in await holding(url, "id-of-kept")} == {"traces", "rollups"}
    async with opened(url) as store:
        assert [each.content for each in await store.get_trace_messages("kept")] == ["marzipan-kept"]
        assert await store.verify(deep=True) == []


async def test_what_a_copied_catalog_tells_of_the_original_goes_too(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    async with opened(original) as store:
        await store.create_trace(Trace(trace_id=RUN, task="heliotrope", status="completed"))
    shutil.copytree(original, copy)
    assert {_place(name) for name in await holding(str(copy), "heliotrope")} == {"traces", "catalog"}
    async with opened(copy) as store:
        assert (await store.expire(timedelta(0), dry_run=False)).trace_ids == [RUN]
        assert await store.list_traces() == []
    assert await holding(str(copy), "heliotrope") == set()


def leave(path: Path) -> Path:
    """Leave what a write leaves that is cut short now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"heliotrope")
    os.utime(path, (time.time(),) * 2)
    return path


async def test_what_writes_left_that_were_cut_short_is_removed_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(tmp_path)
    log = f"{trace_prefix(RUN)}/messages"
    places = ("", "catalog", "catalog/changes", "catalog/rollups", "pins", "tombstones", log)
    left = [leave(tmp_path / each / f".tmp-{number:016x}") for number, each in enumerate(places)]
    async with opened(tmp_path) as store:
        assert (await store.refresh()).leftovers == 0
        await store.optimize()
        assert all(path.exists() for path in left)
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + 4000)
        # What is written now, and what somebody else gave such a name.
        kept = [leave(tmp_path / f".tmp-{99:016x}"), leave(tmp_path / log / ".tmp-mine")]
        await store.optimize()
        assert [path.exists() for path in left] == [not each.startswith("catalog") for each in places]
        assert (await store.refresh()).leftovers == 4
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
        assert (await store.refresh()).leftovers == 0
    assert [message.content for message in await opened(tmp_path).get_trace_messages(RUN)] == ["said"]
