"""Tombstones: what is left of a deleted trace, so that no later sync brings it back.

One file per deleted incarnation, written once and without any of the trace's content. A tombstone
counts only where the archive does not hold that very incarnation: beside it, a deletion was
interrupted, or the same run was added again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from traceark.codec.lines import decode_line, encode_line, now_text
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import (
    FORMAT_VERSION,
    HEADER,
    MANIFEST,
    TOMBSTONES,
    parse_tombstone_name,
    tombstone_key,
    trace_prefix,
)
from traceark.manifest import sha256
from traceark.models import JsonObject
from traceark.storage.base import Entry, Storage

# A trace id, and which incarnation of it.
Buried = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of one incarnation of a trace.

    Attributes
    ----------
    hash_of, sha256 : str
        The file that tells the state that was deleted, the manifest or else the header, and its hash.
    reason : str, optional
        Why it was deleted, as whoever did so said.
    """

    trace_id: str
    incarnation: str
    hash_of: str
    sha256: str
    reason: str | None = None
    deleted_at: str = field(default_factory=now_text)

    @property
    def key(self) -> str:
        """Where it lies in the archive."""
        return tombstone_key(self.trace_id, self.incarnation)

    def encode(self) -> bytes:
        """Return it as a line that proves itself."""
        record: JsonObject = {
            "_format": FORMAT_VERSION,
            "trace_id": self.trace_id,
            "incarnation": self.incarnation,
            "deleted_at": self.deleted_at,
            "hash_of": self.hash_of,
            "sha256": self.sha256,
        }
        if self.reason is not None:
            record["reason"] = self.reason
        return encode_line(record)

    @classmethod
    def decode(cls, data: bytes, what: str) -> Tombstone:
        """Return it from its file's bytes.

        Raises
        ------
        CorruptFileError, UnsupportedFormatError
        """
        record = decode_line(data, what)
        version = record.get("_format")
        if version != FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"{what} has format version {version}; this release reads {FORMAT_VERSION}; upgrade traceark"
            )
        told = [record.get(name) for name in ("trace_id", "incarnation", "hash_of", "sha256", "deleted_at")]
        trace_id, incarnation, hash_of, digest, deleted_at = (each if isinstance(each, str) else "" for each in told)
        reason = record.get("reason")
        found = cls(trace_id, incarnation, hash_of, digest, str(reason) if reason is not None else None, deleted_at)
        if not trace_id or found.key != f"{TOMBSTONES}/{what.rpartition('/')[2]}":
            raise CorruptFileError(f"{what} is the tombstone of another trace than its name says; restore it")
        return found


async def buried(storage: Storage) -> set[Buried]:
    """Return which incarnations of which traces have a tombstone; names that say none are left out."""
    names = await storage.list(TOMBSTONES)
    return {found for name in names if (found := parse_tombstone_name(name)) is not None}


async def read_tombstone(storage: Storage, trace_id: str, incarnation: str) -> Tombstone:
    """Return one tombstone.

    Raises
    ------
    KeyMissingError, CorruptFileError, UnsupportedFormatError
    """
    key = tombstone_key(trace_id, incarnation)
    return Tombstone.decode(await storage.read(key), key)


async def state_of(storage: Storage, trace_id: str, entries: Mapping[str, Entry]) -> tuple[str, str]:
    """Return the name and the SHA-256 of the file that tells a trace's state.

    Raises
    ------
    KeyMissingError
    """
    name = MANIFEST if MANIFEST in entries else HEADER
    return name, sha256(await storage.read(f"{trace_prefix(trace_id)}/{name}"))
