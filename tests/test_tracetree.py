"""A trace with its sub-agents: each counted once, however it is reached."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import traceark
from traceark import Archive, Goal, Message, Trace
from traceark.errors import TraceNotFoundError
from traceark.tracetree import Totals, TraceTree, build

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture
def archive() -> Iterator[Archive]:
    with traceark.open(f"memory://tree-{next(_numbers)}") as opened:
        yield opened


def add(archive: Archive, trace_id: str, parent: str | None = None, goal: str | None = None) -> None:
    """Add a trace that took one message of one token and a cost that floats cannot sum exactly."""
    created_at = BEGIN + timedelta(seconds=next(_numbers))
    archive.create_trace(
        Trace(
            trace_id=trace_id, parent_trace_id=parent, parent_goal_id=goal, task=f"do {trace_id}", created_at=created_at
        )
    )
    archive.add_message(Message(trace_id=trace_id, role="assistant", tokens=1, cost=0.1, duration_ms=10))


def shape(tree: TraceTree) -> list[tuple[int, str]]:
    return [(depth, node.trace.trace_id) for depth, node in tree.walk()]


def test_children_are_found_by_their_parent_and_by_goals_and_counted_once(archive: Archive) -> None:
    add(archive, "top")
    add(archive, "by-parent", "top", "1")
    add(archive, "by-goal")
    add(archive, "below", "by-goal")
    add(archive, "other")
    archive.add_goal("top", Goal(id="1", sub_trace_ids=["by-goal", "by-parent", "never-copied"]))
    archive.add_goal("top", Goal(id="2", sub_trace_ids=["by-goal", "by-goal", "below"]))
    tree = archive.tree("top")
    assert shape(tree) == [(0, "top"), (1, "by-parent"), (1, "by-goal"), (1, "below")]
    assert [node.goal_ids for node in tree] == [(), ("1",), ("1", "2"), ("2",)]
    assert tree.absent == ("never-copied",) and tree.cycles == []
    assert tree.own == Totals(1, 1, 1, 0.1, 10)
    assert tree.total == Totals(4, 4, 4, 0.4, 40)
    assert shape(archive.tree("by-goal")) == [(0, "by-goal"), (1, "below")]


def test_a_trace_alone_is_a_tree_and_its_own_parent_does_not_matter(archive: Archive) -> None:
    add(archive, "lost", "not-here")
    tree = archive.tree("lost")
    assert shape(tree) == [(0, "lost")] and tree.own == tree.total and tree.trace.parent_trace_id == "not-here"


def test_cycles_end_and_are_reported(archive: Archive) -> None:
    add(archive, "a", "c")
    add(archive, "b", "a")
    add(archive, "c", "b")
    add(archive, "self", "self")
    tree = archive.tree("b")
    assert shape(tree) == [(0, "b"), (1, "c"), (2, "a")] and tree.total.messages == 3
    assert [set(cycle) for cycle in tree.cycles] == [{"a", "b", "c"}]
    assert all(cycle[0] == cycle[-1] for cycle in tree.cycles)
    assert archive.tree("self").cycles == [("self", "self")]
    assert "a cycle, counted once: self → self" in str(archive.tree("self"))


def test_an_unknown_trace_is_an_error(archive: Archive) -> None:
    with pytest.raises(TraceNotFoundError, match="'nothing'"):
        archive.tree("nothing")


def test_a_tree_can_be_printed(archive: Archive) -> None:
    add(archive, "top")
    add(archive, "one", "top")
    add(archive, "below", "one")
    add(archive, "two", "top")
    tree = archive.tree("top")
    assert str(tree).splitlines() == [
        "top  running  1 message, 1 token, cost 0.1; with sub-agents: 4 messages, 4 tokens, cost 0.4  do top",
        "├─ one  running  1 message, 1 token, cost 0.1; with sub-agents: 2 messages, 2 tokens, cost 0.2  do one",
        "│  └─ below  running  1 message, 1 token, cost 0.1  do below",
        "└─ two  running  1 message, 1 token, cost 0.1  do two",
    ]
    assert repr(tree) == "TraceTree('top', 3 sub-agents)"


def test_a_notebook_obeys_nothing_in_a_tree() -> None:
    tree = build(
        "<i>", [Trace(trace_id="<i>", task="<b>"), Trace(trace_id="x", parent_trace_id="<i>")], {"x": [("1", "<u>")]}
    )
    shown = tree._repr_html_()
    assert all(tag not in shown for tag in ("<i>", "<b>", "<u>")) and "not in this archive: &lt;u&gt;" in shown


def test_thousands_of_sub_agents_one_below_the_other_are_no_trouble() -> None:
    chain = [Trace(trace_id=f"{at:05}", parent_trace_id=f"{at - 1:05}", total_tokens=1) for at in range(5000)]
    tree = build("00000", chain, {})
    assert tree.total.tokens == 5000 and len(str(tree).splitlines()) == 5000 and tree._repr_html_()


@given(
    parents=st.lists(st.none() | st.integers(0, 7), min_size=1, max_size=8),
    named=st.dictionaries(st.integers(0, 7), st.lists(st.tuples(st.sampled_from("gh"), st.integers(0, 9)), max_size=4)),
)
def test_whatever_names_what_every_reachable_trace_counts_once(
    parents: list[int | None], named: dict[int, list[tuple[str, int]]]
) -> None:
    traces = [
        Trace(trace_id=str(at), parent_trace_id=None if up is None else str(up), total_tokens=2**at, total_messages=1)
        for at, up in enumerate(parents)
    ]
    tree = build("0", traces, {str(at): [(goal, str(child)) for goal, child in pairs] for at, pairs in named.items()})
    reached, pending = {0}, [0]
    edges = [(up, at) for at, up in enumerate(parents) if up is not None]
    edges += [(up, child) for up, pairs in named.items() for _, child in pairs]
    while pending:
        here = pending.pop()
        below = {child for up, child in edges if up == here and child < len(parents)} - reached
        reached |= below
        pending += below
    assert sorted(node.trace.trace_id for node in tree) == sorted(map(str, reached))
    assert tree.total.tokens == sum(2**at for at in reached) and tree.total.traces == len(reached)
    for cycle in tree.cycles:
        assert all((int(up), int(child)) in edges for up, child in itertools.pairwise(cycle)) and cycle[0] == cycle[-1]
