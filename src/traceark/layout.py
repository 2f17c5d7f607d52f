"""Names on disk: trace keys, segment and part names, and where each file of a trace lies.

Pure text to text, no I/O. `docs/format.md` is the normative description of these names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from traceark.errors import InvalidIdError

FORMAT_VERSION = 1
MARKER = "traceark.json"
TRACES = "traces"
TOMBSTONES = "tombstones"
PINS = "pins"
LOST_FOUND = "lost+found"
HEADER = "trace.json"
GOAL_TREE = "goal_tree.json"
MANIFEST = "manifest-sha256.txt"
LOCK = ".lock"
MAX_KEY_BYTES = 200

LogName = Literal["messages", "events"]
LOGS: tuple[LogName, LogName] = ("messages", "events")

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._@+-")
# Names that Windows reserves for devices, with or without an extension.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
# What most ids are: as a directory's name they need no change.
_PLAIN = re.compile(r"[a-z0-9_@+-](?:[a-z0-9._@+-]{0,198}[a-z0-9_@+-])?")
_KEY = re.compile(r"(?P<body>(?:[a-z0-9._@+-]|%[0-9A-F]{2})+)(?:~(?P<mask>[1-9a-f][0-9a-f]*))?")
_SEGMENT = re.compile(r"(\d{12,})-([0-9a-f]{8})(?:-([0-9a-f]{8}))?\.jsonl")
_TOMBSTONE = re.compile(r"(.+)\.([0-9a-f]{8})\.json")
_PART = re.compile(r"(\d{12,})-(\d{12,})-([0-9a-f]{8})-([0-9a-f]{8})\.parquet")


def trace_key(trace_id: str) -> str:
    """Return the directory name of a trace: reversible, and safe on every file system.

    Parameters
    ----------
    trace_id : str
        Any text that UTF-8 can say, not empty.

    Raises
    ------
    InvalidIdError
        The id is empty, holds a lone surrogate, or its key would pass 200 bytes.

    Examples
    --------
    >>> trace_key("run-7"), trace_key("Run/7"), trace_key("CON")
    ('run-7', 'run%2F7~1', '%63on~7')
    """
    if _is_its_own_key(trace_id):
        return trace_id
    if not trace_id:
        raise InvalidIdError("a trace id must not be empty", "trace_id")
    try:
        raw = trace_id.encode()
    except UnicodeEncodeError:
        raise InvalidIdError(f"{trace_id!a} holds a lone surrogate", "trace_id") from None
    mask = 0
    lowered = bytearray(raw)
    for position, byte in enumerate(raw):
        if 65 <= byte <= 90:
            mask |= 1 << position
            lowered[position] = byte + 32
    reserved = _RESERVED.match(lowered.decode()) is not None
    last = len(lowered) - 1
    body = "".join(
        chr(byte)
        if byte in _SAFE and not (byte == 46 and position in (0, last)) and not (reserved and position == 0)
        else f"%{byte:02X}"
        for position, byte in enumerate(lowered)
    )
    key = f"{body}~{mask:x}" if mask else body
    if len(key) > MAX_KEY_BYTES:
        raise InvalidIdError(
            f"{trace_id[:40]!r}… makes a key of {len(key)} bytes; at most {MAX_KEY_BYTES} fit", "trace_id"
        )
    return key


def _is_its_own_key(trace_id: str) -> bool:
    return _PLAIN.fullmatch(trace_id) is not None and _RESERVED.match(trace_id) is None


def trace_id_of(key: str) -> str | None:
    """Return the trace id that a directory name stands for, or None if it is no trace key.

    Examples
    --------
    >>> trace_id_of("run%2F7~1")
    'Run/7'
    >>> trace_id_of("Run") is None
    True
    """
    if _is_its_own_key(key):
        return key
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    raw = bytearray()
    body = match["body"]
    position = 0
    while position < len(body):
        if body[position] == "%":
            raw.append(int(body[position + 1 : position + 3], 16))
            position += 3
        else:
            raw.append(ord(body[position]))
            position += 1
    mask = int(match["mask"] or "0", 16)
    if mask.bit_length() > len(raw):
        return None
    for index in range(mask.bit_length()):
        if mask >> index & 1:
            raw[index] -= 32
    try:
        trace_id = raw.decode()
        # One id has one key: a name that encodes more than it must is somebody else's.
        return trace_id if trace_key(trace_id) == key else None
    except (UnicodeDecodeError, InvalidIdError):
        return None


def trace_prefix(trace_id: str) -> str:
    """Return the key prefix of a trace within the archive, ``traces/<trace key>``."""
    return f"{TRACES}/{trace_key(trace_id)}"


def tombstone_key(trace_id: str, incarnation: str) -> str:
    """Return where the tombstone of a deleted trace lies within the archive.

    Examples
    --------
    >>> tombstone_key("run-7", "5f3a9c21")
    'tombstones/run-7.5f3a9c21.json'
    """
    return f"{TOMBSTONES}/{trace_key(trace_id)}.{incarnation}.json"


def pin_key(trace_id: str) -> str:
    """Return where the pin of a trace lies within the archive, ``pins/<trace key>``."""
    return f"{PINS}/{trace_key(trace_id)}"


def parse_tombstone_name(name: str) -> tuple[str, str] | None:
    """Return the trace id and the incarnation that a file name within ``tombstones/`` says, or None if none.

    Examples
    --------
    >>> parse_tombstone_name("run-7.5f3a9c21.json")
    ('run-7', '5f3a9c21')
    """
    match = _TOMBSTONE.fullmatch(name)
    trace_id = trace_id_of(match[1]) if match is not None else None
    return (trace_id, match[2]) if match is not None and trace_id is not None else None


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A segment's name: the offset of its first record, the incarnation, the writer.

    On a file system a segment carries the id of the writer that began it. On an object store it
    carries none (`writer` is empty), so that creating it is winning its offsets.
    """

    first: int
    incarnation: str
    writer: str = ""

    def __str__(self) -> str:
        tail = f"-{self.writer}" if self.writer else ""
        return f"{self.first:012d}-{self.incarnation}{tail}.jsonl"


@dataclass(frozen=True, slots=True)
class PartName:
    """A part's name: first and last offset, the incarnation, and the CRC-32 of the file's bytes.

    So a part proves itself as a line does, and parts of other content never meet under one name.
    """

    first: int
    last: int
    incarnation: str
    crc: str

    def __str__(self) -> str:
        return f"{self.first:012d}-{self.last:012d}-{self.incarnation}-{self.crc}.parquet"


def parse_log_name(name: str) -> SegmentName | PartName | None:
    """Return what a file name within ``messages/`` or ``events/`` says, or None if nothing."""
    if match := _SEGMENT.fullmatch(name):
        parsed: SegmentName | PartName = SegmentName(int(match[1]), match[2], match[3] or "")
    elif match := _PART.fullmatch(name):
        parsed = PartName(int(match[1]), int(match[2]), match[3], match[4])
        if parsed.last < parsed.first:
            return None
    else:
        return None
    return parsed if parsed.first >= 1 and str(parsed) == name else None
