"""Change files: what a process tells the others of a trace, and how notes change a row.

Pure. A note says that a process is about to write to a trace (``open``), that it is done and what
the header is now (``settled``), or that the trace is deleted (``gone``). Notes of several writers
may arrive in any order; of two rows the one with the higher revision holds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Literal, cast, get_args

from traceark.catalog.rows import COLUMNS, GONE, OPEN, SETTLED
from traceark.codec.fields import TRACES
from traceark.codec.lines import decode_line, encode_line
from traceark.codec.malformed import MALFORMED, stated
from traceark.errors import CorruptFileError
from traceark.models import INT64_MAX, INT64_MIN, Json, JsonObject

Kind = Literal["open", "settled", "gone"]
_KINDS = {column.name: column.kind for column in COLUMNS}
# So many deleted namesakes of a trace are remembered, so that a late note does not bring one back.
_TOMBSTONES = 8


def new_opening(writer: str) -> str:
    """Return the name of a writer's new opening of a trace."""
    return f"{writer}-{int(time.time()):x}-{secrets.token_hex(4)}"


def opened_at(opening: str) -> float:
    """Return when an opening was announced, in seconds since the epoch; 0 for one that nobody did.

    Examples
    --------
    >>> opened_at("5f3a9c21-6553f100-1b2c3d4e"), opened_at("copied")
    (1700000000.0, 0.0)
    """
    return float(int(opening.split("-")[1], 16)) if opening.count("-") == 2 else 0.0


@dataclass(frozen=True, slots=True)
class Note:
    """One change.

    `opening` names the opening that an ``open`` note begins; `closes` those that the others end.
    `row` is the trace's row, where it is ``settled``; `incarnation` what was deleted.
    """

    kind: Kind
    trace_id: str
    opening: str = ""
    closes: tuple[str, ...] = ()
    row: JsonObject | None = field(default=None, compare=False)
    incarnation: str = ""

    @property
    def writer(self) -> str:
        """The process that tells it."""
        return (self.opening or "".join(self.closes[:1])).partition("-")[0]

    def encode(self) -> bytes:
        """Return the note's line."""
        record: JsonObject = {"note": self.kind, "trace_id": self.trace_id}
        if self.opening:
            record["opening"] = self.opening
        if self.closes:
            record["closes"] = cast("Json", list(self.closes))
        if self.row is not None:
            record["row"] = {name: value for name, value in self.row.items() if value is not None}
        if self.incarnation:
            record["incarnation"] = self.incarnation
        return encode_line(record)

    @classmethod
    def decode(cls, line: bytes, what: str) -> Note:
        """Return the note of a line.

        Raises
        ------
        CorruptFileError
        """
        record: JsonObject = decode_line(line, what)
        try:
            return cls(
                _kind(record["note"]),
                stated(record, "trace_id", str),
                _opening(record.get("opening", "")),
                tuple(map(_opening, cast("list[Json]", record.get("closes", [])))),
                _row(record["row"]) if "row" in record else None,
                stated({"incarnation": "", **record}, "incarnation", str),
            )
        except MALFORMED as error:
            raise CorruptFileError(f"{what} is no note ({error!r})") from None


def _kind(told: Json) -> Kind:
    if told not in get_args(Kind):
        raise ValueError("a note of no kind")
    return cast("Kind", told)


def _opening(told: Json) -> str:
    """Return the name of an opening, whose time can be told."""
    opening = stated({"opening": told}, "opening", str)
    opened_at(opening)
    return opening


def _fits(kind: str | None, value: Json) -> bool:
    """Say whether a column can hold a value of a row."""
    if kind == "time":
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    if kind == "texts":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if kind == "int64":
        return type(value) is int and INT64_MIN <= value <= INT64_MAX
    if kind in ("usage", "stats"):
        return isinstance(value, dict)
    if kind == "float64":
        return isinstance(value, int | float) and isfinite(value)
    return kind not in ("text", "bool") or type(value) is (str if kind == "text" else bool)


def _row(told: Json) -> JsonObject:
    """Return a row that can be compared with others, and that a table of rows can hold."""
    row: JsonObject = stated({"row": told}, "row", dict)
    stated(row, "_revision", int)
    stated(row, "_incarnation", str)
    for name, value in row.items():
        if not _fits(_KINDS.get(name), value):
            raise TypeError(f"{name} is none")
    return row


def encode_notes(notes: Iterable[Note]) -> bytes:
    """Return the bytes of a change file."""
    return b"".join(note.encode() for note in notes)


def decode_notes(data: bytes, what: str) -> list[Note]:
    """Return the notes of a change file.

    Raises
    ------
    CorruptFileError
        The file is torn or changed.
    """
    if not data.endswith(b"\n"):
        raise CorruptFileError(f"{what} is torn")
    return [Note.decode(line, what) for line in data.splitlines(keepends=True)]


def changed(known: Mapping[str, Json] | None, notes: Sequence[Note]) -> JsonObject:
    """Return a trace's row after some notes of it.

    Parameters
    ----------
    known : mapping or None
        The row as it is known.
    notes : sequence of Note
        Those of one writer in order, those of several in any.
    """
    known = known or {}
    openings = set(cast("list[str]", known.get("_openings") or []))
    openings |= {note.opening for note in notes if note.opening}
    openings -= {opening for note in notes for opening in note.closes}
    gone = _gone(known, notes)
    rows = _rows(known, notes, gone)
    best = max(rows, key=lambda row: cast("int", row["_revision"])) if rows else None
    result: JsonObject = dict(best) if best is not None else {"trace_id": notes[0].trace_id}
    result["_openings"] = cast("Json", sorted(openings))
    result["_gone"] = cast("Json", gone[-_TOMBSTONES:])
    result["_listed"] = best is not None
    result["_state"] = OPEN if openings else GONE if best is None else SETTLED
    return result


def is_doubtful(known: Mapping[str, Json] | None, notes: Sequence[Note]) -> bool:
    """Say whether only the directory can tell which of several rows holds.

    So it is when hands removed a trace that a store then made anew, when a note took long, and when
    what was deleted is added again.
    """
    known = known or {}
    gone = _gone(known, notes)
    if _is_back(notes, gone):
        return True
    rows = _rows(known, notes, gone)
    newest = max((cast("int", row["_revision"]) for row in rows), default=0)
    told = [_told(row) for row in rows if row["_revision"] == newest]
    return len({row["_incarnation"] for row in rows}) > 1 or any(each != told[0] for each in told)


def _is_back(notes: Sequence[Note], gone: Sequence[str]) -> bool:
    """Say whether a writer tells of a trace that was deleted, and not its deletion after that."""
    last: dict[tuple[str, object], bool] = {}
    for note in notes:
        if note.incarnation:
            last[note.writer, note.incarnation] = False
        elif note.row is not None:
            last[note.writer, note.row.get("_incarnation")] = True
    return any(there and incarnation in gone for (_, incarnation), there in last.items())


def _gone(known: Mapping[str, Json], notes: Sequence[Note]) -> list[str]:
    gone = list(cast("list[str]", known.get("_gone") or []))
    return gone + [note.incarnation for note in notes if note.incarnation and note.incarnation not in gone]


def _rows(known: Mapping[str, Json], notes: Sequence[Note], gone: Sequence[str]) -> list[Mapping[str, Json]]:
    """Return all rows that are told of a trace that was not deleted."""
    rows = [known, *(note.row for note in notes if note.row is not None)]
    return [row for row in rows if row.get("_incarnation") is not None and row["_incarnation"] not in gone]


def _told(row: Mapping[str, Json]) -> JsonObject:
    """Return what a row says of the trace, whichever way it was read."""
    names = (*(column.name for column in TRACES), "_tree", "_sealed")
    return {name: row[name] for name in names if row.get(name) is not None}
