"""SWE-agent and mini-swe-agent: the ``.traj`` files, one JSON document per run.

They have no times and no run's id. The history is the messages; the steps of ``trajectory`` tell
the same with the environment's state, and are events. What a run used is stated for all of it
alone: it stands at the model's last message, marked `whole_run`, so that totals are right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, document_of, head_of, without
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "swe-agent"
_TRAJECTORY = re.compile(rb'"trajectory"\s*:\s*\[\s*\{\s*"(action|response|observation|thought)"|"mini-swe-agent')


class SweAgent:
    """Reads a run; the trace id is the file's name and a hash of its history.

    Examples
    --------
    >>> import tempfile
    >>> run = {"trajectory": [{"action": "ls"}], "history": [{"role": "user", "content": "Fix it."}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "bug-1.traj")
    ...     _ = path.write_text(json.dumps(run))
    ...     [source] = SweAgent().read(path, ImportCounts())
    >>> source.trace.trace_id, len(source.messages), len(source.events)
    ('bug-1-89edae8c', 1, 1)
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether steps, or messages of their kind, stand in the file's beginning."""
        head = head_of(path)
        return _TRAJECTORY.search(head) is not None or (b'"history"' in head and b'"message_type"' in head)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the run's trace."""
        document = document_of(path, counts)
        if document is None:
            return
        name = "history" if "history" in document else "messages"
        if not isinstance(document.get(name), list):
            counts.problems.append(Problem(str(path), 0, "the run has neither history nor messages; nothing was taken"))
            return
        yield _trace(document, name, path, counts)


def _trace(document: JsonObject, name: str, path: Path, counts: ImportCounts) -> SourceTrace:
    history = document[name]
    digest = hashlib.sha256(json.dumps(history, sort_keys=True).encode()).hexdigest()[:8]
    trace = Trace(trace_id=f"{path.stem}-{digest}", agent_type=NAME, status="completed")
    building = DocumentTrace(NAME, trace, counts)
    trace.metadata = {"swe_agent": building.keep("run", without(document, name, "trajectory"))}
    typed = building.typed
    info = document.get("info")
    about: JsonObject = info if isinstance(info, dict) else {}
    ended = typed.text(about.get("exit_status"))
    if ended is not None and "submitted" not in ended.lower():
        trace.status, trace.error_message = "failed", ended
    for number, message in building.each("message", history):
        _add_message(building, number, message)
    for _, step in building.each("step", document.get("trajectory")):
        building.event("step", step)
    _take_usage(building, about.get("model_stats"))
    return building.finish(path)


def _add_message(building: DocumentTrace, number: int, message: JsonObject) -> None:
    typed = building.typed
    added = building.spoken(number, message)
    answered = message.get("tool_call_ids")
    if isinstance(answered, list) and len(answered) == 1:
        building.answers(added, answered[0])
    demonstrates = message.get("is_demo") is True
    if added.role == "user" and building.trace.task is None and not demonstrates:
        building.trace.task = typed.summary(message.get("content"))
    elif added.role == "assistant" and not demonstrates:
        building.trace.result_summary = typed.summary(message.get("content"), 500) or building.trace.result_summary


def _take_usage(building: DocumentTrace, stats: Json) -> None:
    last = next((each for each in reversed(building.messages) if each.role == "assistant"), None)
    if not isinstance(stats, dict) or last is None:
        return
    typed = building.typed
    usage = Usage(
        input_tokens=typed.count(stats.get("tokens_sent")), output_tokens=typed.count(stats.get("tokens_received"))
    )
    cost = typed.cost(stats.get("instance_cost"))
    if usage.total() or cost:
        last.usage, last.tokens, last.cost = usage, usage.total(), cost
        setattr(last, "whole_run", True)  # noqa: B010 (a field of the source, not of the model)
