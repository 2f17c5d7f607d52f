"""What callers ask of a log, made ready to be written: records staged at offsets.

Pure. A request is checked and encoded when it is made, so that a bad value fails its caller
alone; `stage` gives it an offset, and its message an id and a sequence, when its turn comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from traceark.codec.lines import (
    check_json,
    check_texts,
    dumps,
    now_text,
    seal_record,
    time_text,
    to_record,
)
from traceark.codec.malformed import MALFORMED
from traceark.codec.messages import message_json, typed
from traceark.errors import CorruptFileError, InvalidValueError, MessageNotFoundError, UnknownFieldError
from traceark.layout import LogName
from traceark.models import INT64_MAX, Event, Json, JsonObject, Message, Usage
from traceark.stats import Facts, MessageFold, as_facts, facts_of, updated_facts

_INTEGER, _NUMBER, _TEXT = (int, type(None)), (int, float, type(None)), (str, type(None))


class KnownMessage(Exception):
    """A message id is known already; the caller compares what is stored with what was given."""


class Staged:
    """Requests at their offsets, not yet applied: the lines by log, and what they will change.

    Attributes
    ----------
    fold : MessageFold
        Of what is durable; nothing here changes it before `apply`.
    ends : dict
        The last offset of each log with what is staged.
    last_sequence, floor : int
        The highest sequence of a message, and what an assigned one must pass besides.
    lines : dict
        Of the logs that something is added to.
    facts : dict
        Of the messages that change, as they will be.
    fitting : bool
        Whether all of them are new and fit surely.
    """

    __slots__ = ("_begins", "_crcs", "_writer", "ends", "facts", "fitting", "floor", "fold", "last_sequence", "lines")

    def __init__(
        self,
        fold: MessageFold,
        ends: dict[LogName, int],
        floor: int,
        writer: str,
        crcs: Mapping[LogName, str | None],
        begins: Callable[[LogName], bool],
    ) -> None:
        self.fold = fold
        self.ends = ends.copy()
        self.last_sequence = fold.last_sequence
        self.floor = floor
        self.lines: dict[LogName, list[bytes]] = {}
        self.facts: dict[str, Facts] = {}
        self.fitting = True
        self._writer = writer
        # A record that begins a segment names the `_crc` of the one before it.
        self._crcs, self._begins = crcs, begins

    def first(self, log: LogName) -> int:
        """Return the offset of the first record that is added to a log."""
        return self.ends[log] - len(self.lines[log]) + 1

    def add(self, log: LogName, body: bytes) -> int:
        """Add a record's JSON to a log; return its offset."""
        offset = self.ends[log] + 1
        self.ends[log] = offset
        lines = self.lines.get(log)
        if lines is None:
            after = self._crcs[log] if self._begins(log) else None
            self.lines[log] = [seal_record(body, offset, self._writer, after)]
        else:
            lines.append(seal_record(body, offset, self._writer))
        return offset

    def change(self, message_id: str, facts: Facts) -> None:
        """Take a message as it will be; refuse it where a total would pass 64 bits."""
        self.fold.check_room({**self.facts, message_id: facts})
        self.fitting = False
        self.facts[message_id] = facts

    def current(self, message_id: str) -> Facts | None:
        """Return a message's facts as they will be."""
        return self.facts.get(message_id) or self.fold.facts.get(message_id)

    def apply(self) -> None:
        """Fold the staged messages in, once they are durable."""
        fold = self.fold
        if self.fitting:
            fold.add_fitting(self.facts, self.last_sequence)
            return
        for message_id, facts in self.facts.items():
            if message_id in fold.facts:
                fold.replace(message_id, facts)
            else:
                fold.add(message_id, facts)


class Request:
    """Something to append to `log`; `future` is what its caller waits for."""

    log: ClassVar[LogName] = "messages"
    future: asyncio.Future[None] | None = None
    error: Exception | None = None
    result: Any = None

    def stage(self, staged: Staged) -> None:
        """Take an offset and set `result`, or raise."""
        raise NotImplementedError

    def outcome(self) -> Any:
        """Return the result, or raise the error, once it is done."""
        if self.error is not None:
            raise self.error
        return self.result


class AddMessage(Request):
    """A message to add, as it was when it was given: its caller may change it while it waits."""

    def __init__(self, message: Message) -> None:
        self.message = message = typed(message)
        self.json = message_json(message)
        # A model's attributes take several times as long.
        values = message.__dict__
        self.trace_id: str = values["trace_id"]
        self.message_id: str | None = values["message_id"]
        self.sequence: int | None = values["sequence"]
        self.dated = values["created_at"] is not None
        usage: Usage | None = values["usage"]
        # Its facts but for offset and sequence, which come when it is staged.
        self.counted = (
            values["goal_id"],
            values["tokens"],
            0 if usage is None else usage.total(),
            values["cost"],
            values["duration_ms"] or 0,
            values["tool_name"],
        )

    def stage(self, staged: Staged) -> None:
        message_id, sequence, body = self.message_id, self.sequence, self.json
        if message_id in staged.fold.facts or message_id in staged.facts:
            raise KnownMessage
        if message_id is None or sequence is None or not self.dated:
            message_id, sequence, body = self._completed(staged)
        # To unpack them would take half as long again.
        facts = as_facts((staged.ends["messages"] + 1, sequence) + self.counted)  # noqa: RUF005
        if staged.fitting and staged.fold.surely_fits(facts):
            staged.facts[message_id] = facts
        else:
            # Its numbers are large, or it was made without validation.
            Message.parse(self.message.fields())
            staged.change(message_id, facts)
        staged.add("messages", body)
        if sequence > staged.last_sequence:
            staged.last_sequence = sequence
        self.result = message_id

    def _completed(self, staged: Staged) -> tuple[str, int, bytes]:
        """Return id, sequence and JSON of the message with what its caller left to the archive."""
        message_id, sequence, assigned = self.message_id, self.sequence, ""
        if not self.dated:
            assigned = f'"created_at":"{now_text()}",'
        if sequence is None:
            sequence = max(staged.last_sequence, staged.floor) + 1
            if message_id is None:
                while staged.current(message_id := f"{self.trace_id}-{sequence:04d}") is not None:
                    sequence += 1
            if sequence > INT64_MAX:
                raise InvalidValueError(f"no sequence is left after {INT64_MAX}; give one", "sequence")
            assigned = f'"sequence":{sequence},{assigned}'
        if message_id is None:
            message_id = f"{self.trace_id}-{sequence:04d}"
            if staged.current(message_id) is not None:
                raise InvalidValueError(f"the message id {message_id!r} that this sequence gives is taken", "sequence")
        if self.message_id is None:
            assigned = f'"message_id":{dumps(message_id)},{assigned}'
        return message_id, sequence, f"{{{assigned}".encode() + self.json[1:]


class UpdateMessage(Request):
    """Fields of a message to set; None clears a field."""

    def __init__(self, message_id: str, updates: Mapping[str, Any]) -> None:
        self.message_id = message_id
        self.fields = update_record(updates)
        self.json = dumps({"_op": "update", "message_id": message_id, **self.fields}).encode()

    def stage(self, staged: Staged) -> None:
        facts = staged.current(self.message_id)
        if facts is None:
            raise MessageNotFoundError(f"no message {self.message_id!r} in this trace")
        staged.change(self.message_id, updated_facts(facts, self.fields))
        staged.add("messages", self.json)


class AppendEvent(Request):
    """An event to append."""

    log = "events"

    def __init__(self, trace_id: str, event_type: str, payload: Json, created_at: datetime | None = None) -> None:
        fields = event_fields(trace_id, event_type, payload, created_at)
        self.dated = "created_at" in fields
        self.head = dumps(fields)

    def stage(self, staged: Staged) -> None:
        event_id = staged.ends["events"] + 1
        assigned = "" if self.dated else f'"created_at":"{now_text()}",'
        body = f'{{"event_id":{event_id},{assigned}{self.head[1:]}'
        self.result = staged.add("events", body.encode())


def event_fields(trace_id: str, event_type: str, payload: Json, created_at: datetime | None = None) -> JsonObject:
    """Return the fields of an event that its caller gives, checked.

    Raises
    ------
    InvalidValueError
    """
    if not isinstance(event_type, str):
        raise InvalidValueError(f"expected text, not {type(event_type).__name__}", "event_type")
    try:
        event_type.encode()
    except UnicodeEncodeError:
        raise InvalidValueError("the text holds a lone surrogate", "event_type") from None
    check_json(payload, ("payload",))
    # Whatever enum or subclass of str it was, it is kept as text.
    fields: JsonObject = {"trace_id": trace_id, "event_type": str.__str__(event_type)}
    if created_at is not None:
        if type(created_at) is not datetime or created_at.tzinfo is not UTC:
            created_at = Event.parse({"event_id": 0, "event_type": "", "created_at": created_at}).created_at
        fields["created_at"] = time_text(created_at)
    if payload is not None:
        fields["payload"] = payload
    return fields


def update_record(updates: Mapping[str, Any]) -> JsonObject:
    """Return the fields that an update sets, checked as a message's; None stays None.

    Raises
    ------
    UnknownFieldError, InvalidValueError
    """
    known = Message.model_fields
    for name in updates:
        if name not in known:
            raise UnknownFieldError(f"a message has no field {name!r}; it has {', '.join(known)}")
        if name in Message.fixed:
            raise UnknownFieldError(f"the field {name!r} of a message identifies it and cannot change")
    checked = Message.coerce({"trace_id": "-", "role": "-", **updates})
    if updates.get("role", "") is None:
        raise InvalidValueError("a message needs a role", "role")
    record = to_record(checked)
    check_texts(checked)
    return {name: record.get(name) for name in updates}


def folded(records: list[tuple[str | None, JsonObject]]) -> list[JsonObject]:
    """Return message records with the updates among them folded in, in the order of adding."""
    messages: dict[str, JsonObject] = {}
    for op, record in records:
        message_id = str(record["message_id"])
        if op is None:
            messages[message_id] = record
        elif op == "update" and message_id in messages:
            apply_update(messages[message_id], record)
    return list(messages.values())


def apply_update(message: JsonObject, update: JsonObject) -> None:
    """Set the fields of an update record in a message record; null clears a field."""
    for name, value in update.items():
        if name == "message_id":
            continue
        if value is None:
            message.pop(name, None)
        else:
            message[name] = value


def digest(record: Mapping[str, Json]) -> str:
    """Return the hash of a message as it was added, without what the store may have assigned."""
    given = {
        name: value
        for name, value in record.items()
        if name not in ("message_id", "trace_id", "sequence", "created_at")
    }
    text = json.dumps(given, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fold_record(fold: MessageFold, op: str | None, record: JsonObject, offset: int) -> None:
    """Fold one record of a message log in.

    Raises
    ------
    CorruptFileError
        It proves itself, and still says something else than a message does.
    """
    try:
        message_id = str(record["message_id"])
        known = fold.facts.get(message_id)
        if op is None:
            facts = facts_of(record, offset)
        elif known is not None:
            facts = updated_facts(known, record)
        else:
            return
        _check(facts)
    except MALFORMED as error:
        raise CorruptFileError(
            f"trace {record.get('trace_id')!r}: the record of message {record.get('message_id')!r} at offset {offset} "
            f"is no message ({type(error).__name__}: {error}); restore the messages directory from a copy"
        ) from None
    if op is None:
        fold.add(message_id, facts)
    else:
        fold.replace(message_id, facts)


def _check(facts: Facts) -> None:
    """Refuse facts that cannot be summed, as a file may state them."""
    integers = type(facts.sequence) is type(facts.usage_tokens) is type(facts.duration_ms) is int
    if not integers or type(facts.tokens) not in _INTEGER or type(facts.cost) not in _NUMBER:
        raise TypeError("a number is none")
    if not (facts.cost is None or math.isfinite(facts.cost)):
        raise TypeError("the cost is infinite")
    if type(facts.goal_id) not in _TEXT or type(facts.tool_name) not in _TEXT:
        raise TypeError("a name is no text")
