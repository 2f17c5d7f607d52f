"""Below its root an archive on a local disk has directories and regular files, and nothing else is followed or opened.

An archive may come from a stranger: a symbolic link would lead out of it, a pipe never answers, a device never ends.
The root itself may be a link, which whoever names it has made. A hard link cannot be told from a file; nothing
that was there before is written to in place, but a lock (see `LocalLock`). Somebody who changes the archive's
directories just now, with the rights of its owner, is no stranger.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from traceark.errors import CorruptFileError

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}
# What `open` says of a link, a socket or a pipe that nobody reads, and a directory.
_REFUSED_BY_OPEN = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})


def plain_path(root: Path, key: str) -> Path:
    """Return where a key lies below a root, which need not be there.

    Raises
    ------
    CorruptFileError
        The key leads out of the archive, or a name in it is neither a directory nor a regular file.

    Examples
    --------
    >>> plain_path(Path("/nowhere"), "traces/run-7").as_posix()
    '/nowhere/traces/run-7'
    """
    if not key:
        return root
    place = str(root)
    there = True
    for name in key.split("/"):
        if name in ("", ".", ".."):
            raise CorruptFileError(f"{key!r} is no name of a file of {root}; whatever names it is damaged or hostile")
        place = f"{place}/{name}"
        if there:
            try:
                mode = os.lstat(place).st_mode
            except OSError:
                there = False  # whoever opens it says why
                continue
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise _refused(place, mode)
    return Path(place)


def open_plain(path: Path | str, flags: int, mode: int = 0o600) -> int:
    """Open a regular file, without waiting for anybody; return its descriptor.

    Raises
    ------
    CorruptFileError
        It is something else.
    OSError
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in _REFUSED_BY_OPEN:
            raise _refused(path, os.lstat(path).st_mode) from None
        raise
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise _refused(path, found)
    return descriptor


def _refused(path: Path | str, mode: int) -> CorruptFileError:
    return CorruptFileError(
        f"{path} is {_KINDS[stat.S_IFMT(mode)]}; below its root an archive has directories and regular files only, "
        "and nothing else is read or written; put the file itself there, or move this away"
    )
