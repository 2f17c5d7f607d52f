"""The sources of the views, gathered from the directories of all traces.

Parts of sealed traces on a local disk are handed to DuckDB as files, once their footers have been
looked at; live traces, and parts elsewhere, pass through Python as Arrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator

from traceark.codec.lines import to_record
from traceark.codec.parquet import PartInfo, part_info, to_table
from traceark.errors import CorruptFileError, DamagedTraceError, DamagedTraceWarning
from traceark.layout import LogName
from traceark.listing import headers
from traceark.models import GoalTree, JsonObject
from traceark.pool import TracePool
from traceark.query.sources import VIEWS, Source
from traceark.reading import StoredTrace
from traceark.storage.base import KeyMissingError
from traceark.storage.local import LocalStorage


async def gather(pool: TracePool, wanted: Collection[str]) -> dict[str, list[Source]]:
    """Return the sources of the wanted views.

    Warns
    -----
    DamagedTraceWarning
        A trace was left out.
    """
    if not wanted:
        return {}
    records: dict[str, list[JsonObject]] = {name: [] for name in wanted}
    paths: dict[str, list[str]] = {name: [] for name in wanted}
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
    return {
        name: [Source(paths=tuple(paths[name])), Source(table=to_table(VIEWS[name], rows))]
        for name, rows in records.items()
    }


async def _records(
    pool: TracePool, stored: StoredTrace, wanted: Collection[str], paths: dict[str, list[str]]
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
        paths[log].append(path)
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
    return str(path)


def _goal_records(trace_id: str, tree: GoalTree) -> Iterator[JsonObject]:
    for position, goal in enumerate(tree.goals):
        record = to_record(goal)
        yield {"trace_id": trace_id, "goal_id": record.pop("id"), "position": position, **record}
