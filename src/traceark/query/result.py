"""The answer to a query: rows in memory, in the form that the caller works with.

Knows Arrow and, when asked, DuckDB, pandas and polars; nothing of archives.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.errors import MissingLibraryError, QueryError
from traceark.replacing import replacing

# What a notebook shows of a large result, and of a long value.
_SHOWN_ROWS = 20
_SHOWN_CHARS = 200


class QueryResult:
    """The rows of a query.

    Parameters
    ----------
    table : pyarrow.Table
        All rows, in memory.

    Examples
    --------
    >>> import traceark
    >>> with traceark.open("memory://empty") as archive:
    ...     archive.sql("SELECT count(*) AS n FROM traces").rows()
    [{'n': 0}]
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return list(self._table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        return f"QueryResult({len(self)} rows of {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        """Return the first rows as a table for a notebook; every text is escaped."""
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        shown = self._table.slice(0, _SHOWN_ROWS)
        lines = zip(*(column.to_pylist() for column in shown.columns), strict=True)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in line)}</tr>" for line in lines)
        count = f"{len(self):,} row{'' if len(self) == 1 else 's'}"
        more = f", the first {_SHOWN_ROWS} shown" if len(self) > _SHOWN_ROWS else ""
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table><p>{count}{more}</p>"

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._table

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        return cast("list[dict[str, Any]]", self._table.to_pylist())

    def relation(self) -> duckdb.DuckDBPyRelation:
        """Return the rows as a DuckDB relation, to go on in DuckDB.

        It stands on a connection of its own, which sees these rows and not the archive.
        """
        return database.connect().from_arrow(self._table)

    def values(self) -> list[list[Any]]:
        """Return the values column by column; times with nanoseconds, which Python has no type for, are text.

        Examples
        --------
        >>> QueryResult(pa.table({"n": [1, 2], "t": pa.array([1, None], pa.timestamp("ns"))})).values()
        [[1, 2], ['1970-01-01 00:00:00.000000001', None]]
        """
        return [_told(column).to_pylist() for column in self._table.columns]

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows to a Parquet file; one that is there is replaced, once the new one is whole.

        Raises
        ------
        QueryError
            A column has a type that Parquet lacks.
        StorageError
            The file cannot be written.
        """
        with replacing(Path(path)) as beside:
            try:
                pq.write_table(self._table, beside, compression="zstd")
            except pa.ArrowNotImplementedError as error:
                raise QueryError(
                    f"Parquet cannot hold this ({error}); cast the column, for example to VARCHAR"
                ) from None

    def df(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises
        ------
        MissingLibraryError
            pandas is not installed.
        """
        _needed("pandas")
        return self._table.to_pandas()

    def pl(self) -> Any:
        """Return the rows as a polars DataFrame.

        Raises
        ------
        MissingLibraryError
            polars is not installed.
        """
        return _needed("polars").from_arrow(self._table)


def _told(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = _told_type(column.type)
    return column if kind == column.type else column.cast(kind)


def _told_type(kind: pa.DataType) -> pa.DataType:
    """Return a type with text instead of times of nanoseconds, wherever they are in it."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_told_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_told_type(kind.key_type), _told_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_told_type(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_told_type(kind.value_type))
    is_time = pa.types.is_timestamp(kind) or pa.types.is_time64(kind)
    return pa.string() if is_time and kind.unit == "ns" else kind


def _needed(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError:
        raise MissingLibraryError(f"{library} is not installed; run: pip install {library}") from None


def _cell(value: object) -> str:
    text = "NULL" if value is None else str(value)
    return html.escape(text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…")
