"""What tombstones say to a sync: which runs must not come back, and which are to go at the target too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property

from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.storage.base import KeyExistsError
from traceark.store import ArchiveStore
from traceark.sync.sides import Side, UnreadableError, look, reading
from traceark.tombstones import Buried, Tombstone, buried, read_tombstone


@dataclass
class Burials:
    """The tombstones of a target, as it was when a sync began."""

    at_target: set[Buried]

    def concern(self, trace_id: str) -> bool:
        """Say whether some run of an id was deleted, so that which one it is has to be looked at."""
        return trace_id in self._ids

    @cached_property
    def _ids(self) -> set[str]:
        return {trace_id for trace_id, _ in self.at_target}

    def forbid(self, side: Side, there: Side | None) -> bool:
        """Say whether a source's trace was deleted at the target; not where the target holds this very run."""
        incarnation = side.header.incarnation
        if (side.trace_id, incarnation) not in self.at_target:
            return False
        return there is None or there.header.incarnation != incarnation


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
