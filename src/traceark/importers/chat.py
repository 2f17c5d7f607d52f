"""Chats as JSON Lines: one conversation a line, ``{"messages": [{"role": …, "content": …}, …]}``.

As data for fine-tuning is kept. Roles, calls and answers of tools are those of OpenAI's chat
completions. Everything of a line but its messages is an event ``chat.chat``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, without
from traceark.importers.jsonl import Row, head_rows, rows_of
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Trace

NAME = "chat"


class Chat:
    """Reads a file of chats.

    The trace id is the line's ``id``, where it has one, else made of a hash of its messages: the
    same chat is the same trace wherever it comes from.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "chats.jsonl")
    ...     _ = path.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    ...     [source] = Chat().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.task
    ('chat-5aced9397fc4a6ba', 'hi')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the first row of the file is a chat, and nothing else."""
        first = next(head_rows(path), None)
        return first is not None and first.value is not None and _is_chat(first.value)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield a trace for each line."""
        for row in rows_of(path.read_bytes()):
            if row.value is None or not _is_chat(row.value):
                counts.rows["unreadable"] += 1
                counts.problems.append(
                    Problem(str(path), row.line, f"{row.reason or 'no chat: it has no messages'}; it was not taken")
                )
            else:
                yield _trace(row, row.value, counts, path)


def _is_chat(value: Mapping[str, Json]) -> bool:
    messages = value.get("messages")
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages)
    )


def _trace(row: Row, chat: JsonObject, counts: ImportCounts, path: Path) -> SourceTrace:
    typed = Typed(counts.repaired)
    digest = hashlib.sha256(json.dumps(chat["messages"], sort_keys=True).encode()).hexdigest()
    trace_id = typed.identifier(chat.get("id")) or f"{NAME}-{digest[:16]}"
    trace = Trace(trace_id=trace_id, mode="call", status="completed")
    building = DocumentTrace(NAME, trace, counts)
    if short := building.keep("chat", without(chat, "messages")):
        trace.metadata = {NAME: short}
    building.model(chat.get("model"))
    for number, message in building.each("message", chat["messages"]):
        _add_message(building, number, message)
    if not row.exact:
        building.event("text", row.text)
    return building.finish(path)


def _add_message(building: DocumentTrace, number: int, message: JsonObject) -> None:
    added, text = building.spoken(number, message), message.get("content")
    if added.role == "tool":
        building.answers(added, message.get("tool_call_id"), message.get("name"))
    elif added.role == "user" and building.trace.task is None:
        building.trace.task = building.typed.summary(text)
    elif added.role == "assistant":
        building.trace.result_summary = building.typed.summary(text, 500) or building.trace.result_summary
