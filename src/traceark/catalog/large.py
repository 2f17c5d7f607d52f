"""The rows of a large catalog on a disk, so that memory does not grow with the archive.

They are asked where a snapshot has them, in a Parquet file of this process's own, with what changed
since beside them. Who asks often is answered from a table in a file of DuckDB's, uncompressed, of
which DuckDB keeps in memory what it likes up to a limit: reading the rows into it takes as long as
dozens of questions do, and is done meanwhile. Both files are gone with the process.

Knows rows and Arrow, no notes and no storage.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import duckdb
import pyarrow as pa

from traceark import database
from traceark.catalog.rows import COLUMNS

NAMES = ", ".join(f'"{column.name}"' for column in COLUMNS)
_MEANT = "trace_id IN (SELECT unnest(?))"
# What DuckDB may have in memory: what it reads ahead, sorts and joins, and what is asked often. Of very wide rows a few
# thousand at a time may be more.
_MEMORY = ("192MB", "768MB", "3GB", "80%")
# More threads want more memory at a time, and these answer within a few milliseconds.
_THREADS = 4
# So many questions are answered from the Parquet file before the table is made.
_FEW_QUESTIONS = 12


class NoPlaceError(Exception):
    """There is no place for temporary files."""


class LargeRows:
    """Rows in a database of their own, which knows them as `catalog`.

    Parameters
    ----------
    save : callable
        Writes all rows to a Parquet file, given its path.

    Attributes
    ----------
    connection : duckdb.DuckDBPyConnection
        Where `catalog` can be asked once `ready` was called.

    Raises
    ------
    NoPlaceError
    """

    def __init__(self, save: Callable[[Path], None]) -> None:
        try:
            directory = Path(tempfile.mkdtemp(prefix="traceark-catalog-"))
        except OSError as error:
            raise NoPlaceError(str(error)) from error
        try:
            self._file = directory / "rows.parquet"
            save(self._file)
            self.connection = _database(directory)
            self.connection.execute(f"CREATE TEMP VIEW catalog AS SELECT {NAMES} FROM {self._snapshot()}")
        except BaseException as error:
            rmtree(directory, ignore_errors=True)
            if isinstance(error, (OSError, UnicodeError, duckdb.Error)) and not isinstance(error, FileNotFoundError):
                raise NoPlaceError(str(error)) from error
            raise
        made = f"CREATE TABLE kept.rows AS SELECT {NAMES} FROM {self._snapshot()}"
        self._table = _Table(self.connection, directory / "rows.duckdb", made)
        # Which of `_MEMORY` DuckDB may have, and which it might when the table was begun.
        self._allowed = self._begun = 0
        self._questions = 0
        self._moved = False
        self._changed = False
        self.close = weakref.finalize(self, _discard, self._table, self.connection, directory, os.getpid())

    def _snapshot(self) -> str:
        return f"read_parquet({_quoted(self._file)}, hive_partitioning=false)"

    def ready(self) -> None:
        """Let a question be asked."""
        self._questions += 1
        wanting = self._table.wants_memory and (self._allowed > self._begun or self.allow_more())
        if wanting or self._questions == _FEW_QUESTIONS:
            self._begun = self._allowed
            self._table.begin()
        if not self._moved and self._table.is_made():
            self._move()

    @property
    def some(self) -> str:
        """The SQL for the rows of some traces, bound to it."""
        return some_of("kept.rows") if self._moved else f"SELECT {NAMES} FROM catalog WHERE {_MEANT}"

    def allow_more(self) -> bool:
        """Let DuckDB have more memory; say no where it has all it can have."""
        if self._allowed == len(_MEMORY) - 1:
            return False
        self._allowed += 1
        self.connection.execute(f"SET memory_limit = '{_MEMORY[self._allowed]}'")
        return True

    def _move(self) -> None:
        """Go on with the table, which has the rows as they were in the beginning."""
        run = self.connection.execute
        if self._changed:
            run("DELETE FROM kept.rows WHERE trace_id IN (SELECT trace_id FROM superseded)")
            run("INSERT INTO kept.rows SELECT * FROM later")
        run(f"CREATE OR REPLACE TEMP VIEW catalog AS SELECT {NAMES} FROM kept.rows")
        self._moved = True
        self._file.unlink(missing_ok=True)
        if self._changed:
            run("DROP TABLE superseded")
            run("DROP TABLE later")

    def change(self, trace_ids: Sequence[str], rows: pa.Table) -> None:
        """Drop the rows of some traces, and take others for them."""
        ids, run = [list(trace_ids)], self.connection.execute
        with database.given(self.connection, "incoming", rows):
            if not self._moved and not self._changed:
                run(f"CREATE OR REPLACE TEMP TABLE later AS SELECT {NAMES} FROM incoming LIMIT 0")
                run("CREATE OR REPLACE TEMP TABLE superseded (trace_id VARCHAR)")
                run(
                    f"CREATE OR REPLACE TEMP VIEW catalog AS SELECT {NAMES} FROM {self._snapshot()} "
                    f"ANTI JOIN superseded USING (trace_id) UNION ALL SELECT {NAMES} FROM later"
                )
                self._changed = True
            if not self._moved:
                run("INSERT INTO superseded SELECT unnest(?) EXCEPT SELECT trace_id FROM superseded", ids)
            into = "kept.rows" if self._moved else "later"
            run(f"DELETE FROM {into} WHERE trace_id IN (SELECT unnest(?))", ids)
            run(f"INSERT INTO {into} SELECT {NAMES} FROM incoming")


def some_of(table: str) -> str:
    """Return the SQL for some rows of a table: by their numbers, for else DuckDB reads all columns of all rows."""
    return f"SELECT {NAMES} FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {_MEANT})"


class _Table:
    """The table in DuckDB's own file, which a thread makes."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, file: Path, statement: str) -> None:
        self._connection = connection.cursor()
        self._file = file
        self._statement = statement
        self._thread: threading.Thread | None = None
        self._made = False
        self.wants_memory = False

    def begin(self) -> None:
        self.wants_memory = False
        # A thread that were waited for at the interpreter's end before it is interrupted would hold it up.
        self._thread = threading.Thread(target=self._make, name="traceark-catalog", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        wants_memory = False
        try:
            # What is made anew from the snapshot needs no log of its own.
            self._run(f"ATTACH {_quoted(self._file)} AS kept (RECOVERY_MODE no_wal_writes)")
            # It stays while it is open, and no longer.
            self._file.unlink()
            self._run(self._statement)
            self._made = True
        except duckdb.OutOfMemoryException:
            wants_memory = True
        except (duckdb.Error, OSError):
            pass  # the disk is full, or it was stopped: questions go on being answered from the Parquet file
        if not self._made:
            with suppress(duckdb.Error):
                self._run("DETACH kept")  # which gives the room back
        self.wants_memory = wants_memory

    def _run(self, statement: str) -> None:
        self._connection.execute(statement).fetchall()

    def is_made(self) -> bool:
        return self._made

    def stop(self) -> None:
        while self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            # It may not have begun to execute, and then nothing is there to be interrupted.
            self._connection.interrupt()
            self._thread.join(0.05)
        self._connection.close()


def _database(directory: Path) -> duckdb.DuckDBPyConnection:
    """Open a database that reads nothing but what is in a directory."""
    connection = database.connect(
        memory_limit=_MEMORY[0],
        threads=min(_THREADS, os.cpu_count() or 1),
        temp_directory=str(directory / "spilled"),
        force_compression="uncompressed",
    )
    connection.execute("SET allowed_directories = ?", [[str(directory)]])
    connection.execute("SET enable_external_access = false")
    return connection


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _discard(table: _Table, connection: duckdb.DuckDBPyConnection, directory: Path, process: int) -> None:
    if os.getpid() != process:
        return  # a fork's copy
    table.stop()
    connection.close()
    rmtree(directory, ignore_errors=True)
