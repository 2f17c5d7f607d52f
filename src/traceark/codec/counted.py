"""What the messages of a part add up to, taken from its columns without making records.

Pure. It gives the sums of `MessageFold` over the same messages. Many are summed by whole columns, in a fraction of the
time, where that is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

import pyarrow as pa

from traceark.codec import compute as pc
from traceark.codec.columns import is_long
from traceark.stats import EXACT, PREVIEW_TOOLS, Sums, exact, usage_tokens

_COUNTED_KINDS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_MOST = 2**63 - 1
# Costs as whole numbers of 10 ** -places. Both that number and the power are doubles, so their quotient is the double
# that is next to the decimal; and of decimals with at most fifteen digits no two have the same double.
_PLACES = (6, 9, 12)
_FIFTEEN_DIGITS = 10**15


@dataclass(frozen=True, slots=True)
class Counted:
    """The sums over the messages of a part, and those of each goal."""

    total: Sums
    by_goal: Mapping[str | None, Sums]
    last_sequence: int


def counted(table: pa.Table) -> Counted | None:
    """Return the sums over the rows of a part, each one whole message, in the order of their offsets.

    None where a cost is no number.

    Raises
    ------
    pyarrow.ArrowException
        What one message adds passes 64 bits.
    """
    by_columns = _by_columns(table) if is_long(table["_offset"]) else None
    return _by_rows(table) if by_columns is None else by_columns


def cells_of(table: pa.Table, name: str) -> list[Any]:
    """Return the values of a column."""
    cells = table[name]
    return [None] * table.num_rows if cells.null_count == table.num_rows else cells.to_pylist()


def _by_rows(table: pa.Table) -> Counted | None:
    by_goal, last_sequence = dict[str | None, Sums](), 0
    names = ("_offset", "sequence", "goal_id", "tokens", "usage", "cost", "duration_ms", "tool_name")
    for row in zip(*(cells_of(table, name) for name in names), strict=True):
        offset, sequence, goal_id, given, usage, cost, duration_ms, tool_name = row
        last_sequence = max(last_sequence, sequence)
        tokens = usage_tokens(usage) if given is None else given
        if cost is not None and not isfinite(cost):
            return None
        of_goal = by_goal.get(goal_id)
        if of_goal is None:
            of_goal = by_goal[goal_id] = Sums()
        of_goal.add(tokens, duration_ms or 0, exact(cost))
        if tool_name is not None:
            of_goal.tools.append((offset, tool_name))
    return Counted(_total(by_goal.values()), by_goal, last_sequence)


def _total(sums: Iterable[Sums]) -> Sums:
    total = Sums()
    for each in sums:
        total.count += each.count
        total.tokens += each.tokens
        total.duration_ms += each.duration_ms
        total.cost = EXACT.add(total.cost, each.cost)
    return total


def _by_columns(table: pa.Table) -> Counted | None:
    durations = pc.fill_null(table["duration_ms"], 0)
    tokens = pc.coalesce(table["tokens"], _usage_tokens(table["usage"].combine_chunks()))
    costs = _whole(table["cost"])
    if costs is None:
        return None
    places, parts = costs
    if not all(_has_room(numbers) for numbers in (durations, tokens, parts)):
        return None
    columns = {"goal": table["goal_id"], "tokens": tokens, "cost": parts, "duration": durations}
    sums = pa.table(columns).group_by("goal", use_threads=False)
    grouped = sums.aggregate([([], "count_all"), *((name, "sum") for name in ("tokens", "cost", "duration"))])
    tools = _last_tools(table)
    by_goal: dict[str | None, Sums] = {}
    names = ("goal", "count_all", "tokens_sum", "cost_sum", "duration_sum")
    for goal, *numbers in zip(*(grouped[name].to_pylist() for name in names), strict=True):
        count, of_tokens, of_cost, of_duration = numbers
        cost = Decimal(of_cost).scaleb(-places, EXACT)
        by_goal[goal] = Sums(count, of_tokens, cost, of_duration, tools.get(goal, []))
    return Counted(_total(by_goal.values()), by_goal, max(pc.max(table["sequence"]).as_py() or 0, 0))


def _usage_tokens(usage: pa.StructArray) -> pa.Array:
    first, *others = (pc.fill_null(pc.struct_field(usage, kind), 0) for kind in _COUNTED_KINDS)
    for other in others:
        first = pc.add_checked(first, other)
    return first


def _whole(costs: pa.ChunkedArray) -> tuple[int, pa.ChunkedArray] | None:
    """Return costs as whole numbers of a power of ten, and which; None where that is not what was written."""
    costs = pc.fill_null(costs, 0.0)
    for places in _PLACES:
        parts = pc.round(pc.multiply(costs, 10.0**places))
        if not pc.all(pc.less(pc.abs(parts), float(_FIFTEEN_DIGITS))).as_py():
            return None
        if pc.all(pc.equal(pc.divide(parts, 10.0**places), costs)).as_py():
            return places, parts.cast(pa.int64())
    return None


def _has_room(numbers: pa.ChunkedArray) -> bool:
    """Say whether no sum of any of them can pass 64 bits."""
    ends = pc.min_max(numbers).as_py()
    return not len(numbers) or max(-ends["min"], ends["max"]) <= _MOST // len(numbers)


def _last_tools(table: pa.Table) -> dict[str | None, list[tuple[int, str]]]:
    named = pc.is_valid(table["tool_name"])
    columns = {"goal": table["goal_id"], "tool": table["tool_name"], "offset": table["_offset"]}
    grouped = pa.table(columns).filter(named).group_by("goal", use_threads=False)
    lists = grouped.aggregate([("offset", "list"), ("tool", "list")])
    goals, offsets, tools = (lists[name].combine_chunks() for name in ("goal", "offset_list", "tool_list"))
    return {
        goal.as_py(): list(zip(*(each.values[-PREVIEW_TOOLS:].to_pylist() for each in pair), strict=True))
        for goal, *pair in zip(goals, offsets, tools, strict=True)
    }
