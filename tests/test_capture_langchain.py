"""What LangChain's callback handler writes, with the real library and models that are made up."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import traceark
from program import Program, ran
from test_capture_otel import contents, stored
from traceark.models import Trace

if TYPE_CHECKING:
    from langchain_made_up import (
        ASKED,
        CALL,
        FOUR,
        AgentAction,
        AgentFinish,
        AIMessage,
        ArchiveCallbackHandler,
        FakeListLLM,
        GenericFakeChatModel,
        HumanMessage,
        RunnableConfig,
        RunnableLambda,
        add,
        adder,
        tool,
    )

HERE = Path(__file__)


def load() -> None:
    """Load the library, which takes a second, only where its tests run: every test process collects this file."""
    made_up = importlib.import_module("langchain_made_up")
    globals().update({name: getattr(made_up, name) for name in made_up.__all__})


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    load()


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[ArchiveCallbackHandler]:
    handler = ArchiveCallbackHandler(tmp_path / "runs")
    yield handler
    handler.close()


def only(place: Path) -> str:
    with traceark.open(place) as archive:
        [trace] = archive.list_traces()
        return trace.trace_id


def traces(place: Path) -> list[Trace]:
    with traceark.open(place) as archive:
        return archive.list_traces()


def test_a_run_is_a_trace_with_its_messages_tools_and_usage(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    config: RunnableConfig = {"callbacks": [handler], "metadata": {"thread_id": "th-1", "user_id": "rosa"}}
    assert adder(CALL, FOUR).invoke(ASKED, config) == "Four."
    handler.close()
    trace, messages, events, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.agent_type, trace.task, trace.model) == ("completed", "adder", "What is 2 + 2?", "m-1")
    assert (trace.uid, trace.metadata["langchain"]) == ("rosa", {"thread_id": "th-1"})
    assert contents(messages) == [
        ("system", "You add."),
        ("user", "What is 2 + 2?"),
        ("assistant", [{"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 2, "b": 2}}]),
        ("tool", "4"),
        ("assistant", "Four."),
    ]
    assert (messages[3].tool_name, messages[3].tool_call_id) == ("add", "c1")
    usage = messages[2].usage
    assert usage is not None and (usage.input_tokens, usage.cache_read_tokens) == (6, 4)
    assert trace.total_tokens == 35
    assert goals is not None and [(each.description, each.status) for each in goals.goals] == [("adder", "completed")]
    assert {each.goal_id for each in messages} == {goals.goals[0].id}
    assert [each.payload["run_type"] for each in events] == ["llm", "tool", "llm", "chain"]
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"


def test_usage_beside_the_answer_counts_its_cached_tokens(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    usage = {"input_tokens": 1000, "cache_read_input_tokens": 600, "output_tokens": 50}

    class Telling(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._generate(*args, **kwargs)
            result.llm_output = {"usage": usage}
            return result

    Telling(messages=iter([AIMessage(content="Four.")])).invoke(ASKED, {"callbacks": [handler]})
    handler.close()
    [trace] = traces(tmp_path / "runs")
    assert trace.total_tokens == 1650


def test_what_is_asked_is_in_the_archive_before_the_answer(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    seen = []

    class Slow(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            handler.flush()
            seen.append(stored(tmp_path / "runs", only(tmp_path / "runs")))
            return super()._generate(*args, **kwargs)

    Slow(messages=iter([FOUR])).invoke(ASKED, {"callbacks": [handler]})
    handler.close()
    assert (seen[0][0].status, contents(seen[0][1])) == (
        "running",
        [("system", "You add."), ("user", "What is 2 + 2?")],
    )
    [trace] = traces(tmp_path / "runs")
    assert (trace.status, trace.mode, trace.total_messages) == ("completed", "call", 3)


def test_asynchronous_runs_of_one_loop_do_not_mix(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    async def both() -> None:
        chains = [(adder(CALL, FOUR), [HumanMessage(f"task {number}")]) for number in range(3)]
        await asyncio.gather(*(chain.ainvoke(asked, {"callbacks": [handler]}) for chain, asked in chains))

    asyncio.run(both())
    handler.close()
    found = traces(tmp_path / "runs")
    assert sorted(str(each.task) for each in found) == ["task 0", "task 1", "task 2"]
    assert {(each.status, each.total_tokens, each.total_messages) for each in found} == {("completed", 35, 4)}


def test_runs_of_threads_do_not_mix(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    def run(name: str) -> None:
        adder(CALL, FOUR).invoke([HumanMessage(name)], {"callbacks": [handler]})

    threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    found = traces(tmp_path / "runs")
    assert sorted((str(each.task), each.total_messages) for each in found) == [("a", 4), ("b", 4), ("c", 4)]


def test_an_answer_in_pieces_is_one_message(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("Two and two is four.")]))
    assert len(list(model.stream("What is 2 + 2?", {"callbacks": [handler]}))) > 1
    handler.close()
    _, messages, *_ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert contents(messages) == [("user", "What is 2 + 2?"), ("assistant", "Two and two is four.")]


def test_an_agent_within_an_agent_is_a_goal_of_its_own(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    def guide(asked: str, config: RunnableConfig) -> str:
        model = GenericFakeChatModel(messages=iter([AIMessage("I ask the adder.")]))
        model.invoke(asked, config)
        return str(adder(FOUR).invoke(ASKED))

    outer = RunnableLambda(guide).with_config(run_name="guide", metadata={"lc_agent_name": "guide"})
    outer.invoke("Add for me.", {"callbacks": [handler]})
    handler.close()
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert trace.agent_type == "guide"
    assert goals is not None
    above, below = goals.goals
    assert [(each.description, each.parent_id) for each in (above, below)] == [("guide", None), ("adder", above.id)]
    assert [(each.content, each.goal_id) for each in messages] == [
        ("Add for me.", above.id),
        ("I ask the adder.", above.id),
        ("You add.", below.id),
        ("What is 2 + 2?", below.id),
        ("Four.", below.id),
    ]


def test_a_chain_that_tells_an_agents_actions_is_an_agent(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    run = uuid4()
    handler.on_chain_start({"name": "AgentExecutor"}, {"input": "What is 2 + 2?"}, run_id=run)
    handler.on_agent_action(AgentAction("add", {"a": 2}, "I add."), run_id=run)
    handler.on_agent_finish(AgentFinish({"output": "Four."}, "Done."), run_id=run)
    handler.on_chain_end({"output": "Four."}, run_id=run)
    handler.close()
    trace, messages, events, goals = stored(tmp_path / "runs", str(run))
    assert (trace.agent_type, trace.result_summary) == ("AgentExecutor", "Four.")
    assert contents(messages) == [("user", "What is 2 + 2?"), ("assistant", "Four.")]
    assert [each.event_type for each in events] == [
        "langchain.agent_action",
        "langchain.agent_finish",
        "langchain.run",
    ]
    assert goals is not None and len(goals.goals) == 1


def test_an_error_of_a_tool_and_of_the_run_is_told(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    @tool
    def fail() -> str:
        """Fail."""
        raise ValueError("no disk")

    def chain(_: str, config: RunnableConfig) -> str:
        return str(fail.invoke({}, config))

    with pytest.raises(ValueError, match="no disk"):
        RunnableLambda(chain).invoke("Go.", {"callbacks": [handler]})
    handler.close()
    trace, messages, events, _ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.error_message) == ("failed", "ValueError: no disk")
    [message] = [each for each in messages if each.role == "tool"]
    assert (message.tool_name, message.error) == ("fail", "ValueError: no disk")
    assert [each.payload["error"] for each in events] == ["ValueError: no disk"] * 2


def test_a_run_that_is_stopped_is_cancelled_and_has_not_failed(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    begun = asyncio.Event()

    @tool
    async def wait() -> None:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()

    async def agent(_: str, config: RunnableConfig) -> None:
        await wait.ainvoke({}, config)

    async def stopped() -> None:
        chain = RunnableLambda(agent).with_config(run_name="waiter", metadata={"lc_agent_name": "waiter"})
        task = asyncio.create_task(chain.ainvoke("Go.", {"callbacks": [handler]}))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    handler.close()
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.error_message) == ("cancelled", None)
    assert [(each.role, each.tool_name, each.status) for each in messages if each.role == "tool"] == [
        ("tool", "wait", "cancelled")
    ]
    assert goals is not None and goals.goals[0].status == "cancelled"
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"


def test_what_a_cancelled_run_had_begun_is_cancelled_with_it(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    run, called = uuid4(), uuid4()
    handler.on_chain_start({"name": "graph"}, {"input": "Go."}, run_id=run)
    handler.on_tool_start({"name": "wait"}, "{}", run_id=called, parent_run_id=run)
    handler.on_chain_error(asyncio.CancelledError(), run_id=run)
    handler.close()
    _, messages, events, _ = stored(tmp_path / "runs", str(run))
    assert [(each.tool_name, each.status) for each in messages if each.role == "tool"] == [("wait", "cancelled")]
    assert [each.payload["id"] for each in events] == [str(called), str(run)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_a_run_that_a_person_stops_or_nobody_reads_on_is_cancelled(
    handler: ArchiveCallbackHandler, tmp_path: Path, error: BaseException
) -> None:
    run = uuid4()
    handler.on_chain_start({"name": "graph"}, {"input": "Go."}, run_id=run)
    handler.on_chain_error(error, run_id=run)  # as LangGraph tells it of a stream that is given up
    handler.close()
    assert [each.status for each in traces(tmp_path / "runs")] == ["cancelled"]


def test_an_agent_in_one_of_the_same_name_is_a_goal_and_a_node_of_its_graph_is_none(
    handler: ArchiveCallbackHandler, tmp_path: Path
) -> None:
    outer, node, called, inner, inner_node = (uuid4() for _ in range(5))
    named = {"lc_agent_name": "agent"}
    handler.on_chain_start({}, {"input": "Go."}, run_id=outer, name="agent", metadata=named)
    at = {**named, "langgraph_node": "agent"}
    handler.on_chain_start({}, {}, run_id=node, parent_run_id=outer, name="agent", metadata=at)
    at = {**named, "langgraph_node": "tools"}
    handler.on_tool_start({"name": "ask"}, "{}", run_id=called, parent_run_id=node, metadata=at)
    handler.on_chain_start({}, {"input": "Add."}, run_id=inner, parent_run_id=called, name="agent", metadata=at)
    handler.on_chain_start({}, {}, run_id=inner_node, parent_run_id=inner, name="model", metadata=at)
    for run in (inner_node, inner, node, outer):
        handler.on_chain_end({}, run_id=run)
    handler.close()
    _, _, _, goals = stored(tmp_path / "runs", str(outer))
    assert goals is not None and [(each.id, each.parent_id) for each in goals.goals] == [
        (str(outer), None),
        (str(inner), str(outer)),
    ]


def test_what_each_call_is_given_again_is_told_once(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    assert adder(CALL, CALL.model_copy(), FOUR).invoke(ASKED, {"callbacks": [handler]}) == "Four."
    handler.close()
    _, _, events, _ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    first, second, third = (each.payload for each in events if each.payload["run_type"] == "llm")
    assert [each["content"] for each in first["inputs"]] == ["You add.", "What is 2 + 2?"]
    assert second["inputs"]["after"] == {"id": first["id"], "path": ["inputs"], "items": 2}
    assert third["inputs"]["after"] == {"id": second["id"], "path": ["inputs"], "items": 4}
    assert [each["type"] for each in third["inputs"]["items"]] == ["ai", "tool"]


def test_a_message_that_was_changed_meanwhile_is_told_as_it_is(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    message = HumanMessage([{"type": "text", "text": "one"}])

    def twice(_: str, config: RunnableConfig) -> str:
        chat = GenericFakeChatModel(messages=iter([AIMessage("1"), AIMessage("2")]))
        chat.invoke([message], config)
        message.content[0]["text"] = "two"  # type: ignore[index]
        return str(chat.invoke([message], config).content)

    RunnableLambda(twice).invoke("Go.", {"callbacks": [handler]})
    handler.close()
    _, _, events, _ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    told = [each.payload["inputs"] for each in events if each.payload["run_type"] == "llm"]
    assert [each[0]["content"] for each in told] == [
        [{"type": "text", "text": "one"}],
        [{"type": "text", "text": "two"}],
    ]


def test_a_chain_without_a_model_tells_what_it_was_given_and_gave(
    handler: ArchiveCallbackHandler, tmp_path: Path
) -> None:
    RunnableLambda(lambda text: text.upper()).invoke("quiet", {"callbacks": [handler]})
    handler.close()
    _, messages, *_ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert contents(messages) == [("user", "quiet"), ("assistant", "QUIET")]


def test_a_model_that_completes_texts_is_a_call_too(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    FakeListLLM(responses=["four"]).invoke("two plus two is", {"callbacks": [handler]})
    handler.close()
    _, messages, *_ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert contents(messages) == [("user", "two plus two is"), ("assistant", "four")]


def test_values_that_are_no_json_are_told_as_text(handler: ArchiveCallbackHandler, tmp_path: Path) -> None:
    odd: dict[Any, Any] = {"lock": threading.Lock(), "nan": float("nan"), 7: {1, 2}, "raw": b"ab"}
    odd["itself"] = odd
    RunnableLambda[Any, int](len).invoke(odd, {"callbacks": [handler]})
    assert handler.recorder.failures == 0
    handler.close()
    _, _, [event], _ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    inputs = event.payload["inputs"]
    assert (inputs["nan"], inputs["7"], inputs["raw"]) == ("nan", [1, 2], "YWI=")
    assert "lock" in inputs["lock"]


def test_a_failing_disk_does_not_touch_the_run_and_loses_nothing(
    handler: ArchiveCallbackHandler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        assert adder(CALL, FOUR).invoke(ASKED, {"callbacks": [handler]}) == "Four."
        assert not handler.flush()
    assert [each.name for each in caplog.records] == ["traceark.capture"]
    assert handler.flush()
    handler.close()
    trace, messages, events, _ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.total_tokens, len(messages), len(events)) == ("completed", 35, 5, 4)


def test_a_run_that_is_killed_leaves_a_running_trace_with_its_messages(tmp_path: Path) -> None:
    assert Program(HERE, "killed", tmp_path / "runs").wait() == -9
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, [each.role for each in messages]) == ("running", ["system", "user", "assistant"])
    assert goals is not None and goals.goals[0].status == "in_progress"


def test_a_program_that_ends_without_closing_the_handler_is_sealed(tmp_path: Path) -> None:
    found = ran(HERE, "ends", tmp_path / "runs")
    assert (found.returncode, found.stderr) == (0, "")
    [trace] = traces(tmp_path / "runs")
    assert (trace.status, trace.total_messages) == ("completed", 5)
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"


def _main(what: str, place: str) -> None:
    load()
    import os
    import signal

    handler = ArchiveCallbackHandler(place)
    if what == "killed":
        # In place of the tool's own work: it never returns.
        def kill(a: int, b: int) -> None:
            handler.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        add.func = kill
    adder(CALL, FOUR).invoke(ASKED, {"callbacks": [handler]})


if __name__ == "__main__":
    _main(*sys.argv[1:])
