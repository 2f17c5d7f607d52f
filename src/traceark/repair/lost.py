"""``lost+found/``: where a repair keeps what it takes away. Nothing reads it, and nothing in it is overwritten."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from traceark.layout import LOST_FOUND, trace_prefix
from traceark.storage.base import Storage


def new_place() -> str:
    """Return a directory of one repair, which no other has: the time in UTC, and eight random digits."""
    return f"{LOST_FOUND}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


async def keep(storage: Storage, place: str, key: str, data: bytes) -> str:
    """Keep the bytes of a file; return where, relative to the archive."""
    kept = f"{place}/{key}"
    await storage.create(kept, data)
    return kept


async def forget(storage: Storage, trace_ids: Iterable[str]) -> None:
    """Delete for good what is kept of some traces."""
    wanted = {f"{trace_prefix(trace_id)}/" for trace_id in trace_ids}
    gone = []
    for name in await storage.list(LOST_FOUND):
        key = name.partition("/")[2]
        if any(key.startswith(prefix) for prefix in wanted):
            gone.append(f"{LOST_FOUND}/{name}")
    await storage.delete(gone)
