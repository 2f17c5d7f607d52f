"""The OpenAI Agents SDK, a model for it that is made up, and what of both the tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunConfig,
    Runner,
    Usage,
    function_tool,
    set_trace_processors,
    tracing,
)
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails, ResponseUsage

from traceark.capture.openai_agents import ArchiveTracingProcessor

__all__ = [
    "CALL",
    "FOUR",
    "Agent",
    "ArchiveTracingProcessor",
    "MadeUp",
    "ResponseFunctionToolCall",
    "RunConfig",
    "Runner",
    "adder",
    "function_tool",
    "set_trace_processors",
    "tracing",
]

CALL = ResponseFunctionToolCall(arguments='{"a": 2, "b": 2}', call_id="c1", name="add", type="function_call")
FOUR = ResponseOutputMessage(
    id="m1",
    role="assistant",
    status="completed",
    type="message",
    content=[ResponseOutputText(text="Four.", type="output_text", annotations=[])],
)


class MadeUp(Model):
    """Says what it is given to say, and traces it as the SDK's own model of OpenAI's responses does."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = list(outputs)

    async def get_response(self, system_instructions: str | None, input: Any, *_: Any, **__: Any) -> ModelResponse:
        with tracing.response_span() as span:
            output = self.outputs.pop(0)
            if isinstance(output, Exception):
                raise output
            usage = ResponseUsage(
                input_tokens=10,
                input_tokens_details=InputTokensDetails(cached_tokens=4, cache_write_tokens=0),
                output_tokens=2,
                output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
                total_tokens=12,
            )
            span.span_data.input = input
            span.span_data.response = Response(
                id="r",
                created_at=0,
                model="m-1",
                object="response",
                output=[output],
                parallel_tool_calls=False,
                tool_choice="auto",
                tools=[],
                instructions=system_instructions,
                usage=usage,
            )
            await asyncio.sleep(0)
            return ModelResponse([output], Usage(requests=1, input_tokens=10, output_tokens=2, total_tokens=12), "r")

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def adder(*outputs: Any) -> Agent[Any]:
    return Agent("adder", instructions="You add.", model=MadeUp(*outputs), tools=[add])
