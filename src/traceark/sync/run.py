"""Syncing archives: what one lacks is copied from the other, trace by trace.

A sealed trace is compared without its logs. Nothing is overwritten but by a later state of
itself; traces that were written to on both sides are reported as diverged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from traceark.at_a_time import for_each
from traceark.errors import CorruptFileError, DamagedTraceError, InvalidValueError, UnsupportedFormatError
from traceark.filters import Filters
from traceark.layout import GOAL_TREE, HEADER, TRACES, trace_key
from traceark.redaction import Pattern
from traceark.storage.base import AppendStorage, Entry, KeyMissingError
from traceark.storage.staging import remove_abandoned
from traceark.store import ArchiveStore
from traceark.sync import disk
from traceark.sync.both import is_own_side, keep_both, may_be_kept
from traceark.sync.burials import Burials, carried
from traceark.sync.carry import carry, make_lasting, take_back
from traceark.sync.compared import compared
from traceark.sync.listing import Listing, is_same, listing
from traceark.sync.putting import ChangedMeanwhileError
from traceark.sync.redacted import how_redacted, redacted
from traceark.sync.report import SyncedTrace, SyncReport
from traceark.sync.sides import UnreadableError, look, look_at_once, reading
from traceark.sync.still import files_of, stand_still

# Called with traces done, of how many, and bytes written so far.
Progress = Callable[[int, int, int], None]
_AT_A_TIME = 16
# A trace that goes on changing is tried again for so long, and so often where once takes longer than that.
_PATIENT_SECONDS, _TRIES = 30.0, 8
# What keeps one trace from being copied, and no other.
_ONLY_ITS_OWN = (
    DamagedTraceError,
    UnsupportedFormatError,
    ChangedMeanwhileError,
    KeyMissingError,
    UnreadableError,
)


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How to sync.

    Attributes
    ----------
    dry_run : bool
        Compare only.
    delete : bool
        Delete at the target what the source does not have, and bury there what is buried at the source; not
        what is pinned at the target.
    keep_both : bool
        Store the source's side of a trace that diverged beside the target's, under an id of its own.
    check : bool
        Read back what was written.
    sync_each : bool
        Between local disks, sync each file of a new trace by itself; else the file systems, once for many traces.
    redact : sequence of Pattern
        What these find is replaced in the copies; the source stays as it is. Each trace is read for it, every time.
    """

    dry_run: bool = False
    delete: bool = False
    keep_both: bool = False
    check: bool = True
    sync_each: bool = True
    redact: Sequence[Pattern] = ()


async def sync(
    source: ArchiveStore,
    target: ArchiveStore,
    options: SyncOptions | None = None,
    *,
    progress: Progress | None = None,
    **filters: Unpack[Filters],
) -> SyncReport:
    """Copy to `target` what it lacks of `source`, as both are now; either may be written to meanwhile.

    Parameters
    ----------
    source, target : ArchiveStore
    options : SyncOptions, optional
    progress : callable, optional
    **filters
        Which traces, as `ArchiveStore.traces` takes them; all without.

    Returns
    -------
    SyncReport

    Raises
    ------
    InvalidValueError
        Both are the same archive, one is opened with a spool, or `delete` is asked for with filters.
    StorageError
        One of them cannot be read or written.

    Examples
    --------
    >>> import asyncio, traceark
    >>> async def run():
    ...     async with traceark.ArchiveStore("memory://here") as here, traceark.ArchiveStore("memory://there") as there:
    ...         await here.create_trace(traceark.Trace(trace_id="run-9"))
    ...         first, again = await sync(here, there), await sync(here, there)
    ...         return dict(first.outcomes), dict(again.outcomes)
    >>> asyncio.run(run())
    ({'new': 1}, {'same': 1})
    """
    options = options or SyncOptions()
    if source.url == target.url:
        raise InvalidValueError(f"{source.url} is the source and the target")
    refuse_spool("sync", source, target)
    if options.delete and filters:
        raise InvalidValueError("with filters it cannot be told what the source does not have; sync without them")
    chosen = await source.trace_ids(**filters) if filters else None
    if not options.dry_run:
        await target.make_ready()
    return await _Sync(source, target, options, progress).run(chosen)


def refuse_spool(verb: str, *stores: ArchiveStore) -> None:
    """Refuse stores of which a part lies elsewhere.

    Raises
    ------
    InvalidValueError

    Examples
    --------
    >>> refuse_spool("sync", ArchiveStore("memory://plain"))
    """
    for store in stores:
        if store.url != store.storage.url:
            raise InvalidValueError(
                f"the store of {store.url} has a spool; {verb} the archive and {store.storage.url} each by itself"
            )


async def sync_trace(
    source: ArchiveStore, target: ArchiveStore, trace_id: str, options: SyncOptions | None = None
) -> SyncedTrace | None:
    """Copy one trace to `target`, as `sync` does, without a look at any other; None where `source` has none.

    Raises
    ------
    DamagedTraceError, UnsupportedFormatError
        It cannot be compared or copied.
    StorageError
    """
    await target.make_ready()
    return await _Sync(source, target, options or SyncOptions(), None).one(trace_id)


@dataclass(slots=True)
class _Sync:
    source: ArchiveStore
    target: ArchiveStore
    options: SyncOptions
    progress: Progress | None
    report: SyncReport = field(default_factory=SyncReport)
    _done: int = 0
    # Of traces that were begun to be copied to where there was none, which files.
    _begun: dict[str, set[str]] = field(default_factory=dict)
    _burials: Burials = field(init=False)

    def __post_init__(self) -> None:
        self._burials = Burials(self.target.storage)

    async def run(self, chosen: list[str] | None) -> SyncReport:
        gone: set[str] = set()
        pinned: set[str] = set()
        if self.options.delete:
            pinned = await self.target.pinned()
            gone = await self._carry_tombstones(pinned)
        ours, theirs = await listing(self.source.storage), await listing(self.target.storage)
        await self._burials.read()
        for key in ours.strangers:
            self.report.problems.append(f"{self.source.url}/{TRACES}/{key}: its name is no trace key; it was left")
        wanted = sorted(ours.traces if chosen is None else ours.traces.keys() & set(chosen))
        total = len(wanted)
        wanted = await self._on_disk(wanted, theirs)

        async def one(trace_id: str) -> None:
            await self._one(trace_id, ours, theirs)
            self._advance(1, total)

        await for_each(wanted, one, _AT_A_TIME)
        if self.options.delete:
            for trace_id in sorted(theirs.traces.keys() - ours.traces.keys() - gone):
                await self._drop(trace_id, is_pinned=trace_id in pinned)
        self.report.traces.sort(key=lambda trace: trace.trace_id)
        self.report.problems.sort()
        return self.report

    async def _carry_tombstones(self, pinned: set[str]) -> set[str]:
        """Bury at the target what is buried at the source; return what that deletes."""
        told = carried(self.source, self.target, pinned, self.report.problems, dry_run=self.options.dry_run)
        gone = {trace_id async for trace_id in told}
        for trace_id in gone:
            self._told(SyncedTrace(trace_id, "deleted"))
        return gone

    async def _drop(self, trace_id: str, *, is_pinned: bool) -> None:
        """Delete at the target what the source does not have."""
        try:
            if not is_pinned and not self.options.dry_run:
                with reading(self.target.storage):
                    await self.target.drop_copy(trace_id)
            self._told(SyncedTrace(trace_id, "pinned" if is_pinned else "deleted"))
        except UnreadableError as error:
            self._failed(trace_id, error, "deleted")

    def _failed(self, trace_id: str, error: Exception, deed: str) -> None:
        self.report.outcomes["failed"] += 1
        self.report.problems.append(f"trace {trace_id}: {error}; it was not {deed}")

    def _advance(self, done: int, total: int) -> None:
        self._done += done
        if self.progress is not None:
            self.progress(self._done, total, self.report.copied_bytes)

    async def _on_disk(self, wanted: Sequence[str], theirs: Listing) -> list[str]:
        """Take what is plain between two local disks; return what is left."""
        source, target = self.source.storage, self.target.storage
        here, there = source.local_path(""), target.local_path("")
        if here is None or there is None or not isinstance(target, AppendStorage) or self.options.redact:
            return list(wanted)
        ids = {trace_key(trace_id): trace_id for trace_id in wanted}
        known = [key for key, trace_id in ids.items() if trace_id in theirs.traces]
        same = await asyncio.to_thread(lambda: list(disk.same_sealed(here, there, known)))
        if same:
            self.report.outcomes["same"] += len(same)
        self._advance(len(same), len(ids))
        left = set(ids) - set(same)
        if not self.options.dry_run:
            target.make_directory(TRACES)
            # Traces that a sync had moved there may be told of now that was killed before their names lasted.
            await target.sync_names(TRACES)
            await asyncio.to_thread(remove_abandoned, there)
            concerned = {key for key in left if self._burials.concern(ids[key]) or may_be_kept(ids[key])}
            plain = sorted(left - set(known) - concerned)
            left -= await self._copied_plainly(here, there, plain, ids)
        return [ids[key] for key in sorted(left)]

    async def _copied_plainly(self, here: Path, there: Path, keys: Sequence[str], ids: Mapping[str, str]) -> set[str]:
        """Copy traces from one local disk to another that are missing there; return the keys of those it could."""
        copied: set[str] = set()
        if not keys:
            return copied
        with ExitStack() as stack:
            try:
                copying = stack.enter_context(
                    disk.copying(here, there, sync_each=self.options.sync_each, check=self.options.check)
                )
            except (OSError, CorruptFileError):
                return copied  # each trace by itself tells why, if it cannot be copied either
            copies = copying.all_of(keys)
            while taken := await asyncio.to_thread(next, copies, None):
                written = {key: size for key, size in taken.items() if size is not None}
                for key, size in written.items():
                    self._told(SyncedTrace(ids[key], "new", copied_bytes=size))
                copied |= written.keys()
                self._advance(len(written), len(ids))
        return copied

    def _told(self, trace: SyncedTrace) -> None:
        self.report.outcomes[trace.outcome] += 1
        if trace.outcome != "same":
            self.report.traces.append(trace)

    async def _one(self, trace_id: str, ours: Listing, theirs: Listing) -> None:
        try:
            if not self.options.redact and await is_same(trace_id, ours, theirs):
                self.report.outcomes["same"] += 1
                return
            outcome = await self.one(trace_id, ours.files(trace_id), theirs.files(trace_id))
            if outcome is not None:
                self._told(outcome)
        except _ONLY_ITS_OWN as error:
            self._failed(trace_id, error, "copied")

    async def one(
        self, trace_id: str, ours: Mapping[str, Entry] | None = None, theirs: Mapping[str, Entry] | None = None
    ) -> SyncedTrace | None:
        """Bring one trace to the target, again as long as it changes meanwhile.

        Given its files on both sides as they were listed a while ago, if they were, it lists no more than it has to.
        """
        begin, delay = time.monotonic(), 0.001
        damaged: tuple[str, object] | None = None
        tries = 0
        while True:
            tries += 1
            is_over = tries >= _TRIES and time.monotonic() - begin > _PATIENT_SECONDS
            try:
                return await self._compare_and_copy(trace_id, ours, theirs)
            except (ChangedMeanwhileError, KeyMissingError):
                # Whoever writes may compact more than once while it is copied.
                if is_over:
                    raise
            except DamagedTraceError as error:
                # Somebody may be in the middle of replacing its files: what is damaged stands still.
                before, damaged = damaged, (str(error), await files_of(trace_id, self.source, self.target))
                if damaged == before or is_over:
                    raise
            ours = theirs = None
            # Two that met must not meet again.
            await asyncio.sleep(delay * random.uniform(1, 2))
            delay = min(delay * 2, 0.1)

    async def _compare_and_copy(
        self, trace_id: str, ours: Mapping[str, Entry] | None, theirs: Mapping[str, Entry] | None
    ) -> SyncedTrace | None:
        there, free = None, None
        if theirs is not None and HEADER not in theirs:
            free = theirs  # whoever makes the trace meanwhile has its files first
        else:
            there = await look(self.target.storage, trace_id, theirs)
        # After the target: what another sync brings there meanwhile is not more than is seen here.
        side = await look_at_once(self.source.storage, trace_id, ours)
        if side is None:  # deleted meanwhile
            if there is None and trace_id in self._begun:
                await take_back(self.target.storage, trace_id, self._begun[trace_id])
            return None
        if there is None and await is_own_side(side, self.target.storage):
            return SyncedTrace(trace_id, "same", "it is the target's own side of a trace that diverged")
        if self.options.redact:
            side = await (await redacted(side, self.options.redact)).side()
        if await self._burials.forbid(side, there, as_listed=free is not None):
            told = how_redacted(side.header, there.header) if there is not None else None
            return SyncedTrace(trace_id, "buried", told or "")
        found = await compared(side, there)
        told_apart = found.outcome == "diverged" and not self.options.dry_run
        if told_apart and not await stand_still(side, there, self.source.storage):
            raise ChangedMeanwhileError(f"trace {trace_id!r} is written to on both sides; sync again")
        if told_apart and self.options.keep_both:
            kept_as = await keep_both(side, self.target, found.side)
            return SyncedTrace(trace_id, "diverged", found.where, kept_as=kept_as)
        if there is not None and found.outcome in ("same", "behind") and not self.options.dry_run:
            await make_lasting(self.target.storage, there.prefix, there.entries.keys())
        if found.outcome not in ("new", "forward") or self.options.dry_run:
            return SyncedTrace(trace_id, found.outcome, found.where)
        is_sealed = side.manifest is not None
        # A sealed trace whose manifest alone is missing there, as after a kill, is made whole as it is.
        is_begun = is_sealed and there is not None and there.header_data == side.header_data
        if there is not None and not is_begun and there.header.revision >= side.header.revision:
            side = side.above(there.header.revision)
        if there is None:
            self._begun.setdefault(trace_id, set()).update((*side.log_files(), GOAL_TREE))
        async with self.target.replacing(trace_id):
            written = await carry(side, self.target.storage, there, check=self.options.check, listed=free)
        if is_sealed and side.manifest is None:
            await self.target.seal(trace_id)
        return SyncedTrace(trace_id, found.outcome, copied_bytes=written)
