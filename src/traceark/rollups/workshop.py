"""Where rollups are made, merged and removed: the steps of `optimize` and `purge`.

Publishes a rollup's files first and its `rollup.json` last, so that a run killed anywhere leaves
directories that are no rollups. Whoever uses it holds the lock where there is one.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.codec import compute as pc
from traceark.codec.crc import file_crc
from traceark.codec.lines import now_text
from traceark.errors import DamagedTraceWarning, StorageError
from traceark.layout import LOGS, PartName, parse_log_name, trace_prefix
from traceark.rollups.build import Builder
from traceark.rollups.cache import FileCache
from traceark.rollups.coverage import cover_all_views
from traceark.rollups.files import GOALS_FILE, IDS, MEMBERS, ROLLUP_FILE, ROLLUPS, Rollup, next_id
from traceark.rollups.plan import Candidate, Limits, Weight, cut, in_order, plan_merges
from traceark.rollups.reader import RollupReader
from traceark.rollups.write import check_rows, connection, merge_ids, write_view
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage

# What an upload that is going on may be younger than.
_STALE_SECONDS = 24 * 3600.0
_UPLOADS = 4
# What a record weighs in a part, where asking for the part's size would be a request.
_RECORD_BYTES = 500

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class OptimizeReport:
    """What a run did.

    Attributes
    ----------
    made, merged, purged, removed : int
        New rollups, rollups merged into larger ones, rollups rewritten since rows of theirs were
        masked, directories removed that were dead.
    traces, messages, events, bytes : int
        What the new rollups hold and weigh.
    left_out : list of str
        Damaged traces; a `DamagedTraceWarning` says why.
    seconds : float
        How long it took.
    """

    made: int = 0
    merged: int = 0
    purged: int = 0
    removed: int = 0
    traces: int = 0
    messages: int = 0
    events: int = 0
    bytes: int = 0
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class PurgeReport:
    """What a purge did.

    Attributes
    ----------
    rewritten : int
        Rollups that held rows of the traces; they hold none now.
    removed : int
        Directories that nothing reads any more and that might have held some.
    unread : list of str
        Directories that may hold some still: somebody may be uploading a rollup there.
    """

    rewritten: int = 0
    removed: int = 0
    unread: list[str] = field(default_factory=list)


class Workshop:
    """The state of one run: a reader, and a directory for what is in between."""

    def __init__(self, storage: Storage, binding: str, work: Path, memory_bytes: int) -> None:
        self._storage = storage
        self._binding = binding
        self._work = work
        self._memory = memory_bytes
        self.remote = storage.local_path("") is None
        # A run reads each rollup a few times; what it fetched goes with its directory.
        self._cache = FileCache(storage, work / "fetched")
        self._reader = RollupReader(storage, binding, self._cache)
        self._begun: list[str] = []

    async def roll_up(self, rows: pa.Table, limits: Limits, report: OptimizeReport, progress: Progress) -> None:
        """Make rollups of the traces that are in none."""
        await self._reader.refresh()
        coverage = await asyncio.to_thread(cover_all_views, rows, self._reader.members())
        candidates = await asyncio.to_thread(candidates_of, coverage.uncovered, self._storage)
        total = len(candidates)
        done = 0

        def advance(traces: int) -> None:
            nonlocal done
            done += traces
            progress(done, total)

        advance(0)
        builder = Builder(self._storage, self._work, self._memory, advance)
        for batch in cut(candidates, limits):
            target = await self._begin()
            built = await builder.build(batch, target)
            report.left_out += built.left_out
            if built.members:
                began = min((each.created_at for each in batch if each.created_at is not None), default=None)
                rollup = await self._publish(target, built.rows, 0, began, ())
                report.made += 1
                report.traces += built.rows["traces"]
                report.messages += built.rows["messages"]
                report.events += built.rows["events"]
                report.bytes += rollup.size
            else:
                await self._discard(target)

    async def merge(self, rows: pa.Table, limits: Limits, report: OptimizeReport) -> None:
        """Merge and rewrite until nothing is planned any more."""
        while True:
            rollups = await self._reader.refresh()
            coverage = await asyncio.to_thread(cover_all_views, rows, self._reader.members())
            masks = coverage.masks(len(rollups))
            by_id = {each.id: at for at, each in enumerate(rollups)}
            weights = [Weight(each.id, each.size, len(mask)) for each, mask in zip(rollups, masks, strict=True)]
            groups = plan_merges(weights, limits)
            if not groups:
                return
            for group in groups:
                at = [by_id[each] for each in group]
                await self._rewrite([(rollups[each], masks[each]) for each in at])
                report.merged += len(group) if len(group) > 1 else 0
                report.purged += sum(bool(masks[each]) for each in at)

    async def purge(self, trace_ids: Sequence[str], report: PurgeReport) -> None:
        """Rewrite the rollups that hold rows of some traces."""
        wanted = pa.array(trace_ids, pa.string())
        rollups = list(await self._reader.refresh())
        replaced = list(self._reader.replaced)
        unusable = dict(self._reader.unusable)
        for rollup in rollups:
            held = self._held(rollup, wanted)
            if held:
                await self._rewrite([(rollup, held)])
                await self._remove(rollup.id, rollup.keys())
                report.rewritten += 1
        for rollup in replaced:
            if self._held(rollup, wanted):
                await self._remove(rollup.id, rollup.keys())
                report.removed += 1
        for rollup_id, files in unusable.items():
            if self.remote and not _is_older(files, _STALE_SECONDS):
                report.unread.append(rollup_id)  # somebody may be uploading it
                continue
            await self._remove(rollup_id, [f"{ROLLUPS}/{rollup_id}/{name}" for name in _json_first(files)])
            report.removed += 1

    def _held(self, rollup: Rollup, wanted: pa.Array) -> list[str]:
        held = self._reader.members_of(rollup.id)["trace_id"]
        return [str(each) for each in held.filter(pc.is_in(held, value_set=wanted)).to_pylist()]

    async def _rewrite(self, sources: Sequence[tuple[Rollup, Sequence[str]]]) -> None:
        """Publish one rollup that replaces some, without the traces masked in each; remove them if none are left.

        They are joined by the age of their traces, so that a row group's times stay close together.
        """
        sources = sorted(sources, key=lambda each: (each[0].began or 0, each[0].id))
        rollups = [rollup for rollup, _ in sources]
        members = pa.concat_tables([_without(self._reader.members_of(rollup.id), mask) for rollup, mask in sources])
        if not len(members):
            for rollup in rollups:
                await self._remove(rollup.id, rollup.keys())
            return
        if await self._drop_damaged(rollups):
            return
        target = await self._begin()
        try:
            counts = await self._write(target, sources, members)
        except KeyMissingError:
            # Another run, on an object store, merged them first: look again.
            await self._discard(target)
            return
        except (*database.ERRORS, pa.ArrowException, OSError) as error:
            await self._discard(target)
            raise StorageError(
                f"merging rollups of {self._storage.url} failed: {database.reason_of(error)}; they stay as they are"
            ) from error
        # The new one stands in for those that its sources replaced, too, should they still lie there.
        replaces = {each.id for each in rollups} | {each for rollup in rollups for each in rollup.replaces}
        present = {each.id for each in (*self._reader.rollups, *self._reader.replaced)}
        began = min((each.began for each in rollups if each.began is not None), default=None)
        level = max(each.level for each in rollups) + (len(rollups) > 1)
        await self._publish(target, counts, level, began, tuple(sorted(replaces & present)))

    async def _write(
        self, target: Path, sources: Sequence[tuple[Rollup, Sequence[str]]], members: pa.Table
    ) -> dict[str, int]:
        """Write the files of a rollup from those of others; return its row counts."""
        counts = {"messages": 0, "events": 0, "goals": 0, "traces": len(members)}
        whole = not any(mask for _, mask in sources)
        views = {
            view: [(paths, mask) for rollup, mask in sources if (paths := await self._reader.paths_of(rollup, view))]
            for view in ("messages", "events", "goals")
        }
        indexes = [(paths, mask) for rollup, mask in sources if (paths := await self._reader.path_of_ids(rollup))]

        def write() -> None:
            with connection(self._work, self._memory) as opened:
                for view, files in views.items():
                    if files:
                        name = GOALS_FILE if view == "goals" else f"{view}-1.parquet"
                        counts[view] = write_view(opened, view, files, target / name)
                        if whole:
                            check_rows(name, counts[view], sum(rollup.rows[view] for rollup, _ in sources))
                if indexes:
                    merge_ids(opened, indexes, target / IDS)
            pq.write_table(members, target / MEMBERS, compression="zstd")

        await asyncio.to_thread(write)
        return counts

    async def remove_damaged(self) -> None:
        """Remove rollups that are damaged, where that is found in no time: on a disk, in files that are not large."""
        if not self.remote:
            rollups = await self._reader.refresh()
            await self._drop(
                [each for each in rollups if await self._reader.broken_file(each, self._reader.small(each))]
            )

    async def _drop_damaged(self, rollups: Sequence[Rollup]) -> bool:
        """Remove rollups whose bytes are not those that were published; say whether there were any.

        What is wrong in one would be in what it is merged into, and proven there.
        """
        damaged = [rollup for rollup in rollups if await self._reader.broken_file(rollup) is not None]
        await self._drop(damaged)
        return bool(damaged)

    async def _drop(self, damaged: Sequence[Rollup]) -> None:
        for rollup in damaged:
            warnings.warn(
                f"the rollup {rollup.id} is damaged and was removed; the traces are not touched, "
                "and `optimize` makes it again",
                DamagedTraceWarning,
                stacklevel=2,
            )
            await self._remove(rollup.id, rollup.keys())

    async def remove_dead(self, report: OptimizeReport) -> None:
        """Remove rollups that were replaced a while ago, and what runs that were killed left unfinished."""
        await self._reader.refresh()
        now = time.time()
        grace = self._storage.grace_seconds
        for rollup in self._reader.replaced:
            replaced_at = [
                self._reader.published[each.id]
                for each in (*self._reader.rollups, *self._reader.replaced)
                if rollup.id in each.replaces
            ]
            if not grace or any(now - moment > grace for moment in replaced_at):
                await self._remove(rollup.id, rollup.keys())
                report.removed += 1
        for rollup_id, files in self._reader.unusable.items():
            # On a local disk the lock says that whoever began it is dead.
            unfinished = ROLLUP_FILE not in files
            if rollup_id in self._reader.damaged or (
                unfinished and (not self.remote or _is_older(files, _STALE_SECONDS))
            ):
                await self._remove(rollup_id, [f"{ROLLUPS}/{rollup_id}/{name}" for name in files])
                report.removed += 1

    async def _begin(self) -> Path:
        """Return the directory for the files of a new rollup; its name is the rollup's id."""
        taken = [each.id for each in (*self._reader.rollups, *self._reader.replaced)]
        new = next_id([*taken, *self._reader.unusable, *self._begun], secrets.token_hex(4))
        self._begun.append(new)
        path = self._storage.local_path(f"{ROLLUPS}/{new}")
        if path is None:
            path = self._work / new
            path.mkdir()
        elif isinstance(self._storage, AppendStorage):
            self._storage.make_directory(f"{ROLLUPS}/{new}")
        return path

    async def _discard(self, target: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)

    async def _publish(
        self, target: Path, counts: dict[str, int], level: int, began: int | None, replaces: tuple[str, ...]
    ) -> Rollup:
        """Make a rollup exist: its files first, then its `rollup.json`."""
        paths = sorted(target.iterdir())
        files = {path.name: path.stat().st_size for path in paths}
        crcs = {path.name: await asyncio.to_thread(file_crc, path) for path in paths}
        rollup = Rollup(target.name, files, crcs, counts, level, began, replaces, now_text())
        keys = [rollup.key(name) for name in files]
        if isinstance(self._storage, AppendStorage):
            self._storage.take_over(keys)
            await self._storage.sync(keys)
        else:
            slots = asyncio.Semaphore(_UPLOADS)

            async def upload(name: str) -> None:
                async with slots:
                    data = await asyncio.to_thread((target / name).read_bytes)
                    await self._storage.create(rollup.key(name), data)

            await asyncio.gather(*map(upload, files))
        await self._storage.create(rollup.key(ROLLUP_FILE), rollup.encode(self._binding))
        if self.remote:
            await self._discard(target)
        return rollup

    async def _remove(self, rollup_id: str, keys: Sequence[str]) -> None:
        await self._storage.delete(keys)
        for key in keys:
            self._cache.forget(key)
        if isinstance(self._storage, AppendStorage):
            self._storage.remove_directory(f"{ROLLUPS}/{rollup_id}")


def candidates_of(uncovered: pa.Table, storage: Storage) -> list[Candidate]:
    """Return the traces to roll up, in order; those whose logs are not one whole part each are none."""
    found: list[Candidate] = []
    created = uncovered["created_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    for row, moment in zip(uncovered.drop_columns(["created_at"]).to_pylist(), created, strict=True):
        if row["_incarnation"] is None:
            continue
        if (row["_messages"] is None and row["total_messages"]) or (row["_events"] is None and row["last_event_id"]):
            continue
        trace_id = row["trace_id"]
        records = size = 0
        for log in LOGS:
            name = row[f"_{log}"]
            if name is None:
                continue
            parsed = parse_log_name(name)
            # Callers may set how many messages a trace counts; the part's name tells how many records it has.
            records += parsed.last if isinstance(parsed, PartName) else 0
            path = storage.local_path(f"{trace_prefix(trace_id)}/{log}/{name}")
            with suppress(OSError):  # building says what is wrong with it
                size += path.stat().st_size if path is not None else 0
        found.append(
            Candidate(
                trace_id,
                moment,
                row["total_messages"],
                row["last_event_id"],
                row["_incarnation"],
                row["_messages"],
                row["_events"],
                row["_tree"],
                size or records * _RECORD_BYTES,
                records,
            )
        )
    return in_order(found)


def _without(members: pa.Table, masked: Sequence[str]) -> pa.Table:
    if not masked:
        return members
    return members.filter(pc.invert(pc.is_in(members["trace_id"], value_set=pa.array(masked, pa.string()))))


def _json_first(files: Iterable[str]) -> list[str]:
    return sorted(files, key=lambda name: name != ROLLUP_FILE)


def _is_older(files: dict[str, Entry], seconds: float) -> bool:
    return all(time.time() - entry.modified > seconds for entry in files.values())
