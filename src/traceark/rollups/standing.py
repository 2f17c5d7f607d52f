"""Where the rows of each trace are to be read: in a rollup, in its one part, or in its directory.

Kept in step with the catalog and the current rollups, trace by trace as they change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pyarrow as pa

from traceark.catalog.catalog import Catalog
from traceark.catalog.known import Mark
from traceark.codec import compute as pc
from traceark.rollups.cache import FileCache
from traceark.rollups.coverage import Coverage, cover
from traceark.rollups.reader import RollupReader
from traceark.storage.base import Storage


class Standing:
    """Where the rows of each trace are to be read.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    catalog : Catalog
        Its rows.
    binding : callable
        Returns the binding of the archive and its place.
    cache : FileCache
        Where rollups of an object store are kept.

    Attributes
    ----------
    masked, masked_goals : list of set of str
        For each current rollup, the traces whose rows in it must not be seen.
    uncovered : dict
        By trace id, the parts that are the whole logs of sealed traces that no rollup covers; None
        for a log that is no part.
    uncovered_goals : set of str
        Sealed traces with a goal tree that no rollup covers.
    others : set of str
        Traces that are not sealed: read in their directories.
    """

    def __init__(
        self, storage: Storage, catalog: Catalog, binding: Callable[[], Awaitable[str]], cache: FileCache
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._binding = binding
        self._cache = cache
        # What one task reads of it must not change under it: all that waits in between would mix two moments.
        self._mutex = asyncio.Lock()
        self._bound = ""
        self._mark: Mark | None = None
        self._ids: list[str] = []
        self.reader = RollupReader(storage, "", cache)
        self.masked: list[set[str]] = []
        self.masked_goals: list[set[str]] = []
        self.uncovered: dict[str, tuple[str | None, str | None]] = {}
        self.uncovered_goals: set[str] = set()
        self.others: set[str] = set()

    async def refresh(self) -> None:
        """Take in what changed of traces and rollups."""
        async with self.steady():
            pass

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        """Take in what changed, and hold all of it still."""
        async with self._mutex:
            await self._refresh()
            yield

    async def _refresh(self) -> None:
        binding = await self._binding()
        if binding != self._bound:
            self.reader = RollupReader(self._storage, binding, self._cache)
            self._bound, self._mark = binding, None
        ids = [rollup.id for rollup in await self.reader.refresh()]
        mark, changed, rows = await self._catalog.since(self._mark if ids == self._ids else None)
        members = self.reader.members()
        if changed is None:
            self.masked = [set() for _ in ids]
            self.masked_goals = [set() for _ in ids]
            self.uncovered.clear()
            self.uncovered_goals.clear()
            self.others.clear()
        elif changed:
            self._forget(set(changed))
            members = members.filter(pc.is_in(members["trace_id"], pa.array(changed, pa.string())))
        if changed is None or changed:
            final = rows.filter(rows["final"])
            self._add(await asyncio.to_thread(cover, final, members))
            self.others.update(rows.filter(pc.invert(rows["final"]))["trace_id"].to_pylist())
        self._ids, self._mark = ids, mark

    def _forget(self, changed: set[str]) -> None:
        for masks in (*self.masked, *self.masked_goals, self.uncovered_goals, self.others):
            masks -= changed
        for trace_id in changed:
            self.uncovered.pop(trace_id, None)

    def _add(self, coverage: Coverage) -> None:
        for masks, goals in ((self.masked, False), (self.masked_goals, True)):
            for mask, more in zip(masks, coverage.masks(len(masks), goals=goals), strict=True):
                mask.update(more)
        parts = coverage.uncovered
        for trace_id, messages, events in zip(
            parts["trace_id"].to_pylist(), parts["_messages"].to_pylist(), parts["_events"].to_pylist(), strict=True
        ):
            self.uncovered[trace_id] = (messages, events)
        self.uncovered_goals.update(coverage.uncovered_goals["trace_id"].to_pylist())
