"""How OTLP's JSON writes ids, times and attributes of spans. It knows no run."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from traceark.models import Json, JsonObject

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SURROGATE = re.compile("[\ud800-\udfff]")
_ERROR = 2
_TRACE_ID, _SPAN_ID = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")

Value = str | int | float | bool | Sequence[str | int] | None


def trace_id_of(trace_id: str) -> str:
    """Return OpenTelemetry's id of a trace: its own where it has 128 bits, else made of a hash.

    Examples
    --------
    >>> trace_id_of("7d1f0c52-64a5-4b0e-9b57-2f6f3f0c9a11"), trace_id_of("run-7")
    ('7d1f0c5264a54b0e9b572f6f3f0c9a11', 'b4c05df04575822cec8550e9491c58e1')
    """
    if _TRACE_ID.fullmatch(trace_id) and trace_id.strip("0"):
        return trace_id
    try:
        found = uuid.UUID(trace_id)
    except ValueError:
        return _hash(trace_id)[:32]
    return found.hex if str(found) == trace_id and found.int else _hash(trace_id)[:32]


def span_id_of(trace_id: str, kind: str, name: str) -> str:
    """Return the id of a span of a trace: that of a goal that is a span's already, else made of a hash."""
    if kind == "goal" and _SPAN_ID.fullmatch(name) and name.strip("0"):
        return name
    return _hash(f"{trace_id}\0{kind}\0{name}")[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def nanoseconds(moment: datetime) -> str:
    """Return a time as nanoseconds since 1970; one before that is the beginning."""
    return str(max((moment - EPOCH) // timedelta(microseconds=1), 0) * 1000)


def attributes_of(told: Mapping[str, Value]) -> list[Json]:
    """Return attributes; those that tell nothing are left out."""
    return [{"key": name, "value": _value(value)} for name, value in told.items() if value not in (None, "", [])]


def _value(value: Value) -> JsonObject:
    if isinstance(value, str):
        return {"stringValue": sound(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"arrayValue": {"values": [_value(each) for each in value or ()]}}


def sound(text: str) -> str:
    """Return text without lone surrogates, which OTLP cannot say."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def fail(span: JsonObject, reason: str | None) -> None:
    """Say that what a span tells of failed."""
    span["status"] = {"code": _ERROR, **({"message": sound(reason)} if reason else {})}
    attributes = span["attributes"]
    assert isinstance(attributes, list)
    attributes += attributes_of({"error.type": "_OTHER"})


def link(trace_id: str, kind: str, name: str) -> Json:
    """Return a link to a span of another trace."""
    return {"traceId": trace_id_of(trace_id), "spanId": span_id_of(trace_id, kind, name)}
