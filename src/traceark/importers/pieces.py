"""Traces that come in pieces: spread over files, or told again when more of them was known.

A source tells such a trace in records, and each of them is an event. A trace is put together from all that was
told of it so far, wherever it came from and in whatever order, so that the archive's own events are pieces like any
other. It knows no format, which says what a record means, and no storage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceark.importers.base import ImportCounts, SourceEvent, SourceTrace, asked
from traceark.importers.otel_span import id_of
from traceark.importers.span import Span
from traceark.models import Event, Json, JsonObject

SPAN = "span"
# A key of a record, not one that a text quotes.
_NAMED = re.compile(rb'"trace_?id"\s*:\s*"([^"\\]+)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A record of a trace.

    Attributes
    ----------
    kind : str
        ``span``, or what else it speaks of; the second part of the type of its event.
    record : JSON
    around : tuple of (kind, JSON)
        What stands around it, such as a resource, the outermost first.
    parsed : object, optional
        What its format has read out of it already.
    """

    kind: str
    record: Json
    around: tuple[tuple[str, Json], ...] = ()
    parsed: object = None

    def key(self) -> str:
        """Return what tells it from other records."""
        return hashlib.sha256(json.dumps([self.kind, self.record], sort_keys=True).encode()).hexdigest()


class PieceFormat(Protocol):
    """What a format says of the records that make a trace."""

    name: str
    # Kinds of records; what is of another kind stands around some.
    records: frozenset[str]

    def put_together(self, trace_id: str, pieces: Sequence[Piece], path: Path, counts: ImportCounts) -> SourceTrace:
        """Return the trace that records tell in whatever order they come."""
        ...

    def endings(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Span]]:
        """Yield the ids of spans that have ended, and what a record says of each; later ones may only add to it."""
        ...


@runtime_checkable
class InPieces(Protocol):
    """An importer whose traces come in pieces."""

    def pieced(self, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        """Yield what a file tells of each trace; what belongs to none is named in `counts`."""
        ...


@dataclass(slots=True)
class PiecedTrace:
    """What is told of one trace.

    Attributes
    ----------
    format : PieceFormat
    trace_id : str
    path : Path
        The file that told of it last.
    pieces : list of Piece
    fresh : list of SourceEvent
        Of one that was joined to what was told before: the events that it adds.
    counts : ImportCounts
        What was found when it was put together.
    """

    format: PieceFormat
    trace_id: str
    path: Path
    pieces: list[Piece] = field(default_factory=list)
    fresh: list[SourceEvent] = field(default_factory=list)
    counts: ImportCounts = field(default_factory=ImportCounts)

    def source(self) -> SourceTrace:
        """Put the trace together.

        Raises
        ------
        ImportFailedError
            The format failed.
        """
        self.counts = ImportCounts()
        with asked(self.format.name):
            source = self.format.put_together(self.trace_id, self.pieces, self.path, self.counts)
        spans = [piece.key() for piece in self.pieces if piece.kind == SPAN]
        others = {piece.key() for piece in self.pieces if piece.kind != SPAN and piece.kind in self.format.records}
        # The same for the same records in any order.
        keys = sorted((*spans, *others))
        total = hashlib.sha256("".join(keys).encode()).hexdigest()
        source.digests = [*keys[:-1], total]
        source.file_rows = len(keys)
        source.pieced = self
        # Another telling of a span is none of its own, even where it has another name.
        source.positional = True
        return source

    def after(self, earlier: Sequence[Piece]) -> PiecedTrace | None:
        """Return what was told before and this together; None where both tell the end of a span, and not the same.

        Raises
        ------
        ImportFailedError
            The format failed.
        """
        with asked(self.format.name):
            if _disagree(self.format.endings(earlier), self.format.endings(self.pieces)):
                return None
        told = Counter(piece.key() for piece in earlier)
        around: dict[str, Json] = {}
        stood: set[str] = set()
        for _, changes, _ in replayed(earlier):
            around.update(changes)
            stood.update(Piece(kind, record).key() for kind, record in changes)
        joined = PiecedTrace(self.format, self.trace_id, self.path, [*earlier])
        for piece in self.pieces:
            key = piece.key()
            if told[key]:
                told[key] -= piece.kind == SPAN
                for beside in (Piece(kind, record) for kind, record in piece.around):
                    # What stood around it there may say more than what did here.
                    if beside.record and beside.key() not in stood:
                        stood.add(beside.key())
                        around[beside.kind] = beside.record
                        joined.pieces.append(beside)
                        joined.fresh.append(SourceEvent(f"{self.format.name}.{beside.kind}", beside.record))
                continue
            joined.pieces.append(piece)
            joined.fresh += _events(self.format.name, piece, around)
        return joined


def sources_of(traces: Iterable[PiecedTrace], counts: ImportCounts) -> Iterator[SourceTrace]:
    """Yield the traces of a file by itself."""
    for trace in traces:
        source = trace.source()
        counts.add(trace.counts)
        yield source


def pieces_of(name: str, events: Iterable[Event]) -> list[Piece]:
    """Return the pieces of a trace as the events of the archive have them."""
    begin = f"{name}."
    return [
        Piece(each.event_type.removeprefix(begin), each.payload) for each in events if each.event_type.startswith(begin)
    ]


def replayed(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, tuple[tuple[str, Json], ...], dict[str, Json]]]:
    """Yield each piece, what it says stands around what follows, and all that stands around it."""
    around: dict[str, Json] = {}
    for piece in pieces:
        told = piece.around if piece.kind == SPAN else (*piece.around, (piece.kind, piece.record))
        around.update(told)
        yield piece, told, around


def fullest(records: Iterable[Json]) -> JsonObject | None:
    """Return the record that says most, of those that say the same of a trace at different times."""
    told = [each for each in records if isinstance(each, dict)]
    return max(told, key=lambda each: (str(each.get("updatedAt", "")), *_size(each)), default=None)


def _size(record: JsonObject) -> tuple[int, str]:
    text = json.dumps(record, sort_keys=True)
    return len(text), text


def traces_named(path: Path) -> set[str]:
    """Return the ids of traces that a file names; those that it makes of others are not among them."""
    try:
        data = path.read_bytes()
    except OSError:
        # It is told when the file is taken.
        return set()
    return {trace_key(each.decode("utf-8", "surrogateescape")) for each in set(_NAMED.findall(data))}


def spread(named: Sequence[set[str]]) -> dict[str, int]:
    """Return the traces that more than one file names, with the last of these.

    Examples
    --------
    >>> spread([{"a", "b"}, {"a"}, {"c"}])
    {'a': 1}
    """
    times = Counter(each for names in named for each in names)
    return {each: place for place, names in enumerate(named) for each in names if times[each] > 1}


def together(named: Sequence[set[str]]) -> list[list[int]]:
    """Return groups of files that share traces, directly or through others, in their order.

    Examples
    --------
    >>> together([{"a"}, {"b"}, {"a", "c"}, {"c"}])
    [[0, 2, 3], [1]]
    """
    group_of: dict[str, list[int]] = {}
    groups: dict[int, list[int]] = {}
    for place, names in enumerate(named):
        sharing = {id(group): group for name in names if (group := group_of.get(name)) is not None}
        joined = max(sharing.values(), key=len, default=[])
        for group in sharing.values():
            if group is not joined:
                joined += group
                del groups[id(group)]
                group_of.update((name, joined) for each in group for name in named[each])
        joined.append(place)
        groups[id(joined)] = joined
        group_of.update(dict.fromkeys(names, joined))
    return sorted(sorted(group) for group in groups.values())


def trace_key(trace_id: str) -> str:
    """Return a trace id as `traces_named` has it, in whatever way it is told."""
    return id_of(trace_id) or trace_id


def _disagree(earlier: Iterable[tuple[str, Span]], later: Iterable[tuple[str, Span]]) -> bool:
    told: dict[str, list[Span]] = {}
    for span_id, ending in earlier:
        told.setdefault(span_id, []).append(ending)
    unlike: set[str] = set()
    alike: set[str] = set()
    for span_id, ending in later:
        if span_id in told:
            (alike if any(ending.agrees(each) for each in told[span_id]) else unlike).add(span_id)
    return bool(unlike - alike)


def _events(name: str, piece: Piece, around: dict[str, Json]) -> Iterator[SourceEvent]:
    """Yield the events of a record, after what stands around it where that is not as before."""
    own = () if piece.kind == SPAN else ((piece.kind, piece.record),)
    for kind, told in (*piece.around, *own):
        if around.get(kind, {}) != told:
            around[kind] = told
            yield SourceEvent(f"{name}.{kind}", told)
    if piece.kind == SPAN:
        yield SourceEvent(f"{name}.{SPAN}", piece.record)
