"""Who&When: runs of several agents in which somebody marked the step that made them fail.

One JSON document per run (https://github.com/mingyin1/Agents_Failure_Attribution). The role of a
step is often an agent's name; it is kept in `agent`. Everything of a document but its history is an
event ``who-and-when.run``, what is short of it in the trace's metadata, under ``who_and_when``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, document_of, head_of, may_have, object_of, without
from traceark.importers.jsonl import beginning_of, whole_value
from traceark.models import JsonObject, Trace

NAME = "who-and-when"
_KEYS = frozenset({"history", "mistake_step"})
_BEGINS = re.compile(rb'\{\s*"(history|is_correct|is_corrected|question|question_ID)"\s*:')
_ROLES = {"human": "user", "user": "user", "assistant": "assistant", "system": "system"}


class WhoAndWhen:
    """Reads a marked run; the trace id is the question's, with a hash of the history.

    Examples
    --------
    >>> import json, tempfile
    >>> run = {"question_ID": "q", "question": "2 + 2?", "mistake_agent": "A", "mistake_step": "0",
    ...        "history": [{"role": "A", "content": "5"}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "1.json")
    ...     _ = path.write_text(json.dumps(run))
    ...     [source] = WhoAndWhen().read(path, ImportCounts())
    >>> source.messages[0].role, source.messages[0].agent, source.messages[0].mistake
    ('assistant', 'A', True)
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file has a history, and a marked step at its beginning or its end unless that is torn off."""
        head = head_of(path)
        if b'"history"' not in head:
            return False
        return may_have(path, _KEYS) if _is_marked(path, head) else _is_torn(path, head)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the run's trace."""
        document = document_of(path, counts)
        if document is None:
            return
        if not isinstance(document.get("history"), list):
            counts.problems.append(Problem(str(path), 0, "the run has no history; nothing was taken"))
            return
        yield _trace(document, path, counts)


def _is_marked(path: Path, head: bytes) -> bool:
    # Long histories push the marks to the end of the file.
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        return b'"mistake_step"' in head or b'"mistake_step"' in file.read()


def _is_torn(path: Path, head: bytes) -> bool:
    """Say whether a file is the beginning of a run, whose marks come last."""
    if _BEGINS.match(head) is None or not whole_value(data := path.read_bytes()).reason:
        return False
    steps = object_of(beginning_of(data)).get("history")
    first = object_of(steps[0]) if isinstance(steps, list) and steps else {}
    return isinstance(first.get("role"), str) and "content" in first


def _trace(document: JsonObject, path: Path, counts: ImportCounts) -> SourceTrace:
    history = document["history"]
    digest = hashlib.sha256(json.dumps(history, sort_keys=True).encode()).hexdigest()[:8]
    trace = Trace(trace_id=f"{document.get('question_ID') or NAME}-{digest}", status="completed")
    building = DocumentTrace(NAME, trace, counts)
    trace.metadata = {"who_and_when": building.keep("run", without(document, "history"))}
    trace.task = building.typed.summary(document.get("question"))
    trace.agent_type = "multi-agent"
    if document.get("is_correct") is False or document.get("is_corrected") is False or "mistake_step" in document:
        trace.status = "failed"
        trace.error_message = building.typed.summary(document.get("mistake_reason"), 1000)
    told = str(document.get("mistake_step", ""))
    marked = int(told) if told.isdecimal() else None
    for place, step in building.each("step", history):
        number = place - 1  # as `mistake_step` counts
        role = building.typed.text(step.get("role")) or "unknown"
        extra = {} if role in _ROLES and "name" not in step else {"agent": step.get("name", role)}
        if number == marked:
            extra["mistake"] = True
        building.message(
            f"{number:04d}", _ROLES.get(role, "assistant"), step.get("content"), without(step, "content"), **extra
        )
    return building.finish(path)
