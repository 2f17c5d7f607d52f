"""An archive for code that may be called from anywhere and may not fail.

Exporters and callbacks are called from any thread, also from one that runs an event loop, and what
goes wrong in them must not end the user's run. So every call here blocks until it is durable, and
what goes wrong is counted and told once through `logging`. It knows traces, and no library.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

from traceark import archive
from traceark.archive import Archive
from traceark.capture.live_trace import LiveTrace
from traceark.errors import StoreClosedError
from traceark.storage.base import Durability

# What is kept in memory: of traces that ended it takes the oldest out first.
_MOST_TRACES = 256
_MOST_SPANS = 50_000
# Whether this is the archive's own work, whose spans, if it is instrumented, are nobody's.
_writing: ContextVar[bool] = ContextVar("traceark_capture_writing", default=False)
_log = logging.getLogger("traceark.capture")


class StoreOptions(TypedDict, total=False):
    """How an archive is opened, as `ArchiveStore` has it."""

    storage_options: Mapping[str, Any] | None
    durability: Durability
    allow_unsafe_writes: bool


@dataclass(eq=False)
class _Entry:
    trace: LiveTrace
    lock: threading.RLock = field(default_factory=threading.RLock)


class Recorder:
    """Writes traces as they grow.

    Spans are kept in memory until their trace has ended and 255 others were used after it, at most
    50,000; a trace that is let go of before has been written, and goes on without what was said in it.

    Parameters
    ----------
    url, **options
        As for `ArchiveStore`.

    Attributes
    ----------
    failures : int
        How many times something could not be written, or not as it was.
    """

    def __init__(self, url: str | Path, **options: Unpack[StoreOptions]) -> None:
        self.failures = 0
        self._open: Callable[[], Archive] = lambda: archive.open(url, **options)
        self._told: set[str] = set()
        self._closed = False
        self._begin()
        again = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: begin() if (begin := again()) is not None else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        """Open the archive; in a process that was forked, anew: its threads are the parent's."""
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._archive: Archive | None = self._open()

    def record(self, trace_id: str, make: Callable[[], LiveTrace], change: Callable[[LiveTrace], None]) -> bool:
        """Change a trace, and write what is new of it; say whether it is in the archive.

        Parameters
        ----------
        trace_id : str
        make : callable
            Makes the trace when it is not in memory.
        change : callable
            What happened.
        """
        if _writing.get():
            return True
        if self._closed:
            return self._failed(f"trace {trace_id} goes on", StoreClosedError("capturing was shut down before"))
        try:
            with self._lock:
                entry = self._entries.setdefault(trace_id, _Entry(make()))
                self._entries.move_to_end(trace_id)
            with entry.lock:
                change(entry.trace)
        except Exception as error:  # the run that is captured goes on, whatever is wrong here
            return self._failed(f"what trace {trace_id} tells could not be understood", error)
        done = self._write(entry, all_of_it=False)
        self._let_go()
        return done

    def flush(self) -> bool:
        """Write everything, also what was put off or failed before; say whether all is in the archive."""
        with self._lock:
            entries = list(self._entries.values())
        done = [self._write(entry, all_of_it=True) for entry in entries]
        return all(done)

    def close(self) -> bool:
        """Write everything, seal what has ended, and end; say whether all is in the archive."""
        if self._closed:
            return True
        done = self.flush()
        self._closed = True
        lost = [entry.trace for entry in self._entries.values() if not entry.trace.written]
        if lost:
            events = sum(trace.waiting for trace in lost)
            _log.error("%d traces are not all in the archive, %d events of them lost", len(lost), events)
        return self._give_back(self._archive) and done

    def _write(self, entry: _Entry, *, all_of_it: bool) -> bool:
        with entry.lock:
            used = None
            try:
                used = self._opened()
                with _own_work():
                    used.run(entry.trace.write(used.store, all_of_it=all_of_it))
            except BaseException as error:
                entry.trace.lost_sight()
                if not isinstance(error, Exception):
                    raise  # Ctrl-C is the user's
                if isinstance(error, StoreClosedError):
                    self._reopen(used)
                return self._failed(f"trace {entry.trace.trace_id} could not be written; it is tried again", error)
            refused, entry.trace.refused = entry.trace.refused, []
            for told in refused:
                self._tell(f"not kept as it was: {told}", told.partition(": ")[2])
            return True

    def _opened(self) -> Archive:
        with self._lock:
            if self._archive is None:
                self._archive = self._open()
            return self._archive

    def _reopen(self, broken: Archive | None) -> None:
        """Give back an archive whose store broke on a failed write, so that the next write opens it again."""
        with self._lock:
            if broken is None or self._archive is not broken:
                return
            self._archive = None
        self._give_back(broken)

    def _give_back(self, used: Archive | None) -> bool:
        if used is None:
            return True
        try:
            with _own_work():
                used.close()
        except Exception as error:  # as in `record`
            return self._failed("not everything could be sealed", error)
        return True

    def _let_go(self) -> None:
        """Forget traces beyond the bounds, those that ended first; of one that cannot be written that is told."""
        while True:
            with self._lock:
                spans = sum(entry.trace.spans for entry in self._entries.values())
                if len(self._entries) <= _MOST_TRACES and spans <= _MOST_SPANS:
                    return
                ended = (name for name, entry in self._entries.items() if entry.trace.ended)
                name = next(ended, next(iter(self._entries)))
                entry = self._entries.pop(name)
            done = self._write(entry, all_of_it=True)
            if not done or not entry.trace.ended:
                reason = "it goes on without what was said in it" if done else "it could not be written"
                self._tell(f"trace {name} was let go of, since memory holds no more: {reason}", reason)

    def _failed(self, what: str, error: Exception) -> bool:
        self._tell(f"{what}: {type(error).__name__}: {error}", f"{type(error).__name__} {getattr(error, 'errno', '')}")
        return False

    def _tell(self, what: str, reason: str) -> None:
        """Count, and tell once for each reason."""
        self.failures += 1
        if reason in self._told:
            return
        self._told.add(reason)
        _log.error("%s (told once; `failures` counts)", what)


class _own_work:
    """Marks what is done within it, in all threads that take part, as the archive's own."""

    def __enter__(self) -> None:
        self._token = _writing.set(True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _writing.reset(self._token)
