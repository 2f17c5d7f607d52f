"""Live capture of LangChain and LangGraph: a callback handler.

A run of a chain, a model, a tool or a retriever is a span; the outermost run is a trace. It knows
LangChain's callbacks and messages; what spans become is `live_trace`'s to say.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from traceark import models
from traceark.capture.extras import needs
from traceark.capture.langchain_run import ChainRun, RunMessages
from traceark.capture.live_trace import LiveTrace
from traceark.capture.outcome import outcome_of
from traceark.capture.plain import Repeated, plain
from traceark.capture.recorder import Recorder, StoreOptions
from traceark.importers.base import ImportCounts
from traceark.importers.span import Kind
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, utc_now

with needs("langchain"):
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGeneration, Generation, LLMResult

NAME = "langchain"
# Facts of a trace that its header has room for, in the metadata of a run.
_FACTS = ("thread_id", "session_id", "conversation_id")


class ArchiveCallbackHandler(BaseCallbackHandler):
    """Writes every run to an archive: what models are asked as they begin, all else as it ends.

    Make one for a program, and hand it to all runs. An agent, and so a goal, is a chain whose metadata
    name one by ``lc_agent_name`` that the run around it does not have (LangChain's ``create_agent`` does
    so), one with the tag ``agent``, or one that tells an agent's actions.

    Parameters
    ----------
    url, **options
        As for `ArchiveStore`: `storage_options`, `durability`, `allow_unsafe_writes`.

    Examples
    --------
    >>> from langchain_core.language_models import FakeListChatModel
    >>> handler = ArchiveCallbackHandler("memory://langchain-example")
    >>> model = FakeListChatModel(responses=["Four."])
    >>> model.invoke("What is 2 + 2?", {"callbacks": [handler]}).content
    'Four.'
    >>> handler.close()
    >>> import traceark
    >>> with traceark.open("memory://langchain-example") as archive:
    ...     archive.sql("SELECT role, content FROM messages ORDER BY sequence").rows()
    [{'role': 'user', 'content': '"What is 2 + 2?"'}, {'role': 'assistant', 'content': '"Four."'}]
    """

    def __init__(self, url: str | Path, **options: Unpack[StoreOptions]) -> None:
        self.recorder = Recorder(url, **options)
        self._runs: dict[UUID, ChainRun] = {}
        self._lock = threading.Lock()
        # LangChain has no word for the end of a program.
        atexit.register(self.close)

    def flush(self) -> bool:
        """Write everything, also what failed before; say whether all is in the archive."""
        return self.recorder.flush()

    def close(self) -> None:
        """Write everything, seal what has ended, and end."""
        atexit.unregister(self.close)
        self.recorder.close()

    def on_chain_start(self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, **about: Any) -> None:
        """Begin a chain."""
        self._begin("other", "chain", serialized, inputs, run_id, about)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **about: Any) -> None:
        """End a chain."""
        self._end(run_id, outputs)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **about: Any) -> None:
        """End a chain that failed."""
        self._end(run_id, None, error)

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **about: Any
    ) -> None:
        """Begin a call of a model."""
        told = [each for conversation in messages for each in conversation]
        self._begin("chat", "llm", serialized, told, run_id, about)

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **about: Any) -> None:
        """Begin a call of a model that completes texts."""
        told = [{"role": "user", "content": prompt} for prompt in prompts]
        self._begin("chat", "llm", serialized, told, run_id, about)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **about: Any) -> None:
        """End a call of a model."""
        self._end(run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **about: Any) -> None:
        """End a call of a model that failed, with what it had said."""
        self._end(run_id, about.get("response"), error)

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **about: Any) -> None:
        """Begin a call of a tool."""
        inputs = about.pop("inputs", None)
        self._begin("tool", "tool", serialized, inputs if inputs is not None else input_str, run_id, about)

    def on_tool_end(self, output: Any, *, run_id: UUID, **about: Any) -> None:
        """End a call of a tool."""
        self._end(run_id, output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **about: Any) -> None:
        """End a call of a tool that failed."""
        self._end(run_id, None, error)

    def on_retriever_start(self, serialized: dict[str, Any], query: str, *, run_id: UUID, **about: Any) -> None:
        """Begin a search of documents."""
        self._begin("other", "retriever", serialized, query, run_id, about)

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **about: Any) -> None:
        """End a search of documents."""
        self._end(run_id, documents)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **about: Any) -> None:
        """End a search of documents that failed."""
        self._end(run_id, None, error)

    def on_agent_action(self, action: Any, *, run_id: UUID, **about: Any) -> None:
        """Take that a chain is an agent, and what it is about to do."""
        self._tell(run_id, "agent_action", action, is_agent=True)

    def on_agent_finish(self, finish: Any, *, run_id: UUID, **about: Any) -> None:
        """Take that a chain is an agent, and what it came to."""
        self._tell(run_id, "agent_finish", finish, is_agent=True)

    def on_retry(self, retry_state: Any, *, run_id: UUID, **about: Any) -> None:
        """Keep that something is tried again."""
        told = {name: getattr(retry_state, name, None) for name in ("attempt_number", "idle_for")}
        self._tell(run_id, "retry", {**told, "outcome": repr(getattr(retry_state, "outcome", None))})

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **about: Any) -> None:
        """Keep an event of the user's own."""
        self._tell(run_id, "custom_event", {"name": name, "data": data})

    def _begin(
        self, kind: Kind, run_type: str, serialized: Any, inputs: Any, run_id: UUID, about: Mapping[str, Any]
    ) -> None:
        parent_id = about.get("parent_run_id")
        with self._lock:
            above = self._runs.get(parent_id) if parent_id is not None else None
            messages = above.messages if above is not None else RunMessages(BaseMessage)
        run = ChainRun.of(kind, run_type, serialized, inputs, run_id, above, messages, about)
        with self._lock:
            self._runs[run_id] = run

        def begin(live: _ChainTrace) -> None:
            if above is None:
                live.tell(run)
            live.put(run.span(_typed()))

        self._record(run, begin)

    def _end(self, run_id: UUID, outputs: Any, error: BaseException | None = None) -> None:
        with self._lock:
            run = self._runs.pop(run_id, None)
            stopped: list[ChainRun] = []
            if run is not None and run.is_root and outcome_of(error) == "cancelled":
                # Some versions tell no end of what was cancelled with the run around it.
                stopped = [each for each in self._runs.values() if each.trace_id == run.trace_id]
        for each in reversed(stopped):
            self._end(UUID(each.run_id), None, error)
        if run is None:
            return  # it began before the handler was there

        at, outcome = utc_now(), outcome_of(error)
        repeated = run.messages.repeated
        told = _result(outputs, repeated) if isinstance(outputs, LLMResult) else plain(outputs, repeated)
        said = None if error is None else f"{type(error).__name__}: {error}"

        def end(live: _ChainTrace) -> None:
            run.end(at, told, said, outcome)
            live.event("run", run.record())
            live.put(run.span(_typed()))
            if run.is_root:
                live.end()

        self._record(run, end)

    def _tell(self, run_id: UUID, kind: str, told: Any, *, is_agent: bool = False) -> None:
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            return

        payload: JsonObject = {"run_id": str(run_id), "told": plain(told)}

        def tell(live: _ChainTrace) -> None:
            live.event(kind, payload)
            if is_agent and run.kind == "other":
                run.kind = "agent"
                live.put(run.span(_typed()))

        self._record(run, tell)

    def _record(self, run: ChainRun, change: Callable[[Any], None]) -> None:
        self.recorder.record(run.trace_id, lambda: _ChainTrace(run.trace_id), change)


class _ChainTrace(LiveTrace):
    """A trace, and what its outermost run says of it."""

    def __init__(self, trace_id: str) -> None:
        self._facts: JsonObject = {}
        self._user: Json = None
        super().__init__(trace_id, NAME, self._describe_it)

    def tell(self, run: ChainRun) -> None:
        self._facts = {name: run.metadata[name] for name in _FACTS if isinstance(run.metadata.get(name), str)}
        self._user = run.metadata.get("user_id")

    def _describe_it(self, trace: models.Trace, typed: Typed) -> None:
        trace.uid = typed.text(self._user)
        if self._facts:
            trace.metadata = {**trace.metadata, NAME: self._facts}


def _result(result: LLMResult, repeated: Repeated) -> Json:
    """Return the answers of a model as JSON, their messages with what a generation leaves out of them."""
    generations: list[Json] = [
        {**_shown(each), **({"message": plain(each.message, repeated)} if isinstance(each, ChatGeneration) else {})}
        for answers in result.generations
        for each in answers
    ]
    return {"generations": generations, "llm_output": plain(result.llm_output)}


def _shown(generation: Generation) -> JsonObject:
    told = plain(generation)
    return told if isinstance(told, dict) else {"text": generation.text}


def _typed() -> Typed:
    return Typed(ImportCounts().repaired)
