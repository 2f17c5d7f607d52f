"""Messages as providers and frameworks write them, read into `Told`.

The shapes of OpenAI's chat completions and responses, Anthropic's and Bedrock's blocks, Gemini's parts,
OpenTelemetry's parts and LangChain's messages are known. What is in none of them is told as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceark.importers.conversation import Told
from traceark.importers.jsonl import whole_text
from traceark.importers.python_repr import object_of
from traceark.models import Json, JsonObject

_ROLES = {
    "human": "user",
    "model": "assistant",
    "ai": "assistant",
    "aimessagechunk": "assistant",
    "function": "tool",
    "tool-call": "assistant",
    "tool-response": "tool",
    "developer": "system",
}
_RESULTS = frozenset({"tool_result", "tool_call_response", "function_call_output", "custom_tool_call_output"})
_CALLS = frozenset({"tool_call", "tool_use", "function_call", "function", "custom_tool_call"})
_BLOCKS = _RESULTS | _CALLS | {"text", "input_text", "output_text", "image", "image_url", "input_image", "thinking"}
# Keys under which an object may hold a list of messages, and nothing else that is one.
_LISTS = ("messages", "contents", "input", "history")


def told_of(value: Json, role: str) -> list[Told]:
    """Return the messages that a value holds, be it a list of them, one, a text, or a text that holds JSON.

    Parameters
    ----------
    value : JSON
    role : str
        Of what tells no role.

    Examples
    --------
    >>> told_of('[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]', "user")
    [Told(role='user', content='hi', call_id=None, tool=None)]
    >>> told_of("Be brief.", "system")
    [Told(role='system', content='Be brief.', call_id=None, tool=None)]
    """
    value = decoded(value)
    if value is None or value in ("", [], {}):
        return []
    if isinstance(value, list):
        if all(_is_message(each) for each in value):
            return [told for each in value if isinstance(each, dict) for told in _message(each, role)]
        if len(value) == 1 and isinstance(value[0], list) and all(map(_is_message, value[0])):
            # LangChain wraps a conversation in a list of conversations.
            return told_of(value[0], role)
        return list(_told(role, value, {}))
    if isinstance(value, dict):
        if isinstance(generations := value.get("generations"), list):
            return [told for each in _flat(generations) for told in _generation(each, role)]
        if _is_message(value):
            return list(_message(value, role))
        inner = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), None)
        if isinstance(inner, list) and all(_is_message(each) for each in _flat(inner)):
            system = told_of(value.get("system"), "system")
            return [*system, *told_of(inner, role)]
        if set(value) <= {"content", "text"}:
            return list(_told(role, next(iter(value.values())), {}))
    return [Told(role, value)]


def decoded(value: Json) -> Json:
    """Return the object or list that a text holds, any other value as it is.

    Examples
    --------
    >>> decoded('{"a": 1}'), decoded("[sic]"), decoded("17")
    ({'a': 1}, '[sic]', '17')
    """
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        found = whole_text(value)
        return found.value if found.exact and not found.reason else value
    return value


def _is_message(value: Json) -> bool:
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("role"), str) and value.keys() & {"content", "parts", "tool_calls", "contents", "message"}:
        return True
    kind = value.get("type")
    if kind in ("constructor", "human", "ai", "system", "tool", "AIMessageChunk", "message") and (
        value.keys() & {"content", "kwargs", "data"}
    ):
        return True
    return _is_item(kind) or _is_wrapped(value)


def _is_item(kind: Json) -> bool:
    """Say whether this is the type of an item of OpenAI's responses that is no message."""
    return isinstance(kind, str) and (kind == "reasoning" or kind.endswith(("_call", "_call_output")))


def _is_wrapped(value: Mapping[str, Json]) -> bool:
    return set(value) in ({"message"}, {"kwargs"}) and all(isinstance(each, dict) for each in value.values())


def _flat(values: list[Json]) -> Iterator[Json]:
    for each in values:
        yield from each if isinstance(each, list) else [each]


def _generation(value: Json, role: str) -> Iterator[Told]:
    """Yield what LangChain tells of an answer: a message, its text beside it."""
    if not isinstance(value, dict):
        return
    message = value.get("message")
    inner = message.get("kwargs", message) if isinstance(message, dict) else {}
    told: JsonObject = dict(inner) if isinstance(inner, dict) else {}
    if not told.get("content"):
        told["content"] = value.get("text")
    yield from _message({**told, "role": "assistant"}, role)


def _message(message: JsonObject, role: str) -> Iterator[Told]:
    for wrapper in ("kwargs", "data", "message"):
        inner = message.get(wrapper)
        if isinstance(inner, dict) and "content" not in message:
            identity = message.get("id")
            name = identity[-1] if isinstance(identity, list) and identity else ""
            named = name.removesuffix("Chunk").removesuffix("Message").lower() if isinstance(name, str) else ""
            kind = message.get("type") if wrapper == "data" else named
            yield from _message({"type": kind or inner.get("type"), **inner}, role)
            return
    kind = message.get("type")
    told_role = message.get("role") or (kind if kind not in ("message", "constructor") else None)
    text = told_role if isinstance(told_role, str) else role
    role = _ROLES.get(text.lower(), text.lower() if text.lower() in ("user", "assistant", "system", "tool") else text)
    if _is_item(kind) and "role" not in message:
        role = "tool" if str(kind).endswith("_output") else "assistant"
        yield from _told(role, [message], message)
        return
    content = next((message[name] for name in ("parts", "content", "contents", "text") if message.get(name)), None)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        blocks = content if isinstance(content, list) else [content] if content not in (None, "") else []
        content = [*blocks, *({**each, "type": "tool_call"} if isinstance(each, dict) else each for each in calls)]
    yield from _told(role, content, message)


def _told(role: str, content: Json, message: Mapping[str, Json]) -> Iterator[Told]:
    """Yield a message, and apart from it the results of tools that it has among its blocks."""
    content = _blocks_in_text(content)
    call_id, tool = message.get("tool_call_id"), message.get("name")
    if role == "tool" and not (isinstance(content, list) and any(map(_is_result, content))):
        told_id = call_id if call_id is not None else message.get("id")
        yield Told("tool", _plain(content), _text(told_id), _text(tool))
        return
    if not isinstance(content, list):
        yield Told(role, content)
        return
    said: list[Json] = []
    for block in content:
        if _is_result(block):
            assert isinstance(block, dict)
            yield _result(block, message)
        else:
            said.append(_block(block))
    if said or not content:
        yield Told(role, _plain(said))


def _blocks_in_text(content: Json) -> Json:
    """Return the blocks that a text holds as JSON; any other content as it is."""
    if not isinstance(content, str):
        return content
    found = decoded(content)
    if isinstance(found, list) and found and all(map(_is_block, found)):
        return found
    return content


def _is_block(value: Json) -> bool:
    if not isinstance(value, dict):
        return False
    return value.get("type") in _BLOCKS or (len(value) == 1 and bool(value.keys() & {"text", "toolUse", "toolResult"}))


def _plain(content: Json) -> Json:
    """Return the text of content that is one text and nothing else."""
    if isinstance(content, list) and len(content) == 1:
        block = _block(content[0])
        if isinstance(block, dict) and set(block) == {"type", "text"}:
            return block["text"]
        return [block]
    return content if not isinstance(content, list) else [_block(each) for each in content] or None


def _is_result(block: Json) -> bool:
    return isinstance(block, dict) and (
        block.get("type") in _RESULTS or bool(block.keys() & {"toolResult", "function_response", "functionResponse"})
    )


def _result(block: JsonObject, message: Mapping[str, Json]) -> Told:
    inner = next(
        (block[name] for name in ("toolResult", "function_response", "functionResponse") if name in block), block
    )
    told = inner if isinstance(inner, dict) else {"content": inner}
    names = ("tool_use_id", "toolUseId", "call_id", "tool_call_id", "id")
    call_id = next((told[name] for name in names if told.get(name)), message.get("tool_call_id"))
    content = next((told[name] for name in ("content", "response", "result", "output") if name in told), None)
    return Told("tool", _plain(content), _text(call_id), _text(told.get("name")))


def _block(block: Json) -> Json:
    """Return a block in the form that `Told` describes."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    if isinstance(wrapped := block.get("message_content"), dict):
        block = wrapped
    kind = block.get("type")
    text = block["text"] if "text" in block else block.get("content")
    if kind in ("text", "input_text", "output_text") and isinstance(text, str):
        shown = object_of(text)
        # Some tell a call as the text that Python shows of it.
        return (_call(shown) if shown is not None else None) or {"type": "text", "text": text}
    if kind is None and isinstance(text, str) and "text" in block:
        # Gemini's.
        return (
            {"type": "thinking", "thinking": text} if block.get("thought") is True else {"type": "text", "text": text}
        )
    if kind in ("thinking", "reasoning"):
        thought = block.get("thinking") or text or block.get("summary")
        rest = {name: value for name, value in block.items() if name in ("signature", "encrypted_content")}
        return {"type": "thinking", "thinking": thought, **rest}
    return _call(block) or block


def _call(block: JsonObject) -> JsonObject | None:
    """Return a call of a tool in the form that `Told` describes, None for what is none."""
    for name in ("toolUse", "function_call", "functionCall", "tool_call"):
        if isinstance(inner := block.get(name), dict):
            block = {**inner, "type": "tool_call"}
    if block.get("type") not in _CALLS:
        return None
    function = block.get("function")
    told = function if isinstance(function, dict) else block
    call_id = next((block[name] for name in ("call_id", "toolUseId", "id", "tool_call_id") if block.get(name)), None)
    arguments = next((told[name] for name in ("arguments", "input", "args") if name in told), None)
    return {"type": "tool_call", "id": call_id, "name": told.get("name"), "arguments": decoded(arguments)}


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None
