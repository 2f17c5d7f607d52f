"""Parquet parts to records, or straight to messages.

Knows the field table and pyarrow, no storage. Parts are taken column by column, which costs a
fraction of taking them row by row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.codec.fields import MESSAGES, TRACES, Column, Kind
from traceark.codec.lines import time_text
from traceark.codec.malformed import MALFORMED
from traceark.codec.parquet import LOG_COLUMNS, PART_SCHEMAS, THREADS_FROM, PartRecord
from traceark.errors import CorruptFileError
from traceark.layout import LogName
from traceark.models import JsonObject, Message, Trace, Usage

Decode = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What can come of a cell that says something else than its column.
_NO_RECORD = (*MALFORMED, pa.ArrowException)


def read_part(data: bytes, log: LogName, what: str, columns: Sequence[str] | None = None) -> list[PartRecord]:
    """Return the records of a part, pages checked against their checksums.

    Parameters
    ----------
    data : bytes
        The whole file.
    log : {'messages', 'events'}
        Which log it is a part of.
    what : str
        The file's name for errors.
    columns : sequence of str, optional
        Only these columns of the records; `_offset`, `_op` and `_digest` always come along.

    Raises
    ------
    CorruptFileError
        A page does not match its checksum, or the file cannot be read.
    """
    wanted = None if columns is None else [*columns, "extra", "_offset", "_op", "_digest"]
    try:
        table = _open(data).read(wanted, use_threads=len(data) >= THREADS_FROM)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(what, error) from None
    specs = [column for column in LOG_COLUMNS[log] if column.name in table.column_names]
    try:
        if table["_offset"].null_count:
            raise ValueError("it has no offset")
        internal = [table[name].to_pylist() for name in ("_offset", "_op", "_digest")]
        records = _rows(specs, table, _TO_JSON, {})
        found: list[PartRecord] = []
        for record, extra, offset, op, digest in zip(records, table["extra"].to_pylist(), *internal, strict=True):
            if op is not None:
                record = {"message_id": record["message_id"], **json.loads(extra)}
            elif extra is not None:
                _add_extra(record, json.loads(extra))
            found.append(PartRecord(offset, op, record, digest))
    except _NO_RECORD as error:
        raise _no_record(what, error) from None
    return found


def read_messages(data: bytes, what: str, last: int) -> list[Message] | None:
    """Return the messages of a part that is a whole log, by sequence, or None where that takes a closer look.

    What the types of the columns guarantee is not validated again. A part with another schema, or
    with rows that are not one whole message each, is left to `read_part` and validation.

    Parameters
    ----------
    data : bytes
        The whole file.
    what : str
        The file's name for errors.
    last : int
        The last offset of the log.

    Raises
    ------
    CorruptFileError
        As `read_part`.
    """
    try:
        table = _open(data).read(use_threads=len(data) >= THREADS_FROM)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(what, error) from None
    return _messages(table, what, last)


def read_message(data: bytes, what: str, last: int, message_id: str) -> list[Message] | None:
    """Return the message of an id, or no message, as `read_messages`: reads the ids and one row group."""
    try:
        file = _open(data)
        ids = file.read(["message_id"], use_threads=len(data) >= THREADS_FROM)["message_id"].to_pylist()
        rows = [at for at, each in enumerate(ids) if each == message_id]
        if not rows:
            return []
        table = _row(file, rows[0])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _unreadable(what, error) from None
    return _messages(table, what, last) if len(rows) == 1 else None


def _row(file: pq.ParquetFile, at: int) -> pa.Table:
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if at < count:
            return file.read_row_group(group, use_threads=False).slice(at, 1)
        at -= count
    raise IndexError(at)


def _messages(table: pa.Table, what: str, last: int) -> list[Message] | None:
    try:
        messages = _restored(table) if _is_plain(table, last) else None
    except _NO_RECORD as error:
        raise _no_record(what, error) from None
    if messages is not None:
        messages.sort(key=lambda message: message.sequence or 0)
    return messages


def _is_plain(table: pa.Table, last: int) -> bool:
    """Say whether every row is one whole message that keeps the rules, but for what `extra` may hold."""
    if not table.schema.equals(PART_SCHEMAS["messages"]) or table["_op"].null_count < table.num_rows:
        return False
    if any(table[name].null_count for name in ("message_id", "trace_id", "role", "sequence", "_offset")):
        return False
    offsets, ids = table["_offset"].to_pylist(), table["message_id"].to_pylist()
    return (
        offsets == sorted(offsets)
        and all(1 <= offset <= last for offset in offsets)
        and len(set(ids)) == len(ids)
        and all(map(isfinite, table["cost"].drop_null().to_pylist()))
    )


def _restored(table: pa.Table) -> list[Message] | None:
    """Return the messages of plain rows, or None where `extra` names a known field."""
    messages: list[Message] = []
    for row, text in zip(_rows(MESSAGES, table, _TO_MODELS, _ABSENT), table["extra"].to_pylist(), strict=True):
        extra = {} if text is None else json.loads(text)
        if row["usage"] is not None:
            more = extra.pop("usage", {})
            if not _USAGE_FIELDS.isdisjoint(more):
                return None
            row["usage"] = Usage.restored(row["usage"], more)
        if not _ABSENT.keys().isdisjoint(extra):
            return None
        messages.append(Message.restored(row, extra))
    return messages


def _open(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def _unreadable(what: str, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{what} cannot be read ({error}); restore it from a copy")


def _no_record(what: str, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{what} holds a row that is no record ({error!r}); restore it from a copy")


def records(columns: Sequence[Column], table: pa.Table) -> list[JsonObject]:
    """Return the rows of a table of traces as the flat JSON objects that they were made of."""
    found = _rows(columns, table, _TO_JSON, {})
    for record, extra in zip(found, table["extra"].to_pylist(), strict=True):
        if extra is not None:
            _add_extra(record, json.loads(extra))
    return found


def traces_of(rows: Iterable[Sequence[Any]]) -> list[Trace]:
    """Return the traces of rows with the columns of traces, in their order, as DuckDB gives them."""
    return [_trace_of(row) for row in rows]


def _trace_of(row: Sequence[Any]) -> Trace:
    found = {
        column.name: json.loads(cell) if column.kind == "json" else cell
        for column, cell in zip(TRACES, row, strict=True)
        if cell is not None
    }
    _add_extra(found, found.pop("extra", {}))
    return Trace.parse(found)


def _rows(
    columns: Sequence[Column], table: pa.Table, decoding: Mapping[Kind, Decode], absent: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return rows as copies of `absent` with the values that are not null set; `extra` is left out."""
    rows = [absent.copy() for _ in range(table.num_rows)]
    for column in columns:
        name, cells = column.name, table[column.name]
        if name == "extra" or cells.null_count == table.num_rows:
            continue
        if column.kind == "time":
            # Arrow's own way to datetimes takes ten times as long.
            cells = cells.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        decode = decoding.get(column.kind)
        for row, cell in zip(rows, cells.to_pylist(), strict=True):
            if cell is not None:
                row[name] = cell if decode is None else decode(cell)
    return rows


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment_text(microseconds: int) -> str:
    return time_text(_moment(microseconds))


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# How cells become values; those of the other kinds are values already.
_TO_JSON: dict[Kind, Decode] = {"json": json.loads, "time": _moment_text, "usage": _without_nulls}
_TO_MODELS: dict[Kind, Decode] = {"json": json.loads, "time": _moment}
_ABSENT: dict[str, Any] = dict.fromkeys(Message.model_fields)
_USAGE_FIELDS = frozenset(Usage.model_fields)


def _add_extra(record: JsonObject, extra: dict[str, Any]) -> None:
    """Put the unknown fields, and those of usage, back where they were."""
    for name, value in extra.items():
        known = record.get(name)
        if name == "usage" and isinstance(known, dict):
            known.update(value)
        else:
            record[name] = value
