"""Copies of a trace that is being written: each is what was there at one moment, so any two are told apart by age."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test_sync import RUN, archive
from traceark.layout import LogName, trace_prefix
from traceark.models import Message, Trace
from traceark.storage.base import Entry
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import SyncReport, pack, sync, unpack

URL = "memory://live-copies"
Copying = Callable[[ArchiveStore, Path], Awaitable[SyncReport]]
Interrupted = Callable[[pytest.MonkeyPatch, ArchiveStore, LogName, ArchiveStore], None]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    MemoryStorage.forget(URL.removeprefix("memory://"))


async def by_pack(source: ArchiveStore, target: Path) -> SyncReport:
    path = target.with_suffix(".zip")
    assert not (await pack(source, path, [RUN])).problems
    async with archive(target) as there:
        return await unpack(path, there)


async def by_sync(source: ArchiveStore, target: Path) -> SyncReport:
    async with archive(target) as there:
        return await sync(source, there)


async def go_on(writer: ArchiveStore) -> None:
    """Say twice what is told then: at every moment there is as much said as told, or once more."""
    for _ in range(2):
        await writer.add_message(Message(trace_id=RUN, role="user", content="said"))
        await writer.append_event(RUN, "told", None)


def between_directories(patch: pytest.MonkeyPatch, store: ArchiveStore, log: LogName, writer: ArchiveStore) -> None:
    """Have a trace go on when one of its directories has been listed and this log's has not."""
    listed, is_done = store.storage.list, False

    async def torn(prefix: str) -> dict[str, Entry]:
        nonlocal is_done
        before = await listed(prefix)
        if prefix != trace_prefix(RUN) or is_done:
            return before
        is_done = True
        await go_on(writer)
        after = await listed(prefix)
        old = {name: entry for name, entry in before.items() if not name.startswith(f"{log}/")}
        return old | {name: entry for name, entry in after.items() if name.startswith(f"{log}/")}

    patch.setattr(store.storage, "list", torn)


def between_reads(patch: pytest.MonkeyPatch, store: ArchiveStore, log: LogName, writer: ArchiveStore) -> None:
    """Have a trace go on when all is listed and a file of this log is about to be read."""
    read, is_done = store.storage.read, False

    async def late(key: str) -> bytes:
        nonlocal is_done
        if key.startswith(f"{trace_prefix(RUN)}/{log}/") and not is_done:
            is_done = True
            await go_on(writer)
        return await read(key)

    patch.setattr(store.storage, "read", late)


@pytest.mark.parametrize("interrupted", [between_directories, between_reads])
@pytest.mark.parametrize("copied", [by_pack, by_sync])
@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "objects"])
async def test_two_copies_that_were_made_while_it_went_on_did_not_diverge(
    tmp_path: Path, interrupted: Interrupted, copied: Copying, *, in_memory: bool
) -> None:
    url: Any = URL if in_memory else tmp_path / "runs"
    copies: dict[LogName, Path] = {"messages": tmp_path / "one", "events": tmp_path / "other"}
    async with archive(url) as source, archive(url) as writer:
        await writer.create_trace(Trace(trace_id=RUN))
        await go_on(writer)
        for log, target in copies.items():
            with pytest.MonkeyPatch.context() as patch:
                interrupted(patch, source, log, writer)
                assert (await copied(source, target)).outcomes == {"new": 1}
            async with archive(target) as store:
                said, told = await store.get_trace_messages(RUN), await store.get_events(RUN)
            assert len(said) - len(told) in (0, 1) and said
        for here, there in (copies.values(), reversed(copies.values())):
            async with archive(here) as store:
                assert (await by_sync(store, there)).is_clean


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "objects"])
async def test_a_trace_that_is_deleted_between_its_header_and_its_listing_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    url: Any = URL if in_memory else tmp_path / "runs"
    async with archive(url) as source, archive(url) as writer, archive(tmp_path / "copy") as target:
        await writer.create_trace(Trace(trace_id=RUN))
        await go_on(writer)
        listed, is_gone = source.storage.list, False

        async def late(prefix: str) -> dict[str, Entry]:
            nonlocal is_gone
            if prefix == trace_prefix(RUN) and not is_gone:
                is_gone = True
                await writer.delete_trace(RUN)
            return await listed(prefix)

        monkeypatch.setattr(source.storage, "list", late)
        report = await sync(source, target)
        assert is_gone and report.is_clean and not report.outcomes
        assert await target.get_trace(RUN) is None
