"""Whether what a sync looked at stands still: of a trace that is being replaced some files are newer than others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from traceark.layout import LOCK, trace_prefix
from traceark.lifecycle import locked, versions
from traceark.storage.base import AppendStorage, Storage
from traceark.store import ArchiveStore
from traceark.sync.sides import Side, look


async def stand_still(side: Side, there: Side | None, source: Storage) -> bool:
    """Say whether both sides are as they were looked at; one that does not lie in the source itself is."""
    if there is not None:
        async with _unchanged(there):
            if not await _is_as_it_was(there):
                return False
    return side.storage is not source or await _is_as_it_was(side)


async def _is_as_it_was(side: Side) -> bool:
    now = await look(side.storage, side.trace_id)
    if now is None or now.header_data != side.header_data:
        return False
    return versions(now.entries) == versions(side.entries)


@asynccontextmanager
async def _unchanged(side: Side) -> AsyncIterator[None]:
    """Let no sync be in the middle of a trace's files, where a lock can say so; none is made for that."""
    if not isinstance(side.storage, AppendStorage) or LOCK not in side.entries:
        yield
        return
    async with locked(side.storage, side.prefix, [side.prefix]):
        yield


async def files_of(trace_id: str, *stores: ArchiveStore) -> list[dict[str, str]]:
    """Return what tells one state of a trace's files from another, in each of some archives."""
    return [versions(await store.storage.list(trace_prefix(trace_id))) for store in stores]
