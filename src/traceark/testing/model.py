"""`ModelStore`: the meaning of the `TraceStore` protocol, written so that it is obviously right.

Lists and dicts in memory; every read recomputes everything from the messages. It knows no files,
no offsets and no folds: that is what makes it an oracle for the store that has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, TypeVar

from traceark.codec.lines import JSON_FIELDS, check_texts, to_record
from traceark.errors import (
    AmbiguousMessageId,
    GoalExistsError,
    GoalNotFoundError,
    InvalidValueError,
    MessageConflictError,
    MessageNotFoundError,
    StaleGoalTreeError,
    TraceExistsError,
    TraceNotFoundError,
)
from traceark.layout import trace_key
from traceark.models import (
    INT64_MAX,
    INT64_MIN,
    ArchiveModel,
    Event,
    GivenEvent,
    Goal,
    GoalStats,
    GoalTree,
    Json,
    Message,
    Trace,
    updated,
    utc_now,
)
from traceark.testing.compare import exact_text, same_goal, same_message
from traceark.testing.sums import (
    STATS,
    TOTALS,
    Adjustments,
    SetStats,
    as_fraction,
    counted,
    recount,
    with_stats,
)

M = TypeVar("M", bound=ArchiveModel)
SetGoals = dict[str, tuple[SetStats, SetStats]]
ReadStats = dict[str, tuple[GoalStats, GoalStats]]


@dataclass
class _Added:
    """A message as it was first added and as it is now."""

    first: Message
    now: Message


@dataclass
class _Kept:
    """Everything the model keeps of one trace."""

    header: Trace
    messages: list[_Added] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tree: GoalTree | None = None
    tree_revision: int = 0
    sequence_floor: int = 0
    set_totals: Adjustments = field(default_factory=dict)
    set_stats: SetGoals = field(default_factory=dict)

    def now(self) -> list[Message]:
        """Return the messages as they are now, in the order of adding."""
        return [added.now for added in self.messages]

    def last_sequence(self) -> int:
        """Return the highest sequence, or what a caller set it to if that is higher."""
        return max([0, self.sequence_floor, *(_sequence(message) for message in self.now())])


def _sequence(message: Message) -> int:
    assert message.sequence is not None
    return message.sequence


def _checked(model: M) -> M:
    """Return a deep copy of a model whose every value the archive can keep exactly."""
    to_record(model)
    model = model.parse(model.given())
    check_texts(model.model_copy(update=dict.fromkeys(JSON_FIELDS & model.__dict__.keys())))
    return model.model_copy(deep=True)


class ModelStore:
    """A `TraceStore` in memory, the oracle of the conformance suite and of the state machine.

    Parameters
    ----------
    clock : callable, optional
        Gives the time of what has no `created_at`.

    Examples
    --------
    >>> import asyncio
    >>> from traceark import Message, Trace
    >>> async def run() -> int:
    ...     store = ModelStore()
    ...     await store.create_trace(Trace(trace_id="t"))
    ...     await store.add_message(Message(trace_id="t", role="user", content="hi", tokens=3))
    ...     trace = await store.get_trace("t")
    ...     return trace.total_tokens
    >>> asyncio.run(run())
    3
    """

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._traces: dict[str, _Kept] = {}

    async def create_trace(self, trace: Trace) -> str:
        """Begin a trace; its non-zero totals count as set."""
        header = _checked(Trace.coerce(trace))
        trace_key(header.trace_id)
        if header.trace_id in self._traces:
            raise TraceExistsError(f"the trace {header.trace_id!r} is there already")
        if header.last_event_id > 0:
            raise InvalidValueError("a new trace has no events", "last_event_id")
        if header.created_at is None:
            header.created_at = self._clock()
        kept = _Kept(header, sequence_floor=header.last_sequence)
        kept.set_totals = {name: as_fraction(getattr(header, name)) for name in TOTALS}
        self._traces[header.trace_id] = kept
        return header.trace_id

    async def get_trace(self, trace_id: str) -> Trace | None:
        """Return the header with its totals recounted."""
        kept = self._traces.get(trace_id)
        return None if kept is None else self._header(kept)

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        """Set fields of the header."""
        kept = self._kept(trace_id)
        changed = _checked(updated(self._header(kept), updates))
        if "last_event_id" in updates and changed.last_event_id > len(kept.events):
            raise InvalidValueError(f"the trace has {len(kept.events)} events", "last_event_id")
        if "last_sequence" in updates:
            kept.sequence_floor = changed.last_sequence
        for name, value in zip(TOTALS, counted(kept.now()), strict=True):
            if name in updates:
                kept.set_totals[name] = as_fraction(getattr(changed, name)) - value
        kept.header = changed

    async def list_traces(
        self,
        mode: str | None = None,
        agent_type: str | None = None,
        uid: str | None = None,
        status: str | None = None,
        limit: int = 50,
    ) -> list[Trace]:
        """Return the traces that match every filter given, the newest first."""
        if limit < 1:
            raise InvalidValueError(f"at least 1, not {limit}", "limit")
        filters = {"mode": mode, "agent_type": agent_type, "uid": uid, "status": status}
        wanted = {name: value for name, value in filters.items() if value is not None}
        found = [
            self._header(kept)
            for kept in self._traces.values()
            if all(getattr(kept.header, name) == value for name, value in wanted.items())
        ]
        found.sort(key=lambda trace: trace.trace_id)
        found.sort(key=lambda trace: trace.created_at or self._clock(), reverse=True)
        return found[:limit]

    async def delete_trace(self, trace_id: str) -> None:
        """Forget a trace."""
        self._kept(trace_id)
        del self._traces[trace_id]

    async def get_goal_tree(self, trace_id: str) -> GoalTree | None:
        """Return the goal tree with its stats recounted."""
        kept = self._traces.get(trace_id)
        if kept is None or kept.tree is None:
            return None
        tree = kept.tree.model_copy(deep=True)
        tree.goals = with_stats(tree.goals, kept.now(), kept.set_stats)
        tree._revision = kept.tree_revision
        tree._read_stats = {
            goal.id: (goal.self_stats.model_copy(deep=True), goal.cumulative_stats.model_copy(deep=True))
            for goal in tree.goals
        }
        return tree

    async def update_goal_tree(self, trace_id: str, tree: GoalTree) -> None:
        """Replace the goal tree; stats that differ from those read count as set."""
        kept = self._kept(trace_id)
        given = GoalTree.coerce(tree)
        given.check()
        was_read = given._revision is not None
        if was_read and given._revision != kept.tree_revision:
            raise StaleGoalTreeError(f"the goal tree of {trace_id!r} was changed since it was read")
        # A tree made fresh replaces: what was set of goals of the same names goes too.
        earlier = kept.set_stats if was_read else {}
        self._replace_tree(kept, _checked(given), earlier, given._read_stats if was_read else {})
        if was_read:
            given._revision = kept.tree_revision
            given._read_stats = {
                goal.id: (goal.self_stats.model_copy(deep=True), goal.cumulative_stats.model_copy(deep=True))
                for goal in given.goals
            }

    async def add_goal(self, trace_id: str, goal: Goal) -> None:
        """Add a goal, making a tree when there is none."""
        kept = self._kept(trace_id)
        given = _checked(Goal.coerce(goal))
        tree = await self.get_goal_tree(trace_id) or GoalTree()
        known = tree.goal(given.id)
        if known is not None:
            if same_goal(given, known):
                return
            raise GoalExistsError(f"the trace {trace_id!r} has a goal {given.id!r} with other content")
        tree.goals = [*tree.goals, given]
        tree.check()
        self._replace_tree(kept, tree, kept.set_stats, tree._read_stats)

    async def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        """Set fields of a goal; stats that are given count as set."""
        kept = self._kept(trace_id)
        tree = await self.get_goal_tree(trace_id)
        goal = tree.goal(goal_id) if tree is not None else None
        if tree is None or goal is None:
            raise GoalNotFoundError(f"the trace {trace_id!r} has no goal {goal_id!r}")
        changed = _checked(updated(goal, updates))
        tree.goals = [changed if each.id == goal_id else each for each in tree.goals]
        tree.check()
        self._replace_tree(kept, tree, kept.set_stats, tree._read_stats)
        if "self_stats" in updates:
            self._set_stats(kept, goal_id, 0, changed.self_stats)
        if "cumulative_stats" in updates:
            self._set_stats(kept, goal_id, 1, changed.cumulative_stats)

    async def add_message(self, message: Message) -> str:
        """Append a message; the same message again counts once."""
        given = _checked(Message.coerce(message))
        kept = self._kept(given.trace_id)
        taken = {added.first.message_id: added for added in kept.messages}
        sequence = kept.last_sequence() + 1 if given.sequence is None else given.sequence
        message_id = f"{given.trace_id}-{sequence:04d}" if given.message_id is None else given.message_id
        while given.message_id is None and given.sequence is None and message_id in taken:
            sequence += 1
            message_id = f"{given.trace_id}-{sequence:04d}"
        if message_id in taken and given.message_id is None:
            raise InvalidValueError(f"the id {message_id!r} that this sequence gives is taken", "sequence")
        if message_id in taken:
            known = taken[message_id]
            if same_message(given, known.first) or same_message(given, known.now):
                return message_id
            raise MessageConflictError(f"the message {message_id!r} is known with other content")
        if sequence > INT64_MAX:
            raise InvalidValueError("no sequence is left", "sequence")
        full = given.model_copy(deep=True)
        full.message_id, full.sequence = message_id, sequence
        if full.created_at is None:
            full.created_at = self._clock()
        kept.messages.append(_Added(full, full.model_copy(deep=True)))
        try:
            self._check_sums(kept)
        except InvalidValueError:
            kept.messages.pop()
            raise
        return message_id

    async def add_messages(self, messages: Sequence[Message]) -> list[str]:
        """Append messages one after the other."""
        return [await self.add_message(message) for message in messages]

    async def get_message(self, message_id: str, *, trace_id: str | None = None) -> Message | None:
        """Return a message by its id."""
        found = self._find(message_id, trace_id)
        return None if found is None else found[1].now.model_copy(deep=True)

    async def get_trace_messages(self, trace_id: str) -> list[Message]:
        """Return messages by sequence; where sequences are equal, in the order of adding."""
        kept = self._traces.get(trace_id)
        if kept is None:
            return []
        return [message.model_copy(deep=True) for message in sorted(kept.now(), key=_sequence)]

    async def get_messages_by_goal(self, trace_id: str, goal_id: str) -> list[Message]:
        """Return the messages of that goal alone."""
        return [message for message in await self.get_trace_messages(trace_id) if message.goal_id == goal_id]

    async def update_message(self, message_id: str, *, trace_id: str | None = None, **updates: Any) -> None:
        """Set fields of a message."""
        # A field named trace_id exists, and identifies: the keyword says where to look.
        found = self._find(message_id, trace_id)
        if found is None:
            raise MessageNotFoundError(f"there is no message {message_id!r}")
        kept, added = found
        before = added.now
        added.now = _checked(updated(before, updates))
        try:
            self._check_sums(kept)
        except InvalidValueError:
            added.now = before
            raise

    async def append_event(self, trace_id: str, event_type: str, payload: Json) -> int:
        """Append an event; ids are dense from 1."""
        kept = self._kept(trace_id)
        fields = {"event_id": len(kept.events) + 1, "event_type": event_type, "payload": payload}
        event = _checked(Event.parse({**fields, "created_at": self._clock()}))
        kept.events.append(event)
        return event.event_id

    async def append_events(self, trace_id: str, events: Iterable[GivenEvent]) -> list[int]:
        """Append events one after the other."""
        ids = []
        for event_type, payload, *told in events:
            ids.append(await self.append_event(trace_id, event_type, payload))
            for created_at in told:
                self._kept(trace_id).events[-1].created_at = created_at
        return ids

    async def get_events(self, trace_id: str, since_event_id: int = 0) -> list[Event]:
        """Return the events with an id above the cursor."""
        kept = self._traces.get(trace_id)
        events = [] if kept is None else kept.events
        return [event.model_copy(deep=True) for event in events if event.event_id > since_event_id]

    def _kept(self, trace_id: str) -> _Kept:
        if trace_id not in self._traces:
            raise TraceNotFoundError(f"there is no trace {trace_id!r}")
        return self._traces[trace_id]

    def _header(self, kept: _Kept) -> Trace:
        header = kept.header.model_copy(deep=True)
        for name, value in zip(TOTALS, counted(kept.now()), strict=True):
            whole = value + kept.set_totals[name]
            setattr(header, name, float(whole) if name == "total_cost" else int(whole))
        header.last_sequence = kept.last_sequence()
        header.last_event_id = len(kept.events)
        return header

    def _find(self, message_id: str, trace_id: str | None) -> tuple[_Kept, _Added] | None:
        found = [
            (kept, added)
            for each_id, kept in self._traces.items()
            if trace_id is None or each_id == trace_id
            for added in kept.messages
            if added.first.message_id == message_id
        ]
        if len(found) > 1:
            raise AmbiguousMessageId(f"{len(found)} traces have a message {message_id!r}; pass trace_id=")
        return found[0] if found else None

    def _replace_tree(self, kept: _Kept, tree: GoalTree, earlier: SetGoals, read: ReadStats) -> None:
        kept.tree = tree
        kept.tree_revision += 1
        kept.set_stats = {goal.id: earlier.get(goal.id, (SetStats(), SetStats())) for goal in tree.goals}
        blank = (GoalStats(), GoalStats())
        # Own stats first: what is set of them is part of the recount of the cumulative ones.
        for which in (0, 1):
            for goal in tree.goals:
                given = (goal.self_stats, goal.cumulative_stats)[which]
                if exact_text(given) != exact_text(read.get(goal.id, blank)[which]):
                    self._set_stats(kept, goal.id, which, given)

    def _set_stats(self, kept: _Kept, goal_id: str, which: int, given: GoalStats) -> None:
        """Keep what a caller set of a goal's own (0) or cumulative (1) stats."""
        assert kept.tree is not None
        both = kept.set_stats[goal_id]
        kept.set_stats[goal_id] = (SetStats(), both[1]) if which == 0 else (both[0], SetStats())
        values = recount(kept.tree.goals, kept.now(), kept.set_stats)[goal_id][which]
        kept.set_stats[goal_id][which].preview = given.preview
        kept.set_stats[goal_id][which].preview_after = len(kept.messages)
        for name, value in zip(STATS, values, strict=True):
            kept.set_stats[goal_id][which].adjustments[name] = as_fraction(getattr(given, name)) - value

    def _check_sums(self, kept: _Kept) -> None:
        """Refuse what would carry a total beyond its type."""
        for name, value in zip(TOTALS, counted(kept.now()), strict=True):
            whole: Fraction = value + kept.set_totals[name]
            try:
                fits = INT64_MIN <= whole <= INT64_MAX if name != "total_cost" else float(whole) is not None
            except OverflowError:
                fits = False
            if not fits:
                raise InvalidValueError("the trace's total would not fit its type", name)
