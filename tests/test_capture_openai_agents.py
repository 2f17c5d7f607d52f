"""What the tracing processor of the OpenAI Agents SDK writes, with the real SDK and a model that is made up."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import traceark
from program import PIPE, Program
from test_capture_otel import stored
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.run import import_paths
from traceark.store import ArchiveStore

if TYPE_CHECKING:
    from agents_made_up import (
        CALL,
        FOUR,
        Agent,
        ArchiveTracingProcessor,
        MadeUp,
        ResponseFunctionToolCall,
        RunConfig,
        Runner,
        adder,
        function_tool,
        set_trace_processors,
        tracing,
    )

HERE = Path(__file__)


def load() -> None:
    """Load the SDK, which takes seconds, only where its tests run: every test process collects this file."""
    made_up = importlib.import_module("agents_made_up")
    globals().update({name: getattr(made_up, name) for name in made_up.__all__})


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    load()


@pytest.fixture
def processor(tmp_path: Path) -> Iterator[ArchiveTracingProcessor]:
    processor = ArchiveTracingProcessor(tmp_path / "runs")
    set_trace_processors([processor])
    yield processor
    set_trace_processors([])
    processor.shutdown()


def only(place: Path) -> str:
    with traceark.open(place) as archive:
        [trace] = archive.list_traces()
        return trace.trace_id


def test_a_run_is_a_trace_with_its_agents_messages_and_tools(
    processor: ArchiveTracingProcessor, tmp_path: Path
) -> None:
    asyncio.run(Runner.run(adder(CALL, FOUR), "What is 2 + 2?", run_config=RunConfig(workflow_name="Sums")))
    processor.shutdown()
    trace, messages, events, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.agent_type, trace.model, trace.task) == ("completed", "adder", "m-1", "What is 2 + 2?")
    assert trace.metadata["openai_agents"] == {"workflow_name": "Sums"}
    assert [each.role for each in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [each.content for each in messages[:2]] == ["You add.", "What is 2 + 2?"]
    assert (messages[3].content, messages[3].tool_name, messages[3].tool_call_id) == ("4", "add", "c1")
    assert messages[4].content == "Four."
    assert (trace.total_tokens, messages[2].usage and messages[2].usage.cache_read_tokens) == (24, 4)
    assert goals is not None and [(each.description, each.status) for each in goals.goals] == [("adder", "completed")]
    assert {each.goal_id for each in messages} == {goals.goals[0].id}
    assert events[0].event_type == "openai-agents.trace"
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"


def test_what_was_said_is_in_the_archive_while_the_run_goes_on(
    processor: ArchiveTracingProcessor, tmp_path: Path
) -> None:
    seen = []

    @function_tool
    def look() -> str:
        """Look at the archive."""
        processor.force_flush()
        seen.append(stored(tmp_path / "runs", only(tmp_path / "runs")))
        return "seen"

    called = ResponseFunctionToolCall(arguments="{}", call_id="c1", name="look", type="function_call")
    asyncio.run(Runner.run(Agent("looker", model=MadeUp(called, FOUR), tools=[look]), "Look!"))
    [(trace, messages, _, goals)] = seen
    assert (trace.status, trace.completed_at, [each.role for each in messages]) == (
        "running",
        None,
        ["user", "assistant"],
    )
    assert goals is not None and [(each.description, each.status) for each in goals.goals] == [
        ("looker", "in_progress")
    ]
    assert messages[0].goal_id == goals.goals[0].id


def test_importing_what_the_sdk_exported_adds_nothing(processor: ArchiveTracingProcessor, tmp_path: Path) -> None:
    asyncio.run(Runner.run(adder(CALL, FOUR), "What is 2 + 2?"))
    processor.shutdown()
    captured = stored(tmp_path / "runs", only(tmp_path / "runs"))
    (tmp_path / "exported.jsonl").write_text("\n".join(json.dumps(each.payload) for each in captured[2]))
    assert OpenAIAgents().detect(tmp_path / "exported.jsonl")

    async def take(place: str) -> int:
        async with ArchiveStore(tmp_path / place) as store:
            return (await import_paths(store, [tmp_path / "exported.jsonl"])).totals()["new_messages"]

    assert (asyncio.run(take("runs")), asyncio.run(take("imported"))) == (0, 5)
    imported = stored(tmp_path / "imported", captured[0].trace_id)
    assert [each.model_dump(exclude={"sequence"}) for each in captured[1]] == [
        each.model_dump(exclude={"sequence"}) for each in imported[1]
    ]
    assert captured[3] is not None and imported[3] is not None
    assert captured[3].goals == imported[3].goals


def test_a_run_that_fails_is_a_failed_trace(processor: ArchiveTracingProcessor, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no answer"):
        asyncio.run(Runner.run(adder(CALL, RuntimeError("no answer")), "What is 2 + 2?"))
    processor.shutdown()
    trace, messages, *_ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert trace.status == "failed"
    assert [each.role for each in messages][:4] == ["system", "user", "assistant", "tool"]


def test_a_run_that_is_stopped_is_cancelled_and_has_not_failed(
    processor: ArchiveTracingProcessor, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    @function_tool
    async def add() -> str:
        """Never return."""
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def stopped() -> None:
        task = asyncio.create_task(Runner.run(Agent("adder", model=MadeUp(CALL), tools=[add]), "What is 2 + 2?"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    processor.shutdown()
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.error_message) == ("cancelled", None)
    assert [each.status for each in messages if each.role == "tool"] == ["cancelled"]
    assert goals is not None and [each.status for each in goals.goals] == ["cancelled"]


def test_an_error_that_no_span_tells_fails_its_trace_and_one_that_was_handled_before_does_not(
    processor: ArchiveTracingProcessor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError), tracing.trace("Raises"), tracing.agent_span("adder"):
        raise ValueError("no way")
    try:
        raise ValueError("before")
    except ValueError:
        with tracing.trace("Goes on"), tracing.agent_span("adder"):
            pass
    processor.shutdown()
    with traceark.open(tmp_path / "runs") as archive:
        found = {each.metadata["openai_agents"]["workflow_name"]: each for each in archive.list_traces()}
    assert (found["Raises"].status, found["Raises"].error_message) == ("failed", "no way")
    assert (found["Goes on"].status, found["Goes on"].error_message) == ("completed", None)


def test_what_went_wrong_in_a_tool_is_told(processor: ArchiveTracingProcessor, tmp_path: Path) -> None:
    with tracing.trace("Sums"), tracing.function_span("add") as span:
        span.set_error({"message": "Error running tool", "data": {"tool_name": "add", "error": "no disk"}})
    processor.shutdown()
    _, [told], *_ = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (told.status, told.error) == ("failed", "Error running tool: no disk")


def test_a_handoff_gives_each_agent_its_own_goal(processor: ArchiveTracingProcessor, tmp_path: Path) -> None:
    called = ResponseFunctionToolCall(arguments="{}", call_id="h1", name="transfer_to_adder", type="function_call")
    guide = Agent("guide", model=MadeUp(called), handoffs=[adder(FOUR)])
    asyncio.run(Runner.run(guide, "What is 2 + 2?"))
    processor.shutdown()
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert goals is not None and [each.description for each in goals.goals] == ["guide", "adder"]
    assert (trace.total_tokens, messages[-1].goal_id) == (24, goals.goals[1].id)


def test_runs_of_threads_and_of_one_loop_do_not_mix(processor: ArchiveTracingProcessor, tmp_path: Path) -> None:
    async def two(name: str) -> None:
        await asyncio.gather(*(Runner.run(adder(CALL, FOUR), f"{name}{number}") for number in range(2)))

    threads = [threading.Thread(target=lambda name=name: asyncio.run(two(name))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    processor.shutdown()
    with traceark.open(tmp_path / "runs") as archive:
        traces = archive.list_traces()
        assert sorted(str(each.task) for each in traces) == ["a0", "a1", "b0", "b1"]
        assert {(each.status, each.total_tokens, each.total_messages) for each in traces} == {("completed", 24, 5)}


def test_an_archive_that_cannot_be_written_does_not_touch_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    processor = ArchiveTracingProcessor(tmp_path / "file")
    set_trace_processors([processor])
    try:
        result = asyncio.run(Runner.run(adder(CALL, FOUR), "What is 2 + 2?"))
    finally:
        set_trace_processors([])
    assert result.final_output == "Four."
    processor.force_flush()
    assert processor.recorder.failures >= 1
    assert sum("could not be written" in each.getMessage() for each in caplog.records) == 1


def test_a_process_that_is_killed_leaves_a_running_trace(tmp_path: Path) -> None:
    process = Program(HERE, tmp_path / "runs", stdout=PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "called\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    trace, messages, _, goals = stored(tmp_path / "runs", only(tmp_path / "runs"))
    assert (trace.status, trace.task) == ("running", "What is 2 + 2?")
    assert [each.role for each in messages] == ["system", "user", "assistant"]
    assert goals is not None and goals.goals[0].status == "in_progress"


def _main(place: str) -> None:
    load()
    processor = ArchiveTracingProcessor(place)
    set_trace_processors([processor])

    @function_tool
    async def add(a: int, b: int) -> int:
        """Never return."""
        processor.force_flush()
        print("called", flush=True)
        await asyncio.Event().wait()
        return 0

    asyncio.run(Runner.run(Agent("adder", instructions="You add.", model=MadeUp(CALL), tools=[add]), "What is 2 + 2?"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
