"""A spool takes what is written and brings it to its archive, whatever the network does."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import traceark
from profiles import tried
from traceark import keeping
from traceark.errors import (
    InvalidValueError,
    SpoolError,
    SpoolPendingError,
    SpoolPendingWarning,
    StorageError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
)
from traceark.layout import HEADER, MANIFEST, trace_prefix
from traceark.live import OpenTrace
from traceark.models import Goal, Message, Trace
from traceark.redacting import redact
from traceark.requests import Request
from traceark.spool import background
from traceark.spool import ship as shipping
from traceark.spool import store as spooled
from traceark.spool.place import Place
from traceark.spool.ship import Shipper, ship
from traceark.storage.base import Entry
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import pack, sync, unpack
from traceark.testing.places import record_run, snapshot
from traceark.tombstones import Tombstone
from weather import Weather, meeting, weather

RUN = "run-7"
PATIENT_SECONDS = 60.0


@pytest.fixture
def url() -> Iterator[str]:
    name = uuid4().hex
    yield f"memory://{name}"
    MemoryStorage.forget(name)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(autouse=True)
def sky(monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    """Weather over the archives; who waits for them does not wait long."""
    monkeypatch.setattr(background, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(background, "_LONGEST_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(background, "_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(spooled, "_ASK_SECONDS", 0.05)
    with weather() as found:
        yield found


def said(content: object, trace_id: str = RUN) -> Message:
    return Message(trace_id=trace_id, role="user", content=content)


async def contents(store: ArchiveStore, trace_id: str = RUN) -> list[object]:
    return [message.content for message in await store.get_trace_messages(trace_id)]


async def at(url: str, trace_id: str = RUN) -> list[object]:
    """Return what the archive itself holds."""
    async with ArchiveStore(url) as store:
        assert await store.verify(deep=True) == []
        return await contents(store, trace_id)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENT_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


def traces_in(spool: Path) -> list[str]:
    return sorted(path.name for path in (spool / "traces").iterdir())


async def test_a_trace_that_was_looked_for_before_it_was_created_is_found_after_it(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, may_go_on, listed = asyncio.Event(), asyncio.Event(), LocalStorage.list

    async def slow(self: LocalStorage, prefix: str) -> dict[str, Entry]:
        found = await listed(self, prefix)
        if prefix == trace_prefix(RUN) and not found and not looked.is_set():
            looked.set()
            await may_go_on.wait()
        return found

    monkeypatch.setattr(LocalStorage, "list", slow)
    async with ArchiveStore(url, spool=spool) as store:
        first = asyncio.create_task(store.add_message(said("first")))
        await asyncio.wait_for(looked.wait(), PATIENT_SECONDS)
        await store.create_trace(Trace(trace_id=RUN))
        second = asyncio.create_task(store.add_message(said("second")))
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(first, second)
        assert sorted(map(str, await contents(store))) == ["first", "second"]


@pytest.mark.filterwarnings("error::traceark.errors.SpoolPendingWarning")
async def test_what_is_acknowledged_is_shipped_and_the_spool_is_empty_after_it(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        assert store.url == url
        await record_run(store)
        before = await snapshot(store)
        await store.update_trace("t", status="completed")
    assert traces_in(spool) == []
    async with ArchiveStore(url) as store:
        assert await store.verify(deep=True) == []
        after = await snapshot(store)
        assert MANIFEST in await store.storage.list(trace_prefix("t"))
    assert {**after, "trace": None} == {**before, "trace": None}


async def test_without_the_archive_writing_goes_on_and_what_was_written_is_shipped_when_it_is_back(
    url: str, spool: Path, sky: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    sky.sky = "down"
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        for number in range(20):
            await store.add_message(said(number))
            await store.append_event(RUN, "at", number)
        await store.add_goal(RUN, Goal(id="1"))
        assert await contents(store) == list(range(20))
        with pytest.raises(SpoolPendingError, match=r"1 trace, 40 records.*Connection refused"):
            await store.flush(timeout=0.05)
        status = await store.spool_status()
        assert (status.traces, status.records) == (1, 40) and status.bytes > 0 and status.oldest is not None
        assert status.last_error is not None and "Connection refused" in status.last_error
        assert "not shipped" in caplog.text
        sky.sky = "fair"
        await store.flush()
        status = await store.spool_status()
        assert status.is_empty and status.shipped == 1 and status.last_error is None
        assert await at(url) == list(range(20))


async def test_an_archive_that_goes_away_in_the_middle_gets_the_rest_when_it_is_back(
    url: str, spool: Path, sky: Weather
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        for after in range(0, 120, 7):
            await store.add_message(said(after))
            sky.was_asked.clear()
            sky.down_after = sky.calls + after % 23
            await until(lambda: met_or_shipped(store, sky))
            sky.down_after, sky.sky = None, "fair"
        await store.flush()
        assert await at(url) == list(range(0, 120, 7))


async def met_or_shipped(store: ArchiveStore, sky: Weather) -> bool:
    return sky.was_asked.is_set() or await is_empty(store)


async def test_an_archive_that_hangs_keeps_nobody_from_writing(url: str, spool: Path, sky: Weather) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(said(0))
        sky.sky = "hanging"
        await store.add_message(said(1))
        # From here on a request waits for its answer, and gets none before all has been written.
        assert await asyncio.to_thread(sky.was_asked.wait, PATIENT_SECONDS)
        for number in range(2, 50):
            await store.add_message(said(number))
        await store.create_trace(Trace(trace_id="other"))
        await store.add_message(said("there", "other"))
        assert await contents(store) == list(range(50))
        assert sky.sky == "hanging"
        sky.sky = "fair"
        await store.flush()
    assert await at(url) == list(range(50))
    assert await at(url, "other") == ["there"]


async def test_closing_does_not_wait_for_an_archive_that_hangs(
    url: str, spool: Path, sky: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "_CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(background, "_CANCEL_SECONDS", 0.05)
    store = ArchiveStore(url, spool=spool)
    sky.sky = "hanging"
    await store.create_trace(Trace(trace_id=RUN))
    await store.add_message(said("kept"))
    with pytest.warns(SpoolPendingWarning, match="1 trace, 1 record.*traceark spool ship"):
        await store.close()
    sky.sky = "fair"
    await until(lambda: is_free(spool))
    assert (await ship(spool)).is_empty
    assert await at(url) == ["kept"]


async def is_free(spool: Path) -> bool:
    return not (await Place(spool).status()).is_shipping


async def test_closed_without_the_archive_it_says_so_and_the_next_store_ships(
    url: str, spool: Path, sky: Weather
) -> None:
    sky.sky = "down"
    store = ArchiveStore(url, spool=spool)
    await store.create_trace(Trace(trace_id=RUN))
    await store.add_message(said("kept"))
    with pytest.warns(SpoolPendingWarning, match="Connection refused"):
        await store.close()
    sky.sky = "fair"
    async with ArchiveStore(url, spool=spool) as again:
        await until(lambda: is_empty(again))
        assert await at(url) == ["kept"]
        await again.add_message(said("more"))
    assert await at(url) == ["kept", "more"]
    assert traces_in(spool) == []


async def is_empty(store: ArchiveStore) -> bool:
    return (await store.spool_status()).is_empty


async def test_reads_without_the_archive_see_the_spool_and_say_of_all_else_that_it_cannot_be_reached(
    url: str, spool: Path, sky: Weather
) -> None:
    async with ArchiveStore(url) as store:
        await record_run(store, "old")
    async with ArchiveStore(url, spool=spool) as store:
        await record_run(store, "new")
        sky.sky = "down"
        assert (await snapshot(store, "new"))["trace"] is not None
        assert (await store.get_message("new-0001", trace_id="new")) is not None
        for read in (
            store.get_trace("old"),
            store.get_trace_messages("old"),
            store.list_traces(),
            store.search("text"),
            store.sql("SELECT count(*) FROM messages"),
            store.get_message("old-0001"),
        ):
            with pytest.raises(StorageError, match=f"{url} cannot be reached.*spool"):
                await read
        sky.sky = "fair"


async def test_reads_see_both_and_nothing_twice(url: str, spool: Path) -> None:
    async with ArchiveStore(url) as store:
        for trace_id in ("old", "went-on"):
            await record_run(store, trace_id)
            await store.seal(trace_id)
        await store.optimize()
    async with ArchiveStore(url, spool=spool) as store:
        await store.add_message(said("text of the spool", "went-on"))
        await record_run(store, "new")
        await store.flush()
        await store.add_message(said("more text of the spool", "new"))
        counts = {trace.trace_id: trace.total_messages for trace in await store.list_traces()}
        assert counts == {"old": 8, "went-on": 9, "new": 9}
        found = await store.sql("SELECT trace_id, count(*) AS n FROM messages GROUP BY 1")
        assert {row["trace_id"]: row["n"] for row in found.rows()} == counts
        found = await store.sql("SELECT trace_id, total_messages AS n FROM traces")
        assert {row["trace_id"]: row["n"] for row in found.rows()} == counts
        assert {hit.trace_id for hit in await store.search("text of the spool")} == {"went-on", "new"}
        page = await store.traces(where="total_messages = 9", order_by="trace_id")
        assert [trace.trace_id for trace in page] == ["new", "went-on"]
        (row,) = (await store.stats("status")).rows()
        assert (row["runs"], row["messages"]) == (3, 26)
        assert (await store.get_message("old-0001")) == (await store.get_message("old-0001", trace_id="old"))
        assert (await store.get_message("went-on-0008")) is not None
        assert (await store.tree("went-on")).own.messages == 9


async def test_an_old_trace_is_fetched_to_be_written_to(url: str, spool: Path, sky: Weather) -> None:
    async with ArchiveStore(url) as store:
        await record_run(store)
        await store.update_trace("t", status="completed")
    before = await at(url, "t")
    async with ArchiveStore(url, spool=spool) as store:
        sky.sky = "down"
        with pytest.raises(StorageError, match="cannot be reached"):
            await store.add_message(said("late", "t"))
        assert await store.spool_status() == await store.spool_status()
        sky.sky = "fair"
        assert await store.add_message(said("late", "t")) == "t-0008"
        assert await store.append_event("t", "late", None) == 7
        with pytest.raises(TraceNotFoundError, match="absent"):
            await store.add_message(said("never", "absent"))
    assert await at(url, "t") == [*before, "late"]


async def test_a_trace_that_was_shipped_and_removed_is_written_to_as_if_it_were_not(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        for number in range(5):
            await store.add_message(said(number))
            await store.update_trace(RUN, status="completed")
            await store.seal(RUN)
            await store.flush()
            await remove(store)
            assert traces_in(spool) == []
            assert (await store.get_trace(RUN)) is not None
            assert await contents(store) == list(range(number + 1))
    assert await at(url) == [0, 1, 2, 3, 4]


async def remove(store: ArchiveStore) -> None:
    """Do now what the one who ships does when a trace lay still."""
    assert isinstance(store, spooled.SpooledStore)
    place = Place(Path(store.storage.url))
    async with ArchiveStore(place.directory) as spool, ArchiveStore(store.url) as target:
        await Shipper(place, spool, target).finish()


async def test_a_write_that_meets_the_removal_fetches_the_trace_again(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN, status="completed"))
        await store.add_message(said(0))
        real = OpenTrace.submit
        removed: list[int] = []

        async def late(trace: OpenTrace, request: Request) -> None:
            await store.flush()
            await remove(store)
            assert traces_in(spool) == []
            waiting = real(trace, request)
            if waiting is not None:
                await waiting

        def submit(self: OpenTrace, request: Request) -> asyncio.Future[None] | None:
            if removed:
                return real(self, request)
            removed.append(1)
            return asyncio.ensure_future(late(self, request))

        monkeypatch.setattr(OpenTrace, "submit", submit)
        assert await store.add_message(said(1)) == f"{RUN}-0002"
        assert removed
    assert await at(url) == [0, 1]


async def test_an_id_that_the_archive_holds_is_refused(url: str, spool: Path, sky: Weather) -> None:
    async with ArchiveStore(url) as store:
        await store.create_trace(Trace(trace_id=RUN))
    async with ArchiveStore(url, spool=spool) as store:
        with pytest.raises(TraceExistsError):
            await store.create_trace(Trace(trace_id=RUN))
        with pytest.raises(TraceExistsError):
            await store.add_trace(Trace(trace_id=RUN, status="completed"), [said("other")])


async def test_two_machines_that_wrote_apart_are_told_and_both_are_kept(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ArchiveStore(url) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(said("both"))
    one = ArchiveStore(url, spool=tmp_path / "one")
    other = ArchiveStore(url, spool=tmp_path / "other")
    for store in (one, other):
        assert await store._pool.fetch(RUN)  # type: ignore[attr-defined]
    for store, word in ((one, "one"), (other, "other")):
        await store.add_message(said(word))
        await store.flush()
    kept = (await other.spool_status()).kept_as
    assert list(kept) == [RUN] and kept[RUN].startswith(f"{RUN}.diverged-")
    assert "diverged" in caplog.text and kept[RUN] in caplog.text
    assert await contents(other) == ["both", "other"]
    await other.add_message(said("and more"))
    await one.close()
    await other.close()
    assert await at(url) == ["both", "one"]
    assert await at(url, kept[RUN]) == ["both", "other", "and more"]
    assert traces_in(tmp_path / "other") == []


async def test_a_full_disk_is_told_and_nothing_is_acknowledged(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(said("before"))
        await store.flush()

        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StorageError, match="No space left"):
                await store.add_message(said("lost"))
            assert await contents(store) == ["before"]
        await store.add_message(said("after"))
    assert await at(url) == ["before", "after"]


async def test_at_any_moment_the_archive_holds_a_true_earlier_state(url: str, spool: Path, sky: Weather) -> None:
    written: list[int] = []
    seen, states, grown = 0, 0, asyncio.Event()

    async def write(store: ArchiveStore) -> None:
        for number in range(120):
            written.append(number)
            await store.add_message(said(number))
            if number % 17 == 0:
                await store.compact(RUN)
            if number % 29 == 0:
                await store.seal(RUN)
            if number % 31 == 0:
                sky.down_after = sky.calls + 9
            if number % 11 == 0:
                await asyncio.sleep(0.01)
                sky.down_after, sky.sky = None, "fair"
            if number in (22, 55, 88):
                # However busy the machine is, it is read in between.
                grown.clear()
                await grown.wait()

    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        writing = asyncio.create_task(write(store))
        while not writing.done():
            try:
                found = await contents(ArchiveStore(url))
            except StorageError:
                await asyncio.sleep(0)
                continue
            assert found == written[: len(found)] and len(found) >= seen
            if len(found) > seen:
                seen, states = len(found), states + 1
                grown.set()
            await asyncio.sleep(0.001)
        await writing
        sky.down_after, sky.sky = None, "fair"
        await store.flush()
    assert states > 2
    assert await at(url) == list(range(120))


async def test_killed_at_any_request_it_goes_on_and_ends_with_the_same(url: str, spool: Path, sky: Weather) -> None:
    sky.sky = "down"
    store = ArchiveStore(url, spool=spool)
    await record_run(store)
    await record_run(store, "sealed")
    before = {trace_id: await snapshot(store, trace_id) for trace_id in ("t", "sealed")}
    await store.update_trace("sealed", status="completed")
    with pytest.warns(SpoolPendingWarning):
        await store.close()
    ended, count = False, 0
    while not ended:
        sky.sky, sky.down_after = "fair", sky.calls + count
        try:
            ended = (await ship(spool)).is_empty
        except StorageError as error:
            assert "Connection refused" in str(error)
        count += 1
        sky.sky, sky.down_after = "fair", None
        async with ArchiveStore(url) as target:
            for trace in await target.list_traces():
                there = await target.get_trace_messages(trace.trace_id)
                assert len(there) in (0, 8)
    assert count > 15
    assert traces_in(spool) == []
    async with ArchiveStore(url) as target:
        assert await target.verify(deep=True) == []
        assert await snapshot(target) == before["t"]
        assert (await snapshot(target, "sealed"))["messages"] == before["sealed"]["messages"]


async def test_what_the_archive_does_not_hold_as_it_is_here_is_never_removed(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await record_run(store)
        await store.seal("t")
        await store.flush()
        far = MemoryStorage(url.removeprefix("memory://"))
        prefix = trace_prefix("t")
        (part,) = [name for name in await far.list(prefix) if name.startswith("messages/") and name.endswith("parquet")]
        data = await far.read(f"{prefix}/{part}")
        await far.replace(f"{prefix}/{part}", data[:40] + bytes([data[40] ^ 1]) + data[41:])
        await remove(store)
        assert traces_in(spool) == ["t"]
        # Whoever comes last says it: the removal, or the shipping that goes on beside it.
        problem = (await store.spool_status()).problems["t"]
        assert part in problem and url in problem
        await far.replace(f"{prefix}/{part}", data)
        await remove(store)
        assert traces_in(spool) == []


async def test_what_is_deleted_is_deleted_at_the_archive_too(url: str, spool: Path, sky: Weather) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        for trace_id in ("shipped", "waiting", "unreached"):
            await store.create_trace(Trace(trace_id=trace_id))
        await store.flush()
        await store.delete_trace("shipped", reason="wrong")
        assert await store.get_trace("shipped") is None
        await store.pin("unreached")
        sky.sky = "down"
        with pytest.raises(StorageError, match="cannot be reached"):
            await store.delete_trace("unreached")
        assert (await store.spool_status()).deletions
        sky.sky = "fair"
        await store.flush()
        assert await store.get_trace("unreached") is None
        with pytest.raises(TraceNotFoundError):
            await store.delete_trace("absent")
    async with ArchiveStore(url) as target:
        assert [trace.trace_id for trace in await target.list_traces()] == ["waiting"]
        assert await target.pinned() == set()


async def test_what_was_flushed_is_at_the_archive_though_the_clock_went_back(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.flush()
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        for number in range(8):
            await store.add_message(said(number))
            await store.update_trace(RUN, task=f"task {number}")
            await store.flush(timeout=PATIENT_SECONDS)
            async with ArchiveStore(url) as target:
                assert await contents(target) == list(range(number + 1))
                told = await target.get_trace(RUN)
            assert told is not None and told.task == f"task {number}"


async def test_a_flush_ends_while_others_write_on(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        flushing = asyncio.ensure_future(store.flush(timeout=PATIENT_SECONDS))
        while not flushing.done():
            await store.add_message(said("more"))
            await store.update_trace(RUN, task=uuid4().hex)
        await flushing


async def test_a_flush_of_a_store_that_is_closed_before_all_is_shipped_says_so(
    url: str, spool: Path, sky: Weather
) -> None:
    store = ArchiveStore(url, spool=spool)
    await store.create_trace(Trace(trace_id=RUN))
    sky.sky = "down"
    await store.add_message(said("later"))
    flushing = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0.1)
    with pytest.warns(SpoolPendingWarning):
        await store.close()
    with pytest.raises(StoreClosedError, match="was closed before all was shipped"):
        await asyncio.wait_for(flushing, PATIENT_SECONDS)


def ended_run() -> tuple[Trace, list[Message]]:
    """Return a run that is the same whenever it is added."""
    at = "2026-01-01T00:00:00Z"
    message = {"trace_id": RUN, "message_id": "m", "role": "user", "content": "again", "created_at": at}
    return Trace.parse({"trace_id": RUN, "status": "completed", "created_at": at}), [Message.parse(message)]


@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_run_that_was_deleted_may_be_added_again(url: str, spool: Path, where: str) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        for _ in range(3):
            await store.add_trace(*ended_run())
            await store.flush(timeout=PATIENT_SECONDS)
            assert await at(url) == ["again"]
            if where == "there":
                await until_removed(store, spool)
                async with ArchiveStore(url) as target:
                    await target.delete_trace(RUN)
            else:
                await store.delete_trace(RUN)
        await store.add_trace(*ended_run())
    assert traces_in(spool) == [] and list((spool / "anew").iterdir()) == []
    async with ArchiveStore(url) as target:
        assert [trace.trace_id for trace in await target.list_traces()] == [RUN]
    assert await at(url) == ["again"]


async def until_removed(store: ArchiveStore, spool: Path) -> None:
    async def removed() -> bool:
        await remove(store)
        return traces_in(spool) == []

    await until(removed)


async def test_a_run_that_was_added_again_is_shipped_by_the_next_process(url: str, spool: Path, sky: Weather) -> None:
    async with ArchiveStore(url) as target:
        await target.add_trace(*ended_run())
        await target.delete_trace(RUN)
    sky.sky = "down"
    with pytest.warns(SpoolPendingWarning):
        async with ArchiveStore(url, spool=spool) as store:
            await store.add_trace(*ended_run())
    sky.sky = "fair"
    assert (await ship(spool)).is_empty
    assert await at(url) == ["again"]


async def test_a_run_that_others_deleted_does_not_come_back(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.add_trace(*ended_run())
        await store.flush()
        async with ArchiveStore(url) as target:
            await target.delete_trace(RUN)
        with pytest.raises(TraceExistsError):
            await store.add_trace(*ended_run())
        await store.update_trace(RUN, task="more")
        with pytest.raises(SpoolPendingError, match="it was deleted at"):
            await store.flush(timeout=PATIENT_SECONDS)
        await store.delete_trace(RUN)
        await store.flush()
    async with ArchiveStore(url) as target:
        assert await target.get_trace(RUN) is None


async def test_a_write_to_a_trace_whose_deletion_is_pending_is_refused(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.flush()

        async def denied(*_: Any) -> list[str]:
            raise StorageError(errno.EACCES, "AccessDenied")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryStorage, "delete_unchanged", denied)
            with pytest.raises(StorageError, match="AccessDenied"):
                await store.delete_trace(RUN)
            for _ in range(2):
                with pytest.raises(TraceNotFoundError, match="still to be deleted at"):
                    await asyncio.wait_for(store.add_message(said("late")), PATIENT_SECONDS)
        await store.flush()
        with pytest.raises(TraceNotFoundError):
            await store.add_message(said("late"))


async def test_a_spool_is_of_one_archive(url: str, spool: Path, tmp_path: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
    with pytest.raises(SpoolError, match=f"is the spool of {url}, and not of memory://elsewhere"):
        ArchiveStore("memory://elsewhere", spool=spool)
    async with ArchiveStore(tmp_path / "archive") as store:
        await store.create_trace(Trace(trace_id=RUN))
    with pytest.raises(SpoolError, match="is an archive and no spool"):
        ArchiveStore(url, spool=tmp_path / "archive")
    for place in (spool, spool / "below", tmp_path):
        with pytest.raises(SpoolError, match="one lies in the other"):
            ArchiveStore(place, spool=spool)
    with pytest.raises(InvalidValueError, match="a directory on a local disk"):
        ArchiveStore(url, spool="s3://bucket/spool")

    class Other(ArchiveStore):
        pass

    with pytest.raises(InvalidValueError, match="Other has no spool"):
        Other(url, spool=spool)
    with pytest.raises(InvalidValueError, match="no spool"):
        await ArchiveStore(url).spool_status()
    with pytest.raises(SpoolError, match="is no spool"):
        await ship(tmp_path / "nothing")
    assert "secret" not in (spool / "spool.json").read_text()


async def test_an_archive_on_a_disk_may_have_a_spool_too(spool: Path, tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path / "far", spool=spool) as store:
        await record_run(store)
        before = await snapshot(store)
    assert traces_in(spool) == []
    async with ArchiveStore(tmp_path / "far") as store:
        assert await snapshot(store) == before
        assert await store.verify(deep=True) == []


async def test_the_store_with_a_spool_is_not_synced_but_the_archives_are(url: str, spool: Path, tmp_path: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store, ArchiveStore(tmp_path / "backup") as other:
        with pytest.raises(InvalidValueError, match="has a spool"):
            await sync(store, other)


async def test_the_spool_is_an_archive_that_can_be_synced_by_hand(url: str, spool: Path, sky: Weather) -> None:
    sky.sky = "down"
    store = ArchiveStore(url, spool=spool)
    await record_run(store)
    before = await snapshot(store)
    with pytest.warns(SpoolPendingWarning):
        await store.close()
    sky.sky = "fair"
    async with ArchiveStore(spool) as one, ArchiveStore(url) as other:
        assert await one.verify(deep=True) == []
        assert (await sync(one, other)).outcomes == {"new": 1}
        assert await snapshot(other) == before
    assert (await ship(spool)).is_empty
    assert traces_in(spool) == []


def test_the_facade_has_it_too(url: str, spool: Path) -> None:
    with traceark.open(url, spool=spool) as archive:
        archive.create_trace(Trace(trace_id=RUN))
        archive.add_message(said("hi"))
        archive.flush(timeout=PATIENT_SECONDS)
        assert archive.spool_status().is_empty
    with traceark.open(url) as archive:
        assert [message.content for message in archive.get_trace_messages(RUN)] == ["hi"]


async def test_two_stores_share_a_spool_and_the_second_goes_on_shipping(url: str, spool: Path) -> None:
    one, other = ArchiveStore(url, spool=spool), ArchiveStore(url, spool=spool)
    await one.create_trace(Trace(trace_id=RUN))
    for number in range(10):
        await (one, other)[number % 2].add_message(said(number))
    await other.flush()
    assert await at(url) == list(range(10))
    await one.close()
    assert traces_in(spool) == [RUN]
    await other.add_message(said(10))
    await other.flush()
    assert await at(url) == list(range(11))
    await other.close()
    assert traces_in(spool) == []


async def test_a_long_trace_is_shipped_in_parts_so_that_more_of_it_costs_no_more(
    url: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_SEGMENT_BYTES", 10_000)
    sizes: list[int] = []
    real = MemoryStorage.replace

    async def replace(self: MemoryStorage, key: str, data: bytes, version: str | None = None) -> str:
        sizes.append(len(data))
        return await real(self, key, data, version)

    monkeypatch.setattr(MemoryStorage, "replace", replace)
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        for number in range(40):
            await store.add_message(said(f"{number}" * 1000))
            if number % 2:
                await store.flush()
        names = await MemoryStorage(url.removeprefix("memory://")).list(f"{trace_prefix(RUN)}/messages")
        assert sum(name.endswith(".parquet") for name in names) > 3
        assert max(sizes) < 20_000
    assert len(await at(url)) == 40


async def test_two_machines_that_ship_the_same_trace_at_the_same_time_damage_nothing(url: str, tmp_path: Path) -> None:
    for attempt in range(tried(2, 40, 100)):
        run = f"run-{attempt}"
        async with ArchiveStore(url) as store:
            await store.create_trace(Trace(trace_id=run))
            await store.add_message(said("both", run))
        one, other = (ArchiveStore(url, spool=tmp_path / f"{name}-{attempt}") for name in ("one", "other"))
        for each in (one, other):
            await each.__aenter__()
            assert await each._pool.fetch(run)  # type: ignore[attr-defined]
        with meeting():
            await asyncio.gather(one.add_message(said("one", run)), other.add_message(said("other", run)))
            await asyncio.gather(one.flush(), other.flush())
        kept = {**(await one.spool_status()).kept_as, **(await other.spool_status()).kept_as}
        await asyncio.gather(one.close(), other.close())
        (aside,) = kept.values()
        assert {(await at(url, run))[1], (await at(url, aside))[1]} == {"one", "other"}


async def test_a_removal_that_was_killed_is_finished(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await record_run(store)
        await store.flush()
        (spool / trace_prefix("t") / HEADER).unlink()
        (spool / "traces" / "begun" / "messages").mkdir(parents=True)
        assert len(await contents(store, "t")) == 8
    assert traces_in(spool) == []
    assert len(await at(url, "t")) == 8


async def test_a_spool_on_a_full_disk_is_shipped_when_there_is_room_again(
    url: str, spool: Path, sky: Weather, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        sky.sky = "down"
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(said("kept"))

        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def complained() -> bool:
            return "No space left" in caplog.text

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            sky.sky = "fair"
            await until(complained)
        await store.flush()
    assert await at(url) == ["kept"]


async def test_a_tombstone_beside_its_trace_deletes_nothing_at_the_archive(url: str, spool: Path) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(said("kept"))
        await store.flush()
        header = json.loads((spool / trace_prefix(RUN) / HEADER).read_text())
        tombstone = Tombstone(RUN, header["_incarnation"], HEADER, "0" * 64)
        await store.storage.replace(tombstone.key, tombstone.encode())
        await store.add_message(said("and more"))
        await store.flush()
    assert traces_in(spool) == []
    assert (await ship(spool)).is_empty
    assert await at(url) == ["kept", "and more"]


async def test_what_is_of_one_archive_alone_is_refused(tmp_path: Path) -> None:
    async with ArchiveStore("memory://alone", spool=tmp_path / "spool") as store:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.raises(InvalidValueError, match="each by itself"):
            await redact(store)
        with pytest.raises(InvalidValueError, match="each by itself"):
            await store.verify(resume=tmp_path / "progress")
        with pytest.raises(InvalidValueError, match="each by itself"):
            await pack(store, tmp_path / "runs.zip")
        with pytest.raises(InvalidValueError, match="each by itself"):
            await unpack(tmp_path / "runs.zip", store)
        async with ArchiveStore("memory://other") as other:
            with pytest.raises(InvalidValueError, match="each by itself"):
                await sync(store, other)
    assert not (tmp_path / "runs.zip").exists()


async def test_refresh_tells_what_writes_left_in_the_spool(
    spool: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ArchiveStore(url, spool=spool) as store:
        await store.create_trace(Trace(trace_id="t"))
        left = spool / f".tmp-{7:016x}"
        left.write_bytes(b"cut short")
        assert (await store.refresh()).leftovers == 0 and left.exists()
        monkeypatch.setattr(keeping, "_LEFTOVER_SECONDS", -1.0)
        # What is being shipped just now may have one too.
        assert (await store.refresh()).leftovers >= 1 and not left.exists()


async def test_repair_mends_what_is_in_the_spool_and_what_is_there(tmp_path: Path) -> None:
    async with ArchiveStore("memory://mended", spool=tmp_path / "spool", record_changes=True) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content="hi"))
        await store.flush()
        assert [event.event_type for event in await store.get_events("t")][-1] == "message.added"
        report = await store.repair()
        assert (report.traces >= 1, report.mended, report.left) == (True, [], [])
        assert (await store.repair(["t"])).traces == 1
