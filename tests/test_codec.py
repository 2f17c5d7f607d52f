"""Laws of the codec: JSON comes back exactly, or is refused; lines and parts prove themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import tried
from traceark.codec.checked import check_json_text
from traceark.codec.lines import (
    check_json,
    decode_line,
    dumps,
    encode_line,
    loads,
    record_text,
    time_text,
    to_record,
)
from traceark.codec.messages import message_json
from traceark.codec.parquet import PartInfo, PartRecord, Run, part_info, write_part
from traceark.codec.parts import read_part
from traceark.errors import CorruptFileError, InvalidValueError
from traceark.models import JsonObject, Message, Usage

TEXTS = st.text(st.characters()) | st.sampled_from(
    ["\0", "\u2028", "\x7f", "\ud800", "\ude00\ud83d", "\ud83d\ude00", "é→"]
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | TEXTS | st.just(-0.0)
)
ANYTHING = st.recursive(
    LEAVES,
    lambda child: (
        st.lists(child)
        | st.dictionaries(TEXTS, child)
        | st.dictionaries(st.integers(), child, max_size=2)
        | st.tuples(child)
    ),
    max_leaves=20,
)


def exactly(value: object) -> str:
    """Tell apart what ``==`` does not: 1, 1.0 and True, 0.0 and -0.0."""
    return repr(value)


@settings(max_examples=tried(60, 1500, 4000), deadline=None)
@given(ANYTHING)
def test_json_comes_back_exactly_or_is_refused(value: object) -> None:
    try:
        check_json(value)
        text = dumps(value)
    except InvalidValueError:
        return
    text.encode()
    assert exactly(loads(text)) == exactly(value)


@settings(max_examples=tried(60, 1500, 4000), deadline=None)
@given(
    ANYTHING,
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none()
    | st.datetimes(timezones=st.just(UTC))
    | st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0)),
    st.booleans(),
    st.text(),
)
def test_the_quick_way_to_a_messages_json_says_the_same(
    content: object, cost: float | None, created_at: datetime | None, with_usage: bool, role: str
) -> None:
    usage = Usage(input_tokens=3) if with_usage else None
    message = Message(trace_id="t", role=role, content=content, cost=cost, created_at=created_at, usage=usage)
    try:
        expected = json.loads(record_text(message, to_record(message)))
    except InvalidValueError:
        with pytest.raises(InvalidValueError):
            message_json(message)
        return
    assert exactly(sorted(json.loads(message_json(message)).items())) == exactly(sorted(expected.items()))


@settings(max_examples=tried(25, 1000), deadline=None)
@example(datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC))
@example(datetime(2026, 1, 2, tzinfo=UTC))
@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_written_to_the_microsecond_whatever_its_fraction(moment: datetime) -> None:
    assert time_text(moment) == moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@settings(max_examples=tried(25, 1000), deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.text(), min_size=1, max_size=5
    ),
    st.data(),
)
def test_a_changed_line_does_not_prove_itself(record: JsonObject, data: st.DataObject) -> None:
    line = encode_line(record)
    assert decode_line(line, "line") == record
    at = data.draw(st.integers(0, len(line) - 2))
    changed = bytearray(line)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptFileError):
        decode_line(bytes(changed), "line")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(), child, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(JSON, st.text(), JSON), min_size=1, max_size=8))
def test_a_part_gives_back_its_records(rows: list[tuple[object, str, object]]) -> None:
    records = [
        to_record(
            Message.parse(
                {
                    "message_id": f"m{at}",
                    "trace_id": "t",
                    "role": role,
                    "sequence": at,
                    "content": content,
                    "usage": {"input_tokens": at, "more": other},
                    "created_at": datetime(2026, 1, 1, microsecond=at, tzinfo=UTC),
                    "unknown": other,
                }
            )
        )
        for at, (content, role, other) in enumerate(rows)
    ]
    info = PartInfo("messages", "t", "0" * 8, 1, len(records), False, (Run(1, "1" * 8, len(records)),))
    written = [PartRecord(at, None, record) for at, record in enumerate(records, start=1)]
    sink = io.BytesIO()
    write_part(sink, info, written)
    assert part_info(sink.getvalue(), "part") == info
    back = read_part(sink.getvalue(), "messages", "part")
    assert [(row.offset, row.op, row.digest) for row in back] == [(at, None, None) for at in range(1, len(rows) + 1)]
    assert [exactly(sorted(row.record.items())) for row in back] == [exactly(sorted(row.items())) for row in records]


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


@given(
    JSON_TEXTS,
    st.integers(0),
    st.sampled_from(["", *'{}[]",:\\ 0-+.eEuNI\n\t\0é', "NaN", "Infinity", "\\ud800"]),
    st.booleans(),
)
@example("[" * 300 + "]" * 300, 0, "", False)
@example("[" * 100_000 + "]" * 100_000, 0, "", False)
@example("9" * 4300, 0, "", False)
@example("9" * 4301, 0, "", False)
@example("1e999", 0, "", False)
@settings(max_examples=tried(60, 4_000, 20_000), deadline=None)
def test_a_text_passes_for_json_where_python_reads_it(text: str, at: int, put: str, instead: bool) -> None:
    at %= len(text) + 1
    spoiled = text[:at] + put + text[at + instead :]

    def raised_by(read: Callable[[str], object]) -> type[Exception] | None:
        try:
            read(spoiled)
        except (ValueError, RecursionError) as error:
            return type(error)
        return None

    assert raised_by(check_json_text) == raised_by(json.loads)
