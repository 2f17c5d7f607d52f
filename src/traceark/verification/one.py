"""What is wrong with one trace, found the quickest way, and what it says of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from traceark.errors import StorageError
from traceark.layout import trace_prefix
from traceark.reading import why_unreadable
from traceark.storage.base import Entry, Storage
from traceark.verification.finding import Finding, unreadable
from traceark.verification.links import Links
from traceark.verification.sealed import sound_links
from traceark.verification.settling import looks
from traceark.verification.trace import TraceCheck


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong with a trace, and what it says of others; None where that cannot be read."""

    findings: list[Finding]
    links: Links | None


async def check(storage: Storage, trace_id: str, entries: Mapping[str, Entry], *, deep: bool) -> Checked:
    """Check one trace, again where it is written to meanwhile; of one that is deleted meanwhile nothing is wrong."""
    checked = Checked([], None)
    async for now in looks(storage, trace_prefix(trace_id), entries):
        try:
            checked = await _check(storage, trace_id, now, deep=deep) if now else Checked([], None)
        except StorageError as error:
            why = why_unreadable(error, storage)
            if why is None:
                raise
            return Checked([unreadable(trace_id, why, "verify")], None)
        if not checked.findings:
            break
    return checked


async def _check(storage: Storage, trace_id: str, entries: Mapping[str, Entry], *, deep: bool) -> Checked:
    """Check a trace as it was listed; the careful look is taken only where the quick one does not settle it."""
    quick = deep and all(entry.plain for entry in entries.values())
    links = await sound_links(storage, trace_prefix(trace_id), trace_id, entries) if quick else None
    if links is not None:
        return Checked([], links)
    careful = TraceCheck(storage, trace_id, entries, deep)
    return Checked(await careful.run(), careful.links)
