"""LangChain, an agent of its parts whose model is made up, and what of both the tests need."""

from __future__ import annotations

from typing import Any

from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import tool

from traceark.capture.langchain import ArchiveCallbackHandler

__all__ = [
    "ASKED",
    "CALL",
    "FOUR",
    "AIMessage",
    "AgentAction",
    "AgentFinish",
    "ArchiveCallbackHandler",
    "FakeListLLM",
    "GenericFakeChatModel",
    "HumanMessage",
    "RunnableConfig",
    "RunnableLambda",
    "add",
    "adder",
    "tool",
]

CALL = AIMessage(
    content="",
    tool_calls=[{"name": "add", "args": {"a": 2, "b": 2}, "id": "c1"}],
    usage_metadata={
        "input_tokens": 10,
        "output_tokens": 2,
        "total_tokens": 12,
        "input_token_details": {"cache_read": 4},
    },
)
FOUR = AIMessage(
    content="Four.",
    usage_metadata={"input_tokens": 20, "output_tokens": 3, "total_tokens": 23},
    response_metadata={"model_name": "m-1"},
)
ASKED: list[BaseMessage] = [SystemMessage("You add."), HumanMessage("What is 2 + 2?")]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def adder(*said: AIMessage) -> Runnable[Any, Any]:
    """Return an agent: it asks a model, calls the tool, and asks again, until the model calls none."""
    model = GenericFakeChatModel(messages=iter(said))

    def loop(messages: list[BaseMessage], config: RunnableConfig) -> str:
        messages = list(messages)
        while True:
            answer = model.invoke(messages, config)
            messages.append(answer)
            if not answer.tool_calls:
                return str(answer.content)
            messages += [add.invoke({**call, "type": "tool_call"}, config) for call in answer.tool_calls]

    return RunnableLambda(loop).with_config(run_name="adder", metadata={"lc_agent_name": "adder"})
