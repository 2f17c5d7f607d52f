"""What a call of a model was given and gave, as client libraries and frameworks record it whole.

Messages stand there among settings, statistics and the definitions of tools. The shapes of OpenAI's,
Anthropic's, Google's, Bedrock's and LangChain's clients are known, and those of the Vercel AI SDK. It knows no
format of traces; messages themselves are `chat_messages`' to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from traceark.importers.chat_messages import decoded, told_of
from traceark.importers.conversation import Told
from traceark.importers.python_repr import object_of
from traceark.importers.typed import Typed
from traceark.importers.usage import number_of, usage_of
from traceark.models import Json, JsonObject, Usage

# Where requests have what was asked, and what stands before it.
_ASKED = ("messages", "contents", "input", "prompt", "prompts", "history", "args")
_SYSTEM = ("system", "instructions", "system_instruction", "systemInstruction")
_SPEAKERS = frozenset({"human", "ai", "system", "user", "assistant"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})
# Where responses have their messages, each in a list.
_ANSWERS = (("choices", "message"), ("choices", "delta"), ("candidates", "content"))
_INPUT = ("input_tokens", "prompt_tokens", "promptTokens", "inputTokens", "prompt_token_count", "promptTokenCount")
_OUTPUT = (
    "output_tokens",
    "completion_tokens",
    "completionTokens",
    "outputTokens",
    "candidates_token_count",
    "candidatesTokenCount",
)
_TOTAL = ("total_tokens", "totalTokens", "total_token_count", "totalTokenCount")
_INPUT_DETAILS = ("input_token_details", "input_tokens_details", "prompt_tokens_details", "prompt_token_details")
_OUTPUT_DETAILS = (
    "output_token_details",
    "output_tokens_details",
    "completion_tokens_details",
    "completion_token_details",
)
_CACHE_READ = (
    "cache_read",
    "cached_tokens",
    "cache_read_input_tokens",
    "cached_content_token_count",
    "cachedContentTokenCount",
    "cachedInputTokens",
    "cacheReadInputTokens",
)
_CACHE_WRITE = ("cache_creation", "cache_write_tokens", "cache_creation_input_tokens", "cacheWriteInputTokens")
# Which are beside the input by its name, unless a total says otherwise: Anthropic's own, and Amazon Bedrock's
# (https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html).
_BESIDE = {
    "input_tokens": ("cache_read_input_tokens", "cache_creation_input_tokens"),
    "inputTokens": ("cacheReadInputTokens", "cacheWriteInputTokens"),
}
_REASONING = ("reasoning", "reasoning_tokens", "reasoningTokens", "thoughts_token_count", "thoughtsTokenCount")


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool gave: the result, and what names the call that it answers."""

    result: Json
    call_id: str | None = None
    tool: str | None = None


def asked(value: Json) -> list[Told]:
    """Return the messages that a call was given.

    Examples
    --------
    >>> [(told.role, told.content) for told in asked({"model": "m", "system": "Be brief.", "messages": "hi"})]
    [('system', 'Be brief.'), ('user', 'hi')]
    """
    value = unpacked(value)
    if not isinstance(value, dict) or "role" in value:
        return list(_conversed(told_of(_lifted(value), "user")))
    name = next((name for name in _ASKED if value.get(name)), None)
    if name is None:
        return told_of(value, "user")
    inside = value[name]
    if name == "args" and isinstance(inside, list) and len(inside) == 1:
        inside = inside[0]
    config = value.get("config")
    places: list[Mapping[str, Json]] = [value, config if isinstance(config, dict) else {}]
    system = next((each[name] for each in places for name in _SYSTEM if each.get(name)), None)
    return [*told_of(system, "system"), *_conversed(told_of(_lifted(inside), "user"))]


def answered(value: Json) -> list[Told]:
    """Return the messages that a call gave.

    Examples
    --------
    >>> [told.content for told in answered({"choices": [{"message": {"role": "assistant", "content": "Hello."}}]})]
    ['Hello.']
    """
    value = unpacked(value)
    if isinstance(value, list) and value and all(isinstance(each, dict) and "toolCallId" in each for each in value):
        # The Vercel AI SDK's calls, apart from any message.
        return [Told("assistant", [_vercel_call(each) for each in value if isinstance(each, dict)])]
    if not isinstance(value, dict) or "role" in value or "generations" in value:
        return told_of(_lifted(value), "assistant")
    for outer, inner in _ANSWERS:
        if isinstance(found := value.get(outer), list):
            messages = [each[inner] for each in found if isinstance(each, dict) and each.get(inner)]
            if messages:
                return [told for message in messages for told in told_of(_lifted(message), "assistant")]
    for name in ("message", "messages", "output", "content"):
        if value.get(name) and not (name == "content" and value.keys() & {"tool_call_id", "type"}):
            inside = value[name]
            return answered(inside) if isinstance(inside, dict) else told_of(_lifted(inside), "assistant")
    return told_of(_lifted(value), "assistant")


def tool_arguments(value: Json) -> Json:
    """Return the arguments of a call, be they JSON, text that holds JSON, or as Python shows them.

    Examples
    --------
    >>> tool_arguments({"input": "{'city': 'Rome'}"}), tool_arguments('{"city": "Rome"}')
    ({'city': 'Rome'}, {'city': 'Rome'})
    """
    value = unpacked(value)
    if isinstance(value, dict) and set(value) == {"input"}:
        return tool_arguments(value["input"])
    only = value[0] if isinstance(value, list) and len(value) == 1 else None
    if isinstance(only, dict) and only.get("role") == "tool" and "content" in only:
        # Strands tells them as a message to the tool.
        return tool_arguments(only["content"])
    if isinstance(value, str) and value.startswith("{"):
        shown = object_of(f"shown(value={value})")
        return shown["value"] if shown is not None else value
    return value


def tool_answer(value: Json) -> ToolAnswer:
    """Return what a tool gave, taken out of what frameworks wrap it in.

    Examples
    --------
    >>> tool_answer({"output": {"type": "tool", "content": "sunny", "tool_call_id": "c", "name": "weather"}})
    ToolAnswer(result='sunny', call_id='c', tool='weather')
    """
    value = unpacked(value)
    if not isinstance(value, dict):
        return ToolAnswer(value)
    if set(value) == {"output"}:
        return tool_answer(value["output"])
    inner = value.get("kwargs") if value.get("type") == "constructor" else None
    told = inner if isinstance(inner, dict) else value
    if "tool_call_id" in told and "content" in told:
        return ToolAnswer(told["content"], _text(told["tool_call_id"]), _text(told.get("name")))
    if set(value) == {"content"} and isinstance(value["content"], list):
        return ToolAnswer(value["content"])
    if set(value) == {"message", "id"}:
        return ToolAnswer(unpacked(value["message"]), _text(value["id"]))
    return ToolAnswer(value)


def usage_in(value: Json, typed: Typed) -> Usage | None:
    """Return the usage that a response states, or an object of counts itself.

    Examples
    --------
    >>> from collections import Counter
    >>> told = {"usage_metadata": {"input_tokens": 10, "output_tokens": 2, "input_token_details": {"cache_read": 4}}}
    >>> usage_in(told, Typed(Counter())).cache_read_tokens
    4
    """
    return next((usage for told in _statistics(unpacked(value)) if (usage := _usage(told, typed)) is not None), None)


def unpacked(value: Json) -> Json:
    """Return the value that a text holds, even where the text holds a text that holds it.

    Examples
    --------
    >>> unpacked('"{\\\\"a\\\\": 1}"'), unpacked("plain")
    ({'a': 1}, 'plain')
    """
    if isinstance(value, str) and value.startswith('"') and value.endswith('"'):
        inner = decoded(f"[{value}]")
        value = inner[0] if isinstance(inner, list) and len(inner) == 1 else value
    return decoded(value)


def _statistics(value: Json) -> Iterator[JsonObject]:
    """Yield what a response may have its counts in."""
    if not isinstance(value, dict):
        return
    yield value
    inside = value.get("llm_output")
    for outer in (value, inside if isinstance(inside, dict) else {}):
        for name in ("usage_metadata", "usage", "token_usage", "tokenUsage", "usageMetadata"):
            if isinstance(found := outer.get(name), dict):
                yield found
    for name in ("message", "kwargs", "response_metadata"):
        yield from _statistics(value.get(name))
    generations = value.get("generations")
    while isinstance(generations, list) and generations:
        generations = generations[0]
    yield from _statistics(generations)


def _usage(told: JsonObject, typed: Typed) -> Usage | None:
    if not any(name in told for name in (*_INPUT, *_OUTPUT)):
        return None
    inputs = [told, *(each for name in _INPUT_DETAILS if isinstance(each := told.get(name), dict))]
    outputs = [told, *(each for name in _OUTPUT_DETAILS if isinstance(each := told.get(name), dict))]
    parts = {
        "input_tokens": _first([told], _INPUT),
        "output_tokens": _first([told], _OUTPUT),
        "cache_read": _first(inputs, _CACHE_READ),
        "cache_write": _first(inputs, _CACHE_WRITE),
    }
    total = _first([told], _TOTAL)
    if total is None and any(name in told for given, names in _BESIDE.items() if given in told for name in names):
        total = sum(count for count in parts.values() if isinstance(count, int))
    return usage_of(typed, **parts, reasoning=_first(outputs, _REASONING), total=total)


def _first(places: list[JsonObject], names: tuple[str, ...]) -> Json:
    """Return the first number that is told; an object under one of the names tells it by kinds."""
    told = (each[name] for each in places for name in names if each.get(name) is not None)
    return next((number_of(each) for each in told if not isinstance(each, dict)), None)


def _lifted(value: Json) -> Json:
    """Return messages as objects with all that they say: LangChain has pairs, and keeps calls beside a message."""
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(each, str) for each in value) and value[0] in _SPEAKERS:
            return {"role": value[0], "content": value[1]}
        return [_lifted(each) for each in value]
    if not isinstance(value, dict):
        return value
    beside = value.get("additional_kwargs")
    calls = beside.get("tool_calls") if isinstance(beside, dict) else None
    return {**value, "tool_calls": calls} if calls and not value.get("tool_calls") else value


def _conversed(messages: list[Told]) -> Iterator[Told]:
    """Yield messages as they were said, where frameworks tell them in odd roles.

    Some tell the definitions of tools as messages of the role ``tool``, some the calls of a model, and
    some a tool's answer in a role that is the tool's name.
    """
    called: dict[str, list[str | None]] = {}
    for told in messages:
        for call in told.calls():
            called.setdefault(str(call.get("name")), []).append(_text(call.get("id")))
        if told.role in called and told.role not in _ROLES:
            waiting = called[told.role]
            yield Told("tool", told.content, told.call_id or (waiting.pop(0) if waiting else None), told.role)
        elif told.role != "tool" or told.call_id is not None:
            yield told
        elif told.calls():
            yield Told("assistant", told.content)
        elif not _is_definition(told.content):
            yield told


def _is_definition(content: Json) -> bool:
    return isinstance(content, dict) and content.get("type") == "function" and "function" in content


def _vercel_call(call: JsonObject) -> JsonObject:
    arguments = call.get("input", call.get("args"))
    call_id, name = call.get("toolCallId"), call.get("toolName")
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": decoded(arguments)}


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
