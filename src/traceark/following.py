"""Following a run: what came to a trace since it was looked at last, in order of time.

A look that finds the same files costs one listing. Messages of a trace whose changes are recorded
come as the events that tell them; those that no event tells come as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, cast

from traceark.changes import MESSAGE_ADDED, MESSAGE_UPDATED, change_of
from traceark.codec.parquet import PartInfo, PartRecord
from traceark.errors import TraceNotFoundError
from traceark.headers import Header
from traceark.layout import trace_prefix
from traceark.models import TERMINAL, JsonObject, Trace
from traceark.reading import StoredTrace, load, retrying
from traceark.segments import Places
from traceark.storage.base import Storage


class News(NamedTuple):
    """One thing that came: an event, a message, or an update of a message, as its record."""

    kind: Literal["event", "message", "update"]
    record: JsonObject


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a trace found; `ended` where the run is in a terminal status and nothing came since."""

    trace: Trace
    news: list[News] = field(default_factory=list)
    ended: bool = False


class Follower:
    """Looks at one trace again and again.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    trace_id : str
    since_event_id : int
        Events up to this one, and messages that are no younger, are left out.

    Examples
    --------
    >>> import traceark
    >>> with traceark.open("memory://follow") as archive:
    ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7"))
    ...     _ = archive.add_message(traceark.Message(trace_id="run-7", role="user", content="hi"))
    ...     follower = Follower(archive.store.storage, "run-7")
    ...     [each.record["content"] for each in archive.run(follower.look()).news], archive.run(follower.look()).news
    (['hi'], [])
    """

    def __init__(self, storage: Storage, trace_id: str, since_event_id: int = 0) -> None:
        self._storage, self._trace_id, self._since = storage, trace_id, since_event_id
        self._parts: dict[str, PartInfo] = {}
        self._places = Places()
        self._headers: dict[str, tuple[str, Header]] = {}
        self._incarnation = ""
        self._files: dict[str, tuple[int, str]] | None = None
        self._ends = {"messages": 0, "events": 0}
        # Messages that no event told yet, though events tell others; the next look says whether one will.
        self._held: list[PartRecord] = []
        self._told = self._shown = 0
        self._after: datetime | str = ""

    async def look(self) -> Look | None:
        """Return what came; None where there is no such trace yet.

        Raises
        ------
        TraceNotFoundError
            It was deleted since the last look.
        DamagedTraceError
        """
        return await retrying(self._trace_id, self._look)

    async def _look(self) -> Look | None:
        prefix = trace_prefix(self._trace_id)
        stored = await load(self._storage, self._trace_id, prefix, None, self._parts, self._headers, self._places)
        if self._incarnation and (stored is None or stored.header.incarnation != self._incarnation):
            raise TraceNotFoundError(f"trace {self._trace_id!r} was deleted while it was followed")
        if stored is None:
            return None
        self._incarnation = stored.header.incarnation
        files = {name: (entry.size, entry.version) for name, entry in stored.entries.items()}
        news = await self._read(stored) if files != self._files or self._held else []
        self._files = files
        trace = stored.header.trace
        return Look(trace, news, not news and not self._held and trace.status in TERMINAL)

    async def _read(self, stored: StoredTrace) -> list[News]:
        events = await stored.log("events", after=self._ends["events"])
        messages = await stored.log("messages", after=self._ends["messages"])
        self._ends = {"messages": messages.end, "events": events.end}
        came: list[News] = []
        for row in events.records:
            change = change_of(row.record) or {}
            about_message = row.record["event_type"] in (MESSAGE_ADDED, MESSAGE_UPDATED) and bool(change)
            if about_message:
                self._told = cast("int", change.get("through", change["offset"]))
            if row.offset == self._since:
                self._after = cast("str", row.record["created_at"])
            elif row.offset > self._since and not (about_message and self._told <= self._shown):
                came.append(News("event", row.record))
        held = {row.offset for row in self._held}
        waiting = [row for row in (*self._held, *messages.records) if row.offset > self._told]
        self._held = [row for row in waiting if self._told and row.offset not in held]
        later = {row.offset for row in self._held}
        for row in waiting:
            # An update has no time of its own: it goes with the message before it.
            if row.offset not in later and str(row.record.get("created_at", "~")) > str(self._after):
                came.append(News("message" if row.op is None else "update", row.record))
                self._shown = row.offset
        return _in_time(came)


def _in_time(news: list[News]) -> list[News]:
    """Merge events and messages by their times, each kind in its own order."""
    latest = {"event": "", "message": ""}
    times = []
    for each in news:
        kind = "event" if each.kind == "event" else "message"
        latest[kind] = max(latest[kind], str(each.record.get("created_at", "")))
        times.append(latest[kind])
    return [each for _, each in sorted(zip(times, news, strict=True), key=lambda pair: pair[0])]
