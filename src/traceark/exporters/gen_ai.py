"""What messages say, as OpenTelemetry's conventions for generative AI name it: providers, usage, parts.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai, version 0.1.0. It knows no span.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from traceark.exporters.content import Part
from traceark.exporters.otel import SURROGATE, Value
from traceark.exporters.turns import Turn
from traceark.models import JsonObject, Message

# Who makes a model whose name begins so, in the conventions' words.
_PROVIDERS = (
    ("claude", "anthropic"),
    ("gpt", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("grok", "x_ai"),
    ("deepseek", "deepseek"),
    ("command", "cohere"),
)
# Who serves a model whose name begins with a route to it, whoever made it.
_ROUTES = (
    ("bedrock/", "aws.bedrock"),
    ("azure/", "azure.ai.openai"),
    ("vertex_ai/", "gcp.vertex_ai"),
    ("groq/", "groq"),
)
# Such as us.anthropic.claude-sonnet-4-20250514-v1:0.
_OF_BEDROCK = re.compile(r"([a-z]+\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|openai)\.")


def provider_of(model: str | None) -> str | None:
    """Return who serves a model, in the conventions' words; None where its name does not tell."""
    told = (model or "").lower()
    name = told.rpartition("/")[2]
    if _OF_BEDROCK.match(name):
        return "aws.bedrock"
    served = next((provider for route, provider in _ROUTES if told.startswith(route)), None)
    return served or next((provider for prefix, provider in _PROVIDERS if name.startswith(prefix)), None)


def usage_of(messages: Sequence[Message]) -> dict[str, Value]:
    """Return tokens as the conventions count them: what is read from or written to a cache is input too."""
    spent = [message for message in messages if message.counted_tokens() or message.cost]
    if not spent:
        return {}
    kinds: Counter[str] = Counter()
    for message in spent:
        usage = message.usage
        total = usage.total() if usage is not None else 0
        if usage is not None and total <= message.counted_tokens():
            kinds.update({name: getattr(usage, name) or 0 for name in type(usage).model_fields})
            kinds["input_tokens"] += message.counted_tokens() - total
        else:
            kinds["input_tokens"] += message.counted_tokens()
    costs = [message.cost for message in spent if message.cost is not None]
    cached = kinds["cache_read_tokens"] + kinds["cache_write_tokens"]
    return {
        "gen_ai.usage.input_tokens": kinds["input_tokens"] + cached,
        "gen_ai.usage.output_tokens": kinds["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": kinds["cache_read_tokens"] or None,
        "gen_ai.usage.cache_creation.input_tokens": kinds["cache_write_tokens"] or None,
        "gen_ai.usage.reasoning.output_tokens": kinds["reasoning_tokens"] or None,
        # The conventions have no word for it.
        "operation.cost": sum(costs) if costs else None,
    }


def calls_of(turn: Turn, at: int) -> Iterator[tuple[Part, str | None]]:
    """Yield the calls of the turn at a place, each with its id; one that the model made has one always."""
    for number, call in enumerate(part for part in turn.parts if part.kind == "call"):
        yield call, call.call_id or (f"call_{at}_{number}" if turn.role == "assistant" else None)


def parts_of_turn(turn: Turn, at: int) -> Iterator[JsonObject]:
    """Yield what the turn at a place says as parts, but for answers of tools."""
    call_ids = (call_id for _, call_id in calls_of(turn, at))
    for part in turn.parts:
        if part.kind == "call":
            yield {"type": "tool_call", "id": next(call_ids), "name": part.name, "arguments": part.arguments}
        elif part.kind == "thinking":
            if part.text:
                yield {"type": "reasoning", "content": part.text}
        elif part.kind != "result":
            yield {"type": "text", "content": part.text}


def answer_of(call_id: str | None, part: Part) -> JsonObject:
    """Return the answer to a call as a part."""
    return {"type": "tool_call_response", "id": call_id, "response": part.text}


def messages_text(messages: Sequence[JsonObject]) -> str:
    """Return messages as the text that an attribute holds."""
    text = json.dumps(messages, ensure_ascii=False)
    return text if text.isascii() or not SURROGATE.search(text) else json.dumps(messages)
