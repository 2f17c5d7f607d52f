"""Rollups beside the directories: rows in them that are not the trace's. It reads, and writes nothing.

Only rows that readers are shown count: those of traces that are sealed as they were when they were rolled up.
What cannot be read of a trace itself is for the trace's own check to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.catalog.beside import Amiss
from traceark.layout import HEADER, LOGS, MANIFEST, LogName, trace_prefix
from traceark.rollups.cache import FileCache
from traceark.rollups.files import IDS, Rollup
from traceark.rollups.reader import RollupReader
from traceark.rollups.write import column_list, literal
from traceark.storage.base import Entry, KeyMissingError, Storage

# So many bytes of parts are held in memory at a time.
_CHUNK_BYTES = 64 << 20

# Of each trace, how many rows it has and the sum of their hashes, which does not depend on their order.
Sums = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Member:
    """A trace whose rows in a rollup are shown, and the part that holds the same rows of a log."""

    trace_id: str
    key: str | None
    size: int


async def amiss(
    storage: Storage, binding: str, cache: FileCache, listed: Mapping[str, Mapping[str, Entry]]
) -> list[Amiss]:
    """Return what current rollups hold that is not so; every row of them, and every part behind it, is read.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    binding : str
        Of the archive and its place.
    cache : FileCache
        Where files of an object store are kept.
    listed : mapping
        The files of all traces, as they were listed before.
    """
    found: list[Amiss] = []
    reader = RollupReader(storage, binding, cache)
    rollups = await reader.refresh()
    if not rollups:
        return []
    with closing(database.connect()) as opened:
        for rollup in rollups:
            try:
                for log in LOGS:
                    found += await _log_amiss(storage, opened, reader, rollup, log, listed)
                found += await _ids_amiss(opened, reader, rollup)
            except KeyMissingError:
                continue  # it was merged into another, or a trace of it changed or deleted, meanwhile
    return found


async def _log_amiss(
    storage: Storage,
    opened: duckdb.DuckDBPyConnection,
    reader: RollupReader,
    rollup: Rollup,
    log: LogName,
    listed: Mapping[str, Mapping[str, Entry]],
) -> list[Amiss]:
    paths = await reader.paths_of(rollup, log)
    names = rollup.names(log)
    try:
        held = await asyncio.to_thread(_sums_of_files, opened, log, paths)
    except duckdb.Error as error:
        return [Amiss(None, rollup.key(names[0]), f"its rows cannot be read ({_first_line(error)})")]
    found: list[Amiss] = []
    members = reader.members_of(rollup.id)
    for chunk in _chunks(_shown(members, log, listed)):
        parts = [await storage.read(each.key) for each in chunk if each.key is not None]
        try:
            true = await asyncio.to_thread(_sums_of_parts, opened, log, parts)
        except (duckdb.Error, pa.ArrowException, OSError):
            continue  # the check of the trace whose part it is tells
        for each in chunk:
            if held.get(each.trace_id, (0, 0)) != true.get(each.trace_id, (0, 0)):
                file = rollup.key(names[0]) if names else rollup.key("")
                found.append(Amiss(each.trace_id, file, f"its rows of the trace's {log} are not those of the trace"))
    return found


def _shown(members: pa.Table, log: LogName, listed: Mapping[str, Mapping[str, Entry]]) -> Iterator[_Member]:
    """Yield the members whose rows readers are shown."""
    rows = zip(*(members[name].to_pylist() for name in ("trace_id", "messages", "events")), strict=True)
    for trace_id, *parts in rows:
        entries = listed.get(trace_id, {})
        if not {HEADER, MANIFEST} <= entries.keys():
            continue
        there = {each: {name for name in entries if name.startswith(f"{each}/")} for each in LOGS}
        named = {each: None if part is None else f"{each}/{part}" for each, part in zip(LOGS, parts, strict=True)}
        if all(not there[each] if name is None else name in there[each] for each, name in named.items()):
            name = named[log]
            yield _Member(
                trace_id,
                None if name is None else f"{trace_prefix(trace_id)}/{name}",
                0 if name is None else entries[name].size,
            )


def _chunks(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    chunk: list[_Member] = []
    size = 0
    for each in members:
        if chunk and size + each.size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(each)
        size += each.size
    if chunk:
        yield chunk


def _sums(opened: duckdb.DuckDBPyConnection, log: LogName, source: str, bound: list[object] | None = None) -> Sums:
    query = f"SELECT trace_id, count(*), sum(hash({column_list(log)})) FROM {source} GROUP BY trace_id"
    rows = opened.execute(query, bound).fetchall()
    return {trace_id: (count, total) for trace_id, count, total in rows}


def _sums_of_files(opened: duckdb.DuckDBPyConnection, log: LogName, paths: Sequence[Path]) -> Sums:
    return _sums(opened, log, "read_parquet($1)", [[literal(path) for path in paths]]) if paths else {}


def _sums_of_parts(opened: duckdb.DuckDBPyConnection, log: LogName, parts: Sequence[bytes]) -> Sums:
    if not parts:
        return {}
    table = pa.concat_tables([pq.read_table(BytesIO(data)) for data in parts], promote_options="default")
    opened.register("parts", table)
    try:
        return _sums(opened, log, "parts")
    finally:
        opened.unregister("parts")


async def _ids_amiss(opened: duckdb.DuckDBPyConnection, reader: RollupReader, rollup: Rollup) -> list[Amiss]:
    """Return whether the index of message ids is not that of the rollup's messages."""
    ids, messages = await reader.path_of_ids(rollup), await reader.paths_of(rollup, "messages")
    try:
        same = await asyncio.to_thread(_same_ids, opened, ids, messages)
    except duckdb.Error as error:
        return [Amiss(None, rollup.key(IDS), f"it cannot be read ({_first_line(error)})")]
    return [] if same else [Amiss(None, rollup.key(IDS), "it is not the index of the messages in the rollup")]


def _same_ids(opened: duckdb.DuckDBPyConnection, ids: Sequence[Path], messages: Sequence[Path]) -> bool:
    def total(paths: Sequence[Path], hashed: str) -> tuple[object, ...] | None:
        if not paths:
            return (0, None)
        query = f"SELECT count(*), sum(hash({hashed}, trace_id)) FROM read_parquet($1)"
        return opened.execute(query, [[literal(each) for each in paths]]).fetchone()

    return total(ids, "hash") == total(messages, "md5_number_upper(message_id)")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
