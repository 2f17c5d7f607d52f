"""Putting the files of a trace where others may be putting the same, and taking them back where they bring another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from traceark.errors import DamagedTraceError, IncompleteTraceError, StorageError
from traceark.headers import TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, PartName, SegmentName, parse_log_name
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    KeyMissingError,
    Storage,
    VersionMismatchError,
)
from traceark.sync.compare import parting
from traceark.sync.sides import Side

MD5 = re.compile(r'"([0-9a-f]{32})"')


class ChangedMeanwhileError(StorageError):
    """The target's trace is not as it was compared; compare again."""


class Undo:
    """What was written to the logs of an object store, where nothing keeps others from doing the same.

    Of two that write the same offsets at the same time at least one sees the other, since each
    lists after it has written; who does looks again. What it wrote it takes back only where the other brings
    another side: who brings the same trace relies on it.
    """

    def __init__(self, side: Side, target: Storage) -> None:
        self._side = side
        self._target = target
        self._created: list[str] = []
        self._replaced: list[tuple[str, bytes, str]] = []

    def created(self, key: str) -> None:
        self._created.append(key)

    def replaced(self, key: str, before: bytes, version: str) -> None:
        self._replaced.append((key, before, version))

    async def unless_alone(self, present: Mapping[str, Entry]) -> None:
        if isinstance(self._target, AppendStorage) or not (self._created or self._replaced):
            return
        names, prefix = set(self._side.log_files()), self._side.prefix
        now = await self._target.list(prefix)
        came = any(is_log_file(name) for name in now.keys() - present.keys() - names)
        if not came and names <= now.keys():
            return
        if came and await is_apart(self._side, self._target, now):
            await self._target.delete(self._created)
            for key, before, version in self._replaced:
                await self._target.replace(key, before, version)
        raise ChangedMeanwhileError(f"{self._target.url}/{prefix} was written to meanwhile")

    async def tree(self, present: Mapping[str, Entry], there: Side | None, stand: Mapping[str, str]) -> None:
        """Put back the goals of a trace whose header somebody replaced before the new one came: they go with that."""
        was, now = present[GOAL_TREE].version if GOAL_TREE in present else None, stand.get(GOAL_TREE)
        if there is None or now is None or now == was:
            return
        key = f"{self._side.prefix}/{GOAL_TREE}"
        if there.tree_data is None:
            await self._target.delete_unchanged({key: now})
            return
        with suppress(KeyMissingError, VersionMismatchError):  # replaced since, or gone with the trace
            await self._target.replace(key, there.tree_data, now)

    async def unless_too_late(self, present: Mapping[str, Entry], there: Side, stand: Mapping[str, str]) -> None:
        """Put a trace back that gave way to another incarnation, where somebody went on with it until just now.

        Who does that looks at the header once more before it is acknowledged: so of the two one sees the other.
        """
        if isinstance(self._target, AppendStorage):
            return
        target, prefix, known = self._target, self._side.prefix, dict(stand)
        now = await target.list(prefix)
        came = any(is_of(name, there.header.incarnation) for name in now.keys() - present.keys())
        has_its_tree = GOAL_TREE in now and now[GOAL_TREE].version != stand.get(GOAL_TREE)
        if has_its_tree:
            tree = TreeFile.decode(await target.read(f"{prefix}/{GOAL_TREE}"), f"{prefix}/{GOAL_TREE}")
            has_its_tree = tree.incarnation == there.header.incarnation
        if not came and not has_its_tree:
            return
        for name, data in headers_of(there.above(self._side.header.revision), self._side):
            if name == HEADER or not has_its_tree:
                key, compared = f"{prefix}/{name}", known.get(name)
                put = await put_file(target, key, data, is_there=name in known, whole=True, compared=compared)
                known[name] = put[1]
        await target.delete(self._created)
        raise ChangedMeanwhileError(f"{target.url}/{prefix} was written to meanwhile")


async def put_file(
    target: Storage,
    key: str,
    data: bytes,
    *,
    is_there: bool,
    whole: bool,
    compared: str | None = None,
    undo: Undo | None = None,
) -> tuple[int, str]:
    """Write a file, of a segment that has grown only what is new; return how many bytes that was, and its version.

    Where it was `compared` in some version, it is replaced in no other.
    """
    if not is_there:
        try:
            version = await target.create(key, data)
        except KeyExistsError:
            # Another sync brings the same trace, or the answer to our own creation was lost.
            known, version = await target.read_versioned(key)
            if known != data:
                raise
        else:
            if undo is not None:
                undo.created(key)
        return len(data), version
    known, version = await target.read_versioned(key)
    if compared not in (None, version):
        raise VersionMismatchError(f"{target.url}/{key} was replaced meanwhile")
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
    version = await target.replace(key, data, version)
    if undo is not None:
        undo.replaced(key, known, version)
    return len(data), version


def is_md5(version: str, data: bytes) -> bool:
    """Say whether a version is the MD5 of some bytes, as the entity tag of an object is that was put in one piece.

    Not where a key of the server's encrypts it, nor on a disk.
    """
    match = MD5.fullmatch(version)
    return match is not None and match[1] == hashlib.md5(data, usedforsecurity=False).hexdigest()


async def is_apart(side: Side, target: Storage, entries: Mapping[str, Entry]) -> bool:
    """Say whether what lies at the target, beside what the source has, was written on another side."""
    try:
        there = await replace(side, storage=target, entries=entries, hashes={}, parts={}, kept={}).copy()
    except IncompleteTraceError:
        return False  # another sync is in the middle of it
    except DamagedTraceError:
        return True
    here = await side.copy()
    return any(parting(here.runs[log], there.runs[log]) is not None for log in LOGS)


def headers_of(side: Side, there: Side | None) -> Iterator[tuple[str, bytes]]:
    """Yield the headers in the order of publication; at no moment is the trace without its goals."""
    if side.tree is not None and side.tree_data is not None:
        if there is not None and there.header.incarnation != side.header.incarnation:
            yield GOAL_TREE, replace(side.tree, before=there.header.incarnation).encode()
            yield HEADER, side.header_data
        yield GOAL_TREE, side.tree_data
    yield HEADER, side.header_data


def is_part(name: str) -> bool:
    return isinstance(parse_log_name(name.rpartition("/")[2]), PartName)


def keeps_offsets(name: str) -> bool:
    """Say whether it is a segment of an object store, whose name tells no writer."""
    parsed = parse_log_name(name.rpartition("/")[2])
    return isinstance(parsed, SegmentName) and not parsed.writer


def is_of(name: str, incarnation: str) -> bool:
    """Say whether it is a file of the logs of an incarnation."""
    parsed = parse_log_name(name.rpartition("/")[2]) if is_log_file(name) else None
    return parsed is not None and parsed.incarnation == incarnation


def is_log_file(name: str) -> bool:
    directory, _, file = name.partition("/")
    return directory in LOGS and parse_log_name(file) is not None
