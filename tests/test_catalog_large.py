"""A catalog of very many traces is asked on a disk, and nobody can tell but by the memory that it takes."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import traceark
import traceark.catalog.known as known
import traceark.catalog.large as large
import traceark.catalog.snapshot as snapshot
import traceark.catalog.table as table
from profiles import some
from program import ran
from traceark import ArchiveStore, Trace
from traceark.catalog.table import CatalogTable, RowsLostError
from traceark.codec.lines import to_record
from traceark.errors import CorruptFileError, QueryError
from traceark.models import JsonObject

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 40


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let four rows be very many, and see where they are kept."""
    monkeypatch.setattr(table, "_FEW", 2)
    monkeypatch.setattr(table, "_MOST_IN_MEMORY", 4)
    directory = tmp_path / "it's temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def rows() -> Iterator[CatalogTable]:
    opened = CatalogTable()
    opened.put([row_of(f"t{at}", task="first", day=at) for at in range(COUNT)])
    yield opened
    opened.clear()


def row_of(trace_id: str, *, task: str, day: int = 0) -> JsonObject:
    made = Trace(trace_id=trace_id, task=task, created_at=BEGIN + timedelta(days=day))
    return {**to_record(made), "_listed": True, "_state": "settled", "_openings": [], "_gone": []}


def newest(of: CatalogTable, where: str | None = None) -> list[tuple[str, str]]:
    return of.fetch("SELECT trace_id, task FROM traces ORDER BY created_at DESC LIMIT 3", where=where)


def wait_for_table(of: CatalogTable) -> None:
    """Ask until the table is made and the Parquet file is gone."""
    stored = of._stored
    assert isinstance(stored, large.LargeRows)
    for _ in range(20):
        newest(of)
    for thread in threading.enumerate():
        if thread.name == "traceark-catalog":
            thread.join()
    newest(of)
    assert not list(Path(tempfile.gettempdir()).glob("*/rows.parquet"))


@pytest.mark.parametrize("when", ["from the file", "from the table", "as it is made"])
def test_what_changed_and_went_is_told_wherever_the_rows_are(rows: CatalogTable, when: str) -> None:
    assert newest(rows) == [("t39", "first"), ("t38", "first"), ("t37", "first")]
    if when == "from the table":
        wait_for_table(rows)
    rows.put([row_of("t38", task="second", day=38), row_of("new", task="new", day=99)])
    rows.remove(["t39", "t5"])
    assert newest(rows) == [("new", "new"), ("t38", "second"), ("t37", "first")]
    if when == "as it is made":
        wait_for_table(rows)
        assert newest(rows) == [("new", "new"), ("t38", "second"), ("t37", "first")]
    rows.put([row_of("t38", task="third", day=38), row_of("t5", task="again", day=5)])
    rows.remove(["new"])
    assert newest(rows) == [("t38", "third"), ("t37", "first"), ("t36", "first")]
    assert rows.rows(["t5", "t39", "t38"]).keys() == {"t5", "t38"}
    assert rows.fetch("SELECT count(*) FROM catalog") == [(COUNT - 1,)]


def test_a_catalog_that_grows_moves_to_a_disk(temporary: Path) -> None:
    growing = CatalogTable()
    for at in range(8):
        growing.put([row_of(f"t{at}", task="first", day=at)])
        assert newest(growing)[0] == (f"t{at}", "first")
        assert bool(list(temporary.iterdir())) == (at >= 4)
    assert growing.fetch("SELECT count(*) FROM catalog") == [(8,)]
    growing.clear()
    assert not list(temporary.iterdir())


def test_nothing_is_left_behind(rows: CatalogTable, temporary: Path) -> None:
    newest(rows)
    [directory] = temporary.iterdir()
    assert directory.stat().st_mode & 0o077 == 0
    assert [each.name for each in directory.iterdir()] == ["rows.parquet"]
    rows.clear()
    assert not list(temporary.iterdir())
    rows.put([row_of(f"t{at}", task="first", day=at) for at in range(COUNT)])
    newest(rows)
    rows._stored = None  # as if nobody had closed it
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("questions", [1, 1000])
def test_a_process_that_closes_nothing_leaves_nothing_behind(tmp_path: Path, temporary: Path, questions: int) -> None:
    root = tmp_path / "archive"
    with traceark.open(root, durability="os") as archive:
        for at in range(6):
            archive.create_trace(Trace(trace_id=f"t{at}"))
    program = f"""
import traceark, traceark.catalog.table as table, traceark.catalog.large as large
table._FEW, table._MOST_IN_MEMORY, large._FEW_QUESTIONS = 2, 4, {questions}
archive = traceark.open({str(root)!r})
print(len(archive.list_traces()))
import os, tempfile
print(len(os.listdir(tempfile.gettempdir())))
"""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    told = ran("-c", program, env=environment)
    assert told.stdout.split() == ["6", "1"]
    assert not list(temporary.iterdir())


def test_a_table_that_is_being_made_is_not_waited_for(rows: CatalogTable, monkeypatch: pytest.MonkeyPatch) -> None:
    newest(rows)
    stored = rows._stored
    assert isinstance(stored, large.LargeRows)
    monkeypatch.setattr(stored._table, "_statement", "SELECT max(hash(range)) FROM range(1_000_000_000_000)")
    stored._table.begin()
    rows.clear()
    assert not [thread for thread in threading.enumerate() if thread.name == "traceark-catalog"]


def test_a_fork_removes_nothing(rows: CatalogTable, temporary: Path) -> None:
    newest(rows)
    process = os.fork()
    if not process:
        assert isinstance(rows._stored, large.LargeRows)
        rows._stored.close()
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    assert list(temporary.iterdir())
    assert newest(rows)[0] == ("t39", "first")


def test_without_a_place_for_temporary_files_rows_stay_in_memory(temporary: Path) -> None:
    temporary.rmdir()
    of = CatalogTable()
    of.put([row_of(f"t{at}", task="first", day=at) for at in range(COUNT)])
    assert newest(of) == [("t39", "first"), ("t38", "first"), ("t37", "first")]
    of.put([row_of("t38", task="second", day=38)])
    assert newest(of) == [("t39", "first"), ("t38", "second"), ("t37", "first")]
    of.clear()


def test_where_the_table_cannot_be_made_the_file_answers(
    rows: CatalogTable, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setattr(large, "_FEW_QUESTIONS", 5)
    newest(rows)
    assert isinstance(rows._stored, large.LargeRows)
    monkeypatch.setattr(rows._stored._table, "_statement", "SELECT error('No space left on device')")
    for at in range(20):
        rows.put([row_of("t38", task=f"change {at}", day=38)])
        assert newest(rows) == [("t39", "first"), ("t38", f"change {at}"), ("t37", "first")]
    assert list(temporary.glob("*/rows.parquet"))


@pytest.mark.parametrize("questions", [1, 12])
def test_what_wants_more_memory_is_given_more(monkeypatch: pytest.MonkeyPatch, questions: int) -> None:
    monkeypatch.setattr(large, "_FEW_QUESTIONS", questions)
    monkeypatch.setattr(large, "_MEMORY", ("3MB", "4MB", "80%"))
    wide = CatalogTable()
    count = 3_000
    wide.put([row_of(f"t{at}", task=f"{at:05}" * 500, day=at) for at in range(count)])
    question = "SELECT trace_id, string_agg(task) FROM traces GROUP BY ALL ORDER BY ALL"
    found = wide.fetch(question)
    assert len(found) == count and max(len(task) for _, task in found) == 2500
    assert isinstance(wide._stored, large.LargeRows)
    assert not wide._stored.allow_more()
    wait_for_table(wide)
    assert wide.fetch(question) == found
    assert wide.export(lambda reader: sum(batch.num_rows for batch in reader)) == count
    wide.clear()


def test_a_condition_that_wants_more_memory_is_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "_MEMORY", ("3MB", "80%"))
    wide = CatalogTable()
    wide.put([row_of(f"t{at}", task=f"{at:05}" * 500, day=at) for at in range(3_000)])
    found = wide.fetch("SELECT trace_id, string_agg(task) FROM traces GROUP BY ALL", where="true")
    assert len(found) == 3_000
    wide.clear()


def test_an_export_that_fails_is_in_nobodys_way(rows: CatalogTable) -> None:
    def write(reader: pa.RecordBatchReader) -> None:
        next(iter(reader))
        raise CorruptFileError("half way")

    newest(rows)
    with pytest.raises(CorruptFileError) as kept:
        rows.export(write)
    assert newest(rows)[0] == ("t39", "first")
    assert kept.value.__traceback__ is not None
    assert rows.export(lambda reader: sum(batch.num_rows for batch in reader)) == COUNT


def test_where_no_table_could_be_made_its_room_is_given_back(
    rows: CatalogTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest(rows)
    stored = rows._stored
    assert isinstance(stored, large.LargeRows)
    monkeypatch.setattr(stored._table, "_statement", "SELECT error('No space left on device')")
    stored._table.begin()
    for thread in threading.enumerate():
        if thread.name == "traceark-catalog":
            thread.join()
    names = rows.fetch("SELECT database_name FROM duckdb_databases() WHERE database_name = 'kept'")
    assert names == []


@pytest.mark.parametrize("questions", [0, 20])
def test_rows_that_somebody_removed_are_read_anew(tmp_path: Path, temporary: Path, questions: int) -> None:
    root = tmp_path / "archive"
    with traceark.open(root, durability="os") as archive:
        for at in range(6):
            archive.create_trace(Trace(trace_id=f"t{at}"))
    with traceark.open(root, durability="os") as archive:
        for _ in range(questions + 1):
            assert len(archive.list_traces()) == 6
        catalog = archive.store._pool.catalog
        assert catalog._table is not None and isinstance(catalog._table._stored, large.LargeRows)
        if questions:
            # What a full disk leaves of a database.
            catalog._table._stored.connection.close()
        for file in temporary.glob("*/*"):
            file.unlink()
        archive.create_trace(Trace(trace_id="later"))
        assert {trace.trace_id for trace in archive.list_traces()} == {"later", *(f"t{at}" for at in range(6))}


async def test_a_fold_of_rows_that_were_lost_publishes_no_empty_snapshot(tmp_path: Path, temporary: Path) -> None:
    async with ArchiveStore(tmp_path / "archive", durability="os") as store:
        for at in range(6):
            await store.create_trace(Trace(trace_id=f"t{at}"))
        await store.refresh()
    async with ArchiveStore(tmp_path / "archive", durability="os") as store:
        assert len(await store.list_traces()) == 6
        for file in temporary.glob("*/*"):
            file.unlink()
        await store._pool.catalog.fold()
        assert len(await store.list_traces()) == 6
    async with ArchiveStore(tmp_path / "archive", durability="os") as store:
        assert len(await store.list_traces()) == 6


def test_rows_that_were_lost_answer_nothing_until_they_are_loaded_anew(rows: CatalogTable, temporary: Path) -> None:
    newest(rows)
    for file in temporary.glob("*/*"):
        file.unlink()
    for _ in range(2):
        with pytest.raises(RowsLostError, match="the catalog's rows"):
            newest(rows)
        with pytest.raises(RowsLostError):
            rows.wanting()
        with pytest.raises(RowsLostError):
            rows.rows(["t1"])
    rows.clear()
    assert newest(rows) == []


def test_sql_tells_each_trace_once_however_many_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_MOST_LOGGED", 6)
    with traceark.open(tmp_path / "archive", durability="os") as archive:
        for at in range(4):
            archive.create_trace(Trace(trace_id=f"t{at}"))
        archive.refresh()
        for at in range(8):
            archive.update_trace("t0", task=f"task {at}")
            archive.list_traces(limit=1)
        found = archive.sql("SELECT trace_id, task FROM traces ORDER BY ALL").rows()
    assert [(row["trace_id"], row["task"]) for row in found] == [
        ("t0", "task 7"),
        *((f"t{at}", None) for at in (1, 2, 3)),
    ]


def test_a_footer_that_was_changed_is_found() -> None:
    told = snapshot.SnapshotInfo("12345678", 1)
    data = snapshot.encode_snapshot(told, table._to_arrow([row_of('"footer":"00000000"', task="x")]).to_reader())
    info = snapshot.snapshot_info(io.BytesIO(data), "it")
    assert b"".join(snapshot.checked(info, io.BytesIO(data), "it")) == data
    for place in some(range(info.size, len(data)), 600):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(CorruptFileError):
            file = io.BytesIO(changed)
            for _ in snapshot.checked(snapshot.snapshot_info(file, "it"), io.BytesIO(changed), "it"):
                pass


def test_a_condition_reads_no_file(rows: CatalogTable, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("trace_id\nt1\n")
    condition = f"trace_id IN (SELECT trace_id FROM read_csv('{tmp_path / 'secret.csv'}'))"
    for _ in range(2):
        with pytest.raises(QueryError, match="disabled"):
            newest(rows, condition)
        assert newest(rows, "trace_id = 't7'") == [("t7", "first")]
        wait_for_table(rows)


async def test_an_archive_is_listed_folded_and_opened_again(tmp_path: Path, temporary: Path) -> None:
    root = tmp_path / "archive"
    async with ArchiveStore(root, durability="os") as store, ArchiveStore(root, durability="os") as other:
        for at in range(COUNT):
            await store.create_trace(Trace(trace_id=f"t{at}", created_at=BEGIN + timedelta(days=at)))
            assert (await other.list_traces(limit=1))[0].trace_id == f"t{at}"
        await asyncio.gather(*(store.update_trace(f"t{at}", status="completed") for at in range(COUNT)))
        await other.refresh()
        assert len(await other.list_traces(status="completed")) == COUNT
    async with ArchiveStore(root, durability="os") as store:
        assert [trace.trace_id for trace in await store.list_traces(limit=2)] == ["t39", "t38"]
        [directory] = temporary.iterdir()
        await store.delete_trace("t39")
        assert [trace.trace_id for trace in await store.list_traces(limit=2)] == ["t38", "t37"]
    assert not directory.exists()
