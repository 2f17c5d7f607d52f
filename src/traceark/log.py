"""Reading one log of a trace, whatever segments and parts it lies in.

The one place that decides which bytes count: lines that prove themselves, torn tails, gaps,
divergence. It reads through `storage.base` and writes nothing.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from traceark.codec.parquet import PartInfo, PartRecord, Run, part_info
from traceark.codec.parts import read_part
from traceark.errors import CorruptFileError, IncompleteTraceError
from traceark.layout import LogName, PartName, SegmentName, parse_log_name
from traceark.plan import LogPlan, Source, diverged, plan_log
from traceark.segments import Places, Segment, parse_segment
from traceark.storage.base import AppendStorage, Entry, Storage

# Files of a log read at a time from a distant server.
_READ_AHEAD = 32


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
    `crc` is the ``_crc`` of the last record, and `links` that of the record before a file's first,
    by the first's offset.
    """

    records: list[PartRecord] = field(default_factory=list)
    end: int = 0
    tail: Tail | None = None
    runs: list[Run] = field(default_factory=list)
    crc: str | None = None
    links: dict[int, str | None] = field(default_factory=dict)
    plan: LogPlan = field(default_factory=lambda: LogPlan((), (), (), ()))
    damaged: dict[str, CorruptFileError] = field(default_factory=dict)


class Files:
    """The files of one log's directory, read ahead where a read is a request to a distant server.

    Of those in `sizes` no more is read than these many bytes; segments that were read stay in `kept`.
    """

    def __init__(
        self,
        storage: Storage,
        directory: str,
        held: Mapping[str, bytes] | None = None,
        sizes: Mapping[str, int] | None = None,
        kept: dict[str, bytes] | None = None,
    ) -> None:
        self._storage = storage
        self._directory = directory
        self._sizes = sizes or {}
        self._kept = kept
        self._ahead = 1 if isinstance(storage, AppendStorage) else _READ_AHEAD
        self._planned: list[str] = []
        self._data: dict[str, bytes] = dict(held or {})

    def plan(self, names: Iterable[str]) -> None:
        """Say which files will be read, in which order."""
        self._planned = [name for name in names if name not in self._data]

    async def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        if name not in self._data:
            group = [name]
            if name in self._planned:
                start = self._planned.index(name)
                group = self._planned[start : start + self._ahead]
                self._planned = self._planned[start + self._ahead :]
            read = await asyncio.gather(*(self._storage.read(f"{self._directory}/{each}") for each in group))
            for each, data in zip(group, read, strict=True):
                self._data[each] = data[: self._sizes.get(each)]
                if self._kept is not None and isinstance(parse_log_name(each), SegmentName):
                    self._kept[f"{self._directory}/{each}"] = self._data[each]
        return self._data.pop(name)

    async def look(self, name: str) -> bytes:
        """Return a file's bytes, and keep them for `read`."""
        data = self._data[name] = await self.read(name)
        return data


async def grown(files: Files, plan: LogPlan) -> set[str]:
    """Return the superseded segments that hold more lines than parts hold records of them.

    A broken line counts: it may be a record that no part has.
    """
    found: set[str] = set()
    for source in plan.sources:
        segment = parse_log_name(source.name)
        if source.superseded and isinstance(segment, SegmentName):
            lines = sum(1 for line in (await files.look(source.name)).split(b"\n") if line)
            if lines > source.first - segment.first:
                found.add(source.name)
    return found


async def load_parts(
    files: Files, directory: str, names: Iterable[str], incarnation: str, known: dict[str, PartInfo]
) -> tuple[dict[str, PartInfo], dict[str, CorruptFileError]]:
    """Return what the parts in a directory say of themselves, and those that do not count.

    `known` remembers parts by key, since a part never changes.
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
                data = await files.look(name)
                if f"{zlib.crc32(data):08x}" != parsed.crc:
                    raise CorruptFileError(f"{key} has not the CRC-32 that its name tells; restore it from a copy")
                info = part_info(data, key)
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


@dataclass(frozen=True, slots=True)
class WholePart:
    """A part that is a whole log, updates folded in: its key, its bytes, the log's last offset."""

    key: str
    data: bytes
    last: int


async def whole_part(
    storage: Storage,
    prefix: str,
    log: LogName,
    incarnation: str,
    entries: Mapping[str, Entry],
    known_parts: dict[str, PartInfo],
) -> WholePart | None:
    """Return the one part that is the whole log, as in a sealed trace, or None; parameters as of `read_log`."""
    directory = f"{prefix}/{log}"
    names = [
        name
        for name in log_names(entries, log)
        if (parsed := parse_log_name(name)) is not None and parsed.incarnation == incarnation
    ]
    if len(names) != 1 or not isinstance(parse_log_name(names[0]), PartName):
        return None
    files = Files(storage, directory)
    parts, _ = await load_parts(files, directory, names, incarnation, known_parts)
    info = parts.get(names[0])
    if info is None or not info.folded or info.first != 1:
        return None
    return WholePart(f"{directory}/{names[0]}", await files.read(names[0]), info.last)


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
    held: Mapping[str, bytes] | None = None,
    places: Places | None = None,
    as_listed: bool = False,
    kept: dict[str, bytes] | None = None,
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
    held : mapping of str to bytes, optional
        Segments, by name, whose bytes the caller knows.
    places : Places, optional
        Remembers where in segments earlier readings ended: what lies before that is not read again.
    as_listed : bool
        Leave out what came to a file since the trace was listed; not with `places`.
    kept : dict, optional
        Gets the bytes of segments that were read, by key.

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
    names = log_names(entries, log)
    sizes = {name: entries[f"{log}/{name}"].size for name in names} if as_listed else None
    files = Files(storage, directory, held, sizes, kept)
    parts, damaged = await load_parts(files, directory, names, incarnation, known_parts)
    plan = plan_log(directory, names, incarnation, parts)
    needed = [not _known(plan.sources, index, after) for index in range(len(plan.sources))]
    files.plan(source.name for source, need in zip(plan.sources, needed, strict=True) if need)
    out = LogRead(plan=plan, damaged=damaged)
    previous = "the beginning"
    for index, (source, need) in enumerate(zip(plan.sources, needed, strict=True)):
        key = f"{directory}/{source.name}"
        if source.last is not None:
            info = parts[source.name]
            _check_gap(directory, incarnation, out.end, source.first, previous, damaged)
            _check_link(directory, out, info.first, info.after, previous, source.name)
            out.runs += [
                Run(
                    max(run.first, source.first),
                    run.writer,
                    min(run.last, source.last) - max(run.first, source.first) + 1,
                )
                for run in info.covers
                if run.last >= source.first and run.first <= source.last
            ]
            if need:
                rows = read_part(await files.read(source.name), log, key, columns)
                floor = max(source.first - 1, after)
                out.records += [row for row in rows if floor < row.offset <= source.last]
            out.end, out.tail, out.crc, previous = source.last, None, info.last_crc, source.name
            continue
        if not need and source.first == out.end + 1:
            _check_gap(directory, incarnation, out.end, source.first, previous, damaged)
            following = plan.sources[index + 1].first
            out.end, out.crc, previous = following - 1, None, source.name
            continue
        segment = await places.continued(storage, key, source, incarnation, after) if places is not None else None
        if segment is None:
            name = cast("SegmentName", parse_log_name(source.name))
            # Of a superseded segment nobody knows how far it is whole.
            known = 0 if source.superseded else after
            segment = parse_segment(await files.read(source.name), key, name.first, incarnation, known)
        if places is not None:
            places.remember(storage, key, source, segment)
        previous = _take_segment(segment, directory, incarnation, source, out, after, previous)
    if damaged and (out.end == 0 or _hidden(damaged, out.end)):
        raise next(iter(damaged.values()))
    return out


def log_names(entries: Iterable[str], log: LogName) -> list[str]:
    """Return the names of a log's files."""
    return [name.partition("/")[2] for name in entries if name.startswith(f"{log}/")]


def _known(sources: Sequence[Source], index: int, after: int) -> bool:
    """Say whether a file holds nothing past `after`, as far as the next one tells."""
    source = sources[index]
    if source.last is not None:
        return source.last <= after
    following = sources[index + 1].first if index + 1 < len(sources) else None
    return following is not None and source.first < following <= after + 1 and not source.superseded


def _hidden(damaged: Mapping[str, CorruptFileError], end: int) -> bool:
    """Say whether a damaged part would have held records past what was read."""
    return any(isinstance(parsed := parse_log_name(name), PartName) and parsed.last > end for name in damaged)


def _take_segment(
    segment: Segment, directory: str, incarnation: str, source: Source, out: LogRead, after: int, previous: str
) -> str:
    name = parse_log_name(source.name)
    assert isinstance(name, SegmentName)
    last = name.first + segment.count - 1
    if source.superseded and last < source.first:
        return previous
    if segment.count:
        _check_gap(directory, incarnation, out.end, source.first, previous, out.damaged)
        if source.first <= out.end:
            raise diverged(directory, source.first, previous, source.name)
        # A segment that has grown since a part took its beginning goes on where that part ends.
        follows = next((row.crc for row in segment.records if row.offset == source.first - 1), segment.after)
        _check_link(directory, out, source.first, follows, previous, source.name)
        out.records += [row for row in segment.records if row.offset >= source.first and row.offset > after]
        out.runs.append(Run(source.first, name.writer or segment.writer, last - source.first + 1))
        out.end, out.crc = last, segment.crc
    elif name.first <= out.end:
        return previous  # it holds nothing, and the log went on in another segment
    else:
        _check_gap(directory, incarnation, out.end, name.first, previous, out.damaged)
    out.tail = Tail(source.name, segment.size, segment.torn)
    return source.name


def _check_link(directory: str, out: LogRead, first: int, after: str | None, previous: str, name: str) -> None:
    """Refuse a file that was written after another record than the one before it here."""
    out.links[first] = after
    if first == out.end + 1 and None not in (after, out.crc) and after != out.crc:
        raise diverged(directory, first, previous, name)


def _check_gap(
    directory: str, incarnation: str, end: int, first: int, previous: str, damaged: Mapping[str, CorruptFileError]
) -> None:
    if first > end + 1:
        because = f" ({next(iter(damaged.values()))})" if damaged else ""
        raise IncompleteTraceError(
            f"{directory}: offsets {end + 1} to {first - 1} are in no file, after {previous}{because}; "
            "copy the missing files from where the trace was written",
            incarnation,
        )
