"""Lists of the newest traces, beside the same query by DuckDB over the same rows in memory.

The archive has a snapshot of its catalog and no directories: warm, no list looks at any. The rival
is one DuckDB connection with one table, made of the snapshot's file; it gives 50 rows as tuples,
`list_traces` gives 50 models.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import duckdb

from benchmarks.archives import agent_of, make_catalog, uid_of
from benchmarks.measure import Figure, at_most, take_turns
from traceark import ArchiveStore
from traceark.codec.fields import TRACES

LIMIT = 50
# How much more than DuckDB's own answer a list may cost, and a first list than reading the file once.
MOST, MOST_FIRST = 3.0, 2.0
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
    return figures


def _loaded(snapshot: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection with the snapshot's rows in the table `traces`."""
    connection = duckdb.connect(":memory:")
    connection.execute("CREATE TABLE traces AS SELECT * FROM read_parquet(?)", [str(snapshot)])
    return connection


async def _warm(root: Path, snapshot: Path, rounds: int, count: int, bound: float) -> list[Figure]:
    figures: list[Figure] = []
    with _loaded(snapshot) as connection:
        async with ArchiveStore(root) as store:
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
