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
from collections.abc import Iterable
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
# Most files are read at once; as much memory is taken for each.
_FIRST_BYTES, _FURTHER_BYTES = 1 << 16, 1 << 23
_OUTSIDE = frozenset({"", ".", ".."})
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
    names = key.split("/")
    _look_at(root, key, names, names)
    return root / key


def path_to_open(root: Path, key: str) -> str:
    """Return where a key lies as `plain_path` does, for `open_plain`, which looks at the last name of it itself."""
    names = key.split("/")
    _look_at(root, key, names, names[:-1])
    return f"{root}/{key}"


def _look_at(root: Path, key: str, names: Iterable[str], looked_at: Iterable[str]) -> None:
    if not _OUTSIDE.isdisjoint(names):
        raise CorruptFileError(f"{key!r} is no name of a file of {root}; whatever names it is damaged or hostile")
    place = str(root)
    for name in looked_at:
        place = f"{place}/{name}"
        try:
            mode = os.lstat(place).st_mode
        except OSError:
            break  # whoever opens it says why
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise _refused(place, mode)


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


def read_plain(path: Path | str) -> bytes:
    """Return what is in a regular file; raises as `open_plain` does.

    Examples
    --------
    >>> read_plain(os.devnull)
    Traceback (most recent call last):
    traceark.errors.CorruptFileError: /dev/null is a device; below its root an archive has ...
    """
    descriptor = open_plain(path, os.O_RDONLY)
    try:
        data, size = os.read(descriptor, _FIRST_BYTES), _FIRST_BYTES
        pieces = [data]
        while len(data) == size:
            size = _FURTHER_BYTES
            data = os.read(descriptor, size)
            pieces.append(data)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _refused(path: Path | str, mode: int) -> CorruptFileError:
    return CorruptFileError(
        f"{path} is {_KINDS[stat.S_IFMT(mode)]}; below its root an archive has directories and regular files only, "
        "and nothing else is read or written; put the file itself there, or move this away"
    )
