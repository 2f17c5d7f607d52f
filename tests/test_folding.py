"""Small objects of a live trace on an object store are folded into parts as they pile up, and nothing else changes."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import SEED, some, tried
from servers import S3Server
from traceark import folding, plan
from traceark.codec.parquet import PartInfo, Run
from traceark.errors import StorageError, UnfoldedWarning
from traceark.layout import PartName, SegmentName, parse_log_name
from traceark.models import Message, Trace
from traceark.plan import Source, droppable, plan_fold, plan_log
from traceark.storage.base import Entry, KeyExistsError, Storage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import sync

Answer = TypeVar("Answer")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
FEW = 3


@pytest.fixture
def name() -> Iterator[str]:
    """The name of an archive in memory."""
    name = secrets.token_hex(8)
    yield name
    MemoryStorage.forget(name)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold as soon as there are more than a few objects, and a few parts into one."""
    monkeypatch.setattr(folding, "OBJECTS", FEW)
    monkeypatch.setattr(plan, "_FAN", FEW)


def on(storage: Storage) -> ArchiveStore:
    """Return a store on a storage that is made already."""
    store = ArchiveStore(storage.url)
    store.storage = store._pool.storage = storage
    return store


def message(content: Any) -> Message:
    return Message(trace_id="t", role="user", content=content, tokens=1, created_at=NOW)


async def add(store: ArchiveStore, contents: Iterable[Any]) -> None:
    for content in contents:
        await store.add_message(message(content))


async def said(store: ArchiveStore) -> list[Any]:
    """Return what a trace holds, and see that ids and sequences are dense."""
    messages = await store.get_trace_messages("t")
    assert [each.sequence for each in messages] == list(range(1, len(messages) + 1))
    assert [each.message_id for each in messages] == [f"t-{at:04d}" for at in range(1, len(messages) + 1)]
    return [each.content for each in messages]


async def settled(store: ArchiveStore) -> None:
    """Wait for a round of folding that is under way."""
    trace = store._pool.get("t")
    assert trace is not None
    await trace._writer.settle()


async def objects(storage: Storage, log: str = "messages") -> list[SegmentName | PartName]:
    found = [parse_log_name(each) for each in await storage.list(f"traces/t/{log}")]
    return [each for each in found if each is not None]


async def has_object(storage: Storage, first: int) -> bool:
    return any(isinstance(each, SegmentName) and each.first == first for each in await objects(storage))


class Counting(MemoryStorage):
    """Counts what a trace shows at most; gives way in every call, as a distant server does."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.most = 0
        self.calls: Counter[str] = Counter()

    async def _called(self, what: str) -> None:
        self.calls[what] += 1
        await asyncio.sleep(0)

    async def list(self, prefix: str) -> dict[str, Entry]:
        await self._called("list")
        return await super().list(prefix)

    async def read(self, key: str, start: int = 0) -> bytes:
        await self._called("read")
        return await super().read(key, start)

    async def create(self, key: str, data: bytes) -> str:
        await self._called("create")
        version = await super().create(key, data)
        self.most = max(self.most, len(await super().list("traces/t")))
        return version

    async def delete(self, keys: Iterable[str]) -> None:
        await self._called("delete")
        await super().delete(keys)


# Which offsets to fold


@settings(max_examples=tried(100, 1000), deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=600), st.integers(1, 6))
def test_parts_of_a_level_stay_few_and_a_record_is_rewritten_once_per_level(sizes: list[int], limit: int) -> None:
    parts: list[Source] = []
    segments: list[Source] = []
    rewritten: Counter[int] = Counter()
    end = 0
    for size in sizes:
        segments.append(Source(f"{end + 1}.jsonl", end + 1, None))
        end += size
        span = plan_fold([*parts, *segments], {part.name: 1 for part in parts}, None, limit)
        if span is None:
            assert len(segments) <= limit
            continue
        assert (span.last, len(segments)) == (segments[-1].first - 1, limit + 1)
        kept = [part for part in parts if part.first < span.first]
        assert span.first == (kept[-1].last or 0) + 1 if kept else span.first == 1
        rewritten.update(range(span.first, span.last + 1))
        parts = [*kept, Source(f"{span.first}-{span.last}.parquet", span.first, span.last)]
        segments = segments[-1:]
    levels = 1
    while limit * 8**levels <= end:
        levels += 1
    assert len(parts) <= 7 * levels
    assert max(rewritten.values(), default=0) <= levels


def test_large_parts_and_a_part_without_updates_are_never_taken_in() -> None:
    parts = [Source(f"{at}.parquet", 2 * at + 1, 2 * at + 2) for at in range(9)]
    segments = [Source("19.jsonl", 19, None), Source("20.jsonl", 20, None), Source("21.jsonl", 21, None)]
    small = {part.name: 1 for part in parts}
    taken = plan_fold([*parts, *segments], small, None, 2)
    assert taken is not None
    assert taken.first == 1
    for left in (
        plan_fold([*parts, *segments], {**small, "8.parquet": 1 << 30}, None, 2),
        plan_fold([*parts, *segments], small, "8.parquet", 2),
    ):
        assert left is not None
        assert (left.first, left.last) == (19, 20)


def part(first: int, *runs: Run) -> tuple[str, PartInfo]:
    last = runs[-1].last
    return str(PartName(first, last, "0" * 8, "0" * 8)), PartInfo("messages", "t", "0" * 8, first, last, False, runs)


@pytest.mark.parametrize(
    ("own", "end", "gone"),
    [
        # The first object, and the one behind each other writer's last record, stay in its way.
        ("cccccccc", 9, [2, 3, 5, 6, 7, 8]),
        ("aaaaaaaa", 9, [2, 3, 4, 5, 6, 7, 8]),
        ("bbbbbbbb", 9, [2, 3, 5, 6, 7, 8, 9]),
        # What the writer that folds does not know of yet stays in its own way.
        ("aaaaaaaa", 3, [2, 3]),
    ],
)
def test_objects_that_a_late_writer_may_try_to_create_stay(own: str, end: int, gone: list[int]) -> None:
    known = dict([part(1, Run(1, "aaaaaaaa", 3), Run(4, "bbbbbbbb", 5), Run(9, "cccccccc", 1))])
    names = [str(SegmentName(first, "0" * 8)) for first in range(1, 11)]
    read = plan_log("", [*names, *known], "0" * 8, known)
    found = droppable(read, known.values(), own, end, ())
    assert [int(each[:12]) for each in found] == gone
    assert len(droppable(read, known.values(), own, end, names)) == 9


# A long run


async def test_a_long_run_shows_about_a_hundred_objects_at_most(name: str) -> None:
    storage = Counting(name)
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    count = tried(700, 10_000)
    await add(store, range(count))
    assert folding.OBJECTS < storage.most <= 100
    assert count < storage.calls["create"] < 1.05 * count
    assert 0 < storage.calls["list"] + storage.calls["read"] < 0.2 * count
    assert await said(store) == await said(ArchiveStore(storage.url)) == list(range(count))
    await store.close()
    assert await ArchiveStore(storage.url).verify(deep=True) == []


async def test_events_are_folded_too(name: str, few: None) -> None:
    store = on(Counting(name))
    await store.create_trace(Trace(trace_id="t"))
    for at in range(200):
        await store.append_event("t", "step", at)
    await settled(store)
    assert FEW <= len(await objects(store.storage, "events")) < 40
    assert [event.payload for event in await ArchiveStore(store.url).get_events("t")] == list(range(200))
    await store.close()


async def test_a_header_that_is_published_while_objects_are_folded_is_exact(name: str, few: None) -> None:
    storage = Counting(name)
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(50))
    await settled(store)
    await store.flush()
    storage.calls.clear()
    reader = on(storage)
    trace = await reader.get_trace("t")
    assert trace is not None
    assert trace.total_messages == 50
    assert storage.calls["read"] in (1, 2)
    await store.close()


async def test_on_a_local_disk_a_live_trace_has_no_parts(tmp_path: Path, few: None) -> None:
    store = ArchiveStore(tmp_path, durability="os")
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(50))
    assert [each.suffix for each in (tmp_path / "traces/t/messages").iterdir()] == [".jsonl"]
    await store.close()


async def test_sealed_it_is_the_same_bytes_as_without_folding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def sealed_parts(url: str, limit: int) -> dict[str, bytes]:
        tokens = (f"{number:08x}" for number in itertools.count())
        with monkeypatch.context() as patch:
            patch.setattr(folding, "OBJECTS", limit)
            patch.setattr(secrets, "token_hex", lambda _: next(tokens))
            store = ArchiveStore(url)
            await store.create_trace(Trace(trace_id="t", created_at=NOW))
            for at in range(120):
                added = await store.add_message(message({"b": at, "a": [None, 1.0, "é\ud800"]}))
                if at % 9 == 0:
                    await store.update_message(added, trace_id="t", status="changed", description=None)
            folds = await store.storage.list("traces/t/messages")
            assert any(each.endswith(".parquet") for each in folds) == (limit < 100)
            await store.seal("t")
            lines = (await store.storage.read("traces/t/manifest-sha256.txt")).decode().splitlines()
            listed = {line.split("  ", 1)[1] for line in lines}
            assert len(listed) == 2
            await store.close()
            return {each: await store.storage.read(f"traces/t/{each}") for each in listed if each != "trace.json"}

    assert await sealed_parts(f"memory://{name}", FEW) == await sealed_parts(f"memory://{name}-plain", 1000)
    MemoryStorage.forget(f"{name}-plain")


# Several writers


async def write_together(stores: list[ArchiveStore], each: int) -> None:
    """Let three tasks of each store write to one trace, read it through the stores, and see that all is there."""

    async def write(store: ArchiveStore, who: str) -> None:
        for at in range(each):
            await store.add_message(message([who, at]))
            if at % 10 == 0:
                await store.append_event("t", who, at)

    async def read(store: ArchiveStore) -> None:
        seen = 0
        while not writing.done():
            contents = await said(store)
            assert len(contents) >= seen
            for who in {who for who, _ in contents}:
                assert [at for by, at in contents if by == who] == list(range(sum(by == who for by, _ in contents)))
            seen = len(contents)
            await asyncio.sleep(0.001)

    await stores[0].create_trace(Trace(trace_id="t"))
    names = {f"{at}{task}": store for at, store in enumerate(stores[:-1]) for task in "abc"}
    writing = asyncio.gather(*(write(store, who) for who, store in names.items()))
    await asyncio.gather(writing, read(stores[-1]), read(stores[0]))
    for store in stores:
        contents = await said(store)
        assert Counter(who for who, _ in contents) == dict.fromkeys(names, each)
        assert [event.event_id for event in await store.get_events("t")] == list(
            range(1, 1 + len(names) * -(-each // 10))
        )
    assert await stores[-1].verify(deep=True) == []
    for store in stores:
        await store.close()


async def test_stores_that_write_together_in_memory_lose_nothing(name: str, few: None) -> None:
    await write_together([on(Counting(name)) for _ in range(4)], tried(20, 90, 400))
    assert any(isinstance(each, PartName) for each in await objects(MemoryStorage(name)))


async def test_stores_that_write_together_on_s3_lose_nothing(ministack_server: S3Server, few: None) -> None:
    url, options = ministack_server.place(), ministack_server.storage_options
    stores = [ArchiveStore(url, storage_options=options) for _ in range(3)]
    await write_together(stores, tried(8, 80, 200))


async def test_a_writer_that_only_read_the_end_learns_that_its_offset_was_folded(name: str, few: None) -> None:
    ahead, behind = ArchiveStore(f"memory://{name}"), ArchiveStore(f"memory://{name}")
    await ahead.create_trace(Trace(trace_id="t"))
    await add(ahead, range(6))
    await add(behind, [6])
    await add(ahead, [7])
    async with (await behind._pool.opened("t")).reading():
        pass  # now it knows the end, which is not its own
    await add(ahead, range(8, 40))
    await settled(ahead)
    assert not await has_object(behind.storage, 9), "nothing stands in the way of the creation at the old end"
    await add(behind, [40])
    assert await said(behind) == await said(ahead) == list(range(41))
    await ahead.close()
    await behind.close()


async def test_a_writer_that_wrote_the_end_finds_its_offset_taken(name: str, few: None) -> None:
    ahead, behind = ArchiveStore(f"memory://{name}"), ArchiveStore(f"memory://{name}")
    await ahead.create_trace(Trace(trace_id="t"))
    await add(ahead, range(6))
    await add(behind, [6])
    await add(ahead, range(7, 40))
    await settled(ahead)
    kept = [each.first for each in await objects(behind.storage) if isinstance(each, SegmentName) and each.first < 30]
    assert kept == [1, 8], "the object behind the other writer's last record stays, and the first"
    await add(behind, [40])
    assert await said(behind) == await said(ahead) == list(range(41))
    await ahead.close()
    await behind.close()


class Lossy(MemoryStorage):
    """Creates the first message's object that comes after `losing` is set, lets others act, and loses the answer."""

    losing: Callable[[], Awaitable[None]] | None = None
    error: Exception
    reads_fail = False

    async def create(self, key: str, data: bytes) -> str:
        version = await super().create(key, data)
        if self.losing is not None and key.endswith(".jsonl"):
            act, self.losing = self.losing, None
            await act()
            raise self.error
        return version

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        if self.reads_fail and key.endswith(".jsonl"):
            raise StorageError(5, "the network is down")
        return await super().read_versioned(key)


@pytest.mark.parametrize("error", [KeyExistsError("a retry met its own object"), StorageError(5, "timed out")])
async def test_an_object_that_was_folded_before_its_answer_was_missed_counts_once(
    name: str, few: None, error: Exception
) -> None:
    storage, other = Lossy(name), ArchiveStore(f"memory://{name}")
    storage.error = error
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(3))

    async def fold() -> None:
        await add(other, range(4, 30))
        await settled(other)
        assert not await has_object(storage, 4)

    storage.losing = fold
    await add(store, [3])
    assert await said(store) == list(range(30))
    await add(store, [30])
    assert await said(other) == list(range(31))
    await store.close()
    await other.close()


async def test_what_came_of_an_unanswered_creation_is_not_taken_for_the_next(name: str, few: None) -> None:
    storage, other = Lossy(name), ArchiveStore(f"memory://{name}")
    storage.error = StorageError(5, "timed out")
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(3))

    async def break_off() -> None:
        storage.reads_fail = True

    storage.losing = break_off
    with pytest.raises(StorageError, match="network is down"):
        await add(store, ["unknown"])
    storage.reads_fail = False
    await add(other, range(5, 30))
    await settled(other)

    async def nothing() -> None:
        pass

    assert not await has_object(storage, 4)
    storage.losing = nothing  # and the answer to the next one is lost, too
    await add(store, ["known"])
    assert await said(store) == [0, 1, 2, "unknown", *range(5, 30), "known"]
    await store.close()
    await other.close()


class Unsteady(MemoryStorage):
    """Takes any time for a call, and loses some answers, by the numbers of a seed."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self._random = random.Random(seed)

    async def _dawdle(self) -> None:
        for _ in range(self._random.choice([0, 1, 1, 2, 3, 40])):
            await asyncio.sleep(0)

    async def _lose(self, key: str) -> None:
        await self._dawdle()
        if key.endswith(".jsonl") and self._random.random() < 0.1:
            raise StorageError(5, "timed out")

    async def list(self, prefix: str) -> dict[str, Entry]:
        await self._dawdle()
        found = await super().list(prefix)
        await self._dawdle()
        return found

    async def read(self, key: str, start: int = 0) -> bytes:
        await self._dawdle()
        return await super().read(key, start)

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        await self._dawdle()
        found = await super().read_versioned(key)
        await self._lose(key)
        return found

    async def create(self, key: str, data: bytes) -> str:
        await self._dawdle()
        try:
            version = await super().create(key, data)
            await self._lose(key)
        except StorageError:
            if self._random.random() < 0.5:
                raise
            # Tried again by the client itself.
            await self._dawdle()
            version = await super().create(key, data)
        return version

    async def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self._dawdle()
            await super().delete([key])


@pytest.mark.parametrize("seed", range(SEED, SEED + tried(3, 50, 100)))
async def test_whatever_answers_are_lost_what_was_acknowledged_is_there_once(name: str, few: None, seed: int) -> None:
    stores = [on(Unsteady(name, 3 * seed + at)) for at in range(3)]
    reader = ArchiveStore(f"memory://{name}")
    await reader.create_trace(Trace(trace_id="t"))
    acknowledged: dict[str, list[int]] = {}

    async def write(store: ArchiveStore, who: str) -> None:
        known = acknowledged[who] = []
        for at in range(30):
            try:
                await store.add_message(message([who, at]))
            except StorageError:
                continue  # it may be there, or not
            known.append(at)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfoldedWarning)
        await asyncio.gather(*(write(store, f"{at}{task}") for at, store in enumerate(stores) for task in "ab"))
        for store in stores:
            await settled(store)
    assert sum(map(len, acknowledged.values())) > 120
    contents = await said(reader)
    for who, known in acknowledged.items():
        found = [at for by, at in contents if by == who]
        assert [at for at in found if at in known] == known
        assert len(set(found)) == len(found)
    assert await reader.verify(deep=True) == []


# Readers, faults, copies


class Slow(MemoryStorage):
    """Lets others act between a listing of the trace and what follows, once."""

    act: Callable[[], Awaitable[None]] | None = None

    async def list(self, prefix: str) -> dict[str, Entry]:
        found = await super().list(prefix)
        if self.act is not None and prefix == "traces/t":
            act, self.act = self.act, None
            await act()
        return found


async def test_a_reader_whose_files_were_folded_after_it_listed_them_lists_again(name: str, few: None) -> None:
    storage, store = Slow(name), ArchiveStore(f"memory://{name}")
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(10))

    async def fold() -> None:
        before = set(await storage.list("traces/t"))
        await add(store, range(10, 40))
        await settled(store)
        assert before - set(await storage.list("traces/t"))

    storage.act = fold
    assert await said(on(storage)) == list(range(40))
    await store.close()


async def test_a_trace_that_was_sealed_by_another_stays_sealed(name: str, few: None) -> None:
    storage, other = Slow(name), ArchiveStore(f"memory://{name}")
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    await add(store, range(FEW))
    await settled(store)

    async def seal() -> None:
        await other.seal("t")

    trace = await store._pool.opened("t")
    async with trace.exclusive():
        pass  # what it knows is young
    storage.act = seal  # as soon as the round that begins has listed the trace
    await add(store, [FEW])
    await settled(store)
    assert storage.act is None
    assert await other.verify(deep=True) == []
    assert not [each for each in await objects(storage) if isinstance(each, PartName) and each.last == FEW]
    await store.close()


class Refusing(MemoryStorage):
    """Takes everything but parts."""

    refuses = True

    async def create(self, key: str, data: bytes) -> str:
        if self.refuses and key.endswith(".parquet"):
            raise StorageError(13, "access denied")
        return await super().create(key, data)


async def test_what_cannot_be_folded_stays_and_is_said_and_tried_again(name: str, few: None) -> None:
    storage = Refusing(name)
    store = on(storage)
    await store.create_trace(Trace(trace_id="t"))
    with pytest.warns(UnfoldedWarning, match="access denied"):
        await add(store, range(FEW + 1))
        await settled(store)
    storage.refuses = False
    await add(store, range(FEW + 1, 3 * FEW + 2))
    await settled(store)
    assert any(isinstance(each, PartName) for each in await objects(storage))
    assert await said(store) == list(range(3 * FEW + 2))
    await store.close()


class Mortal(MemoryStorage):
    """Dies at a call, before it has an effect or after; from then on nothing answers."""

    def __init__(self, name: str, calls: int, after: bool) -> None:
        super().__init__(name)
        self.dead = asyncio.Event()
        self._left, self._after = calls, after

    async def _do(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            call.close()
            await self._die()
        answer = await call
        if self._left == 0:
            await self._die()
        return answer

    async def _die(self) -> NoReturn:
        self.dead.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def read(self, key: str, start: int = 0) -> bytes:
        return await self._do(super().read(key, start))

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        return await self._do(super().read_versioned(key))

    async def list(self, prefix: str) -> dict[str, Entry]:
        return await self._do(super().list(prefix))

    async def create(self, key: str, data: bytes) -> str:
        return await self._do(super().create(key, data))

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        return await self._do(super().replace(key, data, version))

    async def delete(self, keys: Iterable[str]) -> None:
        await self._do(super().delete(keys))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_call_it_leaves_a_trace_that_reads_the_same(name: str, few: None, after: bool) -> None:
    async def write(at: str, calls: int) -> tuple[list[int], bool]:
        storage = Mortal(at, calls, after)
        store = on(storage)
        acknowledged: list[int] = []

        async def write_all() -> None:
            await store.create_trace(Trace(trace_id="t"))
            for content in range(9 * FEW):
                await store.add_message(message(content))
                acknowledged.append(content)
                await settled(store)

        tasks = [asyncio.ensure_future(write_all()), asyncio.ensure_future(storage.dead.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return acknowledged, storage.dead.is_set()

    async def look(at: str, acknowledged: list[int]) -> None:
        store = ArchiveStore(f"memory://{at}")
        if await store.get_trace("t") is None:
            assert acknowledged == []
            return
        found = await said(store)
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1
        await add(store, ["next"] * 2 * FEW)
        assert await said(store) == [*found, *["next"] * 2 * FEW]
        await store.seal("t")
        assert await said(ArchiveStore(store.url)) == [*found, *["next"] * 2 * FEW]
        assert await ArchiveStore(store.url).verify(deep=True) == []
        await store.close()

    folded = merged = False
    for calls in itertools.count(1 + after, tried(13, 1)):
        at = f"{name}-{calls}"
        acknowledged, killed = asyncio.run(write(at, calls))
        parts = [each for each in asyncio.run(objects(MemoryStorage(at))) if isinstance(each, PartName)]
        folded = folded or parts != []
        merged = merged or any(each.last - each.first > 2 * FEW for each in parts)
        asyncio.run(look(at, acknowledged))
        MemoryStorage.forget(at)
        if not killed:
            break
    assert folded
    assert merged
    assert calls > 60


async def test_a_sync_beside_a_writer_copies_a_true_state_each_time(name: str, few: None, tmp_path: Path) -> None:
    written = asyncio.Event()

    async def write() -> None:
        store = on(Counting(name))
        await store.create_trace(Trace(trace_id="t"))
        await add(store, range(tried(100, 1000)))
        await store.close()
        written.set()

    writing = asyncio.create_task(write())
    rounds = 0
    while True:
        last = written.is_set()
        async with ArchiveStore(f"memory://{name}") as here, ArchiveStore(tmp_path / "there") as there:
            if await here.get_trace("t") is not None:
                report = await sync(here, there)
                assert report.is_clean, report
                found = await said(there)
                assert found == list(range(len(found)))
                rounds += 1
        if last:
            break
        await asyncio.sleep(0.001)
    await writing
    assert rounds > 1
    assert len(found) == tried(100, 1000)


@pytest.mark.parametrize("seed", some(range(3), 1))
def test_a_trace_synced_again_and_again_shows_few_objects_at_the_target_too(name: str, few: None, seed: int) -> None:
    choose = random.Random(seed)

    async def story() -> None:
        source, target = ArchiveStore(f"memory://{name}"), ArchiveStore(f"memory://{name}-target")
        await source.create_trace(Trace(trace_id="t"))
        at = most = 0
        while at < 120:
            for _ in range(choose.randrange(1, 8)):
                await source.add_message(message(at))
                at += 1
            await settled(source)
            assert (await sync(source, target)).is_clean
            assert await said(ArchiveStore(target.url)) == list(range(at))
            most = max(most, len(await objects(target.storage)))
        # All of them, if nothing was deleted.
        assert most < 40
        assert await has_object(target.storage, 1)
        assert await target.verify(deep=True) == []
        # Whoever wrote at the target, at any time, and writes on, is not in the way of anything and loses nothing.
        await target.add_message(message("on"))
        assert await said(target) == [*range(at), "on"]
        await source.close()
        await target.close()

    asyncio.run(story())
    MemoryStorage.forget(f"{name}-target")


def test_a_late_writer_at_the_target_of_a_sync_finds_its_offset_taken(name: str, few: None) -> None:
    async def story() -> None:
        here, there = ArchiveStore(f"memory://{name}"), ArchiveStore(f"memory://{name}-target")
        await here.create_trace(Trace(trace_id="t"))
        await add(here, range(3))
        await sync(here, there)
        await add(there, ["theirs"])
        # Back, and on: the writer at the target wrote last at offset 4 and knows of nothing behind it.
        await sync(there, here)
        here = ArchiveStore(here.url)
        for at in range(8):
            await add(here, [f"more {at}"])
            await settled(here)
            await sync(here, there)
        assert await has_object(there.storage, 5), "it stays in the late writer's way"
        await add(there, ["late"])
        assert await said(there) == [0, 1, 2, "theirs", *(f"more {at}" for at in range(8)), "late"]
        assert await there.verify(deep=True) == []

    asyncio.run(story())
    MemoryStorage.forget(f"{name}-target")
