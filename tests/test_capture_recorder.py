"""What capturing does at its bounds: of memory, of time, and of what an archive can keep."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from test_capture_otel import contents, stored
from traceark.capture.live_trace import LiveTrace
from traceark.capture.plain import plain
from traceark.capture.recorder import Recorder
from traceark.errors import StorageError
from traceark.importers.conversation import Told
from traceark.importers.span import Span
from traceark.models import GivenEvent, Json
from traceark.store import ArchiveStore

AT = datetime(2026, 3, 1, tzinfo=UTC)


def record(recorder: Recorder, trace_id: str, number: int, *, ended: bool = False, payload: Json = None) -> bool:
    """Tell of one call of a model."""
    start = AT + timedelta(seconds=number)
    span = Span(f"s{number}", "chat", payload, "root", start=start, end=start)
    span.inputs, span.outputs = [Told("user", f"asked {number}")], [Told("assistant", f"said {number}")]

    def change(live: LiveTrace) -> None:
        live.event("span", payload)
        live.put(span)
        if ended:
            live.end()

    return recorder.record(trace_id, lambda: LiveTrace(trace_id, "own", lambda trace, typed: None), change)


def test_a_call_does_not_wait_for_the_archive(tmp_path: Path) -> None:
    may_write = threading.Event()

    class Slow(LiveTrace):
        async def write(self, store: ArchiveStore, *, all_of_it: bool) -> None:
            await asyncio.to_thread(may_write.wait)
            await super().write(store, all_of_it=all_of_it)

    def note(live: LiveTrace) -> None:
        live.event("noted", 1)

    with Recorder(tmp_path) as recorder:
        for _ in range(3):
            assert recorder.record("t", lambda: Slow("t", "own", lambda trace, typed: None), note)
        may_write.set()
        assert recorder.flush()
        assert len(stored(tmp_path, "t")[2]) == 3


def test_a_call_waits_for_what_was_told_longer_ago_than_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that all of it was told too long ago.
    monkeypatch.setattr("traceark.capture.recorder._MOST_BEHIND", -1.0)
    with Recorder(tmp_path) as recorder:
        for number in range(1, 6):
            assert record(recorder, "t", number)
            assert len(stored(tmp_path, "t")[2]) == number


def test_a_call_does_not_wait_for_an_archive_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.capture.recorder._MOST_BEHIND", -1.0)
    monkeypatch.setattr("traceark.capture.recorder._MOST_WAIT", None)
    (tmp_path / "file").write_text("no directory")
    with Recorder(tmp_path / "file") as recorder:
        for number in range(3):
            assert record(recorder, "t", number)
        assert not recorder.flush()
        assert recorder.failures


def test_events_that_are_equal_are_all_written_also_after_a_write_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with Recorder(tmp_path) as recorder:
        assert record(recorder, "t", 1, payload="clicked") and recorder.flush()
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            assert record(recorder, "t", 2, payload="clicked") and not recorder.flush()
        assert recorder.flush()
        assert [each.payload for each in stored(tmp_path, "t")[2]] == ["clicked", "clicked"]


def test_events_of_a_write_whose_answer_was_lost_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = ArchiveStore.append_events

    async def lost(store: ArchiveStore, trace_id: str, events: Iterable[GivenEvent]) -> list[int]:
        await append(store, trace_id, events)
        raise StorageError("no answer")

    with Recorder(tmp_path) as recorder:
        assert record(recorder, "t", 1, payload="clicked") and recorder.flush()
        with monkeypatch.context() as patch:
            patch.setattr(ArchiveStore, "append_events", lost)
            assert record(recorder, "t", 2, payload="clicked") and not recorder.flush()
        assert recorder.flush()
        assert [each.payload for each in stored(tmp_path, "t")[2]] == ["clicked", "clicked"]


def test_traces_that_ended_leave_memory_first_and_go_on_in_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("traceark.capture.recorder._MOST_TRACES", 2)
    monkeypatch.setattr("traceark.capture.recorder._MOST_BEHIND", -1.0)
    with Recorder(tmp_path) as recorder:
        assert record(recorder, "long", 1)
        assert record(recorder, "a", 1, ended=True)
        assert record(recorder, "b", 1, ended=True)
        assert record(recorder, "a", 2)
        assert recorder.failures == 0
        assert record(recorder, "c", 1)
        assert record(recorder, "d", 1)
        assert "trace long was let go of" in caplog.text
        assert record(recorder, "long", 2, ended=True)
    assert [stored(tmp_path, name)[0].status for name in ("a", "b", "c", "long")] == [
        "completed",
        "completed",
        "running",
        "completed",
    ]
    for name in ("a", "long"):
        assert [each.content for each in stored(tmp_path, name)[1]] == ["asked 1", "said 1", "asked 2", "said 2"]


def test_of_a_trace_that_takes_long_spans_are_written_at_once_and_messages_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.capture.live_trace._LONG", 0.0)
    monkeypatch.setattr("traceark.capture.live_trace._SHARE", 10**9)
    monkeypatch.setattr("traceark.capture.recorder._MOST_BEHIND", -1.0)
    with Recorder(tmp_path) as recorder:
        for number in (1, 2, 3):
            assert record(recorder, "t", number, payload=number)
        _, messages, events, _ = stored(tmp_path, "t")
        assert (len(messages), [each.payload for each in events]) == (2, [1, 2, 3])
        assert recorder.flush()
        assert len(stored(tmp_path, "t")[1]) == 6
        assert record(recorder, "t", 4, ended=True)
        assert (stored(tmp_path, "t")[0].status, len(stored(tmp_path, "t")[1])) == ("completed", 8)


def test_what_an_archive_cannot_keep_as_it_is_is_kept_as_text_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), Recorder(tmp_path) as recorder:
        assert record(recorder, "t", 1, payload=[float("nan")])
        assert recorder.flush()
        assert record(recorder, "t", 2, payload="fine", ended=True)
        assert recorder.flush() and recorder.failures == 1
    trace, messages, events, _ = stored(tmp_path, "t")
    assert (trace.status, len(messages), [each.payload for each in events]) == ("completed", 4, ["[nan]", "fine"])
    assert "kept as text" in caplog.text


def test_what_cannot_be_understood_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def odd(live: LiveTrace) -> None:
        raise KeyError("surprise")

    with Recorder(tmp_path) as recorder:
        assert record(recorder, "t", 1)
        assert recorder.record("t", lambda: LiveTrace("t", "own", lambda trace, typed: None), odd)
        assert record(recorder, "t", 2, ended=True)
        assert recorder.flush() and recorder.failures == 1
    assert "surprise" in caplog.text
    assert contents(stored(tmp_path, "t")[1])[-1] == ("assistant", "said 2")


def test_a_call_of_the_archives_own_work_is_not_captured(tmp_path: Path) -> None:
    inner: list[bool] = []

    class Telling(LiveTrace):
        """As where the archive's own client is instrumented."""

        async def write(self, *args: object, **named: object) -> None:
            inner.append(record(recorder, "own-work", 1))

    with Recorder(tmp_path) as recorder:
        recorder.record("t", lambda: Telling("t", "own", lambda trace, typed: None), lambda live: None)
        recorder.flush()
        assert inner and recorder.failures == 0
    assert not (tmp_path / "traces" / "own-work").exists()


def test_an_object_that_cannot_be_shown_is_told_by_its_type() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert plain({"odd": Odd()}) == {"odd": "<Odd, not shown: ValueError>"}
