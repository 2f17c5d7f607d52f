"""Processes that share one piece of work, each forked from one that has loaded this package: that takes half a second.

The one stays for as long as the program runs, so that later work need not wait for it. It knows nothing of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

from traceark.starting import leave_pandas_for_later

# What to say where one of them is gone.
DIED = "died, for want of memory, or since the script that started it does so outside of `if __name__ == '__main__':`"
# What those that share some work need; a program's own main module is loaded there, as is usual.
_LOADED = ["__main__", "traceark.store", "traceark.importers.parallel"]


def context() -> BaseContext:
    """Return the way to start processes: the server that forks them has no threads, as this process may have."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    # Where the program has such a server already, its processes load the package themselves.
    found.set_forkserver_preload(_LOADED)
    # Ctrl-C goes to all that a terminal runs, and only this process is to obey it: from their first line on it is
    # blocked in those that the server is and forks.
    resource_tracker.ensure_running()  # which blocks and frees it itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return found


class Pool(ProcessPoolExecutor):
    """A pool of processes that can be ended whatever they do."""

    def end(self) -> None:
        """End the processes at once, as a kill would."""
        for process in list((self._processes or {}).values()):
            process.terminate()


def pool(workers: int, begin: Callable[..., None] | None = None, *given: object) -> Pool:
    """Return a pool of processes with the environment that this one has now; each calls `begin` first."""
    return Pool(workers, mp_context=context(), initializer=_begin, initargs=(dict(os.environ), begin, given))


def _begin(environment: Mapping[str, str], begin: Callable[..., None] | None, given: tuple[object, ...]) -> None:
    # Where the program had a server already, Ctrl-C is not blocked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The server has that of the moment in which it was started.
    os.environ.clear()
    os.environ.update(environment)
    leave_pandas_for_later()
    if begin is not None:
        begin(*given)
