"""What a trace of another archive adds to one that may be here already: a plan, and no I/O.

`merge` does the same for other sources, whose rows only ever are added. A trace of an archive may
have changed anywhere: messages are updated, headers set. So a state is told from others by who wrote
which records, and what is here by a hash of what was here when the import ended; where neither
settles which is the later one, nothing is written. How far a trace was taken is in its metadata,
under ``copied``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

from traceark.codec.lines import to_record
from traceark.importers.base import Copied, SourceEvent, SourceTrace
from traceark.importers.merge import Plan, Stored, given
from traceark.importers.report import Outcome
from traceark.models import Event, Goal, GoalStats, GoalTree, Message, Trace

STATE = "copied"
_TOTALS = ("total_messages", "total_tokens", "total_cost", "total_duration_ms")
# Of a header, what the store keeps, or this module.
_KEPT = frozenset({"trace_id", *_TOTALS, "last_sequence", "last_event_id", "metadata"})


@dataclass(frozen=True, slots=True)
class State:
    """How far a trace of another archive has been taken.

    Attributes
    ----------
    rows, sha256 : int, str
        So many rows, and their digest.
    events, revision : int
        Of them, and of its headers.
    held : str
        The hash of the messages and events that were here then.
    until, until_sha256 : int, str
        The rows of an import that has begun and not ended, and their digest.
    """

    rows: int = 0
    sha256: str = ""
    events: int = 0
    revision: int = 0
    held: str = ""
    until: int = 0
    until_sha256: str = ""

    @classmethod
    def of(cls, trace: Trace) -> State | None:
        """Return the state that a trace remembers, None when it was not taken from an archive."""
        told = trace.metadata.get(STATE)
        if not isinstance(told, dict):
            return None
        known = {each.name: type(each.default) for each in fields(cls)}
        return cls(**{name: told[name] for name, kind in known.items() if type(told.get(name)) is kind})

    def reached(self, source: SourceTrace, held: str) -> State:
        """Return the state after a source has been taken."""
        assert source.copied is not None
        return State(len(source.digests), source.digests[-1], len(source.events), source.copied.revision, held)

    def begins(self, source: SourceTrace) -> State:
        """Return the state while a source is being taken."""
        return replace(self, until=len(source.digests), until_sha256=source.digests[-1])


def begun(source: SourceTrace) -> Trace:
    """Return the header that a new trace is made with: running, without totals, until all of it is there."""
    return _bare_header(source, State().begins(source)).model_copy(update={"status": "running"})


def ended(source: SourceTrace) -> tuple[Trace, GoalTree | None]:
    """Return the header and the goals of a new trace that is written in one piece, for the store to count."""
    reached = State().reached(source, _held(source.messages, source.events))
    return _bare_header(source, reached), _without_stats(source.goals) if source.goals is not None else None


def is_plain(copied: Copied) -> bool:
    """Say whether all totals and stats of a trace are what its messages add up to, so that none has to be set."""
    return not (copied.totals or copied.self_stats or copied.cumulative_stats)


def _bare_header(source: SourceTrace, state: State) -> Trace:
    nothing = {**dict.fromkeys(_TOTALS, 0), "total_cost": 0.0, "last_sequence": 0, "last_event_id": 0}
    return source.trace.model_copy(update={**nothing, "metadata": {**source.trace.metadata, STATE: asdict(state)}})


def settled(source: SourceTrace, stored: Trace) -> Outcome | None:
    """Return the outcome for a source that has nothing to add, if the header alone tells it."""
    state = State.of(stored)
    assert source.copied is not None
    if state is None or (state.rows, state.sha256, state.until) != (len(source.digests), source.digests[-1], 0):
        return None
    reached, told = (state.events, state.revision), (len(source.events), source.copied.revision)
    if reached == told:
        return "known"
    return "older" if reached[0] >= told[0] and reached[1] >= told[1] else None


def plan_copy(source: SourceTrace, stored: Stored) -> Plan:
    """Return what to write so that the archive holds the later of its own and the source's state.

    Nothing is written, and the outcome is ``diverged``, where each holds what the other does not.
    """
    state = State.of(stored.trace)
    here = {str(message.message_id): _text(message) for message in stored.messages}
    there = {str(message.message_id): _text(message) for message in source.messages}
    changed = {message_id for message_id, text in there.items() if here.get(message_id, text) != text}
    events = zip(stored.events, source.events, strict=False)
    if not all((one.event_type, one.payload) == (other.event_type, other.payload) for one, other in events):
        return Plan("diverged")
    ahead = here.keys() <= there.keys() and len(stored.events) <= len(source.events)
    behind = there.keys() <= here.keys() and len(source.events) <= len(stored.events)
    if state is None and (not here or (ahead and behind)):
        # Nothing tells that it is this very trace, or that the source knows more of it.
        return Plan("known" if here and not changed else "diverged")
    if state is not None and _is_older(source, state, behind=behind, same=ahead and not changed):
        return Plan("older")
    if not ahead or (changed and not _is_later(source, stored, state)):
        return Plan("older" if behind and not changed else "diverged")
    updates = _updates(source.messages, {str(each.message_id): each for each in stored.messages}, changed)
    if updates is None or stored.trace.__pydantic_extra__ != source.trace.__pydantic_extra__:
        return Plan("diverged")
    return _plan(source, stored, state or State(), updates)


def _is_older(source: SourceTrace, state: State, *, behind: bool, same: bool) -> bool:
    """Say whether what is here is a later state of the source, or one that only repeating its import can end."""
    assert source.copied is not None
    rows = len(source.digests)
    if state.until > rows:
        return True
    return not state.until and behind and (rows < state.rows or (same and source.copied.revision < state.revision))


def _is_later(source: SourceTrace, stored: Stored, state: State | None) -> bool:
    """Say whether the source is a later state of what was taken, and nobody else has written here since."""
    if state is None:
        return False
    if state.until:
        return _digest_at(source, state.until) == state.until_sha256
    held = _held(stored.messages, stored.events)
    return state.rows > 0 and _digest_at(source, state.rows) == state.sha256 and held == state.held


def _digest_at(source: SourceTrace, rows: int) -> str | None:
    return source.digests[rows - 1] if 0 < rows <= len(source.digests) else None


def _plan(source: SourceTrace, stored: Stored, state: State, updates: list[tuple[str, dict[str, object]]]) -> Plan:
    assert source.copied is not None
    known = {message.message_id for message in stored.messages}
    plan = Plan("known", spent=updates)
    plan.messages = [message for message in source.messages if message.message_id not in known]
    plan.events = given(source.events[len(stored.events) :])
    replaced = source.goals is not None and (stored.goals is None or _bare(source.goals) != _bare(stored.goals))
    plan.header = _header(source.trace, stored.trace)
    wanted = {goal.id: goal for goal in source.goals.goals} if source.goals is not None else {}
    present = {goal.id: goal for goal in stored.goals.goals} if stored.goals is not None else {}
    moved = bool(plan.messages or plan.events or plan.spent or replaced)
    if moved or any(_stats_text(goal) != _stats_text(present.get(goal_id)) for goal_id, goal in wanted.items()):
        if source.goals is not None:
            # A fresh tree takes back what was set of stats.
            plan.goals = _without_stats(source.goals)
        # Those of cumulative stats count what is set of stats below them.
        plan.stats += [(goal_id, {"self_stats": stats}) for goal_id, stats in source.copied.self_stats.items()]
        plan.stats += [
            (goal_id, {"cumulative_stats": stats}) for goal_id, stats in source.copied.cumulative_stats.items()
        ]
    if moved or any(getattr(stored.trace, name) != value for name, value in source.copied.totals.items()):
        plan.header |= source.copied.totals
    if stored.trace.last_sequence > source.trace.last_sequence:
        # It was set, and then taken back.
        plan.header["last_sequence"] = source.trace.last_sequence
    if not (moved or plan.goals or plan.stats or plan.header or state.until):
        return plan
    plan.outcome = "grown" if state.rows or not state.until else "new"
    if moved and not state.until:
        plan.marks = {"status": "running", "metadata": _metadata(source.trace, stored.trace, state.begins(source))}
        plan.header["status"] = source.trace.status
    reached = state.reached(source, _held(source.messages, source.events))
    plan.header["metadata"] = _metadata(source.trace, stored.trace, reached)
    return plan


def _updates(
    messages: Sequence[Message], stored: dict[str, Message], changed: set[str]
) -> list[tuple[str, dict[str, object]]] | None:
    """Return which fields of known messages to set; None where one cannot be set."""
    found = []
    for message in messages:
        if message.message_id not in changed:
            continue
        known = stored[message.message_id]
        fixed = [getattr(each, name) for name in (*Message.fixed, "created_at") for each in (message, known)]
        if fixed[::2] != fixed[1::2] or message.__pydantic_extra__ != known.__pydantic_extra__:
            return None
        free = [name for name in Message.model_fields if name not in Message.fixed]
        one, other = to_record(message), to_record(known)
        differing = [name for name in free if json.dumps(one.get(name)) != json.dumps(other.get(name))]
        found.append((message.message_id, {name: getattr(message, name) for name in differing}))
    return found


def _header(source: Trace, stored: Trace) -> dict[str, object]:
    one, other = to_record(source), to_record(stored)
    names = [name for name in Trace.model_fields if name not in _KEPT and one.get(name) != other.get(name)]
    updates: dict[str, object] = {name: getattr(source, name) for name in names}
    if any(stored.metadata.get(name) != value for name, value in source.metadata.items()):
        updates["metadata"] = source.metadata
    return updates


def _metadata(source: Trace, stored: Trace, state: State) -> dict[str, object]:
    """Return the source's metadata, with what was added to them here."""
    added = {name: value for name, value in stored.metadata.items() if name not in source.metadata}
    return {**source.metadata, **added, STATE: asdict(state)}


def _without_stats(tree: GoalTree) -> GoalTree:
    nothing = {"self_stats": GoalStats(), "cumulative_stats": GoalStats()}
    goals = [goal.model_copy(update=nothing) for goal in tree.goals]
    return GoalTree.parse({**tree.fields(), "goals": goals})


def _bare(tree: GoalTree) -> str:
    return _text(_without_stats(tree))


def _stats_text(goal: Goal | None) -> str:
    return "" if goal is None else f"{_text(goal.self_stats)} {_text(goal.cumulative_stats)}"


def _text(model: Message | GoalTree | GoalStats) -> str:
    """Return a model as text that differs wherever its JSON would, but for the order of its fields."""
    return json.dumps(sorted(to_record(model).items()))


def _held(messages: Iterable[Message], events: Iterable[SourceEvent | Event]) -> str:
    """Return the hash of messages and events, whatever the order of the messages."""
    found = hashlib.sha256()
    for text in sorted(map(_text, messages)):
        found.update(text.encode())
    for event in events:
        found.update(json.dumps([event.event_type, event.payload]).encode())
    return found.hexdigest()
