"""Archives in memory, for tests and trials: an object store without a network.

All stores of one URL in one process see the same objects, until `forget`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from traceark.storage.base import Entry, KeyExistsError, KeyMissingError, Storage, VersionMismatchError


class MemoryStorage(Storage):
    """Objects in a dictionary that all stores of the URL share.

    Parameters
    ----------
    name : str
        What stands behind ``memory://``.
    """

    grace_seconds = 15 * 60.0

    _archives: ClassVar[dict[str, dict[str, tuple[bytes, str, float]]]] = {}
    _mutex: ClassVar[threading.Lock] = threading.Lock()
    _versions: ClassVar[int] = 0

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        with self._mutex:
            self._objects = self._archives.setdefault(name, {})

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop the archive of a URL."""
        with cls._mutex:
            cls._archives.pop(name, None)

    @classmethod
    def of(cls, objects: Mapping[str, bytes]) -> MemoryStorage:
        """Return a storage over some objects, which no other sees.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(MemoryStorage.of({"a/b": b"c"}).children("a"))
        []
        """
        storage = cls.__new__(cls)
        storage.url = "memory://"
        storage._objects = {}
        for key, data in objects.items():
            storage._put(key, data)
        return storage

    def _get(self, key: str) -> tuple[bytes, str, float]:
        try:
            return self._objects[key]
        except KeyError:
            raise KeyMissingError(f"{self.url}/{key} is not there") from None

    async def read(self, key: str, start: int = 0) -> bytes:
        return self._get(key)[0][start:]

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        return self._get(key)[:2]

    async def list(self, prefix: str) -> dict[str, Entry]:
        start = len(prefix) + 1
        with self._mutex:
            return {
                key[start:]: Entry(len(data), version, modified)
                for key, (data, version, modified) in self._objects.items()
                if key.startswith(f"{prefix}/")
            }

    async def children(self, prefix: str) -> Sequence[str]:
        return sorted({key.partition("/")[0] for key in await self.list(prefix) if "/" in key})

    def _put(self, key: str, data: bytes) -> str:
        MemoryStorage._versions += 1
        version = str(MemoryStorage._versions)
        self._objects[key] = (data, version, time.time())
        return version

    async def create(self, key: str, data: bytes) -> str:
        with self._mutex:
            if key in self._objects:
                raise KeyExistsError(f"{self.url}/{key} is there already")
            return self._put(key, data)

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        with self._mutex:
            if version is not None and self._objects.get(key, (b"", "", 0.0))[1] != version:
                raise VersionMismatchError(f"{self.url}/{key} was replaced since it was read")
            return self._put(key, data)

    async def delete(self, keys: Iterable[str]) -> None:
        with self._mutex:
            for key in keys:
                self._objects.pop(key, None)

    async def delete_unchanged(self, versions: Mapping[str, str]) -> Sequence[str]:
        with self._mutex:
            changed = [key for key in versions if key in self._objects and self._objects[key][1] != versions[key]]
            for key in versions.keys() - changed:
                self._objects.pop(key, None)
        return changed
