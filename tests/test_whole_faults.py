"""Runs that are added in one piece are there whole or not at all, whatever fails, and stay when they were acknowledged.

One alone syncs its files; several at a time sync the file system.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from profiles import points, tried
from test_disk_faults import Fault, is_told
from test_power_loss import Killed, Killing, faults
from traceark.errors import IncompleteTraceError, TraceExistsError
from traceark.layout import MANIFEST
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.storage import local_staged
from traceark.storage.base import Durability
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.testing.calls import Call, Recorder, watched
from traceark.testing.ledger import Ledger
from workload import damage

MANY = 8


class Waiting(Recorder):
    """Lets the first sync of runs wait until all are made, so that those that were not in it are synced together."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self._missing = runs
        self._made = threading.Event()

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        if TEMPORARY in call.path and call.path.endswith(MANIFEST) and call.name == "create":
            self._missing -= 1
            if not self._missing:
                self._made.set()
        if call.name == "syncfs" or (call.name == "fsync" and TEMPORARY in call.path.rpartition("/")[0]):
            assert self._made.wait(60)
        return super().around(call, do)


async def add(store: ArchiveStore, run: int, ledger: Ledger) -> None:
    said = [Message(trace_id=f"run-{run}", role="user", content={"at": at}) for at in range(3)]
    tree = GoalTree(mission="m", goals=[Goal(id="1")])
    with ledger.attempt({run: [each.content for each in said]}):
        await store.add_trace(Trace(trace_id=f"run-{run}", status="completed"), said, [("told", 1)], tree)


async def add_all(folder: Path, runs: int, durability: Durability, ledger: Ledger) -> list[BaseException]:
    """Add runs at a time to an archive with one more; return what was raised."""
    async with ArchiveStore(folder, durability=durability) as store:
        outcomes = await asyncio.gather(*(add(store, run, ledger) for run in range(runs)), return_exceptions=True)
        return [each for each in outcomes if each is not None]


async def wrong_in(folder: Path, ledger: Ledger, at: int) -> list[str]:
    """Return what is wrong with what is left: runs that are gone, in part, or otherwise."""
    async with ArchiveStore(folder) as store:
        found: dict[Hashable, object] = {}
        for listed in await store.list_traces():
            messages, events = await store.get_trace_messages(listed.trace_id), await store.get_events(listed.trace_id)
            assert (listed.total_messages, [each.payload for each in events]) == (3, [1])
            found[int(listed.trace_id.removeprefix("run-"))] = [each.content for each in messages]
        return ledger.faults(found, at) + damage(await store.verify(deep=True))


@pytest.mark.parametrize("runs", [1, MANY])
def test_a_run_is_there_whole_or_not_at_all_whatever_call_fails(tmp_path: Path, runs: int) -> None:
    def after(at: int) -> Fault:
        folder, fault, ledger = tmp_path / str(at), Fault(at), Ledger(now=lambda: 0)
        folder.mkdir()
        asyncio.run(_begun(folder))
        with watched(folder, fault):
            try:
                raised = asyncio.run(add_all(folder, runs, "fsync", ledger))
            except Exception as error:
                raised = [error]
        assert [each for each in raised if not (isinstance(each, Exception) and is_told(each))] == []
        assert asyncio.run(wrong_in(folder, ledger, 0)) == [], fault.hit
        assert fault.hit is not None or raised == []
        return fault

    calls = after(sys.maxsize).count
    assert sum(after(at).hit is not None for at in points(calls, tried(149, 11, 1)))


async def _begun(folder: Path) -> None:
    async with ArchiveStore(folder) as store:
        await store.create_trace(Trace(trace_id="another"))
        await store.delete_trace("another")


@pytest.mark.parametrize("runs", [1, MANY])
def test_a_run_that_was_added_when_the_process_dies_is_there_and_the_others_can_be_added(
    tmp_path: Path, runs: int
) -> None:
    def after(at: int) -> Killing:
        folder, killing, ledger = tmp_path / str(at), Killing(at), Ledger(now=lambda: 0)
        with watched(tmp_path, killing):
            try:
                raised = asyncio.run(add_all(folder, runs, "os", ledger))
            except Killed as killed:
                raised = [killed]
        assert all(isinstance(each, Killed) for each in raised)
        assert asyncio.run(wrong_in(folder, ledger, 0)) == []
        again = Ledger(now=lambda: 0)
        missing = [run for run in range(runs) if not (folder / "traces" / f"run-{run}").exists()]
        asyncio.run(_added(folder, missing, again))
        assert asyncio.run(wrong_in(folder, ledger, 0)) == []
        assert killing.is_dead or missing == []
        return killing

    calls = len(after(sys.maxsize).calls)
    assert sum(after(at - 1).is_dead for at in points(calls, tried(149, 11, 1)))


async def _added(folder: Path, runs: list[int], ledger: Ledger) -> None:
    async with ArchiveStore(folder) as store:
        await store.refresh()
        # A file of this kind is taken for one that somebody writes for an hour; of a directory it is known.
        assert [each for each in folder.glob(f"{TEMPORARY}*") if each.is_dir()] == []
        for run in runs:
            await add(store, run, ledger)


def losses(folder: Path, runs: int, *, step: int) -> Iterator[str]:
    """Yield what is wrong after losses of power while runs are added that are to survive it."""
    seen = Waiting(runs)
    ledger = Ledger(now=lambda: len(seen.calls))

    async def judge(root: Path, at: int) -> list[str]:
        left = root / "archive"
        return await wrong_in(left, ledger, at) if left.is_dir() else ledger.faults({}, at)

    yield from faults(folder, recorded(folder, seen, runs, "fsync", ledger), judge, step=step, samples=tried(1, 2, 3))


def recorded(folder: Path, seen: Waiting, runs: int, durability: Durability, ledger: Ledger) -> list[Call]:
    (folder / "recorded").mkdir()
    with watched(folder / "recorded", seen):
        assert asyncio.run(add_all(folder / "recorded" / "archive", runs, durability, ledger)) == []
    while seen.calls[-1].name == "close":
        seen.calls.pop()  # after the last change is a moment to look at
    return seen.calls


async def wrong_or_incomplete(root: Path, runs: int) -> list[str]:
    if not (root / "archive").is_dir():
        return []
    async with ArchiveStore(root / "archive") as store:
        with suppress(IncompleteTraceError):
            said = [len(await store.get_trace_messages(f"run-{run}")) for run in range(runs)]
            return [str(said)] if {*said} - {0, 3} else []
    return []


@pytest.mark.parametrize("runs", [1, MANY])
def test_a_loss_of_power_takes_no_run_that_was_added(tmp_path: Path, runs: int) -> None:
    assert list(losses(tmp_path, runs, step=tried(89, 9, 1))) == []


@pytest.mark.parametrize("runs", [1, MANY])
def test_a_loss_of_power_leaves_no_run_that_is_wrong_with_durability_os(tmp_path: Path, runs: int) -> None:
    calls = recorded(tmp_path, Waiting(runs), runs, "os", Ledger(now=lambda: 0))
    found = faults(tmp_path, calls, lambda root, at: wrong_or_incomplete(root, runs), step=tried(89, 9, 1), samples=1)
    assert list(found) == []


def test_a_file_system_that_is_not_synced_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_staged, "sync_file_system", lambda path: None)
    assert next(losses(tmp_path, 16, step=10_000), None) is not None


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_runs_that_are_added_while_one_is_synced_share_the_next_sync(tmp_path: Path, durability: Durability) -> None:
    seen = Waiting(16)
    with watched(tmp_path, seen):
        assert asyncio.run(add_all(tmp_path / "archive", 16, durability, Ledger(now=lambda: 0))) == []
    names = [each.name for each in seen.calls]
    synced = [each.path for each in seen.calls if each.name == "fsync" and fnmatch(each.path, f"*/{TEMPORARY}*/*.*")]
    # The first, which may be up to three, by two parts, the goals, the header and the manifest of each.
    assert len(synced) <= 3 * 5
    assert (names.count("syncfs") in (1, 2), names.count("rename")) == (True, 16)


async def test_what_was_left_where_a_run_belongs_is_not_taken_up(tmp_path: Path) -> None:
    left = tmp_path / "traces" / "run-0" / "messages" / "left.jsonl"
    async with ArchiveStore(tmp_path) as store:
        await add(store, 1, Ledger(now=lambda: 0))
        left.parent.mkdir(parents=True)
        left.write_text("left")
        await add(store, 0, Ledger(now=lambda: 0))
        assert not left.exists()
        assert await store.verify(deep=True) == []
        with pytest.raises(TraceExistsError):
            await add(store, 0, Ledger(now=lambda: 0))
    assert list(tmp_path.glob(f"{TEMPORARY}*")) == []
