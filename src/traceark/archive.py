"""The blocking facade for notebooks and scripts: the store's names, without ``await``.

Each archive has one thread with an event loop, on which its `ArchiveStore` lives.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from traceark.catalog.report import RefreshReport
from traceark.filters import NEWEST_FIRST, PAGE_SIZE, Filters, Wanted
from traceark.hits import SearchPage
from traceark.loop_thread import LoopThread
from traceark.models import Event, GivenEvent, Goal, GoalTree, Json, Message, Trace
from traceark.moving import Moving
from traceark.pages import TracePage
from traceark.pending import SpoolStatus
from traceark.query import QueryResult
from traceark.questions import Grouping
from traceark.repair import RepairReport
from traceark.retention import Expiring, ExpiryReport
from traceark.rollups.workshop import OptimizeReport, Progress, PurgeReport
from traceark.storage.access import Access
from traceark.storage.base import Durability
from traceark.store import ArchiveStore
from traceark.tracetree import TraceTree
from traceark.verification import Finding

Answer = TypeVar("Answer")


class Archive(Moving):
    """An archive, opened for notebooks and scripts; made by `traceark.open`.

    Every method does what `ArchiveStore`'s of the same name does, and raises the same errors.

    Attributes
    ----------
    store : ArchiveStore
        The store behind it, for `run`.
    """

    def __init__(self, store: ArchiveStore) -> None:
        self.store = store
        self._thread = LoopThread(f"traceark {store.url}")
        self._closed = False

    def __repr__(self) -> str:
        return f"Archive({self.store.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine of the store and return its result; Ctrl-C cancels it and waits for its end."""
        return self._thread.run(work)

    @property
    def url(self) -> str:
        """Where the archive is."""
        return self.store.url

    def exists(self) -> bool:
        """Say whether there is an archive at this location."""
        return self.run(self.store.exists())

    def create_trace(self, trace: Trace) -> str:
        """Begin a trace and return its id."""
        return self.run(self.store.create_trace(trace))

    def get_trace(self, trace_id: str) -> Trace | None:
        """Return a trace's header, or None."""
        return self.run(self.store.get_trace(trace_id))

    def update_trace(self, trace_id: str, **updates: Any) -> None:
        """Set fields of the header."""
        self.run(self.store.update_trace(trace_id, **updates))

    def list_traces(
        self,
        mode: str | None = None,
        agent_type: str | None = None,
        uid: str | None = None,
        status: str | None = None,
        limit: int = 50,
    ) -> list[Trace]:
        """Return traces that match all filters, newest first."""
        return self.run(self.store.list_traces(mode, agent_type, uid, status, limit))

    def traces(
        self,
        *,
        order_by: str = NEWEST_FIRST,
        limit: int = PAGE_SIZE,
        after: str | None = None,
        **filters: Unpack[Filters],
    ) -> TracePage:
        """Return a page of the traces that match all filters.

        Examples
        --------
        >>> import traceark
        >>> with traceark.open("memory://pages") as archive:
        ...     for number in range(3):
        ...         _ = archive.create_trace(traceark.Trace(trace_id=f"run-{number}", agent_type="sorter"))
        ...     page = archive.traces(agent_type="sorter", order_by="trace_id", limit=2)
        ...     following = archive.traces(agent_type="sorter", order_by="trace_id", after=page.next)
        ...     [trace.trace_id for trace in page], [trace.trace_id for trace in following], following.next
        (['run-0', 'run-1'], ['run-2'], None)
        """
        return self.run(
            self.store.traces(
                order_by=order_by,
                limit=limit,
                after=after,
                **filters,
            )
        )

    def search(
        self,
        text: str,
        *,
        regex: bool = False,
        ignore_case: bool = True,
        role: Wanted = None,
        tool_name: Wanted = None,
        limit: int = PAGE_SIZE,
        after: str | None = None,
        **filters: Unpack[Filters],
    ) -> SearchPage:
        """Find text in the content of messages, those of the newest trace first.

        Examples
        --------
        >>> import traceark
        >>> with traceark.open("memory://search") as archive:
        ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7"))
        ...     _ = archive.add_message(traceark.Message(trace_id="run-7", role="user", content="Say hi"))
        ...     [hit] = archive.search(r"\\bHI\\b", regex=True)
        ...     hit.message_id, hit.snippet[hit.start : hit.end]
        ('run-7-0001', 'hi')
        """
        return self.run(
            self.store.search(
                text,
                regex=regex,
                ignore_case=ignore_case,
                role=role,
                tool_name=tool_name,
                limit=limit,
                after=after,
                **filters,
            )
        )

    def stats(
        self,
        by: Grouping = "day",
        **filters: Unpack[Filters],
    ) -> QueryResult:
        """Sum up traces by day, agent, model or status."""
        return self.run(
            self.store.stats(
                by,
                **filters,
            )
        )

    def tree(self, trace_id: str) -> TraceTree:
        """Return a trace with its sub-agents, and what they took, each counted once."""
        return self.run(self.store.tree(trace_id))

    def get_goal_tree(self, trace_id: str) -> GoalTree | None:
        """Return the goal tree, or None."""
        return self.run(self.store.get_goal_tree(trace_id))

    def update_goal_tree(self, trace_id: str, tree: GoalTree) -> None:
        """Replace the goal tree."""
        self.run(self.store.update_goal_tree(trace_id, tree))

    def add_goal(self, trace_id: str, goal: Goal) -> None:
        """Add a goal."""
        self.run(self.store.add_goal(trace_id, goal))

    def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        """Set fields of a goal."""
        self.run(self.store.update_goal(trace_id, goal_id, **updates))

    def add_message(self, message: Message) -> str:
        """Append a message and return its id."""
        return self.run(self.store.add_message(message))

    def add_messages(self, messages: Iterable[Message]) -> list[str]:
        """Append messages with one sync per trace; return their ids."""
        return self.run(self.store.add_messages(messages))

    def get_message(self, message_id: str, *, trace_id: str | None = None) -> Message | None:
        """Return a message, or None."""
        return self.run(self.store.get_message(message_id, trace_id=trace_id))

    def get_trace_messages(self, trace_id: str) -> list[Message]:
        """Return the messages of a trace by sequence."""
        return self.run(self.store.get_trace_messages(trace_id))

    def get_messages_by_goal(self, trace_id: str, goal_id: str) -> list[Message]:
        """Return the messages of one goal."""
        return self.run(self.store.get_messages_by_goal(trace_id, goal_id))

    def update_message(self, message_id: str, *, trace_id: str | None = None, **updates: Any) -> None:
        """Set fields of a message."""
        self.run(self.store.update_message(message_id, trace_id=trace_id, **updates))

    def append_event(self, trace_id: str, event_type: str, payload: Json = None) -> int:
        """Append an event and return its id."""
        return self.run(self.store.append_event(trace_id, event_type, payload))

    def append_events(self, trace_id: str, events: Iterable[GivenEvent]) -> list[int]:
        """Append events, each a type, a payload and perhaps a time, with one sync; return their ids."""
        return self.run(self.store.append_events(trace_id, events))

    def get_events(self, trace_id: str, since_event_id: int = 0) -> list[Event]:
        """Return the events after a cursor."""
        return self.run(self.store.get_events(trace_id, since_event_id))

    def sql(
        self,
        query_text: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        sandbox: bool = False,
    ) -> QueryResult:
        """Answer SQL over the views `traces`, `goals`, `messages`, `events`."""
        return self.run(self.store.sql(query_text, parameters, sandbox=sandbox))

    def flush(self, *, timeout: float | None = None) -> None:
        """Bring headers up to date with the logs; with a spool, wait until all is at the archive's URL."""
        self.run(self.store.flush(timeout=timeout))

    def make_lasting(self) -> None:
        """Return when all that is in the archive is on stable storage, whoever wrote it."""
        self.run(self.store.make_lasting())

    def spool_status(self) -> SpoolStatus:
        """Return what waits in the spool to be shipped."""
        return self.run(self.store.spool_status())

    def compact(self, trace_id: str) -> None:
        """Fold closed segments into parts."""
        self.run(self.store.compact(trace_id))

    def seal(self, trace_id: str) -> None:
        """Bring a trace into its final form."""
        self.run(self.store.seal(trace_id))

    def verify(
        self,
        trace_id: str | None = None,
        *,
        deep: bool = False,
        workers: int | None = 1,
        resume: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[Finding]:
        """Check one trace, or all."""
        return self.run(self.store.verify(trace_id, deep=deep, workers=workers, resume=resume, progress=progress))

    def repair(
        self,
        trace_ids: Iterable[str] | None = None,
        *,
        dry_run: bool = True,
        accept: bool = False,
        progress: Progress | None = None,
    ) -> RepairReport:
        """Mend what can be mended of traces without guessing; by default only say what would be done."""
        return self.run(self.store.repair(trace_ids, dry_run=dry_run, accept=accept, progress=progress))

    def refresh(self) -> RefreshReport:
        """Look at every directory for what came, went or was replaced by other means than a store."""
        return self.run(self.store.refresh())

    def optimize(self, *, progress: Progress | None = None) -> OptimizeReport:
        """Bring the rollups up to date, which make SQL over many sealed traces fast."""
        return self.run(self.store.optimize(progress=progress))

    def rollups_with(self, trace_ids: Iterable[str]) -> int:
        """Return how many rollups hold rows of some traces."""
        return self.run(self.store.rollups_with(trace_ids))

    def purge(self, trace_ids: Iterable[str]) -> PurgeReport:
        """Rewrite the rollups that hold rows of some traces, without these."""
        return self.run(self.store.purge(trace_ids))

    def delete_trace(self, trace_id: str, *, reason: str | None = None) -> None:
        """Delete a trace for good; a tombstone keeps a sync from bringing it back."""
        self.run(self.store.delete_trace(trace_id, reason=reason))

    def pin(self, trace_id: str) -> None:
        """Keep a trace from expiring."""
        self.run(self.store.pin(trace_id))

    def unpin(self, trace_id: str) -> None:
        """Let a trace expire again."""
        self.run(self.store.unpin(trace_id))

    def pinned(self) -> set[str]:
        """Return the ids of the traces that are pinned."""
        return self.run(self.store.pinned())

    def expire(self, older_than: timedelta, **options: Unpack[Expiring]) -> ExpiryReport:
        """Delete traces that were created long ago; by default only say which."""
        return self.run(self.store.expire(older_than, **options))

    def close(self) -> None:
        """Seal what is finished, give back files, and end the thread."""
        if self._closed:
            return
        self._closed = True
        try:
            self.run(self.store.close())
        finally:
            self._thread.end()


def open(
    url: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    durability: Durability = "fsync",
    allow_unsafe_writes: bool = False,
    record_changes: bool = False,
    spool: str | Path | None = None,
    access: Access = "owner",
) -> Archive:
    """Open an archive for notebooks and scripts.

    Parameters
    ----------
    url, storage_options, durability, allow_unsafe_writes, record_changes, spool, access
        As for `ArchiveStore`.

    Examples
    --------
    >>> import traceark
    >>> with traceark.open("memory://facade") as archive:
    ...     trace_id = archive.create_trace(traceark.Trace(task="say hi"))
    ...     archive.add_message(traceark.Message(trace_id=trace_id, role="user", content="hi"))
    ...     archive.sql("SELECT task FROM traces").rows()
    '...-0001'
    [{'task': 'say hi'}]
    """
    return Archive(
        ArchiveStore(
            url,
            storage_options=storage_options,
            durability=durability,
            allow_unsafe_writes=allow_unsafe_writes,
            record_changes=record_changes,
            spool=spool,
            access=access,
        )
    )
