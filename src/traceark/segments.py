"""Segments: which of their bytes are whole records, and where readings of them ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from traceark.codec.lines import proven_record, proves_itself
from traceark.codec.parquet import PartRecord
from traceark.errors import CorruptFileError
from traceark.layout import SegmentName, parse_log_name
from traceark.plan import Source
from traceark.storage.base import AppendStorage, Storage

# Where a power loss left a block unwritten there are zeros up to the end of a sector;
# JSON text never holds one.
_HOLE = re.compile(rb"\0{8,}")
_SECTOR = 512
# What a line ends with: its CRC, a quote, a brace and the line feed.
_PROOF_BYTES = 11
# Readers of one log are seldom at more places than this, nor are more segments followed at a time.
_KNOWN_PLACES, _KNOWN_SEGMENTS = 16, 1_000


@dataclass(slots=True)
class Segment:
    """What a segment's bytes hold: whole records, how many, who wrote the first, and their size in bytes.

    `after` is the ``_crc`` that the first record names as that of the record before it, `crc` that
    of the last record.
    """

    records: list[PartRecord]
    count: int
    writer: str
    size: int
    torn: bool
    after: str | None = None
    crc: str | None = None


def parse_segment(data: bytes, what: str, first: int, incarnation: str, after: int = 0, at: int = 0) -> Segment:
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
    after : int
        Records up to this offset have been read before; they are counted, and not looked into.
    at : int
        Where in the file the bytes begin.

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
    first_writer = ""
    after_crc = crc = None
    position = 0
    offset = first
    while position < len(data):
        end = data.find(b"\n", position)
        if end >= 0 and first < offset <= after:
            crc = data[end - 10 : end - 2].decode()
            position, offset = end + 1, offset + 1
            continue
        # What does not end is not copied: it may be most of the memory that there is.
        line = data[position:end] if end >= 0 else b""
        if not proves_itself(line):
            _check_torn(data, position, what, offset, at)
            return Segment(records, offset - first, first_writer, position, True, after_crc, crc)
        record = proven_record(line, f"{what}, offset {offset}")
        if record.pop("_offset", None) != offset:
            raise CorruptFileError(f"{what} holds another offset where {offset} belongs; restore the file from a copy")
        writer, op, follows = (record.pop(name, None) for name in ("_writer", "_op", "_after"))
        if not (isinstance(writer, str) and isinstance(op, str | None) and isinstance(follows, str | None)):
            raise CorruptFileError(
                f"{what}, offset {offset}: _writer, _op or _after is no text; restore it from a copy"
            )
        if writer[:8] != incarnation:
            raise CorruptFileError(f"{what}, offset {offset}: the record is of another incarnation of the trace")
        first_writer = first_writer or writer[9:]
        crc = line[-10:-2].decode()
        if offset == first:
            after_crc = follows
        if offset > after:
            records.append(PartRecord(offset, op, record, None, crc))
        position, offset = end + 1, offset + 1
    return Segment(records, offset - first, first_writer, position, False, after_crc, crc)


def _check_torn(data: bytes, position: int, what: str, offset: int, at: int) -> None:
    """Refuse a broken line that whole ones follow, unless a power loss explains it by a hole."""
    end = data.find(b"\n", position)
    if end < 0:
        return
    if any((at + hole.end()) % _SECTOR == 0 for hole in _HOLE.finditer(data, position, end)):
        return
    if any(proves_itself(line) for line in data[end + 1 :].split(b"\n")):
        raise CorruptFileError(
            f"{what}: the record at offset {offset} ({data[position : position + 60]!r}…) does not prove itself, "
            "though later ones do; restore the file from a copy"
        )


class Place(NamedTuple):
    """Where in a segment a whole record ends; `crc` is its ``_crc``, `after` and `writer` are the first record's."""

    offset: int
    position: int
    crc: str
    after: str | None
    writer: str


class Places:
    """Where in segments on a local disk readings ended, so that a reader that follows a log reads only what came."""

    def __init__(self) -> None:
        self._known: dict[str, list[Place]] = {}

    async def continued(
        self, storage: Storage, key: str, source: Source, incarnation: str, after: int
    ) -> Segment | None:
        """Return a segment without its records up to a place that is remembered, though all are counted.

        None where no such place is known, or the file is not what it was there; parameters as of `read_log`.
        """
        before = [place for place in self._known.get(key, ()) if place.offset <= after]
        if not before or source.superseded:
            return None
        place = before[-1]
        data = await storage.read(key, place.position - _PROOF_BYTES)
        if data[:_PROOF_BYTES] != f'{place.crc}"}}\n'.encode():
            del self._known[key]
            return None
        data = data[_PROOF_BYTES:]
        came = parse_segment(data, key, place.offset + 1, incarnation, after, place.position)
        count = place.offset - source.first + 1 + came.count
        size = place.position + came.size
        return Segment(came.records, count, place.writer, size, came.torn, place.after, came.crc or place.crc)

    def remember(self, storage: Storage, key: str, source: Source, segment: Segment) -> None:
        """Remember where the whole records of a segment end."""
        name = parse_log_name(source.name)
        if not isinstance(storage, AppendStorage) or segment.crc is None or not isinstance(name, SegmentName):
            return
        if source.superseded or source.first != name.first:
            return
        if len(self._known) > _KNOWN_SEGMENTS:
            self._known.clear()
        known = self._known.setdefault(key, [])
        place = Place(name.first + segment.count - 1, segment.size, segment.crc, segment.after, segment.writer)
        if place not in known:
            known.append(place)
            known.sort()
            del known[:-_KNOWN_PLACES]
