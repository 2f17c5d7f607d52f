"""A copy taken at any moment, in any file order, is an earlier state or says what is missing.

A workload is filmed: what lay in the archive's directory after every single file operation. Copies are
then cut from the film: one frame, or each file from a frame of its own, or one copy laid over another.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, tried
from traceark.codec.lines import to_record
from traceark.errors import DamagedTraceError
from traceark.layout import GOAL_TREE, HEADER, MANIFEST
from traceark.models import Event, Goal, GoalTree, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing import ModelStore

Frame = dict[str, bytes]
NOW = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)
TOTALS = ("total_messages", "total_tokens", "total_cost", "total_duration_ms", "last_sequence", "last_event_id")
CHANGING = ("write", "pwrite", "open", "link", "replace", "unlink", "mkdir", "rmdir", "ftruncate")


class Film:
    """The frames of a directory, one after each file operation of this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.frames: list[Frame] = [{}]
        self.rolling = False

    def shoot(self) -> None:
        """Add a frame if anything changed."""
        frame: Frame = {}
        for directory, _, names in os.walk(self.root):
            for name in names:
                path = Path(directory, name)
                frame[path.relative_to(self.root).as_posix()] = path.read_bytes()
        if frame != self.frames[-1]:
            self.frames.append(frame)

    def wrap(self, name: str) -> Callable[..., Any]:
        """Return an operation of `os` that is filmed; writes are cut in two, as the system may do."""
        real = getattr(os, name)

        def filmed(*args: Any, **kwargs: Any) -> Any:
            if not self.rolling:
                return real(*args, **kwargs)
            if name == "write" and len(args[1]) > 40:
                args = (args[0], memoryview(args[1])[: len(args[1]) // 2])
            result = real(*args, **kwargs)
            self.rolling = False
            self.shoot()
            self.rolling = True
            return result

        return filmed

    @contextmanager
    def roll(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Film what happens inside."""
        with patch.context() as context:
            for name in CHANGING:
                context.setattr(os, name, self.wrap(name))
            self.rolling = True
            try:
                yield
            finally:
                self.rolling = False


class History:
    """Every state that readers may find: the model's, after every call."""

    def __init__(self) -> None:
        self.model = ModelStore()
        self.messages: set[str] = set()
        self.events: set[str] = set()
        self.headers: set[str] = set()
        self.trees: set[str] = set()

    async def note(self) -> None:
        """Add the model's present state."""
        self.messages.add(messages_text(await self.model.get_trace_messages("t")))
        self.events.add(events_text(await self.model.get_events("t")))
        trace = await self.model.get_trace("t")
        assert trace is not None
        self.headers.add(header_text(trace))
        self.trees.add(tree_text(await self.model.get_goal_tree("t")))


def messages_text(messages: list[Message]) -> str:
    return json.dumps([to_record(message) for message in messages])


def events_text(events: list[Event]) -> str:
    return json.dumps([(event.event_id, event.event_type, event.payload) for event in events])


def header_text(trace: Trace) -> str:
    """Return what callers gave of a header: all but what the store counts."""
    return json.dumps({name: value for name, value in to_record(trace).items() if name not in TOTALS})


def tree_text(tree: GoalTree | None) -> str:
    """Return what callers gave of a tree: all but the stats."""
    if tree is None:
        return "none"
    goals = [to_record(goal) for goal in tree.goals]
    for goal in goals:
        del goal["self_stats"], goal["cumulative_stats"]
    return json.dumps([tree.mission, tree.current_id, goals])


def sums(messages: list[Message]) -> tuple[int, int, float, int]:
    """Return what messages add up to."""
    cost = sum((Decimal(repr(message.cost or 0.0)) for message in messages), Decimal(0))
    duration_ms = sum(message.duration_ms or 0 for message in messages)
    return len(messages), sum(message.counted_tokens() for message in messages), float(cost), duration_ms


def message(at: int, goal_id: str | None = None) -> Message:
    return Message(
        trace_id="t",
        role="assistant",
        content={"at": at},
        goal_id=goal_id,
        tokens=at,
        cost=0.1,
        duration_ms=at,
        tool_name=f"tool{at}",
        created_at=NOW,
    )


async def work(root: Path, history: History) -> None:
    """Do everything that can be done to one trace; the model is told of each call before it is made."""

    async def both(call: Callable[[Any], Awaitable[object]]) -> None:
        await call(history.model)
        await history.note()
        await call(store)

    async def write(first: int) -> None:
        for at in range(first, first + 3):
            await both(lambda to, at=at: to.add_message(message(at, (None, "1", "2")[at % 3])))  # type: ignore[misc]
            await both(lambda to, at=at: to.append_event("t", "step", {"at": at}))  # type: ignore[misc]

    store = ArchiveStore(root, durability="os")
    await both(lambda to: to.create_trace(Trace(trace_id="t", task="first", created_at=NOW)))
    await both(lambda to: to.add_goal("t", Goal(id="1", created_at=NOW)))
    await write(1)
    await both(lambda to: to.add_goal("t", Goal(id="2", parent_id="1", created_at=NOW)))
    await both(lambda to: to.update_message("t-0002", content="changed", goal_id="2", tokens=70))
    await store.flush()
    await write(4)
    await store.compact("t")
    await both(lambda to: to.update_trace("t", task="second"))
    await write(7)
    await both(lambda to: to.update_message("t-0001", status="ok", cost=0.7))
    await both(lambda to: to.update_goal("t", "2", status="completed"))
    await store.compact("t")
    await store.seal("t")
    await store.close()
    store = ArchiveStore(root, durability="os")
    await write(10)
    await both(lambda to: to.update_message("t-0009", content="late"))
    await both(lambda to: to.update_trace("t", status="completed", completed_at=NOW))
    await store.close()
    store = ArchiveStore(root, durability="os")
    await both(lambda to: to.update_trace("t", result_summary="well"))
    await store.seal("t")
    await store.close()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Frame], History]:
    """The frames of the workload, and the states that may be found in copies."""
    film, history = Film(tmp_path_factory.mktemp("film") / "archive"), History()
    with pytest.MonkeyPatch.context() as patch, film.roll(patch):
        asyncio.run(work(film.root, history))
    assert len(film.frames) > 200
    return film.frames, history


async def judge(store: ArchiveStore, history: History) -> str:
    """Assert that a copy reads as an earlier state or says what is missing; return which."""
    try:
        trace = await store.get_trace("t")
        messages = await store.get_trace_messages("t")
        events = await store.get_events("t")
        tree = await store.get_goal_tree("t")
    except DamagedTraceError as error:
        assert "traces/t" in str(error) or "trace 't'" in str(error)
        assert await store.verify(deep=True) != [], f"verify finds nothing, though reading says: {error}"
        return "damaged"
    if trace is None:
        assert (messages, events, tree) == ([], [], None)
        return "absent"
    assert messages_text(messages) in history.messages
    assert events_text(events) in history.events
    assert header_text(trace) in history.headers
    count, tokens, cost, duration = sums(messages)
    assert (trace.total_messages, trace.total_tokens) == (count, tokens)
    assert (trace.total_cost, trace.total_duration_ms) == (cost, duration)
    assert (trace.last_sequence, trace.last_event_id) == (count, len(events))
    assert tree_text(tree) in history.trees
    if tree is not None:
        judge_stats(tree, messages)
    return "whole"


async def header(store: ArchiveStore) -> Trace:
    trace = await store.get_trace("t")
    assert trace is not None
    return trace


def judge_stats(tree: GoalTree, messages: list[Message]) -> None:
    """Assert that a tree's stats are a plain recount of the messages; goal 2 is below goal 1."""
    for goal in tree.goals:
        own = [each for each in messages if each.goal_id == goal.id]
        below = [each for each in messages if each.goal_id == "2" and tree.goal("2")] if goal.id == "1" else []
        for stats, counted in ((goal.self_stats, own), (goal.cumulative_stats, own + below)):
            assert (stats.message_count, stats.total_tokens, stats.total_cost, stats.total_duration_ms) == sums(counted)


def cut(frames: list[Frame], choose: random.Random) -> Frame:
    """Return a copy as `cp -r` makes one while the workload goes on, in any order of files.

    A directory is listed at or after the moment its parent was, a file read at or after the moment its
    directory was listed; one that is gone by then is left out.
    """
    span = choose.choice((1, 3, 10, 40, len(frames)))
    listed: dict[str, int] = {"": choose.randrange(len(frames))}

    def moment(directory: str) -> int:
        if directory not in listed:
            parent = directory.rpartition("/")[0]
            listed[directory] = min(moment(parent) + choose.randrange(span), len(frames) - 1)
        return listed[directory]

    copy: Frame = {}
    for name in sorted({name for frame in frames for name in frame}):
        seen = moment(name.rpartition("/")[0])
        read = min(seen + choose.randrange(span), len(frames) - 1)
        if name in frames[seen] and name in frames[read]:
            copy[name] = frames[read][name]
    return copy


def prints(copy: Frame) -> str:
    """Return a copy's files and sizes, for a failure's message."""
    return "\n".join(f"{len(data):6} {name}" for name, data in sorted(copy.items()))


async def laid_out(copy: Frame) -> ArchiveStore:
    """Return a store over a copy's files; `MemoryStorage.forget("copy")` when done."""
    storage = MemoryStorage("copy")
    for name, data in copy.items():
        await storage.replace(name, data)
    return ArchiveStore("memory://copy")


async def judge_copies(copies: Iterator[Frame], history: History) -> dict[str, int]:
    """Judge copies; return how many were found to be what."""
    found: dict[str, int] = {}
    for at, copy in enumerate(copies):
        store = await laid_out(copy)
        try:
            kind = await judge(store, history)
            if kind == "whole" and at % tried(5, 1) == 0:
                listed = await store.list_traces()
                assert [header_text(each) for each in listed] == [header_text(await header(store))]
        except Exception as error:
            error.add_note(f"the copy:\n{prints(copy)}")
            raise
        finally:
            MemoryStorage.forget("copy")
        found[kind] = found.get(kind, 0) + 1
    return found


def test_a_copy_between_any_two_file_operations_is_an_earlier_state(filmed: tuple[list[Frame], History]) -> None:
    frames, history = filmed
    found = asyncio.run(judge_copies(iter(frames), history))
    assert "damaged" not in found, "a copy of one moment is whole"
    assert found["whole"] > len(frames) * 0.9


def test_a_copy_in_any_file_order_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History],
) -> None:
    frames, history = filmed
    choose, count = random.Random(SEED + 1), tried(250, 5000)
    found = asyncio.run(judge_copies((cut(frames, choose) for _ in range(count)), history))
    assert found["whole"] > count * 0.3


@pytest.mark.parametrize("overwriting", [True, False])
def test_a_copy_over_an_older_copy_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History], overwriting: bool
) -> None:
    frames, history = filmed
    choose, count = random.Random(SEED + 2), tried(80, 1500)

    def over() -> Frame:
        first, second = cut(frames, choose), cut(frames, choose)
        return {**first, **second} if overwriting else {**second, **first}

    found = asyncio.run(judge_copies((over() for _ in range(count)), history))
    assert found["whole"] > count * 0.15


@pytest.mark.parametrize("missing", [HEADER, GOAL_TREE, MANIFEST, "messages/", "events/"])
def test_a_copy_without_some_files_is_never_a_wrong_answer(filmed: tuple[list[Frame], History], missing: str) -> None:
    frames, history = filmed
    history.trees.add("none")
    copies = ({name: data for name, data in frame.items() if missing not in name} for frame in frames[::5])
    asyncio.run(judge_copies(copies, history))


def test_a_copy_can_be_written_on(filmed: tuple[list[Frame], History], tmp_path: Path) -> None:
    frames, _ = filmed
    choose = random.Random(3)

    async def check(root: Path, copy: Frame) -> None:
        for name, data in copy.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        store = ArchiveStore(root, durability="os")
        try:
            before = await store.get_trace_messages("t")
            if await store.get_trace("t") is None:
                return
            await store.add_message(message(99))
        except DamagedTraceError:
            return
        after = await store.get_trace_messages("t")
        assert messages_text(after[:-1]) == messages_text(before)
        assert after[-1].content == {"at": 99}
        await store.seal("t")
        assert messages_text(await ArchiveStore(root).get_trace_messages("t")) == messages_text(after)
        await store.close()
        leftovers = [each for each in await ArchiveStore(root).verify(deep=True) if ".tmp-" not in each.file]
        assert leftovers == [], prints(copy)

    for at in range(tried(40, 800)):
        asyncio.run(check(tmp_path / str(at), choose.choice(frames) if at % 2 else cut(frames, choose)))


@pytest.mark.parametrize("sealed", [True, False])
def test_a_copy_while_a_trace_is_deleted_and_made_anew_never_mixes_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    film = Film(tmp_path / "archive")

    async def write(store: ArchiveStore, first: int, count: int) -> None:
        await store.create_trace(Trace(trace_id="t", task=str(first), created_at=NOW))
        await store.add_goal("t", Goal(id=str(first)))
        for at in range(first, first + count):
            await store.add_message(message(at))
            await store.append_event("t", "step", {"at": at})

    async def work() -> None:
        store = ArchiveStore(film.root, durability="os")
        await write(store, 1, 3)
        await (store.seal("t") if sealed else store.flush())
        with film.roll(monkeypatch):
            await store.delete_trace("t")
            await write(store, 11, 2)
            await store.seal("t")
        await store.close()

    async def check(copy: Frame) -> None:
        store = await laid_out(copy)
        try:
            trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
            numbers = [each.content["at"] for each in await store.get_trace_messages("t")]
            events = [each.payload["at"] for each in await store.get_events("t")]
        except DamagedTraceError:
            return
        finally:
            MemoryStorage.forget("copy")
        states: dict[str | None, list[int]] = {None: [], "1": [1, 2, 3], "11": [11, 12]}
        task = trace.task if trace else None
        assert numbers == states[task][: len(numbers)], prints(copy)
        assert events == states[task][: len(events)], prints(copy)
        assert tree is None or [goal.id for goal in tree.goals] == [task]

    asyncio.run(work())
    choose = random.Random(4)
    for copy in (*film.frames[1:], *(cut(film.frames[1:], choose) for _ in range(200))):
        asyncio.run(check(copy))
