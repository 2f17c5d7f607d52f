"""Stores beside each other on an object store, where no lock keeps them apart: seals, redactions and who writes."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from traceark.errors import DamagedTraceWarning, GoalNotFoundError, StorageError, TraceNotFoundError
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, trace_prefix
from traceark.manifest import encode_manifest, sha256
from traceark.models import Goal, Message, Trace
from traceark.redacting import redact
from traceark.storage.base import Entry, KeyMissingError
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.verification.settling import is_kept

PREFIX, URL = trace_prefix("t"), "memory://beside"
SECRET, HIDDEN = "ann@example.org", "[redacted:email]"
Write = Callable[[ArchiveStore], Coroutine[Any, Any, None]]


@asynccontextmanager
async def stores() -> AsyncIterator[tuple[ArchiveStore, ArchiveStore]]:
    """Open an archive twice, with a trace that the second one has open, too."""
    try:
        async with ArchiveStore(URL) as one, ArchiveStore(URL) as other:
            await one.create_trace(Trace(trace_id="t"))
            await say(one, SECRET)
            await one.flush()
            yield one, other
    finally:
        MemoryStorage.forget(URL.removeprefix("memory://"))


async def say(store: ArchiveStore, content: str) -> None:
    await store.add_message(Message(trace_id="t", role="user", content=content))


async def said(store: ArchiveStore) -> list[Any]:
    return [message.content for message in await store.get_trace_messages("t")]


async def is_sealed(store: ArchiveStore) -> bool:
    return MANIFEST in await store.storage.list(PREFIX)


def beside(
    patch: pytest.MonkeyPatch,
    store: ArchiveStore,
    name: str,
    file: str,
    between: Callable[[], Awaitable[object]],
    *,
    after: bool = False,
) -> None:
    """Have something done before, or after, the first call of a storage for a file of the trace."""
    real, done = getattr(store.storage, name), False

    async def call(asked: str, *args: Any) -> Any:
        nonlocal done
        now, done = asked.startswith(f"{PREFIX}/{file}") and not done, done or asked.startswith(f"{PREFIX}/{file}")
        if now and not after:
            await between()
        answer = await real(asked, *args)
        if now and after:
            await between()
        return answer

    patch.setattr(store.storage, name, call)


async def write_message(store: ArchiveStore) -> None:
    await say(store, "later")


async def write_event(store: ArchiveStore) -> None:
    await store.append_event("t", "told", None)


async def write_header(store: ArchiveStore) -> None:
    await store.update_trace("t", task="later")


async def write_goal(store: ArchiveStore) -> None:
    await store.add_goal("t", Goal(id="1"))


WRITES = pytest.mark.parametrize("write", [write_message, write_event, write_header, write_goal])


@WRITES
@pytest.mark.parametrize(("name", "file"), [("create", MANIFEST), ("read", HEADER)])
async def test_a_seal_that_is_written_to_before_its_manifest_is_there_begins_anew(
    monkeypatch: pytest.MonkeyPatch, write: Write, name: str, file: str
) -> None:
    async with stores() as (one, other):
        beside(monkeypatch, one, name, file, lambda: write(other))
        await one.seal("t")
        assert await is_sealed(one)
        assert await one.verify(deep=True) == []


@pytest.mark.parametrize("write", [write_message, write_header, write_goal])
async def test_who_wrote_in_the_middle_of_a_seal_takes_its_manifest_away(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    async with stores() as (one, other):
        manifest = b""

        async def sealed() -> None:
            # As one that had not seen what is put here, and looked at the trace before it was there.
            await one.storage.replace(f"{PREFIX}/{MANIFEST}", manifest)

        await one.seal("t")
        manifest = await one.storage.read(f"{PREFIX}/{MANIFEST}")
        await one.storage.delete([f"{PREFIX}/{MANIFEST}"])
        name = "replace" if write is write_header else "create"
        files: dict[Write, str] = {write_message: "messages/", write_header: HEADER, write_goal: GOAL_TREE}
        file = files[write]
        beside(monkeypatch, other, name, file, sealed)
        await write(other)
        assert not await is_sealed(other)
        assert await other.verify(deep=True) == []


async def test_two_seals_at_once_leave_the_manifest_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores() as (one, other):

        async def sealed() -> None:
            await other.refresh()
            await write_header(other)
            await other.seal("t")

        beside(monkeypatch, one, "create", MANIFEST, sealed)
        await one.seal("t")
        assert await one.verify(deep=True) == []


async def test_a_seal_leaves_no_manifest_of_another_one_whose_header_it_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        await one.seal("t")
        key = f"{PREFIX}/{MANIFEST}"
        manifest = await one.storage.read(key)
        # The first seal had put its header, and no manifest yet, when the second one looked.
        await one.storage.delete([key])
        beside(monkeypatch, other, "replace", HEADER, lambda: one.storage.create(key, manifest))
        await other.seal("t")
        assert await is_sealed(other)
        assert await other.verify(deep=True) == []


async def test_who_goes_on_with_a_header_of_its_own_takes_away_the_manifest_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who seals may have put the very same bytes, and so none."""
    async with stores() as (one, other):
        await write_header(other)
        manifest = encode_manifest({HEADER: sha256(await one.storage.read(f"{PREFIX}/{HEADER}"))})
        beside(monkeypatch, other, "replace", HEADER, lambda: one.storage.create(f"{PREFIX}/{MANIFEST}", manifest))
        await other.update_trace("t", task="later still")
        assert not await is_sealed(other)


async def test_a_call_that_is_cancelled_while_it_catches_up_leaves_what_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        await one.append_event("t", "told", None)
        await other.compact("t")
        call = asyncio.create_task(one.compact("t"))

        async def cancelled() -> None:
            call.cancel()
            await asyncio.sleep(0)

        beside(monkeypatch, one, "read", "events/", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await call
        await one.flush()
        assert await said(one) == [SECRET] and len(await one.get_events("t")) == 1
        assert await one.verify(deep=True) == []


@WRITES
@pytest.mark.parametrize(("name", "file"), [("create", "messages/"), ("replace", HEADER)])
@pytest.mark.parametrize("after", [False, True])
async def test_what_is_written_beside_a_redaction_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, write: Write, name: str, file: str, after: bool
) -> None:
    async with stores() as (one, other):
        await say(other, "of the other one")
        # From now on others take it for one that nobody has open.
        await other.seal("t")
        await one.seal("t")
        beside(monkeypatch, one, name, file, lambda: write(other), after=after)
        report = await redact(one, ["t"], dry_run=False)
        first, *contents = await said(one)
        assert (first == HIDDEN) == (not report.problems)
        assert contents == ["of the other one", *(["later"] if write is write_message else [])]
        assert len(await one.get_events("t")) == (write is write_event)
        trace, tree = await one.get_trace("t"), await one.get_goal_tree("t")
        assert trace is not None and trace.task == ("later" if write is write_header else None)
        assert (tree is not None) == (write is write_goal)
        assert await one.verify(deep=True) == []


async def test_until_a_writer_hears_of_a_seal_its_manifest_stands_and_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        await other.seal("t")
        # Right behind its own record it looks at nothing.
        await say(one, "later")
        assert await is_sealed(one)
        assert await said(other) == [SECRET, "later"]
        assert await other.verify(deep=True) == []
        assert not (await other.repair(dry_run=False)).mended
        now = time.time()
        with monkeypatch.context() as later:
            # Its writer was killed.
            later.setattr("traceark.verification.settling.time", SimpleNamespace(time=lambda: now + 1000))
            assert [each.meaning for each in await other.verify()] == ["the trace was written to after it was sealed"]
        await one.flush()
        assert not await is_sealed(one)
        assert await other.verify(deep=True) == []


async def test_lists_and_sql_beside_a_writer_leave_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def written() -> None:
        await say(one, "later")
        await one.flush()

    async def stored(trace_id: str) -> Any:
        monkeypatch.setattr(other._pool, "stored", real)
        beside(monkeypatch, other, "read", HEADER, written)
        return await real(trace_id)

    async with stores() as (one, other):
        real = other._pool.stored
        with warnings.catch_warnings():
            warnings.simplefilter("error", DamagedTraceWarning)
            # Between the listing of the files and the header.
            beside(monkeypatch, other, "read", HEADER, written)
            assert [each.total_messages for each in await other.list_traces()] == [2]
            monkeypatch.setattr(other._pool, "stored", stored)
            assert len((await other.sql("SELECT content FROM messages")).rows()) == 3


async def test_what_was_created_and_is_gone_again_is_a_conflict_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores() as (one, other):
        deleted = False

        async def delete() -> None:
            nonlocal deleted
            deleted = True
            await other.storage.delete([f"{PREFIX}/{MANIFEST}"])

        beside(monkeypatch, one, "create", MANIFEST, lambda: other.storage.create(f"{PREFIX}/{MANIFEST}", b"another"))
        beside(monkeypatch, one, "read_versioned", MANIFEST, delete)
        await one.seal("t")
        assert deleted and await is_sealed(one)
        assert await one.verify(deep=True) == []


async def test_who_joins_an_opening_from_before_the_trace_was_made_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores() as (one, _):
        real, looked, made = one.storage.list, asyncio.Event(), asyncio.Event()

        async def listed(prefix: str) -> dict[str, Entry]:
            entries = await real(prefix)
            if prefix == trace_prefix("late") and not looked.is_set():
                looked.set()
                await made.wait()
            return entries

        monkeypatch.setattr(one.storage, "list", listed)
        early = asyncio.create_task(one.append_event("late", "told", None))
        await looked.wait()
        async with ArchiveStore(one.url) as other:
            await other.create_trace(Trace(trace_id="late"))
        later = asyncio.create_task(one.append_event("late", "told", None))
        await asyncio.sleep(0.01)
        made.set()
        assert await later > 0
        with pytest.raises(TraceNotFoundError):
            await early


async def test_the_first_record_of_a_log_is_not_lost_in_what_a_redaction_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def opened() -> None:
        with pytest.raises(GoalNotFoundError):
            await other.update_goal("e", "1", summary="none")

    async with stores() as (one, other):
        await one.create_trace(Trace(trace_id="e", task=SECRET, status="completed"))
        await one.seal("e")
        real, key = one.storage.replace, f"{trace_prefix('e')}/{HEADER}"
        was_asked: list[str] = []

        async def replace(asked: str, *args: Any) -> str:
            if asked == key and not was_asked:
                was_asked.append(asked)
                await opened()
            return await real(asked, *args)

        monkeypatch.setattr(one.storage, "replace", replace)
        assert (await redact(one, ["e"], dry_run=False)).replaced
        assert was_asked
        await other.add_message(Message(trace_id="e", role="user", content="late"))
        async with ArchiveStore(URL) as third:
            assert [each.content for each in await third.get_trace_messages("e")] == ["late"]


async def test_a_redaction_that_gives_way_to_a_seal_leaves_the_goals_that_the_seal_tells_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sealed_again() -> None:
        await other.update_trace("t", status="completed")
        await other.seal("t")

    async with stores() as (one, other):
        await one.add_goal("t", Goal(id="1", description=SECRET))
        await one.seal("t")
        beside(monkeypatch, one, "replace", GOAL_TREE, sealed_again)
        report = await redact(one, ["t"], dry_run=False)
        tree, trace = await other.get_goal_tree("t"), await other.get_trace("t")
        assert tree is not None and trace is not None and trace.status == "completed"
        assert tree.goals[0].description == (SECRET if report.problems else HIDDEN)
        async with ArchiveStore(URL) as third:
            assert await third.verify(deep=True) == []


async def test_a_manifest_that_was_outrun_a_moment_ago_is_no_finding_and_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        await one.seal("t")
        key = f"{PREFIX}/{MANIFEST}"
        manifest = await one.storage.read(key)
        await other.append_event("t", "late", None)
        await other.update_trace("t", task="later")
        # As if its writer had not heard of it yet, though the header is as of what it wrote.
        await one.storage.create(key, manifest)
        async with ArchiveStore(URL) as third:
            for deep in (False, True):
                assert await third.verify("t", deep=deep) == []
            monkeypatch.setattr(MemoryStorage, "grace_seconds", 0.0)
            found = await third.verify("t", deep=True)
        assert any(each.meaning == "the manifest does not list it" for each in found)


@pytest.mark.parametrize("name", [HEADER, GOAL_TREE])
async def test_a_header_that_was_put_over_a_seal_a_moment_ago_is_no_finding_and_later_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with stores() as (one, other):
        storage = other.storage
        await one.add_goal("t", Goal(id="1"))
        await one.seal("t")
        before = {each: await storage.read(f"{PREFIX}/{each}") for each in (HEADER, GOAL_TREE, MANIFEST)}
        await other.update_goal("t", "1", summary="later")
        await other.update_trace("t", task="later")
        late = await storage.read(f"{PREFIX}/{name}")
        # As if its writer had put this just now, and not heard of the seal yet.
        for each in (HEADER, GOAL_TREE):
            await storage.replace(f"{PREFIX}/{each}", before[each])
        await storage.create(f"{PREFIX}/{MANIFEST}", before[MANIFEST])
        await storage.replace(f"{PREFIX}/{name}", late)
        async with ArchiveStore(URL) as third:
            assert await third.verify("t", deep=True) == []
            assert not (await third.repair(["t"])).left
            monkeypatch.setattr(MemoryStorage, "grace_seconds", 0.0)
            [found] = await third.verify("t", deep=True)
            assert (await third.repair(["t"])).left
        assert (found.file, found.meaning) == (f"{PREFIX}/{name}", "its SHA-256 is not the manifest's")


async def test_a_store_that_sealed_leaves_the_manifest_of_one_that_sealed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sealed_again() -> None:
        async with ArchiveStore(URL) as third:
            await third.seal("t")

    async with stores() as (one, other):
        await one.add_goal("t", Goal(id="1"))
        await say(one, "one")
        await one.seal("t")
        await other.update_goal("t", "1", summary="later")
        # Before it looks whether somebody has not seen what it puts.
        beside(monkeypatch, one, "replace", HEADER, sealed_again, after=True)
        await one.update_trace("t", task="later")
        assert await is_sealed(one)


async def test_the_manifest_that_a_call_was_cancelled_before_it_looked_for_goes_with_its_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        await one.seal("t")
        key = f"{PREFIX}/{MANIFEST}"
        manifest = await one.storage.read(key)
        await one.update_trace("t", task="one")
        real, cancelled = one.storage.list, False

        async def listed(prefix: str) -> dict[str, Entry]:
            nonlocal cancelled
            if not cancelled:
                cancelled = updating.cancel()
                await other.storage.create(key, manifest)
                await asyncio.sleep(1)
            return await real(prefix)

        monkeypatch.setattr(one.storage, "list", listed)
        updating = asyncio.create_task(one.update_trace("t", task="two"))
        with pytest.raises(asyncio.CancelledError):
            await updating
        trace = await other.get_trace("t")
        assert trace is not None and trace.task == "two" and await is_sealed(other)
        await one.close()
        assert not await is_sealed(other)


async def test_a_call_that_was_cancelled_before_it_looked_leaves_the_seal_of_who_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stores() as (one, other):
        real, cancelled = one.storage.list, False

        async def listed(prefix: str) -> dict[str, Entry]:
            nonlocal cancelled
            if not cancelled:
                cancelled = updating.cancel()
                await asyncio.sleep(1)
            return await real(prefix)

        await one.update_trace("t", task="one")
        monkeypatch.setattr(one.storage, "list", listed)
        updating = asyncio.create_task(one.update_trace("t", task="two"))
        with pytest.raises(asyncio.CancelledError):
            await updating
        await other.update_trace("t", task="three")
        await other.seal("t")
        trace = await one.get_trace("t")  # it knows that header now
        assert trace is not None and trace.task == "three"
        await one.close()
        assert await is_sealed(other)


@pytest.mark.parametrize("what", ["a message", "a header"])
async def test_the_manifest_over_what_a_failed_call_may_have_written_goes_with_its_store(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with stores() as (one, other):
        await one.seal("t")
        key = f"{PREFIX}/{MANIFEST}"
        manifest = await one.storage.read(key)
        await say(other, "between")
        await other.flush()
        create, replace = one.storage.create, one.storage.replace

        async def failing(*_: str) -> dict[str, Entry]:
            raise StorageError("the server is away")

        async def created(name: str, data: bytes) -> str:
            version = await create(name, data)
            if name.startswith(f"{PREFIX}/messages/"):
                await other.storage.create(key, manifest)  # by who had not seen it
                monkeypatch.setattr(one.storage, "list", failing)
            return version

        async def replaced(name: str, data: bytes, version: str | None = None) -> str:
            await replace(name, data, version)
            await other.storage.create(key, manifest)
            return str(await failing())

        if what == "a message":
            monkeypatch.setattr(one.storage, "create", created)
            with pytest.raises(StorageError, match="away"):
                await one.add_message(Message(trace_id="t", role="user", content="more"))
        else:
            monkeypatch.setattr(one.storage, "replace", replaced)
            with pytest.raises(StorageError, match="away"):
                await one.update_trace("t", task="two")
        assert key in {f"{PREFIX}/{name}" for name in await other.storage.list(PREFIX)}
        monkeypatch.undo()
        await one.close()
        assert key not in {f"{PREFIX}/{name}" for name in await other.storage.list(PREFIX)}


async def test_a_header_that_was_put_just_before_a_manifest_that_does_not_tell_of_it_is_no_finding() -> None:
    async with stores() as (one, other):
        await one.seal("t")
        key = f"{PREFIX}/{MANIFEST}"
        manifest = await one.storage.read(key)
        await other.update_trace("t", task="later")
        # As if who seals had read the header before, and had not listed the trace yet.
        await one.storage.create(key, manifest)
        async with ArchiveStore(URL) as third:
            assert await third.verify("t", deep=True) == []
            assert not (await third.repair(["t"])).left


def test_on_a_disk_nothing_is_young_though_a_clock_was_set_back(tmp_path: Path) -> None:
    entry = Entry(1, "", time.time() + 3600)
    assert not is_kept(LocalStorage(tmp_path), entry)
    assert is_kept(MemoryStorage("unused"), entry)


async def test_in_memory_what_was_replaced_since_is_not_deleted() -> None:
    storage = MemoryStorage.of({"a": b"1", "b": b"2"})
    versions = {name: (await storage.read_versioned(name))[1] for name in ("a", "b")}
    await storage.replace("a", b"3")
    assert await storage.delete_unchanged({**versions, "c": "1"}) == ["a"]
    assert await storage.read("a") == b"3"
    with pytest.raises(KeyMissingError):
        await storage.read("b")
