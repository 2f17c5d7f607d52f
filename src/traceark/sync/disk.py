"""Between two local disks: what needs no comparing, sealed traces that are the same or missing, many at a time.

The calls are the system's own, in one thread, since a hop for each of so many small files would take longer
than they do. Every file is checked against the manifest on its way. What is not plain here is left to `carry`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from traceark.errors import CorruptFileError
from traceark.layout import HEADER, LOCK, LOGS, MANIFEST, TRACES
from traceark.manifest import decode_manifest, sha256
from traceark.storage.access import Permissions
from traceark.storage.base import AppendStorage, Lock
from traceark.storage.local_plain import open_plain, path_to_open, plain_path
from traceark.storage.local_publish import TEMPORARY, sync_directory

# Traces that are published together; each holds a lock open meanwhile.
GROUP = 400
_EXCLUSIVE = os.O_WRONLY | os.O_EXCL


class _NotPlainError(Exception):
    """The trace is not what it takes to be copied here: being written to, there already, or damaged."""


@dataclass(slots=True)
class _Copying:
    """A trace whose logs are at the target: what is left to publish."""

    key: str
    directory: Path
    lock: Lock
    last: dict[str, bytes]
    written: int


def same_manifests(source: Path, target: Path, keys: Sequence[str]) -> Iterator[str]:
    """Yield the keys of traces that are sealed on both sides with the same manifest."""
    for key in keys:
        try:
            if _read(source, f"{TRACES}/{key}/{MANIFEST}") == _read(target, f"{TRACES}/{key}/{MANIFEST}"):
                yield key
        except (OSError, CorruptFileError):
            continue  # not sealed on one side, or something to be told: it is looked at


def copy_sealed(
    source: Path, target: AppendStorage, root: Path, keys: Sequence[str], *, sync_each: bool, check: bool
) -> dict[str, int]:
    """Copy traces that are sealed and missing at the target.

    Parameters
    ----------
    source : Path
        The archive's directory.
    target : AppendStorage
    root : Path
        Its directory.
    keys : sequence of str
        Trace keys, `GROUP` at most.
    sync_each : bool
        Sync each file by itself; else the file systems twice, before the headers and at the end.
    check : bool
        Read back what was written.

    Returns
    -------
    dict
        Bytes written, by the keys that were copied; the others are not plain.
    """
    permissions = Permissions(root)
    with ExitStack() as locks:
        begun: list[_Copying] = []
        for key in keys:
            try:
                begun.append(
                    _copy_logs(source, target, root, key, locks, permissions, sync_each=sync_each, check=check)
                )
            except (_NotPlainError, OSError, CorruptFileError):
                continue  # `carry` tells what is wrong, if anything is
        if not sync_each:
            os.sync()
        done: dict[str, int] = {}
        for each in begun:
            try:
                for name, data in each.last.items():
                    _publish(permissions, each.directory / name, data, sync=sync_each)
                if sync_each:
                    sync_directory(each.directory)
            except OSError:
                continue  # here too
            each.lock.bump()
            done[each.key] = each.written
        if sync_each:
            sync_directory(root / TRACES)
        else:
            os.sync()
        return done


def _copy_logs(
    source: Path,
    target: AppendStorage,
    root: Path,
    key: str,
    locks: ExitStack,
    permissions: Permissions,
    *,
    sync_each: bool,
    check: bool,
) -> _Copying:
    there = plain_path(root, f"{TRACES}/{key}")
    manifest = _read(source, f"{TRACES}/{key}/{MANIFEST}")
    hashes = decode_manifest(manifest, f"{key}/{MANIFEST}")
    files = {name: _checked(source, f"{TRACES}/{key}/{name}", digest) for name, digest in hashes.items()}
    if HEADER not in files:
        raise _NotPlainError
    permissions.make_directory(there)
    lock = target.lock(f"{TRACES}/{key}/{LOCK}")
    locks.callback(lock.close)
    if not lock.try_acquire():
        raise _NotPlainError
    for log in LOGS:
        permissions.make_directory(there / log)
    first = {name: data for name, data in files.items() if name.partition("/")[0] in LOGS}
    for name, data in first.items():
        _write(permissions, there / name, data, sync=sync_each)
        if check:
            _checked(there, name, hashes[name])
    if sync_each:
        for log in LOGS:
            sync_directory(there / log)
    rest = {name: data for name, data in files.items() if name not in first and name != HEADER}
    last = {**rest, HEADER: files[HEADER], MANIFEST: manifest}
    return _Copying(key, there, lock, last, sum(map(len, files.values())) + len(manifest))


def _checked(root: Path, key: str, digest: str) -> bytes:
    data = _read(root, key)
    if sha256(data) != digest:
        raise _NotPlainError
    return data


def _read(root: Path, key: str) -> bytes:
    descriptor = open_plain(path_to_open(root, key), os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size)):
            data += more
        return data
    finally:
        os.close(descriptor)


def _write(permissions: Permissions, path: Path, data: bytes, *, sync: bool) -> None:
    descriptor = permissions.open(path, _EXCLUSIVE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(permissions: Permissions, path: Path, data: bytes, *, sync: bool) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    _write(permissions, temporary, data, sync=sync)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()


def groups(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield keys in groups that `copy_sealed` takes."""
    for start in range(0, len(keys), GROUP):
        yield keys[start : start + GROUP]
