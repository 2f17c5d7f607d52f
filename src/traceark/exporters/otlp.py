"""OpenTelemetry: one OTLP request in JSON per run, its spans named by the conventions for generative AI.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai, version 0.1.0. The run
is a span ``invoke_agent``, each goal a span, each response of the model a span ``chat``, each answer of
a tool a span ``execute_tool``. Ids are made of the trace's own, so that exports of sub-agents meet.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from traceark.exporters.base import Run
from traceark.exporters.content import Part, json_line
from traceark.exporters.otel import (
    EPOCH,
    SURROGATE,
    Value,
    attributes_of,
    fail,
    link,
    nanoseconds,
    sound,
    span_id_of,
    trace_id_of,
)
from traceark.exporters.turns import Answers, Turn, is_copied, model_of, turns_of
from traceark.models import Goal, Json, JsonObject, Message

_INTERNAL, _CLIENT = 1, 3
# Who makes a model whose name begins so, in the conventions' words.
_PROVIDERS = (
    ("claude", "anthropic"),
    ("gpt", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("grok", "x_ai"),
    ("deepseek", "deepseek"),
    ("command", "cohere"),
)
# Who serves a model whose name begins with a route to it, whoever made it.
_ROUTES = (
    ("bedrock/", "aws.bedrock"),
    ("azure/", "azure.ai.openai"),
    ("vertex_ai/", "gcp.vertex_ai"),
    ("groq/", "groq"),
)
# Such as us.anthropic.claude-sonnet-4-20250514-v1:0.
_OF_BEDROCK = re.compile(r"([a-z]+\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|openai)\.")


class Otlp:
    """Writes a request; several are JSON Lines, as the collector's file exporter writes them.

    Examples
    --------
    >>> from traceark.models import Trace
    >>> messages = [Message(trace_id="run-7", role="assistant", content="hi")]
    >>> told = Run(Trace(trace_id="run-7", agent_type="guide"), messages)
    >>> request = json.loads(b"".join(Otlp().export(told, Counter())))
    >>> [span["name"] for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    ['invoke_agent guide', 'chat']
    """

    name = "otlp"
    suffix = ".otlp.jsonl"
    joins = True

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the request as one line."""
        left_out["events"] += len(run.events)
        scope: JsonObject = {"scope": {"name": "traceark"}, "spans": list[Json](_Spans(run, left_out).all())}
        resource: JsonObject = {"attributes": attributes_of({"service.name": run.trace.agent_type or "traceark"})}
        yield json_line({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})


class _Spans:
    """The spans of one run."""

    def __init__(self, run: Run, left_out: Counter[str]) -> None:
        self._run = run
        self._trace_id = run.trace.trace_id
        self._left_out = left_out
        self._root = span_id_of(self._trace_id, "trace", "")
        self._goals = {goal.id: goal for goal in (run.goals.goals if run.goals is not None else ())}
        times = [message.created_at for message in run.messages if message.created_at is not None]
        self._begin = run.trace.created_at or min(times, default=EPOCH)
        self._end = max([run.trace.completed_at or self._begin, *times, self._begin])

    def all(self) -> Iterator[JsonObject]:
        """Yield all spans, those of the run and of goals first."""
        turns = turns_of(self._run.messages)
        answers = Answers(turns)
        inputs: list[JsonObject] = []
        calls: list[JsonObject] = []
        before = self._begin
        for at, turn in enumerate(turns):
            moment = _time(turn.messages[-1], before)
            if turn.role == "assistant" and not any(map(is_copied, turn.messages)):
                calls.append(self._chat(turn, at, inputs, before, moment))
                inputs = []
                for number, call in enumerate(part for part in turn.parts if part.kind == "call"):
                    call_id = call.call_id or f"call_{at}_{number}"
                    answer = answers.take(call, at)
                    if answer is None:
                        continue
                    calls.append(self._tool(*answer, call_id, moment, call))
                    inputs.append({"role": "tool", "parts": [_answer(call_id, answer[1])]})
            elif turn.role != "tool" or turn.texts():
                inputs.append({"role": "user" if turn.role == "tool" else turn.role, "parts": list[Json](_parts(turn))})
            before = moment
        for _, message, part in answers.left():
            calls.append(self._tool(message, part, part.call_id, _time(message, self._begin), None))
        unanswered = [each for each in inputs if each["role"] != "tool"]
        yield self._agent(unanswered if not calls else [])
        yield from map(self._goal, self._goals.values())
        yield from calls
        if unanswered and calls:
            yield self._unanswered(unanswered, before)

    def _agent(self, inputs: Sequence[JsonObject]) -> JsonObject:
        trace = self._run.trace
        told = self._of_agent(inputs) | {
            "traceark.trace_id": trace.trace_id,
            "traceark.mode": trace.mode,
            "traceark.status": trace.status,
            "traceark.task": trace.task,
        }
        span = self._span(self._root, None, _named("invoke_agent", trace.agent_type), self._begin, self._end, told)
        if trace.status == "failed":
            fail(span, trace.error_message)
        if trace.parent_trace_id is not None:
            goal_id = trace.parent_goal_id
            kind = ("goal", goal_id) if goal_id is not None else ("trace", "")
            span["links"] = [link(trace.parent_trace_id, *kind)]
        return span

    def _of_agent(self, inputs: Sequence[JsonObject]) -> dict[str, Value]:
        trace = self._run.trace
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": _provider(trace.model),
            "gen_ai.agent.name": trace.agent_type,
            "gen_ai.conversation.id": trace.trace_id,
            "gen_ai.request.model": trace.model,
            "gen_ai.input.messages": _json(inputs) if inputs else None,
        }

    def _unanswered(self, inputs: Sequence[JsonObject], at: datetime) -> JsonObject:
        """Return a span of what the agent was told last, and no model answered."""
        span_id = span_id_of(self._trace_id, "unanswered", "")
        name = _named("invoke_agent", self._run.trace.agent_type)
        return self._span(span_id, self._root, name, at, at, self._of_agent(inputs))

    def _goal(self, goal: Goal) -> JsonObject:
        parent = goal.parent_id if goal.parent_id in self._goals else None
        times = [
            message.created_at
            for message in self._run.messages
            if message.goal_id == goal.id and message.created_at is not None
        ]
        begin = goal.created_at or min(times, default=self._begin)
        is_agent = goal.type == "agent" or bool(goal.sub_trace_ids)
        told: dict[str, Value] = {
            "gen_ai.operation.name": "invoke_agent" if is_agent else None,
            "gen_ai.agent.name": (goal.description or goal.id) if is_agent else None,
            "gen_ai.conversation.id": self._trace_id,
            "traceark.goal.id": goal.id,
            "traceark.goal.status": goal.status,
            "traceark.goal.description": goal.description,
            "traceark.goal.reason": goal.reason,
            "traceark.goal.summary": goal.summary,
        }
        name = _named("invoke_agent" if is_agent else "goal", goal.description or goal.id)
        end = goal.completed_at or max(times, default=begin)
        span = self._span(self._goal_span(goal.id), self._goal_span(parent), name, begin, end, told)
        if goal.status == "failed":
            fail(span, goal.summary)
        if goal.sub_trace_ids:
            span["links"] = [link(child_id, "trace", "") for child_id in goal.sub_trace_ids]
        return span

    def _goal_span(self, goal_id: str | None) -> str:
        """Return the span of a goal, or that of the run."""
        known = goal_id is not None and goal_id in self._goals
        return span_id_of(self._trace_id, "goal", goal_id) if known and goal_id is not None else self._root

    def _chat(
        self, turn: Turn, at: int, inputs: Sequence[JsonObject], before: datetime, moment: datetime
    ) -> JsonObject:
        first, last = turn.messages[0], turn.messages[-1]
        called = any(part.kind == "call" for part in turn.parts)
        stop = "tool_call" if called else "stop"
        output: JsonObject = {"role": "assistant", "parts": list[Json](_parts(turn, at)), "finish_reason": stop}
        model = model_of(turn) or self._run.trace.model
        told: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider(model),
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.conversation.id": self._trace_id,
            "gen_ai.response.finish_reasons": [stop],
            "gen_ai.input.messages": _json(inputs) if inputs else None,
            "gen_ai.output.messages": _json([output]),
            **_usage(turn.messages),
            "traceark.message_id": [str(message.message_id) for message in turn.messages if message.message_id],
        }
        span_id = span_id_of(self._trace_id, "message", f"{at} {first.message_id}")
        begin = _begin(turn.messages, before, moment)
        span = self._span(span_id, self._goal_span(last.goal_id), _named("chat", model), begin, moment, told, _CLIENT)
        if last.status == "failed":
            fail(span, last.error)
        return span

    def _tool(
        self, message: Message, part: Part, call_id: str | None, before: datetime, call: Part | None
    ) -> JsonObject:
        moment = _time(message, before)
        tool = part.name or (call.name if call is not None else None)
        told: dict[str, Value] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool or "unknown",
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call_id,
            "gen_ai.tool.call.arguments": call.text if call is not None else None,
            "gen_ai.tool.call.result": part.text,
            "gen_ai.conversation.id": self._trace_id,
            "traceark.message_id": [str(message.message_id)] if message.message_id else None,
        }
        if message.counted_tokens() or message.cost:
            self._left_out["tokens and costs of messages that no model wrote"] += 1
        span_id = span_id_of(self._trace_id, "result", f"{message.message_id} {call_id} {before.isoformat()}")
        begin = _begin([message], before, moment)
        name = _named("execute_tool", tool)
        span = self._span(span_id, self._goal_span(message.goal_id), name, begin, moment, told)
        if part.failed:
            fail(span, message.error)
        return span

    def _span(
        self,
        span_id: str,
        parent: str | None,
        name: str,
        begin: datetime,
        end: datetime,
        attributes: Mapping[str, Value],
        kind: int = _INTERNAL,
    ) -> JsonObject:
        span: JsonObject = {"traceId": trace_id_of(self._trace_id), "spanId": span_id}
        if parent is not None:
            span["parentSpanId"] = parent
        return {
            **span,
            "name": sound(name),
            "kind": kind,
            "startTimeUnixNano": nanoseconds(min(begin, end)),
            "endTimeUnixNano": nanoseconds(end),
            "attributes": attributes_of(attributes),
            "status": {},
        }


def _named(operation: str, what: str | None) -> str:
    return f"{operation} {what}" if what else operation


def _time(message: Message, before: datetime) -> datetime:
    return message.created_at or before


def _begin(messages: Sequence[Message], before: datetime, moment: datetime) -> datetime:
    """Return when something began: as long before its end as it took, else when what came before it ended."""
    took = sum(message.duration_ms or 0 for message in messages)
    if not took:
        return min(before, moment)
    try:
        return moment - timedelta(milliseconds=took)
    except OverflowError:
        return min(before, moment)


def _provider(model: str | None) -> str | None:
    told = (model or "").lower()
    name = told.rpartition("/")[2]
    if _OF_BEDROCK.match(name):
        return "aws.bedrock"
    served = next((provider for route, provider in _ROUTES if told.startswith(route)), None)
    return served or next((provider for prefix, provider in _PROVIDERS if name.startswith(prefix)), None)


def _usage(messages: Sequence[Message]) -> dict[str, Value]:
    """Return tokens as the conventions count them: what is read from or written to a cache is input too."""
    spent = [message for message in messages if message.counted_tokens() or message.cost]
    if not spent:
        return {}
    kinds: Counter[str] = Counter()
    for message in spent:
        usage = message.usage
        total = usage.total() if usage is not None else 0
        if usage is not None and total <= message.counted_tokens():
            kinds.update({name: getattr(usage, name) or 0 for name in type(usage).model_fields})
            kinds["input_tokens"] += message.counted_tokens() - total
        else:
            kinds["input_tokens"] += message.counted_tokens()
    costs = [message.cost for message in spent if message.cost is not None]
    cached = kinds["cache_read_tokens"] + kinds["cache_write_tokens"]
    return {
        "gen_ai.usage.input_tokens": kinds["input_tokens"] + cached,
        "gen_ai.usage.output_tokens": kinds["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": kinds["cache_read_tokens"] or None,
        "gen_ai.usage.cache_creation.input_tokens": kinds["cache_write_tokens"] or None,
        "gen_ai.usage.reasoning.output_tokens": kinds["reasoning_tokens"] or None,
        # The conventions have no word for it.
        "operation.cost": sum(costs) if costs else None,
    }


def _parts(turn: Turn, at: int | None = None) -> Iterator[JsonObject]:
    """Yield what a turn says as parts, but for answers of tools."""
    calls = 0
    for part in turn.parts:
        if part.kind == "call":
            call_id = part.call_id or (f"call_{at}_{calls}" if at is not None else None)
            calls += 1
            yield {"type": "tool_call", "id": call_id, "name": part.name, "arguments": part.arguments}
        elif part.kind == "thinking":
            if part.text:
                yield {"type": "reasoning", "content": part.text}
        elif part.kind != "result":
            yield {"type": "text", "content": part.text}


def _answer(call_id: str, part: Part) -> JsonObject:
    return {"type": "tool_call_response", "id": call_id, "response": part.text}


def _json(value: Sequence[JsonObject]) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not SURROGATE.search(text) else json.dumps(value)
