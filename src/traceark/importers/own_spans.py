"""What traceark's own export of spans tells beside the conventions: which message stands where, and how a run stands.

Its spans tell what a model was given since the call before alone, and each message's place in the run. What
they say is taken to the letter: nothing in it is a repetition, and no text is looked into for more than a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from traceark.importers.chat_messages import decoded
from traceark.importers.conversation import Told
from traceark.importers.document import objects_of
from traceark.importers.span import Placed, Span
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

_RUNNING = ("running", "in_progress")


def as_exported(span: Span, attributes: Mapping[str, Json], typed: Typed) -> Span:
    """Return a span with what traceark's export tells of it, as it is where it tells nothing.

    Examples
    --------
    >>> from collections import Counter
    >>> said = '[{"role": "assistant", "parts": [{"type": "text", "content": "[]"}]}]'
    >>> attributes = {"gen_ai.output.messages": said, "traceark.place": 3}
    >>> span = as_exported(Span("s", "chat", None), attributes, Typed(Counter()))
    >>> span.placed.place, span.outputs[0].content
    (3, '[]')
    """
    status = attributes.get("traceark.status", attributes.get("traceark.goal.status"))
    if status == "cancelled":
        span = replace(span, cancelled=True)
    elif status in _RUNNING:
        span = replace(span, end=None)
    placed = _placed(attributes, typed)
    inputs = _messages(attributes.get("gen_ai.input.messages"))
    if placed is None or len(placed.inputs) != len(inputs):
        return span
    if span.kind != "tool":
        return replace(span, placed=placed, inputs=inputs, outputs=_messages(attributes.get("gen_ai.output.messages")))
    return replace(
        span,
        placed=placed,
        tool=typed.text(attributes.get("gen_ai.tool.name")),
        call_id=typed.identifier(attributes.get("gen_ai.tool.call.id")),
        # An attribute that says nothing is left out.
        result=attributes.get("gen_ai.tool.call.result", ""),
    )


def _placed(attributes: Mapping[str, Json], typed: Typed) -> Placed | None:
    """Return where messages stand; None where that is not told."""
    told, places = attributes.get("traceark.place"), decoded(attributes.get("traceark.input.places"))
    place = _place(told)
    inputs = [_place(each) for each in places] if isinstance(places, list) else []
    if (place is None and not inputs) or None in inputs:
        return None
    known = tuple(each for each in inputs if each is not None)
    return Placed(place, known, typed.text(attributes.get("traceark.message.status")))


def _place(told: Json) -> int | None:
    """Return a place, which some tell as text."""
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 20:
        return int(told)
    return told if isinstance(told, int) and not isinstance(told, bool) else None


def _messages(told: Json) -> list[Told]:
    """Return the messages of an attribute, one for each that it has."""
    return [_message(each) for each in objects_of(decoded(told))]


def _message(message: JsonObject) -> Told:
    role, parts = message.get("role"), objects_of(message.get("parts"))
    if role == "tool":
        return Told("tool", parts[0].get("response") if parts else None)
    blocks = [_block(part) for part in parts]
    only = blocks[0].get("text") if len(blocks) == 1 and blocks[0].get("type") == "text" else None
    return Told(role if isinstance(role, str) else "user", only if only is not None else [*blocks] or None)


def _block(part: JsonObject) -> JsonObject:
    kind, text = part.get("type"), part.get("content")
    if kind == "text":
        return {"type": "text", "text": text}
    return {"type": "thinking", "thinking": text} if kind == "reasoning" else part
