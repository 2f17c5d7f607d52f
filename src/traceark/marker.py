"""The archive's marker: the file that says that here is an archive, which one, and of what format.

Who may write here, and what else a new archive needs, is the pool's to know.
"""

from __future__ import annotations

import json
import uuid

from traceark.codec.lines import time_text
from traceark.codec.malformed import MALFORMED
from traceark.errors import ArchiveNotFoundError, CorruptFileError, StorageError, UnsupportedFormatError
from traceark.layout import FORMAT_VERSION, MARKER
from traceark.models import JsonObject, utc_now
from traceark.storage.base import KeyExistsError, KeyMissingError, Storage


async def read_marker(storage: Storage) -> JsonObject | None:
    """Return the archive's marker, or None where there is no archive.

    Raises
    ------
    ArchiveNotFoundError
        A file is in its place.
    CorruptFileError
        It is torn, or no marker.
    UnsupportedFormatError
        It was made by a newer version.

    Examples
    --------
    >>> import asyncio
    >>> from traceark.storage.memory import MemoryStorage
    >>> asyncio.run(read_marker(MemoryStorage("memory://nothing"))) is None
    True
    """
    try:
        data = await storage.read(MARKER)
    except KeyMissingError:
        return None
    except StorageError as error:
        place = storage.local_path("")
        if place is None or not isinstance(error.__cause__, NotADirectoryError) or not place.is_file():
            raise
        raise ArchiveNotFoundError(
            f"{place} is a file, and an archive is a directory; traceark unpack makes one of a pack"
        ) from None
    try:
        marker: JsonObject = json.loads(data)
        version = marker["version"]
    except MALFORMED:
        raise CorruptFileError(
            f"{storage.url}/{MARKER} is torn, or no archive's marker; if this folder is an archive, copy it "
            "again, or delete it: the next write makes another, and the traces are not touched"
        ) from None
    if marker.get("format") != "traceark" or version != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{storage.url} has format {marker.get('format')!r} version {version}; this release knows 'traceark' "
            f"version {FORMAT_VERSION}; upgrade traceark"
        )
    return marker


async def make_marker(storage: Storage) -> JsonObject | None:
    """Make the marker and return it; None where somebody else made one first.

    Raises
    ------
    StorageError

    Examples
    --------
    >>> import asyncio
    >>> from traceark.storage.memory import MemoryStorage
    >>> storage = MemoryStorage("memory://new")
    >>> made, again = asyncio.run(make_marker(storage)), asyncio.run(make_marker(storage))
    >>> made["format"], again
    ('traceark', None)
    """
    marker: JsonObject = {
        "format": "traceark",
        "version": FORMAT_VERSION,
        "archive_id": str(uuid.uuid4()),
        "created_at": time_text(utc_now()),
    }
    try:
        await storage.create(MARKER, json.dumps(marker).encode() + b"\n")
    except KeyExistsError:
        return None
    return marker
