"""What moves runs between an archive and other places, as methods of the blocking facade.

What a method needs is loaded by its first call: all of it takes as long to load as a fifth of the store.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from traceark.errors import ArchiveNotFoundError, ExportFailedError
from traceark.filters import Filters
from traceark.layout import TRACES
from traceark.storage.base import Durability
from traceark.store import ArchiveStore

if TYPE_CHECKING:
    from traceark.exporters.report import ExportReport
    from traceark.packed.members import Limits
    from traceark.redacting import Progress as TracesDone
    from traceark.redacting import RedactionReport
    from traceark.redaction import Pattern
    from traceark.sync.pack import PackReport
    from traceark.sync.report import SyncReport
    from traceark.sync.run import Progress, SyncOptions

Answer = TypeVar("Answer")


class Moving:
    """The part of `Archive` that moves runs."""

    store: ArchiveStore

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine and return its result."""
        raise NotImplementedError

    def export(
        self,
        *trace_ids: str,
        format: str,
        output: str | Path,
        force: bool = False,
        **filters: Unpack[Filters],
    ) -> ExportReport:
        """Export traces to files, in one of the formats of `docs/exporting.md`.

        Parameters
        ----------
        trace_ids : str
            Which traces; without any, those that match the filters, which are those of `traces`.
        format : str
            The format's name.
        output : str or Path
            A file; or a directory, one that is there or ends with a slash, which gets a file for each
            trace. Several traces make a directory unless the format joins them in one file.
        force : bool
            Replace files that are there with other content.

        Raises
        ------
        ExportFailedError
            There is no such format, or the output cannot take what is to be exported.

        Examples
        --------
        >>> import tempfile, traceark
        >>> with traceark.open("memory://export") as archive, tempfile.TemporaryDirectory() as folder:
        ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7"))
        ...     report = archive.export("run-7", format="pack", output=f"{folder}/run-7.zip")
        ...     [(trace.trace_id, trace.outcome) for trace in report.traces]
        [('run-7', 'written')]
        """
        if trace_ids and filters:
            raise ExportFailedError("give trace ids or filters, not both")
        from traceark.exporters.run import export_traces, exporter_of, target_of

        exporter, target = exporter_of(format), target_of(output)
        chosen = list(trace_ids) or self.run(self.store.trace_ids(**filters))
        return self.run(export_traces(self.store, chosen, exporter, target, force=force))

    def redact(
        self,
        trace_ids: Iterable[str] | None = None,
        *,
        patterns: Sequence[Pattern] | None = None,
        dry_run: bool = True,
        progress: TracesDone | None = None,
        **filters: Unpack[Filters],
    ) -> RedactionReport:
        """Replace what patterns find in traces, for good; parameters and errors as of `traceark.redacting.redact`.

        Examples
        --------
        >>> import traceark
        >>> with traceark.open("memory://redact-blocking") as archive:
        ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7", task="write to ann@example.org"))
        ...     archive.redact(["run-7"]).replaced.total()
        1
        """
        from traceark.redacting import redact

        work = redact(self.store, trace_ids, patterns=patterns, dry_run=dry_run, progress=progress, **filters)
        return self.run(work)

    def sync_to(
        self,
        url: str | Path,
        *,
        storage_options: Mapping[str, Any] | None = None,
        durability: Durability = "fsync",
        options: SyncOptions | None = None,
        progress: Progress | None = None,
        **filters: Unpack[Filters],
    ) -> SyncReport:
        """Copy to another archive what it lacks of this one; it is made where there is none.

        Nothing there is overwritten but by a later state of itself.

        Parameters
        ----------
        url, storage_options, durability
            The other archive, as for `ArchiveStore`.
        options : SyncOptions, optional
        progress : callable, optional
            Called with traces done, of how many, and bytes written so far.
        **filters
            Which traces, as of `traces`; all without.

        Raises
        ------
        InvalidValueError
            Both are the same archive, or options and filters do not fit.
        StorageError

        Examples
        --------
        >>> import tempfile, traceark
        >>> with traceark.open("memory://sync") as archive, tempfile.TemporaryDirectory() as folder:
        ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7"))
        ...     report = archive.sync_to(f"{folder}/backup")
        ...     [(trace.trace_id, trace.outcome) for trace in report.traces]
        [('run-7', 'new')]
        """

        from traceark.sync.run import sync

        async def work() -> SyncReport:
            async with ArchiveStore(url, storage_options=storage_options, durability=durability) as other:
                return await sync(self.store, other, options, progress=progress, **filters)

        return self.run(work())

    def sync_from(
        self,
        url: str | Path,
        *,
        storage_options: Mapping[str, Any] | None = None,
        options: SyncOptions | None = None,
        progress: Progress | None = None,
        **filters: Unpack[Filters],
    ) -> SyncReport:
        """Copy to this archive what it lacks of another; parameters and errors as of `sync_to`.

        Raises
        ------
        ArchiveNotFoundError
            There is no archive at `url`.
        """

        from traceark.sync.run import sync

        async def work() -> SyncReport:
            async with ArchiveStore(url, storage_options=storage_options) as other:
                if not await other.exists() and not await other.storage.children(TRACES):
                    raise ArchiveNotFoundError(f"there is no archive at {other.url}")
                return await sync(other, self.store, options, progress=progress, **filters)

        return self.run(work())

    def pack(
        self,
        *trace_ids: str,
        to: str | Path,
        force: bool = False,
        progress: Progress | None = None,
        **filters: Unpack[Filters],
    ) -> PackReport:
        """Pack traces, as they are now, into one file whose content is their very directories.

        Parameters
        ----------
        trace_ids : str
            Which traces; without any, those that match the filters, which are those of `traces`, and
            without these all.
        to : str or Path
            The file, which ends in ``.zip`` or ``.tar.zst``.
        force : bool
            Replace a file that is there.
        progress : callable, optional
            Called with traces done, of how many, and bytes of their files so far.

        Raises
        ------
        InvalidValueError
            The file has another ending or is there, or there are both ids and filters.
        TraceNotFoundError
            One that is named is not there; nothing was written.
        StorageError

        Examples
        --------
        >>> import tempfile, traceark
        >>> with traceark.open("memory://packing") as archive, tempfile.TemporaryDirectory() as folder:
        ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7"))
        ...     _ = archive.pack(to=f"{folder}/runs.zip")
        ...     dict(archive.unpack(f"{folder}/runs.zip").outcomes)
        {'same': 1}
        """
        from traceark.sync.pack import pack

        return self.run(pack(self.store, to, trace_ids or None, force=force, progress=progress, **filters))

    def unpack(
        self,
        path: str | Path,
        *,
        options: SyncOptions | None = None,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> SyncReport:
        """Copy to this archive what it lacks of the traces in a pack; see `traceark.sync.unpack`.

        Parameters
        ----------
        path : str or Path
        options : SyncOptions, optional
        limits : Limits, optional
            How much may come out of the pack.
        progress : callable, optional
            Called with traces done, of how many, and bytes written so far.

        Raises
        ------
        PackError
            The pack is damaged, or holds what it must not hold; nothing was taken from it.
        InvalidValueError, StorageError

        Examples
        --------
        See `pack`.
        """
        from traceark.sync.unpack import unpack

        return self.run(unpack(path, self.store, options, limits=limits, progress=progress))
