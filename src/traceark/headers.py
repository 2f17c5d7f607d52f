"""`trace.json` and `goal_tree.json`: their records to bytes and back.

Pure. Both are one line that proves itself, flat, with the archive's own fields behind an
underscore: format, incarnation, revision, the checkpoint they are as of, and what callers set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from traceark.codec.lines import check_texts, decode_line, encode_line, to_record
from traceark.codec.malformed import MALFORMED, stated, stated_decimal
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import FORMAT_VERSION, LOGS, LogName, PartName, SegmentName, parse_log_name
from traceark.models import GoalStats, GoalTree, Json, JsonObject, Trace
from traceark.stats import TOTALS, Adjustments, SetGoals, SetStats


@dataclass(slots=True)
class Checkpoint:
    """As of which offsets a header is, the last file and its size that held them, and the other files.

    A reader that finds those very files, and no others that carry a writer's id, knows that the
    header is exact. Of the other files the size is known too, since any segment may grow: one that was
    empty when another was the last, or one of which a copy is longer. None where an older header tells none.
    """

    ends: dict[LogName, int] = field(default_factory=lambda: {"messages": 0, "events": 0})
    files: dict[LogName, tuple[str, int]] = field(default_factory=dict)
    others: dict[LogName, dict[str, int | None]] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return it as a header keeps it."""
        out: JsonObject = {}
        for log in LOGS:
            name, size = self.files.get(log, ("", 0))
            out[log] = {
                "offset": self.ends[log],
                "file": name,
                "bytes": size,
                "others": dict(sorted(self.others.get(log, {}).items())),
            }
        return out

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Checkpoint:
        """Return it from what a header keeps."""
        found = cls()
        for log in LOGS:
            found.ends[log] = int(stored[log]["offset"])
            others = stored[log]["others"]
            sizes = others if isinstance(others, dict) else dict.fromkeys(others)
            found.others[log] = {str(name): None if size is None else int(size) for name, size in sizes.items()}
            if stored[log]["file"]:
                found.files[log] = (str(stored[log]["file"]), int(stored[log]["bytes"]))
        return found

    def is_exact(self, sizes: Mapping[str, int], incarnation: str) -> bool:
        """Say whether the logs, given the sizes of the trace's files, end where the checkpoint says."""
        return all(self._ends_here(sizes, log, incarnation) for log in LOGS)

    def _ends_here(self, sizes: Mapping[str, int], log: LogName, incarnation: str) -> bool:
        name, size = self.files.get(log, ("", 0))
        if name and sizes.get(f"{log}/{name}") != size:
            return False
        last = parse_log_name(name)
        for key, there in sizes.items():
            directory, _, other = key.partition("/")
            if directory == log and other != name:
                parsed = parse_log_name(other)
                if parsed is None or parsed.incarnation != incarnation:
                    continue
                if not self._is_before(log, last, parsed, there):
                    return False
        return True

    def _is_before(
        self, log: LogName, last: SegmentName | PartName | None, other: SegmentName | PartName, size: int
    ) -> bool:
        """Say whether a file of this size cannot hold anything past the checkpoint, whose last file is `last`."""
        if isinstance(other, PartName):
            return str(other) in self.others.get(log, {})
        if other.writer:
            return self.others.get(log, {}).get(str(other)) == size
        # An object without a writer's id never grows, and only one can have its offset.
        return other.first < last.first if isinstance(last, SegmentName) else other.first <= self.ends[log]


# So many writers in turn are remembered; of what is older only the revision tells.
_MOST_CHANGES = 32
# The field of a trace that tells what was redacted in it; like totals it follows from the logs.
REDACTIONS = "redactions"
_DERIVED = frozenset({*TOTALS, "last_sequence", "last_event_id", REDACTIONS})


@dataclass(frozen=True, slots=True)
class Changes:
    """Who changed what a header says, run by run: the first and the last revision at which a writer did.

    Revisions between them that others published changed nothing but what follows from the logs.
    Two copies of a header that were changed apart name different writers from there on.
    """

    runs: tuple[tuple[int, int, str], ...] = ()

    def then(self, revision: int, writer: str) -> Changes:
        """Return them with one more change.

        Examples
        --------
        >>> Changes().then(2, "aaaaaaaa").then(4, "aaaaaaaa").then(5, "bbbbbbbb").runs
        ((2, 4, 'aaaaaaaa'), (5, 5, 'bbbbbbbb'))
        """
        if self.runs and self.runs[-1][2] == writer:
            return Changes((*self.runs[:-1], (self.runs[-1][0], revision, writer)))
        return Changes((*self.runs, (revision, revision, writer))[-_MOST_CHANGES:])

    def follow(self, other: Changes) -> bool:
        """Say whether the last change of others is one of these, so that nothing of theirs is unknown here.

        Examples
        --------
        >>> before = Changes().then(2, "aaaaaaaa")
        >>> before.then(3, "bbbbbbbb").follow(before), before.follow(before.then(3, "bbbbbbbb"))
        (True, False)
        """
        if not other.runs:
            return True
        _, revision, writer = other.runs[-1]
        return any(first <= revision <= last and writer == who for first, last, who in self.runs)

    def beyond(self, other: Changes) -> str | None:
        """Return the writer of the first run that is none of others', or None.

        Examples
        --------
        >>> before = Changes().then(2, "aaaaaaaa")
        >>> before.then(3, "bbbbbbbb").beyond(before.then(3, "cccccccc"))
        'bbbbbbbb'
        """
        known = {(first, writer) for first, _, writer in other.runs}
        return next((writer for first, _, writer in self.runs if (first, writer) not in known), None)

    def to_json(self) -> Json:
        """Return them as a header keeps them."""
        return [list(run) for run in self.runs]

    @classmethod
    def from_json(cls, stored: Json) -> Changes:
        """Return them from what a header keeps."""
        runs = cast("list[tuple[int, int, str]]", stored)
        return cls(tuple((int(first), int(last), str(writer)) for first, last, writer in runs))


@dataclass(slots=True)
class Header:
    """The content of `trace.json`.

    `adjustments` are what callers set of the totals, as the difference to a recount; `set_at`
    says at which offset; `floor` is a last_sequence that was set; `changes` who changed it.
    """

    trace: Trace
    incarnation: str
    revision: int = 1
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    adjustments: Adjustments = field(default_factory=dict)
    set_at: dict[str, int] = field(default_factory=dict)
    floor: int = 0
    changes: Changes = Changes()

    @property
    def state(self) -> str:
        """What tells it from every other header of the trace."""
        return f"{self.incarnation} {self.revision}"

    def told(self) -> JsonObject:
        """Return what callers said, and nothing that follows from the logs."""
        told = {name: value for name, value in to_record(self.trace).items() if name not in _DERIVED}
        return {**told, "_set": {name: str(value) for name, value in self.adjustments.items()}, "_floor": self.floor}

    def encode(self) -> bytes:
        """Return the bytes of `trace.json`."""
        record = to_record(self.trace)
        check_texts(self.trace)
        record["_format"] = FORMAT_VERSION
        record["_incarnation"] = self.incarnation
        record["_revision"] = self.revision
        record["_checkpoint"] = self.checkpoint.to_json()
        if self.changes.runs:
            record["_changes"] = self.changes.to_json()
        was_set: JsonObject = {
            name: {"adjustment": str(value), "offset": self.set_at.get(name, 0)}
            for name, value in self.adjustments.items()
        }
        if self.floor:
            was_set["last_sequence"] = self.floor
        if was_set:
            record["_set"] = was_set
        return encode_line(record)

    @classmethod
    def decode(cls, data: bytes, what: str) -> Header:
        """Return what the bytes of `trace.json` say.

        Raises
        ------
        CorruptFileError
            They do not prove themselves, or miss a field of the format.
        UnsupportedFormatError
            A newer format.
        """
        record = _decode(data, what)
        try:
            was_set = record.pop("_set", {})
            header = cls(
                Trace(trace_id="-"),
                stated(record, "_incarnation", str),
                stated(record, "_revision", int),
                Checkpoint.from_json(record.pop("_checkpoint")),
            )
            header.changes = Changes.from_json(record.pop("_changes", []))
            header.floor = stated({"last_sequence": 0, **was_set}, "last_sequence", int)
            was_set.pop("last_sequence", None)
            for name, entry in was_set.items():
                header.adjustments[name] = stated_decimal(entry, "adjustment")
                header.set_at[name] = stated(entry, "offset", int)
            header.trace = Trace.parse(_without_own(record))
        except MALFORMED as error:
            raise CorruptFileError(f"{what} is no trace header ({error!r}); restore it from a copy") from error
        return header


@dataclass(slots=True)
class TreeFile:
    """The content of `goal_tree.json`.

    `messages` is the offset its stats are as of; `changed` is the revision at which a caller last
    changed the tree, since later ones may only have brought the stats up to date; `changes` who did.
    `before` is the incarnation that is about to give way to the tree's, while one trace replaces another.
    """

    tree: GoalTree
    incarnation: str
    revision: int = 1
    messages: int = 0
    changed: int = 1
    was_set: SetGoals = field(default_factory=dict)
    changes: Changes = Changes()
    before: str = ""

    def is_of(self, incarnation: str) -> bool:
        """Say whether these are the goals of a trace of that incarnation."""
        return incarnation in (self.incarnation, self.before)

    def told(self) -> JsonObject:
        """Return what callers said, and nothing that follows from the messages."""
        bare = self.tree.model_copy(
            update={
                "goals": [
                    goal.model_copy(update={"self_stats": GoalStats(), "cumulative_stats": GoalStats()})
                    for goal in self.tree.goals
                ]
            }
        )
        return {**to_record(bare), "_set": self.set_to_json()}

    def encode(self) -> bytes:
        """Return the bytes of `goal_tree.json`."""
        record = to_record(self.tree)
        check_texts(self.tree)
        record["_format"] = FORMAT_VERSION
        record["_incarnation"] = self.incarnation
        record["_revision"] = self.revision
        record["_changed"] = self.changed
        if self.before:
            record["_before"] = self.before
        record["_checkpoint"] = {"messages": {"offset": self.messages}}
        if self.changes.runs:
            record["_changes"] = self.changes.to_json()
        if was_set := self.set_to_json():
            record["_set"] = was_set
        return encode_line(record)

    def set_to_json(self) -> JsonObject:
        """Return what callers set of stats, by goal id."""
        was_set: JsonObject = {}
        for goal_id, (own, cumulative) in self.was_set.items():
            kept = {"self_stats": own.to_json(), "cumulative_stats": cumulative.to_json()}
            if kept["self_stats"] or kept["cumulative_stats"]:
                was_set[goal_id] = cast("JsonObject", kept)
        return was_set

    @classmethod
    def decode(cls, data: bytes, what: str) -> TreeFile:
        """Return what the bytes of `goal_tree.json` say; raises as `Header.decode` does."""
        record = _decode(data, what)
        try:
            was_set = {
                goal_id: (SetStats.from_json(kept["self_stats"]), SetStats.from_json(kept["cumulative_stats"]))
                for goal_id, kept in record.pop("_set", {}).items()
            }
            return cls(
                GoalTree.parse(_without_own(record)),
                stated(record, "_incarnation", str),
                stated(record, "_revision", int),
                stated(record["_checkpoint"]["messages"], "offset", int),
                stated(record, "_changed", int),
                was_set,
                Changes.from_json(record.get("_changes", [])),
                stated({"_before": "", **record}, "_before", str),
            )
        except MALFORMED as error:
            raise CorruptFileError(f"{what} is no goal tree ({error!r}); restore it from a copy") from error


# Of the fields that a file has beside what it is about; others with an underscore are somebody's own, and are kept.
_OWN = frozenset({"_incarnation", "_revision", "_changed", "_checkpoint", "_changes", "_before", "_set"})


def _without_own(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _OWN}


def _decode(data: bytes, what: str) -> dict[str, Any]:
    record = cast("dict[str, Any]", decode_line(data, what))
    version = record.pop("_format", None)
    if version != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{what} has format version {version}; this release reads {FORMAT_VERSION}; upgrade traceark"
        )
    return record


def as_read(tree: GoalTree, stored: TreeFile) -> GoalTree:
    """Return the tree marked with the revision of its last change, and with the stats it was read with."""
    tree._revision = stored.changed
    tree._read_stats = {goal.id: (_copy(goal.self_stats), _copy(goal.cumulative_stats)) for goal in tree.goals}
    return tree


def _copy(stats: GoalStats) -> GoalStats:
    return stats.model_copy()
