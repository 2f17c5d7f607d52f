"""DuckDB as the package opens it: it loads nothing, sees no Python variables, tells time in UTC and prints nothing.

Rows that the package made itself go to one database that the whole process shares, since opening
one takes far longer than a cursor on an open one. It opens no files. Queries of users
have databases of their own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import duckdb

Setting = str | bool | int | float | list[str]
_CLOSED: dict[str, Setting] = {
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
# An error of one of DuckDB's own threads is told so.
_AS_JSON = re.compile(r'\{"exception_type":.*\}', re.DOTALL)
_mutex = threading.Lock()


def connect(**settings: Setting) -> duckdb.DuckDBPyConnection:
    """Open a database of its own, in memory."""
    connection = duckdb.connect(":memory:", config=_CLOSED | settings)
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    return _silent(connection)


def cursor() -> duckdb.DuckDBPyConnection:
    """Return a connection to the shared database; what it registers, and its temporary tables, no other one sees."""
    with _mutex:
        return _silent(_shared().cursor())


@cache
def _shared() -> duckdb.DuckDBPyConnection:
    return connect(enable_external_access=False)


@contextmanager
def given(connection: duckdb.DuckDBPyConnection, name: str, rows: object) -> Iterator[None]:
    """Let SQL read an Arrow table by a name."""
    connection.register(name, rows)
    try:
        yield
    finally:
        connection.unregister(name)


def reason_of(error: Exception) -> str:
    """Return what an error of DuckDB says, where it is JSON in a text what that says.

    Examples
    --------
    >>> reason_of(duckdb.IOException('IO Error: Async: {"exception_type":"IO","exception_message":"disk full"}'))
    'disk full'
    """
    found = _AS_JSON.search(str(error))
    try:
        return str(json.loads(found[0])["exception_message"]) if found else str(error)
    except (ValueError, KeyError):
        return str(error)


def _silent(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    # A progress bar would go to standard output. In a notebook that can draw none this is refused.
    with suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false").fetchall()
    return connection
