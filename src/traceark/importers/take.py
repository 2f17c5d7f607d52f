"""What one file brings to the archive: its traces read, linked, and brought there one by one.

It knows one file at a time, and not where the others are. What becomes of one trace is in `take_trace`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Self

from traceark.computing import computed
from traceark.errors import DamagedTraceError, ImportFailedError, InvalidValueError
from traceark.importers.awaited import Awaited
from traceark.importers.base import (
    Beside,
    ImportCounts,
    Importer,
    ManyFiles,
    Problem,
    SourceTrace,
    asked,
)
from traceark.importers.find import compression_of
from traceark.importers.links import Kin, children_of
from traceark.importers.merge import CAPTURE
from traceark.importers.pieces import InPieces
from traceark.importers.report import FileReport, ImportReport, TraceReport
from traceark.importers.take_trace import Link, WholeStore, import_trace
from traceark.importers.times import give_times
from traceark.protocol import TraceStore

# Traces of one file that are written at a time, so that one's sync is another's time to compute.
_AT_A_TIME = 32
STRIPES = 64

Guard = Callable[[str], AbstractAsyncContextManager[None]]


def stripe_of(trace_id: str) -> int:
    """Return which of `STRIPES` locks guards a trace."""
    return zlib.crc32(trace_id.encode("utf-8", "surrogatepass")) % STRIPES


class Taker:
    """Takes files, one after the other: while one is written, which waits for the disk, the next one is read.

    To be used in ``async with``, which leaves nothing at work.

    Parameters
    ----------
    store : TraceStore
    candidates : sequence of Importer
        Each file goes to the first one that detects its format.
    among : collection of Path
        All files of this import, in their order: a run that is spread over several is taken with the first of
        them, a trace that comes in pieces with the last one that names it.
    told : collection of Path
        Files that were said to be of the first candidate's format: they go to it without a look at their content, but
        for compressed ones.
    pieces : bool
        Whether to take files of traces that come in pieces; else they are left, for all of a trace to be taken by one.
    strict : bool
        Whether to stop before a file that cannot be taken whole.
    guard : callable, optional
        Given a trace id, keeps other processes from importing into that trace meanwhile.

    Attributes
    ----------
    report : ImportReport
    kin : Kin
        What is to be linked when all files have been taken.
    left : list of Path
    """

    def __init__(
        self,
        store: TraceStore,
        candidates: Sequence[Importer],
        among: Collection[Path],
        *,
        told: Collection[Path] = (),
        pieces: bool = True,
        strict: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.report = ImportReport()
        self.kin = Kin()
        self.left: list[Path] = []
        # Of sub-agents' traces that the sources read so far name: the trace and the goal that started them.
        self._links: dict[str, Link] = {}
        self._pieces = pieces
        self._store = store
        self._at_a_time = _AT_A_TIME if isinstance(store, WholeStore) else 1
        self._candidates = candidates
        # Told once: to ask what an importer can takes as long as reading a small file.
        self._beside = [each for each in candidates if isinstance(each, Beside)]
        self._among = among
        self._told = told
        self._strict = strict
        self._guard = guard
        # Files that are taken with another one: each would look for all of them again, and there may be thousands.
        self._together: set[Path] = set()
        self._awaited: Awaited | None = None
        self._writing: asyncio.Task[None] | None = None
        self._locks = [asyncio.Lock() for _ in range(STRIPES)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def finish(self) -> None:
        """Take what still waits for files that could not be taken, and return when all is written."""
        await self._written()
        for trace, file in self._awaited.rest() if self._awaited is not None else ():
            try:
                source = trace.source()
            except ImportFailedError as error:
                file.problems.append(self.report.problem(file.path, error))
            else:
                await self._take_sources([source], file)

    async def take(self, path: Path) -> None:
        """Take a file; where it was not taken whole and that matters, the report says that the import stopped."""
        counts = ImportCounts()
        try:
            if path in self._together or self._is_beside(path):
                return
            importer = await asyncio.to_thread(self._detect, path)
            if importer is None:
                self.report.skipped.append(str(path))
                if (compression := await asyncio.to_thread(compression_of, path)) is not None:
                    self.report.compressed[str(path)] = compression
                return
            if isinstance(importer, InPieces):
                if not self._pieces:
                    self.left.append(path)
                    return
                if self._awaited is None:
                    self._awaited = await asyncio.to_thread(self._await_others)
            if isinstance(importer, ManyFiles):
                with asked(importer.name):
                    together = importer.files(path)
                first = next((each for each in together if each in self._among), None)
                self._together.update(each for each in together if each != first)
                if path != first:
                    return
                self.report.covered.update(map(str, together))
            sources = await computed(_read, importer, path, counts)
            if path in self._told and not sources and not counts.problems:
                counts.problems.append(Problem(str(path), 0, f"nothing in it is of the format {importer.name!r}"))
        except (OSError, ImportFailedError) as error:
            self.report.unreadable(str(path), error)
            self._stop(str(path), self.report.files[-1].problems)
            return
        file = FileReport(str(path), importer.name, counts.rows, counts.repaired, counts.problems)
        file.differences = counts.differences
        self.report.files.append(file)
        if self._stop(str(path), counts.problems):
            return
        try:
            if self._awaited is not None:
                sources = [now for source in sources for now in self._awaited.join(source, file)]
        except ImportFailedError as error:
            file.problems.append(self.report.problem(str(path), error))
            self._stop(str(path), file.problems)
            return
        await self._written()
        self._writing = asyncio.create_task(self._take_sources(sources, file))
        if self._strict:
            await self._written()
            self._stop(str(path), file.problems)

    async def _written(self) -> None:
        """Return when what was read before is written."""
        if self._writing is not None:
            await self._writing
            self._writing = None

    async def _take_sources(self, sources: Sequence[SourceTrace], file: FileReport) -> None:
        path = Path(file.path)
        for source in sources:
            if source.copied is None:
                give_times(source)
            self.kin.see(source)
            self._links.update(children_of(source))
        at_a_time = asyncio.Semaphore(self._at_a_time)
        taken = await asyncio.gather(
            *(self._take_trace(source, file, at_a_time) for source in sources), return_exceptions=True
        )
        for source, outcome in zip(sources, taken, strict=True):
            if isinstance(outcome, InvalidValueError | DamagedTraceError):
                # Of this trace alone: an id that names no directory, or files in the archive that are damaged.
                file.traces.append(TraceReport(source.trace.trace_id, "failed"))
                file.problems.append(Problem(str(path), 0, f"trace {source.trace.trace_id}: {outcome}"))
            elif isinstance(outcome, ImportFailedError):
                file.traces.append(TraceReport(source.trace.trace_id, "failed"))
                file.problems.append(self.report.problem(str(path), outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                file.traces.append(outcome)
                if outcome.outcome == "diverged":
                    stored = await self._store.get_trace(source.trace.trace_id)
                    captured = stored is not None and CAPTURE in stored.metadata
                    file.problems.append(Problem(str(path), 0, _diverged(source, captured=captured)))

    def _await_others(self) -> Awaited:
        among = [*self._among]
        return Awaited([path for path in among if len(among) > 1 and isinstance(self._detect(path), InPieces)])

    def _is_beside(self, path: Path) -> bool:
        for importer in self._beside:
            with asked(importer.name):
                if importer.is_beside(path):
                    return True
        return False

    def _detect(self, path: Path) -> Importer | None:
        if path in self._told and compression_of(path) is None:
            return self._candidates[0]
        for importer in self._candidates:
            with asked(importer.name):
                if importer.detect(path):
                    return importer
        return None

    def _stop(self, path: str, problems: Sequence[Problem]) -> bool:
        if self._strict and problems:
            self.report.stopped_at = path
        return self.report.stopped_at is not None

    @asynccontextmanager
    async def _alone(self, trace_id: str) -> AsyncIterator[None]:
        async with self._locks[stripe_of(trace_id)]:
            if self._guard is None:
                yield
                return
            async with self._guard(trace_id):
                yield

    async def _take_trace(self, source: SourceTrace, file: FileReport, at_a_time: asyncio.Semaphore) -> TraceReport:
        async with at_a_time, self._alone(source.trace.trace_id):
            link = self._links.get(source.trace.trace_id)
            report = await import_trace(self._store, source, file.importer, link)
        if source.pieced is not None:
            file.problems += source.pieced.counts.problems
            file.differences += source.pieced.counts.differences
        return report


def _read(importer: Importer, path: Path, counts: ImportCounts) -> list[SourceTrace]:
    with asked(importer.name):
        if not isinstance(importer, InPieces):
            return list(importer.read(path, counts))
        traces = list(importer.pieced(path, counts))
    sources = []
    for trace in traces:
        sources.append(trace.source())
        # What else was found when it was put together is told of the whole.
        counts.rows.update(trace.counts.rows)
        counts.repaired.update(trace.counts.repaired)
    return sources


def _diverged(source: SourceTrace, *, captured: bool) -> str:
    taken = "nothing was taken" if source.positional or source.copied is not None else "only new messages were taken"
    if captured:
        return f"the archive's trace {source.trace.trace_id} was captured as it ran; {taken}"
    return f"the archive's trace {source.trace.trace_id} is neither an earlier nor a later state of this file; {taken}"
