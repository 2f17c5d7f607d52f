"""Keeping both sides of a trace that diverged: the source's is stored beside the target's, under an id of its own."""

from __future__ import annotations

from pathlib import Path

from traceark.errors import DamagedTraceError
from traceark.importers import archive
from traceark.importers.base import ImportCounts
from traceark.importers.take_trace import import_trace
from traceark.storage.base import Storage
from traceark.store import ArchiveStore
from traceark.sync.compared import compared
from traceark.sync.sides import Side, look

# Where the metadata of such a trace names the one that it diverged from.
DIVERGED_FROM = "diverged_from"
_MARK = ".diverged-"


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
    trace_id = f"{side.trace_id}{_MARK}{name}"
    source.trace.trace_id = trace_id
    source.trace.metadata = {**source.trace.metadata, DIVERGED_FROM: side.trace_id}
    for message in source.messages:
        message.trace_id = trace_id
    await import_trace(target, source, archive.NAME)
    return trace_id


def may_be_kept(trace_id: str) -> bool:
    """Say whether an id may be that of a side which was kept.

    Examples
    --------
    >>> may_be_kept("run-7.diverged-5f2c9a01"), may_be_kept("run-7")
    (True, False)
    """
    return _MARK in trace_id


async def is_own_side(side: Side, target: Storage) -> bool:
    """Say whether a side that was kept elsewhere is what the target has of that trace itself: it needs no copy of it.

    Parameters
    ----------
    side : Side
        A trace of the source.
    target : Storage

    Raises
    ------
    UnsupportedFormatError, UnreadableError
    """
    origin = side.header.trace.metadata.get(DIVERGED_FROM)
    if not isinstance(origin, str) or not side.trace_id.startswith(f"{origin}{_MARK}"):
        return False
    try:
        ours, theirs = await look(side.storage, origin), await look(target, origin)
        if ours is None or theirs is None:
            return False
        found = await compared(theirs, ours)
        if found.outcome != "diverged" or side.trace_id != f"{origin}{_MARK}{found.side}":
            return False
        kept, own = await side.stored().trace(), await theirs.stored().trace()
    except DamagedTraceError:
        return False  # of one that is damaged a copy more is good to have
    return kept.total_messages <= own.total_messages and kept.last_event_id <= own.last_event_id
