"""One thing done for all who ask for it at a time, such as a sync: it costs about as much for many as for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Calls a function, in a thread, with all that is asked for.

    Parameters
    ----------
    function : callable
        What it raises, all who asked get.
    most : int
        So many have room to prepare what they will ask for; who asks first waits for the others that are in it.

    Examples
    --------
    >>> async def run() -> list[list[int]]:
    ...     calls: list[list[int]] = []
    ...     together = Together(calls.append)
    ...     async def ask(item: int) -> None:
    ...         async with together.room():
    ...             await together.done(item)
    ...     await asyncio.gather(*map(ask, [1, 2, 3]))
    ...     return calls
    >>> asyncio.run(run())
    [[1, 2, 3]]
    """

    def __init__(self, function: Callable[[list[T]], None], most: int = 16) -> None:
        self._function = function
        self._room = asyncio.Semaphore(most)
        self._inside = 0
        self._asked: list[tuple[T, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Wait for room; inside of it others wait for this one to ask, or to leave."""
        async with self._room:
            self._inside += 1
            try:
                await asyncio.sleep(0)  # others that come at the same time are let in first
                yield
            finally:
                self._inside -= 1
                self._begin()

    async def done(self, item: T) -> None:
        """Return when the function was called with this item among others; cancelled, not before that has ended."""
        asked = (item, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._begin()
        try:
            await asked[1]
        except asyncio.CancelledError:
            if asked in self._asked:
                self._asked.remove(asked)
            elif self._running is not None:
                await asyncio.wait([self._running])
            raise

    def _begin(self) -> None:
        if self._asked and self._running is None and len(self._asked) >= self._inside:
            asked, self._asked = self._asked, []
            self._running = asyncio.create_task(self._run(asked))

    async def _run(self, asked: list[tuple[T, asyncio.Future[None]]]) -> None:
        [outcome] = await asyncio.gather(
            asyncio.to_thread(self._function, [item for item, _ in asked]), return_exceptions=True
        )
        self._running = None
        for _, future in asked:
            if future.done():
                continue  # cancelled
            if outcome is None:
                future.set_result(None)
            else:
                future.set_exception(outcome)
        self._begin()
