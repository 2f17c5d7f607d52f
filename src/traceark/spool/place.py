"""The directory of a spool: whose it is, what of it was shipped, and which processes use it.

It is an ordinary archive with a few files more: `spool.json` names the archive that it is shipped
to, `shipped/` has a mark for each trace, `anew/` names runs that were added whole, and locks tell
who ships and who uses it. All but `spool.json` can be lost: what was shipped is then looked at again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from traceark.codec.malformed import MALFORMED
from traceark.errors import DamagedTraceError, SpoolError, UnsupportedFormatError
from traceark.layout import (
    HEADER,
    LOGS,
    MARKER,
    TRACES,
    SegmentName,
    parse_log_name,
    trace_id_of,
    trace_key,
    trace_prefix,
)
from traceark.lifecycle import versions
from traceark.models import JsonObject
from traceark.pending import SpoolStatus
from traceark.storage.access import Access
from traceark.storage.base import Durability, Entry, KeyExistsError, KeyMissingError, Lock, acquire
from traceark.storage.local import LocalStorage
from traceark.storage.staging import TEMPORARY
from traceark.sync.sides import look
from traceark.tombstones import Buried, buried

SPOOL = "spool.json"
_VERSION = 1
_SHIPPED = "shipped"
_ERROR = "last-error.json"
_USERS = "users"
_SHIPPING_LOCK = "shipping.lock"
_USERS_LOCK = "users.lock"


@dataclass(frozen=True, slots=True)
class Mark:
    """As of when a trace was shipped.

    Attributes
    ----------
    files : mapping of str to (int, str)
        The sizes and versions of the trace's files before they were shipped.
    ends : mapping
        The last offset of each log then.
    looked_at : float
        When that was, in seconds since the epoch.
    kept_as : str, optional
        The trace that holds this side, if it diverged.
    problem : str, optional
        Why it was not shipped after all.
    """

    files: Mapping[str, tuple[int, str]]
    ends: Mapping[str, int]
    looked_at: float
    kept_as: str | None = None
    problem: str | None = None

    def is_of(self, entries: Mapping[str, Entry]) -> bool:
        """Say whether the trace's files are these still."""
        return {name: version for name, (_, version) in self.files.items()} == versions(entries)

    def encode(self) -> bytes:
        """Return it as its file's bytes."""
        told: JsonObject = {
            "files": {name: [size, version] for name, (size, version) in self.files.items()},
            "ends": dict(self.ends),
            "looked_at": self.looked_at,
            "kept_as": self.kept_as,
            "problem": self.problem,
        }
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Mark | None:
        """Return it from its file's bytes; None where they are none."""
        try:
            told = json.loads(data)
            files = {str(name): (int(size), str(version)) for name, (size, version) in told["files"].items()}
            ends: dict[str, int] = {log: int(told["ends"][log]) for log in LOGS}
            return cls(files, ends, float(told["looked_at"]), told["kept_as"], told["problem"])
        except MALFORMED:
            return None


NO_MARK = Mark({}, dict.fromkeys(LOGS, 0), 0.0)


@dataclass(slots=True)
class SpooledTrace:
    """A trace that lies in a spool."""

    trace_id: str
    entries: Mapping[str, Entry]
    mark: Mark | None = None

    @property
    def is_shipped(self) -> bool:
        """Whether it was shipped as it is."""
        return self.is_settled and self.mark is not None and self.mark.problem is None

    @property
    def is_settled(self) -> bool:
        """Whether it was shipped as it is, or it was found that it cannot be."""
        return self.mark is not None and self.mark.is_of(self.entries)

    @property
    def written_at(self) -> float:
        """When it was last written to, in seconds since the epoch."""
        return max(entry.modified for entry in self.entries.values())

    @property
    def segment_bytes(self) -> int:
        """The bytes of its segments."""
        return sum(entry.size for name, entry in self.entries.items() if name.endswith(".jsonl"))

    @property
    def pending_bytes(self) -> int:
        """The bytes that were not shipped."""
        before = (self.mark or NO_MARK).files
        total = 0
        for name, version in versions(self.entries).items():
            size, known = before.get(name, (0, ""))
            if version != known:
                now = self.entries[name].size
                total += now - size if now > size else now
        return total


@dataclass(slots=True)
class Place:
    """The directory of a spool."""

    directory: Path
    durability: Durability = "fsync"
    access: Access = "owner"
    storage: LocalStorage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = LocalStorage(self.directory, self.durability, self.access)

    # Whose it is

    def exists(self) -> bool:
        """Say whether the directory is a spool."""
        return self.storage.path(SPOOL).exists()

    def check(self, url: str) -> None:
        """Refuse to be the spool of an archive when it is another one's, or an archive of its own.

        Raises
        ------
        SpoolError
        """
        if not self.exists():
            if self.storage.path(MARKER).exists():
                raise SpoolError(f"{self.directory} is an archive and no spool; choose another directory for the spool")
            return
        bound = self.url()
        if bound != url:
            raise SpoolError(
                f"{self.directory} is the spool of {bound}, and not of {url}; choose another directory, or ship it "
                f"with `traceark spool ship {self.directory}` and remove it"
            )

    async def bind(self, url: str) -> None:
        """Make it the spool of an archive, or find that it is; raises as `check` does."""
        self.check(url)
        data: JsonObject = {"format": "traceark-spool", "version": _VERSION, "url": url}
        with suppress(KeyExistsError):  # it is one already; another process may have made it another one's
            await self.storage.create(SPOOL, json.dumps(data).encode() + b"\n")
        self.check(url)

    def url(self) -> str:
        """Return the archive that it is shipped to.

        Raises
        ------
        SpoolError
            It is no spool, or one of a newer version.
        """
        what = self.storage.path(SPOOL)
        try:
            told = json.loads(what.read_bytes())
            version, url = told["version"], told["url"]
        except FileNotFoundError:
            raise SpoolError(f"{self.directory} is no spool: there is no {SPOOL} in it") from None
        except MALFORMED:
            raise SpoolError(f"{what} cannot be read; it should name the archive that this spool is of") from None
        if version != _VERSION:
            raise SpoolError(f"{what} has version {version}; this release knows {_VERSION}; upgrade traceark")
        return str(url)

    # What was shipped

    async def trace_ids(self) -> list[str]:
        """Return the ids of the traces in it."""
        return [each for key in sorted(await self.storage.children(TRACES)) if (each := trace_id_of(key)) is not None]

    async def trace(self, trace_id: str) -> SpooledTrace | None:
        """Return a trace that lies in it as it is now."""
        entries = await self.storage.list(trace_prefix(trace_id))
        if HEADER not in entries:
            return None
        return SpooledTrace(trace_id, entries, await self.mark(trace_id))

    async def traces(self) -> list[SpooledTrace]:
        """Return all traces in it, those that were not written to for longest first."""
        found = [trace for each in await self.trace_ids() if (trace := await self.trace(each)) is not None]
        return sorted(found, key=lambda trace: trace.written_at)

    async def remains(self) -> list[str]:
        """Return the ids of traces without a header: a removal, or a creation, of them was interrupted."""
        found: list[str] = []
        for trace_id in await self.trace_ids():
            entries = await self.storage.list(trace_prefix(trace_id))
            shipped = (await self.mark(trace_id) or NO_MARK).files
            left = versions({name: each for name, each in entries.items() if TEMPORARY not in name})
            if HEADER not in entries and all(shipped.get(name, (0, ""))[1] == left[name] for name in left):
                found.append(trace_id)
        return found

    async def mark(self, trace_id: str) -> Mark | None:
        """Return as of when a trace was shipped, if it was."""
        try:
            return Mark.decode(await self.storage.read(_mark_key(trace_id)))
        except KeyMissingError:
            return None

    async def set_mark(self, trace_id: str, mark: Mark) -> None:
        """Remember as of when a trace was shipped."""
        await self.storage.replace(_mark_key(trace_id), mark.encode())

    async def drop_mark(self, trace_id: str) -> None:
        """Forget that a trace was shipped."""
        await self.storage.delete([_mark_key(trace_id)])

    async def ends(self, trace_id: str, entries: Mapping[str, Entry]) -> Mapping[str, int]:
        """Return the last offset of each log, as names and lines tell."""
        return {log: await self._end(trace_id, entries, log) for log in LOGS}

    async def _end(self, trace_id: str, entries: Mapping[str, Entry], log: str) -> int:
        end, last = 0, SegmentName(0, "")
        for name in entries:
            directory, _, file = name.partition("/")
            parsed = parse_log_name(file) if directory == log else None
            if isinstance(parsed, SegmentName):
                last = max(last, parsed, key=lambda each: each.first)
            elif parsed is not None:
                end = max(end, parsed.last)
        if last.first:
            with suppress(KeyMissingError):  # sealed meanwhile: the part tells
                data = await self.storage.read(f"{trace_prefix(trace_id)}/{log}/{last}")
                end = max(end, last.first - 1 + data.count(b"\n"))
        return end

    async def deletions(self) -> list[Buried]:
        """Return what was deleted here and may be at the archive still.

        A tombstone is written before its trace goes; beside the trace it does not count.
        """
        return [each for each in sorted(await buried(self.storage)) if not await self._holds(*each)]

    async def _holds(self, trace_id: str, incarnation: str) -> bool:
        try:
            side = await look(self.storage, trace_id)
        except (DamagedTraceError, UnsupportedFormatError):
            return True
        return side is not None and side.header.incarnation == incarnation

    async def last_error(self) -> str | None:
        """Return why shipping failed, if it failed last."""
        try:
            return str(json.loads(await self.storage.read(_ERROR))["error"])
        except (KeyMissingError, *MALFORMED):
            return None

    async def set_error(self, error: str | None) -> None:
        """Remember why shipping failed, or that it did not."""
        if error is None:
            await self.storage.delete([_ERROR])
        else:
            await self.storage.replace(_ERROR, json.dumps({"error": error}).encode() + b"\n")

    async def status(self) -> SpoolStatus:
        """Return what waits in it."""
        told: dict[str, Any] = {"traces": 0, "records": 0, "bytes": 0, "shipped": 0}
        problems: dict[str, str] = {}
        kept_as: dict[str, str] = {}
        oldest: float | None = None
        for trace in await self.traces():
            mark = trace.mark or NO_MARK
            if mark.kept_as is not None:
                kept_as[trace.trace_id] = mark.kept_as
            if mark.problem is not None:
                problems[trace.trace_id] = mark.problem
            if trace.is_shipped:
                told["shipped"] += 1
                continue
            oldest = trace.written_at if oldest is None else oldest
            ends = await self.ends(trace.trace_id, trace.entries)
            told["traces"] += 1
            told["records"] += sum(max(ends[log] - mark.ends[log], 0) for log in LOGS)
            told["bytes"] += trace.pending_bytes
        return SpoolStatus(
            str(self.directory),
            self.url(),
            oldest=datetime.fromtimestamp(oldest, UTC) if oldest is not None else None,
            deletions=len(await self.deletions()),
            last_error=await self.last_error(),
            problems=problems,
            kept_as=kept_as,
            is_shipping=not self._is_free(_SHIPPING_LOCK),
            **told,
        )

    # Who uses it

    def _is_free(self, key: str) -> bool:
        """Say whether nobody holds a lock."""
        lock = self.storage.lock(key)
        try:
            return lock.try_acquire()
        finally:
            lock.close()

    def try_shipping(self) -> Lock | None:
        """Take the lock of the one who ships; None where another has it."""
        self.storage.make_directory("")
        lock = self.storage.lock(_SHIPPING_LOCK)
        if lock.try_acquire():
            return lock
        lock.close()
        return None

    @asynccontextmanager
    async def _users(self) -> AsyncIterator[None]:
        self.storage.make_directory(_USERS)
        lock = self.storage.lock(_USERS_LOCK)
        try:
            await acquire(lock)
            yield
        finally:
            lock.close()

    async def enter(self) -> User:
        """Tell others that it is used, until the lock is closed or the process ends."""
        async with self._users():
            key = f"{_USERS}/{token_hex(8)}.lock"
            lock = self.storage.lock(key)
            lock.try_acquire()
            return User(key, lock)

    async def leave(self, user: User) -> None:
        """Take back what `enter` told."""
        await self.storage.delete([user.key])
        user.lock.close()

    async def is_used(self) -> bool:
        """Say whether any process, or another store of this one, uses it."""
        async with self._users():
            gone = [key for name in await self.storage.list(_USERS) if self._is_free(key := f"{_USERS}/{name}")]
            await self.storage.delete(gone)
            return bool(await self.storage.list(_USERS))


@dataclass(frozen=True, slots=True)
class User:
    """One who uses a spool."""

    key: str
    lock: Lock


def _mark_key(trace_id: str) -> str:
    return f"{_SHIPPED}/{trace_key(trace_id)}.json"
