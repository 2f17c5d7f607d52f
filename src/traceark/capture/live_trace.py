"""One trace that is written as it grows: its spans so far, and what of them the archive holds.

Whenever a span comes, the trace is put together anew from all of them, as importers do, and what
differs from what was written goes to the archive. So spans may come in any order: a child before
its agent, one after the root. It knows neither libraries nor threads.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from traceark.capture.outcome import Outcome, outcome_of
from traceark.codec.lines import dumps
from traceark.errors import InvalidValueError, MessageConflictError, StaleGoalTreeError, TraceExistsError
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.conversation import Told
from traceark.importers.merge import CAPTURE, SUPERSEDED, merged_goals
from traceark.importers.span import Span
from traceark.importers.spans import SpanTrace
from traceark.importers.typed import Typed
from traceark.models import TERMINAL, GoalTree, Json, JsonObject, Message, Trace
from traceark.store import ArchiveStore

# What of a message may change as more of its trace is known.
_CHANGING = (
    "content",
    "goal_id",
    "tool_call_id",
    "tool_name",
    "description",
    "tokens",
    "usage",
    "cost",
    "duration_ms",
    "status",
    "error",
    "created_at",
)
_HEADER = (
    "mode",
    "task",
    "agent_type",
    "uid",
    "model",
    "status",
    "result_summary",
    "error_message",
    "created_at",
    "completed_at",
)
# Putting together what takes longer than this many seconds is put off, to take at most a twentieth of the run.
_LONG, _SHARE = 0.05, 20


class LiveTrace:
    """A trace as it grows.

    Parameters
    ----------
    trace_id : str
    name : str
        The format, the first part of the types of events.
    describe : callable
        Says in the header what the spans do not.

    Attributes
    ----------
    ended : bool
        Whether its root has ended.
    refused : list of str
        What the archive could not keep as it was, and why; emptied by whoever tells it.
    """

    def __init__(self, trace_id: str, name: str, describe: Callable[[Trace, Typed], None]) -> None:
        self.trace_id = trace_id
        self.ended = False
        self.refused: list[str] = []
        self._outcome: Outcome = "completed"
        self._error: str | None = None
        self._name = name
        self._describe = describe
        self._spans: dict[str, Span] = {}
        # One object for all messages that say the same, so that comparing them takes no time.
        self._told: dict[tuple[object, ...], Told] = {}
        self._kept: set[int] = set()
        self._around: dict[str, Json] = {}
        self._kinds_around: set[str] = set()
        self._events: list[tuple[str, Json]] = []
        self._last_event_id = 0
        self._own: set[str] = set()
        self._begun = False
        self._joined = False
        self._known: dict[str, Message] | None = None
        self._header: dict[str, object] = {}
        self._metadata: JsonObject = {}
        self._goals: GoalTree | None = None
        self._stale = True
        self._seconds, self._built_at = 0.0, 0.0

    @property
    def spans(self) -> int:
        """How many spans it keeps in memory."""
        return len(self._spans)

    @property
    def waiting(self) -> int:
        """How many events are not in the archive yet."""
        return len(self._events)

    @property
    def written(self) -> bool:
        """Whether the archive holds all of it."""
        return self._known is not None and not self._events and not self._stale

    def event(self, kind: str, payload: Json) -> None:
        """Add an event."""
        self._events.append((f"{self._name}.{kind}", payload))

    def around(self, kind: str, told: Json) -> None:
        """Keep what stands around the spans that follow, as importers do: an event, unless it is as before."""
        if self._around.get(kind, {}) != told:
            self._around[kind] = told
            self._kinds_around.add(f"{self._name}.{kind}")
            self.event(kind, told)

    def put(self, span: Span) -> None:
        """Take a span that began or ended; it stands for what was told of it before."""
        self._spans.pop(span.span_id, None)
        # The raw record is an event, and not kept in memory; nor is what each call repeats, more than once.
        inputs, outputs = (list(map(self._once, told)) for told in (span.inputs, span.outputs))
        self._spans[span.span_id] = replace(span, raw=None, inputs=inputs, outputs=outputs)
        self._stale = True

    def _once(self, told: Told) -> Told:
        if id(told) in self._kept:
            return told
        content = told.content if isinstance(told.content, str) else dumps([told.content])
        one = self._told.setdefault((told.role, told.call_id, told.tool, isinstance(told.content, str), content), told)
        self._kept.add(id(one))
        return one

    def end(self, error: BaseException | None = None) -> None:
        """Take that the root has ended, and by which error, where its span may not tell it."""
        self.ended = self._stale = True
        self._outcome = outcome_of(error)
        self._error = str(error) or type(error).__name__ if error is not None else None

    def lost_sight(self) -> None:
        """Take that a write did not return well: what the archive holds is to be read again."""
        self._known = None

    async def write(self, store: ArchiveStore, *, all_of_it: bool) -> None:
        """Write what is new; `all_of_it` also what was put off since putting it together takes long."""
        source: SourceTrace | None = None
        if self._known is None:
            source = self._source()
            await self._begin(store, source)
        await self._write_events(store)
        if source is None:
            if not self._stale or not (all_of_it or self.ended or self._is_due()):
                return
            source = self._source()
        await self._write_source(store, source)
        self._stale = False

    def _is_due(self) -> bool:
        return self._seconds < _LONG or time.monotonic() - self._built_at > _SHARE * self._seconds

    def _source(self) -> SourceTrace:
        """Put together what the spans tell so far."""
        begin = time.monotonic()
        counts = ImportCounts()
        building = SpanTrace(self._name, Trace(trace_id=self.trace_id), counts)
        for span in self._spans.values():
            building.add(span)
        source = building.finish()
        self._describe(source.trace, building.typed)
        running = {span.span_id for span in self._spans.values() if span.start is not None and span.end is None}
        told = [f"{self.trace_id}-{span_id}-in-" for span_id in running]
        source.messages = [each for each in source.messages if _span_of(each) not in running or _starts(each, told)]
        for goal in source.goals.goals if source.goals is not None else ():
            if goal.status == "in_progress":
                goal.summary = None  # it is not over
        if not self.ended:
            for name in ("completed_at", "result_summary", "error_message"):
                setattr(source.trace, name, None)
            source.trace.status = "running"
        elif source.trace.status in ("running", "completed"):
            source.trace.status = self._outcome
            if self._outcome == "failed":
                source.trace.error_message = building.typed.summary(self._error, 1000)
        source.trace.metadata = {**source.trace.metadata, CAPTURE: {"format": self._name}}
        self._seconds, self._built_at = time.monotonic() - begin, time.monotonic()
        return source

    async def _begin(self, store: ArchiveStore, source: SourceTrace) -> None:
        """Make the trace, or read what the archive holds of it."""
        first = source.trace.model_copy(update={"status": "running", "completed_at": None})
        try:
            await store.create_trace(first)
        except TraceExistsError:
            # Made before a failed write, or by another process that takes part in the trace.
            again, self._joined = self._begun, self._joined or not self._begun
            header = await store.get_trace(self.trace_id)
            assert header is not None
            await self._skip_events(store, again=again)
            self._known = {str(each.message_id): each for each in await store.get_trace_messages(self.trace_id)}
        else:
            header, self._known = first, {}
        self._begun = True
        self._header = {name: getattr(header, name) for name in _HEADER}
        self._metadata = dict(header.metadata)
        self._goals = None

    async def _skip_events(self, store: ArchiveStore, *, again: bool) -> None:
        """Leave out what the archive holds: what a failed write brought there after all, and what stands around."""
        later = await store.get_events(self.trace_id, self._last_event_id)
        stored = Counter(dumps([each.event_type, each.payload]) for each in later)
        left: list[tuple[str, Json]] = []
        for kind, payload in self._events:
            told = dumps([kind, payload])
            # What another process told, or this one before it forgot the trace, is no write of this one.
            if stored[told] and (again or kind in self._kinds_around):
                stored[told] -= 1
            else:
                left.append((kind, payload))
        self._events = left
        self._last_event_id = max((each.event_id for each in later), default=self._last_event_id)

    async def _write_events(self, store: ArchiveStore) -> None:
        batch = list(self._events)
        if not batch:
            return
        try:
            ids = await store.append_events(self.trace_id, batch)
        except InvalidValueError as error:
            # None was written. What the archive cannot keep as JSON it keeps as text.
            self.refused.append(f"{len(batch)} events of trace {self.trace_id}, kept as text: {error}")
            ids = await store.append_events(self.trace_id, [(kind, ascii(payload)) for kind, payload in batch])
        self._last_event_id = ids[-1]
        del self._events[: len(batch)]

    async def _write_source(self, store: ArchiveStore, source: SourceTrace) -> None:
        await self._write_goals(store, source.goals)
        await self._write_messages(store, source.messages)
        await self._write_header(store, source.trace)

    async def _write_goals(self, store: ArchiveStore, goals: GoalTree | None) -> None:
        if goals is None or goals == self._goals:
            return
        while True:
            tree = merged_goals(goals, await store.get_goal_tree(self.trace_id))
            try:
                if tree is not None:
                    await store.update_goal_tree(self.trace_id, tree)
                break
            except StaleGoalTreeError:
                continue  # another process takes part in the trace
        self._goals = goals

    async def _write_messages(self, store: ArchiveStore, messages: Iterable[Message]) -> None:
        assert self._known is not None
        now = {str(each.message_id): each for each in messages}
        new = [each for message_id, each in now.items() if message_id not in self._known]
        self._own.update(now)
        await self._add(store, new)
        for message_id, message in now.items():
            known = self._known[message_id]
            updates = {
                name: getattr(message, name)
                for name in _CHANGING
                if getattr(known, name) != getattr(message, name) and (name != "created_at" or message.created_at)
            }
            await self._update(store, message_id, message, updates)
        for message_id in [each for each in self._own - now.keys() if each in self._known]:
            known = self._known[message_id]
            if known.status != SUPERSEDED:
                updates = dict.fromkeys(("tokens", "usage", "cost", "duration_ms")) | {"status": SUPERSEDED}
                await self._update(store, message_id, known.model_copy(update=updates), updates)

    async def _add(self, store: ArchiveStore, messages: list[Message]) -> None:
        assert self._known is not None
        try:
            if messages:
                await store.add_messages(messages)
        except (InvalidValueError, MessageConflictError) as error:
            if len(messages) > 1:
                for message in messages:
                    await self._add(store, [message])
                return
            self.refused.append(f"message {messages[0].message_id}, kept as events alone: {error}")
        self._known.update({str(each.message_id): each for each in messages})

    async def _update(self, store: ArchiveStore, message_id: str, message: Message, updates: dict[str, object]) -> None:
        assert self._known is not None
        try:
            if updates:
                await store.update_message(message_id, trace_id=self.trace_id, **updates)
        except InvalidValueError as error:
            self.refused.append(f"message {message_id}, changes kept as events alone: {error}")
        self._known[message_id] = message

    async def _write_header(self, store: ArchiveStore, trace: Trace) -> None:
        told = {name: getattr(trace, name) for name in _HEADER}
        if trace.status == "running" and self._header["status"] in TERMINAL:
            told["status"] = self._header["status"]
        if self._joined:
            told = {
                name: value
                for name, value in told.items()
                if self._header[name] is None or (self.ended and name in ("status", "completed_at"))
            }
        updates = {name: value for name, value in told.items() if value != self._header[name]}
        metadata = {**self._metadata, **trace.metadata}
        if metadata != self._metadata:
            updates["metadata"] = metadata
        if updates:
            await store.update_trace(self.trace_id, **updates)
        self._header.update(told)
        self._metadata = metadata


def _span_of(message: Message) -> object:
    return (message.__pydantic_extra__ or {}).get("span_id")


def _starts(message: Message, beginnings: list[str]) -> bool:
    return str(message.message_id).startswith(tuple(beginnings))
