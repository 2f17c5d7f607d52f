"""What stands behind a view: files that DuckDB reads itself, and tables that came through Python.

A view is the union of its sources. This module knows neither where they come from nor how a view
is made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa

from traceark.codec.fields import EVENTS, GOALS, MESSAGES, TRACES, Column

VIEWS: dict[str, tuple[Column, ...]] = {"traces": TRACES, "goals": GOALS, "messages": MESSAGES, "events": EVENTS}


@dataclass(frozen=True, slots=True)
class Source:
    """Some of the rows of a view.

    Parameters
    ----------
    paths : tuple of str
        Parquet files on a local disk, all of the same columns, by their plain names: no character in
        them is a wildcard.
    table : pyarrow.Table or pyarrow.dataset.Dataset, optional
        Rows that are not in such files. Either has at least the columns of the view; others are left
        out.
    masked : pyarrow.Table, optional
        With a column ``trace_id``: rows of these traces are left out.
    """

    paths: tuple[str, ...] = ()
    table: pa.Table | None = None
    masked: pa.Table | None = None

    def without(self, trace_ids: Collection[str]) -> Source:
        """Return it without the rows of some more traces."""
        if not trace_ids:
            return self
        mask = pa.table({"trace_id": pa.array(sorted(trace_ids), pa.string())})
        return replace(self, masked=mask if self.masked is None else pa.concat_tables([self.masked, mask]))


# By the name of the view; one that is not there is empty.
Sources: TypeAlias = Mapping[str, Sequence[Source]]
