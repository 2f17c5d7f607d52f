"""What the archive needs of a storage: bytes under keys, and what it can promise about them.

A key is relative to the archive, with ``/`` between its components. Two kinds exist and a trace
is written differently on each: an `AppendStorage` can append to a file under a lock, any other
`Storage` can only create and replace whole objects, conditionally. Nothing here knows of traces.
"""

from __future__ import annotations

import asyncio
import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from traceark.errors import StorageError

Durability = Literal["fsync", "os"]
# What the system says where a disk, or what one may have of it, is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class KeyMissingError(StorageError):
    """No object lies under this key."""


class KeyExistsError(StorageError):
    """An exclusive creation found the key taken."""


class SyncFailedError(StorageError):
    """What stands where readers find it may not last: bringing it to stable storage failed, and is not tried again."""


class VersionMismatchError(StorageError):
    """A conditional replace found another version than the one given."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a listing: its size in bytes, its version, and its age.

    `version` differs whenever the content was replaced; `modified` is seconds since the epoch by
    the storage's own clock. What is not `plain`, as a link on a disk, can be listed and not read.
    """

    size: int
    version: str
    modified: float
    plain: bool = True


class Storage(ABC):
    """Bytes under keys, with exclusive creation and conditional replacement.

    Attributes
    ----------
    url : str
        Where the archive is, without secrets.
    grace_seconds : float
        How long a superseded object must be kept, since a late writer may still rely on it.
    """

    url: str
    grace_seconds: float = 0.0

    @abstractmethod
    async def read(self, key: str, start: int = 0) -> bytes:
        """Return an object's bytes from `start` on.

        Raises
        ------
        KeyMissingError
        """

    @abstractmethod
    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Return an object's bytes and its version."""

    @abstractmethod
    async def list(self, prefix: str) -> dict[str, Entry]:
        """Return all objects below a prefix, by their key relative to it; empty if there are none."""

    @abstractmethod
    async def children(self, prefix: str) -> Sequence[str]:
        """Return the names right below a prefix that have objects below them, in no order."""

    @abstractmethod
    async def create(self, key: str, data: bytes) -> str:
        """Create an object that must not be there yet; return its version.

        Raises
        ------
        KeyExistsError
            Also when the answer to a creation that worked was lost: read back and compare.
        """

    async def create_all(self, files: Mapping[str, bytes]) -> None:
        """Create objects one after the other, in this order; raises as `create` does."""
        for key, data in files.items():
            await self.create(key, data)

    @abstractmethod
    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        """Put an object, whole or not at all; return its version.

        Parameters
        ----------
        key, data
            What to put where.
        version : str, optional
            Replace only this version.

        Raises
        ------
        VersionMismatchError
        """

    @abstractmethod
    async def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in this order; one that is gone already is no error."""

    async def delete_unchanged(self, versions: Mapping[str, str]) -> Sequence[str]:
        """Delete objects, in this order, but those that were replaced since they had these versions; return their keys.

        Wanted where a key is used again: a request that arrives late is not to take what came after it. A storage to
        which requests come in time deletes them all.
        """
        await self.delete(versions)
        return []

    async def remove_leftovers(self, prefix: str, seconds: float) -> int:
        """Remove, below a prefix, what writes left that were cut short so many seconds ago; return how many files.

        Where an object is put whole or not at all there are none.
        """
        return 0

    async def sync_names(self, prefix: str) -> None:
        """Return when the names right below a prefix, those that are gone too, last over a loss of power.

        What is created or replaced needs no such call; an object store needs none at all.
        """

    def local_path(self, key: str) -> Path | None:
        """Return where an object lies as a file that other libraries can open, or None where it does not."""
        return None

    async def check_writable(self) -> None:
        """Refuse a storage on which writers could overwrite each other.

        Raises
        ------
        UnsafeStorageError
        """

    def location(self) -> str:
        """Return what tells this place from one that a copy of the archive lies in."""
        return self.url

    def stamp(self, prefix: str) -> tuple[str, float] | None:
        """Return a text that changes whenever a name right below a prefix comes or goes, and its age in seconds.

        None where only a listing can tell.
        """
        return None

    async def close(self) -> None:
        """Give back what the storage holds."""


class Appender(ABC):
    """A segment that is open for appending. All methods are brief and do not suspend."""

    size: int

    @abstractmethod
    def append(self, data: bytes) -> None:
        """Append bytes whole, or leave the file as it was and raise."""

    @abstractmethod
    def current_size(self) -> int | None:
        """Return the file's size now, or None when it was deleted."""

    @abstractmethod
    def sync(self) -> None:
        """Return when all that was appended is on stable storage."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class Lock(ABC):
    """The lock of one trace among all processes of a host, with a generation that survives them.

    Whoever changes anything but the end of the last segment bumps the generation, so that the
    others list again.
    """

    @abstractmethod
    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock back."""

    @abstractmethod
    def generation(self) -> int:
        """Return the generation; -1 when the trace was deleted."""

    @abstractmethod
    def bump(self, *, deleted: bool = False) -> None:
        """Make the generation a new one, or mark the trace as deleted."""

    @abstractmethod
    def is_removed(self) -> bool:
        """Say whether the file that is locked has no name any more."""

    @abstractmethod
    def close(self) -> None:
        """Close the lock."""


class Staged(ABC):
    """A directory that is made, with all its files, and not where it belongs yet."""

    @abstractmethod
    async def publish(self) -> bool:
        """Put it where it belongs, all of it at once, when it lasts; say whether nothing was there yet."""

    @abstractmethod
    def discard(self) -> None:
        """Give back what it holds, and remove it unless it was published."""


async def acquire(lock: Lock) -> None:
    """Take a lock, waiting for it without a thread: threads that wait would leave none to publish with."""
    delay = 0.0005
    while not lock.try_acquire():
        await asyncio.sleep(delay)
        delay = min(delay * 2, 0.02)


class AppendStorage(Storage):
    """A storage whose files can be appended to under a lock: a local disk."""

    @abstractmethod
    def lock(self, key: str) -> Lock:
        """Open the lock that is the file of a key, whose directory must exist."""

    @abstractmethod
    def is_locked(self, key: str) -> bool:
        """Say whether somebody holds the lock that is the file of a key; nothing is written."""

    @abstractmethod
    def make_directory(self, prefix: str) -> None:
        """Make a directory if it is not there, and its name durable in any case."""

    @abstractmethod
    def room(self) -> AbstractAsyncContextManager[None]:
        """Wait for room to stage one directory and publish it; those that are in it at a time share a sync."""

    @abstractmethod
    def stage(self, prefix: str, files: Mapping[str, bytes], directories: Iterable[str]) -> Staged:
        """Make a directory with files and directories, by their keys relative to it, where nobody looks.

        To be called in a thread; what is staged is to be published there, and discarded in any case.
        """

    @abstractmethod
    def remove_directory(self, prefix: str) -> None:
        """Remove a directory and what is left in it."""

    @abstractmethod
    def open_appender(self, key: str) -> Appender:
        """Open a segment for appending, creating it durably when it is not there."""

    @abstractmethod
    def take_over(self, keys: Iterable[str]) -> None:
        """Give files that another library made the permissions of those that are made here."""

    @abstractmethod
    async def sync(self, keys: Iterable[str]) -> None:
        """Return when files are on stable storage."""

    @abstractmethod
    async def sync_all(self) -> None:
        """Return when all that lies here lasts over a loss of power, whoever put it here."""
