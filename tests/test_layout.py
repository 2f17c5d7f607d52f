"""Laws of the names on disk: reversible, safe everywhere, apart even where case is folded."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traceark.errors import InvalidIdError
from traceark.layout import (
    MAX_KEY_BYTES,
    PartName,
    SegmentName,
    parse_log_name,
    trace_id_of,
    trace_key,
    trace_prefix,
)
from traceark.testing.values import HOSTILE_IDS, REFUSED_IDS

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
# Letters, dots and escapes are where keys could meet.
near_misses = st.text("aAbB.~%1fF/ :ıİK", min_size=1, max_size=8)
ids = texts | near_misses | st.sampled_from(HOSTILE_IDS)
hexes = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
offsets = st.integers(1, 10**14)

DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


@given(ids)
def test_a_key_gives_back_its_id(trace_id: str) -> None:
    assert trace_id_of(trace_key(trace_id)) == trace_id


@given(ids)
def test_a_key_is_one_safe_path_component(trace_id: str) -> None:
    key = trace_key(trace_id)
    assert re.fullmatch(r"[a-z0-9._@+%A-F~-]+", key)
    assert not set(key) & set('/\\:*?"<>|=\0 ')
    assert not key.startswith((".", "~"))
    assert not key.endswith((".", " "))
    assert not DEVICES.match(key)
    assert len(key.encode()) <= MAX_KEY_BYTES


@given(ids, ids)
def test_different_ids_have_keys_that_no_file_system_takes_for_one(first: str, second: str) -> None:
    assume(first != second)
    assert trace_key(first).casefold() != trace_key(second).casefold()


@given(st.text("aB", min_size=1, max_size=6), st.data())
def test_ids_that_differ_in_case_never_meet(trace_id: str, data: st.DataObject) -> None:
    swapped = "".join(letter.swapcase() if data.draw(st.booleans()) else letter for letter in trace_id)
    assume(swapped != trace_id)
    assert trace_key(trace_id).lower() != trace_key(swapped).lower()


@given(ids | st.from_regex(r"[a-z0-9._%A-F~-]{1,12}", fullmatch=True))
def test_a_name_is_a_key_only_if_an_id_makes_it(name: str) -> None:
    trace_id = trace_id_of(name)
    assert trace_id is None or trace_key(trace_id) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "Run", "a~0", "a~", "a~01", "%61", "%6", "a%2f", "con", "a=b", "a b", ".x"]
)
def test_a_name_that_no_id_makes_is_no_key(name: str) -> None:
    assert trace_id_of(name) is None


@pytest.mark.parametrize("trace_id", REFUSED_IDS.values(), ids=REFUSED_IDS.keys())
def test_what_cannot_name_a_directory_is_refused(trace_id: str) -> None:
    with pytest.raises(InvalidIdError) as caught:
        trace_key(trace_id)
    assert caught.value.path == "trace_id"
    assert len(str(caught.value)) < 400


@given(ids | st.from_regex(r"[a-z0-9._@+-]{1,12}|(con|com1|nul)(\.[a-z.]*)?", fullmatch=True))
def test_an_id_that_is_its_own_key_is_so_by_the_rule(trace_id: str) -> None:
    key, back = trace_key(trace_id), trace_id_of(trace_id)
    with patch("traceark.layout._PLAIN", re.compile("(?!)")):
        assert (key, back) == (trace_key(trace_id), trace_id_of(trace_id))


@given(st.text(min_size=1, max_size=300))
def test_any_text_has_a_key_or_is_refused(trace_id: str) -> None:
    try:
        key = trace_key(trace_id)
    except InvalidIdError:
        return
    assert trace_prefix(trace_id) == f"traces/{key}"
    assert trace_id_of(key) == trace_id


@given(offsets, hexes, st.just("") | hexes)
def test_a_segment_name_reads_back(first: int, incarnation: str, writer: str) -> None:
    name = SegmentName(first, incarnation, writer)
    assert parse_log_name(str(name)) == name


@given(offsets, offsets, hexes, hexes)
def test_a_part_name_reads_back(first: int, count: int, incarnation: str, writer: str) -> None:
    name = PartName(first, first + count, incarnation, writer)
    assert parse_log_name(str(name)) == name


@given(st.lists(offsets, min_size=2, unique=True))
def test_segments_sort_as_text_by_their_offsets(firsts: list[int]) -> None:
    assume(all(first < 10**12 for first in firsts))
    names = [str(SegmentName(first, "0" * 8)) for first in firsts]
    assert sorted(names) == [str(SegmentName(first, "0" * 8)) for first in sorted(firsts)]


@pytest.mark.parametrize(
    "name",
    [
        "", "x.jsonl", "1-00000000.jsonl", "000000000000-00000000.jsonl", "0000000000001-00000000.jsonl",
        "000000000001-0000000G.jsonl", "000000000001-00000000.jsonl.tmp", "000000000001-00000000.parquet",
        "000000000002-000000000001-00000000-00000000.parquet", "000000000001-00000000-00000000-00000000.jsonl",
        "٠٠٠٠٠٠٠٠٠٠٠١-00000000.jsonl", "000000000001-00000000.jsonl\n",
    ],
)  # fmt: skip
def test_a_strangers_name_is_no_log_file(name: str) -> None:
    assert parse_log_name(name) is None
