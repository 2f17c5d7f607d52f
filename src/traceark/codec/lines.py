"""JSON, exactly, and the lines that prove themselves.

The standard library's JSON with NaN refused and nothing coerced: a value that would come back as
another is refused with its path. A *line* is one record (or one header) as flat JSON whose last
field, ``_crc``, is the CRC-32 of the bytes before it. This module knows no files.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_json

from traceark.codec.malformed import MALFORMED
from traceark.errors import CorruptFileError, InvalidValueError
from traceark.models import RESERVED_FIELDS, ArchiveModel, Json, JsonObject, path_of

MAX_DEPTH = 500
# Python refuses to print or parse longer integers (sys.int_info.default_max_str_digits is 4300).
_MAX_INTEGER = 10**4299
_SMALL_INTEGER = 2**64
_CRC = b',"_crc":"%08x"}\n'
_CRC_BYTES = len(b',"_crc":"00000000"}')

_readable = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))


def _encoding(encoder: json.JSONEncoder, texts: Callable[[str], str]) -> Callable[[object], str]:
    """Return `encoder.encode`, without making the C encoder anew for every value."""
    make = getattr(json.encoder, "c_make_encoder", None)  # what `encode` itself uses, where there is one
    if make is None:
        return encoder.encode
    pieces = make(None, encoder.default, texts, None, ":", ",", False, False, False)
    return lambda value: "".join(pieces(value, 0))


_to_readable = _encoding(_readable, json.encoder.encode_basestring)


def is_plain(value: object, depth: int) -> bool:
    """Say quickly that a value is certainly right; `check_json` looks closer at the others."""
    if type(value) is str or value is None:
        return True
    if type(value) is dict:
        for key, child in value.items():
            if type(key) is not str:
                return False
            if type(child) is not str and child is not None and not (depth and is_plain(child, depth - 1)):
                return False
        return True
    if type(value) is list:
        for child in value:
            if type(child) is not str and child is not None and not (depth and is_plain(child, depth - 1)):
                return False
        return True
    if type(value) is int:
        return -_SMALL_INTEGER < value < _SMALL_INTEGER
    return type(value) is bool or (type(value) is float and math.isfinite(value))


def check_json(value: object, path: tuple[str | int, ...] = ()) -> None:
    """Refuse a value that JSON cannot say exactly.

    Raises
    ------
    InvalidValueError
        NaN, an infinity, a key that is no text, a type that JSON has not (tuple, bytes, datetime,
        …), nesting deeper than 500; the error names the path.

    Examples
    --------
    >>> check_json({"a": [1, float("nan")]}, ("content",))
    Traceback (most recent call last):
    traceark.errors.InvalidValueError: content.a[1]: nan is no JSON number
    """
    if is_plain(value, MAX_DEPTH):
        return
    stack: list[tuple[object, tuple[str | int, ...]]] = [(value, path)]
    base = len(path)
    while stack:
        item, where = stack.pop()
        if item is None or isinstance(item, str | bool):
            continue
        if isinstance(item, dict):
            if len(where) - base > MAX_DEPTH:
                raise InvalidValueError(f"nested deeper than {MAX_DEPTH}", path_of(where[:8]) + "…")
            for key, child in item.items():
                if not isinstance(key, str):
                    raise InvalidValueError(f"the key {key!r} is no text", path_of(where))
                if child is not None and type(child) is not str:
                    stack.append((child, (*where, key)))
        elif isinstance(item, list):
            if len(where) - base > MAX_DEPTH:
                raise InvalidValueError(f"nested deeper than {MAX_DEPTH}", path_of(where[:8]) + "…")
            for index, child in enumerate(item):
                if child is not None and type(child) is not str:
                    stack.append((child, (*where, index)))
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidValueError(f"{item} is no JSON number", path_of(where))
        elif isinstance(item, int):
            if not -_MAX_INTEGER < item < _MAX_INTEGER:
                raise InvalidValueError("an integer of more than 4,299 digits", path_of(where))
        else:
            hint = "; make it a list" if isinstance(item, tuple | set | frozenset) else ""
            raise InvalidValueError(f"JSON has no {type(item).__name__}{hint}", path_of(where))


def dumps(value: object) -> str:
    """Return checked JSON as compact text that UTF-8 can encode.

    Text is left readable; only where it holds a lone surrogate is everything escaped.
    """
    text = _to_readable(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _escaped(value)
    return text


def _escaped(value: object) -> str:
    """Return JSON text with everything escaped, refusing surrogates that JSON would take for a pair."""
    text = _ascii.encode(value)
    if json.loads(text) != value:
        raise InvalidValueError(
            "a text holds two surrogates in a row that JSON reads as one character; encode it properly first",
            path_of(_first_pair(value, ()) or ()),
        )
    return text


def _first_pair(value: object, path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """Return where the first text lies that JSON would read back as another."""
    if isinstance(value, str):
        return path if json.loads(_ascii.encode(value)) != value else None
    steps: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        steps = value.items()
    elif isinstance(value, list):
        steps = enumerate(value)
    return next((found for step, child in steps if (found := _first_pair(child, (*path, step))) is not None), None)


def json_text(value: object) -> str:
    """Return checked JSON as compact text, of the same value as `dumps` and in a third of its time."""
    return json_bytes(value).decode()


def json_bytes(value: object) -> bytes:
    """Return `json_text` in UTF-8.

    pydantic's encoder fails on what it cannot say (lone surrogates, deep nesting), which goes the longer way.
    """
    try:
        return to_json(value)
    except PydanticSerializationError:
        return dumps(value).encode()


def loads(text: str) -> Any:
    """Return the value of JSON text that this module wrote."""
    return json.loads(text)


def time_text(moment: datetime) -> str:
    """Return a UTC time as the archive writes it.

    Examples
    --------
    >>> time_text(datetime(2026, 1, 2, tzinfo=UTC))
    '2026-01-02T00:00:00.000000Z'
    """
    if moment.microsecond:
        # A third of the time of all other ways; where there is no fraction, it writes none.
        return to_json(moment)[1:-1].decode()
    return (
        f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}T"
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}.{moment.microsecond:06d}Z"
    )


_this_second = (-1, "")


def now_text() -> str:
    """Return the current time as the archive writes it; all but the microseconds is made once a second.

    Examples
    --------
    >>> len(now_text())
    27
    """
    global _this_second
    second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _this_second
    if known != second:
        text = time_text(datetime.fromtimestamp(second, UTC))[:20]
        _this_second = (second, text)
    return f"{text}{microsecond:06d}Z"


def check_texts(model: ArchiveModel, path: tuple[str | int, ...] = ()) -> None:
    """Refuse lone surrogates in typed text fields, which a Parquet column cannot hold."""
    for name, value in model.__dict__.items():
        if name in JSON_FIELDS:
            continue
        if isinstance(value, ArchiveModel):
            check_texts(value, (*path, name))
        elif isinstance(value, str) and not value.isascii() and not _is_utf8(value):
            raise InvalidValueError(
                "the text holds a lone surrogate, which only JSON fields keep", path_of((*path, name))
            )
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ArchiveModel):
                    check_texts(item, (*path, name, index))
                elif isinstance(item, str) and not _is_utf8(item):
                    raise InvalidValueError("the text holds a lone surrogate", path_of((*path, name, index)))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


JSON_FIELDS = frozenset({"content", "context", "metadata", "payload"})


def to_record(model: ArchiveModel, path: tuple[str | int, ...] = ()) -> JsonObject:
    """Return a model as a flat JSON object, checked: fields that are None left out, extra ones kept.

    Raises
    ------
    InvalidValueError
        A JSON field or an extra field holds what JSON cannot say, or an extra field has a reserved name.
    """
    record: JsonObject = {}
    for name, value in model.__dict__.items():
        if value is None:
            continue
        if type(value) is str:
            record[name] = value
        elif name in JSON_FIELDS:
            if not is_plain(value, MAX_DEPTH):
                check_json(value, (*path, name))
            record[name] = value
        elif isinstance(value, datetime):
            record[name] = time_text(value)
        elif isinstance(value, ArchiveModel):
            record[name] = to_record(value, (*path, name))
        elif isinstance(value, list):
            record[name] = [
                to_record(item, (*path, name, index)) if isinstance(item, ArchiveModel) else item
                for index, item in enumerate(value)
            ]
        else:
            record[name] = value
    extra = model.__pydantic_extra__
    if extra:
        for name, value in extra.items():
            if name in RESERVED_FIELDS:
                raise InvalidValueError("the name is reserved for the archive's own use", path_of((*path, name)))
            check_json(value, (*path, name))
            _check_name(name, path)
            record[name] = value
    return record


def _check_name(name: str, path: tuple[str | int, ...]) -> None:
    if not name.isascii() and not _is_utf8(name):
        raise InvalidValueError(f"the field name {name!a} holds a lone surrogate", path_of(path))


def record_text(model: ArchiveModel, record: JsonObject) -> str:
    """Return the JSON text of `to_record(model)`, refusing surrogates in typed fields."""
    text = _to_readable(record)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        check_texts(model)
        return _escaped(record)
    return text


def check_model(model: ArchiveModel) -> None:
    """Refuse a model that holds a value which the archive cannot keep exactly; see `to_record`."""
    record_text(model, to_record(model))


def seal_record(body: bytes, offset: int, writer: str, after: str | None = None) -> bytes:
    """Return the line of a record's JSON at its offset; `after` is the ``_crc`` of the record before it."""
    added = f',"_offset":{offset},"_writer":"{writer}"'
    if after is not None:
        added = f',"_after":"{after}"{added}'
    proven = body[:-1] + added.encode()
    return proven + _CRC % zlib.crc32(proven)


def encode_line(record: Mapping[str, Json]) -> bytes:
    """Return a JSON object as a line that proves itself.

    Examples
    --------
    >>> encode_line({"role": "user"})
    b'{"role":"user","_crc":"42555acd"}\\n'
    """
    proven = dumps(record)[:-1].encode()
    return proven + _CRC % zlib.crc32(proven)


def proves_itself(line: bytes) -> bool:
    """Say whether a line (without its newline) is whole and unchanged."""
    if len(line) <= _CRC_BYTES or line[-_CRC_BYTES:-10] != b',"_crc":"' or line[-2:] != b'"}':
        return False
    return line[-10:-2] == b"%08x" % zlib.crc32(line[:-_CRC_BYTES])


def decode_line(line: bytes, what: str) -> JsonObject:
    """Return the JSON object of a line that proves itself, without its ``_crc``.

    Parameters
    ----------
    line : bytes
        With or without the newline.
    what : str
        The file (and line) for the error.

    Raises
    ------
    CorruptFileError
        The line does not prove itself.
    """
    line = line.removesuffix(b"\n")
    if not proves_itself(line):
        raise CorruptFileError(f"{what} does not prove itself (its _crc is missing or wrong); restore it from a copy")
    return proven_record(line, what)


def proven_record(line: bytes, what: str) -> JsonObject:
    """Return the JSON object of a line that has been found to prove itself, without its ``_crc``."""
    try:
        record = json.loads(line.decode())
        del record["_crc"]
    except MALFORMED as error:
        raise CorruptFileError(f"{what} is no JSON object: {error}") from None
    return cast("JsonObject", record)
