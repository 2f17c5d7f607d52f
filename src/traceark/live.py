"""The open trace: one trace that this process reads and appends to, with its folds in memory.

All writing to a trace goes through here, one batch at a time: requests that arrive while a batch
is on its way to the disk or the store go out together in the next. The log append is the one
commit point; headers are checkpoints of it. What differs between appending to files and creating
objects is in `appending`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from traceark.codec.parquet import PartInfo
from traceark.creating import writer_for
from traceark.errors import (
    DamagedTraceError,
    IncompleteTraceError,
    StorageError,
    StoreClosedError,
    TraceNotFoundError,
)
from traceark.headers import Changes, Checkpoint, Header, TreeFile, as_read
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, LogName, PartName, parse_log_name, trace_prefix
from traceark.log import LogRead, Tail, read_log
from traceark.models import GoalTree, Trace
from traceark.reading import retrying
from traceark.requests import KnownMessage, Request, Staged, fold_record
from traceark.segments import Places
from traceark.stats import MessageFold, totals_of, with_stats
from traceark.storage.base import Entry, KeyMissingError, Storage, VersionMismatchError
from traceark.writing import LogWriter, OffsetsTakenError


def _version(entries: Mapping[str, Entry], name: str) -> str | None:
    return entries[name].version if name in entries else None


# Who was alone in appending looks after this whether other tasks want to share a sync.
_GIVE_WAY_SECONDS = 0.005
# A batch is cut here, so that one object or one write stays a sensible size.
_BATCH_REQUESTS = 2_000

Announce = Callable[[str], Awaitable[None]]


class OpenTrace:
    """One trace, open.

    Attributes
    ----------
    header : Header
        As last read or published; its totals are as of its checkpoint, `view` gives current ones.
    tree : TreeFile or None
        The same for the goal tree.
    fold : MessageFold
        Over all durable messages.
    ends : dict
        The last durable offset of each log.
    announced_at : float or None
        When, by the monotonic clock, others were told that this process writes here; None if they
        were not, and must be before anything is written.
    """

    def __init__(self, storage: Storage, trace_id: str, durability: str, announce: Announce) -> None:
        self.storage = storage
        self._announce = announce
        self.announced_at: float | None = None
        self.trace_id = trace_id
        self.prefix = trace_prefix(trace_id)
        self.header = Header(Trace(trace_id=trace_id), "")
        self.tree: TreeFile | None = None
        self.fold = MessageFold()
        self.ends: dict[LogName, int] = {"messages": 0, "events": 0}
        self.tails: dict[LogName, Tail | None] = {"messages": None, "events": None}
        self.crcs: dict[LogName, str | None] = {"messages": None, "events": None}
        self.entries: dict[str, Entry] = {}
        self.parts: dict[str, PartInfo] = {}
        self.places = Places()
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
        self._broken: Exception | None = None
        self._writer: LogWriter = writer_for(storage, self, durability)

    # Reading

    @property
    def sealed(self) -> bool:
        """Whether the manifest was there when the trace was last listed."""
        return MANIFEST in self.entries

    async def refresh(self) -> None:
        """Take in what others wrote since.

        Raises
        ------
        TraceNotFoundError
            It is gone.
        DamagedTraceError
            Its files do not make a whole.
        """

        async def look() -> None:
            await self._refresh(await self.storage.list(self.prefix))

        await retrying(self.trace_id, look)

    async def _refresh(self, entries: dict[str, Entry]) -> None:
        header = entries.get(HEADER)
        if header is None:
            raise TraceNotFoundError(f"no trace {self.trace_id!r} in {self.storage.url}")
        if _version(entries, HEADER) != _version(self.entries, HEADER):
            await self._read_header()
        if _version(entries, GOAL_TREE) != _version(self.entries, GOAL_TREE):
            await self._read_tree(GOAL_TREE in entries)
        for log in LOGS:
            await self._catch_up(log, entries)
        self.entries = entries
        for log in LOGS:
            stated = self.header.checkpoint.ends[log]
            if log == "messages" and self.tree is not None:
                stated = max(stated, self.tree.messages)
            if stated > self.ends[log]:
                raise IncompleteTraceError(
                    f"trace {self.trace_id!r}: its headers are as of {log} offset {stated}, but the {log} end at "
                    f"{self.ends[log]}; offsets {self.ends[log] + 1} to {stated} are missing: "
                    f"copy the {log} directory again"
                )

    async def _read_header(self) -> None:
        data, _ = await self.storage.read_versioned(f"{self.prefix}/{HEADER}")
        header = Header.decode(data, f"{self.prefix}/{HEADER}")
        if header.trace.trace_id != self.trace_id:
            raise DamagedTraceError(
                f"{self.prefix}/{HEADER} is the header of trace {header.trace.trace_id!r}; "
                "rename the directory to its key"
            )
        if self.header.incarnation not in ("", header.incarnation):
            self._forget()
        self.header = header

    def _forget(self) -> None:
        """Drop what was known of a trace that was deleted and made anew."""
        self._writer.reset()
        self.announced_at = None
        self.tree = None
        self.fold = MessageFold()
        self.ends = {"messages": 0, "events": 0}
        self.tails = {"messages": None, "events": None}
        self.crcs = {"messages": None, "events": None}
        self.entries = {}
        self.parts = {}
        self.places = Places()

    async def _read_tree(self, exists: bool) -> None:
        if not exists:
            self.tree = None
            return
        data, _ = await self.storage.read_versioned(f"{self.prefix}/{GOAL_TREE}")
        tree = TreeFile.decode(data, f"{self.prefix}/{GOAL_TREE}")
        self.tree = tree if tree.is_of(self.header.incarnation) else None

    async def _catch_up(self, log: LogName, entries: Mapping[str, Entry]) -> None:
        ours = {name: entry.size for name, entry in self.entries.items() if name.startswith(f"{log}/")}
        theirs = {name: entry.size for name, entry in entries.items() if name.startswith(f"{log}/")}
        tail = self.tails[log]
        if tail is not None and f"{log}/{tail.name}" in ours:
            ours[f"{log}/{tail.name}"] = tail.size
        if ours == theirs:
            return
        known, where = self.ends[log], (self.storage, self.prefix, log, self.header.incarnation, entries, self.parts)
        read = await read_log(*where, after=known, places=self.places)
        if known and len(read.records) < read.end - known:
            # A seal folded updates past the known end into messages before it.
            read, self.fold = await read_log(*where), MessageFold()
        self.take(log, read)

    def take(self, log: LogName, read: LogRead) -> None:
        """Fold in what was read of a log past its known end."""
        if read.end < self.ends[log]:
            raise IncompleteTraceError(
                f"trace {self.trace_id!r}: the {log} ended at offset {self.ends[log]} and now end at {read.end}; "
                "files were removed or replaced while it was open"
            )
        if log == "messages":
            for row in read.records:
                fold_record(self.fold, row.op, row.record, row.offset)
        self.ends[log] = read.end
        self.tails[log] = read.tail
        if read.crc is not None:
            self.crcs[log] = read.crc
        self._writer.log_changed(log)

    def view(self) -> Trace:
        """Return the header with its totals as the messages are now."""
        header = self.header
        trace = header.trace.model_copy(deep=True)
        values = trace.__dict__
        values.update(totals_of(self.fold.total, header.adjustments))
        values["last_sequence"] = max(self.fold.last_sequence, header.floor)
        values["last_event_id"] = self.ends["events"]
        return trace

    def tree_view(self) -> GoalTree | None:
        """Return the goal tree with its stats as the messages are now, marked with its revision."""
        if self.tree is None:
            return None
        tree = with_stats(self.tree.tree.model_copy(deep=True), self.fold.by_goal, self.tree.was_set)
        return as_read(tree, self.tree)

    # Writing

    async def submit(self, request: Request) -> Any:
        """Append a request and return its result once it is durable."""
        if self._broken is not None:
            raise self._closed(self._broken)
        if self._is_free() and self._writer.is_quick():
            alone = self.used_at < self._alone_until and self._alone is asyncio.current_task()
            if alone and self._writer.try_lock():
                # Nothing to wait for, and nobody to share a sync with.
                try:
                    self._commit_now([request])
                finally:
                    self._writer.unlock()
            else:
                await self._lead(request)
            return self._result(request)
        await self._enqueue([request])
        return self._result(request)

    def _is_free(self) -> bool:
        """Whether nothing is on its way, and an append needs no more than itself."""
        return not (self._leading or self._queue or self._holders or self.sealed or self.announced_at is None)

    async def _lead(self, request: Request) -> None:
        """Commit a request in this task, with those that other tasks bring meanwhile, and one sync for all."""
        request.future = asyncio.get_running_loop().create_future()
        self._queue.append(request)
        self._leading = True
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._leading = False
            self._start_draining()
            raise
        self._leading = False
        if self._holders or self.sealed or self.announced_at is None or not self._writer.try_lock():
            self._start_draining()
            await request.future
            return
        batch = self._next_batch()
        try:
            self._commit_now(batch)
        except Exception as error:  # whatever it is, it belongs to the callers that wait
            for each in batch:
                each.error = each.error or error
        finally:
            self._writer.unlock()
        self._alone = asyncio.current_task() if len(batch) == 1 else None
        self._alone_until = time.monotonic() + _GIVE_WAY_SECONDS
        self._resolve(batch)
        if self._queue:
            self._start_draining()

    async def submit_all(self, requests: list[Request], *, raising: bool = True) -> list[Any]:
        """Append requests in order, sharing one sync; return their results.

        With ``raising=False`` errors stay with their requests.
        """
        if not requests:
            return []
        await self._enqueue(requests)
        return [self._result(request) for request in requests] if raising else []

    def _enqueue(self, requests: list[Request]) -> asyncio.Future[Any]:
        """Have requests committed in order; the future is done when the last one is, so when all are."""
        last = requests[-1].future = asyncio.get_running_loop().create_future()
        self._queue += requests
        if not self._leading:
            self._start_draining()
        return last

    def _start_draining(self) -> None:
        if self._queue and (self._draining is None or self._draining.done()):
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    @staticmethod
    def _resolve(batch: list[Request]) -> None:
        for request in batch:
            if request.future is not None and not request.future.done():
                request.future.set_result(None)

    @staticmethod
    def _result(request: Request) -> Any:
        if request.error is not None:
            raise request.error
        return request.result

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
            self._writer.append_now(staged)
            self._applied(staged)

    def _stage(self, batch: list[Request]) -> Staged:
        staged = Staged(
            self.ends,
            f"{self.header.incarnation}-{self.writer_id}",
            max(self.fold.last_sequence, self.header.floor),
            self._after,
        )
        for request in batch:
            request.error = None
            try:
                request.stage(staged, self.fold)
            except (KnownMessage, Exception) as error:  # a request that cannot be staged fails alone
                request.error = error
        return staged

    def _after(self, log: LogName) -> str | None:
        """Return the ``_crc`` that a log's next record must name: that of the last, where it begins a segment."""
        return self.crcs[log] if self._writer.begins(log) else None

    def _applied(self, staged: Staged) -> None:
        staged.apply(self.fold)
        self.ends = staged.ends
        for log, lines in staged.lines.items():
            self.crcs[log] = lines[-1][-11:-3].decode()
        self.dirty = True
        self.touched = True

    def broke(self, error: Exception) -> None:
        """Refuse all further writing: what the disk holds is not known any more."""
        self._broken = error

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[LogWriter]:
        """Hold the trace against all other writers, up to date."""
        async with self.held():
            if self._broken is not None:
                raise self._closed(self._broken)
            async with self._writer.locked():
                if self.announced_at is None:
                    await self._announce(self.trace_id)
                    self.announced_at = time.monotonic()
                yield self._writer

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

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the logs as they are now."""
        found = Checkpoint(dict(self.ends))
        for log in LOGS:
            tail = self.tails[log]
            if tail is not None and self.ends[log]:
                found.files[log] = (tail.name, tail.size)
            elif self.ends[log]:
                parts = [
                    name
                    for name in self.parts
                    if f"{log}/{name.rpartition('/')[2]}" in self.entries and f"/{log}/" in name
                ]
                last = max(parts, key=lambda name: self.parts[name].last)
                key = last.removeprefix(f"{self.prefix}/")
                found.files[log] = (key.rpartition("/")[2], self.entries[key].size)
            last_name = found.files.get(log, ("", 0))[0]
            found.others[log] = {
                name: entry.size
                for key, entry in self.entries.items()
                if key.startswith(f"{log}/")
                and (name := key.rpartition("/")[2]) != last_name
                and (parsed := parse_log_name(name)) is not None
                and (isinstance(parsed, PartName) or parsed.writer)
                and parsed.incarnation == self.header.incarnation
            }
        return found

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
        key = f"{self.prefix}/{name}"
        known = self.entries.get(name)
        if known is None:
            version = await self._create(key, data)
        else:
            version = await self._replace(key, data, known.version)
        self.entries[name] = Entry(len(data), version, 0.0)
        self.touched = True

    async def _replace(self, key: str, data: bytes, version: str) -> str:
        try:
            return await self.storage.replace(key, data, version)
        except VersionMismatchError as error:
            # The answer to our own replacement may have been lost.
            try:
                stored, now = await self.storage.read_versioned(key)
            except KeyMissingError:
                raise error from None
            if stored != data:
                raise
            return now

    async def _create(self, key: str, data: bytes) -> str:
        try:
            return await self.storage.create(key, data)
        except StorageError as error:
            # The answer to our own creation may have been lost.
            try:
                stored, version = await self.storage.read_versioned(key)
            except KeyMissingError:
                raise error from None
            if stored != data:
                raise VersionMismatchError(f"{key} was created meanwhile") from error
            return version

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
                return await change()
            except VersionMismatchError:
                await self.refresh()
        raise StorageError(f"trace {self.trace_id!r}: other writers kept replacing its headers; try again")

    def files_changed(self) -> None:
        """Tell other processes that files come or go."""
        self._writer.changed()

    async def close(self) -> None:
        """Wait for what is on its way, and give back files and locks; who writes on must say so again."""
        while not self.idle:
            if self._draining is not None and not self._draining.done():
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
        return not (self._leading or self._queue or self._holders) and (self._draining is None or self._draining.done())
