"""Files that appear on a local disk whole or not at all: written under a temporary name, synced, then published.

Many are written before the first is synced, which costs fewer waits for the disk than one after the other.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traceark.errors import StorageError
from traceark.storage.access import Permissions
from traceark.storage.base import KeyExistsError, KeyMissingError

TEMPORARY = ".tmp-"


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Turn the system's errors into this package's, naming the file."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissingError(f"{what} is not there") from None
    except FileExistsError:
        raise KeyExistsError(f"{what} is there already") from None
    except (NotADirectoryError, IsADirectoryError) as error:
        raise StorageError(
            f"{what} is in the way: {error.strerror}; an archive keeps directories and files only"
        ) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno, f"{what}: {error.strerror}; nothing was acknowledged") from error


def version_of(status: os.stat_result) -> str:
    """Return what tells this state of a file from another."""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on stable storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Unpublished:
    """A file that is written under a temporary name beside its own; `discard` removes what is left of that.

    Parameters
    ----------
    path : Path
        Its own name, in a directory that is there.
    permissions : Permissions
    """

    def __init__(self, path: Path, permissions: Permissions) -> None:
        self.path = path
        self._temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        with errors(str(path)):
            self._descriptor = permissions.open(self._temporary, os.O_WRONLY | os.O_EXCL)

    def write(self, data: bytes) -> None:
        """Write all that the file is to hold."""
        with errors(str(self.path)):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        """Return when the content is on stable storage."""
        with errors(str(self.path)):
            os.fsync(self._descriptor)

    def publish(self, *, exclusive: bool) -> str:
        """Give the file its own name, in place of another one or of none; return its version."""
        with errors(str(self.path)):
            status = os.fstat(self._descriptor)
            if exclusive:
                os.link(self._temporary, self.path)
            else:
                self._temporary.replace(self.path)
        return version_of(status)

    def discard(self) -> None:
        """Close the file and remove its temporary name."""
        with errors(str(self.path)):
            try:
                os.close(self._descriptor)
            finally:
                self._temporary.unlink(missing_ok=True)
