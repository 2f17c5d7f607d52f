"""OpenHands: the directories of its SDK, a file for each event, and the trajectories of older versions.

The formats are the program's own (https://github.com/OpenHands/software-agent-sdk,
``openhands.sdk.conversation``; https://github.com/All-Hands-AI/OpenHands, ``openhands.events``).
Here is which runs a source has; which files it has is said in `openhands_files`, what becomes of a
run in `openhands_trace`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import INEXACT, document_of, object_of, up_to_answer, without
from traceark.importers.openhands_agents import children_of, parent_of
from traceark.importers.openhands_events import add_event
from traceark.importers.openhands_files import (
    EventFile,
    Folder,
    folder_of,
    is_event,
    is_page,
    list_of,
    read_documents,
    read_event,
    shape_of,
)
from traceark.importers.openhands_old import OldEvents
from traceark.importers.openhands_runs import Run, tell_apart
from traceark.importers.openhands_trace import NAME, RunTrace
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject


class OpenHands:
    """Reads conversations; the trace id is the conversation's, else that of the first event or a hash of it.

    Examples
    --------
    >>> import tempfile
    >>> said = {"id": 0, "source": "user", "action": "message", "args": {"content": "Fix it."}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "trajectory.json")
    ...     _ = path.write_text(json.dumps([said]))
    ...     [source] = OpenHands().read(path, ImportCounts())
    >>> source.trace.task, source.messages[0].role
    ('Fix it.', 'user')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file holds an event, a conversation's state, or a list of events."""
        return shape_of(path) is not None

    def files(self, path: Path) -> Sequence[Path]:
        """Return the files of the conversation, or of all conversations in the folder, that the file is of."""
        alone = shape_of(path) == "document" and not is_page(path)
        return [path] if alone else folder_of(path).files()

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of a file and of those that belong to it."""
        if shape_of(path) in ("event", "state") or is_page(path):
            yield from _folder_traces(folder_of(path), path, counts)
        else:
            yield from _document_traces(path, counts)


def _folder_traces(folder: Folder, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    events = [read_event(each) for each in folder.events]
    states = [state for each in folder.states if (state := document_of(each, counts)) is not None]
    counts.rows["state"] += len(states)
    beside: JsonObject = {}
    if folder.meta is not None and (meta := document_of(folder.meta, counts)) is not None:
        counts.rows["meta"] += 1
        beside = {"meta": meta}
    if folder.is_conversation:
        runs: list[Run] | None = [Run(events, states[0] if states else None)]
    else:
        runs = tell_apart(events, states)
    if runs is None:
        told = "nothing tells which events in this folder are of one run; each is a trace of its own"
        counts.problems.append(Problem(str(path.parent), 0, told))
        runs = [*(Run([each]) for each in events if each.event is not None), *(Run([], state) for state in states)]
    elif not folder.is_conversation and len({each.number for each in events}) < len(events):
        beside["assembled"] = "from a folder with the events of several runs, by their numbers and times"
    placed = {id(each) for run in runs for each in run.events}
    for each in events:
        if id(each) not in placed:
            counts.problems.append(Problem(str(each.path), each.line, f"{each.reason}; it was not taken"))
    for run in runs:
        yield from _directory_trace(run, folder, beside, path, counts)


def _directory_trace(
    run: Run, folder: Folder, beside: JsonObject, path: Path, counts: ImportCounts
) -> Iterator[SourceTrace]:
    told = run.state.get("id") if run.state is not None else None
    found = [each.event for each in run.events if each.event is not None]
    trace_id = Typed(counts.repaired).identifier(told) or folder.conversation_id
    trace_id = trace_id or _id_of(up_to_answer(found, _is_answer), counts)
    if trace_id is None:
        counts.problems.append(Problem(str(path), 0, "no event tells an id; nothing was taken"))
        return
    if not run.events:
        place = path if folder.is_conversation else path.parent
        counts.problems.append(Problem(str(place), 0, f"the conversation {trace_id} has no events; nothing was taken"))
        return
    if len(run.events) > 1:
        _name_gaps(run.events, counts)
    building = RunTrace(trace_id, counts)
    old = OldEvents(building)
    for number, file in enumerate(run.events):
        if file.event is None:
            building.unreadable(file, last=number == len(run.events) - 1)
            continue
        if not file.exact:
            counts.problems.append(Problem(str(file.path), 0, INEXACT))
        if "kind" in file.event:
            add_event(building, file.number, file.event)
        else:
            old.add_event(file.number, file.event)
    building.name_children(children_of(folder))
    source = building.finish(path, run.state, beside)
    source.trace.parent_trace_id = parent_of(folder, run.state)
    source.positional = any("kind" not in event for event in found)
    yield source


def _name_gaps(events: Sequence[EventFile], counts: ImportCounts) -> None:
    """Say which numbers are missing, and which come twice."""
    place = str(events[0].path.parent)
    for before, after in pairwise([-1, *(each.number for each in events)]):
        if after == before:
            counts.problems.append(Problem(place, 0, f"the number {after} comes twice; both were taken"))
        elif after > before + 1:
            missing = f"event {before + 1} is" if after == before + 2 else f"events {before + 1} to {after - 1} are"
            counts.problems.append(Problem(place, 0, f"{missing} missing"))


def _document_traces(path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    values = read_documents(path, counts)
    loose = [value for value in values if is_event(value)]
    if loose:
        # Rows of events are one run.
        values = [loose, *(value for value in values if not is_event(value))]
    for value in values:
        name = list_of(value) if isinstance(value, dict) else None
        if isinstance(value, list):
            yield from _list_trace(value, {}, path, counts)
        elif isinstance(value, dict) and name is not None and isinstance(events := value[name], list):
            yield from _list_trace(events, without(value, name), path, counts)
        else:
            counts.problems.append(Problem(str(path), 0, f"no list of events, and not taken: {str(value)[:60]}"))


def _list_trace(events: list[Json], about: JsonObject, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    told = list(_flat(events))
    found = [event for event in told if isinstance(event, dict)]
    # A row of results is written when its run has ended, and does not grow.
    trace_id = _id_of(found if about else up_to_answer(found, _is_answer), counts)
    if trace_id is None:
        counts.problems.append(Problem(str(path), 0, "no event tells an id; nothing was taken"))
        return
    run = RunTrace(trace_id, counts)
    old = OldEvents(run)
    metadata = run.building.keep("run", about)
    for number, event in enumerate(told):
        if not isinstance(event, dict):
            run.building.row("unknown", event)
            run.building.event("unknown", event)
        elif "kind" in event:
            add_event(run, number, event)
        else:
            old.add_event(number, event)
    metrics, error = about.get("metrics"), about.get("error")
    if isinstance(metrics, dict):
        run.statistics = {"run": metrics}
    if isinstance(error, str) and error:
        run.status, run.error = "error", run.typed.summary(error, 1000)
    source = run.finish(path, None, metadata)
    source.positional = any("kind" not in event for event in found)
    yield source


def _flat(events: Iterable[Json]) -> Iterator[Json]:
    """Yield events; the oldest versions have pairs of an action and its observation."""
    for event in events:
        if isinstance(event, list) and event and all(is_event(each) for each in event):
            yield from event
        else:
            yield event


def _is_answer(event: JsonObject) -> bool:
    """Say whether an event of older versions is something that the agent did, and not what it is told first."""
    return event.get("source") == "agent" and event.get("action") not in (None, "system")


def _id_of(events: Sequence[Json], counts: ImportCounts) -> str | None:
    """Return an id for a run that tells none, by what tells it apart: that of the first of some events, or a hash.

    A first event without a time is too much like that of another run; then all of them are hashed.
    """
    first = object_of(events[0]) if events else None
    if first is None:
        return None
    own = Typed(counts.repaired).identifier(first.get("id"))
    if own is not None:
        return own
    hashed = events[:1] if "timestamp" in first else events
    return f"{NAME}-{hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]}"
