"""What the directories of an archive say, without any catalog: what every list has to agree with."""

from __future__ import annotations

from traceark.errors import DamagedTraceError
from traceark.layout import trace_prefix
from traceark.reading import load, retrying, scan
from traceark.storage.base import Storage
from traceark.testing.compare import exact_text


async def in_directories(storage: Storage) -> dict[str, str]:
    """Return the headers of all whole traces, exactly, by trace id; a store may be writing or sealing meanwhile."""
    found: dict[str, str] = {}
    for trace_id in (await scan(storage))[0]:

        async def row(trace_id: str = trace_id) -> str | None:
            stored = await load(storage, trace_id, trace_prefix(trace_id))
            return None if stored is None else exact_text(await stored.trace())

        try:
            text = await retrying(trace_id, row)
        except DamagedTraceError:
            continue
        if text is not None:
            found[trace_id] = text
    return found
