"""A thread with an event loop, on which blocking callers run coroutines. It knows nothing of archives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class LoopThread:
    """A thread with an event loop.

    Parameters
    ----------
    name : str
        The thread's.

    Examples
    --------
    >>> thread = LoopThread("example")
    >>> thread.run(asyncio.sleep(0, "done"))
    'done'
    >>> thread.end()
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Executor(thread_name_prefix="traceark"))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        # What was shielded from Ctrl-C may be going on.
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left))

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine and return its result; Ctrl-C cancels it and waits for its end."""
        tasks: list[asyncio.Task[Any] | None] = []

        async def noted() -> Answer:
            tasks.append(asyncio.current_task())
            return await work

        async def ended() -> None:
            await asyncio.wait([task for task in tasks if task is not None])

        future = asyncio.run_coroutine_threadsafe(noted(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            if tasks:
                asyncio.run_coroutine_threadsafe(ended(), self._loop).result()
            raise

    def end(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Executor(ThreadPoolExecutor):
    """Threads for what blocks; once the interpreter ends and gives none, the loop's own thread does it."""

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            # An archive may be written to by what is registered with `atexit`.
            future: Future[Answer] = Future()
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # it is for whoever awaits it
                future.set_exception(error)
            return future
