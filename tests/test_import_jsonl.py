"""Lines as they are found on disks: every byte comes out, as a row or as a piece that is none."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from traceark.importers.jsonl import Row, rows_of, values_of

A = b'{"type":"user","uuid":"a","n":1}'
B = b'{"type":"user","uuid":"b","n":2}'


def taken(data: bytes) -> list[object]:
    return [row.value for row in rows_of(data) if row.value is not None]


def pieces(data: bytes) -> list[Row]:
    return [row for row in rows_of(data) if row.value is None]


def test_a_whole_last_row_needs_no_newline() -> None:
    assert taken(A + b"\n" + B) == taken(A + b"\n" + B + b"\n") == [json.loads(A), json.loads(B)]


def test_crlf_blank_lines_and_a_byte_order_mark_are_no_part_of_a_row() -> None:
    rows = list(rows_of(b"\xef\xbb\xbf" + A + b"\r\n\r\n  \n" + B + b"\r\n"))
    assert [(row.line, row.text.encode()) for row in rows] == [(1, A), (4, B)]


def test_two_records_on_one_line_are_two_rows() -> None:
    assert taken(A + B + b"\n") == [json.loads(A), json.loads(B)]


def test_a_torn_record_before_a_whole_one_is_a_piece_of_its_own() -> None:
    torn = b'{"type":"user","message":{"content":[{"type":"text","text":"x'
    [piece] = pieces(torn + B + b"\n")
    assert piece.text.encode() == torn
    assert not piece.torn
    assert taken(torn + B + b"\n") == [json.loads(B)]


def test_the_torn_end_of_a_file_is_marked_so() -> None:
    for size in range(1, len(B)):
        [piece] = pieces(A + b"\n" + B[:size])
        assert (piece.line, piece.text.encode(), piece.torn) == (2, B[:size], True)


def test_the_end_of_a_file_that_is_no_row_says_whether_it_is_cut_or_wrong() -> None:
    assert [each.reason for each in pieces(b'{"a":1}\n{"b": "c')] == ["the last row is not whole (yet)"]
    (wrong,) = pieces(rb'{"b": "\p"}')
    assert wrong.torn and wrong.reason.startswith("the last row is not JSON (yet): Invalid \\escape: line 1")


def test_conflict_markers_nul_runs_and_values_that_are_no_objects_are_pieces() -> None:
    data = b"<<<<<<< HEAD\n" + A + b"\n\0\0\0" + B + b"\n[1]\nnull\n=======\n"
    assert [(piece.line, piece.text) for piece in pieces(data)] == [
        (1, "<<<<<<< HEAD"),
        (3, "\0\0\0"),
        (4, "[1]"),
        (5, "null"),
        (6, "======="),
    ]
    assert taken(data) == [json.loads(A), json.loads(B)]


def test_a_list_is_a_piece_that_says_what_it_is_and_needs_no_newline() -> None:
    [first, last] = rows_of(b'["a",{"b":1}]\n["c"]')
    assert (first.values, first.value, first.torn) == (["a", {"b": 1}], None, False)
    assert (last.values, last.reason, last.torn) == (["c"], 'JSON, but no object: ["c"]', False)


def test_a_torn_list_before_a_whole_one_is_a_piece_of_its_own() -> None:
    [torn, whole] = rows_of(b'["event",{"names":["a","b["event",{"c":["x"]}]\n')
    assert (torn.text, torn.values) == ('["event",{"names":["a","b', None)
    assert whole.values == ["event", {"c": ["x"]}]


def test_raw_control_characters_in_strings_are_kept() -> None:
    assert taken(b'{"type":"x","text":"a\0b\tc\xe2\x80\xa8d"}\n') == [{"type": "x", "text": "a\0b\tc\u2028d"}]


def test_bytes_that_are_no_utf8_can_be_had_back() -> None:
    data = b'{"text":"caf\xe9"}'
    [row] = rows_of(data)
    assert row.text.encode("utf-8", "surrogateescape") == data


def test_numbers_beyond_any_type_stand_as_their_text() -> None:
    digits = "1" * 5000
    data = f'{{"a":NaN,"b":-Infinity,"c":1e999,"d":{digits},"e":{2**70}}}'
    [row] = rows_of(data.encode())
    assert row.value == {"a": "NaN", "b": "-Infinity", "c": "1e999", "d": digits, "e": 2**70}
    assert (row.exact, row.text) == (False, data)


def test_a_repeated_key_is_noticed() -> None:
    [row] = rows_of(b'{"a":1,"a":2}')
    assert not row.exact


def test_nesting_is_taken_as_deep_as_the_archive_can_keep_it() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"

    assert len(taken(nested(400))) == 1
    for depth in (481, 5_000, 200_000):
        [piece] = pieces(nested(depth))
        assert piece.text.encode() == nested(depth).rstrip()
        assert "nested deeper" in piece.reason


@given(st.lists(st.sampled_from([A, B, b'{"torn":', b"\0\0", b"\n", b"\r\n", b"<<<<", b"7", b" ", b"\xff"])))
def test_nothing_but_blank_space_is_lost(parts: list[bytes]) -> None:
    data = b"".join(parts)
    texts = b"".join(row.text.encode("utf-8", "surrogateescape") for row in rows_of(data))
    blank = b" \t\r\n"
    assert texts.translate(None, blank) == data.translate(None, blank)


@given(st.lists(st.sampled_from([A, B, b'{"torn":', b"\n", b"<<<<", b"7"])), st.integers(0, 200))
def test_what_is_taken_of_a_beginning_is_taken_of_the_whole(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    before = [row for row in rows_of(data[:size]) if not row.torn]
    assert list(rows_of(data))[: len(before)] == before


@given(st.lists(st.sampled_from([A, B, b'{"torn":', b"{\n", b"\n", b"\n{", b"}", b"[7]", b"<<<<", b" ", b"\xff"])))
def test_nothing_is_lost_of_objects_that_stand_one_after_the_other(parts: list[bytes]) -> None:
    data = b"".join(parts)
    texts = b"".join(row.text.encode("utf-8", "surrogateescape") for row in values_of(data))
    blank = b" \t\r\n"
    assert texts.translate(None, blank) == data.translate(None, blank)
