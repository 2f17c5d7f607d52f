"""An archive for code that may be called from anywhere and may not fail.

Exporters and callbacks are called from any thread, also from one that runs an event loop, and what
goes wrong in them must not end the user's run. So every call here blocks until it is durable, and
what goes wrong is counted and told once through `logging`. It knows traces, and no library.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
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
from traceark.store import ArchiveStore

# What is kept in memory: of traces that ended it takes the oldest out first.
_MOST_TRACES = 256
_MOST_SPANS = 50_000
# Seconds: of what was told so long before, a call waits until it is written; but so long at most.
_MOST_BEHIND, _MOST_WAIT = 0.25, 5.0
# Whether this is the archive's own work, whose spans, if it is instrumented, are nobody's.
_writing: ContextVar[bool] = ContextVar("traceark_capture_writing", default=False)
_log = logging.getLogger("traceark.capture")


class StoreOptions(TypedDict, total=False):
    """How an archive is opened, as `ArchiveStore` has it."""

    storage_options: Mapping[str, Any] | None
    durability: Durability
    allow_unsafe_writes: bool
    record_changes: bool


@dataclass(eq=False)
class _Entry:
    trace: LiveTrace
    changes: deque[Callable[[Any], None]] = field(default_factory=deque)


class Recorder:
    """Writes traces as they grow, in a thread of its own.

    A call hands over what happened and returns; it waits only where something told more than 0.25
    seconds before is not in the archive yet, and not where the archive cannot be written at all.

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
        begins, ends = weakref.WeakMethod(self._begin), weakref.WeakMethod(self.flush)
        os.register_at_fork(after_in_child=lambda: begin() if (begin := begins()) is not None else None)
        # Where nobody closes it: what was handed over is written before the process ends.
        atexit.register(lambda: end() if (end := ends()) is not None else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        """Open the archive; in a process that was forked, anew: its threads are the parent's."""
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._waiting: dict[str, _Entry] = {}
        # Since when the oldest of what waits, or of what is being written, was told.
        self._waiting_since: float | None = None
        self._writing_since: float | None = None
        self._failing = False
        self._unwritten: set[str] = set()
        self._state = threading.Condition()
        self._writes = threading.RLock()
        self._archive: Archive | None = None
        if not self._closed:
            self._archive = self._open()
            self._thread = threading.Thread(target=self._work, name="traceark capture", daemon=True)
            self._thread.start()

    def record(self, trace_id: str, make: Callable[[], LiveTrace], change: Callable[[Any], None]) -> bool:
        """Take a change of a trace, to be written at once by another thread; say whether it was taken.

        Parameters
        ----------
        trace_id : str
        make : callable
            Makes the trace when it is not in memory.
        change : callable
            What happened. It is called in another thread, after those of earlier calls.
        """
        if _writing.get():
            return True
        if self._closed:
            self._failed(f"trace {trace_id} goes on", StoreClosedError("capturing was shut down before"))
            return False
        with self._state:
            entry = self._entries.get(trace_id)
            if entry is None:
                entry = self._entries[trace_id] = _Entry(make())
            self._entries.move_to_end(trace_id)
            entry.changes.append(change)
            self._waiting[trace_id] = entry
            now = time.monotonic()
            self._waiting_since = now if self._waiting_since is None else self._waiting_since
            self._state.notify_all()
            self._state.wait_for(lambda: not self._is_behind(now), _MOST_WAIT)
        return True

    def write(self, trace_ids: Iterable[str]) -> bool:
        """Wait until what was told of some traces is written; say whether it is in the archive."""
        if not self._closed:
            self._write(all_of_it=False)
        return not self._closed and self._unwritten.isdisjoint(trace_ids)

    def flush(self) -> bool:
        """Write everything, also what was put off or failed before; say whether all is in the archive."""
        return self._closed or self._write(all_of_it=True)

    def close(self) -> bool:
        """Write everything, seal what has ended, and end; say whether all is in the archive."""
        if self._closed:
            return True
        done = self.flush()
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._thread.join()
        lost = [entry.trace for entry in self._entries.values() if not entry.trace.written]
        if lost:
            events = sum(trace.waiting for trace in lost)
            _log.error("%d traces are not all in the archive, %d events of them lost", len(lost), events)
        return self._give_back(self._archive) and done

    def _is_behind(self, now: float) -> bool:
        since = self._waiting_since if self._writing_since is None else self._writing_since
        return since is not None and now - since > _MOST_BEHIND and not self._failing

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
            self._write(all_of_it=False)

    def _write(self, *, all_of_it: bool) -> bool:
        """Write what waits, or everything; say whether it is in the archive."""
        with self._writes:
            with self._state:
                entries = list((self._entries if all_of_it else self._waiting).values())
                changes = [(entry, entry.changes) for entry in entries]
                for entry in entries:
                    entry.changes = deque()
                self._waiting.clear()
                self._writing_since, self._waiting_since = self._waiting_since, None
            done = False
            try:
                for entry, told in changes:
                    self._change(entry.trace, told)
                done = self._write_traces([entry.trace for entry in entries], all_of_it=all_of_it)
                self._let_go()
            finally:
                with self._state:
                    self._writing_since, self._failing = None, not done
                    self._state.notify_all()
            return done

    def _change(self, trace: LiveTrace, changes: Iterable[Callable[[Any], None]]) -> None:
        for change in changes:
            try:
                change(trace)
            except Exception as error:  # the run that is captured goes on, whatever is wrong here
                self._failed(f"what trace {trace.trace_id} tells could not be understood", error)

    def _write_traces(self, traces: list[LiveTrace], *, all_of_it: bool) -> bool:
        used = None
        errors: list[Exception | None]
        try:
            used = self._opened()
            with _own_work():
                errors = used.run(_written(traces, used.store, all_of_it=all_of_it))
        except Exception as failure:  # the archive cannot be opened
            errors = [failure] * len(traces)
        except BaseException:  # Ctrl-C is the user's
            for trace in traces:
                trace.lost_sight()
            raise
        for trace, error in zip(traces, errors, strict=True):
            self._unwritten.discard(trace.trace_id)
            if error is not None:
                self._unwritten.add(trace.trace_id)
                trace.lost_sight()
                self._failed(f"trace {trace.trace_id} could not be written; it is tried again", error)
            refused, trace.refused = trace.refused, []
            for told in refused:
                self._tell(f"not kept as it was: {told}", told.partition(": ")[2])
        if any(isinstance(error, StoreClosedError) for error in errors):
            self._reopen(used)
        return not any(errors)

    def _opened(self) -> Archive:
        with self._state:
            if self._archive is None:
                self._archive = self._open()
            return self._archive

    def _reopen(self, broken: Archive | None) -> None:
        """Give back an archive whose store broke on a failed write, so that the next write opens it again."""
        with self._state:
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
        except Exception as error:  # as in `_change`
            self._failed("not everything could be sealed", error)
            return False
        return True

    def _let_go(self) -> None:
        """Forget traces beyond the bounds, those that ended first; of one that cannot be written that is told."""
        while True:
            with self._state:
                spans = sum(entry.trace.spans for entry in self._entries.values())
                if len(self._entries) <= _MOST_TRACES and spans <= _MOST_SPANS:
                    return
                ended = (name for name, entry in self._entries.items() if entry.trace.ended)
                name = next(ended, next(iter(self._entries)))
                entry = self._entries.pop(name)
                self._waiting.pop(name, None)
            self._change(entry.trace, entry.changes)
            done = self._write_traces([entry.trace], all_of_it=True)
            if not done or not entry.trace.ended:
                reason = "it goes on without what was said in it" if done else "it could not be written"
                self._tell(f"trace {name} was let go of, since memory holds no more: {reason}", reason)

    def _failed(self, what: str, error: Exception) -> None:
        self._tell(f"{what}: {type(error).__name__}: {error}", f"{type(error).__name__} {getattr(error, 'errno', '')}")

    def _tell(self, what: str, reason: str) -> None:
        """Count, and tell once for each reason."""
        self.failures += 1
        if reason in self._told:
            return
        self._told.add(reason)
        _log.error("%s (told once; `failures` counts)", what)


async def _written(traces: list[LiveTrace], store: ArchiveStore, *, all_of_it: bool) -> list[Exception | None]:
    """Write traces at the same time; return what went wrong with each."""

    async def write(trace: LiveTrace) -> Exception | None:
        try:
            await trace.write(store, all_of_it=all_of_it)
        except Exception as error:  # it is the recorder's to tell; the other traces go on
            return error
        return None

    return list(await asyncio.gather(*map(write, traces)))


class _own_work:
    """Marks what is done within it, in all threads that take part, as the archive's own."""

    def __enter__(self) -> None:
        self._token = _writing.set(True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _writing.reset(self._token)
