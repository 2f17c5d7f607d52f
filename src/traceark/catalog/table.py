"""The catalog in memory: a DuckDB table of all rows, kept up to date trace by trace.

Blocking, and for one thread at a time. Knows rows and Arrow, no notes and no storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from traceark.catalog.rows import COLUMNS
from traceark.catalog.snapshot import SCHEMA
from traceark.codec.parquet import to_row
from traceark.codec.parts import records
from traceark.errors import QueryError
from traceark.models import JsonObject

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
_NAMES = ", ".join(f'"{column.name}"' for column in COLUMNS)


class CatalogTable:
    """All rows, in a DuckDB table `catalog`; the view `traces` has those that are there and readable.

    Parameters
    ----------
    directory : Path, optional
        Where snapshots lie that DuckDB may read itself; it opens no other files.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._connection = duckdb.connect(":memory:", config=_CONFIG)
        if directory is not None:
            # A file is asked for by its pattern first, and by its name when it is opened.
            self._connection.execute("SET allowed_directories = ?", [[str(directory), _escaped(directory)]])
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET TimeZone = 'UTC'")
        empty = SCHEMA.empty_table()
        self._connection.register("empty", empty)
        self._connection.execute(f"CREATE TABLE catalog AS SELECT {_NAMES} FROM empty")
        self._connection.unregister("empty")
        self._connection.execute("CREATE VIEW traces AS SELECT * FROM catalog WHERE _listed")

    def clear(self) -> None:
        """Forget all rows."""
        self._connection.execute("TRUNCATE catalog")

    def load(self, source: Path | pa.Table) -> None:
        """Take the rows of a snapshot in place of all others; a path is read by DuckDB itself."""
        self.clear()
        if isinstance(source, Path):
            relation = self._connection.read_parquet([_escaped(source)], hive_partitioning=False)
            relation.create_view("snapshot")
        else:
            self._connection.register("snapshot", source)
        try:
            self._connection.execute(f"INSERT INTO catalog SELECT {_NAMES} FROM snapshot")
        finally:
            if isinstance(source, Path):
                self._connection.execute("DROP VIEW snapshot")
            else:
                self._connection.unregister("snapshot")

    def put(self, rows: Iterable[JsonObject]) -> None:
        """Put rows in place of those of the same traces."""
        table = pa.Table.from_pylist([to_row(COLUMNS, row) for row in rows], schema=SCHEMA)
        if table.num_rows:
            self._connection.register("incoming", table)
            self._connection.execute("DELETE FROM catalog WHERE trace_id IN (SELECT trace_id FROM incoming)")
            self._connection.execute(f"INSERT INTO catalog SELECT {_NAMES} FROM incoming")
            self._connection.unregister("incoming")

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

    def files(self) -> dict[str, str]:
        """Return the hashes of the files of all traces that are there, by trace id."""
        found = self.query("SELECT trace_id, _files FROM catalog WHERE _listed OR _state = 'damaged'")
        return dict(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))

    def names_apart(self, trace_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return which of these traces nothing is known of, and which known ones are not among them."""
        self._connection.register("present", pa.table({"trace_id": pa.array(trace_ids, pa.string())}))
        known = "(SELECT trace_id FROM catalog WHERE _listed OR _state IN ('open', 'damaged'))"
        there = "(SELECT trace_id FROM catalog WHERE _listed OR _state = 'damaged')"
        new = self.query(f"SELECT trace_id FROM present ANTI JOIN {known} USING (trace_id)")
        missing = self.query(f"SELECT trace_id FROM {there} ANTI JOIN present USING (trace_id)")
        self._connection.unregister("present")
        return new.column(0).to_pylist(), missing.column(0).to_pylist()

    def export(self) -> pa.Table:
        """Return all rows, newest first, as a snapshot holds them."""
        return self.query(f"SELECT {_NAMES} FROM catalog ORDER BY created_at DESC, trace_id")

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()


def _escaped(path: Path) -> str:
    """Return a path that DuckDB takes for one file, whatever characters it has."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in str(path))
