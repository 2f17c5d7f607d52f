"""Copies one trace to where it is missing or older: data, then headers, then the manifest.

Killed anywhere, it leaves the state that was there before, a later true one, or files that are no
trace yet; done again, it goes on. What to copy has been decided in `compare`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Set
from contextlib import asynccontextmanager, suppress

from traceark.errors import (
    CorruptFileError,
    TraceNotFoundError,
)
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, trace_prefix
from traceark.lifecycle import locked, remove_remains, versions
from traceark.log import Files, load_parts, log_names
from traceark.manifest import sha256
from traceark.plan import droppable, plan_log
from traceark.publishing import seals_what_is_there
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    KeyMissingError,
    Storage,
    VersionMismatchError,
)
from traceark.sync.putting import (
    ChangedMeanwhileError,
    Undo,
    headers_of,
    is_apart,
    is_log_file,
    is_md5,
    is_of,
    is_part,
    keeps_offsets,
    put_file,
)
from traceark.sync.sides import Side, look


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


async def take_back(target: Storage, trace_id: str, names: Set[str]) -> None:
    """Remove what was copied, files of these names, of a trace that was deleted at the source before its header came.

    Where nothing keeps others from copying the same it stays, and is no trace.
    """
    if isinstance(target, AppendStorage):
        with suppress(TraceNotFoundError):
            await remove_remains(target, trace_id, names)


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
    except (ChangedMeanwhileError, KeyExistsError, KeyMissingError, VersionMismatchError) as error:
        if not isinstance(target, AppendStorage):
            # What was brought until then, the next attempt may leave as it is.
            await _take_void_manifest(target, side.trace_id)
        if isinstance(error, KeyExistsError | VersionMismatchError):
            raise ChangedMeanwhileError(str(error)) from error
        raise


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
    stand = versions(present)
    undo = Undo(side, target)
    ours = dict.fromkeys(side.log_files())
    for name in ours:
        entry = present.get(name)
        if entry is not None and entry.size == side.entries[name].size and is_part(name):
            continue  # a part's name tells its content
        data = await side.read(name)
        size, version = await put_file(
            target, f"{prefix}/{name}", data, is_there=entry is not None, whole=is_part(name), undo=undo
        )
        written += size
        stand[name] = version
        put[name] = None if is_md5(version, data) else sha256(data)
    await undo.unless_alone(present)
    await make_lasting(target, prefix, side.entries.keys() & present.keys())
    try:
        for name, headers in headers_of(side, there):
            size, version = await put_file(
                target, f"{prefix}/{name}", headers, is_there=name in stand, whole=True, compared=stand.get(name)
            )
            written += size
            stand[name] = version
            put[name] = None if is_md5(version, headers) else sha256(headers)
    except VersionMismatchError:
        await undo.tree(present, there, stand)
        raise
    if there is not None and there.header.incarnation != side.header.incarnation:
        await undo.unless_too_late(present, there, stand)
    if check:
        await _check(side, target, {name: digest for name, digest in put.items() if digest is not None}, stand)
    # Also what the source itself still has of another incarnation: a redaction there is about to remove it.
    superseded = [name for name in present if is_log_file(name) and name not in ours]
    if superseded and not isinstance(target, AppendStorage):
        superseded = await _droppable(side, target, superseded)
    await target.delete(f"{prefix}/{name}" for name in superseded)
    if side.tree is None and GOAL_TREE in present:
        # Of another incarnation, which has no header any more.
        await target.delete_unchanged({f"{prefix}/{GOAL_TREE}": present[GOAL_TREE].version})
        stand.pop(GOAL_TREE, None)
    if side.manifest is not None:
        # What a loss of power brings back, of whom a kill kept from getting here too, the manifest does not name.
        for log in {name.partition("/")[0] for name in (*superseded, *side.log_files())}:
            await target.sync_names(f"{prefix}/{log}")
        version = await target.create(f"{prefix}/{MANIFEST}", side.manifest)
        written += len(side.manifest)
        is_locked = isinstance(target, AppendStorage)
        if not is_locked and not await seals_what_is_there(target, prefix, side.header, stand, version):
            raise ChangedMeanwhileError(f"{target.url}/{prefix} was written to meanwhile")
    elif not isinstance(target, AppendStorage):
        await _take_void_manifest(target, side.trace_id)
    return written


async def _take_void_manifest(target: Storage, trace_id: str) -> None:
    """Take away a manifest that does not tell of what is there: who put it had not seen what this sync brought.

    Where no lock keeps the one from the other. If a header changes meanwhile nothing is done: who changed it looks.
    """
    key = f"{trace_prefix(trace_id)}/{MANIFEST}"
    try:
        await target.read_versioned(key)
    except KeyMissingError:
        return  # mostly
    there = await look(target, trace_id)
    if there is not None and there.manifest is None and there.is_of_one_moment and MANIFEST in there.entries:
        await target.delete_unchanged({key: there.entries[MANIFEST].version})


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
    await target.sync(f"{prefix}/{name}" for name in sorted(names) if is_log_file(name) and not is_part(name))
    directories = {name.rpartition("/")[0] for name in names if is_log_file(name)}
    for directory in ("", *sorted(directories)):
        await target.sync_names(f"{prefix}/{directory}".rstrip("/"))


async def _droppable(side: Side, target: Storage, others: Collection[str]) -> list[str]:
    """Return which files of an object store that the source does not have are to go.

    Those that are superseded there, and that no late writer can rely on; what was copied there from a disk is none of
    these. What another sync of the same trace brings meanwhile stays; what is left of another side goes.
    """
    entries = await target.list(side.prefix)
    incarnation, newest = side.header.incarnation, max(entry.modified for entry in entries.values())
    left = [name for name in others if name in entries and is_of(name, incarnation)]
    if left and await is_apart(side, target, entries):
        return list(others)
    found = [name for name in others if not is_of(name, incarnation)]
    for log in (each for each in LOGS if any(name.startswith(f"{each}/") for name in left)):
        directory, names = f"{side.prefix}/{log}", log_names(entries, log)
        # The parts are read back for it, from where they lie now.
        parts, _ = await load_parts(Files(target, directory), directory, names, incarnation, {})
        plan = plan_log(directory, names, incarnation, parts)
        old = {name for name in names if newest - entries[f"{log}/{name}"].modified >= target.grace_seconds}
        # Who syncs is no writer of the trace: it will never create what it deletes.
        end = max((info.last for info in parts.values()), default=0)
        gone = {*droppable(plan, parts.values(), "", end, old), *(n for n in plan.superseded if not keeps_offsets(n))}
        found += [name for name in left if name.removeprefix(f"{log}/") in gone]
    return found


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
    return not is_part(name) and is_log_file(name) and len(data) > side.entries[name].size
