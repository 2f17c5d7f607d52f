"""What is wrong with one trace, found the quickest way."""

from __future__ import annotations

from collections.abc import Mapping

from traceark.layout import trace_prefix
from traceark.storage.base import Entry, Storage
from traceark.verification.finding import Finding
from traceark.verification.sealed import is_sound
from traceark.verification.trace import TraceCheck


async def findings_in(storage: Storage, trace_id: str, entries: Mapping[str, Entry], *, deep: bool) -> list[Finding]:
    """Return what is wrong with one trace; the careful look is taken only where the quick one does not settle it."""
    if deep and await is_sound(storage, trace_prefix(trace_id), trace_id, entries):
        return []
    return await TraceCheck(storage, trace_id, entries, deep).run()
