"""What of a trace is text that may be replaced: all of it but ids, times and the names of the format's own fields.

Works on records, the flat JSON objects of logs and headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traceark.codec.fields import EVENTS, GOALS, MESSAGES, TRACES, USAGE, Column
from traceark.codec.lines import to_record
from traceark.headers import REDACTIONS, Header, TreeFile
from traceark.layout import LogName
from traceark.models import GoalTree, Json, JsonObject, Trace
from traceark.redaction.texts import Redactor
from traceark.stats import SetStats

# Others refer to a record by these; a secret in one is counted as left.
IDS = frozenset(
    {
        "trace_id",
        "parent_trace_id",
        "parent_goal_id",
        "current_goal_id",
        "message_id",
        "goal_id",
        "tool_call_id",
        "id",
        "parent_id",
        "current_id",
        "sub_trace_ids",
    }
)
_RECORDS: dict[LogName, Sequence[Column]] = {"messages": MESSAGES, "events": EVENTS}
_TREE = {"mission": "text", "current_id": "text"}
_USAGE = {name: "int64" for _, name in USAGE}
_KEPT = frozenset({"int64", "float64", "bool", "time", "stats"})


def _kinds(columns: Sequence[Column]) -> dict[str, str]:
    return {column.name: column.kind for column in columns if column.name != "extra"}


_LOGS = {log: _kinds(columns) for log, columns in _RECORDS.items()}
_TRACE = _kinds(TRACES) | {"status": "bool"}  # one of four words
_GOAL = {name: kind for name, kind in _kinds(GOALS).items() if name != "goal_id"} | {"id": "text"}


def record_without(log: LogName, record: JsonObject, redactor: Redactor) -> JsonObject:
    """Return a message's, an update's or an event's record with what was found replaced."""
    return _fields(record, _LOGS[log], redactor, log)


def trace_without(trace: Trace, redactor: Redactor) -> Trace:
    """Return what a header says with what was found replaced; what it says of redactions stays."""
    record = to_record(trace)
    told = record.pop(REDACTIONS, None)
    found = _fields(record, _TRACE, redactor, "trace")
    return Trace.parse(found if told is None else {**found, REDACTIONS: told})


def tree_without(file: TreeFile, redactor: Redactor) -> GoalTree:
    """Return the goals with what was found replaced, and so what callers set of `file.was_set`."""
    record = to_record(file.tree)
    goals = record.pop("goals", [])
    assert isinstance(goals, list)
    tree = _fields(record, _TREE, redactor, "goals")
    tree["goals"] = [_fields(goal, _GOAL, redactor, "goals") for goal in goals if isinstance(goal, dict)]
    return GoalTree.parse(tree)


def set_without(file: TreeFile, redactor: Redactor) -> dict[str, tuple[SetStats, SetStats]]:
    """Return what callers set of stats, with the names of tools in it replaced."""
    return {
        goal_id: (_set_without(own, redactor), _set_without(cumulative, redactor))
        for goal_id, (own, cumulative) in file.was_set.items()
    }


def _set_without(stats: SetStats, redactor: Redactor) -> SetStats:
    preview = stats.preview if stats.preview is None else redactor.text(stats.preview, "goals.preview")
    return SetStats(stats.adjustments, preview, stats.preview_offset)


def _fields(record: JsonObject, kinds: Mapping[str, str], redactor: Redactor, what: str) -> JsonObject:
    extra = f"{what}.extra"
    names = {name: name for name in record if name in kinds}
    names |= redactor.names([name for name in record if name not in kinds], extra)
    found: JsonObject = {}
    for name, value in record.items():
        kind = kinds.get(name)
        where = extra if kind is None else f"{what}.{name}"
        if kind is not None and name in IDS:
            for each in value if isinstance(value, list) else [value]:
                redactor.keep(str(each), where)
        elif kind == "usage" and isinstance(value, dict):
            value = _fields(value, _USAGE, redactor, what)
        elif kind == "stats" and isinstance(value, dict):
            value = _stats_without(value, redactor, extra)
        elif kind not in _KEPT:
            value = redactor.value(value, where)
        found[names[name]] = value
    return found


def _stats_without(stats: JsonObject, redactor: Redactor, where: str) -> Json:
    """Return stats with unknown fields looked at; the known ones are counted anew."""
    known = {"message_count", "total_tokens", "total_cost", "total_duration_ms", "preview"}
    names = redactor.names([name for name in stats if name not in known], where)
    return {
        names.get(name, name): value if name in known else redactor.value(value, where) for name, value in stats.items()
    }


def redaction_of(header: Header, redactor: Redactor) -> JsonObject:
    """Return what a header tells of a redaction: of which incarnation, by which patterns, how many of what; no text."""
    replaced: dict[str, Json] = {}
    for pattern in redactor.patterns:
        counts: dict[str, Json] = {
            where: number for (name, where), number in sorted(redactor.replaced.items()) if name == pattern.name
        }
        if counts:
            replaced[pattern.name] = counts
    return {
        "of": header.incarnation,
        "patterns": {pattern.name: pattern.digest for pattern in redactor.patterns},
        "replaced": replaced,
    }
