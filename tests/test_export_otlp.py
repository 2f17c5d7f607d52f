"""OpenTelemetry: requests that OTLP's own messages read, in which spans say what the conventions have names for."""

from __future__ import annotations

import base64
import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from profiles import tried
from test_export_atif import COUNT
from test_export_chat import CALLS, TEXTS, run_of
from test_import_claude_code import some_of
from traceark.exporters.base import Run
from traceark.exporters.otel import span_id_of, trace_id_of
from traceark.exporters.otlp import Otlp
from traceark.exporters.turns import is_copied, turns_of
from traceark.importers import otlp
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.find import importers
from traceark.importers.times import give_times
from traceark.models import Event, Goal, GoalTree, Message, Trace, TraceStatus, Usage, utc_now

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def requested(run: Run) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the spans of an export, read by OTLP's own messages."""
    left_out: Counter[str] = Counter()
    line = b"".join(Otlp().export(run, left_out))
    assert line.count(b"\n") == 1
    request = json.loads(line)
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    as_protobuf = copy.deepcopy(request)
    for span in as_protobuf["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for each in (span, *span.get("links", ())):
            # Ids are hex in OTLP's JSON, and base64 in protobuf's.
            for name, size in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
                if name in each:
                    assert len(bytes.fromhex(each[name])) == size and int(each[name], 16)
                    each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    read = json_format.ParseDict(as_protobuf, ExportTraceServiceRequest())
    assert len(read.resource_spans[0].scope_spans[0].spans) == len(spans)
    ids = [span["spanId"] for span in spans]
    assert len(set(ids)) == len(ids)
    assert {span["parentSpanId"] for span in spans[1:]} <= set(ids) and "parentSpanId" not in spans[0]
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)
    return spans, +left_out


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for each in span["attributes"]:
        [(kind, value)] = each["value"].items()
        found[each["key"]] = int(value) if kind == "intValue" else value
    return found


def timed(*messages: dict[str, Any], **fields: Any) -> Run:
    """Return a run whose messages are a second apart."""
    return run_of(
        *({"created_at": BEGIN + timedelta(seconds=at), **each} for at, each in enumerate(messages, start=1)),
        created_at=BEGIN,
        **fields,
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_response_is_a_span_and_so_is_each_call_that_was_answered(name: str) -> None:
    run = timed({"role": "user", "content": "Sort it."}, *CALLS[name], {"content": "Done."}, model="claude-x")
    spans, left_out = requested(run)
    told = [attributes(span) for span in spans]
    assert [span["name"] for span in spans if span["kind"] == 3 or "tool" in span["name"]] == [
        *(["chat claude-x"] * (name == "Codex")),
        "chat claude-x",
        "execute_tool ls",
        "chat claude-x",
    ]
    [tool] = [each for each in told if each.get("gen_ai.operation.name") == "execute_tool"]
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"path": "/"}
    assert (tool["gen_ai.tool.name"], tool["gen_ai.tool.call.id"], tool["gen_ai.tool.call.result"]) == (
        "ls",
        "c",
        "a b",
    )
    last = told[-1]
    assert last["gen_ai.provider.name"] == "anthropic" and last["gen_ai.request.model"] == "claude-x"
    assert json.loads(last["gen_ai.input.messages"]) == [
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "a b"}]}
    ]
    assert json.loads(last["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Done."}], "finish_reason": "stop"}
    ]
    assert not left_out


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("claude-opus-4-7", "anthropic"),
        ("anthropic/claude-opus-4-7", "anthropic"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "aws.bedrock"),
        ("bedrock/us.anthropic.claude-sonnet-4-6", "aws.bedrock"),
        ("amazon.nova-pro-v1:0", "aws.bedrock"),
        ("azure/gpt-4o", "azure.ai.openai"),
        ("vertex_ai/gemini-3", "gcp.vertex_ai"),
        ("gemini-3", "gcp.gemini"),
        ("some-model", None),
    ],
)
def test_the_provider_is_who_serves_the_model(model: str, provider: str | None) -> None:
    spans, _ = requested(timed({"content": "a"}, model=model))
    assert attributes(spans[1]).get("gen_ai.provider.name") == provider


def test_a_run_is_the_root_with_what_it_is_and_how_it_ended() -> None:
    run = timed(agent_type="sorter", status="failed", error_message="no mail", task="Sort it", model="gpt-9")
    [root], left_out = requested(Run(run.trace, [], [Event(event_id=1, event_type="e", created_at=utc_now())]))
    assert root["name"] == "invoke_agent sorter" and root["status"] == {"code": 2, "message": "no mail"}
    told = attributes(root)
    assert told["gen_ai.operation.name"] == "invoke_agent" and told["gen_ai.agent.name"] == "sorter"
    assert (told["gen_ai.conversation.id"], told["traceark.task"]) == ("t", "Sort it")
    assert told["gen_ai.provider.name"] == "openai" and told["error.type"] == "_OTHER"
    assert left_out == {"events": 1}


def test_usage_is_told_as_the_conventions_count_it() -> None:
    usage = Usage(input_tokens=5, output_tokens=7, cache_read_tokens=11, cache_write_tokens=13, reasoning_tokens=2)
    spans, left_out = requested(timed({"content": "a", "usage": usage, "cost": 0.5}, {"role": "tool", "tokens": 3}))
    told = attributes(spans[1])
    assert {name: value for name, value in told.items() if "usage" in name or "cost" in name} == {
        "gen_ai.usage.input_tokens": 29,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 11,
        "gen_ai.usage.cache_creation.input_tokens": 13,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "operation.cost": 0.5,
    }
    assert left_out == {"tokens and costs of messages that no model wrote": 1}


def test_goals_are_spans_around_what_was_done_for_them() -> None:
    goals = [
        Goal(id="1", description="All", created_at=BEGIN),
        Goal(id="2", description="Part", parent_id="1", status="failed", summary="not so"),
        Goal(id="00000000000000ab", description="Help", sub_trace_ids=["child"]),
    ]
    run = timed({"content": "a", "goal_id": "2"}, {"content": "b", "goal_id": "gone"})
    spans, _ = requested(Run(run.trace, run.messages, [], GoalTree(goals=goals)))
    root, first, second, helper, a, b = spans
    assert [span["name"] for span in (first, second, helper)] == ["goal All", "goal Part", "invoke_agent Help"]
    assert (first["parentSpanId"], second["parentSpanId"]) == (root["spanId"], first["spanId"])
    assert (a["parentSpanId"], b["parentSpanId"]) == (second["spanId"], root["spanId"])
    assert second["status"] == {"code": 2, "message": "not so"} and helper["spanId"] == "00000000000000ab"
    assert attributes(second)["traceark.goal.status"] == "failed"
    [child], _ = requested(Run(Trace(trace_id="child", parent_trace_id="t", parent_goal_id="00000000000000ab")))
    assert helper["links"] == [{"traceId": child["traceId"], "spanId": child["spanId"]}]
    assert child["links"] == [{"traceId": root["traceId"], "spanId": helper["spanId"]}]


def test_ids_are_the_traces_own_and_always_the_same() -> None:
    run = timed(*CALLS["Inspect"])
    assert requested(run) == requested(timed(*CALLS["Inspect"]))
    assert trace_id_of("7d1f0c52-64a5-4b0e-9b57-2f6f3f0c9a11") == "7d1f0c5264a54b0e9b572f6f3f0c9a11"
    assert trace_id_of("0123456789abcdef0123456789abcdef") == "0123456789abcdef0123456789abcdef"
    for trace_id in (
        "run-7",
        "0" * 32,
        "7D1F0C52-64A5-4B0E-9B57-2F6F3F0C9A11",
        "é",
        "00000000-0000-0000-0000-000000000000",
    ):
        assert len(trace_id_of(trace_id)) == 32 and int(trace_id_of(trace_id), 16)
    assert span_id_of("t", "goal", "0" * 16) != "0" * 16


def test_what_nobody_answered_and_what_was_copied_is_told_as_input() -> None:
    user = {"role": "user", "content": "Hi."}
    [root], _ = requested(timed(user))
    assert json.loads(attributes(root)["gen_ai.input.messages"])[0]["role"] == "user"
    spans, _ = requested(timed({"content": "Earlier.", "copied": True}, {"content": "Yes."}, user))
    assert len(spans) == 3
    assert json.loads(attributes(spans[1])["gen_ai.input.messages"])[0]["role"] == "assistant"
    assert spans[2]["name"] == "invoke_agent" and "Hi." in attributes(spans[2])["gen_ai.input.messages"]


def test_clocks_that_run_backwards_and_no_times_at_all_make_spans_too() -> None:
    late, early = BEGIN + timedelta(hours=1), datetime(1960, 1, 1, tzinfo=UTC)
    requested(run_of({"content": "a", "created_at": late}, {"role": "tool", "content": "b", "created_at": early}))
    requested(run_of({"content": "a"}, {"role": "user", "content": "b"}, {"content": "c", "duration_ms": 2**62}))


REPEATED = st.sampled_from(["", "yes", " yes", "[]", '{"a": 1}', '[{"type": "text", "text": "yes"}]']) | TEXTS
CALL = st.builds(
    lambda call_id, name, arguments: {"type": "tool_use", "id": call_id, "name": name, "input": arguments},
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from(["ls", "t"]),
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 1) | REPEATED, max_size=2),
)
BLOCKS = st.lists(
    CALL
    | REPEATED.map(lambda text: {"type": "text", "text": text})
    | REPEATED.filter(bool).map(lambda text: {"type": "thinking", "thinking": text}),
    min_size=1,
    max_size=3,
)
SPOKEN = st.one_of(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "system"]),
        REPEATED | BLOCKS | st.none(),
    ),
    st.builds(
        lambda content, usage, cost, status: {"content": content, "usage": usage, "cost": cost, "status": status},
        REPEATED | BLOCKS | st.none(),
        st.none() | st.builds(Usage, **dict.fromkeys(Usage.model_fields, COUNT)),
        st.sampled_from([None, 0.5, 0.25]),
        st.sampled_from([None, "failed", "cancelled"]),
    ),
    st.builds(
        lambda call_id, content, status: {
            "role": "tool",
            "tool_call_id": call_id,
            "content": content,
            "status": status,
        },
        st.sampled_from(["1", "2", "3"]),
        REPEATED | st.lists(CALL, min_size=1, max_size=1),
        st.sampled_from([None, "failed"]),
    ),
)
# Clocks stand still, and run backwards.
SPOKEN_AT = st.tuples(SPOKEN, st.integers(-1, 2))


def said(messages: Sequence[Message]) -> list[Any]:
    """Return what messages say, in order: a response of several rows is one, and so is each answer of a tool."""
    found: list[Any] = []
    for turn in turns_of(messages):
        results = [["tool", part.text, part.call_id] for part in turn.parts if part.kind == "result"]
        told = [
            [
                part.kind if part.kind in ("call", "thinking") else "text",
                part.text if part.kind != "call" else part.arguments,
                part.name,
                part.call_id,
            ]
            for part in turn.parts
            if part.kind != "result" and (part.text or part.kind != "thinking")
        ]
        own = [[turn.role if turn.role != "tool" else "user", told]] if told or not results else []
        found += [*own, *results] if turn.role == "assistant" else [*results, *own]
    # OTLP cannot say the half of a pair.
    return list(json.loads(json.dumps(found).replace("\\ud800", "\\ufffd")))


def spent(messages: Sequence[Message]) -> list[Any]:
    """Return what each response of the model used, and how it ended."""
    found = []
    for turn in turns_of(messages):
        if turn.role == "assistant" and not any(map(is_copied, turn.messages)):
            usages = [message.usage for message in turn.messages if message.usage is not None]
            kinds = [sum(getattr(usage, name) or 0 for usage in usages) for name in Usage.model_fields]
            tokens = sum(message.counted_tokens() for message in turn.messages)
            cost = sum(message.cost or 0 for message in turn.messages)
            found.append((kinds if any(kinds[:-1]) else None, tokens, cost, turn.messages[-1].status))
    return found


def returned(run: Run) -> SourceTrace:
    """Return what an import makes of an export."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "spans.jsonl")
        path.write_bytes(b"".join(Otlp().export(run, Counter())))
        assert [each.name for each in importers() if each.detect(path)] == [otlp.NAME]
        counts = ImportCounts()
        [source] = otlp.Otlp().read(path, counts)
    assert not counts.problems and not counts.differences
    return source


def test_what_is_said_twice_comes_back_twice_and_where_it_was_said() -> None:
    def call(call_id: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "tool_call", "id": call_id, "name": "speed", "arguments": {}}]}

    def answer(call_id: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": call_id, "content": "slow"}

    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "Help."}
    told = [system, user, {"content": "Check."}, call("u1"), answer("u1"), user, {"content": "Check."}]
    run = timed(*told, system, call("u2"), answer("u2"), user, {"content": "Done."}, user, user)
    source = returned(run)
    assert [each.role for each in source.messages] == [each.role for each in run.messages]
    assert said(source.messages) == said(run.messages)
    assert [each.tool_call_id for each in source.messages if each.tool_call_id] == ["u1", "u1", "u2", "u2"]


@settings(max_examples=tried(80, 800, 3000), deadline=None)
@given(st.lists(SPOKEN_AT, max_size=8))
def test_an_import_of_a_request_has_the_same_messages_in_order_with_what_they_used(told: list[Any]) -> None:
    seconds = accumulate(step for _, step in told)
    messages = [
        {**each, "created_at": BEGIN + timedelta(seconds=at)} for (each, _), at in zip(told, seconds, strict=True)
    ]
    run = run_of(*messages, agent_type="sorter", created_at=BEGIN)
    source = returned(run)
    assert said(source.messages) == said(run.messages)
    assert spent(source.messages) == spent(run.messages)
    assert [each.status for each in source.messages if each.role == "tool"] == [
        each.status for each in run.messages if each.role == "tool"
    ]


@pytest.mark.parametrize("status", get_args(TraceStatus))
def test_a_status_comes_back(status: TraceStatus) -> None:
    goal = Goal(id="g", description="Help", type="agent", status="cancelled")
    run = timed({"role": "user", "content": "Hi."}, {"content": "Yes.", "goal_id": "g"}, status=status)
    source = returned(Run(run.trace, run.messages, [], GoalTree(goals=[goal])))
    assert (source.trace.status, source.trace.error_message) == (status, None)
    assert (source.trace.completed_at is None) == (status == "running")
    assert source.goals is not None
    assert [(each.description, each.status) for each in source.goals.goals if each.description == "Help"] == [
        ("Help", "cancelled")
    ]


def real_runs(*folders: str) -> Iterator[Run]:
    for folder in folders:
        for path in some_of(folder):
            importer = next((each for each in importers() if each.detect(path)), None)
            for source in importer.read(path, ImportCounts()) if importer is not None else ():
                give_times(source)
                yield Run(source.trace, source.messages, [], source.goals)


def test_every_message_of_real_runs_comes_back_in_order() -> None:
    runs = 0
    for run in real_runs("tau2-bench", "openhands-v1", "swe-agent", "atif", "codex", "claude-code", "who-and-when"):
        source = returned(run)
        expected, found = said(run.messages), said(source.messages)
        assert known(found, expected) == expected, run.trace.trace_id
        assert source.trace.status == run.trace.status
        spends = [
            [(each[1], each[2]) for each in spent(told) if each[1] or each[2]]
            for told in (source.messages, run.messages)
        ]
        assert spends[0] == spends[1]
        runs += 1
    assert runs > tried(10, 300)


def known(found: Any, expected: Any) -> Any:
    """Return what was found, but for the ids of calls that had none."""
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [known(*each) for each in zip(found, expected, strict=True)]
    return None if expected is None and isinstance(found, str) else found


def test_every_real_run_is_read_by_otlps_own_messages() -> None:
    runs = 0
    for run in real_runs("claude-code", "codex", "atif", "tau2-bench", "swe-agent"):
        requested(run)
        runs += 1
    assert runs > tried(10, 100)
