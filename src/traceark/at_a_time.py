"""The same done to many things, some at a time: what waits for a disk or a server waits together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[object]], at_a_time: int) -> None:
    """Do something for each, begun in their order; after an error none is begun any more.

    Parameters
    ----------
    items : iterable
    work : callable
        What is awaited for one of them; what it raises ends the others and is raised.
    at_a_time : int
        How many are under way at most.

    Examples
    --------
    >>> done = []
    >>> async def work(name):
    ...     done.append(name)
    >>> asyncio.run(for_each("abc", work, 2))
    >>> done
    ['a', 'b', 'c']
    """
    waiting = deque(items)

    async def one_after_the_other() -> None:
        while waiting:
            try:
                await work(waiting.popleft())
            except BaseException:
                waiting.clear()
                raise

    running = {asyncio.create_task(one_after_the_other()) for _ in range(min(at_a_time, len(waiting)))}
    try:
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
