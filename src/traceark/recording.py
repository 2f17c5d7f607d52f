"""An open trace whose every change is told by an event, too.

A change is made first, then told, then acknowledged. Whoever holds the trace tells, before and
after anything else, what no event tells yet: what a killed process left, and what processes wrote
that record no changes. What an event says, and what is untold, is in `changes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from traceark.changes import Change, Untold
from traceark.codec.lines import dumps, now_text
from traceark.layout import LOGS, LogName
from traceark.live import Announce, OpenTrace
from traceark.log import LogRead
from traceark.requests import Request, Staged
from traceark.storage.base import Lock, Storage
from traceark.writing import LogWriter


class _Tell(Request):
    """The events of what is untold."""

    log = "events"

    def __init__(self, trace: RecordedTrace) -> None:
        self._trace = trace
        self.changes: list[Change] = []

    def stage(self, staged: Staged) -> None:
        trace = self._trace
        self.changes = trace.untold.changes(trace.header, trace.tree, trace.ends["messages"])
        for event_type, _, text, change in self.changes:
            body = (
                f'{{"event_id":{staged.ends["events"] + 1},"created_at":"{now_text()}",'
                f'"trace_id":{dumps(trace.trace_id)},"event_type":"{event_type}","payload":{text},"change":{dumps(change)}}}'
            )
            staged.add("events", body.encode())


class RecordedTrace(OpenTrace):
    """One trace, open, with changes recorded.

    Attributes
    ----------
    untold : Untold
        What no event tells yet.
    """

    def __init__(self, storage: Storage, trace_id: str, durability: str, announce: Announce) -> None:
        super().__init__(storage, trace_id, durability, announce)
        self.untold = Untold()

    def _forget(self) -> None:
        super()._forget()
        self.untold = Untold()

    def take(self, log: LogName, read: LogRead) -> None:
        """Fold in what was read, and note what is told of it."""
        super().take(log, read)
        if log == "messages":
            self.untold.take_messages(read.records)
        else:
            self.untold.take_events(read.records, self.ends["messages"])

    def _lock_now(self, logs: Iterable[LogName]) -> Lock | None:
        return super()._lock_now(LOGS)  # events tell of whatever is added

    def _applied(self, staged: Staged) -> None:
        super()._applied(staged)
        if "messages" in staged.lines:
            self.untold.wrote(staged.lines["messages"], staged.first("messages"))

    def _commit_now(self, batch: list[Request]) -> None:
        super()._commit_now(batch)
        while not self._is_told():
            tell = _Tell(self)
            super()._commit_now([tell])
            self._was_told(tell)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[LogWriter]:
        """Hold the trace as `OpenTrace.exclusive` does; all is told before and, unless it was sealed, after."""
        async with super().exclusive() as writer:
            await self._tell(writer)
            yield writer
            if not self.sealed:
                await self._tell(writer)

    async def _tell(self, writer: LogWriter) -> None:
        while not self._is_told():
            tell = _Tell(self)
            await self._append(writer, [tell])
            self._was_told(tell)

    def _is_told(self) -> bool:
        return self.untold.is_told(self.header, self.tree, self.ends["messages"])

    def _was_told(self, tell: _Tell) -> None:
        if tell.error is not None:
            raise tell.error
        self.untold.told(tell.changes, self.header, self.tree, self.ends["messages"])
