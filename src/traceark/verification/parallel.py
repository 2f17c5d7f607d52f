"""One verify by several processes, on a local disk, where each of them can read the archive by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool

from traceark import processes
from traceark.errors import StorageError
from traceark.layout import TRACES
from traceark.storage.base import Entry, Storage
from traceark.verification.one import Checked, check

Listed = Mapping[str, Mapping[str, Entry]]

# Starting a process takes about a second, in which one looks deep into 700 small traces or 50 MB of large ones.
_WORTH_TRACES, _WORTH_BYTES = 1_500, 128 * 2**20
# A chunk is small enough to share the work evenly, and to show how far it is.
_MOST_TRACES, _CHUNKS_PER_WORKER = 256, 8


def can_share(storage: Storage) -> bool:
    """Say whether other processes can read what is in a storage."""
    return storage.local_path(TRACES) is not None


def sensible_workers(storage: Storage, listed: Listed) -> int:
    """Return how many processes to share a deep look at these traces among; one where starting others costs more."""
    if not can_share(storage):
        return 1
    size = sum(entry.size for entries in listed.values() for entry in entries.values())
    return (os.cpu_count() or 1) if len(listed) >= _WORTH_TRACES or size >= _WORTH_BYTES else 1


async def check_by_workers(
    storage: Storage, listed: Listed, *, deep: bool, workers: int
) -> AsyncIterator[dict[str, Checked]]:
    """Check traces; yield them a chunk at a time, as they are done."""
    pool = processes.pool(workers)
    try:
        chunks = [pool.submit(_check, storage, chunk, deep) for chunk in _chunks(listed, workers)]
        for each in asyncio.as_completed(map(asyncio.wrap_future, chunks)):
            yield await each
    except BrokenProcessPool as error:
        raise StorageError(
            "a process that shared the check died, perhaps for want of memory; verify again with one worker"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _chunks(listed: Listed, workers: int) -> Iterator[Listed]:
    shares = workers * _CHUNKS_PER_WORKER
    weights = {trace_id: sum(entry.size for entry in entries.values()) for trace_id, entries in listed.items()}
    most_traces, most_bytes = min(_MOST_TRACES, -(-len(listed) // shares)), sum(weights.values()) // shares
    chunk: dict[str, Mapping[str, Entry]] = {}
    weight = 0
    for trace_id in sorted(listed):
        if chunk and (len(chunk) == most_traces or weight + weights[trace_id] > most_bytes):
            yield chunk
            chunk, weight = {}, 0
        chunk[trace_id] = listed[trace_id]
        weight += weights[trace_id]
    if chunk:
        yield chunk


def _check(storage: Storage, listed: Listed, deep: bool) -> dict[str, Checked]:
    async def check_each() -> dict[str, Checked]:
        return {trace_id: await check(storage, trace_id, entries, deep=deep) for trace_id, entries in listed.items()}

    return asyncio.run(check_each())
