"""Work that goes on to its end, where those who wait for it go away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def going_on(work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    """Begin some work, and return it for whoever waits, behind `asyncio.shield`.

    Where all who waited were cancelled nobody is left to hear of an error, and asyncio logs no "exception was never
    retrieved": what the work was for is asked again by who wants it next.

    Examples
    --------
    >>> async def run():
    ...     async def work():
    ...         return 7
    ...     return await asyncio.shield(going_on(work()))
    >>> asyncio.run(run())
    7
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
