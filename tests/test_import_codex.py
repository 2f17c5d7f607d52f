"""Codex CLI sessions: what every row becomes, and totals that are those of the file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from test_import_claude_code import corpus
from traceark.importers.base import GOAL_STATUS, ImportCounts, SourceTrace
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.codex import Codex
from traceark.importers.run import import_paths
from traceark.models import JsonObject, Message
from traceark.testing import ModelStore

# UUIDs of version 7 of one, two and three seconds after 2026-01-02 03:04:05.
PARENT, SESSION, TURN = (f"019b7ca7-{0xBE88 + 1000 * n:04x}-7000-8000-00000000000{n}" for n in (1, 2, 3))
OLD_TURN = PARENT


def row(kind: str, second: int = 0, /, **payload: Any) -> JsonObject:
    return {"timestamp": f"2026-01-02T03:05:{second:02d}.500Z", "type": kind, "payload": payload}


def item(kind: str, second: int = 0, /, **payload: Any) -> JsonObject:
    return row("response_item", second, **{"type": kind, **payload})


def event(kind: str, second: int = 0, /, **payload: Any) -> JsonObject:
    return row("event_msg", second, **{"type": kind, **payload})


def said(text: str, second: int = 0, role: str = "assistant") -> JsonObject:
    return item("message", second, role=role, content=[{"type": "output_text", "text": text}])


Counters = tuple[int, int, int, int]
NOTHING: Counters = (0, 0, 0, 0)


def total(given: int, cached: int, output: int, reasoning: int = 0, *, before: Counters = NOTHING) -> JsonObject:
    """Return a row that counts all tokens so far, and those of the last call: what the total grew by since `before`."""
    now = (given, cached, output, reasoning)
    last = counters(*(each - old for each, old in zip(now, before, strict=True)))
    return event("token_count", info={"total_token_usage": counters(*now), "last_token_usage": last})


def counters(given: int, cached: int, output: int, reasoning: int) -> JsonObject:
    return {
        "input_tokens": given,
        "cached_input_tokens": cached,
        "output_tokens": output,
        "reasoning_output_tokens": reasoning,
        "total_tokens": given + output,
    }


META = row("session_meta", id=SESSION, cwd="/work", cli_version="0.1", originator="codex-tui")


def read(tmp_path: Path, *rows: JsonObject | str) -> tuple[SourceTrace, ImportCounts]:
    path = tmp_path / "rollout.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows) + "\n")
    counts = ImportCounts()
    (source,) = Codex().read(path, counts)
    return source, counts


def spent(messages: list[Message]) -> list[tuple[int | None, ...] | None]:
    return [
        (each.usage.input_tokens, each.usage.cache_read_tokens, each.usage.output_tokens, each.usage.reasoning_tokens)
        if each.usage is not None
        else None
        for each in messages
    ]


def test_the_running_total_is_differenced_and_repeated_totals_count_once(tmp_path: Path) -> None:
    source, _ = read(
        tmp_path,
        META,
        said("hello", role="user"),
        event("token_count", info=None),
        said("one"),
        total(100, 60, 10, 4),
        total(100, 60, 10, 4),
        said("two"),
        total(250, 160, 30, 5, before=(100, 60, 10, 4)),
    )
    assert spent(source.messages) == [None, (40, 60, 10, 4), (50, 100, 20, 1)]
    assert [each.tokens for each in source.messages] == [None, 110, 170]
    assert sum(each.tokens or 0 for each in source.messages) == 250 + 30


def test_a_total_that_falls_counts_from_nothing(tmp_path: Path) -> None:
    source, _ = read(tmp_path, META, said("one"), total(100, 0, 10), said("two"), total(50, 20, 5))
    assert spent(source.messages) == [(100, 0, 10, 0), (30, 20, 5, 0)]


def test_usage_goes_to_what_the_model_wrote_last_and_adds_up_there(tmp_path: Path) -> None:
    call = item("function_call", name="shell", arguments="{}", call_id="c")
    output = item("function_call_output", call_id="c", output="done")
    more = total(30, 0, 2, before=(10, 0, 1, 0))
    source, _ = read(tmp_path, META, said("one"), call, output, total(10, 0, 1), more)
    assert spent(source.messages) == [None, (30, 0, 2, 0), None]


def test_what_the_total_grew_by_before_the_model_wrote_goes_to_what_it_writes_next(tmp_path: Path) -> None:
    asked, more = said("hi", role="user"), total(230, 0, 30, before=(100, 0, 10, 0))
    source, counts = read(tmp_path, META, asked, total(100, 0, 10), said("one"), said("two"), more)
    assert spent(source.messages) == [None, (100, 0, 10, 0), (130, 0, 20, 0)]
    assert sum(each.tokens or 0 for each in source.messages) == 260
    assert counts.differences == []
    source, counts = read(tmp_path, META, asked, total(100, 0, 10))
    assert spent(source.messages) == [None]
    assert [each.reason for each in counts.differences] == [
        f"{SESSION}: the messages have 0 tokens, the file states 110"
    ]


def test_a_total_that_is_the_last_calls_alone_counts_from_nothing_though_it_is_larger(tmp_path: Path) -> None:
    source, counts = read(tmp_path, META, said("one"), total(100, 0, 10), said("two"), *[total(5000, 0, 20)] * 2)
    assert [each.tokens for each in source.messages] == [110, 5020]
    assert counts.differences == []


def test_a_total_that_grew_by_less_than_the_last_call_used_is_a_difference(tmp_path: Path) -> None:
    # The counter began anew, and a row after that is missing.
    more = total(300, 0, 20, before=(50, 0, 10, 0))
    source, counts = read(tmp_path, META, said("one"), total(100, 0, 10), said("two"), more)
    assert [each.tokens for each in source.messages] == [110, 210]
    assert [(each.line, each.reason) for each in counts.differences] == [
        (5, f"{SESSION}: the total grew by 210 tokens, the last call used 260")
    ]
    # Where rows are missing before it, a total says more than the last call, and counts.
    source, counts = read(tmp_path, META, said("one"), more)
    assert ([each.tokens for each in source.messages], counts.differences) == ([320], [])


def test_what_a_fork_uses_before_it_says_anything_is_its_own(tmp_path: Path) -> None:
    source, counts = read(
        tmp_path,
        META,
        row("session_meta", id=PARENT),
        event("task_started", turn_id=OLD_TURN),
        said("parent"),
        total(100, 0, 10),
        event("task_started", turn_id=TURN),
        total(130, 0, 15, before=(100, 0, 10, 0)),
        said("own"),
    )
    assert spent(source.messages) == [None, (30, 0, 5, 0)]
    assert counts.differences == []


def test_calls_and_outputs_are_paired(tmp_path: Path) -> None:
    source, _ = read(
        tmp_path,
        META,
        item("function_call", name="shell", arguments='{"cmd":"ls"}', call_id="c1"),
        item("custom_tool_call", name="apply_patch", input="*** Begin Patch", call_id="c2"),
        event(
            "exec_command_end", call_id="c1", exit_code=2, stderr="no\nsuch file", duration={"secs": 1, "nanos": 5e5}
        ),
        event("patch_apply_end", call_id="c2", success=True, duration={"secs": 2, "nanos": 3_999_999}),
        item("custom_tool_call_output", call_id="c2", output="Success"),
        item("function_call_output", call_id="c1", output="exit 2"),
        item("web_search_call", status="completed", action={"query": "x"}),
        item("reasoning", summary=[], encrypted_content="xyz"),
    )
    told = [(each.role, each.tool_call_id, each.tool_name, each.status, each.duration_ms) for each in source.messages]
    assert told == [
        ("assistant", "c1", "shell", None, None),
        ("assistant", "c2", "apply_patch", None, None),
        ("tool", "c2", "apply_patch", None, 2003),
        ("tool", "c1", "shell", "failed", None),  # half a nanosecond is no number of nanoseconds
        ("assistant", None, "web_search", None, None),
        ("assistant", None, None, None, None),
    ]
    assert source.messages[3].error == "no such file"
    assert source.messages[3].content == "exit 2"
    assert source.messages[0].content == [
        {"type": "function_call", "name": "shell", "arguments": '{"cmd":"ls"}', "call_id": "c1"}
    ]


def test_a_plan_gives_goals_and_messages_carry_the_one_in_progress(tmp_path: Path) -> None:
    def plan(call_id: str, **steps: str) -> list[JsonObject]:
        told = [{"step": step, "status": status} for step, status in steps.items()]
        arguments = json.dumps({"explanation": "so", "plan": told})
        return [
            item("function_call", name="update_plan", arguments=arguments, call_id=call_id),
            item("function_call_output", 1, call_id=call_id, output="Plan updated"),
        ]

    source, _ = read(
        tmp_path,
        META,
        event("user_message", message="Tidy up,\nplease"),
        *plan("p1", look="in_progress", mend="pending"),
        said("looking"),
        *plan("p2", look="completed", mend="in_progress", test="pending"),
        said("mending"),
        *plan("p3", look="completed", mend="in_progress"),
    )
    assert source.goals is not None
    assert [(goal.description, goal.status) for goal in source.goals.goals] == [
        ("look", "completed"),
        ("mend", "in_progress"),
        ("test", "deleted"),
    ]
    assert (source.goals.mission, source.goals.current_id) == ("Tidy up, please", "todo-2")
    assert [each.goal_id for each in source.messages if each.role == "assistant" and each.tool_name is None] == [
        "todo-1",
        "todo-2",
    ]


def test_a_fork_counts_only_its_own_and_says_where_it_branched(tmp_path: Path) -> None:
    source, _ = read(
        tmp_path,
        META,
        row("session_meta", id=PARENT, cwd="/elsewhere"),
        event("task_started", turn_id=OLD_TURN),
        event("user_message", message="the parent's task"),
        said("parent"),
        total(100, 0, 10),
        event("task_started", turn_id=TURN),
        event("user_message", message="the fork's own"),
        said("own"),
        total(130, 0, 15, before=(100, 0, 10, 0)),
    )
    assert spent(source.messages) == [None, (30, 0, 5, 0)]
    assert [(each.model_extra or {}).get("copied") for each in source.messages] == [True, None]
    assert source.trace.task == "the fork's own"
    metadata = source.trace.metadata
    assert (metadata["forked_from_id"], metadata["copied_messages"], metadata["cwd"]) == (PARENT, 1, "/work")


def test_the_header_says_what_the_rows_say(tmp_path: Path) -> None:
    source, _ = read(
        tmp_path,
        row("session_meta", 1, id=SESSION, source={"subagent": {"thread_spawn": {"parent_thread_id": PARENT}}}),
        row("turn_context", model="m-1"),
        row("turn_context", model="m-2"),
        event("agent_message", 5, message="All done."),
        event("turn_aborted", 9, reason="interrupted"),
    )
    trace = source.trace
    assert (trace.trace_id, trace.parent_trace_id, trace.agent_type) == (SESSION, PARENT, "codex")
    assert (trace.model, trace.metadata["models"]) == ("m-2", ["m-1", "m-2"])
    assert (trace.status, trace.result_summary) == ("cancelled", "All done.")
    assert trace.created_at is not None and trace.completed_at is not None
    assert (trace.created_at.second, trace.completed_at.second) == (0, 9)


def test_every_row_is_a_message_or_a_raw_event(tmp_path: Path) -> None:
    rows: list[JsonObject | str] = [
        META,
        said("hi"),
        '{"timestamp":"x","type":"event_msg"',
        row("compacted", message="", replacement_history=[{"type": "message"}]),
        {"type": "odd"},
        event("odd", more=[1]),
        item("odd", more=2),
        total(1, 0, 1),
    ]
    source, counts = read(tmp_path, *rows)
    assert sum(counts.rows.values()) == len(rows) == len(source.messages) + len(source.events)
    assert [problem.line for problem in counts.problems] == [3]
    assert counts.repaired["not a time"] == 0
    assert [each.event_type for each in source.events] == [
        "codex.session_meta",
        "codex.unreadable",
        "codex.compacted",
        "codex.odd",
        "codex.event_msg.odd",
        "codex.event_msg.token_count",
    ]
    kept = [each.payload for each in source.events if each.event_type != "codex.unreadable"]
    assert kept == [rows[0], rows[3], rows[4], rows[5], rows[7]]
    for message, given in zip(source.messages, (rows[1], rows[6]), strict=True):
        assert isinstance(given, dict)
        beside = (message.model_extra or {})["source"]
        payload = message.content[0] if isinstance(message.content[0], dict) and "more" in message.content[0] else None
        inner = payload or {**beside["payload"], "content": message.content}
        assert {**beside, "payload": inner} == given


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    path.write_text(json.dumps(META))
    assert Codex().detect(path) and not ClaudeCode().detect(path)
    path.write_text('{"type":"user","sessionId":"s","message":{"role":"user","content":"x"},"isSidechain":false}')
    assert not Codex().detect(path) and ClaudeCode().detect(path)
    path.write_text("no JSON at all")
    assert not Codex().detect(path)


def test_a_file_without_a_session_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_text(json.dumps(said("hi")))
    counts = ImportCounts()
    assert list(Codex().read(path, counts)) == []
    assert [problem.reason for problem in counts.problems] == ["no row names the session; nothing was taken"]


def test_a_growing_file_ends_as_the_whole(tmp_path: Path) -> None:
    plan = {"plan": [{"step": "a", "status": "in_progress"}]}
    rows = [
        META,
        row("turn_context", model="m"),
        event("user_message", message="task"),
        said("one"),
        item("function_call", name="update_plan", arguments=json.dumps(plan), call_id="p"),
        total(10, 5, 2),
        item("function_call_output", call_id="p", output="ok"),
        said("two"),
        total(30, 10, 5, before=(10, 5, 2, 0)),
        event("turn_aborted"),
    ]
    lines = [json.dumps(each) + "\n" for each in rows]
    path = tmp_path / "rollout.jsonl"

    async def contents(sizes: list[int]) -> tuple[Any, ...]:
        store = ModelStore()
        for size in sizes:
            path.write_text("".join(lines)[:size])
            report = await import_paths(store, [path])
            assert all(trace.outcome != "diverged" for file in report.files for trace in file.traces)
        trace = await store.get_trace(SESSION)
        assert trace is not None
        trees = await store.get_goal_tree(SESSION)
        messages = await store.get_trace_messages(SESSION)
        events = [(each.event_type, each.payload) for each in await store.get_events(SESSION)]
        return trace, messages, events, trees and [goal.model_dump() for goal in trees.goals]

    whole = sum(map(len, lines))
    expected = asyncio.run(contents([whole]))
    assert expected[0].total_tokens == 35
    for size in range(len(lines[0]), whole, 61):
        for order in ([size, whole], [whole, size], [size, size // 2 + len(lines[0]), whole]):
            assert asyncio.run(contents(order)) == expected


def test_real_sessions_add_up_to_their_own_totals() -> None:
    for path in corpus("codex"):
        adds_up(path)


def adds_up(path: Path) -> None:
    counts = ImportCounts()
    (source,) = Codex().read(path, counts)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    infos = [each["payload"]["info"] for each in rows if each["payload"].get("type") == "token_count"]
    stated = [info["total_token_usage"] for info in infos if info][-1]
    assert sum(each.tokens or 0 for each in source.messages) == stated["total_tokens"]
    usages = [each.usage for each in source.messages if each.usage is not None]
    assert sum(each.cache_read_tokens or 0 for each in usages) == stated["cached_input_tokens"]
    assert sum(each.reasoning_tokens or 0 for each in usages) == stated["reasoning_output_tokens"]
    assert sum(each.input_tokens or 0 for each in usages) == stated["input_tokens"] - stated["cached_input_tokens"]
    assert sum(each.output_tokens or 0 for each in usages) == stated["output_tokens"]
    assert source.trace.trace_id == rows[0]["payload"]["id"]
    assert len(source.messages) + sum(each.event_type != GOAL_STATUS for each in source.events) == len(rows)
    assert counts.problems == [] and counts.differences == []


def test_a_sub_agent_is_a_goal_that_names_its_session_and_ends_when_waiting_for_it_tells(tmp_path: Path) -> None:
    told = json.dumps({"status": {TURN: {"completed": "Seen."}}})
    source, _ = read(
        tmp_path,
        META,
        item("function_call", 1, call_id="c1", name="spawn_agent", arguments=json.dumps({"message": "Look."})),
        event("collab_agent_spawn_end", 2, call_id="c1", new_thread_id=TURN),
        item("function_call_output", 2, call_id="c1", output="started"),
        item("function_call", 3, call_id="c2", name="wait", arguments="{}"),
        item("function_call_output", 4, call_id="c2", output=told),
    )
    assert source.goals is not None
    [goal] = source.goals.goals
    assert (goal.id, goal.type, goal.description, goal.sub_trace_ids) == ("c1", "agent", "Look.", [TURN])
    assert (goal.status, goal.summary) == ("completed", "Seen.")
    assert [each.goal_id for each in source.messages] == ["c1", "c1", None, None]
