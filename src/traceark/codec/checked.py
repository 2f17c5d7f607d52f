"""What proves a whole part sound, taken from its columns without making records.

Pure. It answers for what is usual only, and says None to anything else, sound or not: then the
records themselves are to be looked at. It must never answer for a part whose records would be refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from traceark.codec.fields import Column
from traceark.codec.malformed import MALFORMED
from traceark.codec.parquet import LOG_COLUMNS, METADATA_KEY, PART_SCHEMAS, PartInfo
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import LogName
from traceark.models import Event, Message, Usage
from traceark.stats import Facts, usage_tokens

# Starting threads for less takes longer than the work.
_THREADS_FROM = 4 * 2**20
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
_USAGE_FIELDS = frozenset(Usage.model_fields)
# What can come of a file or a cell that says something else than it should; the closer look tells what.
_UNUSUAL = (*MALFORMED, CorruptFileError, UnsupportedFormatError, pa.ArrowException, OSError)


@dataclass(frozen=True, slots=True)
class SoundPart:
    """A sound part that is a whole log: what it says of itself, and the facts of its messages by id."""

    info: PartInfo
    facts: Sequence[tuple[str, Facts]] = ()


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
        table = file.read(use_threads=len(data) >= _THREADS_FROM)
        table.validate(full=True)
        if (info.log, info.trace_id, info.first, info.folded) != (log, trace_id, 1, True):
            return None
        if not table.schema.equals(PART_SCHEMAS[log]) or table["_op"].null_count < table.num_rows:
            return None
        if any(table[name].null_count for name in _REQUIRED[log]):
            return None
        extras = [{} if text is None else json.loads(text) for text in _cells(table, "extra")]
        offsets = _cells(table, "_offset")
        if not (_are_usual(table, LOG_COLUMNS[log]) and _are_usual_offsets(offsets, info.last)):
            return None
        if log == "messages":
            facts = _facts(table, trace_id, offsets, extras)
            return None if facts is None else SoundPart(info, facts)
        if not all(_is_apart(extra, _KNOWN["events"]) for extra in extras):
            return None
        return SoundPart(info) if _cells(table, "event_id") == offsets else None
    except _UNUSUAL:
        return None


def _cells(table: pa.Table, name: str) -> list[Any]:
    cells = table[name]
    return [None] * table.num_rows if cells.null_count == table.num_rows else cells.to_pylist()


def _are_usual_offsets(offsets: list[int], last: int) -> bool:
    return not offsets or (offsets == sorted(offsets) and offsets[0] >= 1 and offsets[-1] <= last)


def _are_usual(table: pa.Table, columns: Sequence[Column]) -> bool:
    """Say whether times are within usual years, and decode JSON; all other columns say what their types allow."""
    for column in columns:
        if column.kind == "json" and column.name != "extra":
            for text in _cells(table, column.name):
                if text is not None:
                    check_json_text(text)
        elif column.kind == "time":
            for moments in table[column.name].chunks:
                numbers = moments.drop_null().view(pa.int64()).to_pylist()
                if numbers and not (min(numbers) >= _EARLIEST and max(numbers) < _LATEST):
                    return False
    return True


def check_json_text(text: str) -> None:
    """Return if a text can be read as JSON, as `json.loads` does, in half its time.

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
        from_json(text, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        json.loads(text)  # which takes more than the other: lone surrogates, and what nests deeper


def _is_apart(extra: object, known: frozenset[str]) -> bool:
    """Say whether unknown fields are an object without a known name."""
    return isinstance(extra, dict) and known.isdisjoint(extra)


def _facts(table: pa.Table, trace_id: str, offsets: list[int], extras: list[Any]) -> list[tuple[str, Facts]] | None:
    ids, usages, costs = (_cells(table, name) for name in ("message_id", "usage", "cost"))
    if set(_cells(table, "trace_id")) - {trace_id} or len(set(ids)) < len(ids):
        return None
    if not all(isfinite(cost) for cost in costs if cost is not None):
        return None
    for usage, extra in zip(usages, extras, strict=True):
        if usage is not None and not _is_apart(extra.pop("usage", {}), _USAGE_FIELDS):
            return None
        if not _is_apart(extra, _KNOWN["messages"]):
            return None
    return [
        (message_id, Facts(offset, sequence, goal_id, tokens, usage_tokens(usage), cost, duration_ms or 0, tool_name))
        for message_id, offset, sequence, goal_id, tokens, usage, cost, duration_ms, tool_name in zip(
            ids,
            offsets,
            *(_cells(table, name) for name in ("sequence", "goal_id", "tokens")),
            usages,
            costs,
            *(_cells(table, name) for name in ("duration_ms", "tool_name")),
            strict=True,
        )
    ]
