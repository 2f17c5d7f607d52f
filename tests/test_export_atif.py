"""ATIF: a trajectory that keeps the schema's rules, and comes back as the same texts, calls, answers and totals."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from profiles import some, tried
from test_export_chat import CALLS, TEXTS, run_of
from test_import_claude_code import some_of
from test_import_documents import STEPS, trajectory
from traceark.exporters.atif import VERSION, Atif
from traceark.exporters.base import Run
from traceark.exporters.turns import role_of, turns_of
from traceark.importers import atif
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.find import importers
from traceark.models import Event, Goal, GoalTree, Trace, Usage, utc_now

THEN = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
# Of https://www.harborframework.com/docs/trajectory-format, version 1.7; none may have other fields.
FIELDS = {
    "trajectory": "schema_version session_id trajectory_id agent steps notes final_metrics continued_trajectory_ref "
    "extra subagent_trajectories",
    "agent": "name version model_name tool_definitions extra",
    "step": "step_id timestamp source model_name reasoning_effort message reasoning_content tool_calls observation "
    "metrics is_copied_context llm_call_count extra",
    "call": "tool_call_id function_name arguments extra",
    "result": "source_call_id content subagent_trajectory_ref extra",
    "reference": "trajectory_id session_id trajectory_path extra",
    "metrics": "prompt_tokens completion_tokens cached_tokens cost_usd prompt_token_ids completion_token_ids logprobs "
    "extra",
    "final": "total_prompt_tokens total_completion_tokens total_cached_tokens total_cost_usd total_steps extra",
}
AGENT_ONLY = {"model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics"}


def fields_of(value: dict[str, Any], kind: str, **types: type | tuple[type, ...]) -> None:
    """Check that an object has only fields of its kind, and those that are named, in their types."""
    assert value.keys() <= set(FIELDS[kind].split()), (kind, value.keys())
    for name, wanted in types.items():
        assert isinstance(value[name], wanted), (kind, name, value[name])
    for number in (each for name, each in value.items() if "tokens" in name):
        assert isinstance(number, int) and number >= 0


def check(document: dict[str, Any]) -> None:
    """Check the rules that the schema and its published models have."""
    fields_of(document, "trajectory", schema_version=str, agent=dict, steps=list, session_id=str, trajectory_id=str)
    assert document["schema_version"] == VERSION
    fields_of(document["agent"], "agent", name=str, version=str)
    assert document["steps"]
    for number, step in enumerate(document["steps"], start=1):
        fields_of(step, "step", source=str, message=(str, list))
        assert step["step_id"] == number
        assert step["source"] in ("system", "user", "agent")
        if "timestamp" in step:
            datetime.fromisoformat(step["timestamp"].replace("Z", "+00:00"))
        if step["source"] != "agent":
            assert not step.keys() & AGENT_ONLY
        for part in step["message"] if isinstance(step["message"], list) else ():
            assert part.keys() == {"type", "text"} and part["type"] == "text" and isinstance(part["text"], str)
        calls = step.get("tool_calls", [])
        for call in calls:
            fields_of(call, "call", tool_call_id=str, function_name=str, arguments=dict)
        for result in step.get("observation", {"results": []})["results"]:
            fields_of(result, "result", content=str)
            known = {call["tool_call_id"] for call in calls}
            assert result.get("source_call_id") is None or result["source_call_id"] in known
            for reference in result.get("subagent_trajectory_ref", ()):
                fields_of(reference, "reference", trajectory_id=str, trajectory_path=str)
        if "metrics" in step:
            fields_of(step["metrics"], "metrics")
    fields_of(document["final_metrics"], "final", total_steps=int)


def harbor_of() -> Any:
    """Return Harbor's own validator, None where it is not installed: it needs Python 3.12 and half a gigabyte."""
    with suppress(ImportError):
        return importlib.import_module("harbor.utils.trajectory_validator").TrajectoryValidator()
    return None


harbor = harbor_of()


def exported(run: Run) -> tuple[dict[str, Any], Counter[str]]:
    left_out: Counter[str] = Counter()
    document = json.loads(b"".join(Atif().export(run, left_out)))
    check(document)
    if harbor is not None:
        assert harbor.validate(document), harbor.errors
    return document, +left_out


def imported(document: dict[str, Any]) -> tuple[SourceTrace, ImportCounts]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.json")
        path.write_text(json.dumps(document))
        assert [each.name for each in importers() if each.detect(path)] == [atif.Atif.name]
        counts = ImportCounts()
        [source] = atif.Atif().read(path, counts)
    assert not counts.problems
    return source, counts


@pytest.mark.skipif(harbor is None, reason="harbor is not installed: `pip install harbor`, with Python 3.12 or newer")
def test_harbor_takes_what_is_exported_here_and_refuses_what_breaks_its_rules() -> None:
    document, _ = exported(run_of({"role": "user", "content": "Hi."}, {"content": "Hello."}))
    assert not harbor.validate({**document, "steps": []})
    assert not harbor.validate({**document, "status": "completed"})


@pytest.mark.parametrize("name", CALLS)
def test_calls_and_their_answers_are_in_one_step_wherever_they_come_from(name: str) -> None:
    document, _ = exported(run_of(*CALLS[name]))
    [step] = [step for step in document["steps"] if "tool_calls" in step]
    assert step["tool_calls"] == [{"tool_call_id": "c", "function_name": "ls", "arguments": {"path": "/"}}]
    assert step["observation"] == {"results": [{"content": "a b", "source_call_id": "c"}]}
    assert document["steps"][0]["message"] == "I look."


def test_a_trajectory_that_was_imported_comes_out_as_it_was_but_for_what_is_not_of_the_format() -> None:
    document = trajectory(trajectory_id="s", schema_version=VERSION)
    source, _ = imported(document)
    events = [
        Event(event_id=at, event_type=each.event_type, payload=each.payload, created_at=utc_now())
        for at, each in enumerate(source.events, start=1)
    ]
    found, _ = exported(Run(source.trace, source.messages, events, source.goals))
    assert found["agent"] == {**document["agent"], "model_name": "m-0"}  # type: ignore[dict-item]
    for step, expected in zip(found["steps"], STEPS, strict=True):
        for name in ("step_id", "source", "reasoning_content"):
            assert step.get(name) == expected.get(name)
        message = step["message"]
        assert message == expected["message"]
    told = found["steps"][1]
    assert told["metrics"] == {
        "prompt_tokens": 100,
        "cached_tokens": 60,
        "completion_tokens": 10,
        "cost_usd": 0.5,
        "extra": {"latency_ms": 7},
    }
    assert found["final_metrics"]["total_prompt_tokens"] == 100


def test_tokens_cost_and_time_come_back_as_they_were() -> None:
    usage = Usage(input_tokens=5, output_tokens=7, cache_read_tokens=11, cache_write_tokens=13, reasoning_tokens=2)
    run = run_of(
        {"content": "a", "usage": usage, "cost": 0.1, "duration_ms": 4, "created_at": THEN},
        {"content": "b", "tokens": 9},
        {"content": "c", "usage": Usage(input_tokens=100), "tokens": 3, "cost": 0.2},
        {"role": "user", "content": "d", "tokens": 50},
        {"content": "e", "usage": usage, "copied": True},
        {"content": "f", "duration_ms": 8},
    )
    document, left_out = exported(run)
    source, counts = imported(document)
    assert source.messages[0].usage == usage
    assert [(each.tokens, each.cost, each.duration_ms) for each in source.messages] == [
        (36, 0.1, 4),
        (9, None, None),
        (3, 0.2, None),
        (None, None, None),
        (None, None, None),
        (0, None, 8),
    ]
    assert source.messages[0].created_at == THEN
    assert document["final_metrics"]["total_cost_usd"] == 0.3
    assert left_out == {"tokens and costs of messages that no model wrote": 1}
    assert counts.differences == []


def test_a_step_names_its_model_where_it_is_not_the_agents() -> None:
    run = run_of(
        {"role": "user", "content": "Hi.", "source": {"message": {"model": "no model's"}}},
        {"content": "a", "source": {"message": {"model": "m-1"}}},
        {"content": "b", "source": {"message": {"model": "m-2"}}},
        {"content": "c"},
        model="m-1",
    )
    document, _ = exported(run)
    assert [step.get("model_name") for step in document["steps"]] == [None, None, "m-2", None]
    assert document["agent"]["model_name"] == "m-1"


def test_sub_agents_are_referred_to_at_the_answer_of_their_call() -> None:
    goals = GoalTree(goals=[Goal(id="c", sub_trace_ids=["Child/1"]), Goal(id="other")])
    run = run_of(*CALLS["Inspect"])
    document, _ = exported(Run(run.trace, run.messages, [], goals))
    [result] = document["steps"][0]["observation"]["results"]
    [reference] = result["subagent_trajectory_ref"]
    assert reference == {"trajectory_id": "Child/1", "trajectory_path": "child%2F1~1.atif.json"}
    assert [goal["id"] for goal in document["extra"]["traceark"]["goals"]] == ["c", "other"]
    source, _ = imported(document)
    assert source.goals is not None
    assert [(goal.id, goal.sub_trace_ids) for goal in source.goals.goals] == [("c", ["Child/1"])]


def test_a_header_comes_back_as_it_was() -> None:
    header = {"status": "failed", "mode": "call", "task": "Sort it", "uid": "u", "parent_trace_id": "p"}
    header |= {"parent_goal_id": "g", "result_summary": "half", "error_message": "no mail"}
    source, _ = imported(exported(run_of({"role": "user", "content": "Hi."}, {"content": "a"}, **header))[0])
    assert {name: getattr(source.trace, name) for name in header} == header
    source, _ = imported(exported(run_of({"role": "user", "content": "Hi."}, {"content": "a"}))[0])
    assert (source.trace.task, source.trace.result_summary, source.trace.agent_type) == (None, None, None)
    document, _ = exported(run_of({"role": "user", "content": "Hi."}))
    document["extra"] = {"status": "failed", "traceark": {"status": "odd", "task": 7}}
    source, _ = imported(document)
    assert (source.trace.status, source.trace.task) == ("completed", "Hi.")


def test_an_answer_comes_back_with_its_call_its_failure_and_how_long_it_took() -> None:
    answer = {"role": "tool", "tool_call_id": "c", "content": "a", "status": "failed", "duration_ms": 7}
    call = {"type": "tool_use", "id": "c", "name": "ls", "input": {}}
    stray = {"role": "tool", "tool_call_id": "x", "content": "b"}
    source, _ = imported(exported(run_of({"content": [call]}, answer, stray))[0])
    assert [(each.tool_call_id, each.status, each.duration_ms) for each in source.messages[1:]] == [
        ("c", "failed", 7),
        ("x", None, None),
    ]


def test_an_answer_to_no_call_stays_in_the_step_before_it() -> None:
    document, left_out = exported(run_of({"role": "tool", "tool_call_id": "x", "content": "1"}))
    assert document["steps"][0]["source"] == "system"
    assert document["steps"][0]["observation"]["results"] == [{"content": "1", "extra": {"tool_call_id": "x"}}]
    document, _ = exported(run_of({"content": "a"}, {"role": "user", "content": "b"}, {"role": "tool", "content": "1"}))
    assert [len(step.get("observation", {"results": ()})["results"]) for step in document["steps"]] == [0, 1]
    assert left_out == {"answers without a call, in the step before them": 1}


def test_an_empty_run_and_one_of_lone_surrogates_keep_the_rules_too() -> None:
    exported(Run(Trace(trace_id="t")))
    document, left_out = exported(run_of({"role": "user", "content": "a\ud800"}))
    assert document["steps"][0]["message"] == "a\ufffd"
    assert left_out == {"lone surrogates, replaced": 1}


CALL = st.builds(
    lambda call_id, name, arguments: {"type": "tool_use", "id": call_id, "name": name, "input": arguments},
    st.sampled_from(["1", "2", "3", None]),
    st.sampled_from(["ls", "t"]),
    st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2),
)
BLOCK = CALL | st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
COUNT = st.none() | st.integers(0, 10**6)
MESSAGES = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "system"]), TEXTS),
    st.builds(
        lambda blocks, usage, tokens, cost: {"content": blocks, "usage": usage, "tokens": tokens, "cost": cost},
        st.lists(BLOCK, min_size=1, max_size=4) | TEXTS,
        st.none() | st.builds(Usage, **dict.fromkeys(Usage.model_fields, COUNT)),
        COUNT,
        st.none() | st.integers(0, 1000).map(lambda number: number / 100),
    ),
    st.builds(
        lambda call_id, text: {"role": "tool", "tool_call_id": call_id, "content": text},
        st.sampled_from(["1", "2", "3", None]),
        TEXTS,
    ),
)


def told(run: Run) -> list[Any]:
    """Return what a run says: roles, texts and calls in their order, and all answers."""
    replaced = json.dumps(
        [
            [turn.role, turn.texts(), [[part.name, part.arguments] for part in turn.parts if part.kind == "call"]]
            for turn in turns_of(run.messages)
            if turn.role != "tool"
        ]
    ).replace("\\ud800", "\\ufffd")
    answers = sorted(part.text for turn in turns_of(run.messages) for part in turn.parts if part.kind == "result")
    return [json.loads(replaced), [text.replace("\ud800", "\ufffd") for text in answers]]


@settings(max_examples=tried(80, 600, 3000), deadline=None)
@given(st.lists(MESSAGES, max_size=10))
def test_an_import_of_a_trajectory_says_the_same_and_adds_up_to_the_same(messages: list[dict[str, Any]]) -> None:
    run = run_of(*messages)
    document, left_out = exported(run)
    source, counts = imported(document)
    again = Run(source.trace, source.messages, [], source.goals)
    if messages and role_of(run.messages[0]) != "tool":
        assert told(again) == told(run)
    assert sum(message.counted_tokens() for message in again.messages) == sum(
        message.counted_tokens() for message in run.messages
    )
    costs = [sum(message.cost or 0 for message in each.messages) for each in (again, run)]
    assert costs[0] == pytest.approx(costs[1], abs=1e-9)
    assert counts.differences == []
    assert left_out["attachments, but for a description"] == 0


def test_every_real_run_keeps_the_rules() -> None:
    runs = 0
    for folder in some(("claude-code", "claude-code-small", "codex", "atif", "tau2-bench", "swe-agent", "inspect"), 4):
        for path in some_of(folder):
            importer = next((each for each in importers() if each.detect(path)), None)
            for source in importer.read(path, ImportCounts()) if importer is not None else ():
                document, left_out = exported(Run(source.trace, source.messages, [], source.goals))
                runs += 1
                if not left_out["tokens and costs of messages that no model wrote"]:
                    again, _ = imported(document)
                    assert sum(each.tokens or 0 for each in again.messages) == sum(
                        each.tokens or 0 for each in source.messages
                    )
    assert runs > tried(10, 500)
