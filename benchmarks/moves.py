"""Syncing an archive of many small traces from disk to disk, beside the system's own copiers.

What lies unwritten in the system's memory is written before each turn, so that nobody pays for another.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.archives import Shape, make_traces
from benchmarks.measure import Figure, at_most
from traceark import ArchiveStore
from traceark.sync import SyncOptions, sync


async def measure(folder: Path, *, rounds: int, shape: Shape) -> list[Figure]:
    """Return the figures of a first sync, of one with nothing to do, and of checking what was copied."""
    source = folder / "source"
    make_traces(source, shape)
    what = f"{shape.traces:,} sealed traces of {shape.messages} messages and {shape.events} events"
    once, each, copied = (folder / name for name in ("once", "each", "copied"))

    async def sync_once() -> None:
        await _sync(source, once, SyncOptions(check=False, sync_each=False))

    async def sync_each() -> None:
        await _sync(source, each, SyncOptions())

    async def copy() -> None:
        await _run("cp", "-r", str(source), str(copied))

    first = await _timed({"once": sync_once, "each": sync_each, "cp": copy}, rounds, [once, each, copied])
    figures = [
        at_most(f"first sync, synced once, not read back, {what}", first["once"], "`cp -r`", first["cp"], "s", 1.5),
        at_most(f"first sync, each file synced and read back, {what}", first["each"], "`cp -r`", first["cp"], "s", 3),
    ]

    async def again() -> None:
        await _sync(source, each, SyncOptions())

    async def verify() -> None:
        async with ArchiveStore(each) as store:
            assert await store.verify(deep=True) == []

    async def hashes() -> None:
        await _run("sh", "-c", f"find '{each / 'traces'}' -type f -print0 | xargs -0 sha256sum > /dev/null")

    if shutil.which("rsync") is not None:

        async def rsync() -> None:
            await _run("rsync", "-a", f"{source}/", f"{copied}/")

        await rsync()
        nothing = await _timed({"ours": again, "rsync": rsync}, rounds, [])
        figures.append(
            at_most(f"sync with nothing to do, {what}", nothing["ours"], "`rsync -a`", nothing["rsync"], "s", 1.0)
        )
    checked = await _timed({"ours": verify, "floor": hashes}, max(rounds // 2, 1), [])
    figures.append(at_most(f"`verify --deep`, {what}", checked["ours"], "`sha256sum`", checked["floor"], "s", 2))
    return figures


async def _sync(source: Path, target: Path, options: SyncOptions) -> None:
    async with ArchiveStore(source) as one, ArchiveStore(target) as other:
        report = await sync(one, other, options)
        assert report.is_clean


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def _timed(
    contestants: dict[str, Callable[[], Awaitable[None]]], rounds: int, targets: list[Path]
) -> dict[str, list[float]]:
    """Run each contestant once per round, in turning order, onto nothing; return the seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds):
        for target in targets:
            shutil.rmtree(target, ignore_errors=True)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            os.sync()
            start = time.perf_counter()
            await contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds
