"""The quick look at a sealed trace finds nothing wrong only where the careful one finds nothing either."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import tried
from traceark.codec.counted import counted
from traceark.codec.parquet import METADATA_KEY, PART_SCHEMAS
from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, LogName, PartName, parse_log_name, trace_prefix
from traceark.manifest import encode_manifest, sha256
from traceark.models import Goal, Message, Trace, Usage
from traceark.stats import MessageFold, Sums, facts_of
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore
from traceark.verification import Finding
from traceark.verification.one import check
from traceark.verification.sealed import sound_links
from traceark.verification.trace import TraceCheck

PREFIX = trace_prefix("sealed")
Forge = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "archive"

    async def make() -> None:
        async with ArchiveStore(folder, durability="os") as store:
            await store.create_trace(Trace(trace_id="sealed"))
            await store.add_goal("sealed", Goal(id="1"))
            for at in range(4):
                message = Message(trace_id="sealed", role="user", content={"at": at}, goal_id="1", cost=0.1)
                message.tool_name = "read" if at % 2 else None
                message.usage = Usage.parse({"input_tokens": at, "of_images": 1}) if at else None
                await store.add_message(Message.parse({**message.fields(), "of_mine": at}) if at == 2 else message)
                await store.append_event("sealed", "step", at)
            await store.update_message("sealed-0001", content="changed")
            await store.seal("sealed")

    asyncio.run(make())
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "archive")
    return tmp_path / "archive"


def looked_at(archive: Path) -> tuple[bool, list[Finding], list[Finding]]:
    """Return what the quick look says, what the careful one finds, and what verify does."""

    async def look() -> tuple[bool, list[Finding], list[Finding]]:
        storage = LocalStorage(archive)
        entries = await storage.list(PREFIX)
        careful = await TraceCheck(storage, "sealed", entries, deep=True).run()
        sound = await sound_links(storage, PREFIX, "sealed", entries) is not None
        return sound, careful, (await check(storage, "sealed", entries, deep=True)).findings

    return asyncio.run(look())


def sealed_again(trace: Path) -> None:
    """Write the manifest of the files as they are."""
    files = {path.relative_to(trace).as_posix(): path for path in trace.rglob("*") if path.is_file()}
    kept = {name: sha256(path.read_bytes()) for name, path in files.items() if name not in (MANIFEST, LOCK)}
    (trace / MANIFEST).write_bytes(encode_manifest(kept))


def replaced(trace: Path, log: LogName, data: bytes) -> None:
    """Put other bytes in the place of a log's part, and make name, header and manifest agree with them."""
    (path,) = (trace / log).glob("*.parquet")
    path.unlink()
    name = parse_log_name(path.name)
    assert isinstance(name, PartName)
    named = str(PartName(name.first, name.last, name.incarnation, f"{zlib.crc32(data):08x}"))
    path.with_name(named).write_bytes(data)
    header = Header.decode((trace / HEADER).read_bytes(), HEADER)
    header.checkpoint.files[log] = (named, len(data))
    (trace / HEADER).write_bytes(header.encode())
    sealed_again(trace)


def part(trace: Path, log: LogName) -> bytes:
    (path,) = (trace / log).glob("*.parquet")
    return path.read_bytes()


def forged(log: LogName, change: Callable[[pa.Table], pa.Table], /, **info: Any) -> Forge:
    """Return what changes a part's rows, or what it says of itself, with no trace of it left elsewhere."""

    def forge(trace: Path) -> None:
        file = pq.ParquetFile(BytesIO(part(trace, log)))
        told = {**json.loads(file.metadata.metadata[METADATA_KEY]), **info}
        table = change(file.read())
        sink = BytesIO()
        with pq.ParquetWriter(sink, table.schema, write_page_checksum=True, store_schema=False) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({METADATA_KEY: json.dumps(told).encode()})
        replaced(trace, log, sink.getvalue())

    return forge


def same(table: pa.Table) -> pa.Table:
    return table


def cell(name: str, value: Any, row: int = 1) -> Callable[[pa.Table], pa.Table]:
    """Return what sets one cell of a table."""

    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        # There are times that Python has not.
        stored = pa.int64() if pa.types.is_timestamp(field.type) else field.type
        cells = table[name].cast(stored).to_pylist()
        cells[row] = value
        return table.set_column(table.schema.get_field_index(name), field, pa.array(cells, stored).cast(field.type))

    return change


def no_utf8(name: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        bad = pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).view(pa.string())
        return table.set_column(table.schema.get_field_index(name), field, bad)

    return change


def other_type(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("tokens")
    return table.set_column(at, pa.field("tokens", pa.float64()), table["tokens"].cast(pa.float64()))


def fewer_rows(table: pa.Table) -> pa.Table:
    return table.slice(0, 3)


def backwards(table: pa.Table) -> pa.Table:
    return table.take([3, 2, 1, 0])


def changed_page(trace: Path) -> None:
    data = bytearray(part(trace, "messages"))
    data[data.index(b"sealed-0001")] ^= 1
    replaced(trace, "messages", bytes(data))


def no_magic(trace: Path) -> None:
    replaced(trace, "messages", b"ABCD" + part(trace, "messages")[4:])


def wrong_total(trace: Path) -> None:
    header = Header.decode((trace / HEADER).read_bytes(), HEADER)
    header.trace.total_messages += 1
    (trace / HEADER).write_bytes(header.encode())
    sealed_again(trace)


def wrong_end(trace: Path) -> None:
    header = Header.decode((trace / HEADER).read_bytes(), HEADER)
    header.checkpoint.ends["events"] = header.trace.last_event_id = 3
    (trace / HEADER).write_bytes(header.encode())
    sealed_again(trace)


def other_id(trace: Path) -> None:
    header = Header.decode((trace / HEADER).read_bytes(), HEADER)
    header.trace = Trace.parse({**header.trace.fields(), "trace_id": "other"})
    (trace / HEADER).write_bytes(header.encode())
    sealed_again(trace)


def tree_with(change: Callable[[TreeFile], None]) -> Forge:
    def forge(trace: Path) -> None:
        tree = TreeFile.decode((trace / GOAL_TREE).read_bytes(), GOAL_TREE)
        change(tree)
        (trace / GOAL_TREE).write_bytes(tree.encode())
        sealed_again(trace)

    return forge


def own_parent(tree: TreeFile) -> None:
    tree.tree.goals[0].parent_id = "1"


def wrong_stats(tree: TreeFile) -> None:
    tree.tree.goals[0].self_stats.total_tokens += 1


def wrong_preview(tree: TreeFile) -> None:
    tree.tree.goals[0].self_stats.preview = "write"


def other_incarnation(tree: TreeFile) -> None:
    tree.incarnation = "00000000"


def earlier(tree: TreeFile) -> None:
    tree.messages -= 1


def later(tree: TreeFile) -> None:
    tree.messages += 1


def listed_stranger(trace: Path) -> None:
    (trace / "notes.txt").write_text("mine")
    sealed_again(trace)


def no_events(trace: Path) -> None:
    shutil.rmtree(trace / "events")
    sealed_again(trace)


DAY_AFTER_TIME = 2**62
JSON_TEXTS = (
    *("{", "", " ", "1,2", "1],[2", "[1,]", "NaN", "-Infinity", "nan", "1e999", " 1 ", '"\\ud800"', '"\x00"', "\x00"),
    *("01", "[" * 300 + "]" * 300, "[" * 100_000 + "]" * 100_000, "1" * 4300, "1" * 4301, '{"a":1,"a":2}', "\ufeff1"),
)
MESSAGES: Mapping[str, Any] = {
    "message_id": None,
    "trace_id": "other",
    "role": None,
    "sequence": None,
    "goal_id": "2",
    "tool_name": "write",
    "content": "{",
    "tokens": 1000,
    "usage": {"input_tokens": 99},
    "cost": float("inf"),
    "duration_ms": 5,
    "extra": "[]",
    "_offset": 1000,
    "_op": "update",
}
EVENTS: Mapping[str, Any] = {
    "event_id": 1000,
    "event_type": None,
    "payload": "{",
    "created_at": None,
    "extra": "[]",
    "_offset": 0,
    "_op": "update",
}
EXTRAS = ('{"role":5}', '{"usage":{"input_tokens":"1"}}', '{"usage":[]}', '{"usage":5}', "null", "5", '{"a":1', '"x"')
TEXTS = [(log, field.name) for log in LOGS for field in PART_SCHEMAS[log] if pa.types.is_string(field.type)]
FORGED: dict[str, Forge] = {
    **{f"message-{name}": forged("messages", cell(name, value)) for name, value in MESSAGES.items()},
    **{f"event-{name}": forged("events", cell(name, value)) for name, value in EVENTS.items()},
    **{f"message-extra-{text}": forged("messages", cell("extra", text)) for text in EXTRAS},
    **{f"first-message-extra-{text}": forged("messages", cell("extra", text, 0)) for text in EXTRAS},
    **{f"event-extra-{text}": forged("events", cell("extra", text)) for text in ('{"event_id":7}', "null", "{")},
    **{f"no-utf8-{log}-{name}": forged(log, no_utf8(name)) for log, name in TEXTS},
    **{f"time-{log}": forged(log, cell("created_at", DAY_AFTER_TIME)) for log in LOGS},
    "null-trace": forged("messages", cell("trace_id", None)),
    **{f"no-offset-{log}": forged(log, cell("_offset", None)) for log in LOGS},
    "zero-offset": forged("messages", cell("_offset", 0, 0)),
    "same-message": forged("messages", cell("message_id", "sealed-0001")),
    "no-number": forged("messages", cell("cost", float("nan"))),
    "high-sequence": forged("messages", cell("sequence", 70)),
    "other-type": forged("messages", other_type),
    "fewer-messages": forged("messages", fewer_rows),
    "fewer-events": forged("events", fewer_rows),
    "backwards": forged("messages", backwards),
    "other-log": forged("messages", same, log="events"),
    "other-trace": forged("messages", same, trace_id="other"),
    "not-folded": forged("messages", same, folded=False),
    "later-first": forged("messages", same, first=2),
    "later-last": forged("messages", same, last=70),
    "later-format": forged("messages", same, format=2),
    "part-of-another-incarnation": forged("messages", same, incarnation="00000000"),
    **{
        each.__name__: each
        for each in (changed_page, no_magic, wrong_total, wrong_end, other_id, listed_stranger, no_events)
    },
    **{
        each.__name__: tree_with(each)
        for each in (own_parent, wrong_stats, wrong_preview, other_incarnation, earlier, later)
    },
}


def test_the_quick_look_settles_a_sound_sealed_trace(archive: Path) -> None:
    assert looked_at(archive) == (True, [], [])


def test_rows_written_by_another_writer_of_parquet_are_as_sound(archive: Path) -> None:
    """So what is found below comes of what was changed, and not of how."""
    forged("messages", same)(archive / PREFIX)
    forged("events", same)(archive / PREFIX)
    assert looked_at(archive) == (True, [], [])


@pytest.mark.parametrize("name", FORGED)
def test_both_looks_find_the_same_where_all_else_agrees_with_the_damage(archive: Path, name: str) -> None:
    FORGED[name](archive / PREFIX)
    sound, careful, found = looked_at(archive)
    assert found == careful
    assert not sound or careful == []


# What may stand in a cell, sound or not. What one says another may contradict: a total, an id, an order.
CELLS: dict[tuple[LogName, str], tuple[Any, ...]] = {
    ("messages", "message_id"): (None, "", "sealed-0001", "other"),
    ("messages", "trace_id"): (None, "other", "sealed"),
    ("messages", "sequence"): (None, -1, 0, 1, 4, 70),
    ("messages", "goal_id"): (None, "", "1", "2"),
    ("messages", "tool_name"): (None, "", "read", "write"),
    ("messages", "content"): (*JSON_TEXTS, None),
    ("messages", "tokens"): (None, 0, 1, -1, 2**63 - 1, -(2**63)),
    ("messages", "usage"): (None, {}, {"input_tokens": 1}, {"output_tokens": 2**63 - 1, "input_tokens": 1}),
    ("messages", "cost"): (None, 0.1, -0.0, 0.30000000000000004, 1e-300, 1e300, float("nan"), float("inf")),
    ("messages", "duration_ms"): (None, 0, 5, 2**63 - 1),
    ("messages", "created_at"): (None, 0, -1, DAY_AFTER_TIME, -DAY_AFTER_TIME),
    ("messages", "extra"): (None, "{}", '{"of_mine":2}', *EXTRAS),
    ("messages", "_offset"): (None, -1, 0, 1, 2, 3, 4, 5, 1000),
    ("messages", "_op"): (None, "update"),
    ("events", "event_id"): (None, 0, 1, 2, 4, 5),
    ("events", "payload"): (*JSON_TEXTS, None),
    ("events", "created_at"): (None, 0, DAY_AFTER_TIME),
    ("events", "extra"): (None, "{}", '{"event_id":7}', "null", "{"),
    ("events", "_offset"): (None, 0, 1, 2, 4, 5),
}
CHANGES = st.sampled_from(
    [(log, name, value, row) for (log, name), values in CELLS.items() for value in values for row in range(4)]
)


@pytest.mark.parametrize("long_from", [1, 1000])
def test_the_quick_look_finds_nothing_wrong_only_where_the_careful_one_does(made: Path, long_from: int) -> None:
    looks: Counter[bool] = Counter()

    @settings(max_examples=tried(40, 400, 1500))
    @given(st.lists(CHANGES, min_size=1, max_size=3))
    def look(changes: list[tuple[LogName, str, Any, int]]) -> None:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr("traceark.codec.columns.LONG_FROM", long_from)
            archive = Path(shutil.copytree(made, Path(folder, "archive")))
            for log, name, value, row in changes:
                forged(log, cell(name, value, row))(archive / PREFIX)
            sound, careful, found = looked_at(archive)
            assert found == careful
            assert not sound or careful == []
            looks[sound] += 1

    look()
    assert looks[True] and looks[False]


COSTS = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**15), 10**15).map(lambda number: number / 10**9),
    st.integers(0, 10**7).map(lambda number: number / 10**6),
    st.sampled_from([0.1, 0.2, 0.30000000000000004, -0.0, 5e-324, 1e22, 123456789.123456789]),
)
NUMBERS = st.none() | st.integers(0, 1000) | st.sampled_from([2**63 - 1, 2**62, -(2**63), -1])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "goal_id": st.sampled_from([None, "1"]),
            "tool_name": st.sampled_from([None, "", "read", "write", "edit"]),
            "tokens": NUMBERS,
            "usage": st.none() | st.fixed_dictionaries({"input_tokens": NUMBERS, "output_tokens": NUMBERS}),
            "cost": COSTS,
            "duration_ms": NUMBERS,
            "sequence": st.integers(-1, 9),
        }
    ),
    max_size=25,
)


ROW = dict.fromkeys(("goal_id", "tokens", "usage", "cost", "duration_ms"))


@settings(max_examples=tried(40, 800, 3000))
@example([{**ROW, "tool_name": f"tool {at}", "sequence": at} for at in range(9)])
@given(ROWS)
def test_columns_add_up_to_what_their_rows_do(rows: list[dict[str, Any]]) -> None:
    fold = MessageFold()
    for at, row in enumerate(rows, 1):
        fold.add(str(at), facts_of(row, at))
    table = pa.Table.from_pylist(
        [{**row, "_offset": at} for at, row in enumerate(rows, 1)], schema=PART_SCHEMAS["messages"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("traceark.codec.columns.LONG_FROM", 0)
        try:
            found = counted(table)
        except pa.ArrowInvalid:
            assert any(abs(facts.usage_tokens) >= 2**63 - 1 for facts in fold.facts.values())
            return
    assert found is not None
    assert (found.total, found.last_sequence) == (without_tools(fold.total), fold.last_sequence)
    assert found.by_goal.keys() == fold.by_goal.keys()
    for goal_id, sums in fold.by_goal.items():
        of_goal = found.by_goal[goal_id]
        assert without_tools(of_goal) == without_tools(sums)
        assert of_goal.last_tools() == sums.last_tools()


def without_tools(sums: Sums) -> Sums:
    return replace(sums, tools=[])
