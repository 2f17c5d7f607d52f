"""The catalog's rows, kept up to date trace by trace, for DuckDB to ask.

A statement that writes all columns costs DuckDB as much for one row as for hundreds. So rows that
change wait until somebody asks, and those of a small catalog are asked where they are. Of larger
ones DuckDB has a table in memory, of very large ones on a disk.

Blocking, and for one thread at a time. Knows rows and Arrow, no notes and no storage.
"""

from __future__ import annotations

import errno
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.catalog.large import NAMES, LargeRows, NoPlaceError, some_of
from traceark.catalog.rows import COLUMNS, DAMAGED, OPEN
from traceark.catalog.snapshot import ROW_GROUP_ROWS, SCHEMA
from traceark.codec.fields import TRACES
from traceark.codec.parquet import to_row
from traceark.codec.parts import records
from traceark.errors import QueryError, StorageError
from traceark.models import JsonObject

Answer = TypeVar("Answer")
_numbers = itertools.count(1)
# A catalog of so many rows at most is kept as Python objects; of larger ones only the newest are.
_FEW = 256
# So many rows at most are kept in memory, 40 to 80 MB of usual ones.
_MOST_IN_MEMORY = 131_072
_TOLD = ", ".join(f'"{column.name}"' for column in TRACES)


class Rows(Protocol):
    """Where many rows come from, such as a snapshot."""

    def count(self) -> int:
        """Return how many there are."""
        ...

    def rows(self) -> pa.Table:
        """Return them."""
        ...

    def save(self, path: Path) -> None:
        """Write them to a Parquet file."""
        ...


class RowsLostError(StorageError):
    """The rows of a large catalog, which are among the temporary files, cannot be read or changed any more."""


class CatalogTable:
    """All rows; for SQL in `catalog`, and those that are there and readable in the view `traces`."""

    def __init__(self) -> None:
        # The rows where SQL sees them; while there are few, only those of when they were asked last.
        self._stored: _FewRows | _ManyRows | LargeRows | None = None
        # Rows that were put lately, the last ones last; all rows, while there are few.
        self._recent: dict[str, JsonObject] = {}
        # The traces that SQL does not see as they are.
        self._changed: set[str] = set()
        self._most = _MOST_IN_MEMORY
        self._lost: str | None = None

    @property
    def _are_few(self) -> bool:
        if self._lost is not None:
            raise RowsLostError(errno.EIO, self._lost)
        return not isinstance(self._stored, _ManyRows | LargeRows)

    def _ready(self) -> duckdb.DuckDBPyConnection:
        """Return a connection that sees all rows as they are."""
        stored = self._stored
        if self._are_few:
            if stored is None or self._changed:
                stored = self._store(_InMemory(_to_arrow(self._recent.values())))
        else:
            assert isinstance(stored, _ManyRows | LargeRows)
            stored.ready()
            if self._changed:
                changed = sorted(self._changed)
                stored.change(changed, _to_arrow(self._recent[each] for each in changed if each in self._recent))
            if isinstance(stored, _ManyRows) and stored.count() > self._most:
                stored = self._store(_InMemory(stored.rows()))
        self._changed.clear()
        if not self._are_few:
            for trace_id in list(itertools.islice(self._recent, max(0, len(self._recent) - _FEW))):
                del self._recent[trace_id]
        return stored.connection

    def _store(self, rows: Rows) -> _FewRows | _ManyRows | LargeRows:
        """Let SQL see some rows in place of all others."""
        found = self._place(rows)
        try:
            found.connection.execute("CREATE TEMP VIEW traces AS SELECT * FROM catalog WHERE _listed")
        except BaseException:
            found.close()
            raise
        before, self._stored = self._stored, found
        if before is not None:
            before.close()
        return found

    def _place(self, rows: Rows) -> _FewRows | _ManyRows | LargeRows:
        count = rows.count()
        if count > self._most:
            try:
                return LargeRows(rows.save)
            except NoPlaceError:
                # They are right in memory, too, and take what they take.
                self._most = sys.maxsize
        return _ManyRows(rows.rows()) if count > _FEW else _FewRows(rows.rows())

    def clear(self) -> None:
        """Forget all rows, and give their memory back."""
        self._lost = None
        self._recent.clear()
        self._changed.clear()
        self._most = _MOST_IN_MEMORY
        if self._stored is not None:
            self._stored.close()
            self._stored = None

    def load(self, snapshot: Rows) -> None:
        """Take the rows of a snapshot in place of all others."""
        self.clear()
        if snapshot.count() > _FEW:
            self._store(snapshot)
        else:
            self.put(records(COLUMNS, snapshot.rows()))

    def put(self, rows: Iterable[JsonObject]) -> None:
        """Put rows in place of those of the same traces."""
        for row in rows:
            trace_id = str(row["trace_id"])
            self._recent.pop(trace_id, None)
            self._recent[trace_id] = {name: value for name, value in row.items() if value is not None}
            self._changed.add(trace_id)

    def remove(self, trace_ids: Sequence[str]) -> None:
        """Drop the rows of some traces."""
        for trace_id in trace_ids:
            self._recent.pop(trace_id, None)
        self._changed.update(trace_ids)

    def rows(self, trace_ids: Iterable[str]) -> dict[str, JsonObject]:
        """Return the rows of some traces, by trace id."""
        ids = list(trace_ids)
        found = {each: self._recent[each].copy() for each in ids if each in self._recent}
        others = [each for each in ids if each not in found]
        if others and not self._are_few:
            found |= {str(record["trace_id"]): record for record in self._answer(partial(self._some, others), "")}
        return found

    def _some(self, trace_ids: list[str], connection: duckdb.DuckDBPyConnection, _: str) -> list[JsonObject]:
        assert isinstance(self._stored, _ManyRows | LargeRows)
        return records(COLUMNS, connection.sql(self._stored.some, params=[trace_ids]).to_arrow_table())

    def query(
        self, text: str, parameters: Any = None, where: str | None = None, over: pa.Table | None = None
    ) -> pa.Table:
        """Answer SQL over `catalog` and `traces`.

        `over` are rows of `traces` that stand for those of the same traces; `where` is a user's
        condition on what is in `traces`.
        """
        return self._answer(
            lambda connection, seen: connection.sql(seen, params=parameters).to_arrow_table(), text, where, over
        )

    def fetch(
        self, text: str, parameters: Any = None, where: str | None = None, over: pa.Table | None = None
    ) -> list[tuple[Any, ...]]:
        """Answer as `query` does, with rows of Python's values; of few rows that is faster, as SQL is planned once."""
        return self._answer(lambda connection, seen: connection.execute(seen, parameters).fetchall(), text, where, over)

    def _answer(
        self,
        ask: Callable[[duckdb.DuckDBPyConnection, str], Answer],
        text: str,
        where: str | None = None,
        over: pa.Table | None = None,
    ) -> Answer:
        """Ask with SQL, as `query` says; once more where that takes more memory than was allowed.

        Raises
        ------
        RowsLostError
            What is on the disk cannot be read or written any more; all is forgotten.
        """
        while True:
            try:
                with self._seeing(text, where, over) as (connection, seen):
                    return ask(connection, seen)
            except duckdb.OutOfMemoryException:
                if not (isinstance(self._stored, LargeRows) and self._stored.allow_more()):
                    raise
            except duckdb.Error as error:
                if not isinstance(self._stored, LargeRows):
                    raise
                self.clear()
                # Until they are loaded anew, no answer is a right one.
                self._lost = f"{tempfile.gettempdir()}: the catalog's rows: {error}"
                raise RowsLostError(errno.EIO, self._lost) from error

    @contextmanager
    def _seeing(
        self, text: str, where: str | None, over: pa.Table | None
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """Give a connection that sees all rows as they are, and SQL whose `traces` are those that are meant."""
        connection = self._ready()
        if over is not None:
            with database.given(connection, "over", over):
                told = f"SELECT {_TOLD} FROM traces ANTI JOIN over USING (trace_id) UNION ALL SELECT {_TOLD} FROM over"
                with _meant(connection, connection.sql(told), text, where) as seen:
                    yield connection, seen
        elif where is not None:
            with _meant(connection, connection.table("traces"), text, where) as seen:
                yield connection, seen
        else:
            yield connection, text

    def standing(self, trace_ids: Sequence[str] | None) -> pa.Table:
        """Return what tells where the rows of traces are to be read, of some or of all that are listed."""
        told = "true" if trace_ids is None else "trace_id IN (SELECT unnest(?))"
        return self.query(
            "SELECT trace_id, created_at, total_messages, last_event_id, _incarnation, _messages, _events, _tree, "
            f"_state = 'settled' AND coalesce(_sealed, false) AS final FROM catalog WHERE _listed AND {told}",
            None if trace_ids is None else [list(trace_ids)],
        )

    def apart(self, changed: Sequence[str] | None) -> tuple[list[str], pa.Table]:
        """Return what a snapshot that lacks some changes must not show, and the listed rows that it lacks.

        None stands for no snapshot at all.
        """
        if changed is None:
            return [], self.query(f"SELECT {_TOLD} FROM traces")
        unlisted = self.query("SELECT trace_id FROM catalog WHERE NOT _listed").column(0).to_pylist()
        rows = self.query(f"SELECT {_TOLD} FROM traces WHERE trace_id IN (SELECT unnest(?))", [list(changed)])
        return sorted({*changed, *unlisted}), rows

    def files(self) -> dict[str, str]:
        """Return the hashes of the files of all traces that are there, by trace id."""
        found = self.query("SELECT trace_id, _files FROM catalog WHERE _listed OR _state = 'damaged'")
        return dict(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))

    def wanting(self) -> list[JsonObject]:
        """Return the rows of traces that are open or have a problem."""
        if self._are_few:
            return [row for row in self._recent.values() if row["_state"] in (OPEN, DAMAGED) or "_problem" in row]
        told = self.query(f"SELECT {NAMES} FROM catalog WHERE _state IN ('open', 'damaged') OR _problem IS NOT NULL")
        return records(COLUMNS, told)

    def names_apart(self, trace_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these traces nothing is known of, and which known ones are not among them."""
        if self._are_few:
            names, rows = set(trace_ids), self._recent
            known = {each for each, row in rows.items() if row["_listed"] or row["_state"] in (OPEN, DAMAGED)}
            there = {each for each, row in rows.items() if row["_listed"] or row["_state"] == DAMAGED}
            return sorted(names - known), sorted(there - names)
        present = pa.table({"trace_id": pa.array(trace_ids, pa.string())})

        def ask(connection: duckdb.DuckDBPyConnection, seen: str) -> list[JsonObject]:
            with database.given(connection, "present", present):
                rows: list[JsonObject] = connection.sql(seen).to_arrow_table().to_pylist()
                return rows

        apart = self._answer(
            ask,
            "SELECT trace_id, true AS new FROM present ANTI JOIN "
            "(SELECT trace_id FROM catalog WHERE _listed OR _state IN ('open', 'damaged')) USING (trace_id) "
            "UNION ALL SELECT trace_id, false AS new FROM "
            "(SELECT trace_id FROM catalog WHERE _listed OR _state = 'damaged') "
            "ANTI JOIN present USING (trace_id)",
        )
        new = {str(row["trace_id"]): bool(row["new"]) for row in apart}
        return [each for each in new if new[each]], [each for each in new if not new[each]]

    def export(self, write: Callable[[pa.RecordBatchReader], Answer]) -> Answer:
        """Give all rows, newest first, as a snapshot holds them; return what is made of them."""
        if self._are_few:
            rows = _to_arrow(self._recent.values())
            return write(rows.sort_by([("created_at", "descending"), ("trace_id", "ascending")]).to_reader())

        def give(connection: duckdb.DuckDBPyConnection, seen: str) -> Answer:
            # One that is left open keeps the connection from all else.
            with connection.sql(seen).to_arrow_reader(ROW_GROUP_ROWS) as reader:
                try:
                    return write(reader)
                except OSError as error:  # what DuckDB's errors become on their way through Arrow
                    if isinstance(error, StorageError):
                        raise
                    kind = duckdb.OutOfMemoryException if "Out of Memory" in str(error) else duckdb.IOException
                    raise kind(str(error)) from error

        return self._answer(give, f"SELECT {NAMES} FROM catalog ORDER BY created_at DESC, trace_id")


class _InMemory:
    """Rows in an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def count(self) -> int:
        return int(self._table.num_rows)

    def rows(self) -> pa.Table:
        return self._table

    def save(self, path: Path) -> None:
        pq.write_table(self._table, path, row_group_size=ROW_GROUP_ROWS, compression="lz4")


class _FewRows:
    """Rows that SQL reads in an Arrow table."""

    def __init__(self, rows: pa.Table) -> None:
        self.connection = database.cursor()
        self.connection.register("catalog", rows)

    def ready(self) -> None:
        pass

    def close(self) -> None:
        self.connection.close()


class _ManyRows:
    """Rows in a table of DuckDB's."""

    some = some_of("catalog")

    def __init__(self, rows: pa.Table) -> None:
        self.connection = database.cursor()
        with database.given(self.connection, "rows", rows):
            self.connection.execute(f"CREATE TEMP TABLE catalog AS SELECT {NAMES} FROM rows")

    def ready(self) -> None:
        pass

    def change(self, trace_ids: Sequence[str], rows: pa.Table) -> None:
        """Drop the rows of some traces, and take others for them."""
        self.connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT unnest(?))", [list(trace_ids)])
        with database.given(self.connection, "incoming", rows):
            self.connection.execute(f"INSERT INTO catalog SELECT {NAMES} FROM incoming")

    def count(self) -> int:
        """Return how many rows there are."""
        return int(self.connection.sql("SELECT count(*) FROM catalog").fetchall()[0][0])

    def rows(self) -> pa.Table:
        """Return all rows, newest first."""
        return self.connection.sql(f"SELECT {NAMES} FROM catalog ORDER BY created_at DESC, trace_id").to_arrow_table()

    def close(self) -> None:
        self.connection.close()


@contextmanager
def _meant(
    connection: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, text: str, where: str | None
) -> Iterator[str]:
    """Give SQL whose `traces` are some rows, or those among them that meet a user's condition."""
    try:
        # No temporary view, so all catalogs of the process see its name.
        name = f"meant_{next(_numbers)}"
        (rows if where is None else rows.filter(where)).create_view(name)
        try:
            yield f"WITH traces AS (FROM {name}) {text}"
        finally:
            connection.execute(f"DROP VIEW {name}")
    except duckdb.OutOfMemoryException:
        raise  # there may be more
    except duckdb.Error as error:
        # DuckDB proposes columns of the catalog's own.
        told, proposal, _ = str(error).partition("Candidate bindings:")
        remedy = " A condition is on the columns of the view traces: docs/sql.md" if proposal else ""
        raise QueryError(f"where: {told.rstrip()}{remedy}") from error


def _to_arrow(rows: Iterable[JsonObject]) -> pa.Table:
    return pa.Table.from_pylist([to_row(COLUMNS, row) for row in rows], schema=SCHEMA)
