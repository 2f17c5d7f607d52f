"""Finding a message by its id alone."""

from __future__ import annotations

from traceark.errors import AmbiguousMessageId, DamagedTraceError
from traceark.layout import LOGS
from traceark.pool import TracePool
from traceark.query.gather import part_path
from traceark.query.running import answer
from traceark.query.sources import Source
from traceark.storage.base import KeyMissingError

_MESSAGES = LOGS.index("messages")
_SHOWN = 3


async def trace_of(pool: TracePool, message_id: str) -> str | None:
    """Return the one trace that holds a message id, or None.

    Rollups have an index. The parts of traces in no rollup are asked by DuckDB, and live traces one
    by one.

    Raises
    ------
    AmbiguousMessageId
        Several hold it.
    """
    standing = pool.standing
    await standing.refresh()
    candidates = set(await standing.reader.find_message(message_id)) | standing.others
    paths: list[str] = []
    for trace_id, parts in standing.uncovered.items():
        part = parts[_MESSAGES]
        path = part_path(pool, trace_id, "messages", part) if part is not None else None
        if path is not None:
            paths.append(path)
        else:
            candidates.add(trace_id)
    if paths:
        text = "SELECT DISTINCT trace_id FROM messages WHERE message_id = $id"
        found = await answer({"messages": [Source(paths=tuple(paths))]}, text, {"id": message_id})
        candidates.update(row["trace_id"] for row in found.rows())
    holders = [trace_id for trace_id in sorted(candidates) if await _holds(pool, trace_id, message_id)]
    if len(holders) > 1:
        shown = ", ".join(map(repr, holders[:_SHOWN]))
        more = "…" if len(holders) > _SHOWN else ""
        raise AmbiguousMessageId(
            f"the message id {message_id!r} lives in {len(holders)} traces ({shown}{more}); pass trace_id="
        )
    return holders[0] if holders else None


async def _holds(pool: TracePool, trace_id: str, message_id: str) -> bool:
    trace = pool.get(trace_id)
    try:
        if trace is not None:
            async with trace.reading():
                return message_id in trace.fold.facts
        stored = await pool.stored(trace_id)
        return stored is not None and await stored.message(message_id) is not None
    except (KeyMissingError, DamagedTraceError):
        return False  # gone, or damaged: `verify` tells
