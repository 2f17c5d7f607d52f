"""Immutable files of an object store, kept on local disk within a bound.

On a local disk a file is its own cache. Several processes may share a directory: files appear
there whole, by rename, and one that another process evicted is fetched again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from pathlib import Path

from traceark.errors import StorageError
from traceark.storage.base import Storage

_TEMPORARY = ".tmp-"
# Longer than any download; what is older was left by a process that died.
_STALE_SECONDS = 24 * 3600.0
# Longer than it takes from asking for all files of a query to opening them.
_IN_USE_SECONDS = 60.0


def cache_directory(url: str, directory: str | Path | None) -> Path:
    """Return where copies of an archive's files go, within a directory given or the user's own for such things."""
    parent = Path(directory or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "traceark").expanduser()
    return parent / hashlib.sha256(url.encode()).hexdigest()[:16]


class FileCache:
    """Paths of immutable objects.

    Parameters
    ----------
    storage : Storage
        Where they lie.
    directory : Path
        Where copies go; made when needed. Not used where the storage is a local disk.
    max_bytes : int
        What copies may weigh together; the least recently used ones go first. What was used within
        the last minute stays, so that one query over much may pass the bound.
    """

    def __init__(self, storage: Storage, directory: Path, max_bytes: int = 4 << 30) -> None:
        self._storage = storage
        self._directory = directory
        self._max_bytes = max_bytes
        self._fetching: dict[str, asyncio.Lock] = {}

    async def path(self, key: str, size: int) -> Path:
        """Return the path of an object that never changes.

        Parameters
        ----------
        key : str
            Its key in the storage.
        size : int
            Its size in bytes, by which a torn copy is told.

        Raises
        ------
        KeyMissingError
            It is gone: list again.
        StorageError
            It has another size.
        """
        path = self.place(key)
        if self._storage.local_path(key) is not None or _touch(path, size):
            return path
        lock = self._fetching.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if not _touch(path, size):
                    data = await self._storage.read(key)
                    if len(data) != size:
                        raise StorageError(
                            f"{self._storage.url}/{key} has {len(data)} bytes, not {size}; copy it again"
                        )
                    await asyncio.to_thread(self._put, path, data)
        finally:
            self._fetching.pop(key, None)
        return path

    def forget(self, key: str) -> None:
        """Drop the copy of an object, so that none of its bytes stay."""
        if self._storage.local_path(key) is None:
            self.place(key).unlink(missing_ok=True)

    def place(self, key: str) -> Path:
        """Return the path of an object whether or not it was fetched."""
        local = self._storage.local_path(key)
        if local is not None:
            return local
        name = hashlib.sha256(f"{self._storage.url}/{key}".encode()).hexdigest()[:32]
        return self._directory / f"{name}.parquet"

    def _put(self, path: Path, data: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._evict(len(data))
        temporary = self._directory / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            # Whoever may not read the archive is not to read it here.
            temporary.touch(mode=0o600, exist_ok=False)
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _evict(self, coming: int) -> None:
        """Make room, oldest use first. A reader that has a file open keeps it: names go, not bytes."""
        files: list[tuple[float, int, Path]] = []
        for entry in os.scandir(self._directory):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # another process evicted it
            files.append((status.st_mtime, status.st_size, Path(entry.path)))
        files.sort()
        now = time.time()
        total = coming + sum(size for _, size, _ in files)
        for used, size, path in files:
            unfinished = path.name.startswith(_TEMPORARY)
            kept_for = _STALE_SECONDS if unfinished else _IN_USE_SECONDS
            if now - used > kept_for and (unfinished or total > self._max_bytes):
                path.unlink(missing_ok=True)
                total -= size


def _touch(path: Path, size: int) -> bool:
    """Note that a copy is used; say whether it is there, whole."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
