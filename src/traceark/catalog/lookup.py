"""Looking at traces themselves, for those rows that cannot be known without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

from traceark.catalog.notes import opened_at
from traceark.catalog.rows import DAMAGED, GONE, OPEN, SETTLED, damaged, describe, fingerprint
from traceark.errors import (
    CorruptFileError,
    DamagedTraceError,
    StorageError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.layout import LOCK, MANIFEST, trace_prefix
from traceark.manifest import decode_manifest
from traceark.models import Json, JsonObject, Trace
from traceark.reading import StoredTrace, retrying, scan_readable, why_unreadable
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage

# The opening of a trace that may still be on its way: it came by other means than a store.
COPIED = "copied"
# The opening of a trace that somebody may write to who said so where it is lost.
UNKNOWN = "unknown"
# What nobody changed for so long has arrived.
_ARRIVED_SECONDS = 2.0
# A writer on an object store that was silent for five minutes announces itself before it goes on.
_ABANDONED_SECONDS = 15 * 60.0
_PARALLEL = 64

Found = tuple[StoredTrace, Trace]
Read = Callable[[str, Mapping[str, Entry] | None], Awaitable[Found | None]]
Live = Callable[[str, bool], Awaitable[tuple[str, StoredTrace, Trace] | None]]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at an open trace gave.

    Attributes
    ----------
    row : dict or None
        Its row; None where it is gone, or as it was.
    token : str
        Changes with the trace.
    arrived : bool
        Whether nothing changed for so long that nothing more is on its way.
    live : bool
        Whether this process has it open, and what it has in memory is right.
    differs : bool
        Whether it is not as when it was last looked at.
    """

    row: JsonObject | None
    token: str
    arrived: bool
    live: bool
    differs: bool


class Lookup:
    """Reads traces as they are now, and remembers what it saw of those that are open.

    Parameters
    ----------
    storage : Storage
        Where the archive is.
    read : callable
        Returns a trace's files and its header with exact totals from the storage, or None where it
        is gone; takes the files where they were just listed.
    live : callable
        The same for a trace that this process has open, from memory, with a text that changes with
        it; None for others. Takes whether nobody else writes to it, so that no listing is needed.
    """

    def __init__(self, storage: Storage, read: Read, live: Live) -> None:
        self._storage = storage
        self._read = read
        self._live = live
        self._saw: dict[str, tuple[str, bool]] = {}

    def saw(self, looks: Mapping[str, Look]) -> None:
        """Remember looks, once their rows are known."""
        self._saw.update((trace_id, (look.token, look.arrived)) for trace_id, look in looks.items())

    def forget(self, trace_id: str) -> None:
        """Forget what was seen of a trace."""
        self._saw.pop(trace_id, None)

    def forget_all(self) -> None:
        """Forget what was seen of all traces."""
        self._saw.clear()

    async def row(self, trace_id: str, entries: Mapping[str, Entry] | None = None) -> JsonObject | None:
        """Return the row of a trace as its files are now, or None where there is none."""
        listed: Mapping[str, Entry] = {}

        async def read() -> Found | None:
            nonlocal entries, listed
            # Only once: where that does not do, its files changed while it was read.
            listed = entries if entries is not None else await self._storage.list(trace_prefix(trace_id))
            entries = None
            return await self._read(trace_id, listed)

        try:
            found = await retrying(trace_id, read)
        except TraceNotFoundError:
            return None
        except (DamagedTraceError, UnsupportedFormatError) as error:
            return damaged(trace_id, listed, str(error))
        except StorageError as error:
            return self._refused(trace_id, error)
        return describe(*found) if found is not None else None

    async def rows(self, trace_ids: Sequence[str]) -> list[JsonObject]:
        """Return the rows of those among some traces that are there."""
        found: list[JsonObject] = []
        for start in range(0, len(trace_ids), _PARALLEL):
            group = await asyncio.gather(*map(self.row, trace_ids[start : start + _PARALLEL]))
            found += [row for row in group if row is not None]
        return found

    async def fingerprints(self, trace_ids: Sequence[str]) -> dict[str, str]:
        """Return the hashes of the files of some traces, as `_files` of their rows tells them; none are read."""
        found: dict[str, str] = {}
        for start in range(0, len(trace_ids), _PARALLEL):
            group = trace_ids[start : start + _PARALLEL]
            found.update(zip(group, await asyncio.gather(*map(self._fingerprint, group)), strict=True))
        return found

    async def _fingerprint(self, trace_id: str) -> str:
        try:
            return fingerprint(await self._storage.list(trace_prefix(trace_id)))
        except StorageError as error:
            return str(self._refused(trace_id, error)["_files"])

    async def looks(self, open_traces: Mapping[str, bool]) -> dict[str, Look]:
        """Look at traces that are open.

        Parameters
        ----------
        open_traces : mapping of str to bool
            Whether only this process writes to the trace.
        """
        ids = list(open_traces)
        found: dict[str, Look] = {}
        for start in range(0, len(ids), _PARALLEL):
            group = ids[start : start + _PARALLEL]
            looks = await asyncio.gather(*(self._look(each, alone=open_traces[each]) for each in group))
            found.update(zip(group, looks, strict=True))
        return found

    async def _look(self, trace_id: str, *, alone: bool) -> Look:
        live = await self._live(trace_id, alone)
        if live is not None:
            token, stored, trace = live
            differs = self._saw.get(trace_id) != (token, False)
            return Look(describe(stored, trace) if differs else None, token, False, True, differs)
        try:
            entries = await self._storage.list(trace_prefix(trace_id))
        except StorageError as error:
            refused = self._refused(trace_id, error)
            return Look(refused, str(refused["_problem"]), True, False, True)
        token, quiet = fingerprint(entries), self.has_arrived(entries)
        saw, arrived = self._saw.get(trace_id, ("", False))
        if saw == token and (arrived or not quiet):
            return Look(None, token, arrived, False, False)
        row = await self.row(trace_id, entries) if entries else None
        if row is not None and row.get("_problem") is not None:
            # What could not be read is looked at again, though its files are the same.
            token = str(row["_files"])
        sealed = row is not None and bool(row.get("_sealed"))
        return Look(row, token, quiet or (sealed and await self._is_whole(trace_id, entries)), False, True)

    async def _is_whole(self, trace_id: str, entries: Mapping[str, Entry]) -> bool:
        """Say whether all files of a sealed trace are there: it says itself which belong to it."""
        key = f"{trace_prefix(trace_id)}/{MANIFEST}"
        try:
            return decode_manifest(await self._storage.read(key), key).keys() <= entries.keys()
        except (KeyMissingError, CorruptFileError):
            return False

    def has_arrived(self, entries: Mapping[str, Entry]) -> bool:
        """Say whether nothing of a trace changed for so long that nothing more can be on its way."""
        seconds = _ARRIVED_SECONDS if isinstance(self._storage, AppendStorage) else _ABANDONED_SECONDS
        return _quiet_seconds(entries) > seconds

    def _refused(self, trace_id: str, error: StorageError) -> JsonObject:
        """Return the row of a trace that cannot be read, whatever its files are; any other error is raised again."""
        why = why_unreadable(error, self._storage)
        if why is None:
            raise error
        return damaged(trace_id, {}, why)

    async def everything(self, own: Set[str]) -> tuple[list[JsonObject], list[str]]:
        """Return the rows of all traces, and directories whose names are no trace keys.

        One listing of the whole archive, then the headers, many at a time. A trace that is not
        sealed is open for now, unless it is certain that nobody writes to it without saying so
        first; `own` are those that this process writes to.
        """
        listed, strangers, refused = await scan_readable(self._storage)
        openings: dict[str, set[str]] = {each: set() for each in listed}
        for trace_id, entries in listed.items():
            if MANIFEST in entries and not isinstance(self._storage, AppendStorage):
                continue
            if not self.has_arrived(entries):
                openings[trace_id].add(COPIED)
        if isinstance(self._storage, AppendStorage):
            # Whoever wrote here took the lock, which stays.
            unsealed = [each for each, entries in listed.items() if LOCK in entries and MANIFEST not in entries]
            for each in set(unsealed) - own:
                if not _bumped(self._storage, f"{trace_prefix(each)}/{LOCK}"):
                    openings[each].add(UNKNOWN)
                listed[each] = await self._storage.list(trace_prefix(each))
        rows = await self.listed_rows(listed, list(listed))
        rows += [damaged(each, {}, why) for each, why in refused.items()]
        openings |= {each: set() for each in refused}
        return [with_openings(row, openings[str(row["trace_id"])]) for row in rows], strangers

    async def listed_rows(self, listed: Mapping[str, Mapping[str, Entry]], ids: Sequence[str]) -> list[JsonObject]:
        """Return the rows of traces whose files were just listed."""
        found: list[JsonObject] = []
        for start in range(0, len(ids), _PARALLEL):
            group = await asyncio.gather(*(self.row(each, listed[each]) for each in ids[start : start + _PARALLEL]))
            found += [row for row in group if row is not None]
        return found

    async def abandoned(self, open_traces: Mapping[str, Sequence[str]], writer: str) -> set[str]:
        """Return the traces that nobody writes to any more without saying so first; look at them after this.

        On a local disk the trace's lock is taken and its generation made a new one, so that who
        holds it open finds out before the next append. On an object store a writer says so again
        when it was silent for a third of the time that is waited for here.

        Parameters
        ----------
        open_traces : mapping of str to list of str
            The openings of each.
        writer : str
            This process's own, whose openings are its own business.
        """
        found: set[str] = set()
        for trace_id, openings in open_traces.items():
            if any(opening.startswith(writer) for opening in openings):
                continue
            prefix = trace_prefix(trace_id)
            if isinstance(self._storage, AppendStorage):
                if _bumped(self._storage, f"{prefix}/{LOCK}"):
                    found.add(trace_id)
                continue
            announced = max(map(opened_at, openings), default=0.0)
            quiet = min(_quiet_seconds(await self._storage.list(prefix)), time.time() - announced)
            if quiet > _ABANDONED_SECONDS:
                found.add(trace_id)
        return found


def merged(known: Mapping[str, Json] | None, row: JsonObject | None, trace_id: str, *, arrived: bool) -> JsonObject:
    """Return a row just looked up with what is known of who has the trace open."""
    openings = list(cast("list[str]", (known or {}).get("_openings") or []))
    if COPIED in openings and arrived:
        openings.remove(COPIED)
    fresh: JsonObject = dict(row) if row is not None else {"trace_id": trace_id, "_listed": False}
    gone = cast("list[str]", (known or {}).get("_gone") or [])
    fresh["_gone"] = [each for each in gone if each != fresh.get("_incarnation")]
    return with_openings(fresh, openings)


def _quiet_seconds(entries: Mapping[str, Entry]) -> float:
    return time.time() - max((entry.modified for entry in entries.values()), default=0.0)


def _bumped(storage: AppendStorage, key: str) -> bool:
    """Make a lock's generation a new one; say no where it cannot be made, or somebody writes right now."""
    try:
        lock = storage.lock(key)
    except (StorageError, CorruptFileError):
        return False  # the trace went away, may only be read, or has something else in the lock's place
    try:
        if not lock.try_acquire():
            return False
        lock.bump()
        if lock.generation() == 1:
            lock.bump()  # that is what a writer finds in a trace that it has just created itself
        lock.release()
    finally:
        lock.close()
    return True


def with_openings(row: JsonObject, openings: Iterable[str]) -> JsonObject:
    """Return a row with its openings, and the state that follows."""
    row["_openings"] = cast("Json", sorted(openings))
    if row["_openings"]:
        row["_state"] = OPEN
    elif row.get("_problem") is not None:
        row["_state"] = DAMAGED
    else:
        row["_state"] = SETTLED if row["_listed"] else GONE
    return row
