"""A session of opencode as ``opencode export`` prints it: one document, ``{"info", "messages": [{"info", "parts"}]}``.

A message with its parts is a row. What the document says of the session changes as it goes on, so it
is in the trace's metadata and no event. This was read off the program's source (``cli/cmd/export.ts``
of https://github.com/anomalyco/opencode), messages and parts off recordings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import INEXACT, document_of, head_of, object_of, without
from traceark.importers.jsonl import Row
from traceark.importers.opencode_trace import SessionTrace, Told
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.models import JsonObject

_BEGINS = re.compile(rb'\{\s*"info"\s*:\s*\{')
# The session stands in front of them.
_RECORDS: tuple[Place, ...] = (("messages",),)
_sorted = json.JSONEncoder(sort_keys=True)


def is_export(path: Path) -> bool:
    """Say whether a file begins as an export does, with a session of some project."""
    head = head_of(path)
    return _BEGINS.match(head) is not None and b'"projectID"' in head


def read_export(path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    """Yield the session's trace; an answer that is not completed yet is what the file's torn end would be."""
    before = len(counts.problems)
    document = document_of(path, counts, _RECORDS)
    if document is None:
        return
    is_whole = all(each.reason == INEXACT for each in counts.problems[before:])
    info, messages = object_of(document.get("info")), document.get("messages")
    session = Typed(counts.repaired).identifier(info.get("id"))
    if session is None or not isinstance(messages, list):
        counts.problems.append(Problem(str(path), 0, "no session with messages; nothing was taken"))
        return
    trace = SessionTrace(session, counts)
    trace.export(info, without(document, "messages"))
    rows = 0
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            counts.problems.append(Problem(str(path), 0, f"message {number} is no object; it was not taken"))
            continue
        text = _sorted.encode(message)
        if number == len(messages) and _goes_on(object_of(message.get("info"))):
            trace.status("busy")
            trace.torn_tail = text
        else:
            trace.add(
                Row(number, 0, text.encode(), value=message),
                Told("message", {}, {"message": message.get("info"), "parts": message.get("parts")}),
            )
            rows += 1
    if trace.torn_tail is None:
        trace.status("idle")
    source = trace.finish(path)
    # What stands behind the messages is none of the rows, and of one that broke off there all of it tells more.
    source.file_rows = rows + is_whole
    yield source


def _goes_on(info: JsonObject) -> bool:
    ended = object_of(info.get("time")).get("completed") is not None or info.get("error") is not None
    return info.get("role") == "assistant" and not ended
