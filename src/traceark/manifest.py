"""The manifest: one line per file of a sealed trace, as `sha256sum` writes and checks them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from traceark.errors import CorruptFileError

_LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)\n")


def encode_manifest(hashes: Mapping[str, str]) -> bytes:
    """Return a manifest's bytes: ``<sha256>  <name>`` per file, by name.

    Examples
    --------
    >>> encode_manifest({"trace.json": "0" * 64})[-13:]
    b'  trace.json\\n'
    """
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


def decode_manifest(data: bytes, what: str) -> dict[str, str]:
    """Return the hashes of a manifest by file name.

    Raises
    ------
    CorruptFileError
        A line is no line of `sha256sum`, or the lines are not those that the archive writes.
    """
    found: dict[str, str] = {}
    position = 0
    while position < len(data):
        match = _LINE.match(data, position)
        if match is None:
            line = data[position : position + 80]
            raise CorruptFileError(f"{what} has the line {line!r}, which is no line of sha256sum")
        position = match.end()
        try:
            found[match[2].decode()] = match[1].decode()
        except UnicodeDecodeError:
            raise CorruptFileError(f"{what} is no text; restore it from a copy, or seal the trace again") from None
    if encode_manifest(found) != data:
        raise CorruptFileError(f"{what} is not byte for byte what the archive writes")
    return found


def sha256(data: bytes) -> str:
    """Return the hash of some bytes as a manifest has it."""
    return hashlib.sha256(data).hexdigest()
