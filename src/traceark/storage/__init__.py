"""Storages: bytes under keys on local disk, in memory, and on object stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from traceark.errors import InvalidValueError
from traceark.storage.access import Access
from traceark.storage.base import Durability, Storage


def storage_for(
    url: str | Path,
    storage_options: Mapping[str, Any] | None,
    durability: Durability,
    access: Access = "owner",
) -> Storage:
    """Return the storage of an archive's URL or path; nothing is touched yet.

    Raises
    ------
    InvalidValueError
        The URL names no place, or the options are not those of its storage.
    MissingLibraryError
        A package is not installed that knows the URL's scheme.

    Examples
    --------
    >>> storage_for("memory://trial", None, "os").url
    'memory://trial'
    """
    text = str(url)
    if not text:
        raise InvalidValueError("it is empty; an archive is at a path or a URL", "url")
    scheme, separator, rest = text.partition("://")
    is_ours = not separator or len(scheme) < 2 or scheme in ("file", "memory")
    if is_ours and storage_options:
        names = ", ".join(map(str, storage_options))
        raise InvalidValueError(f"{names}: an archive at a path, file:// or memory:// takes none", "storage_options")
    if not separator or len(scheme) < 2:
        from traceark.storage.local import LocalStorage

        return LocalStorage(Path(text).expanduser(), durability, access)
    if scheme == "file":
        from traceark.storage.local import LocalStorage

        return LocalStorage(Path(unquote(urlsplit(text).path)), durability, access)
    if scheme == "memory":
        from traceark.storage.memory import MemoryStorage

        return MemoryStorage(rest)
    if scheme in ("s3", "s3a"):
        from traceark.storage.objects import S3Storage

        return S3Storage(text, storage_options or {})
    from traceark.storage.objects import FsspecStorage

    return FsspecStorage(text, storage_options or {})
