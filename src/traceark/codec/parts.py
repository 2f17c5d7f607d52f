"""Parquet parts to records.

Knows the field table and pyarrow, no storage. Parts are taken column by column, which costs a
fraction of taking them row by row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.codec.fields import Column, Kind
from traceark.codec.lines import time_text
from traceark.codec.parquet import LOG_COLUMNS, PartRecord
from traceark.errors import CorruptFileError
from traceark.layout import LogName
from traceark.models import JsonObject

Decode = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What can come of a cell that says something else than its column.
_NO_RECORD = (KeyError, ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException)


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
        table = _open(data).read(columns=wanted)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(what, error) from None
    specs = [column for column in LOG_COLUMNS[log] if column.name in table.column_names]
    try:
        internal = [table[name].to_pylist() for name in ("_offset", "_op", "_digest")]
        records = _rows(specs, table, _TO_JSON)
        found: list[PartRecord] = []
        for record, extra, offset, op, digest in zip(records, table["extra"].to_pylist(), *internal, strict=True):
            if op is not None:
                record = {"message_id": record["message_id"], **json.loads(extra)}
            elif extra is not None:
                _add_extra(record, json.loads(extra))
            found.append(PartRecord(offset, op, record, digest))
    except _NO_RECORD as error:
        raise CorruptFileError(f"{what} holds a row that is no record ({error!r}); restore it from a copy") from None
    return found


def _open(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def _unreadable(what: str, error: Exception) -> CorruptFileError:
    return CorruptFileError(f"{what} cannot be read ({error}); restore it from a copy")


def _rows(columns: Sequence[Column], table: pa.Table, decoding: dict[Kind, Decode]) -> list[dict[str, Any]]:
    """Return the rows of a table as mappings of what is not null, all but `extra`."""
    rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for column in columns:
        name, cells = column.name, table[column.name]
        if name == "extra" or cells.null_count == table.num_rows:
            continue
        if column.kind == "time":
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


# How cells become values of JSON; those of the other kinds are values already.
_TO_JSON: dict[Kind, Decode] = {"json": json.loads, "time": _moment_text, "usage": _without_nulls}


def _add_extra(record: JsonObject, extra: dict[str, Any]) -> None:
    """Put the unknown fields, and those of usage, back where they were."""
    for name, value in extra.items():
        known = record.get(name)
        if name == "usage" and isinstance(known, dict):
            known.update(value)
        else:
            record[name] = value
