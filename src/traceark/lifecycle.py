"""The first and the last step of a trace: its directory made and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from traceark.errors import DamagedTraceError, TraceExistsError, TraceNotFoundError, UnsupportedFormatError
from traceark.headers import Header
from traceark.layout import HEADER, LOCK, LOGS
from traceark.storage.base import AppendStorage, KeyExistsError, KeyMissingError, Lock, Storage, acquire


@asynccontextmanager
async def _locked(storage: AppendStorage, prefix: str) -> AsyncIterator[Lock]:
    lock = storage.lock(f"{prefix}/{LOCK}")
    try:
        await acquire(lock)
        yield lock
        lock.release()
    finally:
        lock.close()


async def create(storage: Storage, prefix: str, header: bytes) -> None:
    """Make a trace's directory with its first header, exclusively.

    Raises
    ------
    TraceExistsError
        There is one.
    """
    taken = TraceExistsError(f"{storage.url}/{prefix} holds a trace of this id already")
    if not isinstance(storage, AppendStorage):
        try:
            await storage.create(f"{prefix}/{HEADER}", header)
        except KeyExistsError:
            # The answer to our own creation may have been lost.
            if await storage.read(f"{prefix}/{HEADER}") != header:
                raise taken from None
        return
    storage.make_directory(prefix)
    async with _locked(storage, prefix) as lock:
        entries = await storage.list(prefix)
        if HEADER in entries:
            raise taken
        # What a deleted namesake left behind is never taken up.
        await storage.delete(f"{prefix}/{name}" for name in entries if not name.startswith("."))
        for log in LOGS:
            storage.make_directory(f"{prefix}/{log}")
        await storage.create(f"{prefix}/{HEADER}", header)
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
    async with _locked(storage, prefix) as lock:
        lock.bump(deleted=True)
        await storage.delete(f"{prefix}/{name}" for name in names)
        storage.remove_directory(prefix)
    return incarnation
