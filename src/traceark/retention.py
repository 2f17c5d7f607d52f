"""What an archive keeps and what it lets go: pins, and deleting what has grown old.

A pin is a file of the archive beside its traces. It belongs to no run, so the bytes of a sealed trace
stay as they are and no copy of it differs for it; each archive says for itself what it keeps.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Unpack

from traceark.asking import Asking
from traceark.at_a_time import for_each
from traceark.errors import InvalidValueError, TraceNotFoundError
from traceark.filters import Filters
from traceark.keeping import Keeping
from traceark.layout import PINS, pin_key, trace_id_of, trace_prefix
from traceark.models import Json, JsonObject, Trace, utc_now
from traceark.storage.base import KeyExistsError

# Called with traces done, and of how many.
Progress = Callable[[int, int], None]
_PAGE = 1000
_AT_A_TIME = 32


class Expiring(Filters, total=False):
    """The keywords of `Retention.expire`, for those who hand them on."""

    dry_run: bool
    keep_failed: bool
    include_running: bool
    reason: str | None
    progress: Progress | None


@dataclass(slots=True)
class ExpiryReport:
    """What an expiry deleted, or would delete.

    Attributes
    ----------
    trace_ids : list of str
        The traces, oldest first.
    bytes : int
        What their directories hold.
    pinned, running, failed : int
        Traces that are old enough and meet the filters, and are kept: since they are pinned, or still
        running, or failed where those are to be kept.
    rollups : int
        Rollups that were rewritten or removed for it.
    unread : list of str
        Rollups that may hold rows of what was deleted, since this release cannot read them.
    """

    trace_ids: list[str] = field(default_factory=list)
    bytes: int = 0
    pinned: int = 0
    running: int = 0
    failed: int = 0
    rollups: int = 0
    unread: list[str] = field(default_factory=list)
    dry_run: bool = True

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        ids: list[Json] = list(self.trace_ids)
        unread: list[Json] = list(self.unread)
        return {
            "dry_run": self.dry_run,
            "trace_ids": ids,
            "bytes": self.bytes,
            "kept": {"pinned": self.pinned, "running": self.running, "failed": self.failed},
            "rollups": self.rollups,
            "unread": unread,
        }


class Retention(Asking, Keeping):
    """The part of `ArchiveStore` that says what is kept."""

    async def pin(self, trace_id: str) -> None:
        """Keep a trace from expiring, and from a sync that deletes, until `unpin`; not from `delete_trace`.

        Raises
        ------
        TraceNotFoundError
        """
        await self._pool.ready()
        if await self._pool.load(trace_id) is None:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.storage.url}")
        await self.set_pin(trace_id)

    async def set_pin(self, trace_id: str) -> None:
        """Pin an id, whether the trace is there or not."""
        try:
            await self.storage.create(pin_key(trace_id), b"")
        except KeyExistsError:
            # It is pinned already; who did so may have been killed before that was on stable storage.
            await self.storage.sync_names(PINS)

    async def unpin(self, trace_id: str) -> None:
        """Let a trace expire again; one that is not pinned is no error."""
        await self.storage.delete([pin_key(trace_id)])

    async def pinned(self) -> set[str]:
        """Return the ids of the traces that are pinned."""
        return {found for key in await self.storage.list(PINS) if (found := trace_id_of(key)) is not None}

    async def expire(
        self,
        older_than: timedelta,
        *,
        dry_run: bool = True,
        keep_failed: bool = False,
        include_running: bool = False,
        reason: str | None = None,
        progress: Progress | None = None,
        **filters: Unpack[Filters],
    ) -> ExpiryReport:
        """Delete traces that were created long ago, each for good, and purge what is derived from them.

        Pinned traces stay. Interrupted, it has deleted some; done again, it goes on.

        Parameters
        ----------
        older_than : timedelta
            How long ago.
        dry_run : bool
            Only say what would be deleted, which is the default.
        keep_failed : bool
            Not those whose status is failed.
        include_running : bool
            Also those whose status is running.
        reason : str, optional
            For the tombstones; by default how old they were to be.
        progress : callable, optional
        **filters
            Which traces, as of `traces`; all without.

        Raises
        ------
        InvalidValueError
            An age below zero, or filters that are not possible.
        BusyError
            Another process is optimizing this archive: traces were deleted, and their rows in rollups are hidden.

        Examples
        --------
        >>> import asyncio, traceark
        >>> from datetime import timedelta
        >>> async def run():
        ...     async with traceark.ArchiveStore("memory://expire") as store:
        ...         told = {"trace_id": "run-7", "status": "completed", "created_at": "2020-01-02T00:00:00Z"}
        ...         await store.create_trace(traceark.Trace.parse(told))
        ...         return (await store.expire(timedelta(days=90))).trace_ids
        >>> asyncio.run(run())
        ['run-7']
        """
        if older_than < timedelta(0):
            raise InvalidValueError(f"an age is 0 or more, not {older_than}", "older_than")
        report = ExpiryReport(dry_run=dry_run)
        pinned = await self.pinned()
        async for trace in self._older(older_than, filters):
            if trace.trace_id in pinned:
                report.pinned += 1
            elif trace.status == "running" and not include_running:
                report.running += 1
            elif trace.status == "failed" and keep_failed:
                report.failed += 1
            else:
                report.trace_ids.append(trace.trace_id)
        report.bytes = await self._weigh(report.trace_ids)
        if not dry_run:
            await self._let_go(report, reason or f"expired: older than {older_than}", progress)
        return report

    async def _older(self, age: timedelta, filters: Filters) -> AsyncIterator[Trace]:
        before, after = utc_now() - age, None
        wanted: Filters = {"until": before, **filters}
        while True:
            page = await self.traces(order_by="created_at", limit=_PAGE, after=after, **wanted)
            for trace in page:
                if trace.created_at is not None and trace.created_at < before:
                    yield trace
            after = page.next
            if after is None:
                return

    async def _weigh(self, trace_ids: list[str]) -> int:
        total = 0
        for start in range(0, len(trace_ids), _AT_A_TIME):
            prefixes = map(trace_prefix, trace_ids[start : start + _AT_A_TIME])
            for entries in await asyncio.gather(*map(self.storage.list, prefixes)):
                total += sum(entry.size for entry in entries.values())
        return total

    async def _let_go(self, report: ExpiryReport, reason: str, progress: Progress | None) -> None:
        gone = itertools.count(1)

        async def delete(trace_id: str) -> None:
            with suppress(TraceNotFoundError):  # another process deleted it meanwhile
                await self.delete_trace(trace_id, reason=reason)
            if progress is not None:
                progress(next(gone), len(report.trace_ids))

        await for_each(report.trace_ids, delete, _AT_A_TIME)
        if report.trace_ids:
            purged = await self.purge(report.trace_ids)
            report.rollups, report.unread = purged.rewritten + purged.removed, list(purged.unread)
