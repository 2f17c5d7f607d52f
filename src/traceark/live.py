"""The open trace: one trace that this process reads and appends to.

All writing to a trace goes through here, one batch at a time: requests that arrive while a batch
is on its way to the disk or the store go out together in the next. The log append is the one
commit point; headers are checkpoints of it. What differs between appending to files and creating
objects is in `writing` and `creating`, what is known of the trace in `knowledge`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from traceark.creating import writer_for
from traceark.errors import StorageError, StoreClosedError
from traceark.headers import Changes, Header, TreeFile
from traceark.knowledge import KnownTrace
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, LogName
from traceark.log import LogRead
from traceark.requests import KnownMessage, Request, Staged
from traceark.stats import totals_of, with_stats
from traceark.storage.base import Entry, Lock, Storage, SyncFailedError, VersionMismatchError
from traceark.writing import LogWriter, OffsetsTakenError

# Who was alone in appending looks after this whether other tasks want to share a sync.
_GIVE_WAY_SECONDS = 0.005
# A batch is cut here, so that one object or one write stays a sensible size.
_BATCH_REQUESTS = 2_000

Announce = Callable[[str], Awaitable[None]]


class OpenTrace(KnownTrace):
    """One trace, open.

    Attributes
    ----------
    announced_at : float or None
        When, by the monotonic clock, others were told that this process writes here; None if they
        were not, and must be before anything is written.
    dirty, touched : bool
        Whether the headers are older than the logs; whether anything was written here.
    """

    def __init__(self, storage: Storage, trace_id: str, durability: str, announce: Announce) -> None:
        super().__init__(storage, trace_id)
        self._announce = announce
        self.announced_at: float | None = None
        self.dirty = False
        self.touched = False
        self.used_at = time.monotonic()
        self._mutex = asyncio.Lock()
        self._holders = 0
        self.writer_id = secrets.token_hex(4)
        self._queue: list[Request] = []
        self._draining: asyncio.Task[None] | None = None
        self._leading = False
        self._alone: asyncio.Task[Any] | None = None
        self._alone_until = 0.0
        # The sync that failed: what the disk holds is not known any more, and nothing more is written.
        self._broken: Exception | None = None
        self._writer: LogWriter = writer_for(storage, self, durability)

    def _forget(self) -> None:
        self._writer.reset()
        self.announced_at = None
        super()._forget()

    def take(self, log: LogName, read: LogRead) -> None:
        """Fold in what was read of a log past its known end."""
        super().take(log, read)
        self._writer.log_changed(log)

    def submit(self, request: Request) -> asyncio.Future[None] | None:
        """Have a request appended; return None if that is done, and else what to wait for.

        Then `Request.outcome` tells what came of it.
        """
        if self.used_at < self._alone_until and not self._queue and asyncio.current_task() is self._alone:
            # Nothing to wait for, and nobody to share a sync with.
            lock = self._lock_now((request.log,))
            if lock is not None:
                try:
                    self._commit_now([request])
                finally:
                    lock.release()
                return None
        request.future = asyncio.Future()
        self._queue.append(request)
        self._get_going()
        return request.future

    async def commit(self, request: Request) -> Any:
        """Append a request and return its result once it is durable."""
        waiting = self.submit(request)
        if waiting is not None:
            await waiting
        return request.outcome()

    def _lock_now(self, logs: Iterable[LogName]) -> Lock | None:
        """Take the lock among processes, if an append needs no more, and nobody has it or wrote to these logs."""
        if self._holders or self._broken is not None or self.announced_at is None or MANIFEST in self.entries:
            return None
        return self._writer.try_lock(logs)

    async def submit_all(self, requests: list[Request], *, raising: bool = True) -> list[Any]:
        """Append requests in order, sharing one sync; return their results.

        With ``raising=False`` errors stay with their requests.
        """
        if not requests:
            return []
        # Requests are committed in order: when the last one is done, all are.
        last = requests[-1].future = asyncio.Future()
        self._queue += requests
        self._get_going()
        await last
        return [request.outcome() for request in requests] if raising else []

    def _get_going(self) -> None:
        """See to it that the queue is committed."""
        if self._leading or self._is_draining():
            return
        if self._writer.is_quick():
            self._alone = asyncio.current_task()
            self._lead_soon()
        else:
            self._start_draining()

    def _lead_soon(self) -> None:
        """Have the queue committed with one sync, once all tasks that can go on now have brought their requests."""
        self._leading = True
        asyncio.get_running_loop().call_soon(self._lead)

    def _is_draining(self) -> bool:
        return self._draining is not None and not self._draining.done()

    def _lead(self) -> None:
        """Commit what waits without giving way, if the trace is free; else leave it to `_drain`."""
        self._leading = False
        if not self._queue:
            return
        lock = self._lock_now({request.log for request in self._queue})
        if lock is None:
            self._start_draining()
            return
        batch = self._next_batch()
        try:
            self._commit_now(batch)
        except Exception as error:  # whatever it is, it belongs to the callers that wait
            for request in batch:
                request.error = request.error or error
        finally:
            lock.release()
        self._resolve(batch)
        if len(batch) == 1:
            self._alone_until = time.monotonic() + _GIVE_WAY_SECONDS
        else:
            self._alone, self._alone_until = None, 0.0
        if self._queue:
            self._start_draining()
        elif len(batch) > 1 and self._writer.is_quick():
            # Those that shared a sync go on next, and may bring more.
            self._lead_soon()

    def _start_draining(self) -> None:
        if not self._is_draining():
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    @staticmethod
    def _resolve(batch: list[Request]) -> None:
        for request in batch:
            future = request.future
            if future is not None and not future.done():
                future.set_result(None)

    def _closed(self, reason: Exception) -> StoreClosedError:
        return StoreClosedError(f"trace {self.trace_id!r} broke on a failed write ({reason}); open the archive again")

    async def _drain(self) -> None:
        while self._queue:
            batch = self._next_batch()
            try:
                await self._commit(batch)
            except Exception as error:  # whatever it is, it belongs to the callers that wait
                for request in batch:
                    request.error = request.error or error
            self._resolve(batch)

    def _next_batch(self) -> list[Request]:
        if len(self._queue) <= _BATCH_REQUESTS and not self._writer.one_log_at_a_time:
            waiting, self._queue = self._queue, []
            return waiting
        waiting = self._queue[:_BATCH_REQUESTS]
        if self._writer.one_log_at_a_time:
            waiting = [request for request in waiting if request.log == waiting[0].log]
        taken = set(map(id, waiting))
        self._queue = [request for request in self._queue if id(request) not in taken]
        return waiting

    async def _commit(self, batch: list[Request]) -> None:
        async with self.exclusive() as writer:
            await self._append(writer, batch)

    async def _append(self, writer: LogWriter, batch: list[Request]) -> None:
        for _ in range(1000):
            staged = self._stage(batch)
            if not staged.lines:
                return
            await self.reopen()
            try:
                await writer.append(staged)
            except OffsetsTakenError:
                await self.refresh()
                continue
            self._applied(staged)
            return
        raise StorageError(f"trace {self.trace_id!r}: other writers took every offset; try again")

    def _commit_now(self, batch: list[Request]) -> None:
        staged = self._stage(batch)
        if staged.lines:
            try:
                self._writer.append_now(staged)
            except SyncFailedError as error:
                self._broken = error
                raise
            self._applied(staged)

    def _stage(self, batch: list[Request]) -> Staged:
        header = self.header
        writer = f"{header.incarnation}-{self.writer_id}"
        staged = Staged(self.fold, self.ends, header.floor, writer, self.crcs, self._writer.begins)
        for request in batch:
            request.error = None
            try:
                request.stage(staged)
            except (KnownMessage, Exception) as error:  # a request that cannot be staged fails alone
                request.error = error
        return staged

    def _applied(self, staged: Staged) -> None:
        staged.apply()
        self.ends = staged.ends
        for log, lines in staged.lines.items():
            self.crcs[log] = lines[-1][-11:-3].decode()
        self.dirty = True
        self.touched = True

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[LogWriter]:
        """Hold the trace against all other writers, up to date."""
        async with self.held():
            if self._broken is not None:
                raise self._closed(self._broken)
            async with self._writer.locked():
                await self.announce()
                try:
                    await self._writer.anchor()
                    yield self._writer
                except SyncFailedError as error:
                    self._broken = error
                    raise

    async def announce(self) -> None:
        """Tell others that this process writes here, unless they were told."""
        if self.announced_at is None:
            await self._announce(self.trace_id)
            self.announced_at = time.monotonic()

    async def reopen(self) -> None:
        """Take a sealed trace's manifest away, before anything else changes; call it inside `exclusive`."""
        if self.sealed:
            self._writer.changed()
            await self.storage.delete([f"{self.prefix}/{MANIFEST}"])
            await self.storage.sync_names(self.prefix)
            self.entries.pop(MANIFEST, None)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Hold the trace still inside this process, up to date."""
        async with self.held():
            await self.refresh()
            yield

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the trace against the other tasks of this process."""
        # Who waits counts too: a lock that was just released looks free until the next one wakes.
        self._holders += 1
        try:
            async with self._mutex:
                yield
        finally:
            self._holders -= 1

    async def publish_header(self, header: Header) -> None:
        """Publish a header over the one that was read, as of the logs' ends.

        Raises
        ------
        VersionMismatchError
            Another writer published meanwhile; refresh and decide anew.
        """
        await self._writer.sync_logs()
        header.checkpoint = self.checkpoint()
        header.revision = self.header.revision + 1
        header.changes = self.header.changes
        if header.told() != self.header.told():
            header.changes = header.changes.then(header.revision, self.writer_id)
        before, header.trace = header.trace, header.trace.model_copy()
        values = header.trace.__dict__
        values.update(totals_of(self.fold.total, header.adjustments))
        values["last_sequence"] = max(self.fold.last_sequence, header.floor)
        values["last_event_id"] = self.ends["events"]
        data = header.encode()
        header.trace = before
        await self._publish(HEADER, data)
        self.header = header
        self.dirty = False

    async def publish_tree(self, tree: TreeFile) -> None:
        """Publish a goal tree that a caller changed, over the one that was read; raises as `publish_header`."""
        await self._publish_tree(tree, None)

    async def _publish_tree(self, tree: TreeFile, changed: int | None) -> None:
        await self._writer.sync_logs()
        revision = (self.tree.revision if self.tree else 0) + 1
        changes = self.tree.changes if self.tree is not None else Changes()
        stored = TreeFile(
            with_stats(tree.tree, self.fold.by_goal, tree.was_set),
            self.header.incarnation,
            revision,
            self.ends["messages"],
            revision if changed is None else changed,
            tree.was_set,
            changes.then(revision, self.writer_id) if changed is None else changes,
        )
        await self._publish(GOAL_TREE, stored.encode())
        self.tree = stored

    async def _publish(self, name: str, data: bytes) -> None:
        await self.reopen()
        self._writer.changed()
        known = self.entries.get(name)
        version = await self._writer.put(name, data, known.version if known is not None else None)
        self.entries[name] = Entry(len(data), version, 0.0)
        self.touched = True

    async def publish_checkpoint(self) -> None:
        """Publish both headers as of the logs' ends, if messages or events were added since."""
        if not self.dirty:
            return
        async with self.exclusive():
            await self.retry(self.publish_both)

    async def publish_both(self) -> None:
        """Publish the goal tree, if its stats moved, and the header; call it inside `exclusive`."""
        if self.tree is not None and self.tree.messages != self.ends["messages"]:
            await self._publish_tree(self.tree, self.tree.changed)
        await self.publish_header(self.header)

    async def retry(self, change: Any) -> Any:
        """Run a read-change-publish until no other writer came between; call it inside `exclusive`."""
        for _ in range(100):
            try:
                result = await change()
                await self._writer.look_again()
                return result
            except VersionMismatchError:
                await self.refresh()
        raise StorageError(f"trace {self.trace_id!r}: other writers kept replacing its headers; try again")

    def files_changed(self) -> None:
        """Tell other processes that files come or go."""
        self._writer.changed()

    async def close(self) -> None:
        """Wait for what is on its way, and give back files and locks; who writes on must say so again."""
        while not self.idle:
            if self._draining is not None and self._is_draining():
                await asyncio.wait([self._draining])
            async with self.held():
                pass
            await asyncio.sleep(0)
        async with self.held():
            await self._writer.close()
            self.announced_at = None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._leading or self._queue or self._holders or self._is_draining())
