"""An import shared by several processes, each with a store of its own on the same archive.

Files go out in chunks of neighbours; at last those whose traces come in pieces, all of a trace in one
chunk. Locks that all processes share keep two of them from importing into one trace at a time.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Lock
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from traceark import processes
from traceark.computing import in_turns
from traceark.errors import ImportFailedError
from traceark.importers.base import Importer
from traceark.importers.find import size_of
from traceark.importers.links import Kin
from traceark.importers.pieces import together, traces_named
from traceark.importers.report import ImportReport
from traceark.importers.take import STRIPES, Taker, stripe_of
from traceark.importers.take_trace import WholeStore
from traceark.protocol import TraceStore

# Starting a process takes about a second, in which one imports 3 MB or some hundred small files.
# A chunk is large enough that opening a store for it costs little, and small enough to share the work evenly.
_WORTH_BYTES, _WORTH_FILES = 16 * 2**20, 500
_MOST_BYTES, _MOST_FILES, _CHUNKS_PER_WORKER = 16 * 2**20, 256, 4


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
    strict: bool
    locks: Sequence[Lock]


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
    strict: bool,
    workers: int,
) -> None:
    """Take files by several processes; the report has them in their order, `kin` what is to be linked."""
    context = processes.context()
    locks = [context.Lock() for _ in range(STRIPES)]
    shared = _Shared(store, candidates, frozenset(files), strict, locks)
    chunks = list(_chunks(files, sizes, workers))
    reports: dict[int, ImportReport] = {}
    done = 0
    with processes.pool(workers, _begin, shared) as pool:
        running: dict[asyncio.Future[_Taken], int] = {}
        futures: list[Future[_Taken]] = []
        left: set[Path] = set()

        def submit(*, pieces: bool) -> None:
            for number, (chunk, _) in enumerate(chunks[len(futures) :], start=len(futures)):
                futures.append(pool.submit(_take_chunk, chunk, pieces))
                running[asyncio.wrap_future(futures[-1])] = number

        submit(pieces=False)
        try:
            waiting = set(running)
            while waiting:
                tell(chunks[min(running[each] for each in waiting)][0][0], done)
                finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in finished:
                    number = running[each]
                    if each.cancelled():
                        continue
                    try:
                        reports[number], found, apart = each.result()
                    except BrokenProcessPool as error:
                        raise ImportFailedError(
                            "a process that shared the import died, perhaps for want of memory; import again, "
                            "which goes on from here, or with one job"
                        ) from error
                    kin.add(found)
                    left.update(apart)
                    done += chunks[number][1] - sum(map(size_of, apart))
                    if reports[number].stopped_at is not None:
                        for future in futures:
                            future.cancel()
                if not waiting and left and all(each.stopped_at is None for each in reports.values()):
                    apart = [path for path in files if path in left]
                    chunks += await asyncio.to_thread(_chunks_together, apart)
                    left.clear()
                    before = set(running)
                    submit(pieces=True)
                    waiting = running.keys() - before
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for number in sorted(reports):
        report.add(reports[number])
    places = {str(path): place for place, path in enumerate(files)}
    report.files.sort(key=lambda file: places.get(file.path, -1))


def _chunks(files: Sequence[Path], sizes: Sequence[int], workers: int) -> Iterator[tuple[list[Path], int]]:
    shares = workers * _CHUNKS_PER_WORKER
    most_bytes, most_files = min(_MOST_BYTES, sum(sizes) // shares), min(_MOST_FILES, -(-len(files) // shares))
    chunk: list[Path] = []
    weight = 0
    for path, size in zip(files, sizes, strict=True):
        if chunk and (len(chunk) == most_files or weight + size > most_bytes):
            yield chunk, weight
            chunk, weight = [], 0
        chunk.append(path)
        weight += size
    if chunk:
        yield chunk, weight


def _chunks_together(files: Sequence[Path]) -> list[tuple[list[Path], int]]:
    """Return chunks of files of which no two tell of the same trace."""
    chunks: list[tuple[list[Path], int]] = []
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
    # What is parsed holds no cycles, and looking for some again and again takes a fifth of the time; see `_take_chunk`.
    gc.freeze()
    gc.disable()


def _take_chunk(files: Sequence[Path], pieces: bool) -> _Taken:
    with in_turns():
        taken = asyncio.run(_take(files, pieces=pieces))
    gc.collect()
    return taken


async def _take(files: Sequence[Path], *, pieces: bool) -> _Taken:
    assert _shared is not None
    async with copy.copy(_shared.store) as store:
        among = dict.fromkeys(files) if pieces else _shared.among
        strict = _shared.strict
        async with Taker(store, _shared.candidates, among, pieces=pieces, strict=strict, guard=_alone) as taker:
            for path in files:
                await taker.take(path)
                if taker.report.stopped_at is not None:
                    break
            await taker.finish()
            return taker.report, taker.kin, taker.left


@asynccontextmanager
async def _alone(trace_id: str) -> AsyncIterator[None]:
    assert _shared is not None
    lock = _shared.locks[stripe_of(trace_id)]
    delay = 0.0005
    while not lock.acquire(block=False):
        await asyncio.sleep(delay)
        delay = min(delay * 2, 0.02)
    try:
        yield
    finally:
        lock.release()
