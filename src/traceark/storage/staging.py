"""A directory beside what an archive says, in which something is made whole before it is moved to where it belongs.

Whoever uses it holds a lock on it: one that nobody holds was left by who was killed, and may go at any time.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traceark.errors import StorageError
from traceark.storage.access import make_directory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp-"
LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{16}")


@contextmanager
def staging(root: Path, mode: int) -> Iterator[Path]:
    """Yield a directory of one's own below a root, for files of a mode; what is still in it at the end is removed.

    Raises
    ------
    StorageError
        The system has no `flock`.
    OSError

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, staging(Path(folder), 0o600) as place:
    ...     place.parent == Path(folder), place.is_dir(), remove_abandoned(Path(folder))
    (True, True, 0)
    """
    while True:
        place = root / f"{TEMPORARY}{secrets.token_hex(8)}"
        make_directory(place, mode)
        # Who removes what was left may take it for that until it is locked.
        with _alone(place) as is_ours:
            if is_ours:
                try:
                    yield place
                finally:
                    shutil.rmtree(place, ignore_errors=True)
                return


def remove_abandoned(root: Path) -> int:
    """Remove such directories below a root that nobody uses any more; return how many files were in them.

    What this process has no right to stays.
    """
    removed = 0
    with suppress(FileNotFoundError, PermissionError), os.scandir(root) as entries:
        found = [each.path for each in entries if LEFTOVER.fullmatch(each.name) and each.is_dir(follow_symlinks=False)]
        for place in found:
            with suppress(PermissionError), _alone(Path(place)) as is_ours:
                if is_ours:
                    removed += sum(len(names) for _, _, names in os.walk(place))
                    shutil.rmtree(place, ignore_errors=True)
    return removed


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Lock a directory if nobody has; yield whether that was done, and it is still there."""
    if fcntl is None:
        raise StorageError("writing needs flock, which this operating system has not; reading works")
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield _is_at(descriptor, place)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.lstat())
    except FileNotFoundError:
        return False
