"""A recount beside what a header and a goal tree state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from traceark.codec.counted import Counted
from traceark.codec.parquet import PartInfo, PartRecord
from traceark.headers import Header, TreeFile
from traceark.models import GoalStats
from traceark.requests import fold_record
from traceark.stats import TOTALS, MessageFold, totals_of, with_stats


def wrong_totals(header: Header, fold: MessageFold | Counted) -> Iterator[tuple[str, int | float, int | float]]:
    """Yield each total that is not what the messages up to the header's checkpoint give: its name, stated, counted."""
    counted: dict[str, int | float] = {**totals_of(fold.total, header.adjustments)}
    counted["last_sequence"] = max(fold.last_sequence, header.floor)
    counted["last_event_id"] = header.checkpoint.ends["events"]
    for name in (*TOTALS, "last_sequence", "last_event_id"):
        stated = getattr(header.trace, name)
        if stated != counted[name]:
            yield name, stated, counted[name]


def wrong_stats(tree: TreeFile, fold: MessageFold | Counted) -> Iterator[tuple[str, str, GoalStats, GoalStats]]:
    """Yield stats of goals that are not what the messages up to the tree's give: name, goal, stated, counted."""
    recounted = with_stats(tree.tree, fold.by_goal, tree.was_set)
    for stored, counted in zip(tree.tree.goals, recounted.goals, strict=True):
        for name in ("self_stats", "cumulative_stats"):
            if getattr(stored, name) != getattr(counted, name):
                yield name, stored.id, getattr(stored, name), getattr(counted, name)


def tells_of(parts: Mapping[str, PartInfo], end: int) -> bool:
    """Say whether messages in parts tell what they were at an offset: not so once later updates are folded in.

    That is how an interrupted seal leaves a trace; its headers are older than its last part.
    """
    return not any("/messages/" in key and info.folded and info.last > end for key, info in parts.items())


def fold_to(rows: Iterable[PartRecord], end: int) -> MessageFold:
    """Return the fold over the rows of messages up to an offset."""
    fold = MessageFold()
    for row in rows:
        if row.offset <= end:
            fold_record(fold, row.op, row.record, row.offset)
    return fold
