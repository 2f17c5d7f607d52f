"""The files of a rollup, what `rollup.json` says of them, and which rollups are current.

Pure. A rollup is the directory ``catalog/rollups/<id>/``; it exists once its ``rollup.json`` is
there, which is published last, and nothing in it ever changes. Ids sort by age.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from traceark.codec.lines import decode_line, encode_line
from traceark.codec.malformed import MALFORMED
from traceark.errors import CorruptFileError
from traceark.models import Json
from traceark.storage.base import Entry

ROLLUPS = "catalog/rollups"
ROLLUP_FORMAT = 1
ROLLUP_FILE = "rollup.json"
MEMBERS = "members.parquet"
IDS = "ids.parquet"
GOALS_FILE = "goals.parquet"

# What of which trace a rollup holds; as long as the catalog says the same, its rows are true.
MEMBER_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("incarnation", pa.string()),
        ("messages", pa.string()),
        ("events", pa.string()),
        ("tree", pa.int64()),
    ]
)
# The rows of the catalog that a rollup is made of and compared with.
ROW_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("total_messages", pa.int64()),
        ("last_event_id", pa.int64()),
        ("_incarnation", pa.string()),
        ("_messages", pa.string()),
        ("_events", pa.string()),
        ("_tree", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Rollup:
    """What `rollup.json` says.

    Attributes
    ----------
    id : str
        The directory's name.
    files : mapping
        Size in bytes by file name, of every file but `rollup.json`.
    crcs : mapping
        The CRC-32 of each of them, in eight hexadecimal digits: DuckDB checks none of their bytes. A rollup of an
        early build says none.
    rows : mapping
        Rows of ``messages``, ``events``, ``goals``; ``traces`` are its members.
    level : int
        How many merges lie behind it.
    began : int or None
        When the oldest of its traces was created, microseconds since the epoch.
    replaces : tuple of str
        The rollups that were merged into this one.
    created_at : str
        When it was made; for people.
    """

    id: str
    files: Mapping[str, int]
    crcs: Mapping[str, str]
    rows: Mapping[str, int]
    level: int = 0
    began: int | None = None
    replaces: tuple[str, ...] = ()
    created_at: str = ""

    @property
    def size(self) -> int:
        """What its files weigh together, in bytes."""
        return sum(self.files.values())

    def names(self, view: str) -> list[str]:
        """Return the file names that hold the rows of ``messages``, ``events`` or ``goals``, in order."""
        if view == "goals":
            return [GOALS_FILE] if GOALS_FILE in self.files else []
        found = [name for name in self.files if name.startswith(f"{view}-")]
        return sorted(found, key=lambda name: (len(name), name))

    def key(self, name: str) -> str:
        """Return the key of one of its files."""
        return f"{ROLLUPS}/{self.id}/{name}"

    def keys(self) -> list[str]:
        """Return the keys of all its files, in the order in which to delete them."""
        return [self.key(ROLLUP_FILE), *(self.key(name) for name in self.files)]

    def encode(self, binding: str) -> bytes:
        """Return the bytes of `rollup.json`."""
        return encode_line(
            {
                "format": ROLLUP_FORMAT,
                "binding": binding,
                "id": self.id,
                "level": self.level,
                "rows": cast("Json", dict(self.rows)),
                "bytes": self.size,
                "files": cast("Json", dict(self.files)),
                "crcs": cast("Json", dict(self.crcs)),
                "began": self.began,
                "replaces": list(self.replaces),
                "created_at": self.created_at,
            }
        )


def decode_rollup(data: bytes, rollup_id: str, binding: str) -> Rollup | None:
    """Return what the bytes of a `rollup.json` say, or None where it is not to be used.

    That is when it is torn, from another archive or place, of a newer version, or a copy under
    another name. Rollups are derived, so what cannot be used is as good as absent.
    """
    try:
        stored = cast("dict[str, Any]", decode_line(data, f"{ROLLUPS}/{rollup_id}/{ROLLUP_FILE}"))
        if stored["format"] != ROLLUP_FORMAT or stored["binding"] != binding or stored["id"] != rollup_id:
            return None
        return Rollup(
            rollup_id,
            {str(name): int(size) for name, size in stored["files"].items()},
            {str(name): str(crc) for name, crc in stored.get("crcs", {}).items()},
            {str(name): int(count) for name, count in stored["rows"].items()},
            int(stored["level"]),
            None if stored["began"] is None else int(stored["began"]),
            tuple(str(each) for each in stored["replaces"]),
            str(stored["created_at"]),
        )
    except (CorruptFileError, *MALFORMED):
        return None  # derived: `optimize` makes another


def directories(entries: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """Return the files of each rollup's directory, given a listing relative to `ROLLUPS`."""
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in entries.items():
        rollup_id, slash, rest = name.partition("/")
        if slash and not rollup_id.startswith("."):
            found.setdefault(rollup_id, {})[rest] = entry
    return found


def is_complete(rollup: Rollup, files: Mapping[str, Entry]) -> bool:
    """Say whether all files of a rollup are there in the size they were published with."""
    return all(name in files and files[name].size == size for name, size in rollup.files.items())


def current(rollups: Iterable[Rollup]) -> tuple[list[Rollup], list[Rollup]]:
    """Return the rollups to read, oldest first, and those that another one replaced.

    Parameters
    ----------
    rollups : iterable of Rollup
        All that are complete. One that replaces others and is incomplete replaces nothing.
    """
    complete = sorted(rollups, key=lambda each: each.id)
    replaced = {each for rollup in complete for each in rollup.replaces}
    return (
        [each for each in complete if each.id not in replaced],
        [each for each in complete if each.id in replaced],
    )


def next_id(known: Iterable[str], random: str) -> str:
    """Return an id behind all known ones; `random` (8 hex digits) tells two writers apart.

    Examples
    --------
    >>> next_id(["000000000007-5f3a9c21"], "1b2c3d4e")
    '000000000008-1b2c3d4e'
    """
    numbers = [int(head) for head in (each.partition("-")[0] for each in known) if head.isdecimal() and head.isascii()]
    return f"{max(numbers, default=0) + 1:012d}-{random}"


def message_hash(message_id: str) -> int:
    """Return the hash of a message id in `ids.parquet`: the first 8 bytes of its MD5, little-endian.

    DuckDB's ``md5_number_upper`` is the same number.

    Examples
    --------
    >>> message_hash("abc")
    12704604231530709392
    """
    return int.from_bytes(hashlib.md5(message_id.encode(), usedforsecurity=False).digest()[:8], "little")
