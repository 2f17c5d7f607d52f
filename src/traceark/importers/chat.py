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
from traceark.importers.document import DocumentTrace, object_of, up_to_answer, without
from traceark.importers.jsonl import Row, beginning_of, head_rows, rows_of
from traceark.importers.model_calls import usage_in
from traceark.importers.typed import Typed
from traceark.importers.usage import spend, spend_in_all
from traceark.models import Json, JsonObject, Trace

NAME = "chat"


class Chat:
    """Reads a file of chats.

    The trace id is the line's ``id`` where it has one, else that of its ``response``. Else it is made of the
    file's name, the number of the line, and how the chat begins, up to the first answer: two chats are two
    traces even where one begins as the other does, and one that went on is the same as before.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "chats.jsonl")
    ...     _ = path.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    ...     [source] = Chat().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.task
    ('chat-bf08c21de6216279', 'hi')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the first row of the file is a chat, or the beginning of one that is torn."""
        first = next(head_rows(path), None)
        if first is None or first.value is None:
            return first is not None and first.torn and _begins_as_chat(beginning_of(first.raw))
        return _is_chat(first.value)

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


def _begins_as_chat(value: Json) -> bool:
    messages = value.get("messages") if isinstance(value, dict) else None
    return isinstance(messages, list) and _is_chat({"messages": messages[:1]})


def _trace(row: Row, chat: JsonObject, counts: ImportCounts, path: Path) -> SourceTrace:
    typed = Typed(counts.repaired)
    trace = Trace(trace_id=_trace_id(row, chat, typed, path), mode="call", status="completed")
    building = DocumentTrace(NAME, trace, counts)
    if short := building.keep("chat", without(chat, "messages")):
        trace.metadata = {NAME: short}
    building.model(chat.get("model"))
    for number, message in building.each("message", chat["messages"]):
        _add_message(building, number, message)
    if not row.exact:
        building.row("text", row.text)
        building.event("text", row.text)
    return building.finish(path, _take_usage(building, chat))


def _trace_id(row: Row, chat: JsonObject, typed: Typed, path: Path) -> str:
    response = chat.get("response")
    own = chat.get("id"), response.get("id") if isinstance(response, dict) else None
    if told := next(filter(None, map(typed.identifier, own)), None):
        return told
    beginning = up_to_answer(chat["messages"], lambda message: message.get("role") == "assistant")
    place = json.dumps([path.name, row.line, beginning], sort_keys=True)
    return f"{NAME}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _add_message(building: DocumentTrace, number: int, message: JsonObject) -> None:
    added, text = building.spoken(number, message), message.get("content")
    if added.role == "tool":
        building.answers(added, message.get("tool_call_id"), message.get("name"))
    elif added.role == "user" and building.trace.task is None:
        building.trace.task = building.typed.summary(text)
    elif added.role == "assistant":
        building.trace.result_summary = building.typed.summary(text, 500) or building.trace.result_summary
        if (usage := usage_in(message.get("usage"), building.typed)) is not None:
            spend(added, usage)


def _take_usage(building: DocumentTrace, chat: JsonObject) -> int | None:
    """Put what a line states of all of it at the last answer, unless answers tell their own; return the total."""
    places = (chat, object_of(chat.get("response")))
    usage = next((each for place in places if (each := usage_in(place.get("usage"), building.typed))), None)
    answers = [each for each in building.messages if each.role == "assistant"]
    if usage is not None and answers and all(each.usage is None for each in answers):
        spend_in_all(answers[-1], usage)
    return usage.total() if usage is not None else None
