"""SQL over an archive with DuckDB: the views `traces`, `goals`, `messages`, `events`, and macros.

User text is only ever executed, never made part of other SQL. `gather` finds the sources of the
views, `views` makes them, `macros` has the SQL that everybody needs, `sandbox` refuses what does
more than read, and `running` runs it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import duckdb

from traceark import database
from traceark.errors import QueryError
from traceark.pool import TracePool
from traceark.query.finding import find
from traceark.query.gather import gather
from traceark.query.result import QueryResult
from traceark.query.running import Parameters, answer
from traceark.query.views import wanted_views
from traceark.storage.base import KeyMissingError

__all__ = ["QueryResult", "find", "run"]

# Errors of DuckDB that no damage to a file brings about, but a query, or who asked it.
_OF_QUERIES = (
    duckdb.ParserException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.OutOfMemoryException,
    duckdb.InterruptException,
)
# On a disk a rollup goes as soon as it is merged into another, which `optimize` may do again and again.
_ATTEMPTS = 20


async def run(pool: TracePool, text: str, parameters: Parameters = None, *, sandbox: bool = False) -> QueryResult:
    """Answer a query; see `ArchiveStore.sql`."""
    wanted = wanted_views(text)
    for again in range(_ATTEMPTS, -1, -1):
        paths: list[str] = []
        try:
            sources = await gather(pool, wanted)
            paths = [path for found in sources.values() for source in found for path in source.paths]
            return await answer(sources, text, parameters, sandbox=sandbox)
        except (QueryError, KeyMissingError) as error:
            # A file went between the look and the reading: merged into another rollup, or its trace reopened.
            vanished = isinstance(error, KeyMissingError) or not all(Path(path).exists() for path in paths)
            if not vanished and not await _leaves_out(pool, error, paths):
                raise
            if not again:
                raise QueryError(
                    f"files of {pool.url} went while they were read, {_ATTEMPTS + 1} times ({error}); "
                    "ask again when `optimize` or whatever moves them is done"
                ) from error
    raise AssertionError


async def _leaves_out(pool: TracePool, error: Exception, paths: Collection[str]) -> bool:
    """Say whether it was a damaged rollup that made a query fail, which is done without from now on."""
    cause = error.__cause__
    if not isinstance(cause, database.ERRORS) or isinstance(cause, _OF_QUERIES):
        return False
    # A column that is not there is mostly a slip of the pen, for which not all rollups need to be read.
    by_columns = isinstance(cause, duckdb.BinderException)
    pools = (pool,) if pool.under is None else (pool, pool.under)
    found = [await each.standing.reader.leave_out_damaged(paths, by_columns=by_columns) for each in pools]
    return any(found)
