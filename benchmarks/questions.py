"""Questions over many messages after `optimize`, beside DuckDB over one file of the same rows.

The file beside is made of the parts by one `COPY`, as who has no rollups would do it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.archives import Shape, make_traces, message_id_of, parts
from benchmarks.measure import Figure, at_most, take_turns, within
from traceark import ArchiveStore
from traceark.layout import LOGS, LogName
from traceark.rollups.files import ROLLUPS

# How much more than DuckDB over one file an answer may cost, and `optimize` than making such files.
MOST, MOST_OPTIMIZE = 1.3, 1.5
MOST_BYTES = 1_500_000_000
MOST_MILLISECONDS = 20.0
_LOOKUPS = 100
_BY_AGENT_AND_DAY = """
    SELECT t.agent_type, date_trunc('day', m.created_at) AS day,
        sum(coalesce(m.tokens, coalesce(m.usage.input_tokens, 0) + coalesce(m.usage.output_tokens, 0)
            + coalesce(m.usage.cache_read_tokens, 0) + coalesce(m.usage.cache_write_tokens, 0)))::BIGINT AS tokens,
        sum(m.cost) AS cost
    FROM messages m JOIN traces t USING (trace_id)
    GROUP BY ALL ORDER BY ALL
"""
_RARE = "SELECT trace_id, message_id FROM messages WHERE contains(content, $phrase)"


async def measure(folder: Path, *, rounds: int, many: Shape, short: Shape, long: Shape) -> list[Figure]:
    """Return the figures of rollups.

    Parameters
    ----------
    folder : Path
        Where archives are made; each is removed when it was measured.
    rounds : int
        How often each question is asked.
    many, short, long : Shape
        Many small traces, for `optimize`; many short messages, for sums and lookups; long messages,
        for search.
    """
    figures: list[Figure] = []
    for work, shape in ((_optimizing, many), (_summing, short), (_searching, long)):
        root = folder / "archive"
        await asyncio.to_thread(make_traces, root, shape)
        figures += await work(root, folder, rounds, shape)
        shutil.rmtree(root)
    return figures


async def _optimizing(root: Path, folder: Path, rounds: int, shape: Shape) -> list[Figure]:
    start = time.perf_counter()
    async with ArchiveStore(root) as store:
        await store.list_traces(limit=1)
        looked = time.perf_counter() - start
        start = time.perf_counter()
        await store.refresh()
        refreshed = time.perf_counter() - start
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(2):

        async def optimize() -> None:
            shutil.rmtree(root / ROLLUPS, ignore_errors=True)
            ours.append((await _optimized(root))["seconds"])

        async def copy() -> None:
            theirs.append(sum([_one_file(root, log, folder / f"{log}.parquet", ordered=False) for log in LOGS]))

        for work in (copy, optimize) if turn else (optimize, copy):
            await work()
    records = shape.traces * (shape.messages + shape.events)
    return [
        within(f"the first look at {shape.traces:,} traces, without a catalog", [looked], "s"),
        within(f"`refresh` of {shape.traces:,} traces, none of them new", [refreshed], "s"),
        at_most(
            f"`optimize` of {shape.traces:,} new traces, {records:,} messages and events",
            ours,
            "DuckDB copies their parts into two files",
            theirs,
            "s",
            MOST_OPTIMIZE,
        ),
    ]


async def _summing(root: Path, folder: Path, rounds: int, shape: Shape) -> list[Figure]:
    count = shape.traces * shape.messages
    async with ArchiveStore(root) as store:
        await store.list_traces(limit=1)
    told = await _optimized(root)
    assert told["messages"] == count
    figures = [
        within(
            f"memory that `optimize` of {count:,} messages takes",
            [told["peak"] / 1e6],
            "MB",
            MOST_BYTES / 1e6,
            f"it takes {told['seconds']:.0f} s",
        )
    ]
    _one_file(root, "messages", folder / "messages.parquet")
    async with ArchiveStore(root) as store:
        with await _beside(store, folder) as connection:
            seconds = await take_turns(
                {"ours": _ours(store, _BY_AGENT_AND_DAY, {}), "rival": _rival(connection, _BY_AGENT_AND_DAY, {})},
                rounds,
            )
        figures.append(
            at_most(
                f"tokens and cost by agent and day, {count:,} messages",
                seconds["ours"],
                "DuckDB, one file",
                seconds["rival"],
                "s",
                MOST,
            )
        )
        figures.append(await _looking_up(store, shape))

    async def cold(turn: int) -> None:
        async with ArchiveStore(root) as new:
            assert await new.get_message(message_id_of(turn, 1)) is not None

    first = (await take_turns({"cold": cold}, rounds))["cold"]
    figures.append(within("`get_message` there, the first call of a new store", [each * 1e3 for each in first], "ms"))
    return figures


async def _looking_up(store: ArchiveStore, shape: Shape) -> Figure:
    draw = random.Random(3)
    milliseconds: list[float] = []
    for turn in range(_LOOKUPS + 1):
        wanted = message_id_of(draw.randrange(shape.traces), draw.randint(1, shape.messages))
        start = time.perf_counter()
        found = await store.get_message(wanted)
        assert found is not None and found.message_id == wanted
        if turn:
            milliseconds.append((time.perf_counter() - start) * 1e3)
    return within(
        f"`get_message` by its id alone, in {shape.traces * shape.messages:,}", milliseconds, "ms", MOST_MILLISECONDS
    )


async def _searching(root: Path, folder: Path, rounds: int, shape: Shape) -> list[Figure]:
    count = shape.traces * shape.messages
    # Stands in the content of one message.
    phrase = message_id_of(shape.traces // 2, shape.messages // 2)
    await _optimized(root)
    _one_file(root, "messages", folder / "messages.parquet")
    async with ArchiveStore(root) as store:

        async def search(_: int) -> None:
            assert len(await store.search(phrase)) == 1

        with await _beside(store, folder) as connection:
            seconds = await take_turns(
                {
                    "ours": _ours(store, _RARE, {"phrase": phrase}),
                    "rival": _rival(connection, _RARE, {"phrase": phrase}),
                    "search": search,
                },
                rounds,
            )
    name = f"in the content of {count:,} messages"
    rival = "DuckDB, one file"
    return [
        at_most(f"a rare phrase {name}, SQL", seconds["ours"], rival, seconds["rival"], "s", MOST),
        at_most(f"`search` for it {name}", seconds["search"], rival, seconds["rival"], "s", None),
    ]


async def _optimized(root: Path) -> Mapping[str, float]:
    """Optimize an archive in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.optimizing", str(root), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    told: dict[str, float] = json.loads(printed)
    return told


def _one_file(root: Path, log: LogName, target: Path, *, ordered: bool = True) -> float:
    """Copy a log's parts of all traces into one file, faster where order does not matter; return the seconds."""
    paths = [str(path) for path in parts(root, log)]
    start = time.perf_counter()
    if paths:
        with duckdb.connect(":memory:") as connection:
            # Each file is read once.
            connection.execute("SET enable_external_file_cache = false")
            connection.execute(f"SET preserve_insertion_order = {str(ordered).lower()}")
            connection.execute(
                f"COPY (SELECT * EXCLUDE (_offset, _op, _digest) FROM read_parquet($paths)) TO '{target}' "
                "(FORMAT parquet, COMPRESSION zstd)",
                {"paths": paths},
            )
    return time.perf_counter() - start


async def _beside(store: ArchiveStore, folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection with the view `messages` over one file, and the table `traces`."""
    traces = (await store.sql("SELECT * FROM traces")).arrow()
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("given", traces)
    connection.execute("CREATE TABLE traces AS SELECT * FROM given")
    connection.execute(f"CREATE VIEW messages AS SELECT * FROM read_parquet('{folder / 'messages.parquet'}')")
    return connection


def _ours(store: ArchiveStore, text: str, bound: dict[str, Any]) -> Callable[[int], Awaitable[None]]:
    async def work(_: int) -> None:
        assert (await store.sql(text, bound)).rows()

    return work


def _rival(connection: duckdb.DuckDBPyConnection, text: str, bound: dict[str, Any]) -> Callable[[int], Awaitable[None]]:
    async def work(_: int) -> None:
        assert connection.execute(text, bound).fetchall()

    return work
