"""Keeping an archive in order: compaction, sealing, checks, a full look, rollups, deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from traceark import lifecycle, verification
from traceark.catalog.contents import CATALOG
from traceark.catalog.report import RefreshReport
from traceark.compact import compact, seal
from traceark.errors import InvalidIdError, TraceNotFoundError
from traceark.layout import pin_key, trace_prefix
from traceark.pool import TracePool
from traceark.rollups.optimize import optimize, purge
from traceark.rollups.workshop import OptimizeReport, Progress, PurgeReport
from traceark.storage.base import Storage
from traceark.tombstones import Tombstone
from traceark.verification import Finding


class Keeping:
    """The part of `ArchiveStore` that keeps an archive in order."""

    storage: Storage
    _pool: TracePool

    async def compact(self, trace_id: str) -> None:
        """Fold a trace's closed segments into parts; writers go on meanwhile.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        await compact(await self._pool.opened(trace_id))

    async def seal(self, trace_id: str) -> None:
        """Bring a trace into its final form with a manifest; a later write reopens it.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        trace = await self._pool.opened(trace_id)
        await seal(trace)
        await self._pool.done(trace_id)

    async def verify(
        self,
        trace_id: str | None = None,
        *,
        deep: bool = False,
        workers: int | None = 1,
        progress: Progress | None = None,
    ) -> list[Finding]:
        """Check one trace, or all and what they say of each other; an empty list means that nothing was found.

        That a trace's parent or child is not here is told as a note (`Finding.is_note`).

        Parameters
        ----------
        trace_id : str, optional
            All traces when absent.
        deep : bool
            Also every hash, every record, and a recount of totals and stats. Writes nothing.
        workers : int, optional
            How many processes share the work, on a local disk; None for as many as there are
            processors, where there is much to do. Like all of Python's they import the main module.
        progress : callable, optional
            Of all traces, called with the number of those done and of all to do.

        Raises
        ------
        TraceNotFoundError
        """
        binding = await self._pool.catalog.binding()
        return await verification.verify(
            self.storage, trace_id, deep=deep, workers=workers, progress=progress, binding=binding
        )

    async def refresh(self) -> RefreshReport:
        """Look at every directory for what came, went or was replaced by other means than a store.

        Not needed after writing through a store, nor on a local disk after trace directories were
        copied in, renamed or deleted: that is noticed. It is after the contents of a directory
        were replaced by hand, and on an object store after any copying. On a local disk it lists
        three directories per trace; on S3 it takes one request per thousand files, and up to four
        for each trace that is not as it was. What writes left that were cut short is removed, once it
        is an hour old.

        Raises
        ------
        StorageError
        """
        leftovers = await self.storage.remove_leftovers("")
        return replace(await self._pool.catalog.refresh(), leftovers=leftovers)

    async def optimize(self, *, progress: Progress | None = None) -> OptimizeReport:
        """Bring the rollups up to date: a few large Parquet files over all sealed traces, which SQL reads faster.

        Only what is in no rollup yet is read. Small rollups are merged into larger ones now and then,
        and those that hold rows of traces that changed or were deleted are rewritten. Killed
        anywhere, it loses nothing; the next run goes on.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of traces done and of all to do.

        Raises
        ------
        BusyError
            Another process is optimizing this archive.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """
        await self._pool.ready()
        catalog = self._pool.catalog
        await self.storage.remove_leftovers(CATALOG)
        _, _, rows = await catalog.since(None)
        return await optimize(self.storage, await catalog.binding(), rows.filter(rows["final"]), progress=progress)

    async def rollups_with(self, trace_ids: Iterable[str]) -> int:
        """Return how many rollups hold rows of some traces, seen or hidden."""
        standing = self._pool.standing
        await standing.refresh()
        return standing.reader.holding(set(trace_ids))

    async def purge(self, trace_ids: Iterable[str]) -> PurgeReport:
        """Rewrite, now, the rollups that hold rows of some traces, without these, and the catalog.

        After `delete_trace` nothing shows such rows any more, but they lie there until this, or the
        next `optimize`; in the catalog, until it is folded the next time.

        Raises
        ------
        BusyError
            Another process is optimizing this archive; no rollup was purged.
        """
        await self._pool.ready()
        await self._pool.catalog.forget_gone()
        return await purge(self.storage, await self._pool.catalog.binding(), trace_ids)

    async def make_ready(self) -> None:
        """Find out whether writing is safe here, and make the archive where there is none.

        Raises
        ------
        UnsafeStorageError, UnsupportedFormatError, StorageError
        """
        await self._pool.ready()

    @asynccontextmanager
    async def replacing(self, trace_id: str) -> AsyncIterator[None]:
        """Announce that a trace's files are made or replaced by others, for as long as that takes."""
        await self._pool.begin(trace_id)
        try:
            yield
        finally:
            await self._pool.forget(trace_id)  # another task may have opened it meanwhile
            await self._pool.done(trace_id)

    async def delete_trace(self, trace_id: str, *, reason: str | None = None) -> None:
        """Delete a trace for good. Its rows in rollups are hidden at once; `purge` removes them.

        A tombstone stays, with the id, the time and the reason and without any content, so that no
        sync brings this run back. A new trace of the id may be created, and the same run be added
        again by `add_trace` or an import. Interrupted, it is gone on with by doing it again.

        Parameters
        ----------
        trace_id : str
        reason : str, optional
            Why, for the tombstone; it should say nothing of the content.

        Raises
        ------
        TraceNotFoundError
        """

        def burial(incarnation: str, hash_of: str, digest: str) -> Tombstone:
            return Tombstone(trace_id, incarnation, hash_of, digest, reason)

        await self._delete(trace_id, burial)

    async def drop_copy(self, trace_id: str, tombstone: Tombstone | None = None) -> None:
        """Delete a trace because it is not there in the archive that this one is a copy of.

        Parameters
        ----------
        trace_id : str
        tombstone : Tombstone, optional
            The other archive's. Without one nothing keeps the trace from being copied again.

        Raises
        ------
        TraceNotFoundError
        """
        await self._delete(trace_id, None if tombstone is None else lambda *_: tombstone)

    async def _delete(self, trace_id: str, burial: lifecycle.Burial | None) -> None:
        await self._pool.ready()
        await self._pool.settle(trace_id)
        try:
            trace_prefix(trace_id)
        except InvalidIdError:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.storage.url}") from None
        await self._pool.catalog.notices.announce(trace_id)
        incarnation = await lifecycle.delete(self.storage, trace_id, burial)
        await self.storage.delete([pin_key(trace_id)])
        await self._pool.forget(trace_id)  # another task may have opened it meanwhile
        await self._pool.catalog.notices.deleted(trace_id, incarnation)
