"""How a batch reaches a log, and how that is done on a local disk: appended to a file under a lock."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traceark.errors import StorageError, TraceNotFoundError
from traceark.layout import LOCK, LOGS, LogName, SegmentName
from traceark.log import Tail
from traceark.requests import Staged
from traceark.storage.base import (
    Appender,
    AppendStorage,
    Entry,
    KeyMissingError,
    Lock,
    acquire,
)

if TYPE_CHECKING:
    from traceark.live import OpenTrace

# A sync that takes less than this is done in the event loop: a thread would take as long.
_INLINE_SYNC_SECONDS = 0.002
# The generation of a lock that was just opened.
_UNKNOWN = -2


class OffsetsTakenError(StorageError):
    """Another writer won the offsets; refresh and stage again."""


class LogWriter(ABC):
    """Writes staged records of one open trace."""

    # Whether a batch may hold records of one log only, since each log's are won or lost apart.
    one_log_at_a_time = False

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep other processes out, and take in what they wrote."""
        yield

    def try_lock(self) -> bool:
        """Take the lock if that needs no waiting and nobody else wrote meanwhile."""
        return False

    def unlock(self) -> None:
        """Give back what `try_lock` took."""

    def is_quick(self) -> bool:
        """Whether `append_now` would take no longer than handing the work to another thread."""
        return False

    def append_now(self, staged: Staged) -> None:
        """Append under the lock and return when it is durable, without giving way to other tasks."""
        raise NotImplementedError

    @abstractmethod
    def begins(self, log: LogName) -> bool:
        """Say whether the next record of a log will be the first of a segment."""

    @abstractmethod
    async def append(self, staged: Staged) -> None:
        """Append and return when it is durable.

        Raises
        ------
        OffsetsTakenError
        """

    async def sync_logs(self) -> None:
        """Make the logs durable, before a checkpoint beyond them is published."""

    def changed(self) -> None:
        """Tell other processes that more than the end of a log is about to change, under the lock."""

    def log_changed(self, log: LogName) -> None:
        """Hear that a log was read again."""

    def close_segments(self) -> None:
        """Close the last segments: whoever appends next does so to new ones."""

    def forget_segments(self) -> None:
        """Begin new segments with the next append, since the present ones are about to go."""

    async def settle(self) -> None:
        """Wait for what goes on beside the writing."""

    async def close(self) -> None:
        """Wait for all that is under way, and forget all files."""
        await self.settle()
        self.reset()

    def reset(self) -> None:
        """Forget all files."""


@dataclass(slots=True)
class _OpenSegment:
    """Where the next record of one log goes.

    Attributes
    ----------
    name : str
        The segment that is open.
    appender : Appender or None
        None while none is open.
    begun : bool
        Whether this writer began a segment of this log: until then it appends to no other's.
    unsynced : bool
        Whether something was appended to it since it was synced.
    synced : tuple of str and int
        The segment, and its size, that are surely on stable storage.
    """

    log: LogName
    name: str = ""
    appender: Appender | None = None
    begun: bool = False
    unsynced: bool = False
    synced: tuple[str, int] = ("", 0)

    def open(self, name: str, appender: Appender) -> Appender:
        """Append to this segment from now on."""
        self.name, self.appender = name, appender
        return appender

    def close(self) -> None:
        """Give back the file."""
        appender, self.appender = self.appender, None
        if appender is not None:
            appender.close()


class FileWriter(LogWriter):
    """Appends to the last segment under the trace's lock; concurrent appends share one sync."""

    def __init__(self, storage: AppendStorage, trace: OpenTrace, durability: str) -> None:
        self._storage = storage
        self._trace = trace
        self._syncs = durability == "fsync"
        self._lock: Lock | None = None
        # The lock while it is held, which `reset` must not close.
        self._held: Lock | None = None
        self._generation = 0
        self._segments: dict[LogName, _OpenSegment] = {log: _OpenSegment(log) for log in LOGS}
        self._sync_seconds = 0.0

    def _open_lock(self) -> Lock:
        if self._lock is None:
            try:
                self._lock = self._storage.lock(f"{self._trace.prefix}/{LOCK}")
            except KeyMissingError:
                raise TraceNotFoundError(f"no trace {self._trace.trace_id!r} in {self._storage.url}") from None
            self._generation = _UNKNOWN
        return self._lock

    async def _acquire(self) -> Lock:
        while True:
            lock = self._open_lock()
            await acquire(lock)
            if lock.generation() != -1:
                return lock
            # The trace was deleted under this lock; if it was made anew, that has a lock of its own.
            lock.release()
            self.reset()

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        lock = await self._acquire()
        try:
            while not self._is_current(lock):
                if lock.generation() != self._generation and (self._generation, lock.generation()) != (_UNKNOWN, 1):
                    # Who changed it may have told others that nobody writes here; creation itself leaves 1.
                    self._trace.announced_at = None
                self._held = lock
                await self._trace.refresh()
                if self._lock is lock:
                    self._generation = lock.generation()
                    break
                # Another trace of this id is here now, perhaps with a lock of its own.
                lock.close()
                lock = await self._acquire()
            yield
        finally:
            self._held = None
            lock.release()

    def try_lock(self) -> bool:
        lock = self._lock
        if lock is None or not lock.try_acquire():
            return False
        if self._is_current(lock):
            return True
        lock.release()
        return False

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _is_current(self, lock: Lock) -> bool:
        """Whether nobody else wrote: the generation is the one known, and the segments end where they did."""
        if lock.generation() != self._generation:
            return False
        for log, tail in self._trace.tails.items():
            if tail is not None:
                segment = self._segments[log]
                appender = segment.appender
                if appender is None or segment.name != tail.name or tail.torn or appender.current_size() != tail.size:
                    return False
            elif self._trace.ends[log]:
                # A part covers the end; who has not seen it may have appended to the last segment since.
                return False
        return True

    def is_quick(self) -> bool:
        return self._sync_seconds < _INLINE_SYNC_SECONDS

    def append_now(self, staged: Staged) -> None:
        before = self._write(staged)
        if self._syncs:
            try:
                for segment in self._segments.values():
                    if segment.unsynced:
                        self._sync(segment)
            except StorageError as error:
                self._lost(before, error)
                raise

    def _write(self, staged: Staged) -> dict[LogName, int]:
        """Append to the segments; return what sizes they had."""
        before: dict[LogName, int] = {}
        try:
            for log, lines in staged.lines.items():
                segment, tail = self._segments[log], self._trace.tails[log]
                appender = segment.appender
                if tail is None or tail.torn or appender is None or not segment.begun or segment.name != tail.name:
                    tail, appender = self._ready(segment, staged.first[log] + 1)
                before[log] = tail.size
                appender.append(b"".join(lines))
                tail.size = appender.size
                segment.unsynced = True
        except StorageError:
            self._rewind(before)
            raise
        return before

    def begins(self, log: LogName) -> bool:
        tail = self._trace.tails[log]
        return tail is None or tail.torn or tail.size == 0 or not self._segments[log].begun

    async def append(self, staged: Staged) -> None:
        before = self._write(staged)
        if self._syncs:
            try:
                await self._sync_own()
            except StorageError as error:
                self._lost(before, error)
                raise

    def _lost(self, before: dict[LogName, int], error: StorageError) -> None:
        """Stop all writing: after a failed sync nobody knows what is on the disk, and nothing may stand on it."""
        self._rewind(before)
        self._trace.broke(error)

    def _rewind(self, sizes: dict[LogName, int]) -> None:
        """Know no more of the tails than before, so that what was written is read again."""
        for log, size in sizes.items():
            tail = self._trace.tails[log]
            if tail is not None:
                tail.size = size

    def _ready(self, segment: _OpenSegment, first: int) -> tuple[Tail, Appender]:
        """Open the last segment for appending; or begin one, at first, after a torn tail, after compaction."""
        trace, log = self._trace, segment.log
        directory = f"{trace.prefix}/{log}"
        segment.close()
        tail = trace.tails[log]
        if tail is not None and not tail.torn and segment.begun:
            return tail, segment.open(tail.name, self._storage.open_appender(f"{directory}/{tail.name}"))
        if tail is not None:
            # Records that others left unsynced must not be lost before those that follow them.
            last = self._storage.open_appender(f"{directory}/{tail.name}")
            last.sync()
            last.close()
            trace.entries[f"{log}/{tail.name}"] = Entry(last.size, "", 0.0)
        name = str(SegmentName(first, trace.header.incarnation, trace.writer_id))
        if f"{log}/{name}" in trace.entries:
            # A segment of our own that holds no whole record; it stays as it is.
            name = str(SegmentName(first, trace.header.incarnation, secrets.token_hex(4)))
        # Told first: who does not hear of a segment goes on at its offsets elsewhere.
        self.changed()
        appender = segment.open(name, self._storage.open_appender(f"{directory}/{name}"))
        segment.begun = True
        tail = trace.tails[log] = Tail(name, appender.size, False)
        trace.entries[f"{log}/{name}"] = Entry(appender.size, "", 0.0)
        return tail, appender

    def close_segments(self) -> None:
        # An empty segment at the end is what other processes will append to.
        for log, segment in self._segments.items():
            if self._trace.tails[log] is not None and self._trace.ends[log]:
                segment.begun = False
                self._ready(segment, self._trace.ends[log] + 1)

    def forget_segments(self) -> None:
        for segment in self._segments.values():
            segment.close()
            segment.begun = segment.unsynced = False

    async def _sync_own(self) -> None:
        """Bring what this writer appended to stable storage."""
        for segment in self._segments.values():
            if segment.unsynced:
                if self.is_quick():
                    self._sync(segment)
                else:
                    await asyncio.to_thread(self._sync, segment)

    def _sync(self, segment: _OpenSegment) -> None:
        appender = segment.appender
        if appender is not None:
            start = time.perf_counter()
            appender.sync()
            self._sync_seconds += (time.perf_counter() - start - self._sync_seconds) / 8
            segment.synced = (segment.name, appender.size)
        segment.unsynced = False

    async def sync_logs(self) -> None:
        await self._sync_own()
        for log, segment in self._segments.items():
            tail = self._trace.tails[log]
            # What another process appended, it may have left to the operating system.
            if tail is not None and segment.synced != (tail.name, tail.size):
                await self._storage.sync([f"{self._trace.prefix}/{log}/{tail.name}"])
                segment.synced = (tail.name, tail.size)

    def changed(self) -> None:
        if self._lock is not None:
            self._lock.bump()
            self._generation = self._lock.generation()

    def log_changed(self, log: LogName) -> None:
        tail, segment = self._trace.tails[log], self._segments[log]
        if segment.appender is None:
            return
        if tail is None or segment.name != tail.name:
            if segment.unsynced:
                segment.appender.sync()
                segment.unsynced = False
            segment.close()
        else:
            segment.appender.size = tail.size

    def reset(self) -> None:
        self.forget_segments()
        if self._lock is not None and self._lock is not self._held:
            self._lock.close()
        self._lock = None
