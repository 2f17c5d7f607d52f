"""The catalog: every list says what the directories do, whoever changed them, and whatever became of its files."""

from __future__ import annotations

import asyncio
import errno
import importlib
import shutil
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

import traceark
import traceark.catalog.catalog
from directories import in_directories
from profiles import some, tried
from program import PIPE, Program
from servers import Requests, S3Server
from traceark import lifecycle
from traceark.catalog.notes import Note, changed, is_doubtful
from traceark.catalog.snapshot import SCHEMA, SnapshotInfo, encode_snapshot
from traceark.errors import (
    DamagedTraceWarning,
    StorageError,
    TracearkError,
    TraceExistsError,
)
from traceark.layout import TRACES
from traceark.models import JsonObject, Message, Trace
from traceark.storage import storage_for
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text

Place = tuple[str, Mapping[str, Any]]
Rows = dict[str, str]


# What is listed, and what it should be


async def listed(store: ArchiveStore) -> Rows:
    """Return what a store lists, exactly, by trace id."""
    return {trace.trace_id: exact_text(trace) for trace in await store.list_traces(limit=10_000)}


async def assert_right(*stores: ArchiveStore, options: Mapping[str, Any] | None = None) -> Rows:
    """Assert that stores list what the directories say, and a new one, too; return that."""
    expected = await in_directories(storage_for(stores[0].url, options, "os"))
    fresh = ArchiveStore(stores[0].url, storage_options=options, durability="os")
    for store in (*stores, fresh):
        assert await listed(store) == expected
    await fresh.close()
    return expected


def store_at(place: Path | str, **options: Any) -> ArchiveStore:
    return ArchiveStore(place, durability="os", **options)


async def add(store: ArchiveStore, trace_id: str, count: int = 1) -> None:
    for _ in range(count):
        await store.add_message(Message(trace_id=trace_id, role="user", content="hi", tokens=1))


async def total(store: ArchiveStore, trace_id: str) -> int | None:
    """Return how many messages a store lists for a trace; None where it lists no such trace."""
    return {each.trace_id: each.total_messages for each in await store.list_traces(limit=10_000)}.get(trace_id)


async def made(place: Path, *trace_ids: str, messages: int = 2) -> None:
    """Make an archive with some finished traces, and close it."""
    async with store_at(place) as store:
        for trace_id in trace_ids:
            await store.create_trace(Trace(trace_id=trace_id))
            await add(store, trace_id, messages)
            await store.update_trace(trace_id, status="completed")


@pytest.fixture
def memory_url() -> Iterator[str]:
    name = uuid4().hex
    yield f"memory://{name}"
    MemoryStorage.forget(name)


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """An unused place on each kind of storage, and what opens it."""
    if request.param == "disk":
        return str(request.getfixturevalue("tmp_path") / "archive"), {}
    if request.param == "memory":
        return request.getfixturevalue("memory_url"), {}
    server: S3Server = request.getfixturevalue("ministack_server")
    return server.place(), server.storage_options


class Process:
    """Another process with a store of its own, which does what it is told: this file, run as a program."""

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        self._process = Program(__file__, url, repr(dict(options or {})), stdin=PIPE, stdout=PIPE)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def does(self, code: str) -> Any:
        """Run an expression that may await, on its `store`; return its value."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(code.replace("\n", " ") + "\n")
        self._process.stdin.flush()
        return eval(self._process.stdout.readline())

    def kill(self) -> None:
        """End it as the kernel would: nothing is closed."""
        with self._process:
            self._process.kill()


async def serve(url: str, options: dict[str, Any]) -> None:
    """Be the other process."""
    store = store_at(url, storage_options=options)
    names = {"store": store, "add": add, "total": total, "listed": listed, "Trace": Trace}
    for line in sys.stdin:
        exec(f"async def work():\n return {line}", names)
        print(repr(await cast("Callable[[], Awaitable[object]]", names["work"])()), flush=True)


# Stores


async def test_own_writes_are_listed_at_once(place: Place) -> None:
    url, options = place
    async with store_at(url, storage_options=options) as store:
        assert await listed(store) == {}
        await store.create_trace(Trace(trace_id="t", task="first"))
        assert await total(store, "t") == 0
        await add(store, "t", 3)
        assert await total(store, "t") == 3
        await store.update_trace("t", task="second", status="completed")
        [row] = await store.list_traces(status="completed")
        assert (row.task, row.total_tokens) == ("second", 3)
        await assert_right(store, options=options)
        await store.delete_trace("t")
        assert await listed(store) == {}
        await store.create_trace(Trace(trace_id="t", task="third"))
        await add(store, "t")
        [row] = await store.list_traces()
        assert (row.task, row.total_messages) == ("third", 1)
        await assert_right(store, options=options)


async def test_two_stores_see_each_other_within_one_call(place: Place) -> None:
    url, options = place
    writer, reader = (store_at(url, storage_options=options) for _ in range(2))
    assert await listed(reader) == {}
    await writer.create_trace(Trace(trace_id="t"))
    assert await total(reader, "t") == 0
    await add(writer, "t", 2)
    assert await total(reader, "t") == 2
    await writer.update_trace("t", status="failed")
    assert [each.status for each in await reader.list_traces()] == ["failed"]
    await writer.seal("t")
    await assert_right(reader, writer, options=options)
    await add(writer, "t")
    assert await total(reader, "t") == 3
    await reader.delete_trace("t")
    assert await listed(writer) == {}
    await writer.create_trace(Trace(trace_id="t", task="again"))
    assert [each.task for each in await reader.list_traces()] == ["again"]
    await writer.close()
    await assert_right(reader, options=options)
    await reader.close()


@pytest.mark.parametrize("place", ["disk", "s3"], indirect=True)
async def test_processes_see_each_other_within_one_call(place: Place) -> None:
    url, options = place
    here = store_at(url, storage_options=options)
    with Process(url, options) as there:
        assert there.does("await listed(store)") == {}
        await here.create_trace(Trace(trace_id="t"))
        await add(here, "t")
        assert there.does("await total(store, 't')") == 1
        there.does("await add(store, 't', 2)")
        assert await total(here, "t") == there.does("await total(store, 't')") == 3
        there.does("await store.create_trace(Trace(trace_id='u'))")
        assert (await listed(here)).keys() == {"t", "u"}
        await here.delete_trace("t")
        assert there.does("await total(store, 't')") is None
        there.does("await store.close()")
        await assert_right(here, options=options)
    await here.close()


async def test_one_of_two_writers_closes_and_the_other_goes_on(place: Place) -> None:
    url, options = place
    one, other, reader = (store_at(url, storage_options=options) for _ in range(3))
    await one.create_trace(Trace(trace_id="t"))
    await add(one, "t")
    await add(other, "t")
    assert await total(reader, "t") == 2
    await one.close()
    await add(other, "t")
    assert await total(reader, "t") == await total(other, "t") == 3
    await other.close()
    assert await total(reader, "t") == 3
    await assert_right(reader, options=options)
    await reader.close()


async def test_what_others_wrote_and_closed_is_in_the_row_of_a_trace_that_is_open_here(place: Place) -> None:
    url, options = place
    here, there = (store_at(url, storage_options=options) for _ in range(2))
    await here.create_trace(Trace(trace_id="t"))
    await add(here, "t")
    assert await total(here, "t") == 1
    await add(here, "t")
    await add(there, "t")
    await there.close()
    assert await total(here, "t") == 3
    await here.close()


async def test_a_goal_set_after_others_closed_does_not_hide_what_they_wrote(place: Place) -> None:
    url, options = place
    here, there = (store_at(url, storage_options=options) for _ in range(2))
    await here.create_trace(Trace(trace_id="t"))
    await here.seal("t")
    await add(there, "t")
    await there.close()
    assert await total(here, "t") == 1
    await here.add_goal("t", traceark.Goal(id="1", description="find it"))
    assert await total(here, "t") == 1
    await here.close()


async def test_creating_a_trace_that_is_there_leaves_its_writer_announced(place: Place) -> None:
    url, options = place
    here, there = (store_at(url, storage_options=options) for _ in range(2))
    await here.create_trace(Trace(trace_id="t"))
    await add(here, "t")

    async def again() -> None:
        with pytest.raises(TraceExistsError):
            await here.create_trace(Trace(trace_id="t"))

    await asyncio.gather(again(), add(here, "t"), again(), add(here, "t"))
    assert await total(there, "t") == 3
    await add(here, "t")
    assert await total(there, "t") == 4
    await here.close()
    await there.close()


@pytest.mark.parametrize("max_open_traces", [1, 128])
async def test_lists_from_many_tasks_and_writes_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_open_traces: int
) -> None:
    monkeypatch.setattr("traceark.pool._HELD_SECONDS", 0.0)
    store, other = (store_at(tmp_path, max_open_traces=max_open_traces) for _ in range(2))

    async def work(name: str) -> None:
        await store.create_trace(Trace(trace_id=name))
        for count in range(1, 4):
            await add(store if count % 2 else other, name)
            assert await total(store, name) == await total(other, name) == count

    await asyncio.gather(*(work(f"t{at}") for at in range(tried(6, 10))))
    await assert_right(store, other)
    await store.close()
    await other.close()


async def test_a_trace_stays_open_until_who_opened_it_had_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.pool._HELD_SECONDS", 0.0)
    store, other = store_at(tmp_path, max_open_traces=1), store_at(tmp_path)
    await store.create_trace(Trace(trace_id="t"))
    pool = store._pool
    await pool.forget("t")
    open_trace, opened = pool._open_trace, 0

    async def opened_and_shed(trace_id: str) -> None:
        nonlocal opened
        await open_trace(trace_id)
        opened += 1
        if opened == 1:
            pool._limit = 0
            await pool._shed()
            pool._limit = 1

    monkeypatch.setattr(pool, "_open_trace", opened_and_shed)
    await add(store, "t")
    assert (await total(store, "t"), await total(other, "t"), opened) == (1, 1, 1)
    await store.close()
    await other.close()


def test_the_blocking_facade_lists_from_many_threads(tmp_path: Path) -> None:
    with traceark.open(tmp_path) as archive:

        async def work(name: str) -> int:
            await asyncio.to_thread(archive.create_trace, Trace(trace_id=name))
            return len(await asyncio.to_thread(archive.list_traces))

        async def run() -> list[int]:
            return await asyncio.gather(*(work(f"t{at}") for at in range(8)))

        assert max(asyncio.run(run())) == 8
        assert len(archive.list_traces()) == 8


# Hands, on a local disk


async def test_folders_copied_in_renamed_and_deleted_are_noticed_at_once(tmp_path: Path) -> None:
    await made(tmp_path / "a", "one", "two")
    await made(tmp_path / "b", "three")
    traces = tmp_path / "a" / TRACES
    store = store_at(tmp_path / "a")
    assert (await listed(store)).keys() == {"one", "two"}
    shutil.copytree(tmp_path / "b" / TRACES / "three", traces / "three")
    assert (await assert_right(store)).keys() == {"one", "two", "three"}
    shutil.rmtree(traces / "one")
    assert (await assert_right(store)).keys() == {"two", "three"}
    (traces / "two").rename(tmp_path / "two")
    assert (await assert_right(store)).keys() == {"three"}
    (tmp_path / "two").rename(traces / "two")
    assert (await assert_right(store)).keys() == {"two", "three"}
    # A name that is not the header's: reported, not listed.
    (traces / "two").rename(traces / "four")
    with pytest.warns(DamagedTraceWarning, match="has another name"):
        assert (await listed(store)).keys() == {"three"}
    (traces / "four").rename(traces / "Four")
    for each in (store, store_at(tmp_path / "a")):
        with pytest.warns(DamagedTraceWarning, match="no trace key"):
            assert (await listed(each)).keys() == {"three"}
    await store.close()


async def test_a_copy_that_is_still_going_on_is_followed(tmp_path: Path) -> None:
    """The header comes first, the messages later, file by file."""
    source = store_at(tmp_path / "b")
    await source.create_trace(Trace(trace_id="t"))
    await add(source, "t", 2)
    await source.flush()
    before = {path.name: path.read_bytes() for path in (tmp_path / "b" / TRACES / "t").glob("trace.json")}
    await add(source, "t", 3)
    await made(tmp_path / "a", "one")
    store, other = store_at(tmp_path / "a"), store_at(tmp_path / "a")
    target = tmp_path / "a" / TRACES / "t"
    await listed(store)
    await listed(other)
    target.mkdir()
    assert (await listed(store)).keys() == {"one"}
    (target / "trace.json").write_bytes(before["trace.json"])
    with pytest.warns(DamagedTraceWarning, match="missing"):
        assert (await listed(store)).keys() == {"one"}
    [segment] = (tmp_path / "b" / TRACES / "t" / "messages").iterdir()
    (target / "messages").mkdir()
    lines = segment.read_bytes().splitlines(keepends=True)
    for count in range(2, 6):
        (target / "messages" / segment.name).write_bytes(b"".join(lines[:count]))
        assert await total(store, "t") == await total(other, "t") == count
    await assert_right(store, other)
    for each in (source, store, other):
        await each.close()


async def test_a_trace_removed_by_hand_and_made_anew_by_a_store_is_the_new_one(tmp_path: Path) -> None:
    writer, reader = store_at(tmp_path), store_at(tmp_path)
    await made(tmp_path, "t", messages=5)
    assert await total(reader, "t") == 5
    shutil.rmtree(tmp_path / TRACES / "t")
    await writer.create_trace(Trace(trace_id="t", task="new"))
    await writer.close()
    assert await total(reader, "t") == 0
    await assert_right(reader)
    await reader.close()


@pytest.mark.parametrize("seen", ["while it is added", "afterwards"])
async def test_a_run_that_was_deleted_and_is_added_again_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """It is the very same incarnation then, of which the catalog remembers that it was deleted."""
    run = Trace(trace_id="t", status="completed", created_at=datetime(2026, 1, 2, tzinfo=UTC))
    async with ArchiveStore(tmp_path, durability="os") as one, ArchiveStore(tmp_path, durability="os") as other:
        create_all = lifecycle.create_all

        async def created(*given: Any) -> None:
            await create_all(*given)
            if seen == "while it is added":
                await other.list_traces()

        monkeypatch.setattr(lifecycle, "create_all", created)
        await one.add_trace(run)
        first = await assert_right(one, other)
        for _ in range(2):
            await one.delete_trace("t")
            assert await assert_right(one, other) == {}
            await one.add_trace(run)
            assert await assert_right(one, other) == first
        await one.delete_trace("t")
        await one.add_trace(run)
        await one.delete_trace("t")
        assert await assert_right(other, one) == {}
        await one.add_trace(run)
        await one.refresh()
        assert await assert_right(other, one) == first


def test_who_tells_of_a_deleted_run_again_is_not_taken_at_their_word() -> None:
    row: JsonObject = {"trace_id": "t", "_incarnation": "11111111", "_revision": 1}
    there = Note("settled", "t", closes=("aaaaaaaa-1-1",), row=row)
    gone = Note("gone", "t", closes=("aaaaaaaa-1-2",), incarnation="11111111")
    late = Note("settled", "t", closes=("bbbbbbbb-1-1",), row=row)
    assert is_doubtful(None, [gone, there])
    assert is_doubtful(None, [late, there, gone])
    assert not is_doubtful(None, [there, gone])
    assert is_doubtful(changed(None, [there, gone]), [late])


async def test_contents_replaced_by_hand_show_after_a_refresh_in_other_processes_too(tmp_path: Path) -> None:
    await made(tmp_path / "a", "t", messages=1)
    shutil.copytree(tmp_path / "a" / TRACES / "t", tmp_path / "older")
    async with store_at(tmp_path / "a") as store:
        await add(store, "t", 4)
    await made(tmp_path / "b", "t", messages=7)
    here = store_at(tmp_path / "a")
    target = tmp_path / "a" / TRACES / "t"
    with Process(tmp_path / "a") as there:
        assert await total(here, "t") == there.does("await total(store, 't')") == 5
        for source, expected in ((tmp_path / "older", 1), (tmp_path / "b" / TRACES / "t", 7)):
            shutil.rmtree(target)
            shutil.copytree(source, target)
            report = await here.refresh()
            assert (report.traces, report.read, report.added, report.removed) == (1, 1, 0, 0)
            assert await total(here, "t") == there.does("await total(store, 't')") == expected
            await assert_right(here)
    await here.close()


async def test_contents_replaced_by_hand_under_a_writer_are_listed_as_they_are(tmp_path: Path) -> None:
    store, other = store_at(tmp_path / "a"), store_at(tmp_path / "a")
    await store.create_trace(Trace(trace_id="t"))
    shutil.copytree(tmp_path / "a" / TRACES / "t", tmp_path / "older")
    await add(store, "t", 3)
    assert await total(store, "t") == await total(other, "t") == 3
    shutil.rmtree(tmp_path / "a" / TRACES / "t")
    shutil.copytree(tmp_path / "older", tmp_path / "a" / TRACES / "t")
    await store.refresh()
    await assert_right(store, other)
    await other.close()


# Hands, on an object store


@pytest.mark.parametrize("place", ["memory", "s3"], indirect=True)
async def test_on_an_object_store_hands_are_noticed_by_refresh(place: Place) -> None:
    url, options = place
    here, there = (store_at(url, storage_options=options) for _ in range(2))
    for trace_id in ("t", "u"):
        await here.create_trace(Trace(trace_id=trace_id))
        await add(here, trace_id, 2)
        await here.seal(trace_id)
    storage = storage_for(url, options, "os")
    older = {name: await storage.read(f"{TRACES}/t/{name}") for name in await storage.list(f"{TRACES}/t")}
    await add(here, "t", 2)
    await here.seal("t")
    assert await total(here, "t") == await total(there, "t") == 4
    await storage.delete([f"{TRACES}/u/{name}" for name in await storage.list(f"{TRACES}/u")])
    await storage.delete([f"{TRACES}/t/{name}" for name in await storage.list(f"{TRACES}/t")])
    for name, data in older.items():
        await storage.replace(f"{TRACES}/t/{name}", data)
        await storage.replace(f"{TRACES}/copy/{name}", data.replace(b'"trace_id":"t"', b'"trace_id":"copy"'))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedTraceWarning)
        report = await there.refresh()
        assert (report.added, report.removed) == (1, 1)
        assert await total(here, "t") == await total(there, "t") == 2
        await assert_right(here, there, options=options)
    await here.close()
    await there.close()


# The catalog's own files


def damages(path: Path) -> Iterator[bytes]:
    """Yield what may become of a file: cut at several lengths, and with garbage at several places."""
    content = path.read_bytes()
    for eighth in range(8):
        at = len(content) * eighth // 8
        yield content[:at]
        yield content[:at] + b"garbage" + content[at + 7 :]
    yield content[:-1]
    yield content + b"garbage"


async def with_catalog(place: Path) -> ArchiveStore:
    """Make an archive whose catalog has a snapshot and change files on top; return a store that has it in memory."""
    await made(place, "one", "two")
    async with store_at(place) as store:
        await listed(store)
        await store._pool.catalog.fold()
    await made(place, "three")
    store = store_at(place)
    await listed(store)
    return store


@pytest.mark.parametrize("pattern", ["*.parquet", "changes/*"])
async def test_any_damage_to_a_file_of_the_catalog_changes_no_list(tmp_path: Path, pattern: str) -> None:
    await (await with_catalog(tmp_path / "a")).close()
    expected = await in_directories(LocalStorage(tmp_path / "a"))
    shutil.copytree(tmp_path / "a" / "catalog", tmp_path / "saved")
    for file in sorted((tmp_path / "a" / "catalog").glob(pattern)):
        for number, content in enumerate(some(damages(file), 8)):
            file.write_bytes(content)
            store = store_at(tmp_path / "a")
            assert await listed(store) == expected, (file.name, number)
            await store.close()
            shutil.rmtree(tmp_path / "a" / "catalog")
            shutil.copytree(tmp_path / "saved", tmp_path / "a" / "catalog")


@pytest.mark.parametrize("when", ["before opening", "while open"])
async def test_a_catalog_that_is_deleted_is_made_again(tmp_path: Path, when: str) -> None:
    store = await with_catalog(tmp_path)
    other, writer = store_at(tmp_path), store_at(tmp_path)
    await add(writer, "one")
    await listed(other)
    if when == "before opening":
        await store.close()
        store = store_at(tmp_path)
    await writer.update_trace("one", task="changed")
    shutil.rmtree(tmp_path / "catalog")
    await assert_right(store, other)
    # Who wrote to a trace, and said so in what was deleted, says so again.
    await add(writer, "one", 3)
    assert await total(store, "one") == await total(other, "one") == 6
    await add(writer, "two")
    await writer.delete_trace("three")
    await assert_right(store, other, writer)
    assert any((tmp_path / "catalog").glob("*.parquet"))
    for each in (store, other, writer):
        await each.close()
    await assert_right(store_at(tmp_path))


async def test_a_catalog_made_anew_by_another_process_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """Both are of the first generation, after the first look at everything."""
    await made(tmp_path, "t")
    reader = store_at(tmp_path)
    await listed(reader)
    async with store_at(tmp_path) as writer:
        await add(writer, "t")
    shutil.rmtree(tmp_path / "catalog")
    await listed(store_at(tmp_path))
    assert await total(reader, "t") == 3
    await reader.close()


async def test_a_catalog_from_another_archive_is_ignored(tmp_path: Path) -> None:
    store = await with_catalog(tmp_path / "a")
    await (await with_catalog(tmp_path / "b")).close()
    async with store_at(tmp_path / "b") as other:
        await other.update_trace("one", task="of b")
    shutil.copytree(tmp_path / "b" / "catalog", tmp_path / "a" / "catalog", dirs_exist_ok=True)
    await assert_right(store)
    shutil.rmtree(tmp_path / "a" / "catalog")
    shutil.copytree(tmp_path / "b" / "catalog", tmp_path / "a" / "catalog")
    await assert_right(store)
    await store.close()


async def test_a_catalog_from_a_newer_version_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await with_catalog(tmp_path)
    await store._pool.catalog.fold()
    [file] = (tmp_path / "catalog").glob("*.parquet")
    known = store._pool.catalog._info
    module = importlib.import_module("traceark.catalog.snapshot")
    with monkeypatch.context() as newer:
        newer.setattr(module, "FORMAT_VERSION", 2)
        content = encode_snapshot(SnapshotInfo(known.binding, known.generation), SCHEMA.empty_table().to_reader())
    file.unlink()
    file.write_bytes(content)
    (tmp_path / "catalog" / "something-else.bin").write_bytes(b"of a later version")
    await assert_right(store)
    await store.close()


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("direction", ["into the older", "into the newer"])
async def test_whole_archives_merged_by_copying(tmp_path: Path, direction: str, *, folded: bool) -> None:
    """One is a copy of the other that went on: traces of the same names, catalogs of two places."""
    store = await with_catalog(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with store_at(tmp_path / "b") as copy:
        await listed(copy)
        await add(copy, "one", 3)
        await copy.update_trace("two", task="changed")
        await copy.create_trace(Trace(trace_id="new"))
        if folded:
            await copy._pool.catalog.fold()
    other = store_at(tmp_path / "b")
    await listed(other)
    source, target = ("b", "a") if direction == "into the older" else ("a", "b")
    # The files that were sealed anew replace those of before, as `rsync --delete` does within a directory.
    for trace in (tmp_path / source / TRACES).iterdir():
        shutil.rmtree(tmp_path / target / TRACES / trace.name, ignore_errors=True)
    shutil.copytree(tmp_path / source, tmp_path / target, dirs_exist_ok=True)
    if direction == "into the newer":
        # No catalog came that was not known already: only contents were replaced, under names that were there.
        await other.refresh()
    await assert_right(store)
    await assert_right(other)
    await store.close()
    await other.close()


async def test_a_sealed_copy_is_rolled_up_at_once_and_one_that_lacks_a_file_is_not(tmp_path: Path) -> None:
    store = await with_catalog(tmp_path / "a")
    await store.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("catalog"))
    sealed = sorted(
        each.name for each in (tmp_path / "b" / TRACES).iterdir() if (each / "manifest-sha256.txt").exists()
    )
    assert "one" in sealed and len(sealed) > 1
    part = next((tmp_path / "b" / TRACES / "one").glob("messages/*.parquet"))
    part.rename(tmp_path / "part")
    async with store_at(tmp_path / "b") as copy:
        with pytest.warns(DamagedTraceWarning, match="one"):
            assert (await copy.optimize()).traces == len(sealed) - 1
        (tmp_path / "part").rename(part)
        assert (await copy.optimize()).traces == 1
        await assert_right(copy)


async def test_an_archive_that_is_moved_or_copied(tmp_path: Path) -> None:
    store = await with_catalog(tmp_path / "a")
    await store.close()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = store_at(tmp_path / "b")
    await assert_right(moved)
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    copied = store_at(tmp_path / "c")
    await assert_right(copied)
    await add(copied, "one")
    await add(moved, "one", 2)
    assert (await total(copied, "one"), await total(moved, "one")) == (3, 4)
    await assert_right(copied)
    await assert_right(moved)
    await copied.close()
    await moved.close()


async def test_a_folder_of_traces_without_a_marker(tmp_path: Path) -> None:
    await made(tmp_path / "a", "one", "two")
    shutil.copytree(tmp_path / "a" / TRACES, tmp_path / "b" / TRACES)
    store = store_at(tmp_path / "b")
    assert (await assert_right(store)).keys() == {"one", "two"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {TRACES}
    shutil.rmtree(tmp_path / "b" / TRACES / "one")
    assert (await assert_right(store)).keys() == {"two"}
    async with store_at(tmp_path / "b") as writer:
        await writer.create_trace(Trace(trace_id="three"))
        await add(writer, "two")
        await assert_right(store, writer)
    await assert_right(store)
    await store.close()


class ReadOnly(LocalStorage):
    """A disk on which nothing can be made."""

    async def create(self, key: str, data: bytes) -> str:
        raise StorageError(errno.EROFS, f"{key}: read-only file system")

    def lock(self, key: str) -> Any:
        raise StorageError(errno.EROFS, f"{key}: read-only file system")


@pytest.mark.parametrize("catalog", ["with", "without", "damaged"])
async def test_an_archive_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: str) -> None:
    await (await with_catalog(tmp_path)).close()
    writer = store_at(tmp_path)
    await add(writer, "one")
    if catalog == "without":
        shutil.rmtree(tmp_path / "catalog")
    elif catalog == "damaged":
        for file in (tmp_path / "catalog").glob("*.parquet"):
            file.write_bytes(b"garbage")
    with monkeypatch.context() as patch:
        patch.setattr("traceark.storage.local.LocalStorage", ReadOnly)
        store = store_at(tmp_path)
    assert type(store.storage) is ReadOnly
    for _ in range(2):
        assert await listed(store) == await in_directories(LocalStorage(tmp_path))
        await add(writer, "one")
        await writer.create_trace(Trace(trace_id=uuid4().hex))
        assert await listed(store) == await in_directories(LocalStorage(tmp_path))
        await store.refresh()
    await writer.close()
    assert await listed(store) == await in_directories(LocalStorage(tmp_path))
    await store.close()


# Many processes


async def _fold_and_write(url: str, name: str) -> None:
    """Write, list and fold, all the while that others do."""
    vars(traceark.catalog.catalog)["FOLD_FILES"] = 2
    store = store_at(url)
    for at in range(6):
        trace_id = f"{name}-{at}"
        await store.create_trace(Trace(trace_id=trace_id))
        await add(store, trace_id, 2)
        await add(store, "shared")
        if at % 2:
            await store.update_trace(trace_id, status="completed")
        if at % 3 == 0:
            await store.delete_trace(trace_id)
        assert await total(store, trace_id) == (None if at % 3 == 0 else 2)
        if at % 5 == 4:
            await store.close()
            store = store_at(url)
    await store.close()


async def test_processes_that_fold_at_once_lose_nothing(tmp_path: Path) -> None:
    reader = store_at(tmp_path)
    await reader.create_trace(Trace(trace_id="shared"))
    for number in range(tried(1, 2, 10)):
        writers = [Program(__file__, tmp_path, "fold", f"{number}-{at}") for at in range(3)]
        while any(each.poll() is None for each in writers):
            await listed(reader)
            await asyncio.sleep(0.05)
        assert [each.wait() for each in writers] == [0, 0, 0]
        rows = await assert_right(reader)
        assert len(rows) == (number + 1) * 3 * 4 + 1
        assert await total(reader, "shared") == (number + 1) * 3 * 6
    await reader.close()


@pytest.mark.parametrize("place", ["disk", "s3"], indirect=True)
async def test_a_killed_writer_leaves_its_trace_right(place: Place) -> None:
    url, options = place
    here = store_at(url, storage_options=options)
    with Process(url, options) as there:
        there.does("await store.create_trace(Trace(trace_id='t'))")
        there.does("await add(store, 't', 3)")
        assert await total(here, "t") == 3
        there.does("await add(store, 't')")
    assert await total(here, "t") == 4
    await assert_right(here, options=options)
    async with store_at(url, storage_options=options) as another:
        await add(another, "t")
        assert await total(here, "t") == 5
    await assert_right(here, options=options)
    await here.close()


async def test_refresh_settles_what_a_killed_writer_left_open_and_a_living_one_announces_itself_again(
    tmp_path: Path,
) -> None:
    here = store_at(tmp_path)
    with Process(tmp_path) as living:
        with Process(tmp_path) as killed:
            killed.does("await store.create_trace(Trace(trace_id='t'))")
            killed.does("await add(store, 't', 2)")
        living.does("await store.create_trace(Trace(trace_id='u'))")
        living.does("await add(store, 'u')")
        assert await total(here, "t") == 2
        assert (await here.refresh()).settled == 2
        assert (await here.refresh()).settled == 0
        assert here._pool.catalog._known is not None
        assert here._pool.catalog._known.open.keys() <= {"t", "u"}
        for count in (2, 3):
            living.does("await add(store, 'u')")
            assert await total(here, "u") == count
            await assert_right(here)
    await here.close()


# Faults and callers that go away


class Faulty(LocalStorage):
    """A disk whose readings fail now and then, as told."""

    failing = 0

    def _fails(self) -> None:
        Faulty.failing -= 1
        if Faulty.failing == 0:
            raise StorageError(errno.EIO, "input/output error")

    async def read(self, key: str, start: int = 0) -> bytes:
        self._fails()
        return await super().read(key, start)

    async def list(self, prefix: str) -> Any:
        self._fails()
        return await super().list(prefix)

    async def children(self, prefix: str) -> Any:
        self._fails()
        return await super().children(prefix)


def remove(folder: Path) -> None:
    """Delete a folder by hand, though its writer may just tidy it."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


async def _changes(place: Path) -> tuple[ArchiveStore, list[Callable[[], Awaitable[object]]]]:
    """Return a writer that leaves traces open, and what may happen between two lists."""
    writer = store_at(place)
    await made(place, "one", "two")
    await writer.create_trace(Trace(trace_id="t"))
    await writer.create_trace(Trace(trace_id="u"))

    async def hands() -> None:
        shutil.copytree(place / TRACES / "one", place.parent / "one", dirs_exist_ok=True)
        remove(place / TRACES / "one")

    async def back() -> None:
        shutil.copytree(place.parent / "one", place / TRACES / "one")

    async def deleted() -> None:
        remove(place / "catalog")

    return writer, [
        lambda: add(writer, "t"),
        lambda: asyncio.gather(add(writer, "t"), add(writer, "u")),
        lambda: made(place, uuid4().hex),
        hands,
        back,
        lambda: writer.update_trace("u", status="completed"),
        deleted,
        lambda: add(writer, "t"),
    ]


async def test_a_fault_in_the_middle_of_a_list_is_raised_and_the_next_list_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a"
    writer, changes = await _changes(place)
    with monkeypatch.context() as patch:
        patch.setattr("traceark.storage.local.LocalStorage", Faulty)
        store = store_at(place)
    await listed(store)
    faults = 0
    for change in changes:
        await change()
        for at in range(1, 100):
            Faulty.failing = at
            try:
                await listed(store)
            except StorageError:
                faults += 1
                continue
            finally:
                Faulty.failing = 0
            break
        await assert_right(store)
    assert faults > len(changes)
    await writer.close()
    await assert_right(store)
    await store.close()


async def test_a_caller_that_goes_away_leaves_nothing_half_done(tmp_path: Path) -> None:
    place = tmp_path / "a"
    writer, changes = await _changes(place)
    store = store_at(place)
    await listed(store)
    for change in changes:
        await change()
        for steps in some((0, 1, 2, 3, 5, 8, 13), 3):
            task = asyncio.ensure_future(listed(store))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.gather(listed(store), listed(store))
        await assert_right(store)
    await writer.close()
    await store.close()


# What it costs


async def test_lists_on_s3_cost_no_more_than_two_requests(ministack_server: S3Server) -> None:
    url, options = ministack_server.place(), ministack_server.storage_options
    writer = store_at(url, storage_options=options)
    requests = Requests()
    await requests.listen(writer)
    await listed(writer)
    for at in range(3):
        await writer.create_trace(Trace(trace_id=f"t{at}"))
        await add(writer, f"t{at}")
        assert len(await requests.during(listed(writer))) <= 2
    reader = store_at(url, storage_options=options)
    await listed(reader)
    await writer.close()
    # One for the listing, one for the change file.
    assert len(await requests.during(listed(reader))) == 2
    assert len(await requests.during(listed(reader))) == 1
    # An archive with a catalog is opened without a look at its directories.
    fresh = store_at(url, storage_options=options)
    assert not [each for each in await requests.during(listed(fresh)) if TRACES in each]
    await assert_right(fresh, options=options)
    await reader.close()
    await fresh.close()


async def test_a_process_that_only_writes_does_not_remember_all_that_it_told(memory_url: str) -> None:
    async with store_at(memory_url) as store:
        for at in range(600):
            await store.create_trace(Trace(trace_id=f"t{at}"))
        assert len(store._pool.catalog.notices.files) < 300
        assert len(await listed(store)) == 600


async def test_nothing_is_remembered_of_traces_that_were_closed(tmp_path: Path) -> None:
    reader = store_at(tmp_path)
    for at in range(5):
        await made(tmp_path, f"t{at}")
        await listed(reader)
    await reader.refresh()
    known = reader._pool.catalog._known
    assert known is not None
    assert known.doubted <= known.open.keys()
    assert not reader._pool.catalog.notices.openings
    assert not reader._pool.catalog.notices.files
    await reader.close()


async def test_a_write_that_finds_no_directory_brings_no_trace_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path / "a", max_open_traces=1)
    await store.create_trace(Trace(trace_id="t"))
    await store.seal("t")
    await listed(store)
    (tmp_path / "a" / TRACES / "t").rename(tmp_path / "away")
    assert await listed(store) == {}
    later = time.time() + 100
    with monkeypatch.context() as patch:
        patch.setattr("traceark.catalog.lookup.time.time", lambda: later)
        assert await listed(store) == {}  # whoever was at it has been quiet long enough to be forgotten
    with pytest.raises(TracearkError):
        await store.update_trace("t", status="completed")  # the trace is in this process's memory still
    assert await listed(store) == {}
    await store.close()


if __name__ == "__main__":
    if sys.argv[2] == "fold":
        asyncio.run(_fold_and_write(sys.argv[1], sys.argv[3]))
    else:
        asyncio.run(serve(sys.argv[1], eval(sys.argv[2])))


async def test_a_trace_that_another_process_sealed_is_sealed_in_the_row_of_one_that_has_it_open(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as one, ArchiveStore(tmp_path) as other:
        await one.create_trace(Trace(trace_id="t"))
        await one.append_event("t", "said")
        await other.seal("t")
        found = await one._pool._live("t", alone=False)
        assert found is not None and found[1].is_sealed()
        await other.append_event("t", "more")
        again = await one._pool._live("t", alone=False)
        assert again is not None and not again[1].is_sealed() and again[0] != found[0]
