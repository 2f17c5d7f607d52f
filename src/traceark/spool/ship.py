"""Shipping: what a spool holds is brought to its archive, trace by trace, and then removed from the spool.

Each trace is copied as `sync` copies it: later states of itself only, checked, and killed anywhere
it goes on. It knows nothing of threads and of waiting; `background` and the command line drive it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from traceark.at_a_time import for_each
from traceark.errors import (
    BusyError,
    DamagedTraceError,
    DivergedTraceError,
    StorageError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.layout import MANIFEST, tombstone_key
from traceark.lifecycle import remove_remains, versions
from traceark.models import TERMINAL
from traceark.pending import SpoolStatus
from traceark.spool.anew import notes, notes_of
from traceark.spool.place import NO_MARK, Mark, Place, SpooledTrace
from traceark.storage.base import KeyMissingError, VersionMismatchError
from traceark.store import ArchiveStore
from traceark.sync import SyncedTrace, SyncOptions, sync_trace
from traceark.sync.burials import carried
from traceark.sync.compare import compare, compare_contents
from traceark.sync.putting import ChangedMeanwhileError, is_md5
from traceark.sync.sides import Side, look

log = logging.getLogger("traceark.spool")
_AT_A_TIME = 8
# A sealed trace is left for so long, since it may have been fetched to be written to.
_STILL_SECONDS = 2.0
# A trace that is written to is not shipped again before this many times as long as it took.
_PACE = 4.0
# One that cannot be shipped is tried again after this.
_AGAIN_SECONDS = 30.0
# Another machine that writes the same trace is out of the way after so many of these.
_MEETINGS, _MEETING_SECONDS = 4, 0.25
# Segments of more than this are compacted before they are shipped.
_SEGMENT_BYTES = 4 << 20
_KEEP_BOTH = SyncOptions(keep_both=True)


class Shipper:
    """Ships one spool; only one may do so at a time.

    Parameters
    ----------
    place : Place
    spool, target : ArchiveStore
        The spool as an archive, and the archive that it is shipped to.
    """

    def __init__(self, place: Place, spool: ArchiveStore, target: ArchiveStore) -> None:
        self._place = place
        self._spool = spool
        self._target = target
        self._not_before: dict[str, float] = {}
        # Problems that were logged.
        self._told: dict[str, str] = {}

    async def round(self, *, hurry: bool = False) -> bool:
        """Ship what waits, and remove what is finished; say whether nothing waits that can be shipped.

        Parameters
        ----------
        hurry : bool
            Also what was shipped a moment ago.

        Raises
        ------
        StorageError
            The archive cannot be reached, or not be written to.
        """
        await self._bury()
        added, now = await notes(self._place.storage), time.monotonic()
        waiting = [trace for trace in await self._place.traces() if not trace.is_shipped]
        due = [trace for trace in waiting if hurry or self._not_before.get(trace.trace_id, 0.0) <= now]
        await for_each(due, self._ship, _AT_A_TIME)
        traces = await self._place.traces()
        shipped = {each.trace_id for each in traces if each.is_shipped}
        await self._place.storage.delete(each.key for each in added if each.trace_id in shipped)
        still = time.time() - _STILL_SECONDS
        done = [each for each in traces if each.is_shipped and MANIFEST in each.entries and each.written_at < still]
        await for_each(done, self._remove, _AT_A_TIME)
        return all(trace.is_settled for trace in traces)

    async def finish(self) -> None:
        """Ship and remove everything, for when nobody uses the spool any more; raises as `round` does."""
        for trace in await self._place.traces():
            if MANIFEST not in trace.entries:
                await self._seal_finished(trace.trace_id)
        await self.round(hurry=True)
        shipped = [trace for trace in await self._place.traces() if trace.is_shipped]
        await for_each(shipped, self._remove, _AT_A_TIME)
        known = set(await self._place.trace_ids())
        left = [each.key for each in await notes(self._place.storage) if each.trace_id not in known]
        await self._place.storage.delete(left)
        for trace_id in await self._place.remains():
            await remove_remains(self._place.storage, trace_id)
            await self._place.drop_mark(trace_id)

    async def _seal_finished(self, trace_id: str) -> None:
        """Seal a trace whose writer ended before it did so."""
        with suppress(DamagedTraceError, UnsupportedFormatError, TraceNotFoundError):  # shipping it tells
            found = await self._spool.get_trace(trace_id)
            if found is not None and found.status in TERMINAL:
                await self._spool.seal(trace_id)

    async def _bury(self) -> None:
        """Delete at the target what was deleted here while it may have been there."""
        told = await self._place.deletions()
        if not told:
            return
        problems: list[str] = []
        await self._target.make_ready()
        _ = [each async for each in carried(self._spool, self._target, set(), problems, dry_run=False)]
        for problem in problems:
            log.warning("%s: %s", self._place.directory, problem)
        if not problems:
            await self._spool.storage.delete(tombstone_key(*each) for each in told)

    async def _ship(self, trace: SpooledTrace) -> None:
        begin, looked_at = time.monotonic(), time.time()
        trace_id, kept_as, problem = trace.trace_id, None, None
        ends = await self._place.ends(trace_id, trace.entries)
        try:
            if trace.segment_bytes > _SEGMENT_BYTES:
                # Of a part only its name is looked at, so that what it costs to ship more does not grow.
                await self._spool.compact(trace_id)
            done = await self._synced(trace_id)
            if done is not None and done.outcome == "buried" and await self._exhume(trace_id):
                done = await self._synced(trace_id)
            if done is None:
                return  # deleted meanwhile
            kept_as = done.kept_as
            if done.outcome == "buried":
                problem = f"it was deleted at {self._target.url}; delete it here too, or import it there"
        except DamagedTraceError as error:
            # A file is named by its key, which it has on both sides.
            problem = f"here or at {self._target.url} it is damaged: {error}"
        except (UnsupportedFormatError, ChangedMeanwhileError, KeyMissingError) as error:
            problem = str(error)
        if kept_as is not None and (trace.mark is None or trace.mark.kept_as != kept_as):
            told = "trace %s diverged: it was written to in the spool %s and at %s; the spool's side is kept as %s"
            log.warning(told, trace_id, self._place.directory, self._target.url, kept_as)
        files = {name: (trace.entries[name].size, version) for name, version in versions(trace.entries).items()}
        await self._tell(trace, Mark(files, ends, looked_at, kept_as, problem))
        took = time.monotonic() - begin
        self._not_before[trace_id] = time.monotonic() + (_PACE * took if problem is None else _AGAIN_SECONDS)

    async def _synced(self, trace_id: str) -> SyncedTrace | None:
        for attempt in range(_MEETINGS):
            try:
                return await sync_trace(self._spool, self._target, trace_id, _KEEP_BOTH)
            except DivergedTraceError:
                # Two that write the same offsets see each other, and one takes back what it wrote.
                await asyncio.sleep(_MEETING_SECONDS * random.uniform(attempt, attempt + 1))
        return await sync_trace(self._spool, self._target, trace_id, _KEEP_BOTH)

    async def _exhume(self, trace_id: str) -> bool:
        """Delete the target's tombstone of a run that was added anew here; say whether there was such a run."""
        side = await look(self._spool.storage, trace_id)
        added = {each.incarnation for each in await notes_of(self._place.storage, trace_id)}
        if side is None or side.header.incarnation not in added:
            return False
        if await look(self._target.storage, trace_id) is not None:
            return False  # what is there now, perhaps redacted, has taken its place
        await self._target.storage.delete([tombstone_key(trace_id, side.header.incarnation)])
        return True

    async def _tell(self, trace: SpooledTrace, mark: Mark) -> None:
        """Set a mark, and say what is wrong, if it was not said before."""
        if mark.problem is not None and mark.problem != self._told.get(trace.trace_id):
            log.warning("trace %s in %s is not shipped: %s", trace.trace_id, self._place.directory, mark.problem)
            self._told[trace.trace_id] = mark.problem
        await self._place.set_mark(trace.trace_id, mark)

    async def _remove(self, trace: SpooledTrace) -> None:
        """Remove a trace that is at the target as it is here; a write that comes first keeps it."""
        trace_id, entries = trace.trace_id, trace.entries
        side, there = await look(self._spool.storage, trace_id), await look(self._target.storage, trace_id)
        if side is None or versions(side.entries) != versions(entries):
            return
        kept_as, problem = trace.mark.kept_as if trace.mark is not None else None, None
        try:
            is_there = await self._is_kept(side, kept_as) if kept_as is not None else await _is_copied(side, there)
        except DamagedTraceError as error:
            is_there, problem = False, str(error)
        if there is None and kept_as is None:
            await self._place.drop_mark(trace_id)
            return
        if not is_there:
            told = f"what {self._target.url} holds of it is not what is here; traceark verify says more"
            await self._tell(trace, replace(trace.mark or NO_MARK, problem=f"{told} ({problem})" if problem else told))
            return
        with suppress(VersionMismatchError, TraceNotFoundError):
            # Of a deletion that was killed before the trace went: it must not count now that the trace goes.
            await self._spool.storage.delete([tombstone_key(trace_id, side.header.incarnation)])
            await self._spool.drop_copy(trace_id, as_of=entries)
            await self._place.drop_mark(trace_id)
            self._not_before.pop(trace_id, None)
            self._told.pop(trace_id, None)

    async def _is_kept(self, side: Side, kept_as: str) -> bool:
        """Say whether all records of one that diverged are in the trace that it is kept as."""
        other = await look(self._target.storage, kept_as)
        if other is None:
            return False
        ours, theirs = await side.content(), await other.content()
        ids = {record["message_id"] for record in theirs.messages}
        return all(record["message_id"] in ids for record in ours.messages) and len(theirs.events) >= len(ours.events)


async def ship(
    directory: str | Path, *, storage_options: Mapping[str, Any] | None = None, allow_unsafe_writes: bool = False
) -> SpoolStatus:
    """Ship all of a spool now, as after a crash, without a store that writes to it; return what is left.

    Parameters
    ----------
    directory : str or Path
    storage_options, allow_unsafe_writes
        Of the archive, as for `ArchiveStore`; its URL the spool knows.

    Raises
    ------
    SpoolError
        The directory is no spool.
    BusyError
        Another process ships it.
    StorageError
        The archive cannot be reached, or not be written to.

    Examples
    --------
    >>> import asyncio, tempfile, traceark
    >>> async def run(directory):
    ...     store = traceark.ArchiveStore("memory://ship", spool=directory)
    ...     await store.create_trace(traceark.Trace(trace_id="run-7"))
    ...     await store.close()
    ...     return (await ship(directory)).is_empty
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     asyncio.run(run(directory))
    True
    """
    place = Place(Path(directory).expanduser().absolute())
    url = place.url()
    lock = place.try_shipping()
    if lock is None:
        raise BusyError(f"another process ships {directory}; it needs no help")
    try:
        target = ArchiveStore(url, storage_options=storage_options, allow_unsafe_writes=allow_unsafe_writes)
        async with ArchiveStore(place.directory) as spool, closing(target):
            shipper = Shipper(place, spool, target)
            await shipper.round(hurry=True)
            if not await place.is_used():
                await shipper.finish()
            await place.set_error(None)
    finally:
        lock.close()
    return await place.status()


@asynccontextmanager
async def closing(target: ArchiveStore) -> AsyncIterator[ArchiveStore]:
    """Close an archive at the end, whether it can be reached then or not: others find out what it does not tell."""
    try:
        yield target
    finally:
        with suppress(StorageError, ExceptionGroup):
            await target.close()


async def _is_copied(side: Side, there: Side | None) -> bool:
    """Say whether a trace at the target holds all that the spool's does, byte for byte or by what it says."""
    if there is None:
        return False
    if side.header.incarnation != there.header.incarnation:
        return await _says_as_much(side, there)
    if compare(await side.copy(), await there.copy()).outcome not in ("same", "behind"):
        return False
    for name in side.log_files():
        if not await _has_file(side, there, name):
            return await _says_as_much(side, there)
    return True


async def _says_as_much(side: Side, there: Side) -> bool:
    return compare_contents(await side.content(), await there.content()).outcome in ("same", "behind")


async def _has_file(side: Side, there: Side, name: str) -> bool:
    key = f"{side.prefix}/{name}"
    if name not in there.entries:
        return False
    data = await side.storage.read(key)
    if is_md5(there.entries[name].version, data):
        return True
    try:
        return (await there.storage.read(key)).startswith(data)
    except KeyMissingError:
        return False
