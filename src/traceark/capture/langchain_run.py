"""A run of LangChain as a span: what its inputs and outputs, told as JSON, mean.

A chain, a model, a tool and a retriever are runs. It knows LangChain's messages as JSON, and not the
library itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from traceark.capture.history import History
from traceark.capture.outcome import Outcome
from traceark.capture.plain import Repeated, plain
from traceark.importers.chat_messages import told_of
from traceark.importers.conversation import Told
from traceark.importers.model_calls import usage_in
from traceark.importers.span import Kind, Span
from traceark.importers.typed import Typed
from traceark.importers.usage import usage_of
from traceark.models import Json, JsonObject, Usage, utc_now

_AGENT_NAME = "lc_agent_name"
# Blocks that are calls, as providers write them.
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "tool_call_chunk"})


class RunMessages:
    """The messages of an outermost run and of all runs in it, each turned into JSON and understood once."""

    def __init__(self, kind: type) -> None:
        self.repeated = Repeated(kind)
        self.history = History()
        self._told: dict[int, tuple[Json, list[Told]]] = {}

    def told(self, message: Json, role: str) -> list[Told]:
        """Return what a message says."""
        known = self._told.get(id(message))
        if known is None:
            known = self._told[id(message)] = (message, _spoken(message, role))
        return known[1]


@dataclass(eq=False)
class ChainRun:
    """A run of anything, as far as it is known."""

    run_id: str
    trace_id: str
    parent_id: str | None
    is_root: bool
    kind: Kind
    run_type: str
    name: str
    agent: str | None
    metadata: JsonObject
    tags: Json
    inputs: Json
    about: JsonObject
    messages: RunMessages
    start: datetime
    finish: datetime | None = None
    outputs: Json = None
    outcome: Outcome = "completed"
    error: str | None = None

    @classmethod
    def of(
        cls,
        kind: Kind,
        run_type: str,
        serialized: Any,
        inputs: Any,
        run_id: UUID,
        above: ChainRun | None,
        messages: RunMessages,
        about: Mapping[str, Any],
    ) -> ChainRun:
        """Return a run that begins."""
        told = plain(about.get("metadata"))
        metadata = told if isinstance(told, dict) else {}
        tags = about.get("tags") or []
        named = metadata.get(_AGENT_NAME)
        agent = named if isinstance(named, str) and named else None
        name = _name(serialized, about) or run_type
        if kind == "other" and run_type == "chain":
            # An agent in one of the same name is told from the nodes of its graph, which are given its name, too.
            again = name == agent != metadata.get("langgraph_node")
            new = agent is not None and (above is None or agent != above.agent or again)
            kind = (
                "agent" if new or ("agent" in tags and (above is None or "agent" not in _listed(above.tags))) else kind
            )
        known = ("metadata", "tags", "name", "parent_run_id", "run_type")
        return cls(
            str(run_id),
            above.trace_id if above is not None else str(run_id),
            above.run_id if above is not None else None,
            above is None,
            kind,
            run_type,
            name,
            agent,
            metadata,
            plain(tags),
            plain(inputs, messages.repeated),
            {name: plain(value) for name, value in about.items() if name not in known and value is not None},
            messages,
            utc_now(),
        )

    def end(self, at: datetime, outputs: Json, error: str | None, outcome: Outcome) -> None:
        """Take how it ended."""
        self.finish, self.outputs, self.error, self.outcome = at, outputs, error, outcome

    def record(self) -> JsonObject:
        """Return all of it, for the event that keeps it; to be called in the order of events."""
        shortened = self.messages.history.shortened
        record: JsonObject = {
            "id": self.run_id,
            "parent_run_id": self.parent_id,
            "run_type": self.run_type,
            "name": self.name,
            "start_time": self.start.isoformat(),
            "end_time": self.finish.isoformat() if self.finish is not None else None,
            "inputs": shortened(self.run_id, "inputs", self.inputs),
            "outputs": shortened(self.run_id, "outputs", self.outputs),
            "error": self.error,
            "tags": self.tags,
            "metadata": self.metadata,
        }
        return {**record, **({"extra": self.about} if self.about else {})}

    def span(self, typed: Typed) -> Span:
        """Return what it means."""
        span = Span(
            self.run_id,
            self.kind,
            None,
            parent_id=self.parent_id,
            name=self.name,
            start=self.start,
            end=self.finish,
            failed=self.outcome == "failed",
            cancelled=self.outcome == "cancelled",
            error=self.error,
            agent=(self.agent or self.name) if self.kind == "agent" else None,
        )
        if self.kind == "tool":
            self._tell_tool(span, typed)
        elif self.kind == "chat":
            self._tell_call(span, typed)
        elif self.finish is not None:
            # Before that a model in it may be about to be told the same.
            span.inputs, span.outputs = _said(self.inputs, "user"), _said(self.outputs, "assistant")
        return span

    def _tell_tool(self, span: Span, typed: Typed) -> None:
        output = self.outputs
        span.tool, span.arguments, span.result = typed.text(self.name), self.inputs, output
        span.call_id = typed.identifier(self.about.get("tool_call_id"))
        if isinstance(output, dict) and output.get("type") == "tool" and "tool_call_id" in output:
            span.result = output.get("content")
            span.call_id = span.call_id or typed.identifier(output["tool_call_id"])
        if span.result is None and self.error is not None:
            span.result = self.error

    def _tell_call(self, span: Span, typed: Typed) -> None:
        span.inputs = [told for each in _listed(self.inputs) for told in self.messages.told(each, "user")]
        outputs = _object(self.outputs)
        generations = [each for each in _listed(outputs.get("generations")) if isinstance(each, dict)]
        said = [each.get("message") or {"role": "assistant", "content": each.get("text")} for each in generations]
        span.outputs = [told for each in said for told in _spoken(each, "assistant")]
        meta = [each.get("response_metadata") for each in said if isinstance(each, dict)]
        names: list[Json] = [
            each.get(name) for each in meta if isinstance(each, dict) for name in ("model_name", "model")
        ]
        asked = _object(self.about.get("invocation_params"))
        names += [self.metadata.get("ls_model_name"), asked.get("model"), asked.get("model_name")]
        span.model = next((name for each in names if (name := typed.text(each))), None)
        span.usage = _usage(said, outputs, typed)


def _name(serialized: Any, about: Mapping[str, Any]) -> str | None:
    told = about.get("name")
    if not told and isinstance(serialized, Mapping):
        path = serialized.get("id")
        told = serialized.get("name") or (path[-1] if isinstance(path, list) and path else None)
    return told if isinstance(told, str) and told else None


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _spoken(message: Json, role: str) -> list[Told]:
    """Return a message; a call that is among its blocks and in its list of calls counts once."""
    if isinstance(message, dict) and message.get("tool_calls") and isinstance(blocks := message.get("content"), list):
        left = [each for each in blocks if _object(each).get("type") not in _CALLS]
        message = {**message, "content": left or None}
    return told_of([message], role)


def _said(value: Json, role: str) -> list[Told]:
    """Return what a chain was given or gave, where it is words: a text, messages, or an object that has some."""
    if isinstance(value, dict) and len(value) == 1:
        [value] = value.values()
    if isinstance(value, list) and value and all("content" in _object(each) for each in value):
        return [told for each in value for told in _spoken(each, role)]
    return told_of(value, role)


def _usage(said: Sequence[Json], outputs: JsonObject, typed: Typed) -> Usage | None:
    for each in said:
        told = _object(each).get("usage_metadata")
        if isinstance(told, dict):
            inner, outer = _object(told.get("input_token_details")), _object(told.get("output_token_details"))
            return usage_of(
                typed,
                input_tokens=told.get("input_tokens"),
                output_tokens=told.get("output_tokens"),
                cache_read=inner.get("cache_read"),
                cache_write=inner.get("cache_creation"),
                reasoning=outer.get("reasoning"),
                total=told.get("total_tokens"),
            )
    return usage_in(outputs.get("llm_output"), typed)
