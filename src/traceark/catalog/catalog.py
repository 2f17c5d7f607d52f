"""The catalog of an open archive: rows of all traces in memory, in step with all other processes.

Before a trace is written to, an ``open`` note is published; when that is done, a ``settled`` one
with the new row. So a reader needs no look into directories but for the traces that somebody has
open. Names that come and go by other means are noticed by the stamp of the directory of all
traces, where the storage has one. Everything here can be rebuilt from the directories.
"""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from traceark import database
from traceark.catalog import files
from traceark.catalog.contents import CATALOG, Contents, SnapshotFile, binding_of
from traceark.catalog.known import KnownTraces, Mark
from traceark.catalog.lookup import COPIED, Lookup, with_openings
from traceark.catalog.notes import Note, decode_notes
from traceark.catalog.notices import Notices
from traceark.catalog.report import RefreshReport
from traceark.catalog.rows import damaged, fingerprint
from traceark.catalog.snapshot import SnapshotInfo
from traceark.catalog.table import CatalogTable, RowsLostError
from traceark.errors import CorruptFileError, DamagedTraceWarning, StorageError
from traceark.going_on import going_on
from traceark.layout import TRACES
from traceark.reading import scan_readable
from traceark.storage.base import AppendStorage, KeyExistsError, KeyMissingError, Storage

Answer = TypeVar("Answer")

_ATTEMPTS = 8
_PARALLEL = 64
# A snapshot is made when there are more change files than this, or more traces that no file tells of: whoever begins
# has to read them all. Of a large archive that takes long, so there may be more of them, as a share of all traces. On a
# disk a few change files cost little; on an object store each one is a request.
FOLD_FILES = 256
_SHARE_ON_DISK, _SHARE_ELSEWHERE = 100, 1000
# So many change files this process publishes before it folds them though nobody asks: at least, and at most.
_TOLD_FILES, _MOST_TOLD_FILES = 4_096, 16_384
_SHARE_TOLD = 10
# A directory that changed so lately may change again within the same tick of the file system's clock.
_RACY_SECONDS = 1.0
# For so many processes a snapshot says which change files are folded in; of others all are read again.
_WRITERS = 10_000


class Catalog:
    """The catalog of one archive, as one process sees it.

    Parameters
    ----------
    storage : Storage
        Where the archive is.
    archive_id : callable
        Returns the id in the archive's marker, or None where there is no marker.
    lookup : Lookup
        Reads traces from their directories, or from memory where this process has them open.

    Attributes
    ----------
    notices : Notices
        What this process tells the others.
    """

    def __init__(self, storage: Storage, archive_id: Callable[[], Awaitable[str | None]], lookup: Lookup) -> None:
        self._storage = storage
        self._archive_id = archive_id
        self._lookup = lookup
        self._mutex = asyncio.Lock()
        self._table: CatalogTable | None = None
        self._known: KnownTraces | None = None
        # The snapshot whose rows are known, and what it says of itself.
        self._snapshot: SnapshotFile | None = None
        self._info = SnapshotInfo("", 0)
        self._seen: dict[str, int] = {}
        self._files = 0
        self._folding: asyncio.Task[None] | None = None
        self._share = _SHARE_ON_DISK if isinstance(storage, AppendStorage) else _SHARE_ELSEWHERE
        self.notices = Notices(storage, self.binding, lookup, self._told_others)
        # How many change files of its own were there when it folded last, and with how many more it folds next.
        self._own_folded, self._own_most = 0, _TOLD_FILES

    async def binding(self) -> str:
        """Return what binds derived files to this archive in this place."""
        return binding_of(await self._archive_id() or "", self._storage.location())

    async def begin(self) -> None:
        """Publish the first snapshot of an archive that was just made: all that comes will be told of."""
        if not await self._storage.children(TRACES):
            info = SnapshotInfo(await self.binding(), 1, look=secrets.token_hex(8))
            with suppress(KeyExistsError):
                await files.publish(self._storage, info, CatalogTable().export)

    # Keeping in step

    async def sync(self) -> None:
        """Take in what this and other processes changed since."""
        await self._undisturbed(self._sync)

    async def _undisturbed(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do one thing at a time, and to its end, even where the caller goes away."""

        async def run() -> Answer:
            async with self._mutex:
                try:
                    return await work()
                except RowsLostError:
                    # The snapshot and the directories have them still.
                    self._nothing_known()
                    return await work()

        return await asyncio.shield(going_on(run()))

    async def _sync(self) -> KnownTraces:
        for attempt in range(_ATTEMPTS):
            try:
                known = await self._take_in(last=attempt == _ATTEMPTS - 1)
                break
            except KeyMissingError:
                # Another process folds meanwhile.
                if attempt == _ATTEMPTS - 1:
                    raise
        await self._check_names(known)
        await known.look()
        lacking = max(self._files, known.untold)
        if lacking > FOLD_FILES and lacking > await asyncio.to_thread(known.count) // self._share:
            self._soon(self._fold_if_possible)
        return known

    async def _take_in(self, *, last: bool) -> KnownTraces:
        """Take in a new snapshot, or else what change files tell; look everywhere where they do not tell all."""
        binding = await self.binding()
        contents = await files.contents(self._storage, binding)
        newest = contents.newest
        lost = newest is None and self._snapshot is not None
        if newest is not None and newest != self._snapshot:
            found = await files.opened(self._storage, newest, binding)
            lost = found is None or not (self._adopts(found.info) or await self._load(found))
            if found is not None and not lost:
                self._snapshot = newest
        if (lost or contents.has_gap(self._seen)) and not last:
            # A listing may miss what comes and goes while it is made.
            raise KeyMissingError(f"{self._storage.url}/{CATALOG}: files are missing")
        notes = None
        if not lost and not contents.has_gap(self._seen) and contents.foreign == self._info.foreign:
            notes = await self._read_notes(contents.unseen(self._seen))
        if self._known is None or notes is None:
            return await self._look_everywhere(contents, binding)
        await self._known.apply(notes)
        self._saw(contents)
        return self._known

    def _saw(self, contents: Contents) -> None:
        for writer, end in contents.ends().items():
            # Those that were seen last stand last.
            self._seen[writer] = max(end, self._seen.pop(writer, 0))
        self._files = contents.count

    def _adopts(self, info: SnapshotInfo) -> bool:
        """Whether the rows in memory hold all that a newer snapshot does; if so, go on from there."""
        if self._known is None or info.look != self._info.look:
            return False
        if any(self._seen.get(writer, 0) < number for writer, number in info.folded.items()):
            return False
        self._info = replace(info, stamp=self._info.stamp)
        return True

    async def _load(self, found: files.Snapshot) -> bool:
        """Take the rows of a snapshot; say no where it is damaged."""
        known = self._nothing_known()
        try:
            await known.load(found)
        except FileNotFoundError:
            raise KeyMissingError(f"{found.file.name} is not there any more") from None
        except (CorruptFileError, RowsLostError, *database.ERRORS, pa.ArrowException, OSError):
            return False
        known.strangers = found.info.strangers
        self._known, self._info = known, found.info
        self._seen = dict(found.info.folded)
        return True

    def _nothing_known(self) -> KnownTraces:
        """Begin anew; until that is done, nothing is known, whatever fails."""
        self._known, self._snapshot, self._seen = None, None, {}
        if self._table is None:
            self._table = CatalogTable()
        watches_names = self._storage.stamp(TRACES) is not None
        return KnownTraces(self._table, self._lookup, self.notices.writer, watches_names=watches_names)

    async def _read_notes(self, names: list[str]) -> list[Note] | None:
        """Return the notes of change files; None if one was damaged since it was published."""

        async def one(name: str) -> list[Note]:
            own = self.notices.files.get(name)
            key = f"{CATALOG}/{name}"
            return own if own is not None else decode_notes(await self._storage.read(key), key)

        notes: list[Note] = []
        try:
            for start in range(0, len(names), _PARALLEL):
                for found in await asyncio.gather(*map(one, names[start : start + _PARALLEL])):
                    notes += found
        except CorruptFileError:
            return None  # the directories know
        for name in names:
            self.notices.files.pop(name, None)
        return notes

    async def _check_names(self, known: KnownTraces) -> None:
        """Notice the directories that came and went by other means than notes."""
        stamped = self._storage.stamp(TRACES)
        if stamped is None or stamped[0] == self._info.stamp:
            return
        await known.check_names(await self._storage.children(TRACES))
        self._stamped(stamped)

    def _stamped(self, stamped: tuple[str, float] | None) -> None:
        """Remember the state of the directory of all traces as it was before its names were looked at."""
        self._info = replace(self._info, stamp=stamped[0] if stamped and stamped[1] > _RACY_SECONDS else "")

    # Looking at everything

    async def _look_everywhere(self, contents: Contents, binding: str) -> KnownTraces:
        """Read every directory, and make a new snapshot."""
        known = self._nothing_known()
        told = await self._told(contents)
        stamped = self._storage.stamp(TRACES)
        found, strangers = await self._lookup.everything(self.notices.openings.keys())
        rows = {str(row["trace_id"]): row for row in found}
        for trace_id, ids in (*told.items(), *self.notices.openings.items()):
            row = rows.setdefault(trace_id, {"trace_id": trace_id, "_listed": False, "_openings": []})
            openings = row["_openings"]
            assert isinstance(openings, list)
            with_openings(row, {*map(str, openings), *ids})
        await known.put(list(rows.values()))
        known.strangers = tuple(strangers)
        known.doubted = set(known.open)
        self._info = SnapshotInfo(binding, max((each.generation for each in contents.snapshots), default=0))
        self._info = replace(self._info, look=secrets.token_hex(8), foreign=contents.foreign)
        self._stamped(stamped)
        self._known, self._snapshot = known, contents.newest
        self._saw(contents)
        with suppress(KeyExistsError):  # what another process saw comes with the next call
            await self._fold(known)
        return known

    async def _told(self, contents: Contents) -> dict[str, list[str]]:
        """Return which traces processes say that they have open, as far as it can be read."""
        openings: dict[str, list[str]] = {}
        closed: set[str] = set()
        names = contents.unseen({})
        for start in range(0, len(names), _PARALLEL):
            group = [self._read_notes([name]) for name in names[start : start + _PARALLEL]]
            for note in (note for notes in await asyncio.gather(*group) for note in notes or ()):
                closed.update(note.closes)
                if note.opening:
                    openings.setdefault(note.trace_id, []).append(note.opening)
        still = {each: [opening for opening in ids if opening not in closed] for each, ids in openings.items()}
        return {each: ids for each, ids in still.items() if ids}

    async def refresh(self) -> RefreshReport:
        """Look at every directory, read what is not as it was, and make a new snapshot.

        Traces that nobody writes to any more, though they were never closed, are settled.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self._undisturbed(self._refresh)
            except KeyExistsError:
                continue  # another process folded meanwhile, and does not know what was found
        raise StorageError(f"{self._storage.url}/{CATALOG}: others fold all the while; try again")

    async def _refresh(self) -> RefreshReport:
        known = await self._sync()
        binding = await self.binding()
        abandoned = await self._lookup.abandoned(known.open, self.notices.writer)
        stamped = self._storage.stamp(TRACES)
        listed, strangers, refused = await scan_readable(self._storage)
        before = await asyncio.to_thread(known.table.files)
        fresh = {each for each, entries in listed.items() if before.get(each) != fingerprint(entries)}
        fresh |= {each for each in known.open if each in listed}
        rows = {str(row["trace_id"]): row for row in await self._lookup.listed_rows(listed, sorted(fresh))}
        settled = 0
        await known.put([with_openings(damaged(each, {}, why), ()) for each, why in refused.items()])
        for trace_id, row in rows.items():
            openings = set(known.open.get(trace_id, ()))
            if trace_id in abandoned:
                settled += bool(openings - {COPIED})
                openings = set()
            if isinstance(self._storage, AppendStorage) and not self._lookup.has_arrived(listed[trace_id]):
                openings.add(COPIED)
            with_openings(row, openings)
        there = rows.keys() | (listed.keys() - fresh) | refused.keys()
        await known.remove(list((before.keys() | known.open.keys()) - there))
        await known.put(list(rows.values()))
        known.strangers = tuple(strangers)
        known.doubted = set(known.open)
        contents = await files.contents(self._storage, binding)
        await files.delete(self._storage, contents.elsewhere)
        foreign = (await files.contents(self._storage, binding)).foreign
        self._info = replace(self._info, look=secrets.token_hex(8), foreign=foreign)
        self._stamped(stamped)
        await self._fold(known)
        return RefreshReport(
            traces=len(listed),
            files=sum(map(len, listed.values())),
            read=len(fresh),
            added=sum(each not in before for each in listed),
            removed=sum(each not in listed for each in before),
            settled=settled,
            problems=tuple(known.told_problems()),
        )

    async def forget_gone(self) -> None:
        """Leave no file here that may hold rows of traces that were deleted: fold all, remove what is bound elsewhere.

        Raises
        ------
        StorageError
            The catalog cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self._undisturbed(self._forget_gone)
            except KeyExistsError:
                continue  # another process folded meanwhile, perhaps before the traces went
        raise StorageError(f"{self._storage.url}/{CATALOG}: others fold all the while; try again")

    async def _forget_gone(self) -> None:
        known = await self._sync()
        binding, before = await self.binding(), self._info.generation
        contents = await files.contents(self._storage, binding)
        await files.delete(self._storage, (*contents.elsewhere, *contents.told_elsewhere))
        foreign = (await files.contents(self._storage, binding)).foreign
        self._info = replace(self._info, foreign=foreign)
        await self._fold(known)
        if self._info.generation == before:
            raise StorageError(f"{self._storage.url}/{CATALOG} cannot be written, and may hold what was deleted")

    async def make_room(self) -> None:
        """Delete all that is told here, where a disk is full; who asks next looks everywhere, and makes a snapshot."""
        contents = await files.contents(self._storage, await self.binding())
        await files.delete(self._storage, [each.name for each in contents.snapshots])
        await files.delete(self._storage, contents.unseen({}))
        await files.delete(self._storage, (*contents.elsewhere, *contents.told_elsewhere))

    # Folding

    def _soon(self, fold: Callable[[], Awaitable[None]]) -> None:
        if self._folding is None or self._folding.done():
            self._folding = asyncio.ensure_future(fold())

    async def _fold_if_possible(self) -> None:
        with suppress(StorageError):  # the change files stay, and so does what they tell
            await self.fold()

    def _told_others(self) -> None:
        """Fold what a process tells that goes on and on, and never asks: else whoever does has to read all of it."""
        if self.notices.count - self._own_folded >= self._own_most:
            self._soon(self._fold_told)

    async def _fold_told(self) -> None:
        is_asked = self._known is not None
        with suppress(StorageError):
            contents = await files.contents(self._storage, await self.binding())
            if contents.count < self._own_most // 2:
                # Somebody who asks folds them already.
                self._own_folded = self.notices.count
                return
        await self._fold_if_possible()
        if not is_asked:
            await self._give_back()

    async def fold(self) -> None:
        """Fold all change files into a new snapshot, unless another process just did."""

        async def work() -> None:
            with suppress(KeyExistsError):
                await self._fold(await self._sync())

        await self._undisturbed(work)

    async def _fold(self, known: KnownTraces) -> None:
        """Publish what is known as the next generation, and remove what that supersedes.

        Raises
        ------
        KeyExistsError
            Another process made this generation. Nothing is lost: what it lacks is in change files still.
        """
        # Where nothing can be written, that is not tried again at every turn.
        known.untold = 0
        count = await asyncio.to_thread(known.count)
        self._own_folded, self._own_most = (
            self.notices.count,
            min(max(_TOLD_FILES, count // _SHARE_TOLD), _MOST_TOLD_FILES),
        )
        if await self._archive_id() is None:
            return  # a folder of traces, and no archive yet
        self._seen = dict(list(self._seen.items())[-_WRITERS:])
        info = replace(
            self._info,
            binding=await self.binding(),
            generation=self._info.generation + 1,
            folded=dict(self._seen),
            strangers=tuple(known.strangers),
        )
        published = await files.publish(self._storage, info, known.table.export)
        if published is None:
            return
        contents = await files.contents(self._storage, info.binding)
        if contents.newest is None or contents.newest.generation > info.generation:
            # Others went on from an earlier file of this name; what they do not have must stay.
            raise KeyExistsError(f"{self._storage.url}/{CATALOG}: another process folded meanwhile")
        self._snapshot, self._info = published, info
        known.folded()
        snapshots, changes = contents.superseded_by(info.generation, info.folded)
        await files.delete(self._storage, snapshots)
        await files.delete(self._storage, changes)
        self._files = contents.count - len(changes)

    # Asking

    async def select(
        self, text: str, parameters: Mapping[str, Any], *, where: str | None = None, over: pa.Table | None = None
    ) -> pa.Table:
        """Return the rows that a query over the view `traces` gives, as of now.

        Parameters
        ----------
        text : str
            A SELECT over `traces`, made by this package.
        parameters : mapping
            Bound by name.
        where : str, optional
            A user's condition: only traces that meet it are in the view.
        over : pyarrow.Table, optional
            Rows of that view that stand for those of the same traces.

        Raises
        ------
        QueryError
            DuckDB refused the condition.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """
        return await self._asked(lambda table: table.query(text, parameters, where, over))

    async def fetch(
        self, text: str, parameters: Mapping[str, Any], *, where: str | None = None, over: pa.Table | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the same as `select`, as tuples of Python's values: for few rows that is faster."""
        return await self._asked(lambda table: table.fetch(text, parameters, where, over))

    async def _asked(self, ask: Callable[[CatalogTable], Answer]) -> Answer:
        async def work() -> tuple[Answer, list[str]]:
            known = await self._sync()
            return await asyncio.to_thread(ask, known.table), known.told_problems()

        found, problems = await self._undisturbed(work)
        _warn(problems)
        return found

    async def standing(self, trace_ids: Sequence[str]) -> pa.Table:
        """Return the same rows as `since`, of some traces."""
        return await self._asked(lambda table: table.standing(trace_ids))

    async def parted(self) -> tuple[Path | None, list[str], pa.Table]:
        """Return the rows of the view `traces` in parts, so that a large catalog need not pass through memory.

        Returns
        -------
        snapshot : Path or None
            A Parquet file on a local disk, with more columns than the view.
        masked : list of str
            The traces whose rows there do not count.
        rows : pyarrow.Table
            All other rows of the view.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """

        async def work() -> tuple[Path | None, list[str], pa.Table, list[str]]:
            known = await self._sync()
            path = None
            if self._snapshot is not None:
                path = self._storage.local_path(f"{CATALOG}/{self._snapshot.name}")
            changed = None if path is None else known.unfolded()
            if changed is None:
                path = None
            masked, rows = await asyncio.to_thread(known.table.apart, changed)
            return path, masked, rows, known.told_problems()

        path, masked, rows, problems = await self._undisturbed(work)
        _warn(problems)
        return path, masked, rows

    async def since(self, mark: Mark | None) -> tuple[Mark, list[str] | None, pa.Table]:
        """Return what changed since a mark that an earlier call gave.

        Returns
        -------
        mark : (int, int)
            For the next call.
        trace_ids : list of str or None
            Of the traces that changed; None when all may have.
        rows : pyarrow.Table
            The rows of those that are there and readable, with a column `final`: whether they are
            settled and sealed.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """

        async def work() -> tuple[Mark, list[str] | None, pa.Table, list[str]]:
            known = await self._sync()
            changed = known.changed_since(mark) if mark is not None else None
            return known.mark(), changed, await asyncio.to_thread(known.table.standing, changed), known.told_problems()

        now, changed, rows, problems = await self._undisturbed(work)
        _warn(problems)
        return now, changed, rows

    async def close(self) -> None:
        """Fold where this process left many change files, and give the memory back."""
        if self._folding is not None:
            await self._folding
        if self.notices.count - self._own_folded > FOLD_FILES:
            await self._fold_if_possible()
        await self._give_back()

    async def _give_back(self) -> None:
        """Give the memory back that the rows take; who asks loads them anew."""

        async def work() -> None:
            if self._table is not None:
                self._table.clear()
            self._table, self._known, self._snapshot, self._seen = None, None, None, {}

        await self._undisturbed(work)


def _warn(problems: Iterable[str]) -> None:
    for problem in problems:
        warnings.warn(f"left out: {problem}", DamagedTraceWarning, stacklevel=4)
