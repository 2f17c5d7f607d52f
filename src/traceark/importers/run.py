"""Importing files and trees of files into an archive, one after the other or by several processes.

Finding files is `find`'s, taking one is `take`'s; here they come together with a report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceark.computing import in_turns
from traceark.errors import DamagedTraceError, InvalidValueError
from traceark.importers.base import Importer
from traceark.importers.find import files_in, importers, size_of
from traceark.importers.links import Kin, link
from traceark.importers.parallel import SharedStore, sensible_workers, take_in_parallel
from traceark.importers.report import ImportReport
from traceark.importers.take import Taker
from traceark.models import TERMINAL
from traceark.protocol import TraceStore

Progress = Callable[[Path, int, int], None]


@runtime_checkable
class LastingStore(Protocol):
    """A store that may hold what was written a moment ago and is not on stable storage yet."""

    async def make_lasting(self) -> None:
        """Return when all that it holds is on stable storage, whoever wrote it."""
        ...


@runtime_checkable
class SealingStore(Protocol):
    """A store that brings runs that have ended into a final form."""

    async def settled(self) -> set[str]:
        """Return the ids of the traces that are in it and that nobody writes to."""
        ...

    async def seal(self, trace_id: str) -> None:
        """Bring a trace into it."""
        ...


@runtime_checkable
class CheckedStore(Protocol):
    """A store that may be of a format that is not known here."""

    async def check_format(self) -> None:
        """Raise where it is."""
        ...


async def import_paths(
    store: TraceStore,
    paths: Sequence[str | Path],
    *,
    importer: Importer | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    workers: int | None = 1,
) -> ImportReport:
    """Import files and directory trees, adding only what the archive does not hold yet.

    An import that was interrupted is gone on with by repeating it: it ends in the same archive.

    Parameters
    ----------
    store : TraceStore
        Where to; a store that takes many records at once, or whole traces, is given them so.
    paths : sequence of path
        Files, or directories that are walked; symbolic links within them are not followed.
    importer : Importer, optional
        The one to use: for files among `paths` whatever they hold, for those in directories where it detects its
        format. Without it each file goes to the first one that does.
    progress : callable, optional
        Called with a file about to be read, the bytes done and the bytes in all; at the end once
        more with the last file.
    strict : bool
        Stop before the first file that cannot be taken whole, and behind one that disagrees with
        the archive; `ImportReport.stopped_at` names it.
    workers : int, optional
        How many processes share the files, None for what pays; more than one needs an `ArchiveStore`
        that is not in memory, and a program whose main module can be imported, as for `multiprocessing`.

    Raises
    ------
    ImportFailedError
        A path does not exist, an installed importer does not load, or a worker died.
    InvalidValueError
        The store cannot be shared by several processes.
    UnsupportedFormatError, CorruptFileError
        The archive is of a newer version, or its marker is torn.

    Examples
    --------
    >>> import asyncio
    >>> from traceark.store import ArchiveStore
    >>> samples = Path(__file__).parent.parent / "samples"
    >>> async def run() -> ImportReport:
    ...     async with ArchiveStore("memory://import-example") as store:
    ...         return await import_paths(store, [samples])
    >>> asyncio.run(run()).totals()["new_messages"]
    65
    """
    if isinstance(store, CheckedStore):
        await store.check_format()
    report, kin = ImportReport(), Kin()
    files = list(files_in([Path(path) for path in paths], report))
    candidates = [importer] if importer is not None else importers()
    # A directory may hold other files too; of one that was named it is known what it should be.
    told = frozenset(map(Path, paths)) if importer is not None else frozenset()
    sizes = [size_of(path) for path in files]
    total = sum(sizes)

    def tell(path: Path, done: int) -> None:
        if progress is not None:
            progress(path, done, total)

    if workers is None:
        workers = sensible_workers(store, sizes)
    if workers > 1:
        if not isinstance(store, SharedStore):
            raise InvalidValueError(f"{type(store).__name__} cannot be shared by several processes", "workers")
        await take_in_parallel(
            store, files, sizes, candidates, report, kin, tell, told=told, strict=strict, workers=workers
        )
    else:
        done = 0
        with in_turns():
            async with Taker(store, candidates, dict.fromkeys(files), told=told, strict=strict) as taker:
                for path, size in zip(files, sizes, strict=True):
                    tell(path, done)
                    await taker.take(path)
                    done += size
                    if taker.report.stopped_at is not None:
                        break
                await taker.finish()
        report.add(taker.report)
        kin.add(taker.kin)
    for circle in await link(store, kin):
        report.circle(circle)
    if report.tells_of_known:
        # Who brought that may have been killed a moment ago.
        if isinstance(store, LastingStore):
            await store.make_lasting()
        await _seal_known(store, report)
    if files:
        tell(files[-1], total)
    return report


async def _seal_known(store: TraceStore, report: ImportReport) -> None:
    """Seal what the archive held already and was not sealed, though the run has ended."""
    if not isinstance(store, SealingStore):
        return
    known = {trace.trace_id for file in report.files for trace in file.traces if trace.outcome == "known"}
    for trace_id in sorted(known - await store.settled()):
        # Of what is damaged `verify`, and whoever reads it, says what is wrong.
        with suppress(DamagedTraceError):
            trace = await store.get_trace(trace_id)
            if trace is not None and trace.status in TERMINAL:
                await store.seal(trace_id)
