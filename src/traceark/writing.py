"""How a batch reaches a log, and how that is done on a local disk: appended to a file under a lock."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traceark.errors import StorageError, TraceNotFoundError
from traceark.layout import HEADER, LOCK, LOGS, TRACES, LogName, SegmentName
from traceark.log import Tail
from traceark.publishing import put
from traceark.requests import Staged
from traceark.storage.base import Appender, AppendStorage, Entry, KeyMissingError, Lock, acquire

if TYPE_CHECKING:
    from traceark.live import OpenTrace

# A sync that takes less than this is done in the event loop: a thread would take as long.
_INLINE_SYNC_SECONDS = 0.002
# For so long the time that syncs take is known well enough.
_MEASURED_SECONDS = 0.005
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

    def try_lock(self, logs: Iterable[LogName]) -> Lock | None:
        """Take the lock, and return it, if that needs no waiting and nobody else wrote to these logs meanwhile."""
        return None

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
        """Append and return when it is durable; raises `OffsetsTakenError`."""

    async def sync_logs(self) -> None:
        """Make the logs durable, before a checkpoint beyond them is published."""

    async def anchor(self) -> None:
        """Once: bring the name of the trace to stable storage, whoever made it; under the lock."""

    async def make_lasting(self) -> None:
        """Bring all that is there to stable storage, whoever wrote it; under the lock."""

    @abstractmethod
    async def put(self, name: str, data: bytes, known: str | None) -> str:
        """Put a header over the version that is known, and return its new one; raises as `publishing.put`."""

    async def look_again(self) -> None:
        """Take away the manifest of who had not seen what was put; a `VersionMismatchError` says that it is void."""

    def looked(self) -> None:
        """Hear that the trace was looked at, and is as it was put."""

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
    tail, appender : Tail and Appender, or None
        The trace's tail of this log where it is open here, and whole; None where it must be looked at first.
    begun : bool
        Whether this writer began a segment of this log: until then it appends to no other's.
    unsynced : bool
        Whether some of the log's last segment may not be on stable storage, whoever wrote it.
    """

    log: LogName
    tail: Tail | None = None
    appender: Appender | None = None
    begun: bool = False
    unsynced: bool = False

    def open(self, tail: Tail, appender: Appender) -> Appender:
        """Append to this segment from now on."""
        self.tail, self.appender = tail, appender
        return appender

    def close(self) -> None:
        """Give back the file."""
        appender, self.tail, self.appender = self.appender, None, None
        if appender is not None:
            appender.close()


class _Segments(dict[LogName, _OpenSegment]):
    """The segments of the logs that something was read of or written to."""

    def __missing__(self, log: LogName) -> _OpenSegment:
        segment = self[log] = _OpenSegment(log)
        return segment


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
        self._segments = _Segments()
        self._is_anchored = False
        # How long a sync takes, on average, and until when that need not be measured again.
        self._sync_seconds = 0.0
        self._measured_until = 0.0

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
            try:
                if lock.generation() != -1 or await self._was_left(lock):
                    return lock
            except BaseException:
                lock.release()
                raise
            # The trace was deleted under this lock; if it was made anew, that has a lock of its own.
            lock.release()
            self.reset()

    async def _was_left(self, lock: Lock) -> bool:
        """Say whether a lock that says that its trace was deleted is left of a deletion that never came so far."""
        if lock.is_removed():
            return False
        if HEADER not in await self._storage.list(self._trace.prefix):
            raise TraceNotFoundError(f"no trace {self._trace.trace_id!r} in {self._storage.url}")
        lock.bump()
        lock.bump()  # to one, as a writer finds it in a trace that it has just created itself
        return True

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        lock = await self._acquire()
        try:
            while not self._is_current(lock, LOGS):
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

    def try_lock(self, logs: Iterable[LogName]) -> Lock | None:
        lock = self._lock
        if lock is None or not lock.try_acquire():
            return None
        if self._is_current(lock, logs):
            return lock
        lock.release()
        return None

    def _is_current(self, lock: Lock, logs: Iterable[LogName]) -> bool:
        """Whether nobody else wrote: the generation is the one known, and the logs' segments end where they did."""
        if lock.generation() != self._generation:
            return False
        for log in logs:
            segment = self._segments[log]
            tail, appender = segment.tail, segment.appender
            if tail is not None and appender is not None:
                if appender.current_size() != tail.size:
                    return False
            elif self._trace.ends[log] or self._trace.tails[log] is not None:
                # Where a part covers the end: who has not seen it may have appended to the last segment since.
                return False
        return True

    def is_quick(self) -> bool:
        return self._sync_seconds < _INLINE_SYNC_SECONDS

    def append_now(self, staged: Staged) -> None:
        written = self._write(staged)
        if self._syncs:
            for segment in written:
                self._sync(segment)
        self._wrote(written)

    async def append(self, staged: Staged) -> None:
        written = self._write(staged)
        if self._syncs:
            await self._sync_all(written)
        self._wrote(written)

    def _write(self, staged: Staged) -> list[_OpenSegment]:
        """Append to the segments; return to which."""
        written = []
        for log, lines in staged.lines.items():
            segment = self._segments[log]
            appender = segment.appender or self._ready(segment, staged.first(log))
            appender.append(b"".join(lines))
            segment.unsynced = True
            written.append(segment)
        return written

    def _wrote(self, written: list[_OpenSegment]) -> None:
        """Know of the tails as they are now: what was not wholly written, or not synced, is read again."""
        for segment in written:
            tail, appender = segment.tail, segment.appender
            assert tail is not None
            assert appender is not None
            tail.size = appender.size

    def begins(self, log: LogName) -> bool:
        segment = self._segments[log]
        if segment.tail is not None:
            return segment.tail.size == 0
        tail = self._trace.tails[log]
        return tail is None or tail.torn or tail.size == 0 or not segment.begun

    def _ready(self, segment: _OpenSegment, first: int) -> Appender:
        """Open the last segment for appending; or begin one, at first, after a torn tail, after compaction."""
        trace, log = self._trace, segment.log
        directory = f"{trace.prefix}/{log}"
        segment.close()
        tail = trace.tails[log]
        if tail is not None and not tail.torn and segment.begun:
            return segment.open(tail, self._storage.open_appender(f"{directory}/{tail.name}"))
        if tail is not None:
            # Records that others left unsynced must not be lost before those that follow them.
            last = self._storage.open_appender(f"{directory}/{tail.name}")
            try:
                last.sync()
            finally:
                last.close()
            trace.entries[f"{log}/{tail.name}"] = Entry(last.size, "", 0.0)
        name = str(SegmentName(first, trace.header.incarnation, trace.writer_id))
        if f"{log}/{name}" in trace.entries:
            # A segment of our own that holds no whole record; it stays as it is.
            name = str(SegmentName(first, trace.header.incarnation, secrets.token_hex(4)))
        # Nor the header: who made the trace may have been killed before its name was on stable storage.
        self._storage.make_directory(directory)
        # Told first: who does not hear of a segment goes on at its offsets elsewhere.
        self.changed()
        appender = self._storage.open_appender(f"{directory}/{name}")
        segment.begun = True
        trace.tails[log] = tail = Tail(name, appender.size, False)
        trace.entries[f"{log}/{name}"] = Entry(appender.size, "", 0.0)
        return segment.open(tail, appender)

    def close_segments(self) -> None:
        # An empty segment at the end is what other processes will append to.
        # One that is there already serves as well: of two, others may take the one that is not taken here.
        for log, segment in self._segments.items():
            tail = self._trace.tails[log]
            if tail is not None and (tail.size or tail.torn) and self._trace.ends[log]:
                segment.begun = False
                self._ready(segment, self._trace.ends[log] + 1)

    def forget_segments(self) -> None:
        for segment in self._segments.values():
            segment.close()
            segment.begun = False

    async def _sync_all(self, segments: Iterable[_OpenSegment]) -> None:
        """Bring the last segments of logs to stable storage, each in a thread where that takes long."""
        for segment in segments:
            if segment.appender is None:
                await self._sync_closed(segment)
            elif self.is_quick():
                self._sync(segment)
            else:
                await asyncio.to_thread(self._sync, segment)

    def _sync(self, segment: _OpenSegment) -> None:
        appender, now = segment.appender, self._trace.used_at
        assert appender is not None
        if now < self._measured_until:
            appender.sync()
        else:
            start = time.perf_counter()
            appender.sync()
            self._sync_seconds += (time.perf_counter() - start - self._sync_seconds) / 8
            self._measured_until = now + _MEASURED_SECONDS
        segment.unsynced = False

    async def _sync_closed(self, segment: _OpenSegment) -> None:
        """Bring a segment to stable storage that another process wrote, and perhaps left to the operating system."""
        tail = self._trace.tails[segment.log]
        if tail is not None:
            await self._storage.sync([f"{self._trace.prefix}/{segment.log}/{tail.name}"])
        segment.unsynced = False

    async def sync_logs(self) -> None:
        await self._sync_all([segment for segment in self._segments.values() if segment.unsynced])

    async def put(self, name: str, data: bytes, known: str | None) -> str:
        return await put(self._storage, f"{self._trace.prefix}/{name}", data, known)

    async def anchor(self) -> None:
        if self._syncs and not self._is_anchored:
            await self._storage.sync_names(TRACES)
            self._is_anchored = True

    async def make_lasting(self) -> None:
        if self._syncs:
            await self.sync_logs()
            for log in self._segments:
                await self._storage.sync_names(f"{self._trace.prefix}/{log}")
            await self._storage.sync_names(self._trace.prefix)

    def changed(self) -> None:
        if self._lock is not None:
            self._lock.bump()
            self._generation = self._lock.generation()

    def log_changed(self, log: LogName) -> None:
        tail, segment = self._trace.tails[log], self._segments[log]
        if segment.tail is not None and segment.appender is not None:
            if tail is not None and tail.name == segment.tail.name and not tail.torn:
                segment.tail, segment.appender.size = tail, tail.size
            else:
                if segment.unsynced:
                    segment.appender.sync()
                segment.close()
        segment.unsynced = True

    def reset(self) -> None:
        self.forget_segments()
        self._is_anchored = False
        if self._lock is not None and self._lock is not self._held:
            self._lock.close()
        self._lock = None
