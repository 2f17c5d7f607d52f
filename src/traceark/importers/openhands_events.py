"""What the events of OpenHands' SDK become (``openhands.sdk.event``), one file or row each.

Prompts, messages, actions and what answers them are messages; every other kind is a raw event.
"""

from __future__ import annotations

from traceark.importers.document import objects_of, with_calls, without
from traceark.importers.openhands_trace import AGENT_TOOLS, TASK_TOOL, RunTrace, text_of
from traceark.models import Json, JsonObject

_ANSWERS = frozenset({"ObservationEvent", "UserRejectObservation", "AgentErrorEvent"})
_PROMPTS = frozenset({"SystemPromptEvent", "SystemPromptUpdateEvent"})


def add_event(run: RunTrace, number: int, event: JsonObject) -> None:
    """Take an event of the SDK."""
    kind = run.typed.text(event.get("kind")) or "unknown"
    run.add(kind, event, lambda: _take(run, number, event, kind))


def _take(run: RunTrace, number: int, event: JsonObject, kind: str) -> bool:
    if kind in _PROMPTS:
        _add_prompt(run, number, event)
    elif kind == "MessageEvent":
        _add_message(run, number, event)
    elif kind == "ActionEvent":
        _add_action(run, number, event)
    elif kind in _ANSWERS:
        _add_answer(run, number, event, kind)
    else:
        _see(run, event, kind)
        return False
    return True


def _add_prompt(run: RunTrace, number: int, event: JsonObject) -> None:
    blocks = [event[name] for name in ("system_prompt", "dynamic_context") if event.get(name) is not None]
    run.say(number, event, "system", blocks, without(event, "system_prompt", "dynamic_context"))


def _add_message(run: RunTrace, number: int, event: JsonObject) -> None:
    told = event.get("llm_message")
    inner: JsonObject = told if isinstance(told, dict) else {}
    by_user = event.get("source") == "user"
    role = run.typed.text(inner.get("role")) or ("user" if by_user else "assistant")
    thoughts, taken = _thoughts(inner)
    content = inner.get("content")
    if thoughts and (content is None or isinstance(content, list | str)):
        content = [*thoughts, *with_calls(content, [])]
    else:
        taken = []
    rest = without(inner, "content", *taken, *(["role"] if role == inner.get("role") else []))
    kept = without(event, "llm_message")
    if rest or not isinstance(told, dict):
        kept["llm_message"] = rest if isinstance(told, dict) else told
    message = run.say(number, event, role, content, kept)
    text = text_of(inner.get("content"))
    trace = run.building.trace
    run.error = None
    if role == "user":
        trace.task = trace.task or run.typed.summary(text)
    elif role == "assistant":
        run.spending.wrote(message, run.typed.identifier(event.get("llm_response_id")))
        trace.result_summary = run.typed.summary(text, 500) or trace.result_summary


def _add_action(run: RunTrace, number: int, event: JsonObject) -> None:
    thoughts, taken = _thoughts(event)
    text, call = event.get("thought"), _block(event.get("tool_call"))
    said = isinstance(text, list | str)
    content = [*thoughts, *with_calls(text if said else None, [call] if call is not None else [])]
    taken += [*(["thought"] if said else []), *(["tool_call"] if call is not None else [])]
    message = run.say(number, event, "assistant", content, without(event, *taken))
    call_id, name = run.typed.identifier(event.get("tool_call_id")), run.typed.text(event.get("tool_name"))
    run.building.calls(message, [{"id": event.get("tool_call_id"), "name": event.get("tool_name")}])
    run.spending.wrote(message, run.typed.identifier(event.get("llm_response_id")))
    action = event.get("action")
    run.error = None
    if name == TASK_TOOL and call_id is not None:
        run.plan(call_id, action)
    elif name in AGENT_TOOLS and call_id is not None:
        run.delegate(message, call_id, action)
    elif name == "finish" and isinstance(action, dict):
        trace = run.building.trace
        trace.result_summary = run.typed.summary(action.get("message"), 500) or trace.result_summary


def _add_answer(run: RunTrace, number: int, event: JsonObject, kind: str) -> None:
    name = {"UserRejectObservation": "rejection_reason", "AgentErrorEvent": "error"}.get(kind, "observation")
    content, kept = event.get(name), without(event, name)
    failed = kind != "ObservationEvent"
    if isinstance(content, dict) and "content" in content:
        failed = failed or content.get("is_error") is True
        kept[name], content = without(content, "content"), content["content"]
    message = run.say(number, event, "tool", content, kept)
    run.building.answers(message, event.get("tool_call_id"), event.get("tool_name"))
    observation = event.get("observation")
    if failed:
        message.status, message.error = "failed", run.typed.summary(text_of(content))
    elif message.tool_name == TASK_TOOL and message.tool_call_id is not None:
        run.planned(message.tool_call_id)
    if message.tool_name in AGENT_TOOLS and message.tool_call_id is not None:
        run.delegated(message, message.tool_call_id, observation if isinstance(observation, dict) else {})


def _see(run: RunTrace, event: JsonObject, kind: str) -> None:
    """Look at an event that is no message for what it says of the run."""
    if kind == "ConversationErrorEvent":
        run.error = run.typed.summary(event.get("detail"), 1000) or run.typed.text(event.get("code"))
    elif kind == "ConversationStateUpdateEvent":
        key, value = event.get("key"), event.get("value")
        told: JsonObject = value if isinstance(value, dict) and key == "full_state" else {str(key): value}
        run.status = run.typed.text(told.get("execution_status", told.get("agent_status"))) or run.status
        stats = told.get("stats")
        metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
        run.statistics = metrics if isinstance(metrics, dict) else run.statistics


def _thoughts(told: JsonObject) -> tuple[list[Json], list[str]]:
    """Return what the model thought as blocks, and which field says that."""
    blocks, text = objects_of(told.get("thinking_blocks")), told.get("reasoning_content")
    if blocks:
        return [*blocks], ["thinking_blocks"]
    if isinstance(text, str) and text:
        return [{"type": "thinking", "thinking": text}], ["reasoning_content"]
    return [], []


def _block(call: Json) -> Json:
    """Return a call as a block; None where the names of its fields do not allow that."""
    return {"type": "tool_call", **call} if isinstance(call, dict) and "type" not in call else None
