"""Running a query: off the event loop, in a thread of its own, which ends when its task is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, cast

import duckdb
import pyarrow as pa

from traceark import database
from traceark.errors import QueryError
from traceark.query.result import QueryResult
from traceark.query.sandbox import check
from traceark.query.sources import Sources
from traceark.query.views import connected

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any] | None
# An interruption that comes just before a statement begins is lost, so it is repeated.
_REPEAT_SECONDS = 0.01


async def answer(sources: Sources, text: str, parameters: Parameters = None, *, sandbox: bool = False) -> QueryResult:
    """Answer a query from the sources of the views; cancelling this interrupts DuckDB and waits for its thread.

    Raises
    ------
    QueryError
    """
    query = _Query(sources, text, parameters, sandbox)
    executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="traceark query")
    try:
        work = asyncio.get_running_loop().run_in_executor(executor, query.table)
        try:
            return QueryResult(await asyncio.shield(work))
        except asyncio.CancelledError:
            # In a thread as well, so that it ends even where the loop is stopped before.
            executor.submit(query.stop)
            await _ended(work)
            raise
    finally:
        executor.shutdown(wait=False)


async def _ended(work: asyncio.Future[pa.Table]) -> None:
    """Wait for work to end, whatever its end; a further cancellation makes no difference."""
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:
            continue  # the first one is raised when the thread has ended
    work.exception()  # taken notice of; it says that the query was interrupted


class _Query:
    """One query and the connection that it runs on."""

    def __init__(self, sources: Sources, text: str, parameters: Parameters, sandbox: bool) -> None:
        self._sources = sources
        self._text = text
        self._parameters = parameters
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._stopped = False
        self._ended = threading.Event()

    def stop(self) -> None:
        """Interrupt it until it has ended."""
        self._stopped = True
        while not self._ended.is_set():
            with self._lock:
                if self._connection is not None:
                    self._connection.interrupt()
            self._ended.wait(_REPEAT_SECONDS)

    def table(self) -> pa.Table:
        """Run it, and return its rows."""
        try:
            with connected(self._sources, self._text, sandbox=self._sandbox) as connection:
                with self._lock:
                    self._connection = connection
                try:
                    return self._rows(connection)
                finally:
                    with self._lock:
                        self._connection = None
        except database.ERRORS as error:
            raise QueryError(database.reason_of(error)) from error
        finally:
            self._ended.set()

    def _rows(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        try:
            statements = connection.extract_statements(self._text)
        except TypeError:
            raise QueryError("the query is no text, or has half of a surrogate pair in it") from None
        if not statements:
            raise QueryError("the query is empty; write a SELECT")
        try:
            if self._sandbox:
                check(connection, self._text)
                connection.execute("BEGIN TRANSACTION READ ONLY").fetchall()
            if self._stopped:
                raise QueryError("the query was interrupted")
            # A statement that returns nothing has no relation; the stub does not say so.
            relation = cast("duckdb.DuckDBPyRelation | None", connection.sql(self._text, params=self._parameters))
            return _plain(relation.to_arrow_table()) if relation is not None else pa.table({})
        except TypeError as error:
            raise QueryError(f"parameters are a sequence for ? or a mapping for $name ({error})") from error


def _plain(table: pa.Table) -> pa.Table:
    """Return sums of integers as 64-bit ones where they fit, and number columns that share a name.

    DuckDB's sums have 128 bits, which Arrow calls decimals.
    """
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal128(field.type) and field.type.scale == 0:
            try:
                table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue  # too large: it stays a decimal
    return table.rename_columns(distinct(table.column_names))


def distinct(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same.

    Examples
    --------
    >>> distinct(["a", "a", "a_2", "a"])
    ['a', 'a_2', 'a_2_2', 'a_3']
    """
    found: dict[str, None] = {}
    for name in names:
        number, told = 1, name
        while told in found:
            number += 1
            told = f"{name}_{number}"
        found[told] = None
    return list(found)
