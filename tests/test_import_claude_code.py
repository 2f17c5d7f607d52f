"""What a Claude Code session becomes: messages, events, goals and headers, with nothing lost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import traceark
from profiles import some, tried
from traceark.codec.lines import check_texts, to_record
from traceark.importers.base import GOAL_STATUS, ImportCounts, SourceTrace
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.elsewhere import whole
from traceark.models import Goal, Json, Message

SAMPLES = Path(traceark.__file__).parent / "samples" / "claude-code"
CORPORA = Path(__file__).resolve().parents[2] / "shared" / "corpora"
SESSION = "5d0c7a1e-0000-4000-8000-000000000001"


def corpus(name: str) -> list[Path]:
    folder = CORPORA / name
    if not folder.is_dir():
        pytest.skip(f"the corpus {name} is not beside this checkout")
    return sorted(folder.iterdir())


def some_of(name: str, count: int = 4) -> list[Path]:
    """Return so many files of a corpus, none of the third that is largest; all where tests are thorough."""
    ordered = sorted(corpus(name), key=lambda path: path.stat().st_size)
    return some(ordered[: tried(-(-len(ordered) * 2 // 3), len(ordered))], count)


def read(path: Path) -> tuple[dict[str, SourceTrace], ImportCounts]:
    counts = ImportCounts()
    traces = {source.trace.trace_id: source for source in ClaudeCode().read(path, counts)}
    return traces, counts


def row(kind: str = "user", content: Json = "hello", **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": kind, "content": content}
    message.update(fields.pop("message", {}))
    base = {"type": kind, "sessionId": SESSION, "isSidechain": False, "message": message}
    return {**base, "timestamp": "2026-03-01T10:00:00.000Z", **fields}


def streamed(message_id: str, output: int, block: Json = None, **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": output, "cache_read_input_tokens": 100}
    inner = {"id": message_id, "model": "model-a", "usage": usage}
    return row("assistant", [block or {"type": "text", "text": "…"}], message=inner, **fields)


def call(call_id: str, tool: str, arguments: Json) -> Json:
    return {"type": "tool_use", "id": call_id, "name": tool, "input": arguments}


def answer(call_id: str, details: Json = None, *, is_error: bool = False, **fields: Any) -> dict[str, Any]:
    block: Json = {"type": "tool_result", "tool_use_id": call_id, "content": "answer", "is_error": is_error}
    return row("user", [block], toolUseResult=details, **fields)


def take(tmp_path: Path, rows: Iterable[Mapping[str, Any] | str], name: str = "s.jsonl") -> dict[str, SourceTrace]:
    path = tmp_path / name
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return read(path)[0]


def one(tmp_path: Path, *rows: Mapping[str, Any] | str) -> SourceTrace:
    [source] = take(tmp_path, rows).values()
    return source


def extra(message: Message, name: str) -> Any:
    return (message.__pydantic_extra__ or {})[name]


def as_rows(messages: Iterable[Message]) -> list[dict[str, Json]]:
    by_id = {str(message.message_id): message for message in messages}
    sources = [extra(whole(message, by_id), "source") for message in by_id.values()]
    return [
        {**source, "message": {**source["message"], "content": message.content}}
        for source, message in zip(sources, by_id.values(), strict=True)
    ]


def goals(source: SourceTrace) -> dict[str, Goal]:
    assert source.goals is not None
    source.goals.check()
    return {goal.id: goal for goal in source.goals.goals}


def check_nothing_lost(path: Path) -> None:
    """Every row of a clean file is a message or an event, word for word, and each can be archived."""
    traces, counts = read(path)
    assert counts.problems == []
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    made = [row for source in traces.values() for row in as_rows(source.messages)]
    events = [event for source in traces.values() for event in source.events if event.event_type != GOAL_STATUS]
    made += [event.payload for event in events]  # type: ignore[misc]
    assert sorted(map(canonical, made)) == sorted(map(canonical, rows))
    assert counts.rows.total() == len(rows) == sum(len(source.digests) for source in traces.values())
    for source in traces.values():
        for model in (source.trace, *source.messages, *(goals(source).values() if source.goals else ())):
            to_record(model)
            check_texts(model)


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("path", sorted(SAMPLES.rglob("*.jsonl")), ids=lambda path: path.stem)
def test_nothing_of_a_sample_is_lost(path: Path) -> None:
    assert ClaudeCode().detect(path)
    check_nothing_lost(path)


@pytest.mark.parametrize("name", ["claude-code", "claude-code-small", "claude-code-growing"])
def test_nothing_of_a_real_session_is_lost(name: str) -> None:
    for path in corpus(name):
        assert ClaudeCode().detect(path)
        check_nothing_lost(path)


def test_no_file_of_another_format_is_detected() -> None:
    corpus("codex")
    for folder in sorted(CORPORA.iterdir()):
        if folder.is_dir() and not folder.name.startswith("claude-code"):
            assert not [path for path in folder.rglob("*") if path.is_file() and ClaudeCode().detect(path)]


def test_tokens_of_a_real_session_agree_with_a_count_of_its_own() -> None:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    naive_sum = counted_sum = 0
    for path in corpus("claude-code"):
        last: dict[str, int] = {}
        naive = 0
        for line in path.read_text().splitlines():
            inner = json.loads(line).get("message") or {}
            if "usage" in inner:
                last[inner["id"]] = sum(inner["usage"].get(name) or 0 for name in names)
                naive += last[inner["id"]]
        [source] = read(path)[0].values()
        counted = sum(message.counted_tokens() for message in source.messages)
        assert counted == sum(last.values())
        naive_sum, counted_sum = naive_sum + naive, counted_sum + counted
    assert naive_sum > 1.5 * counted_sum


def test_usage_of_a_streamed_message_counts_once_with_its_last_value(tmp_path: Path) -> None:
    source = one(
        tmp_path,
        streamed("m1", 1, uuid="a"),
        streamed("m1", 7, call("c1", "Read", {}), uuid="b"),
        streamed("m2", 2, uuid="c"),
        answer("c1", uuid="d"),
        streamed("m1", 9, call("c2", "Bash", {}), uuid="e"),
    )
    assert [message.tokens for message in source.messages] == [None, None, 107, None, 114]
    usage = source.messages[4].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (5, 9, 100)
    assert extra(source.messages[0], "source")["message"]["usage"]["output_tokens"] == 1


def test_fields_of_usage_that_have_no_column_are_kept(tmp_path: Path) -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 2, "service_tier": "x", "server_tool_use": {"n": 0}}
    source = one(tmp_path, row("assistant", [], message={"id": "m", "usage": usage}))
    found = source.messages[0].usage
    assert found is not None
    assert found.fields() == {
        "input_tokens": 1,
        "cache_write_tokens": 2,
        "service_tier": "x",
        "server_tool_use": {"n": 0},
    }


@pytest.mark.parametrize("count", [-1, 2**64, 1.5, "12", True, None, []])
def test_counts_that_are_no_counts_stay_raw(tmp_path: Path, count: Json) -> None:
    inner = {"id": "m", "usage": {"input_tokens": count, "output_tokens": 3}}
    source = one(tmp_path, row("assistant", "x", message=inner))
    assert source.messages[0].tokens == 3
    assert extra(source.messages[0], "source")["message"]["usage"]["input_tokens"] == count


def test_calls_and_results_are_paired(tmp_path: Path) -> None:
    source = one(
        tmp_path,
        streamed("m", 1, call("c1", "Bash", {"command": "ls"})),
        answer("c1", {"durationMs": 12}),
        answer("unknown", is_error=True),
    )
    asked, told, stray = source.messages
    assert (asked.role, asked.tool_name, asked.tool_call_id) == ("assistant", "Bash", "c1")
    assert (told.role, told.tool_name, told.tool_call_id, told.duration_ms) == ("tool", "Bash", "c1", 12)
    assert (stray.role, stray.tool_name, stray.status, stray.error) == ("tool", None, "failed", "answer")


def test_tasks_become_goals_and_messages_name_the_one_in_progress() -> None:
    [source] = read(SAMPLES / "fix-failing-test.jsonl")[0].values()
    found = goals(source)
    assert [(goal.id, goal.status) for goal in found.values()] == [
        ("task-1", "completed"),
        ("task-2", "completed"),
        ("task-3", "completed"),
    ]
    assert found["task-2"].description == "Fix parse()"
    assert found["task-2"].completed_at is not None
    edit = next(message for message in source.messages if message.tool_name == "Edit")
    assert edit.goal_id == "task-2"
    assert source.messages[0].goal_id is None
    assert source.messages[-1].goal_id is None


def test_a_todo_list_becomes_goals() -> None:
    [source] = read(SAMPLES / "rename-column.jsonl")[0].values()
    assert [(goal.id, goal.status) for goal in goals(source).values()] == [
        ("todo-1", "completed"),
        ("todo-2", "in_progress"),
        ("todo-3", "pending"),
    ]
    assert source.goals is not None
    assert source.goals.current_id == source.trace.current_goal_id == "todo-2"


def test_a_todo_that_left_the_list_is_deleted_and_works_on_nothing(tmp_path: Path) -> None:
    source = one(
        tmp_path,
        streamed("m1", 1, call("c1", "TodoWrite", {"todos": [{"content": "a", "status": "in_progress"}]})),
        answer("c1"),
        streamed("m2", 1, call("c2", "TodoWrite", {"todos": [{"content": "b", "status": "pending"}]})),
        answer("c2"),
        row(content="later"),
    )
    assert [goal.status for goal in goals(source).values()] == ["deleted", "pending"]
    assert [message.goal_id for message in source.messages] == [None, "todo-1", "todo-1", "todo-1", None]


def test_a_todo_change_that_failed_or_got_no_answer_changes_nothing(tmp_path: Path) -> None:
    create = call("c1", "TaskCreate", {"subject": "a"})
    source = one(tmp_path, streamed("m1", 1, create), answer("c1", is_error=True), streamed("m2", 1, create))
    assert source.goals is None


def test_task_ids_used_again_are_new_goals(tmp_path: Path) -> None:
    rows = []
    for number in (1, 2):
        rows += [
            streamed(f"m{number}", 1, call(f"c{number}", "TaskCreate", {"subject": f"take {number}"})),
            answer(f"c{number}", {"task": {"id": "1"}}),
        ]
    found = goals(one(tmp_path, *rows))
    assert {goal.id: goal.description for goal in found.values()} == {"task-1": "take 1", "task-1-2": "take 2"}


def ended(agent_id: str, status: str) -> str:
    """Return what Claude Code says when something in the background has ended."""
    inner = f"<task-id>{agent_id}</task-id>\n<status>{status}</status>\n<summary>…</summary>\n<result>Three.</result>"
    return f"<task-notification>\n{inner}\n</task-notification>"


def test_an_agent_in_the_background_is_in_progress_until_it_is_told_that_it_ended(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for agent in ("a1", "a2", "a3"):
        rows += [
            streamed(f"m-{agent}", 1, call(f"c-{agent}", "Task", {"description": "count", "prompt": "p"})),
            answer(f"c-{agent}", {"status": "async_launched", "agentId": agent}),
        ]
    queued = {
        "type": "queue-operation",
        "operation": "enqueue",
        "sessionId": SESSION,
        "content": ended("a1", "completed"),
    }
    rows += [
        {**queued, "timestamp": "2026-03-01T10:05:00Z"},
        row(content=ended("a2", "failed")),
        row(content=ended("a shell's", "completed")),
    ]
    found = goals(one(tmp_path, *rows))
    assert [(goal.status, goal.summary) for goal in found.values()] == [
        ("completed", "Three."),
        ("failed", "Three."),
        ("in_progress", None),
    ]
    assert found["c-a1"].completed_at == datetime(2026, 3, 1, 10, 5, tzinfo=UTC)


def test_a_sub_agent_in_its_own_file_is_a_child_that_its_call_links() -> None:
    parent_id = "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803"
    [parent] = read(SAMPLES / f"{parent_id}.jsonl")[0].values()
    [child] = read(SAMPLES / parent_id / "subagents" / "agent-a31c7d.jsonl")[0].values()
    assert child.trace.trace_id == f"{parent_id}-agent-a31c7d"
    assert child.trace.parent_trace_id == parent_id
    assert child.trace.task == "List every place in /home/rosa/orchard that reads the tile cache, with file and line."
    goal = goals(parent)["toolu_02a"]
    assert (goal.type, goal.status, goal.sub_trace_ids) == ("agent", "completed", [child.trace.trace_id])
    by_goal = [message.role for message in parent.messages if message.goal_id == goal.id]
    assert by_goal == ["assistant", "tool"]


def test_the_agents_id_may_come_from_the_files_name(tmp_path: Path) -> None:
    rows = [row(uuid="a", isSidechain=True), {"type": "queue-operation", "sessionId": SESSION}]
    assert list(take(tmp_path, rows, "agent-x1.jsonl")) == [f"{SESSION}-agent-x1"]


def test_side_chains_within_a_session_are_children_named_by_their_first_row(tmp_path: Path) -> None:
    traces = take(
        tmp_path,
        [
            row(uuid="a"),
            streamed("m", 1, call("c1", "Task", {"prompt": "look", "description": "Look"}), uuid="b"),
            row(content="look", uuid="s1", isSidechain=True, parentUuid=None),
            row("assistant", uuid="s2", isSidechain=True, parentUuid="s1"),
            {"type": "file-history-snapshot", "snapshot": {}},
            answer("c1", uuid="c"),
        ],
    )
    child = f"{SESSION}-agent-s1"
    assert {trace_id: len(source.messages) for trace_id, source in traces.items()} == {SESSION: 3, child: 2}
    assert [event.event_type for event in traces[SESSION].events] == [
        GOAL_STATUS,
        "claude-code.file-history-snapshot",
        GOAL_STATUS,
    ]
    assert goals(traces[SESSION])["c1"].sub_trace_ids == [child]
    assert traces[child].trace.parent_goal_id == "c1"


def test_two_sessions_in_one_file_are_two_traces_and_rows_without_one_stay_with_their_neighbours(
    tmp_path: Path,
) -> None:
    snapshot = {"type": "file-history-snapshot", "snapshot": {}}
    rows = [snapshot, row(uuid="a"), snapshot, row(uuid="b", sessionId="other"), snapshot]
    traces = take(tmp_path, rows)
    assert {key: (len(each.messages), len(each.events)) for key, each in traces.items()} == {
        SESSION: (1, 2),
        "other": (1, 1),
    }


def test_a_file_that_names_no_session_is_a_problem_unless_its_name_does(tmp_path: Path) -> None:
    snapshot = {"type": "file-history-snapshot", "snapshot": {}}
    assert take(tmp_path, [snapshot], "x.jsonl") == {}
    assert list(take(tmp_path, [snapshot], f"{SESSION}.jsonl")) == [SESSION]
    _, counts = read(tmp_path / "x.jsonl")
    assert [problem.line for problem in counts.problems] == [0]


def test_what_cannot_be_read_is_reported_with_its_line_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join([json.dumps(row(uuid="a")), "<<<<<<< HEAD", "17", json.dumps(row(uuid="b")), '{"type":']))
    [source], counts = list(read(path)[0].values()), read(path)[1]
    assert [(problem.line, problem.path) for problem in counts.problems] == [(n, str(path)) for n in (2, 3, 5)]
    assert [(event.event_type, event.payload) for event in source.events] == [
        ("claude-code.unreadable", {"line": 2, "text": "<<<<<<< HEAD"}),
        ("claude-code.unreadable", {"line": 3, "text": "17"}),
    ]
    # It may become a row yet, so it is no event, which could not be taken back.
    assert source.torn_tail == '{"type":'
    assert [message.message_id for message in source.messages] == ["a", "b"]


def test_rows_that_are_no_messages_are_events_word_for_word(tmp_path: Path) -> None:
    rows = [
        row("user", uuid="a"),
        {"type": "system", "sessionId": SESSION, "subtype": "x"},
        {"type": "brand-new", "sessionId": SESSION, "n": 2**70},
        {"type": 7, "sessionId": SESSION},
        {"type": "user", "sessionId": SESSION, "message": "no object"},
        {"type": "assistant", "sessionId": SESSION, "message": {"role": "assistant"}},
    ]
    source = one(tmp_path, *rows)
    assert [event.payload for event in source.events] == rows[1:]
    assert [event.event_type.removeprefix("claude-code.") for event in source.events] == [
        "system",
        "brand-new",
        "unknown",
        "user",
        "assistant",
    ]


def test_null_content_is_content(tmp_path: Path) -> None:
    source = one(tmp_path, row(content=None))
    assert source.messages[0].content is None
    assert source.events == []


def test_a_row_that_comes_twice_is_kept_as_an_event_and_an_id_that_comes_twice_is_made_unique(tmp_path: Path) -> None:
    source = one(tmp_path, row(uuid="a"), row(uuid="a"), row(content="other", uuid="a"))
    assert [message.message_id for message in source.messages] == ["a", "a#2"]
    assert [event.payload for event in source.events] == [row(uuid="a")]


def test_rows_without_an_id_are_named_by_their_place(tmp_path: Path) -> None:
    source = one(tmp_path, row(), row(uuid="\ud800"), row(uuid=3))
    assert [message.message_id for message in source.messages] == [f"{SESSION}-row-{n}" for n in (1, 2, 3)]


def test_values_that_json_cannot_say_leave_the_rows_text_beside_the_message(tmp_path: Path) -> None:
    text = json.dumps(row(content="CONTENT", uuid="a")).replace('"CONTENT"', '[1e999, NaN, {"a": 1, "a": 2}]')
    path = tmp_path / "s.jsonl"
    path.write_text(text + "\n" + f'{{"type":"system","sessionId":"{SESSION}","n":-Infinity}}')
    [source], counts = list(read(path)[0].values()), read(path)[1]
    assert source.messages[0].content == ["1e999", "NaN", {"a": 2}]
    assert extra(source.messages[0], "source_text") == text
    assert source.events[0].event_type == "claude-code.system"
    assert "-Infinity" in source.events[0].payload["text"]  # type: ignore[index,call-overload,operator]
    assert counts.problems == []
    assert counts.repaired.total() == 2


def test_lone_surrogates_stay_in_json_and_are_replaced_in_typed_text(tmp_path: Path) -> None:
    create = call("c1", "TaskCreate", {"subject": "a\ud800b"})
    source = one(
        tmp_path,
        row(content="x\udfffy"),
        streamed("m", 1, create),
        answer("c1", {"task": {"id": "1"}}),
        {"type": "custom-title", "customTitle": "\ud800", "sessionId": SESSION},
        streamed("m2", 1, call("\ud800", "\ud800", {})),
    )
    assert source.messages[0].content == "x\udfffy"
    assert source.trace.task == "x\ufffdy"
    assert goals(source)["task-1"].description == "a\ufffdb"
    for model in (source.trace, *source.messages, *goals(source).values()):
        check_texts(model)


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("2026-03-01T10:00:00.123456789Z", datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)),
        ("2026-03-01T10:00:00.1234560Z", datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)),
        ("2026-03-01T10:00:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T12:00:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        (1772359200.5, datetime(2026, 3, 1, 10, 0, 0, 500000, UTC)),
        (1772359200000, datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("0001-01-01T00:00:00+10:00", None),
        ("yesterday", None),
        (2**80, None),
        ({}, None),
        (None, None),
    ],
)
def test_times_are_taken_as_far_as_they_can_be(tmp_path: Path, told: Json, taken: datetime | None) -> None:
    source = one(tmp_path, row(timestamp=told))
    assert source.messages[0].created_at == taken
    assert as_rows(source.messages)[0]["timestamp"] == told


def test_a_row_without_a_time_has_that_of_the_row_before_and_clocks_may_run_backwards(tmp_path: Path) -> None:
    source = one(
        tmp_path,
        row(timestamp="2026-03-01T10:00:05Z"),
        row(timestamp=None),
        row(timestamp="2026-03-01T10:00:01Z"),
    )
    assert [message.created_at.second for message in source.messages if message.created_at] == [5, 5, 1]
    assert (source.trace.created_at, source.trace.completed_at) == (
        datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC),
        datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC),
    )


def test_the_header_tells_the_task_the_model_and_how_it_ended() -> None:
    outcomes: dict[str, tuple[str, str | None]] = {}
    for path in SAMPLES.glob("*.jsonl"):
        for source in read(path)[0].values():
            outcomes[path.stem[:8]] = (source.trace.status, source.trace.task)
            assert source.trace.agent_type == "claude-code"
            assert source.trace.model is not None
            assert {"cwd", "gitBranch", "version"} <= source.trace.metadata.keys()
    assert outcomes == {
        "fix-fail": (
            "completed",
            "The test test_parse_empty fails since this morning. Please find out why and fix it.",
        ),
        "c2b9a6f4": ("completed", "Which parts of the code read the tile cache? I want to move it to another folder."),
        "api-erro": ("failed", "Write release notes for 0.9 from the git log."),
        "rename-c": ("cancelled", "/rename amount to amount_cents"),
    }


def test_the_task_is_the_first_prompt_a_person_wrote(tmp_path: Path) -> None:
    source = one(
        tmp_path,
        row(content="Caveat: the messages below", isMeta=True),
        row(content="<local-command-stdout>x</local-command-stdout>"),
        row(content=[{"type": "text", "text": "Please\n  " + "do it " * 100}]),
        row(content="and then that"),
    )
    assert source.trace.task is not None
    assert source.trace.task.startswith("Please do it do it")
    assert source.trace.task.endswith("…")
    assert len(source.trace.task) <= 200


def test_samples_hold_the_trap_of_repeated_usage() -> None:
    naive: dict[str, int] = defaultdict(int)
    counted: dict[str, int] = defaultdict(int)
    for path in SAMPLES.rglob("*.jsonl"):
        for source in read(path)[0].values():
            for message in source.messages:
                usage = extra(message, "source")["message"].get("usage", {})
                naive[path.stem] += sum(value for name, value in usage.items() if name.endswith("_tokens"))
                counted[path.stem] += message.counted_tokens()
    assert naive["fix-failing-test"] > 1.3 * counted["fix-failing-test"]
