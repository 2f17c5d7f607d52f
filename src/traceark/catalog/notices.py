"""What this process tells the others of the traces that it writes to.

Notes go out as change files, created once and never changed; those of several callers share one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from traceark.catalog.contents import CATALOG, changes_name
from traceark.catalog.lookup import Lookup
from traceark.catalog.notes import Note, encode_notes, new_opening
from traceark.errors import StorageError
from traceark.storage.base import NO_ROOM, KeyExistsError, Storage

# A process that never asks reads its own older notes from the storage, should it ask one day.
_REMEMBERED_FILES = 256


class Notices:
    """The notes of one process.

    Parameters
    ----------
    storage, binding, lookup
        As the catalog has them.
    published : callable
        Called after each change file.

    Attributes
    ----------
    writer : str
        This process's own part of its change files' names and of its openings.
    openings : dict
        By trace id, the openings that this process has not closed.
    files : dict
        By name, the notes of its latest change files that it has not taken in itself.
    count : int
        How many change files it has published.
    """

    def __init__(
        self,
        storage: Storage,
        binding: Callable[[], Awaitable[str]],
        lookup: Lookup,
        published: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._binding = binding
        self._lookup = lookup
        self._published = published
        self.writer = secrets.token_hex(4)
        self.count = 0
        self.openings: dict[str, list[str]] = {}
        self.files: dict[str, list[Note]] = {}
        self._announced_at: dict[str, float] = {}
        self._outbox: list[Note] = []
        self._telling = asyncio.Lock()
        # How many tasks make files of a trace.
        self._replacing: Counter[str] = Counter()

    async def announce(self, trace_id: str) -> None:
        """Say that this process is about to write to a trace; returns when all others can know."""
        opening = new_opening(self.writer)
        self.openings.setdefault(trace_id, []).append(opening)
        self._announced_at[trace_id] = time.monotonic()
        await self._tell([Note("open", trace_id, opening)])

    def announced_at(self, trace_id: str) -> float | None:
        """Return when, by the monotonic clock, this process last said that it writes to a trace; None if it did not."""
        return self._announced_at.get(trace_id)

    def forget(self, trace_id: str) -> None:
        """Tell of a trace anew before the next write: of one that went, others need not keep what they were told."""
        self._announced_at.pop(trace_id, None)

    async def settle(self, trace_ids: Iterable[str]) -> None:
        """Say that this process is done with traces, and what they are now.

        One that cannot be read stays open: whoever asks looks into its directory. So does one that is `unsettled`.
        """
        notes: list[Note] = []
        for trace_id in trace_ids:
            if trace_id in self._replacing:
                continue
            closes = tuple(self.openings.pop(trace_id, ()))
            self._announced_at.pop(trace_id, None)
            if not closes:
                continue
            row = await self._lookup.row(trace_id)
            if row is not None and row.get("_incarnation") is not None:
                notes.append(Note("settled", trace_id, closes=closes, row=row))
        await self._tell(notes)

    @contextmanager
    def unsettled(self, trace_id: str) -> Iterator[None]:
        """Leave a trace open: of several tasks of this process that make files of it the last one settles it."""
        self._replacing[trace_id] += 1
        try:
            yield
        finally:
            self._replacing[trace_id] -= 1
            if not self._replacing[trace_id]:
                del self._replacing[trace_id]

    async def deleted(self, trace_id: str, incarnation: str) -> None:
        """Say that a trace is gone for good; where it is not known which, it stays open, to be looked for."""
        closes = tuple(self.openings.pop(trace_id, ()))
        self._announced_at.pop(trace_id, None)
        if not incarnation:
            return
        try:
            await self._tell([Note("gone", trace_id, closes=closes, incarnation=incarnation)])
        except StorageError as error:
            # On a full disk it goes out with the next note; until then others notice that the directory went.
            if error.errno not in NO_ROOM:
                raise

    def withdraw(self, trace_id: str) -> None:
        """Forget what was announced of a trace where there was no room to tell it, and nothing was done."""
        self.openings.pop(trace_id, None)
        self._announced_at.pop(trace_id, None)
        self._outbox = [note for note in self._outbox if note.trace_id != trace_id]

    async def _tell(self, notes: Sequence[Note]) -> None:
        """Publish notes; those of several callers go out in one file."""
        self._outbox += notes
        async with self._telling:
            batch, self._outbox = self._outbox, []
            if not batch:
                return
            try:
                name = await self._create(encode_notes(batch))
            except BaseException:
                self._outbox = batch + self._outbox
                raise
            self.files[name] = batch
            if len(self.files) > _REMEMBERED_FILES:
                del self.files[next(iter(self.files))]
            self._published()

    async def _create(self, data: bytes) -> str:
        """Create this process's next change file; return its name."""
        while True:
            name = changes_name(await self._binding(), self.writer, self.count + 1)
            key = f"{CATALOG}/{name}"
            try:
                await self._storage.create(key, data)
            except KeyExistsError:
                # Ours, since nobody else has our writer's id: its answer was lost, or its caller went away.
                self.count += 1
                if await self._storage.read(key) == data:
                    return name
            else:
                self.count += 1
                return name
