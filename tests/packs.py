"""Zips and tars made by hand, so that they may say whatever they like of themselves."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

PLAIN_FILE = 0o100644


@dataclass(frozen=True)
class ZipMember:
    """A member of a zip; what is None is as it should be."""

    name: str
    data: bytes = b"{}"
    method: int = 8
    flags: int = 0
    mode: int = PLAIN_FILE
    size: int | None = None
    crc: int | None = None
    compressed: bytes | None = None
    local_name: str | None = None
    at: int | None = None

    def content(self) -> bytes:
        """Return the bytes that lie in the zip."""
        if self.compressed is not None:
            return self.compressed
        if self.method != 8:
            return self.data
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(self.data) + deflater.flush()

    def fields(self) -> tuple[int, ...]:
        """Return what both headers say."""
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        return 20, self.flags, self.method, 0, 33, crc, len(self.content()), size

    def local(self) -> bytes:
        """Return the member with its own header."""
        name = (self.local_name or self.name).encode()
        return struct.pack("<4s5H3L2H", b"PK\3\4", *self.fields(), len(name), 0) + name + self.content()

    def central(self, offset: int) -> bytes:
        """Return what the directory says of it."""
        name = self.name.encode()
        at = offset if self.at is None else self.at
        fixed = (b"PK\1\2", 0x0314, *self.fields(), len(name), 0, 0, 0, 0, self.mode << 16, at)
        return struct.pack("<4s6H3L5H2L", *fixed) + name


def write_zip(
    path: Path,
    members: Sequence[ZipMember],
    *,
    count: int | None = None,
    before_end: bytes = b"",
    end: Mapping[str, int] | None = None,
) -> Path:
    """Write a zip; `end` changes what its end says of the directory, its `size` and `start`, and of a `comment`."""
    data, directory = b"", b""
    for member in members:
        directory += member.central(len(data))
        data += member.local()
    told = len(members) if count is None else count
    said = {"size": len(directory), "start": len(data), "comment": 0, **(end or {})}
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, told, told, said["size"], said["start"], said["comment"])
    path.write_bytes(data + directory + before_end + last)
    return path


@dataclass(frozen=True)
class TarMember:
    """A member of a tar."""

    name: str
    data: bytes = b"{}"
    type: bytes = tarfile.REGTYPE
    linkname: str = ""
    size: int | None = None

    def header(self) -> bytes:
        """Return its header."""
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname = self.type, self.linkname
        info.size = len(self.data) if self.size is None else self.size
        return info.tobuf(tarfile.GNU_FORMAT)


def write_tar(path: Path, members: Sequence[TarMember], end: bytes = bytes(1024)) -> Path:
    """Write a compressed tar."""
    out = io.BytesIO()
    for member in members:
        out.write(member.header())
        out.write(member.data + bytes(-len(member.data) % 512))
    out.write(end)
    path.write_bytes(compressed(out.getvalue()))
    return path


def compressed(data: bytes) -> bytes:
    """Return bytes in one frame of Zstandard."""
    out = pa.BufferOutputStream()
    stream = pa.CompressedOutputStream(out, "zstd")
    stream.write(data)
    stream.close()
    found: Any = out.getvalue().to_pybytes()
    return bytes(found)
