"""Copies one trace to where it is missing or older: data, then headers, then the manifest.

Killed anywhere, it leaves the state that was there before, a later true one, or files that are no
trace yet; done again, it goes on. What to copy has been decided in `compare`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from traceark.errors import CorruptFileError, DamagedTraceError, IncompleteTraceError, StorageError
from traceark.headers import TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, PartName, SegmentName, parse_log_name
from traceark.lifecycle import locked, versions
from traceark.log import Files, load_parts, log_names
from traceark.manifest import sha256
from traceark.plan import droppable, plan_log
from traceark.publishing import take_late_manifest
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    Storage,
    VersionMismatchError,
)
from traceark.sync.compare import parting
from traceark.sync.sides import Side, is_exact

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
    async with alone(target, side.prefix):
        present = listed
        if present is None or isinstance(target, AppendStorage):
            present = await as_compared(target, side.prefix, there)
        if present is None:
            raise ChangedMeanwhileError(f"{target.url}/{side.prefix} was written to meanwhile")
        return await publish(side, target, present, there, check=check)


@asynccontextmanager
async def alone(target: Storage, prefix: str) -> AsyncIterator[None]:
    """Keep other processes from writing to a trace, where the storage can, and tell them that it is another now."""
    if not isinstance(target, AppendStorage):
        yield
        return
    async with locked(target, prefix, [prefix, *(f"{prefix}/{log}" for log in LOGS)]) as lock:
        lock.bump()
        yield
        lock.bump()


async def as_compared(target: Storage, prefix: str, there: Side | None) -> Mapping[str, Entry] | None:
    """Return the files of the target's trace, or None where somebody has written to it since it was looked at."""
    present = await target.list(prefix)
    if there is None:
        return present if HEADER not in present else None
    return present if versions(present) == versions(there.entries) else None


async def publish(side: Side, target: Storage, present: Mapping[str, Entry], there: Side | None, *, check: bool) -> int:
    """Publish a trace over the files that are `present`, `alone`; parameters, result and errors as of `carry`."""
    try:
        return await _publish(side, target, present, there, check=check)
    except (KeyExistsError, VersionMismatchError) as error:
        raise ChangedMeanwhileError(str(error)) from error


async def _publish(
    side: Side, target: Storage, present: Mapping[str, Entry], there: Side | None, *, check: bool
) -> int:
    prefix, written = side.prefix, 0
    if MANIFEST in present:
        # Whoever changes a sealed trace removes its manifest first.
        await target.delete([f"{prefix}/{MANIFEST}"])
        await target.sync_names(prefix)
    # What was put, with what its hash must be; None where the answer told it.
    put: dict[str, str | None] = {}
    # The versions that stand there: those that were compared, and then those that were put.
    stand = versions(present) | (dict(there.read_at) if there is not None else {})
    undo = _Undo(side, target)
    for name in side.log_files():
        entry = present.get(name)
        if entry is not None and entry.size == side.entries[name].size and _is_part(name):
            continue  # a part's name tells its content
        data = await side.read(name)
        size, version = await _put(
            target, f"{prefix}/{name}", data, is_there=entry is not None, whole=_is_part(name), undo=undo
        )
        written += size
        stand[name] = version
        put[name] = None if is_md5(version, data) else sha256(data)
    await undo.unless_alone(present)
    await make_lasting(target, prefix, side.entries.keys() & present.keys())
    for name, headers in _headers(side, there):
        size, version = await _put(
            target, f"{prefix}/{name}", headers, is_there=name in stand, whole=True, compared=stand.get(name)
        )
        written += size
        stand[name] = version
        put[name] = None if is_md5(version, headers) else sha256(headers)
    if there is not None and there.header.incarnation != side.header.incarnation:
        await undo.unless_too_late(present, there, stand)
    if check:
        await _check(side, target, {name: digest for name, digest in put.items() if digest is not None}, stand)
    superseded = [name for name in present if _is_log_file(name) and name not in side.entries]
    if superseded and not isinstance(target, AppendStorage):
        superseded = await _droppable(side, target, superseded)
    await target.delete(f"{prefix}/{name}" for name in superseded)
    if side.manifest is not None:
        # What a loss of power brings back, of whom a kill kept from getting here too, the manifest does not name.
        for log in {name.partition("/")[0] for name in (*superseded, *side.log_files())}:
            await target.sync_names(f"{prefix}/{log}")
        stand[MANIFEST] = await target.create(f"{prefix}/{MANIFEST}", side.manifest)
        written += len(side.manifest)
        if not isinstance(target, AppendStorage):
            await _unless_replaced(side, target, stand)
    elif not isinstance(target, AppendStorage):
        await take_late_manifest(target, prefix, HEADER, side.header_data)
    return written


async def _unless_replaced(side: Side, target: Storage, stand: Mapping[str, str]) -> None:
    """Take the manifest away again where somebody wrote to the trace before it was there, and so did not."""
    now = await target.list(side.prefix)
    there = versions(now)
    is_as_put = all(there.get(name) == stand.get(name) for name in (HEADER, GOAL_TREE))
    if is_as_put and is_exact(side.header, now):
        return
    await target.delete_unchanged({f"{side.prefix}/{MANIFEST}": stand[MANIFEST]})
    raise ChangedMeanwhileError(f"{target.url}/{side.prefix} was written to meanwhile")


async def make_lasting(target: Storage, prefix: str, names: Collection[str]) -> None:
    """Bring to stable storage what of a trace is there already: who put it there may have been killed before that.

    Parameters
    ----------
    target : Storage
    prefix : str
        The trace's.
    names : collection of str
        Its files. Those that do not grow were on stable storage before they had their names.

    Raises
    ------
    KeyMissingError
        One is not there any more.
    """
    if not names or not isinstance(target, AppendStorage):
        return
    await target.sync(f"{prefix}/{name}" for name in sorted(names) if _is_log_file(name) and not _is_part(name))
    directories = {name.rpartition("/")[0] for name in names if _is_log_file(name)}
    for directory in ("", *sorted(directories)):
        await target.sync_names(f"{prefix}/{directory}".rstrip("/"))


async def _droppable(side: Side, target: Storage, others: Collection[str]) -> list[str]:
    """Return which files of an object store that the source does not have are to go.

    Those that are superseded there, and that no late writer can rely on; what was copied there from a disk is none of
    these. What another sync of the same trace brings meanwhile stays; what is left of another side goes.
    """
    entries = await target.list(side.prefix)
    incarnation, newest = side.header.incarnation, max(entry.modified for entry in entries.values())
    left = [name for name in others if name in entries and _is_of(name, incarnation)]
    if left and await _is_apart(side, target, entries):
        return list(others)
    found = [name for name in others if not _is_of(name, incarnation)]
    for log in (each for each in LOGS if any(name.startswith(f"{each}/") for name in left)):
        directory, names = f"{side.prefix}/{log}", log_names(entries, log)
        # The parts are read back for it, from where they lie now.
        parts, _ = await load_parts(Files(target, directory), directory, names, incarnation, {})
        plan = plan_log(directory, names, incarnation, parts)
        old = {name for name in names if newest - entries[f"{log}/{name}"].modified >= target.grace_seconds}
        # Who syncs is no writer of the trace: it will never create what it deletes.
        end = max((info.last for info in parts.values()), default=0)
        gone = {*droppable(plan, parts.values(), "", end, old), *(n for n in plan.superseded if not _keeps_offsets(n))}
        found += [name for name in left if name.removeprefix(f"{log}/") in gone]
    return found


async def _is_apart(side: Side, target: Storage, entries: Mapping[str, Entry]) -> bool:
    """Say whether what lies at the target, beside what the source has, was written on another side."""
    try:
        there = await replace(side, storage=target, entries=entries, hashes={}, parts={}).copy()
    except IncompleteTraceError:
        return False  # another sync is in the middle of it
    except DamagedTraceError:
        return True
    here = await side.copy()
    return any(parting(here.runs[log], there.runs[log]) is not None for log in LOGS)


def _headers(side: Side, there: Side | None) -> Iterator[tuple[str, bytes]]:
    """Yield the headers in the order of publication; at no moment is the trace without its goals."""
    if side.tree is not None and side.tree_data is not None:
        if there is not None and there.header.incarnation != side.header.incarnation:
            yield GOAL_TREE, replace(side.tree, before=there.header.incarnation).encode()
            yield HEADER, side.header_data
        yield GOAL_TREE, side.tree_data
    yield HEADER, side.header_data


class _Undo:
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
        came = any(_is_log_file(name) for name in now.keys() - present.keys() - names)
        if not came and names <= now.keys():
            return
        if came and await _is_apart(self._side, self._target, now):
            await self._target.delete(self._created)
            for key, before, version in self._replaced:
                await self._target.replace(key, before, version)
        raise ChangedMeanwhileError(f"{self._target.url}/{prefix} was written to meanwhile")

    async def unless_too_late(self, present: Mapping[str, Entry], there: Side, stand: Mapping[str, str]) -> None:
        """Put a trace back that gave way to another incarnation, where somebody went on with it until just now.

        Who does that looks at the header once more before it is acknowledged: so of the two one sees the other.
        """
        if isinstance(self._target, AppendStorage):
            return
        target, prefix, known = self._target, self._side.prefix, dict(stand)
        now = await target.list(prefix)
        came = any(_is_of(name, there.header.incarnation) for name in now.keys() - present.keys())
        has_its_tree = GOAL_TREE in now and now[GOAL_TREE].version != stand.get(GOAL_TREE)
        if has_its_tree:
            tree = TreeFile.decode(await target.read(f"{prefix}/{GOAL_TREE}"), f"{prefix}/{GOAL_TREE}")
            has_its_tree = tree.incarnation == there.header.incarnation
        if not came and not has_its_tree:
            return
        for name, data in _headers(there.above(self._side.header.revision), self._side):
            if name == HEADER or not has_its_tree:
                key, compared = f"{prefix}/{name}", known.get(name)
                put = await _put(target, key, data, is_there=name in known, whole=True, compared=compared)
                known[name] = put[1]
        await target.delete(self._created)
        raise ChangedMeanwhileError(f"{target.url}/{prefix} was written to meanwhile")


async def _put(
    target: Storage,
    key: str,
    data: bytes,
    *,
    is_there: bool,
    whole: bool,
    compared: str | None = None,
    undo: _Undo | None = None,
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


async def _check(side: Side, target: Storage, hashes: Mapping[str, str], stand: Mapping[str, str]) -> None:
    for name, digest in hashes.items():
        data, version = await target.read_versioned(f"{side.prefix}/{name}")
        if sha256(data) != digest and not _is_longer(data, name, side):
            if version != stand[name] and not isinstance(target, AppendStorage):
                raise ChangedMeanwhileError(f"{target.url}/{side.prefix}/{name} was replaced meanwhile")
            raise CorruptFileError(
                f"{target.url}/{side.prefix}/{name} is not what was written to it; check the disk, and sync again"
            )


def _is_longer(data: bytes, name: str, side: Side) -> bool:
    """Say whether a segment holds what the source had, and an unfinished record behind it."""
    return not _is_part(name) and _is_log_file(name) and len(data) > side.entries[name].size


def _is_part(name: str) -> bool:
    return isinstance(parse_log_name(name.rpartition("/")[2]), PartName)


def _keeps_offsets(name: str) -> bool:
    """Say whether it is a segment of an object store, whose name tells no writer."""
    parsed = parse_log_name(name.rpartition("/")[2])
    return isinstance(parsed, SegmentName) and not parsed.writer


def _is_of(name: str, incarnation: str) -> bool:
    """Say whether it is a file of the logs of an incarnation."""
    parsed = parse_log_name(name.rpartition("/")[2]) if _is_log_file(name) else None
    return parsed is not None and parsed.incarnation == incarnation


def _is_log_file(name: str) -> bool:
    directory, _, file = name.partition("/")
    return directory in LOGS and parse_log_name(file) is not None
