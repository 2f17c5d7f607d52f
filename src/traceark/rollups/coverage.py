"""Which rows of which rollups are true, given what the catalog says now.

Pure set work on Arrow tables, done by DuckDB: a million traces in about a second. The answer for
a trace depends on the rows of that trace alone, so after a change it is enough to ask again with
the rows and members of the traces that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from traceark import database
from traceark.rollups.files import MEMBER_SCHEMA

# Members of all current rollups: `rollup` is the place of the rollup in the list of current ones.
MEMBERS_SCHEMA = pa.schema([("rollup", pa.int32()), *MEMBER_SCHEMA])

_JOINED = """
CREATE TEMP TABLE joined AS
SELECT m.rollup, m.trace_id,
    {valid} AS valid,
    r.trace_id IS NOT NULL AND m.tree IS NOT DISTINCT FROM r._tree AS goals
FROM members m LEFT JOIN catalog r
    ON r.trace_id = m.trace_id AND r._incarnation = m.incarnation
    AND r._messages IS NOT DISTINCT FROM m.messages AND r._events IS NOT DISTINCT FROM m.events
"""
_SAME_LOGS = "r.trace_id IS NOT NULL"
# The complement says that this very tree could not be taken: it is read where it lies, and not tried again.
_SAME_ALL = f"{_SAME_LOGS} AND (m.tree IS NOT DISTINCT FROM r._tree OR m.tree = ~r._tree)"
# A trace counts in the oldest rollup that holds it validly.
_CHOSEN = "CREATE TEMP TABLE chosen AS SELECT trace_id, min(rollup) AS rollup FROM joined WHERE valid GROUP BY trace_id"
_MASKED = """
SELECT j.rollup, j.trace_id FROM joined j LEFT JOIN chosen c ON c.trace_id = j.trace_id AND c.rollup = j.rollup
WHERE c.trace_id IS NULL
"""
_MASKED_GOALS = f"{_MASKED} OR NOT j.goals"
_VALID = "SELECT c.rollup, c.trace_id FROM chosen c"
_UNCOVERED = "SELECT r.* FROM catalog r ANTI JOIN chosen c ON c.trace_id = r.trace_id"
_UNCOVERED_GOALS = """
SELECT r.trace_id FROM catalog r
ANTI JOIN (SELECT trace_id FROM joined SEMI JOIN chosen USING (rollup, trace_id) WHERE goals) c
    ON c.trace_id = r.trace_id
WHERE r._tree IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What current rollups cover of the settled, sealed traces.

    Attributes
    ----------
    valid : pyarrow.Table
        `rollup`, `trace_id`: the traces whose messages and events are read from a rollup.
    masked : pyarrow.Table
        `rollup`, `trace_id`: traces whose rows in that rollup must not be seen.
    masked_goals : pyarrow.Table
        The same for goals; these are all of `masked` and those whose tree alone was changed.
    uncovered : pyarrow.Table
        Rows of the catalog of traces that no rollup covers.
    uncovered_goals : pyarrow.Table
        `trace_id` of traces with a goal tree that no rollup covers.
    """

    valid: pa.Table
    masked: pa.Table
    masked_goals: pa.Table
    uncovered: pa.Table
    uncovered_goals: pa.Table

    def masks(self, count: int, *, goals: bool = False) -> list[list[str]]:
        """Return the masked trace ids of each of `count` rollups."""
        found: list[list[str]] = [[] for _ in range(count)]
        table = self.masked_goals if goals else self.masked
        for rollup, trace_id in zip(table["rollup"].to_pylist(), table["trace_id"].to_pylist(), strict=True):
            found[rollup].append(trace_id)
        return found


def cover(rows: pa.Table, members: pa.Table) -> Coverage:
    """Compare the catalog's rows of settled, sealed traces with the members of the current rollups.

    Parameters
    ----------
    rows : pyarrow.Table
        At least `trace_id`, `_incarnation`, `_messages`, `_events`, `_tree`; one row per trace.
    members : pyarrow.Table
        Of `MEMBERS_SCHEMA`: see `all_members`.
    """
    return _cover(rows, members, _SAME_LOGS)


def cover_all_views(rows: pa.Table, members: pa.Table) -> Coverage:
    """Compare as `cover` does, but take a trace whose goal tree alone was changed as not covered.

    So says who rewrites rollups: it is to be rolled up anew.
    """
    return _cover(rows, members, _SAME_ALL)


def _cover(rows: pa.Table, members: pa.Table, valid: str) -> Coverage:
    if not len(members):
        none = pa.table({"rollup": pa.array([], pa.int32()), "trace_id": pa.array([], pa.string())})
        with_tree = rows.filter(rows["_tree"].is_valid()).select(["trace_id"])
        return Coverage(none, none, none, rows, with_tree)
    with closing(database.cursor()) as connection:
        connection.register("catalog", rows)
        connection.register("members", members)
        connection.execute(_JOINED.format(valid=valid))
        connection.execute(_CHOSEN)
        return Coverage(
            *(
                connection.sql(query).to_arrow_table()
                for query in (_VALID, _MASKED, _MASKED_GOALS, _UNCOVERED, _UNCOVERED_GOALS)
            )
        )


def all_members(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the members of the current rollups, in that order, as one table."""
    numbered = [
        pa.table([pa.repeat(pa.scalar(at, pa.int32()), len(table)), *table.columns], schema=MEMBERS_SCHEMA)
        for at, table in enumerate(tables)
    ]
    return pa.concat_tables(numbered) if numbered else MEMBERS_SCHEMA.empty_table()
