"""Folding: small objects of a live trace into parts, and small parts into larger ones, as they pile up.

For object stores, where every batch is an object of its own. It goes on beside the writing and takes
no lock: a part is published whole, and what it holds is deleted by the next round, which has read the
part back. Killed anywhere it leaves a trace that reads the same. Which objects must stay in the way of
late writers, `plan.droppable` says.
"""

from __future__ import annotations

import asyncio
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from traceark.codec.parquet import PartInfo, encode_part
from traceark.errors import DamagedTraceError, StorageError, UnfoldedWarning
from traceark.layout import HEADER, LOGS, MANIFEST, LogName, PartName, SegmentName, parse_log_name
from traceark.log import Files, load_parts, log_names, read_log
from traceark.plan import LogPlan, Span, droppable, join_runs, plan_fold, plan_log, writer_at
from traceark.reading import fold_updates
from traceark.storage.base import Entry, KeyExistsError, KeyMissingError

if TYPE_CHECKING:
    from traceark.live import OpenTrace

# So many objects of a log may lie there before they are folded.
OBJECTS = 32
# Every writer looks at the log again three times as often.
_OLD_SECONDS = 15 * 60.0
# What this process wrote itself is not read again when it is folded, unless an object is larger.
_HELD_BYTES = 256 * 1024


def part_keys(trace: OpenTrace, log: LogName, entries: Mapping[str, Entry]) -> list[str]:
    """Return the keys of a log's parts that count."""
    directory = f"{trace.prefix}/{log}/"
    return [key for key in trace.parts if key.startswith(directory) and key[len(trace.prefix) + 1 :] in entries]


async def build_part(
    trace: OpenTrace,
    log: LogName,
    first: int,
    last: int,
    entries: Mapping[str, Entry],
    *,
    folded: bool,
    held: Mapping[str, bytes] | None = None,
) -> tuple[str, int]:
    """Publish a part of the offsets given; return its key relative to the trace, and its size.

    Raises
    ------
    KeyMissingError
        The files are not there any more.
    """
    incarnation = trace.header.incarnation
    read = await read_log(
        trace.storage, trace.prefix, log, incarnation, entries, trace.parts, after=first - 1, held=held
    )
    if read.end < last:
        # The trace is another incarnation by now than the files that were listed are of.
        raise KeyMissingError(f"{trace.prefix}/{log} holds no offsets {read.end + 1} to {last} any more")
    rows = [row for row in read.records if row.offset <= last]
    covers = join_runs(run for run in read.runs if run.last >= first and run.first <= last)
    covers = tuple(
        run if run.last <= last else type(run)(run.first, run.writer, last - run.first + 1) for run in covers
    )
    last_crc = rows[-1].crc if rows and rows[-1].crc else read.crc if read.end == last else None
    if folded and log == "messages":
        rows = sorted(fold_updates(rows), key=lambda row: row.offset)
    info = PartInfo(log, trace.trace_id, incarnation, first, last, folded, covers, read.links.get(first), last_crc)
    data = await asyncio.to_thread(encode_part, info, rows)
    name = f"{log}/{PartName(first, last, incarnation, f'{zlib.crc32(data):08x}')}"
    with suppress(KeyExistsError):
        # A part of this very content is there already when another process folds, compacts or seals too.
        await trace.storage.create(f"{trace.prefix}/{name}", data)
    return name, len(data)


async def writer_in_parts(
    trace: OpenTrace, log: LogName, offset: int, entries: Mapping[str, Entry] | None = None
) -> str | None:
    """Return who wrote an offset by the account of a part, or None if no part holds it.

    An object that is created at an offset which a part holds is void: it won nothing, and nobody reads it. Unless the
    trace's files were listed just now, they are.
    """
    directory, incarnation = f"{trace.prefix}/{log}", trace.header.incarnation
    while True:
        covering: list[str] = []
        names = list(await trace.storage.list(directory)) if entries is None else log_names(entries, log)
        entries = None
        for name in names:
            parsed = parse_log_name(name)
            if isinstance(parsed, PartName) and parsed.first <= offset <= parsed.last:
                covering.append(name)
        try:
            parts, damaged = await load_parts(
                Files(trace.storage, directory), directory, covering, incarnation, trace.parts
            )
        except KeyMissingError:
            continue  # merged into a larger part meanwhile
        if damaged and not parts:
            raise next(iter(damaged.values()))
        return next((writer_at(info, offset) for info in parts.values()), None)


class Folding:
    """Folds the logs of one open trace on an object store, as they grow."""

    def __init__(self, trace: OpenTrace) -> None:
        self._trace = trace
        # How many objects of each log no part holds, as far as is known; None: to be counted.
        self._live: dict[LogName, int | None] = dict.fromkeys(LOGS)
        self._held: dict[LogName, dict[str, bytes]] = {log: {} for log in LOGS}
        self._round: asyncio.Task[None] | None = None

    def recount(self, log: LogName) -> None:
        """Hear that a log was read again."""
        self._live[log] = None

    async def keep_up(self, log: LogName) -> None:
        """Let a round end before more objects pile up beside it than it folds."""
        if self._is_folding() and (self._live[log] or 0) >= OBJECTS:
            await self.settle()

    def appended(self, log: LogName, name: str, data: bytes) -> None:
        """Hear of an object that was added to a log; fold the log if it is time."""
        if len(data) <= _HELD_BYTES:
            self._held[log][name] = data
        known = self._live[log]
        live = self._live[log] = self._count(log) if known is None else known + 1
        if live > OBJECTS and not self._is_folding():
            # What comes meanwhile is counted from nothing.
            self._live[log] = 0
            self._round = asyncio.get_running_loop().create_task(self._fold(log))

    def _is_folding(self) -> bool:
        return self._round is not None and not self._round.done()

    async def settle(self) -> None:
        """Wait for a round that is under way."""
        if self._round is not None:
            await self._round

    def _count(self, log: LogName) -> int:
        parsed = [parse_log_name(name) for name in log_names(self._trace.entries, log)]
        covered = max((name.last for name in parsed if isinstance(name, PartName)), default=0)
        return sum(isinstance(name, SegmentName) and name.first > covered for name in parsed)

    async def _fold(self, log: LogName) -> None:
        try:
            await self._fold_now(log)
        except KeyMissingError:
            self._live[log] = None  # others fold, compact, seal or delete the trace; with the next object all is new
        except (StorageError, DamagedTraceError) as error:
            # What was to be written is written; the objects stay as they are.
            warnings.warn(
                f"objects of trace {self._trace.trace_id!r}, {log}, could not be folded into a part ({error}); "
                f"nothing is lost, and it is tried again after {OBJECTS} more",
                UnfoldedWarning,
                stacklevel=1,
            )

    async def _fold_now(self, log: LogName) -> None:
        trace, storage, prefix = self._trace, self._trace.storage, self._trace.prefix
        incarnation, end = trace.header.incarnation, trace.ends[log]
        entries = await storage.list(prefix)
        if HEADER not in entries:
            return
        plan, parts = await self._plan(log, entries)
        # What parts of earlier rounds hold; they were read back just now, and readers had time to see them.
        names = log_names(entries, log)
        # By the storage's own clock: the newest file is of just now.
        newest = max(entry.modified for entry in entries.values())
        old = {name for name in names if newest - entries[f"{log}/{name}"].modified >= _OLD_SECONDS}
        gone = [f"{log}/{name}" for name in droppable(plan, parts.values(), trace.writer_id, end, old)]
        await asyncio.gather(*(storage.delete([f"{prefix}/{name}"]) for name in gone))
        for name in gone:
            del entries[name]
        made: dict[str, Entry] = {}
        sizes = {name: entries[f"{log}/{name}"].size for name in log_names(entries, log)}
        folded = next((name for name, info in parts.items() if info.folded), None)
        span = plan_fold(plan.sources, sizes, folded, OBJECTS)
        if span is not None:
            name, size = await build_part(
                trace, log, span.first, span.last, entries, folded=False, held=self._held[log]
            )
            if await self._is_late(log, span):
                await storage.delete([f"{prefix}/{name}"])
                return
            if span.last <= end:
                made[name] = Entry(size, "", 0.0)
        if trace.header.incarnation != incarnation:
            return  # deleted and made anew meanwhile
        for name in gone:
            trace.entries.pop(name, None)
            trace.parts.pop(f"{prefix}/{name}", None)
        trace.entries.update(made)
        covered = max([span.last if span else 0, *(info.last for info in parts.values())])
        held = self._held[log]
        self._held[log] = {name: held[name] for name in held if int(name.partition("-")[0]) > covered}
        live = self._live[log]
        if live is not None:
            self._live[log] = live + sum(source.last is None and source.first > covered for source in plan.sources)

    async def _plan(self, log: LogName, entries: Mapping[str, Entry]) -> tuple[LogPlan, dict[str, PartInfo]]:
        directory, incarnation = f"{self._trace.prefix}/{log}", self._trace.header.incarnation
        names = log_names(entries, log)
        files = Files(self._trace.storage, directory)
        parts, _ = await load_parts(files, directory, names, incarnation, self._trace.parts)
        return plan_log(directory, names, incarnation, parts), parts

    async def _is_late(self, log: LogName, span: Span) -> bool:
        """Say whether the trace was sealed meanwhile with all that a new part holds: one more file would reopen it."""
        try:
            await self._trace.storage.read(f"{self._trace.prefix}/{MANIFEST}")
        except KeyMissingError:
            return False
        _, parts = await self._plan(log, await self._trace.storage.list(self._trace.prefix))
        return any(info.folded and info.last >= span.last for info in parts.values())
