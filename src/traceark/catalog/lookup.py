"""Looking at traces themselves, for those rows that cannot be known without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import cast

from traceark.catalog.rows import DAMAGED, GONE, OPEN, SETTLED, damaged, describe, fingerprint
from traceark.errors import DamagedTraceError, StorageError, TraceNotFoundError, UnsupportedFormatError
from traceark.layout import LOCK, trace_prefix
from traceark.models import Json, JsonObject, Trace
from traceark.reading import StoredTrace, scan
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage, acquire

# The opening of a trace that came by other means than a store, and may still be on its way.
COPIED = "copied"
# What nobody changed for so long has arrived.
_ARRIVED_SECONDS = 2.0
# A writer on an object store that was silent for five minutes announces itself before it goes on.
_ABANDONED_SECONDS = 15 * 60.0
_PARALLEL = 64
_ATTEMPTS = 4

Found = tuple[StoredTrace, Trace]
Read = Callable[[str, Mapping[str, Entry] | None], Awaitable[Found | None]]
Live = Callable[[str, bool], Awaitable[tuple[str, StoredTrace, Trace] | None]]


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
        self._saw: dict[str, str] = {}
        self._arrived: set[str] = set()

    def forget(self, trace_id: str) -> None:
        """Forget what was seen of a trace."""
        self._saw.pop(trace_id, None)
        self._arrived.discard(trace_id)

    async def row(self, trace_id: str, entries: Mapping[str, Entry] | None = None) -> JsonObject | None:
        """Return the row of a trace as its files are now, or None where there is none."""
        for attempt in range(_ATTEMPTS):
            try:
                found = await self._read(trace_id, entries)
                return describe(*found) if found is not None else None
            except KeyMissingError as error:
                # Its files changed while it was read; once more, from a new listing.
                entries = None
                problem: Exception = error
                if attempt < _ATTEMPTS - 1:
                    continue
            except TraceNotFoundError:
                return None
            except (DamagedTraceError, UnsupportedFormatError) as error:
                problem = error
            listed = entries if entries is not None else await self._storage.list(trace_prefix(trace_id))
            return damaged(trace_id, listed, str(problem))
        return None

    async def rows(self, trace_ids: Sequence[str]) -> list[JsonObject]:
        """Return the rows of those among some traces that are there."""
        found: list[JsonObject] = []
        for start in range(0, len(trace_ids), _PARALLEL):
            group = await asyncio.gather(*map(self.row, trace_ids[start : start + _PARALLEL]))
            found += [row for row in group if row is not None]
        return found

    async def changed_rows(self, open_traces: Mapping[str, bool]) -> dict[str, JsonObject | None]:
        """Return the rows of those traces that are not as they were when last looked at.

        Parameters
        ----------
        open_traces : mapping of str to bool
            Whether only this process has the trace open.
        """
        ids = list(open_traces)
        changes: dict[str, JsonObject | None] = {}
        for start in range(0, len(ids), _PARALLEL):
            group = ids[start : start + _PARALLEL]
            found = await asyncio.gather(*(self._changed_row(each, alone=open_traces[each]) for each in group))
            changes.update((trace_id, row) for trace_id, (differs, row) in zip(group, found, strict=True) if differs)
        return changes

    async def _changed_row(self, trace_id: str, *, alone: bool) -> tuple[bool, JsonObject | None]:
        live = await self._live(trace_id, alone)
        if live is not None:
            token, stored, trace = live
            differs = self._saw.get(trace_id) != token
            self._saw[trace_id] = token
            return differs, describe(stored, trace) if differs else None
        entries = await self._storage.list(trace_prefix(trace_id))
        token = fingerprint(entries)
        changed_at = max((entry.modified for entry in entries.values()), default=0.0)
        arrived = time.time() - changed_at > _ARRIVED_SECONDS
        if self._saw.get(trace_id) == token and (trace_id in self._arrived) == arrived:
            return False, None
        row = await self.row(trace_id, entries) if entries else None
        self._saw[trace_id] = token
        if arrived:
            self._arrived.add(trace_id)
        return True, row

    def merged(self, known: Mapping[str, Json] | None, row: JsonObject | None, trace_id: str) -> JsonObject:
        """Return a row just looked up with what is known of who has the trace open."""
        openings = list(cast("list[str]", (known or {}).get("_openings") or []))
        if COPIED in openings and trace_id in self._arrived:
            openings.remove(COPIED)
        fresh: JsonObject = dict(row) if row is not None else {"trace_id": trace_id, "_listed": False}
        fresh["_gone"] = (known or {}).get("_gone") or []
        return with_openings(fresh, openings)

    async def everything(self) -> tuple[list[JsonObject], list[str]]:
        """Return the rows of all traces, and directories whose names are no trace keys.

        One listing of the whole archive, then the headers, many at a time.
        """
        listed, strangers = await scan(self._storage)
        return await self.listed_rows(listed, list(listed)), strangers

    async def listed_rows(self, listed: Mapping[str, Mapping[str, Entry]], ids: Sequence[str]) -> list[JsonObject]:
        """Return the rows of traces whose files were just listed."""
        found: list[JsonObject] = []
        for start in range(0, len(ids), _PARALLEL):
            group = await asyncio.gather(*(self.row(each, listed[each]) for each in ids[start : start + _PARALLEL]))
            found += [row for row in group if row is not None]
        return found

    async def abandoned(self, open_traces: Mapping[str, Sequence[str]], writer: str) -> set[str]:
        """Return the traces that nobody writes to any more without saying so first.

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
                if await _bumped(self._storage, f"{prefix}/{LOCK}"):
                    found.add(trace_id)
                continue
            entries = await self._storage.list(prefix)
            changed_at = max((entry.modified for entry in entries.values()), default=0.0)
            if time.time() - changed_at > _ABANDONED_SECONDS:
                found.add(trace_id)
        return found


async def _bumped(storage: AppendStorage, key: str) -> bool:
    """Make a lock's generation a new one; say no where it cannot be made."""
    try:
        lock = storage.lock(key)
    except StorageError:
        return False  # the trace went away, or may only be read
    try:
        await acquire(lock)
        lock.bump()
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
