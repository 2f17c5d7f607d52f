"""Microseconds per `add_message` on the local disk, beside a bare write loop and SQLite."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.data import messages
from benchmarks.measure import Figure, at_least, at_most, take_turns
from traceark import ArchiveStore, Message, Trace
from traceark.codec.lines import seal_record, to_record
from traceark.codec.messages import message_json
from traceark.models import JsonObject
from traceark.storage.base import Durability

TASKS = 16
Add = Callable[[list[Message], list[JsonObject]], Awaitable[None]]


class BareLoop:
    """The floor: serialise a record and append it to a file, with or without a sync."""

    def __init__(self, path: Path, *, syncs: bool) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._syncs = syncs

    async def add(self, models: list[Message], records: list[JsonObject]) -> None:
        """Write each record."""
        for record in records:
            os.write(self._descriptor, json.dumps(record).encode() + b"\n")
            if self._syncs:
                os.fdatasync(self._descriptor)


class Protocol:
    """What several writers and proven lines ask of any archive: each record sealed and appended under a lock."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._segment = os.open(path, flags | os.O_APPEND)
        self._lock = os.open(path.with_suffix(".lock"), flags)
        os.write(self._lock, b"%-20d\n" % 1)
        self._size = self._offset = 0

    async def add(self, models: list[Message], records: list[JsonObject]) -> None:
        """Write each message, if nobody else wrote since."""
        for message in models:
            body = message_json(message)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if int(os.pread(self._lock, 24, 0)) != 1 or os.fstat(self._segment).st_size != self._size:
                raise RuntimeError("somebody else wrote to the benchmark's files")
            self._offset += 1
            line = seal_record(body, self._offset, "01234567-89abcdef")
            self._size += os.write(self._segment, line)
            os.fdatasync(self._segment)
            fcntl.flock(self._lock, fcntl.LOCK_UN)


class Sqlite:
    """The rival: SQLite in WAL mode, one transaction per message."""

    def __init__(self, path: Path, synchronous: str) -> None:
        # Autocommit: every statement is a transaction, without a BEGIN and a COMMIT to parse.
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(
            "CREATE TABLE messages (message_id TEXT PRIMARY KEY, trace_id TEXT NOT NULL, body TEXT NOT NULL)"
        )
        self._connection.execute("CREATE INDEX by_trace ON messages (trace_id)")

    async def add(self, models: list[Message], records: list[JsonObject]) -> None:
        """Insert each record."""
        insert = "INSERT INTO messages VALUES (?, ?, ?)"
        for record in records:
            self._connection.execute(insert, (record["message_id"], record["trace_id"], json.dumps(record)))


class Ours:
    """The archive, written to by one task after the other or by several at once."""

    def __init__(self, store: ArchiveStore, tasks: int) -> None:
        self._store = store
        self._tasks = tasks

    async def add(self, models: list[Message], records: list[JsonObject]) -> None:
        """Add each message and wait for it."""
        if self._tasks == 1:
            await self._one_by_one(models)
        else:
            await asyncio.gather(*(self._one_by_one(models[task :: self._tasks]) for task in range(self._tasks)))

    async def _one_by_one(self, models: list[Message]) -> None:
        for message in models:
            await self._store.add_message(message)


async def measure(folder: Path, *, rounds: int, per_round: int) -> list[Figure]:
    """Return the figures of appending."""
    run = list(messages("append", (rounds + 1) * per_round, seed=1))
    given = [to_record(message) for message in run]

    async with AsyncExitStack() as stack:

        async def ours(name: str, durability: Durability, tasks: int = 1, *, recorded: bool = False) -> Ours:
            store = ArchiveStore(folder / name, durability=durability, record_changes=recorded)
            await stack.enter_async_context(store)
            await store.create_trace(Trace(trace_id="append", task="benchmark"))
            return Ours(store, tasks)

        contestants: dict[str, Add] = {
            "os": (await ours("os", "os")).add,
            "bare": BareLoop(folder / "bare.jsonl", syncs=False).add,
            "normal": Sqlite(folder / "normal.db", "NORMAL").add,
            "fsync": (await ours("fsync", "fsync")).add,
            "bare-synced": BareLoop(folder / "synced.jsonl", syncs=True).add,
            "protocol": Protocol(folder / "protocol.jsonl").add,
            "full": Sqlite(folder / "full.db", "FULL").add,
            "tasks": (await ours("tasks", "fsync", TASKS)).add,
            "os-recorded": (await ours("os-recorded", "os", recorded=True)).add,
            "recorded": (await ours("recorded", "fsync", recorded=True)).add,
        }

        def turn(add: Add) -> Callable[[int], Awaitable[None]]:
            return lambda number: add(
                run[number * per_round : (number + 1) * per_round], given[number * per_round : (number + 1) * per_round]
            )

        seconds = await take_turns({name: turn(add) for name, add in contestants.items()}, rounds)
    cost = {name: [each / per_round * 1e6 for each in values] for name, values in seconds.items()}
    return [
        at_most("`add_message`, `os`", cost["os"], "`json.dumps` and `os.write`", cost["bare"], "µs", 4),
        at_most("`add_message`, `os`", cost["os"], "SQLite WAL, NORMAL", cost["normal"], "µs", 1),
        at_most("`add_message`, `fsync`", cost["fsync"], "the loop with `fdatasync`", cost["bare-synced"], "µs", 1.2),
        at_most("`add_message`, `fsync`", cost["fsync"], "its protocol alone", cost["protocol"], "µs", None),
        at_most("its protocol alone", cost["protocol"], "the loop with `fdatasync`", cost["bare-synced"], "µs", None),
        at_most("`add_message`, `fsync`", cost["fsync"], "SQLite WAL, FULL", cost["full"], "µs", None),
        at_least(f"`add_message`, `fsync`, {TASKS} tasks", cost["tasks"], "SQLite WAL, FULL", cost["full"], "µs", 5),
        at_most("`add_message`, `os`, changes recorded", cost["os-recorded"], "not recorded", cost["os"], "µs", None),
        at_most(
            "`add_message`, `fsync`, changes recorded", cost["recorded"], "not recorded", cost["fsync"], "µs", None
        ),
    ]
