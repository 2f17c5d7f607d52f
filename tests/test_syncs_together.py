"""Syncs to one object store at the same time, and beside who writes there: no lock keeps them apart."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from traceark.compact import _finish
from traceark.errors import IncompleteTraceError
from traceark.headers import Header
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, LogName, trace_prefix
from traceark.live import OpenTrace
from traceark.models import Goal, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import sync
from traceark.sync.compare import Copy
from traceark.sync.sides import Side

PREFIX = trace_prefix("t")
HERE, THERE = "memory://together/here", "memory://together/there"
Between = Callable[[], Awaitable[object]]


@asynccontextmanager
async def archives() -> AsyncIterator[tuple[ArchiveStore, ArchiveStore]]:
    """Open two archives in memory, with a trace in the first."""
    try:
        async with ArchiveStore(HERE) as here, ArchiveStore(THERE) as there:
            await here.create_trace(Trace(trace_id="t"))
            await say(here, "one")
            yield here, there
    finally:
        for url in (HERE, THERE):
            MemoryStorage.forget(url.removeprefix("memory://"))


async def say(store: ArchiveStore, content: str) -> None:
    await store.add_message(Message(trace_id="t", role="user", content=content))


async def said(store: ArchiveStore) -> list[Any]:
    return [message.content for message in await store.get_trace_messages("t")]


def before(patch: pytest.MonkeyPatch, store: ArchiveStore, name: str, file: str, between: Between) -> None:
    """Have something done before the first call of a storage for a file of the trace."""
    real, done = getattr(store.storage, name), False

    async def call(asked: str, *args: Any) -> Any:
        nonlocal done
        if asked == f"{PREFIX}/{file}" and not done:
            done = True
            await between()
        return await real(asked, *args)

    patch.setattr(store.storage, name, call)


async def another(*contents: str, task: str | None = None) -> None:
    """Go on with the trace, and sync it, as another process."""
    async with ArchiveStore(HERE) as here, ArchiveStore(THERE) as there:
        for content in contents:
            await say(here, content)
        if task is not None:
            await here.update_trace("t", task=task)
        assert (await sync(here, there)).is_clean


async def segment(store: ArchiveStore, number: int) -> str:
    return [name for name in sorted(await store.storage.list(PREFIX)) if name.endswith(".jsonl")][number]


async def revision_of(store: ArchiveStore) -> int:
    return Header.decode(await store.storage.read(f"{PREFIX}/{HEADER}"), HEADER).revision


@pytest.mark.parametrize("at", [0, 1])
async def test_a_sync_that_meets_another_of_the_same_trace_takes_nothing_away_from_it(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    async with archives() as (here, there):
        await say(here, "two")
        before(monkeypatch, there, "create", await segment(here, at), lambda: another("three"))
        assert (await sync(here, there)).is_clean
        assert await said(there) == ["one", "two", "three"]
        assert await there.verify(deep=True) == []


async def test_a_sync_puts_no_header_over_one_that_another_brought_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with archives() as (here, there):
        await another()
        await say(here, "two")
        before(monkeypatch, there, "read_versioned", HEADER, lambda: another("three", task="a new one"))
        assert (await sync(here, there)).is_clean
        [found] = await there.list_traces()
        assert (found.task, found.total_messages) == ("a new one", 3)


async def test_what_another_sync_replaces_is_no_damage_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async with archives() as (here, there):

        async def brought() -> None:
            # What was written is read back just now.
            real = there.storage.read_versioned
            before(monkeypatch, there, "read_versioned", HEADER, lambda: another("two"))
            assert real is not there.storage.read_versioned

        before(monkeypatch, there, "create", HEADER, brought)
        assert (await sync(here, there)).is_clean
        assert await said(there) == ["one", "two"]


async def write_message(store: ArchiveStore) -> None:
    await say(store, "two")


async def write_header(store: ArchiveStore) -> None:
    await store.update_trace("t", task="a new one")


async def write_goal(store: ArchiveStore) -> None:
    await store.add_goal("t", Goal(id="1"))


@pytest.mark.parametrize("write", [write_message, write_header, write_goal])
async def test_no_manifest_stands_over_what_was_written_before_it_was_there(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[ArchiveStore], Awaitable[None]]
) -> None:
    async with archives() as (here, there), ArchiveStore(THERE) as other:
        await here.seal("t")
        before(monkeypatch, there, "create", MANIFEST, lambda: write(other))
        assert (await sync(here, there)).outcomes["behind"] == 1
        assert not {MANIFEST} & (await there.storage.list(PREFIX)).keys()
        assert await there.verify(deep=True) == []


async def test_a_live_trace_that_a_sync_brings_takes_away_the_manifest_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with archives() as (here, there), ArchiveStore(THERE) as other:
        await another()
        await here.add_goal("t", Goal(id="1"))
        await other.seal("t")
        # As it was when the other one had published its header, and no manifest yet.
        manifest = await there.storage.read(f"{PREFIX}/{MANIFEST}")
        await there.storage.delete([f"{PREFIX}/{MANIFEST}"])
        before(
            monkeypatch,
            there,
            "create",
            GOAL_TREE,
            lambda: there.storage.replace(f"{PREFIX}/{MANIFEST}", manifest),
        )
        assert (await sync(here, there)).outcomes["forward"] == 1
        assert not {MANIFEST} & (await there.storage.list(PREFIX)).keys()
        assert await there.verify(deep=True) == []


@pytest.mark.parametrize("times", [1, 99])
async def test_what_is_incomplete_for_a_moment_is_looked_at_again(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real, left = Side.copy, times

    async def copy(self: Side) -> Copy:
        nonlocal left
        if self.storage.url == THERE and left:
            left -= 1
            if times == 1:
                await there.update_trace("t", current_goal_id="1")
            raise IncompleteTraceError("offsets 1 to 1 are in no file", "")
        return await real(self)

    async with archives() as (here, there):
        await another()
        await say(here, "two")
        monkeypatch.setattr(Side, "copy", copy)
        report = await sync(here, there)
        assert len(report.problems) == (times > 1)


async def test_what_was_written_after_a_seal_that_its_writer_did_not_see_is_copied_too() -> None:
    """Until the writer hears of the seal its manifest stands, on both sides the same one."""
    async with archives() as (here, there), ArchiveStore(HERE) as other:
        await other.seal("t")
        assert (await sync(other, there)).is_clean
        await say(here, "two")
        assert MANIFEST in await here.storage.list(PREFIX)
        assert (await sync(other, there)).outcomes == {"forward": 1}
        assert await said(there) == ["one", "two"]
        assert await there.verify(deep=True) == []


async def test_a_trace_that_takes_long_to_copy_is_tried_again_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = itertools.count()
    async with archives() as (here, there):
        await say(here, "two")
        before(monkeypatch, there, "create", await segment(here, 1), lambda: another("three"))
        monkeypatch.setattr("traceark.sync.run.time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
        assert (await sync(here, there)).is_clean
        assert await said(there) == ["one", "two", "three"]


async def test_a_sync_of_an_older_copy_takes_nothing_away_that_another_one_brings_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = "memory://together/older"
    async with archives() as (here, there), ArchiveStore(older) as copy:
        assert (await sync(here, copy)).is_clean
        for content in ("two", "three"):
            await say(here, content)
        await here.compact("t")
        await say(here, "four")

        async def brought() -> None:
            assert (await sync(copy, there)).is_clean

        # A part of it is there, and what that supersedes.
        before(monkeypatch, there, "create", await segment(here, 3), brought)
        assert (await sync(here, there)).is_clean
        assert await said(there) == ["one", "two", "three", "four"]
        assert await there.verify(deep=True) == []
    MemoryStorage.forget(older.removeprefix("memory://"))


@pytest.mark.parametrize("changed", [False, True])
async def test_no_manifest_stands_over_what_a_sync_had_brought_when_another_one_put_the_header(
    monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    older = "memory://together/older"
    async with archives() as (here, there), ArchiveStore(older) as copy:
        await here.seal("t")
        assert (await sync(here, copy)).is_clean
        await say(here, "two")
        if changed:
            await here.compact("t")  # so its header is another one
            await say(here, "three")
        before(monkeypatch, there, "create", await segment(here, -1), lambda: sync(copy, there))
        assert (await sync(here, there)).is_clean
        assert await said(there) == (["one", "two", "three"] if changed else ["one", "two"])
        assert not {MANIFEST} & (await there.storage.list(PREFIX)).keys()
    MemoryStorage.forget(older.removeprefix("memory://"))


async def test_no_manifest_stands_over_what_was_brought_of_a_trace_that_diverged_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def gone_on_with() -> None:
        async with ArchiveStore(THERE) as other:
            await other.update_trace("t", task="theirs")
            await other.seal("t")

    async with archives() as (here, there):
        await another()
        await say(here, "two")
        await here.update_trace("t", task="ours")
        before(monkeypatch, there, "create", await segment(here, -1), gone_on_with)
        assert (await sync(here, there)).outcomes["diverged"] == 1
        assert not {MANIFEST} & (await there.storage.list(PREFIX)).keys()


async def test_a_sync_of_an_older_copy_leaves_the_manifest_that_tells_what_is_missing() -> None:
    async with archives() as (here, there):
        await another()
        await there.add_goal("t", Goal(id="1"))
        await there.seal("t")
        await there.storage.delete([f"{PREFIX}/{GOAL_TREE}"])
        assert (await sync(here, there)).outcomes["same"] == 1
        [found] = await there.verify("t")
        assert (found.file, found.meaning) == (f"{PREFIX}/{GOAL_TREE}", "the manifest lists it, and it is missing")


async def test_a_seal_beside_a_sync_that_brings_a_part_which_holds_more_seals_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with archives() as (here, there):
        await another()
        brought = False

        async def finish(trace: OpenTrace, built: dict[LogName, str]) -> None:
            nonlocal brought
            if trace.storage is there.storage and not brought:
                brought = True
                await say(here, "two")
                await here.seal("t")
                await another()  # its part takes the place of the one that was built
            await _finish(trace, built)

        monkeypatch.setattr("traceark.compact._finish", finish)
        await there.seal("t")
        assert brought
        assert await said(there) == ["one", "two"]
        assert await there.verify(deep=True) == []
        assert {MANIFEST} <= (await there.storage.list(PREFIX)).keys()


async def test_a_sync_puts_no_header_over_one_that_came_before_it_had_listed_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with archives() as (here, there):
        await another()
        await say(here, "two")
        revision = await revision_of(there)
        real = there.storage.list
        is_first = True

        async def listed(prefix: str) -> Any:
            nonlocal is_first
            if prefix == PREFIX and is_first:
                # The header was read just now.
                is_first = False
                await there.update_trace("t", current_goal_id="1")
                await there.update_trace("t", current_goal_id=None)
            return await real(prefix)

        monkeypatch.setattr(there.storage, "list", listed)
        await sync(here, there)
        monkeypatch.undo()
        assert await revision_of(there) > revision + 1


async def test_a_sync_that_ends_while_the_trace_is_sealed_there_does_not_tell_what_it_was_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with archives() as (here, there):
        assert (await sync(here, there)).is_clean
        syncing = there.replacing("t")
        create = there.storage.create

        async def creating(key: str, data: bytes) -> str:
            if key.endswith(".parquet") and not begun:
                begun.append(key)
                await syncing.__aenter__()
            elif key.endswith(MANIFEST):
                await syncing.__aexit__(None, None, None)
            return await create(key, data)

        begun: list[str] = []
        monkeypatch.setattr(there.storage, "create", creating)
        await there.seal("t")
        assert begun
        assert await there.verify(deep=True) == []
        assert await there.is_settled("t")
