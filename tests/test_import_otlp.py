"""Files of OpenTelemetry's spans, in every encoding and by every convention."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from profiles import tried
from test_import_claude_code import corpus
from test_import_run import contents, run, store
from traceark.importers.base import ImportCounts, Importer, SourceTrace
from traceark.importers.find import importers
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.otlp import Otlp
from traceark.importers.span import Kind
from traceark.models import Json, JsonObject, Message

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECOND = 1_700_000_000_000_000_000


def read(importer: Importer, path: Path, text: str) -> tuple[dict[str, SourceTrace], ImportCounts]:
    path.write_text(text)
    assert importer.detect(path)
    counts = ImportCounts()
    return {source.trace.trace_id: source for source in importer.read(path, counts)}, counts


def value(told: Json) -> JsonObject:
    """Return a value as OTLP's JSON has it."""
    if isinstance(told, bool):
        return {"boolValue": told}
    if isinstance(told, int):
        return {"intValue": str(told)}
    if isinstance(told, float):
        return {"doubleValue": told}
    if isinstance(told, list):
        return {"arrayValue": {"values": [value(each) for each in told]}}
    return {"stringValue": told}


def attributes(told: JsonObject) -> list[Json]:
    return [{"key": name, "value": value(each)} for name, each in told.items()]


def span(number: int, told: JsonObject, parent: int | None = None, name: str = "", at: tuple[int, int] = (0, 1)) -> Any:
    """Return a span of OTLP with attributes, that begins and ends so many seconds after the start."""
    return {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(SECOND + at[0] * 10**9 + 123),
        "endTimeUnixNano": str(SECOND + at[1] * 10**9),
        "attributes": attributes(told),
        "status": {},
    }


def document(*spans: JsonObject, host: str = "a") -> Any:
    resource = {"attributes": attributes({"service.name": "adder-service", "host.name": host})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "own"}, "spans": list(spans)}]}]}


def part(kind: str, **told: Json) -> JsonObject:
    return {"type": kind, **told}


def told(role: str, *parts: JsonObject) -> JsonObject:
    return {"role": role, "parts": list(parts)}


ASKED = told("user", part("text", content="What is 2 + 2?"))
CALLED = told("assistant", part("tool_call", id="c1", name="add", arguments={"a": 2, "b": 2}))
RESULT = told("tool", part("tool_call_response", id="c1", response="4"))
ANSWER = told("assistant", part("text", content="Four."))
CHAT: JsonObject = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m-0",
    "gen_ai.response.model": "m-1",
    "gen_ai.system_instructions": '[{"type": "text", "content": "You add."}]',
}
FIRST: JsonObject = {
    **CHAT,
    "gen_ai.input.messages": json.dumps([ASKED]),
    "gen_ai.output.messages": json.dumps([CALLED]),
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.cache_read.input_tokens": 60,
    "gen_ai.usage.output_tokens": 10,
}
ADD: JsonObject = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "add",
    "gen_ai.tool.call.id": "c1",
    "gen_ai.tool.call.arguments": '{"a": 2, "b": 2}',
    "gen_ai.tool.call.result": "4",
}
LATER: JsonObject = {
    **CHAT,
    "gen_ai.input.messages": json.dumps([ASKED, CALLED, RESULT]),
    "gen_ai.output.messages": json.dumps([ANSWER]),
    "gen_ai.usage.input_tokens": 150,
    "gen_ai.usage.output_tokens": 20,
}
AGENT: JsonObject = {
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.agent.name": "adder",
    "gen_ai.conversation.id": "talk-1",
    "gen_ai.usage.input_tokens": 250,
    "gen_ai.usage.output_tokens": 30,
    "user.id": "ann",
}
RUN: list[Any] = [
    span(2, FIRST, 1, "chat m-0", (1, 2)),
    span(3, ADD, 1, "execute_tool add", (2, 3)),
    span(4, LATER, 1, "chat m-0", (3, 4)),
    span(1, AGENT, None, "invoke_agent adder", (0, 5)),
]


def summary(message: Message) -> tuple[Any, ...]:
    return (message.message_id or "").removeprefix(f"{TRACE}-{0:014x}"), message.role, message.content, message.tokens


EXPECTED = [
    ("02-in-1", "system", "You add.", None),
    ("02-in-2", "user", "What is 2 + 2?", None),
    ("02-out-1", "assistant", [{"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 2, "b": 2}}], 110),
    ("03-tool", "tool", "4", None),
    ("04-out-1", "assistant", "Four.", 170),
]


def test_a_run_told_by_the_conventions_of_today_reads_as_a_conversation(tmp_path: Path) -> None:
    sources, counts = read(Otlp(), tmp_path / "t.json", json.dumps(document(*RUN), indent=1))
    source = sources[TRACE]
    assert [summary(each) for each in source.messages] == EXPECTED
    usage = source.messages[2].usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (40, 60, 10)
    trace = source.trace
    assert (trace.agent_type, trace.model, trace.task, trace.uid) == ("adder", "m-1", "What is 2 + 2?", "ann")
    assert trace.metadata == {"otlp": {"service.name": "adder-service", "gen_ai.conversation.id": "talk-1"}}
    assert source.goals is not None
    assert [(goal.id, goal.description) for goal in source.goals.goals] == [(f"{1:016x}", "adder")]
    assert counts.problems == counts.differences == []
    assert counts.rows == {"resource": 1, "scope": 1, "span": 4}


def test_times_are_cut_to_microseconds_and_stay_exact_in_the_event(tmp_path: Path) -> None:
    sources, counts = read(Otlp(), tmp_path / "t.json", json.dumps(document(*RUN)))
    source = sources[TRACE]
    assert source.messages[0].created_at is not None
    assert source.messages[0].created_at.isoformat() == "2023-11-14T22:13:21+00:00"
    assert [each.event_type for each in source.events] == ["otlp.resource", "otlp.scope", *["otlp.span"] * 4]
    assert [each.payload for each in source.events[2:]] == RUN
    assert source.events[0].payload == {"resource": document()["resourceSpans"][0]["resource"]}
    assert counts.repaired == {"a time finer than a microsecond, cut": 4}


def flat(told: Any, names: dict[str, str]) -> JsonObject:
    """Return a span as exporters dump it: attributes an object, other names for what it has."""
    plain = {each["key"]: next(iter(each["value"].values())) for each in told["attributes"]}
    numbers = {key: int(each) if "tokens" in key else each for key, each in plain.items()}
    return {**{names.get(name, name): each for name, each in told.items()}, "attributes": numbers}


PRINTED = {"parentSpanId": "parent_id", "startTimeUnixNano": "start_time", "endTimeUnixNano": "end_time"}
SNAKE = {**PRINTED, "traceId": "trace_id", "spanId": "span_id", "parentSpanId": "parent_span_id"}
DUMP: list[Json] = [flat(each, SNAKE) for each in RUN]


def console(told: JsonObject) -> JsonObject:
    """Return a span as the console exporter of Python prints it."""
    found = flat(told, PRINTED)
    context: JsonObject = {"trace_id": f"0x{found.pop('traceId')}", "span_id": f"0x{found.pop('spanId')}"}
    return {**found, "context": context, "parent_id": f"0x{found['parent_id']}" if found["parent_id"] else None}


def jaeger(told: Any) -> JsonObject:
    tags: list[Json] = [{**each, "value": next(iter(each["value"].values()))} for each in told["attributes"]]
    begin, end = (int(told[name]) // 1000 for name in ("startTimeUnixNano", "endTimeUnixNano"))
    parent: JsonObject = {"refType": "CHILD_OF", "traceID": TRACE, "spanID": told["parentSpanId"]}
    return {
        "traceID": TRACE,
        "spanID": told["spanId"],
        "operationName": told["name"],
        "references": [parent] if told["parentSpanId"] else [],
        "startTime": begin,
        "duration": end - begin,
        "tags": tags,
        "logs": [],
        "processID": "p1",
    }


LIBRARY: JsonObject = {"instrumentationLibrary": {"name": "own"}, "spans": list(RUN)}
JAEGER: JsonObject = {"traceID": TRACE, "spans": [jaeger(each) for each in RUN], "processes": {"p1": {}}}
FILES: dict[str, str] = {
    "OTLP, a line each": "\n".join(json.dumps(document(each)) for each in RUN) + "\n",
    "OTLP, other names": json.dumps(document(*RUN)).replace("eSpans", "e_spans"),
    "Tempo": json.dumps({"batches": [{"resource": {}, "instrumentationLibrarySpans": [LIBRARY]}]}),
    "Tempo, a trace": json.dumps({"trace": document(*RUN)}),
    "Jaeger": json.dumps({"data": [JAEGER]}),
    "a list": json.dumps(DUMP, indent=2),
    "a list in an object": json.dumps({"session_id": "s", "spans": DUMP}),
    "traces with lists": json.dumps({"traces": [{"trace_id": TRACE, "spans": DUMP}]}),
    "spans, a line each": "\n".join(map(json.dumps, DUMP)),
    "as printed, in a list": json.dumps([console(each) for each in RUN]),
    "as printed, one after the other": "\n".join(json.dumps(console(each), indent=4) for each in RUN) + "\n",
}


@pytest.mark.parametrize("shape", FILES)
def test_the_shape_of_a_file_makes_no_difference(tmp_path: Path, shape: str) -> None:
    sources, counts = read(Otlp(), tmp_path / "t.json", FILES[shape])
    assert list(sources) == [TRACE]
    assert [summary(each) for each in sources[TRACE].messages] == EXPECTED
    assert counts.problems == counts.differences == []
    assert [each.name for each in importers() if each.detect(tmp_path / "t.json")] == ["otlp"]


def test_what_else_a_document_says_is_kept(tmp_path: Path) -> None:
    sources, _ = read(Otlp(), tmp_path / "t.json", FILES["a list in an object"])
    assert [each.payload for each in sources[TRACE].events if each.event_type == "otlp.trace"] == [{"session_id": "s"}]
    sources, _ = read(Otlp(), tmp_path / "t.json", FILES["Jaeger"])
    assert sources[TRACE].events[0].payload == {"traceID": TRACE, "processes": {"p1": {}}}


def test_traces_of_a_file_are_apart_and_one_may_be_spread_over_lines(tmp_path: Path) -> None:
    other = {**RUN[3], "traceId": "F" * 32}
    lines = [document(RUN[0], other), document(*RUN[1:3], host="b"), document(RUN[3])]
    sources, _ = read(Otlp(), tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))
    assert [(trace_id, len(source.messages)) for trace_id, source in sources.items()] == [(TRACE, 5), ("f" * 32, 1)]
    kinds = [each.event_type.removeprefix("otlp.") for each in sources[TRACE].events]
    assert kinds == ["resource", "scope", "span", "resource", "span", "span", "resource", "span"]


def test_what_is_no_span_is_named(tmp_path: Path) -> None:
    nameless = {name: each for name, each in RUN[0].items() if name != "traceId"}
    whole, lost = (json.dumps(document(each)) for each in (RUN[0], nameless))
    lines = [whole, "<<<<<<< HEAD", '{"other": 1}', lost, '{"resourceSp']
    sources, counts = read(Otlp(), tmp_path / "t.jsonl", "\n".join(lines))
    assert list(sources) == [TRACE]
    assert [problem.line for problem in counts.problems] == [2, 3, 4, 5]
    assert all("not taken" in problem.reason for problem in counts.problems)


def test_what_a_program_prints_between_spans_is_named(tmp_path: Path) -> None:
    first, second, third = (json.dumps(console(each), indent=4) for each in RUN[:3])
    text = "\n".join([first, "Listening.", "{not", second, third[:-9]])
    sources, counts = read(Otlp(), tmp_path / "t.log", text)
    lines = first.count("\n") + 2
    assert [problem.line for problem in counts.problems] == [lines, lines + 1, lines + 3 + second.count("\n")]
    assert sum(each.event_type == "otlp.span" for each in sources[TRACE].events) == 2


def test_what_is_no_span_within_a_document_is_named(tmp_path: Path) -> None:
    whole = document(RUN[0])
    broken = [5, {"scopeSpans": 5}, {"scopeSpans": [5, {"spans": 5}, {"spans": [5]}, {}]}, {"scopeSpans": []}]
    whole["resourceSpans"] += broken
    sources, counts = read(Otlp(), tmp_path / "t.json", json.dumps(whole))
    assert len(sources[TRACE].messages) == 3
    assert len(counts.problems) == 7
    assert all("not taken" in problem.reason for problem in counts.problems)


NONE = ["", "{", "[]", "{}", '{"resourceSpans": []}', '{"data": []}', '["trace_id", "span_id"]']


@pytest.mark.parametrize("text", NONE)
def test_a_file_without_spans_is_not_claimed(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    assert [each.name for each in importers() if each.detect(tmp_path / "t.json")] == []


def one(tmp_path: Path, *spans: JsonObject) -> SourceTrace:
    sources, _ = read(Otlp(), tmp_path / "t.json", json.dumps(document(*spans)))
    return sources[TRACE]


def with_events(told: JsonObject, *events: tuple[str, JsonObject]) -> JsonObject:
    return {**told, "events": [{"name": name, "attributes": attributes(each)} for name, each in events]}


COUNTED: JsonObject = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 2}
PROMPTS: JsonObject = {
    "llm.request.type": "chat",
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "You add.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": "What is 2 + 2?",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "Four.",
    "gen_ai.usage.prompt_tokens": 5,
    "gen_ai.usage.completion_tokens": 2,
}
DETAILS: JsonObject = {
    "gen_ai.system_instructions": "You add.",
    "gen_ai.input.messages": json.dumps([ASKED]),
    "gen_ai.output.messages": json.dumps([ANSWER]),
}
OPENINFERENCE: JsonObject = {
    "openinference.span.kind": "LLM",
    "llm.token_count.prompt": 5,
    "llm.token_count.completion": 2,
}
FLATTENED: JsonObject = {
    **OPENINFERENCE,
    "llm.input_messages.0.message.role": "system",
    "llm.input_messages.0.message.content": "You add.",
    "llm.input_messages.1.message.role": "user",
    "llm.input_messages.1.message.contents.0.message_content.type": "text",
    "llm.input_messages.1.message.contents.0.message_content.text": "What is 2 + 2?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "Four.",
}
VALUES: JsonObject = {
    **OPENINFERENCE,
    "input.value": '{"system": "You add.", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}',
    "output.value": "Four.",
}
GIVEN = {
    "config": {"system_instruction": "You add."},
    "contents": [{"role": "user", "parts": [{"text": "What is 2 + 2?"}]}],
}
ANSWERED = {"content": {"role": "model", "parts": [{"text": "Four.", "thought_signature": "x"}]}}
ADK: JsonObject = {
    "gcp.vertex.agent.llm_request": json.dumps(GIVEN),
    "gcp.vertex.agent.llm_response": json.dumps(ANSWERED),
    "gen_ai.usage.input_tokens": 5,
    "gen_ai.usage.output_tokens": 2,
}
CONVENTIONS: dict[str, JsonObject] = {
    "numbered prompts": span(1, PROMPTS),
    "events": with_events(
        span(1, COUNTED),
        ("gen_ai.system.message", {"content": "You add."}),
        ("gen_ai.user.message", {"content": "What is 2 + 2?"}),
        ("gen_ai.choice", {"index": 0, "message": '{"role": "assistant", "content": "Four."}'}),
    ),
    "an event with all of it": with_events(span(1, COUNTED), ("gen_ai.client.inference.operation.details", DETAILS)),
    "OpenInference": span(1, FLATTENED),
    "OpenInference, values alone": span(1, VALUES),
    "ADK": span(1, ADK, name="call_llm"),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_tell_the_same_in_other_words(tmp_path: Path, convention: str) -> None:
    source = one(tmp_path, CONVENTIONS[convention])
    assert [(each.role, each.content) for each in source.messages] == [
        ("system", "You add."),
        ("user", "What is 2 + 2?"),
        ("assistant", "Four."),
    ]
    assert [each.tokens for each in source.messages] == [None, None, 7]
    assert source.trace.mode == "call"


KINDS: list[tuple[JsonObject, Kind]] = [
    ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
    ({"gen_ai.operation.name": "create_agent"}, "other"),
    ({"gen_ai.operation.name": "text_completion"}, "chat"),
    ({"openinference.span.kind": "AGENT"}, "agent"),
    ({"openinference.span.kind": "CHAIN"}, "other"),
    ({"openinference.span.kind": "TOOL", "tool.name": "add"}, "tool"),
    ({"traceloop.span.kind": "agent", "traceloop.entity.name": "adder"}, "agent"),
    ({"traceloop.span.kind": "workflow"}, "other"),
    ({"traceloop.span.kind": "tool", "traceloop.entity.name": "add"}, "tool"),
    ({"http.method": "GET"}, "other"),
]


@pytest.mark.parametrize(("told", "kind"), KINDS)
def test_the_kind_of_a_span_is_told_in_several_ways(tmp_path: Path, told: JsonObject, kind: Kind) -> None:
    source = one(tmp_path, span(1, told))
    found = "agent" if source.goals is not None else "other"
    if source.messages:
        found = "tool" if source.messages[0].role == "tool" else "chat"
    assert found == kind


def test_names_tell_what_attributes_do_not(tmp_path: Path) -> None:
    source = one(tmp_path, span(2, {}, 1, "execute_tool add"), span(1, {}, None, "invoke_agent adder"))
    assert [(each.role, each.tool_name, each.goal_id) for each in source.messages] == [("tool", "add", f"{1:016x}")]
    assert source.trace.agent_type == "adder"


TEXT: JsonObject = {"type": "text", "text": "4"}
MCP = {"content": [TEXT], "isError": False}
RESULTS: list[tuple[JsonObject, Json, str | None]] = [
    ({"gen_ai.tool.call.result": "4"}, "4", None),
    ({"output.value": '{"content": "4", "tool_call_id": "c1", "status": "success"}'}, "4", "c1"),
    ({"gcp.vertex.agent.tool_response": json.dumps(MCP)}, [TEXT], None),
    ({"traceloop.entity.output": '{"sum": 4}'}, '{"sum": 4}', None),
]


@pytest.mark.parametrize(("told", "content", "call_id"), RESULTS)
def test_the_result_of_a_tool_is_taken_out_of_what_it_is_wrapped_in(
    tmp_path: Path, told: JsonObject, content: Json, call_id: str | None
) -> None:
    [answer] = one(tmp_path, span(1, {"gen_ai.operation.name": "execute_tool", **told})).messages
    assert (answer.content, answer.tool_call_id) == (content, call_id)


FAILED: list[tuple[JsonObject, str | None]] = [
    ({"status": {"code": 2, "message": "no route"}}, "no route"),
    ({"status": {"code": "STATUS_CODE_ERROR"}, "attributes": attributes({"error.type": "Timeout"})}, "Timeout"),
    (with_events({"status": {"code": "ERROR"}}, ("exception", {"exception.message": "cut off"})), "cut off"),
    ({"status": {"code": "ERROR"}}, None),
]


@pytest.mark.parametrize(("status", "error"), FAILED)
def test_a_span_that_failed_says_why(tmp_path: Path, status: JsonObject, error: str | None) -> None:
    source = one(tmp_path, {**span(1, {}, None, "invoke_agent adder"), **status})
    assert (source.trace.status, source.trace.error_message) == ("failed", error)


def test_a_record_of_a_log_that_stands_for_a_span_is_told_by_its_body(tmp_path: Path) -> None:
    def record(number: int, asked: str, answered: Json) -> JsonObject:
        body: JsonObject = {
            "input": {"messages": [{"role": "user", "content": asked}]},
            "output": {"messages": [{"role": "assistant", "content": json.dumps(answered)}]},
        }
        dumped = flat(span(number, {}, at=(number, number + 1)), SNAKE)
        return {**dumped, "span_events": [{"event_name": "x", "attributes": {}, "body": body}]}

    calls: list[Json] = [{"name": "add", "args": {"a": 1}, "id": "c1"}]
    calling: Json = {"generations": [[{"text": "I look.", "message": {"tool_calls": calls}}]]}
    answer: Json = {"type": "tool", "name": "add", "content": "4", "tool_call_id": "c1"}
    records = [record(1, "Add.", calling), record(2, "{'a': 1}", answer)]
    sources, _ = read(Otlp(), tmp_path / "t.json", json.dumps(records))
    found = [(each.role, each.tool_call_id, each.tool_name) for each in sources[TRACE].messages]
    assert found == [("user", None, None), ("assistant", "c1", "add"), ("tool", "c1", "add")]


LINES = [json.dumps(document(each)) + "\n" for each in RUN]


@settings(max_examples=tried(12, 200))
@given(st.lists(st.integers(1, 4), max_size=3))
def test_a_file_that_grows_line_by_line_ends_as_the_whole(sizes: Sequence[int]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_text("".join(LINES))
        whole = store()
        assert run(whole, path).ok
        into = store()
        for size in (*sizes, 4):
            path.write_text("".join(LINES[:size]))
            assert run(into, path).ok
        assert contents(into) == contents(whole)
        assert run(into, path).totals()["new_messages"] == 0


def test_a_message_whose_agent_is_told_later_gets_its_goal(tmp_path: Path) -> None:
    path, into = tmp_path / "t.jsonl", store()
    for size in (3, 4):
        path.write_text("".join(LINES[:size]))
        run(into, path)
        goals = {each.goal_id for each in asyncio.run(into.get_trace_messages(TRACE))}
        assert goals == ({None} if size == 3 else {f"{1:016x}"})
    tree = asyncio.run(into.get_goal_tree(TRACE))
    assert tree is not None
    assert tree.goals[0].self_stats.total_tokens == 280


def taken(*names: str) -> dict[str, tuple[list[SourceTrace], ImportCounts]]:
    """Return what became of real files of spans."""
    found = {}
    for path in (path for name in names for path in corpus(name)):
        importer = next((each for each in importers() if each.detect(path)), None)
        if importer is not None and importer.name in ("otlp", "openai-agents"):
            counts = ImportCounts()
            found[path.name] = (list(importer.read(path, counts)), counts)
    return found


def test_real_spans_are_kept_whole_and_their_tokens_count_once() -> None:
    found = taken("otel-genai", "otlp-derived", "otel-jaeger", "openai-agents")
    # What stays is another program's: evaluation sets, a program's own log, an export of Langfuse.
    assert len(found) == 15 + 10 + 6 + 5
    totals = {}
    for name, (sources, counts) in found.items():
        assert counts.problems == [], name
        spans = sum(each.event_type.endswith(".span") for source in sources for each in source.events)
        assert spans == counts.rows["span"], name
        totals[name] = sum(each.tokens or 0 for source in sources for each in source.messages)
    assert totals["pydantic_ai_live_spans.json"] == 1251 + 78
    assert totals["smolagents_live_spans.json"] == 6419
    assert totals["claude_adot_spans.json"] == 4 + 767 + 29447 + 2861
    assert totals["tempo_export_with_batches.json"] == 2269 + 2508
    # The agent in this one states less than its two calls do.
    assert [name for name, (_, counts) in found.items() if counts.differences] == ["otel_genai_convention_spans.json"]


def test_real_spans_that_were_encoded_anew_say_the_same() -> None:
    found = taken("otel-genai", "otlp-derived")
    sdk = ["openai_agents_genai", "openai_agents_openinference", "openai_agents_otel"]
    for name in ["adk", "autogen", "claude", "openinference", "pydantic_ai", "smolagents", *sdk]:
        [(one, _), (other, _)] = found[f"{name}_live_spans.json"], found[f"{name}.otlp.json"]
        assert [each.messages for each in one] == [each.messages for each in other], name


def test_spans_are_found_in_no_file_of_another_format() -> None:
    others = ["claude-code", "codex", "inspect", "atif", "swe-agent", "tau2-bench", "who-and-when", "openhands-v1"]
    for path in (path for name in [*others, "langfuse", "langsmith"] for path in corpus(name)):
        assert not any(importer.detect(path) for importer in (Otlp(), OpenAIAgents())), path
