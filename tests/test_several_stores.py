"""Several stores at once, by chance: whatever meets whatever, nothing that was acknowledged is lost.

A seed that fails is told with the fewest steps that still do. It is seen again, also after a change of the code that
did not change what the storage is asked for, by ``PYTHONHASHSEED=0 python tests/test_several_stores.py disk 17``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, tried
from several import Several, of_process, run
from several_steps import Step, drawn
from simulated import SimulatedLoop, simulated
from traceark.errors import StorageError
from traceark.models import Json
from traceark.requests import AppendEvent
from traceark.storage.base import acquire
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore

STEPS = 40
# How many calls of an archive fail: about ten in a run.
FAILING = 0.05
# A seed is tried again with fewer steps so often at most.
_TRIES = 60


def fault(seed: int, steps: Sequence[Step], *, in_memory: bool, failing: float = 0.0) -> str | None:
    """Return what is wrong after some steps, or None."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(seed, steps, Path(folder), in_memory=in_memory, failing=failing)
        except Exception as error:  # whatever it is, it is the fault
            return f"{type(error).__name__}: {error}"
    return None


def fewest(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Return the fewest steps that still fail, found by leaving out ever fewer at a time."""
    left, size, tries = list(steps), len(steps) // 2, 0
    while size and tries < _TRIES:
        at = 0
        while at < len(left) and tries < _TRIES:
            fewer, tries = left[:at] + left[at + size :], tries + 1
            if fails(fewer):
                left = fewer
            else:
                at += size
        size //= 2
    return left


def judge(seed: int, *, in_memory: bool, failing: float = 0.0) -> None:
    """Fail with the fewest steps where a seed does."""
    # What others write to a trace for minutes after it was deleted is not found by them where there are no locks.
    steps = [step for step in drawn(seed, STEPS) if step.kind != "remake" or not in_memory]

    def wrong(steps: Sequence[Step]) -> str | None:
        return fault(seed, steps, in_memory=in_memory, failing=failing)

    told = wrong(steps)
    if told is not None:
        left = fewest(steps, lambda fewer: wrong(fewer) is not None)
        told = wrong(left) or told
        where = "failing" if failing else "memory" if in_memory else "disk"
        shown = "\n  ".join(map(str, left))
        pytest.fail(f"{where}, seed {seed}: {told}\nwith these steps:\n  {shown}", pytrace=False)


@pytest.mark.parametrize("seed", [SEED * 10_000 + at for at in range(tried(1, 300, 4_000))])
def test_several_stores_on_a_disk_lose_nothing(seed: int) -> None:
    judge(seed, in_memory=False)


@pytest.mark.parametrize("seed", [SEED * 10_000 + at for at in range(tried(1, 200, 1_000))])
def test_several_stores_in_memory_lose_nothing(seed: int) -> None:
    judge(seed, in_memory=True)


@pytest.mark.parametrize("seed", [SEED * 10_000 + at for at in range(tried(1, 100, 1_000))])
def test_several_stores_of_which_calls_fail_lose_nothing(seed: int) -> None:
    judge(seed, in_memory=True, failing=FAILING)


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    def moments() -> tuple[list[Any], list[Any]]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            several: Several = run(3, drawn(3, 12), Path(folder), in_memory=True)
        return several.account.deeds, several.account.read

    assert moments() == moments()


def test_an_event_that_is_acknowledged_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def append_event(self: ArchiveStore, trace_id: str, event_type: str, payload: Json = None) -> int:
        trace = await self._pool.opened(trace_id)
        trace.submit(AppendEvent(trace_id, event_type, payload))
        return trace.ends["events"] + 1

    monkeypatch.setattr(ArchiveStore, "append_event", append_event)
    assert any(fault(seed, drawn(seed, 15, ("tell", "read")), in_memory=False) for seed in (0, 6, 7, 14))


def test_an_error_that_is_swallowed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ArchiveStore.append_event

    async def append_event(self: ArchiveStore, trace_id: str, event_type: str, payload: Json = None) -> int:
        try:
            return await real(self, trace_id, event_type, payload)
        except StorageError:
            return 1

    monkeypatch.setattr(ArchiveStore, "append_event", append_event)
    only = ("tell", "read")
    assert any(fault(seed, drawn(seed, STEPS, only), in_memory=True, failing=0.1) for seed in range(5))


def test_what_a_thread_would_do_may_run_a_loop_of_its_own() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    async def work(_: random.Random) -> int:
        return await asyncio.to_thread(lambda: asyncio.run(answer()))

    assert simulated(0, work, aging=False) == 7


def test_of_a_process_that_is_killed_nothing_goes_on_and_nobody_waits_for_its_lock(tmp_path: Path) -> None:
    steps: list[int] = []

    async def hold(path: Path) -> None:
        lock = LocalStorage(path).lock("held")
        await acquire(lock)
        try:
            while True:
                steps.append(len(steps))
                await asyncio.sleep(1)
        finally:
            steps.append(-1)

    async def work(_: random.Random) -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        task = asyncio.create_task(hold(tmp_path), context=of_process("one"))
        await asyncio.sleep(2.5)
        loop.kill("one")
        task.cancel()
        await asyncio.wait_for(acquire(LocalStorage(tmp_path).lock("held")), 5)
        return list(steps)

    assert simulated(0, work, aging=False) == [0, 1, 2]


def test_the_fewest_steps_are_found() -> None:
    steps = drawn(0, 20)
    wanted = {steps[3], steps[17]}
    assert fewest(steps, lambda fewer: wanted <= set(fewer)) == [steps[3], steps[17]]


if __name__ == "__main__":
    for number in sys.argv[2:]:
        failing = FAILING if sys.argv[1] == "failing" else 0.0
        judge(int(number), in_memory=sys.argv[1] != "disk", failing=failing)
        print(f"seed {number}: nothing is wrong")
