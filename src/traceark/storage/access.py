"""Who may use the files of an archive on a local disk: whoever may use its marker.

So an archive says it itself, to every process that writes to it, and ``chmod`` is how to change it.
The permissions are those of the marker, but for what the umask takes from others; from the group it
takes nothing, since who shares an archive must be able to lock what somebody else of the group began.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from traceark.layout import MARKER
from traceark.storage.local_plain import open_plain

Access = Literal["owner", "group", "others"]
_FIRST: dict[Access, int] = {"owner": 0o600, "group": 0o660, "others": 0o664}
_OF_GROUP = stat.S_IRWXG | stat.S_ISGID


class Permissions:
    """The permissions of what is made in one archive.

    Parameters
    ----------
    root : Path
        The archive's directory.
    first : {'owner', 'group', 'others'}
        Who may use an archive that has no marker yet.
    """

    def __init__(self, root: Path, first: Access = "owner") -> None:
        self._marker = root / MARKER
        self._first = _FIRST[first]

    def mode(self) -> int:
        """Return the mode of files: the marker's, as it is now; the owner may always read and write."""
        try:
            return stat.S_IMODE(self._marker.stat().st_mode) & 0o666 | 0o600
        except FileNotFoundError:
            return self._first

    def open(self, path: Path, flags: int) -> int:
        """Open a regular file that `flags` may make; return its descriptor.

        Raises
        ------
        CorruptFileError
            It is something else.
        OSError
        """
        mode = self.mode()
        descriptor = open_plain(path, flags | os.O_CREAT, mode)
        try:
            open_to_group(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def make_directory(self, path: Path) -> None:
        """Make a directory.

        Raises
        ------
        FileExistsError
        """
        make_directory(path, self.mode())

    def give(self, path: Path) -> None:
        """Give a file that another library made, with the umask, the permissions of the others."""
        mode = self.mode()
        path.chmod(mode & 0o660 | mode & path.stat().st_mode & stat.S_IRWXO)


def make_directory(path: Path | str, of_files: int) -> None:
    """Make a directory for files of a mode: who may read a file may look for it; what a group writes to is the group's.

    Raises
    ------
    FileExistsError
    """
    mode = of_files | (of_files & 0o444) >> 2 | (stat.S_ISGID if of_files & stat.S_IWGRP else 0)
    os.mkdir(path, mode)  # noqa: PTH102  # a path's object takes as long as the call
    if ~os.lstat(path).st_mode & mode & _OF_GROUP:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            open_to_group(descriptor, mode)
        finally:
            os.close(descriptor)


def open_to_group(descriptor: int, mode: int) -> None:
    """Give a file of one's own what the umask took from its group."""
    wanted = mode & _OF_GROUP
    if not wanted:
        return
    status = os.fstat(descriptor)
    # What has another name may lie elsewhere too.
    own = status.st_uid == os.geteuid() and (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode))
    if own and status.st_mode & wanted != wanted:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | wanted)
