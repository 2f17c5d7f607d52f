"""An error at every single call that changes the disk.

What fails is refused with an error of this package, and what was acknowledged is there: in the store that goes
on, and for whoever opens the archive afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from profiles import THOROUGH, points, some, tried
from shell import run
from sync_workload import SEALED, SYNCS, WAYS, Held, completed, files, found, make, promised, synced, trace_of
from traceark.errors import StorageError, TracearkError, TraceNotFoundError
from traceark.layout import HEADER, LOCK, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.storage import syncing
from traceark.storage.local_files import LocalAppender, LocalLock
from traceark.store import ArchiveStore
from traceark.testing.calls import Call, Recorder, Watcher, watched
from traceark.testing.disk import Disk, lay_out
from traceark.testing.ledger import Ledger
from workload import TRACES, damage, goes_on, recovered, sums_up, work

# What the system may answer. A sync and a close fail for what was written long before.
ERRORS = {
    "create": (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE, errno.EIO),
    "mkdir": (errno.ENOSPC, errno.EACCES, errno.EROFS),
    "link": (errno.ENOSPC, errno.EROFS, errno.EIO),
    "rename": (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES),
    "unlink": (errno.EACCES, errno.EROFS, errno.EIO),
    "rmdir": (errno.EACCES, errno.EROFS),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "pwrite": (errno.ENOSPC, errno.EIO),
    "ftruncate": (errno.EIO,),
    "fsync": (errno.EIO, errno.ENOSPC),
    "fdatasync": (errno.EIO, errno.ENOSPC),
    "syncfs": (errno.EIO, errno.ENOSPC),
    "close": (errno.EIO,),
}


class Fault(Watcher):
    """Makes one call fail, or it and all that would write after it.

    Parameters
    ----------
    at : int
        Which call, from 1.
    which : int
        Which of the errors that such a call may have.
    half : bool
        Of a write, half is written before it fails.
    lasting : bool
        All later calls but closing fail too.
    name : str
        Only calls of this name count, if one is given.
    """

    def __init__(self, at: int, which: int = 0, *, half: bool = False, lasting: bool = False, name: str = "") -> None:
        self.count = 0
        self.hit: Call | None = None
        self._at = at
        self._which = which
        self._half = half
        self._lasting = lasting
        self._name = name
        self._mutex = threading.Lock()

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        with self._mutex:
            if call.name != (self._name or call.name):
                return do()
            self.count += 1
            fails = self.count == self._at or (self._lasting and self.count > self._at and call.name != "close")
            if not fails:
                return do()
            self.hit = self.hit or call
            if call.name == "close":
                do()
            elif self._half and call.name == "write":
                do(len(call.data) // 2)
        errors = ERRORS[call.name]
        error = errors[self._which % len(errors)]
        raise OSError(error, os.strerror(error))


def is_told(error: Exception) -> bool:
    """Say whether an error is this package's, or a group of such."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_told, error.exceptions))
    return isinstance(error, TracearkError)


async def met(folder: Path, fault: Fault, ledger: Ledger) -> list[str]:
    """Go through the workload with a fault; return what is wrong in the store that met it."""
    store = ArchiveStore(folder / "archive")
    with watched(folder, fault):
        failed = await work(store, ledger)
    return [f"not told: {each!r}" for each in failed if not is_told(each)]


async def reopened(folder: Path, ledger: Ledger) -> list[str]:
    """Return what is wrong for whoever opens the archive afterwards."""
    if not (folder / "archive").is_dir():
        return ledger.faults({}, at=0)
    reader = ArchiveStore(folder / "archive")
    faults = ledger.faults(await recovered(reader), at=0)
    await sums_up(reader)
    faults += damage(await reader.verify(deep=True))
    await reader.close()
    await goes_on(ArchiveStore(folder / "archive", durability="os"))
    after = ArchiveStore(folder / "archive")
    faults += [f"afterwards: {each}" for each in damage(await after.verify(deep=True))]
    await after.close()
    return faults


FaultT = TypeVar("FaultT", bound=Fault)


def at_each_call(
    folder: Path, make: Callable[[int], FaultT], faults_of: Callable[[Path, FaultT], list[str]], step: int
) -> Iterator[str]:
    """Yield what is wrong without a fault, which tells how many calls there are, and after one at one in so many."""

    def after(at: int) -> tuple[FaultT, list[str]]:
        fault, root = make(at), folder / str(at)
        root.mkdir()
        try:
            faults = faults_of(root, fault)
        except Exception as error:  # whatever goes wrong is what is looked for
            faults = [repr(error)]
        shutil.rmtree(root)
        what = f"call {at} ({fault.hit.name} {fault.hit.path})" if fault.hit else "no fault"
        return fault, [f"{what}: {each}" for each in faults]

    none, faults = after(sys.maxsize)
    yield from faults
    hits = 0
    for at in points(none.count, step):
        fault, faults = after(at)
        yield from faults
        hits += fault.hit is not None
    assert hits, "no fault was met"


def wrong(folder: Path, make: Callable[[int], Fault], *, step: int) -> Iterator[str]:
    """Yield what is wrong after a fault at each call of the workload in turn."""

    def faults_of(root: Path, fault: Fault) -> list[str]:
        ledger = Ledger(now=lambda: 0)
        return asyncio.run(met(root, fault, ledger)) + asyncio.run(reopened(root, ledger))

    yield from at_each_call(folder, make, faults_of, step)


def test_an_error_loses_nothing_and_is_told(tmp_path: Path) -> None:
    step = tried(499, 29, 4)
    assert list(wrong(tmp_path, lambda at: Fault(at, at // step), step=step)) == []


def test_half_a_write_loses_nothing_and_is_told(tmp_path: Path) -> None:
    assert list(wrong(tmp_path, lambda at: Fault(at, half=True, name="write"), step=tried(31, 5, 1))) == []


@pytest.mark.parametrize("header_is_gone", [False, True])
async def test_a_deletion_that_was_cut_short_after_it_marked_the_lock_stops_no_writer(
    tmp_path: Path, header_is_gone: bool
) -> None:
    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user"))
        directory = tmp_path / trace_prefix("t")
        (directory / LOCK).write_bytes(b"%-20d\n" % -1)
        if header_is_gone:
            (directory / HEADER).unlink()
            with pytest.raises(TraceNotFoundError):
                await asyncio.wait_for(store.add_message(Message(trace_id="t", role="user")), 60)
            await store.create_trace(Trace(trace_id="t"))
        await asyncio.wait_for(store.add_message(Message(trace_id="t", role="user")), 60)
        assert len(await store.get_trace_messages("t")) == (1 if header_is_gone else 2)
        assert await store.verify("t", deep=True) == []


def test_a_disk_that_stays_full_or_read_only_loses_nothing(tmp_path: Path) -> None:
    assert list(wrong(tmp_path, lambda at: Fault(at, at % 3, lasting=True), step=tried(499, 43, 12))) == []


@pytest.mark.parametrize("failing", range(3))
async def test_who_could_not_tell_others_of_a_new_segment_does_not_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Another writer, who was told nothing, would go on at the same offsets elsewhere."""
    here, there = ArchiveStore(tmp_path), ArchiveStore(tmp_path)
    await here.create_trace(Trace(trace_id="t"))
    await here.add_message(Message(trace_id="t", role="user", content=1))
    await here.compact("t")
    await there.update_trace("t", task="both know where it ends")
    real, left = LocalLock.bump, [failing]

    def bump(self: LocalLock, *, deleted: bool = False) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise StorageError(errno.ENOSPC, "no space left")
        real(self, deleted=deleted)

    monkeypatch.setattr(LocalLock, "bump", bump)
    said = [1]
    for content, store in enumerate([here, here, there, here, there], 2):
        with suppress(StorageError):
            await store.add_message(Message(trace_id="t", role="user", content=content))
            said.append(content)
    with suppress(StorageError):
        await here.add_goal("t", Goal(id="1"))
    monkeypatch.undo()
    for store in (here, there, ArchiveStore(tmp_path)):
        assert [each.content for each in await store.get_trace_messages("t")] == said
        await store.close()
    assert len(said) >= 5
    assert await ArchiveStore(tmp_path).verify(deep=True) == []


def test_an_error_that_is_swallowed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(self: LocalAppender, data: bytes) -> None:
        with suppress(StorageError):
            real(self, data)
        self.size = self.current_size() or 0

    real = LocalAppender.append
    monkeypatch.setattr(LocalAppender, "append", append)
    assert next(wrong(tmp_path, lambda at: Fault(at, name="write"), step=tried(3, 1)), None)


class RecordedFault(Fault):
    """A fault that keeps the calls that succeed all the same."""

    def __init__(self, at: int, which: int = 0, *, lasting: bool = False, name: str = "") -> None:
        super().__init__(at, which, lasting=lasting, name=name)
        self.seen = Recorder()

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        return super().around(call, lambda: self.seen.around(call, do))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return make(tmp_path_factory.mktemp("sync"))


async def faults_of_sync(held: Held, root: Path, way: str, fault: RecordedFault, ledger: Ledger) -> list[str]:
    """Sync with a fault; return what is wrong at the target, then and after the sync that is repeated."""
    target, disk, faults, acknowledged = root / "target", Disk.of(root), list[str](), set[str]()
    try:
        with watched(root, fault):
            report = await synced(held.source, target, WAYS[way])
        acknowledged = {each.trace_id for each in report.traces if each.outcome in ("new", "forward")}
        told = report.problems
        if report.is_clean:
            acknowledged = {*SEALED, *TRACES}
        elif not told:
            faults.append(f"not told why it is not clean: {report.to_json()}")
    except Exception as error:
        told = [str(error)]
        faults += [] if is_told(error) else [f"not told: {error!r}"]
    faults += [f"it is not told of what: {each}" for each in told if str(target) not in each]
    for call in fault.seen.calls:
        disk.take(call)
    for at, state in enumerate([None, *disk.states(samples=0, singly=THOROUGH)]):
        left = target
        if state is not None:
            left = root / str(at) / "target"
            lay_out(state, left.parent)
        faults += [f"state {at}: {each}" for each in await _left(held, left, acknowledged, ledger)]
    return faults + await completed(held, target, WAYS[way])


async def _left(held: Held, target: Path, acknowledged: set[str], ledger: Ledger) -> list[str]:
    there: dict[Hashable, object] = {}
    faults = []
    if target.is_dir():
        async with ArchiveStore(target) as store:
            there = await found(store)
            faults += damage(await store.verify(deep=True))
    wanted = {thing: value for thing, value in held.things.items() if trace_of(thing) in acknowledged}
    faults += [f"acknowledged, and not there: {thing}" for thing in wanted if there.get(thing) != wanted[thing]]
    return faults + ledger.faults(there, at=0)


def wrong_in_a_sync(
    folder: Path, held: Held, way: str, make_fault: Callable[[int], RecordedFault], *, is_known: bool, step: int
) -> Iterator[str]:
    """Yield what is wrong after a fault at each call of a sync in turn."""
    as_it_was, moment = files(held.source), 0
    ledger = Ledger(now=lambda: moment)
    with promised(ledger, is_known=is_known):
        moment = 1

    def faults_of(root: Path, fault: RecordedFault) -> list[str]:
        if is_known:
            shutil.copytree(held.before, root / "target")
        return asyncio.run(faults_of_sync(held, root, way, fault, ledger))

    yield from at_each_call(folder, make_fault, faults_of, step)
    assert files(held.source) == as_it_was


@pytest.mark.parametrize(("way", "is_known"), some(SYNCS, 2))
def test_an_error_in_a_sync_is_told_and_takes_no_trace(tmp_path: Path, held: Held, way: str, is_known: bool) -> None:
    step = tried(433, 29, 2)
    found = wrong_in_a_sync(tmp_path, held, way, lambda at: RecordedFault(at, at // step), is_known=is_known, step=step)
    assert list(found) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_stays_full_or_read_only_in_a_sync_is_told_and_takes_no_trace(
    tmp_path: Path, held: Held, way: str
) -> None:
    def lasting(at: int) -> RecordedFault:
        return RecordedFault(at, at % 3, lasting=True)

    assert list(wrong_in_a_sync(tmp_path, held, way, lasting, is_known=way == "each", step=tried(797, 97, 4))) == []


@pytest.mark.parametrize("name", ["mkdir", "create", "write", "fsync"])
def test_the_verb_that_syncs_onto_a_failing_disk_says_which_file_and_exits_with_1(
    tmp_path: Path, held: Held, name: str
) -> None:
    target = tmp_path / "target"
    shutil.copytree(held.before, target)
    with watched(target, RecordedFault(1, lasting=True, name=name)):
        result = run("sync", held.source, target)
    assert result.exit_code == 1 and str(target) in result.stderr, result.stderr
    assert asyncio.run(completed(held, target, WAYS["each"])) == []
    assert run("sync", held.source, target).exit_code == 0


def test_an_error_of_syncing_a_file_system_that_is_swallowed_is_found(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_file_system(path: Path) -> None:
        with suppress(OSError):
            real(path)

    real = syncing.sync_file_system
    monkeypatch.setattr("traceark.sync.disk.sync_file_system", sync_file_system)
    found = wrong_in_a_sync(tmp_path, held, "once", lambda at: RecordedFault(at, name="syncfs"), is_known=False, step=1)
    assert "syncfs" in str(next(found, None))
