"""Storages: a server that is too weak is refused, others are written with care."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from profiles import tried
from servers import S3Server
from traceark import ArchiveStore, Goal, GoalTree, Message, Trace
from traceark.errors import (
    InvalidValueError,
    MissingLibraryError,
    StorageError,
    StoreClosedError,
    TracearkError,
    UnsafeStorageError,
)
from traceark.storage.base import KeyExistsError, KeyMissingError, VersionMismatchError
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.storage.objects import S3Storage
from traceark.storage.s3_session import parse_time
from traceark.sync import sync


class ForgetfulS3(S3Storage):
    """A server that takes conditional writes and ignores the condition."""

    ignored: str

    async def _put(self, key: str, data: bytes, **condition: str) -> str:
        condition.pop(self.ignored, None)
        return await super()._put(key, data, **condition)


@pytest.mark.parametrize("ignored", ["IfNoneMatch", "IfMatch"])
def test_a_server_that_ignores_conditions_is_refused(
    ministack_server: S3Server, ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.storage.objects._proven", set())

    async def run() -> None:
        url = ministack_server.place()
        storage = ForgetfulS3(url, ministack_server.storage_options)
        storage.ignored = ignored
        store = ArchiveStore(url, storage_options=ministack_server.storage_options)
        store.storage = store._pool.storage = storage
        with pytest.raises(UnsafeStorageError, match="allow_unsafe_writes"):
            await store.create_trace(Trace(trace_id="t"))
        assert await S3Storage(url, ministack_server.storage_options).list("traces") == {}
        unsafe = ArchiveStore(url, storage_options=ministack_server.storage_options, allow_unsafe_writes=True)
        unsafe.storage = unsafe._pool.storage = storage
        await unsafe.create_trace(Trace(trace_id="t"))

    asyncio.run(run())


def test_a_server_without_conditional_writes_is_refused(s3rver_server: S3Server) -> None:
    async def run() -> None:
        url, options = s3rver_server.place(), s3rver_server.storage_options
        with pytest.raises(UnsafeStorageError, match="allow_unsafe_writes"):
            await ArchiveStore(url, storage_options=options).create_trace(Trace(trace_id="t"))
        assert await S3Storage(url, options).list("traces") == {}
        async with ArchiveStore(url, storage_options=options, allow_unsafe_writes=True) as unsafe:
            await unsafe.create_trace(Trace(trace_id="t"))
            await unsafe.add_message(Message(trace_id="t", role="user", content="hi"))
        (message,) = await ArchiveStore(url, storage_options=options).get_trace_messages("t")
        assert message.content == "hi"

    asyncio.run(run())


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05.678Z", "2026-01-02T04:04:05.678+01:00", "2026-01-02T03:04:05.678"]
)
def test_times_of_a_listing_are_read(text: str) -> None:
    assert parse_time(text) == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def test_times_of_headers_are_read() -> None:
    assert parse_time("Fri, 02 Jan 2026 03:04:05 GMT") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert parse_time(1_767_323_045) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_conditions_hold_on_s3(ministack_server: S3Server) -> None:
    async def run() -> None:
        storage = S3Storage(ministack_server.place(), ministack_server.storage_options)
        await storage.check_writable()
        version = await storage.create("k", b"1")
        with pytest.raises(KeyExistsError):
            await storage.create("k", b"2")
        newer = await storage.replace("k", b"3", version)
        with pytest.raises(VersionMismatchError):
            await storage.replace("k", b"4", version)
        assert await storage.read_versioned("k") == (b"3", newer)
        await storage.delete(["k"])
        with pytest.raises(KeyMissingError):
            await storage.read("k")

    asyncio.run(run())


async def test_what_is_short_is_sent_to_s3_without_asking_first(ministack_server: S3Server) -> None:
    # A file system of its own: s3fs shares one with whoever made it with these options before.
    storage = S3Storage(ministack_server.place(), {**ministack_server.storage_options, "skip_instance_cache": True})
    await asyncio.to_thread(storage._fs.connect)
    asked: list[bool] = []

    def sent(request: Any, **_: object) -> None:
        if request.method == "PUT":
            asked.append("Expect" in request.headers)

    storage._fs.s3.meta.events.register("before-send.s3", sent)
    try:
        await storage.create("short", b"x")
        await storage.replace("long", b"x" * 2_000_000)
    finally:
        storage._fs.s3.meta.events.unregister("before-send.s3", sent)
    assert asked == [False, True]
    assert await storage.read("short") == b"x"
    assert len(await storage.read("long")) == 2_000_000


def test_a_long_listing_on_s3_is_whole_whatever_the_names(
    ministack_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = S3Storage._ask

    async def in_short_pages(self: S3Storage, name: str, what: str, **arguments: Any) -> Any:
        return await ask(self, name, what, **arguments, MaxKeys=tried(100, 1000))

    async def run() -> None:
        storage = S3Storage(ministack_server.place(), ministack_server.storage_options)
        names = {
            f"{first}{number:03d}/x"
            for first in ("%2F", "0", "7", "a", "q", "z", "z~", "é", "A")
            for number in range(tried(13, 130))
        }
        for start in range(0, len(names), 100):
            group = sorted(names)[start : start + 100]
            await asyncio.gather(*(storage.create(f"traces/{name}", b"1") for name in group))
        monkeypatch.setattr(S3Storage, "_ask", in_short_pages)
        assert set(await storage.list("traces")) == names

    asyncio.run(run())


def test_any_file_system_of_fsspec_is_read_and_written_by_one_writer(tmp_path: Path) -> None:
    url = f"local://{tmp_path}/archive"

    async def run() -> None:
        with pytest.raises(UnsafeStorageError, match="allow_unsafe_writes"):
            await ArchiveStore(url).create_trace(Trace(trace_id="t"))
        async with ArchiveStore(url, allow_unsafe_writes=True) as store:
            await store.create_trace(Trace(trace_id="t"))
            await store.add_message(Message(trace_id="t", role="user", content="hi"))
            await store.update_trace("t", status="completed")
        assert [message.content for message in await ArchiveStore(url).get_trace_messages("t")] == ["hi"]
        assert await ArchiveStore(tmp_path / "archive").verify(deep=True) == []
        async with (
            ArchiveStore(url) as source,
            ArchiveStore(f"local://{tmp_path}/copy", allow_unsafe_writes=True) as target,
        ):
            assert (await sync(source, target)).outcomes == {"new": 1}
            assert (await sync(source, target)).outcomes == {"same": 1}

    asyncio.run(run())


async def test_a_copy_on_a_file_system_of_fsspec_goes_forward(tmp_path: Path) -> None:
    async with (
        ArchiveStore(tmp_path / "near", durability="os") as near,
        ArchiveStore(f"local://{tmp_path}/far", allow_unsafe_writes=True) as far,
    ):
        await near.create_trace(Trace(trace_id="t"))
        for task in ("one", "two", "three"):
            await near.update_trace("t", task=task)
            await near.update_goal_tree("t", GoalTree(mission=task, goals=[]))
            assert (await sync(near, far)).is_clean
            found = await far.get_trace("t")
            assert found is not None and found.task == task
        assert await far.verify(deep=True) == []


class LossyMemory(MemoryStorage):
    """Creates the object and then loses the answer, once."""

    lost = False

    async def create(self, key: str, data: bytes) -> str:
        version = await super().create(key, data)
        if not self.lost and "/messages/" in key:
            self.lost = True
            raise KeyExistsError("a retry inside the client found its own object")
        return version


def test_a_creation_whose_answer_was_lost_is_not_a_conflict_with_oneself() -> None:
    async def run() -> None:
        store = ArchiveStore("memory://lossy")
        storage = LossyMemory("lossy")
        store.storage = store._pool.storage = storage
        await store.create_trace(Trace(trace_id="t"))
        ids = [await store.add_message(Message(trace_id="t", role="user", content=n)) for n in range(3)]
        assert storage.lost
        assert [message.message_id for message in await store.get_trace_messages("t")] == ids

    try:
        asyncio.run(run())
    finally:
        MemoryStorage.forget("lossy")


def test_a_failed_sync_stops_all_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path / "archive")
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content="kept"))

        def failing(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", failing)
            with pytest.raises(TracearkError, match="sync failed"):
                await store.add_message(Message(trace_id="t", role="user", content="not acknowledged"))
        with pytest.raises(StoreClosedError, match="open the archive again"):
            await store.add_message(Message(trace_id="t", role="user", content="refused"))
        again = ArchiveStore(tmp_path / "archive")
        assert (await again.get_trace_messages("t"))[0].content == "kept"
        await again.add_message(Message(trace_id="t", role="user", content="goes on"))
        assert await again.verify(deep=True) == []

    asyncio.run(run())


def test_what_cannot_be_read_says_nothing_of_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    async def run() -> None:
        store = ArchiveStore(tmp_path / "archive")
        await store.create_trace(Trace(trace_id="t"))
        monkeypatch.setattr("traceark.storage.local.open_plain", forbidden)
        for read in (store.storage.read, store.storage.read_versioned):
            with pytest.raises(StorageError, match=r"trace\.json: Permission denied$"):
                await read("traces/t/trace.json")

    asyncio.run(run())


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if b"too much" in bytes(data):
            write(descriptor, bytes(data)[:20])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    async def run() -> None:
        for durability in ("os", "fsync"):
            store = ArchiveStore(tmp_path / durability, durability=durability)
            await store.create_trace(Trace(trace_id="t"))
            await store.add_message(Message(trace_id="t", role="user", content="first"))
            with monkeypatch.context() as patch:
                patch.setattr("os.write", full)
                with pytest.raises(TracearkError, match="No space left"):
                    await store.add_message(Message(trace_id="t", role="user", content="too much"))
            await store.add_message(Message(trace_id="t", role="user", content="after"))
            assert [each.content for each in await store.get_trace_messages("t")] == ["first", "after"]
            await store.update_trace("t", status="completed")
            await store.close()
            assert await ArchiveStore(tmp_path / durability).verify(deep=True) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("", {}, "it is empty"),
        ("s3://", {}, "names no bucket"),
        ("nosuch://host/archive", {}, "nosuch://host/archive cannot be opened.*Protocol not known"),
        ("s3://bucket/archive", {"bogus": 1}, "s3://bucket/archive cannot be opened.*'bogus'"),
        ("s3://bucket/archive", "no mapping", "s3://bucket/archive cannot be opened"),
        ("github://archive", {"username": "ann"}, "missing 2 required"),
        ("runs", {"auto_mkdir": True}, "auto_mkdir: an archive at a path"),
        ("memory://runs", {"endpoint_url": "x"}, "endpoint_url: an archive at a path"),
    ],
)
def test_what_names_no_archive_is_refused_by_name(url: str, options: Any, why: str) -> None:
    with pytest.raises(InvalidValueError, match=why):
        ArchiveStore(url, storage_options=options)


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(MissingLibraryError, match=r"gs://bucket/archive wants .*gcsfs"):
        ArchiveStore("gs://bucket/archive")


def test_a_place_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(StorageError, match=r"ftp://127.0.0.1:1/archive: .*refused"):
        ArchiveStore("ftp://127.0.0.1:1/archive")


def test_a_secret_is_in_no_repr_and_no_error() -> None:
    options = {
        "key": "id",
        "secret": "hush-hush",
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    store = ArchiveStore("s3://bucket/prefix", storage_options=options)
    assert "hush" not in repr(store) + str(vars(store))
    with pytest.raises(StorageError) as refused:
        asyncio.run(store.get_trace("t"))
    told: BaseException | None = refused.value
    assert "127.0.0.1" in str(told)
    while told is not None:
        assert "hush" not in f"{told!r} {told}"
        told = told.__cause__ or told.__context__


def test_a_checkpoint_is_published_after_what_others_appended_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, publish = LocalStorage.sync, LocalStorage.replace

    async def syncing(self: LocalStorage, keys: Iterable[str]) -> None:
        listed = list(keys)
        order.extend(listed)
        await sync(self, listed)

    async def publishing(self: LocalStorage, key: str, data: bytes, version: str | None = None) -> str:
        order.append(key)
        return await publish(self, key, data, version)

    async def run() -> None:
        other = ArchiveStore(tmp_path / "archive", durability="os")
        await other.create_trace(Trace(trace_id="t"))
        await other.add_message(Message(trace_id="t", role="user", content="left to the system"))
        store = ArchiveStore(tmp_path / "archive", durability="os")
        monkeypatch.setattr(LocalStorage, "sync", syncing)
        monkeypatch.setattr(LocalStorage, "replace", publishing)
        await store.update_trace("t", task="known")
        (segment,) = (tmp_path / "archive/traces/t/messages").iterdir()
        assert order == [f"traces/t/messages/{segment.name}", "traces/t/trace.json"]

    asyncio.run(run())


def test_what_a_caller_changes_after_giving_it_does_not_reach_the_archive(tmp_path: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path / "archive", durability="os")
        context: dict[str, Any] = {"list": [1]}
        await store.create_trace(Trace(trace_id="t", context=context))
        context["list"].append(2)
        await store.update_trace("t", task="published again")
        metadata = {"list": [1]}
        await store.update_trace("t", metadata=metadata)
        metadata["list"].append(2)
        await store.update_trace("t", task="and again")
        trace = await store.get_trace("t")
        assert trace is not None
        assert (trace.context, trace.metadata) == ({"list": [1]}, {"list": [1]})

    asyncio.run(run())


class LossyReplace(MemoryStorage):
    """Replaces the object and then loses the answer, once."""

    lost = False

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        now = await super().replace(key, data, version)
        if not self.lost and key.endswith("trace.json"):
            self.lost = True
            raise VersionMismatchError("a retry inside the client met its own object")
        return now


def test_a_replacement_whose_answer_was_lost_is_not_a_conflict_with_oneself() -> None:
    async def run() -> None:
        store = ArchiveStore("memory://lossy-replace")
        storage = LossyReplace("lossy-replace")
        store.storage = store._pool.storage = storage
        await store.create_trace(Trace(trace_id="t"))
        await store.update_trace("t", task="once")
        trace = await store.get_trace("t")
        assert storage.lost
        assert trace is not None
        assert trace.task == "once"

    try:
        asyncio.run(run())
    finally:
        MemoryStorage.forget("lossy-replace")


def test_closing_waits_for_a_write_that_is_under_way(tmp_path: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path / "archive")
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content=1))
        writing = asyncio.create_task(store.update_trace("t", task="under way"))
        await asyncio.sleep(0)
        await store.close()
        await writing
        trace = await ArchiveStore(tmp_path / "archive").get_trace("t")
        assert trace is not None
        assert trace.task == "under way"

    asyncio.run(run())


async def test_a_file_that_comes_in_place_of_one_that_goes_is_listed_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "traces/t/messages"
    log.mkdir(parents=True)
    (log / "segment").write_bytes(b"1")
    scandir = os.scandir

    class Late:
        """A directory that is read before the segment is taken into a part, and looked at after."""

        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = list(entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            if [entry.name for entry in self.entries] == ["segment"]:
                (log / "part").write_bytes(b"1")
                (log / "segment").unlink()
            return self.entries

        def __exit__(self, *error: object) -> None:
            """Leave the errors to the caller."""

    monkeypatch.setattr(os, "scandir", Late)
    assert list(await LocalStorage(tmp_path).list("traces/t")) == ["messages/part"]


async def test_no_version_comes_again_while_the_kernels_clock_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_in_one_tick(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        os.utime(descriptor, ns=(10**18, 10**18))
        return written

    monkeypatch.setattr(os, "write", write_in_one_tick)
    storage = LocalStorage(tmp_path, "os")
    versions = [await storage.replace("traces/t/trace.json", b"%04d" % number) for number in range(20)]
    assert len(set(versions)) == 20


async def test_a_run_that_was_made_anew_is_synced_onto_any_file_system(tmp_path: Path) -> None:
    async def made(store: ArchiveStore) -> ArchiveStore:
        await store.create_trace(Trace(trace_id="t", task="one"))
        await store.add_goal("t", Goal(id="1"))
        return store

    far = await made(ArchiveStore(f"local://{tmp_path}/far", allow_unsafe_writes=True))
    near = await made(ArchiveStore(tmp_path / "near"))
    await near.add_message(Message(trace_id="t", role="user", content="later"))
    report = await sync(near, far)
    # Its goals are written twice: first for both incarnations.
    assert report.problems == [] and report.outcomes == {"forward": 1}
    assert [message.content for message in await far.get_trace_messages("t")] == ["later"]
    assert await far.verify(deep=True) == []
    await far.close()
    await near.close()
