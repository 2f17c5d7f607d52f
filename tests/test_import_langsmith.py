"""LangSmith's runs: rows of one id are one run, the tree is theirs, each message and token counts once."""

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
from traceark.importers.langgraph import GraphRun, graphs
from traceark.importers.langsmith import LangSmith
from traceark.importers.model_calls import answered, asked, tool_answer, tool_arguments, usage_in
from traceark.importers.run import import_paths
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Message
from traceark.testing import ModelStore
from traceark.testing.compare import exact_texts

ROOT, NODE, CALL, TOOL, LAST = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 6))
ABOVE = {NODE: (ROOT,), CALL: (ROOT, NODE), TOOL: (ROOT, NODE), LAST: (ROOT, NODE), ROOT: ()}


def order(run_id: str) -> str:
    return ".".join(f"20260102T03040{at}000000Z{each}" for at, each in enumerate((*ABOVE[run_id], run_id)))


def run(run_id: str, kind: str, name: str, begin: int, end: int | None, **fields: Any) -> dict[str, Any]:
    told = {"id": run_id, "trace_id": ROOT, "dotted_order": order(run_id), "run_type": kind, "name": name}
    times = {"start_time": f"2026-01-02T03:04:{begin:02d}+00:00"}
    if end is not None:
        times["end_time"] = f"2026-01-02T03:04:{end:02d}+00:00"
    return {**told, **times, "error": None, "tags": [], "extra": {"metadata": {}}, **fields}


def langchain(kind: str, content: Json, **fields: Json) -> JsonObject:
    kwargs: JsonObject = {"content": content, "type": kind.lower(), **fields}
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", f"{kind}Message"],
        "kwargs": kwargs,
    }


ASKED: list[Json] = [langchain("System", "Be brief."), langchain("Human", "Weather in Rome?")]
CALLED = langchain(
    "AI", "", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "c1", "type": "tool_call"}]
)
SUNNY = langchain("Tool", "sunny", tool_call_id="c1", name="weather")
MODEL: JsonObject = {"metadata": {"ls_model_name": "m-1", "ls_provider": "p"}, "invocation_params": {"model": "m-0"}}
RUNS: list[dict[str, Any]] = [
    run(
        ROOT,
        "chain",
        "guide",
        0,
        9,
        inputs={"messages": [["human", "Weather in Rome?"]]},
        outputs={"output": "It is sunny."},
        session_name="trips",
        tags=["prod"],
        extra={"metadata": {"user_id": "ann", "thread_id": "t-1"}},
        total_tokens=77,
        prompt_tokens=70,
        completion_tokens=7,
    ),
    run(NODE, "chain", "agent", 1, 8, inputs={}, outputs={}, tags=["graph:step:1"]),
    run(
        CALL,
        "llm",
        "ChatModel",
        1,
        3,
        inputs={"messages": [ASKED]},
        outputs={"generations": [[{"text": "", "message": CALLED}]]},
        extra=MODEL,
        prompt_tokens=30,
        completion_tokens=5,
        prompt_token_details={"cache_read": 20},
        total_cost="0.25",
    ),
    run(TOOL, "tool", "weather", 4, 5, inputs={"input": "{'city': 'Rome'}"}, outputs={"output": SUNNY}),
    run(
        LAST,
        "llm",
        "ChatModel",
        6,
        8,
        inputs={"messages": [[*ASKED, CALLED, SUNNY]]},
        outputs={
            "generations": [[{"text": "It is sunny.", "message": langchain("AI", "It is sunny.")}]],
            "llm_output": {"token_usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}},
        },
        extra=MODEL,
        total_cost=0.5,
    ),
]
CREATED = ("end_time", "outputs", "error", "total_tokens", "prompt_tokens", "completion_tokens", "total_cost")


def halves(each: dict[str, Any]) -> tuple[JsonObject, JsonObject]:
    """Return a run's creation and its update, as a client sends them."""
    update = {name: each[name] for name in CREATED if name in each}
    return {name: value for name, value in each.items() if name not in update}, {"id": each["id"], **update}


def rows(records: Sequence[Json]) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


OPERATIONS: list[Json] = [half for each in RUNS for half in halves(each)]
EXPORTS = {
    "runs, one a line": rows(RUNS),
    "runs, the root last": rows(RUNS[::-1]),
    "creations and updates": rows(OPERATIONS),
    "all creations, then all updates": rows([each for side in (0, 1) for each in (halves(one)[side] for one in RUNS)]),
    "updates before creations": rows([half for each in RUNS for half in halves(each)[::-1]]),
    "a list": json.dumps(RUNS),
    "an answer of the API": json.dumps({"runs": RUNS, "cursors": {"next": None}}, indent=1),
    "batches": json.dumps({"post": [halves(each)[0] for each in RUNS], "patch": [halves(each)[1] for each in RUNS]}),
    "runs in runs": json.dumps({**RUNS[0], "child_runs": [{**RUNS[1], "child_runs": RUNS[2:]}]}),
}


def read(path: Path, text: str) -> tuple[list[SourceTrace], ImportCounts]:
    path.write_text(text)
    counts = ImportCounts()
    return list(LangSmith().read(path, counts)), counts


def extra(message: Message, name: str) -> Any:
    return (message.model_extra or {}).get(name)


@pytest.mark.parametrize("shape", EXPORTS)
def test_an_export_in_any_shape_is_the_same_run(tmp_path: Path, shape: str) -> None:
    (source,), counts = read(tmp_path / "runs.jsonl", EXPORTS[shape])
    assert [(each.role, each.tool_call_id, each.tokens, each.cost) for each in source.messages] == [
        ("system", None, None, None),
        ("user", None, None, None),
        ("assistant", "c1", 35, 0.25),
        ("tool", "c1", None, None),
        ("assistant", None, 42, 0.5),
    ]
    call, tool, last = source.messages[2:]
    assert call.content == [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Rome"}}]
    assert call.usage is not None
    assert (call.usage.input_tokens, call.usage.cache_read_tokens, call.usage.output_tokens) == (10, 20, 5)
    assert (extra(call, "model"), call.duration_ms) == ("m-1", 2000)
    assert (tool.content, tool.tool_name, extra(tool, "arguments")) == ("sunny", "weather", {"city": "Rome"})
    assert last.content == "It is sunny."
    trace = source.trace
    assert (trace.trace_id, trace.agent_type, trace.model, trace.status) == (ROOT, "guide", "m-1", "completed")
    assert (trace.task, trace.result_summary, trace.uid) == ("Weather in Rome?", "It is sunny.", "ann")
    assert trace.metadata == {"langsmith": {"session_name": "trips", "tags": ["prod"], "thread_id": "t-1"}}
    assert source.goals is not None
    assert [(goal.id, goal.description, goal.status) for goal in source.goals.goals] == [(ROOT, "guide", "completed")]
    assert counts.problems == counts.differences == []
    assert [each.name for each in importers() if each.detect(tmp_path / "runs.jsonl")] == ["langsmith"]


def test_a_tree_of_parents_is_the_same_tree(tmp_path: Path) -> None:
    (one,), _ = read(tmp_path / "a", EXPORTS["runs, one a line"])
    path = {each["id"]: (*ABOVE[each["id"]],)[-1] if ABOVE[each["id"]] else None for each in RUNS}
    by_parent = [{**each, "dotted_order": None, "trace_id": None, "parent_run_id": path[each["id"]]} for each in RUNS]
    (other,), _ = read(tmp_path / "b", rows(by_parent))
    assert other.trace == one.trace
    assert exact_texts(other.messages) == exact_texts(one.messages)


@pytest.mark.parametrize("shape", ["runs, one a line", "creations and updates", "an answer of the API"])
def test_every_row_is_an_event_as_it_is(tmp_path: Path, shape: str) -> None:
    (source,), _ = read(tmp_path / "runs.jsonl", EXPORTS[shape])
    told = [(each.event_type, each.payload) for each in source.events]
    around = [("langsmith.document", {"cursors": {"next": None}})] if "API" in shape else []
    assert told == around + [
        ("langsmith.span", each) for each in (OPERATIONS if shape == "creations and updates" else RUNS)
    ]


def test_totals_that_a_run_states_are_checked(tmp_path: Path) -> None:
    _, counts = read(tmp_path / "runs.jsonl", rows([{**RUNS[0], "prompt_tokens": 93}, *RUNS[1:]]))
    assert [each.reason for each in counts.differences] == [
        f"{ROOT}: span {ROOT} (guide): the calls in it have 77 tokens, it states 100"
    ]


def test_a_file_that_grows_row_by_row_ends_as_the_whole(tmp_path: Path) -> None:
    async def messages(store: ModelStore) -> list[str]:
        found = await store.get_trace_messages(ROOT)
        return sorted(exact_texts([each.model_copy(update={"sequence": None}) for each in found]))

    path, store, whole = tmp_path / "runs.jsonl", ModelStore(), ModelStore()
    created, ended = ([halves(each)[side] for each in RUNS] for side in (0, 1))
    root, node, call, tool, last = range(len(RUNS))
    told = [*(created[each] for each in (root, node, call)), ended[call], created[tool], ended[tool]]
    told += [created[last], ended[last], ended[node], ended[root]]
    for count in range(1, len(told) + 1):
        path.write_text(rows(told[:count]))
        report = asyncio.run(import_paths(store, [path]))
        assert report.ok, (count, report.problems)
    asyncio.run(import_paths(whole, [path]))
    assert asyncio.run(messages(store)) == asyncio.run(messages(whole))
    one, other = (asyncio.run(each.get_trace(ROOT)) for each in (store, whole))
    assert one is not None and other is not None
    assert (one.total_tokens, one.total_cost, one.status) == (other.total_tokens, other.total_cost, other.status)


def test_a_call_that_is_still_going_on_is_no_message_yet(tmp_path: Path) -> None:
    (source,), _ = read(tmp_path / "runs.jsonl", rows([halves(RUNS[0])[0], halves(RUNS[2])[0]]))
    assert (source.messages, source.trace.status) == ([], "running")


def test_an_error_is_the_runs(tmp_path: Path) -> None:
    failed = {**RUNS[2], "error": "RateLimit()", "outputs": None}
    (source,), _ = read(tmp_path / "runs.jsonl", rows([{**RUNS[0], "error": "RateLimit()", "outputs": None}, failed]))
    assert (source.trace.status, source.trace.error_message) == ("failed", "RateLimit()")
    assert [(each.status, each.error) for each in source.messages if each.role == "assistant"] == [
        ("failed", "RateLimit()")
    ]


def test_runs_between_that_are_left_out_are_bridged(tmp_path: Path) -> None:
    (source,), counts = read(tmp_path / "runs.jsonl", rows([RUNS[0], *RUNS[2:]]))
    assert sum(each.tokens or 0 for each in source.messages) == 77
    assert counts.differences == []


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    strange: list[Json] = [{"id": "unknown", "outputs": {}}, {"id": 5, "run_type": "llm", "inputs": {}}, {"a": 1}]
    sources, counts = read(tmp_path / "runs.jsonl", rows([RUNS[0], *strange]) + "<<<<<<< HEAD\n")
    assert len(sources) == 1
    assert [each.line for each in counts.problems] == [3, 4, 5, 2]
    assert all("not taken" in each.reason for each in counts.problems)


def test_runs_whose_parents_go_in_a_circle_are_taken(tmp_path: Path) -> None:
    told: JsonObject = {"run_type": "chain", "name": "x", "inputs": {}}
    sources, _ = read(
        tmp_path / "r", rows([{"id": "a", "parent_run_id": "b", **told}, {"id": "b", "parent_run_id": "a", **told}])
    )
    assert sum(len(each.events) for each in sources) == 2


@pytest.mark.parametrize("name", ["tagged", "named"])
def test_graphs_are_told_by_their_steps(name: str) -> None:
    tags: dict[str, list[Json]] = {"tagged": ["graph:step:1"], "named": []}
    node = {"langgraph_node": "model"}
    told = [
        GraphRun("g", None, "bot"),
        GraphRun("n", "g", "model", tags[name], node),
        GraphRun("m", "n", "llm", [], node),
    ]
    assert graphs(told) == {"g"}


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"messages": [{"role": "user", "content": "hi"}], "model": "m"}, [("user", "hi")]),
        (
            {"system": "Be brief.", "messages": [{"role": "user", "content": "hi"}]},
            [("system", "Be brief."), ("user", "hi")],
        ),
        ({"contents": "hi", "config": {"system_instruction": "Be brief."}}, [("system", "Be brief."), ("user", "hi")]),
        ({"args": ["hi"], "kwargs": {}}, [("user", "hi")]),
        ({"prompts": ["hi"]}, [("user", "hi")]),
        ('"[{\\"role\\": \\"user\\", \\"content\\": \\"hi\\"}]"', [("user", "hi")]),
        ([{"role": "tool", "content": {"type": "function", "function": {"name": "f"}}}], []),
        ({"odd": 1}, [("user", {"odd": 1})]),
    ],
)
def test_requests_of_any_client_are_read(request_: Json, told: list[tuple[str, Json]]) -> None:
    assert [(each.role, each.content) for each in asked(request_)] == told


def test_a_tools_answer_in_a_role_of_its_own_is_the_tools() -> None:
    call: JsonObject = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[Json] = [
        {"role": "assistant", "content": "", "additional_kwargs": {"tool_calls": [call]}},
        {"role": "weather", "content": "sunny"},
    ]
    said, answer = asked(messages)
    assert said.calls() == [{"type": "tool_call", "id": "c", "name": "weather", "arguments": {}}]
    assert (answer.role, answer.content, answer.call_id, answer.tool) == ("tool", "sunny", "c", "weather")


def test_a_call_in_the_role_of_a_tool_is_the_models() -> None:
    call = json.dumps([{"function": {"name": "f", "arguments": "{}"}, "id": "c", "type": "function"}])
    [told] = asked([{"role": "tool", "content": call}])
    assert (told.role, [each["id"] for each in told.calls()]) == ("assistant", ["c"])


@pytest.mark.parametrize(
    "response",
    [
        {"choices": [{"message": {"role": "assistant", "content": "Hello."}}], "usage": {}},
        {"id": "msg", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello."}]}}]},
        {"content": {"role": "model", "parts": [{"text": "Hello."}]}, "finish_reason": "STOP"},
        {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}]},
        {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"},
        {"messages": [{"role": "assistant", "content": "Hello."}]},
        "Hello.",
    ],
)
def test_responses_of_any_client_are_read(response: Json) -> None:
    assert [(each.role, each.content) for each in answered(response)] == [("assistant", "Hello.")]


def test_calls_that_the_vercel_sdk_tells_apart_are_blocks() -> None:
    [told] = answered([{"toolCallId": "c", "toolName": "weather", "input": '{"city": "Rome"}'}])
    assert told.content == [{"type": "tool_call", "id": "c", "name": "weather", "arguments": {"city": "Rome"}}]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ("{'a': 1}", {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ({"input": {"a": 1}}, {"a": 1}),
        ([{"role": "tool", "content": '{"a": 1}', "id": "c"}], {"a": 1}),
        ("{not python", "{not python"),
        (None, None),
    ],
)
def test_arguments_are_read_as_they_are_shown(given: Json, arguments: Json) -> None:
    assert tool_arguments(given) == arguments


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"output": "x"}, "x"),
        ({"output": {"content": "x", "tool_call_id": "c", "type": "tool"}}, "x"),
        ({"content": [{"type": "text", "text": "x"}]}, [{"type": "text", "text": "x"}]),
        ({"message": '[{"text": "x"}]', "id": "c"}, [{"text": "x"}]),
        ({"output": 1, "more": 2}, {"output": 1, "more": 2}),
    ],
)
def test_answers_of_tools_are_taken_out_of_what_wraps_them(given: Json, result: Json) -> None:
    assert tool_answer(given).result == result


@pytest.mark.parametrize(
    "response",
    [
        {"usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}},
        {"usage": {"input_tokens": 6, "output_tokens": 2, "cache_read_input_tokens": 4, "total_tokens": 12}},
        {"usage_metadata": {"input_tokens": 10, "output_tokens": 2, "input_token_details": {"cache_read": 4}}},
        {"generations": [[{"message": {"kwargs": {"usage_metadata": {"input_tokens": 10, "output_tokens": 2}}}}]]},
        # Amazon Bedrock's: what was read from and written to a cache is beside the input.
        {"usage": {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 3}},
        {
            "usage": {
                "inputTokens": 5,
                "outputTokens": 2,
                "totalTokens": 12,
                "cacheReadInputTokens": 4,
                "cacheWriteInputTokens": 1,
            }
        },
        # The Vercel AI SDK's: among it.
        {"usage": {"inputTokens": 10, "outputTokens": 2, "cachedInputTokens": 4, "reasoningTokens": 1}},
        {
            "usageMetadata": {
                "promptTokenCount": 7,
                "candidatesTokenCount": 2,
                "totalTokenCount": 12,
                "thoughtsTokenCount": 3,
            }
        },
    ],
)
def test_the_usage_of_any_client_is_read(response: Json) -> None:
    usage = usage_in(response, Typed(ImportCounts().repaired))
    assert usage is not None and usage.total() == 12


@pytest.mark.parametrize(
    ("told", "kinds"),
    [
        ({"cache_read_input_tokens": 600, "cache_creation_input_tokens": 0}, (1000, 600, 0)),
        ({"cache_read_input_tokens": 0, "cache_creation_input_tokens": 70}, (1000, 0, 70)),
        # Newer ones tell by how long it is kept, too.
        (
            {"cache_creation_input_tokens": 70, "cache_creation": {"ephemeral_5m_input_tokens": 70}},
            (1000, None, 70),
        ),
        ({"cache_read_input_tokens": 600, "total_tokens": 1650}, (1000, 600, None)),
        # As litellm tells it: the total decides.
        ({"cache_read_input_tokens": 600, "total_tokens": 1050}, (400, 600, None)),
        ({"cache_read_input_tokens": None, "cache_creation_input_tokens": None}, (1000, None, None)),
        # OpenAI's, which has the same names but for these.
        ({"input_tokens_details": {"cached_tokens": 600}}, (400, 600, None)),
    ],
)
def test_cached_tokens_are_beside_the_inputs_where_anthropic_tells_them(
    tmp_path: Path, told: JsonObject, kinds: tuple[int | None, ...]
) -> None:
    usage: JsonObject = {"input_tokens": 1000, "output_tokens": 50, **told}
    outputs: JsonObject = {"role": "assistant", "content": [{"type": "text", "text": "Hello."}], "usage": usage}
    call = {**run(ROOT, "llm", "claude", 0, 2, inputs={"messages": [["human", "hi"]]}), "outputs": outputs}
    (source,), counts = read(tmp_path / "runs.jsonl", json.dumps(call))
    used = source.messages[-1].usage
    assert used is not None and used.output_tokens == 50
    assert (used.input_tokens, used.cache_read_tokens, used.cache_write_tokens) == kinds
    assert counts.repaired == {}


@pytest.mark.parametrize("total", [{}, {"totalTokens": 1670}])
def test_bedrock_tells_cached_tokens_beside_the_input(total: JsonObject) -> None:
    told: JsonObject = {
        "inputTokens": 1000,
        "outputTokens": 50,
        "cacheReadInputTokens": 600,
        "cacheWriteInputTokens": 20,
    }
    usage = usage_in({"usage": {**told, **total}}, Typed(ImportCounts().repaired))
    assert usage is not None and usage.total() == 1670
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (1000, 600, 20)


def test_cached_tokens_beside_a_prompts_are_among_them() -> None:
    told: JsonObject = {"usage": {"prompt_tokens": 1000, "completion_tokens": 50, "cache_read_input_tokens": 600}}
    usage = usage_in(told, Typed(ImportCounts().repaired))
    assert usage is not None and (usage.input_tokens, usage.cache_read_tokens, usage.total()) == (400, 600, 1050)


def test_real_operations_are_one_run_with_its_subgraphs() -> None:
    [path] = [each for each in corpus("langsmith") if each.name.startswith("run_ops")]
    counts = ImportCounts()
    [source] = LangSmith().read(path, counts)
    told = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [each.payload for each in source.events] == told
    assert counts.problems == counts.differences == []
    merged: dict[str, Any] = {}
    for each in told:
        merged.setdefault(each["id"], {}).update(each)
    assert source.goals is not None
    assert sorted(goal.description for goal in source.goals.goals) == ["ResearcherGraph"] * 3 + ["RetrievalGraph"]
    answers = [each for each in source.messages if each.role == "assistant" and each.duration_ms is not None]
    assert len(answers) == sum(each["run_type"] == "llm" for each in merged.values())
    # What lies beside it was recorded by another program's hooks.
    assert [each.name for each in corpus("langsmith") if LangSmith().detect(each)] == [path.name]
