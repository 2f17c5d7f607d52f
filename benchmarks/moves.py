"""Syncing an archive of many small traces from disk to disk, beside the system's own copiers and what cannot be saved.

What lies unwritten in the system's memory is written before each turn, so that nobody pays for another. Nothing
is deleted between turns: ext4 goes around inodes that were freed in the last minutes, which takes whoever comes next
several times as long. CPU is that of a contestant's processes and of the system for them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.archives import Shape, make_traces
from benchmarks.measure import Figure, at_most
from traceark import ArchiveStore
from traceark.codec.checked import check_json_text
from traceark.codec.parquet import LOG_COLUMNS
from traceark.layout import TRACES
from traceark.manifest import sha256
from traceark.storage.syncing import sync_directory
from traceark.sync import SyncOptions, sync

# As many files at a time as a sync has under way.
_THREADS = 32
_MOST_ROUNDS = 3

# Works on what lies in, or onto, a directory of its own.
Contestant = Callable[[Path], Awaitable[None]]


@dataclass(frozen=True)
class Spent:
    """Seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def measure(folder: Path, *, rounds: int, shape: Shape, large: Shape) -> list[Figure]:
    """Return the figures of a first sync, of one with nothing to do, of checking what was copied, and large traces."""
    source = folder / "source"
    make_traces(source, shape)
    what = f"{shape.traces:,} sealed traces of {shape.messages} messages and {shape.events} events"
    rounds = min(rounds, _MOST_ROUNDS)

    async def sync_once(target: Path) -> None:
        await _sync(source, target, SyncOptions(check=False, sync_each=False))

    async def sync_each(target: Path) -> None:
        await _sync(source, target, SyncOptions())

    async def copy(target: Path) -> None:
        await _run("cp", "-r", str(source), str(target))

    sizes = [
        {path.relative_to(trace).as_posix(): path.stat().st_size for path in trace.rglob("*") if path.is_file()}
        for trace in (source / TRACES).iterdir()
    ]

    async def bare(target: Path) -> None:
        await asyncio.to_thread(_write_bare, target, sizes)

    first = await _timed({"once": sync_once, "each": sync_each, "cp": copy, "bare": bare}, rounds, folder)
    once, each = "synced once, not read back", "each file synced and read back"
    figures = [
        *_both(f"first sync, {once}, {what}", first["once"], "`cp -r`", first["cp"], 1.5),
        *_both(f"first sync, {each}, {what}", first["each"], "`cp -r`", first["cp"], 3),
        *_both(f"first sync, {each}, {what}", first["each"], "writing and syncing alone", first["bare"], None),
    ]
    kept = {name: folder / f"{name}-0" for name in ("each", "cp")}

    async def again(_: Path) -> None:
        await _sync(source, kept["each"], SyncOptions())

    if shutil.which("rsync") is not None:

        async def rsync(_: Path) -> None:
            await _run("rsync", "-a", f"{source}/", f"{kept['cp']}/")

        await rsync(folder)
        nothing = await _timed({"ours": again, "rsync": rsync}, rounds, folder)
        figures += _both(f"sync with nothing to do, {what}", nothing["ours"], "`rsync -a`", nothing["rsync"], 1.0)
    figures += await _verifying(kept["each"], what, max(rounds // 2, 1), folder)
    few = folder / "large"
    make_traces(few, large)
    return figures + await _verifying(few, f"{large.traces:,} of {large.messages:,} messages", rounds, folder)


async def _verifying(archive: Path, what: str, rounds: int, folder: Path) -> list[Figure]:
    parts = sorted(archive.glob(f"{TRACES}/*/*/*.parquet"))

    async def shared(_: Path) -> None:
        async with ArchiveStore(archive) as store:
            assert await store.verify(deep=True, workers=None) == []

    async def alone(_: Path) -> None:
        async with ArchiveStore(archive) as store:
            assert await store.verify(deep=True) == []

    async def hashes(_: Path) -> None:
        await _run("sh", "-c", f"find '{archive / TRACES}' -type f -print0 | xargs -0 sha256sum > /dev/null")

    async def decode(_: Path) -> None:
        for path in parts:
            pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)

    async def least(_: Path) -> None:
        for path in parts:
            data = path.read_bytes()
            sha256(data)
            table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
            for column in LOG_COLUMNS["messages" if path.parent.name == "messages" else "events"]:
                for text in table[column.name].drop_null().to_pylist() if column.kind == "json" else ():
                    check_json_text(text)

    contestants = {"shared": shared, "alone": alone, "sha": hashes, "decode": decode, "least": least}
    spent = await _timed(contestants, rounds, folder)
    name, decoding = f"`verify --deep`, {what}", "pyarrow reading the parts"
    all_that = "hashing and reading the parts and parsing their JSON alone"
    return [
        at_most(name, spent["shared"].wall, "`sha256sum`", spent["sha"].wall, "s", 2),
        # What other processes took that share it is not told.
        at_most(f"{name}, CPU of one process", spent["alone"].cpu, "`sha256sum`", spent["sha"].cpu, "s", 2),
        at_most(f"{name}, CPU of one process", spent["alone"].cpu, decoding, spent["decode"].cpu, "s", None),
        at_most(f"{decoding}, CPU", spent["decode"].cpu, "`sha256sum`", spent["sha"].cpu, "s", None),
        at_most(f"{all_that}, CPU", spent["least"].cpu, "`sha256sum`", spent["sha"].cpu, "s", None),
    ]


def _both(name: str, ours: Spent, rival: str, theirs: Spent, most: float | None) -> list[Figure]:
    return [
        at_most(name, ours.wall, rival, theirs.wall, "s", most),
        at_most(f"{name}, CPU", ours.cpu, rival, theirs.cpu, "s", most),
    ]


async def _sync(source: Path, target: Path, options: SyncOptions) -> None:
    async with ArchiveStore(source) as one, ArchiveStore(target) as other:
        report = await sync(one, other, options)
        assert report.is_clean


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


def _write_bare(target: Path, sizes: list[dict[str, int]]) -> None:
    """Write files of these sizes, a directory of them at a time, sync each and each directory, and move the directory.

    That is what nobody can save who promises that of each file.
    """
    data = os.urandom(max(size for each in sizes for size in each.values()))
    target.mkdir()

    def write(number: int) -> None:
        place = target / f"{number}-begun"
        for directory in (place, place / "messages", place / "events"):
            directory.mkdir()
        for name, size in sizes[number].items():
            descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, memoryview(data)[:size])
            os.fsync(descriptor)
            os.close(descriptor)
        for directory in (place / "messages", place / "events", place):
            sync_directory(directory)
        place.rename(target / str(number))

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(write, range(len(sizes))):
            pass
    sync_directory(target)


async def _timed(contestants: Mapping[str, Contestant], rounds: int, folder: Path) -> dict[str, Spent]:
    """Run each contestant once per round, in turning order, each time onto nothing; return what each took."""
    spent = {name: Spent() for name in contestants}
    names = list(contestants)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            os.sync()
            cpu, start = _cpu(), time.perf_counter()
            await contestants[name](folder / f"{name}-{turn}")
            spent[name].wall.append(time.perf_counter() - start)
            spent[name].cpu.append(_cpu() - cpu)
    return spent


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
