"""Changes of a trace told as events: what each says, and the fold that makes the trace of them again.

Pure. An event that tells a change has a field ``change`` beside its payload, which no caller of
`append_event` can set; so events of the same types that a framework makes up are not taken for
changes. The logs and headers are the truth; `Untold` says which of it no event tells yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

from traceark.codec.lines import dumps, to_record
from traceark.codec.parquet import PartRecord
from traceark.errors import InvalidValueError
from traceark.headers import REDACTIONS, Header, TreeFile
from traceark.models import Event, Goal, GoalTree, Json, JsonObject, Message, Trace
from traceark.requests import fold_record, folded
from traceark.stats import MessageFold, SetStats, totals_of, with_stats

MESSAGE_ADDED, MESSAGE_UPDATED, MESSAGES_CUT = "message.added", "message.updated", "messages.cut"
GOAL_ADDED, GOAL_UPDATED = "goal.added", "goal.updated"
TREE_REPLACED, TREE_UPDATED = "goal_tree.replaced", "goal_tree.updated"
TRACE_UPDATED = "trace.updated"
# Per type: the payload, what `change` holds, what a reader makes of it.
TYPES = {
    TRACE_UPDATED: (
        "the header, without totals",
        "`set` and `last_sequence`, where somebody set totals",
        "the header is this one; it comes first, too",
    ),
    MESSAGE_ADDED: ("the message", "`offset`, `crc`, `through`", "the message is added"),
    MESSAGE_UPDATED: (
        "`message_id` and the fields that are set",
        "`offset`, `crc`",
        "the fields are set, null clears one",
    ),
    MESSAGES_CUT: ("null", "`offset`", "what was told of messages past that offset counts no more"),
    GOAL_ADDED: ("the goal, without stats", "`set`, where somebody set stats", "the goal is the last one of the tree"),
    GOAL_UPDATED: ("the goal, without stats", "`set`", "the goal of that id is this one"),
    TREE_REPLACED: ("the goal tree, without stats, or null", "`set`, by goal id", "the goal tree is this one"),
    TREE_UPDATED: ("the goal tree without its goals", "nothing", "mission and current goal are these"),
}
_STATS = ("self_stats", "cumulative_stats")
_UPDATE = '{"_op":"update",'
_AFTER = re.compile(r',"_after":"[0-9a-f]{8}"$')
# So many messages are told in one batch of events.
_BATCH_MESSAGES = 2_000


class Change(NamedTuple):
    """A change to tell; of a message only the JSON text is at hand, of all else `payload` too."""

    event_type: str
    payload: Json
    text: str
    change: JsonObject


class Line(NamedTuple):
    """A message's record as it was just written: its offset, its ``_crc``, what it does, and its JSON."""

    offset: int
    crc: str | None
    op: str | None
    text: str

    @classmethod
    def written(cls, line: bytes, offset: int) -> Line:
        """Return what a segment's line says."""
        text = line[: line.rindex(b',"_offset":')].decode()
        text = _AFTER.sub("", text) + "}"
        op = "update" if text.startswith(_UPDATE) else None
        return cls(offset, line[-11:-3].decode(), op, text.replace(_UPDATE, "{", 1) if op else text)


class Told:
    """What events have told of a trace so far, as text that differs wherever the JSON does.

    Attributes
    ----------
    offset : int
        Up to which offset of the messages' log.
    header, head : str, optional
        The header; the goal tree without its goals.
    goals : dict
        The goals, in their order, by id.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.header: str | None = None
        self.head: str | None = None
        self.goals: dict[str, str] = {}

    def take(self, event_type: str, payload: Any, change: Mapping[str, Any]) -> None:
        """Take what an event tells."""
        if event_type in (MESSAGE_ADDED, MESSAGE_UPDATED):
            self.offset = change.get("through", change["offset"])
        elif event_type == MESSAGES_CUT:
            self.offset = change["offset"]
        elif event_type == TRACE_UPDATED:
            self.header = dumps([payload, change])
        elif event_type in (GOAL_ADDED, GOAL_UPDATED):
            self.goals[payload["id"]] = dumps([payload, change.get("set", {})])
        elif payload is None:
            self.head, self.goals = None, {}
        else:
            head = dict(payload)
            goals, was_set = head.pop("goals", []), change.get("set", {})
            self.head = dumps(head)
            if event_type == TREE_REPLACED:
                self.goals = {goal["id"]: dumps([goal, was_set.get(goal["id"], {})]) for goal in goals}


def change_of(event: Mapping[str, Any]) -> JsonObject | None:
    """Return an event record's `change`, None where it tells none."""
    change = event.get("change")
    return change if isinstance(change, dict) and event["event_type"] in TYPES else None


class Replay:
    """A trace as its events tell it, of an archive whose writers record changes.

    Give it the events one after the other; at any moment it is what the store's getters returned
    when the last of them was appended.

    Attributes
    ----------
    cursor : int
        The last event it was given, for `get_events`.

    Examples
    --------
    >>> import traceark
    >>> from traceark.changes import Replay
    >>> replay = Replay()
    >>> with traceark.open("memory://replay", record_changes=True) as archive:
    ...     _ = archive.create_trace(traceark.Trace(trace_id="run-7", task="say hi"))
    ...     _ = archive.add_message(traceark.Message(trace_id="run-7", role="user", content="hi", tokens=2))
    ...     replay.extend(archive.get_events("run-7", since_event_id=replay.cursor))
    >>> replay.trace().task, replay.trace().total_tokens, [message.content for message in replay.messages()]
    ('say hi', 2, ['hi'])
    """

    def __init__(self) -> None:
        self.cursor = 0
        self._told = Told()
        self._records: list[tuple[int, int, str | None, JsonObject]] = []

    def extend(self, events: Iterable[Event]) -> None:
        """Take the next events; those that tell no change are passed over.

        Raises
        ------
        InvalidValueError
            One does not follow the last: events in between are missing.
        """
        for event in events:
            if event.event_id != self.cursor + 1:
                raise InvalidValueError(f"the next event is {self.cursor + 1}, not {event.event_id}", "event_id")
            change = change_of(event.fields())
            if change is not None:
                self._take(event.event_type, event.payload, change)
            self.cursor = event.event_id

    def _take(self, event_type: str, payload: Any, change: Mapping[str, Any]) -> None:
        self._told.take(event_type, payload, change)
        if event_type in (MESSAGE_ADDED, MESSAGE_UPDATED):
            op = "update" if event_type == MESSAGE_UPDATED else None
            self._records.append((self._told.offset, change["offset"], op, payload))
        elif event_type == MESSAGES_CUT:
            self._records = [record for record in self._records if record[0] <= change["offset"]]

    def messages(self) -> list[Message]:
        """Return the messages by sequence, as `get_trace_messages` does."""
        records = folded([(op, dict(record)) for _, _, op, record in self._records])
        return [Message.parse(record) for record in sorted(records, key=lambda each: cast("int", each["sequence"]))]

    def _fold(self) -> MessageFold:
        fold = MessageFold()
        for _, offset, op, record in self._records:
            fold_record(fold, op, record, offset)
        return fold

    def trace(self) -> Trace | None:
        """Return the header with its totals, as `get_trace` does; None where no event told it yet."""
        if self._told.header is None:
            return None
        record, change = json.loads(self._told.header)
        fold = self._fold()
        record |= totals_of(fold.total, {name: Decimal(value) for name, value in change.get("set", {}).items()})
        record["last_sequence"] = max(fold.last_sequence, change.get("last_sequence", 0))
        record["last_event_id"] = self.cursor
        return Trace.parse(record)

    def goal_tree(self) -> GoalTree | None:
        """Return the goal tree with its stats, as `get_goal_tree` does, or None."""
        if self._told.head is None:
            return None
        goals = {goal_id: json.loads(text) for goal_id, text in self._told.goals.items()}
        tree = GoalTree.parse({**json.loads(self._told.head), "goals": [goal for goal, _ in goals.values()]})
        was_set = {
            goal_id: (
                SetStats.from_json(kept.get("self_stats", {})),
                SetStats.from_json(kept.get("cumulative_stats", {})),
            )
            for goal_id, (_, kept) in goals.items()
        }
        return with_stats(tree, self._fold().by_goal, was_set)


class Untold:
    """What a trace holds and its events do not tell yet, because a writer was killed or records no changes.

    Records of messages that are not known to be told are kept. An event names the ``_crc`` of the
    record it tells, so that one which tells a record that is not there (its file was lost with the
    power, or left out by a copy) is known, and taken back by `MESSAGES_CUT`.
    """

    def __init__(self) -> None:
        self._told = Told()
        self._rows: list[PartRecord | Line] = []
        # The first offset of which something else was told than what is there.
        self._wrong: int | None = None
        self._header: Header | None = None
        self._tree: TreeFile | None = None

    def take_messages(self, rows: Sequence[PartRecord]) -> None:
        """Take records that were read; those that are known come again where the whole log was read anew."""
        if rows and self._rows and rows[0].offset <= self._rows[-1].offset:
            self._rows = []
        self._rows += rows

    def wrote(self, lines: Sequence[bytes], first: int) -> None:
        """Take records that were written here."""
        self._rows += [Line.written(line, offset) for offset, line in enumerate(lines, start=first)]

    def take_events(self, rows: Iterable[PartRecord], end: int) -> None:
        """Take events that were read, after the messages; `end` is the last offset of these."""
        crcs = {row.offset: row.crc for row in self._rows if row.crc is not None}
        for row in rows:
            change = change_of(row.record)
            if change is None:
                continue
            event_type = cast("str", row.record["event_type"])
            self._told.take(event_type, row.record.get("payload"), change)
            offset, crc = cast("int", change.get("offset", 0)), change.get("crc")
            if self._wrong is None and crc is not None and crcs.get(offset, crc) != crc:
                self._wrong = offset
            elif self._wrong is not None and event_type == MESSAGES_CUT and offset < self._wrong:
                self._wrong = None
        if self._told.offset == end and self._wrong is None:
            self._rows = []

    def is_told(self, header: Header, tree: TreeFile | None, end: int) -> bool:
        """Say whether nothing is left to tell of a trace as it is now."""
        same = header is self._header and tree is self._tree
        return same and self._told.offset == end and self._wrong is None

    def changes(self, header: Header, tree: TreeFile | None, end: int) -> list[Change]:
        """Return what is to be told next of a trace as it is now."""
        messages, whole = self._message_changes(end)
        about_header = self._header_changes(header)
        # What ends a run is told when all else has been; what begins one, before it.
        first = about_header if self._told.header is None else []
        last = about_header if self._told.header is not None and whole else []
        return [*first, *self._tree_changes(tree), *messages, *last]

    def told(self, changes: Iterable[Change], header: Header, tree: TreeFile | None, end: int) -> None:
        """Take that changes were told, of a trace that was so."""
        for each in changes:
            self._told.take(each.event_type, each.payload, each.change)
            if each.event_type == MESSAGES_CUT:
                self._wrong = None
        if self._told.offset == end:
            self._rows = []
            self._header, self._tree = header, tree

    def _message_changes(self, end: int) -> tuple[list[Change], bool]:
        """Return changes of messages, and whether they are all."""
        told = self._told.offset
        start = min(told, end) if self._wrong is None else min(told, end, self._wrong - 1)
        rows = [row for row in self._rows if row.offset > start]
        if start and len(rows) < end - start:
            # A seal folded updates that nobody told into messages that were told before.
            start, rows = 0, self._rows
        assert rows or start == end, f"the messages from offset {start + 1} to {end} are not at hand to be told"
        changes = [Change(MESSAGES_CUT, None, "null", {"offset": start})] if start < told else []
        following = [row.offset for row in rows[1:]] + [end + 1]
        for row, after in zip(rows[:_BATCH_MESSAGES], following, strict=False):
            change: JsonObject = {"offset": row.offset}
            if row.crc is not None:
                change["crc"] = row.crc
            if after != row.offset + 1:
                change["through"] = after - 1
            text = row.text if isinstance(row, Line) else dumps(row.record)
            changes.append(Change(MESSAGE_ADDED if row.op is None else MESSAGE_UPDATED, None, text, change))
        return changes, len(rows) <= _BATCH_MESSAGES

    def _header_changes(self, header: Header) -> list[Change]:
        if header is self._header:
            return []
        payload = header.told()
        was_set, floor = payload.pop("_set"), payload.pop("_floor")
        extra = header.trace.__pydantic_extra__ or {}
        if REDACTIONS in extra:
            payload[REDACTIONS] = extra[REDACTIONS]
        change: JsonObject = {**({"set": was_set} if was_set else {}), **({"last_sequence": floor} if floor else {})}
        if self._told.header == dumps([payload, change]):
            return []
        return [Change(TRACE_UPDATED, payload, dumps(payload), change)]

    def _tree_changes(self, tree: TreeFile | None) -> list[Change]:
        told = self._told
        if tree is self._tree and (tree is not None or told.head is None):
            return []
        if tree is None:
            return [] if told.head is None else [Change(TREE_REPLACED, None, "null", {})]
        head = to_record(tree.tree.model_copy(update={"goals": []}))
        head.pop("goals")
        goals = [_bare(goal) for goal in tree.tree.goals]
        kept = tree.set_to_json()
        known, ids = list(told.goals), [cast("str", goal["id"]) for goal in goals]
        if told.head is None or known != ids[: len(known)]:
            payload: JsonObject = {**head, "goals": cast("Json", goals)}
            return [Change(TREE_REPLACED, payload, dumps(payload), {"set": kept} if kept else {})]
        changes: list[Change] = []
        for goal_id, goal in zip(ids, goals, strict=True):
            was_set = kept.get(goal_id, {})
            if told.goals.get(goal_id) != dumps([goal, was_set]):
                kind = GOAL_UPDATED if goal_id in told.goals else GOAL_ADDED
                changes.append(Change(kind, goal, dumps(goal), {"set": was_set} if was_set else {}))
        if told.head != dumps(head):
            changes.append(Change(TREE_UPDATED, head, dumps(head), {}))
        return changes


def _bare(goal: Goal) -> JsonObject:
    """Return a goal's record without what follows from the messages; unknown fields of stats stay."""
    record = to_record(goal)
    for name in _STATS:
        stats = record.pop(name)
        extra = getattr(goal, name).__pydantic_extra__
        if extra:
            record[name] = {key: cast("JsonObject", stats)[key] for key in extra}
    return record
