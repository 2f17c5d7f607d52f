"""What a pack may hold: names of members, what they stand for, and how much may come out of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from traceark.errors import PackError
from traceark.layout import (
    GOAL_TREE,
    HEADER,
    LOCK,
    LOGS,
    LOST_FOUND,
    MANIFEST,
    MARKER,
    PINS,
    TOMBSTONES,
    TRACES,
    parse_log_name,
    trace_id_of,
)

# The time that every member of a pack has, seconds since the epoch: the first moment that a zip can tell.
MOMENT = 315532800
CHUNK_BYTES = 1 << 18
# Longer than any key and file name, with room for where the archive lay.
_LONGEST_NAME = 4096
_SHOWN_NAME = 200
_DRIVE = re.compile(r"[A-Za-z]:")
_HEADERS = (GOAL_TREE, HEADER, MANIFEST)
# Directories of an archive that lie beside its traces.
BESIDE = frozenset({"catalog", TOMBSTONES, PINS, LOST_FOUND})
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may come out of a pack.

    Attributes
    ----------
    members : int
        Files and directories.
    bytes : int
        Of all files together.
    ratio : int
        Bytes that come out for each that went in, beyond `allowance` bytes.
    """

    members: int = 1_000_000
    bytes: int = 64 << 30
    ratio: int = 200
    allowance: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Which file of which trace a member is."""

    key: str
    file: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a pack; its bytes may be left unread."""

    name: str
    chunks: Iterator[bytes]


@dataclass(slots=True)
class Meter:
    """Counts what comes out of a pack, and refuses what is too much or must not be there.

    Parameters
    ----------
    pack : str
        The file's name, for errors.
    size : int
        Its bytes.
    limits : Limits
    """

    pack: str
    size: int
    limits: Limits
    _names: set[str] = field(default_factory=set)
    _bytes: int = 0

    def refused(self, reason: str, member: str | None = None) -> PackError:
        """Return the error that refuses the pack."""
        if member is None:
            return PackError(f"{self.pack} {reason}; nothing was taken from it")
        shown = member if len(member) <= _SHOWN_NAME else f"{member[:_SHOWN_NAME]}…"
        return PackError(f"{self.pack}: the member {shown!r} {reason}; nothing was taken from the pack")

    def announced(self, members: int) -> None:
        """Take note of how many members there are to be."""
        if members > self.limits.members:
            raise self.refused(f"has {members:,} members; at most {self.limits.members:,} are taken")

    def entered(self, name: str) -> str:
        """Return the name of a member without what stands for nothing, if it is one that a pack may have."""
        if len(name) > _LONGEST_NAME:
            raise self.refused(f"has a name of {len(name):,} characters", name)
        for sign, told in (("\0", "a NUL"), ("\\", "a backslash")):
            if sign in name:
                raise self.refused(f"has {told} in its name", name)
        if name.startswith("/") or _DRIVE.match(name):
            raise self.refused("has an absolute path", name)
        found = name.removeprefix("./").removesuffix("/")
        if any(each in ("", ".", "..") for each in found.split("/")) and found not in ("", "."):
            raise self.refused("has a path that leaves its directory, or says it in a roundabout way", name)
        folded = found.casefold()
        if folded in self._names:
            raise self.refused("is there twice, or differs from another only in case", name)
        self._names.add(folded)
        self.announced(len(self._names))
        return found

    def came_out(self, count: int, name: str) -> None:
        """Count bytes that came out."""
        self._bytes += count
        if self._bytes > self.limits.bytes:
            raise self.refused(f"brings the pack to more than {self.limits.bytes:,} bytes", name)
        if self._bytes > self.limits.allowance and self._bytes > self.limits.ratio * self.size:
            told = f"brings the pack to more than {self.limits.ratio} times its {self.size:,} bytes, as bombs do"
            raise self.refused(told, name)


def member_name(key: str, file: str) -> str:
    """Return the name that a trace's file has in a pack: as in an archive.

    Examples
    --------
    >>> member_name("run-7", "trace.json")
    'traces/run-7/trace.json'
    """
    return f"{TRACES}/{key}/{file}"


def in_order(files: Iterable[str]) -> list[str]:
    """Return a trace's files in the order in which they are packed and published: logs, headers, manifest.

    Examples
    --------
    >>> in_order(["trace.json", "manifest-sha256.txt", "messages/000000000001-5f3a9c21-0a1b2c3d.jsonl"])[0][:8]
    'messages'
    """
    return sorted(files, key=lambda name: (_HEADERS.index(name) if name in _HEADERS else -1, name))


def place_of(name: str) -> Place | None:
    """Return which file of which trace a member is, wherever in the pack the archive or directory begins.

    Examples
    --------
    >>> place_of("old/runs/traces/run-7/trace.json")
    Place(key='run-7', file='trace.json')
    >>> place_of("run-7/notes.txt") is None
    True
    """
    *home, file = name.split("/")
    if file not in _HEADERS:
        if not home or home[-1] not in LOGS or parse_log_name(file) is None:
            return None
        file = f"{home.pop()}/{file}"
    if not home or trace_id_of(home[-1]) is None:
        return None
    return Place(home[-1], file)


def is_beside(name: str) -> bool:
    """Say whether a member is what an archive holds beside its traces, or no copier has to take: it is passed over.

    Examples
    --------
    >>> is_beside("old/lost+found/20260102T030405Z-5f3a9c21/traces/run-7/trace.json")
    True
    >>> is_beside("old/traces/catalog/trace.json")
    False
    >>> is_beside("old/.tmp-5f3a9c2100000000/run-7/trace.json")
    True
    """
    *home, file = name.split("/")
    if file in (MARKER, LOCK) or any(each.startswith(_TEMPORARY) for each in (*home, file)):
        return True
    # Below `traces` it is a trace's own directory, whatever its id.
    return any(each in BESIDE and above != TRACES for above, each in pairwise(["", *home]))
