"""`tail --follow` prints what comes to a run, whoever writes it and whether or not changes are recorded.

Run as a program, this file is that writer: each line it reads is a step that it takes.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import traceark
from program import PIPE, TRACEARK, Program
from servers import Requests, S3Server
from shell import out, wrong
from traceark import ArchiveStore, Goal, Message, Trace
from traceark.following import Follower


def take(archive: traceark.Archive, step: str) -> None:
    if step == "create":
        archive.create_trace(Trace(trace_id="t", task="look"))
    elif step == "message":
        archive.add_message(Message(trace_id="t", role="user", content="hi \x1b[31m there"))
    elif step == "goal":
        archive.add_goal("t", Goal(id="1", description="read"))
    elif step == "event":
        archive.append_event("t", "step", 1)
    elif step == "end":
        archive.update_trace("t", status="completed")
    else:
        getattr(archive, step)("t")


@contextmanager
def writer(archive: Path, *flags: str) -> Iterator[Program]:
    with Program(__file__, archive, *flags, stdin=PIPE, stdout=PIPE) as process:
        yield process


def does(process: Program, *steps: str) -> None:
    """Have the writer take steps, and wait until it has."""
    assert process.stdin is not None and process.stdout is not None
    for step in steps:
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{step}\n"


@contextmanager
def following(archive: Path, *flags: str) -> Iterator[Program]:
    command = (TRACEARK, "tail", archive, "t", "--follow", "--interval", "0.05", *flags)
    with Program(*command, stdout=PIPE, stderr=PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: Program) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def happened(process: Program) -> tuple[str, Any]:
    """Return what the next line tells: its kind, and the type of an event or the content of a message."""
    ((kind, record),) = json.loads(line(process)).items()
    return kind, record["event_type"] if kind == "event" else record["content"]


def test_a_run_without_recorded_changes_shows_messages_and_events(tmp_path: Path) -> None:
    with writer(tmp_path) as run, following(tmp_path, "--json", "--wait") as tail:
        does(run, "create", "message", "event")
        assert happened(tail) == ("message", "hi \x1b[31m there")
        assert happened(tail) == ("event", "step")
        does(run, "compact", "message", "end")
        assert happened(tail)[0] == "message"
        assert (line(tail), tail.wait()) == ("", 0)


def test_a_run_with_recorded_changes_shows_each_once_and_goes_on_after_an_event(tmp_path: Path) -> None:
    with writer(tmp_path, "record") as run, following(tmp_path, "--json", "--wait") as tail:
        does(run, "create", "message", "goal", "event", "message", "end")
        kinds = [happened(tail)[1] for _ in range(6)]
        assert kinds == [
            "trace.updated",
            "message.added",
            "goal_tree.replaced",
            "step",
            "message.added",
            "trace.updated",
        ]
        assert (line(tail), tail.wait()) == ("", 0)
    with following(tmp_path, "--json", "--since", "4") as tail:
        assert [happened(tail)[1] for _ in range(2)] == ["message.added", "trace.updated"]
        assert (line(tail), tail.wait()) == ("", 0)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_run_that_has_ended_is_printed_whole_wherever_it_lies(tmp_path: Path, recorded: bool) -> None:
    with traceark.open(tmp_path / "runs", record_changes=recorded) as archive:
        for step in ("create", "message", "compact", "message", "event", "end"):
            take(archive, step)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    shown = out("tail", tmp_path / "copy", "t", "--follow", "--interval", 0.05)
    assert shown.count("user  hi \\x1b[31m there") == 2 and "\x1b" not in shown
    assert "step 1" in shown


def test_a_trace_that_is_not_there_is_an_error_unless_it_is_waited_for(tmp_path: Path) -> None:
    with traceark.open(tmp_path) as archive:
        archive.create_trace(Trace(trace_id="other"))
    assert "no trace 't'" in wrong(1, "tail", tmp_path, "t", "--follow")
    assert "--wait is for --follow" in wrong(2, "tail", tmp_path, "t", "--wait")


def test_a_trace_that_is_deleted_ends_it(tmp_path: Path) -> None:
    with writer(tmp_path) as run, following(tmp_path, "--wait") as tail:
        does(run, "create", "message")
        assert "user  hi" in line(tail)
        does(run, "delete_trace")
        assert tail.wait() == 1
        assert tail.stderr is not None
        assert tail.stderr.read() == "traceark: trace 't' was deleted while it was followed\n"


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with writer(tmp_path) as run, following(tmp_path, "--wait") as tail:
        does(run, "create", "message")
        assert "user  hi" in line(tail)
        tail.send_signal(signal.SIGINT)
        assert tail.wait() == 130


async def test_a_look_costs_one_request_where_nothing_came_and_two_where_a_message_did(
    ministack_server: S3Server,
) -> None:
    store = ArchiveStore(ministack_server.place(), storage_options=ministack_server.storage_options)
    requests = Requests()
    await requests.listen(store)
    await store.create_trace(Trace(trace_id="t"))
    await store.add_message(Message(trace_id="t", role="user", content="hi"))
    follower = Follower(store.storage, "t")
    assert await follower.look() is not None
    assert len(await requests.during(follower.look())) == 1
    await store.add_message(Message(trace_id="t", role="user", content="more"))
    assert len(await requests.during(follower.look())) == 2
    await store.close()


if __name__ == "__main__":
    with traceark.open(sys.argv[1], durability="os", record_changes="record" in sys.argv) as own:
        for told in sys.stdin:
            take(own, told.strip())
            print(told.strip(), flush=True)
