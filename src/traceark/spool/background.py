"""The thread that ships a spool while an agent runs.

It has an event loop and stores of its own, as another process would, so that whatever it waits for,
the agent does not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from traceark.errors import StorageError
from traceark.spool.place import Place
from traceark.spool.ship import Shipper, closing
from traceark.storage.base import Lock
from traceark.store import ArchiveStore

log = logging.getLogger("traceark.spool")
_EVERY_SECONDS = 0.5
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 1.0, 60.0
# What is cancelled ends within this, or is left to end with the process.
_CANCEL_SECONDS = 5.0


class Background:
    """Ships a spool until it is told to finish.

    Parameters
    ----------
    place : Place
    open_spool, open_target : callable
        Open the stores that the thread uses.
    """

    def __init__(
        self, place: Place, open_spool: Callable[[], ArchiveStore], open_target: Callable[[], ArchiveStore]
    ) -> None:
        self._place = place
        self._open_spool = open_spool
        self._open_target = open_target
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._ready = threading.Event()
        self._finishing = False
        self._hurried = False
        self._failed: str | None = None
        self.is_reachable = True

    def start(self) -> None:
        """Start the thread, if it has not been."""
        if self._thread is None:
            name = f"traceark spool {self._place.directory}"
            self._thread = threading.Thread(target=self._main, name=name, daemon=True)
            self._thread.start()

    def hurry(self) -> None:
        """Let it ship now, whatever it waits for."""
        self._hurried = True
        if self._ready.is_set() and self._loop is not None and self._wake is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def finish(self, seconds: float) -> None:
        """Ship what is left, for so long at most, and end the thread."""
        if self._thread is None:
            return
        self._finishing = True
        await asyncio.to_thread(self._ready.wait)
        self.hurry()
        await asyncio.to_thread(self._thread.join, seconds)
        if self._thread.is_alive() and self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
            await asyncio.to_thread(self._thread.join, _CANCEL_SECONDS)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._task, self._wake = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        self._ready.set()
        try:
            async with AsyncExitStack() as stack:
                lock = await self._lock()
                if lock is None:
                    return
                stack.callback(lock.close)
                spool = await stack.enter_async_context(self._open_spool())
                target = await stack.enter_async_context(closing(self._open_target()))
                await self._ship(Shipper(self._place, spool, target))
        except asyncio.CancelledError:
            return  # `finish` has waited long enough
        except Exception as error:  # the thread ends here; what is in the spool stays there
            log.warning("the spool %s is not shipped any more: %s", self._place.directory, error, exc_info=error)

    async def _lock(self) -> Lock | None:
        """Wait to be the one who ships; None when there is no need to any more, since another does."""
        while (lock := self._place.try_shipping()) is None:
            if self._finishing:
                return None
            await self._rest(_EVERY_SECONDS)
        return lock

    async def _ship(self, shipper: Shipper) -> None:
        delay = _FIRST_DELAY_SECONDS
        await self._remember(None)
        while True:
            finishing, hurried, self._hurried = self._finishing, self._hurried, False
            try:
                is_empty = await shipper.round(hurry=hurried or finishing)
                if is_empty and finishing and not await self._place.is_used():
                    await shipper.finish()
                await self._succeeded()
            except Exception as error:  # whatever it is, it is told, and tried again: nothing else would ship
                await self._failed_by(error)
                is_empty = False
            if finishing and (is_empty or self._failed is not None):
                return
            if self._failed is None:
                delay = _FIRST_DELAY_SECONDS
                await self._rest(_EVERY_SECONDS)
            else:
                begin = time.monotonic()
                await self._rest(delay)
                waited = time.monotonic() - begin
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS) if waited >= delay else _FIRST_DELAY_SECONDS

    async def _succeeded(self) -> None:
        if self._failed is not None:
            log.warning("the spool %s is shipped again", self._place.directory)
            self._failed = None
            await self._remember(None)
        self.is_reachable = True

    async def _failed_by(self, error: Exception) -> None:
        self.is_reachable = False
        told = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        if told != self._failed:
            self._failed = told
            log.warning(
                "the spool %s is not shipped: %s; it is tried again",
                self._place.directory,
                told,
                exc_info=None if isinstance(error, StorageError) else error,
            )
            await self._remember(told)

    async def _remember(self, error: str | None) -> None:
        with suppress(StorageError):  # a spool whose disk is full is shipped all the same, and the log has told
            await self._place.set_error(error)

    async def _rest(self, seconds: float) -> None:
        assert self._wake is not None
        if self._hurried or self._finishing:
            # Nobody is kept waiting, and no other lock is asked for without a pause.
            seconds = min(seconds, 0.05)
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
        self._wake.clear()
