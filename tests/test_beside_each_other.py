"""Stores beside each other: what many of them found by chance (`test_several_stores`), each case by itself."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from traceark import lifecycle
from traceark.errors import TraceNotFoundError
from traceark.headers import Header
from traceark.layout import HEADER, LOCK, trace_prefix
from traceark.models import Message, Trace
from traceark.redacting import redact
from traceark.storage.base import AppendStorage, acquire
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore
from traceark.sync import sync
from traceark.sync.carry import publish

PREFIX = trace_prefix("t")
Between = Callable[[], Awaitable[object]]


@asynccontextmanager
async def stores(*places: Path) -> AsyncIterator[list[ArchiveStore]]:
    """Open archives, as other processes would, and have the trace in the first."""
    opened = [ArchiveStore(place, durability="os") for place in places]
    await opened[0].create_trace(Trace(trace_id="t"))
    await say(opened[0], "one")
    try:
        yield opened
    finally:
        for store in opened:
            await store.close()


async def say(store: ArchiveStore, content: str) -> None:
    await store.add_message(Message(trace_id="t", role="user", content=content))


async def said(store: ArchiveStore) -> list[Any]:
    return [message.content for message in await store.get_trace_messages("t")]


def before(
    patch: pytest.MonkeyPatch,
    store: ArchiveStore,
    name: str,
    key: str,
    between: Between,
    times: int = 1,
    after: bool = False,
) -> None:
    """Have something done before, or after, the first calls of a storage for a key."""
    real, left = getattr(store.storage, name), times

    async def call(asked: str, *args: Any, **options: Any) -> Any:
        nonlocal left
        now, left = asked == key and left > 0, left - (asked == key)
        if now and not after:
            await between()
        answer = await real(asked, *args, **options)
        if now and after:
            await between()
        return answer

    patch.setattr(store.storage, name, call)


async def test_who_appends_behind_two_compactions_meets_nobody_at_the_same_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each segment sorts before those that were begun earlier.
    numbers = itertools.count(1)
    monkeypatch.setattr("secrets.token_hex", lambda size: f"{(1 << 8 * size) - next(numbers):0{2 * size}x}")
    async with stores(tmp_path, tmp_path) as (one, other):
        await say(other, "two")
        await one.compact("t")
        await one.compact("t")
        await say(other, "three")
        await say(one, "four")
        assert await said(one) == await said(other) == ["one", "two", "three", "four"]
        assert await one.verify(deep=True) == []


async def test_a_redaction_that_waited_for_a_lock_holds_that_of_the_trace_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_locked: list[bool] = []

    async def published(*args: Any, **more: Any) -> Any:
        assert isinstance(one.storage, AppendStorage)
        is_locked.append(one.storage.is_locked(f"{PREFIX}/{LOCK}"))
        return await publish(*args, **more)

    async def waited(lock: Any) -> None:
        monkeypatch.setattr(lifecycle, "acquire", acquire)
        await other.delete_trace("t")
        await other.create_trace(Trace(trace_id="t"))
        await say(other, "bob@example.org")
        await acquire(lock)

    async with stores(tmp_path, tmp_path) as (one, other):
        await say(one, "ann@example.org")
        monkeypatch.setattr("traceark.redacting.publish", published)
        monkeypatch.setattr(lifecycle, "acquire", waited)
        assert not (await redact(one, ["t"], dry_run=False)).problems
        assert is_locked == [True]
        assert await said(other) == ["[redacted:email]"]
        assert await other.verify(deep=True) == []


async def test_a_trace_that_another_store_deletes_first_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stores(tmp_path, tmp_path) as (one, other):
        before(monkeypatch, one, "list", PREFIX, lambda: other.delete_trace("t"), after=True)
        with pytest.raises(TraceNotFoundError):
            await one.delete_trace("t")


async def test_a_trace_that_another_store_deleted_keeps_no_other_from_being_flushed(tmp_path: Path) -> None:
    async with stores(tmp_path, tmp_path) as (one, other):
        await one.create_trace(Trace(trace_id="u"))
        await one.add_message(Message(trace_id="u", role="user", content="one", tokens=3))
        await other.delete_trace("t")
        await one.flush()
        header = Header.decode(await other.storage.read(f"{trace_prefix('u')}/{HEADER}"), HEADER)
        assert header.trace.total_tokens == 3


async def test_a_message_of_a_trace_that_is_made_anew_while_it_is_added_again_is_not_taken_for_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stores(tmp_path, tmp_path) as (one, other):
        (message,) = await one.get_trace_messages("t")

        async def made_anew() -> None:
            await other.delete_trace("t")
            await other.create_trace(Trace(trace_id="t"))

        # That it is known has been found out, and is to be looked at now.
        before(monkeypatch, one, "list", PREFIX, made_anew)
        with pytest.raises(TraceNotFoundError, match="made anew"):
            await one.add_message(message)
        assert await one.add_message(message) == message.message_id
        assert await said(other) == ["one"]


async def test_of_a_trace_that_is_deleted_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds it gone makes the trace anew in the same directory, from which nothing may go then."""
    left: list[str] = []
    real = LocalStorage.remove_directory

    def remove(self: LocalStorage, prefix: str) -> None:
        if prefix == PREFIX:
            left.extend(path.name for path in (tmp_path / PREFIX).iterdir())
        real(self, prefix)

    async with stores(tmp_path) as (store,):
        monkeypatch.setattr(LocalStorage, "remove_directory", remove)
        await store.delete_trace("t")
    assert left == [LOCK] and not (tmp_path / PREFIX).exists()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_reader_beside_one_redaction_after_the_other_is_told_of_no_missing_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    async def changed() -> None:
        await other.update_trace("t", task="ann@example.org")

    async def redacted() -> None:
        assert (await redact(other, ["t"], dry_run=False)).replaced

    async with stores(tmp_path, tmp_path, tmp_path) as (writer, reader, other):
        await writer.flush()
        if is_open:
            await reader.append_event("t", "looked", None)
        # Who has it open looks at it twice as often.
        before(monkeypatch, reader, "list", PREFIX, changed, times=4)
        before(monkeypatch, reader, "list", PREFIX, redacted, times=4, after=True)
        found = await reader.get_trace("t")
        assert found is not None and found.total_messages == 1
        assert await said(reader) == ["one"]


async def test_a_sync_beside_a_redaction_copies_a_whole_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def redacted() -> None:
        assert (await redact(other, ["t"], dry_run=False)).replaced

    async with stores(tmp_path / "here", tmp_path / "here", tmp_path / "there") as (one, other, there):
        await one.update_trace("t", task="ann@example.org")
        # Between the header and the listing of the files.
        before(monkeypatch, one, "list", PREFIX, redacted)
        # Two disks that have nothing of it would copy the directory as it is.
        monkeypatch.setattr("traceark.sync.run._Sync._on_disk", lambda _, wanted, __: _all(wanted))
        assert (await sync(one, there)).is_clean
        assert await said(there) == ["one"]
        assert await there.verify(deep=True) == []


@pytest.mark.parametrize("made_anew", [True, False])
async def test_a_sync_does_not_bring_back_what_is_deleted_at_its_target_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_anew: bool
) -> None:
    async def deleted() -> None:
        await other.delete_trace("t")
        if made_anew:
            await other.create_trace(Trace(trace_id="t"))

    async with stores(tmp_path / "here", tmp_path / "there", tmp_path / "there") as (here, there, other):
        assert (await sync(here, there)).is_clean
        await say(here, "two")
        # When the sync has begun, and has not looked at the trace yet.
        before(monkeypatch, there, "read_versioned", f"{PREFIX}/{HEADER}", deleted)
        assert (await sync(here, there)).outcomes == {"buried": 1}
        assert await said(there) == []


async def test_what_a_copy_that_broke_off_left_goes_though_a_redaction_has_not_removed_it_yet(tmp_path: Path) -> None:
    async with stores(tmp_path / "here", tmp_path / "there") as (here, there):
        await say(here, "ann@example.org")
        await here.seal("t")
        log = Path("traces", "t", "messages")
        [part] = (tmp_path / "here" / log).iterdir()
        data = part.read_bytes()
        assert (await redact(here, ["t"], dry_run=False)).replaced
        (tmp_path / "there" / log).mkdir(parents=True)
        for place in ("here", "there"):
            (tmp_path / place / log / part.name).write_bytes(data)
        assert (await sync(here, there)).is_clean
        assert await said(there) == ["one", "[redacted:email]"]
        assert await there.verify(deep=True) == []


async def _all(wanted: Any) -> list[str]:
    return list(wanted)


async def test_a_part_that_is_left_of_a_namesake_parts_no_copies(tmp_path: Path) -> None:
    async with stores(tmp_path / "here", tmp_path / "there") as (here, there):
        await say(here, "two")
        async with ArchiveStore(here.url, durability="os") as other:
            await say(other, "three")
        assert (await sync(here, there)).outcomes == {"new": 1}
        left = tmp_path / "here" / PREFIX / "messages" / "000000000001-000000000003-deadbeef-00000000.parquet"
        left.write_bytes(b"of a namesake")
        await say(here, "four")
        assert (await sync(here, there)).outcomes == {"forward": 1}
        assert await said(there) == ["one", "two", "three", "four"]


async def test_two_syncs_to_one_archive_take_no_copy_for_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def another() -> None:
        async with ArchiveStore(here.url) as source, ArchiveStore(there.url) as target:
            await say(source, "two")
            assert (await sync(source, target)).is_clean

    async with stores(tmp_path / "here", tmp_path / "here", tmp_path / "there") as (writer, here, there):
        assert (await sync(here, there)).is_clean
        await writer.update_trace("t", task="a new one")
        # Behind the header that one sync reads of the target, another brings all that came meanwhile.
        before(monkeypatch, there, "list", PREFIX, another)
        report = await sync(here, there)
        assert report.is_clean and not report.outcomes["diverged"]
        assert await said(there) == ["one", "two"]


async def test_of_a_call_that_was_cancelled_nothing_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unnoticed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unnoticed.append(told))
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await may_go_on.wait()

    async with stores(tmp_path) as (store,):
        before(monkeypatch, store, "list", trace_prefix("absent"), wait)
        call = asyncio.create_task(store.append_event("absent", "told", None))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        may_go_on.set()
        for _ in range(9):
            await asyncio.sleep(0)
    assert unnoticed == []


async def test_of_two_tasks_that_replace_a_trace_the_last_one_tells_what_it_is(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path / "here", durability="os") as here:
        await here.create_trace(Trace(trace_id="t"))
    async with ArchiveStore(tmp_path / "there", durability="os") as there:
        async with ArchiveStore(tmp_path / "here", durability="os") as here:
            await sync(here, there)
            await here.add_message(Message(trace_id="t", role="user", content="later"))
        async with there.replacing("t"):
            async with there.replacing("t"):
                pass
            place = Path(trace_prefix("t"))
            shutil.copytree(tmp_path / "here" / place, tmp_path / "there" / place, dirs_exist_ok=True)
            for store in (there, ArchiveStore(tmp_path / "there", durability="os")):
                assert [each.total_messages for each in await store.list_traces()] == [1]
        assert await there.verify(deep=True) == []
