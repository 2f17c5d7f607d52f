"""Copies one trace to where it is missing or older: data, then headers, then the manifest.

Killed anywhere, it leaves the state that was there before, a later true one, or files that are no
trace yet; done again, it goes on. What to copy has been decided in `compare`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from traceark.errors import CorruptFileError, StorageError
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, PartName, parse_log_name
from traceark.lifecycle import locked
from traceark.log import Files, load_parts, log_names
from traceark.manifest import sha256
from traceark.plan import droppable, plan_log
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    Storage,
    VersionMismatchError,
)
from traceark.sync.sides import Side


class ChangedMeanwhileError(StorageError):
    """The target's trace is not as it was compared; compare again."""


async def carry(side: Side, target: Storage, there: Side | None, *, check: bool) -> int:
    """Bring a trace at the target to the source's state.

    Parameters
    ----------
    side : Side
        The source's trace.
    target : Storage
    there : Side, optional
        The target's trace, an earlier state; None where there is none.
    check : bool
        Whether to read back what was written.

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
    target.make_directory(prefix)
    for log in LOGS:
        target.make_directory(f"{prefix}/{log}")
    async with locked(target, prefix) as lock:
        lock.bump()
        yield
        lock.bump()


async def as_compared(target: Storage, prefix: str, there: Side | None) -> Mapping[str, Entry] | None:
    """Return the files of the target's trace, or None where somebody has written to it since it was looked at."""
    present = await target.list(prefix)
    if there is None:
        return present if HEADER not in present else None
    known = {name: each.version for name, each in there.entries.items() if name != LOCK}
    return present if known == {name: each.version for name, each in present.items() if name != LOCK} else None


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
    hashes: dict[str, str] = {}
    for name in side.log_files():
        entry = present.get(name)
        if entry is not None and entry.size == side.entries[name].size and _is_part(name):
            continue  # a part's name tells its content
        data = await side.storage.read(f"{prefix}/{name}")
        written += await _put(target, f"{prefix}/{name}", data, is_there=entry is not None, whole=_is_part(name))
        hashes[name] = sha256(data)
    for name, headers in _headers(side, there):
        is_there = name in present or name in hashes
        written += await _put(target, f"{prefix}/{name}", headers, is_there=is_there, whole=True)
        hashes[name] = sha256(headers)
    if check:
        await _check(side, target, hashes)
    superseded = [name for name in present if _is_log_file(name) and name not in side.entries]
    if superseded and not isinstance(target, AppendStorage):
        superseded = await _droppable(side, target, superseded)
    await target.delete(f"{prefix}/{name}" for name in superseded)
    if side.manifest is not None:
        await target.create(f"{prefix}/{MANIFEST}", side.manifest)
        written += len(side.manifest)
    return written


async def _droppable(side: Side, target: Storage, superseded: Collection[str]) -> list[str]:
    """Return those files of an object store that the source has no more and that no late writer can rely on.

    The parts are read back for it, from where they lie now.
    """
    entries = await target.list(side.prefix)
    newest = max(entry.modified for entry in entries.values())
    found: list[str] = []
    for log in (each for each in LOGS if any(name.startswith(f"{each}/") for name in superseded)):
        directory, incarnation, names = f"{side.prefix}/{log}", side.header.incarnation, log_names(entries, log)
        parts, _ = await load_parts(Files(target, directory), directory, names, incarnation, {})
        plan = plan_log(directory, names, incarnation, parts)
        old = {name for name in names if newest - entries[f"{log}/{name}"].modified >= target.grace_seconds}
        # Who syncs is no writer of the trace: it will never create what it deletes.
        end = max((info.last for info in parts.values()), default=0)
        gone = {f"{log}/{name}" for name in droppable(plan, parts.values(), "", end, old)}
        found += sorted(gone & set(superseded))
    return found


def _headers(side: Side, there: Side | None) -> Iterator[tuple[str, bytes]]:
    """Yield the headers in the order of publication; at no moment is the trace without its goals."""
    if side.tree is not None and side.tree_data is not None:
        if there is not None and there.header.incarnation != side.header.incarnation:
            yield GOAL_TREE, replace(side.tree, before=there.header.incarnation).encode()
            yield HEADER, side.header_data
        yield GOAL_TREE, side.tree_data
    yield HEADER, side.header_data


async def _put(target: Storage, key: str, data: bytes, *, is_there: bool, whole: bool) -> int:
    """Write a file, of a segment that has grown only what is new; return how many bytes that was."""
    if not is_there:
        try:
            await target.create(key, data)
        except KeyExistsError:
            # The answer to our own creation may have been lost.
            if await target.read(key) != data:
                raise
        return len(data)
    known, version = await target.read_versioned(key)
    if known == data or (not whole and known.startswith(data)):
        return 0  # as it is, or with an unfinished record of the source that a copier had taken
    if isinstance(target, AppendStorage) and not whole and data.startswith(known):
        appender = target.open_appender(key)
        try:
            appender.append(data[len(known) :])
            appender.sync()
        finally:
            appender.close()
        return len(data) - len(known)
    await target.replace(key, data, version)
    return len(data)


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
