"""The first and the last step of a trace: its directory made and removed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress

from traceark.computing import computed
from traceark.errors import (
    DamagedTraceError,
    InvalidValueError,
    StorageError,
    TraceExistsError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.headers import Header
from traceark.layout import HEADER, LOCK, LOGS, TRACES, parse_log_name, trace_prefix
from traceark.models import Trace, utc_now
from traceark.stats import TOTALS, Sums, adjustment
from traceark.storage.base import (
    AppendStorage,
    Entry,
    KeyExistsError,
    KeyMissingError,
    Lock,
    Staged,
    Storage,
    VersionMismatchError,
    acquire,
)
from traceark.tombstones import Tombstone, buried, state_of

_ATTEMPTS = 20


@asynccontextmanager
async def locked(storage: AppendStorage, prefix: str, directories: Sequence[str] = ()) -> AsyncIterator[Lock]:
    """Hold a trace's lock, in directories that are made where they are not there.

    Raises
    ------
    TraceNotFoundError
        There is no directory, and none was to be made.
    """
    while True:
        for directory in directories:
            storage.make_directory(directory)
        try:
            lock = storage.lock(f"{prefix}/{LOCK}")
        except KeyMissingError:
            if directories:
                continue  # deleted by another process, just now
            raise TraceNotFoundError(f"no trace at {storage.url}/{prefix}") from None
        try:
            await acquire(lock)
            # One that went with its directory while it was waited for keeps nobody out of what is there now.
            if not lock.is_removed():
                yield lock
                return
        finally:
            lock.close()


def first_header(trace: Trace) -> Header:
    """Return the header that a new trace begins with; totals that were given are added to what messages add up to.

    Raises
    ------
    InvalidValueError
    """
    if trace.last_event_id:
        raise InvalidValueError("a new trace has no events", "last_event_id")
    if trace.created_at is None:
        trace.created_at = utc_now()
    header = Header(trace, secrets.token_hex(4), floor=trace.last_sequence)
    for name in TOTALS:
        value = getattr(trace, name)
        if value:
            header.adjustments[name] = adjustment(name, value, Sums())
            header.set_at[name] = 0
    return header


async def create(storage: Storage, prefix: str, header: bytes) -> None:
    """Make a trace's directory with its first header, exclusively.

    Raises
    ------
    TraceExistsError
        There is one.
    """
    if not isinstance(storage, AppendStorage):
        try:
            await storage.create(f"{prefix}/{HEADER}", header)
        except KeyExistsError:
            # The answer to our own creation may have been lost.
            if await storage.read(f"{prefix}/{HEADER}") != header:
                raise TraceExistsError(f"{storage.url}/{prefix} holds a trace of this id already") from None
        return
    await _create_in_place(storage, prefix, {HEADER: header})


async def create_all(
    storage: AppendStorage, prefix: str, files: Mapping[str, bytes], announce: Callable[[], Awaitable[None]]
) -> None:
    """Make a trace's directory with all its files, in their order, exclusively; raises as `create` does.

    A new directory is noticed by all who list traces. Files in one that is there are not, so `announce` comes first.
    """
    async with storage.room():
        staging = asyncio.create_task(computed(storage.stage, prefix, files, LOGS))
        try:
            staged = await asyncio.shield(staging)
        except asyncio.CancelledError:
            staging.add_done_callback(_discard)
            raise
        try:
            if await staged.publish():
                return
        finally:
            staged.discard()
    # A trace is there, or what was left of one.
    await announce()
    await _create_in_place(storage, prefix, files)


def _discard(staging: asyncio.Task[Staged]) -> None:
    if not staging.cancelled() and staging.exception() is None:
        staging.result().discard()


async def _create_in_place(storage: AppendStorage, prefix: str, files: Mapping[str, bytes]) -> None:
    async with locked(storage, prefix, [prefix]) as lock:
        entries = await storage.list(prefix)
        if HEADER in entries:
            # Who made it may have been killed before it was on stable storage.
            await storage.sync_names(prefix)
            await storage.sync_names(TRACES)
            raise TraceExistsError(f"{storage.url}/{prefix} holds a trace of this id already")
        # What a deleted namesake left behind is never taken up.
        await storage.delete(f"{prefix}/{name}" for name in entries if not name.startswith("."))
        for log in LOGS:
            storage.make_directory(f"{prefix}/{log}")
        await storage.create_all({f"{prefix}/{name}": data for name, data in files.items()})
        lock.bump()


# Makes the tombstone of an incarnation, given the file that tells its state, and that file's hash.
Burial = Callable[[str, str, str], Tombstone]


async def delete(
    storage: Storage, trace_id: str, burial: Burial | None, as_of: Mapping[str, Entry] | None = None
) -> str:
    """Remove a trace's directory, the header first: without it the rest is no trace.

    The tombstone is written before that, so that a kill leaves the trace, or the trace gone and
    buried. What an interrupted deletion left is removed too.

    Returns its incarnation, or nothing where the header could not be read.

    Raises
    ------
    TraceNotFoundError
    VersionMismatchError
        It is not, any more, as it was listed in `as_of`; only where a lock keeps writers out can that be asked for.
    """
    prefix = trace_prefix(trace_id)
    if not isinstance(storage, AppendStorage):
        for _ in range(_ATTEMPTS):
            with suppress(VersionMismatchError):
                return await _delete_files(storage, trace_id, burial)
        raise StorageError(f"trace {trace_id!r}: other writers kept replacing its header; delete it again")
    if not await storage.list(prefix):
        raise TraceNotFoundError(f"no trace at {storage.url}/{prefix}")
    async with locked(storage, prefix) as lock:
        if as_of is not None and versions(await storage.list(prefix)) != versions(as_of):
            raise VersionMismatchError(f"{storage.url}/{prefix} was written to meanwhile")
        incarnation = await _delete_files(storage, trace_id, burial, lock)
        _remove_directory(storage, prefix)
        await storage.sync_names(TRACES)
    return incarnation


async def remove_remains(storage: AppendStorage, trace_id: str, only: Set[str] | None = None) -> None:
    """Remove a directory that an interrupted creation or deletion left without a header; one that has one stays.

    With `only` it stays too where it holds another file than these.
    """
    prefix = trace_prefix(trace_id)
    async with locked(storage, prefix) as lock:
        left = (await storage.list(prefix)).keys() - {LOCK}
        if HEADER not in left and (only is None or left <= only):
            lock.bump(deleted=True)
            _remove_directory(storage, prefix)


def _remove_directory(storage: AppendStorage, prefix: str) -> None:
    """Remove a trace's directory, the lock last: whoever finds it gone makes the trace anew in what is left."""
    for log in LOGS:
        storage.remove_directory(f"{prefix}/{log}")
    storage.remove_directory(prefix)


async def _delete_files(storage: Storage, trace_id: str, burial: Burial | None, lock: Lock | None = None) -> str:
    prefix = trace_prefix(trace_id)
    entries = await storage.list(prefix)
    incarnation = ""
    what = f"{prefix}/{HEADER}"
    if HEADER in entries:
        # One that cannot be read goes all the same; which it was, the names of its files tell.
        with suppress(DamagedTraceError, UnsupportedFormatError, KeyMissingError):
            incarnation = Header.decode(await storage.read(what), what).incarnation
        if burial is not None:
            await _bury(storage, trace_id, entries, {incarnation} if incarnation else _named(entries), burial)
    elif not entries or trace_id not in {each for each, _ in await buried(storage)}:
        raise TraceNotFoundError(f"no trace at {storage.url}/{prefix}")
    if lock is not None:
        lock.bump(deleted=True)
    if HEADER in entries:
        if await storage.delete_unchanged({what: entries[HEADER].version}):
            raise VersionMismatchError(f"{storage.url}/{what} was replaced meanwhile")
        await storage.sync_names(prefix)
    # What was replaced since is a namesake's, or has lost its header.
    await storage.delete_unchanged(
        {f"{prefix}/{name}": entry.version for name, entry in entries.items() if name != HEADER and name[0] != "."}
    )
    return incarnation


def versions(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return what tells one state of a trace's files from another: their versions, without that of the lock."""
    return {name: entry.version for name, entry in entries.items() if name != LOCK}


async def _bury(
    storage: Storage, trace_id: str, entries: Mapping[str, Entry], incarnations: set[str], burial: Burial
) -> None:
    try:
        state = await state_of(storage, trace_id, entries)
    except KeyMissingError:
        raise TraceNotFoundError(f"{trace_id!r} was deleted by another process meanwhile") from None
    for each in sorted(incarnations):
        tombstone = burial(each, *state)
        await storage.replace(tombstone.key, tombstone.encode())


def _named(entries: Mapping[str, Entry]) -> set[str]:
    """Return the incarnations that the names of a trace's files say."""
    parsed = (parse_log_name(name.partition("/")[2]) for name in entries)
    return {each.incarnation for each in parsed if each is not None}
