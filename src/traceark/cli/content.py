"""What a message says, taken out of the JSON that providers wrap it in.

Pure. The shapes of Anthropic's blocks, OpenAI's chat messages and responses, and plain text are
known; anything else is shown as the JSON it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from traceark.models import Json, Message

Kind = Literal["text", "thinking", "call", "result", "other"]
_TEXT = frozenset({"text", "input_text", "output_text"})
_THINKING = frozenset({"thinking", "reasoning", "reasoning_content"})
_CALL = frozenset({"tool_use", "server_tool_use", "mcp_tool_use", "function_call", "tool_call"})
_ARGUMENT_CHARS = 60


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that a message says; `label` is the tool's name of a call."""

    kind: Kind
    text: str
    label: str = ""


def pieces_of(message: Message, *, full: bool = False) -> list[Piece]:
    """Return what a message says, in order.

    Parameters
    ----------
    message : Message
        Any.
    full : bool
        Arguments of tool calls whole, one a line, instead of summarised.

    Examples
    --------
    >>> from traceark import Message
    >>> content = [{"type": "text", "text": "Look:"}, {"type": "tool_use", "name": "Read", "input": {"path": "a.py"}}]
    >>> for piece in pieces_of(Message(trace_id="run-7", role="assistant", content=content)):
    ...     print(piece.kind, piece.label, piece.text)
    text  Look:
    call Read path=a.py
    """
    found = list(_pieces(message.content, full))
    calls = (message.model_extra or {}).get("tool_calls")
    if isinstance(calls, list):
        found += [piece for call in calls for piece in _pieces(call, full)]
    if message.role in ("tool", "function"):
        found = [Piece("result", piece.text) if piece.kind in ("text", "other") else piece for piece in found]
    if not found and message.description:
        found.append(Piece("text", message.description))
    return [piece for piece in found if piece.text.strip() or piece.label]


def json_text(value: Json) -> str:
    """Return a value as compact JSON, a text as itself."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pieces(content: Json, full: bool) -> Iterator[Piece]:
    if isinstance(content, str):
        yield Piece("text", content)
    elif isinstance(content, list):
        for item in content:
            yield from _pieces(item, full)
    elif isinstance(content, dict):
        yield from _block(content, full)
    elif content is not None:
        yield Piece("other", json_text(content))


def _block(block: Mapping[str, Json], full: bool) -> Iterator[Piece]:
    kind, text, function = block.get("type"), block.get("text"), block.get("function")
    if kind in _THINKING:
        yield Piece("thinking", json_text(block.get("thinking") or text or block.get("summary") or ""))
    elif kind in _CALL or isinstance(function, dict):
        call = function if isinstance(function, dict) else block
        yield _call(call, full)
    elif isinstance(kind, str) and kind.endswith(("tool_result", "call_output")):
        result = block["content"] if "content" in block else block.get("output")
        for piece in _pieces(result, full):
            yield Piece("result", piece.text, piece.label)
    elif kind in _TEXT or (kind is None and isinstance(text, str)):
        yield Piece("text", json_text(text))
        yield from _pieces(block.get("tool_calls"), full)
    elif isinstance(source := block.get("source"), dict) or kind in ("image", "image_url", "document", "file"):
        yield Piece("other", _attachment(str(kind), source if isinstance(source, dict) else {}))
    elif "tool_calls" in block:
        yield from _pieces(block.get("content"), full)
        yield from _pieces(block.get("tool_calls"), full)
    else:
        yield Piece("other", json_text(dict(block)))


def _attachment(kind: str, source: Mapping[str, Json]) -> str:
    data = source.get("data")
    size = f", {len(data):,} characters" if isinstance(data, str) else ""
    return f"[{kind} {source.get('media_type') or source.get('url') or ''}{size}]".replace(" ]", "]")


def _call(call: Mapping[str, Json], full: bool) -> Piece:
    arguments = call["input"] if "input" in call else call.get("arguments")
    if isinstance(arguments, str):
        # Arguments that the model left unfinished are shown as they are.
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    name = json_text(call.get("name") or "tool")
    if not isinstance(arguments, dict):
        return Piece("call", "" if arguments is None else json_text(arguments), name)
    if full:
        return Piece("call", "\n".join(f"{key}: {json_text(value)}" for key, value in arguments.items()), name)
    return Piece("call", ", ".join(f"{key}={_short(json_text(value))}" for key, value in arguments.items()), name)


def _short(text: str) -> str:
    joined = " ".join(text[: _ARGUMENT_CHARS * 20].split())
    return joined if len(joined) <= _ARGUMENT_CHARS else f"{joined[: _ARGUMENT_CHARS - 1]}…"
