"""What the attributes of an OpenTelemetry span mean, by the conventions that instrumentations of agents follow.

OpenTelemetry's own (https://opentelemetry.io/docs/specs/semconv/gen-ai/) in its present and older
forms, OpenInference (https://arize-ai.github.io/openinference/spec/), Traceloop's, and what Google's
ADK adds. Where several tell the same, the first in this order does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceark.importers.attributes import nested
from traceark.importers.chat_messages import decoded, told_of
from traceark.importers.conversation import Told
from traceark.importers.otel_span import OtelEvent, OtelSpan
from traceark.importers.own_spans import as_exported
from traceark.importers.span import Kind, Span
from traceark.importers.typed import Typed
from traceark.importers.usage import number_of, usage_of
from traceark.models import Json, JsonObject, Usage

_OPERATIONS: dict[str, Kind] = {
    "chat": "chat",
    "text_completion": "chat",
    "generate_content": "chat",
    "embeddings": "embedding",
    "execute_tool": "tool",
    "invoke_agent": "agent",
}
_WORDS: dict[str, Kind] = {"agent": "agent", "llm": "chat", "tool": "tool", "embedding": "embedding"}
_KINDS = ("openinference.span.kind", "traceloop.span.kind", "ioa_observe.span.kind", "aws.genai.span_kind")
_REQUESTS: dict[str, Kind] = {"chat": "chat", "completion": "chat", "embedding": "embedding"}
# Attributes that only a call of a model has.
_OF_CHATS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.prompt.0.role",
    "gen_ai.completion.0.role",
    "gcp.vertex.agent.llm_request",
    "gcp.vertex.agent.llm_response",
    "ai.response",
)
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_CACHE_READ = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "llm.token_count.prompt_details.cache_read",
)
_CACHE_WRITE = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.cache_write_input_tokens",
    "llm.token_count.prompt_details.cache_write",
)
_REASONING = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
)
_TOTAL = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total")
_COST = ("gen_ai.usage.cost", "llm.cost.total", "operation.cost")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
_AGENT = ("gen_ai.agent.name", "agent.name")
_TOOL = ("gen_ai.tool.name", "tool.name", "tool_call.function.name")
_CALL_ID = ("gen_ai.tool.call.id", "tool_call.id", "tool.id")
_ARGUMENTS = ("gen_ai.tool.call.arguments", "gcp.vertex.agent.tool_call_args", "input.value", "traceloop.entity.input")
_RESULT = ("gen_ai.tool.call.result", "gcp.vertex.agent.tool_response", "output.value", "traceloop.entity.output")
_ASKED = ("input.value", "traceloop.entity.input", "ai.prompt")
_ANSWERED = ("output.value", "traceloop.entity.output", "final_result", "ai.response")
# Events that tell a message each, and the role of what they tell; a choice is an answer.
_MESSAGES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CHOICE = "gen_ai.choice"


def span_of(told: OtelSpan, typed: Typed) -> Span:
    """Return what a span of OpenTelemetry means.

    Parameters
    ----------
    told : OtelSpan
    typed : Typed
        Makes typed fields of attributes.

    Examples
    --------
    >>> from collections import Counter
    >>> attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3}
    >>> span = span_of(OtelSpan("t", "s", None, "chat m", {}, attributes=attributes), Typed(Counter()))
    >>> span.kind, span.model, span.usage.input_tokens
    ('chat', 'm', 3)
    """
    attributes = told.attributes
    kind = _kind(told)
    name = typed.text(told.name) or ""
    span = Span(
        told.span_id or "",
        kind,
        told.raw,
        parent_id=told.parent_id,
        name=name,
        start=told.start,
        end=told.end,
        failed=told.failed,
        error=_error(told, typed) if told.failed else None,
        agent=_agent(attributes, kind, name, typed),
        model=_text(attributes, _MODEL, typed) if kind != "tool" else None,
        usage=_usage(attributes, typed),
        cost=typed.cost(number_of(_first(attributes, _COST))),
    )
    if kind == "tool":
        _take_tool(span, told, typed)
    else:
        span.inputs, span.outputs = _inputs(told, kind), _outputs(told, kind)
    return as_exported(span, attributes, typed)


def _kind(told: OtelSpan) -> Kind:
    attributes = told.attributes
    operation = attributes.get("gen_ai.operation.name")
    if isinstance(operation, str) and operation in _OPERATIONS:
        return _OPERATIONS[operation]
    words = [attributes.get(name) for name in _KINDS]
    for word in words:
        if isinstance(word, str):
            return _WORDS.get(word.lower(), "other")
    if isinstance(request := attributes.get("llm.request.type"), str) and request in _REQUESTS:
        return _REQUESTS[request]
    # What tells no operation may have it in its name, as the conventions want it to.
    first, _, rest = told.name.partition(" ")
    if first in ("invoke_agent", "execute_tool") and (rest or told.scope):
        return _OPERATIONS[first]
    if operation is None and any(attributes.get(name) not in (None, "", "{}") for name in _OF_CHATS):
        return "chat"
    return _kind_of_body(told)


def _kind_of_body(told: OtelSpan) -> Kind:
    """Return the kind of a span that is a log record in truth, whose body has what LangChain tells of its runs."""
    for _, outputs in _bodies(told):
        for each in outputs if isinstance(outputs, list) else ():
            said = decoded(each.get("content")) if isinstance(each, dict) else None
            if isinstance(said, dict) and "generations" in said:
                return "chat"
            if isinstance(said, dict) and said.get("type") == "tool" and "tool_call_id" in said:
                return "tool"
    return "other"


def _bodies(told: OtelSpan) -> Iterator[tuple[Json, Json]]:
    for event in told.events:
        body = event.body if isinstance(event.body, dict) else {}
        inputs, outputs = body.get("input"), body.get("output")
        if isinstance(inputs, dict) or isinstance(outputs, dict):
            yield (
                inputs.get("messages") if isinstance(inputs, dict) else None,
                outputs.get("messages") if isinstance(outputs, dict) else None,
            )


def _first(attributes: Mapping[str, Json], names: tuple[str, ...]) -> Json:
    return next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)


def _text(attributes: Mapping[str, Json], names: tuple[str, ...], typed: Typed) -> str | None:
    return next((text for name in names if (text := typed.text(attributes.get(name))) is not None), None)


def _usage(attributes: Mapping[str, Json], typed: Typed) -> Usage | None:
    usage = usage_of(
        typed,
        input_tokens=number_of(_first(attributes, _INPUT)),
        output_tokens=number_of(_first(attributes, _OUTPUT)),
        cache_read=number_of(_first(attributes, _CACHE_READ)),
        cache_write=number_of(_first(attributes, _CACHE_WRITE)),
        reasoning=number_of(_first(attributes, _REASONING)),
        total=number_of(_first(attributes, _TOTAL)),
    )
    if usage is not None:
        return usage
    aggregated = {name: attributes.get(f"gen_ai.aggregated_usage.{name}") for name in ("input_tokens", "output_tokens")}
    return usage_of(typed, **{name: number_of(value) for name, value in aggregated.items()})


def _agent(attributes: Mapping[str, Json], kind: Kind, name: str, typed: Typed) -> str | None:
    told = _text(attributes, _AGENT, typed)
    if kind != "agent" or told is not None:
        return told
    entity = _text(attributes, ("traceloop.entity.name", "ioa_observe.entity.name"), typed)
    return entity or name.removeprefix("invoke_agent ") or None


def _error(told: OtelSpan, typed: Typed) -> str | None:
    if told.message:
        return typed.text(told.message)
    for event in told.events:
        if event.name == "exception":
            names = ("exception.message", "exception.type")
            return _text(event.attributes, names, typed)
    said = _text(told.attributes, ("error.message", "exception.message", "error.type"), typed)
    # The conventions' word for an error of which no more is known.
    return said if said != "_OTHER" else None


def _take_tool(span: Span, told: OtelSpan, typed: Typed) -> None:
    attributes = told.attributes
    named = _text(attributes, _TOOL, typed) or _text(attributes, ("traceloop.entity.name",), typed)
    span.tool = named or span.name.removeprefix("execute_tool ") or None
    span.call_id = typed.identifier(_first(attributes, _CALL_ID))
    span.arguments, span.result = decoded(_first(attributes, _ARGUMENTS)), _first(attributes, _RESULT)
    for event in told.events:
        # As Strands tells calls: the arguments as a message to the tool, the result as its choice.
        if event.name == "gen_ai.tool.message" and span.arguments is None:
            span.arguments = decoded(event.attributes.get("content"))
        elif event.name == _CHOICE and span.result is None:
            span.result = event.attributes.get("message")
    for inputs, outputs in _bodies(told):
        if span.result is None and isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
            span.result = outputs[0].get("content")
            asked = inputs[0] if isinstance(inputs, list) and inputs else None
            span.arguments = decoded(asked.get("content")) if isinstance(asked, dict) else None
    _unwrap(span, typed)


def _unwrap(span: Span, typed: Typed) -> None:
    """Take a result out of what frameworks wrap it in: LangChain's message, MCP's answer."""
    result = decoded(span.result)
    if not isinstance(result, dict) or "content" not in result:
        return
    content = result["content"]
    if "tool_call_id" in result:
        span.call_id = span.call_id or typed.identifier(result["tool_call_id"])
        span.tool = typed.text(result.get("name")) or span.tool
        span.result = content
    elif isinstance(content, list) and result.keys() <= {"content", "isError", "structuredContent", "meta", "_meta"}:
        span.result = content


def _inputs(told: OtelSpan, kind: Kind) -> list[Told]:
    attributes = told.attributes
    details = [*_details(told), attributes]
    for each in details:
        if found := told_of(each.get("gen_ai.input.messages"), "user"):
            return [*told_of(each.get("gen_ai.system_instructions"), "system"), *found]
    for prefix in ("gen_ai.prompt", "llm.input_messages"):
        if found := told_of(nested(attributes, prefix), "user"):
            return found
    request = decoded(attributes.get("gcp.vertex.agent.llm_request"))
    if isinstance(request, dict) and request:
        config = request.get("config")
        system = config.get("system_instruction") if isinstance(config, dict) else None
        return [*told_of(system, "system"), *told_of(request.get("contents"), "user")]
    if found := _told_by_events(told.events, answers=False):
        return found
    for inputs, _ in _bodies(told):
        return told_of(inputs, "user")
    if kind == "agent" and isinstance(whole := decoded(attributes.get("pydantic_ai.all_messages")), list):
        return told_of([each for each in whole if not _is_answer(each)], "user")
    return told_of(_entity(_first(attributes, _ASKED), "inputs"), "user")


def _outputs(told: OtelSpan, kind: Kind) -> list[Told]:
    attributes = told.attributes
    for each in (*_details(told), attributes):
        if found := told_of(each.get("gen_ai.output.messages"), "assistant"):
            return found
    for prefix in ("gen_ai.completion", "llm.output_messages"):
        if found := told_of(nested(attributes, prefix), "assistant"):
            return found
    response = decoded(attributes.get("gcp.vertex.agent.llm_response"))
    if isinstance(response, dict) and response:
        return told_of(response.get("content"), "assistant")
    if found := _told_by_events(told.events, answers=True):
        return found
    for _, outputs in _bodies(told):
        if isinstance(outputs, list):
            said = [each.get("content") if kind == "chat" and isinstance(each, dict) else each for each in outputs]
            return [message for each in said for message in told_of(each, "assistant")]
    return told_of(_entity(_first(attributes, _ANSWERED), "outputs"), "assistant")


def _details(told: OtelSpan) -> Iterator[JsonObject]:
    """Yield the attributes of events that tell a whole call."""
    for event in told.events:
        yield event.attributes


def _is_answer(message: Json) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _entity(value: Json, name: str) -> Json:
    """Return what Traceloop puts into an object of its own: the inputs or outputs of an entity."""
    value = decoded(value)
    return value[name] if isinstance(value, dict) and name in value else value


def _told_by_events(events: list[OtelEvent], *, answers: bool) -> list[Told]:
    found: list[Told] = []
    for event in events:
        body = event.body if isinstance(event.body, dict) else event.attributes
        if event.name == _CHOICE and answers:
            message = decoded(body.get("message"))
            found += told_of({"role": "assistant", **message} if isinstance(message, dict) else message, "assistant")
        elif event.name in _MESSAGES and not answers:
            told: JsonObject = {"role": _MESSAGES[event.name], **body}
            told["tool_calls"] = decoded(told.get("tool_calls"))
            found += told_of(told, _MESSAGES[event.name])
        elif event.name == ("gen_ai.content.completion" if answers else "gen_ai.content.prompt"):
            name = "gen_ai.completion" if answers else "gen_ai.prompt"
            found += told_of(body.get(name), "assistant" if answers else "user")
    return found
