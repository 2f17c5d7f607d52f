"""The open traces of one store: when they are opened, shed, sealed and closed.

Memory and files stay bounded by how many traces are open, not by the archive. The pool also finds
out, once, whether the archive may be written, and has its marker made.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from typing import TypeVar

from traceark.catalog.catalog import Catalog
from traceark.catalog.layered import Listing
from traceark.catalog.lookup import Lookup
from traceark.codec.parquet import PartInfo
from traceark.compact import seal
from traceark.errors import (
    DamagedTraceError,
    InvalidIdError,
    StorageError,
    StoreClosedError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.going_on import going_on
from traceark.headers import Header
from traceark.layout import MANIFEST, trace_prefix
from traceark.live import OpenTrace
from traceark.marker import make_marker, read_marker
from traceark.models import TERMINAL, JsonObject, Trace
from traceark.reading import StoredTrace, load
from traceark.recording import RecordedTrace
from traceark.rollups.cache import FileCache
from traceark.rollups.standing import Standing
from traceark.segments import Places
from traceark.storage.base import AppendStorage, Durability, Entry, Storage

Answer = TypeVar("Answer")
# What parts say of themselves is remembered for so many of them.
_KNOWN_PARTS = 10_000
# For so long a trace that was handed out is not closed to make room.
_HELD_SECONDS = 1.0


class TracePool:
    """The open traces of one store.

    Parameters
    ----------
    storage, durability, allow_unsafe_writes
        As the store has them.
    cache : FileCache
        Where immutable files of an object store are kept for DuckDB.
    limit : int
        How many traces stay open.
    record_changes : bool
        Whether events tell what this store changes.
    """

    # An archive that is read together with this one, for the traces that this one does not hold.
    under: TracePool | None = None

    def __init__(
        self,
        storage: Storage,
        durability: Durability,
        cache: FileCache,
        *,
        allow_unsafe_writes: bool,
        limit: int,
        record_changes: bool,
    ) -> None:
        self.storage = storage
        self.cache = cache
        self.closed = False
        self._durability = durability
        self._allow_unsafe_writes = allow_unsafe_writes
        self._limit = limit
        self.record_changes = record_changes
        self._open: dict[str, OpenTrace] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._awaited: Counter[str] = Counter()
        self._sealing: dict[str, asyncio.Task[None]] = {}
        self._parts: dict[str, PartInfo] = {}
        self._footers: dict[str, PartInfo] = {}
        self._places = Places()
        self._headers: dict[str, tuple[str, Header]] = {}
        self._marker: JsonObject | None = None
        self._is_known_format = False
        self._writable: asyncio.Task[None] | None = None
        self.catalog = Catalog(storage, self._archive_id, Lookup(storage, self._read, self._live))
        self.standing = Standing(storage, self.catalog, self.catalog.binding, cache)

    async def _archive_id(self) -> str | None:
        marker = await self.marker()
        return str(marker.get("archive_id", "")) if marker is not None else None

    async def _read(self, trace_id: str, entries: Mapping[str, Entry] | None) -> tuple[StoredTrace, Trace] | None:
        """Return a trace as its files are, for the catalog."""
        stored = await load(self.storage, trace_id, trace_prefix(trace_id), entries, self.parts())
        return (stored, await stored.trace()) if stored is not None else None

    async def _live(self, trace_id: str, alone: bool) -> tuple[str, StoredTrace, Trace] | None:
        """Return a trace that is open here as it is in memory, for the catalog; listed anew if others write to it."""
        if (trace := self._open.get(trace_id)) is None:
            return None
        if not alone:
            try:
                async with trace.reading():
                    pass
            except TraceNotFoundError:
                await self.forget(trace_id)
                return None
            except (DamagedTraceError, UnsupportedFormatError):
                return None  # replaced under this process, which hears of it when it writes; its files tell more
        tree = trace.tree.revision if trace.tree is not None else 0
        sealed = MANIFEST in trace.entries
        token = f"{trace.header.incarnation} {trace.header.revision} {tree} {trace.ends} {sealed}"
        return token, trace.stored(), trace.view()

    @property
    def url(self) -> str:
        """Where the archive is."""
        return self.storage.url

    async def reach(self, answer: Awaitable[Answer]) -> Answer:
        """Wait for an answer of the archive under this one."""
        return await answer

    @property
    def listing(self) -> Listing:
        """What answers questions over the headers of all traces."""
        return self.catalog

    def get(self, trace_id: str) -> OpenTrace | None:
        """Return a trace if it is open."""
        return self._open.get(trace_id)

    def __iter__(self) -> Iterator[OpenTrace]:
        return iter(list(self._open.values()))

    async def marker(self) -> JsonObject | None:
        """Return the archive's marker, or None where there is no archive.

        Raises
        ------
        CorruptFileError
            It is torn, or no marker.
        UnsupportedFormatError
            It was made by a newer version.
        """
        if self._marker is None:
            self._marker = await read_marker(self.storage)
        return self._marker

    async def ready(self) -> None:
        """Once: find out whether writing is safe here, and make the marker."""
        if self.closed:
            raise StoreClosedError(f"the store of {self.url} is closed; open it again")
        if self._writable is None or (
            self._writable.done() and (self._writable.cancelled() or self._writable.exception())
        ):
            self._writable = going_on(self._make_ready())
        if not self._writable.done():
            await asyncio.shield(self._writable)

    async def _make_ready(self) -> None:
        if not self._allow_unsafe_writes:
            await self.storage.check_writable()
        on_disk = self.storage if isinstance(self.storage, AppendStorage) else None
        while await self.marker() is None:
            if on_disk is not None:
                on_disk.make_directory("")
            self._marker = await make_marker(self.storage)
            if self._marker is not None:
                await self.catalog.begin()
        if on_disk is not None:
            # Who made what is here may have been killed before it was on stable storage.
            await on_disk.sync_names("")

    def at_hand(self, trace_id: str) -> OpenTrace | None:
        """Return a trace for writing if it is open."""
        trace = self._open.get(trace_id)
        if trace is None or self.closed:
            return None
        trace.used_at = time.monotonic()
        return trace

    async def opened(self, trace_id: str) -> OpenTrace:
        """Return a trace, open for writing.

        Raises
        ------
        TraceNotFoundError, StoreClosedError
        """
        while (trace := self.at_hand(trace_id)) is None:
            await self._open_now(trace_id)
        return trace

    async def _open_now(self, trace_id: str) -> None:
        """Open a trace, once for all who wait for it; it stays open until they had their turn."""
        self._awaited[trace_id] += 1
        try:
            await self.ready()
            if trace_id in self._open:
                return  # another task opened it meanwhile
            if is_first := trace_id not in self._opening:
                self._opening[trace_id] = going_on(self._open_trace(trace_id))
            try:
                await asyncio.shield(self._opening[trace_id])
            except TraceNotFoundError:
                if is_first:
                    raise
                # It may have been made after that opening had looked: `opened` looks again.
        finally:
            self._awaited[trace_id] -= 1
            if not self._awaited[trace_id]:
                del self._awaited[trace_id]

    async def _open_trace(self, trace_id: str) -> None:
        try:
            try:
                make = RecordedTrace if self.record_changes else OpenTrace
                trace = make(self.storage, trace_id, self._durability, self.catalog.notices.announce)
            except InvalidIdError as error:
                raise TraceNotFoundError(f"no trace {trace_id!r} in {self.url}: {error}") from None
            await trace.refresh()
            trace.announced_at = self.catalog.notices.announced_at(trace_id)
            self._open[trace_id] = trace
            await self._shed()
        finally:
            del self._opening[trace_id]

    async def _shed(self) -> None:
        """Close the traces that were used least lately, but none with something on its way."""
        recent = time.monotonic() - _HELD_SECONDS
        for trace_id, trace in sorted(self._open.items(), key=lambda each: each[1].used_at):
            if len(self._open) <= self._limit:
                return
            # Who was given a trace not long ago may be between two uses of it.
            if not trace.idle or trace.used_at > recent or trace_id in self._awaited or trace_id in self._sealing:
                continue
            try:
                await self._bring_up_to_date(trace)
            except TraceNotFoundError:
                pass  # deleted by somebody else
            except Exception:  # it stays open; `close` tries again, and raises
                continue
            if self._open.get(trace_id) is trace:
                del self._open[trace_id]
                await trace.close()
                await self.done(trace_id)

    async def _bring_up_to_date(self, trace: OpenTrace) -> None:
        if trace.touched and trace.header.trace.status in TERMINAL:
            await self.seal(trace)
        else:
            await trace.publish_checkpoint()

    async def forget(self, trace_id: str) -> None:
        """Close a trace that went, if it is open; who writes to one of its name later says so again."""
        self.catalog.notices.forget(trace_id)
        trace = self._open.pop(trace_id, None)
        if trace is not None:
            await trace.close()

    async def done(self, trace_id: str) -> None:
        """Tell others that this process is done with a trace for now, though it may keep it open."""
        trace = self._open.get(trace_id)
        if trace is not None:
            async with trace.held():
                trace.announced_at = None
        if trace_id not in self._opening:  # who opens it now goes on from what was told before
            await self.catalog.notices.settle([trace_id])

    async def load(self, trace_id: str) -> StoredTrace | None:
        """Return a trace that is not open as it stands, or None; on a disk it raises as `marker` does."""
        try:
            prefix = trace_prefix(trace_id)
        except InvalidIdError:
            return None  # what cannot be created is not there
        if len(self._headers) > self._limit:
            self._headers.clear()
        if not self._is_known_format and isinstance(self.storage, AppendStorage):
            self._is_known_format = await read_marker(self.storage) is not None
        return await load(self.storage, trace_id, prefix, None, self.parts(), self._headers, self._places)

    def parts(self) -> dict[str, PartInfo]:
        """Return what is remembered of parts."""
        if len(self._parts) > _KNOWN_PARTS:
            self._parts.clear()
        return self._parts

    def footers(self) -> dict[str, PartInfo]:
        """Return what is remembered of the footers of parts that DuckDB reads itself."""
        if len(self._footers) > _KNOWN_PARTS:
            self._footers.clear()
        return self._footers

    async def stored(self, trace_id: str) -> StoredTrace | None:
        """Return a trace's files as they stand, bounded by what is durable, or None."""
        trace = self._open.get(trace_id)
        if trace is None:
            return await self.load(trace_id)
        try:
            async with trace.reading():
                return trace.stored()
        except TraceNotFoundError:
            await self.forget(trace_id)
            return await self.load(trace_id)

    async def seal(self, trace: OpenTrace) -> None:
        """Seal a trace; who is done with it meanwhile leaves it open, as it is not yet what it will be."""
        with self.catalog.notices.unsettled(trace.trace_id):
            await seal(trace)

    def seal_soon(self, trace: OpenTrace) -> None:
        """Seal a trace in the background; `close` waits for it."""
        running = self._sealing.get(trace.trace_id)
        if running is None or running.done():
            self._sealing[trace.trace_id] = asyncio.ensure_future(self._seal_in_background(trace))

    async def _seal_in_background(self, trace: OpenTrace) -> None:
        try:
            await self.seal(trace)
            await self.done(trace.trace_id)
        except Exception:  # the trace stays unsealed; `close` tries again, and raises
            trace.touched = True
        finally:
            if self._sealing.get(trace.trace_id) is asyncio.current_task():
                del self._sealing[trace.trace_id]

    async def begin(self, trace_id: str) -> None:
        """Make ready for a trace that is about to be made, and tell others."""
        await self.ready()
        await self.settle(trace_id)
        await self.catalog.notices.announce(trace_id)

    async def made(self, trace: Trace) -> None:
        """Do what is due when a trace was just made."""
        if trace.status in TERMINAL:
            # Nothing may follow, and still it is to be sealed.
            (await self.opened(trace.trace_id)).touched = True
        if self.record_changes:
            async with (await self.opened(trace.trace_id)).exclusive():
                pass  # whoever holds it tells what no event tells yet: here, that it is there

    async def settle(self, trace_id: str) -> None:
        """Wait for a seal of the trace that is under way, and close the trace."""
        await self.sealed(trace_id)
        await self.forget(trace_id)

    async def sealed(self, trace_id: str) -> None:
        """Wait for a seal of the trace that is under way in the background."""
        if (running := self._sealing.pop(trace_id, None)) is not None:
            await asyncio.wait([running])

    async def close(self) -> None:
        """Seal every trace that this store wrote to and that is finished; give back all files.

        Raises
        ------
        ExceptionGroup
            Traces that could not be sealed, or of one its error alone; they stay as they are, whole and readable.
        """
        if self.closed:
            return
        self.closed = True
        for opening in list(self._opening.values()):
            await asyncio.wait([opening])
        problems: list[Exception] = []
        for task in list(self._sealing.values()):
            await asyncio.wait([task])
        self._sealing.clear()
        for trace in list(self._open.values()):
            try:
                await self._bring_up_to_date(trace)
            except TraceNotFoundError:
                pass  # deleted by somebody else
            except Exception as error:  # the others are closed all the same; all of them are raised below
                problems.append(error)
            await trace.close()
        self._open.clear()
        try:
            await self.catalog.notices.settle(list(self.catalog.notices.openings))
            await self.catalog.close()
        except StorageError as error:
            problems.append(error)
        await self.storage.close()
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ExceptionGroup(f"{len(problems)} traces of {self.url} could not be brought up to date", problems)
