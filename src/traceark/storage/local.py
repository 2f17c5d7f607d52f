"""The local disk: appending under `flock`, publishing by rename, syncing what is acknowledged.

Small file calls are made right here, inside the event loop: a hop to a thread costs more than
they do. Large reads and slow syncs go to a thread. One host at a time may write; network file
systems written from several hosts, and Windows, are not supported for writing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from pathlib import Path

from traceark.errors import StorageError
from traceark.storage.access import Access, Permissions
from traceark.storage.base import (
    AppendStorage,
    Durability,
    Entry,
    KeyMissingError,
    SyncFailedError,
    VersionMismatchError,
)
from traceark.storage.local_files import LocalAppender, LocalLock, is_locked, told_errors, told_syncs
from traceark.storage.local_plain import open_plain, path_to_open, plain_path
from traceark.storage.local_publish import Unpublished, version_of
from traceark.storage.local_staged import LocalStaged, Publishing
from traceark.storage.staging import LEFTOVER, TEMPORARY, remove_abandoned
from traceark.storage.syncing import sync_directory, sync_file_system

# Reading this much takes about as long as handing the work to a thread.
_INLINE_READ_BYTES = 256 * 1024
# A directory of at least a thousand names, on most file systems.
_INLINE_DIRECTORY_BYTES = 64 * 1024
# More files than a trace has; to delete one takes up to a millisecond.
_INLINE_DELETIONS = 64
# So often a directory is read in which files go at every look.
_SCANS = 8
# What is not there did not just change.
_ANCIENT_SECONDS = 1e9


def _children(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        # What is no directory where one belongs is refused when it is read, and not passed over.
        return [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with told_errors(str(path)):
            path.unlink(missing_ok=True)


def _sync_directories(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(KeyMissingError), told_syncs(str(path)):
            sync_directory(path)


class LocalStorage(AppendStorage):
    """An archive in a directory.

    Parameters
    ----------
    root : Path
        The archive's directory; made when something is written.
    durability : {'fsync', 'os'}
        With ``os`` a directory's new names are left to the operating system; contents of
        published files are synced all the same.
    access : {'owner', 'group', 'others'}
        Who may use an archive that is made here; one that is there says it itself (see `access`).
    """

    def __init__(self, root: Path, durability: Durability = "fsync", access: Access = "owner") -> None:
        self.root = root.absolute()
        self.permissions = Permissions(self.root, access)
        self.url = str(self.root)
        self._sync_names = durability == "fsync"
        self._publishing = Publishing(names=self._sync_names)

    def path(self, key: str) -> Path:
        """Return where a key lies; raises `CorruptFileError` where that is no plain file or directory."""
        return plain_path(self.root, key)

    def local_path(self, key: str) -> Path:
        return self.path(key)

    async def read(self, key: str, start: int = 0) -> bytes:
        path = path_to_open(self.root, key)
        with told_errors(path, ""):
            descriptor = open_plain(path, os.O_RDONLY)
            try:
                size = os.fstat(descriptor).st_size - start
                if size <= _INLINE_READ_BYTES:
                    return _pread(descriptor, start, max(size, 0))
                return await asyncio.to_thread(_pread, descriptor, start, size)
            finally:
                os.close(descriptor)

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        path = path_to_open(self.root, key)
        with told_errors(path, ""):
            descriptor = open_plain(path, os.O_RDONLY)
            try:
                status = os.fstat(descriptor)
                return _pread(descriptor, 0, status.st_size), version_of(status)
            finally:
                os.close(descriptor)

    async def list(self, prefix: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        self._scan(str(self.path(prefix)), "", found)
        return found

    def _scan(self, directory: str, below: str, found: dict[str, Entry]) -> None:
        # A file that went while its directory was read may have a successor that was not seen: look again.
        for _ in range(_SCANS):
            seen: dict[str, Entry] = {}
            if self._scan_once(directory, below, seen):
                break
        found.update(seen)

    def _scan_once(self, directory: str, below: str, found: dict[str, Entry]) -> bool:
        """Take in what lies below a directory; say whether every file that it named was still there."""
        whole = True
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            self._scan(entry.path, f"{below}{entry.name}/", found)
                            continue
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        whole = whole and entry.name.startswith(TEMPORARY)
                        continue
                    # The time of the last change, since copying tools set the time of modification.
                    plain = stat.S_ISREG(status.st_mode)
                    found[below + entry.name] = Entry(status.st_size, version_of(status), status.st_ctime, plain)
        except FileNotFoundError:
            return True
        except StorageError:
            raise  # of a directory below, which it names
        except OSError as error:
            raise StorageError(error.errno, f"{directory}: {error.strerror}") from error
        return whole

    def location(self) -> str:
        try:
            status = self.root.stat()
        except FileNotFoundError:
            return self.url
        return f"{status.st_dev:x}:{status.st_ino:x}"

    def stamp(self, prefix: str) -> tuple[str, float] | None:
        try:
            status = self.path(prefix).stat()
        except FileNotFoundError:
            return "", _ANCIENT_SECONDS
        return f"{status.st_ino:x}-{status.st_ctime_ns:x}", time.time() - status.st_ctime

    async def children(self, prefix: str) -> Sequence[str]:
        path = self.path(prefix)
        try:
            with told_errors(str(path), ""):
                if path.stat().st_size <= _INLINE_DIRECTORY_BYTES:
                    return _children(path)
                return await asyncio.to_thread(_children, path)
        except KeyMissingError:
            return []

    async def create(self, key: str, data: bytes) -> str:
        return await asyncio.to_thread(self._put, {key: data}, exclusive=True)

    async def create_all(self, files: Mapping[str, bytes]) -> None:
        await asyncio.to_thread(self._put, files, exclusive=True)

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        if version is not None:
            path = self.path(key)
            with told_errors(str(path)):
                if version_of(path.stat()) != version:
                    raise VersionMismatchError(f"{path} was replaced since it was read")
        return await asyncio.to_thread(self._put, {key: data}, exclusive=False)

    def _put(self, files: Mapping[str, bytes], *, exclusive: bool) -> str:
        """Publish files in their order, all written and synced before the first; return the last one's version."""
        version = ""
        with ExitStack() as undo:
            written = {key: self._written(key, data, undo) for key, data in files.items()}
            for file in written.values():
                file.sync()
            for file in written.values():
                version = self._publish(file, exclusive=exclusive)
        return version

    def _written(self, key: str, data: bytes, undo: ExitStack) -> Unpublished:
        path = self.path(key)
        with told_errors(path):
            self._make(path.parent)
        file = Unpublished(path, self.permissions)
        undo.callback(file.discard)
        file.write(data)
        return file

    def _publish(self, file: Unpublished, *, exclusive: bool) -> str:
        version = file.publish(exclusive=exclusive)
        if self._sync_names:
            with told_syncs(file.path):
                sync_directory(file.path.parent)
        return version

    def _make(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make(path.parent)
        try:
            self.permissions.make_directory(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        except FileNotFoundError as error:
            raise StorageError(error.errno, f"the directory {path} cannot be made here; choose another place") from None
        if self._sync_names:
            try:
                with told_syncs(path):
                    sync_directory(path.parent)
            except SyncFailedError:
                # Who finds it there takes it for lasting.
                with suppress(OSError):
                    path.rmdir()
                raise

    async def delete(self, keys: Iterable[str]) -> None:
        # A name that should not be there may go, whatever it stands for: what is deleted is the name.
        paths = [self.path(folder) / name for folder, _, name in (key.rpartition("/") for key in keys)]
        folders = set() if self._sync_names else {path.parent for path in paths if os.path.lexists(path)}
        if folders:
            # What supersedes a file must last before that goes; else a loss of power takes both.
            await asyncio.to_thread(_sync_directories, folders)
        if len(paths) > _INLINE_DELETIONS:
            await asyncio.to_thread(_unlink, paths)
        else:
            _unlink(paths)

    async def sync_names(self, prefix: str) -> None:
        if self._sync_names:
            path = self.path(prefix)
            with told_syncs(str(path)):
                await asyncio.to_thread(sync_directory, path)

    async def remove_leftovers(self, prefix: str, seconds: float) -> int:
        return await asyncio.to_thread(self._remove_leftovers, self.path(prefix), seconds)

    def _remove_leftovers(self, directory: Path, seconds: float) -> int:
        # What a killed sync was making may be what is to be in no byte of the archive any more, wherever that was.
        removed, now = remove_abandoned(self.root), time.time()
        for folder, _, names in os.walk(directory):
            for name in filter(LEFTOVER.fullmatch, names):
                path = Path(folder, name)
                with told_errors(str(path)), suppress(FileNotFoundError):
                    status = path.lstat()
                    if now - max(status.st_mtime, status.st_ctime) > seconds:
                        path.unlink()
                        removed += 1
        return removed

    def lock(self, key: str) -> LocalLock:
        return LocalLock(self.path(key), self.permissions)

    def is_locked(self, key: str) -> bool:
        return is_locked(self.path(key))

    def make_directory(self, prefix: str) -> None:
        path = self.path(prefix)
        with told_errors(str(path)):
            is_there = path.is_dir()
            self._make(path)
            if is_there and self._sync_names:
                # Who made it may have been killed before that was on stable storage.
                with told_syncs(path):
                    sync_directory(path.parent)

    def room(self) -> AbstractAsyncContextManager[None]:
        return self._publishing.room()

    def stage(self, prefix: str, files: Mapping[str, bytes], directories: Iterable[str]) -> LocalStaged:
        path = self.path(prefix)
        with told_errors(path):
            self._make(path.parent)
        return LocalStaged(self._publishing, self.root, path, self.permissions.mode(), files, directories)

    def remove_directory(self, prefix: str) -> None:
        shutil.rmtree(self.path(prefix), ignore_errors=True)

    def open_appender(self, key: str) -> LocalAppender:
        path = self.path(key)
        with told_errors(str(path)):
            self._make(path.parent)
        return LocalAppender(path, self.permissions)

    def take_over(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self.path(key)
            with told_errors(str(path)):
                self.permissions.give(path)

    async def sync(self, keys: Iterable[str]) -> None:
        await asyncio.to_thread(self._sync, list(keys))

    async def sync_all(self) -> None:
        if self._sync_names:
            with told_syncs(self.url):
                await asyncio.to_thread(sync_file_system, self.root)

    def _sync(self, keys: Sequence[str]) -> None:
        for key in keys:
            path = self.path(key)
            with told_errors(str(path)):
                descriptor = open_plain(path, os.O_RDONLY)
                try:
                    with told_syncs(path):
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _pread(descriptor: int, start: int, size: int) -> bytes:
    pieces = []
    while size > 0:
        piece = os.pread(descriptor, size, start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
