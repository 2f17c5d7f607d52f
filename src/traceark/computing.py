"""Computing beside an event loop, in a thread; where many things are computed one after the other, one at a time.

Two threads that compute share the interpreter's one lock, and passing it to and fro takes up to a tenth of the time of
both. It is not for waiting: a thread that waits for a disk keeps nobody. It knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_turn: ContextVar[asyncio.Lock | None] = ContextVar("turn", default=None)


@contextmanager
def in_turns() -> Iterator[None]:
    """Let no two things be `computed` at a time in the block, and by the tasks that are made in it."""
    before = _turn.set(asyncio.Lock())
    try:
        yield
    finally:
        _turn.reset(before)


async def computed(function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Return what a function returns, called in a thread.

    Examples
    --------
    >>> async def run() -> list[int]:
    ...     with in_turns():
    ...         return await asyncio.gather(computed(len, "abc"), computed(len, "de"))
    >>> asyncio.run(run())
    [3, 2]
    """
    turn = _turn.get()
    if turn is None:
        return await asyncio.to_thread(function, *args, **named)
    async with turn:
        return await asyncio.to_thread(function, *args, **named)


@contextmanager
def without_collections() -> Iterator[None]:
    """Look for no cycles of garbage in the block: to do so again and again takes a fifth of the time of parsing.

    For a block that makes many objects without cycles, and is over before others miss it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
