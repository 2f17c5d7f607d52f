"""Zip files: written always alike, and read strictly.

Of a zip that is read every byte belongs to one thing: members lie one after the other from its first
byte, the directory follows, then the end (APPNOTE 6.3). So nothing overlaps, nothing hides, and the
directory and the members' own headers agree. Python's reader is more lenient than that.
"""

from __future__ import annotations

import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from traceark.packed.members import CHUNK_BYTES, MOMENT, Member, Meter

_UNIX, _PLAIN_FILE = 3, 0o100644 << 16
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_MOST_COMMENT = 0xFFFF
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_EXTRA_64 = 1
_ENCRYPTED, _DESCRIBED, _PATCHED, _STRONG, _UTF_8, _MASKED = 1, 8, 32, 64, 1 << 11, 1 << 13
_STORED, _DEFLATED = 0, 8
# With and without its signature, with sizes of 32 and of 64 bits.
_DESCRIPTORS = (12, 16, 20, 24)
_KIND, _FILE, _DIRECTORY = 0o170000, 0o100000, 0o040000


class ZipWriter:
    """Writes members so that the same ones give the same bytes.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> writer = ZipWriter(file)
    >>> writer.add("traces/run-7/trace.json", b"{}")
    >>> writer.close()
    >>> zipfile.ZipFile(file).namelist()
    ['traces/run-7/trace.json']
    """

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w")

    def add(self, name: str, data: bytes) -> None:
        """Add a member."""
        info = zipfile.ZipInfo(name, time.gmtime(MOMENT)[:6])
        info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
        # Parts are compressed already.
        info.compress_type = zipfile.ZIP_STORED if name.endswith(".parquet") else zipfile.ZIP_DEFLATED
        self._zip.writestr(info, data, compresslevel=6)

    def close(self) -> None:
        """Write the directory."""
        self._zip.close()


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    is_directory: bool


def read_zip(file: BinaryIO, meter: Meter) -> Iterator[Member]:
    """Yield the files of a zip, in the order in which they lie there.

    Raises
    ------
    PackError
        It is no zip, a damaged one, or not such as a pack may be.
    """
    entries, end = _directory(file, meter)
    position = 0
    for at, entry in enumerate(entries):
        following = entries[at + 1].offset if at + 1 < len(entries) else end
        if entry.offset != position:
            raise meter.refused("does not begin where the one before it ends", entry.name)
        begin = _check_local(file, entry, meter)
        gap = following - begin - entry.packed
        if gap and not (entry.flags & _DESCRIBED and gap in _DESCRIPTORS):
            raise meter.refused("overlaps with another, or something hides behind it", entry.name)
        position = following
        if not entry.is_directory:
            yield Member(entry.name, _content(file, entry, begin, meter))
    if position != end:
        raise meter.refused("has something before its directory that is no member")


def _directory(file: BinaryIO, meter: Meter) -> tuple[Sequence[_Entry], int]:
    """Return what the directory says, in the order in which the members lie, and where it begins."""
    count, size, start = _end(file, meter)
    meter.announced(count)
    file.seek(start)
    left = size
    found: list[_Entry] = []
    while left:
        fixed = _read(file, min(_CENTRAL.size, left), meter)
        if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\1\2"):
            raise meter.refused("has a directory that is damaged")
        fields = _CENTRAL.unpack(fixed)
        variable = sum(fields[10:13])
        left -= _CENTRAL.size + variable
        if left < 0:
            raise meter.refused("has a directory that is damaged")
        found.append(_entry(fields, _read(file, variable, meter), meter))
    if len(found) != count:
        raise meter.refused(f"says that it has {count:,} members, and has {len(found):,}")
    found.sort(key=lambda entry: entry.offset)
    return found, start


def _end(file: BinaryIO, meter: Meter) -> tuple[int, int, int]:
    """Return how many members there are, and the size and the beginning of the directory."""
    tail_start = max(meter.size - _END.size - _MOST_COMMENT - _LOCATOR_64.size - _END_64.size, 0)
    file.seek(tail_start)
    tail = file.read(meter.size - tail_start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise meter.refused("is no zip, or its end is missing")
    _, disk, first_disk, count_here, count, size, start, comment = _END.unpack_from(tail, at)
    if len(tail) - at - _END.size != comment:
        raise meter.refused("goes on behind its end, or is cut off")
    end = tail_start + at
    told: tuple[int, ...] = (disk, first_disk, count_here, count, size, start)
    locator = at - _LOCATOR_64.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        end -= _LOCATOR_64.size + _END_64.size
        told = _end_64(tail, locator, end, told, meter)
    disk, first_disk, count_here, count, size, start = told
    if disk or first_disk or count_here != count:
        raise meter.refused("is one of several parts of a zip")
    if start + size != end:
        raise meter.refused("has a directory that is not where it says, or something before its first member")
    return count, size, start


def _end_64(tail: bytes, locator: int, end: int, told: tuple[int, ...], meter: Meter) -> tuple[int, ...]:
    """Return what the end of a large zip says, where it does not contradict the other one."""
    _, disk_of_end, offset, disks = _LOCATOR_64.unpack_from(tail, locator)
    at = locator - _END_64.size
    if at < 0 or not tail.startswith(b"PK\6\6", at) or offset != end or disk_of_end or disks > 1:
        raise meter.refused("has an end that is damaged")
    _, size_of_end, _, _, *large = _END_64.unpack_from(tail, at)
    if size_of_end != _END_64.size - 12:
        raise meter.refused("has an end that is damaged")
    for small, each, full in zip(told, large, (*[_FULL_16] * 4, *[_FULL_32] * 2), strict=True):
        if small not in (each, full):
            raise meter.refused("says two different things of where its directory is")
    return tuple(large)


def _entry(fields: tuple[int, ...], variable: bytes, meter: Meter) -> _Entry:
    flags, method, crc, packed, size, length, extra, _, disk, _, attributes, offset = fields[3], fields[4], *fields[7:]
    raw_name = variable[:length]
    try:
        name = raw_name.decode("utf-8" if flags & _UTF_8 else "cp437")
    except UnicodeDecodeError:
        raise meter.refused(f"has a member whose name {raw_name[:80]!r} is no text") from None
    is_directory = name.endswith("/")
    name = meter.entered(name)
    if flags & (_ENCRYPTED | _STRONG | _MASKED):
        raise meter.refused("is encrypted", name)
    if flags & _PATCHED or method not in (_STORED, _DEFLATED):
        raise meter.refused(f"is compressed by method {method}, which is not stored or deflated", name)
    kind = attributes >> 16 & _KIND
    if kind not in (0, _DIRECTORY if is_directory else _FILE):
        raise meter.refused("is a link, a device or the like, and no plain file", name)
    size, packed, offset, disk = _large(
        variable[length : length + extra],
        ((size, _FULL_32), (packed, _FULL_32), (offset, _FULL_32), (disk, _FULL_16)),
        name,
        meter,
    )
    if disk:
        raise meter.refused("lies in another part of the zip", name)
    if is_directory and (size or packed > 2):
        raise meter.refused("is a directory with content", name)
    if size > meter.limits.bytes:
        raise meter.refused(f"says that it has {size:,} bytes", name)
    return _Entry(name, raw_name, flags, method, crc, packed, size, offset, is_directory)


def _large(extra: bytes, told: Sequence[tuple[int, int]], name: str, meter: Meter) -> list[int]:
    """Return numbers, those that had no room from the field that has it."""
    found: bytes | None = None
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _EXTRA_64:
            if found is not None:
                raise meter.refused("says its size twice", name)
            found = extra[4 : 4 + length]
        extra = extra[4 + length :]
    numbers: list[int] = []
    at = 0
    for number, full in told:
        if number == full and found is not None:
            form = struct.Struct("<Q" if full == _FULL_32 else "<L")
            if len(found) < at + form.size:
                raise meter.refused("has a size that is damaged", name)
            [number] = form.unpack_from(found, at)
            at += form.size
        numbers.append(number)
    return numbers


def _check_local(file: BinaryIO, entry: _Entry, meter: Meter) -> int:
    """Return where a member's bytes begin, if its own header says what the directory says."""
    file.seek(entry.offset)
    fixed = _read(file, _LOCAL.size, meter)
    signature, _, flags, method, _, _, crc, packed, size, length, extra = _LOCAL.unpack(fixed)
    variable = _read(file, length + extra, meter)
    if signature != b"PK\3\4" or variable[:length] != entry.raw_name:
        raise meter.refused("is not where the directory says", entry.name)
    size, packed = _large(variable[length:], ((size, _FULL_32), (packed, _FULL_32)), entry.name, meter)
    described = flags & _DESCRIBED and not (crc or packed or size)
    if (flags, method) != (entry.flags, entry.method) or not (
        described or (crc, packed, size) == (entry.crc, entry.packed, entry.size)
    ):
        raise meter.refused("says other things of itself than the directory does", entry.name)
    return entry.offset + _LOCAL.size + len(variable)


def _content(file: BinaryIO, entry: _Entry, begin: int, meter: Meter) -> Iterator[bytes]:
    size = crc = 0
    for chunk in (
        _stored(file, entry, begin, meter) if entry.method == _STORED else _inflated(file, entry, begin, meter)
    ):
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
        if size > entry.size:
            raise meter.refused(f"has more than the {entry.size:,} bytes that it says", entry.name)
        meter.came_out(len(chunk), entry.name)
        yield chunk
    if size != entry.size:
        raise meter.refused(f"has {size:,} bytes, and says {entry.size:,}", entry.name)
    if crc != entry.crc:
        raise meter.refused("is damaged: its checksum is another", entry.name)


def _stored(file: BinaryIO, entry: _Entry, begin: int, meter: Meter) -> Iterator[bytes]:
    for at in range(begin, begin + entry.packed, CHUNK_BYTES):
        file.seek(at)
        yield _read(file, min(CHUNK_BYTES, begin + entry.packed - at), meter)


def _inflated(file: BinaryIO, entry: _Entry, begin: int, meter: Meter) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    behind = False
    try:
        for chunk in _stored(file, entry, begin, meter):
            behind = inflater.eof
            waiting = chunk
            while waiting and not inflater.eof:
                if data := inflater.decompress(waiting, CHUNK_BYTES):
                    yield data
                waiting = inflater.unconsumed_tail
        while not inflater.eof and (data := inflater.decompress(b"", CHUNK_BYTES)):
            yield data
    except zlib.error as error:
        raise meter.refused(f"is damaged: {error}", entry.name) from None
    if not inflater.eof or inflater.unused_data or behind:
        raise meter.refused("is damaged: it ends before or after its compressed bytes do", entry.name)


def _read(file: BinaryIO, size: int, meter: Meter) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise meter.refused("is cut off")
    return data
