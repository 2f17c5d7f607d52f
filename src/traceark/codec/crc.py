"""The CRC-32 of a file, as names and headers tell it."""

from __future__ import annotations

import zlib
from pathlib import Path

_PIECE_BYTES = 1 << 20


def file_crc(path: Path) -> str:
    """Return the CRC-32 of a file's bytes, in eight hexadecimal digits, in little memory however large it is.

    Raises
    ------
    OSError

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "numbers")
    >>> _ = path.write_bytes(b"123456789")
    >>> file_crc(path)
    'cbf43926'
    """
    crc = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"
