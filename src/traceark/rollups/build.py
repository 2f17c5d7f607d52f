"""One new rollup from the parts of sealed traces.

Thousands of small files cost what opening them costs, so a few at a time go into one file by
DuckDB, on as many threads as there are cores, and those files then into the rollup. A part proves
itself first by the CRC in its name; a trace whose parts do not is left out with a warning, and so
is one whose rows are not those its header counts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.codec.crc import file_crc
from traceark.codec.fields import GOALS
from traceark.codec.parquet import part_info, to_table
from traceark.codec.parts import read_part
from traceark.errors import CorruptFileError, DamagedTraceWarning
from traceark.layout import GOAL_TREE, LOGS, LogName, PartName, parse_log_name, trace_prefix
from traceark.models import JsonObject
from traceark.rollups.files import GOALS_FILE, IDS, MEMBER_SCHEMA, MEMBERS
from traceark.rollups.goals import ReadTree, goals_of
from traceark.rollups.plan import Candidate
from traceark.rollups.write import check_rows, connection, stage, write_ids, write_view
from traceark.storage.base import KeyMissingError, Storage

# What goes through DuckDB at once. More files at once cost more each: DuckDB keeps them all open.
_CHUNK_TRACES = 1_000
_CHUNK_BYTES = 64 << 20
# They are sorted in memory, and uncompressed.
_CHUNK_RECORDS = 65_536
# Downloads at a time.
_PARALLEL = 32


@dataclass(slots=True)
class Built:
    """What went into a rollup: rows by view, member rows, and the traces that were left out."""

    rows: dict[str, int] = field(default_factory=lambda: {"messages": 0, "events": 0, "goals": 0, "traces": 0})
    members: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Chunk:
    """Some candidates with the paths of their parts, and their goal trees as they were read."""

    at: int
    candidates: list[Candidate]
    paths: dict[tuple[str, LogName], Path] = field(default_factory=dict)
    trees: dict[str, ReadTree] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


class Builder:
    """Builds rollups from parts.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    work : Path
        A directory for what is in between; spills of DuckDB too.
    memory_bytes : int
        What DuckDB may use.
    advance : callable
        Called with the number of traces that were read.
    """

    def __init__(self, storage: Storage, work: Path, memory_bytes: int, advance: Callable[[int], None]) -> None:
        self._storage = storage
        self._work = work
        self._memory = memory_bytes
        self._advance = advance
        self._workers = max(1, min(os.cpu_count() or 1, 4))

    async def build(self, batch: Sequence[Candidate], target: Path) -> Built:
        """Write the files of one rollup into a directory that is there."""
        built = Built()
        chunks = list(_chunks(batch))
        slots = asyncio.Semaphore(self._workers)

        async def one(at: int, candidates: list[Candidate]) -> Built:
            async with slots:
                chunk = _Chunk(at, candidates)
                await self._fetch(chunk)
                staged = await asyncio.to_thread(self._stage, chunk)
                self._advance(len(candidates))
                return staged

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(at, candidates)) for at, candidates in enumerate(chunks)]
            for task in tasks:
                staged = task.result()
                built.members += staged.members
                built.left_out += staged.left_out
                for view, count in staged.rows.items():
                    built.rows[view] += count
            if built.members:
                await asyncio.to_thread(self._write, target, len(chunks), built)
        except BaseExceptionGroup as several:
            # Tasks fail for one reason; the first one says it.
            raise several.exceptions[0] from several
        finally:
            shutil.rmtree(self._work / "staged", ignore_errors=True)
        return built

    async def _fetch(self, chunk: _Chunk) -> None:
        """Find or download the parts of a chunk."""
        slots = asyncio.Semaphore(_PARALLEL)

        async def one(candidate: Candidate) -> None:
            prefix = trace_prefix(candidate.trace_id)
            async with slots:
                try:
                    for log, name in _parts(candidate):
                        key = f"{prefix}/{log}/{name}"
                        path = self._storage.local_path(key)
                        if path is None:
                            data = await self._storage.read(key)
                            # Nothing is awaited between the name and its being taken.
                            path = self._staged(chunk, f"{len(chunk.paths)}.part")
                            path.write_bytes(data)
                        chunk.paths[candidate.trace_id, log] = path
                    if candidate.tree is not None:
                        found = await self._storage.read_versioned(f"{prefix}/{GOAL_TREE}")
                        chunk.trees[candidate.trace_id] = ReadTree(*found)
                except KeyMissingError:
                    chunk.gone.add(candidate.trace_id)  # reopened or deleted since the catalog was read

        self._staged(chunk, "").mkdir(parents=True, exist_ok=True)
        if any(self._storage.local_path(trace_prefix(each.trace_id)) is None for each in chunk.candidates[:1]):
            await asyncio.gather(*map(one, chunk.candidates))
        else:
            for candidate in chunk.candidates:
                await one(candidate)

    def _staged(self, chunk: _Chunk, name: str) -> Path:
        return self._work / "staged" / f"{chunk.at:06d}" / name

    def _stage(self, chunk: _Chunk) -> Built:
        """Write a chunk's rows into one file per view, without the traces that do not prove themselves."""
        built = Built()
        kept = [each for each in chunk.candidates if each.trace_id not in chunk.gone]
        bad = self._disproved(chunk, kept)
        # A trace that is left out must leave no row behind, so the files are written anew without it.
        while bad or not built.members:
            kept = [each for each in kept if each.trace_id not in bad]
            built.left_out += [trace_id for trace_id, reason in bad.items() if _warn(trace_id, reason)]
            if not kept:
                break
            bad = {}
            with connection(self._work, self._memory // self._workers, threads=1) as opened:
                for log in LOGS:
                    staged = [each for each in kept if (each.trace_id, log) in chunk.paths]
                    if staged:
                        count, wrong = self._stage_log(opened, chunk, log, staged)
                        built.rows[log] = count
                        bad |= wrong
            if not bad:
                built.members = self._stage_goals(chunk, kept, built)
        if not kept:
            shutil.rmtree(self._staged(chunk, ""), ignore_errors=True)
            return Built(left_out=built.left_out)
        for path in self._staged(chunk, "").glob("*.part"):
            path.unlink()
        built.rows["traces"] = len(built.members)
        return built

    def _disproved(self, chunk: _Chunk, kept: Sequence[Candidate]) -> dict[str, str | None]:
        """Return traces with a part that does not match the CRC in its name, and why."""
        bad: dict[str, str | None] = {}
        for each in kept:
            for log, name in _parts(each):
                parsed = parse_log_name(name)
                what = f"{trace_prefix(each.trace_id)}/{log}/{name}"
                try:
                    if not isinstance(parsed, PartName) or file_crc(chunk.paths[each.trace_id, log]) != parsed.crc:
                        bad[each.trace_id] = f"{what} does not match the checksum in its name; copy it again"
                except FileNotFoundError:
                    bad[each.trace_id] = None
                except OSError as error:
                    bad[each.trace_id] = f"{what} cannot be read ({error.strerror}); copy it again"
        return bad

    def _stage_log(
        self, opened: duckdb.DuckDBPyConnection, chunk: _Chunk, log: LogName, kept: Sequence[Candidate]
    ) -> tuple[int, dict[str, str | None]]:
        """Write a log's rows of a chunk; return how many they are, and traces whose rows are wrong, and why."""
        paths = [chunk.paths[each.trace_id, log] for each in kept]
        target = self._staged(chunk, f"{log}.parquet")
        try:
            stage(opened, log, paths, target)
        except (*database.ERRORS, pa.ArrowException, OSError) as error:
            culprits: dict[str, str | None] = {
                each.trace_id: reason
                for each, path in zip(kept, paths, strict=True)
                if (reason := _examined(path, log, each)) is not None
            }
            if culprits:
                return 0, culprits
            if len(kept) > 1:
                raise
            return 0, {kept[0].trace_id: f"its {log} cannot be read: {error}"}
        found = {
            at: (count, own, operations)
            for at, count, first, last, operations in opened.execute(
                "SELECT _file, count(*), min(trace_id), max(trace_id), count(_op) FROM read_parquet(?) GROUP BY _file",
                [[str(target)]],
            ).fetchall()
            for own in [first == last == kept[at].trace_id]
        }
        bad: dict[str, str | None] = {}
        total = 0
        for at, (each, path) in enumerate(zip(kept, paths, strict=True)):
            count, own, operations = found.get(at, (0, True, 0))
            total += count
            stated = each.messages if log == "messages" else each.events
            if not own or operations or (count != stated and not _counts(path, log, each, count)):
                bad[each.trace_id] = (
                    f"{trace_prefix(each.trace_id)}/{log}: its part has {count} rows where the header counts {stated}, "
                    "or rows that are not its own; `verify` tells more"
                )
        return total, bad

    def _stage_goals(self, chunk: _Chunk, kept: Sequence[Candidate], built: Built) -> list[dict[str, Any]]:
        """Write the goals of a chunk; return the member rows of its traces."""
        members: list[dict[str, Any]] = []
        records: list[JsonObject] = []
        for each in kept:
            tree = each.tree
            if tree is not None:
                goals = goals_of(each, chunk.trees[each.trace_id])
                records += goals or []
                tree = ~tree if goals is None else tree
            members.append(
                {
                    "trace_id": each.trace_id,
                    "incarnation": each.incarnation,
                    "messages": each.messages_part,
                    "events": each.events_part,
                    "tree": tree,
                }
            )
        if records:
            pq.write_table(to_table(GOALS, records), self._staged(chunk, "goals.parquet"))
        built.rows["goals"] = len(records)
        return members

    def _write(self, target: Path, chunks: int, built: Built) -> None:
        """Write a rollup's files from what was staged."""
        with connection(self._work, self._memory) as opened:
            for view, name in (
                ("messages", "messages-1.parquet"),
                ("events", "events-1.parquet"),
                ("goals", GOALS_FILE),
            ):
                paths = [self._work / "staged" / f"{at:06d}" / f"{view}.parquet" for at in range(chunks)]
                paths = [path for path in paths if path.exists()]
                if not paths or not built.rows[view]:
                    continue
                check_rows(name, write_view(opened, view, [(paths, ())], target / name), built.rows[view])
                if view == "messages":
                    write_ids(opened, paths, target / IDS)
        pq.write_table(pa.Table.from_pylist(built.members, schema=MEMBER_SCHEMA), target / MEMBERS, compression="zstd")


def _warn(trace_id: str, reason: str | None) -> bool:
    """Say that a trace was left out; without a reason it is merely gone. Return whether it was said."""
    if reason is None:
        return False
    warnings.warn(f"left out: trace {trace_id!r}: {reason}", DamagedTraceWarning, stacklevel=2)
    return True


def _parts(candidate: Candidate) -> Iterator[tuple[LogName, str]]:
    if candidate.messages_part is not None:
        yield "messages", candidate.messages_part
    if candidate.events_part is not None:
        yield "events", candidate.events_part


def _name(candidate: Candidate, log: LogName) -> str:
    """Return the key of a candidate's part, for messages."""
    part = candidate.messages_part if log == "messages" else candidate.events_part
    return f"{trace_prefix(candidate.trace_id)}/{log}/{part}"


def _chunks(batch: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    chunk: list[Candidate] = []
    size = records = 0
    for each in batch:
        size += each.bytes
        records += each.records
        if chunk and (len(chunk) >= _CHUNK_TRACES or size > _CHUNK_BYTES or records > _CHUNK_RECORDS):
            yield chunk
            chunk, size, records = [], each.bytes, each.records
        chunk.append(each)
    if chunk:
        yield chunk


def _examined(path: Path, log: LogName, candidate: Candidate) -> str | None:
    """Return what is wrong with a part, looking at its footer and then at all of it."""
    what = _name(candidate, log)
    try:
        data = path.read_bytes()
        info = part_info(data, what)
        if info.log != log or info.trace_id != candidate.trace_id or info.incarnation != candidate.incarnation:
            return f"{what} says that it is a part of {info.log} of trace {info.trace_id!r}; restore it from a copy"
        read_part(data, log, what)
    except FileNotFoundError:
        return f"{what} is not there any more"
    except (CorruptFileError, OSError) as error:
        return str(error)
    return None


def _counts(path: Path, log: LogName, candidate: Candidate, count: int) -> bool:
    """Say whether a part is whole though its rows are not as many as the header counts, since callers may set that."""
    if log == "events":
        return False
    what = _name(candidate, log)
    try:
        data = path.read_bytes()
        info = part_info(data, what)
        return (
            info.folded
            and info.first == 1
            and (info.trace_id, info.incarnation) == (candidate.trace_id, candidate.incarnation)
            and len(read_part(data, log, what, ["message_id"])) == count
        )
    except (CorruptFileError, OSError):
        return False
