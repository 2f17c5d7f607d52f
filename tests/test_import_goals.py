"""How goals changed is told by events, with the times and messages of the source, wherever goals come from."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

import test_import_claude_code as claude
import test_import_codex as codex
import test_import_documents as documents
import test_import_openhands as openhands
from profiles import tried
from test_import_claude_code import SESSION, answer, call, ended, streamed
from test_import_run import contents, run, store
from traceark.importers.atif import Atif
from traceark.importers.base import GOAL_STATUS, ImportCounts, SourceEvent, SourceTrace
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.goals import GoalFold
from traceark.importers.run import import_paths
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject
from traceark.store import ArchiveStore
from traceark.testing import ModelStore


def changes(events: Sequence[SourceEvent]) -> list[dict[str, Any]]:
    """Return the payloads of events that say how goals changed."""
    return [dict(event.payload) for event in events if event.event_type == GOAL_STATUS]  # type: ignore[arg-type]


def told(source: SourceTrace) -> list[tuple[Any, ...]]:
    """Return which goal stood how before and then, by which message."""
    names = ("goal_id", "before", "status", "message_id")
    return [tuple(each.get(name) for name in names) for each in changes(source.events)]


def folded(*lists: list[Json]) -> GoalFold:
    fold = GoalFold(Typed(ImportCounts().repaired))
    for todos in lists:
        fold.write_todos(todos, None)
    return fold


def todo(content: str, status: str, **more: Json) -> JsonObject:
    return {"content": content, "status": status, **more}


def test_a_change_has_the_time_and_the_message_that_told_it_and_its_place_among_events(tmp_path: Path) -> None:
    rows = [
        {"type": "mode", "sessionId": SESSION, "mode": "normal"},
        streamed("m1", 1, call("c1", "TaskCreate", {"subject": "Look"}), uuid="a"),
        answer("c1", {"task": {"id": "1"}}, uuid="b", timestamp="2026-03-01T10:00:02Z"),
        {"type": "mode", "sessionId": SESSION, "mode": "plan"},
        streamed("m2", 1, call("c2", "TaskUpdate", {"taskId": "1", "status": "in_progress", "subject": "Watch"})),
        answer("c2", uuid="d", timestamp="2026-03-01T10:00:05Z"),
    ]
    events = claude.one(tmp_path, *rows).events
    assert [event.event_type for event in events] == ["claude-code.mode", GOAL_STATUS, "claude-code.mode", GOAL_STATUS]
    assert changes(events) == [
        {"goal_id": "task-1", "status": "pending", "description": "Look", "message_id": "b"},
        {
            "goal_id": "task-1",
            "status": "in_progress",
            "before": "pending",
            "description": "Watch",
            "message_id": "d",
        },
    ]
    assert [event.created_at for event in events[1::2]] == [
        datetime(2026, 3, 1, 10, 0, at, tzinfo=UTC) for at in (2, 5)
    ]


def test_an_agent_begins_with_its_call_and_ends_with_what_says_so(tmp_path: Path) -> None:
    notice = {"type": "queue-operation", "sessionId": SESSION, "content": ended("a1", "completed")}
    source = claude.one(
        tmp_path,
        streamed("m", 1, call("c1", "Task", {"description": "count"}), uuid="a"),
        answer("c1", {"status": "async_launched", "agentId": "a1"}, uuid="b"),
        streamed("n", 1, call("c2", "Task", {"description": "sort"}), uuid="c"),
        answer("c2", uuid="d", is_error=True),
        notice,
    )
    assert told(source) == [
        ("c1", None, "in_progress", "a"),
        ("c2", None, "in_progress", "c"),
        ("c2", "in_progress", "failed", "d"),
        ("c1", "in_progress", "completed", None),
    ]
    assert [event.event_type for event in source.events[-2:]] == ["claude-code.queue-operation", GOAL_STATUS]


def test_codex_tells_its_plan_and_its_agents(tmp_path: Path) -> None:
    def planned(number: int, *steps: tuple[str, str]) -> list[JsonObject]:
        plan = json.dumps({"plan": [{"step": step, "status": status} for step, status in steps]})
        call_id = f"p{number}"
        return [
            codex.item("function_call", number, name="update_plan", arguments=plan, call_id=call_id),
            codex.item("function_call_output", number, call_id=call_id, output="ok"),
        ]

    standing = json.dumps({"status": {codex.TURN: {"completed": "Seen."}}})
    source, _ = codex.read(
        tmp_path,
        codex.META,
        *planned(1, ("look", "in_progress"), ("fix", "pending")),
        codex.item("function_call", 2, call_id="c1", name="spawn_agent", arguments=json.dumps({"message": "Look."})),
        codex.event("collab_agent_spawn_end", 2, call_id="c1", new_thread_id=codex.TURN),
        codex.item("function_call", 3, call_id="c2", name="wait", arguments="{}"),
        codex.item("function_call_output", 4, call_id="c2", output=standing),
        *planned(5, ("look", "completed"), ("fix", "in_progress")),
    )
    assert told(source) == [
        ("todo-1", None, "in_progress", f"{codex.SESSION}-row-3"),
        ("todo-2", None, "pending", f"{codex.SESSION}-row-3"),
        ("c1", None, "in_progress", f"{codex.SESSION}-row-4"),
        ("c1", "in_progress", "completed", f"{codex.SESSION}-row-7"),
        ("todo-1", "in_progress", "completed", f"{codex.SESSION}-row-9"),
        ("todo-2", "pending", "in_progress", f"{codex.SESSION}-row-9"),
    ]


def test_openhands_tells_its_tasks_and_its_agents(tmp_path: Path) -> None:
    asked = openhands.acted("t1", 2, "task", "c1", "r1", {"kind": "TaskAction", "prompt": "Look.", "description": "a"})
    events = [
        openhands.ASKED,
        *openhands.planned("p1", 1, "c0", ("look", "in_progress")),
        asked,
        openhands.event("PauseEvent", "pause", 3),
        openhands.saw("o1", 4, asked, "Seen."),
        *openhands.planned("p2", 5, "c2", ("look", "done")),
    ]
    (source,), _ = openhands.read(openhands.lay_out(tmp_path, events, openhands.state()) / "base_state.json")
    assert told(source) == [
        ("todo-1", None, "in_progress", "p1-seen"),
        ("c1", None, "in_progress", "t1"),
        ("c1", "in_progress", "completed", "o1"),
        ("todo-1", "in_progress", "completed", "p2-seen"),
    ]
    assert [event.event_type for event in source.events].index("openhands.PauseEvent") == 2


def test_an_agent_of_openhands_that_is_asked_again_is_in_progress_again(tmp_path: Path) -> None:
    asked = openhands.acted("t1", 2, "task", "c1", "r1", {"kind": "TaskAction", "prompt": "Look.", "description": "a"})
    again = openhands.acted("t2", 4, "task", "c2", "r2", {"kind": "TaskAction", "prompt": "More.", "resume": "task-1"})
    events = [
        openhands.ASKED,
        asked,
        openhands.saw("o1", 3, asked, "Seen.", task_id="task-1"),
        again,
        openhands.saw("o2", 5, again, "Seen more.", task_id="task-1"),
    ]
    (source,), _ = openhands.read(openhands.lay_out(tmp_path, events, openhands.state()) / "base_state.json")
    assert told(source) == [
        ("c1", None, "in_progress", "t1"),
        ("c1", "in_progress", "completed", "o1"),
        ("c1", "completed", "in_progress", "t2"),
        ("c1", "in_progress", "completed", "o2"),
    ]


def test_atif_tells_an_agent_with_the_result_that_names_its_trace_and_no_time_moves(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    reference: JsonObject = {
        "source_call_id": "c1",
        "content": "asked",
        "subagent_trajectory_ref": [{"session_id": "x"}],
    }
    late: JsonObject = {
        **documents.STEPS[1],
        "timestamp": "2026-01-02T03:04:08Z",
        "observation": {"results": [reference]},
    }
    (source,), _ = documents.read(Atif(), path, json.dumps(documents.trajectory([documents.STEPS[0], late])))
    assert told(source) == [("c1", None, "completed", "s-step-2-result-1")]
    into = store()
    run(into, path)
    begun = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    events = asyncio.run(into.get_events("s"))
    assert [(each.event_type, each.created_at) for each in events] == [
        ("atif.agent", begun),
        (GOAL_STATUS, begun.replace(second=8)),
    ]


def test_what_leaves_the_list_says_so_and_what_stays_as_it_was_says_nothing() -> None:
    first: list[Json] = [todo("a", "completed"), todo("b", "pending"), todo("c", "pending")]
    fold = folded(first)
    assert len(fold.changes()) == 3
    fold.write_todos(first, None)
    assert fold.changes() == []
    fold.write_todos([todo("c", "pending")], None)
    assert changes(fold.changes()) == [
        {"goal_id": "todo-1", "status": "completed", "before": "completed", "listed": False},
        {"goal_id": "todo-2", "status": "deleted", "before": "pending", "listed": False},
    ]


def test_the_same_words_twice_are_two_things_to_do_in_every_list() -> None:
    fold = folded([todo("a", "pending"), todo("a", "pending")], [todo("a", "completed"), todo("a", "pending")])
    assert {goal.id: goal.status for goal in fold.goals.values()} == {"todo-1": "completed", "todo-2": "pending"}


LISTS = st.lists(
    st.lists(
        st.builds(todo, st.sampled_from("abc"), st.sampled_from(["pending", "in_progress", "completed", "odd"])),
        max_size=4,
    ),
    max_size=5,
)


@settings(max_examples=tried(100, 3000))
@given(LISTS)
def test_the_goals_are_what_their_changes_add_up_to(lists: list[list[Json]]) -> None:
    fold = folded(*lists)
    standing: dict[str, tuple[str, str]] = {}
    for each in changes(fold.changes()):
        before = standing.get(each["goal_id"])
        assert each.get("before") == (before[0] if before is not None else None)
        standing[each["goal_id"]] = each["status"], each.get("description", before[1] if before is not None else "")
    assert standing == {goal.id: (goal.status, goal.description) for goal in fold.goals.values()}


class Told:
    """An importer that yields what it was given, under the name of another."""

    name = ClaudeCode.name

    def __init__(self, sources: list[SourceTrace]) -> None:
        self._sources = sources

    def detect(self, path: Path) -> bool:
        return path.is_file()

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        yield from self._sources


def growing(path: Path) -> list[str]:
    """Return the lines of a session whose goals change between and after rows that are events."""
    lines: list[JsonObject] = []
    for number, statuses in enumerate(
        [("pending", "pending"), ("in_progress", "pending"), ("completed", "in_progress"), ("completed", "completed")]
    ):
        todos: list[Json] = [todo(name, status) for name, status in zip("ab", statuses, strict=True)]
        lines += [
            streamed(f"m{number}", 1, call(f"c{number}", "TodoWrite", {"todos": todos}), uuid=f"u{number}"),
            answer(f"c{number}", uuid=f"v{number}"),
            {"type": "mode", "sessionId": SESSION, "mode": str(number)},
        ]
    return [json.dumps(each) + "\n" for each in lines]


def test_a_session_that_grew_tells_the_same_changes_in_any_order_of_its_states(tmp_path: Path) -> None:
    lines = growing(tmp_path)
    paths = [tmp_path / f"{size}.jsonl" for size in (2, 5, 9, 12)]
    for path in paths:
        path.write_text("".join(lines[: int(path.stem)]))
    expected = store()
    run(expected, paths[-1])
    assert len([each for each in asyncio.run(expected.get_events(SESSION)) if each.event_type == GOAL_STATUS]) == 6
    for order in itertools.permutations(paths):
        into = store()
        for path in order:
            outcomes = {trace.outcome for file in run(into, path).files for trace in file.traces}
            assert outcomes <= {"new", "grown", "older"}
        assert contents(into) == contents(expected)


def test_a_trace_that_was_stored_without_changes_of_goals_grows_without_them(tmp_path: Path) -> None:
    lines, path, into = growing(tmp_path), tmp_path / "s.jsonl", store()

    async def records(of: ModelStore) -> list[tuple[str, Json]]:
        events = [(each.event_type, each.payload) for each in await of.get_events(SESSION)]
        return [each for each in events if each[0] != GOAL_STATUS]

    async def stored_without() -> None:
        path.write_text("".join(lines[:6]))
        (source,) = ClaudeCode().read(path, ImportCounts())
        source.events = [each for each in source.events if each.event_type != GOAL_STATUS]
        await import_paths(into, [path], importer=Told([source]))

    asyncio.run(stored_without())
    for size in (6, 9, 12, 9):
        path.write_text("".join(lines[:size]))
        report = run(into, path)
        assert report.ok
    expected = store()
    path.write_text("".join(lines))
    run(expected, path)
    held = asyncio.run(into.get_events(SESSION))
    assert [(each.event_type, each.payload) for each in held] == asyncio.run(records(expected))


def test_changes_are_counted_by_themselves_so_that_rows_are_messages_and_events(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(growing(tmp_path)))
    into = store()
    first, again = run(into, path).totals(), run(into, path).totals()
    assert first["rows"] == 12 == first["new_messages"] + first["new_events"]
    assert (again["new_messages"] + again["new_events"], again["known_messages"] + again["known_events"]) == (0, 12)
    assert first["goal_changes"] == again["goal_changes"] == 6


def test_a_copied_trace_has_the_same_changes_and_each_is_a_record_of_it(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(growing(tmp_path)))

    async def run_both() -> None:
        async with ArchiveStore(tmp_path / "one", durability="os") as one:
            await import_paths(one, [path])
            events = await one.get_events(SESSION)
        async with ArchiveStore(tmp_path / "two", durability="os") as two:
            totals = (await import_paths(two, [tmp_path / "one"])).totals()
            assert await two.get_events(SESSION) == events
            assert (totals["new_events"], totals["goal_changes"]) == (len(events), 0)

    asyncio.run(run_both())


def test_real_sessions_end_as_their_changes_say() -> None:
    changed = 0
    for path in (each for name in ("claude-code", "claude-code-small") for each in claude.corpus(name)):
        if path.suffix != ".jsonl":
            continue
        for source in ClaudeCode().read(path, ImportCounts()):
            last = {each["goal_id"]: each["status"] for each in changes(source.events)}
            goals = source.goals.goals if source.goals is not None else []
            assert last == {goal.id: goal.status for goal in goals}
            changed += len(last)
    assert changed > 10
