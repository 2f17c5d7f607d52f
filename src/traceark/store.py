"""`ArchiveStore`: the async `TraceStore` over an archive on local disk, S3 or in memory."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from traceark import goals, query, verification
from traceark.codec.lines import time_text, to_record
from traceark.codec.parquet import PartInfo
from traceark.compact import compact, seal
from traceark.errors import (
    AmbiguousMessageId,
    DamagedTraceError,
    DamagedTraceWarning,
    InvalidValueError,
    MessageConflictError,
    MessageNotFoundError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.headers import Header
from traceark.layout import FORMAT_VERSION, HEADER, MARKER, trace_prefix
from traceark.live import OpenTrace
from traceark.models import TERMINAL, Event, Goal, GoalTree, Json, JsonObject, Message, Trace, updated, utc_now
from traceark.query import QueryResult
from traceark.reading import StoredTrace, fold_updates, load, retrying, scan
from traceark.requests import AddMessage, AppendEvent, KnownMessage, Request, UpdateMessage, digest
from traceark.stats import TOTALS, Sums, adjustment
from traceark.storage import storage_for
from traceark.storage.base import AppendStorage, Durability, KeyExistsError, KeyMissingError, Storage
from traceark.verification import Finding


class ArchiveStore:
    """An archive, opened for reading and writing.

    Opened lazily: nothing is touched before the first call, and ``async with`` is good manners,
    not a need. What was acknowledged is durable without `close`; `close` seals what is finished.

    Parameters
    ----------
    url : str or Path
        A path, ``file://``, ``s3://bucket/prefix``, ``memory://name``, or any other fsspec URL.
    storage_options : mapping, optional
        Given to the fsspec file system, for example ``{"endpoint_url": …}`` for s3fs. Credentials
        come from here or from the usual AWS chain.
    durability : {'fsync', 'os'}
        What an acknowledged write survives on a local disk: power loss, or the death of the
        process. On an object store both mean that the store has answered.
    allow_unsafe_writes : bool
        Write to a store that has no conditional writes. Only one writer may do so.
    max_open_traces : int
        How many traces are kept open at most; each takes memory by its messages, and up to three files.

    Examples
    --------
    >>> import asyncio, traceark
    >>> async def run():
    ...     async with traceark.ArchiveStore("memory://example") as store:
    ...         await store.create_trace(traceark.Trace(trace_id="run-7", task="say hi"))
    ...         await store.add_message(traceark.Message(trace_id="run-7", role="user", content="hi"))
    ...         await store.update_trace("run-7", status="completed")
    ...         return (await store.get_trace("run-7")).total_messages
    >>> asyncio.run(run())
    1
    """

    def __init__(
        self,
        url: str | Path,
        *,
        storage_options: Mapping[str, Any] | None = None,
        durability: Durability = "fsync",
        allow_unsafe_writes: bool = False,
        max_open_traces: int = 128,
    ) -> None:
        if durability not in ("fsync", "os"):
            raise InvalidValueError(f"{durability!r} is neither 'fsync' nor 'os'", "durability")
        self.storage: Storage = storage_for(url, storage_options, durability)
        self._durability = durability
        self._allow_unsafe_writes = allow_unsafe_writes
        self._max_open_traces = max_open_traces
        self._open: OrderedDict[str, OpenTrace] = OrderedDict()
        self._opening: dict[str, asyncio.Task[OpenTrace]] = {}
        self._sealing: dict[str, asyncio.Task[None]] = {}
        self._parts: dict[str, PartInfo] = {}
        self._marker: JsonObject | None = None
        self._writable: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """Where the archive is."""
        return self.storage.url

    def __repr__(self) -> str:
        return f"ArchiveStore({self.url!r}, durability={self._durability!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self.close()

    # The archive

    async def exists(self) -> bool:
        """Say whether there is an archive at this location.

        Raises
        ------
        UnsupportedFormatError
            It was made by a newer version.
        """
        return await self._read_marker() is not None

    async def _read_marker(self) -> JsonObject | None:
        if self._marker is None:
            try:
                data = await self.storage.read(MARKER)
            except KeyMissingError:
                return None
            try:
                marker = json.loads(data)
                version = marker["version"]
            except (ValueError, KeyError, TypeError):
                raise UnsupportedFormatError(f"{self.url}/{MARKER} is no archive marker; is this folder an archive?") from None
            if marker.get("format") != "traceark" or version != FORMAT_VERSION:
                raise UnsupportedFormatError(
                    f"{self.url} has format {marker.get('format')!r} version {version}; this release knows 'traceark' "
                    f"version {FORMAT_VERSION}; upgrade traceark"
                )
            self._marker = marker
        return self._marker

    async def _ready_to_write(self) -> None:
        """Once: find out whether writing is safe here, and make the marker."""
        if self._closed:
            raise StoreClosedError(f"the store of {self.url} is closed; open it again")
        if self._writable is None or (self._writable.done() and (self._writable.cancelled() or self._writable.exception())):
            self._writable = asyncio.ensure_future(self._make_ready())
        if not self._writable.done():
            await asyncio.shield(self._writable)

    async def _make_ready(self) -> None:
        if not self._allow_unsafe_writes:
            await self.storage.check_writable()
        while await self._read_marker() is None:
            marker: JsonObject = {
                "format": "traceark",
                "version": FORMAT_VERSION,
                "archive_id": str(uuid.uuid4()),
                "created_at": time_text(utc_now()),
            }
            try:
                await self.storage.create(MARKER, json.dumps(marker).encode() + b"\n")
            except KeyExistsError:
                continue

    async def _opened(self, trace_id: str) -> OpenTrace:
        """Return a trace, open for writing.

        Raises
        ------
        TraceNotFoundError
        """
        if self._writable is None or not self._writable.done():
            await self._ready_to_write()
        trace = self._open.get(trace_id)
        if trace is not None:
            if self._closed:
                raise StoreClosedError(f"the store of {self.url} is closed; open it again")
            self._open.move_to_end(trace_id)
            return trace
        task = self._opening.get(trace_id)
        if task is None:
            await self._ready_to_write()
            task = self._opening.setdefault(trace_id, asyncio.ensure_future(self._open_trace(trace_id)))
        return await asyncio.shield(task)

    async def _open_trace(self, trace_id: str) -> OpenTrace:
        try:
            trace = OpenTrace(self.storage, trace_id, self._durability)
            await trace.refresh()
            self._open[trace_id] = trace
            await self._shed()
            return trace
        finally:
            del self._opening[trace_id]

    async def _shed(self) -> None:
        """Close the traces that were used least lately, but none with something on its way."""
        for trace_id in list(self._open):
            if len(self._open) <= self._max_open_traces:
                return
            trace = self._open[trace_id]
            if trace.idle and trace_id not in self._sealing:
                if trace.touched and trace.header.trace.status in TERMINAL:
                    await self._seal(trace)
                elif trace.dirty:
                    await trace.publish_checkpoint()
                if trace.idle:
                    del self._open[trace_id]
                    await trace.close()

    # Traces

    async def create_trace(self, trace: Trace) -> str:
        """Begin a trace.

        Raises
        ------
        TraceExistsError
            The id is there already.
        InvalidValueError, InvalidIdError
        """
        given = Trace.coerce(trace).model_copy()
        prefix = trace_prefix(given.trace_id)
        if given.last_event_id:
            raise InvalidValueError("a new trace has no events", "last_event_id")
        if given.created_at is None:
            given.created_at = utc_now()
        header = Header(given, secrets.token_hex(4), floor=given.last_sequence)
        for name in TOTALS:
            value = getattr(given, name)
            if value:
                header.adjustments[name] = adjustment(name, value, Sums())
                header.set_at[name] = 0
        data = header.encode()
        await self._ready_to_write()
        taken = TraceExistsError(f"the trace {given.trace_id!r} is in {self.url} already")
        known = self._open.pop(given.trace_id, None)
        if known is not None:
            await known.close()
        if isinstance(self.storage, AppendStorage):
            await self._create_locked(self.storage, prefix, data, taken)
        else:
            try:
                await self.storage.create(f"{prefix}/{HEADER}", data)
            except KeyExistsError:
                if await self.storage.read(f"{prefix}/{HEADER}") != data:
                    raise taken from None
        return given.trace_id

    async def _create_locked(self, storage: AppendStorage, prefix: str, data: bytes, taken: TraceExistsError) -> None:
        storage.make_directory(prefix)
        lock = storage.lock(prefix)
        try:
            if not lock.try_acquire():
                await asyncio.to_thread(lock.acquire)
            entries = await storage.list(prefix)
            if HEADER in entries:
                raise taken
            # What a deleted namesake left behind is never taken up.
            await storage.delete(f"{prefix}/{name}" for name in entries if not name.startswith("."))
            for log in ("messages", "events"):
                storage.make_directory(f"{prefix}/{log}")
            await storage.create(f"{prefix}/{HEADER}", data)
            lock.bump()
            lock.release()
        finally:
            lock.close()

    async def get_trace(self, trace_id: str) -> Trace | None:
        """Return a trace's header with its totals as of now, or None."""
        trace = self._open.get(trace_id)
        if trace is not None:
            try:
                async with trace.reading():
                    return trace.view()
            except TraceNotFoundError:
                await self._forget(trace_id)
                return None

        async def read() -> Trace | None:
            stored = await self._load(trace_id)
            return await stored.trace() if stored is not None else None

        return await retrying(trace_id, read)

    async def _forget(self, trace_id: str) -> None:
        trace = self._open.pop(trace_id, None)
        if trace is not None:
            await trace.close()

    async def _load(self, trace_id: str) -> StoredTrace | None:
        return await load(self.storage, trace_id, trace_prefix(trace_id), None, self._parts_of())

    def _parts_of(self) -> dict[str, PartInfo]:
        if len(self._parts) > 10_000:
            self._parts.clear()
        return self._parts

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        """Set fields of the header; totals that are set are read back, later messages add to them.

        Raises
        ------
        TraceNotFoundError, UnknownFieldError, InvalidValueError
        """
        trace = await self._opened(trace_id)

        async def change() -> None:
            view = trace.view()
            after = updated(view, updates)
            if "last_event_id" in updates and after.last_event_id > view.last_event_id:
                raise InvalidValueError(f"the last event is {view.last_event_id}; events make this number", "last_event_id")
            header = trace.header
            new = Header(after, header.incarnation, header.revision, header.checkpoint)
            new.adjustments, new.set_at, new.floor = dict(header.adjustments), dict(header.set_at), header.floor
            for name in TOTALS:
                if name in updates:
                    new.adjustments[name] = adjustment(name, getattr(after, name), trace.fold.total)
                    new.set_at[name] = trace.ends["messages"]
            if "last_sequence" in updates:
                new.floor = after.last_sequence
            await trace.publish_header(new)

        async with trace.exclusive():
            await trace.retry(change)
        if trace.header.trace.status in TERMINAL and "status" in updates:
            self._seal_soon(trace)

    def _seal_soon(self, trace: OpenTrace) -> None:
        running = self._sealing.get(trace.trace_id)
        if running is None or running.done():
            self._sealing[trace.trace_id] = asyncio.ensure_future(self._seal_in_background(trace))

    async def _seal_in_background(self, trace: OpenTrace) -> None:
        try:
            await self._seal(trace)
        except TraceNotFoundError:
            return  # deleted meanwhile
        finally:
            # A failure stays with the task, for `close` to raise.
            task = self._sealing.get(trace.trace_id)
            if task is asyncio.current_task() and not trace.touched:
                del self._sealing[trace.trace_id]

    async def _seal(self, trace: OpenTrace) -> None:
        await seal(trace)

    async def list_traces(
        self,
        mode: str | None = None,
        agent_type: str | None = None,
        uid: str | None = None,
        status: str | None = None,
        limit: int = 50,
    ) -> list[Trace]:
        """Return traces that match all filters, newest `created_at` first.

        Raises
        ------
        InvalidValueError
            `limit` is below 1.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out, since its header cannot be read.
        """
        if limit < 1:
            raise InvalidValueError(f"expected 1 or more, not {limit}", "limit")
        wanted = {"mode": mode, "agent_type": agent_type, "uid": uid, "status": status}
        matching = [
            stored
            for stored in await self.headers()
            if all(value is None or getattr(stored.header.trace, name) == value for name, value in wanted.items())
        ]
        matching.sort(key=lambda stored: (stored.header.trace.created_at or utc_now(), stored.trace_id), reverse=True)
        found: list[Trace] = []
        for stored in matching:
            if len(found) == limit:
                break
            trace = await self._exact(stored)
            if trace is not None:
                found.append(trace)
        return found

    async def _exact(self, stored: StoredTrace) -> Trace | None:
        try:
            if stored.is_exact():
                return await stored.trace()
            return await self.get_trace(stored.trace_id)
        except DamagedTraceError as error:
            _warn(error)
            return None

    async def headers(self, *, warn: bool = True) -> list[StoredTrace]:
        """Return every trace with its header, as the directories say."""
        await self._read_marker()
        found: list[StoredTrace] = []
        listed, strangers = await scan(self.storage)
        parts = self._parts_of()
        if warn:
            for key in strangers:
                _warn(f"traces/{key} is no trace key; rename the directory or move it out of the archive")

        async def one(trace_id: str) -> StoredTrace | None:
            try:
                return await load(self.storage, trace_id, trace_prefix(trace_id), listed[trace_id], parts)
            except KeyMissingError:
                return None  # deleted since it was listed
            except (DamagedTraceError, UnsupportedFormatError) as error:
                if warn:
                    _warn(error)
                return None

        ids = list(listed)
        for start in range(0, len(ids), 64):
            found += [stored for stored in await asyncio.gather(*map(one, ids[start : start + 64])) if stored is not None]
        return found

    # Goals

    async def get_goal_tree(self, trace_id: str) -> GoalTree | None:
        """Return the goal tree with its stats as of now, or None."""
        trace = self._open.get(trace_id)
        if trace is not None:
            try:
                async with trace.reading():
                    return trace.tree_view()
            except TraceNotFoundError:
                await self._forget(trace_id)
                return None

        async def read() -> GoalTree | None:
            stored = await self._load(trace_id)
            return await stored.tree() if stored is not None else None

        return await retrying(trace_id, read)

    async def update_goal_tree(self, trace_id: str, tree: GoalTree) -> None:
        """Replace the goal tree.

        Raises
        ------
        StaleGoalTreeError
            The tree was read, and has been changed since.
        TraceNotFoundError, InvalidValueError
        """
        given = GoalTree.coerce(tree)
        given.check()
        trace = await self._opened(trace_id)

        async def change() -> None:
            await trace.publish_tree(
                goals.replaced(trace.tree, given, trace.fold, trace.ends["messages"], trace.header.incarnation)
            )

        async with trace.exclusive():
            await trace.retry(change)
            if given._revision is not None and trace.tree is not None:
                given._revision = trace.tree.revision
                now = trace.tree_view()
                for goal in now.goals if now is not None else ():
                    given._read_stats[goal.id] = _shown(given, goal)

    async def add_goal(self, trace_id: str, goal: Goal) -> None:
        """Add a goal, making a tree when there is none.

        Raises
        ------
        TraceNotFoundError, GoalExistsError, InvalidValueError
        """
        given = Goal.coerce(goal)
        trace = await self._opened(trace_id)

        async def change() -> None:
            tree = goals.added(trace.tree, given, trace.fold, trace.ends["messages"], trace.header.incarnation)
            if tree is not None:
                await trace.publish_tree(tree)

        async with trace.exclusive():
            await trace.retry(change)

    async def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        """Set fields of a goal.

        Raises
        ------
        TraceNotFoundError, GoalNotFoundError, UnknownFieldError, InvalidValueError
        """
        trace = await self._opened(trace_id)

        async def change() -> None:
            await trace.publish_tree(
                goals.changed(trace.tree, trace_id, goal_id, updates, trace.fold, trace.ends["messages"])
            )

        async with trace.exclusive():
            await trace.retry(change)

    # Messages

    async def add_message(self, message: Message) -> str:
        """Append a message and return its id, once it is durable.

        Raises
        ------
        TraceNotFoundError
        MessageConflictError
            The id is known already, with other content.
        InvalidValueError
            A value cannot be kept exactly; the error names its path.
        """
        request = AddMessage(Message.coerce(message))
        trace = await self._opened(request.message.trace_id)
        try:
            return str(await trace.submit(request))
        except KnownMessage:
            return await self._known(trace, request.message)

    async def add_messages(self, messages: Iterable[Message]) -> list[str]:
        """Append messages, of one trace or several, sharing one sync per trace; return their ids.

        All are checked before the first is written; otherwise as `add_message`.
        """
        requests = [AddMessage(Message.coerce(message)) for message in messages]
        by_trace: dict[str, list[AddMessage]] = {}
        for request in requests:
            by_trace.setdefault(request.message.trace_id, []).append(request)
        opened = {trace_id: await self._opened(trace_id) for trace_id in by_trace}
        for trace_id, group in by_trace.items():
            trace = opened[trace_id]
            await trace.submit_all(list[Request](group), raising=False)
            for request in group:
                if isinstance(request.error, KnownMessage):
                    request.result = await self._known(trace, request.message)
                elif request.error is not None:
                    raise request.error
        return [str(request.result) for request in requests]

    async def _known(self, trace: OpenTrace, message: Message) -> str:
        """Return the id of a message that is there already, or refuse one with other content."""
        message_id = message.message_id
        assert message_id is not None
        async with trace.reading():
            stored = self._of_open(trace)
        rows = [row for row in (await stored.log("messages")).records if row.record.get("message_id") == message_id]
        given = to_record(message)
        first = rows[0].digest or digest(rows[0].record)
        now = fold_updates(rows)[0].record
        for record, hashed in ((rows[0].record, first), (now, digest(now))):
            same_place = all(given.get(name) in (None, record.get(name)) for name in ("sequence", "created_at"))
            if same_place and digest(given) == hashed:
                return message_id
        raise MessageConflictError(
            f"trace {trace.trace_id!r} holds a message {message_id!r} with other content; use update_message to change it"
        )

    @staticmethod
    def _of_open(trace: OpenTrace) -> StoredTrace:
        return StoredTrace(
            trace.storage, trace.trace_id, trace.prefix, dict(trace.entries), trace.header, trace.parts, dict(trace.ends)
        )

    async def stored(self, trace_id: str) -> StoredTrace | None:
        """Return a trace's files as they stand, bounded by what is durable, or None."""
        async with self._stored(trace_id) as stored:
            return stored

    @asynccontextmanager
    async def _stored(self, trace_id: str) -> AsyncIterator[StoredTrace | None]:
        """Give a trace's files for reading its logs, bounded by what is durable."""
        trace = self._open.get(trace_id)
        if trace is None:
            yield await self._load(trace_id)
            return
        try:
            async with trace.reading():
                stored: StoredTrace | None = self._of_open(trace)
        except TraceNotFoundError:
            await self._forget(trace_id)
            stored = None
        yield stored

    async def get_trace_messages(self, trace_id: str) -> list[Message]:
        """Return the messages of a trace by sequence, those of one sequence as they were added."""

        async def read() -> list[Message]:
            async with self._stored(trace_id) as stored:
                if stored is None:
                    return []
                return [Message.parse(row.record) for row in await stored.messages()]

        return await retrying(trace_id, read)

    async def get_messages_by_goal(self, trace_id: str, goal_id: str) -> list[Message]:
        """Return the messages of one goal by sequence, without those of its descendants."""
        return [message for message in await self.get_trace_messages(trace_id) if message.goal_id == goal_id]

    async def get_message(self, message_id: str, *, trace_id: str | None = None) -> Message | None:
        """Return a message by its id, or None.

        Without `trace_id` every trace is asked.

        Raises
        ------
        AmbiguousMessageId
            The id lives in several traces.
        """
        if trace_id is None:
            trace_id = await self._trace_of(message_id)
        if trace_id is None:
            return None
        for message in await self.get_trace_messages(trace_id):
            if message.message_id == message_id:
                return message
        return None

    async def _trace_of(self, message_id: str) -> str | None:
        """Return the one trace that holds a message id, or None."""
        holders: list[str] = []
        for stored in await self.headers(warn=False):
            trace = self._open.get(stored.trace_id)
            if trace is not None:
                try:
                    async with trace.reading():
                        holds = message_id in trace.fold.facts
                except (TraceNotFoundError, DamagedTraceError):
                    holds = False
            else:
                try:
                    rows = (await stored.log("messages", columns=["message_id"])).records
                except (KeyMissingError, DamagedTraceError):
                    continue  # `verify` tells what is wrong with it
                holds = any(row.op is None and row.record.get("message_id") == message_id for row in rows)
            if holds:
                holders.append(stored.trace_id)
        if len(holders) > 1:
            shown = ", ".join(repr(holder) for holder in holders[:3])
            raise AmbiguousMessageId(f"the message id {message_id!r} lives in {len(holders)} traces ({shown}…); pass trace_id=")
        return holders[0] if holders else None

    async def update_message(self, message_id: str, *, trace_id: str | None = None, **updates: Any) -> None:
        """Set fields of a message; totals and stats follow.

        Raises
        ------
        MessageNotFoundError, AmbiguousMessageId, UnknownFieldError, InvalidValueError
        """
        request = UpdateMessage(message_id, updates)
        if trace_id is None:
            trace_id = await self._trace_of(message_id)
            if trace_id is None:
                raise MessageNotFoundError(f"no message {message_id!r} in {self.url}")
        trace = await self._opened(trace_id)
        await trace.submit(request)

    # Events

    async def append_event(self, trace_id: str, event_type: str, payload: Json = None) -> int:
        """Append an event and return its id, once it is durable; ids are dense from 1.

        Raises
        ------
        TraceNotFoundError, InvalidValueError
        """
        request = AppendEvent(trace_id, event_type, payload)
        trace = await self._opened(trace_id)
        return int(await trace.submit(request))

    async def append_events(self, trace_id: str, events: Iterable[tuple[str, Json]]) -> list[int]:
        """Append ``(event_type, payload)`` pairs, sharing one sync; return their ids."""
        requests: Sequence[Request] = [AppendEvent(trace_id, event_type, payload) for event_type, payload in events]
        trace = await self._opened(trace_id)
        return [int(each) for each in await trace.submit_all(list(requests))] if requests else []

    async def get_events(self, trace_id: str, since_event_id: int = 0) -> list[Event]:
        """Return the events with ``event_id > since_event_id``, in order; 0 gives all."""

        async def read() -> list[Event]:
            async with self._stored(trace_id) as stored:
                if stored is None:
                    return []
                rows = (await stored.log("events", after=max(since_event_id, 0))).records
            return [
                Event.parse({name: value for name, value in row.record.items() if name != "trace_id"})
                for row in rows
                if row.offset > since_event_id
            ]

        return await retrying(trace_id, read)

    # Keeping

    async def flush(self) -> None:
        """Bring every open trace's headers up to its logs, so that other readers need no log."""
        for trace in list(self._open.values()):
            await trace.publish_checkpoint()

    async def compact(self, trace_id: str) -> None:
        """Fold a trace's closed segments into parts; writers go on meanwhile.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        await compact(await self._opened(trace_id))

    async def seal(self, trace_id: str) -> None:
        """Bring a trace into its final form with a manifest; a later write reopens it.

        Raises
        ------
        TraceNotFoundError, DamagedTraceError
        """
        await self._seal(await self._opened(trace_id))

    async def verify(self, trace_id: str | None = None, *, deep: bool = False) -> list[Finding]:
        """Check one trace, or all; an empty list means that nothing was found.

        Parameters
        ----------
        trace_id : str, optional
            All traces when absent.
        deep : bool
            Also every hash, every record, and a recount of totals and stats. Writes nothing.

        Raises
        ------
        TraceNotFoundError
        """
        return await verification.verify(self.storage, trace_id, deep=deep)

    async def delete_trace(self, trace_id: str) -> None:
        """Delete a trace for good.

        Raises
        ------
        TraceNotFoundError
        """
        await self._ready_to_write()
        running = self._sealing.pop(trace_id, None)
        if running is not None:
            await asyncio.wait([running])
        await self._forget(trace_id)
        prefix = trace_prefix(trace_id)
        entries = await self.storage.list(prefix)
        if HEADER not in entries:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.url}")
        names = sorted((name for name in entries if not name.startswith(".")), key=lambda name: name != HEADER)
        if not isinstance(self.storage, AppendStorage):
            await self.storage.delete(f"{prefix}/{name}" for name in names)
            return
        lock = self.storage.lock(prefix)
        try:
            if not lock.try_acquire():
                await asyncio.to_thread(lock.acquire)
            lock.bump(deleted=True)
            await self.storage.delete(f"{prefix}/{name}" for name in names)
            self.storage.remove_directory(prefix)
            lock.release()
        finally:
            lock.close()

    async def sql(self, query_text: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> QueryResult:
        """Answer SQL over the views `traces`, `goals`, `messages` and `events`.

        Parameters
        ----------
        query_text : str
            DuckDB's SQL.
        parameters : sequence or mapping, optional
            Bound to ``?`` or ``$name``.

        Raises
        ------
        QueryError
            DuckDB refused the query.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """
        return await query.run(self, query_text, parameters)

    async def close(self) -> None:
        """Seal every trace that this store wrote to and that is finished; give back all files.

        Raises
        ------
        ExceptionGroup
            Traces that could not be sealed; they stay as they are, whole and readable.
        """
        if self._closed:
            return
        problems: list[Exception] = []
        for task in list(self._sealing.values()):
            await asyncio.wait([task])
        self._sealing.clear()
        for trace in list(self._open.values()):
            try:
                if trace.touched and trace.header.trace.status in TERMINAL:
                    await self._seal(trace)
                else:
                    await trace.publish_checkpoint()
            except TraceNotFoundError:
                pass  # deleted by somebody else
            except Exception as error:  # the others are closed all the same; all of them are raised below
                problems.append(error)
            await trace.close()
        self._open.clear()
        self._closed = True
        await self.storage.close()
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ExceptionGroup(f"{len(problems)} traces of {self.url} could not be brought up to date", problems)


def _shown(given: GoalTree, goal: Goal) -> tuple[Any, Any]:
    """Return the stats that a caller's tree shows for a goal, so that only later changes count as set."""
    shown = given.goal(goal.id)
    assert shown is not None
    return shown.self_stats.model_copy(), shown.cumulative_stats.model_copy()


def _warn(problem: object) -> None:
    warnings.warn(f"left out: {problem}", DamagedTraceWarning, stacklevel=3)
