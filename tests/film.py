"""Films of an archive: what lay there after every single operation, and the judge of copies cut from them.

A workload does all that can be done to one trace, on a local disk or on an object store; a model is told of each call
first, so every state that a reader may find is known.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from profiles import tried
from traceark import folding, plan
from traceark.codec.lines import to_record
from traceark.errors import CorruptFileError, DamagedTraceError
from traceark.layout import MARKER
from traceark.models import Event, Goal, GoalTree, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import sync
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


async def work(opened: Callable[[], ArchiveStore], history: History, more: int = 0) -> None:
    """Do everything that can be done to one trace; the model is told of each call before it is made.

    `opened` returns a new store; so many `more` messages make the log longer.
    """

    async def both(call: Callable[[Any], Awaitable[object]]) -> None:
        await call(history.model)
        await history.note()
        await call(store)

    async def write(first: int, count: int = 3) -> None:
        for at in range(first, first + count):
            await both(lambda to, at=at: to.add_message(message(at, (None, "1", "2")[at % 3])))  # type: ignore[misc]
            await both(lambda to, at=at: to.append_event("t", "step", {"at": at}))  # type: ignore[misc]

    store = opened()
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
    await write(10, more)
    await both(lambda to: to.update_message("t-0001", status="ok", cost=0.7))
    await both(lambda to: to.update_goal("t", "2", status="completed"))
    await store.compact("t")
    await store.seal("t")
    await store.close()
    store = opened()
    await write(10 + more)
    await both(lambda to: to.update_message("t-0009", content="late"))
    await both(lambda to: to.update_trace("t", status="completed", completed_at=NOW))
    await store.close()
    store = opened()
    await both(lambda to: to.update_trace("t", result_summary="well"))
    await store.seal("t")
    await store.close()


def filmed_on_disk(root: Path) -> tuple[list[Frame], History]:
    """Return the frames of the workload on a local disk, and the states that may be found in copies."""
    film, history = Film(root), History()
    with pytest.MonkeyPatch.context() as patch, film.roll(patch):
        asyncio.run(work(lambda: ArchiveStore(root, durability="os"), history))
    assert len(film.frames) > 200
    return film.frames, history


class FilmedMemory(MemoryStorage):
    """An object store that adds a frame to a film after each request that changes an object."""

    def __init__(self, name: str, frames: list[Frame]) -> None:
        super().__init__(name)
        self._frames = frames

    def shoot(self) -> None:
        """Add a frame."""
        self._frames.append({key: data for key, (data, _, _) in self._objects.items()})

    async def create(self, key: str, data: bytes) -> str:
        version = await super().create(key, data)
        self.shoot()
        await asyncio.sleep(0)
        return version

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        found = await super().replace(key, data, version)
        self.shoot()
        await asyncio.sleep(0)
        return found

    async def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            await super().delete([key])
            self.shoot()
            await asyncio.sleep(0)


def filmed_on_objects(name: str, *, few: int, grace_seconds: float) -> tuple[list[Frame], History]:
    """Return the same of an object store, where objects are folded as soon as there are more than a `few`."""
    frames, history = [Frame()], History()

    def opened() -> ArchiveStore:
        storage = FilmedMemory(name, frames)
        storage.grace_seconds = grace_seconds
        store = ArchiveStore(storage.url)
        store.storage = store._pool.storage = storage
        return store

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "OBJECTS", few)
        patch.setattr(plan, "_FAN", few)
        asyncio.run(work(opened, history, more=30))
    MemoryStorage.forget(name)
    assert any(one.keys() - other.keys() for one, other in pairwise(frames)), "nothing was folded"
    return frames, history


async def judge(store: ArchiveStore, history: History) -> str:
    """Assert that a copy reads as an earlier state or says what is missing; return which."""
    try:
        trace = await store.get_trace("t")
        messages = await store.get_trace_messages("t")
        events = await store.get_events("t")
        tree = await store.get_goal_tree("t")
    except DamagedTraceError as error:
        assert "traces/t" in str(error) or "trace 't'" in str(error) or f"{MARKER} is torn" in str(error)
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


async def judge_list(store: ArchiveStore) -> None:
    """Assert that a copy's list holds the trace as it reads, or says that the marker is not whole."""
    try:
        listed = await store.list_traces()
    except CorruptFileError as error:
        assert f"{MARKER} is torn" in str(error)
        return
    assert [header_text(each) for each in listed] == [header_text(await header(store))]


async def judge_copies(copies: Iterator[Frame], history: History) -> dict[str, int]:
    """Judge copies; return how many were found to be what."""
    found: dict[str, int] = {}
    for at, copy in enumerate(copies):
        store = await laid_out(copy)
        try:
            kind = await judge(store, history)
            if kind == "whole" and at % tried(5, 1) == 0:
                await judge_list(store)
        except Exception as error:
            error.add_note(f"the copy:\n{prints(copy)}")
            raise
        finally:
            MemoryStorage.forget("copy")
        found[kind] = found.get(kind, 0) + 1
    return found


async def state(store: ArchiveStore) -> tuple[str, str, str, str]:
    """Return all that an archive says of the trace."""
    messages, events = await store.get_trace_messages("t"), await store.get_events("t")
    tree = await store.get_goal_tree("t")
    return header_text(await header(store)), messages_text(messages), events_text(events), tree_text(tree)


async def judge_synced(copies: Iterator[Frame], folder: Path | None) -> dict[str, int]:
    """Sync copies, one after another, to an archive that stays, on a disk or in memory; return the outcomes.

    What is told to be the same there, or to have been brought there, is what the copy says.
    """
    url, found = "memory://kept" if folder is None else str(folder / "kept"), dict[str, int]()
    try:
        async with ArchiveStore(url, durability="os") as kept:
            for copy in copies:
                try:
                    outcome = await _sync_on(copy, kept, folder)
                except Exception as error:
                    error.add_note(f"the copy:\n{prints(copy)}")
                    raise
                found[outcome] = found.get(outcome, 0) + 1
    finally:
        MemoryStorage.forget("kept")
    return found


async def _sync_on(copy: Frame, kept: ArchiveStore, folder: Path | None) -> str:
    if folder is None:
        store = await laid_out(copy)
    else:
        for name, data in copy.items():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes(data)
        store = ArchiveStore(folder / "copy", durability="os")
    try:
        report = await sync(store, kept)
        outcome = next(iter(report.outcomes), "absent")
        if outcome in ("same", "new", "forward"):
            try:
                said = await state(store)
            except DamagedTraceError:
                # Of what is sealed on both sides the records are not looked at.
                assert outcome == "same" and await store.verify(deep=True) != []
                assert await kept.verify(deep=True) == []
                return "damaged"
            assert await state(kept) == said, outcome
        elif outcome == "failed":
            assert await store.verify(deep=True) != []
        return outcome
    except CorruptFileError as error:
        assert f"{MARKER} is torn" in str(error)
        return "damaged"
    finally:
        if folder is None:
            MemoryStorage.forget("copy")
        else:
            shutil.rmtree(folder / "copy", ignore_errors=True)
