"""`ArchiveStore` with a spool: acknowledged on a local disk, shipped to its URL in the background."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from traceark.errors import (
    InvalidValueError,
    MessageNotFoundError,
    SpoolError,
    SpoolPendingError,
    SpoolPendingWarning,
    StorageError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
)
from traceark.going_on import going_on
from traceark.models import GivenEvent, Goal, GoalTree, Json, Message, Trace
from traceark.pending import SpoolStatus
from traceark.requests import AddMessage
from traceark.rollups.cache import FileCache, cache_directory
from traceark.spool.anew import note
from traceark.spool.awaited import Awaited
from traceark.spool.background import Background
from traceark.spool.keeping import SpooledKeeping
from traceark.spool.place import Place, User
from traceark.spool.pool import SpooledPool
from traceark.spool.ship import closing
from traceark.storage.access import Access
from traceark.storage.base import Durability, Storage
from traceark.store import ArchiveStore, _Opening
from traceark.sync import sync_trace

Answer = TypeVar("Answer")
# A new trace's id is looked for at the archive, but the agent is not kept waiting for longer.
_ASK_SECONDS = 2.0
# After no answer nobody is asked again for so long.
_SILENT_SECONDS = 60.0
_CLOSE_SECONDS = 30.0
_POLL_SECONDS = 0.05


class SpooledStore(SpooledKeeping):
    """An archive that is written to through a spool; made by ``ArchiveStore(url, spool=directory)``.

    All of `ArchiveStore` is here. What is different:

    - A write is acknowledged when it is in the spool, and never waits for `url`; only a trace that is
      there and not in the spool is fetched first.
    - A read sees the spool's state of the traces that are in it, and the archive's of all others; so
      lists, search and SQL need the archive to be reached.
    - `flush` waits until all is at `url`. `close` ships what is left, for a while.

    Parameters
    ----------
    url, storage_options, allow_unsafe_writes, max_open_traces, cache_dir, max_cache_bytes, record_changes
        The archive, as for `ArchiveStore`.
    spool : str or Path
        A directory on a local disk, for this archive alone.
    durability : {'fsync', 'os'}
        Of the spool.
    access : {'owner', 'group', 'others'}
        Of the spool, and of an archive on a local disk, as for `ArchiveStore`.

    Examples
    --------
    >>> import asyncio, tempfile, traceark
    >>> async def run(directory):
    ...     async with traceark.ArchiveStore("memory://spooled", spool=directory) as store:
    ...         await store.create_trace(traceark.Trace(trace_id="run-7"))
    ...         await store.add_message(traceark.Message(trace_id="run-7", role="user", content="hi"))
    ...         await store.flush()
    ...         return (await store.spool_status()).is_empty
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     asyncio.run(run(directory))
    True
    """

    def __init__(
        self,
        url: str | Path,
        *,
        storage_options: Mapping[str, Any] | None = None,
        durability: Durability = "fsync",
        allow_unsafe_writes: bool = False,
        max_open_traces: int = 128,
        cache_dir: str | Path | None = None,
        max_cache_bytes: int = 4 << 30,
        record_changes: bool = False,
        spool: str | Path | None = None,
        access: Access = "owner",
    ) -> None:
        directory = _local(spool)
        super().__init__(directory, durability=durability, access=access)
        far = _Opening(
            ArchiveStore,
            url,
            storage_options=storage_options,
            durability=durability,
            allow_unsafe_writes=allow_unsafe_writes,
            max_open_traces=max_open_traces,
            cache_dir=cache_dir,
            max_cache_bytes=max_cache_bytes,
            access=access,
        )
        self._far = far()
        if _overlap(directory, self._far.storage):
            raise SpoolError(f"{directory} cannot be the spool of {self._far.url}: one lies in the other")
        self._place = Place(directory, durability, access)
        self._place.check(self._far.url)
        self._again = _Opening(
            ArchiveStore,
            url,
            storage_options=storage_options,
            durability=durability,
            allow_unsafe_writes=allow_unsafe_writes,
            max_open_traces=max_open_traces,
            cache_dir=cache_dir,
            max_cache_bytes=max_cache_bytes,
            record_changes=record_changes,
            spool=directory,
            access=access,
        )
        self._background = Background(self._place, lambda: ArchiveStore(directory, durability=durability), far)
        self._user: User | None = None
        self._is_shipping = True
        self._beginning: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self._spooled = self._pool = SpooledPool(
            self._place.storage,
            durability,
            FileCache(self.storage, cache_directory(self.storage.url, cache_dir)),
            limit=max_open_traces,
            record_changes=record_changes,
            under=self._far._pool,
            fetch=self._fetch,
            begin=self._begin,
        )

    @property
    def url(self) -> str:
        return self._far.url

    def __repr__(self) -> str:
        return f"ArchiveStore({self.url!r}, durability={self._durability!r}, spool={self.storage.url!r})"

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def _begin(self) -> None:
        """Once: make the spool this archive's, and begin to ship it."""
        if self._beginning is None or (self._beginning.done() and self._beginning.exception() is not None):
            self._beginning = going_on(self._begin_now())
        if not self._beginning.done():
            await asyncio.shield(self._beginning)
        if (error := self._beginning.exception()) is not None:
            raise error

    async def _begin_now(self) -> None:
        await self._place.bind(self.url)
        self._user = await self._place.enter()
        self._background.start()

    async def _fetch(self, trace_id: str) -> bool:
        fetched = await sync_trace(self._far, self, trace_id)
        if fetched is not None and fetched.outcome == "buried":
            raise TraceNotFoundError(
                f"trace {trace_id!r} was deleted in the spool {self.storage.url}, "
                f"and is still to be deleted at {self.url}"
            )
        return fetched is not None

    async def exists(self) -> bool:
        return bool(await self._place.trace_ids()) or await self._spooled.reach(self._far.exists())

    # Writing

    async def create_trace(self, trace: Trace) -> str:
        """Begin a trace.

        An id that is at the archive already is refused, where it answers at once. Where it does not,
        and the id was taken, the two traces are told apart when they are shipped, and both are kept.

        Raises
        ------
        TraceExistsError
            The id is there already.
        InvalidValueError, InvalidIdError
        """
        given = Trace.coerce(trace)
        await self._refuse_known(given.trace_id)
        return await super().create_trace(given)

    async def add_trace(
        self,
        trace: Trace,
        messages: Iterable[Message] = (),
        events: Iterable[GivenEvent] = (),
        goal_tree: GoalTree | None = None,
    ) -> str:
        given = Trace.coerce(trace)
        await self._refuse_known(given.trace_id)
        return await super().add_trace(given, messages, events, goal_tree)

    async def _before_adding(self, trace_id: str, incarnation: str) -> None:
        if await self._place.trace(trace_id) is None:  # else it is refused, and nothing was added anew
            await note(self._place.storage, trace_id, incarnation)

    async def _refuse_known(self, trace_id: str) -> None:
        if not self._background.is_reachable or time.monotonic() < self._silent_until:
            return
        try:
            is_known = await self._spooled.is_beneath(trace_id, _ASK_SECONDS)
        except StorageError:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            return
        if is_known:
            raise TraceExistsError(f"{self.url} holds a trace {trace_id!r} already")

    async def _writing(self, trace_id: str, write: Callable[[], Awaitable[Answer]]) -> Answer:
        """Write to a trace; once more, if it was shipped and removed before the write took its lock."""
        try:
            return await write()
        except TraceNotFoundError:
            if not await self._spooled.fetch(trace_id):
                raise
            return await write()

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        await self._writing(trace_id, lambda: super(SpooledStore, self).update_trace(trace_id, **updates))

    async def update_goal_tree(self, trace_id: str, tree: GoalTree) -> None:
        await self._writing(trace_id, lambda: super(SpooledStore, self).update_goal_tree(trace_id, tree))

    async def add_goal(self, trace_id: str, goal: Goal) -> None:
        await self._writing(trace_id, lambda: super(SpooledStore, self).add_goal(trace_id, goal))

    async def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        await self._writing(trace_id, lambda: super(SpooledStore, self).update_goal(trace_id, goal_id, **updates))

    async def add_message(self, message: Message) -> str:
        try:
            return await super().add_message(message)
        except TraceNotFoundError:
            if not await self._spooled.fetch(Message.coerce(message).trace_id):
                raise
            return await super().add_message(message)

    async def _add_all(self, trace_id: str, requests: list[AddMessage]) -> None:
        await self._writing(trace_id, lambda: super(SpooledStore, self)._add_all(trace_id, requests))

    async def update_message(self, message_id: str, *, trace_id: str | None = None, **updates: Any) -> None:
        if trace_id is None:
            found = await self.get_message(message_id)
            if found is None:
                raise MessageNotFoundError(f"no message {message_id!r} in {self.url}")
            trace_id = found.trace_id
        known = trace_id
        await self._writing(
            known, lambda: super(SpooledStore, self).update_message(message_id, trace_id=known, **updates)
        )

    async def append_event(self, trace_id: str, event_type: str, payload: Json = None) -> int:
        return await self._writing(
            trace_id, lambda: super(SpooledStore, self).append_event(trace_id, event_type, payload)
        )

    async def append_events(self, trace_id: str, events: Iterable[GivenEvent]) -> list[int]:
        given = list(events)
        return await self._writing(trace_id, lambda: super(SpooledStore, self).append_events(trace_id, given))

    # Shipping

    async def spool_status(self) -> SpoolStatus:
        """Return what waits in the spool to be shipped."""
        await self._begin()
        return await self._place.status()

    async def flush(self, *, timeout: float | None = None) -> None:
        """Return when all that was acknowledged before is at the archive's URL, deletions too.

        Parameters
        ----------
        timeout : float, optional
            After so many seconds it raises; without, it waits until the archive can be reached.

        Raises
        ------
        SpoolPendingError
            Something was not shipped in time, or cannot be; nothing is lost. The message says what.
        StoreClosedError
            The store was closed meanwhile, and left something.
        """
        await self._begin()
        await super().flush()
        begin = time.monotonic()
        known = [await Awaited.of(self._place, trace_id) for trace_id in await self._place.trace_ids()]
        waiting = [each for each in known if each is not None]
        self._background.hurry()
        while True:
            waiting = [each for each in waiting if not await each.is_shipped()]
            if not waiting and not await self._place.deletions():
                return
            if not self._is_shipping:
                raise StoreClosedError(
                    f"{self.storage.url} was closed before all was shipped to {self.url}; the next store with this "
                    f"spool, or `traceark spool ship {self.storage.url}`, goes on"
                )
            if timeout is not None and time.monotonic() - begin > timeout:
                status = await self._place.status()
                why = status.last_error or "it has not answered yet"
                raise SpoolPendingError(f"{self.storage.url} waits for {self.url}: {status.waiting}; {why}")
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Seal what is finished, ship what is left, and give back all files.

        Where the archive cannot be reached, or after half a minute, what is left stays in the spool.

        Raises
        ------
        ExceptionGroup
            Several traces could not be sealed.

        Warns
        -----
        SpoolPendingWarning
            Something is left.
        """
        try:
            await super().close()
        finally:
            await self._finish()

    async def _finish(self) -> None:
        user, self._user = self._user, None
        if user is not None:
            try:
                await self._place.leave(user)
                await self._background.finish(_CLOSE_SECONDS)
            finally:
                self._is_shipping = False
            status = await self._place.status()
            if not status.is_empty and not status.is_shipping:
                why = status.last_error or "; ".join(status.problems.values()) or f"{self.url} did not answer in time"
                warnings.warn(
                    f"{self.storage.url} waits for {self.url}: {status.waiting}; the next store with this spool, or "
                    f"`traceark spool ship {self.storage.url}`, goes on ({why})",
                    SpoolPendingWarning,
                    stacklevel=3,
                )
        async with closing(self._far):
            return


def _local(spool: str | Path | None) -> Path:
    """Return the directory of a spool."""
    if spool is None or "://" in str(spool):
        raise InvalidValueError(f"a spool is a directory on a local disk, not {spool}", "spool")
    return Path(spool).expanduser().absolute()


def _overlap(directory: Path, storage: Storage) -> bool:
    """Say whether a spool and its archive would lie in one another."""
    root = storage.local_path("")
    if root is None:
        return False
    one, other = directory.resolve(), root.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)
