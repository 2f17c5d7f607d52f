"""Trajectories in ATIF and chats as JSON Lines: what their records become, exactly and again and again."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from profiles import tried
from test_import_claude_code import corpus, some_of
from traceark.importers.atif import Atif
from traceark.importers.base import ImportCounts, Importer, SourceTrace
from traceark.importers.chat import Chat
from traceark.importers.document import document_of, objects_of
from traceark.importers.find import importers
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.importers.swe_agent import SweAgent
from traceark.importers.tau2 import Tau2
from traceark.importers.who_and_when import WhoAndWhen
from traceark.models import GoalTree, Json, JsonObject, Message, Trace
from traceark.testing import ModelStore

STEPS: list[JsonObject] = [
    {"step_id": 1, "timestamp": "2026-01-02T03:04:05Z", "source": "user", "message": "What is\n2 + 2?"},
    {
        "step_id": 2,
        "source": "agent",
        "message": "I ask.",
        "model_name": "m-1",
        "reasoning_content": "Adding is hard.",
        "tool_calls": [
            {"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 2, "b": 2}, "extra": {"x": 1}}
        ],
        "observation": {"results": [{"source_call_id": "c1", "content": "4", "extra": {"y": 2}}], "note": "ok"},
        "metrics": {
            "prompt_tokens": 100,
            "cached_tokens": 60,
            "completion_tokens": 10,
            "cost_usd": 0.5,
            "latency_ms": 7,
        },
        "odd": [1],
    },
    {"step_id": 3, "timestamp": "2026-01-02T03:04:09Z", "source": "agent", "message": "Four."},
]


def trajectory(steps: Sequence[JsonObject] = STEPS, **fields: Any) -> JsonObject:
    return {
        "schema_version": "ATIF-v1.6",
        "session_id": "s",
        "agent": {"name": "adder", "version": "1", "model_name": "m-0"},
        "steps": list(steps),
        **fields,
    }


def told_of_usage(message: Message) -> dict[str, Any]:
    """Return what else a message's usage says."""
    assert message.usage is not None
    return message.usage.model_extra or {}


def read(importer: Importer, path: Path, text: str) -> tuple[list[SourceTrace], ImportCounts]:
    path.write_text(text)
    counts = ImportCounts()
    return list(importer.read(path, counts)), counts


def test_a_step_is_a_message_and_each_result_of_it_one_more(tmp_path: Path) -> None:
    (source,), counts = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(), indent=2))
    told = [(each.message_id, each.role, each.tool_call_id, each.tool_name) for each in source.messages]
    assert told == [
        ("s-step-1", "user", None, None),
        ("s-step-2", "assistant", "c1", "add"),
        ("s-step-2-result-1", "tool", "c1", "add"),
        ("s-step-3", "assistant", None, None),
    ]
    call = source.messages[1]
    assert call.content == [
        {"type": "thinking", "thinking": "Adding is hard."},
        {"type": "text", "text": "I ask."},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2, "b": 2}, "extra": {"x": 1}},
    ]
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.cache_read_tokens, call.usage.output_tokens) == (40, 60, 10)
    assert (call.tokens, call.cost, call.duration_ms) == (110, 0.5, 7)
    assert [each.content for each in source.messages if each is not call] == ["What is\n2 + 2?", "4", "Four."]
    trace = source.trace
    assert (trace.agent_type, trace.model, trace.task, trace.result_summary) == (
        "adder",
        "m-1",
        "What is 2 + 2?",
        "Four.",
    )
    assert trace.created_at is not None and trace.completed_at is not None
    assert (trace.completed_at - trace.created_at).total_seconds() == 4
    assert counts.rows == {"agent": 1, "step": 3}


def test_nothing_of_a_step_is_dropped(tmp_path: Path) -> None:
    (source,), _ = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(notes="n", extra={"z": None})))
    extra = [(each.model_extra or {}).get("source", {}) for each in source.messages]
    step = STEPS[1]
    assert extra[1] == {
        **{name: step[name] for name in ("step_id", "source", "model_name", "metrics", "odd")},
        "observation": {"note": "ok"},
    }
    assert extra[2] == {"source_call_id": "c1", "extra": {"y": 2}}
    document = trajectory(notes="n", extra={"z": None})
    assert source.trace.metadata == {"atif": {key: value for key, value in document.items() if key != "steps"}}
    assert [(each.event_type, each.payload) for each in source.events] == [("atif.agent", document["agent"])]


def test_copied_steps_count_nothing(tmp_path: Path) -> None:
    steps = [{**STEPS[1], "is_copied_context": True}, {**STEPS[1], "step_id": 9}]
    (source,), _ = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(steps)))
    assert [(each.tokens, (each.model_extra or {}).get("copied")) for each in source.messages] == [
        (None, True),
        (None, True),
        (110, None),
        (None, None),
    ]


@pytest.mark.parametrize(("stated", "differs"), [((100, 10), False), ((100, 11), True), ((0, 0), True)])
def test_totals_that_a_document_states_are_checked(tmp_path: Path, stated: tuple[int, int], differs: bool) -> None:
    final = {"total_prompt_tokens": stated[0], "total_completion_tokens": stated[1]}
    _, counts = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(final_metrics=final)))
    told = [f"s: the messages have 110 tokens, the file states {sum(stated)}"] if differs else []
    assert [difference.reason for difference in counts.differences] == told


def test_totals_that_no_step_tells_stand_at_the_agents_last_message(tmp_path: Path) -> None:
    steps = [{name: value for name, value in step.items() if name != "metrics"} for step in STEPS]
    final = {"total_prompt_tokens": 100, "total_cached_tokens": 60, "total_completion_tokens": 7, "total_cost_usd": 0.5}
    told = json.dumps(trajectory(steps, final_metrics=final))
    (source,), counts = read(Atif(), tmp_path / "t.json", told)
    *before, last = source.messages
    assert [message.tokens for message in before] == [None] * 3
    assert (last.tokens, last.cost, told_of_usage(last)["whole_run"]) == (107, 0.5, True)
    assert last.usage is not None
    assert (last.usage.input_tokens, last.usage.cache_read_tokens) == (40, 60)
    assert counts.differences == []


def test_costs_and_cached_tokens_that_a_document_states_are_checked(tmp_path: Path) -> None:
    told = {"total_prompt_tokens": 100, "total_completion_tokens": 10}
    for cost, cached, expected in (
        (0.5, 60, []),
        (0.5000001, None, []),  # as costs are rounded
        (None, None, []),
        (0.75, 60, ["s: the messages cost 0.500000, the file states 0.750000"]),
        (0.5, 61, ["s: the messages have 60 cached tokens, the file states 61"]),
        (0, 0, ["s: the messages have 60 cached tokens, the file states 0"]),
    ):
        final = {**told, "total_cost_usd": cost, "total_cached_tokens": cached}
        _, counts = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(final_metrics=final)))
        if cost == 0:
            expected = [*expected, "s: the messages cost 0.500000, the file states 0.000000"]
        assert [each.reason for each in counts.differences] == expected


@pytest.mark.parametrize(
    ("metrics", "final", "tokens", "cost"),
    [
        # Steps tell tokens and no cost, a cost and no tokens, and what is neither.
        ({"prompt_tokens": 100, "completion_tokens": 10}, {"total_cost_usd": 0.5}, [110, None], [None, 0.5]),
        ({"cost_usd": 0.5}, {"total_prompt_tokens": 9, "total_completion_tokens": 6}, [0, 15], [0.5, None]),
        ({"logprobs": [-0.1]}, {"total_prompt_tokens": 9, "total_completion_tokens": 6}, [0, 15], [None, None]),
        ({"cost_usd": 0.0}, {"total_cost_usd": 0.5}, [0, None], [0.0, 0.5]),
    ],
)
def test_tokens_and_costs_are_taken_from_the_totals_each_where_no_step_tells_them(
    tmp_path: Path, metrics: JsonObject, final: JsonObject, tokens: list[int | None], cost: list[float | None]
) -> None:
    steps: list[JsonObject] = [
        {"step_id": 1, "source": "agent", "message": "I look.", "metrics": metrics},
        {"step_id": 2, "source": "agent", "message": "Done."},
    ]
    (source,), counts = read(Atif(), tmp_path / "t.json", json.dumps(trajectory(steps, final_metrics=final)))
    assert [each.tokens for each in source.messages] == tokens
    assert [each.cost for each in source.messages] == cost
    assert told_of_usage(source.messages[-1])["whole_run"] is True
    assert counts.differences == []


def test_sub_agents_are_child_traces_whichever_comes_first(tmp_path: Path) -> None:
    reference: JsonObject = {
        "source_call_id": "c1",
        "content": "asked",
        "subagent_trajectory_ref": [{"session_id": "child"}],
    }
    parent = trajectory([{**STEPS[1], "observation": {"results": [reference]}}])
    (tmp_path / "parent.json").write_text(json.dumps(parent))
    (tmp_path / "child.json").write_text(json.dumps(trajectory(session_id="child")))

    async def imported(names: Sequence[str]) -> tuple[Trace | None, GoalTree | None]:
        store = ModelStore()
        await import_paths(store, [tmp_path / name for name in names])
        return await store.get_trace("child"), await store.get_goal_tree("s")

    for order in (["child.json", "parent.json"], ["parent.json", "child.json"]):
        child, tree = asyncio.run(imported(order))
        assert child is not None and tree is not None
        assert (child.parent_trace_id, child.parent_goal_id) == ("s", "c1")
        assert [(goal.id, goal.type, goal.sub_trace_ids) for goal in tree.goals] == [("c1", "agent", ["child"])]


def test_sub_agents_in_the_same_document_are_traces_of_their_own(tmp_path: Path) -> None:
    inner = trajectory(session_id="s", trajectory_id="inner")
    document = trajectory(trajectory_id="outer", subagent_trajectories=[inner])
    sources, _ = read(Atif(), tmp_path / "t.json", json.dumps(document))
    assert [(each.trace.trace_id, each.trace.parent_trace_id) for each in sources] == [
        ("outer", None),
        ("inner", "outer"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema_version": "ATIF-v1.6"', "not JSON"),
        ('{"schema_version": "ATIF-v1.6"} {}', "more than one JSON value"),
        ('{"schema_version": "ATIF-v1.6", "steps": []}', "has no session_id"),
        ("[" * 600 + "]" * 600, "nested deeper"),
    ],
)
def test_what_is_no_trajectory_is_named(tmp_path: Path, text: str, reason: str) -> None:
    sources, counts = read(Atif(), tmp_path / "t.json", text)
    assert sources == []
    (problem,) = counts.problems
    assert reason in problem.reason
    assert problem.path == str(tmp_path / "t.json")


CHAT: JsonObject = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Rome?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
            "weight": 0,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ],
    "tools": [{"type": "function"}],
}


def test_a_line_is_a_trace(tmp_path: Path) -> None:
    named = {**CHAT, "id": "chat-7"}
    sources, counts = read(Chat(), tmp_path / "c.jsonl", f"{json.dumps(CHAT)}\n\n{json.dumps(named)}\n")
    first, second = sources
    assert first.trace.trace_id.startswith("chat-") and second.trace.trace_id == "chat-7"
    assert [(each.role, each.tool_call_id, each.tool_name) for each in first.messages] == [
        ("system", None, None),
        ("user", None, None),
        ("assistant", "c1", "weather"),
        ("tool", "c1", "weather"),
        ("assistant", None, None),
    ]
    assert first.messages[2].content == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ]
    assert [(each.model_extra or {}).get("source") for each in first.messages] == [
        None,
        {"name": "ann"},
        {"content": None, "weight": 0},
        {"tool_call_id": "c1"},
        None,
    ]
    assert (first.trace.task, first.trace.result_summary) == ("Weather in Rome?", "Sunny.")
    assert [(each.event_type, each.payload) for each in first.events] == [
        ("chat.chat", {"tools": [{"type": "function"}]})
    ]
    assert second.trace.metadata == {"chat": {"id": "chat-7"}}
    assert counts.rows == {"message": 10, "chat": 2}


COUNTED: JsonObject = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


@pytest.mark.parametrize("told", [{"usage": COUNTED}, {"response": {"id": "r", "usage": COUNTED}}])
def test_the_usage_that_a_line_states_stands_at_its_last_answer(tmp_path: Path, told: JsonObject) -> None:
    line = json.dumps({"messages": said("hi", "Hello.", "Rome?", "Sunny.", "Thanks."), **told})
    (source,), counts = read(Chat(), tmp_path / "c.jsonl", line)
    assert [each.tokens for each in source.messages] == [None, None, None, 12, None]
    answer = source.messages[3]
    assert answer.usage is not None and (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 2)
    assert told_of_usage(answer)["whole_run"] is True
    assert counts.differences == []


def test_the_usage_of_answers_is_theirs_and_what_the_line_states_is_checked(tmp_path: Path) -> None:
    messages = said("hi", "Hello.", "Rome?", "Sunny.")
    answers: list[JsonObject] = [each for each in messages if isinstance(each, dict) and each["role"] == "assistant"]
    for answer in answers:
        answer["usage"] = COUNTED
    for stated, differs in ((24, []), (12, ["the messages have 24 tokens, the file states 12"])):
        chat = {"id": "c", "messages": messages, "usage": {"prompt_tokens": stated - 2, "completion_tokens": 2}}
        (source,), counts = read(Chat(), tmp_path / "c.jsonl", json.dumps(chat))
        assert [each.tokens for each in source.messages] == [None, 12, None, 12]
        assert not any("whole_run" in told_of_usage(each) for each in source.messages if each.usage)
        assert (source.messages[1].model_extra or {})["source"] == {"usage": COUNTED}
        assert [each.reason for each in counts.differences] == [f"c: {each}" for each in differs]


def test_usage_of_a_line_without_an_answer_is_a_difference(tmp_path: Path) -> None:
    chat = {"id": "c", "messages": said("hi"), "usage": COUNTED}
    _, counts = read(Chat(), tmp_path / "c.jsonl", json.dumps(chat))
    assert [each.reason for each in counts.differences] == ["c: the messages have 0 tokens, the file states 12"]


def said(*texts: str) -> list[Json]:
    return [{"role": role, "content": text} for role, text in zip(itertools.cycle(["user", "assistant"]), texts)]


def write_chats(path: Path, *chats: Sequence[Json]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"messages": list(chat)}) + "\n" for chat in chats))
    return path


def test_a_file_of_chats_is_the_same_traces_wherever_it_lies(tmp_path: Path) -> None:
    sources = []
    for folder in ("here", "there"):
        path = write_chats(tmp_path / folder / "c.jsonl", said("hi", "Hello."), said("bye"))
        sources.append([(each.trace, each.messages) for each in Chat().read(path, ImportCounts())])
    assert sources[0] == sources[1]


def test_chats_that_begin_alike_or_are_alike_are_traces_of_their_own_in_any_order(tmp_path: Path) -> None:
    answers = [["Hello."], ["Hello.", "Rome?", "Sunny."], ["Hello."], ["Hi!"]]
    one = write_chats(tmp_path / "one.jsonl", *(said("hi", *each) for each in answers))
    two = write_chats(tmp_path / "two.jsonl", *(said("hi", *each) for each in answers))
    folded = write_chats(tmp_path / "other" / "one.jsonl", said("hi", "Good day."))

    async def imported(*paths: Path) -> dict[str, list[Json]]:
        store = ModelStore()
        assert (await import_paths(store, paths)).ok
        traces = await store.list_traces()
        return {
            each.trace_id: [message.content for message in await store.get_trace_messages(each.trace_id)]
            for each in traces
        }

    found = asyncio.run(imported(one, two, folded))
    assert len(found) == 9
    assert found == asyncio.run(imported(folded, two, one))


def test_a_chat_that_went_on_adds_its_tail_and_a_file_that_grew_its_new_chats(tmp_path: Path) -> None:
    store = ModelStore()
    states = [
        [said("hi", "Hello.")],
        [said("hi", "Hello.", "Rome?", "Sunny.")],
        [said("hi", "Hello.", "Rome?", "Sunny."), said("hi", "Hello.")],
    ]
    for chats in states:
        report = asyncio.run(import_paths(store, [write_chats(tmp_path / "c.jsonl", *chats)]))
        assert report.ok and report.totals()["new_messages"] == 2
    assert sorted(each.total_messages for each in asyncio.run(store.list_traces())) == [2, 4]


def test_calls_of_a_model_that_were_asked_alike_are_told_apart_by_their_responses(tmp_path: Path) -> None:
    for number in (1, 2):
        call: JsonObject = {"messages": said("hi"), "response": {"id": f"resp_{number}", "output": []}}
        (source,), _ = read(Chat(), tmp_path / "call.json", json.dumps(call))
        assert source.trace.trace_id == f"resp_{number}"


def test_lines_that_are_no_chats_are_named_and_the_others_taken(tmp_path: Path) -> None:
    lines = [json.dumps(CHAT), '{"messages": []}', "<<<<<<< HEAD", '{"messages": [{"role": "user", "content": "x"}]}']
    sources, counts = read(Chat(), tmp_path / "c.jsonl", "\n".join(lines))
    assert len(sources) == 2
    assert [problem.line for problem in counts.problems] == [2, 3]


SPOKEN: list[JsonObject] = [
    {"role": "assistant", "content": "Hi!", "turn_idx": 0, "timestamp": "2026-01-02T03:04:05.5", "cost": 0.0},
    {
        "role": "user",
        "content": None,
        "tool_calls": [{"id": "u1", "name": "check_phone", "arguments": {}, "requestor": "user"}],
        "cost": 7.0,
        "usage": {"prompt_tokens": 1000, "completion_tokens": 1},
    },
    {"role": "tool", "id": "u1", "content": "off", "requestor": "user", "error": True},
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"id": "a1", "name": "lookup", "arguments": {"id": 1}, "requestor": "assistant"}],
        "cost": 0.25,
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
    },
    {"role": "tool", "id": "a1", "content": "{}", "requestor": "assistant", "error": False},
]


def results(**fields: Any) -> JsonObject:
    simulation: JsonObject = {
        "id": "s",
        "task_id": "7",
        "trial": 0,
        "agent_cost": 0.25,
        "user_cost": 7.0,
        "messages": list(SPOKEN),
    }
    return {
        "info": {"agent_info": {"implementation": "llm_agent", "llm": "m"}},
        "tasks": [{"id": "7", "goal": "help"}],
        "simulations": [{**simulation, **fields}],
    }


def test_a_simulated_users_cost_stays_apart(tmp_path: Path) -> None:
    (source,), counts = read(Tau2(), tmp_path / "r.json", json.dumps(results()))
    assert [(each.role, each.tool_name, each.tokens, each.cost, each.status) for each in source.messages] == [
        ("assistant", None, None, 0.0, None),
        ("user", "check_phone", None, None, None),
        ("tool", "check_phone", None, None, "failed"),
        ("assistant", "lookup", 12, 0.25, None),
        ("tool", "lookup", None, None, None),
    ]
    assert (source.messages[1].model_extra or {})["source"]["cost"] == 7.0
    assert source.messages[3].content == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_call", "id": "a1", "name": "lookup", "arguments": {"id": 1}, "requestor": "assistant"},
    ]
    assert (source.trace.agent_type, source.trace.model, source.trace.task) == ("llm_agent", "m", "task 7")
    about = {"id": "s", "task_id": "7", "trial": 0, "agent_cost": 0.25, "user_cost": 7.0}
    assert source.trace.metadata == {"tau2": about}
    assert [(each.event_type, each.payload) for each in source.events] == [
        ("tau2.simulation", about),
        ("tau2.results", {"info": results()["info"], "task": {"id": "7", "goal": "help"}}),
    ]
    assert counts.differences == []


def test_costs_that_a_simulation_states_are_checked_and_what_belongs_to_none_is_named(tmp_path: Path) -> None:
    document = {**results(agent_cost=0.5), "tasks": [{"id": "7"}, {"id": "8"}]}
    _, counts = read(Tau2(), tmp_path / "r.json", json.dumps(document))
    assert [each.reason for each in counts.differences] == [
        "s: the agent's messages cost 0.250000, the file states 0.500000"
    ]
    assert [each.reason for each in counts.problems] == [
        "tasks without a simulation belong to no trace and were not taken: 8"
    ]


def test_a_simulation_alone_is_a_trace_and_its_ticks_are_events(tmp_path: Path) -> None:
    alone = {"id": "s", "task_id": "7", "termination_reason": "max_steps", "ticks": [{"tick_id": 0}, {"tick_id": 1}]}
    (source,), counts = read(Tau2(), tmp_path / "s.json", json.dumps(alone))
    assert [(each.event_type, each.payload) for each in source.events[1:]] == [
        ("tau2.tick", {"tick_id": 0}),
        ("tau2.tick", {"tick_id": 1}),
    ]
    assert (source.trace.status, source.trace.error_message) == ("failed", "max_steps")
    assert counts.rows == {"simulation": 1, "tick": 2}


# What tau-bench's own `run.py` writes: a list of these, each after its run.
CALLED: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "name": "look", "content": "x"},
]
RUN_OF_TAU_BENCH: dict[str, Any] = {"task_id": 3, "reward": 1.0, "info": {}, "traj": CALLED, "trial": 0}


def test_a_run_of_tau_bench_is_taken_too(tmp_path: Path) -> None:
    (source,), _ = read(Tau2(), tmp_path / "s.json", json.dumps(RUN_OF_TAU_BENCH))
    assert source.trace.trace_id.startswith("tau-3-")
    assert [(each.tool_call_id, each.tool_name) for each in source.messages] == [("c", "look"), ("c", "look")]
    assert source.messages[0].content == CALLED[0]["tool_calls"]
    assert source.trace.metadata == {"tau2": {"task_id": 3, "reward": 1.0, "trial": 0}}


def test_results_of_tau_bench_are_a_list_with_a_trace_for_each_run(tmp_path: Path) -> None:
    died = {"error": "no answer", "traceback": "Traceback …"}
    failures = [{**RUN_OF_TAU_BENCH, "info": died, "traj": [], "trial": trial} for trial in (1, 2)]
    path = tmp_path / "results.json"
    for runs in ([RUN_OF_TAU_BENCH, *failures], failures):
        path.write_text(json.dumps(runs, indent=2))
        assert [each.name for each in importers() if each.detect(path)] == ["tau2"]
    sources, counts = read(Tau2(), path, json.dumps([RUN_OF_TAU_BENCH, *failures, "lost"]))
    assert [(each.trace.status, each.trace.error_message) for each in sources] == [
        ("completed", None),
        ("failed", "no answer"),
        ("failed", "no answer"),
    ]
    assert len({each.trace.trace_id for each in sources}) == 3
    assert [each.reason for each in counts.problems] == ["no simulation, and not taken: lost"]


def test_a_run_of_tau_bench_is_told_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**RUN_OF_TAU_BENCH, "traj": [{"role": "user", "content": "x" * 100_000}]}))
    assert [each.name for each in importers() if each.detect(path)] == ["tau2"]


STEP: JsonObject = {"action": "ls", "observation": "a.py", "state": {"open_file": ""}}
SOLVED: JsonObject = {
    "environment": "main",
    "trajectory": [STEP],
    "history": [
        {"role": "system", "content": "You fix bugs.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "A solved example.", "agent": "main", "is_demo": True},
        {"role": "user", "content": "Fix\nit.", "agent": "main"},
        {
            "role": "assistant",
            "content": "I look.",
            "thought": "I look.",
            "action": "ls",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "a.py", "tool_call_ids": ["c"]},
        {"role": "assistant", "content": "Done.", "action": "submit"},
    ],
    "info": {
        "exit_status": "submitted",
        "model_stats": {
            "total_cost": 9.0,
            "instance_cost": 0.5,
            "tokens_sent": 100,
            "tokens_received": 7,
            "api_calls": 2,
        },
    },
}


def test_a_run_of_swe_agent_has_the_usage_that_its_file_states(tmp_path: Path) -> None:
    (source,), counts = read(SweAgent(), tmp_path / "bug-1.traj", json.dumps(SOLVED, indent=1))
    assert [(each.role, each.tool_call_id, each.tool_name, each.tokens, each.cost) for each in source.messages] == [
        ("system", None, None, None, None),
        ("user", None, None, None, None),
        ("user", None, None, None, None),
        ("assistant", "c", "bash", None, None),
        ("tool", "c", "bash", None, None),
        ("assistant", None, None, 107, 0.5),
    ]
    assert told_of_usage(source.messages[-1])["whole_run"] is True
    assert [(each.event_type, each.payload) for each in source.events] == [
        ("swe-agent.run", {"environment": "main"}),
        ("swe-agent.step", STEP),
    ]
    trace = source.trace
    assert trace.trace_id.startswith("bug-1-")
    assert (trace.task, trace.status, trace.result_summary) == ("Fix it.", "completed", "Done.")
    assert trace.metadata == {"swe_agent": {"environment": "main", "info": SOLVED["info"]}}
    assert counts.rows == {"run": 1, "message": 6, "step": 1}


@pytest.mark.parametrize(
    ("ended", "status"), [("submitted (exit_cost)", "completed"), ("exit_context", "failed"), (None, "completed")]
)
def test_a_run_of_swe_agent_that_submitted_nothing_failed(tmp_path: Path, ended: str | None, status: str) -> None:
    (source,), _ = read(SweAgent(), tmp_path / "b.traj", json.dumps({**SOLVED, "info": {"exit_status": ended}}))
    assert (source.trace.status, source.messages[-1].tokens) == (status, None)


def of_mini_swe_agent(*messages: JsonObject, cost: float) -> JsonObject:
    """Return a run as mini-swe-agent writes it: what the format is comes last."""
    return {
        "info": {
            "model_stats": {"instance_cost": cost, "api_calls": 2},
            "config": {"model": {"model_name": "m/m-1"}},
            "mini_version": "2.0.0",
            "exit_status": "Submitted",
            "submission": "diff",
        },
        "messages": [{"role": "system", "content": "x" * 70_000}, {"role": "user", "content": "Fix it."}, *messages],
        "trajectory_format": "mini-swe-agent-1.1",
    }


BASH: JsonObject = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
USED: JsonObject = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}


def test_a_run_of_mini_swe_agent_has_times_and_what_each_call_used(tmp_path: Path) -> None:
    extra: JsonObject = {"response": {"usage": USED}, "cost": 0.25, "timestamp": 1767322801.5}
    run = of_mini_swe_agent(
        {"role": "assistant", "content": None, "tool_calls": [BASH], "extra": extra},
        {"role": "tool", "content": "a.py", "tool_call_id": "c", "extra": {"returncode": 0, "timestamp": 1767322802.5}},
        {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted", "submission": "diff"}},
        cost=0.5,
    )
    path = tmp_path / "bug-1.traj.json"
    (source,), counts = read(SweAgent(), path, json.dumps(run, indent=1))
    assert [each.name for each in importers() if each.detect(path)] == ["swe-agent"]
    assert [(each.role, each.tool_call_id, each.tool_name, each.tokens, each.cost) for each in source.messages[2:]] == [
        ("assistant", "c", "bash", 107, 0.25),
        ("tool", "c", "bash", None, None),
        ("exit", None, None, None, None),
    ]
    used = source.messages[2].usage
    assert used is not None and (used.input_tokens, used.cache_read_tokens, used.output_tokens) == (40, 60, 7)
    assert (source.messages[2].model_extra or {})["source"]["extra"] == extra
    trace = source.trace
    assert (trace.model, trace.status) == ("m/m-1", "completed")
    assert trace.created_at == datetime(2026, 1, 2, 3, 0, 1, 500_000, UTC)
    assert [each.reason for each in counts.differences] == [
        f"{trace.trace_id}: the messages cost 0.250000, the file states 0.500000"
    ]


def test_a_run_of_mini_swe_agent_by_the_responses_api_pairs_its_calls(tmp_path: Path) -> None:
    called: JsonObject = {"type": "function_call", "call_id": "c", "name": "bash", "arguments": "{}"}
    run = of_mini_swe_agent(
        {"object": "response", "output": [called], "usage": {"input_tokens": 5, "output_tokens": 2}, "extra": {}},
        {"type": "function_call_output", "call_id": "c", "output": "a.py"},
        cost=0.5,
    )
    (source,), _ = read(SweAgent(), tmp_path / "bug-1.traj.json", json.dumps(run))
    assert [(each.role, each.tool_call_id, each.tool_name, each.content) for each in source.messages[2:]] == [
        ("assistant", "c", "bash", [called]),
        ("tool", "c", "bash", "a.py"),
    ]
    assert (source.messages[2].tokens, source.messages[2].cost) == (7, 0.5)
    assert told_of_usage(source.messages[2])["whole_run"] is True


MARKED: JsonObject = {
    "question_ID": "q",
    "question": "How many?",
    "history": [
        {"role": "human", "content": "How many?"},
        {"role": "Orchestrator (thought)", "content": "Hm."},
        {"role": "assistant", "name": "Counter", "content": "Three."},
    ],
    "mistake_agent": "Counter",
    "mistake_step": "2",
    "mistake_reason": "miscounted",
}


def test_the_marked_step_of_a_run_is_marked(tmp_path: Path) -> None:
    (source,), counts = read(WhoAndWhen(), tmp_path / "1.json", json.dumps(MARKED))
    told = [
        (each.role, (each.model_extra or {}).get("agent"), (each.model_extra or {}).get("mistake"))
        for each in source.messages
    ]
    assert told == [
        ("user", None, None),
        ("assistant", "Orchestrator (thought)", None),
        ("assistant", "Counter", True),
    ]
    trace = source.trace
    assert trace.trace_id.startswith("q-")
    assert (trace.task, trace.status, trace.error_message) == ("How many?", "failed", "miscounted")
    assert trace.metadata == {"who_and_when": {key: value for key, value in MARKED.items() if key != "history"}}
    assert counts.rows == {"run": 1, "step": 3}


async def _contents(store: ModelStore, trace_id: str) -> tuple[Trace | None, list[Message]]:
    return await store.get_trace(trace_id), await store.get_trace_messages(trace_id)


def test_a_trajectory_that_grew_adds_its_tail_and_one_that_differs_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.json"

    async def imported(*documents: JsonObject) -> tuple[ImportReport, tuple[Trace | None, list[Message]]]:
        store = ModelStore()
        for document in documents:
            path.write_text(json.dumps(document))
            report = await import_paths(store, [path])
        return report, await _contents(store, "s")

    _, expected = asyncio.run(imported(trajectory()))
    parts = [trajectory(STEPS[:count]) for count in (1, 2, 3)]
    for documents in itertools.permutations(parts):
        _, found = asyncio.run(imported(*documents))
        assert found == expected
    other = trajectory([STEPS[0], {**STEPS[2], "message": "Five."}, *STEPS])
    report, (trace, messages) = asyncio.run(imported(trajectory(), other))
    assert messages == expected[1]
    assert [each.outcome for each in report.files[0].traces] == ["diverged"]
    assert "nothing was taken" in report.problems[0].reason
    assert trace is not None and trace.total_tokens == 110


def solving(answers: int, first: str = "a0", seconds: float = 0.25, tokens: int = 100) -> JsonObject:
    """Return a run of SWE-agent as it is after so many answers, with what they used so far."""
    history: list[Json] = [
        {"role": "system", "content": "Solve."},
        {"role": "assistant", "content": "Like this.", "is_demo": True},
        {"role": "user", "content": "Fix it."},
    ]
    steps: list[Json] = []
    for number in range(answers):
        said = f"a{number}" if number else first
        history += [{"role": "assistant", "content": said}, {"role": "user", "content": f"o{number}"}]
        steps.append({"action": said, "observation": f"o{number}", "execution_time": seconds + number})
    spent: JsonObject = {"tokens_sent": tokens * answers, "tokens_received": answers, "instance_cost": answers / 4}
    info: JsonObject = {"exit_status": "submitted" if answers == 4 else None, "model_stats": spent}
    return {"environment": "main", "trajectory": steps, "history": history, "info": info}


def in_turn(path: Path, *documents: object) -> tuple[list[str], ModelStore]:
    """Import a file as it is time and again; return what became of its traces, and the store."""

    async def imported() -> tuple[list[str], ModelStore]:
        store = ModelStore()
        outcomes: list[str] = []
        for document in documents:
            path.write_text(json.dumps(document))
            report = await import_paths(store, [path])
            outcomes += [each.outcome for each in report.files[0].traces]
        return outcomes, store

    return asyncio.run(imported())


def held(store: ModelStore) -> list[Any]:
    async def told() -> list[Any]:
        return [
            (trace, await store.get_trace_messages(trace.trace_id), await store.get_events(trace.trace_id))
            for trace in await store.list_traces()
        ]

    return asyncio.run(told())


@pytest.mark.parametrize("order", [*itertools.permutations((1, 2, 4))])
def test_a_run_of_swe_agent_that_grew_is_the_same_trace_and_counts_once(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = tmp_path / "bug-1.traj"
    _, whole = in_turn(path, solving(4))
    outcomes, store = in_turn(path, *map(solving, order))
    most = zip(accumulate(order, max), order[1:], strict=False)
    assert outcomes == ["new", *("grown" if after > before else "older" for before, after in most)]
    [(trace, messages, events)], [(expected, *records)] = held(store), held(whole)
    assert (trace, messages) == (expected, records[0])
    assert [each.payload for each in events] == [each.payload for each in records[1]]
    assert (trace.total_tokens, trace.total_cost, trace.status) == (404, 1.0, "completed")


def test_runs_of_one_task_that_begin_alike_are_traces_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "bug-1.traj"
    configured = {**solving(2), "replay_config": {"model": "m"}}
    runs = [solving(2), solving(2, seconds=0.5), {**solving(2), "environment": "other"}, configured]
    outcomes, store = in_turn(path, *runs, solving(2, first="b"))
    assert outcomes == ["new"] * 5 and len(held(store)) == 5
    other = json.loads(json.dumps(solving(3)).replace("o1", "something else"))
    outcomes, store = in_turn(path, solving(2), other)
    assert outcomes == ["new", "diverged"]
    [(trace, messages, _)] = held(store)
    assert (len(messages), trace.total_tokens) == (7, 202)


def test_a_trajectory_whose_usage_is_stated_in_all_moves_it_as_it_grows(tmp_path: Path) -> None:
    def grown(count: int) -> JsonObject:
        steps: list[JsonObject] = [
            {"step_id": number, "source": "agent", "message": f"a{number}"} for number in range(1, count + 1)
        ]
        return trajectory(steps, final_metrics={"total_prompt_tokens": 10 * count, "total_completion_tokens": count})

    outcomes, store = in_turn(tmp_path / "t.json", grown(1), grown(3), grown(2))
    assert outcomes == ["new", "grown", "older"]
    [(trace, messages, _)] = held(store)
    assert ([each.tokens for each in messages], trace.total_tokens) == ([None, None, 33], 33)


def test_trajectories_under_names_of_their_own_are_all_taken_and_linked(tmp_path: Path) -> None:
    asks: JsonObject = {
        "step_id": 1,
        "source": "agent",
        "message": "You look.",
        "observation": {"results": [{"content": "begun", "subagent_trajectory_ref": [{"session_id": "child"}]}]},
    }
    parent, child = trajectory([asks], session_id="parent"), trajectory(STEPS[:1], session_id="child")
    document = {"child": child, "parent": parent, "note": "two of them"}
    sources, counts = read(Atif(), tmp_path / "both.json", json.dumps(document))
    assert [(each.trace.trace_id, each.trace.metadata["atif_name"]) for each in sources] == [
        ("child", "child"),
        ("parent", "parent"),
    ]
    assert [each.reason for each in counts.problems] == ["'note' is no trajectory; it was not taken"]

    async def link() -> Trace | None:
        store = ModelStore()
        await import_paths(store, [tmp_path / "both.json"])
        return await store.get_trace("child")

    stored = asyncio.run(link())
    assert stored is not None and (stored.parent_trace_id, stored.parent_goal_id) == ("parent", "step-1")


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    texts = {
        "atif": json.dumps(trajectory(), indent=1),
        "chat": json.dumps(CHAT),
        "claude-code": '{"type":"user","sessionId":"s","message":{"role":"user","content":"x"},"isSidechain":false}',
        "swe-agent": json.dumps(SOLVED),
        "tau2": json.dumps(results(), indent=4),
        "who-and-when": json.dumps(MARKED),
        "opencode": '["event",{"event":{"type":"session.idle","properties":{"sessionID":"s"}}}]',
        "codex": '{"timestamp":"2026-01-02T03:04:05Z","type":"session_meta","payload":{"id":"s"}}',
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.claude.atif.jsonl"
        path.write_text(text)
        assert [each.name for each in importers() if each.detect(path)] == [name]


def test_every_format_has_its_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "importing.md").read_text()
    names = sorted(importer.name for importer in importers())
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", page.partition("\n## ")[0], re.MULTILINE)) == names
    assert sorted(set(re.findall(r"^## ([\w-]+)$", page, re.MULTILINE))) == names


def test_real_trajectories_are_taken_whole() -> None:
    async def run() -> ImportReport:
        return await import_paths(ModelStore(), corpus("atif"))

    report = asyncio.run(run())
    # Of one that breaks off the records before that are taken, which the standard library does not read.
    broken = {each.path for each in report.problems if "not JSON" in each.reason}
    assert sum(sum(each.rows.values()) for each in report.files if each.path not in broken) == sum(
        len(document["steps"]) + ("agent" in document) for path in corpus("atif") for document in _trajectories(path)
    )
    known = ("neither an earlier nor a later", "not JSON", "no session_id")
    assert all(any(each in problem.reason for each in known) for problem in report.problems)


def test_real_runs_of_swe_agent_that_grew_are_the_same_traces_and_no_two_are_one(tmp_path: Path) -> None:
    ids = []
    for path in some_of("swe-agent", 6):
        told = document_of(path, ImportCounts())
        if told is None or len(objects_of(told.get("trajectory"))) < 5:
            continue
        history, steps = objects_of(told["history"]), objects_of(told["trajectory"])
        answers = [at for at, each in enumerate(history) if each["role"] == "assistant" and not each.get("is_demo")]
        part = {**told, "history": history[: answers[-3]], "trajectory": steps[: len(answers) - 3], "info": {}}
        outcomes, store = in_turn(tmp_path / "run.traj", part, told, part)
        assert outcomes == ["new", "grown", "older"], path
        [(trace, messages, events)] = held(store)
        assert (len(messages), sum(each.event_type == "swe-agent.step" for each in events)) == (
            len(history),
            len(steps),
        )
        ids.append(trace.trace_id)
    assert len(set(ids)) == len(ids) > tried(2, 20)


def test_real_simulations_cost_what_their_files_state() -> None:
    simulations, logs = some_of("tau2-bench", 2), some_of("who-and-when", 10)

    async def run() -> tuple[ImportReport, float]:
        store = ModelStore()
        report = await import_paths(store, [*simulations, *logs])
        return report, sum(trace.total_cost for trace in await store.list_traces(limit=10_000))

    report, cost = asyncio.run(run())
    documents = [json.loads(path.read_bytes()) for path in simulations]
    stated = sum(each["agent_cost"] for document in documents for each in document.get("simulations", []))
    assert cost == pytest.approx(stated, rel=1e-9)
    assert report.ok and report.totals()["differences"] == 0
    assert report.totals()["traces"] == len(logs) + sum(
        len(document.get("simulations", [document])) for document in documents
    )


def _trajectories(path: Path) -> list[Any]:
    """Return the trajectories that a file of the collection holds, as the standard library reads it."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return []
    several = [each for each in document.values() if isinstance(each, dict) and "schema_version" in each]
    found = [document] if "schema_version" in document else several
    return [
        each
        for top in found
        if str(top.get("schema_version")).startswith("ATIF") and (top.get("session_id") or top.get("trajectory_id"))
        for each in (top, *top.get("subagent_trajectories", []))
    ]
