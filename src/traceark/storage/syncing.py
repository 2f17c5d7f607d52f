"""When what was written to a local disk is on stable storage: a directory's names, or all of a file system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path


def sync_directory(path: Path | str) -> None:
    """Return when the names in a directory are on stable storage.

    Raises
    ------
    OSError
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Return when all that was written to the file system of a path is on stable storage.

    Where the system cannot do that for one of them it does it for all, and does not say whether that worked.

    Raises
    ------
    OSError
        Something could not be written, from Linux 5.8 on.

    Examples
    --------
    >>> sync_file_system(Path.cwd())
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        syncfs(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def can_sync_file_systems() -> bool:
    """Whether `sync_file_system` waits for one file system, and says whether that worked."""
    return _syncfs() is not None


def syncfs(descriptor: int) -> None:
    """Return when all that was written to the file system of an open file is on stable storage.

    Raises
    ------
    OSError
    """
    call = _syncfs()
    if call is None:
        os.sync()
    elif call(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _syncfs() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):  # not Linux
        return None
    return found
