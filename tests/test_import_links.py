"""Sub-agents are linked with their parents and count what is their own, whatever the order and number of imports."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import test_import_codex as codex
import test_import_openhands as openhands
from profiles import some, tried
from test_import_claude_code import SAMPLES, SESSION, answer, call, row, streamed
from test_import_documents import STEPS, trajectory
from test_import_run import NOW, PARENT, Dying, Killed, contents_of
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.links import Known, plan_links
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.models import Goal, GoalTree, JsonObject, Trace
from traceark.store import ArchiveStore
from traceark.testing import ModelStore

Links = dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Family:
    """Traces that belong together: the sources of each, the parents that they are to have, and what each counts."""

    sources: list[Path]
    parents: Links
    tokens: dict[str, int]


def rows(path: Path, told: Iterable[JsonObject]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in told))
    return path


def sidechain(agent: str, told: Sequence[dict[str, Any]]) -> list[JsonObject]:
    return [{**each, "isSidechain": True, "agentId": agent} for each in told]


def calls(agent: str) -> list[dict[str, Any]]:
    return [
        row(uuid="u" + agent),
        streamed("m" + agent, 1, call("c" + agent, "Agent", {"prompt": agent}), uuid="v" + agent),
        answer("c" + agent, {"agentId": agent, "status": "completed"}, uuid="w" + agent),
    ]


def claude_code(folder: Path) -> Family:
    one, two = f"{SESSION}-agent-one", f"{SESSION}-agent-two"
    return Family(
        [
            rows(folder / "main.jsonl", calls("one")),
            rows(folder / "agent-one.jsonl", sidechain("one", calls("two"))),
            rows(folder / "agent-two.jsonl", sidechain("two", [streamed("n", 3, uuid="x")])),
        ],
        {SESSION: (None, None), one: (SESSION, "cone"), two: (one, "ctwo")},
        {SESSION: 106, one: 106, two: 108},
    )


def claude_code_fork(folder: Path) -> Family:
    fork = SESSION.replace("0001", "0002")
    told = calls("one")
    origin = [{"forkedFrom": {"sessionId": SESSION, "messageUuid": each["uuid"]}} for each in told]
    copied = [{**each, **where, "sessionId": fork} for each, where in zip(told, origin, strict=True)]
    own = streamed("own", 2, uuid="y", sessionId=fork)
    return Family(
        [
            rows(folder / "main.jsonl", told),
            rows(folder / "fork.jsonl", [*copied, own]),
            rows(folder / "agent-one.jsonl", sidechain("one", [row(uuid="x")])),
        ],
        {SESSION: (None, None), fork: (None, None), f"{SESSION}-agent-one": (SESSION, "cone")},
        {SESSION: 106, fork: 107, f"{SESSION}-agent-one": 0},
    )


def spawned(child: str, before: codex.Counters = codex.NOTHING) -> list[JsonObject]:
    arguments = json.dumps({"message": "Look.", "agent_type": "explorer"})
    return [
        codex.item("function_call", 1, call_id="c1", name="spawn_agent", arguments=arguments),
        codex.total(10, 0, 5, before=before),
        codex.item("function_call_output", 2, call_id="c1", output=json.dumps({"agent_id": child})),
        codex.item("function_call", 3, call_id="c2", name="wait", arguments=json.dumps({"ids": [child]})),
        codex.item(
            "function_call_output", 4, call_id="c2", output=json.dumps({"status": {child: {"completed": "Seen."}}})
        ),
    ]


def thread(parent: str, **more: Any) -> JsonObject:
    source = {"subagent": {"thread_spawn": {"parent_thread_id": parent, "depth": 1}}}
    return codex.row("session_meta", 2, id=codex.SESSION, source=source, **more)


def codex_agent(folder: Path) -> Family:
    meta = codex.row("session_meta", id=codex.PARENT)
    return Family(
        [
            rows(folder / "parent.jsonl", [meta, *spawned(codex.SESSION)]),
            rows(folder / "child.jsonl", [thread(codex.PARENT), codex.said("Seen.", 3), codex.total(7, 0, 1)]),
        ],
        {codex.PARENT: (None, None), codex.SESSION: (codex.PARENT, "c1")},
        {codex.PARENT: 15, codex.SESSION: 8},
    )


def codex_fork(folder: Path) -> Family:
    """Return a session, a sub-agent that begins with a copy of it, and a fork that has copied its calls."""
    meta, fork = codex.row("session_meta", id=codex.PARENT), codex.SESSION.replace("0002", "0009")
    before = [meta, codex.event("task_started", 1, turn_id=codex.OLD_TURN), codex.said("Hm.", 1), codex.total(4, 0, 1)]
    starts = codex.event("task_started", 5, turn_id=codex.TURN)
    own = [starts, codex.said("Own.", 6)]
    begun: codex.Counters = (4, 0, 1, 0)
    spawning, last = spawned(codex.SESSION, begun), codex.total(30, 0, 9, before=(10, 0, 5, 0))
    return Family(
        [
            rows(folder / "parent.jsonl", [*before, *spawning, last]),
            rows(folder / "child.jsonl", [thread(codex.PARENT), *before, *own, codex.total(21, 0, 6, before=begun)]),
            rows(
                folder / "fork.jsonl",
                [
                    codex.row("session_meta", 5, id=fork),
                    *before,
                    *spawning,
                    last,
                    *own,
                    codex.total(50, 0, 12, before=(30, 0, 9, 0)),
                ],
            ),
        ],
        {codex.PARENT: (None, None), codex.SESSION: (codex.PARENT, "c1"), fork: (None, None)},
        {codex.PARENT: 39, codex.SESSION: 22, fork: 23},
    )


def atif(folder: Path) -> Family:
    reference: JsonObject = {"source_call_id": "c1", "subagent_trajectory_ref": [{"session_id": "child"}]}
    parent = trajectory([{**STEPS[1], "observation": {"results": [reference]}}])
    copied = [{**step, "is_copied_context": True} for step in STEPS]
    return Family(
        [
            rows(folder / "parent.json", [parent]),
            rows(folder / "child.json", [trajectory([*copied, STEPS[1]], session_id="child")]),
        ],
        {"s": (None, None), "child": ("s", "c1")},
        {"s": 110, "child": 110},
    )


def atif_embedded(folder: Path) -> Family:
    reference: JsonObject = {"source_call_id": "c1", "subagent_trajectory_ref": [{"trajectory_id": "inner"}]}
    inner = trajectory(trajectory_id="inner")
    outer = trajectory([{**STEPS[1], "observation": {"results": [reference]}}], subagent_trajectories=[inner])
    again = trajectory([{**STEPS[1], "observation": {"results": [reference]}}], session_id="other")
    return Family(
        [rows(folder / "a.json", [{**outer, "trajectory_id": "outer"}]), rows(folder / "b.json", [again])],
        # Of two that name it, the one that its own source tells.
        {"outer": (None, None), "inner": ("outer", "c1"), "other": (None, None)},
        {"outer": 110, "inner": 110, "other": 110},
    )


def openhands_task(folder: Path) -> Family:
    child = openhands.CONVERSATION[:-1] + "b"
    asked = openhands.acted("t1", 2, "task", "c1", "r1", {"kind": "TaskAction", "prompt": "Look.", "description": "a"})
    told = openhands.saw("t2", 9, asked, "Seen.", kind="TaskObservation", task_id="task_1", status="completed")
    main = openhands.lay_out(folder, [openhands.PROMPT, openhands.ASKED, asked, told], openhands.STATE)
    below = openhands.lay_out(
        folder / "below", [openhands.said("x1", 3, "Look."), openhands.said("x2", 4, "Seen.", "r1")]
    )
    used = openhands.state(agent=openhands.metrics(openhands.used("r1", 7, 0, 1)))
    place = main / "subagents" / child.replace("-", "")
    place.parent.mkdir()
    below.rename(place)
    (place / "base_state.json").write_text(json.dumps({**used, "id": child, "persistence_dir": f"/run/{place}"}))
    return Family(
        [main / "events", place],
        {openhands.CONVERSATION: (None, None), child: (openhands.CONVERSATION, "c1")},
        {openhands.CONVERSATION: 325, child: 8},
    )


FAMILIES: dict[str, Callable[[Path], Family]] = {
    each.__name__: each
    for each in (claude_code, claude_code_fork, codex_agent, codex_fork, atif, atif_embedded, openhands_task)
}


def in_one(sources: Sequence[Path]) -> list[list[Path]]:
    return [list(sources)]


def in_turn(sources: Sequence[Path]) -> list[list[Path]]:
    return [[each] for each in sources]


def imported(url: Path, commands: Iterable[Sequence[Path]], workers: int = 1) -> dict[str, Any]:
    """Import by several commands, each in an archive that is opened anew; return all that it holds."""

    async def run() -> dict[str, Any]:
        for paths in commands:
            async with ArchiveStore(url, durability="os") as store:
                report = await import_paths(store, paths, workers=workers)
                assert report.ok, report.problems
        async with ArchiveStore(url) as reopened:
            assert await reopened.verify(deep=True) == []
            return await contents_of(reopened)

    return asyncio.run(run())


def check(held: dict[str, Any], family: Family) -> None:
    headers = {trace_id: json.loads(each["header"]) for trace_id, each in held.items()}
    parents = {
        trace_id: (each.get("parent_trace_id"), each.get("parent_goal_id")) for trace_id, each in headers.items()
    }
    assert parents == family.parents
    assert {trace_id: each.get("total_tokens", 0) for trace_id, each in headers.items()} == family.tokens
    for trace_id, (parent_id, goal_id) in family.parents.items():
        if parent_id is not None:
            goals = {goal["id"]: goal for goal in json.loads(held[parent_id]["goals"])["goals"]}
            assert trace_id in goals[str(goal_id)]["sub_trace_ids"]


@pytest.mark.parametrize("name", some(FAMILIES, 3))
def test_any_order_and_number_of_imports_ends_in_the_same_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / "sources").mkdir()
    family = FAMILIES[name](tmp_path / "sources")
    expected = imported(tmp_path / "expected", [family.sources])
    check(expected, family)
    for number, (order, way) in enumerate(
        some(itertools.product(itertools.permutations(family.sources), (in_one, in_turn)), 5),
    ):
        assert imported(tmp_path / f"archive-{number}", way(order)) == expected, (order, way)


@pytest.mark.parametrize("name", list(FAMILIES)[:: tried(3, 1)])
def test_processes_that_share_an_import_end_in_the_same_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / "sources").mkdir()
    family = FAMILIES[name](tmp_path / "sources")
    held = imported(tmp_path / "shared", [family.sources[::-1]], workers=2)
    assert held == imported(tmp_path / "alone", [family.sources])
    check(held, family)


@pytest.mark.parametrize("name", some(FAMILIES, 4))
def test_importing_again_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "sources").mkdir()
    family = FAMILIES[name](tmp_path / "sources")
    expected = imported(tmp_path / "runs", in_turn(family.sources))
    before = {path: path.read_bytes() for path in (tmp_path / "runs" / "traces").rglob("*") if path.is_file()}
    assert imported(tmp_path / "runs", in_turn(family.sources)) == expected
    assert {path: path.read_bytes() for path in (tmp_path / "runs" / "traces").rglob("*") if path.is_file()} == before


def test_a_fork_says_where_it_branched_and_its_copy_counts_nothing(tmp_path: Path) -> None:
    fork = imported(tmp_path / "runs", [claude_code_fork(tmp_path).sources])[SESSION.replace("0001", "0002")]
    metadata = json.loads(fork["header"])["metadata"]
    assert (metadata["forked_from_id"], metadata["forked_at"], metadata["copied_messages"]) == (SESSION, "wone", 3)
    assert [json.loads(each).get("copied") for each in fork["messages"]] == [True, True, True, None]


@pytest.mark.parametrize("name", ["claude_code", "codex_agent", "atif"])
def test_an_import_of_a_family_killed_anywhere_and_repeated_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    sources = FAMILIES[name](tmp_path).sources[::-1]

    async def run(into: ModelStore) -> None:
        assert (await import_paths(into, sources)).ok

    whole = ModelStore(clock=lambda: NOW)
    asyncio.run(run(whole))
    for writes in itertools.count(0, tried(3, 1)):
        into = ModelStore(clock=lambda: NOW)
        try:
            asyncio.run(run(Dying(into, writes)))
        except Killed:
            asyncio.run(run(into))
            assert asyncio.run(contents_of(into)) == asyncio.run(contents_of(whole)), writes
        else:
            assert writes > len(sources)
            break


def test_a_sub_agents_conversation_that_appears_later_is_named_when_its_parent_is_imported_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "sources").mkdir()
    family = openhands_task(tmp_path / "sources")
    parent, place = family.sources
    elsewhere = place.rename(tmp_path / "elsewhere")
    first = imported(tmp_path / "runs", [[parent]])
    assert json.loads(first[openhands.CONVERSATION]["goals"])["goals"][0].get("sub_trace_ids", []) == []
    elsewhere.rename(place)
    check(imported(tmp_path / "runs", [[parent], [place]]), family)


class Circular:
    """Yields the trace whose name is a file's first letter; the others are the sub-agents that it names."""

    name = "circular"

    def detect(self, path: Path) -> bool:
        return True

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        trace_id, *children = list(path.read_text())
        goals = GoalTree(goals=[Goal(id="1", sub_trace_ids=children)]) if children else None
        trace = Trace(trace_id=trace_id, status="completed")
        yield SourceTrace(trace, goals=goals, digests=["d"], file_rows=1, parent_untold=True)


@pytest.mark.parametrize("names", [("ab", "ba"), ("ab", "bc", "ca"), ("abd", "ba", "dc", "c")])
def test_traces_that_name_each_other_are_below_neither_in_any_order_and_that_is_told(
    tmp_path: Path, names: Sequence[str]
) -> None:
    async def run(order: Sequence[str]) -> tuple[Links, list[ImportReport]]:
        store, reports = ModelStore(), []
        for each in order:
            path = tmp_path / each[0]
            path.write_text(each)
            reports.append(await import_paths(store, [path], importer=Circular()))
        traces = await store.list_traces()
        return {each.trace_id: (each.parent_trace_id, each.parent_goal_id) for each in traces}, reports

    below = {"d": ("a", "1"), "c": ("d", "1")} if "dc" in names else {}
    for order in some(itertools.permutations(names), 6):
        parents, reports = asyncio.run(run(order))
        assert parents == dict.fromkeys({*"".join(names)}, (None, None)) | below
        assert any("sub-agents of each other" in each.reason for report in reports for each in report.problems)


IDS = st.sampled_from("abcdef")


@settings(max_examples=tried(60, 2500, 5000))
@given(st.dictionaries(IDS, st.lists(st.tuples(st.sampled_from("12"), IDS), max_size=3)), st.data())
def test_links_never_go_in_a_circle_and_planning_again_changes_nothing(
    names: dict[str, list[tuple[str, str]]], data: st.DataObject
) -> None:
    known = {each: Known((None, None), names[each], frozenset("12")) for each in data.draw(st.permutations([*names]))}
    parents = plan_links(known).parents
    for trace_id in known:
        above: str | None = trace_id
        for _ in known:
            above = parents[above][0] if above in parents else None
        assert above is None
    linked = {
        each: Known(parents.get(each, (None, None)), names[each], frozenset("12"))
        for each in data.draw(st.permutations([*names]))
    }
    again = plan_links(linked)
    assert (again.parents, again.names) == ({}, [])


def test_of_several_goals_that_name_a_trace_that_of_the_parent_it_tells_itself_is_taken() -> None:
    known = {"a": Known((None, None), [("1", "c")]), "b": Known((None, None), [("2", "c")]), "c": Known((None, None))}
    assert plan_links(known).parents == {"c": ("a", "1")}
    assert plan_links({**known, "c": Known(("b", None), told="b")}).parents == {"c": ("b", "2")}


def test_a_trace_that_no_import_wrote_keeps_its_parents_and_goals() -> None:
    named = {"a": Known((None, None), [("1", "c")]), "c": Known((None, None), is_imported=False)}
    assert plan_links(named).parents == {}
    telling = {"a": Known((None, None), goals=frozenset("1"), is_imported=False), "c": Known(("a", "1"))}
    assert plan_links(telling).names == []


def test_a_goal_that_a_trace_tells_names_it_too() -> None:
    known = {"a": Known((None, None), goals=frozenset("1")), "c": Known(("a", "1"), told="a")}
    assert plan_links(known).names == [("a", "1", "c")]


def test_sub_agents_in_the_directory_of_their_session_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(store: ArchiveStore, trace_id: str, **updates: object) -> None:
        raise AssertionError(f"{trace_id} is written again")

    async def imported_tree() -> Trace | None:
        async with ArchiveStore(tmp_path, durability="os") as archive:
            assert (await import_paths(archive, [SAMPLES])).ok
            return await archive.get_trace(f"{PARENT}-agent-a31c7d")

    monkeypatch.setattr(ArchiveStore, "update_trace", never)
    child = asyncio.run(imported_tree())
    assert child is not None and (child.parent_trace_id, child.parent_goal_id) == (PARENT, "toolu_02a")
