"""Snapshots on the storage: found, read, published, and removed when they are superseded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.catalog.contents import CATALOG, Contents
from traceark.catalog.snapshot import SnapshotInfo, encode_snapshot, snapshot_info, snapshot_name
from traceark.errors import CorruptFileError, StorageError
from traceark.storage.base import KeyMissingError, Storage

_PARALLEL = 32


async def newest(storage: Storage, contents: Contents, binding: str) -> SnapshotInfo | None:
    """Return what the newest snapshot says of itself; None if it cannot be trusted.

    An older one is no help: the changes that it lacks were folded into the newest.
    """
    if not contents.generations:
        return None
    key = f"{CATALOG}/{contents.generations[0][1]}"
    path = storage.local_path(key)
    try:
        if path is not None:
            with path.open("rb") as file:
                info = snapshot_info(file, key)
        else:
            info = snapshot_info(BytesIO(await storage.read(key)), key)
    except FileNotFoundError:
        raise KeyMissingError(f"{key} is not there") from None
    except CorruptFileError:
        return None
    return info if info.binding == binding else None


async def rows(storage: Storage, info: SnapshotInfo) -> Path | pa.Table:
    """Return the rows of a snapshot, or the file where DuckDB can read them itself."""
    key = f"{CATALOG}/{snapshot_name(info.generation, info.binding)}"
    path = storage.local_path(key)
    if path is not None:
        return path
    data = await storage.read(key)
    return await asyncio.to_thread(lambda: pq.read_table(BytesIO(data), page_checksum_verification=True))


async def publish(storage: Storage, info: SnapshotInfo, export: Callable[[], pa.Table]) -> bool:
    """Publish a snapshot; say no where another process made this generation, or nothing can be written."""
    data = await asyncio.to_thread(lambda: encode_snapshot(info, export()))
    try:
        await storage.create(f"{CATALOG}/{snapshot_name(info.generation, info.binding)}", data)
    except StorageError:
        # Taken by another process, which loses nothing: what it lacks is in change files still. Or
        # the archive can only be read, and works without.
        return False
    return True


async def delete(storage: Storage, names: Sequence[str]) -> None:
    """Delete files of the catalog."""
    for start in range(0, len(names), _PARALLEL):
        await asyncio.gather(*(storage.delete([f"{CATALOG}/{name}"]) for name in names[start : start + _PARALLEL]))
