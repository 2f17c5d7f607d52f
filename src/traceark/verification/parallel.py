"""Many traces at a time: of an object store by one process, which waits for all of them, on a local disk by several."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool

from traceark import processes
from traceark.errors import StorageError
from traceark.layout import TRACES
from traceark.storage.base import Entry, Storage
from traceark.verification.one import Checked, check

Listed = Mapping[str, Mapping[str, Entry]]

# Starting a process takes about a second, in which one looks deep into 700 small traces or 50 MB of large ones.
_WORTH_TRACES, _WORTH_BYTES = 1_500, 128 * 2**20
# How many traces of an object store are looked at together, and of how many bytes, so that memory stays bounded.
_TOGETHER, _TOGETHER_BYTES = 16, 64 * 2**20
# A chunk is small enough to share the work evenly, and to show how far it is.
_MOST_TRACES, _CHUNKS_PER_WORKER = 256, 8


def can_share(storage: Storage) -> bool:
    """Say whether other processes can read what is in a storage."""
    return storage.local_path(TRACES) is not None


def sensible_workers(storage: Storage, listed: Listed) -> int:
    """Return how many processes to share a deep look at these traces among; one where starting others costs more."""
    if not can_share(storage):
        return 1
    size = sum(map(_size, listed.values()))
    return (os.cpu_count() or 1) if len(listed) >= _WORTH_TRACES or size >= _WORTH_BYTES else 1


async def check_together(storage: Storage, listed: Listed, *, deep: bool) -> AsyncGenerator[dict[str, Checked]]:
    """Check traces, those of an object store some at a time; yield what is found of each as it is done."""
    if can_share(storage):
        # A disk is hardly waited for: what there is to do, threads would do no faster.
        for each, entries in listed.items():
            yield {each: await check(storage, each, entries, deep=deep)}
        return
    running: dict[asyncio.Task[Checked], tuple[str, int]] = {}

    async def some_done() -> dict[str, Checked]:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return {running.pop(task)[0]: task.result() for task in done}

    try:
        for each, entries in listed.items():
            size = _size(entries)
            while running and (
                len(running) == _TOGETHER or size + sum(s for _, s in running.values()) > _TOGETHER_BYTES
            ):
                yield await some_done()
            running[asyncio.create_task(check(storage, each, entries, deep=deep))] = each, size
        while running:
            yield await some_done()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def check_by_workers(
    storage: Storage, listed: Listed, *, deep: bool, workers: int
) -> AsyncGenerator[dict[str, Checked]]:
    """Check traces; yield them a chunk at a time, as they are done."""
    pool = processes.pool(workers)
    checking: list[asyncio.Future[dict[str, Checked]]] = []
    try:
        chunks = [pool.submit(_check, storage, chunk, deep) for chunk in _chunks(listed, workers)]
        checking = [asyncio.wrap_future(each) for each in chunks]
        for each in asyncio.as_completed(checking):
            yield await each
    except BrokenProcessPool as error:
        raise StorageError(f"a process that shared the check {processes.DIED}; verify again with one worker") from error
    except asyncio.CancelledError:
        pool.end()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for left in checking:
            left.cancel()
        await asyncio.gather(*checking, return_exceptions=True)


def _size(entries: Mapping[str, Entry]) -> int:
    return sum(entry.size for entry in entries.values())


def _chunks(listed: Listed, workers: int) -> Iterator[Listed]:
    shares = workers * _CHUNKS_PER_WORKER
    weights = {trace_id: _size(entries) for trace_id, entries in listed.items()}
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
