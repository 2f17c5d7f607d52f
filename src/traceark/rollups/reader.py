"""The rollups of an archive as a reader sees them: which are current, who is in them, where they lie.

What was read once of an immutable file is kept; a refresh costs one listing and one small read per
new rollup.
"""

from __future__ import annotations

import asyncio
import bisect
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.codec import compute as pc
from traceark.codec.crc import file_crc
from traceark.codec.malformed import MALFORMED
from traceark.errors import DamagedTraceWarning, StorageError
from traceark.rollups.cache import FileCache
from traceark.rollups.coverage import all_members
from traceark.rollups.files import (
    IDS,
    MEMBER_SCHEMA,
    MEMBERS,
    ROLLUP_FILE,
    ROLLUPS,
    Rollup,
    current,
    decode_rollup,
    directories,
    is_complete,
    message_hash,
)
from traceark.rollups.write import COLUMNS
from traceark.storage.base import Entry, KeyMissingError, Storage

# Files up to this size are read whole, once, before they are asked: DuckDB checks none of their bytes.
_CHECKED_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class _Index:
    """An open `ids.parquet`: the file, and the least and greatest hash of its row groups."""

    file: pq.ParquetFile
    least: list[int]
    greatest: list[int]


class RollupReader:
    """The current rollups of an archive.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    binding : str
        Of the archive and its place; rollups bound elsewhere are ignored.
    cache : FileCache
        Where files of an object store are kept.

    Attributes
    ----------
    rollups : list of Rollup
        The current ones, oldest first, as of the last `refresh`.
    replaced : list of Rollup
        Those that were merged into others and are still there.
    unusable : dict
        Directories that hold no rollup, by id, with their files: unfinished, torn, foreign or newer.
    damaged : dict
        The rollups that were found damaged, by id, with the key of a file that is; they are left out.
    published : dict
        When each rollup was published, by the storage's clock.
    """

    def __init__(self, storage: Storage, binding: str, cache: FileCache) -> None:
        self._storage = storage
        self._binding = binding
        self._cache = cache
        self._known: dict[tuple[str, str], Rollup | None] = {}
        self._members: dict[str, pa.Table] = {}
        self._indexes: dict[str, _Index] = {}
        # Keys of files whose bytes are those that were published.
        self._proven: set[str] = set()
        self.rollups: list[Rollup] = []
        self.replaced: list[Rollup] = []
        self.unusable: dict[str, dict[str, Entry]] = {}
        self.damaged: dict[str, str] = {}
        self.published: dict[str, float] = {}

    async def refresh(self) -> list[Rollup]:
        """Look which rollups there are now; return the current ones."""
        found = directories(await self._storage.list(ROLLUPS))
        complete: list[Rollup] = []
        self.unusable = {}
        self.published = {}
        for rollup_id, files in found.items():
            rollup = await self._decoded(rollup_id, files)
            sound = rollup is not None and rollup_id not in self.damaged and is_complete(rollup, files)
            if rollup is not None and sound and await self._has_members(rollup):
                complete.append(rollup)
                self.published[rollup_id] = files[ROLLUP_FILE].modified
            else:
                self.unusable[rollup_id] = files
        self.rollups, self.replaced = current(complete)
        kept = {each.id for each in complete}
        for memory in (self._members, self._indexes):
            for rollup_id in memory.keys() - kept:
                del memory[rollup_id]
        return self.rollups

    async def _decoded(self, rollup_id: str, files: dict[str, Entry]) -> Rollup | None:
        if ROLLUP_FILE not in files:
            return None
        version = (rollup_id, files[ROLLUP_FILE].version)
        if version not in self._known:
            try:
                data = await self._storage.read(f"{ROLLUPS}/{rollup_id}/{ROLLUP_FILE}")
            except KeyMissingError:
                return None  # deleted since it was listed
            self._known[version] = decode_rollup(data, rollup_id, self._binding)
        return self._known[version]

    async def _has_members(self, rollup: Rollup) -> bool:
        """Read the members of a rollup if they are not known; say whether they could be read."""
        if rollup.id in self._members:
            return True
        try:
            if not await self._proves(rollup, [MEMBERS]):
                return False
            path = await self._path(rollup, MEMBERS)
            table = await asyncio.to_thread(pq.read_table, path, schema=MEMBER_SCHEMA)
        except (KeyError, StorageError, pa.ArrowException, OSError):
            return False  # derived: without its members a rollup is as good as absent, and is made again
        self._members[rollup.id] = table
        return True

    def members(self) -> pa.Table:
        """Return the members of all current rollups; see `coverage.MEMBERS_SCHEMA`."""
        return all_members([self._members[rollup.id] for rollup in self.rollups])

    def members_of(self, rollup_id: str) -> pa.Table:
        """Return the members of one rollup, current or replaced."""
        return self._members[rollup_id]

    def holding(self, trace_ids: Collection[str]) -> int:
        """Return how many rollups have members among some traces."""
        wanted = pa.array(sorted(trace_ids), pa.string())
        return sum(
            pc.any(pc.is_in(table["trace_id"], value_set=wanted)).as_py() or 0 for table in self._members.values()
        )

    def holding_any(self, runs: Collection[tuple[str, str]]) -> set[str]:
        """Return the ids of some runs, each an id and an incarnation, that are members of a rollup."""
        wanted = pa.array(sorted({trace_id for trace_id, _ in runs}), pa.string())
        found: set[str] = set()
        for table in self._members.values():
            held = table.filter(pc.is_in(table["trace_id"], value_set=wanted))
            pairs = zip(held["trace_id"].to_pylist(), held["incarnation"].to_pylist(), strict=True)
            found |= {trace_id for trace_id, incarnation in pairs if (trace_id, incarnation) in runs}
        return found

    async def paths(self, view: str) -> list[list[Path]]:
        """Return the files with the rows of ``messages``, ``events`` or ``goals``, for each current rollup.

        Raises
        ------
        KeyMissingError
            A rollup was merged into another since the last `refresh`, or is damaged: refresh and ask again.
        """
        for rollup in self.rollups:
            await self._proves_small(rollup, rollup.names(view))
        if any(rollup.id in self.damaged for rollup in self.rollups):
            raise KeyMissingError(f"{', '.join(self.damaged.values())}: damaged, and left out from now on")
        return [await self.paths_of(rollup, view) for rollup in self.rollups]

    async def paths_of(self, rollup: Rollup, view: str) -> list[Path]:
        """Return one rollup's files with the rows of a view."""
        return [await self._path(rollup, name) for name in rollup.names(view)]

    async def path_of_ids(self, rollup: Rollup) -> list[Path]:
        """Return one rollup's index of message ids; it has none if it has no messages."""
        return [await self._path(rollup, IDS)] if IDS in rollup.files else []

    async def _path(self, rollup: Rollup, name: str) -> Path:
        return await self._cache.path(rollup.key(name), rollup.files[name])

    async def broken_file(self, rollup: Rollup, names: Collection[str] | None = None) -> str | None:
        """Return the key of one of a rollup's files, or of some, whose bytes are not those that were published.

        What was found whole once is not read again.
        """
        for name in rollup.files if names is None else names:
            key = rollup.key(name)
            if key in self._proven or name not in rollup.crcs:
                continue
            if await self._crc(rollup, name) != rollup.crcs[name]:
                # Where it is a copy of an object, the object may be whole.
                self._cache.forget(key)
                if await self._crc(rollup, name) != rollup.crcs[name]:
                    return key
            self._proven.add(key)
        return None

    async def _crc(self, rollup: Rollup, name: str) -> str:
        path = await self._path(rollup, name)
        try:
            return await asyncio.to_thread(file_crc, path)
        except FileNotFoundError as error:
            raise KeyMissingError(f"{path} is not there any more") from error

    async def leave_out_damaged(self, paths: Collection[str], *, by_columns: bool = False) -> bool:
        """Do without the rollups of which one of these files is damaged, from the next `refresh` on.

        Parameters
        ----------
        paths : collection of str
            Files of the views that were read. All their bytes are read again, once.
        by_columns : bool
            Read those alone that do not say that they have the columns of their view.

        Returns
        -------
        bool
            Whether there are any.

        Warns
        -----
        DamagedTraceWarning
            For each.
        """
        before = len(self.damaged)
        for rollup in self.rollups:
            # Of an object store nothing is fetched that was not read.
            read = {name: place for name in rollup.files if str(place := self._cache.place(rollup.key(name))) in paths}
            if by_columns:
                read = {name: place for name, place in read.items() if not _has_columns(place, name)}
            await self._proves(rollup, read)
        return len(self.damaged) > before

    def small(self, rollup: Rollup, names: Collection[str] | None = None) -> list[str]:
        """Return those of a rollup's files, or of some, that are read whole before they are asked."""
        return [
            name for name in rollup.files if rollup.files[name] <= _CHECKED_BYTES and (names is None or name in names)
        ]

    async def _proves_small(self, rollup: Rollup, names: Collection[str]) -> bool:
        """Do as `_proves` before files are asked, but for large ones: that would take longer than most answers."""
        return await self._proves(rollup, self.small(rollup, names))

    async def _proves(self, rollup: Rollup, names: Collection[str]) -> bool:
        """Say whether some files are whole; where one is not, do without the rollup, and say so."""
        broken = await self.broken_file(rollup, names)
        if broken is not None and rollup.id not in self.damaged:
            self.damaged[rollup.id] = broken
            warnings.warn(
                f"left out: {self._storage.url}/{broken} is damaged; the traces are not touched: "
                f"delete {ROLLUPS}/{rollup.id}, and `optimize` makes it again",
                DamagedTraceWarning,
                stacklevel=2,
            )
        return broken is None

    async def find_message(self, message_id: str) -> list[str]:
        """Return the traces that may hold a message, going by the current rollups.

        A trace may be among them for another id of the same hash, or for a message that it no
        longer has; a trace that is in no rollup is not. So look into the trace itself.

        Raises
        ------
        KeyMissingError
            As `paths`.
        """
        wanted = message_hash(message_id)
        found: dict[str, None] = {}
        for rollup in self.rollups:
            for path in await self.path_of_ids(rollup):
                try:
                    index = self._indexes.get(rollup.id)
                    if index is None:
                        if not await self._proves_small(rollup, [IDS]):
                            raise KeyMissingError(f"{rollup.key(IDS)} is damaged, and left out from now on")
                        index = self._indexes[rollup.id] = await asyncio.to_thread(_open, path)
                    told = _lookup(index, wanted)
                except FileNotFoundError as error:
                    raise KeyMissingError(f"{path} is not there any more") from error
                except (*MALFORMED, pa.ArrowException, OSError):
                    # Derived, and damaged: each of its traces may hold it.
                    told = self._members[rollup.id]["trace_id"].to_pylist()
                found |= dict.fromkeys(told)
        return list(found)


def _has_columns(path: Path, name: str) -> bool:
    """Say whether a file with rows of a view has the columns of the view, as far as it can be read."""
    view = name.removesuffix(".parquet").partition("-")[0]
    try:
        return list(pq.read_schema(path).names) == [column.name for column in COLUMNS[view]]
    except (*MALFORMED, pa.ArrowException, OSError):
        return False


def _open(path: Path) -> _Index:
    file = pq.ParquetFile(path, memory_map=True)
    metadata = file.metadata
    bounds = [metadata.row_group(at).column(0).statistics for at in range(metadata.num_row_groups)]
    return _Index(file, [each.min for each in bounds], [each.max for each in bounds])


def _lookup(index: _Index, wanted: int) -> list[str]:
    """Return the trace ids of a hash; few row groups can hold it, mostly one."""
    found: list[str] = []
    at = bisect.bisect_left(index.greatest, wanted)
    while at < len(index.least) and index.least[at] <= wanted:
        hashes = index.file.read_row_group(at, columns=["hash"], use_threads=False)["hash"]
        same = pc.indices_nonzero(pc.equal(hashes, pa.scalar(wanted, pa.uint64())))
        if len(same):
            found += (
                index.file.read_row_group(at, columns=["trace_id"], use_threads=False)["trace_id"]
                .take(same)
                .to_pylist()
            )
        at += 1
    return found
