"""The same source is the same trace whenever and wherever it is imported: no time is that of the import."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from profiles import some, tried
from test_import_claude_code import CORPORA, corpus
from test_import_documents import CHAT, MARKED, SOLVED, trajectory
from test_import_keeps import DOCUMENTS
from test_import_run import contents_of
from traceark.importers.base import Importer
from traceark.importers.run import import_paths
from traceark.models import TIMES, JsonObject, Trace
from traceark.store import ArchiveStore
from traceark.testing import ModelStore

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER, LATER = datetime(2099, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
FOLDERS = sorted(each.name for each in CORPORA.iterdir() if each.is_dir()) if CORPORA.is_dir() else []


def first_of(paths: Sequence[Path], size: int) -> Sequence[Path]:
    """Return files up to a number of bytes, at least one."""
    sizes = accumulate(path.stat().st_size for path in paths)
    return paths[: max(sum(each <= size for each in sizes), 1)]


def taken(path: Path, importer: Importer | None = None, clock: datetime = NEVER) -> dict[str, Any]:
    """Import a file while the clock stands at a time; return all that is held then."""
    os.utime(path, (clock.timestamp(), clock.timestamp()))

    async def run() -> dict[str, Any]:
        into = ModelStore(clock=lambda: clock)
        await import_paths(into, [path], importer=importer)
        return await contents_of(into)

    return asyncio.run(run())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_format_takes_a_time_from_the_import_or_the_file(tmp_path: Path, name: str) -> None:
    importer, document = DOCUMENTS[name]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    held = taken(path, importer)
    assert held == taken(path, importer, LATER)
    assert held and "2099" not in json.dumps(held)


@pytest.mark.parametrize("name", some(FOLDERS, 3))
def test_a_corpus_is_the_same_in_any_order_by_any_number_of_processes(tmp_path: Path, name: str) -> None:
    paths = first_of(corpus(name), tried(700_000, 3_000_000, 1 << 40))

    async def run(url: Path, order: Sequence[Path], workers: int) -> tuple[dict[str, Any], set[str]]:
        async with ArchiveStore(url, durability="os") as into:
            report = await import_paths(into, order, workers=workers)
            # Different runs under one id: which of them is taken is told, and is a matter of order.
            told = {each.trace_id for file in report.files for each in file.traces if each.outcome == "diverged"}
            return await contents_of(into), told

    (first, some), (second, others) = (
        asyncio.run(run(tmp_path / "one", paths, 1)),
        asyncio.run(run(tmp_path / "two", paths[::-1], 2)),
    )
    assert first and first.keys() == second.keys() and some == others
    for trace_id in first.keys() - some:
        assert first[trace_id] == second[trace_id]


@pytest.mark.parametrize(
    ("told", "begun", "times"),
    [
        ({"id": "a"}, EPOCH, "unknown"),
        ({"id": "sympy__sympy-20154-20240101"}, EPOCH, "unknown"),
        ({"id": "run-2025-02-31"}, EPOCH, "unknown"),
        ({"id": "2025-02-11T15-17-00_popularity"}, datetime(2025, 2, 11, 15, 17, tzinfo=UTC), "id"),
        ({"id": "20250211_151700_ab"}, datetime(2025, 2, 11, 15, 17, tzinfo=UTC), "id"),
        ({"id": "019d78fc-c449-7300-92a1-1e92604a4f6a"}, datetime(2026, 4, 10, 20, 2, 4, 489000, UTC), "id"),
        # As one of 64 hashes: the years 10889, 5756 and 1970.
        ({"id": "ffffffff-ffff-7fff-8fff-ffffffffffff"}, EPOCH, "unknown"),
        ({"id": "6cab12de00007000800000000000abcd"}, EPOCH, "unknown"),
        ({"id": "00000000-0000-7000-8000-000000000000"}, EPOCH, "unknown"),
    ],
)
def test_a_time_that_nothing_tells_is_visibly_so(tmp_path: Path, told: JsonObject, begun: datetime, times: str) -> None:
    path = tmp_path / "2024-05-06.jsonl"
    path.write_text(json.dumps({**CHAT, **told}))
    [held] = taken(path).values()
    trace = Trace.parse(json.loads(held["header"]))
    assert (trace.created_at, trace.metadata[TIMES]) == (begun, times)
    assert {Trace.parse({**json.loads(each), "trace_id": "t"}).created_at for each in held["messages"]} == {begun}


@pytest.mark.parametrize("document", [SOLVED, MARKED])
def test_formats_without_times_say_so(tmp_path: Path, document: JsonObject) -> None:
    path = tmp_path / "run.traj"
    path.write_text(json.dumps(document))
    [held] = taken(path).values()
    assert json.loads(held["header"])["metadata"][TIMES] == "unknown"


def test_a_message_without_a_time_has_that_of_the_one_before_it(tmp_path: Path) -> None:
    times = [None, "2026-01-02T03:04:05Z", None, "2026-01-02T03:04:09Z"]
    steps: list[JsonObject] = [
        {"step_id": at, "source": "user", "message": "hi", **({"timestamp": time} if time else {})}
        for at, time in enumerate(times)
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(trajectory(steps)))
    [held] = taken(path).values()
    assert [json.loads(each)["created_at"][17:19] for each in held["messages"]] == ["05", "05", "05", "09"]
    assert TIMES not in json.loads(held["header"])["metadata"]


def test_a_run_that_tells_its_times_later_says_no_more_that_it_tells_none(tmp_path: Path) -> None:
    path, into = tmp_path / "t.json", ModelStore()
    step: JsonObject = {"step_id": 1, "source": "user", "message": "hi"}
    found = []
    for steps in ([step], [step, {**step, "step_id": 2, "timestamp": "2026-01-02T03:04:05Z"}]):
        path.write_text(json.dumps(trajectory(steps)))
        assert asyncio.run(import_paths(into, [path])).ok
        [trace] = asyncio.run(into.list_traces())
        found.append((trace.metadata.get(TIMES), trace.created_at))
    assert found == [("unknown", EPOCH), (None, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))]
