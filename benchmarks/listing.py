"""Lists of the newest traces, beside the same query by DuckDB over the same rows in memory.

The archive has a snapshot of its catalog and no directories: warm, no list looks at any. The rival
is one DuckDB connection with one table, made of the snapshot's file; it gives 50 rows as tuples,
`list_traces` gives 50 models. A store is warm when it was asked for ten times as long as the rival
takes to read the file; its first lists are told in rows of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import duckdb

from benchmarks.archives import agent_of, make_catalog, uid_of
from benchmarks.endurance import memory_bytes
from benchmarks.measure import Figure, at_most, take_turns, within
from traceark import ArchiveStore
from traceark.codec.fields import TRACES

LIMIT = 50
# How much more than DuckDB's own answer a list may cost, and a first list than reading the file once.
MOST, MOST_FIRST = 3.0, 2.0
# A store is asked for so many times as long as reading the file takes before it counts as warm; of a new one the lists
# that follow upon the first are told.
_WARMING, _NEXT = 10, 10
FILTERS: dict[str, dict[str, str]] = {
    "newest": {},
    "by uid": {"uid": uid_of(1)},
    "by status and agent_type": {"status": "failed", "agent_type": agent_of(3)},
}
_COLUMNS = ", ".join(f'"{column.name}"' for column in TRACES)


async def measure(folder: Path, *, rounds: int, counts: Mapping[int, float]) -> list[Figure]:
    """Return the figures of lists; `counts` has the most milliseconds by the number of traces."""
    figures: list[Figure] = []
    for count, bound in counts.items():
        root = folder / f"catalog-{count}"
        snapshot = make_catalog(root, count)
        figures += await _warm(root, snapshot, rounds, count, bound)
        figures.append(await _first(root, snapshot, max(rounds // 3, 1), count))
        figures.append(await _second(root, count))
        figures.append(_memory(root, count))
    return figures


def _loaded(snapshot: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection with the snapshot's rows in the table `traces`."""
    connection = duckdb.connect(":memory:")
    connection.execute("CREATE TABLE traces AS SELECT * FROM read_parquet(?)", [str(snapshot)])
    return connection


async def _warm(root: Path, snapshot: Path, rounds: int, count: int, bound: float) -> list[Figure]:
    figures: list[Figure] = []
    start = time.perf_counter()
    with _loaded(snapshot) as connection:
        reading = time.perf_counter() - start
        async with ArchiveStore(root) as store:
            await _ask(store, _WARMING * reading)
            for name, wanted in FILTERS.items():
                ours, rival = _ours(store, wanted), _rival(connection, wanted)
                seconds = await take_turns({"ours": ours, "rival": rival}, rounds)
                milliseconds = {who: [each * 1e3 for each in values] for who, values in seconds.items()}
                figures.append(
                    at_most(
                        f"`list_traces`, {name}, {LIMIT} of {count:,}, warm",
                        milliseconds["ours"],
                        "DuckDB, a table in memory",
                        milliseconds["rival"],
                        "ms",
                        MOST,
                        bound,
                    )
                )
    return figures


async def _ask(store: ArchiveStore, seconds: float) -> None:
    """List for so long, twenty times a second at most."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await store.list_traces(limit=LIMIT)
        await asyncio.sleep(0.05)


def _ours(store: ArchiveStore, wanted: Mapping[str, str]) -> Callable[[int], Awaitable[None]]:
    async def work(_: int) -> None:
        assert len(await store.list_traces(**wanted, limit=LIMIT)) <= LIMIT

    return work


def _rival(connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, str]) -> Callable[[int], Awaitable[None]]:
    conditions = " AND ".join(["true", *(f'"{name}" = ?' for name in wanted)])
    text = f"SELECT {_COLUMNS} FROM traces WHERE {conditions} ORDER BY created_at DESC, trace_id LIMIT {LIMIT}"

    async def work(_: int) -> None:
        assert len(connection.execute(text, list(wanted.values())).fetchall()) <= LIMIT

    return work


async def _first(root: Path, snapshot: Path, rounds: int, count: int) -> Figure:
    async def ours(_: int) -> None:
        async with ArchiveStore(root) as store:
            assert len(await store.list_traces(limit=LIMIT)) == min(LIMIT, count)

    async def rival(_: int) -> None:
        _loaded(snapshot).close()

    seconds = await take_turns({"ours": ours, "rival": rival}, rounds)
    return at_most(
        f"a new store and its first `list_traces`, {count:,} traces",
        seconds["ours"],
        "DuckDB reads the catalog's file into a table",
        seconds["rival"],
        "s",
        MOST_FIRST,
    )


async def _second(root: Path, count: int) -> Figure:
    milliseconds: list[float] = []
    async with ArchiveStore(root) as store:
        await store.list_traces(limit=LIMIT)
        for _ in range(_NEXT):
            start = time.perf_counter()
            await store.list_traces(limit=LIMIT)
            milliseconds.append((time.perf_counter() - start) * 1e3)
    return within(f"`list_traces`, newest, the {_NEXT} after the first, {count:,} traces", milliseconds, "ms")


def _memory(root: Path, count: int) -> Figure:
    """Return what a process of its own has in memory once its store is warm."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        before, first, warm = pool.submit(_remembered, root, _NEXT * _WARMING / 10).result()
    return Figure(
        f"memory of a process that lists, {count:,} traces",
        f"{first:.0f} MB after the first list, {warm:.0f} MB warm",
        f"without a store {before:.0f} MB",
    )


def _remembered(root: Path, seconds: float) -> tuple[float, float, float]:
    async def work() -> tuple[float, float, float]:
        before = memory_bytes()
        async with ArchiveStore(root) as store:
            await store.list_traces(limit=LIMIT)
            first = memory_bytes()
            await _ask(store, seconds)
            return before / 1e6, first / 1e6, memory_bytes() / 1e6

    return asyncio.run(work())
