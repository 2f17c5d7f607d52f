"""SQL over an archive with DuckDB: the views `traces`, `goals`, `messages`, `events`, and macros.

User text is only ever executed, never made part of other SQL. `gather` finds the sources of the
views, `views` makes them, `macros` has the SQL that everybody needs, `sandbox` refuses what does
more than read, and `running` runs it.
"""

from __future__ import annotations

from traceark.pool import TracePool
from traceark.query.gather import gather
from traceark.query.result import QueryResult
from traceark.query.running import Parameters, answer
from traceark.query.views import wanted_views

__all__ = ["QueryResult", "run"]


async def run(pool: TracePool, text: str, parameters: Parameters = None, *, sandbox: bool = False) -> QueryResult:
    """Answer a query; see `ArchiveStore.sql`."""
    return await answer(await gather(pool, wanted_views(text)), text, parameters, sandbox=sandbox)
