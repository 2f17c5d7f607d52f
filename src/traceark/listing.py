"""Looking over all traces of an archive, as the directories say."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping

from traceark.codec.fields import TRACES
from traceark.codec.parts import records
from traceark.errors import (
    AmbiguousMessageId,
    DamagedTraceError,
    DamagedTraceWarning,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.layout import trace_prefix
from traceark.models import Trace
from traceark.pool import TracePool
from traceark.reading import StoredTrace, load, scan
from traceark.storage.base import KeyMissingError

# Headers read at a time.
_PARALLEL = 64


def warn(problem: object) -> None:
    """Say that something was left out."""
    warnings.warn(f"left out: {problem}", DamagedTraceWarning, stacklevel=3)


async def headers(pool: TracePool, *, warning: bool = True) -> list[StoredTrace]:
    """Return every trace with its header; those that cannot be read are left out with a warning."""
    await pool.marker()
    found: list[StoredTrace] = []
    listed, strangers = await scan(pool.storage)
    parts = pool.parts()
    if warning:
        for key in strangers:
            warn(f"traces/{key} is no trace key; rename the directory or move it out of the archive")

    async def one(trace_id: str) -> StoredTrace | None:
        try:
            return await load(pool.storage, trace_id, trace_prefix(trace_id), listed[trace_id], parts)
        except KeyMissingError:
            return None  # deleted since it was listed
        except (DamagedTraceError, UnsupportedFormatError) as error:
            if warning:
                warn(error)
            return None

    ids = list(listed)
    for start in range(0, len(ids), _PARALLEL):
        group = await asyncio.gather(*map(one, ids[start : start + _PARALLEL]))
        found += [stored for stored in group if stored is not None]
    return found


async def newest(pool: TracePool, wanted: Mapping[str, str], limit: int) -> list[Trace]:
    """Return the newest traces whose fields have the values that are wanted."""
    columns = ", ".join(f'"{column.name}"' for column in TRACES)
    conditions = " AND ".join(["true", *(f'"{name}" = ${name}' for name in wanted)])
    order = "created_at DESC NULLS FIRST, trace_id"
    text = f"SELECT {columns} FROM traces WHERE {conditions} ORDER BY {order} LIMIT $limit"
    found = await pool.catalog.select(text, {**wanted, "limit": limit})
    return [Trace.parse(record) for record in records(TRACES, found)]


async def trace_of(pool: TracePool, message_id: str) -> str | None:
    """Return the one trace that holds a message id, or None.

    Raises
    ------
    AmbiguousMessageId
        Several hold it.
    """
    holders = [
        stored.trace_id for stored in await headers(pool, warning=False) if await _holds(pool, stored, message_id)
    ]
    if len(holders) > 1:
        shown = ", ".join(repr(holder) for holder in holders[:3])
        raise AmbiguousMessageId(
            f"the message id {message_id!r} lives in {len(holders)} traces ({shown}…); pass trace_id="
        )
    return holders[0] if holders else None


async def _holds(pool: TracePool, stored: StoredTrace, message_id: str) -> bool:
    trace = pool.get(stored.trace_id)
    try:
        if trace is not None:
            async with trace.reading():
                return message_id in trace.fold.facts
        rows = (await stored.log("messages", columns=["message_id"])).records
    except (TraceNotFoundError, KeyMissingError, DamagedTraceError):
        return False  # gone, or damaged: `verify` tells
    return any(row.op is None and row.record.get("message_id") == message_id for row in rows)
