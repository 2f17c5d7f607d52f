"""Redacting in place: what patterns find in traces is replaced, and gone from all files of the archive.

A trace is rewritten whole, under a new incarnation; of the old one a tombstone stays, so that no sync
brings it back. Killed anywhere, a trace is as it was or as it is to be, and repeating goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from traceark.errors import DamagedTraceError, InvalidValueError, TraceNotFoundError, UnsupportedFormatError
from traceark.filters import Filters
from traceark.layout import LOGS, parse_log_name
from traceark.models import TERMINAL, Json, JsonObject
from traceark.reading import retrying
from traceark.redaction import Pattern, patterns_of
from traceark.redaction.texts import Found
from traceark.storage.base import AppendStorage, KeyMissingError, VersionMismatchError
from traceark.store import ArchiveStore
from traceark.sync.carry import alone, as_compared, publish
from traceark.sync.putting import ChangedMeanwhileError
from traceark.sync.redacted import Redacted, redacted
from traceark.sync.run import refuse_spool
from traceark.sync.sides import Side, look
from traceark.tombstones import Buried, Tombstone, buried, state_of

REASON = "redacted"
# What keeps one trace from being redacted, and no other.
_OF_ONE_TRACE = (
    DamagedTraceError,
    UnsupportedFormatError,
    ChangedMeanwhileError,
    KeyMissingError,
    VersionMismatchError,
)
# Called with traces done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RedactedTrace:
    """One trace in which something was found.

    Attributes
    ----------
    replaced, left : Counter
        Matches by the pattern's name and the field: those that are, or would be, replaced, and those
        in ids, which stay.
    """

    trace_id: str
    replaced: Found
    left: Found

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        return {"trace_id": self.trace_id, "replaced": _by_pattern(self.replaced), "left": _by_pattern(self.left)}


@dataclass(slots=True)
class RedactionReport:
    """What a redaction replaced, or would replace.

    Attributes
    ----------
    looked_at : int
        How many traces.
    traces : list of RedactedTrace
        Those in which something was found.
    problems : list of str
        Traces that could not be redacted, and why.
    rollups : int
        Rollups that were rewritten or removed for it.
    unread : list of str
        Rollups that may hold rows of what was replaced, since this release cannot read them.
    """

    dry_run: bool = True
    looked_at: int = 0
    traces: list[RedactedTrace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rollups: int = 0
    unread: list[str] = field(default_factory=list)

    @property
    def replaced(self) -> Found:
        """All that was replaced."""
        return sum((trace.replaced for trace in self.traces), Found())

    @property
    def left(self) -> Found:
        """All that stays, since it stands in ids."""
        return sum((trace.left for trace in self.traces), Found())

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        problems: list[Json] = list(self.problems)
        unread: list[Json] = list(self.unread)
        return {
            "dry_run": self.dry_run,
            "looked_at": self.looked_at,
            "replaced": _by_pattern(self.replaced),
            "left": _by_pattern(self.left),
            "traces": [trace.to_json() for trace in self.traces],
            "problems": problems,
            "rollups": self.rollups,
            "unread": unread,
        }


def _by_pattern(found: Found) -> JsonObject:
    counts: dict[str, dict[str, Json]] = defaultdict(dict)
    for (pattern, where), number in sorted(found.items()):
        counts[pattern][where] = number
    return {**counts}


async def redact(
    store: ArchiveStore,
    trace_ids: Iterable[str] | None = None,
    *,
    patterns: Sequence[Pattern] | None = None,
    dry_run: bool = True,
    progress: Progress | None = None,
    **filters: Unpack[Filters],
) -> RedactionReport:
    """Replace what patterns find in traces, for good, and purge what is derived from them.

    Ids, sequences, offsets, times, totals and goals stay. On an object store only traces that are
    sealed, and that nobody has open, can be redacted.

    Parameters
    ----------
    store : ArchiveStore
    trace_ids : iterable of str, optional
        Which traces; without, those that meet the filters.
    patterns : sequence of Pattern, optional
        As `patterns_of` makes them; all built-in ones without.
    dry_run : bool
        Only say what would be replaced, which is the default.
    progress : callable, optional
    **filters
        Which traces, as of `ArchiveStore.traces`; all without.

    Raises
    ------
    TraceNotFoundError
    InvalidValueError
        Ids and filters are given, or filters that are not possible.
    BusyError
        Another process is optimizing this archive: traces were redacted, and their rows in rollups are hidden;
        do it again.

    Examples
    --------
    >>> import asyncio, traceark
    >>> async def run():
    ...     async with traceark.ArchiveStore("memory://redact") as store:
    ...         await store.create_trace(traceark.Trace(trace_id="run-7", task="write to ann@example.org"))
    ...         await store.update_trace("run-7", status="completed")
    ...         await store.seal("run-7")
    ...         report = await redact(store, dry_run=False)
    ...         return dict(report.replaced), (await store.get_trace("run-7")).task
    >>> asyncio.run(run())
    ({('email', 'trace.task'): 1}, 'write to [redacted:email]')
    """
    if trace_ids is not None and filters:
        raise InvalidValueError("give ids or filters, not both", "trace_ids")
    refuse_spool("redact", store)
    chosen = list(dict.fromkeys(trace_ids)) if trace_ids is not None else await store.trace_ids(**filters)
    redaction = _Redaction(store, patterns or patterns_of(), RedactionReport(dry_run), named=trace_ids is not None)
    return await redaction.run(chosen, progress)


@dataclass(slots=True)
class _Redaction:
    store: ArchiveStore
    patterns: Sequence[Pattern]
    report: RedactionReport
    # Whether the traces were named, so that each must be there.
    named: bool
    # What has a tombstone, perhaps of a redaction that was interrupted.
    buried: set[Buried] = field(default_factory=set)

    async def run(self, chosen: Sequence[str], progress: Progress | None) -> RedactionReport:
        storage, report = self.store.storage, self.report
        if not report.dry_run:
            await self.store.make_ready()
            self.buried = await buried(storage)
        try:
            await self._all(chosen, progress)
        except Exception:  # whatever it is, of what was redacted before it nothing may be left
            await self._purge(chosen)
            raise
        await self._purge(chosen)
        return report

    async def _all(self, chosen: Sequence[str], progress: Progress | None) -> None:
        for number, trace_id in enumerate(chosen, start=1):
            self.report.looked_at += 1
            try:
                await self._one(trace_id)
            except TraceNotFoundError:
                if self.named:
                    raise
            except _OF_ONE_TRACE as error:
                self.report.problems.append(f"trace {trace_id}: {error}; {self._told(trace_id)}")
            if progress is not None:
                progress(number, len(chosen))

    def _told(self, trace_id: str) -> str:
        last = self.report.traces[-1] if self.report.traces else None
        if last is None or last.trace_id != trace_id or not last.replaced or self.report.dry_run:
            return "it was not redacted"
        return "it was redacted, but what it was before may still be there; redact it again"

    async def _one(self, trace_id: str) -> None:
        done = await self._look(trace_id)
        replaced, left = done.redactor.replaced, done.redactor.left
        if not self.report.dry_run and replaced:
            on_a_disk = isinstance(self.store.storage, AppendStorage)
            if not on_a_disk and not await self.store.is_settled(trace_id):
                self.report.problems.append(
                    f"trace {trace_id}: on an object store only a trace that is sealed, and that nobody has open, can "
                    f"be redacted; seal it first, or traceark refresh {self.store.url}"
                )
                return
            done = await self._rewrite(done)
        if replaced or left:
            self.report.traces.append(RedactedTrace(trace_id, done.redactor.replaced, done.redactor.left))
        if not self.report.dry_run:
            await self._tidy(trace_id)

    async def _look(self, trace_id: str) -> Redacted:
        async def read() -> Redacted:
            side = await look(self.store.storage, trace_id)
            if side is None:
                raise TraceNotFoundError(f"no trace {trace_id!r} in {self.store.url}")
            return await redacted(side, self.patterns)

        return await retrying(trace_id, read)

    async def _rewrite(self, done: Redacted) -> Redacted:
        storage, trace_id, prefix = self.store.storage, done.source.trace_id, done.source.prefix
        async with self.store.replacing(trace_id), alone(storage, prefix):
            if await as_compared(storage, prefix, done.source) is None:
                # Somebody wrote to it; from now on nobody does.
                done = await self._look(trace_id)
            source = done.source
            incarnation = source.header.incarnation
            tombstone = Tombstone(trace_id, incarnation, *await state_of(storage, trace_id, source.entries), REASON)
            await storage.replace(tombstone.key, tombstone.encode())
            self.buried.add((trace_id, incarnation))
            try:
                await publish(await done.side(), storage, source.entries, source, check=True)
            except ChangedMeanwhileError:
                now = await look(storage, trace_id)
                if now is not None and now.header.incarnation == incarnation:
                    self.buried.discard((trace_id, incarnation))
                    await storage.delete([tombstone.key])
                    raise
                if now is None:
                    raise
                # It was redacted, and is written to again already.
        return done

    async def _tidy(self, trace_id: str) -> None:
        """Remove what is left of the trace before, also by a redaction that was interrupted, and seal it again."""
        storage = self.store.storage
        if not any(trace_id == each for each, _ in self.buried):
            return
        side = await look(storage, trace_id)
        if side is None:
            return  # deleted meanwhile
        await self.store.remove_unfinished(side.prefix)
        dead = [name for name in side.entries if self._is_dead(name, side)]
        if dead:
            async with self.store.replacing(trace_id), alone(storage, side.prefix):
                await storage.delete(f"{side.prefix}/{name}" for name in dead)
        if side.manifest is None and side.header.trace.status in TERMINAL:
            await self.store.seal(trace_id)

    def _is_dead(self, name: str, side: Side) -> bool:
        directory, _, file = name.rpartition("/")
        parsed = parse_log_name(file) if directory in LOGS else None
        return (
            parsed is not None
            and parsed.incarnation != side.header.incarnation
            and (side.trace_id, parsed.incarnation) in self.buried
        )

    async def _purge(self, chosen: Sequence[str]) -> None:
        """Purge what is derived of the chosen traces as they were before this redaction, and before earlier ones."""
        concerned = {trace_id for trace_id, _ in self.buried} & set(chosen)
        if self.report.dry_run or not concerned:
            return
        purged = await self.store.purge(concerned & await self.store.buried_in_rollups())
        self.report.rollups, self.report.unread = purged.rewritten + purged.removed, list(purged.unread)
