"""Records to Parquet parts, and to Arrow for the views; `codec.parts` reads parts.

Knows the field table and pyarrow, no storage. A part is zstd, with page checksums, statistics and
field ids; what it covers stands in its key-value metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import IO, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.codec.fields import EVENTS, GOALS, INTERNAL, MESSAGES, TRACES, USAGE, Column
from traceark.codec.lines import json_text
from traceark.codec.malformed import MALFORMED, stated
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import FORMAT_VERSION, LogName
from traceark.models import JsonObject

METADATA_KEY = b"traceark"
# Large row groups compress and scan well; this bounds the memory of writer and reader.
ROW_GROUP_BYTES = 32 * 1024 * 1024
ROW_GROUP_ROWS = 65_536
# To start Arrow's threads for less takes longer than the work. And they let go of what they read a moment after all is
# read: where that is Python's and the interpreter ends just then, the process is aborted.
THREADS_FROM = 4 * 2**20
# On real sessions level 11 takes twice as long and saves half a percent, level 19 twenty times as long and 3 %; level 9
# takes twice as long where a column has less than 16 KB, and saves a tenth of a percent.
ZSTD_LEVEL = 8
_PAGE_BYTES = 8 * 1024 * 1024

_STATS = {
    "message_count": pa.int64(),
    "total_tokens": pa.int64(),
    "total_cost": pa.float64(),
    "total_duration_ms": pa.int64(),
    "preview": pa.string(),
}
_NESTED: dict[str, frozenset[str]] = {"usage": frozenset(name for _, name in USAGE), "stats": frozenset(_STATS)}

_TEXTS = frozenset({"content", "payload", "extra", "message_id", "tool_call_id", "description", "error"})
_DICTIONARIES = frozenset({"trace_id", "role", "goal_id", "tool_name", "status", "event_type", "_op"})
_INTEGERS = ("_offset", "sequence", "event_id", "created_at", "tokens", "duration_ms")
_ENCODINGS = {
    **dict.fromkeys((*_INTEGERS, *(f"usage.{name}" for _, name in USAGE)), "DELTA_BINARY_PACKED"),
    **dict.fromkeys(("content", "payload", "extra"), "DELTA_LENGTH_BYTE_ARRAY"),
    "message_id": "DELTA_BYTE_ARRAY",
}

# A record as `part_row` makes it: values by the names of columns, what is null left out.
PartRow: TypeAlias = "dict[str, Any]"
Sink: TypeAlias = "IO[bytes] | pa.NativeFile"

LOG_COLUMNS: dict[LogName, tuple[Column, ...]] = {"messages": MESSAGES, "events": EVENTS}


def _field(column_id: int, name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, metadata={b"PARQUET:field_id": str(column_id).encode()})


@cache
def _arrow_type(column: Column) -> pa.DataType:
    if column.kind == "usage":
        return pa.struct([_field(field_id, name, pa.int64()) for field_id, name in USAGE])
    if column.kind == "stats":
        return pa.struct(
            [_field(field_id, name, kind) for field_id, (name, kind) in enumerate(_STATS.items(), column.id + 1)]
        )
    return {
        "text": pa.string(),
        "json": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "texts": pa.list_(pa.string()),
    }[column.kind]


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the Arrow schema of some columns, with field ids."""
    return pa.schema([_field(column.id, column.name, _arrow_type(column)) for column in columns])


MESSAGE_SCHEMA = arrow_schema(MESSAGES)
EVENT_SCHEMA = arrow_schema(EVENTS)
GOAL_SCHEMA = arrow_schema(GOALS)
TRACE_SCHEMA = arrow_schema(TRACES)
PART_SCHEMAS: dict[LogName, pa.Schema] = {log: arrow_schema(columns + INTERNAL) for log, columns in LOG_COLUMNS.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """Offsets in a row from one writer's segments: first offset, writer, how many."""

    first: int
    writer: str
    count: int

    @property
    def last(self) -> int:
        """The last offset of the run."""
        return self.first + self.count - 1


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part says of itself in its key-value metadata.

    `folded` is true when updates are folded in (a sealed trace: one row per message). `after` is
    the ``_crc`` of the record before the first, `last_crc` that of the last: a file that follows
    must have been written after that very record.
    """

    log: LogName
    trace_id: str
    incarnation: str
    first: int
    last: int
    folded: bool
    covers: tuple[Run, ...]
    after: str | None = None
    last_crc: str | None = None

    def to_json(self) -> str:
        """Return the text of the metadata entry."""
        return json.dumps(
            {
                "format": FORMAT_VERSION,
                "log": self.log,
                "trace_id": self.trace_id,
                "incarnation": self.incarnation,
                "first": self.first,
                "last": self.last,
                "folded": self.folded,
                "covers": [[run.first, run.writer, run.count] for run in self.covers],
                "after": self.after,
                "last_crc": self.last_crc,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: bytes, what: str) -> PartInfo:
        """Return what the metadata entry of file `what` says."""
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT_VERSION:
                raise UnsupportedFormatError(
                    f"{what} has format version {stored['format']}; this release reads {FORMAT_VERSION}; upgrade"
                )
            return cls(
                stored["log"],
                stated(stored, "trace_id", str),
                stated(stored, "incarnation", str),
                int(stored["first"]),
                int(stored["last"]),
                bool(stored["folded"]),
                tuple(Run(int(first), str(writer), int(count)) for first, writer, count in stored["covers"]),
                stored["after"],
                stored["last_crc"],
            )
        except MALFORMED as error:
            if isinstance(error, UnsupportedFormatError):
                raise
            raise CorruptFileError(
                f"{what} has no readable traceark metadata ({error}); restore it from a copy"
            ) from None


@cache
def _kinds(columns: Sequence[Column]) -> dict[str, str]:
    """Return the kind of each column by its name; `extra` gathers what has none."""
    return {column.name: column.kind for column in columns if column.name != "extra"}


def to_row(columns: tuple[Column, ...], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record (a flat JSON object) as one row: unknown fields gathered in `extra`, what is null left out."""
    row: dict[str, Any] = {}
    extra: JsonObject = {}
    kinds = _kinds(columns)
    for name, value in record.items():
        kind = kinds.get(name)
        if kind is None:
            extra[name] = value
        elif value is None:
            continue
        elif kind == "json":
            row[name] = json_text(value)
        elif kind == "time":
            row[name] = datetime.fromisoformat(value)
        elif kind in _NESTED:
            row[name] = value
            if unknown := {key: item for key, item in value.items() if key not in _NESTED[kind]}:
                extra[name] = unknown
        else:
            row[name] = value
    if extra:
        row["extra"] = json_text(extra)
    return row


def to_table(columns: tuple[Column, ...], records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return records as an Arrow table for a view."""
    return pa.Table.from_pylist([to_row(columns, record) for record in records], schema=arrow_schema(columns))


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One row of a part: its offset, what it does, and the record.

    `op` is None for a record that adds; for ``update`` the record has `message_id` and the fields
    it sets. `digest` is that of the message as first added, where an update was folded in. `crc` is
    the record's ``_crc``, where it was read from a segment.
    """

    offset: int
    op: str | None
    record: JsonObject
    digest: str | None = None
    crc: str | None = None


def write_part(sink: Sink, info: PartInfo, records: Iterable[PartRecord]) -> None:
    """Write a part.

    Parameters
    ----------
    sink : file
        Open for writing bytes, Python's or pyarrow's.
    info : PartInfo
        What the part covers.
    records : iterable of PartRecord
        In the order of their offsets; consumed row group by row group.
    """
    write_rows(sink, info, (part_row(info.log, record) for record in records))


def write_rows(sink: Sink, info: PartInfo, rows: Iterable[PartRow]) -> None:
    """Write a part of rows that `part_row` made, as `write_part` does of records."""
    with part_writer(sink, info.log) as writer:
        for group in _row_groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=writer.schema))
        writer.add_key_value_metadata({METADATA_KEY: info.to_json().encode()})


def part_writer(sink: Sink, log: LogName, zstd_level: int = ZSTD_LEVEL) -> pq.ParquetWriter:
    """Return what writes the rows of a part, which is given the part's metadata at the end."""
    return pq.ParquetWriter(sink, PART_SCHEMAS[log], **_writing(log, zstd_level))


@cache
def _writing(log: LogName, zstd_level: int) -> dict[str, Any]:
    """Return how the columns of a part are written; to make all this anew takes a tenth of the time of a short part."""
    leaves = [leaf for field in PART_SCHEMAS[log] for leaf in _leaves(field)]
    return {
        # Numbers and the texts of dictionaries are small by their encoding; compressing each of those takes longer
        # than all else of a short part.
        "compression": {leaf: "zstd" if leaf in _TEXTS else "none" for leaf in leaves},
        "compression_level": {leaf: zstd_level for leaf in leaves if leaf in _TEXTS},
        "use_dictionary": [leaf for leaf in leaves if leaf in _DICTIONARIES],
        "column_encoding": {leaf: _ENCODINGS[leaf] for leaf in leaves if leaf in _ENCODINGS},
        "write_statistics": [leaf for leaf in leaves if leaf not in _TEXTS or leaf == "message_id"],
        "write_page_checksum": True,
        "data_page_size": _PAGE_BYTES,
        "store_schema": False,
    }


def _leaves(field: pa.Field) -> list[str]:
    """Return the columns that a field is stored in, by their paths."""
    if pa.types.is_struct(field.type):
        return [f"{field.name}.{each.name}" for each in field.type]
    return [field.name]


def encode_part(info: PartInfo, records: Iterable[PartRecord]) -> bytes:
    """Return the bytes of a part; see `write_part`."""
    return encode_rows(info, (part_row(info.log, record) for record in records))


def encode_rows(info: PartInfo, rows: Iterable[PartRow]) -> bytes:
    """Return the bytes of a part of rows; see `write_rows`."""
    sink = pa.BufferOutputStream()
    write_rows(sink, info, rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def part_row(log: LogName, item: PartRecord) -> PartRow:
    """Return a record as the row of a part."""
    columns = LOG_COLUMNS[log]
    if item.op is None:
        row = to_row(columns, item.record)
    else:
        row = to_row(columns, {"message_id": item.record["message_id"]})
        row["extra"] = json_text({name: value for name, value in item.record.items() if name != "message_id"})
    row["_offset"] = item.offset
    row["_op"] = item.op
    row["_digest"] = item.digest
    return row


def _row_groups(rows: Iterable[PartRow]) -> Iterator[list[PartRow]]:
    group: list[PartRow] = []
    size = 0
    for row in rows:
        group.append(row)
        size += 200 + len(row.get("content") or row.get("payload") or "") + len(row.get("extra") or "")
        if size >= ROW_GROUP_BYTES or len(group) >= ROW_GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def part_info(data: bytes | IO[bytes], what: str) -> PartInfo:
    """Return what a part says of itself, from its footer.

    Raises
    ------
    CorruptFileError
        It is no Parquet file, or carries no metadata of ours.
    """
    if isinstance(data, bytes) and (data[:4] != b"PAR1" or data[-4:] != b"PAR1"):
        raise CorruptFileError(f"{what} is torn: it does not begin and end as a Parquet file; copy it again")
    try:
        metadata = pq.read_metadata(BytesIO(data) if isinstance(data, bytes) else data).metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(f"{what} has no readable Parquet footer ({error}); copy it again") from None
    if not metadata or METADATA_KEY not in metadata:
        raise CorruptFileError(f"{what} was not written by traceark: its metadata has no {METADATA_KEY.decode()!r}")
    return PartInfo.from_json(metadata[METADATA_KEY], what)
