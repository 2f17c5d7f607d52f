"""One file on a local disk: appended to, locked, and what the system says of it told."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from traceark.errors import CorruptFileError, StorageError
from traceark.storage.access import Permissions
from traceark.storage.base import Appender, KeyExistsError, KeyMissingError, Lock, SyncFailedError
from traceark.storage.local_plain import open_plain
from traceark.storage.syncing import sync_directory

try:
    import fcntl
except ImportError:  # Windows: reading works, writing is refused in `LocalLock`.
    fcntl = None  # type: ignore[assignment]

_LOCK = re.compile(rb"(-?[0-9]+ *\n)?")


@contextmanager
def told_errors(what: object, meaning: str = "; nothing was acknowledged") -> Iterator[None]:
    """Turn the system's errors into this package's, naming the file and what that means: of who reads nothing."""
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
        raise StorageError(error.errno, f"{what}: {error.strerror}{meaning}") from error
    except MemoryError as error:
        raise CorruptFileError(f"{what} is larger than the memory that is left; restore it from a copy") from error


@contextmanager
def told_syncs(what: object) -> Iterator[None]:
    """Turn the system's errors of syncing into this package's, naming the file."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissingError(f"{what} is not there") from None
    except OSError as error:
        raise SyncFailedError(error.errno, f"{what}: sync failed: {error.strerror}") from error


class LocalAppender(Appender):
    """A segment open with ``O_APPEND``."""

    def __init__(self, path: Path, permissions: Permissions) -> None:
        self._path = path
        with told_errors(str(path)):
            new = not path.exists()
            self._descriptor = permissions.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            if new:
                with told_syncs(str(path)):
                    sync_directory(path.parent)
            self.size = os.fstat(self._descriptor).st_size
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError as error:
            # A half-written record must not stand before the next one; where it stays, whoever reads finds it torn.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise StorageError(error.errno, f"{self._path}: {error.strerror}; nothing was acknowledged") from error
        self.size += written

    def current_size(self) -> int | None:
        status = os.fstat(self._descriptor)
        return status.st_size if status.st_nlink else None

    def sync(self) -> None:
        # Not `told_syncs`: every message comes by here.
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise SyncFailedError(error.errno, f"{self._path}: sync failed: {error.strerror}") from error

    def close(self) -> None:
        with told_errors(str(self._path)):
            os.close(self._descriptor)


def is_locked(path: Path) -> bool:
    """Say whether somebody holds the lock that is a file, as far as this process may look at it."""
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except (OSError, CorruptFileError):
        return False
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class LocalLock(Lock):
    """`flock` on a file whose content is the generation; none is a stranger's hard link to a file of somebody's."""

    def __init__(self, path: Path, permissions: Permissions) -> None:
        if fcntl is None:
            raise StorageError("writing needs flock, which this operating system has not; reading works")
        self._path = path
        # The content and what it says, as last read.
        self._text, self._generation = b"", 0
        with told_errors(str(path)):
            self._descriptor = permissions.open(path, os.O_RDWR)
            status = os.fstat(self._descriptor)
            if status.st_nlink > 1 and not _LOCK.fullmatch(os.pread(self._descriptor, 24, 0)):
                os.close(self._descriptor)
                raise CorruptFileError(f"{path} is no lock, and another file's second name; delete this name of it")

    def try_acquire(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def generation(self) -> int:
        text = os.pread(self._descriptor, 24, 0)
        if text != self._text:
            try:
                self._text, self._generation = text, int(text or b"0")
            except ValueError:
                self._text, self._generation = text, 0
        return self._generation

    def bump(self, *, deleted: bool = False) -> None:
        generation = -1 if deleted else max(self.generation(), 0) + 1
        with told_errors(str(self._path)):
            os.pwrite(self._descriptor, b"%-20d\n" % generation, 0)

    def is_removed(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        with told_errors(str(self._path)):
            os.close(self._descriptor)
