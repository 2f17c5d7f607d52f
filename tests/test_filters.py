"""Filters and pages: every trace that is meant, once, in order, whatever arrives meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import traceark
from profiles import tried
from traceark import Archive, Trace
from traceark.catalog.table import CatalogTable
from traceark.codec.lines import to_record
from traceark.errors import InvalidValueError, QueryError
from traceark.filters import ORDERED, TraceFilter, TraceQuery, cursor_behind, pack

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = st.sampled_from(["", "a", "b", "B", "é", "a\x00b", "'; --", "🦜", "~"])
COSTS = st.sampled_from([0.0, 0.1, 0.1 + 0.2, 1e-300, 1e300, -1.5, math.nextafter(0.1, 1)])
TIMES = st.integers(-3, 3).map(lambda step: BEGIN + timedelta(microseconds=step))
TRACES_MADE = st.builds(
    Trace,
    trace_id=st.uuids().map(str) | WORDS.filter(bool),
    agent_type=st.none() | WORDS,
    total_cost=COSTS,
    total_tokens=st.sampled_from([0, 1, 2**62, -(2**63)]),
    created_at=TIMES,
    completed_at=st.none() | TIMES,
)


def by_order(order_by: str) -> Callable[[Trace], Any]:
    """Return the key that sorts as the order says: values, then none, ties by id."""
    column, descending = order_by.removeprefix("-"), order_by.startswith("-")

    def compare(one: Trace, other: Trace) -> int:
        first, second = getattr(one, column), getattr(other, column)
        if first != second:
            if first is None or second is None:
                return 1 if first is None else -1
            return (1 if first > second else -1) * (-1 if descending else 1)
        return (one.trace_id > other.trace_id) - (one.trace_id < other.trace_id)

    return cmp_to_key(compare)


def rows_of(table: CatalogTable, query: TraceQuery) -> list[str]:
    text, bound = query.to_sql('"trace_id"', more=1)
    return [row["trace_id"] for row in table.query(text, bound, query.filter.where).to_pylist()]


@settings(max_examples=tried(30, 250, 1000), deadline=None)
@given(
    traces=st.lists(TRACES_MADE, max_size=12, unique_by=lambda trace: trace.trace_id),
    column=st.sampled_from(["agent_type", "total_cost", "total_tokens", "created_at", "completed_at", "trace_id"]),
    descending=st.booleans(),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_pages_of_any_size_make_up_the_whole_sorted_list(
    traces: list[Trace], column: str, descending: bool, sizes: list[int]
) -> None:
    order_by = f"-{column}" if descending else column
    by_id = {trace.trace_id: trace for trace in traces}
    found: list[str] = []
    after = None
    table = CatalogTable()
    table.put([{**to_record(trace), "_listed": True} for trace in traces])
    for size in itertools.cycle(sizes):
        ids = rows_of(table, TraceQuery(TraceFilter(), order_by, size, after))
        found += ids[:size]
        if len(ids) <= size:
            break
        after = cursor_behind(by_id[ids[size - 1]], order_by)
    table.clear()
    assert found == [trace.trace_id for trace in sorted(traces, key=by_order(order_by))]


@pytest.fixture
def archive() -> Iterator[Archive]:
    with traceark.open(f"memory://filters-{next(_numbers)}") as opened:
        yield opened


_numbers = itertools.count()


def fill(archive: Archive, *traces: Trace) -> None:
    for index, trace in enumerate(traces):
        trace.created_at = trace.created_at or BEGIN + timedelta(days=index)
        archive.create_trace(trace)


def ids(traces: Sequence[Trace]) -> list[str]:
    return [trace.trace_id for trace in traces]


@pytest.fixture
def several(archive: Archive) -> Archive:
    fill(
        archive,
        Trace(trace_id="a", agent_type="sorter", uid="rosa", model="m-1", status="completed", total_tokens=10),
        Trace(trace_id="b", agent_type="sorter", uid="jo", parent_trace_id="a", status="failed", total_tokens=5000),
        Trace(trace_id="c", agent_type="coder", mode="call", parent_trace_id="gone", status="running"),
        Trace(trace_id="d", uid="rosa", model="m-2", status="cancelled", context={"deep": ["ü", 2**70, 0.1]}),
    )
    return archive


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "dcba"),
        ({"status": "failed"}, "b"),
        ({"status": ["failed", "completed"]}, "ba"),
        ({"agent_type": "sorter", "uid": "rosa"}, "a"),
        ({"agent_type": [None]}, "d"),
        ({"agent_type": (each for each in (None, "coder"))}, "dc"),
        ({"uid": []}, ""),
        ({"uid": "' OR true --"}, ""),
        ({"mode": "call"}, "c"),
        ({"model": {"m-1", "m-2"}}, "da"),
        ({"parent": "a"}, "b"),
        ({"parent": "gone"}, "c"),
        ({"roots": True}, "da"),
        ({"since": BEGIN + timedelta(days=1)}, "dcb"),
        ({"since": "2026-03-02", "until": "2026-03-04"}, "cb"),
        ({"since": date(2026, 3, 2), "until": datetime(2026, 3, 3)}, "b"),
        ({"until": datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2)))}, ""),
        ({"until": "2026-03-01T00:00:00.000001"}, "a"),
        ({"where": "total_tokens > 1000 OR model LIKE 'm-_'"}, "dba"),
        ({"where": "context->>'$.deep[0]' = 'ü' -- a comment"}, "d"),
        ({"where": "uid = 'rosa'", "order_by": "created_at"}, "ad"),
        ({"order_by": "-total_tokens"}, "bacd"),
        ({"order_by": "uid"}, "badc"),
    ],
)
def test_filters_combine(several: Archive, filters: dict[str, Any], expected: str) -> None:
    assert ids(several.traces(**filters)) == list(expected)


def test_a_page_has_the_traces_as_they_are(several: Archive) -> None:
    several.add_message(traceark.Message(trace_id="d", role="user", content="hi", tokens=7, cost=0.1))
    page = several.traces()
    assert [trace.fields() for trace in page] == [
        found.fields() for each in page if (found := several.get_trace(each.trace_id)) is not None
    ]
    assert page[0].total_tokens == 7 and page.next is None
    assert ids(page[1:3]) == ["c", "b"]


def test_traces_that_arrive_between_two_pages_move_nothing(several: Archive) -> None:
    first = several.traces(limit=2)
    fill(several, Trace(trace_id="new", created_at=BEGIN + timedelta(days=30)))
    fill(several, Trace(trace_id="old", created_at=BEGIN - timedelta(days=30)))
    several.delete_trace("c")
    second = several.traces(limit=2, after=first.next)
    third = several.traces(limit=2, after=second.next)
    assert (ids(first), ids(second), ids(third)) == (["d", "c"], ["b", "a"], ["old"])
    assert third.next is None


def test_a_page_can_be_shown_in_a_notebook_and_obeys_nothing(several: Archive) -> None:
    fill(several, Trace(trace_id="<script>", task="<img src=x onerror=alert(1)>", created_at=BEGIN))
    page = several.traces(limit=5, order_by="trace_id")
    shown = page._repr_html_()
    assert "<script>" not in shown and "<img" not in shown and "&lt;script&gt;" in shown
    assert list(page.df()["trace_id"]) == ids(page)
    assert repr(page) == "TracePage(5 traces)"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"status": "done"}, "status"),
        ({"uid": 7}, "uid"),
        ({"uid": ["a", 7]}, "uid"),
        ({"uid": b"a"}, "uid"),
        ({"uid": "\ud800"}, "uid"),
        ({"parent": "a", "roots": True}, "roots"),
        ({"since": "yesterday"}, "since"),
        ({"until": 2026}, "until"),
        ({"since": "0001-01-01T00:00+01:00"}, "since"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"order_by": "context"}, "order_by"),
        ({"order_by": "--uid"}, "order_by"),
        ({"where": " "}, "where"),
        ({"after": "no cursor"}, "after"),
        ({"after": cursor_behind(Trace(trace_id="a"), "uid")}, "after"),
        ({"after": pack(["-created_at", 3, "a"])}, "after"),
        ({"after": pack(["-created_at", "soon", "a"])}, "after"),
        ({"after": pack(["-total_tokens", 2**63, "a"]), "order_by": "-total_tokens"}, "after"),
        ({"after": pack(["-created_at", None])}, "after"),
        ({"after": cursor_behind(Trace(trace_id="a"))[:-3]}, "after"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(archive: Archive, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{named}: "):
        archive.traces(**wrong)


@pytest.mark.parametrize(
    "where",
    [
        "total_tokens >",
        "no_such_column = 1",
        "true) OR (true",
        "true; DROP TABLE traces",
        "true ORDER BY uid",
        "trace_id",
        "EXISTS (FROM read_csv('/etc/passwd'))",
        "EXISTS (FROM read_text('/etc/passwd'))",
        "EXISTS (FROM '/etc/passwd')",
        "EXISTS (FROM table)",
        "$limit",
    ],
)
def test_a_condition_that_duckdb_refuses_is_an_error_of_ours(several: Archive, where: str) -> None:
    with pytest.raises(QueryError, match=r"^where: ") as told:
        several.traces(where=where)
    assert "Candidate" not in str(told.value)  # they would be columns of the catalog's own
    assert len(several.traces()) == 4


@pytest.mark.parametrize("column", sorted(ORDERED))
def test_traces_can_be_ordered_by_every_column_that_has_an_order(several: Archive, column: str) -> None:
    for order_by in (column, f"-{column}"):
        whole = several.traces(order_by=order_by)
        assert ids(whole) == ids(sorted(whole, key=by_order(order_by)))
        first = several.traces(order_by=order_by, limit=3)
        assert ids(whole) == [*ids(first), *ids(several.traces(order_by=order_by, after=first.next))]


def test_sums_by_group(several: Archive) -> None:
    assert [(row["day"], row["runs"], row["failed"]) for row in several.stats("day", since="2026-03-02")] == [
        ("2026-03-02", 1, 1),
        ("2026-03-03", 1, 0),
        ("2026-03-04", 1, 0),
    ]
    assert [(row["agent"], row["runs"], row["tokens"]) for row in several.stats("agent")] == [
        ("sorter", 2, 5010),
        ("coder", 1, 0),
        (None, 1, 0),
    ]
    assert several.stats("model", where="model IS NOT NULL").columns[0] == "model"
    assert [row["status"] for row in several.stats("status", uid="rosa")] == ["cancelled", "completed"]
    with pytest.raises(InvalidValueError, match=r"^by: "):
        several.stats("hour")  # type: ignore[arg-type]
