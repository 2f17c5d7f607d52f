"""The pool of a spool: what is written goes to the spool, what is read is there or in the archive under it.

A trace that is to be written to and is not in the spool is fetched. It knows nothing of shipping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from traceark.catalog.layered import Layered, Listing
from traceark.errors import InvalidIdError, StorageError, TraceNotFoundError, UnsafeStorageError
from traceark.going_on import going_on
from traceark.layout import HEADER, trace_prefix
from traceark.live import OpenTrace
from traceark.models import JsonObject
from traceark.pool import TracePool
from traceark.reading import StoredTrace
from traceark.rollups.cache import FileCache
from traceark.spool.place import SPOOL
from traceark.storage.base import Durability, KeyExistsError, KeyMissingError, VersionMismatchError
from traceark.storage.local import LocalStorage

Answer = TypeVar("Answer")
# Looking for one trace takes no longer than this, where the network is there.
_ASK_SECONDS = 30.0


class SpooledPool(TracePool):
    """The open traces of a spool, over the archive that it is shipped to.

    Parameters
    ----------
    storage, durability, cache, limit, record_changes
        Of the spool, as `TracePool` has them.
    under : TracePool
        Of the archive.
    fetch : callable
        Brings a trace of the archive into the spool; says whether there is one.
    begin : callable
        Makes the spool, and goes on shipping it.
    """

    under: TracePool

    def __init__(
        self,
        storage: LocalStorage,
        durability: Durability,
        cache: FileCache,
        *,
        limit: int,
        record_changes: bool,
        under: TracePool,
        fetch: Callable[[str], Coroutine[Any, Any, bool]],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            storage, durability, cache, allow_unsafe_writes=False, limit=limit, record_changes=record_changes
        )
        self.under = under
        self._place = storage
        self._fetch = fetch
        self._begin = begin
        self._fetching: dict[str, asyncio.Task[bool]] = {}

    @property
    def listing(self) -> Listing:
        return Layered(self.catalog, self.under.catalog, self.reach)

    async def reach(self, answer: Awaitable[Answer]) -> Answer:
        try:
            return await answer
        except (KeyMissingError, KeyExistsError, VersionMismatchError, UnsafeStorageError):
            raise
        except (StorageError, TimeoutError) as error:
            raise StorageError(
                getattr(error, "errno", None),
                f"{self.under.url} cannot be reached, and only traces in the spool {self.url} can be read and written "
                f"until it can: {str(error) or 'it does not answer'}",
            ) from error

    async def ready(self) -> None:
        await self._begin()
        await super().ready()

    async def marker(self) -> JsonObject | None:
        await self._resume()
        return await super().marker()

    async def _resume(self) -> None:
        if self._place.path(SPOOL).exists():
            await self._begin()

    async def opened(self, trace_id: str) -> OpenTrace:
        if self.get(trace_id) is not None and not self._is_here(trace_id):
            await self.forget(trace_id)  # shipped, and removed
        while True:
            try:
                return await super().opened(trace_id)
            except TraceNotFoundError:
                # Whoever makes it in the spool may have done so since it was looked for there.
                if not await self.fetch(trace_id) and not self._is_here(trace_id):
                    raise TraceNotFoundError(f"no trace {trace_id!r} in {self.under.url}") from None

    def _is_here(self, trace_id: str) -> bool:
        try:
            return self._place.path(f"{trace_prefix(trace_id)}/{HEADER}").exists()
        except InvalidIdError:
            return False

    async def fetch(self, trace_id: str) -> bool:
        """Bring a trace of the archive into the spool, once for all who want it; say whether there is one."""
        try:
            trace_prefix(trace_id)
        except InvalidIdError:
            return False
        task = self._fetching.get(trace_id)
        if task is None:
            task = self._fetching[trace_id] = going_on(self._fetch(trace_id))
            task.add_done_callback(lambda _: self._fetching.pop(trace_id))
        return await self.reach(asyncio.shield(task))

    async def load(self, trace_id: str) -> StoredTrace | None:
        await self._resume()
        stored = await super().load(trace_id)
        if stored is not None:
            return stored
        return await self.reach(asyncio.wait_for(self.under.load(trace_id), _ASK_SECONDS))

    async def is_beneath(self, trace_id: str, seconds: float) -> bool:
        """Say whether the archive holds a trace, waiting for the answer no longer than this.

        Raises
        ------
        StorageError
            It does not answer.
        """
        return await self.reach(asyncio.wait_for(self.under.load(trace_id), seconds)) is not None
