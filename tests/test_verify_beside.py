"""Verify and repair beside those who write: what is found wrong is wrong, however the listing has aged."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from damages import make_archive
from profiles import SEED, tried
from program import Program
from traceark.layout import HEADER, LOCK, TOMBSTONES, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.reading import scan_readable
from traceark.repair import RepairReport
from traceark.storage import storage_for
from traceark.storage.base import Entry, Storage
from traceark.store import ArchiveStore
from traceark.verification import Finding, settling

Change = Callable[[ArchiveStore, Path], Awaitable[object]]


async def _go_on(store: ArchiveStore, archive: Path) -> None:
    await store.add_message(Message(trace_id="live", role="user", content="late"))
    await store.flush()
    await store.compact("live")


async def _delete(store: ArchiveStore, archive: Path) -> None:
    await store.delete_trace("live")


async def _begin_to_delete(store: ArchiveStore, archive: Path) -> None:
    await store.delete_trace("live")
    # What is left for a moment.
    left = archive / trace_prefix("live") / "messages"
    left.mkdir(parents=True)
    (left / "000000000001-5f3a9c21.jsonl").write_bytes(b"")

    async def finish() -> None:
        await asyncio.sleep(0.05)
        shutil.rmtree(left.parent)

    store.finishing = asyncio.create_task(finish())  # type: ignore[attr-defined]


CHANGES: dict[str, Change] = {
    "written to": _go_on,
    "sealed": lambda store, _: store.seal("live"),
    "deleted": _delete,
    "being deleted": _begin_to_delete,
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    make_archive(tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture(params=CHANGES)
def aged(request: pytest.FixtureRequest, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the trace after all have been listed, and before it is looked at."""

    async def change() -> None:
        async with ArchiveStore(archive, durability="os") as store:
            await CHANGES[request.param](store, archive)

    async def listed(storage: Storage) -> tuple[dict[str, dict[str, Entry]], list[str], dict[str, str]]:
        found = await scan_readable(storage)
        await change()
        return found

    monkeypatch.setattr("traceark.repair.run.scan_readable", listed)
    monkeypatch.setattr("traceark.verification.run.scan_readable", listed)


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("deep", [False, True])
async def test_a_trace_that_changes_after_it_was_listed_has_no_findings(archive: Path, deep: bool) -> None:
    assert await ArchiveStore(archive).verify(deep=deep) == []


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_trace_that_changes_after_it_was_listed_is_not_repaired(archive: Path, dry_run: bool) -> None:
    report = await ArchiveStore(archive, durability="os").repair(dry_run=dry_run)
    assert (report.mended, report.left) == ([], [])


async def test_a_trace_that_somebody_holds_is_looked_at_again(archive: Path) -> None:
    store = ArchiveStore(archive)
    header = archive / trace_prefix("live") / HEADER
    whole = header.read_bytes()
    header.unlink()
    lock = store.storage.lock(f"{trace_prefix('live')}/{LOCK}")  # type: ignore[attr-defined]
    assert lock.try_acquire()
    checking = asyncio.create_task(store.verify())
    await asyncio.sleep(0.2)
    header.write_bytes(whole)
    lock.close()
    assert await checking == []


async def test_a_trace_that_takes_somebody_long_to_make_is_a_note(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_LOOKS", 2)
    store = ArchiveStore(archive)
    (archive / trace_prefix("live") / HEADER).unlink()
    lock = store.storage.lock(f"{trace_prefix('live')}/{LOCK}")  # type: ignore[attr-defined]
    assert lock.try_acquire()
    for named in ("live", None):
        [note] = [each for each in await store.verify(named) if each.trace_id == "live"]
        assert note.is_note and note.file.endswith(HEADER) and "somebody is making the trace" in note.meaning
    for dry_run in (True, False):
        report = await store.repair(["live"], dry_run=dry_run)
        assert not report.mended and [(each.is_note, each.meaning) for each in report.left] == [(True, note.meaning)]
    lock.close()
    assert not any(each.is_note for each in await store.verify("live"))
    assert (await store.repair(["live"])).mended


async def test_what_stays_wrong_is_found_though_somebody_goes_on_writing(archive: Path) -> None:
    store, is_done = ArchiveStore(archive, durability="os"), False
    strange = archive / trace_prefix("live") / "notes.txt"
    strange.write_text("mine")

    async def go_on() -> None:
        while not is_done:
            await store.append_event("live", "more")
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(go_on())
    [finding] = await ArchiveStore(archive).verify("live")
    is_done = True
    await writing
    assert finding.file == f"{trace_prefix('live')}/notes.txt"


async def test_a_lock_that_is_the_last_to_go_ends_a_deletion(archive: Path) -> None:
    storage, prefix = storage_for(str(archive), None, "os"), trace_prefix("going")
    (archive / prefix).mkdir()
    (archive / prefix / LOCK).touch()
    seen = settling.looks(storage, prefix, await storage.list(prefix))
    assert list(await anext(seen)) == [LOCK]
    shutil.rmtree(archive / prefix)
    assert await anext(seen) == {}


@pytest.mark.parametrize("place", [f"{trace_prefix('live')}/messages", trace_prefix("sealed"), TOMBSTONES])
async def test_a_write_that_goes_on_is_no_finding_and_one_that_was_interrupted_is(
    archive: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (archive / place).mkdir(exist_ok=True)
    (archive / place / ".tmp-0011223344556677").write_bytes(b"half")
    assert await ArchiveStore(archive).verify(deep=True) == []
    monkeypatch.setattr(settling, "WRITE_SECONDS", 0.0)
    [finding] = await ArchiveStore(archive).verify(deep=True)
    assert finding.file == f"{place}/.tmp-0011223344556677"


async def _write(url: str, name: str) -> None:
    async with ArchiveStore(url, durability="os") as store:
        for at in range(tried(15, 250, 1000)):
            trace_id = f"{name}-{at}"
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_goal(trace_id, Goal(id="1"))
            for number in range((at * 7 + SEED) % 9):
                await store.add_message(Message(trace_id=trace_id, role="user", content=number, goal_id="1"))
            if at % 3 == 0:
                await store.compact(trace_id)
            await store.update_trace(trace_id, status="completed")
            if at % 4 == 0:
                await store.add_message(Message(trace_id=trace_id, role="user", content="late"))
            if at % 5 == 0:
                await store.delete_trace(trace_id)


async def test_nothing_is_found_wrong_beside_two_processes_that_write(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="first"))
    writers = [Program(__file__, tmp_path, each) for each in "ab"]
    found: list[Finding] = []
    reports: list[RepairReport] = []
    while any(each.poll() is None for each in writers):
        for deep in (False, True):
            found += await ArchiveStore(tmp_path).verify(deep=deep)
        reports.append(await ArchiveStore(tmp_path).repair(dry_run=False))
        await asyncio.sleep(0.01)
    assert [each.wait() for each in writers] == [0, 0]
    assert [each for each in found if not each.is_note] == []
    assert [each for report in reports for each in (*report.mended, *report.left)] == []
    assert await ArchiveStore(tmp_path).verify(deep=True) == []


if __name__ == "__main__":
    given: Any = sys.argv[1:]
    asyncio.run(_write(*given))
