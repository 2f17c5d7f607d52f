"""The first and the last step of a trace: its directory made and removed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from traceark.errors import (
    DamagedTraceError,
    InvalidValueError,
    TraceExistsError,
    TraceNotFoundError,
    UnsupportedFormatError,
)
from traceark.headers import Header
from traceark.layout import HEADER, LOCK, LOGS
from traceark.models import Trace, utc_now
from traceark.stats import TOTALS, Sums, adjustment
from traceark.storage.base import AppendStorage, KeyExistsError, KeyMissingError, Lock, Storage, acquire


@asynccontextmanager
async def locked(storage: AppendStorage, prefix: str) -> AsyncIterator[Lock]:
    lock = storage.lock(f"{prefix}/{LOCK}")
    try:
        await acquire(lock)
        yield lock
        lock.release()
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
    await create_all(storage, prefix, {HEADER: header})


async def create_all(storage: AppendStorage, prefix: str, files: Mapping[str, bytes]) -> None:
    """Make a trace's directory with its first files, in their order, exclusively; raises as `create` does."""
    storage.make_directory(prefix)
    async with locked(storage, prefix) as lock:
        entries = await storage.list(prefix)
        if HEADER in entries:
            raise TraceExistsError(f"{storage.url}/{prefix} holds a trace of this id already")
        # What a deleted namesake left behind is never taken up.
        await storage.delete(f"{prefix}/{name}" for name in entries if not name.startswith("."))
        for log in LOGS:
            storage.make_directory(f"{prefix}/{log}")
        await storage.create_all({f"{prefix}/{name}": data for name, data in files.items()})
        lock.bump()


async def delete(storage: Storage, prefix: str) -> str:
    """Remove a trace's directory, the header first: without it the rest is no trace.

    Returns its incarnation, or nothing where the header could not be read.

    Raises
    ------
    TraceNotFoundError
    """
    entries = await storage.list(prefix)
    if HEADER not in entries:
        raise TraceNotFoundError(f"no trace at {storage.url}/{prefix}")
    what = f"{prefix}/{HEADER}"
    try:
        incarnation = Header.decode(await storage.read(what), what).incarnation
    except (DamagedTraceError, UnsupportedFormatError, KeyMissingError):
        incarnation = ""  # it goes all the same
    names = sorted((name for name in entries if not name.startswith(".")), key=lambda name: name != HEADER)
    if not isinstance(storage, AppendStorage):
        await storage.delete(f"{prefix}/{name}" for name in names)
        return incarnation
    async with locked(storage, prefix) as lock:
        lock.bump(deleted=True)
        await storage.delete(f"{prefix}/{name}" for name in names)
        storage.remove_directory(prefix)
    return incarnation
