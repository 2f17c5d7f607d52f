"""What to read of a log, and what is superseded: from names and parts' metadata alone.

Pure: no I/O. A plan lists sources in the order of their offsets. Where two parts overlap, rows
are taken by offset, and the parts must tell the same story of who wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
            ours, theirs = parts[left], parts[right]
            for run in ours.covers:
                for other in theirs.covers:
                    first, last = max(run.first, other.first), min(run.last, other.last)
                    if first <= last and run.writer != other.writer:
                        raise diverged(what, first, left, right)


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
    """Return the last offset of a segment that a part lists, or None if no part knows it."""
    ends = [
        run.last
        for info in parts
        for run in info.covers
        if run.first <= segment.first <= run.last and segment.writer in ("", run.writer)
    ]
    return max(ends, default=None)
