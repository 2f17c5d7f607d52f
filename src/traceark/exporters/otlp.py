"""OpenTelemetry: one OTLP request in JSON per run, its spans named by the conventions for generative AI.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai, version 0.1.0. The run
is a span ``invoke_agent``, each goal a span, each response of the model a span ``chat``, each answer of
a tool a span ``execute_tool``. Ids are made of the trace's own, so that exports of sub-agents meet. A call of a
model tells what it was given since the one before, and each message its place in the run, which an import takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate, count

from traceark.exporters.base import Run
from traceark.exporters.content import Part, json_line
from traceark.exporters.gen_ai import answer_of, calls_of, messages_text, parts_of_turn, provider_of, usage_of
from traceark.exporters.otel import (
    EPOCH,
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


class Otlp:
    """Writes a request; several are JSON Lines, as the collector's file exporter writes them.

    Examples
    --------
    >>> import json
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


@dataclass(frozen=True, slots=True)
class _Input:
    """A message that a model was given, with its place in the run."""

    place: int
    told: JsonObject


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call of a tool that was answered: its id, who made it, and when."""

    call: Part
    call_id: str | None
    turn: Turn
    moment: datetime


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
        moments = list(accumulate(turns, lambda before, turn: _time(turn.messages[-1], before), initial=self._begin))
        asked = _asked(turns, moments[1:])
        inputs: list[_Input] = []
        spans: list[JsonObject] = []
        places = count()
        for at, (turn, before, moment) in enumerate(zip(turns, moments, moments[1:], strict=False)):
            if _is_response(turn):
                spans.append(self._chat(turn, at, next(places), inputs, before, moment))
                inputs = []
            for message, part in turn.results():
                place, call = next(places), asked.get(id(part))
                spans.append(self._tool(message, part, place, call))
                if call is not None and call.turn.role == "assistant":
                    inputs.append(_Input(place, {"role": "tool", "parts": [answer_of(call.call_id, part)]}))
            said = list[Json](parts_of_turn(turn, at))
            if not _is_response(turn) and (said or not turn.results()):
                role = "user" if turn.role == "tool" else turn.role
                inputs.append(_Input(next(places), {"role": role, "parts": said}))
        unanswered = [each for each in inputs if each.told["role"] != "tool"]
        yield self._agent(unanswered if not spans else [])
        yield from map(self._goal, self._goals.values())
        yield from spans
        if unanswered and spans:
            yield self._unanswered(unanswered, moments[-1])

    def _agent(self, inputs: Sequence[_Input]) -> JsonObject:
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

    def _of_agent(self, inputs: Sequence[_Input]) -> dict[str, Value]:
        trace = self._run.trace
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": provider_of(trace.model),
            "gen_ai.agent.name": trace.agent_type,
            "gen_ai.conversation.id": trace.trace_id,
            "gen_ai.request.model": trace.model,
            **_given(inputs),
        }

    def _unanswered(self, inputs: Sequence[_Input], at: datetime) -> JsonObject:
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
        self, turn: Turn, at: int, place: int, inputs: Sequence[_Input], before: datetime, moment: datetime
    ) -> JsonObject:
        first, last = turn.messages[0], turn.messages[-1]
        called = any(part.kind == "call" for part in turn.parts)
        stop = "tool_call" if called else "stop"
        output: JsonObject = {"role": "assistant", "parts": list[Json](parts_of_turn(turn, at)), "finish_reason": stop}
        model = model_of(turn) or self._run.trace.model
        told: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider_of(model),
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.conversation.id": self._trace_id,
            "gen_ai.response.finish_reasons": [stop],
            **_given(inputs),
            "gen_ai.output.messages": messages_text([output]),
            **usage_of(turn.messages),
            **_of_messages(turn.messages, place),
        }
        span_id = span_id_of(self._trace_id, "message", f"{at} {first.message_id}")
        begin = _begin(turn.messages, before, moment)
        span = self._span(span_id, self._goal_span(last.goal_id), _named("chat", model), begin, moment, told, _CLIENT)
        if last.status == "failed":
            fail(span, last.error)
        return span

    def _tool(self, message: Message, part: Part, place: int, asked: _Asked | None) -> JsonObject:
        call = asked.call if asked is not None else None
        call_id = asked.call_id if asked is not None else part.call_id
        before = asked.moment if asked is not None else _time(message, self._begin)
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
            **_of_messages([message], place),
        }
        if message.counted_tokens() or message.cost:
            self._left_out["tokens and costs of messages that no model wrote"] += 1
        span_id = span_id_of(self._trace_id, "result", f"{place} {message.message_id}")
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


def _is_response(turn: Turn) -> bool:
    """Say whether a turn is a response of the run's own model, not one that was copied from another run."""
    return turn.role == "assistant" and not any(map(is_copied, turn.messages))


def _asked(turns: Sequence[Turn], moments: Sequence[datetime]) -> dict[int, _Asked]:
    """Return the call that each answer answers, by the identity of the answer's part."""
    answers, found = Answers(turns), {}
    for at, turn in enumerate(turns):
        for call, call_id in calls_of(turn, at):
            if (answer := answers.take(call, at)) is not None:
                found[id(answer[1])] = _Asked(call, call_id, turn, moments[at])
    return found


def _given(inputs: Sequence[_Input]) -> dict[str, Value]:
    """Return attributes of what a model or an agent was given."""
    return {
        "gen_ai.input.messages": messages_text([each.told for each in inputs]) if inputs else None,
        "traceark.input.places": [each.place for each in inputs],
    }


def _of_messages(messages: Sequence[Message], place: int) -> dict[str, Value]:
    """Return attributes that the conventions have no names for, of the messages that a span is."""
    status = messages[-1].status
    return {
        "traceark.message_id": [str(message.message_id) for message in messages if message.message_id],
        "traceark.place": place,
        "traceark.message.status": status if status != "failed" else None,
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
