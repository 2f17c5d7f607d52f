"""Snapshots on the storage: read, published, and removed when they are superseded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.catalog.contents import CATALOG, Contents, SnapshotFile, contents_of
from traceark.catalog.snapshot import SnapshotInfo, check_rows, encode_snapshot, snapshot_info, snapshot_name
from traceark.errors import CorruptFileError, StorageError
from traceark.storage.base import AppendStorage, KeyExistsError, KeyMissingError, Storage

_PARALLEL = 32
_ATTEMPTS = 20


async def contents(storage: Storage, binding: str) -> Contents:
    """Return what is in the catalog now.

    Raises
    ------
    KeyMissingError
        It was folded all the while that it was listed.
    """
    for _ in range(_ATTEMPTS):
        found = contents_of(await storage.list(CATALOG), binding)
        # Change files are removed after the snapshot that had to give way to the one they are folded into.
        # An object store lists by name, snapshots last, and so shows the new one where it misses the others.
        path = storage.local_path(f"{CATALOG}/{found.newest.name}") if found.newest is not None else None
        if path is None or path.exists():
            return found
    raise KeyMissingError(f"{storage.url}/{CATALOG}: files keep coming and going")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was found: what it says of itself, and where its bytes are."""

    file: SnapshotFile
    info: SnapshotInfo
    data: Path | bytes

    def rows(self) -> pa.Table:
        """Return its rows; blocking.

        Raises
        ------
        CorruptFileError
        """
        with BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb") as file:
            check_rows(self.info, file, self.file.name)
            file.seek(0)
            # Reading ahead, threads of Arrow hold buffers of Python still while the interpreter ends, which aborts it.
            return pq.ParquetFile(file, pre_buffer=False).read()


async def opened(storage: Storage, file: SnapshotFile, binding: str) -> Snapshot | None:
    """Return a snapshot; None if it cannot be trusted."""
    key = f"{CATALOG}/{file.name}"
    path = storage.local_path(key)
    try:
        if path is None:
            data = await storage.read(key)
            found = Snapshot(file, snapshot_info(BytesIO(data), key), data)
        else:
            with path.open("rb") as stream:
                found = Snapshot(file, snapshot_info(stream, key), path)
    except FileNotFoundError:
        raise KeyMissingError(f"{key} is not there") from None
    except CorruptFileError:
        return None
    return found if found.info.binding == binding else None


async def publish(storage: Storage, info: SnapshotInfo, export: Callable[[], pa.Table]) -> SnapshotFile | None:
    """Publish a snapshot; return None where nothing can be written, and the archive works without.

    Raises
    ------
    KeyExistsError
        Another process made this generation.
    """
    name = snapshot_name(info.generation, info.binding)
    try:
        data = await asyncio.to_thread(lambda: encode_snapshot(info, export()))
        version = await storage.create(f"{CATALOG}/{name}", data)
    except KeyExistsError:
        raise
    except StorageError:
        return None
    return SnapshotFile(info.generation, name, version)


async def delete(storage: Storage, names: Sequence[str]) -> None:
    """Delete files of the catalog."""
    if isinstance(storage, AppendStorage):
        await storage.delete(f"{CATALOG}/{name}" for name in names)
        return
    for start in range(0, len(names), _PARALLEL):
        await asyncio.gather(*(storage.delete([f"{CATALOG}/{name}"]) for name in names[start : start + _PARALLEL]))
