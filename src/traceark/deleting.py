"""Deleting traces: with a tombstone, noticed by all who list traces, and on a disk that is full too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from traceark import lifecycle
from traceark.errors import InvalidIdError, StorageError, TraceNotFoundError
from traceark.layout import pin_key, trace_prefix
from traceark.pool import TracePool
from traceark.storage.base import NO_ROOM, Entry, Storage, VersionMismatchError
from traceark.tombstones import Tombstone

# As many as delete at a time, and some: each tells others once of what it is about to do.
_ATTEMPTS = 32
_NO_TOMBSTONE = "there is no room for its tombstone, and a sync would bring it back; delete something else on this disk"


class Deleting:
    """The part of `ArchiveStore` that deletes."""

    storage: Storage
    _pool: TracePool
    _making_room: asyncio.Lock

    async def delete_trace(self, trace_id: str, *, reason: str | None = None) -> None:
        """Delete a trace for good. Its rows in rollups are hidden at once; `purge` removes them.

        A tombstone stays, with the id, the time and the reason and without any content, so that no
        sync brings this run back. A new trace of the id may be created, and the same run be added
        again by `add_trace` or an import. Interrupted, it is gone on with by doing it again.

        Parameters
        ----------
        trace_id : str
        reason : str, optional
            Why, for the tombstone; it should say nothing of the content.

        Raises
        ------
        TraceNotFoundError
        """

        def burial(incarnation: str, hash_of: str, digest: str) -> Tombstone:
            return Tombstone(trace_id, incarnation, hash_of, digest, reason)

        await self._delete(trace_id, burial)

    async def drop_copy(
        self, trace_id: str, tombstone: Tombstone | None = None, *, as_of: Mapping[str, Entry] | None = None
    ) -> None:
        """Delete a trace because it is not there in the archive that this one is a copy of.

        Parameters
        ----------
        trace_id : str
        tombstone : Tombstone, optional
            The other archive's. Without one nothing keeps the trace from being copied again.
        as_of : mapping of str to Entry, optional
            Only while its files are still these; on a local disk.

        Raises
        ------
        TraceNotFoundError
        VersionMismatchError
            It was written to since.
        """
        await self._delete(trace_id, None if tombstone is None else lambda *_: tombstone, as_of)

    async def _delete(
        self, trace_id: str, burial: lifecycle.Burial | None, as_of: Mapping[str, Entry] | None = None
    ) -> None:
        await self._pool.ready()
        await self._pool.settle(trace_id)
        try:
            trace_prefix(trace_id)
        except InvalidIdError:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.storage.url}") from None
        try:
            await self._pool.catalog.notices.announce(trace_id)
            await self._remove(trace_id, burial, as_of)
        except StorageError as error:
            if error.errno not in NO_ROOM:
                raise
            await self._delete_on_full_disk(trace_id, burial, as_of)

    async def _delete_on_full_disk(
        self, trace_id: str, burial: lifecycle.Burial | None, as_of: Mapping[str, Entry] | None
    ) -> None:
        """Delete a trace in the room that the catalog gives, one at a time; others notice that its directory went."""
        async with self._making_room:
            for left in reversed(range(_ATTEMPTS)):  # what others announce meanwhile may take the room that was made
                await self._pool.catalog.make_room()
                try:
                    await self._remove(trace_id, burial, as_of)
                    break
                except StorageError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    if not left:
                        self._pool.catalog.notices.withdraw(trace_id)
                        told = f"trace {trace_id!r} was not deleted: {_NO_TOMBSTONE} ({error})"
                        raise StorageError(error.errno, told) from error

    async def _remove(self, trace_id: str, burial: lifecycle.Burial | None, as_of: Mapping[str, Entry] | None) -> None:
        try:
            incarnation = await lifecycle.delete(self.storage, trace_id, burial, as_of)
        except VersionMismatchError:
            await self._pool.done(trace_id)
            raise
        await self.storage.delete([pin_key(trace_id)])
        await self._pool.forget(trace_id)  # another task may have opened it meanwhile
        await self._pool.catalog.notices.deleted(trace_id, incarnation)
