"""The catalog in memory: rows kept up to date trace by trace, for DuckDB to ask.

A statement that writes all columns costs DuckDB as much for one row as for hundreds. So rows that
change wait until somebody asks, and those of a small catalog are asked where they are.

Blocking, and for one thread at a time. Knows rows and Arrow, no notes and no storage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from traceark import database
from traceark.catalog.rows import COLUMNS, DAMAGED, OPEN
from traceark.catalog.snapshot import SCHEMA
from traceark.codec.fields import TRACES
from traceark.codec.parquet import to_row
from traceark.codec.parts import records
from traceark.errors import QueryError
from traceark.models import JsonObject

_numbers = itertools.count(1)
# A catalog of so many rows at most is kept as Python objects; of larger ones only the newest are.
_FEW = 256
_NAMES = ", ".join(f'"{column.name}"' for column in COLUMNS)
_TOLD = ", ".join(f'"{column.name}"' for column in TRACES)


class CatalogTable:
    """All rows; for SQL in `catalog`, and those that are there and readable in the view `traces`."""

    def __init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        # Whether the rows are in a table of DuckDB's.
        self._large = False
        # Rows that were put lately, the last ones last; all rows, until they are in a table.
        self._recent: dict[str, JsonObject] = {}
        # The traces that SQL does not see as they are.
        self._changed: set[str] = set()

    def _ready(self) -> duckdb.DuckDBPyConnection:
        """Return a connection that sees all rows as they are."""
        if self._connection is None or (self._changed and not self._large):
            self._connect(_to_arrow(self._recent.values()))
        elif self._changed:
            with _given(self._connection, "incoming", _to_arrow(self._recent[each] for each in self._changed)):
                self._connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT trace_id FROM incoming)")
                self._connection.execute(f"INSERT INTO catalog SELECT {_NAMES} FROM incoming")
        self._changed.clear()
        if self._large:
            for trace_id in list(itertools.islice(self._recent, max(0, len(self._recent) - _FEW))):
                del self._recent[trace_id]
        assert self._connection is not None
        return self._connection

    def _connect(self, rows: pa.Table) -> None:
        """Let a new connection see some rows."""
        self._disconnect()
        self._connection, self._large = database.cursor(), rows.num_rows > _FEW
        if self._large:
            with _given(self._connection, "rows", rows):
                self._connection.execute(f"CREATE TEMP TABLE catalog AS SELECT {_NAMES} FROM rows")
        else:
            self._connection.register("catalog", rows)
        self._connection.execute("CREATE TEMP VIEW traces AS SELECT * FROM catalog WHERE _listed")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._large = None, False

    def clear(self) -> None:
        """Forget all rows, and give their memory back."""
        self._recent.clear()
        self._changed.clear()
        self._disconnect()

    def load(self, snapshot: pa.Table) -> None:
        """Take the rows of a snapshot in place of all others."""
        self.clear()
        if snapshot.num_rows > _FEW:
            self._connect(snapshot)
        else:
            self.put(records(COLUMNS, snapshot))

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
        if not self._large:
            self._changed.update(trace_ids)
        elif trace_ids:
            assert self._connection is not None
            self._changed.difference_update(trace_ids)
            self._connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT unnest(?))", [list(trace_ids)])

    def rows(self, trace_ids: Iterable[str]) -> dict[str, JsonObject]:
        """Return the rows of some traces, by trace id."""
        ids = list(trace_ids)
        found = {each: self._recent[each].copy() for each in ids if each in self._recent}
        others = [each for each in ids if each not in found]
        if others and self._large:
            told = self.query(f"SELECT {_NAMES} FROM catalog WHERE trace_id IN (SELECT unnest(?))", [others])
            found |= {str(record["trace_id"]): record for record in records(COLUMNS, told)}
        return found

    def query(
        self, text: str, parameters: Any = None, where: str | None = None, over: pa.Table | None = None
    ) -> pa.Table:
        """Answer SQL over `catalog` and `traces`.

        `over` are rows of `traces` that stand for those of the same traces; `where` is a user's
        condition on what is in `traces`.
        """
        with self._seeing(text, where, over) as (connection, seen):
            return connection.sql(seen, params=parameters).to_arrow_table()

    def fetch(
        self, text: str, parameters: Any = None, where: str | None = None, over: pa.Table | None = None
    ) -> list[tuple[Any, ...]]:
        """Answer as `query` does, with rows of Python's values; of few rows that is faster, as SQL is planned once."""
        with self._seeing(text, where, over) as (connection, seen):
            return connection.execute(seen, parameters).fetchall()

    @contextmanager
    def _seeing(
        self, text: str, where: str | None, over: pa.Table | None
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """Give a connection that sees all rows as they are, and SQL whose `traces` are those that are meant."""
        connection = self._ready()
        if over is not None:
            with _given(connection, "over", over):
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
        if not self._large:
            return [row for row in self._recent.values() if row["_state"] in (OPEN, DAMAGED) or "_problem" in row]
        told = self.query(f"SELECT {_NAMES} FROM catalog WHERE _state IN ('open', 'damaged') OR _problem IS NOT NULL")
        return records(COLUMNS, told)

    def names_apart(self, trace_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these traces nothing is known of, and which known ones are not among them."""
        if not self._large:
            present, rows = set(trace_ids), self._recent
            known = {each for each, row in rows.items() if row["_listed"] or row["_state"] in (OPEN, DAMAGED)}
            there = {each for each, row in rows.items() if row["_listed"] or row["_state"] == DAMAGED}
            return sorted(present - known), sorted(there - present)
        connection = self._ready()
        with _given(connection, "present", pa.table({"trace_id": pa.array(trace_ids, pa.string())})):
            apart = self.query(
                "SELECT trace_id, true AS new FROM present ANTI JOIN "
                "(SELECT trace_id FROM catalog WHERE _listed OR _state IN ('open', 'damaged')) USING (trace_id) "
                "UNION ALL SELECT trace_id, false AS new FROM "
                "(SELECT trace_id FROM catalog WHERE _listed OR _state = 'damaged') "
                "ANTI JOIN present USING (trace_id)"
            ).to_pylist()
        return [row["trace_id"] for row in apart if row["new"]], [row["trace_id"] for row in apart if not row["new"]]

    def export(self) -> pa.Table:
        """Return all rows, newest first, as a snapshot holds them."""
        if not self._large:
            return _to_arrow(self._recent.values()).sort_by([("created_at", "descending"), ("trace_id", "ascending")])
        return self.query(f"SELECT {_NAMES} FROM catalog ORDER BY created_at DESC, trace_id")


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
    except duckdb.Error as error:
        raise QueryError(f"where: {error}") from error


def _to_arrow(rows: Iterable[JsonObject]) -> pa.Table:
    return pa.Table.from_pylist([to_row(COLUMNS, row) for row in rows], schema=SCHEMA)


@contextmanager
def _given(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Let SQL read an Arrow table by a name."""
    connection.register(name, table)
    try:
        yield
    finally:
        connection.unregister(name)
