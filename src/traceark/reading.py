"""Reading a trace from its files, as it stands on the storage, without opening it for writing."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from traceark.codec.malformed import stated
from traceark.codec.parquet import PartInfo, PartRecord
from traceark.codec.parts import read_message, read_messages
from traceark.errors import CorruptFileError, DivergedTraceError, IncompleteTraceError, StorageError
from traceark.headers import Header, TreeFile, as_read
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, TRACES, LogName, trace_id_of
from traceark.log import LogRead, WholePart, read_log, whole_part
from traceark.manifest import decode_manifest
from traceark.models import GoalTree, JsonObject, Message, Trace
from traceark.requests import apply_update, digest, fold_record
from traceark.segments import Places
from traceark.stats import MessageFold, totals_of, with_stats
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage

Answer = TypeVar("Answer")
T = TypeVar("T")
_ATTEMPTS = 8
_REFUSED = (errno.EACCES, errno.EPERM)
_REFUSED_BY_DISKS = (*_REFUSED, errno.EIO)


@dataclass(slots=True)
class StoredTrace:
    """The files of one trace at one listing.

    `ends` bounds what is read of each log: records past it are not durable yet. `as_listed` bounds it by the files'
    sizes in the listing, and `kept` gets the segments that are read.
    """

    storage: Storage
    trace_id: str
    prefix: str
    entries: Mapping[str, Entry]
    header: Header
    parts: dict[str, PartInfo] = field(default_factory=dict)
    ends: Mapping[LogName, int] | None = None
    places: Places | None = None
    as_listed: bool = False
    kept: dict[str, bytes] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the files, by key relative to the trace."""
        return {name: entry.size for name, entry in self.entries.items()}

    def is_exact(self) -> bool:
        """Say whether the headers are as of the logs' very ends."""
        return self.ends is None and self.header.checkpoint.is_exact(self.sizes, self.header.incarnation)

    def is_sealed(self) -> bool:
        """Say whether the trace is sealed and nothing was written since."""
        checkpoint = self.header.checkpoint
        # Of one that is open here the ends are known, and its files where others sealed it.
        is_at_end = self.ends is None or dict(self.ends) == dict(checkpoint.ends)
        return MANIFEST in self.entries and is_at_end and checkpoint.is_exact(self.sizes, self.header.incarnation)

    async def read(self, log: LogName, *, after: int = 0, columns: list[str] | None = None) -> LogRead:
        """Read what there is of a log behind an offset, whatever the header says of it."""
        return await read_log(
            self.storage,
            self.prefix,
            log,
            self.header.incarnation,
            self.entries,
            self.parts,
            after=after,
            columns=columns,
            places=self.places,
            as_listed=self.as_listed,
            kept=self.kept,
        )

    async def log(self, log: LogName, *, after: int = 0, columns: list[str] | None = None) -> LogRead:
        """Read a log from behind an offset."""
        found = await self.read(log, after=after, columns=columns)
        if self.ends is not None and found.end > self.ends[log]:
            found.records = [row for row in found.records if row.offset <= self.ends[log]]
            found.end = self.ends[log]
        stated = self.header.checkpoint.ends[log]
        if stated > found.end:
            raise IncompleteTraceError(
                f"trace {self.trace_id!r}: its header is as of {log} offset {stated}, but the {log} end at "
                f"{found.end}; "
                f"offsets {found.end + 1} to {stated} are missing: copy the {log} directory again",
                self.header.state,
            )
        return found

    async def messages(self) -> list[PartRecord]:
        """Return the records of the messages with updates folded in, by sequence."""
        return fold_updates((await self.log("messages")).records)

    async def models(self) -> list[Message]:
        """Return the messages with updates folded in, by sequence."""
        part = await self._whole_part()
        found = None if part is None else read_messages(part.data, part.key, part.last)
        if found is None:
            found = [Message.parse(row.record) for row in await self.messages()]
        return found

    async def message(self, message_id: str) -> Message | None:
        """Return one message with updates folded in, or None."""
        part = await self._whole_part()
        found = None if part is None else read_message(part.data, part.key, part.last, message_id)
        if found is None:
            rows = (await self.log("messages")).records
            rows = fold_updates([row for row in rows if row.record.get("message_id") == message_id])
            found = [Message.parse(row.record) for row in rows]
        return found[0] if found else None

    async def _whole_part(self) -> WholePart | None:
        """Return the part that is all of the messages, if one is."""
        part = await whole_part(
            self.storage, self.prefix, "messages", self.header.incarnation, self.entries, self.parts
        )
        if part is None or part.last < self.header.checkpoint.ends["messages"]:
            return None
        return part if self.ends is None or part.last <= self.ends["messages"] else None

    async def fold(self) -> tuple[MessageFold, int]:
        """Return the fold over all messages, and the end of their log."""
        read = await self.log("messages")
        fold = MessageFold()
        for row in read.records:
            fold_record(fold, row.op, row.record, row.offset)
        return fold, read.end

    async def trace(self) -> Trace:
        """Return the header with exact totals."""
        if self.is_exact():
            return self.header.trace.model_copy(deep=True)
        fold, _ = await self.fold()
        events = await self.log("events")
        trace = self.header.trace.model_copy()
        trace.__dict__.update(totals_of(fold.total, self.header.adjustments))
        trace.__dict__["last_sequence"] = max(fold.last_sequence, self.header.floor)
        trace.__dict__["last_event_id"] = events.end
        return trace

    async def _has_none(self, why: str) -> None:
        """Refuse to say that a trace has no goals where its manifest lists them."""
        if self.is_sealed():
            what = f"{self.prefix}/{MANIFEST}"
            if GOAL_TREE in decode_manifest(await self.storage.read(what), what):
                why += ", and the manifest of the trace lists it; copy it again"
                raise IncompleteTraceError(why, self.header.state)

    async def tree(self) -> GoalTree | None:
        """Return the goal tree with exact stats, or None."""
        what = f"{self.prefix}/{GOAL_TREE}"
        if GOAL_TREE not in self.entries:
            await self._has_none(f"{what} is not there")
            return None
        stored = TreeFile.decode(await self.storage.read(what), what)
        if not stored.is_of(self.header.incarnation):
            await self._has_none(f"{what} is of another trace")
            return None
        if self.is_exact() and stored.messages == self.header.checkpoint.ends["messages"]:
            return as_read(stored.tree, stored)
        fold, end = await self.fold()
        if stored.messages > end:
            raise IncompleteTraceError(
                f"trace {self.trace_id!r}: {what} is as of messages offset {stored.messages}, but the messages end at "
                f"{end}; copy the messages directory again",
                self.header.state,
            )
        return as_read(with_stats(stored.tree, fold.by_goal, stored.was_set), stored)


def fold_updates(rows: list[PartRecord]) -> list[PartRecord]:
    """Return message rows with updates folded in, by sequence then offset.

    A row that an update changed carries the digest of the message as first added.

    Raises
    ------
    CorruptFileError
        A record has no id or no sequence, adds a message for the second time, or updates none.
    """
    found: dict[str, PartRecord] = {}
    for row in rows:
        message_id = _stated(row, "message_id", str)
        if row.op is None:
            if message_id in found:
                raise CorruptFileError(f"the message id {message_id!r} was added twice, at offset {row.offset} again")
            found[message_id] = row
        elif row.op == "update" and message_id in found:
            added = found[message_id]
            first = added.digest or digest(added.record)
            record: JsonObject = dict(added.record)
            apply_update(record, row.record)
            found[message_id] = PartRecord(added.offset, None, record, first)
        else:
            raise CorruptFileError(f"the record at offset {row.offset} updates {message_id!r}, which no record adds")
    return sorted(found.values(), key=lambda row: (_stated(row, "sequence", int), row.offset))


def _stated(row: PartRecord, name: str, kind: type[T]) -> T:
    try:
        return stated(row.record, name, kind)
    except (KeyError, TypeError) as error:
        raise CorruptFileError(
            f"trace {row.record.get('trace_id')!r}: the record at offset {row.offset} is no message ({error!r}); "
            f"restore the messages directory from a copy"
        ) from None


async def retrying(trace_id: str, read: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run a reading that lists first, again when files came or went in between.

    A header that is read may be newer than the listing; what lacks the same offsets twice, as of the same header, lacks
    them. And an object may have been folded since, and its name taken by a writer who came too late: what parts at the
    same offset twice is of two sides.
    """
    lacking = ("", "")
    for attempt in range(_ATTEMPTS):
        try:
            return await read()
        except KeyMissingError as error:
            if attempt == _ATTEMPTS - 1:
                raise IncompleteTraceError(f"trace {trace_id!r}: {error}; its files keep changing") from error
        except IncompleteTraceError as error:
            if attempt == _ATTEMPTS - 1 or (str(error), error.as_of) == lacking:
                raise
            lacking = str(error), error.as_of
        except DivergedTraceError as error:
            if attempt == _ATTEMPTS - 1 or (str(error), "") == lacking:
                raise
            lacking = str(error), ""
    raise AssertionError


async def load(
    storage: Storage,
    trace_id: str,
    prefix: str,
    entries: Mapping[str, Entry] | None = None,
    parts: dict[str, PartInfo] | None = None,
    headers: dict[str, tuple[str, Header]] | None = None,
    places: Places | None = None,
) -> StoredTrace | None:
    """Return a trace as it stands, or None where there is no header.

    `headers` remembers headers by trace id with the version they were read at, `places` where readings ended.
    """
    known_parts = {} if parts is None else parts
    if entries is None:
        entries = await storage.list(prefix)
    if HEADER not in entries:
        return None
    what = f"{prefix}/{HEADER}"
    version = entries[HEADER].version
    known = headers.get(trace_id) if headers is not None else None
    if known is not None and known[0] == version:
        return StoredTrace(storage, trace_id, prefix, entries, known[1], known_parts, places=places)
    header = Header.decode(await storage.read(what), what)
    if header.trace.trace_id != trace_id:
        raise CorruptFileError(
            f"{what} is the header of trace {header.trace.trace_id!r}, whose directory has another name; "
            "rename it or restore it"
        )
    if headers is not None:
        headers[trace_id] = (version, header)
    return StoredTrace(storage, trace_id, prefix, entries, header, known_parts, places=places)


def why_unreadable(error: StorageError, storage: Storage) -> str | None:
    """Return what an error says of the innermost path that cannot be read; None where it is another error.

    This user may not read it, or the disk cannot. On an object store an EIO may be anything, the network too.
    """
    if error.errno not in (_REFUSED_BY_DISKS if isinstance(storage, AppendStorage) else _REFUSED):
        return None
    while isinstance(error.__cause__, StorageError):
        error = error.__cause__
    return str(error).partition("; nothing was acknowledged")[0]


async def scan_readable(storage: Storage) -> tuple[dict[str, dict[str, Entry]], list[str], dict[str, str]]:
    """Return what `scan` does of the traces that can be read, and of the others, by trace id, why not."""
    try:
        return *await scan(storage), {}
    except StorageError as error:
        if why_unreadable(error, storage) is None:
            raise
    found: dict[str, dict[str, Entry]] = {}
    strangers: list[str] = []
    refused: dict[str, str] = {}
    for key in await storage.children(TRACES):
        trace_id = trace_id_of(key)
        if trace_id is None:
            strangers.append(key)
            continue
        try:
            found[trace_id] = await storage.list(f"{TRACES}/{key}")
        except StorageError as error:
            why = why_unreadable(error, storage)
            if why is None:
                raise
            refused[trace_id] = why
    return {each: entries for each, entries in found.items() if entries}, sorted(strangers), refused


async def scan(storage: Storage) -> tuple[dict[str, dict[str, Entry]], list[str]]:
    """Return the files of every trace by trace id, and directories whose name is no trace key.

    One listing of the whole archive; on S3 one request per thousand files.
    """
    found: dict[str, dict[str, Entry]] = {}
    strangers: set[str] = set()
    by_key: dict[str, str | None] = {}
    for name, entry in (await storage.list(TRACES)).items():
        key, slash, rest = name.partition("/")
        if not slash:
            continue
        if key not in by_key:
            by_key[key] = trace_id_of(key)
        trace_id = by_key[key]
        if trace_id is None:
            strangers.add(key)
        else:
            found.setdefault(trace_id, {})[rest] = entry
    return found, sorted(strangers)


async def is_still(storage: Storage, prefix: str, incarnation: str) -> bool:
    """Say whether a trace is there, and was not deleted and made anew: whether its header is of this incarnation."""
    what = f"{prefix}/{HEADER}"
    try:
        return Header.decode(await storage.read(what), what).incarnation == incarnation
    except KeyMissingError:
        return False
