"""What to read of a log, and what is superseded: from names and parts' metadata alone.

Pure: no I/O. A plan lists sources in the order of their offsets. Where two parts overlap, rows
are taken by offset, and the parts must tell the same story of who wrote them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from traceark.codec.parquet import PartInfo, Run
from traceark.errors import DivergedTraceError
from traceark.layout import PartName, SegmentName, parse_log_name


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read: the offsets to take from it; the end of a segment is known only by reading.

    `superseded` marks a segment that parts cover up to its `first`; only what lies past counts.
    """

    name: str
    first: int
    last: int | None
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How to read one log.

    Attributes
    ----------
    sources : tuple of Source
        In the order of their offsets.
    superseded : tuple of str
        Segments and parts whose every record is in another part.
    leftovers : tuple of str
        Files of another incarnation of the trace, never taken up.
    foreign : tuple of str
        Files that are no part of the format.
    """

    sources: tuple[Source, ...]
    superseded: tuple[str, ...]
    leftovers: tuple[str, ...]
    foreign: tuple[str, ...]


def writer_at(info: PartInfo, offset: int) -> str | None:
    """Return who wrote an offset, by a part's account."""
    return next((run.writer for run in info.covers if run.first <= offset <= run.last), None)


def join_runs(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return runs in order, neighbours of one writer joined.

    Examples
    --------
    >>> join_runs([Run(1, "a", 2), Run(3, "a", 1), Run(4, "b", 1)])
    (Run(first=1, writer='a', count=3), Run(first=4, writer='b', count=1))
    """
    joined: list[Run] = []
    for run in sorted(runs, key=lambda each: each.first):
        if joined and joined[-1].writer == run.writer and joined[-1].last + 1 == run.first:
            joined[-1] = Run(joined[-1].first, run.writer, joined[-1].count + run.count)
        else:
            joined.append(run)
    return tuple(joined)


def _check_agreement(what: str, parts: Mapping[str, PartInfo]) -> None:
    """Refuse parts that tell different stories of the offsets they share."""
    names = sorted(parts)
    for at, left in enumerate(names):
        for right in names[at + 1 :]:
            first = _first_disagreement(parts[left].covers, parts[right].covers)
            if first is not None:
                raise diverged(what, first, left, right)


def _first_disagreement(ours: Sequence[Run], theirs: Sequence[Run]) -> int | None:
    """Return the first offset that two accounts, each in order, ascribe to different writers."""
    at = other_at = 0
    while at < len(ours) and other_at < len(theirs):
        run, other = ours[at], theirs[other_at]
        first = max(run.first, other.first)
        if first <= min(run.last, other.last) and run.writer != other.writer:
            return first
        if run.last <= other.last:
            at += 1
        else:
            other_at += 1
    return None


def diverged(what: str, offset: int, left: str, right: str) -> DivergedTraceError:
    """Return the error for two files that hold different records of one offset."""
    return DivergedTraceError(
        f"{what} was written on two sides that knew nothing of each other: {left} and {right} part at offset {offset}; "
        "move one of them (and the records after it) out of the directory, or restore one side from its own copy"
    )


def plan_log(what: str, names: Iterable[str], incarnation: str, parts: Mapping[str, PartInfo]) -> LogPlan:
    """Return how to read a log.

    Parameters
    ----------
    what : str
        The log, for errors, such as ``trace 'run-7', messages``.
    names : iterable of str
        The files in the log's directory.
    incarnation : str
        The trace's; files of another are leftovers.
    parts : mapping of str to PartInfo
        What the parts that count say of themselves; one that is missing here is left out.

    Raises
    ------
    DivergedTraceError
        Two parts tell different stories of one offset.
    """
    segments: list[tuple[SegmentName, str]] = []
    usable: dict[str, PartInfo] = {}
    leftovers: list[str] = []
    foreign: list[str] = []
    for name in sorted(names):
        parsed = parse_log_name(name)
        if parsed is None:
            foreign.append(name)
        elif parsed.incarnation != incarnation:
            leftovers.append(name)
        elif isinstance(parsed, PartName):
            if name in parts:
                usable[name] = parts[name]
        else:
            segments.append((parsed, name))
    _check_agreement(what, usable)

    sources = _take_parts(usable)
    taken = {source.name for source in sources}
    superseded = [name for name in usable if name not in taken]
    live: list[Source] = []
    for segment, name in segments:
        covered = _covered_to(segment, usable.values())
        if covered is None:
            live.append(Source(name, segment.first, None))
            continue
        superseded.append(name)
        if segment.writer:
            # On a file system the segment may have grown on another machine after it was covered.
            live.append(Source(name, covered + 1, None, superseded=True))
    ordered = sorted([*sources, *live], key=lambda source: (source.first, source.last is None, source.name))
    return LogPlan(tuple(ordered), tuple(superseded), tuple(leftovers), tuple(foreign))


def _take_parts(parts: Mapping[str, PartInfo]) -> list[Source]:
    sources: list[Source] = []
    folded = [(info.last, name) for name, info in parts.items() if info.folded and info.first == 1]
    reached = 0
    if folded:
        last, name = max(folded)
        sources.append(Source(name, 1, last))
        reached = last
    for name, info in sorted(parts.items(), key=lambda item: (item[1].first, -item[1].last)):
        if info.folded or info.last <= reached:
            continue
        sources.append(Source(name, max(info.first, reached + 1), info.last))
        reached = info.last
    return sources


def _covered_to(segment: SegmentName, parts: Iterable[PartInfo]) -> int | None:
    """Return the last offset of a segment that parts list one after the other, or None if none knows it."""
    runs = [(info, run) for info in parts for run in info.covers if segment.writer in ("", run.writer)]
    covered: int | None = None
    following = segment.first
    while True:
        ends = [
            min(run.last, info.last)
            for info, run in runs
            if max(run.first, info.first) <= following <= min(run.last, info.last)
        ]
        if not ends:
            return covered
        covered = max(ends)
        if not segment.writer:
            return covered  # an object never grows
        following = covered + 1


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets, first and last."""

    first: int
    last: int


# So many parts of one level become one part of the next.
_FAN = 8
# A part of this size is merged no more: merging takes memory and time by the bytes.
_LARGE_BYTES = 4 * 1024 * 1024


def plan_fold(sources: Sequence[Source], sizes: Mapping[str, int], folded: str | None, objects: int) -> Span | None:
    """Return the offsets that a new part of a live trace should cover, or None while it needs none.

    It takes in all segments at the log's end but the last, once there are more than `objects`, and the
    parts before them as they make a level full: of each level, `objects` times a power of eight, there
    stay seven at most. So a record is written once per level.

    Parameters
    ----------
    sources : sequence of Source
        How the log is read.
    sizes : mapping of str to int
        The files' sizes in bytes; parts that are large already are left as they are.
    folded : str or None
        The part whose rows have no updates any more, if there is one; it is never taken in.
    objects : int
        So many segments may stay.

    Examples
    --------
    >>> segments = [Source(f"{first}.jsonl", first, None) for first in range(1, 5)]
    >>> plan_fold(segments, {}, None, 4), plan_fold(segments, {}, None, 3)
    (None, Span(first=1, last=3))
    """
    parts = [source for source in sources if source.last is not None]
    end = max((part.last for part in parts if part.last is not None), default=0)
    segments = [source for source in sources if source.last is None and not source.superseded and source.first > end]
    if len(segments) <= objects:
        return None
    first, last = segments[0].first, segments[-1].first - 1
    start = len(parts)
    while True:
        level = _level(last - first + 1, objects)
        at = start
        while at and _mergeable(parts[at - 1], sizes, folded) and _level_of(parts[at - 1], objects) < level:
            at -= 1
        same = at
        while same and _mergeable(parts[same - 1], sizes, folded) and _level_of(parts[same - 1], objects) == level:
            same -= 1
        if at - same + 1 >= _FAN:
            at = same
        if at == start:
            return Span(first, last)
        first, start = parts[at].first, at


def _mergeable(part: Source, sizes: Mapping[str, int], folded: str | None) -> bool:
    return part.name != folded and sizes[part.name] < _LARGE_BYTES


def _level_of(part: Source, objects: int) -> int:
    assert part.last is not None
    return _level(part.last - part.first + 1, objects)


def _level(records: int, objects: int) -> int:
    level = 0
    while records >= objects * _FAN ** (level + 1):
        level += 1
    return level


def droppable(plan: LogPlan, parts: Iterable[PartInfo], own: str, end: int, old: Container[str]) -> list[str]:
    """Return the superseded files of an object store that no late writer can rely on.

    A writer may create an object without looking again only right behind its own last record, or at
    the beginning of an empty log. So of the segments only the first one, and those that follow the
    last record of another writer, must stay in its way, until they are so old that nobody knows less.

    Parameters
    ----------
    plan : LogPlan
        How the log is read.
    parts : iterable of PartInfo
        The parts that count.
    own : str
        The writer that asks.
    end : int
        The last offset that it knows; it never creates at or below that.
    old : container of str
        Files that have been there for so long that every writer has looked since.
    """
    lasts: dict[str, int] = {}
    for info in parts:
        for run in info.covers:
            lasts[run.writer] = max(lasts.get(run.writer, 0), run.last)
    lasts.pop(own, None)
    kept = {1, *(last + 1 for last in lasts.values())}
    found: list[str] = []
    for name in plan.superseded:
        parsed = parse_log_name(name)
        in_the_way = isinstance(parsed, SegmentName) and (
            parsed.writer != "" or parsed.first > end or parsed.first in kept
        )
        if name in old or not in_the_way:
            found.append(name)
    return found
