"""What stands where an archive on a disk has a file or a directory, and is neither: links, pipes, sockets, devices."""

from __future__ import annotations

from traceark.catalog.contents import CATALOG
from traceark.errors import CorruptFileError, StorageError
from traceark.layout import LOST_FOUND, MARKER, PINS, TOMBSTONES, TRACES
from traceark.storage.base import Storage
from traceark.verification.finding import RESTORE, Finding


def not_plain(storage: Storage, key: str) -> str | None:
    """Return what is wrong with a key that is neither a file nor a directory, or leads through what is none."""
    try:
        storage.local_path(key)
    except CorruptFileError as error:
        return str(error)
    return None


async def strange_names(storage: Storage) -> list[Finding]:
    """Return what is neither a file nor a directory in an archive, but within its traces."""
    keys = [MARKER]
    for directory in (TRACES, CATALOG, TOMBSTONES, PINS, LOST_FOUND):
        keys.append(directory)
        if not_plain(storage, directory) is not None:
            continue
        if directory == TRACES:
            keys += [f"{TRACES}/{name}" for name in sorted(await storage.children(TRACES))]
            continue
        try:
            entries = await storage.list(directory)
        except StorageError:
            continue  # whoever reads it says why
        keys += [f"{directory}/{name}" for name, entry in entries.items() if not entry.plain]
    return [Finding("", key, None, meaning, RESTORE) for key in keys if (meaning := not_plain(storage, key))]
