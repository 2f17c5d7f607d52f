"""What traces say of each other is compared when all are verified."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from traceark.models import Goal, Trace
from traceark.store import ArchiveStore
from traceark.verification import Finding


async def made(folder: Path, *traces: Trace, goals: dict[str, list[Goal]], sealed: bool) -> None:
    async with ArchiveStore(folder, durability="os") as store:
        for trace in traces:
            await store.create_trace(trace)
            for goal in goals.get(trace.trace_id, []):
                await store.add_goal(trace.trace_id, goal)
            if sealed:
                await store.seal(trace.trace_id)


def found(
    folder: Path, *traces: Trace, goals: dict[str, list[Goal]] | None = None, sealed: bool = True, deep: bool = True
) -> list[Finding]:
    async def run() -> list[Finding]:
        await made(folder, *traces, goals=goals or {}, sealed=sealed)
        return await ArchiveStore(folder).verify(deep=deep)

    return asyncio.run(run())


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_found_where_traces_agree(tmp_path: Path, sealed: bool, deep: bool) -> None:
    parent, child = Trace(trace_id="parent"), Trace(trace_id="child", parent_trace_id="parent", parent_goal_id="1")
    goals = {"parent": [Goal(id="1", sub_trace_ids=["child"])]}
    assert found(tmp_path, parent, child, goals=goals, sealed=sealed, deep=deep) == []


def test_a_parent_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    (note,) = found(tmp_path, Trace(trace_id="child", parent_trace_id="parent", parent_goal_id="1"))
    assert note.is_note
    assert (note.trace_id, note.file) == ("child", "traces/child/trace.json")
    assert "'parent'" in note.meaning


def test_a_child_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    (note,) = found(tmp_path, Trace(trace_id="t"), goals={"t": [Goal(id="1", sub_trace_ids=["child"])]})
    assert note.is_note
    assert (note.trace_id, note.file) == ("t", "traces/t/goal_tree.json")


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_goal_that_the_parent_has_not_is_found(tmp_path: Path, sealed: bool, deep: bool) -> None:
    parent, child = Trace(trace_id="parent"), Trace(trace_id="child", parent_trace_id="parent", parent_goal_id="2")
    (finding,) = found(tmp_path, parent, child, goals={"parent": [Goal(id="1")]}, sealed=sealed, deep=deep)
    assert not finding.is_note
    assert (finding.trace_id, finding.file) == ("child", "traces/child/trace.json")
    assert "'2'" in finding.meaning


def test_a_child_that_names_another_parent_which_does_not_know_it_is_found(tmp_path: Path) -> None:
    traces = (Trace(trace_id="a"), Trace(trace_id="b"), Trace(trace_id="child", parent_trace_id="b"))
    (finding,) = found(tmp_path, *traces, goals={"a": [Goal(id="1", sub_trace_ids=["child"])]})
    assert not finding.is_note
    assert (finding.trace_id, finding.file) == ("a", "traces/a/goal_tree.json")
    assert "'b'" in finding.meaning


def test_a_child_that_two_traces_share_is_nothing_wrong(tmp_path: Path) -> None:
    traces = (Trace(trace_id="a"), Trace(trace_id="b"), Trace(trace_id="child", parent_trace_id="b"))
    goals = {each: [Goal(id="1", sub_trace_ids=["child"])] for each in ("a", "b")}
    assert found(tmp_path, *traces, goals=goals) == []


def test_a_parent_that_cannot_be_read_is_found_by_itself_only(tmp_path: Path) -> None:
    parent, child = Trace(trace_id="parent"), Trace(trace_id="child", parent_trace_id="parent", parent_goal_id="1")
    asyncio.run(made(tmp_path, parent, child, goals={"parent": [Goal(id="1")]}, sealed=True))
    (tmp_path / "traces" / "parent" / "goal_tree.json").write_text("torn")
    findings = asyncio.run(ArchiveStore(tmp_path).verify(deep=True))
    assert {finding.trace_id for finding in findings} == {"parent"}


def test_a_trace_by_itself_is_not_compared_with_others(tmp_path: Path) -> None:
    child = Trace(trace_id="child", parent_trace_id="parent")
    asyncio.run(made(tmp_path, child, goals={}, sealed=True))
    assert asyncio.run(ArchiveStore(tmp_path).verify("child", deep=True)) == []
