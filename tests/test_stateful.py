"""A state machine: whatever is done to an archive, it reads as the in-memory model does.

Compacting, sealing, reopening and copying are steps like any other; they must change nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from profiles import machine_settings
from traceark import folding, plan
from traceark.errors import TracearkError
from traceark.models import ArchiveModel, Goal, GoalStats, GoalTree, Message, Trace
from traceark.protocol import TraceStore
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing import ModelStore
from traceark.testing.compare import exact_text

Answer = TypeVar("Answer")

# The model stamps with this what the store stamps with its own clock; both are left out when compared.
STAMP = datetime(1999, 1, 1, tzinfo=UTC)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)

# Most steps go to one trace, so that it grows a history; the others are case twin and stranger.
trace_ids = st.sampled_from(["t", "t", "t", "t", "T", "a/b"])
goal_ids = st.sampled_from(["1", "2", "3", "4", "é"])
counts = st.integers(-3, 1000)
costs = st.sampled_from([0.1, 0.2, 0.7, 1e-9, 3.0, -0.1, 1e15])
tools = st.sampled_from(["grep", "sed", "awk → sort", ""])
times = st.integers(0, 1000).map(lambda seconds: NEW_YEAR + timedelta(seconds=seconds))
contents = st.sampled_from(
    ["hi", "", None, 1, 1.0, True, [-0.0, {"a": None}], {"b": 1, "a": [2**70]}, "\ud800", "\0\u2028"]
)
usages = st.fixed_dictionaries({}, optional={"input_tokens": counts, "output_tokens": counts, "own": contents})
stats = st.builds(
    GoalStats, message_count=counts, total_tokens=counts, total_cost=costs, preview=st.none() | st.just("x → y")
)
message_fields = st.fixed_dictionaries(
    {},
    optional={
        "content": contents, "goal_id": st.none() | goal_ids, "tool_name": st.none() | tools,
        "tokens": st.none() | counts, "usage": st.none() | usages,
        "cost": st.none() | costs, "duration_ms": st.none() | counts,
        "description": st.none() | st.text(max_size=3),
    },
)  # fmt: skip
OWN_IDS = ("m", "n", "t-0003")
new_fields = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.sampled_from(OWN_IDS), "sequence": st.integers(1, 12), "created_at": times,
        "own": contents,
    },
)  # fmt: skip
trace_updates = st.fixed_dictionaries(
    {},
    optional={
        "task": st.none() | st.text(max_size=3), "status": st.sampled_from(["running", "completed", "failed"]),
        "total_tokens": counts, "total_messages": counts, "total_cost": costs, "last_sequence": st.integers(0, 20),
        "last_event_id": st.integers(0, 3), "metadata": st.fixed_dictionaries({"v": contents}),
    },
)  # fmt: skip
goal_updates = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["pending", "completed"]), "parent_id": st.none() | goal_ids, "self_stats": stats,
        "cumulative_stats": stats, "sub_trace_ids": st.lists(trace_ids, max_size=2),
        "summary": st.none() | st.text(max_size=3),
    },
)  # fmt: skip


async def attempt(call: Coroutine[Any, Any, Answer]) -> Answer | str:
    """Return the answer of a call, or the name of the error that refused it."""
    try:
        return await call
    except TracearkError as error:
        return type(error).__name__


def unstamped(model: ArchiveModel, stamped: bool) -> str:
    """Return a model as text, without the time that the store itself has put in."""
    return exact_text(model, without=("created_at",) if stamped else ())


async def differences(model: TraceStore, store: TraceStore, trace_id: str) -> list[str]:
    """Return how what a store reads of a trace differs from the model's."""
    found: list[str] = []

    def compare(what: str, expected: list[Any], actual: list[Any]) -> None:
        if len(expected) != len(actual):
            found.append(f"{what}: {len(expected)} expected, {len(actual)} read")
        for one, other in zip(expected, actual, strict=False):
            stamped = getattr(one, "created_at", None) == STAMP
            if unstamped(one, stamped) != unstamped(other, stamped):
                found.append(f"{what}:\n  expected {exact_text(one)}\n  read     {exact_text(other)}")

    trace, tree = await model.get_trace(trace_id), await model.get_goal_tree(trace_id)
    read, read_tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    compare("header", [trace] if trace else [], [read] if read else [])
    compare("goal tree", [tree] if tree else [], [read_tree] if read_tree else [])
    compare("message", await model.get_trace_messages(trace_id), await store.get_trace_messages(trace_id))
    compare("event", await model.get_events(trace_id), await store.get_events(trace_id))
    return found


class ArchiveAgainstModel(RuleBasedStateMachine):
    """An archive on local disk, and the model, given the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="archive-"))
        self.copies = 0
        self.model = ModelStore(clock=lambda: STAMP)
        self.store = self.opened(self.root / "archive")
        self.created: set[str] = set()
        self.given: list[Message] = []
        self.trees: dict[str, tuple[GoalTree, GoalTree]] = {}

    @staticmethod
    def opened(path: Path) -> ArchiveStore:
        return ArchiveStore(path, durability="os")

    @staticmethod
    def copy_files(source: Path, target: Path) -> None:
        # What is about to be renamed into place, by a seal in the background, comes and goes.
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".tmp-*"))

    @staticmethod
    def move(source: Path, target: Path) -> None:
        source.rename(target)

    @staticmethod
    def remove(path: Path) -> None:
        shutil.rmtree(path)

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(call)

    def stores(self) -> list[TraceStore]:
        return [self.model, self.store]

    def both(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of both stores; they must answer or refuse alike."""

        async def call() -> tuple[Any, Any]:
            return (
                await attempt(getattr(self.model, name)(*arguments, **keywords)),
                await attempt(getattr(self.store, name)(*arguments, **keywords)),
            )

        expected, actual = self.run(call())
        assert actual == expected, f"{name}{arguments}{keywords} gave {actual!r}, expected {expected!r}"
        return actual

    def messages(self) -> list[Message]:
        """Return all messages of all traces."""
        return [each for trace_id in sorted(self.created) for each in self.run(self.model.get_trace_messages(trace_id))]

    @initialize()
    def first_trace(self) -> None:
        self.both("create_trace", Trace(trace_id="t", created_at=NEW_YEAR))
        self.created.add("t")

    @rule(trace_id=trace_ids, created_at=st.none() | times, tokens=counts, last_sequence=st.integers(0, 5))
    def create_trace(self, trace_id: str, created_at: datetime | None, tokens: int, last_sequence: int) -> None:
        trace = Trace(trace_id=trace_id, created_at=created_at, total_tokens=tokens, last_sequence=last_sequence)
        self.both("create_trace", trace)
        self.created.add(trace_id)

    @rule(trace_id=trace_ids, updates=trace_updates)
    def update_trace(self, trace_id: str, updates: dict[str, Any]) -> None:
        self.both("update_trace", trace_id, **updates)

    @rule(trace_id=trace_ids, fields=message_fields, new=new_fields)
    def add_message(self, trace_id: str, fields: dict[str, Any], new: dict[str, Any]) -> None:
        message = Message.parse({"trace_id": trace_id, "role": "user", **fields, **new})
        if message.message_id is not None:
            self.given.append(message)
        self.both("add_message", message)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def add_message_again(self, data: st.DataObject) -> None:
        """What a framework retries, whatever became of the message since."""
        self.both("add_message", data.draw(st.sampled_from(self.given)))

    @rule(trace_id=trace_ids, fields=st.lists(message_fields, min_size=1, max_size=8))
    def add_messages(self, trace_id: str, fields: list[dict[str, Any]]) -> None:
        messages = [Message.parse({"trace_id": trace_id, "role": "tool", **each}) for each in fields]
        self.both("add_messages", messages)

    @precondition(lambda self: self.messages())
    @rule(data=st.data(), asked_for_again=st.booleans(), updates=message_fields)
    def touch_message(self, data: st.DataObject, asked_for_again: bool, updates: dict[str, Any]) -> None:
        known = self.messages()
        # Those with ids of their own are the ones that are given again.
        own = [each for each in known if each.message_id in OWN_IDS]
        message = data.draw(st.sampled_from(own or known))
        if asked_for_again:
            # What was read back, or the same with other fields: known or in conflict.
            again = {**message.fields(), **updates}
            if again["created_at"] == STAMP:
                del again["created_at"]
            self.both("add_message", Message.parse(again))
        else:
            self.both("update_message", message.message_id, trace_id=message.trace_id, **updates)

    @rule(trace_id=trace_ids, goal_id=goal_ids, parent_id=st.none() | goal_ids, given=st.just(GoalStats()) | stats)
    def add_goal(self, trace_id: str, goal_id: str, parent_id: str | None, given: GoalStats) -> None:
        self.both("add_goal", trace_id, Goal(id=goal_id, parent_id=parent_id, self_stats=given))

    @rule(trace_id=trace_ids, goal_id=goal_ids, updates=goal_updates)
    def update_goal(self, trace_id: str, goal_id: str, updates: dict[str, Any]) -> None:
        self.both("update_goal", trace_id, goal_id, **updates)

    @rule(trace_id=trace_ids, parents=st.dictionaries(goal_ids, st.none() | goal_ids, max_size=4), given=stats)
    def replace_goal_tree(self, trace_id: str, parents: dict[str, str | None], given: GoalStats) -> None:
        goals = [Goal(id=goal_id, parent_id=parent_id) for goal_id, parent_id in parents.items()]
        if goals:
            goals[-1].self_stats = given
        for store in self.stores():
            answer = self.run(attempt(store.update_goal_tree(trace_id, GoalTree(goals=[*goals]))))
            note(f"replace_goal_tree: {answer}")

    @rule(trace_id=trace_ids)
    def read_goal_tree(self, trace_id: str) -> None:
        expected, actual = self.run(self.model.get_goal_tree(trace_id)), self.run(self.store.get_goal_tree(trace_id))
        if expected is not None and actual is not None:
            self.trees[trace_id] = expected, actual

    @precondition(lambda self: self.trees)
    @rule(data=st.data(), given=st.none() | stats, mission=st.text(max_size=3))
    def write_goal_tree_back(self, data: st.DataObject, given: GoalStats | None, mission: str) -> None:
        trace_id = data.draw(st.sampled_from(sorted(self.trees)))
        answers = []
        for store, tree in zip(self.stores(), self.trees[trace_id], strict=True):
            tree.mission = mission
            if given is not None and tree.goals:
                tree.goals[0].self_stats = given.model_copy()
            answers.append(self.run(attempt(store.update_goal_tree(trace_id, tree))))
        assert answers[0] == answers[1], f"model: {answers[0]}, store: {answers[1]}"

    @rule(trace_id=trace_ids, event_type=tools, payload=contents)
    def append_event(self, trace_id: str, event_type: str, payload: Any) -> None:
        self.both("append_event", trace_id, event_type, payload)

    @rule(trace_id=trace_ids)
    def delete_trace(self, trace_id: str) -> None:
        self.both("delete_trace", trace_id)
        self.trees.pop(trace_id, None)
        self.created.discard(trace_id)

    @precondition(lambda self: self.created)
    @rule(data=st.data(), step=st.sampled_from(["seal", "compact"]))
    def keep(self, data: st.DataObject, step: str) -> None:
        self.run(getattr(self.store, step)(data.draw(st.sampled_from(sorted(self.created)))))

    @rule()
    def flush(self) -> None:
        self.run(self.store.flush())

    @rule(closed=st.booleans())
    def reopen(self, closed: bool) -> None:
        if closed:
            self.run(self.store.close())
        self.store = self.opened(self.root / "archive")

    @rule(goes_on_there=st.booleans())
    def copy(self, goes_on_there: bool) -> None:
        self.copies += 1
        path = self.root / f"copy-{self.copies}"
        self.copy_files(self.root / "archive", path)
        copy = self.opened(path)
        self.assert_alike(copy)
        if goes_on_there:
            # The copy takes the original's place.
            self.run(self.store.close())
            self.remove(self.root / "archive")
            self.move(path, self.root / "archive")
            self.store = self.opened(self.root / "archive")
        else:
            self.run(copy.close())
            self.remove(path)

    @invariant()
    def reads_as_the_model(self) -> None:
        self.assert_alike(self.store)

    def assert_alike(self, store: ArchiveStore) -> None:
        for trace_id in ("t", "T", "a/b"):
            found = self.run(differences(self.model, store, trace_id))
            assert not found, f"{trace_id!r}: " + "\n".join(found)
        listed = self.run(store.list_traces())
        assert {trace.trace_id for trace in listed} == self.created

    def teardown(self) -> None:
        try:
            self.assert_alike(self.opened(self.root / "archive"))
            self.run(self.store.close())
            reader = self.opened(self.root / "archive")
            # That a goal names a trace which is not here is a note.
            assert [each for each in self.run(reader.verify(deep=True)) if not each.is_note] == []
            self.assert_alike(reader)
        finally:
            self.loop.close()
            shutil.rmtree(self.root)


TestArchiveAgainstModel = ArchiveAgainstModel.TestCase
TestArchiveAgainstModel.settings = machine_settings(4, 30, thorough=35)


class ObjectsAgainstModel(ArchiveAgainstModel):
    """The same on an object store, where objects are folded as soon as there are a few."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(folding, "OBJECTS", 2)
        self.patch.setattr(plan, "_FAN", 2)
        super().__init__()

    @staticmethod
    def opened(path: Path) -> ArchiveStore:
        return ArchiveStore(f"memory://{path}")

    @staticmethod
    def copy_files(source: Path, target: Path) -> None:
        MemoryStorage(str(target))._objects.update(MemoryStorage(str(source))._objects)

    @staticmethod
    def move(source: Path, target: Path) -> None:
        ObjectsAgainstModel.copy_files(source, target)
        MemoryStorage.forget(str(source))

    @staticmethod
    def remove(path: Path) -> None:
        MemoryStorage.forget(str(path))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()
            self.remove(self.root / "archive")


TestObjectsAgainstModel = ObjectsAgainstModel.TestCase
TestObjectsAgainstModel.settings = machine_settings(4, 30, thorough=35)
