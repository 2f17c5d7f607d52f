"""`optimize` and `purge`: rollups are made, merged, rewritten and removed.

Every rollup is published before the next is begun, so a run that was killed goes on where it
stopped. On a local disk one run at a time holds a lock. On an object store runs may race: each
publishes under an id of its own, and readers decide per trace which rollup counts, so a race
costs work and space until the next run, and no row is seen twice.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pyarrow as pa

from traceark import database
from traceark.errors import BusyError, StorageError, TracearkError
from traceark.rollups.files import ROLLUPS
from traceark.rollups.plan import Limits
from traceark.rollups.workshop import OptimizeReport, Progress, PurgeReport, Workshop
from traceark.storage.base import AppendStorage, Storage

MEMORY_BYTES = 768 << 20
# A file of an object store is uploaded whole from memory.
REMOTE_LIMITS = Limits(records=1_000_000, bytes=128 << 20, traces=20_000, largest_bytes=256 << 20)
_WORK = ".work"


async def optimize(
    storage: Storage,
    binding: str,
    rows: pa.Table,
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> OptimizeReport:
    """Bring the rollups up to date.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    binding : str
        Of the archive and its place.
    rows : pyarrow.Table
        The catalog's rows of settled, sealed traces: the columns of `files.ROW_SCHEMA`.
    progress : callable, optional
        Called with the number of traces done and of all to do.
    limits : Limits, optional
        How large rollups get.
    memory_bytes : int
        What DuckDB may use before it spills.

    Raises
    ------
    BusyError
        Another process is optimizing this archive.
    StorageError
        The rollups cannot be written.
    """
    started = time.monotonic()
    report = OptimizeReport()
    async with _workshop(storage, binding, memory_bytes) as shop:
        bounds = limits or (REMOTE_LIMITS if shop.remote else Limits())
        await shop.remove_damaged()
        await shop.remove_dead(report)
        with _told_unmade(storage.url):
            await shop.roll_up(rows, bounds, report, progress or (lambda done, total: None))
        await shop.merge(rows, bounds, report)
        await shop.remove_dead(report)
    report.seconds = time.monotonic() - started
    return report


async def purge(
    storage: Storage, binding: str, trace_ids: Iterable[str], *, memory_bytes: int = MEMORY_BYTES
) -> PurgeReport:
    """Rewrite, now, all rollups that hold rows of some traces, without these.

    Rollups that were merged into others or never finished, and those bound to another place, are
    removed where they may hold such rows, since nothing here reads them. The report names
    directories whose content this release cannot tell; they may still hold rows.

    Raises
    ------
    BusyError
        Another process is optimizing this archive; nothing was purged.
    """
    report = PurgeReport()
    async with _workshop(storage, binding, memory_bytes) as shop:
        await shop.purge(sorted(set(trace_ids)), report)
    return report


@contextmanager
def _told_unmade(url: str) -> Iterator[None]:
    try:
        yield
    except TracearkError:
        raise
    except (*database.ERRORS, pa.ArrowException, OSError) as error:
        raise StorageError(
            f"rollups of {url} cannot be made: {database.reason_of(error)}; what is there stays"
        ) from error


@asynccontextmanager
async def _workshop(storage: Storage, binding: str, memory_bytes: int) -> AsyncIterator[Workshop]:
    """Give the one place where rollups are made, locked where the storage can lock."""
    root = storage.local_path(ROLLUPS)
    if not isinstance(storage, AppendStorage) or root is None:
        with tempfile.TemporaryDirectory(prefix="traceark-") as work:
            yield Workshop(storage, binding, Path(work), memory_bytes)
        return
    storage.make_directory(ROLLUPS)
    lock = storage.lock(f"{ROLLUPS}/.lock")
    try:
        if not lock.try_acquire():
            raise BusyError(f"another process is optimizing {storage.url}; try again when it is done")
        try:
            # Whoever left something here is dead: this process has the lock.
            storage.remove_directory(f"{ROLLUPS}/{_WORK}")
            storage.make_directory(f"{ROLLUPS}/{_WORK}")
            yield Workshop(storage, binding, root / _WORK, memory_bytes)
        finally:
            storage.remove_directory(f"{ROLLUPS}/{_WORK}")
            lock.release()
    finally:
        lock.close()
