"""What one file brings to the archive: its traces read, compared with what is there, and written.

Everything goes through a `TraceStore`, in an order that makes a repeated import end where one that
was not interrupted ends: goals, messages, events, and last the header that says how far the
source has been taken; or a new trace in one piece. What to write is decided in `merge`. It knows
one file at a time, and not where the others are.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar, runtime_checkable

from traceark.errors import DamagedTraceError, InvalidValueError
from traceark.importers import copies
from traceark.importers.awaited import Awaited
from traceark.importers.base import GOAL_STATUS, Beside, ImportCounts, Importer, ManyFiles, Problem, SourceTrace
from traceark.importers.find import compression_of
from traceark.importers.links import Kin, children_of
from traceark.importers.merge import CAPTURE, Plan, State, Stored, begun, ended, given, plan_import, settled
from traceark.importers.piece_merge import plan_pieces
from traceark.importers.pieces import InPieces
from traceark.importers.report import FileReport, ImportReport, Outcome, TraceReport
from traceark.importers.times import give_times
from traceark.models import TERMINAL, GivenEvent, GoalTree, Message, Trace
from traceark.protocol import TraceStore

# Records written in one call, which share one sync; few enough that a batch is no burden on memory.
_BATCH = 256
# Traces of one file that are written at a time, so that one's sync is another's time to compute.
_AT_A_TIME = 8
STRIPES = 64

# A trace, and the goal of it that started another trace's agent.
Link = tuple[str, str]
Guard = Callable[[str], AbstractAsyncContextManager[None]]
T = TypeVar("T")


@runtime_checkable
class BatchStore(TraceStore, Protocol):
    """A store that writes many records with one sync; its `update_message` also takes ``trace_id=``."""

    async def add_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append messages and return their ids."""
        ...

    async def append_events(self, trace_id: str, events: Sequence[GivenEvent]) -> list[int]:
        """Append events, each a type, a payload and perhaps a time, and return their ids."""
        ...


@runtime_checkable
class WholeStore(BatchStore, Protocol):
    """A store that takes a run that has ended in one call; all of it or nothing, where it `adds_at_once`."""

    @property
    def adds_at_once(self) -> bool:
        """Whether a call that is interrupted adds nothing."""
        ...

    async def add_trace(
        self,
        trace: Trace,
        messages: Sequence[Message],
        events: Sequence[GivenEvent],
        goal_tree: GoalTree | None,
    ) -> str:
        """Add a trace with all that belongs to it, and return its id."""
        ...


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
        self._candidates = candidates
        self._among = among
        self._strict = strict
        self._guard = guard
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
        for source, file in self._awaited.rest() if self._awaited is not None else ():
            await self._take_sources([source], file)

    async def take(self, path: Path) -> None:
        """Take a file; where it was not taken whole and that matters, the report says that the import stopped."""
        counts = ImportCounts()
        if any(isinstance(each, Beside) and each.is_beside(path) for each in self._candidates):
            return
        try:
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
                together = importer.files(path)
                if path != next((each for each in together if each in self._among), None):
                    return
                self.report.covered.update(map(str, together))
            sources = await asyncio.to_thread(_read, importer, path, counts)
        except OSError as error:
            self.report.unreadable(str(path), error)
            self._stop(str(path), self.report.files[-1].problems)
            return
        file = FileReport(str(path), importer.name, counts.rows, counts.repaired, counts.problems)
        file.differences = counts.differences
        self.report.files.append(file)
        if self._stop(str(path), counts.problems):
            return
        if self._awaited is not None:
            sources = [now for source in sources for now in self._awaited.join(source, file)]
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
        at_a_time = asyncio.Semaphore(_AT_A_TIME if isinstance(self._store, WholeStore) else 1)
        taken = await asyncio.gather(
            *(self._take_trace(source, file, at_a_time) for source in sources), return_exceptions=True
        )
        for source, outcome in zip(sources, taken, strict=True):
            if isinstance(outcome, InvalidValueError | DamagedTraceError):
                # Of this trace alone: an id that names no directory, or files in the archive that are damaged.
                file.traces.append(TraceReport(source.trace.trace_id, "failed"))
                file.problems.append(Problem(str(path), 0, f"trace {source.trace.trace_id}: {outcome}"))
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

    def _detect(self, path: Path) -> Importer | None:
        return next((importer for importer in self._candidates if importer.detect(path)), None)

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
    if not isinstance(importer, InPieces):
        return list(importer.read(path, counts))
    sources = []
    for trace in importer.pieced(path, counts):
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


async def import_trace(store: TraceStore, source: SourceTrace, importer: str, link: Link | None = None) -> TraceReport:
    """Write what a source adds to its trace, or make it; `link` is its parent where that is known."""
    trace_id = source.trace.trace_id
    header = await store.get_trace(trace_id)
    if header is None:
        if isinstance(store, WholeStore) and store.adds_at_once and _is_whole(source):
            return await _add_whole(store, source, importer, link)
        first = copies.begun(source) if source.copied is not None else _linked(begun(source, importer), link)
        await store.create_trace(first)
        header = await store.get_trace(trace_id)
        assert header is not None
    outcome = copies.settled(source, header) if source.copied is not None else settled(source, header)
    if outcome is not None:
        return _report(source, outcome)
    stored = Stored(
        header,
        await store.get_trace_messages(trace_id),
        await store.get_events(trace_id),
        await store.get_goal_tree(trace_id),
    )
    if source.copied is not None:
        # Its parents and goals are those that it had in its archive.
        plan = copies.plan_copy(source, stored)
        await _write(store, trace_id, plan)
        return _report(source, plan.outcome, plan)
    state = State.of(header)
    if source.pieced is not None and state is not None and state.importer == importer:
        plan, source = plan_pieces(source, source.pieced, stored, state)
    else:
        plan = plan_import(source, stored, importer)
    await _write(store, trace_id, plan)
    return _report(source, plan.outcome, plan)


def _is_whole(source: SourceTrace) -> bool:
    """Say whether a source is a run that has ended, and no more than a new trace can hold."""
    ids = {message.message_id for message in source.messages}
    whole = source.trace.status in TERMINAL and len(ids) == len(source.messages)
    return whole and (source.copied is None or copies.is_plain(source.copied))


def _linked(trace: Trace, link: Link | None) -> Trace:
    """Return a header with its parent where that is known already, so that it need not be written twice."""
    if link is not None and trace.parent_trace_id is None:
        trace.parent_trace_id, trace.parent_goal_id = link
    return trace


async def _add_whole(store: WholeStore, source: SourceTrace, importer: str, link: Link | None) -> TraceReport:
    """Write a new trace in one piece: where it is there, nothing of it is missing."""
    events = given(source.events)
    trace, goals = _linked(ended(source, importer), link), source.goals
    if source.copied is not None:
        trace, goals = copies.ended(source)
    await store.add_trace(trace, source.messages, events, goals)
    return _report(source, "new", Plan("new", messages=source.messages, events=events))


def _report(source: SourceTrace, outcome: Outcome, plan: Plan | None = None) -> TraceReport:
    messages, new = (len(plan.messages), [each[0] for each in plan.events]) if plan is not None else (0, [])
    told, events = _records(source, [each.event_type for each in source.events]), _records(source, new)
    return TraceReport(
        source.trace.trace_id,
        outcome,
        new_messages=messages,
        known_messages=max(0, len(source.messages) - messages),
        new_events=events,
        known_events=told - events if outcome != "diverged" else 0,
        goals=len(source.goals.goals) if source.goals is not None else 0,
        goal_changes=len(source.events) - told,
    )


def _records(source: SourceTrace, event_types: Sequence[str]) -> int:
    """Return how many events are records of a source: not those of goals, unless it is a trace that has them."""
    return sum(source.copied is not None or each != GOAL_STATUS for each in event_types)


async def _write(store: TraceStore, trace_id: str, plan: Plan) -> None:
    if plan.marks:
        await store.update_trace(trace_id, **plan.marks)
    if plan.events_first:
        await _append(store, trace_id, plan.events)
    if plan.goals is not None:
        await store.update_goal_tree(trace_id, plan.goals)
    for messages in _batches(plan.messages):
        if isinstance(store, BatchStore):
            await store.add_messages(messages)
        else:
            for message in messages:
                await store.add_message(message)
    where = {"trace_id": trace_id} if isinstance(store, BatchStore) else {}
    for message_id, updates in plan.spent:
        await store.update_message(message_id, **where, **updates)
    for goal_id, updates in plan.stats:
        await store.update_goal(trace_id, goal_id, **updates)
    if not plan.events_first:
        await _append(store, trace_id, plan.events)
    if plan.header:
        await store.update_trace(trace_id, **plan.header)


async def _append(store: TraceStore, trace_id: str, events: Sequence[GivenEvent]) -> None:
    for batch in _batches(events):
        if isinstance(store, BatchStore):
            await store.append_events(trace_id, batch)
        else:
            for event in batch:
                await store.append_event(trace_id, event[0], event[1])


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
