"""DuckDB's databases: one that a query cannot have changed is lent to the next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from traceark import database
from traceark.codec.parquet import to_table
from traceark.query.sources import VIEWS, Source
from traceark.query.views import connected

ASKED = "SELECT count(*) FROM traces"
# All that one query could leave for the next one to see.
LEFT = (
    "SELECT database_name FROM duckdb_databases() ORDER BY 1",
    "SELECT name, value FROM duckdb_settings() WHERE name <> 'temp_directory' ORDER BY 1",
    "SELECT database_name, schema_name FROM duckdb_schemas() ORDER BY ALL",
    "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1",
    "SELECT table_name FROM duckdb_tables() ORDER BY 1",
    "SELECT function_name FROM duckdb_functions() WHERE NOT internal ORDER BY 1",
    "SELECT count(*) FROM duckdb_logs()",
)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Begin with none that is kept, and count how many are opened."""
    found: list[object] = []
    connect = database.connect

    def counted(**settings: database.Setting) -> object:
        found.append(connect(**settings))
        return found[-1]

    monkeypatch.setattr(database, "connect", counted)
    monkeypatch.setattr(database, "_kept", [])
    yield found


def ask(text: str, *trace_ids: str) -> list[tuple[object, ...]]:
    rows = [{"trace_id": each} for each in trace_ids]
    with connected({"traces": [Source(table=to_table(VIEWS["traces"], rows))]}, text, sandbox=False) as connection:
        return connection.sql(text).fetchall()


def left() -> list[list[tuple[object, ...]]]:
    """Return what the next query sees; those after it have another database."""
    with connected({}, ASKED, sandbox=False) as connection:
        found = [connection.execute(text).fetchall() for text in LEFT]
    database._kept.clear()
    return found


def test_a_database_is_lent_again_and_shows_each_query_its_own_archive(opened: list[object]) -> None:
    seen = left()
    assert ask(ASKED, "a", "b") == [(2,)]
    assert ask(ASKED, "c") == [(1,)]
    assert ask("EXPLAIN " + ASKED)
    assert left() == seen
    assert len(opened) == 2


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE kept AS SELECT 1; SELECT 1",
        "CREATE MACRO kept(a) AS a; SELECT 1",
        "CREATE SCHEMA kept; SELECT 1",
        "ATTACH ':memory:' AS kept; SELECT 1",
        "SET GLOBAL memory_limit = '1GB'; SELECT 1",
        "SET GLOBAL TimeZone = 'Asia/Tokyo'; SELECT 1",
        "PRAGMA disable_optimizer; SELECT 1",
        "SELECT * FROM enable_logging()",
        "SELECT count(*) FROM traces WHERE EXISTS (FROM enable_logging())",
    ],
)
def test_what_a_query_changes_the_next_one_does_not_see(text: str, opened: list[object]) -> None:
    seen = left()
    ask(text, "a")
    assert left() == seen
    assert len(opened) == 3


def test_what_the_sandbox_cannot_look_at_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, opened: list[object]
) -> None:
    long = f"SELECT count(*) FROM traces WHERE uid IN ({', '.join(['NULL'] * 5_000)})"
    assert ask(long) == ask(ASKED) == [(0,)]
    assert len(opened) == 2

    def fails(*_: object) -> None:
        raise KeyError("path")

    monkeypatch.setattr("traceark.query.views.check", fails)
    assert ask(ASKED) == ask(ASKED) == [(0,)]
    assert len(opened) == 3


def test_after_an_error_or_an_interruption_the_next_query_has_another_database(opened: list[object]) -> None:
    with pytest.raises(KeyboardInterrupt), connected({}, ASKED, sandbox=False):
        raise KeyboardInterrupt
    ask(ASKED)
    assert len(opened) == 2


def test_one_that_has_spilled_is_not_lent_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opened: list[object]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(database, "connect", partial(database.connect, memory_limit="64MB", threads=1))
    found = ask("SELECT count(*) FROM (SELECT DISTINCT range, hash(range)::VARCHAR FROM range(3_000_000))")
    assert found == [(3_000_000,)]
    assert list(tmp_path.iterdir()) == []
    ask(ASKED)
    assert len(opened) == 2


def test_queries_at_the_same_time_have_a_database_each(opened: list[object]) -> None:
    with connected({}, ASKED, sandbox=False) as one, connected({}, ASKED, sandbox=False) as other:
        one.sql("CREATE TABLE here AS SELECT 1")
        assert other.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert len(opened) == 2


@pytest.mark.parametrize("end", ["sys.exit(7)", "os._exit(7)"])
def test_a_forked_process_has_databases_of_its_own_and_ends_as_it_should(end: str) -> None:
    code = f"""
import asyncio, os, sys
from traceark.query.running import answer
def ask():
    return asyncio.run(answer({{}}, "SELECT sum(range)::BIGINT AS n FROM range(1_000_000)")).rows()
found = ask()
process = os.fork()
if not process:
    assert ask() == found
    {end}
assert ask() == found
print(os.waitpid(process, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{7 << 8}\n", "")


def test_processes_forked_after_a_list_have_lists_of_their_own_and_end_as_they_should(tmp_path: Path) -> None:
    code = """
import os, sys, traceark
def listed():
    with traceark.open(sys.argv[1]) as archive:
        return [trace.trace_id for trace in archive.list_traces()]
archive = traceark.open(sys.argv[1])
archive.create_trace(traceark.Trace(trace_id="a"))
assert archive.list_traces()
ends = []
for number in range(12):
    process = os.fork()
    if not process:
        assert number % 3 or listed() == ["a"]
        sys.exit(7)
    ends.append(os.waitpid(process, 0)[1])
archive.close()
print(*sorted({*ends}), *listed())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{7 << 8} a\n", "")
