"""What proves a whole part sound, taken from its columns without making records.

Pure. It answers for what is usual only, and says None to anything else, sound or not: then the
records themselves are to be looked at. It must never answer for a part whose records would be refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import SchemaValidator, core_schema

from traceark.codec import compute as pc
from traceark.codec.columns import are_all, are_between, are_distinct, are_same, is_rising
from traceark.codec.counted import Counted, counted
from traceark.codec.fields import Kind
from traceark.codec.malformed import MALFORMED
from traceark.codec.parquet import LOG_COLUMNS, METADATA_KEY, PART_SCHEMAS, THREADS_FROM, PartInfo
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import LogName
from traceark.models import Event, Message, Usage

# Between these years, 1900 and 2200, in microseconds, no way of saying a time has a limit.
_EARLIEST, _LATEST = -2_208_988_800_000_000, 7_258_118_400_000_000

_REQUIRED: dict[LogName, tuple[str, ...]] = {
    "messages": ("message_id", "trace_id", "role", "sequence", "_offset"),
    "events": ("event_id", "event_type", "created_at", "_offset"),
}
# Names that no unknown field has.
_KNOWN: dict[LogName, frozenset[str]] = {
    "messages": frozenset({*Message.model_fields, *(column.name for column in LOG_COLUMNS["messages"])}),
    "events": frozenset({*Event.model_fields, *(column.name for column in LOG_COLUMNS["events"])}),
}
# The columns of which not every value of their type is usual.
_LOOKED_AT: dict[LogName, tuple[tuple[str, Kind], ...]] = {
    log: tuple((each.name, each.kind) for each in columns if each.kind in ("json", "time") and each.name != "extra")
    for log, columns in LOG_COLUMNS.items()
}
_USAGE_FIELDS = frozenset(Usage.model_fields)
# What can come of a file or a cell that says something else than it should; the closer look tells what.
_UNUSUAL = (*MALFORMED, CorruptFileError, UnsupportedFormatError, pa.ArrowException, OSError)
# Takes whatever can be parsed, and makes nothing of it, which would take longer than to parse it.
_ANY_JSON = SchemaValidator(
    core_schema.with_default_schema(
        core_schema.typed_dict_schema({}, extra_behavior="ignore"), default=None, on_error="default"
    )
)


@dataclass(frozen=True, slots=True)
class SoundPart:
    """A sound part that is a whole log: what it says of itself, and what its messages add up to."""

    info: PartInfo
    sums: Counted | None = None


def sound_part(data: bytes, log: LogName, trace_id: str) -> SoundPart | None:
    """Return what counts of a part that is the whole log of a trace, or None where that takes a closer look.

    Every page is checked against its checksum and decoded, and so is every text, and every JSON text.

    Parameters
    ----------
    data : bytes
        The whole file.
    log : {'messages', 'events'}
        Which log it is a part of.
    trace_id : str
        The trace.
    """
    if data[:4] != b"PAR1":
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        info = PartInfo.from_json(file.metadata.metadata[METADATA_KEY], log)
        table = file.read(use_threads=len(data) >= THREADS_FROM)
        table.validate(full=True)
        if (info.log, info.trace_id, info.first, info.folded) != (log, trace_id, 1, True):
            return None
        if not table.schema.equals(PART_SCHEMAS[log]) or table["_op"].null_count < table.num_rows:
            return None
        if any(table[name].null_count for name in _REQUIRED[log]):
            return None
        if not (_are_usual(table, _LOOKED_AT[log]) and _are_usual_offsets(table["_offset"], info.last)):
            return None
        if log == "messages":
            sums = counted(table) if _are_messages(table, trace_id) else None
            return SoundPart(info, sums) if sums is not None else None
        if not all(_is_apart(extra, _KNOWN["events"]) for extra, _ in _extras(table, "event_id")):
            return None
        return SoundPart(info) if are_same(table["event_id"], table["_offset"]) else None
    except _UNUSUAL:
        return None


def _are_usual_offsets(offsets: pa.ChunkedArray, last: int) -> bool:
    if not len(offsets):
        return True
    return offsets[0].as_py() >= 1 and offsets[-1].as_py() <= last and is_rising(offsets)


def _are_usual(table: pa.Table, columns: Iterable[tuple[str, Kind]]) -> bool:
    """Say whether times are within usual years, and parse JSON; all other columns say what their types allow."""
    for name, kind in columns:
        cells = table[name]
        if cells.null_count == table.num_rows:
            continue
        if kind == "time":
            if not are_between(cells, _EARLIEST, _LATEST):
                return False
            continue
        for text in (cells.drop_null() if cells.null_count else cells).to_pylist():
            check_json_text(text)
    return True


def check_json_text(text: str) -> None:
    """Return if a text can be read as JSON, as `json.loads` does, in a fraction of its time.

    Raises
    ------
    ValueError, RecursionError

    Examples
    --------
    >>> check_json_text('{"tool": "bash"}')
    >>> check_json_text('{"tool": bash}')
    Traceback (most recent call last):
    json.decoder.JSONDecodeError: Expecting value: line 1 column 10 (char 9)
    """
    try:
        _ANY_JSON.validate_json(text)
    except ValueError:
        json.loads(text)  # which takes more than the other: lone surrogates, and what nests deeper


def _is_apart(extra: object, known: frozenset[str]) -> bool:
    """Say whether unknown fields are an object without a known name."""
    return isinstance(extra, dict) and known.isdisjoint(extra)


def _extras(table: pa.Table, beside: str) -> Iterator[tuple[object, bool]]:
    """Yield the unknown fields of each row that has any, and whether the row has a value in another column."""
    extras = table["extra"]
    if extras.null_count < table.num_rows:
        has_any = pc.is_valid(extras)
        others = pc.is_valid(table[beside]).filter(has_any)
        for text, other in zip(extras.filter(has_any).to_pylist(), others.to_pylist(), strict=True):
            yield json.loads(text), other


def _are_messages(table: pa.Table, trace_id: str) -> bool:
    if not (are_all(table["trace_id"], trace_id) and are_distinct(table["message_id"])):
        return False
    for extra, has_usage in _extras(table, "usage"):
        if has_usage and isinstance(extra, dict) and not _is_apart(extra.pop("usage", {}), _USAGE_FIELDS):
            return False
        if not _is_apart(extra, _KNOWN["messages"]):
            return False
    return True
