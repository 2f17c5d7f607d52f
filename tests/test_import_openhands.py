"""OpenHands: what events become, which files are one run, and what the model used, each counted once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from test_import_claude_code import corpus
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.find import importers
from traceark.importers.openhands import OpenHands
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.models import Json, JsonObject, Message
from traceark.testing import ModelStore
from traceark.testing.compare import exact_text, exact_texts

CONVERSATION = "0a1b2c3d-0000-4000-8000-00000000000a"


def text(*said: str) -> list[Json]:
    return [{"type": "text", "text": each} for each in said]


def event(kind: str, name: str, second: int = 0, /, **fields: Any) -> dict[str, Any]:
    source = {"MessageEvent": "user", "ObservationEvent": "environment"}.get(kind, "agent")
    at = f"2026-01-02T03:{second // 60:02d}:{second % 60:02d}.5"
    return {"id": name, "timestamp": at, "source": source, **fields, "kind": kind}


def said(name: str, second: int, words: str, response: str | None = None) -> JsonObject:
    role = "user" if response is None else "assistant"
    fields: dict[str, Any] = {"llm_message": {"role": role, "content": text(words)}}
    if response is not None:
        fields |= {"source": "agent", "llm_response_id": response}
    return event("MessageEvent", name, second, **fields)


def acted(name: str, second: int, tool: str, call: str, response: str, action: Json = None, **more: Any) -> JsonObject:
    told: JsonObject = {"id": call, "name": tool, "arguments": json.dumps(action)}
    fields: JsonObject = {"thought": [], "action": action, "tool_name": tool, "tool_call_id": call, "tool_call": told}
    return event("ActionEvent", name, second, **{**fields, "llm_response_id": response, **more})


def saw(name: str, second: int, of: JsonObject, words: str, **observation: Any) -> JsonObject:
    told = {"content": text(words), "is_error": False, **observation}
    fields: dict[str, Any] = {"tool_name": of["tool_name"], "tool_call_id": of["tool_call_id"], "action_id": of["id"]}
    return event("ObservationEvent", name, second, **fields, observation=told)


PROMPT = event("SystemPromptEvent", "e0", 0, system_prompt=text("You fix bugs.")[0], tools=[{"name": "terminal"}])
ASKED = said("e1", 1, "Fix\nit.")
LOOK = acted("e2", 2, "terminal", "c1", "r1", {"command": "ls"}, thought=text("I look."), reasoning_content="Hm.")
ALSO = acted("e3", 2, "terminal", "c2", "r1", {"command": "pwd"})
SEEN = saw("e4", 3, LOOK, "a.py")
FAILED = saw("e5", 3, ALSO, "no such file", is_error=True)
DONE = said("e6", 9, "Done.", "r2")
EVENTS = [PROMPT, ASKED, LOOK, ALSO, SEEN, FAILED, DONE]


def used(response: str, prompt: int, cached: int, completion: int) -> JsonObject:
    return {
        "model": "m",
        "prompt_tokens": prompt,
        "cache_read_tokens": cached,
        "completion_tokens": completion,
        "response_id": response,
    }


def metrics(*rows: JsonObject, cost: float = 0.75, more: int = 0) -> JsonObject:
    names = ("prompt_tokens", "cache_read_tokens", "completion_tokens")
    total: dict[str, Any] = {name: sum(int(str(row[name])) for row in rows) for name in names}
    total["prompt_tokens"] += more
    return {
        "model_name": "m",
        "accumulated_cost": cost,
        "accumulated_token_usage": total,
        "costs": [{"model": "m", "cost": 0.25, "timestamp": 1.5} for _ in rows],
        "response_latencies": [{"model": "m", "latency": 1.25, "response_id": row["response_id"]} for row in rows],
        "token_usages": list(rows),
    }


ROWS = [used("r1", 100, 60, 10), used("r2", 200, 150, 5)]


def state(status: str = "finished", **usages: JsonObject) -> JsonObject:
    return {
        "id": CONVERSATION,
        "agent": {"kind": "Agent", "llm": {"model": "m"}},
        "execution_status": status,
        "stats": {"usage_to_metrics": {**usages}},
    }


STATE = state(agent=metrics(*ROWS, cost=0.5), condenser=metrics(used("r9", 5, 0, 5), cost=0.25))


def lay_out(folder: Path, events: Sequence[Json], told: JsonObject | None = None) -> Path:
    """Put a conversation on disk as the program does; return its directory."""
    conversation = folder / CONVERSATION.replace("-", "")
    (conversation / "events").mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(events):
        (conversation / "events" / f"event-{number:05d}-e{number}.json").write_text(json.dumps(each))
    if told is not None:
        (conversation / "base_state.json").write_text(json.dumps(told))
    return conversation


def read(path: Path) -> tuple[list[SourceTrace], ImportCounts]:
    counts = ImportCounts()
    return list(OpenHands().read(path, counts)), counts


def extra(message: Message) -> JsonObject:
    return dict((message.model_extra or {}).get("source", {}))


def problems(counts: ImportCounts) -> list[str]:
    return [each.reason for each in counts.problems]


async def _contents(store: ModelStore) -> dict[str, Any]:
    found = {}
    for trace in await store.list_traces(limit=1000):
        tree = await store.get_goal_tree(trace.trace_id)
        messages, events = await store.get_trace_messages(trace.trace_id), await store.get_events(trace.trace_id)
        told = [(each.event_type, each.payload) for each in events]
        found[trace.trace_id] = (exact_text(trace), exact_texts(messages), told, tree and exact_text(tree))
    return found


def contents(store: ModelStore) -> dict[str, Any]:
    return asyncio.run(_contents(store))


def run(store: ModelStore, *paths: Path) -> ImportReport:
    return asyncio.run(import_paths(store, paths))


def test_events_become_messages(tmp_path: Path) -> None:
    pause = event("PauseEvent", "e7", 9)
    folder = lay_out(tmp_path, [*EVENTS, pause], state())
    (source,), counts = read(folder / "base_state.json")
    assert [(each.message_id, each.role, each.tool_call_id, each.tool_name) for each in source.messages] == [
        ("e0", "system", None, None),
        ("e1", "user", None, None),
        ("e2", "assistant", "c1", "terminal"),
        ("e3", "assistant", "c2", "terminal"),
        ("e4", "tool", "c1", "terminal"),
        ("e5", "tool", "c2", "terminal"),
        ("e6", "assistant", None, None),
    ]
    assert source.messages[2].content == [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "I look."},
        {"type": "tool_call", "id": "c1", "name": "terminal", "arguments": '{"command": "ls"}'},
    ]
    assert [each.content for each in source.messages[4:]] == [text("a.py"), text("no such file"), text("Done.")]
    assert [(each.status, each.error) for each in source.messages[4:6]] == [(None, None), ("failed", "no such file")]
    assert [(each.event_type, each.payload) for each in source.events] == [("openhands.PauseEvent", pause)]
    trace = source.trace
    assert (trace.trace_id, trace.task, trace.result_summary) == (CONVERSATION, "Fix it.", "Done.")
    assert (trace.model, trace.agent_type, trace.status) == ("m", "openhands", "completed")
    assert trace.created_at is not None and trace.completed_at is not None
    assert (trace.completed_at - trace.created_at).total_seconds() == 9
    assert problems(counts) == []


def test_the_files_of_a_conversation_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    files = OpenHands.files

    def looked(importer: OpenHands, path: Path) -> Sequence[Path]:
        asked.append(path)
        return files(importer, path)

    monkeypatch.setattr(OpenHands, "files", looked)
    report = run(ModelStore(), lay_out(tmp_path / CONVERSATION, EVENTS, STATE))
    assert len(asked) == 1 < len(report.covered) and report.skipped == []


def test_what_a_message_does_not_say_stays_beside_it(tmp_path: Path) -> None:
    (source,), _ = read(lay_out(tmp_path, EVENTS, state()) / "base_state.json")
    call, answer = source.messages[2], source.messages[4]
    assert extra(call) == {
        name: value for name, value in LOOK.items() if name not in ("thought", "tool_call", "reasoning_content")
    }
    assert extra(answer)["observation"] == {"is_error": False}
    assert source.trace.metadata["openhands"]["agent"] == {"kind": "Agent", "llm": {"model": "m"}}


def test_each_response_counts_once_with_its_cost_and_time(tmp_path: Path) -> None:
    (source,), counts = read(lay_out(tmp_path, EVENTS, state(agent=metrics(*ROWS, cost=0.5))) / "base_state.json")
    assert [(each.tokens, each.cost, each.duration_ms) for each in source.messages[2:]] == [
        (None, None, None),
        (110, 0.25, 1250),
        (None, None, None),
        (None, None, None),
        (205, 0.25, 1250),
    ]
    usage = source.messages[3].usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (40, 60, 10)
    kept = (usage.model_extra or {})["source"]
    assert kept["usage_id"] == "agent"
    assert kept["token_usages"] == ROWS[0]
    assert kept["costs"] == {"model": "m", "cost": 0.25, "timestamp": 1.5}
    left = source.trace.metadata["openhands"]["stats"]["usage_to_metrics"]["agent"]
    assert (left["token_usages"], left["costs"], left["response_latencies"]) == ([], [], [])
    assert left["accumulated_cost"] == 0.5
    assert counts.differences == []


def test_what_no_message_tells_stands_at_the_last_one(tmp_path: Path) -> None:
    agent = {name: metrics(*ROWS, cost=0.5)[name] for name in ("accumulated_cost", "accumulated_token_usage")}
    condenser = metrics(used("r9", 7, 0, 3), cost=0.25)
    told = state(agent=agent, condenser=condenser)
    (source,), counts = read(lay_out(tmp_path, EVENTS, told) / "base_state.json")
    assert [each.tokens for each in source.messages] == [None] * 6 + [325]
    last = source.messages[-1]
    assert last.cost == 0.75
    assert last.usage is not None and (last.usage.model_extra or {})["whole_run"] is True
    kept = source.trace.metadata["openhands"]["stats"]["usage_to_metrics"]
    assert kept == {"agent": agent, "condenser": condenser}
    assert counts.differences == []


def test_statistics_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    (source,), counts = read(lay_out(tmp_path, EVENTS, state(agent=metrics(*ROWS, more=50))) / "base_state.json")
    assert [each.reason for each in counts.differences] == [
        f"{CONVERSATION}: agent: its responses have 315 tokens, the statistics state 365",
        f"{CONVERSATION}: agent: its responses cost 0.500000, the statistics state 0.750000",
    ]
    assert sum(each.tokens or 0 for each in source.messages) == 365
    assert sum(each.cost or 0 for each in source.messages) == 0.75


def test_statistics_without_a_message_of_the_model_are_named(tmp_path: Path) -> None:
    _, counts = read(lay_out(tmp_path, EVENTS[:2], state(agent=metrics(*ROWS, cost=0.5))) / "base_state.json")
    assert [each.reason for each in counts.differences] == [
        f"{CONVERSATION}: 315 tokens and a cost of 0.500000 are stated, and there is no message of the model"
    ]


@pytest.mark.parametrize(
    ("prompt", "read_tokens", "written", "fresh"), [(100, 60, 30, 10), (100, 60, 50, 40), (40, 60, 0, 40)]
)
def test_a_prompt_contains_the_tokens_of_caches_where_it_can(
    tmp_path: Path, prompt: int, read_tokens: int, written: int, fresh: int
) -> None:
    row = {**used("r2", prompt, read_tokens, 5), "cache_write_tokens": written}
    (source,), _ = read(lay_out(tmp_path, EVENTS, state(agent={"token_usages": [row]})) / "base_state.json")
    usage = source.messages[-1].usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (fresh, read_tokens, written)


@pytest.mark.parametrize(
    ("told", "status", "error"),
    [
        ("finished", "completed", None),
        ("running", "running", None),
        ("waiting_for_confirmation", "running", None),
        ("stuck", "failed", "stuck"),
        ("error", "failed", "boom"),
    ],
)
def test_the_status_is_the_conversations(tmp_path: Path, told: str, status: str, error: str | None) -> None:
    ended = [event("ConversationErrorEvent", "e7", 10, code="X", detail="boom")] if told == "error" else []
    (source,), _ = read(lay_out(tmp_path, [*EVENTS, *ended], state(told)) / "base_state.json")
    assert (source.trace.status, source.trace.error_message) == (status, error)


def test_events_tell_the_state_where_no_file_does(tmp_path: Path) -> None:
    whole = {"execution_status": "error", "stats": {"usage_to_metrics": {"agent": metrics(*ROWS, cost=0.5)}}}
    update = event("ConversationStateUpdateEvent", "e7", 10, key="full_state", value=whole)
    folder = lay_out(tmp_path, [*EVENTS, update])
    (source,), _ = read(next((folder / "events").iterdir()))
    # The directory is named with the conversation's id.
    assert (source.trace.trace_id, source.trace.status) == (CONVERSATION, "failed")
    assert sum(each.tokens or 0 for each in source.messages) == 315


def planned(name: str, second: int, call: str, *tasks: tuple[str, str]) -> list[JsonObject]:
    told: list[Json] = [{"title": title, "notes": "", "status": status} for title, status in tasks]
    action = acted(name, second, "task_tracker", call, f"r-{name}", {"command": "plan", "task_list": told})
    return [action, saw(f"{name}-seen", second, action, "updated")]


def test_the_list_of_tasks_is_the_goals(tmp_path: Path) -> None:
    events = [
        ASKED,
        *planned("p1", 2, "c1", ("look", "in_progress"), ("fix", "todo")),
        *planned("p2", 4, "c2", ("look", "done"), ("fix", "in_progress")),
        DONE,
    ]
    (source,), _ = read(lay_out(tmp_path, events, state()) / "base_state.json")
    assert source.goals is not None
    assert [(goal.description, goal.status) for goal in source.goals.goals] == [
        ("look", "completed"),
        ("fix", "in_progress"),
    ]
    look, fix = (goal.id for goal in source.goals.goals)
    assert [each.goal_id for each in source.messages] == [None, None, None, look, look, fix]
    assert source.trace.current_goal_id == source.goals.current_id == fix


def test_a_task_keeps_its_goal_when_the_model_leaves_out_its_id(tmp_path: Path) -> None:
    def with_ids(events: list[JsonObject], *ids: str) -> list[JsonObject]:
        told = json.loads(json.dumps(events))
        for task, own in zip(told[0]["action"]["task_list"], ids, strict=True):
            task["id"] = own
        return list(told)

    events = [
        *with_ids(planned("p1", 2, "c1", ("look", "todo"), ("fix", "todo")), "a", "b"),
        *with_ids(planned("p2", 3, "c2", ("look", "done"), ("repair", "todo")), "new", "b"),
    ]
    (source,), _ = read(lay_out(tmp_path, events, state()) / "base_state.json")
    assert source.goals is not None
    assert [(goal.description, goal.status) for goal in source.goals.goals] == [
        ("look", "completed"),
        ("repair", "pending"),
    ]


def test_a_rejected_list_of_tasks_changes_nothing(tmp_path: Path) -> None:
    action, _ = planned("p1", 2, "c1", ("look", "todo"))
    rejected = event(
        "UserRejectObservation", "x", 3, tool_name="task_tracker", tool_call_id="c1", rejection_reason="no"
    )
    (source,), _ = read(lay_out(tmp_path, [action, rejected], state()) / "base_state.json")
    assert source.goals is None
    answer = source.messages[-1]
    assert (answer.role, answer.content, answer.status, answer.error) == ("tool", "no", "failed", "no")


def test_a_conversation_is_read_once_wherever_the_importer_is_asked_first(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, EVENTS, state())
    (folder / "meta.json").write_text('{"id": "x", "title": "Bug"}')
    (folder / "events" / ".eventlog.lock").touch()
    files = list(folder.rglob("*.json"))
    for path in files:
        assert set(OpenHands().files(path)) == set(files)
    expected = ModelStore()
    report = run(expected, folder)
    assert [Path(file.path).name for file in report.files] == ["base_state.json"]
    assert [Path(path).name for path in report.skipped] == [".eventlog.lock"]
    assert report.totals()["new_messages"] == 7
    for path in (folder / "events").glob("*.json"):
        store = ModelStore()
        assert run(store, path).totals()["new_messages"] == 7
    trace = asyncio.run(expected.get_trace(CONVERSATION))
    assert trace is not None and trace.metadata["openhands"]["meta"]["title"] == "Bug"


def test_a_conversation_that_goes_on_ends_as_its_last_state(tmp_path: Path) -> None:
    stages = [
        (EVENTS[:3], state("running", agent=metrics(cost=0.25, more=9))),
        (EVENTS[:4], state("running", agent=metrics(cost=0.25, more=9))),
        (EVENTS, state("running", agent=metrics(ROWS[0], cost=0.25))),
        (EVENTS, state("finished", agent=metrics(*ROWS, cost=0.5), condenser=metrics(used("r9", 5, 0, 5), cost=0.25))),
    ]
    store = ModelStore()
    for number, (events, told) in enumerate(stages):
        folder = lay_out(tmp_path, events, told)
        report = run(store, folder)
        assert report.ok
        new = len(events) - (len(stages[number - 1][0]) if number else 0)
        assert report.totals()["new_messages"] == new
    whole = ModelStore()
    run(whole, folder)
    assert contents(store) == contents(whole)
    header = asyncio.run(store.get_trace(CONVERSATION))
    assert header is not None
    assert (header.total_tokens, header.total_cost, header.status) == (325, 0.75, "completed")
    before = contents(store)
    assert run(store, folder).totals()["new_messages"] == 0
    assert contents(store) == before


def test_a_gap_is_named_and_what_follows_is_taken(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, EVENTS, state())
    for number in (1, 3, 4):
        next((folder / "events").glob(f"event-{number:05d}-*")).unlink()
    (source,), counts = read(folder / "base_state.json")
    assert [each.message_id for each in source.messages] == ["e0", "e2", "e5", "e6"]
    assert problems(counts) == ["event 1 is missing", "events 3 to 4 are missing"]


def test_numbers_and_ids_that_come_twice_lose_nothing(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, [PROMPT, ASKED, {**DONE, "id": "e1"}], state())
    (folder / "events" / "event-00002-again.json").write_text(json.dumps(DONE))
    (source,), counts = read(folder / "base_state.json")
    assert len({each.message_id for each in source.messages}) == len(source.messages) == 4
    assert problems(counts) == ["the number 2 comes twice; both were taken"]


def test_a_relative_path_finds_the_conversation_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lay_out(tmp_path, EVENTS, state())
    store = ModelStore()
    monkeypatch.chdir(folder / "events")
    assert run(store, Path("event-00003-e3.json")).totals()["new_messages"] == 7
    monkeypatch.chdir(folder)
    report = run(store, Path())
    assert (report.totals()["files"], report.totals()["known_messages"]) == (1, 7)


def test_an_event_that_is_still_being_written_waits(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, EVENTS, state())
    last = folder / "events" / "event-00006-e6.json"
    whole = last.read_text()
    last.write_text(whole[:40])
    store = ModelStore()
    report = run(store, folder)
    assert ["not JSON" in each.reason for each in report.problems] == [True]
    last.write_text(whole)
    assert run(store, folder).ok
    expected = ModelStore()
    run(expected, folder)
    assert contents(store) == contents(expected)


def test_a_broken_event_in_the_middle_is_kept_as_it_is(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, EVENTS, state())
    (folder / "events" / "event-00001-e1.json").write_text("<<<<<<< HEAD")
    (source,), counts = read(folder / "base_state.json")
    assert [(each.event_type, each.payload) for each in source.events] == [
        ("openhands.unreadable", {"name": "event-00001-e1.json", "text": "<<<<<<< HEAD"})
    ]
    assert len(source.messages) == 6 and len(counts.problems) == 1


def test_a_broken_state_leaves_the_events(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, EVENTS)
    (folder / "base_state.json").write_text('{"id": ')
    (source,), counts = read(folder / "events" / "event-00000-e0.json")
    assert (source.trace.trace_id, len(source.messages)) == (CONVERSATION, 7)
    assert len(counts.problems) == 1


def test_a_conversation_without_events_is_named(tmp_path: Path) -> None:
    path = tmp_path / "base_state.json"
    path.write_text(json.dumps(state()))
    sources, counts = read(path)
    assert sources == []
    assert problems(counts) == [f"the conversation {CONVERSATION} has no events; nothing was taken"]


def plain(prefix: str = "e", start: int = 0, count: int = 4) -> list[JsonObject]:
    """Return a run whose events point at nothing, one a second."""
    return [said(f"{prefix}{number}", start + number, "hi") for number in range(count)]


def flat(folder: Path, *runs: list[JsonObject], states: tuple[JsonObject, ...] = ()) -> Path:
    for each in runs:
        for number, told in enumerate(each):
            (folder / f"event-{number:05d}-{told['id']}.json").write_text(json.dumps(told))
    for number, told in enumerate(states):
        (folder / f"{number}__base_state.json").write_text(json.dumps(told))
    return next(iter(sorted(folder.iterdir())))


def test_runs_side_by_side_are_told_apart_where_much_time_is_between_them(tmp_path: Path) -> None:
    told = {**state(), "last_user_message_id": "x2"}
    sources, counts = read(flat(tmp_path, plain(), plain("x", 600, 3), states=(told,)))
    assert [(each.trace.trace_id, [one.message_id for one in each.messages]) for each in sources] == [
        ("e0", ["e0", "e1", "e2", "e3"]),
        (CONVERSATION, ["x0", "x1", "x2"]),
    ]
    assert all("assembled" in each.trace.metadata["openhands"] for each in sources)
    assert problems(counts) == []


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param((plain(), plain("x", 2)), id="at the same time"),
        pytest.param((plain(), plain("x", 5)), id="right after each other"),
        pytest.param((plain(), plain("x", 600, 1)), id="one event"),
        pytest.param((plain(), [{**each, "timestamp": None} for each in plain("x", 600)]), id="no times"),
    ],
)
def test_runs_side_by_side_are_never_mixed(tmp_path: Path, runs: tuple[list[JsonObject], ...]) -> None:
    sources, counts = read(flat(tmp_path, *runs))
    assert [len(each.messages) for each in sources] == [1] * sum(map(len, runs))
    assert problems(counts) == ["nothing tells which events in this folder are of one run; each is a trace of its own"]


def test_runs_side_by_side_are_not_told_apart_where_a_number_is_missing(tmp_path: Path) -> None:
    first = flat(tmp_path, plain(), plain("x", 600))
    (tmp_path / "event-00001-x1.json").unlink()
    sources, _ = read(first)
    assert [len(each.messages) for each in sources] == [1] * 7


@pytest.mark.parametrize("name", ["action_id", "parent_id"])
def test_events_that_point_at_each_other_are_not_torn_apart(tmp_path: Path, name: str) -> None:
    first, second = plain("x", 600, 2)
    sources, _ = read(flat(tmp_path, plain(), [first, {**second, name: "e1"}]))
    assert {len(each.messages) for each in sources} == {1}


def test_a_state_that_names_two_runs_puts_nothing_together(tmp_path: Path) -> None:
    both = {**state(agent=metrics(used("r1", 1, 0, 1))), "last_user_message_id": "e1"}
    sources, _ = read(flat(tmp_path, plain(), [*plain("x", 600, 2), said("x2", 602, "so", "r1")], states=(both,)))
    assert {len(each.messages) for each in sources} == {1}


def old(number: int, source: str, **fields: Any) -> JsonObject:
    return {"id": number, "timestamp": f"2025-01-02T03:04:{number:02d}.25", "source": source, **fields}


def response(name: str, *calls: str, prompt: int = 100) -> JsonObject:
    function: JsonObject = {"name": "execute_bash", "arguments": "{}"}
    told: list[Json] = [{"id": call, "type": "function", "function": function} for call in calls]
    usage: JsonObject = {"prompt_tokens": prompt, "completion_tokens": 10, "cache_read_input_tokens": 60}
    return {"id": name, "model": "m", "choices": [{"message": {"tool_calls": told}}], "usage": usage}


def called(number: int, call: str, answered: JsonObject, **fields: Any) -> JsonObject:
    metadata = {"function_name": "execute_bash", "tool_call_id": call, "model_response": answered}
    args = {"command": "ls", "thought": "I look."}
    return old(number, "agent", message="Running", action="run", tool_call_metadata=metadata, args=args, **fields)


OLD: list[JsonObject] = [
    old(0, "agent", message="s", action="system", args={"content": "You fix bugs.", "tools": []}),
    old(1, "user", message="Fix it.", action="message", args={"content": "Fix it.", "image_urls": None}),
    old(2, "user", message="r", action="recall", args={"query": "Fix it."}),
    called(3, "c1", response("r1", "c1", "c2")),
    old(4, "agent", message="ran", cause=3, observation="run", content="a.py", extras={"exit_code": 0}, success=True),
    called(5, "c2", response("r1", "c1", "c2")),
    old(6, "agent", message="ran", cause=5, observation="run", content="oh", extras={"exit_code": 1}, success=False),
    old(7, "agent", message="bye", action="finish", args={"final_thought": "Done.", "outputs": {}}),
    old(
        8, "environment", message="", observation="agent_state_changed", content="", extras={"agent_state": "finished"}
    ),
]


UNTIMED = [{name: value for name, value in each.items() if name != "timestamp"} for each in OLD]


def test_a_list_without_times_that_grew_is_the_same_trace(tmp_path: Path) -> None:
    path, store, expected = tmp_path / "trajectory.json", ModelStore(), ModelStore()
    outcomes = []
    for count in (5, 9, 7):
        path.write_text(json.dumps(UNTIMED[:count]))
        outcomes += [each.outcome for each in run(store, path).files[0].traces]
    assert outcomes == ["new", "grown", "older"]
    path.write_text(json.dumps(UNTIMED))
    run(expected, path)
    assert contents(store) == contents(expected)


def test_rows_of_results_that_begin_alike_are_runs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    rows = [{"instance_id": "bug-1", "history": UNTIMED[:count]} for count in (7, 9)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    sources, _ = read(path)
    assert len({each.trace.trace_id for each in sources}) == 2


def test_events_of_older_versions_become_messages(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(OLD, indent=1))
    (source,), counts = read(path)
    assert [(each.role, each.tool_call_id, each.tool_name, each.status) for each in source.messages] == [
        ("system", None, None, None),
        ("user", None, None, None),
        ("assistant", "c1", "execute_bash", None),
        ("tool", "c1", "execute_bash", None),
        ("assistant", "c2", "execute_bash", None),
        ("tool", "c2", "execute_bash", "failed"),
        ("assistant", None, "finish", None),
    ]
    call = source.messages[2]
    assert call.content == [
        {"type": "text", "text": "I look."},
        {"id": "c1", "type": "function", "function": {"name": "execute_bash", "arguments": "{}"}},
    ]
    assert extra(call)["args"] == {"command": "ls"}
    assert source.messages[-1].content == [
        {"type": "tool_call", "name": "finish", "arguments": {"final_thought": "Done.", "outputs": {}}}
    ]
    assert [each.event_type for each in source.events] == [
        "openhands.action.recall",
        "openhands.observation.agent_state_changed",
    ]
    trace = source.trace
    assert (trace.task, trace.result_summary, trace.status, trace.model) == ("Fix it.", "Done.", "completed", "m")
    assert trace.trace_id.startswith("openhands-")
    # Both calls are of one response.
    assert [each.tokens for each in source.messages] == [None, None, None, None, 110, None, None]
    assert problems(counts) == []


def test_a_running_total_is_shared_out_to_what_it_grew_with(tmp_path: Path) -> None:
    def total(prompt: int, cost: float) -> JsonObject:
        return {"accumulated_cost": cost, "accumulated_token_usage": {"prompt_tokens": prompt, "completion_tokens": 1}}

    events = [
        OLD[1],
        called(3, "c1", response("r1", "c1"), llm_metrics=total(100, 0.25)),
        called(5, "c2", response("r2", "c2"), llm_metrics=total(150, 0.75)),
        called(7, "c3", response("r3", "c3"), llm_metrics=total(30, 0.125)),
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(events))
    (source,), _ = read(path)
    assert [(each.tokens, each.cost) for each in source.messages] == [
        (None, None),
        (101, 0.25),
        (50, 0.5),
        (31, 0.125),
    ]


@pytest.mark.parametrize(
    "events", [OLD, [OLD[:1], *([one, two] for one, two in zip(OLD[3:7:2], OLD[4:7:2], strict=True))]]
)
def test_results_of_an_evaluation_are_a_trace_a_row(tmp_path: Path, events: list[Json]) -> None:
    told: JsonObject = {"accumulated_cost": 0.5, "costs": [{"model": "m", "cost": 0.5, "timestamp": 1.0}]}
    about: JsonObject = {"instance_id": "bug-1", "metrics": told, "test_result": {"git_patch": "x" * 500}}
    path = tmp_path / "output.jsonl"
    second = [{**OLD[0], "timestamp": "2025-01-02T05:00:00"}]
    lines = [{**about, "history": events}, {"instance_id": "bug-2", "error": "It broke.", "history": second}]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + "{torn")
    assert OpenHands().detect(path)
    sources, counts = read(path)
    one, two = (each.trace for each in sources)
    assert one.metadata == {"openhands": {"instance_id": "bug-1"}}
    assert (two.status, two.error_message) == ("failed", "It broke.")
    assert (sources[0].events[0].event_type, sources[0].events[0].payload) == ("openhands.run", about)
    assert sum(each.tokens or 0 for each in sources[0].messages) == 110
    assert sum(each.cost or 0 for each in sources[0].messages) == 0.5
    assert len(counts.problems) == 1 and "not taken" in counts.problems[0].reason


def test_a_history_of_the_sdks_events_is_taken_too(tmp_path: Path) -> None:
    path = tmp_path / "output.json"
    path.write_text(json.dumps({"instance_id": "b", "history": EVENTS, "metrics": metrics(*ROWS, cost=0.5)}))
    (source,), _ = read(path)
    assert (source.trace.trace_id, source.positional) == ("e0", False)
    assert [each.tokens for each in source.messages] == [None, None, None, 110, None, None, 205]


def test_a_trajectory_that_grew_adds_its_tail(tmp_path: Path) -> None:
    path, store, expected = tmp_path / "t.json", ModelStore(), ModelStore()
    for count in (2, 5, len(OLD)):
        path.write_text(json.dumps(OLD[:count]))
        assert run(store, path).ok
    run(expected, path)
    assert contents(store) == contents(expected)


def test_rows_of_events_are_one_run(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in EVENTS))
    assert OpenHands().files(path) == [path]
    (source,), _ = read(path)
    assert len(source.messages) == 7


def test_directories_of_older_versions_are_read_without_the_copies_in_their_cache(tmp_path: Path) -> None:
    session = tmp_path / "session"
    (session / "events").mkdir(parents=True)
    (session / "event_cache").mkdir()
    for each in OLD:
        (session / "events" / f"{each['id']}.json").write_text(json.dumps(each))
    (session / "event_cache" / "0-25.json").write_text(json.dumps(OLD))
    store = ModelStore()
    report = run(store, session)
    assert (report.totals()["files"], report.totals()["new_messages"], report.totals()["skipped"]) == (1, 7, 0)
    # It is the run that an export of it holds.
    (tmp_path / "t.json").write_text(json.dumps(OLD))
    assert run(store, tmp_path / "t.json").totals()["new_messages"] == 0


EVALUATED: dict[str, Any] = {
    "instance_id": "bug-1",
    "metrics": metrics(*ROWS, cost=0.5),
    "history": OLD,
    "error": "It broke.",
}


def test_what_is_not_openhands_is_not_claimed(tmp_path: Path) -> None:
    others: list[Any] = [
        [{"role": "user", "content": "hi", "source": "agent"}],
        {"messages": [{"role": "user"}], "response": {}, "cost": 1.0, "agent": {"llm": {}}},
        {"history": [{"role": "user", "message_type": "x"}], "trajectory": [{"action": "ls", "observation": "a"}]},
        {"name": "plugin", "source": "x", "version": "1"},
        {"agent": {"llm": {}}, "id": "x"},
        [],
    ]
    for other in others:
        path = tmp_path / "event-00000-e0.json"
        path.write_text(json.dumps(other))
        assert not OpenHands().detect(path)


def test_the_collection_is_taken_apart_into_its_runs() -> None:
    paths = corpus("openhands-v1")
    store = ModelStore()
    # Files of other formats lie among them.
    report = asyncio.run(import_paths(store, [paths[0].parent], importer=OpenHands()))
    assert {each.reason.partition(" has ")[2] for each in report.problems} == {"no events; nothing was taken"}
    assert report.totals()["differences"] == 0
    events = [json.loads(path.read_bytes()) for path in paths if path.name.startswith("event-")]
    assert report.totals()["new_messages"] == len(events)
    beginnings = [each for each in events if each["kind"] == "SystemPromptEvent"]
    assert report.totals()["traces"] == len(beginnings)
    actions = {each["id"]: each for each in events if each["kind"] == "ActionEvent"}
    traces = asyncio.run(store.list_traces(limit=1000))
    for trace in traces:
        messages = asyncio.run(store.get_trace_messages(trace.trace_id))
        ids = {each.message_id for each in messages}
        for message in messages:
            action = extra(message).get("action_id")
            assert action is None or (action in actions and action in ids)
    stated = 0.0
    for path in paths:
        if path.name.endswith("__base_state.json"):
            usages = json.loads(path.read_bytes()).get("stats", {}).get("usage_to_metrics", {})
            stated += sum(each["accumulated_cost"] for each in usages.values())
    assert sum(each.total_cost for each in traces) == pytest.approx(stated, rel=1e-9)


def test_each_file_of_the_collection_is_claimed_by_one_importer_or_none() -> None:
    for path in corpus("openhands-v1"):
        claimed = {each.name for each in importers() if each.detect(path)}
        is_ours = path.name.startswith("event-") or path.name.endswith("base_state.json")
        assert ("openhands" in claimed) == is_ours, path
        assert len(claimed) <= 1
