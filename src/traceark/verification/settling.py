"""Traces that are written to while they are looked at: what seems wrong then is looked at again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from traceark.layout import HEADER, LOCK
from traceark.lifecycle import versions
from traceark.storage.base import AppendStorage, Entry, Storage
from traceark.verification.names import is_unfinished

# A write takes no longer.
WRITE_SECONDS = 60.0
# Of a trace that is made or deleted the header comes, and the rest goes, within this after the last name did.
_STEP_SECONDS = 1.0
# So often is looked again at what goes on changing, after waits that become longer: ten seconds in all.
_LOOKS, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 16, 0.01, 1.0


def is_under_way(name: str, entry: Entry) -> bool:
    """Say whether a file may be a write that goes on at this moment."""
    return is_unfinished(name) and is_fresh(entry)


def is_fresh(entry: Entry) -> bool:
    """Say whether who wrote a file may still be at what it was written for."""
    return time.time() - entry.modified < WRITE_SECONDS


def is_kept(storage: Storage, entry: Entry) -> bool:
    """Say whether an object is so young that who wrote it, or did not know of it, may still be at work.

    Where no lock tells it: a writer looks again after a third of the time.
    """
    # Where a lock tells it none is, whatever a clock that was set back says.
    return storage.grace_seconds > 0 and time.time() - entry.modified < storage.grace_seconds


def may_outrun(storage: Storage, header: Entry, manifest: Entry) -> bool:
    """Say whether who put a header and who put a manifest may not have heard of each other yet.

    Whoever was later looks for the other, and takes the manifest away: mostly within a second, or he was killed.
    """
    return is_kept(storage, header) and (header.modified >= manifest.modified or is_fresh(manifest))


def is_locked(storage: Storage, prefix: str, entries: Mapping[str, Entry]) -> bool:
    """Say whether somebody holds a trace's lock at this moment."""
    return LOCK in entries and isinstance(storage, AppendStorage) and storage.is_locked(f"{prefix}/{LOCK}")


async def looks(storage: Storage, prefix: str, entries: Mapping[str, Entry]) -> AsyncIterator[Mapping[str, Entry]]:
    """Yield a trace's files as they were listed, and then, as long as they change, as they are now.

    Who finds nothing wrong leaves off, and so does who is given no files: the trace was deleted. What is wrong
    with the last ones is wrong, though somebody may be writing still.
    """
    yield entries
    for look in range(_LOOKS):
        now = await storage.list(prefix)
        # A lock that stood alone, and went, is no change by its version, and the end of a deletion.
        if now and versions(now) == versions(entries) and not _in_the_middle(storage, prefix, now):
            return
        yield now
        entries = now
        await asyncio.sleep(min(_FIRST_WAIT_SECONDS * 2**look, _LONGEST_WAIT_SECONDS))


def _in_the_middle(storage: Storage, prefix: str, entries: Mapping[str, Entry]) -> bool:
    """Say whether somebody is at work on a trace, or it may be on the way to being one, or to being gone."""
    if is_locked(storage, prefix, entries):
        return True
    if HEADER in entries:
        return False
    stamp = storage.stamp(prefix)
    ages = [time.time() - entry.modified for entry in entries.values()]
    return min([*ages, *(stamp[1:] if stamp is not None else ())], default=_STEP_SECONDS) < _STEP_SECONDS
