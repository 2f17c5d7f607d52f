"""The field table: every column of messages, events, goals and traces, in one place.

From it come the Arrow schemas of parts and views, the columns in `docs/format.md`, and the checks
of `verify`. A field's id never changes and is never used again; new fields take new ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "int64", "float64", "bool", "time", "json", "usage", "stats", "texts"]


# A column is itself and no other: tuples of them are looked up for every record, and hashing all they say takes long.
@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column.

    `kind` is ``text`` (UTF-8), ``int64``, ``float64``, ``bool``, ``time`` (microseconds, UTC), ``json``
    (JSON text), ``usage`` and ``stats`` (structs), or ``texts`` (a list of text). `id` is the
    Parquet field id; a struct's fields take the ids that follow.
    """

    id: int
    name: str
    kind: Kind
    doc: str


USAGE: tuple[tuple[int, str], ...] = (
    (13, "input_tokens"),
    (14, "output_tokens"),
    (15, "cache_read_tokens"),
    (16, "cache_write_tokens"),
    (17, "reasoning_tokens"),
)

MESSAGES: tuple[Column, ...] = (
    Column(1, "message_id", "text", "unique within the trace"),
    Column(2, "trace_id", "text", "the trace"),
    Column(3, "role", "text", "who speaks: user, assistant, tool, system, …"),
    Column(4, "sequence", "int64", "order within the trace"),
    Column(5, "goal_id", "text", "the goal the message worked on"),
    Column(6, "tool_call_id", "text", "pairs a tool's call with its result"),
    Column(7, "tool_name", "text", "the tool"),
    Column(8, "content", "json", "what was said, as JSON text"),
    Column(9, "description", "text", "a line for people"),
    Column(10, "tokens", "int64", "tokens that count to the totals; if null, the sum of `usage` counts"),
    Column(12, "usage", "usage", "tokens by kind; kinds do not overlap, but reasoning is a part of output"),
    Column(18, "cost", "float64", "cost, in the owner's currency"),
    Column(19, "duration_ms", "int64", "milliseconds"),
    Column(20, "status", "text", "the message's own status"),
    Column(21, "error", "text", "what went wrong"),
    Column(22, "created_at", "time", "when it was made"),
    Column(23, "extra", "json", "unknown fields, as a JSON object; unknown fields of usage under `usage`"),
)

EVENTS: tuple[Column, ...] = (
    Column(1, "event_id", "int64", "dense from 1; the cursor"),
    Column(2, "trace_id", "text", "the trace"),
    Column(3, "event_type", "text", "what happened"),
    Column(4, "payload", "json", "the event's data, as JSON text"),
    Column(5, "created_at", "time", "when it was appended, unless it came with a time"),
    Column(6, "extra", "json", "unknown fields, as a JSON object"),
)

# Columns of parts only, never of the views.
INTERNAL: tuple[Column, ...] = (
    Column(100, "_offset", "int64", "the record's offset in its log"),
    Column(101, "_op", "text", "null for a record that adds, `update` for one that sets fields (then in `extra`)"),
    Column(102, "_digest", "text", "hash of the message as first added, where an update was folded in"),
)

GOALS: tuple[Column, ...] = (
    Column(1, "trace_id", "text", "the trace"),
    Column(2, "goal_id", "text", "the goal's id, unique within the trace"),
    Column(3, "parent_id", "text", "the goal above it"),
    Column(4, "position", "int64", "place in the tree's list, from 0"),
    Column(5, "description", "text", "what to do"),
    Column(6, "reason", "text", "why"),
    Column(7, "type", "text", "a word of the framework's own"),
    Column(8, "status", "text", "pending, in_progress, completed, …"),
    Column(9, "summary", "text", "what came of it"),
    Column(10, "sub_trace_ids", "texts", "traces of sub-agents that worked on it"),
    Column(11, "self_stats", "stats", "sums over the goal's own messages"),
    Column(20, "cumulative_stats", "stats", "the same with all descendants"),
    Column(30, "created_at", "time", "when it was set"),
    Column(31, "completed_at", "time", "when it ended"),
    Column(32, "extra", "json", "unknown fields, as a JSON object"),
)

TRACES: tuple[Column, ...] = (
    Column(1, "trace_id", "text", "the trace"),
    Column(2, "mode", "text", "agent, call, …"),
    Column(3, "task", "text", "what was asked"),
    Column(4, "agent_type", "text", "which agent"),
    Column(5, "uid", "text", "whose run"),
    Column(6, "model", "text", "the model"),
    Column(7, "status", "text", "running, completed, failed or cancelled"),
    Column(8, "parent_trace_id", "text", "the trace that started this one"),
    Column(9, "parent_goal_id", "text", "the goal there"),
    Column(10, "current_goal_id", "text", "the goal being worked on"),
    Column(11, "total_messages", "int64", "number of messages"),
    Column(12, "total_tokens", "int64", "tokens of all messages"),
    Column(13, "total_cost", "float64", "cost of all messages"),
    Column(14, "total_duration_ms", "int64", "milliseconds of all messages"),
    Column(15, "last_sequence", "int64", "highest sequence of a message"),
    Column(16, "last_event_id", "int64", "id of the last event"),
    Column(17, "result_summary", "text", "what came of it"),
    Column(18, "error_message", "text", "why it failed"),
    Column(19, "context", "json", "JSON text"),
    Column(20, "metadata", "json", "JSON text"),
    Column(21, "created_at", "time", "when it began"),
    Column(22, "completed_at", "time", "when it ended"),
    Column(23, "extra", "json", "unknown fields, as a JSON object"),
)

# Columns of the catalog only, behind those of `TRACES`.
CATALOG: tuple[Column, ...] = (
    Column(200, "_state", "text", "`settled`, `open` (look into the directory), `damaged`, or `gone`"),
    Column(201, "_listed", "bool", "whether the trace is there and readable"),
    Column(202, "_incarnation", "text", "the trace's incarnation"),
    Column(203, "_revision", "int64", "the revision of `trace.json`"),
    Column(204, "_sealed", "bool", "whether it is sealed and nothing was written since"),
    Column(205, "_messages", "text", "the part that is the whole message log of a sealed trace"),
    Column(206, "_events", "text", "the part that is the whole event log of a sealed trace"),
    Column(207, "_tree", "int64", "a number that changes with `goal_tree.json`; null where there is none"),
    Column(208, "_files", "text", "hash of the names, sizes and versions of the trace's files"),
    Column(209, "_openings", "texts", "who has the trace open"),
    Column(210, "_gone", "texts", "incarnations that were deleted"),
    Column(211, "_problem", "text", "why the trace cannot be read"),
)
