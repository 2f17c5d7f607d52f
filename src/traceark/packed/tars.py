"""Tar files compressed with Zstandard: written always alike, and read strictly.

pyarrow, which the archive needs anyhow, brings Zstandard along; it writes no checksum of the content, so a
skippable frame (RFC 8878, 3.1.2), which other programs pass over, ends the file with a hash of all before it.
Python's own reader of tars takes headers of any size into memory; here they are read as POSIX.1-2017
(pax) and GNU tar write them, and nothing but plain files and directories is taken.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from traceark.packed.members import CHUNK_BYTES, MOMENT, Member, Meter

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# Of the sixteen numbers that a skippable frame may have.
_SEAL = struct.Struct("<2L32s")
_SEAL_MAGIC, _SEAL_BYTES = 0x184D2A5E, 32
_LONGEST_HEADER = 1 << 16
_PAX_RECORD = 32


class TarWriter:
    """Writes members so that the same ones give the same bytes.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> writer = TarWriter(file)
    >>> writer.add("traces/run-7/trace.json", b"{}")
    >>> writer.close()
    >>> file.getvalue()[:4].hex()
    '28b52ffd'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._hashed = _Hashed(file)
        self._out = pa.CompressedOutputStream(pa.PythonFile(self._hashed, mode="w"), "zstd")

    def add(self, name: str, data: bytes) -> None:
        """Add a member."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), MOMENT, 0o644
        self._out.write(info.tobuf(tarfile.PAX_FORMAT))
        self._out.write(data)
        self._out.write(bytes(-len(data) % _BLOCK))

    def close(self) -> None:
        """Write the end, and the hash."""
        self._out.write(_ZEROS * 2)
        self._out.close()
        self._hashed.seal()


class _Hashed(io.RawIOBase):
    """A file that is written to, and hashed; closing it leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def seal(self) -> None:
        self._file.write(_SEAL.pack(_SEAL_MAGIC, _SEAL_BYTES, self._hash.digest()))


class _Beginning(io.RawIOBase):
    """The first bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class _Stream:
    """What comes out of the compressed file."""

    def __init__(self, file: BinaryIO, size: int, meter: Meter) -> None:
        self.meter = meter
        self._stream = pa.CompressedInputStream(pa.PythonFile(_Beginning(file, size), mode="r"), "zstd")

    def read(self, size: int, name: str) -> bytes:
        """Return so many bytes, fewer only at the end."""
        pieces = []
        try:
            while size and (piece := self._stream.read(min(size, CHUNK_BYTES))):
                self.meter.came_out(len(piece), name)
                pieces.append(piece)
                size -= len(piece)
        except OSError as error:
            raise self.meter.refused(f"cannot be decompressed: {error}") from None
        return b"".join(pieces)

    def exactly(self, size: int, name: str) -> bytes:
        """Return so many bytes."""
        data = self.read(size, name)
        if len(data) != size:
            raise self.meter.refused("is cut off", name)
        return data


def read_tar(file: BinaryIO, meter: Meter) -> Iterator[Member]:
    """Yield the files of a compressed tar; what is left unread of one is passed over.

    Raises
    ------
    PackError
        It is no such file, a damaged one, or not such as a pack may be.
    """
    stream = _Stream(file, _sealed_size(file, meter), meter)
    name = ""
    while (block := stream.exactly(_BLOCK, name)) != _ZEROS:
        header, given = _header(block, meter), _Given()
        while header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            given = _given(header, stream, given)
            header = _header(stream.exactly(_BLOCK, header.name), meter)
        size = header.size if given.size is None else given.size
        name = meter.entered(header.name if given.name is None else given.name)
        if header.type == tarfile.DIRTYPE:
            if size:
                raise meter.refused("is a directory with content", name)
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise meter.refused("is a link, a device or the like, and no plain file", name)
        if size < 0 or size > meter.limits.bytes:
            raise meter.refused(f"says that it has {size:,} bytes", name)
        chunks = _content(stream, size, name)
        yield Member(name, chunks)
        for _ in chunks:
            pass
    while data := stream.read(CHUNK_BYTES, name):
        if data.count(0) != len(data):
            raise meter.refused("goes on behind its end")


def _sealed_size(file: BinaryIO, meter: Meter) -> int:
    """Return how many bytes lie before the hash, if that is right; all of them where there is none."""
    before = meter.size - _SEAL.size
    if before < 0:
        return meter.size
    file.seek(before)
    magic, size, digest = _SEAL.unpack(file.read(_SEAL.size))
    file.seek(0)
    if (magic, size) != (_SEAL_MAGIC, _SEAL_BYTES):
        return meter.size
    left, found = before, hashlib.sha256()
    while left and (data := file.read(min(CHUNK_BYTES, left))):
        found.update(data)
        left -= len(data)
    if found.digest() != digest:
        raise meter.refused("is damaged: its checksum is another")
    file.seek(0)
    return before


def _header(block: bytes, meter: Meter) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise meter.refused(f"is no tar, or a damaged one: {error}") from None


class _Given:
    """What headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None


def _given(header: tarfile.TarInfo, stream: _Stream, given: _Given) -> _Given:
    if not 0 < header.size <= _LONGEST_HEADER:
        raise stream.meter.refused(f"has a header of {header.size:,} bytes", header.name)
    data = stream.exactly(header.size, header.name)
    stream.exactly(-header.size % _BLOCK, header.name)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        given.name = os.fsdecode(data.removesuffix(b"\0"))
        return given
    while data:
        length, space, _ = data[:_PAX_RECORD].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
            raise stream.meter.refused("has a header that is damaged", header.name)
        word, equals, value = data[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise stream.meter.refused("has a header that is damaged", header.name)
        data = data[int(length) :]
        if word == b"path":
            given.name = os.fsdecode(value[:-1])
        elif word == b"size":
            if not value[:-1].isdigit() or len(value) > 20:
                raise stream.meter.refused("has a header that is damaged", header.name)
            given.size = int(value)
        elif word == b"linkpath" or word.startswith(b"GNU.sparse"):
            raise stream.meter.refused("is a link or has holes, and is no plain file", header.name)
    return given


def _content(stream: _Stream, size: int, name: str) -> Iterator[bytes]:
    for at in range(0, size, CHUNK_BYTES):
        yield stream.exactly(min(CHUNK_BYTES, size - at), name)
    stream.exactly(-size % _BLOCK, name)
