"""A DuckDB connection with the views and macros, closed to everything that a query has no need of.

The SQL here is made of names from the field table and of quoted paths, never of a query's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import duckdb

from traceark import database
from traceark.codec.parquet import to_table
from traceark.query import macros
from traceark.query.sandbox import check
from traceark.query.sources import VIEWS, Source, Sources

# In a path these would make DuckDB look for other files.
_GLOB = re.compile(r"([*?\[])")
# To look at a longer query takes longer than to open a database.
_SHORT = 5_000
# These read a view whose name the text need not spell.
_BY_NAME = re.compile(r"\b(query|query_table|json_execute_serialized_sql)\b", re.IGNORECASE)


def wanted_views(text: str) -> list[str]:
    """Return the views that a query may read.

    Examples
    --------
    >>> wanted_views('SELECT * FROM "Messages" JOIN goals USING (trace_id)'), wanted_views("FROM tool_call_rows()")
    (['goals', 'messages'], ['messages'])
    """
    if _BY_NAME.search(text):
        return list(VIEWS)
    named = {name for name in VIEWS if _names(name, text)}
    for macro in macros.MACROS:
        if _names(macro.name, text):
            named.update(macro.views)
    return [name for name in VIEWS if name in named]


def _names(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None


@contextmanager
def connected(sources: Sources, text: str, *, sandbox: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for one query.

    Parameters
    ----------
    sources : mapping
        The sources of the views.
    text : str
        The query, for what it has need of.
    sandbox : bool
        Nothing but the files of `sources` can be read, nothing written, no setting changed; what does
        not fit into memory is an error.
    """
    lent = database.lent(lambda connection: _is_harmless(connection, text))
    with closing(database.connect(temp_directory="")) if sandbox else lent as connection:
        for name in VIEWS:
            _create_view(connection, name, sources.get(name, ()))
        if any(_names(macro.name, text) for macro in macros.MACROS):
            for statement in macros.statements():
                _run(connection, statement)
        if sandbox:
            _lock(connection, [path for found in sources.values() for source in found for path in source.paths])
        yield connection


def _is_harmless(connection: duckdb.DuckDBPyConnection, text: str) -> bool:
    """Tell whether a query did nothing but what the sandbox allows, where nothing can be changed."""
    if len(text) > _SHORT:
        return False
    try:
        check(connection, text)
    except Exception:  # it has been answered: what the sandbox cannot look at just gets no second use of its database
        return False
    return True


def _run(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    connection.execute(statement).fetchall()


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source]) -> None:
    columns = ", ".join(f'"{column.name}"' for column in VIEWS[name])
    parts = [
        f"SELECT {columns} FROM {_relation(connection, f'_{name}_{position}', source)}"
        for position, source in enumerate(sources)
        if source.paths or source.table is not None
    ]
    if not parts:
        empty = Source(table=to_table(VIEWS[name], []))
        parts = [f"SELECT {columns} FROM {_relation(connection, f'_{name}', empty)}"]
    _run(connection, f"CREATE TEMP VIEW {name} AS {' UNION ALL '.join(parts)}")


def _relation(connection: duckdb.DuckDBPyConnection, name: str, source: Source) -> str:
    """Make a source known by a name; return what stands after FROM."""
    if source.paths:
        files = ", ".join(_quoted(_GLOB.sub(r"[\1]", path)) for path in source.paths)
        _run(connection, f"CREATE TEMP VIEW {name} AS FROM read_parquet([{files}], hive_partitioning = false)")
    else:
        connection.register(name, source.table)
    if source.masked is None:
        return name
    connection.register(f"{name}_masked", source.masked)
    return f"{name} ANTI JOIN {name}_masked USING (trace_id)"


def _lock(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    # A file is asked for by its pattern when a query is bound and by its name when it is opened.
    allowed = {*paths, *(_GLOB.sub(r"[\1]", path) for path in paths)}
    _run(connection, f"SET allowed_paths = [{', '.join(map(_quoted, sorted(allowed)))}]")
    _run(connection, "SET enable_external_access = false")
    _run(connection, "SET lock_configuration = true")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
