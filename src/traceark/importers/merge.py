"""What a source adds to a trace that may be in the archive already: a plan, and no I/O.

How far a source has been taken is remembered in the trace's own metadata, under ``import``: the
number of rows and the digest of all of them, so that an earlier or a later state of the same
source is told from one that went another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from traceark.importers.base import GOAL_STATUS, SourceEvent, SourceTrace
from traceark.importers.elsewhere import whole
from traceark.importers.report import Outcome
from traceark.models import TIMES, Event, GivenEvent, Goal, GoalTree, JsonObject, Message, Trace

STATE = "import"
# Where a trace that was captured as it ran says so.
CAPTURE = "capture"
# The status of a message that a later span told better: it is another message now, and counts there.
SUPERSEDED = "superseded"
# What a source says in a header; its parents are set when a trace is made and when it is linked.
_HEADER = (
    "mode",
    "task",
    "agent_type",
    "model",
    "status",
    "current_goal_id",
    "result_summary",
    "error_message",
    "created_at",
    "completed_at",
)
SPENT = ("usage", "tokens", "cost", "duration_ms")


@dataclass(frozen=True, slots=True)
class State:
    """How far a source has been taken.

    Attributes
    ----------
    importer : str
    rows, sha256 : int, str
        What has been taken for certain: so many rows, and their digest.
    until : int
        The rows that an import which has begun and not ended may have written in part; else 0.
    file_rows : int
        Rows of the file that was taken last, with those of other traces.
    torn_tail : str, optional
        The unfinished end of that file.
    diverged : tuple of str
        Digests of sources that disagreed.
    parent : str, optional
        The trace whose sub-agent it is by its own source; the header may name another, by a goal of that one.
    """

    importer: str
    rows: int = 0
    sha256: str = ""
    until: int = 0
    file_rows: int = 0
    torn_tail: str | None = None
    diverged: tuple[str, ...] = ()
    parent: str | None = None

    @classmethod
    def of(cls, trace: Trace) -> State | None:
        """Return the state that a trace remembers, None when no import wrote it."""
        stored = trace.metadata.get(STATE)
        if not isinstance(stored, dict):
            return None
        return cls(
            str(stored.get("format")),
            cast("int", stored.get("rows", 0)),
            cast("str", stored.get("sha256", "")),
            cast("int", stored.get("until", 0)),
            cast("int", stored.get("file_rows", 0)),
            cast("str | None", stored.get("torn_tail")),
            tuple(cast("list[str]", stored.get("diverged", []))),
            cast("str | None", stored.get("parent")),
        )

    def to_json(self) -> JsonObject:
        """Return it as metadata keeps it."""
        out: JsonObject = {"format": self.importer, "rows": self.rows, "sha256": self.sha256}
        if self.until:
            out["until"] = self.until
        if self.file_rows:
            out["file_rows"] = self.file_rows
        if self.torn_tail is not None:
            out["torn_tail"] = self.torn_tail
        if self.diverged:
            out["diverged"] = list(self.diverged)
        if self.parent is not None:
            out["parent"] = self.parent
        return out


@dataclass(frozen=True, slots=True)
class Stored:
    """What the archive holds of a trace."""

    trace: Trace
    messages: list[Message]
    events: list[Event]
    goals: GoalTree | None


@dataclass(slots=True)
class Plan:
    """What to write, in this order; each part may be empty.

    Attributes
    ----------
    marks : dict
        Updates of the header to write before anything else.
    goals : GoalTree, optional
    messages : list of Message
    spent : list of (message id, updates)
        Usage that is at another message now, goals that are known now, or whatever else changed.
    stats : list of (goal id, updates)
        Stats that somebody set.
    events : list of (event type, payload, perhaps a time)
    events_first : bool
        Whether they come before goals and messages, which are made of them.
    header : dict
        Updates of the header that end the import.
    """

    outcome: Outcome
    marks: dict[str, object] = field(default_factory=dict)
    goals: GoalTree | None = None
    messages: list[Message] = field(default_factory=list)
    spent: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    stats: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    events: list[GivenEvent] = field(default_factory=list)
    events_first: bool = False
    header: dict[str, object] = field(default_factory=dict)


def begun(source: SourceTrace, importer: str) -> Trace:
    """Return the header that a new trace is made with: running, until all of it is there."""
    trace = source.trace.model_copy()
    trace.status = "running"
    trace.metadata = {**source.trace.metadata, STATE: _begins(source, importer).to_json()}
    return trace


def _begins(source: SourceTrace, importer: str) -> State:
    return State(importer, until=len(source.digests), parent=source.trace.parent_trace_id)


def ended(source: SourceTrace, importer: str) -> Trace:
    """Return the header of a new trace that is written in one piece."""
    metadata = {**source.trace.metadata, STATE: _reached(source, State(importer)).to_json()}
    return source.trace.model_copy(update={"metadata": metadata})


def settled(source: SourceTrace, stored: Trace) -> Outcome | None:
    """Return the outcome for a source that has nothing to add, if the header alone tells it."""
    state = State.of(stored)
    if state is None or not source.digests:
        return None
    last = source.digests[-1]
    if last in state.diverged:
        return "diverged"
    reached = (source.file_rows, len(source.torn_tail or ""))
    same = (state.rows, state.sha256, state.until) == (len(source.digests), last, 0)
    return "known" if same and reached <= (state.file_rows, len(state.torn_tail or "")) else None


def plan_import(source: SourceTrace, stored: Stored, importer: str) -> Plan:
    """Return what to write so that the archive holds the later of its own and the source's state.

    It is for a source that `settled` does not settle.

    Parameters
    ----------
    source : SourceTrace
    stored : Stored
        With the state that `begun` wrote when the trace has just been made.
    importer : str
        The name of the format.
    """
    state = State.of(stored.trace)
    source = replace(source, events=_comparable(source.events, stored.events))
    by_id = _by_id(stored.messages)
    new = [message for message in source.messages if message.message_id not in by_id]
    if state is None or not (state.rows or state.until) or not _agrees(source, state, by_id, stored.events):
        return plan_diverged(source, stored, state or State(importer), new)
    rows = len(source.digests)
    if state.rows > rows:
        return Plan("older")
    later = given(source.events[len(stored.events) :])
    plan = Plan("new" if not state.rows else "grown" if rows > state.rows else "known", messages=new, events=later)
    if state.until > rows:
        # A later state was being imported and the import did not end; only repeating that can end it.
        plan.outcome = "older"
        return plan
    if state.until < rows and rows > state.rows:
        # Not sealed meanwhile, and if this import does not end, it shows.
        begins = replace(state, until=rows)
        plan.marks = {"status": "running", "metadata": {**stored.trace.metadata, STATE: begins.to_json()}}
    plan.goals = merged_goals(source.goals, stored.goals)
    plan.spent = _spent(source.messages, by_id)
    plan.header = header_updates(source, stored.trace, state)
    return plan


def _comparable(events: list[SourceEvent], stored: Sequence[Event]) -> list[SourceEvent]:
    """Return a source's events as they are stored: without changes of goals where those there tell none."""
    first = next((number for number, each in enumerate(events) if each.event_type == GOAL_STATUS), len(events))
    if len(stored) <= first or any(each.event_type == GOAL_STATUS for each in stored):
        return events
    return [each for each in events if each.event_type != GOAL_STATUS]


def given(events: Sequence[SourceEvent]) -> list[GivenEvent]:
    """Return events as a store takes them."""
    return [
        (each.event_type, each.payload) if each.created_at is None else (each.event_type, each.payload, each.created_at)
        for each in events
    ]


def _agrees(source: SourceTrace, state: State, by_id: Mapping[str, Message], events: list[Event]) -> bool:
    """Say whether what is stored is an earlier or a later state of the source."""
    if 0 < state.rows <= len(source.digests) and source.digests[state.rows - 1] != state.sha256:
        return False
    told = _by_id(source.messages)
    for message in source.messages:
        known = by_id.get(str(message.message_id))
        if known is not None and not _same(known, message) and not _same(whole(known, by_id), whole(message, told)):
            return False
        if known is None and state.rows > len(source.digests):
            return False
    if state.rows > len(source.digests) and len(events) < len(source.events):
        return False
    # Events are known by position alone, and a shorter list is compared as far as it goes.
    return all(
        (stored.event_type, stored.payload) == (event.event_type, event.payload)
        for stored, event in zip(events, source.events, strict=False)
    )


def _by_id(messages: Sequence[Message]) -> dict[str, Message]:
    return {str(message.message_id): message for message in messages}


def _same(stored: Message, message: Message) -> bool:
    one, other = stored.__pydantic_extra__ or {}, message.__pydantic_extra__ or {}
    return (stored.role, stored.content, one) == (message.role, message.content, other)


def plan_diverged(source: SourceTrace, stored: Stored, state: State, new: list[Message]) -> Plan:
    """Return what is taken of a source that disagrees with the archive: new messages, where that can be told."""
    last = source.digests[-1] if source.digests else ""
    marked = replace(state, diverged=(*state.diverged, last))
    # Neither its goals nor the messages it refers to are those of this trace, even where they have the same names.
    taken, told = [] if source.positional else new, _by_id(source.messages)
    strangers = [whole(message, told).model_copy(update={"goal_id": None}) for message in taken]
    header: dict[str, object] = {"metadata": {**stored.trace.metadata, STATE: marked.to_json()}}
    return Plan("diverged", messages=strangers, header=header)


def _spent(messages: list[Message], by_id: Mapping[str, Message]) -> list[tuple[str, dict[str, object]]]:
    found = []
    for message in messages:
        known = by_id.get(str(message.message_id))
        if known is not None:
            # The goal of a message may be told after it, as the span of an agent is after those in it.
            names = (*SPENT, "goal_id") if known.goal_id is None else SPENT
            updates = {name: getattr(message, name) for name in names if getattr(known, name) != getattr(message, name)}
            if updates:
                found.append((str(message.message_id), updates))
    return found


def _reached(source: SourceTrace, state: State) -> State:
    digests, last = source.digests, source.digests[-1] if source.digests else ""
    return replace(
        state,
        rows=len(digests),
        sha256=last,
        until=0,
        file_rows=source.file_rows,
        torn_tail=source.torn_tail,
        parent=source.trace.parent_trace_id or state.parent,
    )


def header_updates(source: SourceTrace, stored: Trace, state: State) -> dict[str, object]:
    """Return the updates of the header that end an import."""
    reached = _reached(source, state)
    updates: dict[str, object] = {
        name: getattr(source.trace, name)
        for name in _HEADER
        if name == "status" or getattr(source.trace, name) != getattr(stored, name)
    }
    if source.trace.uid is not None and source.trace.uid != stored.uid:
        updates["uid"] = source.trace.uid
    gone = {*source.trace.metadata, STATE, TIMES}
    others = {name: value for name, value in stored.metadata.items() if name not in gone}
    metadata = {**source.trace.metadata, **others, STATE: reached.to_json()}
    if metadata != stored.metadata:
        updates["metadata"] = metadata
    return updates


def merged_goals(source: GoalTree | None, stored: GoalTree | None) -> GoalTree | None:
    """Return the tree to write: the stored one, its stats and revision kept, brought up to date."""
    if source is None or stored is None:
        return source
    tree = stored.model_copy()
    known = {goal.id: goal for goal in stored.goals}
    listed = {goal.id for goal in source.goals}
    merged = [_merged(known.get(goal.id), goal) for goal in source.goals]
    tree.goals = [*merged, *(goal for goal in stored.goals if goal.id not in listed)]
    tree.mission, tree.current_id = source.mission, source.current_id
    same = (tree.mission, tree.current_id, tree.goals) == (stored.mission, stored.current_id, stored.goals)
    return None if same else tree


def _merged(known: Goal | None, goal: Goal) -> Goal:
    if known is None:
        return goal
    stats: dict[str, object] = {"self_stats": known.self_stats, "cumulative_stats": known.cumulative_stats}
    links = [*goal.sub_trace_ids, *(each for each in known.sub_trace_ids if each not in goal.sub_trace_ids)]
    return goal.model_copy(update={**stats, "sub_trace_ids": links})
