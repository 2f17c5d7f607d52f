"""A plan tried before it is carried out: the trace is checked, deep, as it would be afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from traceark.errors import StorageError
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.verification.finding import Finding
from traceark.verification.trace import TraceCheck


class Repaired(Storage):
    """A storage as it would be if one trace were repaired; it takes no writes.

    Parameters
    ----------
    storage : Storage
    prefix : str
        Of the trace.
    changes : mapping
        By name within the trace, what a file would hold, or None where it would be gone.
    """

    def __init__(self, storage: Storage, prefix: str, changes: Mapping[str, bytes | None]) -> None:
        self.url = storage.url
        self.grace_seconds = storage.grace_seconds
        self._storage = storage
        self._changes = {f"{prefix}/{name}": data for name, data in changes.items()}

    async def read(self, key: str, start: int = 0) -> bytes:
        if key not in self._changes:
            return await self._storage.read(key, start)
        data = self._changes[key]
        if data is None:
            raise KeyMissingError(f"{self.url}/{key} would not be there")
        return data[start:]

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        return await self.read(key), ""

    async def list(self, prefix: str) -> dict[str, Entry]:
        return after(await self._storage.list(prefix), self._below(prefix))

    def _below(self, prefix: str) -> dict[str, bytes | None]:
        start = len(prefix) + 1
        return {key[start:]: data for key, data in self._changes.items() if key.startswith(f"{prefix}/")}

    async def children(self, prefix: str) -> Sequence[str]:
        return sorted({name.partition("/")[0] for name in await self.list(prefix) if "/" in name})

    async def create(self, key: str, data: bytes) -> str:
        raise StorageError(f"{self.url}/{key}: a trial writes nothing")

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        raise StorageError(f"{self.url}/{key}: a trial writes nothing")

    async def delete(self, keys: Iterable[str]) -> None:
        raise StorageError(f"{self.url}: a trial deletes nothing")


def after(entries: Mapping[str, Entry], changes: Mapping[str, bytes | None]) -> dict[str, Entry]:
    """Return a listing as it would be after some changes."""
    found = {name: entry for name, entry in entries.items() if name not in changes}
    found.update({name: Entry(len(data), "", 0.0) for name, data in changes.items() if data is not None})
    return found


async def tried(
    storage: Storage, prefix: str, trace_id: str, entries: Mapping[str, Entry], changes: Mapping[str, bytes | None]
) -> list[Finding]:
    """Return what a deep check would find wrong with a trace after some changes."""
    repaired = Repaired(storage, prefix, changes)
    return await TraceCheck(repaired, trace_id, after(entries, changes), deep=True).run()
