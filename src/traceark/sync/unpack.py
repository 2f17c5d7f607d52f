"""Unpacking: what a pack holds is taken into an archive by the rules of a sync, once all of it has been looked at."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from traceark.errors import PackError
from traceark.packed import Limits, Spool, spooled
from traceark.store import ArchiveStore
from traceark.sync.report import SyncReport
from traceark.sync.run import Progress, SyncOptions, refuse_spool, sync


async def unpack(
    path: str | Path,
    target: ArchiveStore,
    options: SyncOptions | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> SyncReport:
    """Copy to `target` what it lacks of the traces in a pack, as a sync with the archive that they come from does.

    First the pack is taken apart in a directory for temporary files (``TMPDIR``), which has to have room
    for it, and every trace is checked, every record and hash. A pack that holds something else than
    whole, sound traces is refused as a whole, before anything of it is at the target. A zip or tar of a
    directory of an archive is a pack too; its catalog, pins, tombstones and what repairs took away are passed
    over.

    Parameters
    ----------
    path : str or Path
        The file.
    target : ArchiveStore
        On a disk, on S3, or in memory.
    options : SyncOptions, optional
    limits : Limits, optional
        How much may come out of the pack.
    progress : callable, optional
        Called with traces done, of how many, and bytes written so far.

    Raises
    ------
    PackError
        The pack is damaged, or holds what it must not hold; the message names the member.
    InvalidValueError
        The options cannot be had here, or the store has a spool.
    StorageError
        The pack cannot be read, or the target not be written.

    Examples
    --------
    >>> import asyncio, tempfile, traceark
    >>> from traceark.sync import pack
    >>> async def run(folder):
    ...     async with traceark.ArchiveStore("memory://one") as one, traceark.ArchiveStore("memory://other") as other:
    ...         await one.create_trace(traceark.Trace(trace_id="run-9"))
    ...         await pack(one, f"{folder}/runs.tar.zst")
    ...         return dict((await unpack(f"{folder}/runs.tar.zst", other)).outcomes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(run(folder))
    {'new': 1}
    """
    refuse_spool("unpack into", target)
    with ExitStack() as stack:
        spool = await asyncio.to_thread(stack.enter_context, spooled(Path(path), limits))
        async with ArchiveStore(spool.root) as source:
            await _check(Path(path), spool, source)
            return await sync(source, target, options, progress=progress)


async def _check(path: Path, spool: Spool, source: ArchiveStore) -> None:
    """Refuse a pack that is not whole, sound traces and nothing else."""
    if spool.strangers:
        raise PackError(f"{path}: the member {spool.strangers[0]!r} is no file of a trace; nothing was taken from it")
    for finding in await source.verify(deep=True):
        if not finding.is_note:
            raise PackError(f"{path}: in {finding.file}: {finding.meaning}; nothing was taken from it")
