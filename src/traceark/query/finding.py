"""Finding a message by its id alone."""

from __future__ import annotations

from pathlib import Path

from traceark.errors import AmbiguousMessageId, DamagedTraceError, QueryError, StorageError
from traceark.layout import LOGS
from traceark.models import Message
from traceark.pool import TracePool
from traceark.query.gather import part_path
from traceark.query.running import answer
from traceark.query.sources import Source
from traceark.reading import retrying
from traceark.storage.base import KeyMissingError

_MESSAGES = LOGS.index("messages")
_SHOWN = 3
_ATTEMPTS = 20


async def find(pool: TracePool, message_id: str) -> Message | None:
    """Return the message of an id, or None.

    Rollups have an index. The parts of traces in no rollup are asked by DuckDB, and live traces one
    by one.

    Raises
    ------
    AmbiguousMessageId
        Several hold it.
    """
    held = await _held(pool, message_id)
    if not held and pool.under is not None:
        held = await pool.reach(_held(pool.under, message_id))
    if len(held) > 1:
        shown = ", ".join(repr(message.trace_id) for message in held[:_SHOWN])
        more = "…" if len(held) > _SHOWN else ""
        raise AmbiguousMessageId(
            f"the message id {message_id!r} lives in {len(held)} traces ({shown}{more}); pass trace_id="
        )
    return held[0] if held else None


async def _held(pool: TracePool, message_id: str) -> list[Message]:
    """Return the messages of an id, one per trace that holds it."""
    for again in range(_ATTEMPTS, -1, -1):
        try:
            candidates = await _candidates(pool, message_id)
            break
        except KeyMissingError as error:
            # A rollup was merged into another between the look and the reading.
            if not again:
                raise StorageError(f"rollups of {pool.url} are merged all the while ({error}); ask again") from error
    return [message for each in sorted(candidates) if (message := await _message(pool, each, message_id)) is not None]


async def _candidates(pool: TracePool, message_id: str) -> set[str]:
    """Return the traces that may hold a message."""
    standing = pool.standing
    paths: list[str] = []
    async with standing.steady():
        candidates = set(await standing.reader.find_message(message_id)) | standing.others
        uncovered = set(standing.uncovered)
        for trace_id, parts in standing.uncovered.items():
            part = parts[_MESSAGES]
            path = part_path(pool, trace_id, "messages", part) if part is not None else None
            if path is not None:
                paths.append(path)
            else:
                candidates.add(trace_id)
    if paths:
        text = "SELECT DISTINCT trace_id FROM messages WHERE message_id = $id"
        try:
            found = await answer({"messages": [Source(paths=tuple(paths))]}, text, {"id": message_id})
        except QueryError:
            if all(Path(path).exists() for path in paths):
                raise
            candidates.update(uncovered)  # one went meanwhile: its trace was reopened, or removed
        else:
            candidates.update(row["trace_id"] for row in found.rows())
    return candidates


async def _message(pool: TracePool, trace_id: str, message_id: str) -> Message | None:
    async def read() -> Message | None:
        stored = await pool.stored(trace_id)
        trace = pool.get(trace_id)
        # An open trace, which that brought up to date, knows its ids: no need to read it for one it has not.
        if stored is None or (trace is not None and message_id not in trace.fold.facts):
            return None
        return await stored.message(message_id)

    try:
        return await retrying(trace_id, read)
    except DamagedTraceError:
        return None  # `verify` tells
