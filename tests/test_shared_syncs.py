"""Tasks that add at once share a sync, one that is cancelled takes nothing from the others, and who adds to one log
does not look for the other."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from traceark import ArchiveStore, Message, Trace, writing
from traceark.storage.base import Entry
from traceark.storage.local import LocalStorage
from traceark.storage.local_files import LocalAppender

TASKS = 16


def said(number: int) -> Message:
    return Message(trace_id="run", role="user", content=number)


async def contents(url: Path) -> list[object]:
    async with ArchiveStore(url) as store:
        return [message.content for message in await store.get_trace_messages("run")]


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much of a segment each sync brought to the disk."""
    done: list[int] = []
    real = LocalAppender.sync

    def sync(self: LocalAppender) -> None:
        real(self)
        done.append(self.size)

    monkeypatch.setattr(LocalAppender, "sync", sync)
    return done


async def test_tasks_that_add_again_and_again_share_every_sync(tmp_path: Path, syncs: list[int]) -> None:
    async def add(store: ArchiveStore, task: int) -> None:
        for turn in range(5):
            await store.add_message(said(turn * TASKS + task))

    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="run"))
        await store.add_message(said(-1))
        syncs.clear()
        await asyncio.gather(*(add(store, task) for task in range(TASKS)))
        assert len(syncs) == 5
    assert await contents(tmp_path) == list(range(-1, 5 * TASKS))


async def test_a_task_that_is_cancelled_takes_no_other_with_it(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="run"))
        await store.add_message(said(0))
        tasks = [asyncio.ensure_future(store.add_message(said(number))) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert await asyncio.gather(*tasks[1:]) == ["run-0003", "run-0004"]
    assert await contents(tmp_path) == [0, 1, 2, 3]


async def test_a_slow_sync_that_is_cancelled_leaves_no_offset_to_be_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = LocalAppender.sync

    def sync(self: LocalAppender) -> None:
        begun.set()
        go_on.wait()
        real(self)

    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="run"))
        await store.add_message(said(0))
        with monkeypatch.context() as slow:
            slow.setattr(writing, "_INLINE_SYNC_SECONDS", 0.0)
            slow.setattr(LocalAppender, "sync", sync)
            adding = asyncio.ensure_future(store.add_message(said(1)))
            await asyncio.to_thread(begun.wait)
            # As a loop does that is shut down.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            go_on.set()
        await store.add_message(said(2))
    assert await contents(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("sealed", [True, False])
async def test_who_adds_to_one_log_lists_nothing_for_what_others_wrote_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    listed = list[str]()
    real = LocalStorage.list

    async def listing(self: LocalStorage, prefix: str) -> dict[str, Entry]:
        listed.append(prefix)
        return await real(self, prefix)

    async with ArchiveStore(tmp_path) as other:
        await other.create_trace(Trace(trace_id="run"))
        await other.append_event("run", "begun")
        if sealed:
            await other.update_trace("run", status="completed")
    # Where it need not wait for syncs: beside one in a thread it looks at everything.
    async with ArchiveStore(tmp_path, durability="os") as store:
        await store.add_message(said(0))
        monkeypatch.setattr(LocalStorage, "list", listing)
        for number in range(1, 5):
            await store.add_message(said(number))
        assert listed == []
        assert await store.append_event("run", "ended") == 2
    assert await contents(tmp_path) == [0, 1, 2, 3, 4]
