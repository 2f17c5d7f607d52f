"""The table `traces`, one row a trace, and queries over it.

Queries come with bound values; a user's own condition is parsed by DuckDB as one expression, and
runs where no file can be opened.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from traceark import listing
from traceark.codec.fields import TRACES
from traceark.codec.lines import to_record
from traceark.codec.parquet import to_table
from traceark.errors import QueryError
from traceark.pool import TracePool

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
_numbers = itertools.count(1)


async def select(pool: TracePool, text: str, parameters: Mapping[str, Any], *, where: str | None = None) -> pa.Table:
    """Return the rows that a query over the table `traces` gives, as of now.

    Parameters
    ----------
    pool : TracePool
        The store's traces.
    text : str
        A SELECT over `traces`, made by this package.
    parameters : mapping
        Bound by name.
    where : str, optional
        A user's condition: only traces that meet it are in the table.

    Raises
    ------
    QueryError
        DuckDB refused the condition.
    """
    found = [await listing.exact(pool, stored) for stored in await listing.headers(pool)]
    table = to_table(TRACES, [to_record(trace) for trace in found if trace is not None])

    def run() -> pa.Table:
        with duckdb.connect(":memory:", config=_CONFIG) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("given", table)
            connection.execute("CREATE TABLE traces AS SELECT * FROM given")
            return answer(connection, text, parameters, where)

    return await asyncio.to_thread(run)


def answer(
    connection: duckdb.DuckDBPyConnection, text: str, parameters: Mapping[str, Any], where: str | None
) -> pa.Table:
    """Run a query over the table `traces` of a connection, which must have no access to files."""
    if where is None:
        return connection.sql(text, params=parameters).to_arrow_table()
    name = f"meant_{next(_numbers)}"
    try:
        connection.table("traces").filter(where).create_view(name)
        try:
            return connection.sql(f"WITH traces AS (FROM {name}) {text}", params=parameters).to_arrow_table()
        finally:
            connection.execute(f"DROP VIEW {name}")
    except duckdb.Error as error:
        raise QueryError(f"where: {error}") from error
