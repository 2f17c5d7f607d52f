"""`ArchiveStore`: the async `TraceStore` over an archive on local disk, S3 or in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from traceark import goals, lifecycle, query, questions
from traceark.codec.lines import to_record
from traceark.codec.parquet import PartRecord
from traceark.computing import computed
from traceark.errors import (
    InvalidValueError,
    MessageConflictError,
    MessageNotFoundError,
    TraceExistsError,
    TraceNotFoundError,
)
from traceark.headers import Header
from traceark.layout import tombstone_key, trace_prefix
from traceark.live import OpenTrace
from traceark.models import TERMINAL, Event, GivenEvent, Goal, GoalTree, Json, Message, Trace, updated
from traceark.pool import TracePool
from traceark.reading import fold_updates, retrying
from traceark.requests import AddMessage, AppendEvent, KnownMessage, Request, UpdateMessage, digest
from traceark.retention import Retention
from traceark.rollups.cache import FileCache, cache_directory
from traceark.stats import TOTALS, adjustment
from traceark.storage import storage_for
from traceark.storage.access import Access
from traceark.storage.base import AppendStorage, Durability, Storage
from traceark.tracetree import TraceTree
from traceark.whole import sealed_files


class _Opening(partial["ArchiveStore"]):
    """How a store was opened; the options may hold secrets, which no traceback may show."""

    def __repr__(self) -> str:
        return "_Opening(…)"


class ArchiveStore(Retention):
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
    cache_dir : str or Path, optional
        Where rollups of an archive that is not on a local disk are kept for DuckDB; by default
        ``traceark`` in the user's cache directory (``XDG_CACHE_HOME``, or ``~/.cache``).
    max_cache_bytes : int
        What the copies there may weigh; the least recently used go first.
    record_changes : bool
        Append an event for every change of a message, a goal or the header, so that `get_events` tells all
        of a run (see `traceark.changes.Replay`). It doubles what is written.
    spool : str or Path, optional
        A directory on a local disk. What is written is acknowledged when it is there, and shipped to
        `url` in the background; reads see both. `durability` is then the spool's.
    access : {'owner', 'group', 'others'}
        Who may use an archive that is made on a local disk: its owner alone, the group too, or the group
        and, as far as the umask lets them, others for reading. One that is there says it itself, by the
        permissions of its ``traceark.json``, which all files take that are made in it.

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

    def __new__(cls, *_: object, spool: str | Path | None = None, **__: object) -> Self:
        """Make a store; one with a spool is of a class that stands above this one, and is found by its name."""
        if spool is None or cls is not ArchiveStore:
            return super().__new__(cls)
        above: type[Self] = import_module("traceark.spool.store").SpooledStore
        return super().__new__(above)

    def __init__(
        self,
        url: str | Path,
        *,
        storage_options: Mapping[str, Any] | None = None,
        durability: Durability = "fsync",
        allow_unsafe_writes: bool = False,
        max_open_traces: int = 128,
        cache_dir: str | Path | None = None,
        max_cache_bytes: int = 4 << 30,
        record_changes: bool = False,
        spool: str | Path | None = None,
        access: Access = "owner",
    ) -> None:
        if durability not in ("fsync", "os"):
            raise InvalidValueError(f"{durability!r} is neither 'fsync' nor 'os'", "durability")
        if access not in ("owner", "group", "others"):
            raise InvalidValueError(f"{access!r} is none of 'owner', 'group' and 'others'", "access")
        if spool is not None:
            raise InvalidValueError(f"{type(self).__name__} has no spool; ArchiveStore has", "spool")
        self.storage: Storage = storage_for(url, storage_options, durability, access)
        self._durability = durability
        self._making_room = asyncio.Lock()
        self._again = _Opening(
            ArchiveStore,
            url,
            storage_options=storage_options,
            durability=durability,
            allow_unsafe_writes=allow_unsafe_writes,
            max_open_traces=max_open_traces,
            cache_dir=cache_dir,
            max_cache_bytes=max_cache_bytes,
            record_changes=record_changes,
            spool=spool,
            access=access,
        )
        cache = FileCache(self.storage, cache_directory(self.storage.url, cache_dir), max_cache_bytes)
        self._pool = TracePool(
            self.storage,
            durability,
            cache,
            allow_unsafe_writes=allow_unsafe_writes,
            limit=max_open_traces,
            record_changes=record_changes,
        )

    @property
    def url(self) -> str:
        """Where the archive is."""
        return self.storage.url

    def __repr__(self) -> str:
        return f"ArchiveStore({self.url!r}, durability={self._durability!r})"

    def __reduce__(self) -> tuple[Callable[[], ArchiveStore], tuple[()]]:
        """Let another process open the same archive: a copy shares nothing with this store."""
        if self.url.startswith("memory://"):
            raise TypeError(f"{self.url} is in the memory of this process; no other one can open it")
        return self._again, ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def exists(self) -> bool:
        """Say whether there is an archive at this location.

        Raises
        ------
        UnsupportedFormatError
            It was made by a newer version.
        """
        return await self._pool.marker() is not None

    # Traces

    async def create_trace(self, trace: Trace) -> str:
        """Begin a trace.

        Raises
        ------
        TraceExistsError
            The id is there already.
        InvalidValueError, InvalidIdError
        """
        given = Trace.coerce(trace).model_copy(deep=True)
        prefix = trace_prefix(given.trace_id)
        data = lifecycle.first_header(given).encode()
        await self._pool.begin(given.trace_id)
        try:
            await lifecycle.create(self.storage, prefix, data)
        except TraceExistsError:
            await self._pool.done(given.trace_id)
            raise
        await self._pool.made(given)
        return given.trace_id

    @property
    def adds_at_once(self) -> bool:
        """Whether `add_trace` adds all or nothing: on the local disk it does, unless changes are recorded."""
        return isinstance(self.storage, AppendStorage) and not self._pool.record_changes

    async def add_trace(
        self,
        trace: Trace,
        messages: Iterable[Message] = (),
        events: Iterable[GivenEvent] = (),
        goal_tree: GoalTree | None = None,
    ) -> str:
        """Add a run that has ended, all of it: there at once and sealed, or not at all, where `adds_at_once`.

        Elsewhere the same records are added one after the other, and what is interrupted
        leaves a trace with what was added so far, still running.

        Parameters
        ----------
        trace : Trace
            In a terminal status.
        messages : iterable of Message
            Those of the trace, as for `add_messages`; no id comes twice.
        events : iterable of tuple
            Types and payloads, perhaps with times, as for `append_events`.
        goal_tree : GoalTree, optional

        Raises
        ------
        TraceExistsError
            The id is there already.
        InvalidValueError, InvalidIdError

        Examples
        --------
        >>> import asyncio, traceark
        >>> async def run():
        ...     async with traceark.ArchiveStore("memory://whole") as store:
        ...         said = traceark.Message(trace_id="run-8", role="user", content="hi")
        ...         await store.add_trace(traceark.Trace(trace_id="run-8", status="completed"), [said])
        ...         return [message.message_id for message in await store.get_trace_messages("run-8")]
        >>> asyncio.run(run())
        ['run-8-0001']
        """
        given = Trace.coerce(trace).model_copy(deep=True)
        if given.status not in TERMINAL:
            raise InvalidValueError(f"{given.status!r} is no status of a run that has ended", "status")
        prefix, said, told = trace_prefix(given.trace_id), list(map(Message.coerce, messages)), list(events)
        tree = None if goal_tree is None else GoalTree.coerce(goal_tree)
        # All are checked before the first is written, where it is not written in this form, too.
        header = lifecycle.first_header(given.model_copy())
        files = await computed(sealed_files, header, said, told, tree)
        storage = self.storage
        if not isinstance(storage, AppendStorage) or not self.adds_at_once:
            return await self._add_in_turn(given, said, told, tree)
        await self._pool.ready()
        await self._pool.settle(given.trace_id)
        await self._before_adding(given.trace_id, header.incarnation)
        notices = self._pool.catalog.notices
        try:
            # Who lists traces notices the new directory; to tell of it first and last would take two more files.
            await lifecycle.create_all(storage, prefix, files, lambda: notices.announce(given.trace_id))
        finally:
            if given.trace_id in notices.openings:
                await notices.settle([given.trace_id])
        await storage.delete([tombstone_key(given.trace_id, header.incarnation)])
        return given.trace_id

    async def _before_adding(self, trace_id: str, incarnation: str) -> None:
        """Do what is due before a run is added whole; where all of it lies in one archive, nothing is."""

    async def _add_in_turn(
        self, trace: Trace, messages: list[Message], events: list[GivenEvent], tree: GoalTree | None
    ) -> str:
        await self.create_trace(trace.model_copy(update={"status": "running"}))
        if tree is not None:
            await self.update_goal_tree(trace.trace_id, tree)
        if messages:
            await self.add_messages(messages)
        await self.append_events(trace.trace_id, events)
        await self.update_trace(trace.trace_id, status=trace.status)
        return trace.trace_id

    async def get_trace(self, trace_id: str) -> Trace | None:
        """Return a trace's header with its totals as of now, or None."""

        async def read() -> Trace | None:
            trace = self._pool.get(trace_id)
            if trace is not None:
                try:
                    async with trace.reading():
                        return trace.view()
                except TraceNotFoundError:
                    await self._pool.forget(trace_id)
            stored = await self._pool.load(trace_id)
            return await stored.trace() if stored is not None else None

        return await retrying(trace_id, read)

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        """Set fields of the header; totals that are set are read back, later messages add to them.

        Raises
        ------
        TraceNotFoundError, UnknownFieldError, InvalidValueError
        """
        trace = await self._pool.opened(trace_id)

        async def change() -> None:
            view = trace.view()
            after = updated(view, updates).model_copy(deep=True)
            if "last_event_id" in updates and after.last_event_id > view.last_event_id:
                raise InvalidValueError(
                    f"the last event is {view.last_event_id}; events make this number", "last_event_id"
                )
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
            self._pool.seal_soon(trace)

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
        return await questions.newest(
            self._pool, {name: value for name, value in wanted.items() if value is not None}, limit
        )

    async def tree(self, trace_id: str) -> TraceTree:
        """Return a trace with its sub-agents, and what they took, each counted once.

        Sub-agents are the traces whose `parent_trace_id` leads here, and those that goals name in
        `sub_trace_ids`.

        Raises
        ------
        TraceNotFoundError

        Warns
        -----
        DamagedTraceWarning
            The goals of a trace cannot be read.
        """
        return await questions.tree(self._pool, trace_id, self.get_goal_tree)

    # Goals

    async def get_goal_tree(self, trace_id: str) -> GoalTree | None:
        """Return the goal tree with its stats as of now, or None."""

        async def read() -> GoalTree | None:
            trace = self._pool.get(trace_id)
            if trace is not None:
                try:
                    async with trace.reading():
                        return trace.tree_view()
                except TraceNotFoundError:
                    await self._pool.forget(trace_id)
            stored = await self._pool.load(trace_id)
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
        trace = await self._pool.opened(trace_id)

        async def change() -> None:
            await trace.publish_tree(
                goals.replaced(trace.tree, given, trace.fold, trace.ends["messages"], trace.header.incarnation)
            )

        async with trace.exclusive():
            await trace.retry(change)
            if given._revision is not None and trace.tree is not None:
                given._revision = trace.tree.changed
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
        trace = await self._pool.opened(trace_id)

        async def change() -> None:
            tree = goals.added(trace.tree, given, trace.fold, trace.ends["messages"], trace.header.incarnation)
            if tree is not None:
                await trace.publish_tree(tree)
            else:
                # Who added it may have been killed before it was on stable storage.
                await writer.make_lasting()

        async with trace.exclusive() as writer:
            await trace.retry(change)

    async def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        """Set fields of a goal.

        Raises
        ------
        TraceNotFoundError, GoalNotFoundError, UnknownFieldError, InvalidValueError
        """
        trace = await self._pool.opened(trace_id)

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
        trace = self._pool.at_hand(request.trace_id) or await self._pool.opened(request.trace_id)
        waiting = trace.submit(request)
        if waiting is not None:
            await waiting
        try:
            message_id: str = request.outcome()
        except KnownMessage:
            return await self._known(trace, request.message)
        return message_id

    async def add_messages(self, messages: Iterable[Message]) -> list[str]:
        """Append messages, of one trace or several, sharing one sync per trace; return their ids.

        All are checked before the first is written; otherwise as `add_message`.
        """
        requests = [AddMessage(Message.coerce(message)) for message in messages]
        by_trace: dict[str, list[AddMessage]] = {}
        for request in requests:
            by_trace.setdefault(request.trace_id, []).append(request)
        for trace_id in by_trace:
            await self._pool.opened(trace_id)  # before the first is written, all must be there
        for trace_id, group in by_trace.items():
            await self._add_all(trace_id, group)
        return [str(request.result) for request in requests]

    async def _add_all(self, trace_id: str, requests: list[AddMessage]) -> None:
        trace = await self._pool.opened(trace_id)
        await trace.submit_all(list[Request](requests), raising=False)
        for request in requests:
            if isinstance(request.error, KnownMessage):
                request.result = await self._known(trace, request.message)
            elif request.error is not None:
                raise request.error

    async def _known(self, trace: OpenTrace, message: Message) -> str:
        """Return the id of a message that is there already, or refuse one with other content."""
        message_id = message.message_id
        assert message_id is not None

        async def read() -> list[PartRecord]:
            async with trace.reading():
                stored = trace.stored()
            return (await stored.log("messages")).records

        records = await retrying(trace.trace_id, read)
        rows = [row for row in records if row.record.get("message_id") == message_id]
        if not rows:
            raise TraceNotFoundError(
                f"trace {trace.trace_id!r} was deleted by another process meanwhile, and made anew"
            )
        given = to_record(message)
        first = rows[0].digest or digest(rows[0].record)
        now = fold_updates(rows)[0].record
        for record, hashed in ((rows[0].record, first), (now, digest(now))):
            same_place = all(given.get(name) in (None, record.get(name)) for name in ("sequence", "created_at"))
            if same_place and digest(given) == hashed:
                async with trace.exclusive() as writer:
                    # Who added it may have been killed before it was on stable storage.
                    await writer.make_lasting()
                return message_id
        raise MessageConflictError(
            f"trace {trace.trace_id!r} holds a message {message_id!r} with other content; "
            "use update_message to change it"
        )

    async def get_trace_messages(self, trace_id: str) -> list[Message]:
        """Return the messages of a trace by sequence, those of one sequence as they were added."""

        async def read() -> list[Message]:
            stored = await self._pool.stored(trace_id)
            return [] if stored is None else await stored.models()

        return await retrying(trace_id, read)

    async def get_messages_by_goal(self, trace_id: str, goal_id: str) -> list[Message]:
        """Return the messages of one goal by sequence, without those of its descendants."""
        return [message for message in await self.get_trace_messages(trace_id) if message.goal_id == goal_id]

    async def get_message(self, message_id: str, *, trace_id: str | None = None) -> Message | None:
        """Return a message by its id, or None.

        Without `trace_id` the rollups' index is asked, and all traces that are in no rollup.

        Raises
        ------
        AmbiguousMessageId
            The id lives in several traces.
        """
        if trace_id is None:
            return await query.find(self._pool, message_id)

        async def read() -> Message | None:
            stored = await self._pool.stored(trace_id)
            return None if stored is None else await stored.message(message_id)

        return await retrying(trace_id, read)

    async def update_message(self, message_id: str, *, trace_id: str | None = None, **updates: Any) -> None:
        """Set fields of a message; totals and stats follow.

        Raises
        ------
        MessageNotFoundError, AmbiguousMessageId, UnknownFieldError, InvalidValueError
        """
        request = UpdateMessage(message_id, updates)
        if trace_id is None:
            found = await query.find(self._pool, message_id)
            if found is None:
                raise MessageNotFoundError(f"no message {message_id!r} in {self.url}")
            trace_id = found.trace_id
        trace = await self._pool.opened(trace_id)
        await trace.commit(request)

    # Events

    async def append_event(self, trace_id: str, event_type: str, payload: Json = None) -> int:
        """Append an event and return its id, once it is durable; ids are dense from 1.

        Raises
        ------
        TraceNotFoundError, InvalidValueError
        """
        request = AppendEvent(trace_id, event_type, payload)
        trace = await self._pool.opened(trace_id)
        return int(await trace.commit(request))

    async def append_events(self, trace_id: str, events: Iterable[GivenEvent]) -> list[int]:
        """Append ``(event_type, payload)`` or ``(event_type, payload, created_at)``, sharing one sync; return ids."""
        requests: Sequence[Request] = [AppendEvent(trace_id, *event) for event in events]
        trace = await self._pool.opened(trace_id)
        return [int(each) for each in await trace.submit_all(list(requests))] if requests else []

    async def get_events(self, trace_id: str, since_event_id: int = 0) -> list[Event]:
        """Return the events with ``event_id > since_event_id``, in order; 0 gives all."""

        async def read() -> list[Event]:
            stored = await self._pool.stored(trace_id)
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

    async def flush(self, *, timeout: float | None = None) -> None:
        """Bring every open trace's headers up to its logs, so that other readers need no log.

        With a spool it also returns only when all that was acknowledged before is at the archive's
        URL, or raises `SpoolPendingError` after `timeout` seconds, which says what is not.
        """
        for trace in self._pool:
            with suppress(TraceNotFoundError):  # deleted by somebody else
                await trace.publish_checkpoint()

    async def close(self) -> None:
        """Seal every trace that this store wrote to and that is finished; give back all files.

        Raises
        ------
        ExceptionGroup
            Several traces could not be sealed; they stay as they are, whole and readable.
        """
        await self._pool.close()


def _shown(given: GoalTree, goal: Goal) -> tuple[Any, Any]:
    """Return the stats that a caller's tree shows for a goal, so that only later changes count as set."""
    shown = given.goal(goal.id)
    assert shown is not None
    return shown.self_stats.model_copy(), shown.cumulative_stats.model_copy()
