"""Notes of runs that are added whole, so that one that was deleted before may come back at the archive.

The same run has the same incarnation whenever it is added, and the archive's tombstone of it forbids to ship it. A note
is written before the run lies in the spool, and goes when it is shipped; by its name it is no other's, so that who
shipped the run of an earlier one takes only that away.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex

from traceark.layout import trace_id_of, trace_key
from traceark.storage.base import Storage

_ANEW = "anew"


@dataclass(frozen=True, slots=True)
class Note:
    """One run that was added, or was about to be."""

    key: str
    trace_id: str
    incarnation: str


async def note(storage: Storage, trace_id: str, incarnation: str) -> None:
    """Remember that a run is about to be added, whatever was deleted before."""
    await storage.create(f"{_ANEW}/{trace_key(trace_id)}.{incarnation}.{token_hex(4)}", b"")


async def notes(storage: Storage) -> list[Note]:
    """Return what is remembered; names that say nothing are left out."""
    found: list[Note] = []
    for name in await storage.list(_ANEW):
        key, *rest = name.rsplit(".", 2)
        trace_id = trace_id_of(key)
        if trace_id is not None and len(rest) == 2:
            found.append(Note(f"{_ANEW}/{name}", trace_id, rest[0]))
    return found


async def notes_of(storage: Storage, trace_id: str) -> list[Note]:
    """Return what is remembered of one trace."""
    return [each for each in await notes(storage) if each.trace_id == trace_id]
