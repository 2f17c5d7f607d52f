"""What a message says, taken out of the JSON that providers and importers wrap it in.

Pure. Anthropic's blocks, OpenAI's chat messages and responses, OpenTelemetry's parts and plain text
are known; anything else is a part of the kind ``other`` with its JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from traceark.models import Event, Json, JsonObject, Message

Kind = Literal["text", "thinking", "call", "result", "attachment", "other"]
_TEXT = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal"})
_THINKING = frozenset({"thinking", "reasoning", "reasoning_content", "redacted_thinking"})
# Calls, and the name of the tool where a call of this type has none.
_CALLS = {
    "tool_use": "tool",
    "server_tool_use": "tool",
    "mcp_tool_use": "tool",
    "function_call": "tool",
    "custom_tool_call": "tool",
    "mcp_tool_call": "tool",
    "tool_call": "tool",
    "local_shell_call": "local_shell",
    "web_search_call": "web_search",
}
_RESULTS = ("tool_result", "call_output", "tool_call_response")
_ATTACHMENTS = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "audio",
        "input_audio",
        "document",
        "file",
        "input_file",
        "blob",
        "uri",
        "video",
    }
)
# Where an attachment has what it is, and the names that tell that.
_WITHIN = ("source", "image_url", "file", "input_audio")
_WHERE = ("media_type", "mime_type", "url", "image_url", "path", "uri", "filename", "format")
_TOOL_ROLES = frozenset({"tool", "function"})
# JSON may hold these raw, and programs that split lines stumble over them.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a message says.

    Attributes
    ----------
    text : str
        What it says, for people; of an attachment a description in brackets.
    name, call_id : str, optional
        Of a call, and of the result that answers it: the tool, and the id of the call.
    arguments : JSON
        Of a call: decoded where they are JSON in a text.
    failed : bool
        Of a result.
    """

    kind: Kind
    text: str = ""
    name: str | None = None
    call_id: str | None = None
    arguments: Json = None
    failed: bool = False


def parts_of(message: Message) -> list[Part]:
    """Return what a message says, in order; all that a tool says is a result.

    Examples
    --------
    >>> call = {"type": "tool_use", "id": "c", "name": "Read", "input": {"a": 1}}
    >>> for part in parts_of(Message(trace_id="run-7", role="assistant", content=["Look:", call])):
    ...     print(part.kind, part.text, part.name, part.arguments)
    text Look: None None
    call {"a":1} Read {'a': 1}
    """
    found = list(_parts(message.content))
    if not any(part.kind == "call" for part in found):
        extra = message.model_extra or {}
        source = extra.get("source")
        beside = extra.get("tool_calls") or (source.get("tool_calls") if isinstance(source, dict) else None)
        found += [part for part in _parts(beside) if part.kind == "call"] if isinstance(beside, list) else []
    if message.role in _TOOL_ROLES:
        found = _as_results(found, message)
    return found


def text_of(parts: Sequence[Part]) -> str:
    """Return the texts of parts, one under the other.

    Examples
    --------
    >>> text_of([Part("text", "a"), Part("thinking", "hm"), Part("text", "b")])
    'a\\nb'
    """
    return "\n".join(part.text for part in parts if part.kind == "text")


def json_text(value: Json) -> str:
    """Return a value as compact JSON, a text as itself."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_line(value: Json) -> bytes:
    """Return a value as one line of JSON, readable where UTF-8 can say it.

    Examples
    --------
    >>> json_line({"é": "\\u2028"}), json_line("\\ud800")
    (b'{"\\xc3\\xa9": "\\\\u2028"}\\n', b'"\\\\ud800"\\n')
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        return _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def tools_of(events: Sequence[Event]) -> list[Json]:
    """Return the definitions of tools that an import kept, as OpenAI has them."""
    for event in events:
        for kind, name in (("chat.chat", "tools"), ("atif.agent", "tool_definitions")):
            payload = event.payload
            tools = payload.get(name) if event.event_type == kind and isinstance(payload, dict) else None
            if isinstance(tools, list) and tools and all(isinstance(tool, dict) for tool in tools):
                return tools
    return []


def _as_results(parts: Sequence[Part], message: Message) -> list[Part]:
    """Return what a tool said: its results and what stands beside them, or all of it as one result."""
    failed = message.status == "failed"
    results = sum(part.kind == "result" for part in parts)
    if not results:
        text = "\n".join(part.text for part in parts)
        return [Part("result", text, message.tool_name, message.tool_call_id, failed=failed)]
    if results > 1:
        return list(parts)
    name, call_id = message.tool_name, message.tool_call_id
    return [
        replace(each, name=name, call_id=each.call_id or call_id, failed=each.failed or failed)
        if each.kind == "result"
        else each
        for each in parts
    ]


def _parts(content: Json) -> Iterator[Part]:
    if isinstance(content, str):
        yield Part("text", content)
    elif isinstance(content, list):
        for item in content:
            yield from _parts(item)
    elif isinstance(content, dict):
        yield from _block(content)
    elif content is not None:
        yield Part("other", json_text(content))


def _block(block: JsonObject) -> Iterator[Part]:
    kind, text, function = block.get("type"), block.get("text"), block.get("function")
    kind = kind if isinstance(kind, str) else None
    if kind in _THINKING:
        yield Part("thinking", _joined(block, "thinking", "reasoning", "text", "summary", "content"))
    elif kind in _CALLS or isinstance(function, dict):
        yield _call(block, function if isinstance(function, dict) else block, kind)
    elif kind is not None and kind.endswith(_RESULTS):
        yield _result(block)
    elif kind in _TEXT or (kind is None and isinstance(text, str)):
        yield Part("text", _joined(block, "text", "content", "refusal"))
        yield from _parts(block.get("tool_calls"))
    elif kind in _ATTACHMENTS or isinstance(block.get("source"), dict):
        yield Part("attachment", _described(block, kind or "attachment"))
    elif isinstance(block.get("parts"), list):
        yield from _parts(block["parts"])
    elif "tool_calls" in block:
        yield from _parts(block.get("content"))
        yield from _parts(block.get("tool_calls"))
    else:
        yield Part("other", json_text(block))


def _joined(block: Mapping[str, Json], *names: str) -> str:
    """Return the first text among some fields; lists of blocks count by their texts."""
    for name in names:
        value = block.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list):
            texts = [part.text for part in _parts(value) if part.kind in ("text", "thinking")]
            if any(texts):
                return "\n".join(texts)
    return ""


def _call(block: Mapping[str, Json], call: Mapping[str, Json], kind: str | None) -> Part:
    told = next((call[name] for name in ("input", "arguments", "action") if name in call), None)
    arguments = told
    if isinstance(told, str):
        # Arguments that the model left unfinished stay the text that they are.
        arguments = _decoded(told)
    name = call.get("name")
    return Part(
        "call",
        "" if told is None else json_text(told),
        name if isinstance(name, str) and name else _CALLS.get(kind or "", "tool"),
        _first_text(block, "call_id", "id", "tool_call_id"),
        arguments,
    )


def _decoded(text: str) -> Json:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def _result(block: Mapping[str, Json]) -> Part:
    told = next((block[name] for name in ("content", "output", "response", "result") if name in block), None)
    call_id = _first_text(block, "tool_use_id", "call_id", "tool_call_id", "id")
    text = "\n".join(part.text for part in _parts(told))
    return Part("result", text, None, call_id, failed=block.get("is_error") is True)


def _first_text(block: Mapping[str, Json], *names: str) -> str | None:
    """Return the first text among some fields."""
    return next((value for name in names if isinstance(value := block.get(name), str) and value), None)


def _described(block: Mapping[str, Json], kind: str) -> str:
    about = next((told for name in _WITHIN if isinstance(told := block.get(name), dict)), block)
    told = json_text(next((about[name] for name in _WHERE if about.get(name)), ""))
    data = about.get("data")
    if told.startswith("data:"):
        told, _, data = told.removeprefix("data:").partition(",")
    size = f", {len(data):,} characters" if isinstance(data, str) else ""
    return f"[{kind} {told if len(told) <= 200 else ''}{size}]".replace(" ]", "]").replace(" ,", ",")
