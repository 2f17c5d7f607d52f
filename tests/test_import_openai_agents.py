"""What traces that the OpenAI Agents SDK exports become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_import_otlp import read
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.run import importers
from traceark.models import Json, JsonObject


def record(span_id: str, data: JsonObject, parent: str | None, at: int, **beside: Json) -> JsonObject:
    """Return a span of the SDK, that takes a second."""
    return {
        "object": "trace.span",
        "id": span_id,
        "trace_id": "trace_1",
        "parent_id": parent,
        "started_at": f"2026-01-02T03:04:{at:02}+00:00",
        "ended_at": f"2026-01-02T03:04:{at + 1:02}+00:00",
        "span_data": data,
        "error": None,
        **beside,
    }


WORKFLOW: JsonObject = {"object": "trace", "id": "trace_1", "workflow_name": "Sums", "group_id": "g", "metadata": None}
ASKING: list[Json] = [{"role": "user", "content": "What is 2 + 2?"}]
FUNCTION: JsonObject = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
# As a program shows it that writes down what the SDK itself leaves out.
RESPONSE = (
    "Response(instructions='You add.', model='m-1', output=[ResponseOutputMessage(role='assistant', type='message', "
    "content=[ResponseOutputText(text='Four.', type='output_text')])], usage=ResponseUsage(input_tokens=9, "
    "input_tokens_details=Details(cached_tokens=4), output_tokens=2, total_tokens=11))"
)
GENERATION: JsonObject = {
    "type": "generation",
    "input": ASKING,
    "output": [{"role": "assistant", "content": None, "tool_calls": [FUNCTION]}],
    "model": "m-0",
    "usage": {"input_tokens": 5, "output_tokens": 2},
}
ADD: JsonObject = {"type": "function", "name": "add", "input": '{"a": 2}', "output": "4"}
HANDOFF: JsonObject = {"type": "handoff", "from_agent": "adder", "to_agent": "talker"}
GUARDRAIL: JsonObject = {"type": "guardrail", "name": "polite", "triggered": True}
ADDER: JsonObject = {"type": "agent", "name": "adder", "handoffs": [], "tools": ["add"], "output_type": "str"}
SPANS: list[JsonObject] = [
    record("span_2", GENERATION, "span_1", 1),
    record("span_3", ADD, "span_1", 2),
    record("span_4", {"type": "response", "response_id": "r"}, "span_1", 3, span_data_input=ASKING, response=RESPONSE),
    record("span_5", HANDOFF, "span_1", 4),
    record("span_6", GUARDRAIL, "span_1", 5, error={"message": "rude", "data": {}}),
    record("span_1", ADDER, None, 0),
]
EXPORTS: dict[str, str] = {
    "a line each": "\n".join(map(json.dumps, [WORKFLOW, *SPANS])),
    "as sent": json.dumps({"data": [WORKFLOW, *SPANS]}),
    "a list": json.dumps([WORKFLOW, *SPANS]),
    "traces with spans": json.dumps({"traces": [{**WORKFLOW, "spans": list(SPANS)}], "count": 1}),
    "a trace": json.dumps({**WORKFLOW, "spans": list(SPANS)}, indent=2),
}


@pytest.mark.parametrize("shape", EXPORTS)
def test_what_the_sdk_exports_reads_as_a_conversation(tmp_path: Path, shape: str) -> None:
    sources, counts = read(OpenAIAgents(), tmp_path / "t.json", EXPORTS[shape])
    source = sources["trace_1"]
    assert [(each.message_id, each.role, each.tool_call_id, each.tokens) for each in source.messages] == [
        ("trace_1-span_2-in-1", "user", None, None),
        ("trace_1-span_2-out-1", "assistant", "c1", 7),
        ("trace_1-span_3-tool", "tool", "c1", None),
        ("trace_1-span_4-in-1", "system", None, None),
        ("trace_1-span_4-out-1", "assistant", None, 11),
    ]
    usage = source.messages[-1].usage
    assert usage is not None
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (5, 4, 2)
    trace = source.trace
    assert (trace.agent_type, trace.model, trace.task) == ("adder", "m-1", "What is 2 + 2?")
    assert (trace.result_summary, trace.status) == ("Four.", "completed")
    assert trace.metadata == {"openai_agents": {"workflow_name": "Sums", "group_id": "g"}}
    assert counts.problems == []
    assert [each.name for each in importers() if each.detect(tmp_path / "t.json")] == ["openai-agents"]


@pytest.mark.parametrize("shape", EXPORTS)
def test_traces_and_spans_are_kept_as_they_are(tmp_path: Path, shape: str) -> None:
    sources, _ = read(OpenAIAgents(), tmp_path / "t.json", EXPORTS[shape])
    events = [(each.event_type.removeprefix("openai-agents."), each.payload) for each in sources["trace_1"].events]
    document = [("document", {"count": 1})] if "count" in EXPORTS[shape] else []
    assert events == [*document, ("trace", WORKFLOW), *(("span", each) for each in SPANS)]


def test_what_is_no_trace_of_the_sdk_is_named(tmp_path: Path) -> None:
    halves: list[Json] = [{**SPANS[0], "span_data": None}, {**SPANS[0], "trace_id": None}]
    strange: list[Json] = [WORKFLOW, 5, {"object": "trace"}, {"object": "list"}, *halves]
    sources, counts = read(OpenAIAgents(), tmp_path / "t.json", json.dumps({"data": strange}))
    assert list(sources) == ["trace_1"]
    assert len(counts.problems) == 5
    assert all("not taken" in problem.reason for problem in counts.problems)
