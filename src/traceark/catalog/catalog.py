"""The catalog of an open archive: rows of all traces in memory, in step with all other processes.

Before a trace is written to, an ``open`` note is published; when that is done, a ``settled`` one
with the new row. So a reader needs no look into directories but for the traces that somebody has
open. Names that come and go by other means are noticed by the stamp of the directory of all
traces, where the storage has one. Everything here can be rebuilt from the directories.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa

from traceark.catalog import files as on_storage
from traceark.catalog.contents import CATALOG, Contents, binding_of, contents_of
from traceark.catalog.lookup import COPIED, Lookup, with_openings
from traceark.catalog.notes import Note, changed, decode_notes
from traceark.catalog.notices import Notices
from traceark.catalog.report import RefreshReport
from traceark.catalog.rows import DAMAGED, OPEN, fingerprint
from traceark.catalog.snapshot import (
    SnapshotInfo,
    parse_snapshot_name,
)
from traceark.catalog.table import CatalogTable
from traceark.errors import CorruptFileError, DamagedTraceWarning
from traceark.layout import TRACES, trace_id_of
from traceark.models import JsonObject
from traceark.reading import scan
from traceark.storage.base import KeyMissingError, Storage

Mark = tuple[int, int]
_ATTEMPTS = 8
_PARALLEL = 64
# Change files are folded into a snapshot when there are more than this, or than a thousandth of the traces.
FOLD_FILES = 256
# A directory that changed so lately may change again within the same tick of the file system's clock.
_RACY_SECONDS = 1.0


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
        self._table: CatalogTable | None = None
        self._mutex = asyncio.Lock()
        self._info = SnapshotInfo("", 0)
        self._seen: dict[str, int] = {}
        self._stamp = ""
        self._foreign = ""
        self._open: dict[str, list[str]] = {}
        # The traces that changed, in order, since all of them may have.
        self._epoch = 0
        self._log: list[str] = []
        self._closed: set[str] = set()
        self._strangers: list[str] = []
        self._problems: dict[str, str] = {}
        # Traces whose directories were seen to be gone: what this process has in memory of them is no proof.
        self._absent: set[str] = set()
        self._files = 0
        self._folding: asyncio.Task[None] | None = None
        # Whether the storage tells when a directory comes or goes.
        self._watches_names = storage.stamp(TRACES) is not None
        self.notices = Notices(storage, self._binding, lookup)

    async def _binding(self) -> str:
        return binding_of(await self._archive_id() or "", self._storage.location())

    # Keeping in step

    async def sync(self) -> None:
        """Take in what this and other processes changed since."""
        async with self._mutex:
            await self._sync()
        if self._files > FOLD_FILES and self._files > self._rows() // 1000:
            self._fold_soon()

    def _fold_soon(self) -> None:
        if self._folding is None or self._folding.done():
            self._folding = asyncio.ensure_future(self.fold())

    async def _sync(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._take_in(last=attempt == _ATTEMPTS - 1)
                break
            except KeyMissingError:
                if attempt == _ATTEMPTS - 1:
                    raise
        await self._check_names()
        await self._look_at_open()

    async def _take_in(self, *, last: bool) -> None:
        binding = await self._binding()
        contents = contents_of(await self._storage.list(CATALOG), binding)
        newest = contents.generations[0] if contents.generations else None
        if self._table is None or newest is None or newest[0] != self._info.generation:
            info = await on_storage.newest(self._storage, contents, binding)
            if info is None and (self._table is None or self._info.generation):
                await self._look_everywhere(contents, binding)
                return
            if info is not None and self._adopts(info):
                self._info = info
            elif info is not None:
                await self._load(info)
        gap = contents.has_gap(self._seen)
        if gap and not last:
            # A listing may miss what comes while it is made.
            raise KeyMissingError(f"{self._storage.url}/{CATALOG}: a change file is missing")
        notes = None
        if not gap and contents.foreign == self._foreign:
            notes = await self._read_notes(contents, self._seen)
        if notes is None:
            await self._look_everywhere(contents, binding)
            return
        await self._apply(notes)
        self._seen |= contents.ends()
        self._files = contents.count

    def _adopts(self, info: SnapshotInfo) -> bool:
        """Whether the rows in memory hold all that a newer snapshot does."""
        return (
            self._table is not None
            and info.look == self._info.look
            and all(self._seen.get(writer, 0) >= number for writer, number in info.folded.items())
        )

    async def _load(self, info: SnapshotInfo) -> None:
        source = await on_storage.rows(self._storage, info)
        table = self._table or CatalogTable(self._storage.local_path(CATALOG))
        await asyncio.to_thread(table.load, source)
        self._table = table
        self._info = info
        self._seen = dict(info.folded)
        self._stamp, self._foreign = info.stamp, info.foreign
        self._epoch += 1
        self._log.clear()
        self._closed.clear()
        found = table.query("SELECT trace_id, _openings FROM catalog WHERE _state IN ('open', 'damaged')")
        self._open = {row["trace_id"]: row["_openings"] for row in found.to_pylist()}
        found = table.query("SELECT trace_id, _problem FROM catalog WHERE _problem IS NOT NULL")
        self._problems = {row["trace_id"]: row["_problem"] for row in found.to_pylist()}

    async def _read_notes(self, contents: Contents, seen: Mapping[str, int]) -> list[Note] | None:
        """Return the notes past those seen; None if one was damaged since it was published."""

        async def one(name: str) -> list[Note]:
            own = self.notices.files.get(name)
            key = f"{CATALOG}/{name}"
            return own if own is not None else decode_notes(await self._storage.read(key), key)

        names = [name for files in contents.unseen(seen).values() for name in files]
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

    async def _apply(self, notes: Sequence[Note]) -> None:
        assert self._table is not None
        by_trace: dict[str, list[Note]] = {}
        for note in notes:
            by_trace.setdefault(note.trace_id, []).append(note)
            self._closed.update(note.closes)
        if not by_trace:
            return
        known = await asyncio.to_thread(self._table.rows, list(by_trace))
        rows = [changed(known.get(trace_id), group, self._closed) for trace_id, group in by_trace.items()]
        if self._watches_names:
            # A trace that nothing was known of may have been removed by hand since.
            for row in rows:
                if row["_listed"] and row["trace_id"] not in known:
                    with_openings(row, [*cast("list[str]", row["_openings"]), COPIED])
        await self._put(rows)

    async def _put(self, rows: Sequence[JsonObject]) -> None:
        assert self._table is not None
        if rows:
            await asyncio.to_thread(self._table.put, rows)
        for row in rows:
            trace_id = str(row["trace_id"])
            self._log.append(trace_id)
            self._problems.pop(trace_id, None)
            if row.get("_problem") is not None:
                self._problems[trace_id] = str(row["_problem"])
            # A damaged trace may be mended; where looking is cheap, it is looked at again.
            if row["_state"] == OPEN or (row["_state"] == DAMAGED and self._watches_names):
                self._open[trace_id] = cast("list[str]", row["_openings"])
            else:
                self._open.pop(trace_id, None)
                self._lookup.forget(trace_id)

    async def _check_names(self) -> None:
        """Notice the directories that came and went by other means than notes."""
        stamped = self._storage.stamp(TRACES)
        if stamped is None or stamped[0] == self._stamp:
            return
        assert self._table is not None
        keys = await self._storage.children(TRACES)
        ids = {key: trace_id_of(key) for key in keys}
        self._strangers = [key for key, trace_id in ids.items() if trace_id is None]
        present = [trace_id for trace_id in ids.values() if trace_id is not None]
        new, missing = await asyncio.to_thread(self._table.names_apart, present)
        await self._remove(missing)
        await self._put([with_openings(row, [COPIED]) for row in await self._lookup.rows(new)])
        self._absent |= self._open.keys() - set(present)
        self._stamp = stamped[0] if stamped[1] > _RACY_SECONDS else ""

    async def _remove(self, missing: Sequence[str]) -> None:
        """Drop the rows of traces that are not there, but for what is known of who is about to write to them."""
        assert self._table is not None
        held = {each: set(self._open.get(each, ())) - {COPIED} for each in missing}
        await asyncio.to_thread(self._table.remove, missing)
        self._log += missing
        for each in missing:
            self._open.pop(each, None)
            self._problems.pop(each, None)
            self._lookup.forget(each)
        await self._put([with_openings({"trace_id": each, "_listed": False}, ids) for each, ids in held.items() if ids])

    async def _look_at_open(self) -> None:
        """Bring the rows of traces that somebody has open up to date."""
        assert self._table is not None
        changed_rows = await self._lookup.changed_rows(
            {each: each not in self._absent and self._is_own(ids) for each, ids in self._open.items()}
        )
        if not changed_rows:
            return
        self._absent -= {each for each, row in changed_rows.items() if row is not None}
        known = await asyncio.to_thread(self._table.rows, list(changed_rows))
        await self._put([self._lookup.merged(known.get(each), row, each) for each, row in changed_rows.items()])

    def _is_own(self, openings: Sequence[str]) -> bool:
        """Whether nobody but this process has a trace open."""
        return all(opening.startswith(self.notices.writer) for opening in openings)

    async def _look_everywhere(self, contents: Contents, binding: str) -> None:
        """Read every directory, and make a new snapshot."""
        notes = await self._read_notes(contents, {}) or []
        closed = {opening for note in notes for opening in note.closes}
        openings: dict[str, list[str]] = {each: list(ids) for each, ids in self.notices.openings.items()}
        for note in notes:
            if note.opening and note.opening not in closed:
                openings.setdefault(note.trace_id, []).append(note.opening)
        stamped = self._storage.stamp(TRACES)
        found, self._strangers = await self._lookup.everything()
        rows = [with_openings(row, set(openings.pop(str(row["trace_id"]), ()))) for row in found]
        rows += [with_openings({"trace_id": each, "_listed": False}, set(ids)) for each, ids in openings.items()]
        table = self._table or CatalogTable(self._storage.local_path(CATALOG))
        await asyncio.to_thread(table.clear)
        self._table = table
        self._open.clear()
        self._problems.clear()
        await self._put(rows)
        self._absent = {each for each, ids in openings.items() if ids}
        self._epoch += 1
        self._log.clear()
        generation = max([self._info.generation, *(number for number, _ in contents.generations[:1])])
        self._info = SnapshotInfo(binding, generation, self._info.look + 1)
        self._seen = contents.ends()
        self._foreign = contents.foreign
        self._stamp = stamped[0] if stamped is not None and stamped[1] > _RACY_SECONDS else ""
        self._files = contents.count
        await self._fold()

    async def refresh(self) -> RefreshReport:
        """Look at every directory, read what is not as it was, and make a new snapshot.

        Traces that nobody writes to any more, though they were never closed, are settled.
        """
        async with self._mutex:
            await self._sync()
            assert self._table is not None
            binding = await self._binding()
            stamped = self._storage.stamp(TRACES)
            listed, self._strangers = await scan(self._storage)
            known = await asyncio.to_thread(self._table.files)
            fresh = {each for each, entries in listed.items() if known.get(each) != fingerprint(entries)}
            fresh |= {each for each in self._open if each in listed}
            rows = await self._lookup.listed_rows(listed, sorted(fresh))
            there = {str(row["trace_id"]) for row in rows}
            missing = [each for each in known.keys() | self._open.keys() if each not in there | (listed.keys() - fresh)]
            await self._remove(missing)
            self._absent.update(missing)
            abandoned = await self._lookup.abandoned(
                {each: ids for each, ids in self._open.items() if each in listed}, self.notices.writer
            )
            await self._put(
                [
                    with_openings(row, () if row["trace_id"] in abandoned else self._open.get(str(row["trace_id"]), ()))
                    for row in rows
                ]
            )
            self._stamp = stamped[0] if stamped is not None and stamped[1] > _RACY_SECONDS else ""
            self._info = replace(self._info, look=self._info.look + 1)
            await self._fold()
            elsewhere = [
                name
                for name in await self._storage.list(CATALOG)
                if (parsed := parse_snapshot_name(name)) is not None and parsed[1] != binding
            ]
            await on_storage.delete(self._storage, elsewhere)
            return RefreshReport(
                traces=len(listed),
                files=sum(map(len, listed.values())),
                read=len(fresh),
                added=sum(each not in known for each in listed),
                removed=sum(each not in listed for each in known),
                settled=len(abandoned),
                problems=tuple(self.problems()),
            )

    # Folding

    async def fold(self) -> None:
        """Fold all change files into a new snapshot, unless another process just did."""
        async with self._mutex:
            await self._sync()
            await self._fold()

    async def _fold(self) -> None:
        assert self._table is not None
        if await self._archive_id() is None:
            return  # a folder of traces, and no archive yet
        binding = await self._binding()
        before = contents_of(await self._storage.list(CATALOG), binding)
        info = replace(
            self._info,
            binding=binding,
            generation=self._info.generation + 1,
            folded=dict(self._seen),
            stamp=self._stamp,
            foreign=self._foreign,
        )
        if not await on_storage.publish(self._storage, info, self._table.export):
            return
        self._info = info
        superseded = [name for number, name in before.generations if number < info.generation]
        for writer, changes in before.changes.items():
            superseded += [name for number, name in changes.items() if number <= self._seen.get(writer, 0)]
        await on_storage.delete(self._storage, superseded)
        self._files = 0

    # Asking

    async def select(self, text: str, parameters: Mapping[str, Any], *, where: str | None = None) -> pa.Table:
        """Return the rows that a query over the view `traces` gives, as of now.

        Parameters
        ----------
        text : str
            A SELECT over `traces`, made by this package.
        parameters : mapping
            Bound by name.
        where : str, optional
            A user's condition: only traces that meet it are in the view.

        Raises
        ------
        QueryError
            DuckDB refused the condition.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """
        await self.sync()
        for problem in self.problems():
            warnings.warn(f"left out: {problem}", DamagedTraceWarning, stacklevel=3)
        async with self._mutex:
            assert self._table is not None
            return await asyncio.to_thread(self._table.query, text, parameters, where)

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
        """
        async with self._mutex:
            await self._sync()
            assert self._table is not None
            now = (self._epoch, len(self._log))
            changed = sorted(set(self._log[mark[1] :])) if mark is not None and mark[0] == self._epoch else None
            return now, changed, await asyncio.to_thread(self._table.standing, changed)

    def problems(self) -> list[str]:
        """Return what is wrong with what is left out: traces that cannot be read, directories that are none."""
        strangers = [
            f"traces/{key} is no trace key; rename the directory or move it out of the archive"
            for key in self._strangers
        ]
        return [*strangers, *self._problems.values()]

    def _rows(self) -> int:
        if self._table is None:
            return 0
        return int(self._table.query("SELECT count(*) FROM catalog").column(0)[0].as_py())

    async def close(self) -> None:
        """Fold where this process left many change files, and give the memory back."""
        if self.notices.count > FOLD_FILES:
            self._fold_soon()
        if self._folding is not None:
            await self._folding
        if self._table is not None:
            self._table.close()
            self._table = None
