"""A loss of power at any moment: every subset of what was not synced may be gone.

The calls of a workload are recorded; after each of them the disk's possible states are laid out, opened and
judged by the ledger: acknowledged ⊆ recovered ⊆ attempted, sums equal to a recount, every cursor goes on, and
nothing found by `verify` but what a loss of power leaves.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from profiles import SEED, THOROUGH, tried
from traceark.errors import IncompleteTraceError
from traceark.layout import HEADER
from traceark.storage.base import Durability
from traceark.storage.local_files import LocalAppender
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.testing.calls import Call, Recorder, watched
from traceark.testing.disk import Disk, lay_out
from traceark.testing.ledger import Ledger
from traceark.verification import Finding
from workload import goes_on, recovered, sums_up, work

Recorded = tuple[list[Call], Ledger]


def recorded(folder: Path, durability: Durability) -> Recorded:
    """Return the calls of the workload, and its ledger; moments are numbers of calls."""
    seen = Recorder()
    ledger = Ledger(now=lambda: len(seen.calls))
    with watched(folder, seen):
        assert asyncio.run(work(ArchiveStore(folder / "archive", durability=durability), ledger)) == []
    return seen.calls, ledger


def states(calls: list[Call], step: int, samples: int) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield what a loss of power may leave, after every so many calls, with how many there were."""
    disk = Disk()
    moments = 0
    for at, call in enumerate(calls, 1):
        disk.take(call)
        if call.name == "close":
            continue  # it changes nothing
        moments += 1
        if moments % step == SEED % step:
            for state in disk.states(samples, seed=SEED + at, singly=THOROUGH):
                yield at, state


def damage(findings: list[Finding]) -> list[str]:
    """Leave out what any kill may leave: files that nothing refers to, half a creation or deletion."""
    return [
        str(finding)
        for finding in findings
        if not finding.is_note
        and TEMPORARY not in finding.file
        and not (finding.file.endswith(HEADER) and "missing" in finding.meaning)
    ]


async def judged(root: Path, ledger: Ledger, at: int) -> list[str]:
    """Return what is wrong with an archive after a loss of power at a call."""
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
    folder: Path, calls: list[Call], judge: Callable[[Path, int], Awaitable[list[str]]], *, step: int, samples: int
) -> Iterator[str]:
    """Yield what is wrong after losses of power, and at which call."""
    runs = 0
    for at, state in states(calls, step, samples):
        runs += 1
        root = folder / str(runs)
        lay_out(state, root)
        if (root / "archive").is_dir():
            try:
                found = asyncio.run(_awaited(judge(root, at)))
            except Exception as error:  # whatever goes wrong is what is looked for
                found = [repr(error)]
            for each in found:
                yield f"call {at} ({calls[at - 1].name} {calls[at - 1].path}), state {runs}: {each}"
        shutil.rmtree(root, ignore_errors=True)
    assert runs > len(calls) // step // 2


async def _awaited(found: Awaitable[list[str]]) -> list[str]:
    return await found


def test_a_loss_of_power_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    calls, ledger = recorded(tmp_path / "recorded", "fsync")
    found = faults(
        tmp_path, calls, lambda root, at: judged(root, ledger, at), step=tried(47, 17, 4), samples=tried(1, 2)
    )
    assert list(found) == []


def test_with_durability_os_nothing_that_is_left_is_wrong(tmp_path: Path) -> None:
    calls, _ = recorded(tmp_path / "recorded", "os")
    found = faults(tmp_path, calls, lambda root, at: reads(root), step=tried(41, 17, 4), samples=tried(1, 2))
    assert list(found) == []


def test_a_sync_that_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalAppender, "sync", lambda self: None)
    calls, ledger = recorded(tmp_path / "recorded", "fsync")
    found = faults(tmp_path, calls, lambda root, at: judged(root, ledger, at), step=5, samples=1)
    assert any("may be" in each for each in found)
