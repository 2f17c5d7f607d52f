"""JSON Lines as they are found on disks: rows, and what is between them.

Torn and merged lines, CRLF, NUL characters, conflict markers: every byte of a file comes out as
part of a whole row or of a piece that is no row. It knows JSON and lines, no format built on them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from traceark.importers.exact import exact_value, value_before
from traceark.models import Json, JsonObject

# The archive keeps 500 levels; a row is kept some levels below the top of its record.
MAX_ROW_DEPTH = 480
_TOO_DEEP = f"nested deeper than {MAX_ROW_DEPTH}"
# Python parses no longer integer (sys.int_info.default_max_str_digits).
_MAX_DIGITS = 4299
_ROW_START = re.compile(r'[{\[]\s*"')
_OBJECT_LINE = re.compile(r"(?<=\n)\{")
_BLANKS = re.compile(r"\s*")
# Each try may scan the rest of the line; a line with more starts than this is not worth it.
_MAX_TRIES = 1000
# A file whose first pieces do not tell its format is in none.
_HEAD_ROWS = 50
_HEAD_BYTES = 64 * 2**20
# A file with more rows that are not written as programs mostly do is written by another one.
_MOST_UNUSUAL = 8


@dataclass(slots=True)
class Row:
    """A row, or a piece of a file that is none.

    Attributes
    ----------
    number, line : int
        Which row or piece of the file, and on which line it is; both count from 1.
    raw : bytes
        As it is in the file.
    value : dict, optional
        The object, None for a piece that is no row.
    values : list, optional
        The list that the piece is; in some formats that is a row.
    exact : bool
        Whether `value` or `values` says all that `text` says. It does not where a number is beyond any float
        or integer (its text stands in its place) or a key comes twice.
    torn : bool
        The unfinished end of a file that is still being written.
    reason : str
        Why a piece is no row.
    """

    number: int
    line: int
    raw: bytes
    value: JsonObject | None = None
    exact: bool = True
    torn: bool = False
    reason: str = ""
    values: list[Json] | None = None

    @property
    def text(self) -> str:
        """The row as text; bytes that are no UTF-8 are kept as lone surrogates."""
        return text_of(self.raw)


class Decoder:
    """Decodes one JSON value, taking what strict JSON refuses and noting that it did."""

    def __init__(self) -> None:
        self.exact = True
        # Numbers of so many digits that the quick one refuses them are rare.
        self._quick, self._careful = (
            json.JSONDecoder(
                strict=False,
                parse_float=self._float,
                parse_int=parse_int,
                parse_constant=self._constant,
                object_pairs_hook=self._object,
            )
            for parse_int in (None, self._int)
        )

    def decode(self, text: str, start: int) -> tuple[object, int]:
        """Return a value and where it ends; ValueError or RecursionError when there is none."""
        self.exact = True
        try:
            value, end = self._quick.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except ValueError:
            value, end = self._careful.raw_decode(text, start)
        if text.count("{", start, end) + text.count("[", start, end) > MAX_ROW_DEPTH and _depth(value) > MAX_ROW_DEPTH:
            raise RecursionError
        return value, end

    def _float(self, text: str) -> float | str:
        value = float(text)
        return value if math.isfinite(value) else self._constant(text)

    def _int(self, text: str) -> int | str:
        return int(text) if len(text) <= _MAX_DIGITS else self._constant(text)

    def _constant(self, text: str) -> str:
        self.exact = False
        return text

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            self.exact = False
        return found


def text_of(raw: bytes) -> str:
    """Return bytes as text; what is no UTF-8 is kept as lone surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def _raw_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _depth(value: object) -> int:
    deepest = 0
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth)
            stack.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def rows_of(data: bytes) -> Iterator[Row]:
    """Yield the rows of a file and the pieces between them, in order; blank lines are none.

    A whole last row needs no newline. What follows the last whole row of an unterminated last line
    is one torn piece: it may become a row when the file grows.

    Examples
    --------
    >>> [(row.line, row.value, row.torn) for row in rows_of(b'{"a":1}{"b":2}\\n{"c"')]
    [(1, {'a': 1}, False), (1, {'b': 2}, False), (2, None, True)]
    """
    decoder = Decoder()
    number = unusual = 0
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for line, raw in enumerate(lines, start=1):
        if unusual <= _MOST_UNUSUAL and raw.startswith(b"{"):
            raw = raw.rstrip(b" \t\r")
            try:
                value = exact_value(raw)
            except ValueError:
                unusual += 1
            else:
                number += 1
                yield Row(number, line, raw, value)
                continue
        for row in _pieces(decoder, text_of(raw), line, terminated=line < len(lines)):
            row.number = number = number + 1
            yield row


@dataclass(frozen=True, slots=True)
class Whole:
    """The one JSON value that a file holds; where it holds none, why, and on which line that shows, 0 for none.

    `exact` is as of `Row`.
    """

    value: Json = None
    exact: bool = True
    reason: str = ""
    line: int = 0


def whole_value(data: bytes) -> Whole:
    """Return the one value that a file holds, whatever lines it has.

    Examples
    --------
    >>> whole_value(b'[{"a": 1}]').value, whole_value(b"{} {}").reason
    ([{'a': 1}], 'more than one JSON value')
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return Whole(exact_value(data.strip()))
    except ValueError:
        return whole_text(text_of(data))


def values_of(data: bytes) -> Iterator[Row]:
    """Yield the objects of a file that has them one after the other, each on as many lines as it likes.

    So programs print them. A piece that is none reaches to the next line that begins with an object.

    Examples
    --------
    >>> [(row.line, row.value) for row in values_of(b'{"a":\\n1}\\n{"b": 2}\\n')]
    [(1, {'a': 1}), (3, {'b': 2})]
    """
    text = text_of(data.removeprefix(b"\xef\xbb\xbf"))
    decoder = Decoder()
    number, line, counted, start = 0, 1, 0, 0
    end = len(text.rstrip())
    while start < end:
        start = cast("re.Match[str]", _BLANKS.match(text, start)).end()
        line, counted = line + text.count("\n", counted, start), start
        number += 1
        try:
            value, stop = decoder.decode(text, start)
        except (ValueError, RecursionError) as error:
            following = _OBJECT_LINE.search(text, start + 1)
            stop = following.start() if following is not None else end
            is_deep = isinstance(error, RecursionError)
            reason = _TOO_DEEP if is_deep else f"not JSON: {error}"
            yield Row(number, line, _raw_of(text[start:stop]), reason=reason, torn=stop == end)
        else:
            row = _row(decoder, text[start:stop], value, line, torn=False)
            yield replace(row, number=number)
        start = stop


def whole_text(text: str) -> Whole:
    """Return the one value that a text holds, such as a text that is a value of JSON itself."""
    text = text.rstrip()
    decoder = Decoder()
    try:
        value, end = decoder.decode(text, len(text) - len(text.lstrip()))
    except RecursionError:
        return Whole(reason=_TOO_DEEP)
    except json.JSONDecodeError as error:
        torn = ", torn at its end" if _breaks_at_end(error, text) else ""
        return Whole(reason=f"not JSON{torn}: {error}", line=error.lineno)
    if end < len(text):
        return Whole(reason="more than one JSON value", line=text.count("\n", 0, end) + 1)
    return Whole(cast("Json", value), decoder.exact)


def _breaks_at_end(error: json.JSONDecodeError, text: str) -> bool:
    return error.pos >= len(text) > 0 or error.msg.startswith("Unterminated string")


def beginning_of(data: bytes) -> Json:
    """Return what a document says up to where it breaks: as much as it is whole there; None where that is nothing.

    Examples
    --------
    >>> beginning_of(b'{"id": "t", "spans": [{"id": 1}, {"id" 2}]}')
    {'id': 't', 'spans': [{'id': 1}, {}]}
    """
    text = text_of(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        return cast("Json", value_before(text[: error.pos]))
    except (ValueError, RecursionError):
        pass
    return None


def head_rows(path: Path) -> Iterator[Row]:
    """Yield the first rows of a file, from which its format can be told."""
    with path.open("rb") as file:
        head = b"".join(_first_lines(file.readline(_HEAD_BYTES) for _ in range(_HEAD_ROWS)))
    yield from rows_of(head)


def _first_lines(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines until one begins as no JSON Lines file does: a binary file is not read further."""
    for number, line in enumerate(lines):
        if not line or (number == 0 and len(line) == _HEAD_BYTES):
            return
        yield line


def _pieces(decoder: Decoder, text: str, line: int, *, terminated: bool) -> Iterator[Row]:
    start, end = 0, len(text.rstrip(" \t\r"))
    while (start := _skip_blank(text, start, end)) < end:
        try:
            value, stop = decoder.decode(text, start)
        except RecursionError:
            # Where such a value ends cannot be told.
            yield Row(0, line, _raw_of(text[start:end]), reason=_TOO_DEEP, torn=not terminated)
            return
        except json.JSONDecodeError as error:
            if not terminated:
                is_cut = _breaks_at_end(error, text[:end])
                reason = "the last row is not whole (yet)" if is_cut else f"the last row is not JSON (yet): {error}"
                yield Row(0, line, _raw_of(text[start:end]), reason=reason, torn=True)
                return
            stop = _next_row(decoder, text, start + 1, end)
            yield Row(0, line, _raw_of(text[start:stop]), reason=f"not JSON: {error}")
        else:
            yield _row(decoder, text[start:stop], value, line, torn=not terminated and stop == end)
        start = stop


def _row(decoder: Decoder, text: str, value: object, line: int, *, torn: bool) -> Row:
    raw = _raw_of(text)
    if isinstance(value, dict):
        return Row(0, line, raw, value=cast("JsonObject", value), exact=decoder.exact)
    reason = f"JSON, but no object: {text[:40]}"
    if isinstance(value, list):
        return Row(0, line, raw, exact=decoder.exact, reason=reason, values=cast("list[Json]", value))
    # A number may still grow; objects and lists tell by themselves that they are whole.
    return Row(0, line, raw, reason=reason, torn=torn)


def _skip_blank(text: str, start: int, end: int) -> int:
    while start < end and text[start] in " \t\r":
        start += 1
    return start


def _next_row(decoder: Decoder, text: str, start: int, end: int) -> int:
    """Return where a whole object begins that reaches to the end of the line, else the end."""
    for tries, match in enumerate(_ROW_START.finditer(text, start, end)):
        if tries == _MAX_TRIES:
            break
        try:
            value, stop = decoder.decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if _skip_blank(text, stop, end) == end and _begins_anew(value):
            return match.start()
    return end


def _begins_anew(value: object) -> bool:
    """Say whether a value is a row rather than a part of one: an object of some type, or a name with objects."""
    if isinstance(value, dict):
        return "type" in value and len(value) > 2
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, dict) for each in value[1:])
