"""Keeping both sides of a trace that diverged: the source's is stored beside the target's, under an id of its own."""

from __future__ import annotations

from pathlib import Path

from traceark.importers import archive
from traceark.importers.base import ImportCounts
from traceark.importers.take_trace import import_trace
from traceark.store import ArchiveStore
from traceark.sync.sides import Side

# Where the metadata of such a trace names the one that it diverged from.
DIVERGED_FROM = "diverged_from"


async def keep_both(side: Side, target: ArchiveStore, name: str) -> str:
    """Store the source's side at the target, or what it has gone on by; return its trace id.

    The id is made of the trace's and of who wrote first what the target does not have, so that it is the
    same in every archive, and the same again when the side has grown.

    Parameters
    ----------
    side : Side
    target : ArchiveStore
    name : str
        `Comparison.side`.

    Raises
    ------
    DamagedTraceError, InvalidIdError
    """
    source = await archive.source_of(side.stored(), Path(side.storage.url), ImportCounts())
    trace_id = f"{side.trace_id}.diverged-{name}"
    source.trace.trace_id = trace_id
    source.trace.metadata = {**source.trace.metadata, DIVERGED_FROM: side.trace_id}
    for message in source.messages:
        message.trace_id = trace_id
    await import_trace(target, source, archive.NAME)
    return trace_id
