"""A run in which chance decides who goes on and time is made up: the same seed gives the same run.

The event loop's clock jumps to whatever is next, work for threads is done in the loop, and every call of a
storage takes a while that chance tells. So hours of many tasks at a time go by in a second, and go by again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import selectors
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from profiles import THOROUGH
from traceark.errors import StorageError
from traceark.models import utc_now
from traceark.spool import store as spooled
from traceark.spool.background import Background
from traceark.storage import syncing
from traceark.storage.base import Storage
from traceark.storage.local import LocalStorage
from traceark.storage.local_files import LocalLock
from traceark.storage.memory import MemoryStorage

Answer = TypeVar("Answer")
CALLS = (
    "read", "read_versioned", "list", "children", "create", "create_all", "replace", "delete", "delete_unchanged",
    "sync", "sync_names", "remove_leftovers",
)  # fmt: skip
# When a run begins: by the loop's clock, and by the calendar's.
_BEGAN_AT, _EPOCH = 1_000.0, 1_700_000_000.0
_ROUNDS, _LONG_SECONDS = 8, 60.0
# Of which process a task is that goes on, and so is what it begins.
PROCESS: ContextVar[object] = ContextVar("process", default=None)


class FailedCallError(StorageError):
    """What a call of a storage raised that chance let fail."""


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: time passes instead."""

    loop: SimulatedLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("all tasks wait for one another")
        self.loop.now += max(timeout, 0.0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in made-up time; what it would give to threads it does itself, a while later.

    Tasks may be told to be of different processes, and of one that is killed none goes on.
    """

    def __init__(self, chance: random.Random) -> None:
        self.now = _BEGAN_AT
        self.chance = chance
        self.dead: set[object] = set()
        self.locks: dict[LocalLock, object] = {}
        # How many of the calls of a storage fail, before or after they are done: by chances of their own.
        self.failing = 0.0
        self.failures = random.Random(chance.getstate()[1][0])
        # What the dead would have gone on with; it is not to be cleared away, as if they did.
        self._left: list[object] = []
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def pause(self) -> float:
        """Return how long a call takes this time, in seconds: mostly nothing, seldom very long."""
        drawn = self.chance.random()
        if drawn < 0.5:
            return 0.0
        return self.chance.expovariate(1.0) * (0.002 if drawn < 0.9 else 0.05 if drawn < 0.99 else 3.0)

    def fails(self) -> bool:
        """Say whether a call of a storage fails here."""
        return self.failing > 0 and self.failures.random() < self.failing / 2

    def kill(self, process: object) -> None:
        """Let no task of a process go on from here, and give back its locks, as the system does."""
        self.dead.add(process)
        for lock, holder in self.locks.items():
            if holder == process:
                lock.release()

    # What the bases promise, arguments of the types that the callback takes, cannot be said of these.
    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        process = (context or copy_context()).get(PROCESS)
        return super().call_soon(self._go_on, process, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = (context or copy_context()).get(PROCESS)
        return super().call_at(when, self._go_on, process, callback, args, context=context)

    def _go_on(self, process: object, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if process in self.dead:
            self._left.append((callback, args))
        else:
            callback(*args)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        answer: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                # A thread has no loop, and may run one of its own.
                asyncio._set_running_loop(None)
                try:
                    result = func(*args)
                finally:
                    asyncio._set_running_loop(self)
            except BaseException as error:  # it belongs to who waits
                self.call_later(self.pause(), settle, answer.set_exception, error)
            else:
                self.call_later(self.pause(), settle, answer.set_result, result)

        def settle(how: Callable[[Any], None], what: Any) -> None:
            if not answer.done():
                how(what)

        self.call_later(self.pause(), work)
        return answer


class _Beside(Background):
    """Ships a spool in the loop of who writes to it."""

    _shipping: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._shipping is None:
            self._shipping = asyncio.ensure_future(self._run())

    async def finish(self, seconds: float) -> None:
        if self._shipping is None:
            return
        self._finishing = True
        self.hurry()
        await asyncio.wait([self._shipping], timeout=seconds)
        self._shipping.cancel()
        await asyncio.wait([self._shipping])


def simulated(seed: object, work: Callable[[random.Random], Coroutine[Any, Any, Answer]], *, aging: bool) -> Answer:
    """Return what some work returns, done in a loop of its own by the chances of a seed.

    With `aging` files get older as the loop's time passes: where they lie in memory, and have no time of their own.
    """
    chance = random.Random(str(seed))
    loop = SimulatedLoop(chance)
    sync_seconds = chance.choice([0.0, 0.0, 0.005])
    with pytest.MonkeyPatch.context() as patch:
        _set_clock(patch, loop, aging=aging)
        patch.setattr(secrets, "token_hex", lambda size=32: f"{chance.getrandbits(8 * size):0{2 * size}x}")
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=chance.getrandbits(128), version=4))
        patch.setattr(random, "uniform", chance.uniform)
        patch.setattr(spooled, "Background", _Beside)

        def sync(_: int) -> None:
            loop.now += sync_seconds

        _watch_locks(patch, loop)
        for module, name in ((os, "fsync"), (os, "fdatasync"), (syncing, "syncfs")):
            patch.setattr(module, name, sync)
        for kind in (LocalStorage, MemoryStorage):
            for name in CALLS:
                if name in vars(kind):
                    patch.setattr(kind, name, _slow(getattr(kind, name), loop))
        unnoticed: list[str] = []

        def unheard(_: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
            # Of who was killed nobody waits for the answers.
            if not (loop.dead and isinstance(told.get("exception"), FailedCallError)):
                unnoticed.append(f"{told['message']}: {told.get('exception')!r}")

        loop.set_exception_handler(unheard)
        try:
            answer = loop.run_until_complete(work(chance))
            if THOROUGH and loop.dead:
                # Before what the dead say is not listened to.
                gc.collect()
        finally:
            _end(loop)
    if THOROUGH:
        gc.collect()
    assert not unnoticed, unnoticed
    return answer


def _set_clock(patch: pytest.MonkeyPatch, loop: SimulatedLoop, *, aging: bool) -> None:
    """Let the loop's time be told, but where it is compared with that of files on a disk."""
    own = SimpleNamespace(**vars(time))
    own.monotonic = own.perf_counter = loop.time
    own.time_ns = lambda: int((_EPOCH + loop.now) * 1e9)
    if aging:
        own.time = lambda: _EPOCH + loop.now

    def now() -> datetime:
        return datetime.fromtimestamp(_EPOCH + loop.now, UTC)

    for name, module in list(sys.modules.items()):
        if name.startswith("traceark."):
            if name == "traceark.rollups.cache":
                continue  # its files lie on a disk
            for what, real, simulated in (("time", time, own), ("utc_now", utc_now, now)):
                if getattr(module, what, None) is real:
                    patch.setattr(module, what, simulated)


def _watch_locks(patch: pytest.MonkeyPatch, loop: SimulatedLoop) -> None:
    """Know which process holds which lock."""
    begin, close = LocalLock.__init__, LocalLock.close

    def beginning(self: LocalLock, *args: Any) -> None:
        begin(self, *args)
        loop.locks[self] = PROCESS.get()

    def closing(self: LocalLock) -> None:
        loop.locks.pop(self, None)
        close(self)

    patch.setattr(LocalLock, "__init__", beginning)
    patch.setattr(LocalLock, "close", closing)


def _slow(real: Callable[..., Coroutine[Any, Any, Any]], loop: SimulatedLoop) -> Any:
    async def call(self: Storage, *args: Any, **options: Any) -> Any:
        if asyncio.get_running_loop() is not loop:
            return await real(self, *args, **options)
        await asyncio.sleep(loop.pause())
        if loop.fails():
            raise FailedCallError(f"{self.url}: {real.__name__} was not done")
        answer = await real(self, *args, **options)
        await asyncio.sleep(loop.pause())
        if loop.fails():
            raise FailedCallError(f"{self.url}: {real.__name__} was done, and not answered")
        return answer

    return call


def _end(loop: SimulatedLoop) -> None:
    """Cancel what goes on still; of those who were killed also what stands still, whatever it says to that."""
    was_killed, loop.dead = bool(loop.dead), set()
    if was_killed:
        loop.set_exception_handler(lambda *_: None)

    async def end() -> set[asyncio.Task[Any]]:
        left: set[asyncio.Task[Any]] = set()
        for _ in range(_ROUNDS if was_killed else 1):
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if not was_killed:
                await asyncio.gather(*left, return_exceptions=True)
            elif left:
                # One that waits for what another was about to do goes on to wait for the next thing.
                await asyncio.wait(left, timeout=_LONG_SECONDS)
        return {task for task in left if not task.done()}

    left = loop.run_until_complete(end())
    loop.close()
    for task in left:
        for _ in range(_ROUNDS):
            # Each time it is told once more that all is over, until nothing is left that it does in the end.
            with suppress(Exception):
                task.get_coro().close()
                break
