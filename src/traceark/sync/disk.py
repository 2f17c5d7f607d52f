"""Between two local disks: what needs no comparing, sealed traces that are the same or missing, many at a time.

A trace is made whole in a directory of the target's that nobody looks into, and moved to where it belongs when all
of it lasts. So nothing has to be locked, and no file needs a name that it has only for a while. Every file is
checked against the manifest on its way. What is not plain here is left to `carry`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from traceark.errors import CorruptFileError, StorageError
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, TRACES
from traceark.manifest import decode_manifest, sha256
from traceark.storage.access import Permissions, make_directory, open_to_group
from traceark.storage.local_plain import plain_path, read_plain
from traceark.storage.staging import staging
from traceark.storage.syncing import sync_directory, sync_file_system
from traceark.sync.listing import PROOFS, Ends, ends_of

# What is made to last together where the file system is synced: after a kill all of it is copied again.
_GROUP, _GROUP_BYTES = 1_000, 1 << 28
# Files that are synced at the same time share what the file system writes for it.
_SYNCING_THREADS = 32
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OUTSIDE = frozenset({"", ".", ".."})
# What can come of a trace that is being written to, there already, damaged or hostile: `carry` tells.
_NOT_PLAIN = (OSError, CorruptFileError, ValueError)


class _NotPlainError(ValueError):
    """The trace is not what it takes to be copied here."""


def _look_at_directory(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise _NotPlainError


def same_sealed(source: Path, target: Path, keys: Iterable[str]) -> Iterator[str]:
    """Yield the keys of traces that are sealed on both sides, and are the same there.

    Raises
    ------
    CorruptFileError
        What holds the traces is no directory.
    """
    here, there = plain_path(source, TRACES), plain_path(target, TRACES)
    for key in keys:
        try:
            # What differs most often comes first.
            one, other = _sealed(f"{here}/{key}"), _sealed(f"{there}/{key}")
            if all(ours == theirs for ours, theirs in zip(one, other, strict=True)):
                yield key
        except _NOT_PLAIN:
            continue  # not sealed on one side, or something to be told: it is looked at


def _sealed(trace: str) -> Iterator[bytes | Ends | None]:
    """Yield what tells a sealed trace from another; raise where it is not sealed, or was written to since."""
    _look_at_directory(trace)
    for name in PROOFS:
        try:
            yield read_plain(f"{trace}/{name}")
        except FileNotFoundError:
            if name != GOAL_TREE:
                raise
            yield None
    yield _ends(trace)


def _ends(trace: str) -> Ends:
    names: list[str] = []
    for log in LOGS:
        try:
            _look_at_directory(f"{trace}/{log}")
            names += [f"{log}/{name}" for name in os.listdir(f"{trace}/{log}")]  # noqa: PTH208
        except FileNotFoundError:
            continue  # an object store, and what copies from one, has no empty directory
    ends = ends_of(names)
    if ends is None:
        raise _NotPlainError
    return ends


@contextmanager
def copying(source: Path, target: Path, *, sync_each: bool, check: bool) -> Iterator[Copying]:
    """Yield what copies traces that are sealed and missing at the target, as long as this context lasts.

    Parameters
    ----------
    source, target : Path
        The archives' directories.
    sync_each : bool
        Sync each file by itself; else the file system, once for many traces.
    check : bool
        Read back what was written.

    Raises
    ------
    OSError, CorruptFileError
        The target, or the directory of its traces or of the source's, is not as it is needed for this.
    """
    here, there = plain_path(source, TRACES), plain_path(target, TRACES)
    mode = Permissions(target).mode()
    with staging(target, mode) as place, ThreadPoolExecutor(_SYNCING_THREADS) as threads:
        yield Copying(str(here), str(there), str(place), mode, threads, sync_each, check)


@dataclass(frozen=True, slots=True)
class Copying:
    """Where traces are copied from, by way of which directory to where, and how."""

    source: str
    target: str
    place: str
    mode: int
    threads: ThreadPoolExecutor
    sync_each: bool
    check: bool

    def all_of(self, keys: Iterable[str]) -> Iterator[dict[str, int | None]]:
        """Copy traces; yield some at a time, by trace key the bytes written, or None for what is not plain.

        Raises
        ------
        StorageError
            It cannot be told whether they last.
        """
        waiting = iter(keys)
        for moved in self._each(waiting) if self.sync_each else self._many(waiting):
            try:
                sync_directory(self.target)
            except OSError as error:
                raise StorageError(error.errno, f"{self.target}: sync failed: {error.strerror}; sync again") from error
            yield moved

    def _each(self, keys: Iterator[str]) -> Iterator[dict[str, int | None]]:
        while these := list(islice(keys, _GROUP)):
            yield dict(zip(these, self.threads.map(self._made_and_moved, these), strict=True))

    def _many(self, keys: Iterator[str]) -> Iterator[dict[str, int | None]]:
        made = self._some(keys)
        while made:
            syncing = self.threads.submit(self._synced)
            more = self._some(keys)  # meanwhile
            lasts = syncing.result()
            yield {key: self._moved(key, size) if lasts and size is not None else None for key, size in made.items()}
            made = more

    def _some(self, keys: Iterator[str]) -> dict[str, int | None]:
        made: dict[str, int | None] = {}
        written = 0
        for key in keys:
            size = made[key] = self._made(key)
            written += size or 0
            if len(made) == _GROUP or written >= _GROUP_BYTES:
                break
        return made

    def _synced(self) -> bool:
        try:
            sync_file_system(Path(self.place))
        except OSError:
            return False  # `carry` syncs each file, and tells which it is
        return True

    def _made_and_moved(self, key: str) -> int | None:
        size = self._made(key)
        return None if size is None else self._moved(key, size)

    def _moved(self, key: str, size: int) -> int | None:
        try:
            # It fails where a trace is, or the beginnings of one.
            os.rename(f"{self.place}/{key}", f"{self.target}/{key}")  # noqa: PTH104
        except OSError:
            return None
        return size

    def _made(self, key: str) -> int | None:
        try:
            return self._make(key)
        except _NOT_PLAIN:
            return None

    def _make(self, key: str) -> int:
        here, there = f"{self.source}/{key}", f"{self.place}/{key}"
        _look_at_directory(here)
        manifest = read_plain(f"{here}/{MANIFEST}")
        hashes = decode_manifest(manifest, f"{key}/{MANIFEST}")
        _look_at_names(hashes)
        if _ends(here) != ends_of(hashes):
            raise _NotPlainError
        make_directory(there, self.mode)
        for log in LOGS:
            make_directory(f"{there}/{log}", self.mode)
        written = self._write(f"{there}/{MANIFEST}", manifest)
        for name, digest in hashes.items():
            data = read_plain(f"{here}/{name}")
            if sha256(data) != digest:
                raise _NotPlainError
            written += self._write(f"{there}/{name}", data)
        if self.sync_each:
            for log in LOGS:
                sync_directory(f"{there}/{log}")
            sync_directory(there)
        return written

    def _write(self, path: str, data: bytes) -> int:
        descriptor = os.open(path, _NEW, self.mode)
        try:
            open_to_group(descriptor, self.mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if self.sync_each:
                os.fsync(descriptor)
            if self.check and os.pread(descriptor, len(data) + 1, 0) != data:
                raise _NotPlainError
        finally:
            os.close(descriptor)
        return len(data)


def _look_at_names(names: Iterable[str]) -> None:
    """Raise where one is no name of a file of a sealed trace, or the header's is missing."""
    has_header = False
    for name in names:
        log, separator, file = name.partition("/")
        if separator:
            if log not in LOGS or "/" in file or file in _OUTSIDE:
                raise _NotPlainError
        elif name not in (HEADER, GOAL_TREE):
            raise _NotPlainError
        has_header |= name == HEADER
    if not has_header:
        raise _NotPlainError
