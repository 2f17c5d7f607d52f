"""Directories that appear on a local disk with all their files, or not at all: made beside, and moved when they last.

Where many are made at a time the file system is synced for all of them, which takes a fraction of a sync for each file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from time import time_ns

from traceark.storage.access import make_directory, open_to_group
from traceark.storage.base import Staged
from traceark.storage.local_files import told_errors, told_syncs
from traceark.storage.local_plain import open_plain
from traceark.storage.staging import staging
from traceark.storage.syncing import can_sync_file_systems, sync_directory, sync_file_system
from traceark.storage.together import Together

# From so many directories at a time, the file system is synced.
_MANY = 4
_EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
# What moving a directory to where something is ends with.
_IN_THE_WAY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


class Publishing:
    """Makes staged directories last, and the names that they are moved to: many at a time.

    Parameters
    ----------
    names : bool
        Whether names are to last.
    """

    def __init__(self, *, names: bool) -> None:
        self._names = names
        self._contents = Together(self._sync_contents)
        self._moves = Together(_sync_all)

    def room(self) -> AbstractAsyncContextManager[None]:
        """Wait for room to stage one, whose files stay open until they last."""
        return self._contents.room()

    async def contents(self, staged: LocalStaged) -> None:
        """Return when what is staged lasts."""
        await self._contents.done(staged)

    async def move(self, above: Path) -> None:
        """Return when a name in a directory lasts."""
        if self._names:
            await self._moves.done(above)

    def _sync_contents(self, staged: list[LocalStaged]) -> None:
        if len(staged) >= _MANY and can_sync_file_systems():
            place = staged[0].place
            with told_errors(place):
                sync_file_system(place)
            return
        for each in staged:
            each.sync(names=self._names)


def _sync_all(directories: list[Path]) -> None:
    for path in {*directories}:
        with told_syncs(path):
            sync_directory(path)


class LocalStaged(Staged):
    """A directory beside what the archive says, which holds its files already.

    Parameters
    ----------
    publishing : Publishing
    root : Path
        The archive's directory.
    target : Path
        Where it belongs; what that lies in is there.
    mode : int
        Of the files.
    files : mapping of str to bytes
        By their names below the directory.
    directories : iterable of str
        Those below it.
    """

    def __init__(
        self,
        publishing: Publishing,
        root: Path,
        target: Path,
        mode: int,
        files: Mapping[str, bytes],
        directories: Iterable[str],
    ) -> None:
        self._publishing = publishing
        self._target = target
        self._held = ExitStack()
        self._descriptors: list[int] = []
        with ExitStack() as undo, told_errors(target):
            undo.callback(self.discard)
            self.place = self._held.enter_context(staging(root, mode))
            self._directories = [f"{self.place}/{name}" for name in directories]
            for path in self._directories:
                make_directory(path, mode)
            for name, data in files.items():
                self._write(f"{self.place}/{name}", data, mode)
            undo.pop_all()

    def _write(self, path: str, data: bytes, mode: int) -> None:
        descriptor = open_plain(path, _EXCLUSIVE, mode)
        self._held.callback(os.close, descriptor)
        self._descriptors.append(descriptor)
        open_to_group(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        # The kernel's own clock may stand still for milliseconds, in which a version could come again.
        os.utime(descriptor, ns=(now := time_ns(), now))

    def sync(self, *, names: bool) -> None:
        """Return when the files are on stable storage, and with `names` where they are found."""
        with told_errors(self._target):
            for descriptor in self._descriptors:
                os.fsync(descriptor)
            for path in (*self._directories, str(self.place)) if names else ():
                sync_directory(path)

    async def publish(self) -> bool:
        await self._publishing.contents(self)
        with told_errors(self._target):
            try:
                self.place.rename(self._target)
            except OSError as error:
                if error.errno not in _IN_THE_WAY:
                    raise
                return False
        await self._publishing.move(self._target.parent)
        return True

    def discard(self) -> None:
        with told_errors(self._target):
            self._held.close()
