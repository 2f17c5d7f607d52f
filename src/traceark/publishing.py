"""Headers put where readers find them, though the answer of the storage may be lost."""

from __future__ import annotations

from traceark.errors import StorageError
from traceark.storage.base import KeyMissingError, Storage, SyncFailedError, VersionMismatchError


async def put(storage: Storage, key: str, data: bytes, known: str | None) -> str:
    """Put an object over the version that is known of it, or where None is; return its version.

    Raises
    ------
    VersionMismatchError
        Another one is there.
    SyncFailedError
        It is there, and may not last.
    """
    try:
        return await (storage.create(key, data) if known is None else storage.replace(key, data, known))
    except SyncFailedError:
        raise
    except StorageError as error:
        if known is not None and not isinstance(error, VersionMismatchError):
            raise
        # The answer to our own may have been lost.
        try:
            stored, version = await storage.read_versioned(key)
        except KeyMissingError:
            raise error from None
        if stored == data:
            return version
        if known is not None:
            raise
        raise VersionMismatchError(f"{key} was created meanwhile") from error
