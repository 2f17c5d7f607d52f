"""SQL over an archive with DuckDB: the views `traces`, `goals`, `messages`, `events`.

Parts of sealed traces on a local disk are read by DuckDB itself, from a list of validated files;
live traces, and parts elsewhere, pass through Python as Arrow. User text is only ever executed,
never made part of other SQL.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import duckdb
import pyarrow as pa

from traceark.codec.fields import EVENTS, GOALS, MESSAGES, TRACES, Column
from traceark.codec.lines import to_record
from traceark.codec.parquet import PartInfo, part_info, to_table
from traceark.errors import CorruptFileError, DamagedTraceError, DamagedTraceWarning, QueryError
from traceark.layout import LogName
from traceark.listing import headers
from traceark.models import GoalTree, JsonObject
from traceark.pool import TracePool
from traceark.reading import StoredTrace
from traceark.storage.base import KeyMissingError
from traceark.storage.local import LocalStorage

VIEWS: dict[str, tuple[Column, ...]] = {"traces": TRACES, "goals": GOALS, "messages": MESSAGES, "events": EVENTS}
# In a path these would make DuckDB look for other files.
_GLOB = re.compile(r"([*?\[])")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


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
        return iter(self.rows())

    def __repr__(self) -> str:
        return f"QueryResult({len(self)} rows of {', '.join(self.columns)})"

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._table

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        return cast("list[dict[str, Any]]", self._table.to_pylist())

    def df(self) -> Any:
        """Return the rows as a pandas DataFrame; pandas must be installed."""
        return self._table.to_pandas()


async def run(pool: TracePool, text: str, parameters: Sequence[Any] | Mapping[str, Any] | None) -> QueryResult:
    """Answer a query; see `ArchiveStore.sql`."""
    tables: dict[str, pa.Table] = {}
    paths: dict[str, list[str]] = {}
    wanted = [name for name in VIEWS if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    if wanted:
        await _gather(pool, wanted, tables, paths)
    for name, columns in VIEWS.items():
        tables.setdefault(name, to_table(columns, []))
    return QueryResult(await asyncio.to_thread(_execute, text, parameters, tables, paths))


async def _gather(pool: TracePool, wanted: list[str], tables: dict[str, pa.Table], paths: dict[str, list[str]]) -> None:
    records: dict[str, list[JsonObject]] = {name: [] for name in wanted}
    for stored in await headers(pool):
        try:
            found = await _records(pool, stored, wanted, paths)
        except KeyMissingError:
            # Its files changed while it was read: compacted, sealed or deleted. Once more, from a new listing.
            again = await pool.stored(stored.trace_id)
            if again is None:
                continue
            found = await _records(pool, again, wanted, paths)
        except DamagedTraceError as error:
            warnings.warn(f"left out: {error}", DamagedTraceWarning, stacklevel=2)
            continue
        for name, rows in found.items():
            records[name] += rows
    for name, rows in records.items():
        tables[name] = to_table(VIEWS[name], rows)


async def _records(
    pool: TracePool, stored: StoredTrace, wanted: list[str], paths: dict[str, list[str]]
) -> dict[str, list[JsonObject]]:
    """Return a trace's rows for the views; note instead the paths of parts that DuckDB can read itself."""
    found: dict[str, list[JsonObject]] = {}
    direct: dict[str, str] = {}
    if not stored.is_exact():
        latest = await pool.stored(stored.trace_id)
        if latest is None:
            return found
        stored = latest
    if "traces" in wanted:
        found["traces"] = [to_record(await stored.trace())]
    if "goals" in wanted:
        tree = await stored.tree()
        if tree is not None:
            found["goals"] = list(_goal_records(stored.trace_id, tree))
    for log in ("messages", "events"):
        if log not in wanted:
            continue
        path = _sealed_part(stored, log, pool.footers())
        if path is not None:
            direct[log] = path
        elif log == "messages":
            found[log] = [row.record for row in await stored.messages()]
        else:
            found[log] = [row.record for row in (await stored.log("events")).records]
    for log, path in direct.items():
        paths.setdefault(log, []).append(path)
    return found


def _sealed_part(stored: StoredTrace, log: LogName, footers: dict[str, PartInfo]) -> str | None:
    """Return the path of the one part that is the whole log, if DuckDB can read it from a local disk.

    Its footer is looked at, not all its bytes: that is what `verify` is for.
    """
    storage = stored.storage
    if not isinstance(storage, LocalStorage) or not stored.is_sealed():
        return None
    names = [name.partition("/")[2] for name in stored.entries if name.startswith(f"{log}/")]
    if len(names) != 1:
        return None
    directory = f"{stored.prefix}/{log}"
    key = f"{directory}/{names[0]}"
    path = storage.path(key)
    if key not in footers:
        try:
            with path.open("rb") as file:
                footers[key] = part_info(file, key)
        except (FileNotFoundError, CorruptFileError):
            return None  # reading it through Python says what is wrong
    info = footers[key]
    if not info.folded or (info.first, info.last) != (1, stored.header.checkpoint.ends[log]):
        return None
    return _GLOB.sub(r"[\1]", str(path))


def _goal_records(trace_id: str, tree: GoalTree) -> Iterator[JsonObject]:
    for position, goal in enumerate(tree.goals):
        record = to_record(goal)
        yield {"trace_id": trace_id, "goal_id": record.pop("id"), "position": position, **record}


def _execute(
    text: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    tables: Mapping[str, pa.Table],
    paths: Mapping[str, list[str]],
) -> pa.Table:
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            columns = ", ".join(f'"{column.name}"' for column in VIEWS[name])
            connection.register(f"live_{name}", table)
            view = f"SELECT {columns} FROM live_{name}"
            if paths.get(name):
                connection.read_parquet(paths[name], hive_partitioning=False).create_view(f"sealed_{name}")
                view = f"SELECT {columns} FROM sealed_{name} UNION ALL {view}"
            connection.execute(f"CREATE VIEW {name} AS {view}")
        try:
            if not connection.extract_statements(text):
                raise QueryError("the query is empty; write a SELECT")
            # A statement that returns nothing has no relation; the stub does not say so.
            relation = cast("duckdb.DuckDBPyRelation | None", connection.sql(text, params=parameters))
            return _with_plain_sums(relation.to_arrow_table()) if relation is not None else pa.table({})
        except duckdb.Error as error:
            raise QueryError(str(error)) from error


def _with_plain_sums(table: pa.Table) -> pa.Table:
    """Return sums of integers as 64-bit ones where they fit; DuckDB has 128-bit ones, which Arrow calls decimals."""
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal128(field.type) and field.type.scale == 0:
            try:
                table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue  # too large: it stays a decimal
    return table
