"""What a query may say in the sandbox: one statement that reads the views, and nothing else.

DuckDB's own locks keep a query from files and settings (`views`). This module looks at the query's
tree before it runs, for what those locks leave open: functions that take addresses of memory, that
run other text as SQL or tell of the machine, and writes inside a SELECT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from traceark.errors import QueryError
from traceark.query.macros import MACROS
from traceark.query.sources import VIEWS

# Functions that stand after FROM. Whatever is not here is refused: most others read files, and some crash.
_TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "summary", "unnest"}
    | {macro.name for macro in MACROS}
)
_REFUSED_FUNCTIONS = frozenset(
    {
        "current_setting", "getenv", "json_deserialize_sql", "json_execute_serialized_sql", "json_serialize_plan",
        "json_serialize_sql", "nextval", "pg_get_viewdef", "pg_sleep", "setval", "sleep_ms", "write_log",
    }
)  # fmt: skip
# SHOW of these gives names and columns only.
_SHOWN = frozenset({"tables", "__show_tables_expanded"} | set(VIEWS))
# What a query names its results must not be what DuckDB or `views` names tables that the sandbox hides.
_HIDDEN = ("_", "duckdb_", "pg_", "pragma_", "sqlite_")
_READING = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})


def check(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Refuse a query that does more than read the views.

    Raises
    ------
    QueryError
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise QueryError(f"the sandbox runs one statement, not {len(statements)}")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        check(connection, _explained(text))
        return
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"the sandbox only reads; {kind.name} is refused (write a SELECT)")
    asked = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [text]).fetchall()
    try:
        tree = json.loads(asked[0][0])
        if tree["error"]:
            raise QueryError(f"the sandbox cannot tell what this does: {tree['error_message']}")
        nodes = list(_nodes(tree["statements"]))
    except RecursionError:
        raise QueryError("the query is nested too deeply for the sandbox") from None
    own = {entry["key"].lower() for node in nodes for entry in _named_results(node)}
    for name in own:
        if name.startswith(_HIDDEN):
            raise QueryError(f"give the result {name!r} another name: tables of such names are hidden in the sandbox")
    for node in nodes:
        _check_node(node, own)


def _explained(text: str) -> str:
    """Return the statement after EXPLAIN and its options."""
    depth = 0
    for start, kind in duckdb.tokenize(text):
        word = text.encode()[start:].decode(errors="replace")
        if word.startswith("("):
            depth += 1
        elif word.startswith(")"):
            depth -= 1
        first = word[:7].lower()
        if depth == 0 and kind != duckdb.token_type.comment and not first.startswith((")", "explain", "analyze")):
            return word
    raise QueryError("EXPLAIN of nothing")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def _named_results(node: dict[str, Any]) -> list[dict[str, Any]]:
    named = node.get("cte_map")
    return list(named["map"]) if isinstance(named, dict) else []


def _check_node(node: dict[str, Any], own: set[str]) -> None:
    kind = node.get("type")
    if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING:
        raise QueryError(f"the sandbox only reads; {kind.removesuffix('_NODE')} is refused")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise QueryError(f"the sandbox reads the views {', '.join(VIEWS)}; {name!r} is refused")
    elif kind == "BASE_TABLE":
        path = node["qualified_name"]["path"]
        known = own | set(VIEWS) if len(path) == 1 else VIEWS
        if path[:-1] not in ([], ["main"], ["memory", "main"]) or path[-1].lower() not in known:
            raise QueryError(f"the sandbox has the views {', '.join(VIEWS)} and no {'.'.join(path)!r}")
    elif kind == "SHOW_REF" and node.get("query") is None and node["table_name"].strip('"').lower() not in _SHOWN:
        raise QueryError(f"the sandbox shows tables, not {node['table_name']}")
    elif node.get("class") == "FUNCTION" and str(node.get("function_name", "")).lower() in _REFUSED_FUNCTIONS:
        raise QueryError(f"the function {node['function_name']!r} is refused in the sandbox")
