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
from traceark.catalog.rows import tree_number
from traceark.codec.fields import GOALS
from traceark.codec.parquet import to_table
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.headers import TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, trace_prefix
from traceark.rollups.cache import FileCache
from traceark.rollups.files import IDS, Rollup
from traceark.rollups.goals import goal_records
from traceark.rollups.reader import RollupReader
from traceark.rollups.write import column_list, literal
from traceark.storage.base import Entry, KeyMissingError, Storage

# So many bytes of parts or goal trees are held in memory at a time.
_CHUNK_BYTES = 64 << 20

# Of each trace, how many rows it has and the sum of their hashes, which does not depend on their order.
Sums = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Member:
    """A trace whose rows of a view in a rollup are shown, and the file that they come from."""

    trace_id: str
    key: str | None
    size: int


async def amiss(
    storage: Storage, binding: str, cache: FileCache, listed: Mapping[str, Mapping[str, Entry]]
) -> list[Amiss]:
    """Return what current rollups hold that is not so; every row of them, and every file behind it, is read.

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
    damaged = "its bytes are not those that were published"
    found += [Amiss(None, key, damaged) for key in reader.damaged.values()]
    if not rollups:
        return found
    with closing(database.connect()) as opened:
        for rollup in rollups:
            try:
                broken = await reader.broken_file(rollup)
                if broken is not None:
                    found.append(Amiss(None, broken, damaged))
                    continue
                for view in (*LOGS, "goals"):
                    found += await _view_amiss(storage, opened, reader, rollup, view, listed)
                found += await _ids_amiss(opened, reader, rollup)
            except KeyMissingError:
                continue  # it was merged into another, or a trace of it changed or deleted, meanwhile
    return found


async def _view_amiss(
    storage: Storage,
    opened: duckdb.DuckDBPyConnection,
    reader: RollupReader,
    rollup: Rollup,
    view: str,
    listed: Mapping[str, Mapping[str, Entry]],
) -> list[Amiss]:
    paths = await reader.paths_of(rollup, view)
    names = rollup.names(view)
    try:
        held = await asyncio.to_thread(_sums_of_files, opened, view, paths)
    except database.ERRORS as error:
        return [Amiss(None, rollup.key(names[0]), f"its rows cannot be read ({_first_line(error)})")]
    file = rollup.key(names[0]) if names else rollup.key("")
    members = reader.members_of(rollup.id)
    # No mask hides the rows of a trace that is no member.
    strangers = held.keys() - set(members["trace_id"].to_pylist())
    found = [Amiss(each, file, "it has rows of the trace, which is not in the rollup") for each in sorted(strangers)]
    for chunk in _chunks(_shown(members, view, listed)):
        files = {each.trace_id: await storage.read(each.key) for each in chunk if each.key is not None}
        try:
            true = await asyncio.to_thread(_sums_of_traces, opened, view, files)
        except (*database.ERRORS, pa.ArrowException, OSError, CorruptFileError, UnsupportedFormatError):
            continue  # the check of the trace whose file it is tells
        for each in chunk:
            if held.get(each.trace_id, (0, 0)) != true.get(each.trace_id, (0, 0)):
                found.append(Amiss(each.trace_id, file, f"its rows of the trace's {view} are not those of the trace"))
    return found


def _shown(members: pa.Table, view: str, listed: Mapping[str, Mapping[str, Entry]]) -> Iterator[_Member]:
    """Yield the members whose rows of a view readers are shown."""
    rows = zip(*(members[name].to_pylist() for name in ("trace_id", "tree", "messages", "events")), strict=True)
    for trace_id, tree, *parts in rows:
        entries = listed.get(trace_id, {})
        if not {HEADER, MANIFEST} <= entries.keys():
            continue
        there = [{name for name in entries if name.startswith(f"{log}/")} for log in LOGS]
        named = [None if part is None else f"{log}/{part}" for log, part in zip(LOGS, parts, strict=True)]
        if any(names if name is None else name not in names for name, names in zip(named, there, strict=True)):
            continue
        name: str | None
        if view in LOGS:
            name = named[LOGS.index(view)]
        else:
            found = entries.get(GOAL_TREE)
            if tree != (None if found is None else tree_number(found.size, found.version)):
                continue
            name = None if found is None else GOAL_TREE
        key = None if name is None else f"{trace_prefix(trace_id)}/{name}"
        yield _Member(trace_id, key, 0 if name is None else entries[name].size)


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


def _sums(opened: duckdb.DuckDBPyConnection, view: str, source: str, bound: list[object] | None = None) -> Sums:
    query = f"SELECT trace_id, count(*), sum(hash({column_list(view)})) FROM {source} GROUP BY trace_id"
    rows = opened.execute(query, bound).fetchall()
    return {trace_id: (count, total) for trace_id, count, total in rows}


def _sums_of_files(opened: duckdb.DuckDBPyConnection, view: str, paths: Sequence[Path]) -> Sums:
    return _sums(opened, view, "read_parquet($1)", [[literal(path) for path in paths]]) if paths else {}


def _sums_of_traces(opened: duckdb.DuckDBPyConnection, view: str, files: Mapping[str, bytes]) -> Sums:
    """Return the sums of what lies in the traces, given by trace id the part, or the goal tree."""
    if not files:
        return {}
    if view == "goals":
        trees = ((trace_id, TreeFile.decode(data, GOAL_TREE).tree) for trace_id, data in files.items())
        table = to_table(GOALS, [record for trace_id, tree in trees for record in goal_records(trace_id, tree)])
    else:
        parts = (pq.ParquetFile(BytesIO(data)).read(use_threads=False) for data in files.values())
        table = pa.concat_tables(parts, promote_options="default")
    opened.register("true_rows", table)
    try:
        return _sums(opened, view, "true_rows")
    finally:
        opened.unregister("true_rows")


async def _ids_amiss(opened: duckdb.DuckDBPyConnection, reader: RollupReader, rollup: Rollup) -> list[Amiss]:
    """Return whether the index of message ids is not that of the rollup's messages."""
    ids, messages = await reader.path_of_ids(rollup), await reader.paths_of(rollup, "messages")
    try:
        same = await asyncio.to_thread(_same_ids, opened, ids, messages)
    except database.ERRORS as error:
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
