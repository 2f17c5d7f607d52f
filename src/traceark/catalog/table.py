"""The catalog in memory: a DuckDB table of all rows, kept up to date trace by trace.

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
from traceark.catalog.rows import COLUMNS
from traceark.catalog.snapshot import SCHEMA
from traceark.codec.fields import TRACES
from traceark.codec.parquet import to_row
from traceark.codec.parts import records
from traceark.errors import QueryError
from traceark.models import JsonObject

_numbers = itertools.count(1)
_NAMES = ", ".join(f'"{column.name}"' for column in COLUMNS)


class CatalogTable:
    """All rows, in a DuckDB table `catalog`; the view `traces` has those that are there and readable."""

    def __init__(self) -> None:
        self._connection = database.cursor()
        self._schema = f"catalog_{next(_numbers)}"
        self._connection.execute(f"CREATE SCHEMA {self._schema}")
        self._connection.execute(f"SET schema = '{self._schema}'")
        with self._given("empty", SCHEMA.empty_table()):
            self._connection.execute(f"CREATE TABLE catalog AS SELECT {_NAMES} FROM empty")
        self._connection.execute("CREATE VIEW traces AS SELECT * FROM catalog WHERE _listed")

    @contextmanager
    def _given(self, name: str, table: pa.Table) -> Iterator[None]:
        """Let SQL read an Arrow table by a name."""
        self._connection.register(name, table)
        try:
            yield
        finally:
            self._connection.unregister(name)

    def clear(self) -> None:
        """Forget all rows."""
        self._connection.execute("TRUNCATE catalog")

    def load(self, snapshot: pa.Table) -> None:
        """Take the rows of a snapshot in place of all others."""
        self.clear()
        with self._given("snapshot", snapshot):
            self._connection.execute(f"INSERT INTO catalog SELECT {_NAMES} FROM snapshot")

    def put(self, rows: Iterable[JsonObject]) -> None:
        """Put rows in place of those of the same traces."""
        table = pa.Table.from_pylist([to_row(COLUMNS, row) for row in rows], schema=SCHEMA)
        if table.num_rows:
            with self._given("incoming", table):
                self._connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT trace_id FROM incoming)")
                self._connection.execute(f"INSERT INTO catalog SELECT {_NAMES} FROM incoming")

    def remove(self, trace_ids: Sequence[str]) -> None:
        """Drop the rows of some traces."""
        if trace_ids:
            self._connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT unnest(?))", [list(trace_ids)])

    def query(self, text: str, parameters: Any = None, where: str | None = None) -> pa.Table:
        """Answer SQL over `catalog` and `traces`; `where` is a user's condition on what is in `traces`."""
        if where is None:
            return self._connection.sql(text, params=parameters).to_arrow_table()
        try:
            self._connection.table("traces").filter(where).create_view("meant")
            try:
                return self._connection.sql(f"WITH traces AS (FROM meant) {text}", params=parameters).to_arrow_table()
            finally:
                self._connection.execute("DROP VIEW meant")
        except duckdb.Error as error:
            raise QueryError(f"where: {error}") from error

    def rows(self, trace_ids: Iterable[str]) -> dict[str, JsonObject]:
        """Return the rows of some traces, by trace id."""
        found = self.query(f"SELECT {_NAMES} FROM catalog WHERE trace_id IN (SELECT unnest(?))", [list(trace_ids)])
        return {str(record["trace_id"]): record for record in records(COLUMNS, found)}

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
        names = ", ".join(f'"{column.name}"' for column in TRACES)
        if changed is None:
            return [], self.query(f"SELECT {names} FROM traces")
        unlisted = self.query("SELECT trace_id FROM catalog WHERE NOT _listed").column(0).to_pylist()
        rows = self.query(f"SELECT {names} FROM traces WHERE trace_id IN (SELECT unnest(?))", [list(changed)])
        return sorted({*changed, *unlisted}), rows

    def files(self) -> dict[str, str]:
        """Return the hashes of the files of all traces that are there, by trace id."""
        found = self.query("SELECT trace_id, _files FROM catalog WHERE _listed OR _state = 'damaged'")
        return dict(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))

    def names_apart(self, trace_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these traces nothing is known of, and which known ones are not among them."""
        present = pa.table({"trace_id": pa.array(trace_ids, pa.string())})
        known = "(SELECT trace_id FROM catalog WHERE _listed OR _state IN ('open', 'damaged'))"
        there = "(SELECT trace_id FROM catalog WHERE _listed OR _state = 'damaged')"
        with self._given("present", present):
            apart = self.query(
                f"SELECT trace_id, true AS new FROM present ANTI JOIN {known} USING (trace_id) UNION ALL "
                f"SELECT trace_id, false AS new FROM {there} ANTI JOIN present USING (trace_id)"
            ).to_pylist()
        return [row["trace_id"] for row in apart if row["new"]], [row["trace_id"] for row in apart if not row["new"]]

    def export(self) -> pa.Table:
        """Return all rows, newest first, as a snapshot holds them."""
        return self.query(f"SELECT {_NAMES} FROM catalog ORDER BY created_at DESC, trace_id")

    def close(self) -> None:
        """Give the memory back."""
        self._connection.execute("SET schema = 'main'")
        self._connection.execute(f"DROP SCHEMA {self._schema} CASCADE")
        self._connection.close()
