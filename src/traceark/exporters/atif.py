"""ATIF, Harbor's Agent Trajectory Interchange Format: one JSON document per run, version 1.7.

That is the first version that can tell all that is told here; later ones take it as it is. The rules
are those of https://www.harborframework.com/docs/trajectory-format and of Harbor's own models.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from traceark.exporters.base import Run
from traceark.exporters.content import Part, tools_of
from traceark.exporters.turns import Answers, Role, Turn, is_copied, model_of, turns_of
from traceark.layout import trace_key
from traceark.models import Event, Json, JsonObject, Message, Usage

VERSION = "ATIF-v1.7"
_SOURCES: dict[Role, str] = {"system": "system", "user": "user", "assistant": "agent", "tool": "system"}
_UNKNOWN = "unknown"
_SURROGATE = re.compile("[\ud800-\udfff]")
_HEADER = ("task", "agent_type", "uid", "parent_trace_id", "parent_goal_id", "result_summary", "error_message")
# What an agent may have beside its name and version, and its type.
_AGENT = {"model_name": str, "tool_definitions": list, "extra": dict}


class Atif:
    """Writes a trajectory.

    Examples
    --------
    >>> from traceark import Trace
    >>> told = Run(Trace(trace_id="t"), [Message(trace_id="t", role="user", content="hi")])
    >>> document = json.loads(b"".join(Atif().export(told, Counter())))
    >>> document["schema_version"], document["steps"]
    ('ATIF-v1.7', [{'step_id': 1, 'source': 'user', 'message': 'hi'}])
    """

    name = "atif"
    suffix = ".atif.json"
    joins = False

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the document."""
        document = _document(run, left_out)
        text = json.dumps(document, ensure_ascii=False, indent=1)
        if not text.isascii() and _SURROGATE.search(text):
            left_out["lone surrogates, replaced"] += len(_SURROGATE.findall(text))
            text = _SURROGATE.sub("\ufffd", text)
        yield text.encode() + b"\n"


def _document(run: Run, left_out: Counter[str]) -> JsonObject:
    trace = run.trace
    agent = _agent(run)
    steps = _Steps(run, agent.get("model_name"), left_out)
    left_out["events"] += len(run.events)
    document: JsonObject = {
        "schema_version": VERSION,
        "session_id": trace.trace_id,
        "trajectory_id": trace.trace_id,
        "agent": agent,
        "steps": list[Json](steps.steps) or [{"step_id": 1, "source": "system", "message": ""}],
    }
    document["final_metrics"] = {
        **_told(steps.usage, steps.cost, final=True),
        "total_steps": max(len(steps.steps), 1),
        "extra": {"total_tokens": trace.total_tokens, "total_duration_ms": trace.total_duration_ms},
    }
    # Under a name of its own, an import knows it from what others put there.
    document["extra"] = {"traceark": _about(run)}
    return document


def _agent(run: Run) -> JsonObject:
    """Return the agent as an import of ATIF kept it, else what is known of it."""
    agent: JsonObject = {"name": run.trace.agent_type or _UNKNOWN, "version": _UNKNOWN}
    if run.trace.model is not None:
        agent["model_name"] = run.trace.model
    kept: JsonObject = next((event.payload for event in run.events if _is_agent(event)), {})
    agent |= {name: value for name, value in kept.items() if name in ("name", "version")}
    agent |= {name: kept[name] for name, kind in _AGENT.items() if isinstance(kept.get(name), kind)}
    tools = tools_of(run.events)
    if tools:
        agent["tool_definitions"] = tools
    else:
        agent.pop("tool_definitions", None)
    return agent


def _is_agent(event: Event) -> bool:
    told = event.payload
    return (
        event.event_type == "atif.agent"
        and isinstance(told, dict)
        and all(isinstance(told.get(name), str) for name in ("name", "version"))
    )


def _about(run: Run) -> JsonObject:
    """Return what of the header and the goals has no place of its own."""
    trace = run.trace
    # What is null is told too, or an import would take it from the steps.
    told: JsonObject = {"status": trace.status, "mode": trace.mode, **{name: getattr(trace, name) for name in _HEADER}}
    if run.goals is not None and run.goals.goals:
        told["goals"] = [json.loads(goal.model_dump_json(exclude_none=True)) for goal in run.goals.goals]
    return told


class _Steps:
    """The steps of a run, and what the model's ones used; a step names its model where it is not the agent's."""

    def __init__(self, run: Run, model: Json, left_out: Counter[str]) -> None:
        self.steps: list[JsonObject] = []
        self.usage = Usage(input_tokens=0, output_tokens=0, cache_read_tokens=0)
        self.cost: Decimal | None = None
        self._model = model
        self._left_out = left_out
        goals = run.goals.goals if run.goals is not None else []
        self._children = {goal.id: goal.sub_trace_ids for goal in goals if goal.sub_trace_ids}
        turns = turns_of(run.messages)
        answers = Answers(turns)
        places: dict[int, JsonObject] = {}
        for at, turn in enumerate(turns):
            step = self._step(turn, at, answers)
            if step is not None:
                places[at] = step
                self.steps.append(step)
        self._take_strays(turns, answers, places)
        for number, step in enumerate(self.steps, start=1):
            step["step_id"] = number

    def _step(self, turn: Turn, at: int, answers: Answers) -> JsonObject | None:
        texts = [part.text for part in turn.parts if part.kind in ("text", "other", "attachment")]
        if turn.role == "tool" and not any(texts):
            return None
        self._left_out["attachments, but for a description"] += sum(part.kind == "attachment" for part in turn.parts)
        first = turn.messages[0]
        step: JsonObject = {"step_id": 0}
        if first.created_at is not None:
            step["timestamp"] = first.created_at.isoformat().replace("+00:00", "Z")
        # What stands beside an answer of a tool is told by the user's side.
        step["source"] = "user" if turn.role == "tool" else _SOURCES[turn.role]
        step["message"] = (
            list[Json]([{"type": "text", "text": text} for text in texts]) if len(texts) > 1 else "".join(texts)
        )
        if turn.role == "assistant":
            self._add_agent(step, turn, at, answers)
        elif turn.role != "tool":
            self._left_out["calls that are not the model's"] += sum(part.kind == "call" for part in turn.parts)
            self._left_out["tokens and costs of messages that no model wrote"] += sum(map(_spends, turn.messages))
        if any(map(is_copied, turn.messages)):
            step["is_copied_context"] = True
        extra: JsonObject = {}
        if first.role not in ("user", "assistant", "system"):
            extra["role"] = first.role
        if first.goal_id is not None:
            extra["goal_id"] = first.goal_id
        if extra:
            step["extra"] = extra
        return step

    def _add_agent(self, step: JsonObject, turn: Turn, at: int, answers: Answers) -> None:
        model = model_of(turn)
        if model is not None and model != self._model:
            step["model_name"] = model
        thoughts = [part.text for part in turn.parts if part.kind == "thinking" and part.text]
        if thoughts:
            step["reasoning_content"] = "\n\n".join(thoughts)
        calls: list[Json] = []
        results: list[Json] = []
        for number, call in enumerate(part for part in turn.parts if part.kind == "call"):
            call_id = call.call_id or f"call-{at + 1}-{number + 1}"
            told: JsonObject = {"tool_call_id": call_id, "function_name": call.name or _UNKNOWN}
            calls.append({**told, "arguments": _arguments(call)})
            answer = answers.take(call, at)
            if answer is not None:
                results.append(self._result(*answer, call_id))
        if calls:
            step["tool_calls"] = calls
        if results:
            step["observation"] = {"results": results}
        metrics = self._metrics(turn.messages, counts=not any(map(is_copied, turn.messages)))
        if metrics:
            step["metrics"] = metrics

    def _result(self, message: Message, part: Part, call_id: str | None) -> JsonObject:
        result: JsonObject = {"content": part.text}
        if call_id is not None:
            result["source_call_id"] = call_id
        children = self._children.pop(call_id or "", None) or self._children.pop(message.goal_id or "", None)
        if children:
            result["subagent_trajectory_ref"] = [
                {"trajectory_id": child, "trajectory_path": f"{trace_key(child)}{Atif.suffix}"} for child in children
            ]
        extra: JsonObject = {}
        if call_id is None and part.call_id is not None:
            extra["tool_call_id"] = part.call_id
        if part.failed:
            extra["status"] = "failed"
        if message.duration_ms is not None:
            extra["duration_ms"] = message.duration_ms
        if extra:
            result["extra"] = extra
        self._left_out["tokens and costs of messages that no model wrote"] += _spends(message)
        return result

    def _take_strays(self, turns: Sequence[Turn], answers: Answers, places: dict[int, JsonObject]) -> None:
        """Put answers that belong to no call where they stand: to the step before them."""
        for at, message, part in answers.left():
            self._left_out["answers without a call, in the step before them"] += 1
            before = next((places[place] for place in range(at, -1, -1) if place in places), None)
            if before is None:
                before = places[0] = {"step_id": 0, "source": "system", "message": ""}
                self.steps.insert(0, before)
            observation = before.setdefault("observation", {"results": []})
            assert isinstance(observation, dict) and isinstance(observation["results"], list)
            observation["results"].append(self._result(message, part, None))

    def _metrics(self, messages: Sequence[Message], *, counts: bool) -> JsonObject:
        spent = [message for message in messages if _spends(message)]
        usage = _sum([_usage(message) for message in spent])
        costs = [Decimal(repr(message.cost)) for message in spent if message.cost is not None]
        cost = sum(costs, Decimal(0)) if costs else None
        if counts:
            self.usage = _sum([self.usage, usage])
            self.cost = cost if self.cost is None else self.cost + (cost or 0)
        metrics = _told(usage, cost, final=False) if spent else {}
        extra: JsonObject = {
            name: value for name in ("cache_write_tokens", "reasoning_tokens") if (value := getattr(usage, name))
        }
        if any(message.duration_ms is not None for message in messages):
            extra["latency_ms"] = sum(message.duration_ms or 0 for message in messages)
        if extra:
            metrics["extra"] = extra
        return metrics


def _arguments(call: Part) -> JsonObject:
    told = call.arguments
    return told if isinstance(told, dict) else {} if told is None else {"input": told}


def _spends(message: Message) -> bool:
    return bool(message.counted_tokens() or message.cost)


def _usage(message: Message) -> Usage:
    """Return what a message used; tokens that are more than their kinds, or of none, count as the prompt's."""
    usage = message.usage.model_copy() if message.usage is not None else Usage()
    prompt = (usage.input_tokens or 0) + message.counted_tokens() - usage.total()
    if prompt < 0:
        return Usage(input_tokens=message.counted_tokens())
    usage.input_tokens = prompt
    return usage


def _sum(usages: Sequence[Usage]) -> Usage:
    names = Usage.model_fields
    return Usage(**{name: sum(getattr(usage, name) or 0 for usage in usages) for name in names})


def _told(usage: Usage, cost: Decimal | None, *, final: bool) -> JsonObject:
    """Return tokens and cost as metrics name them; what is read from or written to a cache is the prompt's too."""
    cached = usage.cache_read_tokens or 0
    prompt = (usage.input_tokens or 0) + cached + (usage.cache_write_tokens or 0)
    values = {"prompt_tokens": prompt, "completion_tokens": usage.output_tokens or 0, "cached_tokens": cached}
    told: JsonObject = {f"total_{name}" if final else name: value for name, value in values.items()}
    if cost is not None:
        told["total_cost_usd" if final else "cost_usd"] = float(cost)
    return told
