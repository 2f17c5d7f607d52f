"""Keeping an archive in order: compaction, sealing, checks, repair, a full look, rollups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from traceark import verification
from traceark.catalog.contents import CATALOG
from traceark.catalog.report import RefreshReport
from traceark.compact import compact
from traceark.deleting import Deleting
from traceark.errors import InvalidValueError
from traceark.pending import SpoolStatus
from traceark.repair import RepairReport, repair
from traceark.repair.lost import forget
from traceark.rollups.optimize import optimize, purge
from traceark.rollups.workshop import OptimizeReport, Progress, PurgeReport
from traceark.storage.base import AppendStorage, Storage
from traceark.tombstones import buried
from traceark.verification import Finding

# A write takes no longer; where nothing has to be gone soon, as a purge has it, somebody's clock may be wrong too.
_UNFINISHED_SECONDS, _LEFTOVER_SECONDS = 60.0, 3600.0


class Keeping(Deleting):
    """The part of `ArchiveStore` that keeps an archive in order."""

    async def compact(self, trace_id: str) -> None:
        """Fold a trace's closed segments into parts; writers go on meanwhile.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        with self._pool.catalog.notices.unsettled(trace_id):
            await compact(await self._pool.opened(trace_id))

    async def seal(self, trace_id: str) -> None:
        """Bring a trace into its final form with a manifest; a later write reopens it.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        # Two at a time would both write, and the slower one after this has returned.
        await self._pool.sealed(trace_id)
        trace = await self._pool.opened(trace_id)
        await self._pool.seal(trace)
        await self._pool.done(trace_id)

    async def verify(
        self,
        trace_id: str | None = None,
        *,
        deep: bool = False,
        workers: int | None = 1,
        resume: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[Finding]:
        """Check one trace, or all and what they say of each other; an empty list means that nothing was found.

        That a trace's parent or child is not here is told as a note (`Finding.is_note`).

        Parameters
        ----------
        trace_id : str, optional
            All traces when absent.
        deep : bool
            Also every hash, every record, and a recount of totals and stats; of all traces also every
            row of the rollups. Writes nothing.
        workers : int, optional
            How many processes share the work, on a local disk; None for as many as there are
            processors, where there is much to do. Like all of Python's they import the main module.
        resume : str or Path, optional
            Of all traces: a file outside the archive in which to keep what was checked so far. Killed, a
            verify that is given the same file goes on, and checks again only what changed since; when
            all is checked the file is deleted.
        progress : callable, optional
            Of all traces, called with the number of those done and of all to do.

        Raises
        ------
        TraceNotFoundError
        InvalidValueError
            Several workers away from a local disk; a file that is of another archive or another kind of
            check, or lies in the archive.
        """
        return await verification.verify(
            self.storage,
            trace_id,
            deep=deep,
            workers=workers,
            resume=resume,
            progress=progress,
            binding=self._pool.catalog.binding,
            cache=self._pool.cache,
        )

    async def repair(
        self,
        trace_ids: Iterable[str] | None = None,
        *,
        dry_run: bool = True,
        accept: bool = False,
        progress: Progress | None = None,
    ) -> RepairReport:
        """Mend what can be mended of traces without guessing; by default only say what would be done.

        A trace of which a deep check finds nothing wrong is not touched. Whatever is taken away or
        replaced is kept in ``lost+found/``, and the report says where. What cannot be mended is left as
        it is, and the report says what mends it. Killed anywhere, it goes on when it is done again.

        Parameters
        ----------
        trace_ids : iterable of str, optional
            All traces when absent.
        dry_run : bool
            Only say what would be done, which is the default.
        accept : bool
            Take for right what was changed by hand: a file that is not what the manifest says, and a
            header or a goal tree that reads well but does not prove itself.
        progress : callable, optional
            Called with the number of traces done and of all to do.

        Raises
        ------
        TraceNotFoundError
        VersionMismatchError
            On an object store another process wrote to a trace meanwhile; repair again.

        Examples
        --------
        >>> import asyncio, traceark
        >>> async def run():
        ...     async with traceark.ArchiveStore("memory://repair") as store:
        ...         await store.create_trace(traceark.Trace(trace_id="run-7"))
        ...         await store.seal("run-7")
        ...         await store.storage.replace("traces/run-7/manifest-sha256.txt", b"scratched")
        ...         report = await store.repair(dry_run=False)
        ...         return [(mend.deed, mend.file.rpartition("/")[2]) for mend in report.mended]
        >>> asyncio.run(run())
        [('moved', 'manifest-sha256.txt'), ('rewritten', 'trace.json'), ('sealed', 'manifest-sha256.txt')]
        """
        report = await repair(
            self.storage,
            trace_ids,
            dry_run=dry_run,
            accept=accept,
            replacing=self.replacing,
            seal=self.seal,
            progress=progress,
        )
        if report.mended and not dry_run:
            # A header that was rebuilt is older than what the catalog knows, by its revision.
            await self._pool.catalog.refresh()
        return report

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
        leftovers = await self.storage.remove_leftovers("", _LEFTOVER_SECONDS)
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
        await self.storage.remove_leftovers(CATALOG, _LEFTOVER_SECONDS)
        _, _, rows = await catalog.since(None)
        return await optimize(self.storage, await catalog.binding(), rows.filter(rows["final"]), progress=progress)

    async def settled(self) -> set[str]:
        """Return the ids of the traces that are sealed and that nobody has open for writing."""
        _, _, rows = await self._pool.catalog.since(None)
        return set(rows.filter(rows["final"])["trace_id"].to_pylist())

    async def is_settled(self, trace_id: str) -> bool:
        """Say whether a trace is sealed, and nobody has it open for writing."""
        rows = await self._pool.catalog.standing([trace_id])
        return bool(rows["final"].to_pylist() == [True])

    async def buried_in_rollups(self) -> set[str]:
        """Return the ids of the traces of which rollups hold rows, seen or hidden, of a run that has a tombstone."""
        standing = self._pool.standing
        await standing.refresh()
        return standing.reader.holding_any(await buried(self.storage))

    async def rollups_with(self, trace_ids: Iterable[str]) -> int:
        """Return how many rollups hold rows of some traces, seen or hidden."""
        standing = self._pool.standing
        await standing.refresh()
        return standing.reader.holding(set(trace_ids))

    async def purge(self, trace_ids: Iterable[str]) -> PurgeReport:
        """Rewrite, now, the rollups that hold rows of some traces, without these, and the catalog.

        What repairs kept of them in ``lost+found/`` is deleted too. After `delete_trace` nothing shows
        such rows any more, but they lie there until this, or the next `optimize`; in the catalog, until
        it is folded the next time; in ``lost+found/``, until this. Files of the catalog that a killed
        process left half-written go when they are a minute old.

        Raises
        ------
        BusyError
            Another process is optimizing this archive; no rollup was purged.
        """
        await self._pool.ready()
        gone = set(trace_ids)
        await self._pool.catalog.forget_gone()
        await forget(self.storage, gone)
        await self.remove_unfinished(CATALOG)
        return await purge(self.storage, await self._pool.catalog.binding(), gone)

    async def remove_unfinished(self, prefix: str) -> None:
        """Remove, below a prefix, files that a killed process left half-written, once they are a minute old."""
        await self.storage.remove_leftovers(prefix, _UNFINISHED_SECONDS)

    async def spool_status(self) -> SpoolStatus:
        """Return what waits in the spool to be shipped.

        Raises
        ------
        InvalidValueError
            The store has none.
        """
        raise InvalidValueError(f"the store of {self.storage.url} has no spool; open it with spool=", "spool")

    async def holder(self, trace_id: str) -> Storage:
        """Return the storage that a trace's files are in."""
        return self.storage

    async def check_format(self) -> None:
        """Refuse an archive of a format that this release does not know; where there is none yet, do nothing.

        Raises
        ------
        UnsupportedFormatError
            It was made by a newer version.
        CorruptFileError
            Its marker is torn.
        """
        await self._pool.marker()

    async def make_ready(self) -> None:
        """Find out whether writing is safe here, and make the archive where there is none.

        Raises
        ------
        UnsafeStorageError, UnsupportedFormatError, StorageError
        """
        await self._pool.ready()

    async def make_lasting(self) -> None:
        """Return when all that is in the archive is on stable storage, whoever wrote it.

        What a store acknowledged is so already; what it reads may be of a process that was killed a moment
        ago. With ``durability="os"`` that is left to the operating system, as all is.

        Raises
        ------
        StorageError
        """
        if isinstance(self.storage, AppendStorage):
            await self.storage.sync_all()

    @asynccontextmanager
    async def replacing(self, trace_id: str) -> AsyncIterator[None]:
        """Announce that a trace's files are made or replaced by others, for as long as that takes."""
        async with AsyncExitStack() as afterwards:
            with self._pool.catalog.notices.unsettled(trace_id):
                await self._pool.begin(trace_id)
                afterwards.push_async_callback(self._pool.done, trace_id)
                afterwards.push_async_callback(self._pool.forget, trace_id)  # another task may have opened it meanwhile
                yield
