"""What a store with a spool does to keep its archive in order: each thing where the trace is, or at both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from traceark.catalog.report import RefreshReport
from traceark.errors import InvalidValueError, TraceNotFoundError
from traceark.repair import RepairReport
from traceark.rollups.workshop import OptimizeReport, Progress, PurgeReport
from traceark.spool.anew import notes_of
from traceark.spool.place import Place
from traceark.spool.pool import SpooledPool
from traceark.storage.base import Storage
from traceark.store import ArchiveStore
from traceark.verification import Finding


class SpooledKeeping(ArchiveStore):
    """The part of `SpooledStore` that keeps an archive in order."""

    _far: ArchiveStore
    _place: Place
    _spooled: SpooledPool

    async def holder(self, trace_id: str) -> Storage:
        return self.storage if await self._place.trace(trace_id) is not None else self._far.storage

    async def _keeper(self, trace_id: str) -> ArchiveStore | None:
        """Return the archive, when a trace is not in the spool but there."""
        if await self._place.trace(trace_id) is None and await self._spooled.load(trace_id) is not None:
            return self._far
        return None

    async def compact(self, trace_id: str) -> None:
        keeper = await self._keeper(trace_id)
        await (super().compact(trace_id) if keeper is None else self._spooled.reach(keeper.compact(trace_id)))

    async def seal(self, trace_id: str) -> None:
        keeper = await self._keeper(trace_id)
        await (super().seal(trace_id) if keeper is None else self._spooled.reach(keeper.seal(trace_id)))

    async def verify(
        self,
        trace_id: str | None = None,
        *,
        deep: bool = False,
        workers: int | None = 1,
        resume: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[Finding]:
        """Check one trace, where it is, or all of the spool and then all of the archive.

        Raises
        ------
        InvalidValueError
            `resume` is given, whose file tells of one archive.
        TraceNotFoundError
        """
        if resume is not None:
            raise InvalidValueError(
                f"the store of {self.url} has a spool; verify the archive and {self.storage.url} each by itself",
                "resume",
            )
        if trace_id is not None and await self._place.trace(trace_id) is not None:
            return await super().verify(trace_id, deep=deep, workers=workers, progress=progress)
        found = [] if trace_id is not None else await super().verify(deep=deep, workers=workers, progress=progress)
        far = self._far.verify(trace_id, deep=deep, workers=workers, progress=progress)
        return found + await self._spooled.reach(far)

    async def repair(
        self,
        trace_ids: Iterable[str] | None = None,
        *,
        dry_run: bool = True,
        accept: bool = False,
        progress: Progress | None = None,
    ) -> RepairReport:
        """Mend traces, each where it is; all of the spool and then all of the archive when none are named."""
        ids = None if trace_ids is None else list(trace_ids)
        here = None if ids is None else [each for each in ids if await self._place.trace(each) is not None]
        there = None if ids is None or here is None else [each for each in ids if each not in here]
        near, far = RepairReport(dry_run=dry_run), RepairReport(dry_run=dry_run)
        if here is None or here:
            near = await super().repair(here, dry_run=dry_run, accept=accept, progress=progress)
        if there is None or there:
            mending = self._far.repair(there, dry_run=dry_run, accept=accept, progress=progress)
            far = await self._spooled.reach(mending)
        return RepairReport(near.traces + far.traces, near.mended + far.mended, near.left + far.left, dry_run)

    async def refresh(self) -> RefreshReport:
        near, far = await super().refresh(), await self._spooled.reach(self._far.refresh())
        return replace(far, leftovers=near.leftovers + far.leftovers)

    async def optimize(self, *, progress: Progress | None = None) -> OptimizeReport:
        return await self._spooled.reach(self._far.optimize(progress=progress))

    async def rollups_with(self, trace_ids: Iterable[str]) -> int:
        return await self._spooled.reach(self._far.rollups_with(trace_ids))

    async def purge(self, trace_ids: Iterable[str]) -> PurgeReport:
        ids = list(trace_ids)
        await super().purge(ids)
        return await self._spooled.reach(self._far.purge(ids))

    async def pin(self, trace_id: str) -> None:
        if await self._spooled.load(trace_id) is None:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.url}")
        await self._spooled.reach(self._far.set_pin(trace_id))

    async def unpin(self, trace_id: str) -> None:
        await self._spooled.reach(self._far.unpin(trace_id))

    async def pinned(self) -> set[str]:
        return await self._spooled.reach(self._far.pinned())

    async def _weigh(self, trace_ids: list[str]) -> int:
        return await super()._weigh(trace_ids) + await self._spooled.reach(self._far._weigh(trace_ids))

    async def delete_trace(self, trace_id: str, *, reason: str | None = None) -> None:
        """Delete a trace for good, here and at the archive.

        Where the archive cannot be reached, it is deleted there when it can be again; until then it is
        read from there, and this raises `StorageError`.

        Raises
        ------
        TraceNotFoundError, StorageError
        """
        was_here = await self._place.trace(trace_id) is not None
        if was_here:
            added = await notes_of(self._place.storage, trace_id)
            await super().delete_trace(trace_id, reason=reason)
            await self._place.storage.delete(each.key for each in added)
            await self._place.drop_mark(trace_id)
        try:
            await self._spooled.reach(self._far.delete_trace(trace_id, reason=reason))
        except TraceNotFoundError:
            if not was_here:
                raise
