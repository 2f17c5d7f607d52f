"""What tombstones say to a sync: which runs must not come back, and which are to go at the target too."""

from __future__ import annotations

from collections.abc import AsyncIterator

from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.layout import tombstone_key
from traceark.storage.base import KeyExistsError, KeyMissingError, Storage
from traceark.store import ArchiveStore
from traceark.sync.sides import Side, UnreadableError, look, reading
from traceark.tombstones import Buried, Tombstone, buried, read_tombstone


class Burials:
    """The tombstones of a target: those that it had when they were read, and those that were met since.

    Parameters
    ----------
    storage : Storage
        Of the target.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._at_target: set[Buried] = set()
        self._ids: set[str] = set()

    async def read(self) -> None:
        """Read all; once the traces were listed, so that those of all that were deleted before that are among them."""
        self._at_target = await buried(self._storage)
        self._ids = {trace_id for trace_id, _ in self._at_target}

    def concern(self, trace_id: str) -> bool:
        """Say whether some run of an id was deleted, so that which one it is has to be looked at."""
        return trace_id in self._ids

    async def forbid(self, side: Side, there: Side | None, *, as_listed: bool) -> bool:
        """Say whether a source's trace was deleted at the target; not where the target holds this very run.

        Unless the target's trace is `as_listed`, it may have been deleted since, and is asked for by itself.
        """
        incarnation = side.header.incarnation
        if there is not None and there.header.incarnation == incarnation:
            return False
        run = (side.trace_id, incarnation)
        return run in self._at_target or (not as_listed and await self._has_tombstone(*run))

    async def _has_tombstone(self, trace_id: str, incarnation: str) -> bool:
        try:
            with reading(self._storage):
                await self._storage.read(tombstone_key(trace_id, incarnation))
        except KeyMissingError:
            return False
        return True


async def carried(
    source: ArchiveStore, target: ArchiveStore, pinned: set[str], problems: list[str], *, dry_run: bool
) -> AsyncIterator[str]:
    """Bring the source's tombstones to the target; yield the ids of traces that are, or would be, deleted for them.

    A run that is pinned at the target stays, and its tombstone is not carried.
    """
    for trace_id, incarnation in sorted(await buried(source.storage)):
        try:
            if await _holds(source, trace_id, incarnation):
                continue  # there a tombstone does not count
            with reading(source.storage):
                tombstone = await read_tombstone(source.storage, trace_id, incarnation)
            is_there = await _holds(target, trace_id, incarnation)
            if is_there and trace_id in pinned:
                continue
            if not dry_run:
                with reading(target.storage):
                    await _bury(target, tombstone, is_there=is_there)
        except (CorruptFileError, UnsupportedFormatError, UnreadableError) as error:
            problems.append(f"tombstone of {trace_id}: {error}; it was not carried")
            continue
        if is_there:
            yield trace_id


async def _holds(store: ArchiveStore, trace_id: str, incarnation: str) -> bool:
    side = await look(store.storage, trace_id)
    return side is not None and side.header.incarnation == incarnation


async def _bury(target: ArchiveStore, tombstone: Tombstone, *, is_there: bool) -> None:
    if is_there:
        await target.drop_copy(tombstone.trace_id, tombstone)
        return
    try:
        await target.storage.create(tombstone.key, tombstone.encode())
    except KeyExistsError:
        return  # deleted there too, which it tells itself
