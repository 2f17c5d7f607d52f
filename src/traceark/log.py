"""Reading one log of a trace, whatever segments and parts it lies in.

The one place that decides which bytes count: lines that prove themselves, torn tails, gaps,
divergence. It reads through `storage.base` and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from traceark.codec.lines import decode_line, proves_itself
from traceark.codec.parquet import PartInfo, PartRecord, Run, part_info, read_part
from traceark.errors import CorruptFileError, IncompleteTraceError
from traceark.layout import LogName, PartName, parse_log_name
from traceark.plan import LogPlan, Source, diverged, plan_log
from traceark.storage.base import Entry, Storage

# Where a power loss left a block unwritten there are zeros up to the end of a sector or of the file;
# JSON text never holds one.
_HOLE = re.compile(rb"\0{8,}")
_SECTOR = 512


@dataclass(slots=True)
class Tail:
    """Where a log ends: its last segment, how many of its bytes are whole records, and if more follow."""

    name: str
    size: int
    torn: bool


@dataclass(slots=True)
class LogRead:
    """What was read of a log.

    `runs` say who wrote which offsets; `damaged` names parts that were left out, with the reason.
    """

    records: list[PartRecord] = field(default_factory=list)
    end: int = 0
    tail: Tail | None = None
    runs: list[Run] = field(default_factory=list)
    plan: LogPlan = field(default_factory=lambda: LogPlan((), (), (), ()))
    damaged: dict[str, CorruptFileError] = field(default_factory=dict)


@dataclass(slots=True)
class Segment:
    """The whole records of a segment's bytes, and how many bytes they take."""

    records: list[PartRecord]
    writers: list[str]
    size: int
    torn: bool


def parse_segment(data: bytes, what: str, first: int, incarnation: str) -> Segment:
    """Return the records of a segment's bytes.

    Parameters
    ----------
    data : bytes
        From the beginning of the record at offset `first`.
    what : str
        The file, for errors.
    first : int
        The offset of the first record.
    incarnation : str
        The trace's incarnation, which every record's writer carries.

    Returns
    -------
    Segment
        `torn` is true where bytes follow that are no whole record.

    Raises
    ------
    CorruptFileError
        A record has the wrong offset or incarnation, or does not prove itself though later ones do.
    """
    records: list[PartRecord] = []
    writers: list[str] = []
    position = 0
    offset = first
    while position < len(data):
        end = data.find(b"\n", position)
        line = data[position : end if end >= 0 else len(data)]
        if end < 0 or not proves_itself(line):
            _check_torn(data, position, what, offset)
            return Segment(records, writers, position, torn=True)
        record = decode_line(line, f"{what}, offset {offset}")
        if record.pop("_offset", None) != offset:
            raise CorruptFileError(f"{what} holds another offset where {offset} belongs; restore the file from a copy")
        writer = cast("str", record.pop("_writer", ""))
        if writer[:8] != incarnation:
            raise CorruptFileError(f"{what}, offset {offset}: the record is of another incarnation of the trace")
        op = cast("str | None", record.pop("_op", None))
        records.append(PartRecord(offset, op, record))
        writers.append(writer[9:])
        position = end + 1
        offset += 1
    return Segment(records, writers, position, torn=False)


def _check_torn(data: bytes, position: int, what: str, offset: int) -> None:
    """Refuse a broken line that whole ones follow, unless a power loss explains it by a hole."""
    end = data.find(b"\n", position)
    if end < 0:
        return
    hole = _HOLE.search(data, position)
    if hole is not None and (hole.end() % _SECTOR == 0 or hole.end() == len(data)):
        return
    if any(proves_itself(line) for line in data[end + 1 :].split(b"\n")):
        raise CorruptFileError(
            f"{what}: the record at offset {offset} ({data[position : position + 60]!r}…) does not prove itself, "
            "though later ones do; restore the file from a copy"
        )


async def load_parts(
    storage: Storage, directory: str, names: Iterable[str], incarnation: str, known: dict[str, PartInfo]
) -> tuple[dict[str, PartInfo], dict[str, CorruptFileError]]:
    """Return what the parts in a directory say of themselves, and those that do not count.

    `known` remembers parts by name, since a part never changes.
    """
    found: dict[str, PartInfo] = {}
    damaged: dict[str, CorruptFileError] = {}
    for name in names:
        parsed = parse_log_name(name)
        if not isinstance(parsed, PartName) or parsed.incarnation != incarnation:
            continue
        key = f"{directory}/{name}"
        if key not in known:
            try:
                info = part_info(await storage.read(key), key)
                if (info.first, info.last, info.incarnation) != (parsed.first, parsed.last, incarnation):
                    raise CorruptFileError(
                        f"{key}: its metadata tells of other offsets than its name; it does not count"
                    )
                known[key] = info
            except CorruptFileError as error:
                damaged[name] = error
                continue
        found[name] = known[key]
    return found, damaged


async def read_log(
    storage: Storage,
    prefix: str,
    log: LogName,
    incarnation: str,
    entries: Mapping[str, Entry],
    known_parts: dict[str, PartInfo],
    *,
    after: int = 0,
    columns: Sequence[str] | None = None,
) -> LogRead:
    """Read a log from behind an offset to its end.

    Parameters
    ----------
    storage, prefix, log, incarnation
        Which log.
    entries : mapping of str to Entry
        The files of the trace, by key relative to `prefix`.
    known_parts : dict
        Remembers what parts say of themselves.
    after : int
        Records up to this offset are left out; files that hold nothing else are not read.
    columns : sequence of str, optional
        Of parts, read only these columns.

    Raises
    ------
    IncompleteTraceError
        A range of offsets is in no file; the message names it.
    DivergedTraceError
        Two files hold different records of one offset.
    CorruptFileError
        A file does not prove itself.
    """
    directory = f"{prefix}/{log}"
    names = [name.partition("/")[2] for name in entries if name.startswith(f"{log}/")]
    parts, damaged = await load_parts(storage, directory, names, incarnation, known_parts)
    plan = plan_log(directory, names, incarnation, parts)
    out = LogRead(plan=plan, damaged=damaged)
    previous = "the beginning"
    for index, source in enumerate(plan.sources):
        key = f"{directory}/{source.name}"
        if source.last is not None:
            _check_gap(directory, out.end, source.first, previous, damaged)
            out.runs += [
                Run(
                    max(run.first, source.first),
                    run.writer,
                    min(run.last, source.last) - max(run.first, source.first) + 1,
                )
                for run in parts[source.name].covers
                if run.last >= source.first and run.first <= source.last
            ]
            if source.last > after:
                rows = read_part(await storage.read(key), log, key, columns)
                floor = max(source.first - 1, after)
                out.records += [row for row in rows if floor < row.offset <= source.last]
            out.end, out.tail, previous = source.last, None, source.name
            continue
        following = plan.sources[index + 1].first if index + 1 < len(plan.sources) else None
        if following is not None and following - 1 <= after and following > source.first and not source.superseded:
            _check_gap(directory, out.end, source.first, previous, damaged)
            if following - 1 > out.end:
                out.end, previous = following - 1, source.name
            continue
        previous = await _take_segment(storage, directory, source, incarnation, out, after, previous)
    if damaged and (out.end == 0 or _hidden(damaged, out.end)):
        raise next(iter(damaged.values()))
    return out


def _hidden(damaged: Mapping[str, CorruptFileError], end: int) -> bool:
    """Say whether a damaged part would have held records past what was read."""
    return any(isinstance(parsed := parse_log_name(name), PartName) and parsed.last > end for name in damaged)


async def _take_segment(
    storage: Storage, directory: str, source: Source, incarnation: str, out: LogRead, after: int, previous: str
) -> str:
    key = f"{directory}/{source.name}"
    name = parse_log_name(source.name)
    assert name is not None
    segment = parse_segment(await storage.read(key), key, name.first, incarnation)
    fresh = [
        (row, writer)
        for row, writer in zip(segment.records, segment.writers, strict=True)
        if row.offset >= source.first
    ]
    if source.superseded and not fresh:
        return previous
    if segment.records:
        _check_gap(directory, out.end, source.first, previous, out.damaged)
        if fresh and fresh[0][0].offset <= out.end:
            raise diverged(directory, fresh[0][0].offset, previous, source.name)
        out.records += [row for row, _ in fresh if row.offset > after]
        began_by = getattr(name, "writer", "") or segment.writers[0]
        out.runs.append(Run(source.first, began_by, len(fresh)))
        out.end = segment.records[-1].offset
    elif name.first > out.end + 1:
        _check_gap(directory, out.end, name.first, previous, out.damaged)
    out.tail = Tail(source.name, segment.size, segment.torn)
    return source.name


def _check_gap(directory: str, end: int, first: int, previous: str, damaged: Mapping[str, CorruptFileError]) -> None:
    if first > end + 1:
        because = f" ({next(iter(damaged.values()))})" if damaged else ""
        raise IncompleteTraceError(
            f"{directory}: offsets {end + 1} to {first - 1} are in no file, after {previous}{because}; "
            "copy the missing files from where the trace was written"
        )
