"""Reading parts: messages straight from the columns are the very ones that validation would give."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import tried
from traceark.codec.lines import to_record
from traceark.codec.parquet import PART_SCHEMAS, PartInfo, PartRecord, Run, write_part
from traceark.codec.parts import read_message, read_messages, read_part
from traceark.models import JsonObject, Message, Trace, Usage
from traceark.store import ArchiveStore

TEXT = st.text()
JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda child: st.lists(st.none() | child, max_size=3) | st.dictionaries(TEXT, st.none() | child, max_size=3),
    max_leaves=5,
)
TOKENS = st.none() | st.integers(0, 2**63 - 1)
COSTS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.none() | st.datetimes(timezones=st.just(UTC))
UNKNOWN = st.dictionaries(st.sampled_from(["more", "ünbekannt", "fields", "parse", "a b"]), JSON, max_size=2)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    names = draw(st.sets(st.sampled_from(sorted(Usage.model_fields))))
    return Usage.parse({**{name: draw(TOKENS) for name in names}, **draw(UNKNOWN)})


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a message, all but those that identify it."""
    return {
        "role": draw(TEXT),
        "content": draw(st.none() | JSON),
        "goal_id": draw(st.none() | TEXT),
        "tool_name": draw(st.none() | TEXT),
        "tokens": draw(TOKENS),
        "usage": draw(st.none() | usages()),
        "cost": draw(COSTS),
        "status": draw(st.none() | TEXT),
        "created_at": draw(TIMES),
        **draw(UNKNOWN),
    }


def part_of(records: list[JsonObject]) -> bytes:
    info = PartInfo("messages", "t", "0" * 8, 1, len(records), True, (Run(1, "1" * 8, len(records)),))
    sink = io.BytesIO()
    write_part(sink, info, [PartRecord(at, None, record) for at, record in enumerate(records, start=1)])
    return sink.getvalue()


def inside(message: Message) -> list[object]:
    """Return all that two equal messages may still differ in."""
    usage = message.usage
    return [
        repr(message),
        list(message.__dict__),
        message.model_fields_set,
        message.__pydantic_extra__,
        message.__pydantic_private__,
        *([] if usage is None else [repr(usage), usage.model_fields_set, usage.__pydantic_extra__]),
    ]


@settings(max_examples=tried(10, 400, 1000), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), fields()), min_size=1, max_size=6))
def test_the_quick_way_to_messages_gives_what_validation_gives(rows: list[tuple[int, dict[str, Any]]]) -> None:
    records = [
        to_record(Message.parse({"message_id": f"m{at}", "trace_id": "t", "sequence": sequence, **given}))
        for at, (sequence, given) in enumerate(rows)
    ]
    data = part_of(records)
    expected = [Message.parse(row.record) for row in read_part(data, "messages", "part")]
    expected.sort(key=lambda message: message.sequence or 0)
    found = read_messages(data, "part", len(rows))
    assert found is not None
    assert [inside(each) for each in found] == [inside(each) for each in expected]
    for message in expected:
        alone = read_message(data, "part", len(rows), str(message.message_id))
        assert alone is not None
        assert [inside(each) for each in alone] == [inside(message)]
    assert read_message(data, "part", len(rows), "absent") == []


def test_a_message_from_a_part_is_as_good_as_any() -> None:
    data = part_of([{"message_id": "m", "trace_id": "t", "role": "user", "sequence": 1, "usage": {"input_tokens": 3}}])
    [message] = read_messages(data, "part", 1) or []
    with pytest.raises(ValueError):
        message.role = 3  # type: ignore[assignment]
    message.role = "tool"
    message.tool_name = "Bash"
    assert message.model_fields_set >= {"role", "tool_name"}
    assert Message.model_validate_json(message.model_dump_json()) == message == message.model_copy(deep=True)


def _set(column: str, *values: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))

    return change


def _narrow(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("tokens"), "tokens", pa.array([1, 2], pa.int32()))


STRANGE: dict[str, Callable[[pa.Table], pa.Table]] = {
    "a column of another type": _narrow,
    "a column more": lambda table: table.append_column("more", pa.array([1, 2])),
    "a column less": lambda table: table.drop_columns(["description"]),
    "no role": _set("role", "user", None),
    "no trace": _set("trace_id", None, "t"),
    "no id": _set("message_id", None, "m2"),
    "one id twice": _set("message_id", "m1", "m1"),
    "no sequence": _set("sequence", None, 2),
    "a cost that is no number": _set("cost", float("nan"), 0.1),
    "an infinite cost": _set("cost", 0.1, float("inf")),
    "an update": _set("_op", None, "update"),
    "offsets in disorder": _set("_offset", 2, 1),
    "an offset past the end": _set("_offset", 1, 3),
    "a known field among the unknown": _set("extra", None, '{"role": 3}'),
    "usage among the unknown": _set("extra", None, '{"usage": 3}'),
    "a known field of usage among the unknown": _set("extra", '{"usage": {"input_tokens": "3"}}', None),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE.keys())
def test_what_another_writer_could_have_put_into_a_part_is_left_to_validation(
    change: Callable[[pa.Table], pa.Table],
) -> None:
    rows = [
        {
            "message_id": f"m{at}",
            "trace_id": "t",
            "role": "user",
            "sequence": at,
            "usage": {"input_tokens": 1} if at == 1 else None,
            "created_at": datetime(2026, 1, at, tzinfo=UTC),
            "_offset": at,
        }
        for at in (1, 2)
    ]
    table = pa.Table.from_pylist(rows, schema=PART_SCHEMAS["messages"])
    assert read_messages(written(table), "part", 2) is not None
    assert read_messages(written(change(table)), "part", 2) is None


def written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, store_schema=False)
    return sink.getvalue()


def test_a_message_is_found_in_any_row_group() -> None:
    rows = [
        {"message_id": f"m{at}", "trace_id": "t", "role": "user", "sequence": at, "_offset": at} for at in range(1, 8)
    ]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=PART_SCHEMAS["messages"]), sink, store_schema=False, row_group_size=3
    )
    for at in range(1, 8):
        [message] = read_message(sink.getvalue(), "part", 7, f"m{at}") or []
        assert message.sequence == at


def test_one_message_is_the_same_as_among_all_sealed_compacted_live_and_reopened(tmp_path: Path) -> None:
    async def run() -> None:
        for state in ("live", "compacted", "sealed", "reopened"):
            async with ArchiveStore(tmp_path / state, durability="os") as store:
                await store.create_trace(Trace(trace_id="t"))
                for at in range(4):
                    await store.add_message(Message(trace_id="t", role="user", content=[at], sequence=9 - at))
                await store.update_message("t-0008", content="changed", trace_id="t")
                if state in ("sealed", "reopened"):
                    await store.seal("t")
                if state == "compacted":
                    await store.compact("t")
                if state in ("compacted", "reopened"):
                    await store.update_message("t-0007", content="changed too", trace_id="t")
                for reader in (store, ArchiveStore(tmp_path / state)):
                    messages = await reader.get_trace_messages("t")
                    assert [message.sequence for message in messages] == [6, 7, 8, 9]
                    for message in messages:
                        found = await reader.get_message(str(message.message_id), trace_id="t")
                        assert found is not None
                        assert inside(found) == inside(message)
                    assert await reader.get_message("t-0001", trace_id="t") is None
                    assert await reader.get_message("\ud800", trace_id="t") is None

    asyncio.run(run())
