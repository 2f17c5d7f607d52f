"""JSON that is read the quick way is read as the longer way reads it, or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from profiles import tried
from traceark.importers.exact import exact_value
from traceark.importers.jsonl import MAX_ROW_DEPTH, rows_of, whole_text

TEXTS = st.text(st.characters()) | st.sampled_from(["\0", "\u2028", "\x7f", "\ud800", "\ud83d\ude00", "é→", '\\":'])
NUMBERS = st.integers() | st.integers(-(10**40), 10**40) | st.floats() | st.just(-0.0)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda child: st.lists(child) | st.dictionaries(TEXTS, child),
    max_leaves=15,
)


def javascript(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


WRITERS = [javascript, json.dumps, lambda value: json.dumps(value, indent=2, ensure_ascii=False)]


def check(data: bytes) -> None:
    """The quick way refuses a text, or returns exactly what the longer way does, and that says all of the text."""
    try:
        value = exact_value(data)
    except ValueError:
        return
    longer = whole_text(data.decode())
    assert (repr(value), longer.exact, longer.reason) == (repr(longer.value), True, "")


@settings(max_examples=tried(200, 1500, 5000), deadline=None)
@given(VALUES, st.sampled_from(WRITERS))
def test_a_value_that_a_program_wrote_is_read_exactly_or_refused(value: object, write: object) -> None:
    assert callable(write)
    check(write(value).encode("utf-8", "surrogatepass"))


PIECES = ["{", "}", "[", "]", ",", ":", '"a"', '"b"', "1", "-0", "1.0", "1e5", "1e999", "NaN", "null", '"\\ud800"', " "]


@settings(max_examples=tried(200, 1500, 5000), deadline=None)
@given(st.lists(st.sampled_from([*PIECES, '{"a":1', '"a":2}', '{"a":1,"a":1}', "0.1000", '"\\u0041"'])))
@example(['{"a":1', ",", '"a":2}'])
@example(["[", "-0", "]"])
@example(["1e999"])
def test_a_text_of_any_pieces_is_read_exactly_or_refused(pieces: list[str]) -> None:
    check("".join(pieces).encode())


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("before", [0, 1, 213, 428])
@pytest.mark.parametrize("digits", [4298, 4300, 4301, 6000])
def test_an_integer_beyond_what_the_archive_keeps_is_refused(sign: str, before: int, digits: int) -> None:
    data = b'{"a":"%s","b":%s%s}' % (b"x" * before, sign.encode(), b"7" * digits)
    # A little before already, for the longer way to tell.
    with pytest.raises(ValueError):
        exact_value(data)
    assert whole_text(data.decode()).exact == (digits <= 4300)


def test_what_programs_write_is_read_the_quick_way() -> None:
    value = {"type": "user", "n": [2**70, 1.5, -0.25, None], "text": 'é\u2028\x7f\0 \\ "', "more": {"a": {}, "b": []}}
    assert exact_value(javascript(value).encode()) == value
    assert exact_value(to_json(value, indent=2)) == value


@pytest.mark.parametrize("depth", [300, MAX_ROW_DEPTH, MAX_ROW_DEPTH + 1, 100_000])
def test_nesting_is_refused_before_it_is_deeper_than_a_row_may_be(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    try:
        exact_value(data)
    except ValueError:
        return
    assert depth <= MAX_ROW_DEPTH


@pytest.mark.parametrize("depth", [1, 200])
def test_what_is_nested_as_values_may_be_is_not_refused(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    assert exact_value(data) == json.loads(data)


def test_rows_are_the_same_however_many_others_are_written_otherwise() -> None:
    usual, unusual = b'{"type":"x","n":1}', b'{"type": "x", "n": 1}'
    rows = list(rows_of(b"\n".join([unusual] * 20 + [usual] * 2 + [unusual + b"\r"] + [usual])))
    assert [row.value for row in rows] == [{"type": "x", "n": 1}] * 24
    assert [row.raw for row in rows] == [unusual] * 20 + [usual] * 2 + [unusual] + [usual]
