"""Langfuse's traces and observations: what they become, in each shape that exports have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test_import_claude_code import corpus
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.find import importers
from traceark.importers.langfuse import Langfuse
from traceark.models import Json, JsonObject

TRACE: dict[str, Any] = {
    "id": "t1",
    "projectId": "p",
    "name": "weather",
    "timestamp": "2026-01-02T03:04:00.000Z",
    "userId": "ann",
    "sessionId": "s-1",
    "tags": ["prod"],
    "input": '"Weather in Rome?"',
    "output": '"It is sunny."',
    "scores": [{"name": "helpful", "value": 1}],
    "latency": 9,
}


def observation(name: str, kind: str, parent: str | None, begin: int, end: int | None, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "traceId": "t1",
        "type": kind,
        "name": name,
        "parentObservationId": parent,
        "startTime": f"2026-01-02T03:04:{begin:02d}.000Z",
        "endTime": None if end is None else f"2026-01-02T03:04:{end:02d}.000Z",
        "level": "DEFAULT",
        "statusMessage": None,
        "metadata": "{}",
        **fields,
    }


ASKED: list[Json] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Rome?"}]
CALL: JsonObject = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CALLED: JsonObject = {"role": "assistant", "content": "", "additional_kwargs": {"tool_calls": [CALL]}}
ANSWER: JsonObject = {"role": "tool", "content": "sunny", "tool_call_id": "c1"}
OBSERVATIONS: list[dict[str, Any]] = [
    observation("guide", "AGENT", None, 0, 9, input='{"question": "Weather in Rome?"}', output='"It is sunny."'),
    observation(
        "first",
        "GENERATION",
        "guide",
        1,
        3,
        # Encoded twice, as exports have it.
        input=json.dumps(json.dumps(ASKED)),
        output=json.dumps(CALLED),
        model="m-1",
        usageDetails={"input": 10, "input_cache_read": 20, "output": 5, "total": 35},
        costDetails={"input": 0.125, "output": 0.125, "total": 0.25},
        totalCost=0.25,
    ),
    observation("weather", "TOOL", "guide", 4, 5, input="{'city': 'Rome'}", output="sunny"),
    observation("noted", "EVENT", "guide", 5, None, input="n"),
    observation(
        "second",
        "GENERATION",
        "guide",
        6,
        8,
        input=json.dumps([*ASKED, CALLED, ANSWER]),
        output='{"role": "assistant", "content": "It is sunny."}',
        model="m-1",
        usageDetails={"input": 40, "output": 2, "total": 42},
        totalCost=0.5,
    ),
]
STUBS: list[Json] = [{**each, "input": None, "output": None, "metadata": {}} for each in OBSERVATIONS]
PAGE = {"page": 1, "totalItems": 5}
EXPORTS: dict[str, str] = {
    "a trace beside its observations": json.dumps({"trace": TRACE, "observations": OBSERVATIONS}, indent=2),
    "with less of them in the trace": json.dumps(
        {"trace": {**TRACE, "observations": STUBS}, "observations": OBSERVATIONS}
    ),
    "a trace with its observations": json.dumps({**TRACE, "observations": OBSERVATIONS}),
    "one record a line": "".join(json.dumps(each) + "\n" for each in (TRACE, *OBSERVATIONS)),
    "a list of exports": json.dumps([{"trace": TRACE, "observations": OBSERVATIONS}]),
    "a page of traces": json.dumps({"data": [{**TRACE, "observations": OBSERVATIONS}], "meta": PAGE}),
}


def read(path: Path, text: str) -> tuple[list[SourceTrace], ImportCounts]:
    path.write_text(text)
    counts = ImportCounts()
    return list(Langfuse().read(path, counts)), counts


def one(tmp_path: Path, *observations: JsonObject, **trace: Any) -> tuple[SourceTrace, ImportCounts]:
    document = {"trace": {**TRACE, **trace}, "observations": list(observations)}
    (source,), counts = read(tmp_path / "trace.json", json.dumps(document))
    return source, counts


@pytest.mark.parametrize("shape", EXPORTS)
def test_an_export_in_any_shape_is_the_same_run(tmp_path: Path, shape: str) -> None:
    (source,), counts = read(tmp_path / "trace.json", EXPORTS[shape])
    assert [(each.role, each.tool_call_id, each.tokens, each.cost) for each in source.messages] == [
        ("system", None, None, None),
        ("user", None, None, None),
        ("assistant", "c1", 35, 0.25),
        ("tool", "c1", None, None),
        ("assistant", None, 42, 0.5),
    ]
    call, tool = source.messages[2:4]
    assert call.content == [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Rome"}}]
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.cache_read_tokens, call.usage.output_tokens) == (10, 20, 5)
    assert (tool.content, tool.tool_name, (tool.model_extra or {})["arguments"]) == (
        "sunny",
        "weather",
        {"city": "Rome"},
    )
    trace = source.trace
    assert (trace.trace_id, trace.agent_type, trace.model, trace.uid) == ("t1", "guide", "m-1", "ann")
    assert (trace.task, trace.result_summary, trace.status) == ("Weather in Rome?", "It is sunny.", "completed")
    assert trace.metadata == {"langfuse": {"name": "weather", "sessionId": "s-1", "tags": ["prod"]}}
    assert source.goals is not None and [goal.id for goal in source.goals.goals] == ["guide"]
    assert counts.problems == counts.differences == []
    around = [("document", {"meta": PAGE})] if "page" in shape else []
    assert [(each.event_type.removeprefix("langfuse."), each.payload) for each in source.events] == [
        *around,
        ("trace", TRACE),
        *(("span", each) for each in OBSERVATIONS),
    ]
    assert [each.name for each in importers() if each.detect(tmp_path / "trace.json")] == ["langfuse"]


def test_a_page_of_observations_is_the_run_without_its_header(tmp_path: Path) -> None:
    (source,), _ = read(tmp_path / "page.json", json.dumps({"data": OBSERVATIONS, "meta": PAGE}))
    assert (source.trace.trace_id, source.trace.uid, len(source.messages)) == ("t1", None, 5)


def test_observations_in_a_trace_that_say_more_are_kept(tmp_path: Path) -> None:
    more: JsonObject = {**OBSERVATIONS[0], "note": "more"}
    source, _ = one(tmp_path, *OBSERVATIONS, observations=[more])
    assert source.events[0].payload == {**TRACE, "observations": [more]}


@pytest.mark.parametrize(
    ("details", "usage"),
    [
        pytest.param({"input": 10, "output": 5, "total": 15}, (10, 5, 0, 0), id="two parts"),
        pytest.param(
            {"input": 10, "output": 5, "output_reasoning": 7, "input_audio": 1, "total": 23},
            (11, 12, 0, 0),
            id="more parts beside them",
        ),
        pytest.param(
            {
                "input": 30,
                "output": 12,
                "prompt_details.cache_read": 20,
                "completion_details.reasoning": 7,
                "total": 42,
            },
            (10, 12, 20, 0),
            id="parts of them",
        ),
        pytest.param(
            {"input": 10, "output": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3},
            (10, 5, 20, 3),
            id="no total",
        ),
    ],
)
def test_parts_of_usage_are_told_apart_by_their_total(
    tmp_path: Path, details: JsonObject, usage: tuple[int, int, int, int]
) -> None:
    source, counts = one(tmp_path, {**OBSERVATIONS[1], "usageDetails": details})
    told = source.messages[-1].usage
    assert told is not None
    found = (told.input_tokens, told.output_tokens, told.cache_read_tokens, told.cache_write_tokens)
    assert tuple(each or 0 for each in found) == usage
    assert counts.differences == []


@pytest.mark.parametrize(
    "usage", [{"input": 10, "output": 5, "total": 15, "unit": "TOKENS"}, {"promptTokens": 10, "completionTokens": 5}]
)
def test_the_usage_of_older_versions_is_read(tmp_path: Path, usage: JsonObject) -> None:
    source, _ = one(tmp_path, {**OBSERVATIONS[1], "usageDetails": {}, "usage": usage})
    assert source.messages[-1].tokens == 15


def test_totals_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    odd = {**OBSERVATIONS[1], "usageDetails": {"input": 10, "output": 5, "total": 99}}
    _, counts = one(tmp_path, OBSERVATIONS[0], odd, totalCost=0.5)
    assert [each.reason for each in counts.differences] == [
        "t1: the parts of observation first have 15 tokens, it states 99",
        "t1: the calls in it cost 0.250000, the trace states 0.500000",
    ]


def attributes(**told: Json) -> str:
    return json.dumps({"attributes": {name.replace("__", "."): value for name, value in told.items()}})


def test_what_has_no_type_of_its_own_is_told_by_its_attributes(tmp_path: Path) -> None:
    agent = attributes(openinference__span__kind="AGENT")
    told = [
        {**OBSERVATIONS[0], "type": "SPAN", "metadata": agent},
        OBSERVATIONS[1],
        {**OBSERVATIONS[2], "type": "SPAN", "metadata": attributes(gen_ai__tool__call__id="c1")},
        observation("note", "SPAN", "guide", 5, 5, metadata=agent),
    ]
    source, _ = one(tmp_path, *told)
    assert source.goals is not None
    # What merely happened in an agent is none, whatever it is called.
    assert [goal.id for goal in source.goals.goals] == ["guide"]
    assert [(each.role, each.tool_call_id) for each in source.messages[-2:]] == [("assistant", "c1"), ("tool", "c1")]


def test_an_agent_that_is_typed_as_a_generation_is_an_agent(tmp_path: Path) -> None:
    agent = {**OBSERVATIONS[0], "type": "GENERATION", "metadata": attributes(gen_ai__operation__name="invoke_agent")}
    agent |= {"usageDetails": {"input": 30, "output": 5, "total": 35}, "totalCost": 0.25}
    source, counts = one(tmp_path, agent, OBSERVATIONS[1])
    assert source.goals is not None and [goal.id for goal in source.goals.goals] == ["guide"]
    assert [each.tokens for each in source.messages] == [None, None, 35]
    assert counts.differences == []


def test_a_graph_is_an_agent(tmp_path: Path) -> None:
    graph = {**OBSERVATIONS[0], "type": "SPAN", "name": "LangGraph"}
    node = observation("agent", "SPAN", "guide", 1, 3, metadata=json.dumps({"langgraph_node": "agent"}))
    source, _ = one(tmp_path, graph, node, {**OBSERVATIONS[1], "parentObservationId": "agent"})
    assert source.goals is not None and [goal.description for goal in source.goals.goals] == ["LangGraph"]


def test_an_error_is_the_observations(tmp_path: Path) -> None:
    failed = {"level": "ERROR", "statusMessage": "rate limit"}
    broken = [{**each, **failed, "output": None} for each in OBSERVATIONS[:2]]
    source, _ = one(tmp_path, *broken)
    assert (source.trace.status, source.trace.error_message) == ("failed", "rate limit")
    assert [(each.status, each.error) for each in source.messages][-1] == ("failed", "rate limit")


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    strange: list[Json] = [5, {"id": "o"}, {**OBSERVATIONS[0], "traceId": None}, {**OBSERVATIONS[0], "type": "ODD"}]
    (source,), counts = read(tmp_path / "t.json", json.dumps({"trace": TRACE, "observations": strange}))
    assert len(source.events) == 1
    assert len(counts.problems) == 4 and all("not taken" in each.reason for each in counts.problems)


def test_real_exports_are_kept_whole_and_their_tokens_count_once() -> None:
    extra = [path for path in corpus("otel-genai") if Langfuse().detect(path)]
    assert len(extra) == 1
    for path in [*corpus("langfuse"), *extra]:
        counts = ImportCounts()
        [source] = Langfuse().read(path, counts)
        document = json.loads(path.read_bytes())
        observations = document["observations"]
        assert [each.payload for each in source.events][1:] == observations, path
        assert counts.problems == [] and counts.repaired == {}
        calls = [each for each in observations if each["type"] == "GENERATION" and "invoke_agent" not in each["name"]]
        parents = {each["parentObservationId"] for each in calls}
        innermost = [each for each in calls if each["id"] not in parents]
        stated = sum((each.get("usageDetails") or {}).get("total", 0) for each in innermost)
        tokens = sum(each.tokens or 0 for each in source.messages)
        # The parts of one observation are fewer than its total, which is reported.
        assert tokens == stated or any("the parts of observation" in each.reason for each in counts.differences), path
