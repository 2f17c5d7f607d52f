"""Change files: what a process tells the others of a trace, and how notes change a row.

Pure. A note says that a process is about to write to a trace (``open``), that it is done and what
the header is now (``settled``), or that the trace is deleted (``gone``). Notes may arrive in any
order; of two rows the one with the higher revision holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from traceark.catalog.rows import GONE, OPEN, SETTLED
from traceark.codec.lines import decode_line, encode_line
from traceark.errors import CorruptFileError
from traceark.models import Json, JsonObject

Kind = Literal["open", "settled", "gone"]
# So many deleted namesakes of a trace are remembered, so that a late note does not bring one back.
_TOMBSTONES = 8


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
            row = record.get("row")
            closes = cast("list[str]", record.get("closes", []))
            return cls(
                cast("Kind", record["note"]),
                str(record["trace_id"]),
                str(record.get("opening", "")),
                tuple(closes),
                row if isinstance(row, dict) else None,
                str(record.get("incarnation", "")),
            )
        except (KeyError, TypeError) as error:
            raise CorruptFileError(f"{what} is no note ({error!r})") from None


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


def changed(row: Mapping[str, Json] | None, notes: Sequence[Note], closed: frozenset[str] | set[str]) -> JsonObject:
    """Return a trace's row after some notes of it.

    Parameters
    ----------
    row : mapping or None
        As it is known.
    notes : sequence of Note
        In any order.
    closed : set of str
        Openings that are known to have ended, whatever comes late.
    """
    known: Mapping[str, Json] = row or {}
    openings = set(cast("list[str]", known.get("_openings") or []))
    gone = list(cast("list[str]", known.get("_gone") or []))
    best = known if known.get("_incarnation") is not None else None
    for note in notes:
        if note.opening:
            openings.add(note.opening)
        if note.incarnation and note.incarnation not in gone:
            gone.append(note.incarnation)
        if note.row is not None and _holds_against(note.row, best, gone):
            best = note.row
    if best is not None and best["_incarnation"] in gone:
        best = None
    openings -= {opening for note in notes for opening in note.closes} | closed
    result: JsonObject = dict(best) if best is not None else {"trace_id": notes[0].trace_id}
    result["_openings"] = cast("Json", sorted(openings))
    result["_gone"] = cast("Json", gone[-_TOMBSTONES:])
    result["_listed"] = best is not None
    result["_state"] = OPEN if openings else GONE if best is None else SETTLED
    return result


def _holds_against(row: Mapping[str, Json], best: Mapping[str, Json] | None, gone: Sequence[str]) -> bool:
    """Whether a row is newer than the best known, or that one's trace was deleted."""
    if best is None or best["_incarnation"] in gone:
        return True
    return cast("int", row["_revision"]) >= cast("int", best["_revision"])
