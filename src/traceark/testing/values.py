"""Values that tempt a store to change them, and values that it must refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

from traceark.models import Json


def _deep(levels: int, *, objects: bool) -> Json:
    value: Json = "bottom"
    for _ in range(levels):
        value = {"k": value} if objects else [value]
    return value


# Whatever JSON can say comes back as it was, type and sign and order of keys included.
HARD_VALUES: dict[str, Json] = {
    "true is not 1": [True, 1, 1.0, False, 0, 0.0],
    "integer beyond 2**53": 2**53 + 1,
    "integer beyond 64 bits": [2**63, 2**64, 2**70, -(2**200)],
    "integer of 4000 digits": 10**4000 - 1,
    "floats": [0.1, 1e16, 1e308, 5e-324, 2.5e-7, 1.7976931348623157e308, 123456789.123456789],
    "negative zero": [-0.0, 0.0],
    "NUL": "a\0b",
    "line separators": "a\u2028b\u2029c\u0085d\r\ne\x0bf",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x9b",
    "escape sequences": "\x1b[31mred\x1b]0;title\x07",
    "lone surrogates": ["\ud800", "x\udfff", {"\udc00": "\ud83d"}],
    "surrogates the wrong way round": "\udc00\ud800",
    "beyond the basic plane": "🦜 𝕏 \U0010ffff",
    "not normalised": ["é", "e\u0301", "ﬁ", "\u202eabc"],
    "byte order mark": "\ufeffx\ufffe\uffff",
    "200 lists": _deep(200, objects=False),
    "200 objects": _deep(200, objects=True),
    "empty": ["", [], {}, [[]], [{}], {"": ""}],
    "null": None,
    "nulls inside": [None, {"a": None}],
    "text like JSON": ['{"a": 1}', "null", "NaN", '"', "\\", "\\u0000", "1e5", "[]"],
    "keys in their order": {"b": 1, "a": 2, "c": {"z": 0, "y": 0}},
    "keys like the archive's own": {"_offset": 7, "_crc": "0", "_writer": "x", "_op": "update", "extra": {}},
    "keys like fields": {"message_id": "x", "trace_id": "y", "content": 1},
    "time as text": "2026-01-02T03:04:05.123456789Z",
    "objects of unlike shape": [{"a": 1}, {"a": "1"}, {"b": [1]}, 5],
}

# The value of a JSON field, and the path that the error must name, after the field's own name.
REFUSED_VALUES: dict[str, tuple[object, str]] = {
    "NaN": (float("nan"), ""),
    "NaN inside": ([{"x": float("nan")}], "[0].x"),
    "infinity": ({"a": [1, float("inf")]}, ".a[1]"),
    "minus infinity": ([[float("-inf")]], "[0][0]"),
    "key of an integer": ({1: "a"}, ""),
    "key of None inside": ([{"a": {None: 1}}], "[0].a"),
    "key of a boolean": ({True: 1}, ""),
    "tuple": ({"a": (1, 2)}, ".a"),
    "set": ([{1}], "[0]"),
    "bytes": ([b"x"], "[0]"),
    "datetime": ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, ".at"),
    "decimal": ({"d": Decimal("1.5")}, ".d"),
    "object": ([object()], "[0]"),
}


def nested_lists(levels: int) -> Json:
    """Return that many lists, one in the other."""
    return _deep(levels, objects=False)


def hard_object() -> dict[str, Json]:
    """Return all hard values in one object."""
    return cast("dict[str, Json]", dict(HARD_VALUES))


def odd_object() -> dict[str, Json]:
    """Return those of them that take no long time each: neither very deep nor of thousands of digits."""
    heavy = ("integer of 4000 digits", "200 lists", "200 objects")
    return {name: value for name, value in HARD_VALUES.items() if name not in heavy}


# 16 MiB with every kind of letter, though not so many escapes that its JSON is thrice the size.
HUGE_TEXT = ("é\n\0\u2028" + "x" * 57) * (16 * 1024 * 1024 // 64)

# Trace ids that file systems, shells and object stores stumble over.
HOSTILE_IDS = [
    "..", ".", "...", "/", "//", "a/b", "/etc/passwd", "../../x", "a\\b", "C:\\x", "a\0b", "\0", "\n", "a\r\nb", "\t",
    "CON", "con", "Con.txt", "nul", "AUX", "lpt1", "com9.log", "trailing.", "trailing ", " leading", " ", "~", "~1",
    "run", "Run", "RUN", "rUn", "run~1", "%41", "%", "%%", "a%2fb", "a%2Fb", "a=b", "year=2026", "*", "?", "[a]",
    "{a,b}", "a:b", "a|b", "<x>", '"', "'", "';--", "$(x)", "`x`", "&", ";", "-rf", "--", ".lock", ".hidden", "traces",
    "trace.json", "goal_tree.json", "traceark.json", "🦜", "emoji 🦜 é", "é", "e\u0301", "ＡＢＣ", "\u202e", "\ufeff",
    "ı", "İ", "ß", "ẞ", "K", "0", "1e5", "null", "x" * 200, "a" * 197 + ".",
]  # fmt: skip

REFUSED_IDS = {
    "empty": "",
    "300 bytes": "x" * 300,
    "lone surrogate": "\ud800",
    "300 bytes of two-byte letters": "é" * 150,
    "5000 bytes": "x" * 5000,
}
