"""Ways to spoil a sample: values of JSON put where others were, texts that no JSON should have, changed bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

# Stand for texts that `json.dumps` does not write.
_RAW = {
    "@@huge": "9" * 5000,
    "@@infinite": "1e999",
    "@@nan": "NaN",
    "@@deep": "[" * 3000 + "]" * 3000,
    "@@objects": '{"a":' * 600 + "1" + "}" * 600,
    "@@twice": '{"a":1,"a":2,"type":"b","type":"c"}',
    "@@tiny": "1e-999",
    "@@fraction": "0." + "3" * 400,
}
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**53, 2**63, -(2**63) - 1, 2**70, 1.5, 1e308, -0.0, "", "a", "\ud800",
    "\udc00\ud800", "\0", "\r\n", "é\u202e", "x" * 3000, "9" * 5000, "NaN", "2026-01-02T03:04:05Z",
    "9999-12-31T23:59:59.999999-14:00", "../../etc/passwd", "{", "[1]", [], {}, [[]], [None], [{}], {"": {}},
    {"a": None}, {"type": "text"}, [{"type": "text", "text": 5}],
    {"type": []}, *_RAW,
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a value with each key in it."""
    stack = [value]
    while stack:
        item = stack.pop()
        for key, each in item.items() if isinstance(item, dict) else enumerate(item):
            yield item, key
            if isinstance(each, dict | list):
                stack.append(each)


def spoiled_value(value: Any, random: Random) -> Any:
    """Return a JSON value in which something is another, gone, there twice or elsewhere."""
    if not isinstance(value, dict | list) or not value:
        return random.choice(STRANGE)
    value = copy.deepcopy(value)
    found = list(places(value))
    place, key = random.choice(found)
    way = random.randrange(6)
    if way <= 2:
        place[key] = random.choice(STRANGE)
    elif way == 3:
        del place[key]
    elif way == 4:
        other, name = random.choice(found)
        place[key] = copy.deepcopy(other[name])
    elif isinstance(place, list):
        place.insert(key, copy.deepcopy(place[key]))
    else:
        place[random.choice(list(place)) + random.choice(("", "_", "2"))] = place[key]
    return value


def spoiled_json(data: bytes, random: Random) -> bytes:
    """Return lines of JSON, or one document, with values spoiled."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        lines = data.split(b"\n")
        at = random.randrange(len(lines))
        try:
            line = json.loads(lines[at])
        except (ValueError, RecursionError):
            return spoiled_bytes(data, random)
        lines[at] = _text(spoiled_value(line, random))
        return b"\n".join(lines)
    for _ in range(random.choice((1, 1, 2, 4))):
        whole = spoiled_value(whole, random)
    return _text(whole) + data[len(data.rstrip()) :]


def _text(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def spoiled_bytes(data: bytes, random: Random) -> bytes:
    """Return bytes of which a few are others, gone or there twice."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if not changed:
            return random.randbytes(8)
        at, length = random.randrange(len(changed)), random.choice((1, 1, 4, 16, len(changed)))
        way = random.randrange(6)
        if way == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif way == 1:
            changed[at : at + length] = random.randbytes(min(length, 16))
        elif way == 2:
            del changed[at : at + length]
        elif way == 3:
            changed[at:at] = changed[at : at + length]
        elif way == 4:
            changed[at : at + 4] = random.choice((bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        else:
            changed[at:at] = random.choice(
                (b"\0", b"\r\n", b"\n", b"\xef\xbb\xbf", b"\xff", b"{", b"[", b'"', b"\\u0000")
            )
    return bytes(changed)


def spoiled(data: bytes, random: Random, *, is_json: bool) -> bytes:
    """Return a sample spoiled in one way or another."""
    if not is_json:
        return spoiled_bytes(data, random)
    way = random.randrange(10)
    if way < 7:
        try:
            return spoiled_json(data, random)
        except RecursionError:  # it nests deeper than values are copied
            return spoiled_bytes(data, random)
    if way == 7:
        return b"\xef\xbb\xbf" + data
    if way == 8:
        return data.replace(b"\n", b"\r\n").replace(b",", b",\0", random.randrange(2))
    return spoiled_bytes(data, random)
