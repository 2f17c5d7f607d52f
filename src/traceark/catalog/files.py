"""Snapshots on the storage: read, published, and removed when they are superseded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.catalog.contents import CATALOG, Contents, SnapshotFile, contents_of
from traceark.catalog.snapshot import SnapshotInfo, checked, encode_snapshot, snapshot_info, snapshot_name
from traceark.catalog.table import RowsLostError
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
    """A snapshot that was found: what it says of itself, and where its bytes are. Its methods block.

    Methods raise `CorruptFileError` where it is damaged, and `FileNotFoundError` where it is not there any more.
    """

    file: SnapshotFile
    info: SnapshotInfo
    data: Path | bytes

    def _open(self) -> IO[bytes]:
        return BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")

    def count(self) -> int:
        """Return how many rows it has."""
        with self._open() as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def rows(self) -> pa.Table:
        """Return its rows."""
        with self._open() as file:
            for _ in checked(self.info, file, self.file.name):
                pass
            file.seek(0)
            # Reading ahead, threads of Arrow hold buffers of Python still while the interpreter ends, which aborts it.
            return pq.ParquetFile(file, pre_buffer=False).read()

    def save(self, path: Path) -> None:
        """Write it to a file of its own, which nobody changes."""
        with self._open() as file, path.open("wb") as copy:
            copy.writelines(checked(self.info, file, self.file.name))


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


async def publish(
    storage: Storage, info: SnapshotInfo, export: Callable[[Callable[[pa.RecordBatchReader], bytes]], bytes]
) -> SnapshotFile | None:
    """Publish a snapshot of the rows that `export` gives; return None where nothing can be written.

    The archive works without.

    Raises
    ------
    KeyExistsError
        Another process made this generation.
    RowsLostError
        There are no rows to publish.
    """
    name = snapshot_name(info.generation, info.binding)
    try:
        data = await asyncio.to_thread(export, partial(encode_snapshot, info))
        # Arrow would keep the memory that the rows took on their way.
        await asyncio.to_thread(pa.default_memory_pool().release_unused)
        version = await storage.create(f"{CATALOG}/{name}", data)
    except (KeyExistsError, RowsLostError):
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
