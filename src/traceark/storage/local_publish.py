"""Files that appear on a local disk whole or not at all: written under a temporary name, synced, then published.

Many are written before the first is synced, which costs fewer waits for the disk than one after the other.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from time import time_ns

from traceark.storage.access import Permissions
from traceark.storage.local_files import told_errors
from traceark.storage.staging import TEMPORARY


def version_of(status: os.stat_result) -> str:
    """Return what tells this state of a file from another."""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


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
        with told_errors(str(path)):
            self._descriptor = permissions.open(self._temporary, os.O_WRONLY | os.O_EXCL)

    def write(self, data: bytes) -> None:
        """Write all that the file is to hold."""
        with told_errors(str(self.path)):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            # The kernel's own clock may stand still for milliseconds, in which a version could come again.
            os.utime(self._descriptor, ns=(now := time_ns(), now))

    def sync(self) -> None:
        """Return when the content is on stable storage."""
        with told_errors(str(self.path)):
            os.fsync(self._descriptor)

    def publish(self, *, exclusive: bool) -> str:
        """Give the file its own name, in place of another one or of none; return its version."""
        with told_errors(str(self.path)):
            status = os.fstat(self._descriptor)
            if exclusive:
                os.link(self._temporary, self.path)
            else:
                self._temporary.replace(self.path)
        return version_of(status)

    def discard(self) -> None:
        """Close the file and remove its temporary name."""
        with told_errors(str(self.path)):
            try:
                os.close(self._descriptor)
            finally:
                self._temporary.unlink(missing_ok=True)
