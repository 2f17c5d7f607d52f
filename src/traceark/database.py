"""DuckDB as the package opens it: it loads nothing, sees no Python variables, tells time in UTC and prints nothing.

To open a database takes far longer than a cursor on an open one. Rows that the package made itself go
to one database that the whole process shares; it opens no files. A query of a user has a database to
itself, which is kept for the next one where it can have changed nothing in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from shutil import rmtree

import duckdb

Setting = str | bool | int | float | list[str]
_CLOSED: dict[str, Setting] = {
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
# What DuckDB raises: the others where its own error tells a name out of a damaged file that is no text.
ERRORS = (duckdb.Error, RuntimeError, UnicodeDecodeError)
# An error of one of DuckDB's own threads is told so.
_AS_JSON = re.compile(r'\{"exception_type":.*\}', re.DOTALL)
_mutex = threading.Lock()
_MOST_KEPT = 2
_kept: list[duckdb.DuckDBPyConnection] = []


def connect(**settings: Setting) -> duckdb.DuckDBPyConnection:
    """Open a database of its own, in memory."""
    connection = duckdb.connect(":memory:", config=_CLOSED | settings)
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
    return _silent(connection)


@contextmanager
def lent(only_read: Callable[[duckdb.DuckDBPyConnection], bool]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for a query, to a database that nobody else is connected to meanwhile.

    What is made for the query has to be temporary: it goes with the connection. What does not fit into
    memory goes to a directory of the query's own among the system's temporary files.

    Parameters
    ----------
    only_read : callable
        Says at the end, asked with the connection, whether the database is as it was, to be lent again.
    """
    try:
        opened = _kept.pop()
    except IndexError:
        # What one query has read of files is nothing to the next one, which may find others in their place.
        opened = connect(enable_external_file_cache=False)
    spilled = Path(tempfile.gettempdir()) / f"traceark-{secrets.token_hex(8)}"
    unchanged = False
    connection = _silent(opened.cursor())
    try:
        connection.execute("SET GLOBAL temp_directory = ?", [str(spilled)]).fetchall()
        yield connection
        # A database that has spilled keeps to its directory.
        unchanged = not spilled.exists() and only_read(connection)
    finally:
        connection.close()
        if unchanged and len(_kept) < _MOST_KEPT:
            _kept.append(opened)
        else:
            opened.close()
            rmtree(spilled, ignore_errors=True)  # it is there only where something was spilled


def _close_kept() -> None:
    with suppress(IndexError):
        while True:
            _kept.pop().close()


def _leave_shared() -> None:
    global _mutex
    _mutex = threading.Lock()
    if _shared.cache_info().currsize:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_shared()))
        _shared.cache_clear()


# A forked process has none of a database's threads: it could not use it, and would crash where it closes it, be it as
# it ends. The shared one, which cannot be closed before, is never closed there.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_close_kept, after_in_child=_leave_shared)


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
