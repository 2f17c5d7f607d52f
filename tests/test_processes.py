"""Several writers on one trace: processes on a local disk, stores everywhere.

Run as a program, this file forks the processes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from profiles import tried
from program import Program
from servers import S3Server
from traceark.compact import seal
from traceark.folding import build_part
from traceark.layout import trace_prefix
from traceark.live import OpenTrace
from traceark.models import Goal, Message, Trace
from traceark.reading import StoredTrace
from traceark.storage.base import Durability, Entry
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

PROCESSES = 8
EACH = tried(12, 25)


async def append(store: ArchiveStore, name: str, *, compacting: bool = False) -> None:
    """Append messages and events, one call after the other and some at once; raise on ids given twice."""
    for at in range(EACH - 5):
        await store.add_message(message(name, at))
        await store.append_event("t", name, at)
        if compacting and at % 6 == 0:
            await store.compact("t")
        if compacting and at % 9 == 0:
            await store.seal("t")
    last = range(EACH - 5, EACH)
    ids = await asyncio.gather(*(store.add_message(message(name, at)) for at in last))
    assert len(set(ids)) == 5
    await asyncio.gather(*(store.append_event("t", name, at) for at in last))


def message(name: str, at: int) -> Message:
    return Message(trace_id="t", role="user", content=[name, at], goal_id="1", tokens=2, cost=0.1, duration_ms=3)


async def check(store: ArchiveStore, names: set[str]) -> None:
    """Assert that every writer's records are there once, in its order, ids and sequences dense."""
    total = EACH * len(names)
    messages, events = await store.get_trace_messages("t"), await store.get_events("t")
    assert [each.sequence for each in messages] == list(range(1, total + 1))
    assert [each.message_id for each in messages] == [f"t-{at:04d}" for at in range(1, total + 1)]
    assert [each.event_id for each in events] == list(range(1, total + 1))
    for name in names:
        assert sorted(each.content[1] for each in messages if each.content[0] == name) == list(range(EACH))
        in_order = [each.content[1] for each in messages if each.content[0] == name][: EACH - 5]
        assert in_order == list(range(EACH - 5))
        assert sorted(each.payload for each in events if each.event_type == name) == list(range(EACH))
    trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
    assert trace is not None
    assert tree is not None
    assert (trace.total_messages, trace.total_tokens, trace.total_duration_ms) == (total, 2 * total, 3 * total)
    assert trace.total_cost == tree.goals[0].cumulative_stats.total_cost == total / 10
    assert tree.goals[0].self_stats.message_count == total
    assert await store.verify(deep=True) == []


async def create(store: ArchiveStore) -> None:
    await store.create_trace(Trace(trace_id="t"))
    await store.add_goal("t", Goal(id="1"))


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_eight_processes_append_to_one_trace(tmp_path: Path, durability: Durability) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path, durability=durability)
        await create(store)
        processes = Program(__file__, tmp_path, durability)
        await append(store, "here")
        assert await asyncio.to_thread(processes.wait) == 0
        names = {"here", *map(str, range(PROCESSES))}
        await check(store, names)
        await store.seal("t")
        await check(ArchiveStore(tmp_path), names)
        await store.close()

    asyncio.run(run())


async def two_stores(url: str, options: Mapping[str, Any], *, compacting: bool = False) -> None:
    """Let two stores of this process append to one trace at the same time."""
    first, second = (ArchiveStore(url, storage_options=options) for _ in range(2))
    await create(first)
    await asyncio.gather(append(first, "first"), append(second, "second", compacting=compacting))
    names = {"first", "second"}
    for store in (first, second, ArchiveStore(url, storage_options=options)):
        await check(store, names)
    await second.seal("t")
    await check(first, names)
    await first.close()
    await second.close()


@pytest.fixture
def memory_url() -> Iterator[str]:
    name = uuid4().hex
    yield f"memory://{name}"
    MemoryStorage.forget(name)


compacting = pytest.mark.parametrize("compacting", [False, True])


@compacting
def test_two_stores_append_to_one_trace_on_disk(tmp_path: Path, compacting: bool) -> None:
    asyncio.run(two_stores(str(tmp_path), {}, compacting=compacting))


@compacting
def test_two_stores_append_to_one_trace_in_memory(memory_url: str, compacting: bool) -> None:
    asyncio.run(two_stores(memory_url, {}, compacting=compacting))


def test_two_stores_append_to_one_trace_on_s3(ministack_server: S3Server) -> None:
    asyncio.run(two_stores(ministack_server.place(), ministack_server.storage_options, compacting=True))


async def write(url: str, durability: Durability, name: str) -> None:
    async with ArchiveStore(url, durability=durability) as store:
        await append(store, name)


def main(url: str, durability: Durability) -> int:
    """Fork the writers, so that all of them start at once; return 0 if all ended well."""
    children: list[int] = []
    for at in range(PROCESSES):
        child = os.fork()
        if child == 0:
            asyncio.run(write(url, durability, str(at)))
            os._exit(0)
        children.append(child)
    return max(os.waitpid(child, 0)[1] for child in children) and 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], cast("Durability", sys.argv[2])))


def test_an_empty_segment_that_another_went_past_is_never_appended_to(tmp_path: Path) -> None:
    async def run() -> None:
        for attempt in range(8):
            place = tmp_path / str(attempt)
            first, second = (ArchiveStore(place, durability="os") for _ in range(2))
            await first.create_trace(Trace(trace_id="t"))
            await first.add_message(Message(trace_id="t", role="user", content=1))
            await first.compact("t")
            for content, store in ((2, second), (3, first), (4, second), (5, first)):
                await store.add_message(Message(trace_id="t", role="user", content=content))
            for reader in (first, second, ArchiveStore(place)):
                assert [each.content for each in await reader.get_trace_messages("t")] == [1, 2, 3, 4, 5]
            assert await first.verify(deep=True) == []

    asyncio.run(run())


async def test_what_is_appended_to_the_other_one_of_two_empty_segments_counts_at_once(tmp_path: Path) -> None:
    for attempt in range(8):  # by chance the first store's segment is the last one of the two
        place = tmp_path / str(attempt)
        first, second = (ArchiveStore(place, durability="os") for _ in range(2))
        await first.create_trace(Trace(trace_id="t"))
        await first.add_message(Message(trace_id="t", role="user", tokens=1))
        await first.append_event("t", "step", 1)
        await first.compact("t")
        await second.compact("t")
        await first.add_message(Message(trace_id="t", role="user", tokens=2))
        await first.append_event("t", "step", 2)
        trace = await ArchiveStore(place).get_trace("t")
        assert trace is not None
        assert (trace.total_messages, trace.total_tokens, trace.last_event_id) == (2, 3, 2)
        await first.close()
        await second.close()


def test_a_cancelled_wait_for_the_lock_leaves_it_with_its_holder(tmp_path: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path, durability="os")
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content=1))
        lock = LocalStorage(tmp_path).lock(f"{trace_prefix('t')}/.lock")
        assert lock.try_acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.update_trace("t", task="waits"), 0.05)
        waiting = asyncio.create_task(store.update_trace("t", task="waits too"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        lock.release()
        await waiting
        trace = await store.get_trace("t")
        assert trace is not None
        assert trace.task == "waits too"

    asyncio.run(run())


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_task_that_appends_without_a_pause_lets_others_have_their_turns(
    tmp_path: Path, durability: Durability
) -> None:
    async def run() -> None:
        async with ArchiveStore(tmp_path, durability=durability) as store:
            await create(store)
            turns = 0

            async def other() -> None:
                nonlocal turns
                while turns < 3:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            for at in range(20_000):
                await store.add_message(message("busy", at))
                if turns == 3:
                    break
            assert turns == 3
            await task

    asyncio.run(run())


def test_tasks_that_need_a_trace_at_once_open_it_once(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, listed = MemoryStorage.read, MemoryStorage.list
    looks: list[str] = []

    async def slow_read(self: MemoryStorage, key: str, start: int = 0) -> bytes:
        await asyncio.sleep(0)
        return await read(self, key, start)

    async def slow_list(self: MemoryStorage, prefix: str) -> dict[str, Entry]:
        looks.append(prefix)
        for _ in looks:
            await asyncio.sleep(0)
        return await listed(self, prefix)

    async def run() -> None:
        async with ArchiveStore(memory_url) as store:
            await store.create_trace(Trace(trace_id="t"))
        monkeypatch.setattr(MemoryStorage, "read", slow_read)
        monkeypatch.setattr(MemoryStorage, "list", slow_list)
        pool = ArchiveStore(memory_url)._pool
        opened = await asyncio.gather(*(pool.opened("t") for _ in range(3)))
        assert len(set(map(id, opened))) == 1
        assert looks == ["traces/t"]

    asyncio.run(run())


def test_more_traces_than_stay_open_leave_no_files_open(tmp_path: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(tmp_path, durability="os", max_open_traces=2)
        names = [f"t{number}" for number in range(30)]
        for name in names:
            await store.create_trace(Trace(trace_id=name))
        before = len(list(Path("/proc/self/fd").iterdir()))
        await store.add_messages([Message(trace_id=name, role="user", content=1) for name in names])
        await asyncio.gather(*(store.add_message(Message(trace_id=name, role="user", content=2)) for name in names))
        await store.close()
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
        reader = ArchiveStore(tmp_path)
        for name in names:
            assert [each.content for each in await reader.get_trace_messages(name)] == [1, 2]

    asyncio.run(run())


async def test_who_saw_a_part_of_a_seal_that_is_under_way_appends_after_those_who_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = False
    seer, other, sealer = (ArchiveStore(tmp_path, durability="os") for _ in range(3))

    async def met_by_writers(*where: Any, **how: Any) -> Any:
        nonlocal met
        built = await build_part(*where, **how)
        if not met:
            met = True
            await seer.get_trace_messages("t")
            await other.add_message(message("other", 4))
            await seer.add_message(message("seer", 5))
        return built

    await create(seer)
    await seer.add_message(message("seer", 1))
    await other.add_message(message("other", 2))
    await seer.add_message(message("seer", 3))
    await other.get_trace_messages("t")
    monkeypatch.setattr("traceark.compact.build_part", met_by_writers)
    await sealer.seal("t")
    for reader in (seer, other, sealer, ArchiveStore(tmp_path)):
        assert [each.content[1] for each in await reader.get_trace_messages("t")] == [1, 2, 3, 4, 5]
    assert await sealer.verify(deep=True) == []


async def test_a_message_that_is_added_again_while_another_seals_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, sealed = StoredTrace.log, False
    store, other = (ArchiveStore(tmp_path, durability="os") for _ in range(2))

    async def sealed_before(self: StoredTrace, *which: Any, **how: Any) -> Any:
        nonlocal sealed
        if not sealed:
            sealed = True
            await other.seal("t")
        return await log(self, *which, **how)

    await create(store)
    again = Message(trace_id="t", message_id="m", role="user", content="said once")
    await store.add_message(again)
    monkeypatch.setattr(StoredTrace, "log", sealed_before)
    assert await store.add_message(again) == "m"
    assert sealed and len(await store.get_trace_messages("t")) == 1


@pytest.mark.parametrize("opened", [True, False])
async def test_a_header_that_is_newer_than_the_listing_is_no_gap(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    listed, overtaken = MemoryStorage.list, False
    reader, writer = ArchiveStore(memory_url), ArchiveStore(memory_url)

    async def overtaken_once(self: MemoryStorage, prefix: str) -> dict[str, Entry]:
        nonlocal overtaken
        found = await listed(self, prefix)
        if self is reader.storage and not overtaken:
            overtaken = True
            await writer.append_event("t", "late", 2)
            await writer.flush()
        return found

    await create(writer)
    if opened:
        await reader.append_event("t", "own", 0)
    await writer.append_event("t", "early", 1)
    await writer.flush()
    monkeypatch.setattr(MemoryStorage, "list", overtaken_once)
    assert len(await reader.get_events("t")) in (1 + opened, 2 + opened)
    assert overtaken
    trace = await reader.get_trace("t")
    assert trace is not None and trace.last_event_id == 2 + opened


async def test_a_seal_that_is_asked_for_ends_when_the_one_in_the_background_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, ended = asyncio.Event(), asyncio.Event()

    async def slow(trace: OpenTrace) -> None:
        await go.wait()
        await seal(trace)
        ended.set()

    monkeypatch.setattr("traceark.pool.seal", slow)
    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user"))
        await store.update_trace("t", status="completed")
        asked = asyncio.ensure_future(store.seal("t"))
        done, _ = await asyncio.wait([asked], timeout=0.05)
        go.set()
        assert not done
        await asked
        assert ended.is_set()
        assert await store.verify("t", deep=True) == []
