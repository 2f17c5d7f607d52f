"""Storages: bytes under keys on local disk, in memory, and on object stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from traceark.storage.access import Access
from traceark.storage.base import Durability, Storage


def storage_for(
    url: str | Path,
    storage_options: Mapping[str, Any] | None,
    durability: Durability,
    access: Access = "owner",
) -> Storage:
    """Return the storage of an archive's URL or path; nothing is touched yet.

    Examples
    --------
    >>> storage_for("memory://trial", None, "os").url
    'memory://trial'
    """
    text = str(url)
    scheme, separator, rest = text.partition("://")
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
