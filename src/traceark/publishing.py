"""Headers put where readers find them, though the answer of the storage may be lost."""

from __future__ import annotations

from collections.abc import Mapping

from traceark.errors import CorruptFileError, StorageError
from traceark.headers import Header
from traceark.layout import GOAL_TREE, HEADER, MANIFEST
from traceark.manifest import decode_manifest, sha256
from traceark.storage.base import KeyExistsError, KeyMissingError, Storage, SyncFailedError, VersionMismatchError


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
            if isinstance(error, KeyExistsError):
                raise VersionMismatchError(f"{key} was created and deleted meanwhile") from error
            raise error from None
        if stored == data:
            return version
        if known is not None:
            raise
        raise VersionMismatchError(f"{key} was created meanwhile") from error


async def take_late_manifest(storage: Storage, prefix: str, listed: str, put: Mapping[str, bytes]) -> None:
    """Take away a manifest that does not know headers which were put, from whoever published it meanwhile.

    Where no lock keeps sealers out. Who seals lists the trace once more after that: so of the two one sees the other.

    Parameters
    ----------
    storage, prefix
        Of which trace.
    listed : str
        The manifest's version, as it was listed after the headers were put.
    put : mapping of str to bytes
        The headers that were there still.
    """
    key = f"{prefix}/{MANIFEST}"
    try:
        manifest, version = await storage.read_versioned(key)
    except KeyMissingError:
        return
    try:
        hashes = decode_manifest(manifest, key)
    except CorruptFileError:
        hashes = {}  # it tells of nothing
    if version == listed and any(hashes.get(name) != sha256(data) for name, data in put.items()):
        await storage.delete_unchanged({key: version})


async def seals_what_is_there(
    storage: Storage, prefix: str, header: Header, stand: Mapping[str, str], manifest: str
) -> bool:
    """Say whether a manifest that was just published tells of what is there; take it away where it does not.

    Where no lock keeps writers out. Who writes looks for a manifest after that: so of the two one sees the other.

    Parameters
    ----------
    storage, prefix, header
        Of which trace.
    stand : mapping of str to str
        The versions of the headers that it tells of, and perhaps of other files.
    manifest : str
        Its version.
    """
    now = await storage.list(prefix)
    sizes = {name: entry.size for name, entry in now.items()}
    is_as_put = all((now[name].version if name in now else None) == stand.get(name) for name in (HEADER, GOAL_TREE))
    if is_as_put and header.checkpoint.is_exact(sizes, header.incarnation):
        return True
    await storage.delete_unchanged({f"{prefix}/{MANIFEST}": manifest})
    return False
