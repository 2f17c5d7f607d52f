"""Questions that need no SQL: pages of traces, search in messages, a trace with its sub-agents, sums."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from traceark import query, tracetree
from traceark.codec.fields import TRACES
from traceark.codec.parts import traces_of
from traceark.errors import DamagedTraceError, DamagedTraceWarning, InvalidValueError, TraceNotFoundError
from traceark.filters import (
    TraceFilter,
    TraceQuery,
    Wanted,
    check_limit,
    cursor_behind,
    one_of,
    pack,
    unpack,
    utc_moment,
    values_of,
)
from traceark.hits import SearchHit, SearchPage, hit_of
from traceark.models import TIMES, GoalTree, Trace
from traceark.needles import Needle, texts_of
from traceark.pages import TracePage
from traceark.pool import TracePool
from traceark.query import QueryResult
from traceark.tracetree import TraceTree

Grouping = Literal["day", "agent", "model", "status"]
# Where a message stands in the order of a search: when its trace began, its trace, its sequence, its id.
Place = tuple[datetime | None, str, int, str]
_COLUMNS = ", ".join(f'"{column.name}"' for column in TRACES)
# Nothing told when the run was made, and an import said so; no other header is looked into for that.
_HAS_NO_TIME = f"""
    CASE WHEN "created_at" = 'epoch'::TIMESTAMPTZ THEN TRY_CAST("metadata" AS JSON) ->> '{TIMES}' = 'unknown' END
"""
_GROUPS = {
    "day": f"""if({_HAS_NO_TIME}, 'unknown', strftime("created_at" AT TIME ZONE 'UTC', '%Y-%m-%d'))""",
    "agent": '"agent_type"',
    "model": '"model"',
    "status": '"status"',
}
# Messages looked at closely at a time; more each time, since every time reads them all.
_FIRST_BATCH, _LARGEST_BATCH, _GROWTH = 256, 32_768, 8
_TREES_AT_A_TIME = 64


async def traces(pool: TracePool, wanted: TraceQuery) -> TracePage:
    """Return a page of traces; see `ArchiveStore.traces`."""
    text, bound = wanted.to_sql(_COLUMNS, more=1)
    found = traces_of(await pool.listing.fetch(text, bound, where=wanted.filter.where))
    page = found[: wanted.limit]
    return TracePage(page, cursor_behind(page[-1], wanted.order_by) if len(found) > len(page) else None)


async def newest(pool: TracePool, wanted: Mapping[str, str], limit: int) -> list[Trace]:
    """Return the newest traces whose fields have the values that are wanted; see `ArchiveStore.list_traces`."""
    conditions = " AND ".join(["true", *(f'"{name}" = ${name}' for name in wanted)])
    order = "created_at DESC NULLS FIRST, trace_id"
    text = f"SELECT {_COLUMNS} FROM traces WHERE {conditions} ORDER BY {order} LIMIT $limit"
    return traces_of(await pool.listing.fetch(text, {**wanted, "limit": limit}))


async def stats(pool: TracePool, by: Grouping, wanted: TraceFilter) -> QueryResult:
    """Return sums over traces by group; see `ArchiveStore.stats`."""
    if by not in get_args(Grouping):
        raise InvalidValueError(f"expected one of {', '.join(get_args(Grouping))}, not {by!r}", "by")
    told, bound = wanted.condition()
    order = '"day" NULLS LAST' if by == "day" else f'runs DESC, "{by}" NULLS LAST'
    return QueryResult(
        await pool.listing.select(
            f"""
            SELECT {_GROUPS[by]} AS "{by}",
                count(*) AS runs,
                count(*) FILTER ("status" = 'failed') AS failed,
                sum("total_messages")::BIGINT AS messages,
                sum("total_tokens")::BIGINT AS tokens,
                fsum("total_cost") AS cost,
                sum("total_duration_ms")::BIGINT AS duration_ms
            FROM traces WHERE {told} GROUP BY 1 ORDER BY {order}
            """,
            bound,
            where=wanted.where,
        )
    )


async def search(
    pool: TracePool,
    needle: Needle,
    wanted: TraceFilter,
    *,
    role: Wanted,
    tool_name: Wanted,
    limit: int,
    after: str | None,
) -> SearchPage:
    """Return a page of messages that hold a text; see `ArchiveStore.search`."""
    check_limit(limit)
    traces_told, bound = wanted.condition()
    if wanted.where is not None:
        # A user's condition is only ever run where no file can be opened.
        table = await pool.listing.select(
            f'SELECT "trace_id" FROM traces WHERE {traces_told}', bound, where=wanted.where
        )
        traces_told, bound = '"trace_id" IN (SELECT unnest($ids::VARCHAR[]))', {"ids": table.column(0).to_pylist()}
    told, more = needle.condition()
    bound |= more
    for name, values in (("role", values_of(role, "role")), ("tool_name", values_of(tool_name, "tool_name"))):
        if values is not None:
            told += f" AND {one_of(name, name, values, bound)}"
    place = None if after is None else _place_of(after)
    hits: list[tuple[SearchHit, Place]] = []
    batch = _FIRST_BATCH
    while len(hits) <= limit:
        behind, at = _behind(place) if place is not None else ("true", {})
        text = f"""
            WITH meant AS (SELECT "trace_id", "task", "created_at" AS begun FROM traces WHERE {traces_told})
            SELECT "trace_id", "message_id", "sequence", "role", "tool_name", "content", "created_at", "task", begun
            FROM messages JOIN meant USING ("trace_id")
            WHERE {told} AND {behind}
            ORDER BY begun DESC NULLS LAST, "trace_id", "sequence", "message_id"
            LIMIT $batch
        """
        rows = (await query.run(pool, text, {**bound, **at, "batch": batch})).rows()
        hits += await asyncio.to_thread(_hits, needle, rows)
        if len(rows) < batch:
            break
        place = _place(rows[-1])
        batch = min(batch * _GROWTH, _LARGEST_BATCH)
    page = hits[:limit]
    return SearchPage([hit for hit, _ in page], _cursor(page[-1][1]) if len(hits) > limit else None)


def _hits(needle: Needle, rows: Sequence[dict[str, Any]]) -> list[tuple[SearchHit, Place]]:
    found = needle.find([list(texts_of(json.loads(row["content"]))) for row in rows])
    return [(hit_of(row, each), _place(row)) for row, each in zip(rows, found, strict=True) if each is not None]


def _place(row: dict[str, Any]) -> Place:
    return row["begun"], row["trace_id"], row["sequence"], row["message_id"]


def _cursor(place: Place) -> str:
    begun, *rest = place
    return pack(["search", begun and begun.isoformat(), *rest])


def _place_of(cursor: str) -> Place:
    what, begun, trace_id, sequence, message_id = unpack(cursor, ((str,), (str, type(None)), (str,), (int,), (str,)))
    if what != "search":
        raise InvalidValueError("the cursor is not one of a search", "after")
    return utc_moment(begun, "after"), trace_id, sequence, message_id


def _behind(place: Place) -> tuple[str, dict[str, Any]]:
    begun, trace_id, sequence, message_id = place
    bound: dict[str, Any] = {"at_trace": trace_id, "at_sequence": sequence, "at_message": message_id}
    further = '("trace_id", "sequence", "message_id") > ($at_trace, $at_sequence::BIGINT, $at_message)'
    if begun is None:
        return f"begun IS NULL AND {further}", bound
    return f"(begun < $at_begun OR begun IS NULL OR (begun = $at_begun AND {further}))", {**bound, "at_begun": begun}


async def tree(pool: TracePool, trace_id: str, goals_of: Callable[[str], Awaitable[GoalTree | None]]) -> TraceTree:
    """Return a trace with its sub-agents; see `ArchiveStore.tree`."""
    found: dict[str, Trace] = {}
    named: dict[str, list[tuple[str, str]]] = {}
    text = f'SELECT {_COLUMNS} FROM traces WHERE "trace_id" IN (SELECT unnest($ids::VARCHAR[]))'
    rows = await pool.listing.fetch(text, {"ids": [trace_id]})
    if not rows:
        raise TraceNotFoundError(f"no trace {trace_id!r} in {pool.url}")
    text += ' OR "parent_trace_id" IN (SELECT unnest($parents::VARCHAR[]))'
    while rows:
        fresh = {trace.trace_id: trace for trace in traces_of(rows) if trace.trace_id not in found}
        found |= fresh
        if not fresh:
            break
        ids = list(fresh)
        for start in range(0, len(ids), _TREES_AT_A_TIME):
            group = ids[start : start + _TREES_AT_A_TIME]
            trees = await asyncio.gather(*(_links(each, goals_of) for each in group))
            named |= {each: links for each, links in zip(group, trees, strict=True) if links}
        wanted = {child for each in ids for _, child in named.get(each, ())} - found.keys()
        rows = await pool.listing.fetch(text, {"ids": sorted(wanted), "parents": ids})
    return tracetree.build(trace_id, found.values(), named)


async def _links(trace_id: str, goals_of: Callable[[str], Awaitable[GoalTree | None]]) -> list[tuple[str, str]]:
    try:
        goals = await goals_of(trace_id)
    except DamagedTraceError as error:
        warnings.warn(f"left out: goals of {trace_id!r}: {error}", DamagedTraceWarning, stacklevel=2)
        return []
    return [(goal.id, child) for goal in goals.goals for child in goal.sub_trace_ids] if goals is not None else []
