"""Headers put where readers find them, though the answer of the storage may be lost."""

from __future__ import annotations

from traceark.errors import StorageError
from traceark.storage.base import KeyMissingError, Storage, VersionMismatchError


async def put(storage: Storage, key: str, data: bytes, known: str | None) -> str:
    """Put an object over the version that is known of it, or where None is; return its version.

    Raises
    ------
    VersionMismatchError
        Another one is there.
    """
    return await (_create(storage, key, data) if known is None else _replace(storage, key, data, known))


async def _replace(storage: Storage, key: str, data: bytes, version: str) -> str:
    try:
        return await storage.replace(key, data, version)
    except VersionMismatchError as error:
        # The answer to our own replacement may have been lost.
        try:
            stored, now = await storage.read_versioned(key)
        except KeyMissingError:
            raise error from None
        if stored != data:
            raise
        return now


async def _create(storage: Storage, key: str, data: bytes) -> str:
    try:
        return await storage.create(key, data)
    except StorageError as error:
        # The answer to our own creation may have been lost.
        try:
            stored, version = await storage.read_versioned(key)
        except KeyMissingError:
            raise error from None
        if stored != data:
            raise VersionMismatchError(f"{key} was created meanwhile") from error
        return version
