"""The Parquet files of rollups, written by DuckDB from other Parquet files.

Order and row groups are chosen for pruning: rows stay in the order in which they are read, row
groups are bounded by rows and by bytes. Knows paths and SQL, no traces and no storage.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from traceark import database
from traceark.codec.fields import EVENTS, GOALS, MESSAGES, Column
from traceark.codec.parquet import arrow_schema
from traceark.errors import StorageError

COLUMNS: dict[str, tuple[Column, ...]] = {"messages": MESSAGES, "events": EVENTS, "goals": GOALS}
# DuckDB's own vectors hold 2,048 rows; 60 of them are a row group.
GROUP_ROWS = 122_880
# Uncompressed; bounds the memory of who writes and of who reads.
GROUP_BYTES = 128 << 20
# A lookup reads one group of the index: small ones make it quick, and the footer long.
ID_GROUP_ROWS = 16_384
ZSTD_LEVEL = 3
# The same for what is staged, which is written by several at a time.
_STAGED_GROUP_BYTES = 24 << 20
_LEAST_GROUP_ROWS = 2_048
# Of so many parts, the largest ones, the footers are asked how large rows are.
_ASKED = 16
# What is read again at once need not be small.
_STAGED_COMPRESSION = "LZ4_RAW"
# In a path these would make DuckDB look for other files.
_GLOB = re.compile(r"([*?\[])")


def literal(path: Path) -> str:
    """Return the path as DuckDB takes it in a list of files: itself, and no pattern."""
    return _GLOB.sub(r"[\1]", str(path))


def text(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def column_list(view: str) -> str:
    """Return the columns of a view for a SELECT."""
    return ", ".join(f'"{column.name}"' for column in COLUMNS[view])


@contextmanager
def connection(directory: Path, memory_bytes: int, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that stays within `memory_bytes` and spills into a directory."""
    with database.connect(
        memory_limit=f"{memory_bytes >> 20}MiB",
        temp_directory=str(directory / "spill"),
        # Files are read once; DuckDB's cache of them would take a third of the time.
        enable_external_file_cache=False,
    ) as opened:
        # An anti join must keep the order of the rows.
        opened.execute("SET disabled_optimizers = 'build_side_probe_side'")
        if threads is not None:
            opened.execute(f"SET threads = {threads}")
        yield opened


def rows_per_group(paths: Sequence[Path], group_bytes: int = GROUP_BYTES) -> int:
    """Return how many rows make a row group, going by the size of the rows in some files."""
    rows = size = 0
    for path in paths:
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        size += sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    fitting = group_bytes * rows // size if size else GROUP_ROWS
    return int(max(_LEAST_GROUP_ROWS, min(GROUP_ROWS, fitting // _LEAST_GROUP_ROWS * _LEAST_GROUP_ROWS)))


def stage(opened: duckdb.DuckDBPyConnection, view: str, paths: Sequence[Path], target: Path) -> None:
    """Write the rows of a few parts into one file for later, with `_file`: the part's place in `paths`."""
    order = "file_index, sequence, _offset" if view == "messages" else "file_index, event_id"
    copy = (
        f"COPY (SELECT {column_list(view)}, _op, file_index::INTEGER AS _file "
        f"FROM read_parquet(?, hive_partitioning = false) ORDER BY {order}) "
        f"TO {text(str(target))} (FORMAT parquet, COMPRESSION {_STAGED_COMPRESSION}, ROW_GROUP_SIZE "
    )
    largest = heapq.nlargest(_ASKED, paths, key=lambda path: path.stat().st_size)
    names = [literal(path) for path in paths]
    try:
        opened.execute(f"{copy}{rows_per_group(largest, _STAGED_GROUP_BYTES)})", [names])
    except duckdb.OutOfMemoryException:
        # Rows of other parts are larger.
        opened.execute(f"{copy}{_LEAST_GROUP_ROWS})", [names])


def write_view(
    opened: duckdb.DuckDBPyConnection,
    view: str,
    sources: Sequence[tuple[Sequence[Path], Sequence[str]]],
    target: Path,
) -> int:
    """Write the rows of some files, one after the other, into one file; return how many.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        From `connection`.
    view : {'messages', 'events', 'goals'}
        Whose columns.
    sources : sequence of (paths, trace ids)
        Files, and the traces whose rows in them are left out.
    target : Path
        The file to write.
    """
    group = rows_per_group([path for paths, _ in sources for path in paths])
    _copy(
        opened,
        _selects(opened, column_list(view), sources),
        target,
        f"FIELD_IDS {field_ids(arrow_schema(COLUMNS[view]))}, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, "
        f"ROW_GROUP_SIZE {group}",
        sources,
    )
    return int(pq.read_metadata(target).num_rows)


def write_ids(opened: duckdb.DuckDBPyConnection, messages: Sequence[Path], target: Path) -> None:
    """Write the index of message ids: `hash`, as `files.message_hash`, and `trace_id`, sorted by hash."""
    _copy_ids(opened, "md5_number_upper(message_id) AS hash, trace_id", [(messages, ())], target)


def merge_ids(
    opened: duckdb.DuckDBPyConnection, sources: Sequence[tuple[Sequence[Path], Sequence[str]]], target: Path
) -> None:
    """Write one index of message ids from several, without those of the traces named with each."""
    _copy_ids(opened, "hash, trace_id", sources, target)


def _copy_ids(
    opened: duckdb.DuckDBPyConnection,
    columns: str,
    sources: Sequence[tuple[Sequence[Path], Sequence[str]]],
    target: Path,
) -> None:
    query = f"SELECT * FROM ({_selects(opened, columns, sources)}) ORDER BY hash"
    _copy(opened, query, target, f"COMPRESSION zstd, ROW_GROUP_SIZE {ID_GROUP_ROWS}", sources)


def _selects(
    opened: duckdb.DuckDBPyConnection, columns: str, sources: Sequence[tuple[Sequence[Path], Sequence[str]]]
) -> str:
    """Return the SELECT over all sources; their paths are its parameters."""
    selects: list[str] = []
    for at, (_, masked) in enumerate(sources):
        select = f"SELECT {columns} FROM read_parquet(?, hive_partitioning = false)"
        if masked:
            opened.register(f"masked_{at}", pa.table({"trace_id": pa.array(masked, pa.string())}))
            select += f" WHERE trace_id NOT IN (SELECT trace_id FROM masked_{at})"
        selects.append(select)
    return " UNION ALL ".join(selects)


def _copy(
    opened: duckdb.DuckDBPyConnection,
    query: str,
    target: Path,
    options: str,
    sources: Sequence[tuple[Sequence[Path], Sequence[str]]],
) -> None:
    opened.execute(
        f"COPY ({query}) TO {text(str(target))} (FORMAT parquet, {options})",
        [[literal(path) for path in paths] for paths, _ in sources],
    )


def field_ids(schema: pa.Schema) -> str:
    """Return the Parquet field ids of a schema as DuckDB's COPY takes them."""
    return "{" + ", ".join(f"{text(field.name)}: {_field_id(field)}" for field in schema) + "}"


def _field_id(field: pa.Field) -> str:
    own: str = field.metadata[b"PARQUET:field_id"].decode()
    if not pa.types.is_struct(field.type):
        return own
    inner = ", ".join(f"{text(each.name)}: {_field_id(each)}" for each in field.type)
    return f"{{__duckdb_field_id: {own}, {inner}}}"


def check_rows(what: str, found: int, expected: int) -> None:
    """Refuse a file that does not hold as many rows as went in."""
    if found != expected:
        raise StorageError(f"{what} has {found} rows where {expected} went in; nothing was published; try again")
