"""What the exporter of OpenTelemetry's spans writes, with the real SDK.

Run as a program, this file is a run that is killed, or one that ends without a word to the exporter.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer
from opentelemetry.util.types import AnyValue

import traceark
from program import PIPE, Program, ran
from test_crash import damage
from traceark.capture.otel import ArchiveSpanExporter, ArchiveSpanProcessor
from traceark.importers.run import import_paths
from traceark.models import Event, GoalTree, Message, Trace
from traceark.store import ArchiveStore

HERE = Path(__file__)


def said(*messages: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in messages])


def chat(tracer: Tracer, asked: str, answered: str, tokens: int = 7) -> None:
    """Be a call of a model."""
    with tracer.start_as_current_span("chat m-1") as span:
        span.set_attribute("gen_ai.operation.name", "chat")
        span.set_attribute("gen_ai.response.model", "m-1")
        span.set_attribute("gen_ai.input.messages", said(("user", asked)))
        span.set_attribute("gen_ai.output.messages", said(("assistant", answered)))
        span.set_attribute("gen_ai.usage.input_tokens", tokens)


def agent_run(tracer: Tracer, asked: str) -> str:
    """Be a run of an agent that calls a model, a tool, and the model again; return its trace id."""
    with tracer.start_as_current_span("invoke_agent guide", attributes={"gen_ai.agent.name": "guide"}) as span:
        span.set_attribute("gen_ai.operation.name", "invoke_agent")
        chat(tracer, asked, "I look.")
        with tracer.start_as_current_span("execute_tool find") as tool:
            tool.set_attribute("gen_ai.operation.name", "execute_tool")
            tool.set_attribute("gen_ai.tool.name", "find")
            tool.set_attribute("gen_ai.tool.call.result", "3 files")
        chat(tracer, asked, "Three.")
        return f"{span.get_span_context().trace_id:032x}"


def stored(place: Path | str, trace_id: str) -> tuple[Trace, list[Message], list[Event], GoalTree | None]:
    with traceark.open(place) as archive:
        trace = archive.get_trace(trace_id)
        assert trace is not None
        return (
            trace,
            archive.get_trace_messages(trace_id),
            archive.get_events(trace_id),
            archive.get_goal_tree(trace_id),
        )


def contents(messages: list[Message]) -> list[tuple[str, object]]:
    return [(each.role, each.content) for each in messages]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[ArchiveSpanExporter]:
    exporter = ArchiveSpanExporter(tmp_path / "runs")
    yield exporter
    exporter.shutdown()


@pytest.fixture
def provider(exporter: ArchiveSpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def test_a_span_is_in_the_archive_as_it_ends_and_its_trace_runs_until_the_root_ends(
    provider: TracerProvider, tmp_path: Path
) -> None:
    tracer = provider.get_tracer("own")
    with tracer.start_as_current_span("invoke_agent guide") as root:
        root.set_attribute("gen_ai.operation.name", "invoke_agent")
        trace_id = f"{root.get_span_context().trace_id:032x}"
        chat(tracer, "How many?", "Three.")
        trace, messages, events, goals = stored(tmp_path / "runs", trace_id)
        assert (trace.status, trace.task, trace.completed_at, trace.total_tokens) == ("running", "How many?", None, 7)
        assert contents(messages) == [("user", "How many?"), ("assistant", "Three.")]
        assert [each.event_type for each in events] == ["otlp.resource", "otlp.scope", "otlp.span"]
        assert goals is None and messages[0].goal_id is None
    provider.shutdown()
    trace, messages, events, goals = stored(tmp_path / "runs", trace_id)
    assert (trace.status, trace.agent_type, trace.result_summary) == ("completed", "guide", "Three.")
    assert goals is not None and goals.goals[0].status == "completed"
    assert {each.goal_id for each in messages} == {goals.goals[0].id}
    assert goals.goals[0].self_stats.total_tokens == 7
    assert [each.event_type for each in events][3:] == ["otlp.span"]
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"
    with traceark.open(tmp_path / "runs") as archive:
        assert archive.verify(deep=True) == []


def test_it_makes_what_the_importer_makes_of_the_same_spans_and_importing_them_adds_nothing(
    provider: TracerProvider, tmp_path: Path
) -> None:
    trace_id = agent_run(provider.get_tracer("own", "1.0"), "How many?")
    provider.shutdown()
    captured = stored(tmp_path / "runs", trace_id)
    resource, scope, *spans = [event.payload for event in captured[2]]
    document = {"resourceSpans": [{**resource, "scopeSpans": [{**scope, "spans": spans}]}]}
    (tmp_path / "collected.json").write_text(json.dumps(document))

    async def take(place: str) -> tuple[int, list[str]]:
        async with ArchiveStore(tmp_path / place) as store:
            report = await import_paths(store, [tmp_path / "collected.json"])
            return report.totals()["new_messages"], [each.reason for each in report.files[0].problems]

    asyncio.run(take("imported"))
    imported = stored(tmp_path / "imported", trace_id)
    without = {"sequence"}
    assert [each.model_dump(exclude=without) for each in captured[1]] == [
        each.model_dump(exclude=without) for each in imported[1]
    ]
    assert [(each.event_type, each.payload) for each in captured[2]] == [
        (each.event_type, each.payload) for each in imported[2]
    ]
    assert captured[3] == imported[3]
    for name in ("task", "agent_type", "model", "status", "result_summary", "created_at", "completed_at", "mode"):
        assert getattr(captured[0], name) == getattr(imported[0], name), name
    new, problems = asyncio.run(take("runs"))
    assert new == 0
    assert problems == [f"the archive's trace {trace_id} was captured as it ran; nothing was taken"]


def test_an_attribute_comes_back_in_its_own_type(provider: TracerProvider, tmp_path: Path) -> None:
    told: dict[str, AnyValue] = {"n": 2**62, "x": 0.5, "yes": True, "text": "ü", "list": (1, 2), "nan": float("nan")}
    with provider.get_tracer("own").start_as_current_span("work", attributes=told) as span:
        span.add_event("noted", {"at": 1})
    trace_id = f"{span.get_span_context().trace_id:032x}"
    provider.shutdown()
    payload = stored(tmp_path / "runs", trace_id)[2][-1].payload
    assert {each["key"]: each["value"] for each in payload["attributes"]} == {
        "n": {"intValue": str(2**62)},
        "x": {"doubleValue": 0.5},
        "yes": {"boolValue": True},
        "text": {"stringValue": "ü"},
        "list": {"arrayValue": {"values": [{"intValue": "1"}, {"intValue": "2"}]}},
        "nan": {"doubleValue": "nan"},
    }
    assert payload["events"][0]["name"] == "noted"


def test_a_root_that_fails_makes_its_trace_fail(provider: TracerProvider, tmp_path: Path) -> None:
    with pytest.raises(ValueError), provider.get_tracer("own").start_as_current_span("invoke_agent guide") as span:
        raise ValueError("no way")
    provider.shutdown()
    trace, *_ = stored(tmp_path / "runs", f"{span.get_span_context().trace_id:032x}")
    assert (trace.status, trace.error_message) == ("failed", "ValueError: no way")


def test_a_span_that_ends_after_its_root_is_taken_and_the_trace_stays_ended(
    provider: TracerProvider, tmp_path: Path
) -> None:
    tracer = provider.get_tracer("own")
    root = tracer.start_span("invoke_agent guide")
    with api.use_span(root, end_on_exit=False):
        answer = {"gen_ai.operation.name": "chat", "gen_ai.output.messages": said(("assistant", "Late."))}
        late = tracer.start_span("chat m-1", attributes=answer)
    root.end()
    late.end()
    provider.shutdown()
    trace, messages, events, _ = stored(tmp_path / "runs", f"{root.get_span_context().trace_id:032x}")
    assert (trace.status, contents(messages), len(events)) == ("completed", [("assistant", "Late.")], 4)


def test_a_trace_that_was_called_from_elsewhere_ends_with_what_was_called(
    provider: TracerProvider, tmp_path: Path
) -> None:
    caller = NonRecordingSpan(SpanContext(0xAB, 0xCD, is_remote=True, trace_flags=TraceFlags(1)))
    with provider.get_tracer("own").start_as_current_span("invoke_agent guide", api.set_span_in_context(caller)):
        pass
    provider.shutdown()
    assert stored(tmp_path / "runs", f"{0xAB:032x}")[0].status == "completed"


def test_a_processor_tells_an_agent_as_it_begins_and_a_span_that_never_ends(tmp_path: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ArchiveSpanProcessor(tmp_path / "runs"))
    tracer = provider.get_tracer("own")
    told = {"gen_ai.operation.name": "invoke_agent"}
    with tracer.start_as_current_span("invoke_agent guide", attributes=told, end_on_exit=False) as root:
        chat(tracer, "How many?", "Three.")
        assert provider.force_flush()
        trace_id = f"{root.get_span_context().trace_id:032x}"
        trace, messages, _, goals = stored(tmp_path / "runs", trace_id)
        assert goals is not None and [each.status for each in goals.goals] == ["in_progress"]
        assert (trace.status, [each.goal_id for each in messages]) == ("running", [goals.goals[0].id] * 2)
        root.set_attribute("why", "it waits for a word")
    provider.shutdown()
    trace, messages, events, _ = stored(tmp_path / "runs", trace_id)
    assert (trace.status, len(messages)) == ("running", 2)
    [agent] = [each.payload for each in events if "invoke_agent" in str(each.payload)]
    assert "endTimeUnixNano" not in agent and "it waits for a word" in str(agent)


def test_a_run_whose_task_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ArchiveSpanProcessor(tmp_path / "runs"))
    begun, ids = asyncio.Event(), []

    async def run() -> None:
        with provider.get_tracer("own").start_as_current_span("invoke_agent guide") as root:
            ids.append(f"{root.get_span_context().trace_id:032x}")
            begun.set()
            await asyncio.Event().wait()

    async def stopped() -> None:
        task = asyncio.create_task(run())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    provider.shutdown()
    trace, _, _, goals = stored(tmp_path / "runs", ids[0])
    assert trace.status == "cancelled"
    assert goals is not None and [each.status for each in goals.goals] == ["cancelled"]


def test_a_processor_makes_what_an_exporter_makes_and_takes_no_span_that_is_not_sampled(tmp_path: Path) -> None:
    both = TracerProvider(shutdown_on_exit=False)
    both.add_span_processor(SimpleSpanProcessor(ArchiveSpanExporter(tmp_path / "exported")))
    both.add_span_processor(ArchiveSpanProcessor(tmp_path / "processed"))
    trace_id = agent_run(both.get_tracer("own"), "How many?")
    both.shutdown()
    one, other = (stored(tmp_path / each, trace_id) for each in ("exported", "processed"))
    assert [(each.message_id, each.content, each.goal_id, each.tokens) for each in one[1]] == [
        (each.message_id, each.content, each.goal_id, each.tokens) for each in other[1]
    ]
    assert [each.payload for each in one[2]] == [each.payload for each in other[2]]
    assert one[3] is not None and other[3] is not None and one[3].goals == other[3].goals
    none = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    none.add_span_processor(ArchiveSpanProcessor(tmp_path / "none"))
    agent_run(none.get_tracer("own"), "How many?")
    none.shutdown()
    with traceark.open(tmp_path / "none") as archive:
        assert not archive.exists()


def test_two_processes_that_take_part_in_one_trace_write_one_trace(tmp_path: Path) -> None:
    providers = [TracerProvider(shutdown_on_exit=False) for _ in range(2)]
    for each in providers:
        each.add_span_processor(SimpleSpanProcessor(ArchiveSpanExporter(tmp_path / "runs")))
    with providers[0].get_tracer("caller").start_as_current_span("invoke_agent guide") as root:
        chat(providers[0].get_tracer("caller"), "How many?", "I ask.")
        context = root.get_span_context()
        remote = NonRecordingSpan(SpanContext(context.trace_id, context.span_id, True, context.trace_flags))
        called = providers[1].get_tracer("called")
        with called.start_as_current_span("invoke_agent counter", api.set_span_in_context(remote)):
            chat(called, "Count.", "Three.")
    for each in providers:
        each.shutdown()
    trace, messages, _, goals = stored(tmp_path / "runs", f"{context.trace_id:032x}")
    assert {each.content for each in messages} == {"How many?", "I ask.", "Count.", "Three."}
    assert (trace.status, trace.task, trace.total_tokens) == ("completed", "How many?", 14)
    assert goals is not None and {each.description for each in goals.goals} == {"guide", "counter"}


def test_a_call_that_two_spans_tell_counts_once_whichever_ends_first(provider: TracerProvider, tmp_path: Path) -> None:
    tracer = provider.get_tracer("own")
    told: dict[str, AnyValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.output.messages": said(("assistant", "Three.")),
    }
    with tracer.start_as_current_span("run") as root:
        outer = tracer.start_span("chat m-1", attributes=told)
        with api.use_span(outer, end_on_exit=False):
            inner = tracer.start_span("chat m-1", attributes=told)
        outer.end()
        inner.end()
    provider.shutdown()
    trace, messages, *_ = stored(tmp_path / "runs", f"{root.get_span_context().trace_id:032x}")
    assert trace.total_tokens == 9
    assert [each.status for each in messages] == ["superseded", None]


def test_runs_of_many_threads_do_not_mix(provider: TracerProvider, tmp_path: Path) -> None:
    tracer, ids = provider.get_tracer("own"), {}
    start = threading.Barrier(4)

    def run(name: str) -> None:
        start.wait()
        ids[name] = agent_run(tracer, name)

    threads = [threading.Thread(target=run, args=(f"task {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    for name, trace_id in ids.items():
        trace, messages, events, _ = stored(tmp_path / "runs", trace_id)
        assert (trace.status, trace.task, trace.total_tokens, len(events)) == ("completed", name, 14, 6)
        assert contents(messages) == [
            ("user", name),
            ("assistant", "I look."),
            ("tool", "3 files"),
            ("assistant", "Three."),
        ]


def test_it_may_be_called_where_an_event_loop_runs(provider: TracerProvider, tmp_path: Path) -> None:
    async def run(name: str) -> str:
        await asyncio.sleep(0)
        return agent_run(provider.get_tracer("own"), name)

    async def both() -> list[str]:
        return list(await asyncio.gather(run("one"), run("two")))

    ids = asyncio.run(both())
    provider.shutdown()
    assert [stored(tmp_path / "runs", trace_id)[0].task for trace_id in ids] == ["one", "two"]


def test_a_full_disk_is_told_once_and_what_it_kept_out_is_written_when_there_is_room(
    exporter: ArchiveSpanExporter,
    provider: TracerProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    tracer = provider.get_tracer("own")
    with caplog.at_level(logging.ERROR, "traceark.capture"):
        with tracer.start_as_current_span("invoke_agent guide") as root:
            chat(tracer, "How many?", "Three.")
            with monkeypatch.context() as patch:
                patch.setattr("os.write", full)
                for number in range(3):
                    chat(tracer, f"And {number}?", "More.")
                assert not exporter.force_flush()
        assert len(caplog.records) == 1 and "No space left on device" in caplog.text
        assert exporter.recorder.failures == 4
        provider.shutdown()
    trace, messages, events, _ = stored(tmp_path / "runs", f"{root.get_span_context().trace_id:032x}")
    assert (trace.status, trace.total_tokens, len(messages), len(events)) == ("completed", 28, 8, 7)
    with traceark.open(tmp_path / "runs") as archive:
        assert archive.verify(deep=True) == []


def test_a_sync_that_fails_does_not_end_the_capture(
    exporter: ArchiveSpanExporter, provider: TracerProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    tracer = provider.get_tracer("own")
    with tracer.start_as_current_span("invoke_agent guide") as root:
        chat(tracer, "How many?", "Three.")
        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", failing)
            chat(tracer, "And?", "More.")
            chat(tracer, "And then?", "Still more.")
        chat(tracer, "And now?", "No more.")
    assert exporter.recorder.failures == 2
    provider.shutdown()
    trace, messages, events, _ = stored(tmp_path / "runs", f"{root.get_span_context().trace_id:032x}")
    assert (trace.status, trace.total_tokens, len(messages), len(events)) == ("completed", 28, 8, 7)


def test_an_archive_that_cannot_be_written_is_told_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    exporter = ArchiveSpanExporter(tmp_path / "file" / "runs")
    finished: list[SpanExportResult] = []

    class Noting(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            finished.append(exporter.export([span]))

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Noting(exporter))
    agent_run(provider.get_tracer("own"), "How many?")
    provider.shutdown()
    assert finished == [SpanExportResult.FAILURE] * 4
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR"]
    assert "Not a directory" in caplog.text and "1 traces are not all in the archive, 6 events" in caplog.text


def test_after_its_shutdown_an_exporter_says_that_it_failed(exporter: ArchiveSpanExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    ended: list[ReadableSpan] = []

    class Keeping(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    provider.add_span_processor(Keeping(exporter))
    agent_run(provider.get_tracer("own"), "How many?")
    exporter.shutdown()
    assert exporter.export(ended) is SpanExportResult.FAILURE


def test_a_process_that_is_killed_leaves_a_running_trace_with_all_that_was_said(tmp_path: Path) -> None:
    process = Program(HERE, "killed", tmp_path / "runs", stdout=PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines += [line.split() for line in process.stdout.read().splitlines()]
    trace, messages, *_ = stored(tmp_path / "runs", lines[0][0])
    assert trace.status == "running"
    told = [each.content for each in messages if each.role == "assistant"]
    assert told[: len(lines)] == [f"answer {number}" for _, number, *_ in lines]
    assert len(told) <= len(lines) + 1
    with traceark.open(tmp_path / "runs") as archive:
        assert damage(archive.verify(deep=True)) == []


def test_a_process_that_is_killed_loses_a_quarter_of_a_second_at_most(tmp_path: Path) -> None:
    process = Program(HERE, "handed over", tmp_path / "runs", stdout=PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline().split()]
    while float(lines[-1][2]) - float(lines[0][3]) < 1:
        lines.append(process.stdout.readline().split())
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines += [line.split() for line in process.stdout.read().splitlines()]
    trace, messages, events, _ = stored(tmp_path / "runs", lines[0][0])
    assert trace.status == "running"
    # When each answer began to be told, and when the call had returned; what was told so long before the last began…
    last = float(lines[-1][2])
    promised = sum(float(returned) < last - 0.25 for *_, returned in lines)
    spans = json.dumps([each.payload for each in events if each.event_type == "otlp.span"])
    assert set(range(promised)) <= {int(number) for number in re.findall(r"answer (\d+)", spans)}
    assert promised > 0
    # Where putting the messages together takes long, they follow their spans later.
    told = [each.content for each in messages if each.role == "assistant"]
    assert told == [f"answer {number}" for number in range(len(told))] != []
    with traceark.open(tmp_path / "runs") as archive:
        assert damage(archive.verify(deep=True)) == []


def test_a_program_that_ends_without_a_word_to_the_exporter_loses_nothing(tmp_path: Path) -> None:
    found = ran(HERE, "ends", tmp_path / "runs")
    assert (found.returncode, found.stderr) == (0, "")
    trace, messages, *_ = stored(tmp_path / "runs", found.stdout.strip())
    assert (trace.status, len(messages)) == ("completed", 4)
    assert list((tmp_path / "runs").rglob("manifest-sha256.txt")), "it is not sealed"


def test_a_forked_process_captures_too(tmp_path: Path) -> None:
    found = ran(HERE, "forks", tmp_path / "runs")
    ids = found.stdout.split()
    assert len(set(ids)) == 2
    assert [stored(tmp_path / "runs", trace_id)[0].status for trace_id in ids] == ["completed", "completed"]


def _main(what: str, place: str) -> None:
    provider = TracerProvider()
    if what == "handed over":
        provider.add_span_processor(ArchiveSpanProcessor(place))
    else:
        exporter = ArchiveSpanExporter(place)
        provider.add_span_processor(BatchSpanProcessor(exporter) if what == "ends" else SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("own")
    if what not in ("killed", "handed over"):
        print(agent_run(tracer, "How many?"), flush=True)
        if what == "forks":
            if os.fork() == 0:
                print(agent_run(tracer, "How many?"), flush=True)
                os._exit(0)
            os.wait()
        return
    with tracer.start_as_current_span("invoke_agent guide") as root:
        for number in range(1_000_000):
            begins = time.monotonic()
            chat(tracer, f"question {number}", f"answer {number}")
            print(f"{root.get_span_context().trace_id:032x} {number} {begins} {time.monotonic()}", flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
