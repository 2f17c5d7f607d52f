"""The sandbox: a query reads this archive and nothing else, whatever it says and whatever things are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import traceark
from profiles import some
from traceark import Archive, Message, Trace
from traceark.errors import QueryError
from traceark.testing.values import HOSTILE_IDS

# An archive's path may hold what SQL, globs and URLs give a meaning to.
PLACES = [
    "plain",
    "o'clock",
    "a b",
    "%41",
    "*",
    "?",
    "[ab]",
    "{a,b}",
    'quo"te',
    "new\nline",
    "é🦜",
    "x=1",
    "semi;--",
    "\\",
]


def filled(place: Path) -> Archive:
    """Return an archive with a sealed and a live trace."""
    archive = traceark.open(place)
    for trace_id in ("sealed", "live"):
        archive.create_trace(Trace(trace_id=trace_id))
        archive.add_message(Message(trace_id=trace_id, role="user", content="hi"))
    archive.seal("sealed")
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with filled(tmp_path_factory.mktemp("sandbox") / "runs") as archive:
        yield archive


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files that no query may read, where none may write."""
    tmp_path = tmp_path_factory.mktemp("outside")
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    duckdb.connect(str(tmp_path / "x.db")).close()
    with traceark.open(tmp_path / "other") as other:
        other.create_trace(Trace(trace_id="t"))
        other.add_message(Message(trace_id="t", role="user", content="secret"))
        other.seal("t")
    return tmp_path


READING = [
    "SELECT trace_id, message_text(content) FROM messages",
    "WITH mine AS (FROM messages) SELECT count(*) FROM mine",
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3) FROM n",
    "FROM traces JOIN Messages USING (trace_id)",
    "SELECT count(*) FROM main.messages",
    "FROM tool_call_rows()",
    "SELECT unnest(tool_calls(content)) FROM messages",
    "FROM messages, range(2)",
    "FROM messages PIVOT (count(*) FOR role IN ('user')) ORDER BY ALL",
    "VALUES (1), (2)",
    "TABLE goals",
    "DESCRIBE messages",
    "SHOW events",
    "SHOW TABLES",
    "SUMMARIZE messages",
    "EXPLAIN SELECT * FROM messages",
    "/* explain */ explain -- twice\n (FORMAT json) SELECT 1",
    "EXPLAIN ANALYZE SELECT count(*) FROM messages",
    "SELECT 1; -- done",
]


@pytest.mark.parametrize("query", READING)
def test_reads_the_archive_as_without_it(archive: Archive, query: str) -> None:
    answered = archive.sql(query, sandbox=True)
    if "ANALYZE" not in query:
        assert answered.rows() == archive.sql(query).rows()


def test_binds_parameters(archive: Archive) -> None:
    for text, parameters in (("?", ["sealed"]), ("$id", {"id": "sealed"})):
        query = f"SELECT count(*) AS n FROM messages WHERE trace_id = {text}"
        assert archive.sql(query, parameters, sandbox=True).rows() == [{"n": 1}]


HOSTILE = [
    # files
    "FROM read_csv('{outside}/secret.csv')",
    "FROM '{outside}/secret.csv'",
    'FROM "{outside}/secret.csv"',
    "FROM read_text('{outside}/secret.csv')",
    "FROM read_blob('file://{outside}/secret.csv')",
    "FROM glob('{outside}/*')",
    "FROM sniff_csv('{outside}/secret.csv')",
    "FROM read_parquet('{outside}/other/traces/t/messages/*.parquet')",
    "FROM parquet_metadata('{outside}/other/traces/t/messages/*.parquet')",
    "FROM read_duckdb('{outside}/x.db')",
    "SELECT (SELECT content FROM read_text('{outside}/secret.csv'))",
    "FROM messages WHERE content IN (SELECT content FROM read_text('{outside}/secret.csv'))",
    "FROM messages, LATERAL (FROM read_text('{outside}/secret.csv'))",
    "WITH x AS (FROM read_text('{outside}/secret.csv')) FROM x",
    "DESCRIBE '{outside}/secret.csv'",
    "SUMMARIZE '{outside}/secret.csv'",
    "EXPLAIN ANALYZE FROM read_text('{outside}/secret.csv')",
    "SELECT unnest(['a']) UNION ALL SELECT content FROM read_text('{outside}/secret.csv')",
    "FROM read_text('http://localhost:1/')",
    "FROM read_csv('/dev/stdin')",
    # writes
    "COPY (SELECT 1) TO '{outside}/new.csv'",
    "COPY messages TO '{outside}/new.parquet'",
    "EXPORT DATABASE '{outside}/new'",
    "ATTACH '{outside}/new.db'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}/new.csv'",
    "EXPLAIN (ANALYZE) CREATE TABLE t AS SELECT 1",
    "CREATE TABLE t (a INT)",
    "CREATE OR REPLACE VIEW messages AS SELECT 1",
    "CREATE TEMP VIEW messages AS SELECT 1",
    "CREATE OR REPLACE MACRO message_text(a) AS 1",
    "DROP VIEW messages",
    "INSERT INTO messages VALUES (1)",
    "WITH x AS (INSERT INTO messages VALUES (1) RETURNING *) FROM x",
    "WITH x AS (DELETE FROM messages RETURNING *) FROM x",
    "DELETE FROM messages",
    "ALTER VIEW messages RENAME TO m",
    "COMMENT ON VIEW messages IS 'x'",
    "CHECKPOINT",
    "VACUUM",
    # settings, extensions, the machine
    "SET threads = 1",
    "RESET threads",
    "SET VARIABLE x = 1",
    "PRAGMA version",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "FROM enable_logging()",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SELECT getenv('HOME')",
    "SELECT current_setting('home_directory')",
    "SELECT system.main.\"CURRENT_SETTING\"('temp_directory')",
    "SELECT 'temp_directory'.current_setting()",
    "FROM duckdb_settings()",
    "FROM duckdb_settings",
    "FROM (WITH duckdb_settings AS (SELECT 1) FROM duckdb_settings), duckdb_settings",
    "FROM duckdb_views",
    "FROM sqlite_master",
    "FROM information_schema.tables",
    "FROM pg_catalog.pg_settings",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://a/b', 's3')",
    "SHOW DATABASES",
    "SELECT write_log('x')",
    "SELECT sleep_ms(1)",
    # memory and other SQL
    "FROM arrow_scan(0::POINTER, 0::POINTER, 0::POINTER)",
    "FROM pandas_scan(0::POINTER)",
    "FROM python_map_function((SELECT 1), 0::POINTER, 0::POINTER)",
    "FROM _messages_0",
    "FROM query('FROM duckdb_settings()')",
    "FROM query_table('duckdb_settings')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('FROM messages')",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "BEGIN",
    "COMMIT",
    # several statements
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW messages",
    "COMMIT; CREATE TABLE t (a INT)",
    "/* */; SELECT 1; SET threads = 1 -- SELECT",
    "PIVOT messages ON role",
]


@pytest.mark.parametrize("query", some(HOSTILE, 14), ids=lambda query: ascii(query[:60]))
def test_refuses_whatever_does_more(archive: Archive, outside: Path, query: str) -> None:
    before = sorted(outside.rglob("*"))
    with pytest.raises(QueryError, match="sandbox"):
        archive.sql(query.replace("{outside}", str(outside)), sandbox=True)
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("sandbox", [True, False])
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "the query is empty"),
        (";", "the query is empty"),
        ("-- nothing", "the query is empty"),
        ("EXPLAIN", "syntax error"),
        ("EXPLAIN EXPLAIN SELECT 1", "syntax error"),
        ("SELECT " + "+".join(["1"] * 20_000), "depth limit"),
        ("SELECT '\ud800'", "half of a surrogate pair"),
    ],
    ids=["nothing", "a semicolon", "a comment", "explain", "explain twice", "deep", "a surrogate"],
)
def test_what_is_no_statement_is_told_with_and_without_it(
    archive: Archive, query: str, why: str, sandbox: bool
) -> None:
    with pytest.raises(QueryError, match=why):
        archive.sql(query, sandbox=sandbox)


FILES = [query for query in HOSTILE if "{outside}" in query]


@pytest.mark.parametrize("query", FILES, ids=lambda query: query[:60])
def test_duckdb_refuses_files_even_where_the_statement_is_let_through(
    archive: Archive, outside: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.query.running.check", lambda *_: None)
    with pytest.raises(QueryError, match="file system operations are disabled"):
        archive.sql(query.replace("{outside}", str(outside)), sandbox=True)
    assert not list(outside.glob("new*"))


def test_does_not_spill(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert archive.sql("SELECT current_setting('temp_directory') AS t").rows()[0]["t"]
    monkeypatch.setattr("traceark.query.running.check", lambda *_: None)
    assert archive.sql("SELECT current_setting('temp_directory') AS t", sandbox=True).rows() == [{"t": ""}]


@pytest.mark.parametrize("name", PLACES, ids=ascii)
def test_reads_an_archive_in_a_place_of_any_name_and_no_other(tmp_path: Path, name: str) -> None:
    with traceark.open(tmp_path / "a") as neighbour:  # what `*`, `?`, `[ab]` and `%41` might be taken for
        neighbour.create_trace(Trace(trace_id="another"))
        neighbour.add_message(Message(trace_id="another", role="user", content="hi"))
        neighbour.seal("another")
    with filled(tmp_path / name) as archive:
        for sandbox in (False, True):
            found = archive.sql("SELECT trace_id FROM messages ORDER BY trace_id", sandbox=sandbox).rows()
            assert found == [{"trace_id": "live"}, {"trace_id": "sealed"}]


def test_reads_traces_of_any_name(tmp_path: Path) -> None:
    with traceark.open(tmp_path / "runs", durability="os") as archive:
        ids = some(HOSTILE_IDS, 12)
        for trace_id in ids:
            archive.create_trace(Trace(trace_id=trace_id))
            archive.add_message(Message(trace_id=trace_id, role="user", content="hi"))
            archive.seal(trace_id)
        found = archive.sql("SELECT trace_id FROM messages", sandbox=True)
        assert sorted(row["trace_id"] for row in found) == sorted(ids)


def test_without_it_sql_may_write_but_fetches_and_loads_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.sql(f"COPY (SELECT 1 AS a) TO '{tmp_path}/rows.csv'")
    assert archive.sql(f"FROM '{tmp_path}/rows.csv'").rows() == [{"a": 1}]
    with pytest.raises(QueryError, match="requires the extension httpfs to be loaded"):
        archive.sql("FROM read_text('https://localhost:1/')")
