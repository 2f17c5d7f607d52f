"""A span of OpenTelemetry as a plain record, whatever encoding it comes in.

Readers of encodings make these, and so may an exporter of a running program; `gen_ai` says what their
attributes mean. It knows encodings of ids, times and values, and no attribute.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

_HEX = re.compile(r"(0x)?[0-9a-fA-F]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{22}==|[A-Za-z0-9+/]{11}=")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH).total_seconds()
_FAILED = frozenset({"2", "ERROR", "STATUS_CODE_ERROR", "STATUSCODE.ERROR"})


@dataclass(slots=True)
class OtelEvent:
    """An event of a span, or a log record told as one: its name, attributes, and body if it has one."""

    name: str
    attributes: JsonObject
    body: Json = None


@dataclass(slots=True)
class OtelSpan:
    """A span as OpenTelemetry knows it.

    Attributes
    ----------
    trace_id, span_id, parent_id : str, optional
        As `id_of` reads them.
    start, end : datetime, optional
    failed : bool
        Whether its status is an error; `message` is the status's.
    attributes : dict
        Values as JSON has them.
    scope : str
        The name of the instrumentation.
    raw : JSON
        The record, whole.
    """

    trace_id: str | None
    span_id: str | None
    parent_id: str | None
    name: str
    raw: Json
    start: datetime | None = None
    end: datetime | None = None
    failed: bool = False
    message: str | None = None
    attributes: JsonObject = field(default_factory=dict)
    events: list[OtelEvent] = field(default_factory=list)
    scope: str = ""


def id_of(value: Json) -> str | None:
    """Return the id of a trace or span; None for none, and for one of zeros alone.

    What is told in base64, as bytes are in protobuf's JSON, or with ``0x``, is turned into hex digits.

    Examples
    --------
    >>> id_of("0xAB12"), id_of("AAAAAAAAAAE="), id_of("0000"), id_of("run-A")
    ('ab12', '0000000000000001', None, 'run-A')
    """
    if not isinstance(value, str) or not value:
        return None
    if _BASE64.fullmatch(value):
        try:
            value = base64.b64decode(value, validate=True).hex()
        except binascii.Error:
            return value
    if _HEX.fullmatch(value):
        value = value.lower().removeprefix("0x")
        return value if value.strip("0") else None
    return value


def time_of(value: Json, typed: Typed, per_second: int = 10**9) -> datetime | None:
    """Return a time that is told as text, or as a number or digits of parts of a second since 1970.

    Examples
    --------
    >>> from collections import Counter
    >>> time_of("1700000000123456789", Typed(Counter())).isoformat()
    '2023-11-14T22:13:20.123456+00:00'
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return typed.time(value)
    if not 0 < value < _LAST * per_second:
        return None
    micros, rest = divmod(value * 10**6, per_second)
    if rest:
        typed.cut()
    return _EPOCH + timedelta(microseconds=micros)


def has_failed(code: Json) -> bool:
    """Say whether the code of a status is that of an error, as a number or in words."""
    return not isinstance(code, bool) and str(code).upper() in _FAILED


def attributes_of(told: Json) -> JsonObject:
    """Return attributes, told as an object or as a list of keys and values.

    Examples
    --------
    >>> attributes_of([{"key": "n", "value": {"intValue": "7"}}, {"key": "s", "value": {"stringValue": "x"}}])
    {'n': 7, 's': 'x'}
    """
    if isinstance(told, dict):
        return told
    found: JsonObject = {}
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict) and isinstance(key := each.get("key"), str):
            found[key] = any_value(each.get("value"))
    return found


def any_value(value: Json) -> Json:
    """Return what an AnyValue of OTLP holds; any other value as it is.

    Examples
    --------
    >>> any_value({"arrayValue": {"values": [{"boolValue": True}, {"doubleValue": 0.5}]}})
    [True, 0.5]
    """
    if not isinstance(value, dict) or len(value) != 1:
        return value
    [(kind, told)] = value.items()
    kind = kind.replace("_v", "V")
    if kind in ("stringValue", "boolValue", "doubleValue", "bytesValue"):
        return told
    if kind == "intValue":
        digits = isinstance(told, str) and len(told) <= 20 and told.removeprefix("-").isdecimal()
        return int(told) if digits else told  # type: ignore[arg-type]
    if kind == "arrayValue":
        values = told.get("values") if isinstance(told, dict) else told
        return [any_value(each) for each in values] if isinstance(values, list) else []
    if kind == "kvlistValue":
        return attributes_of(told.get("values") if isinstance(told, dict) else told)
    return value
