"""Copies one trace to where it is missing or older: data, then headers, then the manifest.

Killed anywhere, it leaves the state that was there before, a later true one, or files that are no
trace yet; done again, it goes on. What to copy has been decided in `compare`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from traceark.errors import CorruptFileError, StorageError
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, PartName, parse_log_name
from traceark.lifecycle import locked
from traceark.manifest import sha256
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    Storage,
    VersionMismatchError,
)
from traceark.sync.sides import Side

MD5 = re.compile(r'"([0-9a-f]{32})"')


class ChangedMeanwhileError(StorageError):
    """The target's trace is not as it was compared; compare again."""


async def carry(
    side: Side, target: Storage, there: Side | None, *, check: bool, listed: Mapping[str, Entry] | None = None
) -> int:
    """Bring a trace at the target to the source's state.

    Parameters
    ----------
    side : Side
        The source's trace.
    target : Storage
    there : Side, optional
        The target's trace, an earlier state; None where there is none.
    check : bool
        Whether to read back what was written, where the storage does not tell its hash.
    listed : mapping of str to Entry, optional
        The files there, of which none is a header, as they were listed a while ago: enough where every
        file is created exclusively.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    ChangedMeanwhileError
        Somebody wrote to the target's trace since it was compared.
    KeyMissingError
        A file of the source was compacted away meanwhile; look at it again.
    CorruptFileError
        What was read back is not what was written.
    """
    async with _alone(target, side.prefix):
        present = await target.list(side.prefix) if listed is None or isinstance(target, AppendStorage) else listed
        if not _is_as_compared(present, there):
            raise ChangedMeanwhileError(f"{target.url}/{side.prefix} was written to meanwhile")
        try:
            return await _publish(side, target, present, check=check)
        except (KeyExistsError, VersionMismatchError) as error:
            raise ChangedMeanwhileError(str(error)) from error


@asynccontextmanager
async def _alone(target: Storage, prefix: str) -> AsyncIterator[None]:
    if not isinstance(target, AppendStorage):
        yield
        return
    target.make_directory(prefix)
    for log in LOGS:
        target.make_directory(f"{prefix}/{log}")
    async with locked(target, prefix) as lock:
        lock.bump()
        yield
        lock.bump()


def _is_as_compared(present: Mapping[str, Entry], there: Side | None) -> bool:
    if there is None:
        return HEADER not in present
    return {name: each.version for name, each in present.items() if name != LOCK} == {
        name: each.version for name, each in there.entries.items() if name != LOCK
    }


async def _publish(side: Side, target: Storage, present: Mapping[str, Entry], *, check: bool) -> int:
    prefix, written = side.prefix, 0
    if MANIFEST in present:
        # Whoever changes a sealed trace removes its manifest first.
        await target.delete([f"{prefix}/{MANIFEST}"])
    hashes: dict[str, str] = {}
    for name in side.log_files():
        entry = present.get(name)
        if entry is not None and entry.size == side.entries[name].size and _is_part(name):
            continue  # a part's name tells its content
        data = await side.read(name)
        size, version = await _put(target, f"{prefix}/{name}", data, entry, whole=_is_part(name))
        written += size
        if not is_md5(version, data):
            hashes[name] = sha256(data)
    for name, headers in ((GOAL_TREE, side.tree_data), (HEADER, side.header_data)):
        if headers is not None:
            size, version = await _put(target, f"{prefix}/{name}", headers, present.get(name), whole=True)
            written += size
            if not is_md5(version, headers):
                hashes[name] = sha256(headers)
    if check:
        await _check(side, target, hashes)
    superseded = [name for name in present if _is_log_file(name) and name not in side.entries]
    if isinstance(target, AppendStorage):
        await target.delete(f"{prefix}/{name}" for name in superseded)
    if side.manifest is not None:
        await target.create(f"{prefix}/{MANIFEST}", side.manifest)
        written += len(side.manifest)
    return written


async def _put(target: Storage, key: str, data: bytes, entry: Entry | None, *, whole: bool = False) -> tuple[int, str]:
    """Write a file, of a segment that has grown only what is new; return how many bytes that was, and its version."""
    if entry is None:
        try:
            version = await target.create(key, data)
        except KeyExistsError:
            # The answer to our own creation may have been lost.
            known, version = await target.read_versioned(key)
            if known != data:
                raise
        return len(data), version
    known, version = await target.read_versioned(key)
    if known == data or (not whole and known.startswith(data)):
        return 0, version  # as it is, or with an unfinished record of the source that a copier had taken
    if isinstance(target, AppendStorage) and not whole and data.startswith(known):
        appender = target.open_appender(key)
        try:
            appender.append(data[len(known) :])
            appender.sync()
        finally:
            appender.close()
        return len(data) - len(known), ""
    return len(data), await target.replace(key, data, version)


def is_md5(version: str, data: bytes) -> bool:
    """Say whether a version is the MD5 of some bytes, as the entity tag of an object is that was put in one piece.

    Not where a key of the server's encrypts it, nor on a disk.
    """
    match = MD5.fullmatch(version)
    return match is not None and match[1] == hashlib.md5(data, usedforsecurity=False).hexdigest()


async def _check(side: Side, target: Storage, hashes: Mapping[str, str]) -> None:
    for name, digest in hashes.items():
        data = await target.read(f"{side.prefix}/{name}")
        if sha256(data) != digest and not _is_longer(data, name, side):
            raise CorruptFileError(
                f"{target.url}/{side.prefix}/{name} is not what was written to it; check the disk, and sync again"
            )


def _is_longer(data: bytes, name: str, side: Side) -> bool:
    """Say whether a segment holds what the source had, and an unfinished record behind it."""
    return not _is_part(name) and _is_log_file(name) and len(data) > side.entries[name].size


def _is_part(name: str) -> bool:
    return isinstance(parse_log_name(name.rpartition("/")[2]), PartName)


def _is_log_file(name: str) -> bool:
    directory, _, file = name.partition("/")
    return directory in LOGS and parse_log_name(file) is not None
