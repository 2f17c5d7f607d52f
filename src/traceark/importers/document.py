"""Runs that are one JSON document: read it, and put a trace together record by record.

A record is what the format repeats: a step, a message. Each is a row of the source, so that a
later state of a document which only grew is told from one that went another way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from traceark.importers.base import ImportCounts, Problem, SourceEvent, SourceTrace
from traceark.importers.goals import GoalFold
from traceark.importers.jsonl import Whole, beginning_of, head_rows, rows_of, values_of, whole_value
from traceark.importers.torn import Place, whole_records
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Message, Trace

# A format that is told by a word near the beginning of a file is looked for in so many bytes.
_HEAD_BYTES = 65_536
_sorted = json.JSONEncoder(sort_keys=True, check_circular=False)
INEXACT = "a number beyond any type, or a key that comes twice; all else was taken"
# A text that a header may hold beside its own fields.
_SHORT = 200
# Costs are sums of floats, and may be stated rounded.
_COST_DIFFERS = 1e-6


def head_of(path: Path, *, lists: bool = False) -> bytes:
    """Return the beginning of a file that may be a JSON object, or a list if it may be one; else nothing."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head if head.startswith((b"{", b"[") if lists else b"{") else b""


def may_have(path: Path, *keys: frozenset[str]) -> bool:
    """Say whether a file's first row has all keys of one of some sets; what is not one row may have them.

    The head of a file tells no more than that a key is somewhere in it: of a row it may be one far inside.
    """
    first = next(head_rows(path), None)
    return first is None or first.value is None or any(each <= first.value.keys() for each in keys)


def document_of(
    path: Path,
    counts: ImportCounts,
    places: Collection[Place] = (),
    tells_id: Callable[[JsonObject], bool] = lambda document: True,
) -> JsonObject | None:
    """Return the object that a file holds; None, with a problem, where it holds none.

    Of one that breaks off, what is whole of the records in some places and what stands in front of them, if that
    `tells_id`, the same as all of the document would.
    """
    data = path.read_bytes()
    whole = whole_value(data)
    if not isinstance(whole.value, dict):
        whole = replace(whole, reason=whole.reason or "JSON, but no object")
        whole = broken(data, whole, places, path, counts, tells_id)
    elif not whole.exact:
        counts.problems.append(Problem(str(path), 0, INEXACT))
    return whole.value if isinstance(whole.value, dict) else None


def documents_of(path: Path, counts: ImportCounts, places: Collection[Place] = ()) -> Iterator[tuple[int, Json]]:
    """Yield the documents of a file with their lines: the file is one, or has one a line, or one after the other.

    Of one that breaks off, what is whole of the records in some places and what stands in front of them.
    """
    data = path.read_bytes()
    whole = whole_value(data)
    if not whole.reason:
        if not whole.exact:
            counts.problems.append(Problem(str(path), 0, INEXACT))
        yield 0, whole.value
        return
    rows = rows_of(data)
    first = next(rows, None)
    if first is not None and first.value is None:
        rows = values_of(data)
        first = next(rows, None)
    if first is None or first.value is None:
        whole = broken(data, whole, places, path, counts)
        if whole.value is not None:
            yield whole.line, whole.value
        return
    for row in (first, *rows):
        if row.value is None:
            counts.problems.append(Problem(str(path), row.line, f"{row.reason}; it was not taken"))
            continue
        if not row.exact:
            counts.problems.append(Problem(str(path), row.line, INEXACT))
        yield row.line, row.value


def broken(
    data: bytes,
    whole: Whole,
    places: Collection[Place],
    path: Path,
    counts: ImportCounts,
    tells_id: Callable[[JsonObject], bool] = lambda document: True,
) -> Whole:
    """Return what is whole of a document that breaks off, and say so."""
    part = whole_records(data, places) if places else Whole()
    if isinstance(part.value, dict) and not tells_id(part.value):
        part = Whole()
    told = "the records before that are whole" if part.value is not None else "nothing was taken"
    counts.problems.append(Problem(str(path), whole.line, f"{whole.reason}; {told}"))
    if not part.exact:
        counts.problems.append(Problem(str(path), 0, INEXACT))
    return replace(part, line=whole.line)


def first_document(path: Path) -> Json:
    """Return the document that a file is, or the first of those that it has, or what is whole of a broken one."""
    first = next(head_rows(path), None)
    if first is not None and first.value is not None:
        return first.value
    data = path.read_bytes()
    whole = whole_value(data)
    if not whole.reason:
        return whole.value
    told = next((row.value for row in values_of(data)), None)
    return told if told is not None else beginning_of(data)


class DocumentTrace:
    """Puts one trace together.

    Parameters
    ----------
    name : str
        The importer, the first part of the types of its events.
    trace : Trace
        The header; its times and model follow the messages.
    counts : ImportCounts
    """

    def __init__(self, name: str, trace: Trace, counts: ImportCounts) -> None:
        self.trace = trace
        self.typed = Typed(counts.repaired)
        self.goals = GoalFold(self.typed)
        self.messages: list[Message] = []
        self._name = name
        self._counts = counts
        self._events: list[SourceEvent] = []
        self._digests: list[str] = []
        self._tools: dict[str, str] = {}
        self._time: datetime | None = None

    def row(self, kind: str, record: Json) -> None:
        """Count a record of the document."""
        before = self._digests[-1] if self._digests else ""
        text = _sorted.encode(record)
        self._digests.append(hashlib.sha256(f"{before}{text}".encode()).hexdigest())
        self._counts.rows[kind] += 1

    def each(self, kind: str, records: Json) -> Iterator[tuple[int, JsonObject]]:
        """Count records, and yield those that are objects with their places; what is none becomes an event."""
        if not isinstance(records, list):
            if records is not None:
                self.row(kind, records)
                self.event(kind, records)
            return
        for number, record in enumerate(records, start=1):
            self.row(kind, record)
            if isinstance(record, dict):
                yield number, record
            else:
                self.event(kind, record)

    def keep(self, kind: str, rest: JsonObject) -> JsonObject:
        """Keep what else a document says, as an event: headers are small. Return what is short of it."""
        if rest:
            self.row(kind, rest)
            self.event(kind, rest)
        return {name: value for name, value in rest.items() if _is_short(value)}

    def time(self, told: Json) -> datetime | None:
        """Take a record's time, if it has one; return the last one told."""
        at = self.typed.time(told)
        if at is not None:
            self._time = at
            # Past the look that the model takes at what is assigned: there are many, and `Typed` made them.
            header = self.trace.__dict__
            if header["created_at"] is None or at < header["created_at"]:
                header["created_at"] = at
            if header["completed_at"] is None or at > header["completed_at"]:
                header["completed_at"] = at
        return self._time

    def model(self, told: Json) -> None:
        """Take the model that wrote a message."""
        model = self.typed.text(told)
        if model is not None:
            self.trace.model = model

    def message(self, message_id: str, role: str, content: Json, source: Mapping[str, Json], **fields: Any) -> Message:
        """Add a message; `source` is what its record says beyond that."""
        told: dict[str, Any] = {
            "message_id": f"{self.trace.trace_id}-{message_id}",
            "trace_id": self.trace.trace_id,
            "role": role,
            "content": content,
            "created_at": self._time,
            **fields,
        }
        if source:
            told["source"] = dict(source)
        message = Message.parse(told)
        self.messages.append(message)
        return message

    def spoken(
        self,
        number: int,
        record: JsonObject,
        block: Callable[[JsonObject], JsonObject | None] = lambda call: call,
        content: Callable[[Json], Json] = lambda told: told,
    ) -> Message:
        """Add a message whose record has a role, content and calls of tools, as most formats do.

        Parameters
        ----------
        number : int
            Its place.
        record : dict
            With `role`, `content`, `tool_calls`; all that the message does not say stays in `source`.
        block : callable
            Returns a call as a block of the content, None where no block says all of it.
        content : callable
            Returns the content as it is to be kept.
        """
        role, text, told = self.typed.text(record.get("role")), content(record.get("content")), record.get("tool_calls")
        calls = objects_of(told)
        blocks = [each for each in map(block, calls) if each is not None]
        taken = ["role"] if role == record.get("role") else []
        if blocks and len(blocks) == len(calls):
            taken.append("tool_calls")
            if isinstance(text, list) or (isinstance(text, str) and text):
                taken.append("content")
            text = with_calls(text, blocks)
        else:
            taken.append("content")
        message = self.message(f"{number:04d}", role or "unknown", text, without(record, *taken))
        self.calls(message, calls)
        return message

    def calls(self, message: Message, calls: Sequence[Mapping[str, Json]]) -> None:
        """Take the calls of tools in a message, named in any of the ways that formats have."""
        for call in calls:
            function = call.get("function")
            told = function.get("name") if isinstance(function, dict) else function
            name = self.typed.text(told or call.get("name") or call.get("function_name"))
            call_id = self.typed.identifier(call.get("id") or call.get("tool_call_id"))
            if call_id is not None and name is not None:
                self._tools[call_id] = name
            if len(calls) == 1:
                message.tool_call_id, message.tool_name = call_id, name

    def answers(self, message: Message, call_id: Json, name: Json = None) -> None:
        """Pair a message with the call that it answers."""
        message.tool_call_id = self.typed.identifier(call_id)
        message.tool_name = self.typed.text(name) or self._tools.get(message.tool_call_id or "")

    def event(self, kind: str, payload: Json, at: datetime | None = None) -> None:
        """Add an event, with its own time or the last one told."""
        self._events.append(SourceEvent(f"{self._name}.{kind}", payload, at or self._time))

    def goal(self, goal_id: str, description: str, child_id: str) -> None:
        """Add the goal of a sub-agent that has ended by the last message, or one more trace to it."""
        goal = self.goals.start_agent(goal_id, description, self._time, "completed")
        goal.sub_trace_ids = [*goal.sub_trace_ids, child_id]
        self.tell_goals(self.messages[-1])

    def tell_goals(self, message: Message | None) -> None:
        """Add events for what has changed of the goals: by a message, or by what is none."""
        self._events += self.goals.changes(message.message_id if message is not None else None)

    def finish(
        self,
        path: Path,
        stated_tokens: int | None = None,
        *,
        stated_cached: int | None = None,
        stated_cost: float | None = None,
    ) -> SourceTrace:
        """Return the trace; say so where it has or costs other than the document states."""
        tokens = sum(message.tokens or 0 for message in self.messages)
        if stated_tokens is not None and tokens != stated_tokens:
            self._differs(path, f"the messages have {tokens:,} tokens, the file states {stated_tokens:,}")
        cached = sum(message.usage.cache_read_tokens or 0 for message in self.messages if message.usage is not None)
        if stated_cached is not None and cached != stated_cached:
            self._differs(path, f"the messages have {cached:,} cached tokens, the file states {stated_cached:,}")
        cost = sum(message.cost or 0.0 for message in self.messages)
        if stated_cost is not None and abs(cost - stated_cost) > _COST_DIFFERS * max(1.0, stated_cost):
            self._differs(path, f"the messages cost {cost:.6f}, the file states {stated_cost:.6f}")
        goals = self.goals.tree(self.trace.task or "")
        return SourceTrace(
            self.trace, self.messages, self._events, goals, self._digests, len(self._digests), positional=True
        )

    def _differs(self, path: Path, told: str) -> None:
        self._counts.differences.append(Problem(str(path), 0, f"{self.trace.trace_id}: {told}"))


def with_calls(content: Json, calls: Sequence[Json]) -> list[Json]:
    """Return content as blocks, those of calls last.

    Examples
    --------
    >>> with_calls("I look.", [{"type": "tool_call"}])
    [{'type': 'text', 'text': 'I look.'}, {'type': 'tool_call'}]
    """
    if isinstance(content, list):
        return [*content, *calls]
    return [{"type": "text", "text": content}, *calls] if isinstance(content, str) and content else [*calls]


def without(record: Mapping[str, Json], *names: str) -> JsonObject:
    """Return an object without some of its keys.

    Examples
    --------
    >>> without({"a": 1, "b": 2}, "b")
    {'a': 1}
    """
    return {name: value for name, value in record.items() if name not in names}


def objects_of(value: Json) -> list[JsonObject]:
    """Return a list of objects; an empty one where it is none, or not of objects alone.

    Examples
    --------
    >>> objects_of([{"a": 1}]), objects_of([{"a": 1}, 2]), objects_of(None)
    ([{'a': 1}], [], [])
    """
    found = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return found if isinstance(value, list) and len(found) == len(value) else []


def up_to_answer(messages: Json | Sequence[Json], is_answer: Callable[[JsonObject], bool]) -> list[Json]:
    """Return messages up to the first answer: what a run that goes on has in common with all of it.

    Examples
    --------
    >>> up_to_answer([{"role": "user"}, {"role": "agent"}, {"role": "user"}], lambda each: each["role"] == "agent")
    [{'role': 'user'}, {'role': 'agent'}]
    """
    found: list[Json] = []
    for message in messages if isinstance(messages, list) else ():
        found.append(message)
        if isinstance(message, dict) and is_answer(message):
            break
    return found


def object_of(value: Json) -> JsonObject:
    """Return an object; an empty one where it is none.

    Examples
    --------
    >>> object_of({"a": 1}), object_of(None)
    ({'a': 1}, {})
    """
    return value if isinstance(value, dict) else {}


def _is_short(value: Json) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _SHORT)
