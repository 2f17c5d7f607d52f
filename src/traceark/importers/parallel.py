"""An import shared by this process and others, each of which has a store of its own on the same archive.

Files go out in chunks of neighbours, smaller ones towards the end, to whoever is idle; at last those whose traces come
in pieces, all of a trace in one chunk. This process has begun long before the others are ready. Locks that all share
keep two of them from importing into one trace at a time.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.synchronize import Lock
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from traceark import processes
from traceark.computing import in_turns, without_collections
from traceark.errors import ImportFailedError
from traceark.importers.base import Importer
from traceark.importers.find import size_of
from traceark.importers.links import Kin
from traceark.importers.pieces import together, traces_named
from traceark.importers.report import ImportReport
from traceark.importers.take import STRIPES, Taker, stripe_of
from traceark.importers.take_trace import WholeStore
from traceark.protocol import TraceStore

# Starting a process takes as long as importing 10 MB, or some hundred small files.
# Neighbours link to each other, so a chunk is large; those of the end are small, so that nobody waits for another.
_WORTH_BYTES, _WORTH_FILES = 16 * 2**20, 500
_MOST_BYTES, _MOST_FILES, _CHUNKS_PER_WORKER = 16 * 2**20, 256, 4
# Chunks that another process has at a time, so that it need not wait for this one to hand out the next.
_AHEAD = 2


@runtime_checkable
class SharedStore(WholeStore, Protocol):
    """A store of which a copy, also in another process, is another store on the same archive."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all chunks of an import have in common."""

    store: SharedStore
    candidates: Sequence[Importer]
    among: frozenset[Path]
    told: frozenset[Path]
    strict: bool
    locks: Sequence[Lock]


# Files, and their size together.
_Chunk: TypeAlias = tuple[list[Path], int]
# What became of a chunk: the report, what is to be linked, and files that are to be taken together with others.
_Taken: TypeAlias = "tuple[ImportReport, Kin, list[Path]]"
# Of this process, when it is one of those that share an import.
_shared: _Shared | None = None


def sensible_workers(store: TraceStore, sizes: Sequence[int]) -> int:
    """Return how many processes to share an import of files of these sizes among.

    One, where starting others takes longer than the work, or others cannot open the archive.
    """
    if sum(sizes) <= _WORTH_BYTES and len(sizes) <= _WORTH_FILES:
        return 1
    try:
        return (os.cpu_count() or 1) if isinstance(store, SharedStore) and copy.copy(store) is not store else 1
    except TypeError:
        return 1


async def take_in_parallel(
    store: SharedStore,
    files: Sequence[Path],
    sizes: Sequence[int],
    candidates: Sequence[Importer],
    report: ImportReport,
    kin: Kin,
    tell: Callable[[Path, int], None],
    *,
    told: Collection[Path],
    strict: bool,
    workers: int,
) -> None:
    """Take files by several processes, of which this is one; the report has them in their order, `kin` the links."""
    copy.copy(store)  # of a store that no other process can open there is no copy
    context = processes.context()
    locks = [context.Lock() for _ in range(STRIPES)]
    shared = _Shared(store, candidates, frozenset(files), frozenset(told), strict, locks)
    with processes.pool(workers - 1, _begin, shared) as pool:
        sharing = _Sharing(shared, pool, workers - 1, tell)
        try:
            await sharing.take(_chunks(files, sizes, workers), pieces=False)
            apart = [path for path in files if path in sharing.left]
            if apart and not sharing.stopped:
                await sharing.take(await asyncio.to_thread(_chunks_together, apart), pieces=True)
        except asyncio.CancelledError:
            pool.end()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for each in sharing.reports:
        report.add(each)
    kin.add(sharing.kin)
    places = {str(path): place for place, path in enumerate(files)}
    report.files.sort(key=lambda file: places.get(file.path, -1))


class _Sharing:
    """Hands out chunks, and gathers what became of them.

    Parameters
    ----------
    shared : _Shared
    pool : ProcessPoolExecutor
        The other processes.
    others : int
        How many they are.
    tell : callable
        Given the first file that is being taken, and the bytes done.

    Attributes
    ----------
    reports : list of ImportReport
        In the order of the files.
    kin : Kin
    left : set of Path
        Files that are to be taken together with others.
    stopped : bool
        Whether a file was met that the import stops at.
    """

    def __init__(
        self, shared: _Shared, pool: ProcessPoolExecutor, others: int, tell: Callable[[Path, int], None]
    ) -> None:
        self.kin = Kin()
        self.left: set[Path] = set()
        self.stopped = False
        self._shared = shared
        self._pool = pool
        self._others = others
        self._tell = tell
        self._taken: dict[int, ImportReport] = {}
        self._handed_out = count()
        self._running: dict[int, Path] = {}
        self._done = 0

    @property
    def reports(self) -> list[ImportReport]:
        return [self._taken[number] for number in sorted(self._taken)]

    async def take(self, chunks: Iterable[_Chunk], *, pieces: bool) -> None:
        """Take chunks by all processes.

        Raises
        ------
        ImportFailedError
            One of the others died.
        """
        waiting = iter(chunks)
        started = asyncio.create_task(self._start())
        hands = [self._here(waiting, pieces)]
        hands += (self._elsewhere(started, waiting, pieces) for _ in range(self._others * _AHEAD))
        tasks = [started, *map(asyncio.create_task, hands)]
        try:
            await asyncio.gather(*tasks)
        except BrokenProcessPool as error:
            raise ImportFailedError(
                f"a process that shared the import {processes.DIED}; import again, which goes on from here, "
                "or with one job"
            ) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _start(self) -> None:
        # To start the processes is to wait for the first of them, and no chunk is to wait for that.
        await asyncio.wrap_future(await asyncio.to_thread(self._pool.submit, os.getpid))

    async def _here(self, chunks: Iterator[_Chunk], pieces: bool) -> None:
        async def taken(files: list[Path]) -> _Taken:
            with without_collections(), in_turns():
                return await _take(self._shared, self._shared.store, files, pieces)

        await self._hand_out(chunks, taken)

    async def _elsewhere(self, started: asyncio.Task[None], chunks: Iterator[_Chunk], pieces: bool) -> None:
        async def taken(files: list[Path]) -> _Taken:
            return await asyncio.wrap_future(self._pool.submit(_take_chunk, files, pieces))

        await asyncio.shield(started)
        await self._hand_out(chunks, taken)

    async def _hand_out(self, chunks: Iterator[_Chunk], take: Callable[[list[Path]], Awaitable[_Taken]]) -> None:
        while not self.stopped and (chunk := next(chunks, None)) is not None:
            files, size = chunk
            number = next(self._handed_out)
            self._running[number] = files[0]
            self._tell(self._running[min(self._running)], self._done)
            report, kin, apart = await take(files)
            del self._running[number]
            self._taken[number] = report
            self.kin.add(kin)
            self.left.update(apart)
            self._done += size - sum(map(size_of, apart))
            if report.stopped_at is not None:
                self.stopped = True


def _chunks(files: Sequence[Path], sizes: Sequence[int], workers: int) -> Iterator[_Chunk]:
    """Yield files with their size together: a share of what is left each time, so that all come to an end at once."""
    left, shares = sum(sizes), workers * _CHUNKS_PER_WORKER
    least = left // (shares * _CHUNKS_PER_WORKER)
    chunk: list[Path] = []
    weight = 0
    for number, (path, size) in enumerate(zip(files, sizes, strict=True)):
        most_bytes = min(_MOST_BYTES, max(left // shares, least))
        most_files = min(_MOST_FILES, -(-(len(files) - number + len(chunk)) // shares))
        if chunk and (len(chunk) >= most_files or weight + size > most_bytes):
            yield chunk, weight
            left -= weight
            chunk, weight = [], 0
        chunk.append(path)
        weight += size
    if chunk:
        yield chunk, weight


def _chunks_together(files: Sequence[Path]) -> list[_Chunk]:
    """Return chunks of files of which no two tell of the same trace."""
    chunks: list[_Chunk] = []
    chunk: list[Path] = []
    weight = 0
    for places in together([traces_named(path) for path in files]):
        group = [files[place] for place in places]
        size = sum(map(size_of, group))
        if chunk and (len(chunk) + len(group) > _MOST_FILES or weight + size > _MOST_BYTES):
            chunks.append((chunk, weight))
            chunk, weight = [], 0
        chunk += group
        weight += size
    if chunk:
        chunks.append((chunk, weight))
    return chunks


def _begin(shared: _Shared) -> None:
    global _shared
    _shared = shared
    # What is there stays, and what a chunk makes is looked at when it is done.
    gc.freeze()
    gc.disable()


def _take_chunk(files: Sequence[Path], pieces: bool) -> _Taken:
    assert _shared is not None
    with in_turns():
        taken = asyncio.run(_take_opened(_shared, files, pieces))
    gc.collect()
    return taken


async def _take_opened(shared: _Shared, files: Sequence[Path], pieces: bool) -> _Taken:
    async with copy.copy(shared.store) as store:
        return await _take(shared, store, files, pieces)


async def _take(shared: _Shared, store: SharedStore, files: Sequence[Path], pieces: bool) -> _Taken:
    among = dict.fromkeys(files) if pieces else shared.among
    guard = partial(_alone, shared.locks)
    async with Taker(
        store, shared.candidates, among, told=shared.told, pieces=pieces, strict=shared.strict, guard=guard
    ) as taker:
        for path in files:
            await taker.take(path)
            if taker.report.stopped_at is not None:
                break
        await taker.finish()
        return taker.report, taker.kin, taker.left


@asynccontextmanager
async def _alone(locks: Sequence[Lock], trace_id: str) -> AsyncIterator[None]:
    lock = locks[stripe_of(trace_id)]
    delay = 0.0005
    while not lock.acquire(block=False):
        await asyncio.sleep(delay)
        delay = min(delay * 2, 0.02)
    try:
        yield
    finally:
        lock.release()
