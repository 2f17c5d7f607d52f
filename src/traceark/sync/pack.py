"""Packing: traces of an archive in one file, whose content is their very directories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from traceark.errors import DamagedTraceError, InvalidValueError, TraceNotFoundError, UnsupportedFormatError
from traceark.filters import Filters
from traceark.layout import TRACES, trace_id_of, trace_key
from traceark.models import Json, JsonObject
from traceark.packed import PackWriter, writing
from traceark.packed.members import in_order, member_name
from traceark.store import ArchiveStore
from traceark.sync.files import trace_files
from traceark.sync.run import refuse_spool

# Called with traces done, of how many, and bytes of their files so far.
Progress = Callable[[int, int, int], None]
# Traces that are read ahead of the one that is being packed.
_AHEAD = 4


@dataclass(slots=True)
class PackReport:
    """What a pack holds.

    Attributes
    ----------
    path : Path
        The file.
    trace_ids : list of str
        The traces in it, by their keys.
    files, bytes : int
        How many files of theirs there are, and their size before they were packed.
    problems : list of str
        Traces that are not in it: which, and why.
    """

    path: Path
    trace_ids: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        ids: list[Json] = list(self.trace_ids)
        problems: list[Json] = list(self.problems)
        told: JsonObject = {"path": str(self.path), "trace_ids": ids, "files": self.files, "bytes": self.bytes}
        return {**told, "problems": problems}


async def pack(
    source: ArchiveStore,
    path: str | Path,
    trace_ids: Sequence[str] | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **filters: Unpack[Filters],
) -> PackReport:
    """Pack traces, as they are now, into one file.

    The same sealed traces give the same bytes, wherever they lie. Of a trace that is being written, the
    pack holds a state that it had. It is written beside its place and gets its name when it is whole.
    In memory there are a few traces at a time.

    Parameters
    ----------
    source : ArchiveStore
    path : str or Path
        The file, which ends in ``.zip`` or ``.tar.zst``.
    trace_ids : sequence of str, optional
        Which traces; without them those that match the filters, and without these all.
    force : bool
        Replace a file that is there.
    progress : callable, optional
    **filters
        As `ArchiveStore.traces` takes them.

    Raises
    ------
    InvalidValueError
        The path has another ending or is taken, there are both ids and filters, or the store has a spool.
    TraceNotFoundError
        One that is named is not there; nothing was written.
    StorageError
        The archive cannot be read, or the file not be written.

    Examples
    --------
    >>> import asyncio, tempfile, traceark
    >>> async def run(folder):
    ...     async with traceark.ArchiveStore("memory://pack") as store:
    ...         await store.create_trace(traceark.Trace(trace_id="run-9"))
    ...         return (await pack(store, f"{folder}/runs.zip")).trace_ids
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(run(folder))
    ['run-9']
    """
    if trace_ids is not None and filters:
        raise InvalidValueError("give trace ids or filters, not both")
    refuse_spool("pack", source)
    named = trace_ids is not None
    chosen = await _chosen(source, trace_ids, filters)
    report = PackReport(Path(path))
    with writing(report.path, force=force) as writer:
        done = 0
        async for trace_id, files in _read(source, chosen):
            if isinstance(files, dict):
                await asyncio.to_thread(_add, writer, trace_key(trace_id), files)
                report.trace_ids.append(trace_id)
                report.files += len(files)
                report.bytes += sum(map(len, files.values()))
            elif not isinstance(files, TraceNotFoundError):
                report.problems.append(f"trace {trace_id}: {files}; it was not packed")
            elif named:
                raise files
            done += 1
            if progress is not None:
                progress(done, len(chosen), report.bytes)
    return report


async def _chosen(source: ArchiveStore, trace_ids: Sequence[str] | None, filters: Filters) -> list[str]:
    """Return the ids of traces to pack, in the order of their keys."""
    if trace_ids is not None:
        found = set(trace_ids)
    elif filters:
        found = set(await source.trace_ids(**filters))
    else:
        # Damaged ones too, which no list has: they are told.
        keys = await source.storage.children(TRACES)
        found = {trace_id for key in keys if (trace_id := trace_id_of(key)) is not None}
    return sorted(found, key=trace_key)


Read = dict[str, bytes] | DamagedTraceError | UnsupportedFormatError | TraceNotFoundError


async def _read(source: ArchiveStore, trace_ids: Sequence[str]) -> AsyncIterator[tuple[str, Read]]:
    """Yield traces in this order with their files, or with why these cannot be read."""

    async def one(trace_id: str) -> Read:
        try:
            return await trace_files(source.storage, trace_id)
        except (DamagedTraceError, UnsupportedFormatError, TraceNotFoundError) as error:
            return error

    waiting: list[tuple[str, asyncio.Task[Read]]] = []
    following = iter(trace_ids)
    try:
        while True:
            for trace_id in following:
                waiting.append((trace_id, asyncio.ensure_future(one(trace_id))))
                if len(waiting) > _AHEAD:
                    break
            if not waiting:
                return
            trace_id, task = waiting.pop(0)
            yield trace_id, await task
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


def _add(writer: PackWriter, key: str, files: dict[str, bytes]) -> None:
    for name in in_order(list(files)):
        writer.add(member_name(key, name), files[name])
