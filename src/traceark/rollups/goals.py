"""The goals of a trace as rows, and those of a sealed one that a rollup takes.

Pure. A rollup takes goals from `goal_tree.json` as it stands, so only where its stats are as of the end of the messages
and it is the very file that the catalog speaks of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from traceark.catalog.rows import tree_number
from traceark.codec.lines import decode_line, to_record
from traceark.errors import CorruptFileError
from traceark.layout import FORMAT_VERSION, GOAL_TREE, PartName, parse_log_name
from traceark.models import GoalTree, JsonObject
from traceark.rollups.plan import Candidate


@dataclass(frozen=True, slots=True)
class ReadTree:
    """The bytes of a `goal_tree.json` and the version they have."""

    data: bytes
    version: str


def goal_records(trace_id: str, tree: GoalTree) -> Iterator[JsonObject]:
    """Yield the records of a tree's goals, whose columns are `codec.fields.GOALS`."""
    for position, goal in enumerate(tree.goals):
        record = to_record(goal)
        yield {"trace_id": trace_id, "goal_id": record.pop("id"), "position": position, **record}


def goals_of(candidate: Candidate, read: ReadTree) -> list[JsonObject] | None:
    """Return the records of a trace's goals, or None where the tree is not the one that the catalog speaks of."""
    if tree_number(len(read.data), read.version) != candidate.tree:
        return None
    parsed = parse_log_name(candidate.messages_part) if candidate.messages_part is not None else None
    end = parsed.last if isinstance(parsed, PartName) else 0
    try:
        tree = cast("dict[str, Any]", decode_line(read.data, GOAL_TREE))
        if (
            tree["_format"] != FORMAT_VERSION
            or tree["_incarnation"] != candidate.incarnation
            or tree["_checkpoint"]["messages"]["offset"] != end
        ):
            return None
        return [
            {"trace_id": candidate.trace_id, "goal_id": goal["id"], "position": position}
            | {name: value for name, value in goal.items() if name != "id"}
            for position, goal in enumerate(tree["goals"])
        ]
    except (CorruptFileError, KeyError, TypeError):
        return None  # reading it from the trace says what is wrong
