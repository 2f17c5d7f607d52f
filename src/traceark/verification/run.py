"""Verify: what is wrong with a trace, or with all traces. It writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from traceark.errors import TraceNotFoundError
from traceark.layout import trace_prefix
from traceark.reading import scan
from traceark.storage.base import Entry, Storage
from traceark.verification.finding import Finding
from traceark.verification.sealed import is_sound
from traceark.verification.trace import TraceCheck


async def verify(storage: Storage, trace_id: str | None = None, *, deep: bool = False) -> list[Finding]:
    """Check one trace, or every trace; see `ArchiveStore.verify`."""
    if trace_id is not None:
        entries = await storage.list(trace_prefix(trace_id))
        if not entries:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
        return await findings_in(storage, trace_id, entries, deep=deep)
    found: list[Finding] = []
    listed, strangers = await scan(storage)
    for key in strangers:
        found.append(
            Finding(
                key,
                f"traces/{key}",
                None,
                "the directory's name is no trace key",
                "rename it, or move it out of the archive",
            )
        )
    for each, entries in sorted(listed.items()):
        found += await findings_in(storage, each, entries, deep=deep)
    return found


async def findings_in(storage: Storage, trace_id: str, entries: Mapping[str, Entry], *, deep: bool) -> list[Finding]:
    """Return what is wrong with one trace; the careful look is taken only where the quick one does not settle it."""
    if deep and await is_sound(storage, trace_prefix(trace_id), trace_id, entries):
        return []
    return await TraceCheck(storage, trace_id, entries, deep).run()
