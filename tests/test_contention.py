"""Many at one trace at once: processes, tasks, machines, and whatever else goes on beside; each answer was right.

Run as a program, this file is one process of the crowd: ``test_contention.py URL OPTIONS FOLDER NAME ROLE COUNT SEED``.
What it does is recorded (`traceark.testing.history`), and judged when all have ended.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, THOROUGH, tried
from program import PIPE, Program
from servers import S3Server
from traceark.errors import StorageError
from traceark.models import Event, Goal, GoalTree, Json, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import sync
from traceark.testing.history import Operation, Recorder, faults, recorded

GOALS = ("1", "2")
STOP = "stop"


def said(messages: Sequence[Message]) -> list[Any]:
    return [each.content for each in messages]


def told(events: Sequence[Event]) -> list[Any]:
    return [each.payload for each in events]


def summary(goal_id: str) -> Callable[[GoalTree | None], object]:
    def take(tree: GoalTree | None) -> object:
        assert tree is not None
        return next(goal.summary for goal in tree.goals if goal.id == goal_id)

    return take


class Crowd:
    """One process, and what it records."""

    def __init__(self, url: str, options: Mapping[str, Any], folder: Path, name: str, seed: int) -> None:
        self.url, self.options, self.name = url, options, name
        self.store = self.opened(url)
        self.record = Recorder(folder / "history" / f"{name}.jsonl")
        self.choose = random.Random(f"{seed} {name}")
        self.folder = folder
        self.rounds = 0

    def opened(self, url: str) -> ArchiveStore:
        return ArchiveStore(url, **self.options)

    def goes_on(self) -> bool:
        """Say whether there is another round: one at the least, and then until those that write are done."""
        self.rounds += 1
        return self.rounds == 1 or not (self.folder / STOP).exists()

    # What one task does

    async def write(self, task: int, count: int) -> None:
        """Append, update and look, a number of times."""
        store, record = self.store, self.record
        own: list[str] = []
        for at in range(count):
            value = f"{self.name} {task} {at}"
            what = self.choose.choices(("message", "event", "update", "goal", "look"), (6, 3, 1, 1, 1))[0]
            if what == "message":
                message = Message(trace_id="t", role="user", content=value, tokens=1, goal_id="1")
                own.append(await record.does("append", "messages", store.add_message(message), value))
            elif what == "event":
                await record.does("append", "events", store.append_event("t", "step", value), value)
            elif what == "update" and own:
                # Any that this task wrote: others see and change them too, below.
                message_id = self.choose.choice(own)
                change = store.update_message(message_id, description=value)
                await record.does("set", message_id, change, value)
            elif what == "goal":
                goal_id = self.choose.choice(GOALS)
                await record.does("set", f"goal {goal_id}", store.update_goal("t", goal_id, summary=value), value)
            else:
                await self.look()

    async def look(self) -> None:
        """Ask one of the questions that there are."""
        store, record = self.store, self.record
        question = self.choose.randrange(6)
        if question == 0:
            begun = time.monotonic_ns()
            messages = await store.get_trace_messages("t")
            ended = time.monotonic_ns()
            assert [each.sequence for each in messages] == list(range(1, len(messages) + 1))
            record.found("read", "messages", said(messages), begun, ended)
            for each in messages[-10:]:
                record.found("look", str(each.message_id), each.description, begun, ended)
        elif question == 1:
            events = await record.finds("read", "events", store.get_events("t"), told)
            since = self.choose.randrange(len(events) + 1)
            later = await store.get_events("t", since)
            assert told(later)[: len(events) - since] == told(events)[since:]
        elif question == 2:
            goal_id = self.choose.choice(GOALS)
            await record.finds("look", f"goal {goal_id}", store.get_goal_tree("t"), summary(goal_id))
        elif question == 3:
            begun = time.monotonic_ns()
            trace = await store.get_trace("t")
            ended = time.monotonic_ns()
            assert trace is not None and trace.total_tokens == trace.total_messages
            record.found("read", "messages", trace.total_messages, begun, ended)
            record.found("read", "events", trace.last_event_id, begun, ended)
        elif question == 4:
            query = "SELECT count(*) AS n FROM messages WHERE trace_id = 't'"
            await record.finds("read", "messages", store.sql(query), lambda result: result.rows()[0]["n"])
        else:
            await record.finds(
                "read", "messages", store.list_traces(agent_type="contended"), lambda traces: traces[0].total_messages
            )

    # What a process is for

    async def writer(self, count: int) -> None:
        await asyncio.gather(*(self.write(task, count) for task in range(25)))

    async def machine(self, count: int) -> None:
        await asyncio.gather(*(self.write(task, count) for task in range(3)))

    async def reader(self, _: int) -> None:
        while self.goes_on():
            await self.look()

    async def compactor(self, _: int) -> None:
        while self.goes_on():
            try:
                await self.choose.choice((self.store.compact, self.store.seal))("t")
            except StorageError as error:
                # A seal gives up, and says so, where others write without a pause.
                assert "was written to all the while" in str(error)
            await asyncio.sleep(0.02)

    async def keeper(self, _: int) -> None:
        """Optimize and refresh; make other traces, finish and remove them."""
        at = 0
        while self.goes_on():
            at += 1
            trace_id = f"{self.name}-{at}"
            await self.store.create_trace(Trace(trace_id=trace_id, agent_type="other"))
            await self.store.add_message(Message(trace_id=trace_id, role="user", content="gone soon"))
            await self.store.update_trace(trace_id, status="completed")
            await self.store.seal(trace_id)
            await self.store.optimize()
            await self.store.delete_trace(trace_id)
            assert await self.store.get_trace(trace_id) is None
            assert trace_id not in {each.trace_id for each in await self.store.list_traces(agent_type="other")}
            assert (await self.store.sql(f"SELECT * FROM messages WHERE trace_id = '{trace_id}'")).rows() == []
            await self.store.refresh()

    async def mirror(self, _: int) -> None:
        """Sync to another archive, whose trace is a state that there was meanwhile."""
        target = self.opened(f"{self.url}-mirror")
        while self.goes_on():
            begun = time.monotonic_ns()
            report = await sync(self.store, target)
            ended = time.monotonic_ns()
            assert report.is_clean, report
            self.record.found("read", "messages", said(await target.get_trace_messages("t")), begun, ended)
            self.record.found("read", "events", told(await target.get_events("t")), begun, ended)
        await target.close()


OBSERVERS = ("reader", "compactor", "keeper", "mirror")


async def begin(url: str, options: Mapping[str, Any]) -> None:
    async with ArchiveStore(url, **options) as store:
        await store.create_trace(Trace(trace_id="t", agent_type="contended"))
        for goal_id in GOALS:
            await store.add_goal("t", Goal(id=goal_id))


async def crowd(
    url: str, options: Mapping[str, Any], folder: Path, writers: Mapping[str, int], count: int, beside: Sequence[str]
) -> None:
    """Run processes until those that write are done: of each kind a number of them, and those beside."""
    (folder / "history").mkdir()

    def start(role: str, number: int) -> Program:
        given = (url, json.dumps(options), folder, f"{role}-{number}", role, count, SEED)
        return Program(__file__, *given, stderr=PIPE)

    async def ended(process: Program) -> None:
        assert process.stderr is not None
        errors = await asyncio.to_thread(process.stderr.read)
        assert process.wait() == 0, errors[-4000:]

    writing = [start(role, number) for role, many in writers.items() for number in range(many)]
    watching = [start(role, 0) for role in beside]
    try:
        await asyncio.gather(*map(ended, writing))
        (folder / STOP).touch()
        await asyncio.gather(*map(ended, watching))
    finally:
        for process in (*writing, *watching):
            process.kill()


async def judged(url: str, options: Mapping[str, Any], folder: Path) -> list[Operation]:
    """Assert that all that was answered was right, and that what is left is whole; return what was done."""
    async with ArchiveStore(url, **options) as store:
        last = Crowd(url, options, folder, "last", SEED)
        for _ in range(8):
            await last.look()
        await last.record.finds("read", "messages", store.get_trace_messages("t"), said)
        await last.record.finds("read", "events", store.get_events("t"), told)
        await last.store.close()
        history = recorded(folder / "history")
        assert faults(history) == []
        messages, events = await store.get_trace_messages("t"), await store.get_events("t")
        assert [each.sequence for each in messages] == list(range(1, len(messages) + 1))
        assert [each.message_id for each in messages] == [f"t-{each.sequence:04d}" for each in messages]
        assert [each.event_id for each in events] == list(range(1, len(events) + 1))
        trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
        assert trace is not None and tree is not None
        assert (trace.total_messages, trace.total_tokens) == (len(messages), len(messages))
        assert tree.goals[0].self_stats.message_count == len(messages)
        await store.update_trace("t", status="completed")
        await store.seal("t")
        assert await store.verify(deep=True) == []
        await store.delete_trace("t")
        assert await store.get_trace("t") is None and await store.list_traces() == []
    return history


def spread(history: Sequence[Operation]) -> int:
    """Return how many operations went on while another process was at work on the same."""
    ordered = sorted(history, key=lambda each: each.begun)
    return sum(later.begun < earlier.ended for earlier, later in itertools.pairwise(ordered))


async def test_eight_processes_with_two_hundred_tasks_on_one_trace(tmp_path: Path) -> None:
    url, options = str(tmp_path / "archive"), {"durability": "os"}
    await begin(url, options)
    await crowd(url, options, tmp_path, {"writer": tried(2, 8)}, tried(2, 20, 60), ())
    history = await judged(url, options, tmp_path)
    assert len(history) > tried(2, 8) * 25 and spread(history) > 50


async def test_a_writer_beside_whatever_else_goes_on(tmp_path: Path) -> None:
    url, options = str(tmp_path / "archive"), {"durability": "os"}
    await begin(url, options)
    await crowd(url, options, tmp_path, {"machine": 2}, tried(2, 300, 1500), OBSERVERS)
    history = await judged(url, options, tmp_path)
    assert spread(history) > 10


async def test_two_machines_on_one_trace_on_s3(tmp_path: Path, ministack_server: S3Server) -> None:
    url, options = ministack_server.place(), {"storage_options": ministack_server.storage_options}
    await begin(url, options)
    await crowd(url, options, tmp_path, {"machine": 2}, tried(3, 30, 300), OBSERVERS if THOROUGH else ())
    history = await judged(url, options, tmp_path)
    assert spread(history) > 10


def early(store: ArchiveStore) -> None:
    """Acknowledge now and then what was not written."""
    real, calls = store.add_message, itertools.count(1)

    async def add_message(message: Message) -> str:
        return "t-0001" if next(calls) % 7 == 0 else await real(message)

    store.add_message = add_message  # type: ignore[method-assign]


def twice(store: ArchiveStore) -> None:
    """Write now and then an event twice."""
    real, calls = store.append_event, itertools.count(1)

    async def append_event(trace_id: str, event_type: str, payload: Json = None) -> int:
        if next(calls) % 5 == 0:
            await real(trace_id, event_type, payload)
        return await real(trace_id, event_type, payload)

    store.append_event = append_event  # type: ignore[method-assign]


def stale(store: ArchiveStore) -> None:
    """Answer now and then with what was read before."""
    real, calls = store.get_trace, itertools.count(1)
    held: list[Trace | None] = []

    async def get_trace(trace_id: str) -> Trace | None:
        held.append(await real(trace_id))
        return held[len(held) // 2 if next(calls) % 4 == 0 else -1]

    store.get_trace = get_trace  # type: ignore[method-assign]


def lost(store: ArchiveStore) -> None:
    """Forget now and then what was changed."""
    real, calls = store.update_goal, itertools.count(1)

    async def update_goal(trace_id: str, goal_id: str, **updates: Any) -> None:
        if next(calls) % 3:
            await real(trace_id, goal_id, **updates)

    store.update_goal = update_goal  # type: ignore[method-assign]


@pytest.mark.parametrize("bug", [early, twice, stale, lost])
async def test_a_bug_is_found(tmp_path: Path, bug: Callable[[ArchiveStore], None]) -> None:
    url = f"memory://{tmp_path}"
    await begin(url, {})
    (tmp_path / "history").mkdir()
    member = Crowd(url, {}, tmp_path, "one", SEED)
    bug(member.store)
    await member.machine(100)
    store, record = member.store, member.record
    for at in range(12):
        # What chance may have left out: each change is looked at.
        value = f"last {at}"
        await record.does("set", "goal 1", store.update_goal("t", "1", summary=value), value)
        await record.finds("look", "goal 1", store.get_goal_tree("t"), summary("1"))
        message = Message(trace_id="t", role="user", content=value, tokens=1, goal_id="1")
        await record.does("append", "messages", store.add_message(message), value)
        await record.finds("read", "messages", store.get_trace("t"), lambda trace: trace.total_messages if trace else 0)
    await member.record.finds("read", "messages", member.store.get_trace_messages("t"), said)
    await member.record.finds("read", "events", member.store.get_events("t"), told)
    await member.store.close()
    assert faults(recorded(tmp_path / "history"))
    MemoryStorage.forget(url.removeprefix("memory://"))


if __name__ == "__main__":
    _, at, told_options, where, who, task, times, seed = sys.argv
    member = Crowd(at, json.loads(told_options), Path(where), who, int(seed))

    async def run() -> None:
        await getattr(member, task)(int(times))
        await member.store.close()

    asyncio.run(run())
