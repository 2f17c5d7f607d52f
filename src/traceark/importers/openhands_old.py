"""What the events of older versions of OpenHands become (``openhands.events``, before the SDK).

An action of the agent or the user is a message, and so is the observation that answers it; what the
system tells itself (a change of its state, something recalled or condensed) is a raw event. A
message's call is that of the model's response where the event carries it, else the action itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from traceark.importers.document import objects_of, with_calls, without
from traceark.importers.openhands_trace import TASK_TOOL, RunTrace
from traceark.models import Json, JsonObject

# Actions that no model and no user took.
_OWN = frozenset(
    {"null", "change_agent_state", "recall", "condensation", "condensation_request", "loop_recovery", "streaming_chunk"}
)
_SEEN = frozenset({"null", "agent_state_changed", "recall", "condense", "loop_detection"})
_ENDS = frozenset({"finished", "error", "rejected", "stopped"})


class OldEvents:
    """Takes the events of a run of an older version.

    Parameters
    ----------
    run : RunTrace
    """

    def __init__(self, run: RunTrace) -> None:
        self._run = run
        # Of actions, by the event's id: the id and the tool of its call.
        self._calls: dict[str, tuple[str | None, str]] = {}

    def add_event(self, number: int, event: JsonObject) -> None:
        """Take an event."""
        side = "action" if "action" in event else "observation"
        name = self._run.typed.text(event.get(side)) or "unknown"
        self._run.add(f"{side}.{name}", event, lambda: self._take(number, event, side, name))

    def _take(self, number: int, event: JsonObject, side: str, name: str) -> bool:
        run = self._run
        if side == "action":
            if name in _OWN or (event.get("source") == "environment" and name != "message"):
                return False
            self._add_action(number, event, name)
            return True
        if name == "agent_state_changed":
            extras = event.get("extras")
            told = run.typed.text(extras.get("agent_state")) if isinstance(extras, dict) else None
            run.status = told.lower() if told is not None and told.lower() in _ENDS else "finished"
            reason = extras.get("reason") if isinstance(extras, dict) else None
            run.error = run.typed.summary(reason, 1000) if run.status != "finished" else None
        if name in _SEEN or not (_metadata(event) or str(event.get("cause")) in self._calls):
            return False
        self._add_observation(number, event, name)
        return True

    def _add_action(self, number: int, event: JsonObject, name: str) -> None:
        run, typed = self._run, self._run.typed
        told, by_user = event.get("args"), event.get("source") == "user"
        args: JsonObject = told if isinstance(told, dict) else {}
        role = "user" if by_user else "system" if name == "system" else "assistant"
        response, call_id = _response(event), typed.identifier(_metadata(event).get("tool_call_id"))
        kept, content, tool = dict(event), args.get("content"), None
        if name in ("message", "system"):
            left = without(args, "content")
        else:
            call = _call(response, call_id)
            text = args.get("thought")
            said = isinstance(text, str) and bool(text)
            left = without(args, *(["thought"] if said else []))
            if call is None:
                call, left = {"type": "tool_call", "name": name, "arguments": left}, {}
            content = with_calls(text if said else None, [call])
            tool = typed.text(_metadata(event).get("function_name")) or name
        if isinstance(told, dict):
            kept = {**without(event, "args"), **({"args": left} if left else {})}
        message = run.say(number, event, role, content, kept)
        if tool is not None:
            run.building.calls(message, [{"id": call_id, "name": tool}])
            self._calls[str(event.get("id"))] = (call_id, tool)
            if tool == TASK_TOOL or name == "task_tracking":
                run.plan(str(event.get("id")), args)
        self._see(event, name, role, args)
        if role == "assistant":
            response_id = response.get("id")
            run.spending.wrote(message, typed.identifier(response_id))
            run.spending.replied(response.get("usage"))
            run.spending.grew(event.get("llm_metrics"))
            run.building.model(response.get("model"))

    def _see(self, event: JsonObject, name: str, role: str, args: Mapping[str, Json]) -> None:
        """Look at an action for what it says of the run."""
        trace, typed = self._run.building.trace, self._run.typed
        if role == "user" and name == "message":
            trace.task = trace.task or typed.summary(args.get("content"))
        elif role == "assistant":
            said = args.get("content") if name == "message" else None
            if name == "finish":
                said = args.get("final_thought") or args.get("thought") or event.get("message")
            trace.result_summary = typed.summary(said, 500) or trace.result_summary

    def _add_observation(self, number: int, event: JsonObject, name: str) -> None:
        run, cause = self._run, str(event.get("cause"))
        call_id, tool = self._calls.get(cause, (None, name))
        told = _metadata(event)
        message = run.say(number, event, "tool", event.get("content"), without(event, "content"))
        run.building.answers(message, told.get("tool_call_id") or call_id, told.get("function_name") or tool)
        if name in ("error", "user_rejected") or event.get("success") is False:
            message.status, message.error = "failed", run.typed.summary(event.get("content"))
        else:
            run.planned(cause)


def _metadata(event: Mapping[str, Json]) -> JsonObject:
    told = event.get("tool_call_metadata")
    return told if isinstance(told, dict) else {}


def _response(event: Mapping[str, Json]) -> JsonObject:
    told = _metadata(event).get("model_response")
    return told if isinstance(told, dict) else {}


def _call(response: Mapping[str, Json], call_id: str | None) -> Json:
    """Return the call of a response that has the id; None where it has none."""
    for choice in objects_of(response.get("choices")):
        inner = choice.get("message")
        for call in objects_of(inner.get("tool_calls")) if isinstance(inner, dict) else ():
            if call_id is not None and call.get("id") == call_id:
                return call
    return None
