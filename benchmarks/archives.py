"""Large archives made in bulk: a million traces in a catalog, ten million messages in sealed traces.

No store writes them, since each of its acknowledgements waits for the disk. Files are made by the
package's own functions for headers, parts, their names, manifests and snapshots; parts are only compressed
less, to be made faster. All is drawn from the number of the trace, so it is the same on every machine.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data import messages
from traceark.catalog.contents import CATALOG, binding_of
from traceark.catalog.rows import COLUMNS
from traceark.catalog.snapshot import ROW_GROUP_ROWS, SCHEMA, SnapshotInfo, encode_snapshot, snapshot_name
from traceark.codec.fields import EVENTS, INTERNAL, MESSAGES
from traceark.codec.lines import to_record
from traceark.codec.parquet import METADATA_KEY, PART_SCHEMAS, PartInfo, Run, part_writer, to_row
from traceark.headers import Checkpoint, Header
from traceark.layout import FORMAT_VERSION, HEADER, LOGS, MANIFEST, MARKER, TRACES, LogName, PartName, trace_key
from traceark.manifest import encode_manifest, sha256
from traceark.models import Trace, TraceStatus
from traceark.storage.local import LocalStorage

ARCHIVE_ID = "5f3a9c21-0000-4000-8000-000000000000"
AGENTS, USERS = 12, 1_000
STATUSES: tuple[TraceStatus, ...] = ("completed", "completed", "completed", "failed", "cancelled")
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_INCARNATION = "5f3a9c21"
_WRITER = "1b2c3d4e"
_TEMPLATES = 8
_ZSTD_LEVEL = 1
_TRACES_AT_A_TIME = 50
# What a message says where content does not matter.
_SHORT = "done"


def agent_of(number: int) -> str:
    """Return the agent of a trace, by its number."""
    return f"agent-{number * 7 % AGENTS}"


def uid_of(number: int) -> str:
    """Return the owner of a trace, by its number."""
    return f"user-{number * 31 % USERS:04d}"


def make_marker(root: Path) -> None:
    """Make an empty archive."""
    (root / TRACES).mkdir(parents=True)
    marker = {"format": "traceark", "version": FORMAT_VERSION, "archive_id": ARCHIVE_ID}
    (root / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")


def make_catalog(root: Path, count: int) -> Path:
    """Make an archive that has a snapshot of its catalog and nothing else; return the snapshot's path.

    It holds the rows of `count` sealed traces without their directories. It is stamped with the empty
    directory of all traces, so all names are accounted for, and no look at the directories is taken.
    """
    make_marker(root)
    storage = LocalStorage(root)
    stamped = storage.stamp(TRACES)
    assert stamped is not None
    binding = binding_of(ARCHIVE_ID, storage.location())
    info = SnapshotInfo(binding, 1, look="1", stamp=stamped[0])
    path = root / CATALOG / snapshot_name(1, binding)
    path.parent.mkdir()
    path.write_bytes(encode_snapshot(info, catalog_rows(count).to_reader(ROW_GROUP_ROWS)))
    return path


def catalog_rows(count: int) -> pa.Table:
    """Return the catalog's rows of `count` sealed traces, newest first."""
    part = "'000000000001-' || lpad({n}::VARCHAR, 12, '0') || '-5f3a9c21-' || md5('{log}' || i)[:8] || '.parquet'"
    made = {
        "trace_id": "uuid(i)",
        "mode": "'agent'",
        "task": "'Look into the ' || md5('task' || i)[:12] || ' of run ' || i || ' and mend what is broken there.'",
        "agent_type": f"'agent-' || (i * 7 % {AGENTS})",
        "uid": f"'user-' || lpad((i * 31 % {USERS})::VARCHAR, 4, '0')",
        "model": "['large-4', 'small-2', 'large-3'][1 + i % 3]",
        "status": f"{list(STATUSES)}[1 + i % {len(STATUSES)}]",
        "total_messages": "20 + i % 400",
        "total_tokens": "1000 + hash(i) % 2000000",
        "total_cost": "round((hash(i) % 100000) / 10000, 4)",
        "total_duration_ms": "1000 + hash(i) % 900000",
        "last_sequence": "20 + i % 400",
        "last_event_id": "5 + i % 80",
        "result_summary": "'Changed ' || (i % 9) || ' files; all tests pass.'",
        "created_at": "TIMESTAMPTZ '2025-01-01 00:00:00+00' + to_seconds(i * 30 + hash(i) % 30)",
        "completed_at": "TIMESTAMPTZ '2025-01-01 00:10:00+00' + to_seconds(i * 30)",
        "_state": "'settled'",
        "_listed": "true",
        "_incarnation": "substr(md5('incarnation' || i), 1, 8)",
        "_revision": "3",
        "_sealed": "true",
        "_messages": part.format(n="(20 + i % 400)", log="messages"),
        "_events": part.format(n="(5 + i % 80)", log="events"),
        "_files": "substr(md5('files' || i), 1, 16)",
        "_openings": "[]::VARCHAR[]",
        "_gone": "[]::VARCHAR[]",
    }
    columns = ", ".join(f'{made.get(column.name, "NULL")} AS "{column.name}"' for column in COLUMNS)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE MACRO uuid(i) AS substr(md5('id' || i), 1, 8) || '-' || md5('more' || i)[:23]")
        text = f"SELECT {columns} FROM range({count}) AS r(i) ORDER BY created_at DESC, trace_id"
        return connection.sql(text).to_arrow_table().cast(SCHEMA)


@dataclass(frozen=True)
class Shape:
    """What sealed traces are made of.

    Attributes
    ----------
    traces, messages, events : int
        How many there are: traces, and messages and events of each.
    content : bool
        Messages say what agents say, about a kilobyte each, and no two the same; otherwise one word.
    """

    traces: int
    messages: int
    events: int = 0
    content: bool = False

    def sized(self, factor: float) -> Shape:
        """Return the shape with another number of traces."""
        return replace(self, traces=max(int(self.traces * factor), 1))


def make_traces(root: Path, shape: Shape) -> None:
    """Make an archive of sealed traces, without a catalog, on all cores."""
    make_marker(root)
    starts = range(0, shape.traces, _TRACES_AT_A_TIME)
    if len(starts) == 1:
        _make_some(root, shape, 0)
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_make_some, repeat(root), repeat(shape), starts, chunksize=4):
            pass


def message_id_of(number: int, sequence: int) -> str:
    """Return the id of a message of the archives that `make_traces` makes."""
    return f"{_trace_id(number)}-{sequence:04d}"


def _trace_id(number: int) -> str:
    return f"run-{zlib.crc32(str(number).encode()):08x}-{number:07d}"


_templates: dict[Shape, list[dict[LogName, pa.Table]]] = {}


def _make_some(root: Path, shape: Shape, start: int) -> None:
    templates = _templates.get(shape)
    if templates is None:
        templates = _templates[shape] = [_template(shape, seed) for seed in range(_TEMPLATES)]
    for number in range(start, min(start + _TRACES_AT_A_TIME, shape.traces)):
        _make_trace(root, shape, number, templates[number % _TEMPLATES])


def _template(shape: Shape, seed: int) -> dict[LogName, pa.Table]:
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for offset, message in enumerate(messages("template", shape.messages, seed), 1):
        if not shape.content:
            message.content = _SHORT
        rows.append(to_row(MESSAGES + INTERNAL, to_record(message) | {"_offset": offset}))
    for offset in range(1, shape.events + 1):
        moment = (_BEGINNING + timedelta(seconds=offset)).isoformat()
        payload = {"goal_id": str(offset // 4 + 1), "step": offset, "state": "in_progress"}
        event = {"event_id": offset, "event_type": "goal_updated", "payload": payload, "created_at": moment}
        events.append(to_row(EVENTS + INTERNAL, event | {"trace_id": "template", "_offset": offset}))
    made = {"messages": rows, "events": events}
    return {log: pa.Table.from_pylist(made[log], schema=PART_SCHEMAS[log]) for log in LOGS}


def _make_trace(root: Path, shape: Shape, number: int, template: dict[LogName, pa.Table]) -> None:
    trace_id = _trace_id(number)
    directory = root / TRACES / trace_key(trace_id)
    directory.mkdir()
    checkpoint = Checkpoint()
    files: dict[str, bytes] = {}
    for log in LOGS:
        rows = template[log]
        if not rows.num_rows:
            continue
        data = _part(log, trace_id, number, rows, content=shape.content)
        name = str(PartName(1, rows.num_rows, _INCARNATION, f"{zlib.crc32(data):08x}"))
        checkpoint.ends[log] = rows.num_rows
        checkpoint.files[log] = (name, len(data))
        files[f"{log}/{name}"] = data
        (directory / log).mkdir()
    files[HEADER] = Header(_trace(number, template), _INCARNATION, 3, checkpoint).encode()
    files[MANIFEST] = encode_manifest({name: sha256(data) for name, data in files.items()})
    for name, data in files.items():
        (directory / name).write_bytes(data)


def _trace(number: int, template: dict[LogName, pa.Table]) -> Trace:
    rows = template["messages"]
    usage = rows["usage"].combine_chunks()
    kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    began = _BEGINNING + timedelta(minutes=number)
    return Trace(
        trace_id=_trace_id(number),
        task=f"Mend what is broken in run {number}.",
        agent_type=agent_of(number),
        uid=uid_of(number),
        model="large-4",
        status=STATUSES[number % len(STATUSES)],
        total_messages=rows.num_rows,
        total_tokens=sum(pc.sum(usage.field(kind)).as_py() or 0 for kind in kinds),
        # As the archive sums it: exactly.
        total_cost=float(
            sum((Decimal(repr(cost)) for cost in rows["cost"].to_pylist() if cost is not None), Decimal())
        ),
        total_duration_ms=pc.sum(rows["duration_ms"]).as_py() or 0,
        last_sequence=rows.num_rows,
        last_event_id=template["events"].num_rows,
        created_at=began,
        completed_at=began + timedelta(minutes=50),
    )


def _part(log: LogName, trace_id: str, number: int, rows: pa.Table, *, content: bool) -> bytes:
    """Return a part with the rows of a template as those of a trace."""
    count = rows.num_rows
    changed: dict[str, Any] = {"trace_id": pa.array([trace_id] * count, pa.string())}
    moved = pa.scalar(timedelta(minutes=number), pa.duration("us"))
    changed["created_at"] = pc.add(rows["created_at"], moved)
    if log == "messages":
        ids = pa.array([message_id_of(number, sequence) for sequence in range(1, count + 1)], pa.string())
        changed["message_id"] = ids
        if content:
            # No two messages of an agent are the same, and Parquet would keep the same text only once.
            changed["content"] = pc.binary_join_element_wise('{"turn":"', ids, '","said":', rows["content"], "}", "")
    for name, values in changed.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), values)
    info = PartInfo(log, trace_id, _INCARNATION, 1, count, True, (Run(1, _WRITER, count),))
    sink = BytesIO()
    with part_writer(sink, log, _ZSTD_LEVEL) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({METADATA_KEY: info.to_json().encode()})
    return sink.getvalue()


def parts(root: Path, log: LogName) -> Iterator[Path]:
    """Yield the parts of a log of all traces, oldest first as in rollups: the order decides how well it compresses."""
    for directory in sorted((root / TRACES).iterdir(), key=lambda path: path.name.rpartition("-")[2]):
        yield from (directory / log).iterdir()
