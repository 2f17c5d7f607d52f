"""What one file brings to the archive: its traces read, compared with what is there, and written.

Everything goes through a `TraceStore`, in an order that makes a repeated import end where one that
was not interrupted ends: links, goals, messages, events, and last the header that says how far the
source has been taken; or a new trace in one piece. What to write is decided in `merge`. It knows
one file at a time, and not where the others are.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Container, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from traceark.errors import DamagedTraceError, InvalidValueError
from traceark.importers import copies
from traceark.importers.base import Beside, ImportCounts, Importer, ManyFiles, Problem, SourceTrace
from traceark.importers.find import compression_of
from traceark.importers.merge import CAPTURE, Plan, Stored, begun, ended, given, plan_import, settled
from traceark.importers.report import FileReport, ImportReport, Outcome, TraceReport
from traceark.models import TERMINAL, GivenEvent, GoalTree, Message, Trace
from traceark.protocol import TraceStore

# Records written in one call, which share one sync; few enough that a batch is no burden on memory.
_BATCH = 256
# Traces of one file that are written at a time, so that one's sync is another's time to compute.
_AT_A_TIME = 2
STRIPES = 64

# Of sub-agents' traces that the sources read so far name: the trace and the goal that started them.
Links = dict[str, tuple[str, str]]
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
    """Takes files, one after the other.

    Parameters
    ----------
    store : TraceStore
    candidates : sequence of Importer
        Each file goes to the first one that detects its format.
    among : container of Path
        All files of this import: a run that is spread over several is taken with the first of them.
    strict : bool
        Whether to stop before a file that cannot be taken whole.
    guard : callable, optional
        Given a trace id, keeps other processes from importing into that trace meanwhile.

    Attributes
    ----------
    report : ImportReport
    links : dict
    """

    def __init__(
        self,
        store: TraceStore,
        candidates: Sequence[Importer],
        among: Container[Path],
        *,
        strict: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.report = ImportReport()
        self.links: Links = {}
        self._store = store
        self._candidates = candidates
        self._among = among
        self._strict = strict
        self._guard = guard
        self._locks = [asyncio.Lock() for _ in range(STRIPES)]

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
            if isinstance(importer, ManyFiles):
                together = importer.files(path)
                if path != next((each for each in together if each in self._among), None):
                    return
                self.report.covered.update(map(str, together))
            sources = await asyncio.to_thread(lambda: list(importer.read(path, counts)))
        except OSError as error:
            self.report.unreadable(str(path), error)
            self._stop(str(path), self.report.files[-1].problems)
            return
        file = FileReport(str(path), importer.name, counts.rows, counts.repaired, counts.problems)
        file.differences = counts.differences
        self.report.files.append(file)
        if self._stop(str(path), counts.problems):
            return
        # Traces that belong together are taken in turn: each looks for those that are there already.
        linked = any(source.trace.parent_trace_id is not None or _children(source) for source in sources)
        at_a_time = asyncio.Semaphore(1 if linked or not isinstance(self._store, WholeStore) else _AT_A_TIME)
        taken = await asyncio.gather(
            *(self._take_trace(source, importer.name, at_a_time) for source in sources), return_exceptions=True
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
        self._stop(str(path), file.problems)

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

    async def _take_trace(self, source: SourceTrace, importer: str, at_a_time: asyncio.Semaphore) -> TraceReport:
        async with at_a_time, self._alone(source.trace.trace_id):
            self.links.update(_children(source))
            return await _import_trace(self._store, source, importer, self.links)


def _children(source: SourceTrace) -> Links:
    """Return the links to the traces of sub-agents that the goals of a source name."""
    trace_id = source.trace.trace_id
    goals = source.goals.goals if source.goals is not None else ()
    return {child: (trace_id, goal.id) for goal in goals for child in goal.sub_trace_ids if child != trace_id}


def _diverged(source: SourceTrace, *, captured: bool) -> str:
    taken = "nothing was taken" if source.positional or source.copied is not None else "only new messages were taken"
    if captured:
        return f"the archive's trace {source.trace.trace_id} was captured as it ran; {taken}"
    return f"the archive's trace {source.trace.trace_id} is neither an earlier nor a later state of this file; {taken}"


async def _import_trace(store: TraceStore, source: SourceTrace, importer: str, links: Links) -> TraceReport:
    trace_id = source.trace.trace_id
    if source.copied is None and source.trace.parent_trace_id is None and trace_id in links:
        source.trace.parent_trace_id, source.trace.parent_goal_id = links[trace_id]
    header = await store.get_trace(trace_id)
    if header is None:
        if isinstance(store, WholeStore) and store.adds_at_once and _is_whole(source):
            return await _add_whole(store, source, importer)
        await store.create_trace(copies.begun(source) if source.copied is not None else begun(source, importer))
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
    plan = plan_import(source, stored, importer)
    if plan.outcome != "diverged" and source.goals is not None:
        await _link_children(store, source)
    if header.parent_goal_id is None and (link := await _link_to_parent(store, header)) is not None:
        await store.update_trace(trace_id, parent_trace_id=link[0], parent_goal_id=link[1])
    await _write(store, trace_id, plan)
    return _report(source, plan.outcome, plan)


def _is_whole(source: SourceTrace) -> bool:
    """Say whether a source is a run that has ended, and no more than a new trace can hold."""
    ids = {message.message_id for message in source.messages}
    return source.trace.status in TERMINAL and source.copied is None and len(ids) == len(source.messages)


async def _add_whole(store: WholeStore, source: SourceTrace, importer: str) -> TraceReport:
    """Write a new trace in one piece, after its links: where it is there, nothing of it is missing."""
    trace = source.trace
    if source.goals is not None:
        await _link_children(store, source)
    if trace.parent_goal_id is None and (link := await _link_to_parent(store, trace)) is not None:
        trace.parent_trace_id, trace.parent_goal_id = link
    events = given(source.events)
    await store.add_trace(ended(source, importer), source.messages, events, source.goals)
    return _report(source, "new", Plan("new", messages=source.messages, events=events))


def _report(source: SourceTrace, outcome: Outcome, plan: Plan | None = None) -> TraceReport:
    messages, events = (len(plan.messages), len(plan.events)) if plan is not None else (0, 0)
    return TraceReport(
        source.trace.trace_id,
        outcome,
        new_messages=messages,
        known_messages=len(source.messages) - messages,
        new_events=events,
        known_events=len(source.events) - events if outcome != "diverged" else 0,
        goals=len(source.goals.goals) if source.goals is not None else 0,
    )


async def _write(store: TraceStore, trace_id: str, plan: Plan) -> None:
    if plan.marks:
        await store.update_trace(trace_id, **plan.marks)
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
    for events in _batches(plan.events):
        if isinstance(store, BatchStore):
            await store.append_events(trace_id, events)
        else:
            for event in events:
                await store.append_event(trace_id, event[0], event[1])
    if plan.header:
        await store.update_trace(trace_id, **plan.header)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


async def _link_children(store: TraceStore, source: SourceTrace) -> None:
    """Tell the traces of sub-agents that are here already, and theirs, which goal they belong to."""
    seen = {source.trace.trace_id}
    waiting = [(source.trace.trace_id, source.goals)]
    while waiting:
        parent_id, tree = waiting.pop()
        for goal in tree.goals if tree is not None else []:
            for child_id in set(goal.sub_trace_ids) - seen:
                seen.add(child_id)
                child = await store.get_trace(child_id)
                if child is None:
                    continue
                if child.parent_goal_id is None:
                    await store.update_trace(child_id, parent_trace_id=parent_id, parent_goal_id=goal.id)
                waiting.append((child_id, await store.get_goal_tree(child_id)))


async def _link_to_parent(store: TraceStore, child: Trace) -> tuple[str, str] | None:
    """Find the goal that a sub-agent's trace belongs to, in its session or in another sub-agent of it."""
    seen: set[str] = set()
    waiting = [child.parent_trace_id]
    while waiting:
        trace_id = waiting.pop()
        if trace_id is None or trace_id in seen:
            continue
        seen.add(trace_id)
        tree = await store.get_goal_tree(trace_id)
        for goal in tree.goals if tree is not None else []:
            if child.trace_id in goal.sub_trace_ids:
                return trace_id, goal.id
            waiting.extend(goal.sub_trace_ids)
    return None
