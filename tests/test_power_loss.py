"""A loss of power at any moment: every subset of what was not synced may be gone.

The calls of a workload are recorded; after each of them the disk's possible states are laid out, opened and
judged by the ledger: acknowledged ⊆ recovered ⊆ attempted, sums equal to a recount, every cursor goes on, and
nothing found by `verify` but what a loss of power leaves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

import traceark
from profiles import SEED, THOROUGH, points, some, tried
from sync_workload import SYNCS, WAYS, Held, completed, files, found, make, promised, synced
from traceark.errors import IncompleteTraceError, StorageError, StoreClosedError, TraceExistsError
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.models import Goal, Message, Trace
from traceark.storage.base import Durability
from traceark.storage.local_files import LocalAppender
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions
from traceark.testing.calls import Call, Recorder, watched
from traceark.testing.disk import Disk, lay_out
from traceark.testing.ledger import Ledger
from traceark.testing.places import snapshot
from workload import damage, goes_on, recovered, sums_up, work

SAMPLES = Path(traceark.__file__).parent / "samples"
Answer = TypeVar("Answer")
Recorded = tuple[list[Call], Ledger]


def recorded(folder: Path, durability: Durability) -> Recorded:
    """Return the calls of the workload, and its ledger; moments are numbers of calls."""
    seen = Recorder()
    ledger = Ledger(now=lambda: len(seen.calls))
    folder.mkdir()
    with watched(folder, seen):
        assert asyncio.run(work(ArchiveStore(folder / "archive", durability=durability), ledger)) == []
    return seen.calls, ledger


def states(calls: list[Call], disk: Disk, step: int, samples: int) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield what a loss of power may leave of a disk, after every so many calls, with how many there were."""
    moments = 0
    for at, call in enumerate(calls, 1):
        disk.take(call)
        if call.name == "close":
            continue  # it changes nothing
        moments += 1
        if moments % step == SEED % step or at == len(calls):
            for state in disk.states(samples, seed=SEED + at, singly=THOROUGH):
                yield at, state


async def judged(root: Path, ledger: Ledger, at: int) -> list[str]:
    """Return what is wrong with an archive after a loss of power at a call."""
    if not (root / "archive").is_dir():
        return ledger.faults({}, at)
    reader = ArchiveStore(root / "archive")
    faults = ledger.faults(await recovered(reader), at)
    await sums_up(reader)
    faults += damage(await reader.verify(deep=True))
    await reader.close()
    await goes_on(ArchiveStore(root / "archive", durability="os"))
    after = ArchiveStore(root / "archive")
    faults += [f"afterwards: {each}" for each in damage(await after.verify(deep=True))]
    await after.close()
    return faults


async def reads(root: Path) -> list[str]:
    """Return what is wrong with an archive that may have lost something: it may say that, and what it says is so."""
    if not (root / "archive").is_dir():
        return []
    reader = ArchiveStore(root / "archive")
    try:
        await recovered(reader)
        await sums_up(reader)
    except IncompleteTraceError:
        return []
    finally:
        await reader.close()
    return []


def faults(
    folder: Path,
    calls: list[Call],
    judge: Callable[[Path, int], Awaitable[list[str]]],
    *,
    step: int,
    samples: int,
    disk: Disk | None = None,
) -> Iterator[str]:
    """Yield what is wrong after losses of power, and at which call."""
    runs = 0
    for at, state in states(calls, disk or Disk(), step, samples):
        runs += 1
        root = folder / str(runs)
        root.mkdir()
        lay_out(state, root)
        try:
            found = asyncio.run(_awaited(judge(root, at)))
        except Exception as error:  # whatever goes wrong is what is looked for
            found = [repr(error)]
        for each in found:
            yield f"call {at} ({calls[at - 1].name} {calls[at - 1].path}), state {runs}: {each}"
        shutil.rmtree(root, ignore_errors=True)
    assert runs > len(calls) // step // 2


async def _awaited(found: Awaitable[Answer]) -> Answer:
    return await found


def test_a_loss_of_power_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    calls, ledger = recorded(tmp_path / "recorded", "fsync")
    found = faults(
        tmp_path, calls, lambda root, at: judged(root, ledger, at), step=tried(353, 29, 4), samples=tried(1, 2)
    )
    assert list(found) == []


def test_with_durability_os_nothing_that_is_left_is_wrong(tmp_path: Path) -> None:
    calls, _ = recorded(tmp_path / "recorded", "os")
    found = faults(tmp_path, calls, lambda root, at: reads(root), step=tried(211, 29, 4), samples=tried(1, 2))
    assert list(found) == []


def test_a_sync_that_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalAppender, "sync", lambda self: None)
    calls, ledger = recorded(tmp_path / "recorded", "fsync")
    found = faults(tmp_path, calls, lambda root, at: judged(root, ledger, at), step=tried(11, 5), samples=1)
    assert any("may be" in each for each in found)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return make(tmp_path_factory.mktemp("sync"))


def losses_in_a_sync(
    folder: Path, held: Held, way: str, *, is_known: bool, step: int, samples: int, recorder: Recorder | None = None
) -> Iterator[str]:
    """Yield what is wrong after a loss of power in a sync: of the target, and of the sync that is repeated."""
    target, options = folder / "disk" / "target", WAYS[way]
    target.parent.mkdir(parents=True)
    if is_known:
        shutil.copytree(held.before, target)
    before, disk = files(held.source), Disk.of(target.parent)
    seen = recorder or Recorder()
    ledger = Ledger(now=lambda: len(seen.calls))

    async def judge(root: Path, at: int) -> list[str]:
        left = root / "target"
        if not left.is_dir():
            return ledger.faults({}, at) + await completed(held, left, options)
        async with ArchiveStore(left) as reader:
            faults = ledger.faults(await found(reader), at) + damage(await reader.verify(deep=True))
        return faults + await completed(held, left, options)

    with watched(target.parent, seen), promised(ledger, is_known=is_known):
        assert asyncio.run(synced(held.source, target, options)).is_clean
    yield from faults(folder, seen.calls, judge, step=step, samples=samples, disk=disk)
    assert files(held.source) == before


@pytest.mark.parametrize(("way", "is_known"), some(SYNCS, 2))
def test_a_loss_of_power_in_a_sync_takes_no_trace_and_makes_none_wrong(
    tmp_path: Path, held: Held, way: str, is_known: bool
) -> None:
    found = losses_in_a_sync(tmp_path, held, way, is_known=is_known, step=tried(257, 53, 2), samples=tried(1, 2))
    assert list(found) == []


class Killed(BaseException):
    pass


class Killing(Recorder):
    """Lets the process die at a call, which is not done any more, nor any other."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.is_dead = False
        self._at = at

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        self.is_dead = self.is_dead or len(self.calls) >= self._at
        if self.is_dead and call.name != "close":  # the descriptors of who dies are closed
            raise Killed
        return super().around(call, do)


def losses_after_a_kill(folder: Path, held: Held, way: str, *, is_known: bool, step: int) -> Iterator[str]:
    """Yield what a loss of power takes of what was acknowledged by the second sync, the first having been killed."""
    source, before, options = held.source, held.before, WAYS[way]
    kills = 0
    for at in points(_calls_of_sync(source, before if is_known else None, folder / "whole", options), step):
        root, killing, moment = folder / str(at), Killing(at - 1), 0
        root.mkdir()
        if is_known:
            shutil.copytree(before, root / "target")
        disk, seen = Disk.of(root), Recorder()
        ledger = Ledger(now=lambda: moment)  # noqa: B023
        with promised(ledger, is_known=is_known):
            with suppress(Killed), watched(root, killing):
                asyncio.run(synced(source, root / "target", options))
            with watched(root, seen):
                asyncio.run(synced(source, root / "target", options))
            moment = 1
        calls = [*killing.calls, *seen.calls]
        for call in calls:
            disk.take(call)
        for number, state in enumerate(disk.states(samples=1, seed=SEED + at, singly=THOROUGH)):
            left = root / str(number)
            lay_out(state, left)
            try:
                found = asyncio.run(_awaited(_left(left / "target", ledger)))
            except Exception as error:  # whatever goes wrong is what is looked for
                found = [repr(error)]
            yield from (f"killed at call {at} (after {calls[: at - 1][-1:]}): {each}" for each in found)
        shutil.rmtree(root)
        kills += killing.is_dead
    assert kills, "nobody was killed"


def _calls_of_sync(source: Path, before: Path | None, root: Path, options: SyncOptions) -> int:
    """Return how many calls a sync has that nobody kills."""
    root.mkdir()
    if before is not None:
        shutil.copytree(before, root / "target")
    with watched(root, seen := Recorder()):
        asyncio.run(synced(source, root / "target", options))
    return len(seen.calls)


async def _left(target: Path, ledger: Ledger) -> list[str]:
    if not target.is_dir():
        return ledger.faults({}, at=1)
    async with ArchiveStore(target) as reader:
        return ledger.faults(await found(reader), at=1) + damage(await reader.verify(deep=True))


@pytest.mark.parametrize(("way", "is_known"), some(SYNCS, 2))
def test_a_sync_that_was_killed_and_done_again_loses_nothing_when_the_power_goes(
    tmp_path: Path, held: Held, way: str, is_known: bool
) -> None:
    assert list(losses_after_a_kill(tmp_path, held, way, is_known=is_known, step=tried(389, 37, 2))) == []


async def _write(root: Path) -> None:
    store = ArchiveStore(root / "archive")
    with suppress(TraceExistsError):
        await store.create_trace(Trace(trace_id="t"))
    await store.add_message(Message(trace_id="t", message_id="m", role="user", content="one"))


def _calls_until_killed(root: Path, work: Callable[[Path], Awaitable[None]], at: int) -> tuple[list[Call], bool]:
    """Have a process do something until it is killed at a call; return its calls, and whether it came so far."""
    reading, writing = os.pipe()
    if process := os.fork():
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            calls, was_killed = pickle.load(file)
        os.waitpid(process, 0)
        return calls, was_killed
    killing = Killing(at - 1)
    with suppress(BaseException), watched(root, killing):
        # What is killed in a thread may leave others waiting for it.
        asyncio.run(asyncio.wait_for(work(root), 2))
    with os.fdopen(writing, "wb") as file:
        pickle.dump((killing.calls, killing.is_dead), file)
    os._exit(0)


def done_after_a_kill(
    folder: Path, work: Callable[[Path], Awaitable[None]], before: Path | None = None, step: int = 1
) -> Iterator[tuple[Path, str]]:
    """Yield what a loss of power may leave of something done that a killed process had begun, and where it was killed.

    That is for one in `step` of the calls that process was killed at; `before` is what there was before it.
    """
    at, was_killed = 1 + SEED % step, True
    while was_killed:
        root, seen = folder / str(at), Recorder()
        root.mkdir()
        if before is not None:
            shutil.copytree(before, root / "archive")
        disk = Disk.of(root)
        calls, was_killed = _calls_until_killed(root, work, at)
        with watched(root, seen):
            asyncio.run(_awaited(work(root)))
        for call in [*calls, *seen.calls]:
            disk.take(call)
        for number, state in enumerate(disk.states(samples=1, seed=SEED + at, singly=THOROUGH)):
            left = root / str(number)
            lay_out(state, left)
            yield left / "archive", f"killed at call {at} ({calls[-1:]})"
        shutil.rmtree(root)
        at += step
    assert at > 40


def test_what_is_acknowledged_lasts_though_who_began_it_was_killed(tmp_path: Path) -> None:
    """The trace, or the very message, is there already, and perhaps not on stable storage."""
    for archive, when in done_after_a_kill(tmp_path, _write, step=tried(23, 2, 1)):
        message = asyncio.run(_message(archive))
        assert message is not None and message.content == "one", when


async def _message(root: Path) -> Message | None:
    async with ArchiveStore(root) as store:
        return await store.get_message("m", trace_id="t")


def _first_rows(session: Path, part: Path, rows: int | None) -> Path:
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"".join(session.read_bytes().splitlines(keepends=True)[:rows]))
    return part


@pytest.mark.parametrize("known", [0, 8])
def test_what_an_import_tells_of_lasts_though_who_brought_it_was_killed(tmp_path: Path, known: int) -> None:
    """The next import finds the run as it is to be, or an earlier state of it, and says so."""
    session = SAMPLES / "claude-code" / "rename-column.jsonl"

    async def run(archive: Path, rows: int | None) -> ImportReport:
        async with ArchiveStore(archive) as store:
            return await import_paths(store, [_first_rows(session, tmp_path / "source" / session.name, rows)])

    async def work(root: Path) -> None:
        assert (await run(root / "archive", None)).ok

    async def shown(archive: Path) -> list[dict[str, Any]]:
        async with ArchiveStore(archive) as store:
            return [await snapshot(store, trace_id) for trace_id in await store.trace_ids()]

    before = None
    if known:
        before = tmp_path / "before"
        asyncio.run(run(before, known))
    asyncio.run(work(tmp_path))
    wanted = asyncio.run(shown(tmp_path / "archive"))
    for archive, when in done_after_a_kill(tmp_path, work, before, step=tried(23, 4, 1)):
        assert asyncio.run(shown(archive)) == wanted, when


@pytest.mark.parametrize("kind", ["sealed", "live", "grown"])
def test_what_a_killed_sync_left_lasts_once_the_next_one_tells_of_it(tmp_path: Path, kind: str) -> None:
    """The next one finds the trace as it is to be, and has nothing to copy."""
    source, before = tmp_path / "source", tmp_path / "before"
    wanted = asyncio.run(_one_trace(source, before, kind))
    known = before if kind == "grown" else None
    was_done = False
    for at in points(_calls_of_sync(source, known, tmp_path / "whole", SyncOptions()), tried(5, 1)):
        root, killing, seen = tmp_path / str(at), Killing(at - 1), Recorder()
        root.mkdir()
        if known is not None:
            shutil.copytree(known, root / "target")
        disk = Disk.of(root)
        with suppress(Killed), watched(root, killing):
            asyncio.run(synced(source, root / "target", SyncOptions()))
        with watched(root, seen):
            report = asyncio.run(synced(source, root / "target", SyncOptions()))
        was_done = was_done or report.outcomes["same"] == 1
        for call in [*killing.calls, *seen.calls]:
            disk.take(call)
        for number, state in enumerate(disk.states(samples=1, seed=SEED + at, singly=THOROUGH)):
            left = root / str(number)
            lay_out(state, left)
            assert asyncio.run(_shown(left / "target")) == wanted, f"killed at call {at}, state {number}"
    assert was_done


async def _one_trace(source: Path, before: Path, kind: str) -> dict[str, Any]:
    async with ArchiveStore(source, durability="os") as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content="one"))
    await synced(source, before, SyncOptions())
    async with ArchiveStore(source, durability="os") as store:
        await store.add_message(Message(trace_id="t", role="user", content="two"))
        if kind == "sealed":
            await store.seal("t")
    return await _shown(source)


async def _shown(root: Path) -> dict[str, Any]:
    async with ArchiveStore(root) as store:
        return await snapshot(store)


def test_a_file_system_that_is_not_synced_in_a_sync_is_found(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.sync.disk.sync_file_system", lambda path: None)
    found = losses_in_a_sync(tmp_path, held, "once", is_known=False, step=10_000, samples=1)
    assert any("may be" in each for each in found)


async def _seal(archive: Path) -> None:
    async with ArchiveStore(archive) as store:
        await store.seal("t")


async def _live(archive: Path) -> None:
    async with ArchiveStore(archive) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content="said"))
        await store.append_event("t", "told", None)


async def _findings(archive: Path) -> list[str]:
    async with ArchiveStore(archive) as store:
        return damage(await store.verify(deep=True))


def test_a_seal_that_was_killed_and_done_again_names_all_files_that_are_left_when_the_power_goes(
    tmp_path: Path,
) -> None:
    before = tmp_path / "before"
    asyncio.run(_live(before))

    def after(at: int) -> Killing:
        root, killing, seen = tmp_path / str(at), Killing(at), Recorder()
        shutil.copytree(before, root)
        disk = Disk.of(root)
        with suppress(Killed), watched(root, killing):
            asyncio.run(_seal(root))
        with watched(root, seen):
            asyncio.run(_seal(root))
        for call in (*killing.calls, *seen.calls):
            disk.take(call)
        for number, state in enumerate(disk.states(samples=1, seed=SEED, singly=THOROUGH)):
            lay_out(state, left := tmp_path / f"{at}-{number}")
            assert asyncio.run(_findings(left)) == [], (at, killing.calls[-1:])
        return killing

    calls = len(after(sys.maxsize).calls)
    assert sum(after(at - 1).is_dead for at in points(calls, tried(7, 1)))


class Failing(Recorder):
    """Lets one call fail, which is not done."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.failed: Call | None = None
        self._at, self._seen = at, 0

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        self._seen += call.name in ("fsync", "fdatasync")
        if self.failed is None and self._seen == self._at:
            self.failed = call
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().around(call, do)


# What a caller does that tries again what failed, and how it looks afterwards.
STEPS: dict[str, Callable[[ArchiveStore], Awaitable[object]]] = {
    "trace": lambda store: store.create_trace(Trace(trace_id="t", task="first")),
    "m1": lambda store: store.add_message(Message(trace_id="t", message_id="m1", role="user", content="one")),
    "goal": lambda store: store.add_goal("t", Goal(id="1", description="a goal")),
    "event": lambda store: store.append_event("t", "told", None),
    "m2": lambda store: store.add_message(Message(trace_id="t", message_id="m2", role="user", content="two")),
    "task": lambda store: store.update_trace("t", task="second"),
    "seal": lambda store: store.seal("t"),
    "m3": lambda store: store.add_message(Message(trace_id="t", message_id="m3", role="user", content="three")),
}


async def _stubborn(root: Path, *, reopens: bool, done: Callable[[str], None]) -> None:
    """Do all steps, each again where it fails, by the same store or by one that is opened anew."""
    store = ArchiveStore(root / "archive")
    for name, step in STEPS.items():
        for _ in range(3):
            try:
                await step(store)
            except TraceExistsError:
                break
            except (StorageError, StoreClosedError):
                if reopens:
                    with suppress(Exception):  # it says what failed before
                        await store.close()
                    store = ArchiveStore(root / "archive")
            else:
                done(name)
                break
    with suppress(Exception):
        await store.close()


async def _steps(archive: Path) -> set[str]:
    """Return which steps are seen."""
    async with ArchiveStore(archive) as store:
        trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
        found = {str(message.message_id) for message in await store.get_trace_messages("t")}
        found |= {"event"} if await store.get_events("t") else set()
    found |= {"trace", "seal"} if trace is not None else set()
    found |= {"task"} if trace is not None and trace.task == "second" else set()
    return found | ({"goal"} if tree is not None else set())


@pytest.mark.parametrize("reopens", [False, True])
def test_what_is_acknowledged_lasts_though_a_sync_failed_before(tmp_path: Path, reopens: bool) -> None:
    """The call that failed left something that the one that is tried again finds there."""
    step = tried(13, 2, 1)
    at, failed = 1 + SEED % step, 0
    while True:
        root, failing = tmp_path / str(at), Failing(at)
        root.mkdir()
        disk, acknowledged = Disk(), set[str]()
        taken = 0

        def done(name: str, root: Path = root, failing: Failing = failing, disk: Disk = disk) -> None:
            nonlocal taken
            acknowledged.add(name)  # noqa: B023
            for call in failing.calls[taken:]:
                disk.take(call)
            taken = len(failing.calls)
            for number, state in enumerate(disk.states(samples=0, singly=THOROUGH)):
                left = root / f"{name}-{number}"
                laid_out.append((left, state, name, set(acknowledged)))  # noqa: B023

        laid_out: list[tuple[Path, dict[str, bytes], str, set[str]]] = []
        with watched(root, failing):
            asyncio.run(_stubborn(root, reopens=reopens, done=done))
        if failing.failed is None:
            break
        failed += 1
        for left, state, name, promised_now in laid_out:
            lay_out(state, left)
            lost = promised_now - asyncio.run(_steps(left / "archive"))
            assert not lost, f"{lost} after {name}; sync {at} failed: {failing.failed}"
        shutil.rmtree(root)
        at += step
    assert failed > tried(0, 10)
