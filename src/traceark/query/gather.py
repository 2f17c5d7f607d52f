"""The sources of the views: the catalog, rollups, parts of sealed traces, and live traces.

Files on a local disk are handed to DuckDB, parts once their bytes have been checked; live
traces, and parts elsewhere, pass through Python as Arrow.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import cast

from traceark.codec.crc import file_crc
from traceark.codec.parquet import part_info, to_table
from traceark.errors import CorruptFileError, DamagedTraceError, DamagedTraceWarning, StorageError
from traceark.layout import LOGS, LogName, PartName, parse_log_name, trace_prefix
from traceark.models import JsonObject
from traceark.pool import TracePool
from traceark.query.sources import VIEWS, Source
from traceark.reading import StoredTrace, retrying, why_unreadable
from traceark.rollups.goals import goal_records
from traceark.rollups.standing import Standing

_PARALLEL = 32
Read = Callable[[StoredTrace], Awaitable[Iterable[JsonObject]]]


async def gather(pool: TracePool, wanted: Collection[str]) -> dict[str, list[Source]]:
    """Return the sources of the wanted views.

    Warns
    -----
    DamagedTraceWarning
        A trace was left out.
    """
    if pool.under is None:
        return await _gather(pool, wanted)
    sources, held = await _steadily(pool, wanted)
    for view, found in (await pool.reach(_gather(pool.under, wanted))).items():
        sources[view] += [each.without(held) for each in found]
    return sources


async def _steadily(pool: TracePool, wanted: Collection[str]) -> tuple[dict[str, list[Source]], list[str]]:
    """Return the sources, and the ids of the traces that the archive held before and after they were gathered."""
    after = await _ids(pool)
    while True:
        before, sources, after = after, await _gather(pool, wanted), await _ids(pool)
        if before == after:
            return sources, after


async def _ids(pool: TracePool) -> list[str]:
    found = await pool.catalog.select('SELECT "trace_id" FROM traces ORDER BY 1', {})
    return [str(each) for each in found.column(0).to_pylist()]


async def _gather(pool: TracePool, wanted: Collection[str]) -> dict[str, list[Source]]:
    sources: dict[str, list[Source]] = {}
    if "traces" in wanted:
        snapshot, masked, rows = await pool.catalog.parted()
        sources["traces"] = [_masked([str(snapshot)] if snapshot is not None else [], masked), Source(table=rows)]
    if any(name in wanted for name in ("goals", *LOGS)):
        standing = pool.standing
        async with standing.steady():
            for log in LOGS:
                if log in wanted:
                    sources[log] = await _log_sources(pool, standing, log)
            if "goals" in wanted:
                sources["goals"] = await _goal_sources(pool, standing)
    return sources


async def _log_sources(pool: TracePool, standing: Standing, log: LogName) -> list[Source]:
    paths: list[str] = []
    unread = list(standing.others)
    for trace_id, parts in standing.uncovered.items():
        part = parts[LOGS.index(log)]
        path = part_path(pool, trace_id, log, part) if part is not None else None
        if path is not None:
            paths.append(path)
        else:
            unread.append(trace_id)

    async def read(stored: StoredTrace) -> Iterable[JsonObject]:
        if log == "messages":
            return [row.record for row in await stored.messages()]
        return [row.record for row in (await stored.log(log)).records]

    live = await _read(pool, unread, read)
    return [*await _rolled(standing, log, standing.masked), Source(paths=tuple(paths)), _through_python(log, live)]


async def _goal_sources(pool: TracePool, standing: Standing) -> list[Source]:
    async def read(stored: StoredTrace) -> Iterable[JsonObject]:
        tree = await stored.tree()
        return goal_records(stored.trace_id, tree) if tree is not None else ()

    live = await _read(pool, [*standing.others, *standing.uncovered_goals], read)
    return [*await _rolled(standing, "goals", standing.masked_goals), _through_python("goals", live)]


def _through_python(view: str, records: list[JsonObject]) -> Source:
    return Source(table=to_table(VIEWS[view], records)) if records else Source()


async def _rolled(standing: Standing, view: str, masks: list[set[str]]) -> list[Source]:
    """Return the files of rollups: those without a mask together, the others each with its own."""
    whole: list[str] = []
    masked: list[Source] = []
    for files, mask in zip(await standing.reader.paths(view), masks, strict=True):
        names = list(map(str, files))
        if not mask:
            whole += names
        elif names:
            masked.append(_masked(names, mask))
    return [Source(paths=tuple(whole)), *masked]


def _masked(paths: Iterable[str], trace_ids: Collection[str]) -> Source:
    """Return files without the rows of some traces."""
    return Source(paths=tuple(paths)).without(trace_ids)


def part_path(pool: TracePool, trace_id: str, log: LogName, name: str) -> str | None:
    """Return the path of the one part that is the whole log, if DuckDB can read it from a local disk.

    Once in a process all its bytes are checked against the CRC-32 in its name: DuckDB checks no page, and a flipped
    bit would be a wrong answer.
    """
    key = f"{trace_prefix(trace_id)}/{log}/{name}"
    path = pool.storage.local_path(key)
    if path is None:
        return None
    footers, parsed = pool.footers(), cast("PartName", parse_log_name(name))
    if key not in footers:
        try:
            if file_crc(path) != parsed.crc:
                return None
            with path.open("rb") as file:
                footers[key] = part_info(file, key)
        except (FileNotFoundError, PermissionError, CorruptFileError):
            return None  # reading it through Python says what is wrong
    info = footers[key]
    said = (info.first, info.last, info.incarnation)
    return str(path) if info.folded and said == (parsed.first, parsed.last, parsed.incarnation) else None


async def _read(pool: TracePool, trace_ids: Collection[str], read: Read) -> list[JsonObject]:
    """Return the records of traces that DuckDB cannot read itself; damaged ones are left out with a warning."""

    async def one(trace_id: str) -> list[JsonObject]:
        async def once() -> list[JsonObject]:
            stored = await pool.stored(trace_id)
            return list(await read(stored)) if stored is not None else []

        try:
            return await retrying(trace_id, once)
        except StorageError as error:
            why = why_unreadable(error, pool.storage)
            if why is None:
                raise
            warnings.warn(f"left out: {why}", DamagedTraceWarning, stacklevel=2)
        except DamagedTraceError as error:
            warnings.warn(f"left out: {error}", DamagedTraceWarning, stacklevel=2)
        return []

    ids = sorted(trace_ids)
    found: list[JsonObject] = []
    for start in range(0, len(ids), _PARALLEL):
        for records in await asyncio.gather(*map(one, ids[start : start + _PARALLEL])):
            found += records
    return found
