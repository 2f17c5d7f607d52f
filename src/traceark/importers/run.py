"""Importing files into an archive: find the files and their formats, and write what is new.

Everything goes through a `TraceStore`, in an order that makes a repeated import end where one that
was not interrupted ends: goals, messages, events, and last the header that says how far the source
has been taken. What to write is decided in `merge`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from traceark.errors import DamagedTraceError, ImportFailedError, InvalidValueError
from traceark.importers.atif import Atif
from traceark.importers.base import ImportCounts, Importer, ManyFiles, Problem, SourceTrace
from traceark.importers.chat import Chat
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.codex import Codex
from traceark.importers.inspect_log import InspectLog
from traceark.importers.langfuse import Langfuse
from traceark.importers.langsmith import LangSmith
from traceark.importers.merge import Plan, Stored, begun, plan_import, settled
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.openhands import OpenHands
from traceark.importers.otlp import Otlp
from traceark.importers.report import FileReport, ImportReport, Outcome, TraceReport
from traceark.importers.swe_agent import SweAgent
from traceark.importers.tau2 import Tau2
from traceark.importers.who_and_when import WhoAndWhen
from traceark.models import Json, Message, Trace
from traceark.protocol import TraceStore

GROUP = "traceark.importers"
# Records written in one call, which share one sync; few enough that a batch is no burden on memory.
_BATCH = 256

Progress = Callable[[Path, int, int], None]
# Of sub-agents' traces that the sources read so far name: the trace and the goal that started them.
Links = dict[str, tuple[str, str]]
T = TypeVar("T")


@runtime_checkable
class BatchStore(TraceStore, Protocol):
    """A store that writes many records with one sync; its `update_message` also takes ``trace_id=``."""

    async def add_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append messages and return their ids."""
        ...

    async def append_events(self, trace_id: str, events: Sequence[tuple[str, Json]]) -> list[int]:
        """Append events, each a type and a payload, and return their ids."""
        ...


def importers() -> list[Importer]:
    """Return one importer of each installed format.

    Examples
    --------
    >>> "claude-code" in [importer.name for importer in importers()]
    True
    """
    found: dict[str, Importer] = {}
    for point in entry_points(group=GROUP):
        try:
            importer = point.load()()
        except (ImportError, AttributeError) as error:
            raise ImportFailedError(f"the importer {point.name!r} ({point.value}) does not load: {error}") from error
        found[importer.name] = importer
    # Run from a source tree, the package has no metadata.
    for own in (
        ClaudeCode(),
        Codex(),
        Atif(),
        Chat(),
        InspectLog(),
        Langfuse(),
        LangSmith(),
        OpenAIAgents(),
        OpenHands(),
        Otlp(),
        SweAgent(),
        Tau2(),
        WhoAndWhen(),
    ):
        found.setdefault(own.name, own)
    return list(found.values())


async def import_paths(
    store: TraceStore,
    paths: Sequence[str | Path],
    *,
    importer: Importer | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import files and directory trees, adding only what the archive does not hold yet.

    Parameters
    ----------
    store : TraceStore
        Where to; a `BatchStore` is written to in batches.
    paths : sequence of path
        Files, or directories that are walked; symbolic links within them are not followed.
    importer : Importer, optional
        The one to use; without it each file goes to the first one that detects its format.
    progress : callable, optional
        Called with a file about to be read, the bytes done and the bytes in all; at the end once
        more with the last file.

    Raises
    ------
    ImportFailedError
        A path does not exist, or an installed importer does not load.

    Examples
    --------
    >>> from traceark.store import ArchiveStore
    >>> samples = Path(__file__).parent.parent / "samples"
    >>> async def run() -> ImportReport:
    ...     async with ArchiveStore("memory://import-example") as store:
    ...         return await import_paths(store, [samples])
    >>> asyncio.run(run()).totals()["new_messages"]
    65
    """
    report = ImportReport()
    files = list(_files([Path(path) for path in paths], report))
    candidates = [importer] if importer is not None else importers()
    sizes = [_size(path) for path in files]
    done = 0
    links: Links = {}
    taken: set[Path] = set()
    for path, size in zip(files, sizes, strict=True):
        if progress is not None:
            progress(path, done, sum(sizes))
        if path not in taken:
            await _import_file(store, path, candidates, report, links, taken)
        done += size
    if progress is not None and files:
        progress(files[-1], done, done)
    return report


def _files(paths: Sequence[Path], report: ImportReport) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ImportFailedError(f"{path} does not exist")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found: list[Path] = []
        for folder, folders, names in os.walk(path, onerror=lambda error: _unreadable(report, error)):
            for name in (*folders, *names):
                entry = Path(folder, name)
                if entry.is_symlink():
                    report.skipped.append(str(entry))
                elif entry.is_file():
                    found.append(entry)
        yield from sorted(found)


def _unreadable(report: ImportReport, error: OSError) -> None:
    path = str(error.filename)
    report.files.append(FileReport(path, "", problems=[Problem(path, 0, f"cannot be read: {error.strerror}")]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def _import_file(
    store: TraceStore,
    path: Path,
    candidates: Sequence[Importer],
    report: ImportReport,
    links: Links,
    taken: set[Path],
) -> None:
    counts = ImportCounts()
    try:
        importer = await asyncio.to_thread(_detect, path, candidates)
        if importer is None:
            report.skipped.append(str(path))
            return
        if isinstance(importer, ManyFiles):
            path, *others = importer.files(path)
            taken.update([path, *others])
        sources = await asyncio.to_thread(lambda: list(importer.read(path, counts)))
    except OSError as error:
        _unreadable(report, OSError(error.errno, error.strerror, str(path)))
        return
    file = FileReport(str(path), importer.name, counts.rows, counts.repaired, counts.problems)
    file.differences = counts.differences
    report.files.append(file)
    for source in sources:
        try:
            file.traces.append(await _import_trace(store, source, importer.name, links))
        except (InvalidValueError, DamagedTraceError) as error:
            # Of this trace alone: an id that names no directory, or files in the archive that are damaged.
            file.traces.append(TraceReport(source.trace.trace_id, "failed"))
            file.problems.append(Problem(str(path), 0, f"trace {source.trace.trace_id}: {error}"))
        else:
            if file.traces[-1].outcome == "diverged":
                file.problems.append(Problem(str(path), 0, _diverged(source)))


def _diverged(source: SourceTrace) -> str:
    taken = "nothing was taken" if source.positional else "only new messages were taken"
    return f"the archive's trace {source.trace.trace_id} is neither an earlier nor a later state of this file; {taken}"


def _detect(path: Path, candidates: Sequence[Importer]) -> Importer | None:
    return next((importer for importer in candidates if importer.detect(path)), None)


async def _import_trace(store: TraceStore, source: SourceTrace, importer: str, links: Links) -> TraceReport:
    trace_id = source.trace.trace_id
    for goal in source.goals.goals if source.goals is not None else ():
        links.update(dict.fromkeys(goal.sub_trace_ids, (trace_id, goal.id)))
    if source.trace.parent_trace_id is None and trace_id in links:
        source.trace.parent_trace_id, source.trace.parent_goal_id = links[trace_id]
    header = await store.get_trace(trace_id)
    if header is None:
        await store.create_trace(begun(source, importer))
        header = await store.get_trace(trace_id)
        assert header is not None
    outcome = settled(source, header)
    if outcome is not None:
        return _report(source, outcome)
    stored = Stored(
        header,
        await store.get_trace_messages(trace_id),
        await store.get_events(trace_id),
        await store.get_goal_tree(trace_id),
    )
    plan = plan_import(source, stored, importer)
    if plan.outcome != "diverged" and source.goals is not None:
        await _link_children(store, source)
    if header.parent_goal_id is None and header.parent_trace_id is not None:
        await _link_to_parent(store, header)
    await _write(store, trace_id, plan)
    return _report(source, plan.outcome, plan)


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
    for events in _batches(plan.events):
        if isinstance(store, BatchStore):
            await store.append_events(trace_id, events)
        else:
            for event_type, payload in events:
                await store.append_event(trace_id, event_type, payload)
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


async def _link_to_parent(store: TraceStore, child: Trace) -> None:
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
                await store.update_trace(child.trace_id, parent_trace_id=trace_id, parent_goal_id=goal.id)
                return
            waiting.extend(goal.sub_trace_ids)
