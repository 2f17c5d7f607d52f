"""How a batch reaches a log on an object store: created as one new object."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from traceark.errors import StorageError
from traceark.folding import Folding, writer_in_parts
from traceark.headers import Header
from traceark.layout import HEADER, LOGS, MANIFEST, LogName, SegmentName
from traceark.log import Tail
from traceark.publishing import put, take_late_manifest
from traceark.reading import is_still
from traceark.requests import Staged
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    KeyMissingError,
    Storage,
    VersionMismatchError,
)
from traceark.writing import FileWriter, LogWriter, OffsetsTakenError

if TYPE_CHECKING:
    from traceark.live import OpenTrace

# What a writer knows of an object store is listed again after this; superseded objects are kept longer.
_KNOWLEDGE_SECONDS = 300.0
# No offset.
_UNSURE = -1


def writer_for(storage: Storage, trace: OpenTrace, durability: str) -> LogWriter:
    """Return the way to write that suits the storage."""
    if isinstance(storage, AppendStorage):
        return FileWriter(storage, trace, durability)
    return ObjectWriter(storage, trace)


class ObjectWriter(LogWriter):
    """Creates one object per batch, exclusively under its first offset: creating it is winning the offsets.

    Objects that were folded into parts are deleted, so a creation alone proves that nobody had the offset
    only right behind a record of this writer's own, where the object that follows stays (`plan.droppable`),
    and where what is known is young. Anywhere else the log is looked at once more before anything is acknowledged.
    """

    one_log_at_a_time = True

    def __init__(self, storage: Storage, trace: OpenTrace) -> None:
        self._storage = storage
        self._trace = trace
        self._folding = Folding(trace)
        self._known_at = -_KNOWLEDGE_SECONDS
        self._appended_at = -_KNOWLEDGE_SECONDS
        # The last record of each log that this writer surely wrote; in an empty log none is its own.
        self._own = dict.fromkeys(LOGS, _UNSURE)
        # The headers that were put since the trace was looked at, and in which version, if that was told.
        self._put: dict[str, tuple[str, bytes]] = {}
        # Whether an object may be in a log that was not looked at since.
        self._is_overdue = False

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        trace = self._trace
        announced_at = trace.announced_at
        if announced_at is not None and time.monotonic() - max(announced_at, self._appended_at) > _KNOWLEDGE_SECONDS:
            trace.announced_at = None  # after so long others may take the trace for left alone
        is_old = time.monotonic() - self._known_at > _KNOWLEDGE_SECONDS
        while is_old or trace.announced_at is None:
            # First told, then looked at: who was not told of it may have replaced the trace until then.
            await trace.announce()
            now, is_old = time.monotonic(), False
            await trace.refresh()
            self._known_at = now
        yield

    def begins(self, log: LogName) -> bool:
        return True

    async def append(self, staged: Staged) -> None:
        trace = self._trace
        for log, lines in staged.lines.items():
            await self._folding.keep_up(log)
            data = b"".join(lines)
            first = staged.first(log)
            name = str(SegmentName(first, trace.header.incarnation))
            version = await self._win(log, name, first - 1, data)
            self._own[log] = staged.ends[log]
            trace.tails[log] = Tail(name, len(data), False)
            trace.entries[f"{log}/{name}"] = Entry(len(data), version, 0.0)
            self._folding.appended(log, name, data)
        self._appended_at = time.monotonic()

    async def _win(self, log: LogName, name: str, before: int, data: bytes) -> str:
        """Create an object behind an offset, and return its version if that won its offsets."""
        key = f"{self._trace.prefix}/{log}/{name}"
        is_behind_own = self._own[log] == before
        # Until it is known what came of this, nothing is sure.
        self._own[log] = _UNSURE
        try:
            try:
                version = await self._storage.create(key, data)
            except StorageError as error:
                version = await self._ours(key, data, log, before + 1, error)
            if not is_behind_own or time.monotonic() - self._known_at > 2 * _KNOWLEDGE_SECONDS:
                await self._look_behind(key, log, before + 1)
        except OffsetsTakenError:
            raise
        except BaseException:  # also a cancelled one
            # Whether it is in the log will turn out; what follows must not be taken for it.
            self._trace.writer_id = secrets.token_hex(4)
            self._is_overdue = True
            raise
        return version

    async def _look_behind(self, key: str, log: LogName, offset: int) -> None:
        """Look at the trace once more, since what was known of it when an object was created may have been old."""
        trace, entries = self._trace, await self._storage.list(self._trace.prefix)
        if not await self._is_there(entries):
            await self._storage.delete([key])
            raise OffsetsTakenError(f"{key} is of a trace that was replaced or deleted meanwhile")
        if MANIFEST in entries:
            # Published by who had not seen it yet.
            await self._storage.delete_unchanged({f"{trace.prefix}/{MANIFEST}": entries[MANIFEST].version})
        writer = await writer_in_parts(trace, log, offset, entries)
        if writer not in (None, trace.writer_id):
            raise OffsetsTakenError(f"{key} had been won by another writer and folded")

    async def _is_there(self, entries: Mapping[str, Entry]) -> bool:
        """Say whether files that were listed are still those of this very trace."""
        if HEADER not in entries or self._is_known(HEADER, entries):
            return HEADER in entries
        return await is_still(self._storage, self._trace.prefix, self._trace.header.incarnation)

    def _is_known(self, name: str, entries: Mapping[str, Entry]) -> bool:
        """Say whether a header that was listed is the one that is known."""
        known = self._trace.entries.get(name)
        return known is not None and entries[name].version == known.version

    async def put(self, name: str, data: bytes, known: str | None) -> str:
        try:
            version = await put(self._storage, f"{self._trace.prefix}/{name}", data, known)
        except VersionMismatchError:
            raise
        except BaseException:  # also a cancelled one
            self._put[name] = "", data  # it may be there
            raise
        self._put[name] = version, data
        return version

    def looked(self) -> None:
        self._put.clear()
        self._is_overdue = False

    async def look_again(self) -> None:
        trace, put = self._trace, self._put
        if not put and not self._is_overdue:
            return
        entries = await self._storage.list(trace.prefix)
        if not await self._is_there(entries):
            self.looked()
            raise VersionMismatchError(f"{trace.prefix} was replaced meanwhile")
        if MANIFEST in entries:
            # Who replaced one since knew it, and looks for himself.
            still = {
                name: data for name, (version, data) in put.items() if await self._is_as_put(name, version, entries)
            }
            if still:
                await take_late_manifest(self._storage, trace.prefix, entries[MANIFEST].version, still)
            if self._is_overdue and not await self._is_exact(entries):
                await self._storage.delete_unchanged({f"{trace.prefix}/{MANIFEST}": entries[MANIFEST].version})
        self.looked()

    async def _is_as_put(self, name: str, version: str, entries: Mapping[str, Entry]) -> bool:
        """Say whether a header that was listed is the one that was put, perhaps without an answer."""
        if name not in entries:
            return False
        if version:
            return entries[name].version == version
        with suppress(KeyMissingError):  # gone with the trace
            data, now = await self._storage.read_versioned(f"{self._trace.prefix}/{name}")
            return data == self._put[name][1] and now == entries[name].version
        return False

    async def _is_exact(self, entries: Mapping[str, Entry]) -> bool:
        """Say whether the logs that were listed hold what the header beside them says, or may."""
        what = f"{self._trace.prefix}/{HEADER}"
        try:
            data, version = await self._storage.read_versioned(what)
        except KeyMissingError:
            return True  # gone with the trace
        if version != entries[HEADER].version:
            return True  # who put it looks
        header = Header.decode(data, what)
        return header.checkpoint.is_exact({name: each.size for name, each in entries.items()}, header.incarnation)

    async def _ours(self, key: str, data: bytes, log: LogName, first: int, error: StorageError) -> str:
        """Return the version of a creation whose answer was lost; refuse one that another writer won."""
        try:
            stored, version = await self._storage.read_versioned(key)
        except KeyMissingError:
            # It is not there, or was folded and deleted already.
            writer = await writer_in_parts(self._trace, log, first)
            if writer == self._trace.writer_id:
                return ""
            if writer is not None or isinstance(error, KeyExistsError):
                raise OffsetsTakenError(f"{key} was won by another writer and folded") from error
            raise error from None
        if stored != data:
            raise OffsetsTakenError(f"{key} was won by another writer") from error
        return version

    def log_changed(self, log: LogName) -> None:
        self._folding.recount(log)

    async def settle(self) -> None:
        await self._folding.settle()
        with suppress(VersionMismatchError):
            await self.look_again()  # for who was cancelled before, or failed

    def reset(self) -> None:
        self._known_at = -_KNOWLEDGE_SECONDS
        self._own = dict.fromkeys(LOGS, _UNSURE)
