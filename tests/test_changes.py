"""A store that records changes tells all of a run by its events: whoever reads these has the trace."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from profiles import SEED, machine_settings, some, tried
from servers import Requests, S3Server
from test_stateful import (
    NEW_YEAR,
    STAMP,
    attempt,
    contents,
    goal_ids,
    goal_updates,
    message_fields,
    new_fields,
    stats,
    tools,
    trace_updates,
)
from test_sync_faults import CHANGING
from traceark.changes import TYPES, Replay
from traceark.errors import InvalidValueError
from traceark.importers.run import import_paths
from traceark.layout import trace_prefix
from traceark.models import ArchiveModel, Goal, GoalStats, GoalTree, Message, Trace
from traceark.store import ArchiveStore
from traceark.testing import ModelStore
from traceark.testing.compare import exact_text, exact_texts

DOCS = Path(__file__).parent.parent / "docs"


def recording(path: Path | str, **options: Any) -> ArchiveStore:
    return ArchiveStore(path, durability="os", record_changes=True, **options)


async def told(store: ArchiveStore, trace_id: str = "t") -> Replay:
    """Return what all events of a trace tell."""
    replay = Replay()
    replay.extend(await store.get_events(trace_id))
    return replay


async def state(store: ArchiveStore, trace_id: str = "t") -> list[str]:
    """Return all that the getters say."""
    trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    return exact_texts(each for each in (trace, tree, *await store.get_trace_messages(trace_id)) if each is not None)


def replayed(replay: Replay) -> list[str]:
    """Return all that the events say."""
    return exact_texts(each for each in (replay.trace(), replay.goal_tree(), *replay.messages()) if each is not None)


async def types(store: ArchiveStore, trace_id: str = "t") -> list[str]:
    return [event.event_type for event in await store.get_events(trace_id)]


class RecordedChanges(RuleBasedStateMachine):
    """An archive that several stores write to, some of which record changes, beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="changes-"))
        self.model = ModelStore(clock=lambda: STAMP)
        self.stores = [recording(self.root), recording(self.root), ArchiveStore(self.root, durability="os")]
        self.client = Replay()
        self.recorded = True

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def both(self, which: int, name: str, *arguments: Any, **keywords: Any) -> None:
        expected = self.run(attempt(getattr(self.model, name)(*arguments, **keywords)))
        actual = self.run(attempt(getattr(self.stores[which], name)(*arguments, **keywords)))
        assert actual == expected, f"{name}{arguments}{keywords} gave {actual!r}, expected {expected!r}"
        if not isinstance(actual, str) or not actual.endswith(("Error", "AmbiguousMessageId")):
            # One that records changes tells what others left untold, too; a call that is refused need not.
            self.recorded = which < 2

    which = st.sampled_from([0, 0, 0, 1, 2])

    @initialize()
    def first_trace(self) -> None:
        self.both(0, "create_trace", Trace(trace_id="t", created_at=NEW_YEAR))

    @rule(which=which, fields=message_fields, new=new_fields)
    def add_message(self, which: int, fields: dict[str, Any], new: dict[str, Any]) -> None:
        self.both(which, "add_message", Message.parse({"trace_id": "t", "role": "user", **fields, **new}))

    @rule(which=which, fields=st.lists(message_fields, min_size=1, max_size=4))
    def add_messages(self, which: int, fields: list[dict[str, Any]]) -> None:
        self.both(which, "add_messages", [Message.parse({"trace_id": "t", "role": "tool", **each}) for each in fields])

    @rule(which=which, at=st.integers(0, 5), updates=message_fields)
    def update_message(self, which: int, at: int, updates: dict[str, Any]) -> None:
        known = self.run(self.model.get_trace_messages("t"))
        if known:
            self.both(which, "update_message", known[at % len(known)].message_id, trace_id="t", **updates)

    @rule(which=which, updates=trace_updates)
    def update_trace(self, which: int, updates: dict[str, Any]) -> None:
        updates.pop("last_event_id", None)  # events of changes count, too
        self.both(which, "update_trace", "t", **updates)

    @rule(which=which, goal_id=goal_ids, parent_id=st.none() | goal_ids, given=st.just(GoalStats()) | stats)
    def add_goal(self, which: int, goal_id: str, parent_id: str | None, given: GoalStats) -> None:
        self.both(which, "add_goal", "t", Goal(id=goal_id, parent_id=parent_id, self_stats=given))

    @rule(which=which, goal_id=goal_ids, updates=goal_updates)
    def update_goal(self, which: int, goal_id: str, updates: dict[str, Any]) -> None:
        self.both(which, "update_goal", "t", goal_id, **updates)

    @rule(which=which, parents=st.dictionaries(goal_ids, st.none() | goal_ids, max_size=4), given=stats, own=contents)
    def replace_goal_tree(self, which: int, parents: dict[str, str | None], given: GoalStats, own: Any) -> None:
        def tree() -> GoalTree:
            goals = [Goal(id=goal_id, parent_id=parent_id) for goal_id, parent_id in parents.items()]
            if goals:
                goals[-1].self_stats = given.model_copy()
            return GoalTree.parse({"goals": goals, "own": own})

        expected = self.run(attempt(self.model.update_goal_tree("t", tree())))
        actual = self.run(attempt(self.stores[which].update_goal_tree("t", tree())))
        assert actual == expected
        self.recorded = which < 2 if actual is None else self.recorded

    @rule(which=which, event_type=tools | st.sampled_from(sorted(TYPES)), payload=contents)
    def append_event(self, which: int, event_type: str, payload: Any) -> None:
        self.run(self.stores[which].append_event("t", event_type, payload))
        self.recorded = which < 2 or self.recorded

    @rule(which=which, step=st.sampled_from(["seal", "compact"]))
    def keep(self, which: int, step: str) -> None:
        self.run(getattr(self.stores[which], step)("t"))

    @rule(which=which, closed=st.booleans())
    def reopen(self, which: int, closed: bool) -> None:
        if closed:
            self.run(self.stores[which].close())
        self.stores[which] = recording(self.root) if which < 2 else ArchiveStore(self.root, durability="os")

    @invariant()
    def events_tell_what_the_getters_say(self) -> None:
        if not self.recorded:
            return
        reader = ArchiveStore(self.root)
        self.client.extend(self.run(reader.get_events("t", since_event_id=self.client.cursor)))
        expected = self.run(state(reader))
        assert replayed(self.client) == expected
        assert replayed(self.run(told(reader))) == expected
        trace = self.run(self.model.get_trace("t"))
        if trace is not None:
            self.assert_alike(trace, self.client.trace(), "last_event_id")
            self.assert_alike(self.run(self.model.get_goal_tree("t")), self.client.goal_tree())
            for one, other in zip(self.run(self.model.get_trace_messages("t")), self.client.messages(), strict=True):
                self.assert_alike(one, other)

    @staticmethod
    def assert_alike(expected: ArchiveModel | None, actual: ArchiveModel | None, *without: str) -> None:
        assert (expected is None) == (actual is None)
        if expected is not None and actual is not None:
            stamped = getattr(expected, "created_at", None) == STAMP
            left_out = (*without, "created_at") if stamped else without
            assert exact_text(actual, without=left_out) == exact_text(expected, without=left_out)

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.loop.close()
        shutil.rmtree(self.root)


TestRecordedChanges = RecordedChanges.TestCase
TestRecordedChanges.settings = machine_settings(3, 30, thorough=40)


MESSAGE = Message(trace_id="t", role="user", content="hi", tokens=2, cost=0.1, goal_id="1")
Step = Callable[[ArchiveStore], Coroutine[Any, Any, object]]
# Every call that changes something, in an order in which each does.
STEPS: dict[str, Step] = {
    "create": lambda store: store.create_trace(Trace(trace_id="t", task="look", created_at=NEW_YEAR)),
    "goal": lambda store: store.add_goal("t", Goal(id="1")),
    "message": lambda store: store.add_message(MESSAGE.model_copy(update={"message_id": "m"})),
    "update": lambda store: store.update_message("m", trace_id="t", tokens=7, goal_id=None),
    "messages": lambda store: store.add_messages([MESSAGE.model_copy(update={"message_id": each}) for each in "no"]),
    "goals": lambda store: store.update_goal("t", "1", status="completed", summary="done"),
    "tree": lambda store: store.update_goal_tree("t", GoalTree(mission="ship", goals=[Goal(id="2"), Goal(id="1")])),
    "event": lambda store: store.append_event("t", "step", 1),
    "end": lambda store: store.update_trace("t", status="completed", total_cost=3.5),
}


async def test_each_change_is_one_event_in_their_order(tmp_path: Path) -> None:
    async with recording(tmp_path) as store:
        for step in STEPS.values():
            await step(store)
        assert await types(store) == [
            "trace.updated", "goal_tree.replaced", "message.added", "message.updated", "message.added",
            "message.added", "goal.updated", "goal_tree.replaced", "step", "trace.updated",
        ]  # fmt: skip
        added, changed = (await store.get_events("t"))[2:4]
        assert (added.payload["content"], added.payload["sequence"]) == ("hi", 1)
        assert changed.payload == {"message_id": "m", "tokens": 7, "goal_id": None}
    reader = ArchiveStore(tmp_path)
    assert replayed(await told(reader)) == await state(reader)
    assert await reader.verify(deep=True) == []


async def test_by_default_the_store_itself_appends_no_events(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        for step in STEPS.values():
            await step(store)
        assert await types(store) == ["step"]


def dies_at(count: int, path: Path, step: Step) -> bool:
    """Let a process do something that dies after so many changes on the disk; say whether it did."""
    child = os.fork()
    if child == 0:
        left = count

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0 and real is write and len(args[1]) > 1:
                    real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                if left <= 0:
                    os._exit(9)
                return real(*args, **kwargs)

            return change

        write = os.write
        for name in CHANGING:
            setattr(os, name, counted(getattr(os, name)))
        try:
            asyncio.run(asyncio.wait_for(step(recording(path)), 20))
        except BaseException:  # whatever it is, nothing of the test may go on here
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.parametrize("name", some(STEPS, 2))
def test_killed_at_any_change_the_next_writer_tells_what_is_there(tmp_path: Path, name: str) -> None:
    """What is on the disk is what was acknowledged or more, and events tell it, all of it, from the next opening on."""
    before = tmp_path / "before"

    async def begin() -> None:
        async with recording(before) as store:
            for each in list(STEPS)[: list(STEPS).index(name)]:
                await STEPS[each](store)

    async def look(path: Path, died: bool) -> None:
        reader = ArchiveStore(path)
        if await reader.get_trace("t") is None:
            return
        messages = {message.message_id for message in await reader.get_trace_messages("t")}
        assert {message.message_id for message in (await told(reader)).messages()} <= messages
        assert died or replayed(await told(reader)) == await state(reader)
        async with recording(path) as store:
            await store.add_message(MESSAGE)
        reader = ArchiveStore(path)
        assert replayed(await told(reader)) == await state(reader)
        assert [each for each in await reader.verify(deep=True) if ".tmp-" not in each.file] == []

    asyncio.run(begin())
    step = tried(3, 1)
    for count in range(1 + SEED % step, 60, step):
        path = tmp_path / str(count)
        if before.exists():
            shutil.copytree(before, path)
        died = dies_at(count, path, STEPS[name])
        asyncio.run(look(path, died))
        shutil.rmtree(path, ignore_errors=True)
        if not died:
            break
    assert not died and count > 2


async def test_what_was_written_before_changes_were_recorded_is_told_at_the_next_opening(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path, durability="os") as store:
        await store.create_trace(Trace(trace_id="t", task="look", total_tokens=5))
        await store.add_goal("t", Goal(id="1"))
        await store.add_messages([MESSAGE] * 4100)
        await store.update_message("t-0002", tokens=70, content=None)
    async with recording(tmp_path) as store:
        await store.append_event("t", "step", 1)
        assert (await types(store))[:3] == ["trace.updated", "goal_tree.replaced", "message.added"]
        assert (await types(store))[-2:] == ["message.updated", "step"]
        assert replayed(await told(store)) == await state(store)


async def test_an_update_that_was_sealed_before_it_was_told_is_told(tmp_path: Path) -> None:
    """A seal folds it into its message, which was told before: all messages are told again."""
    client = Replay()
    async with recording(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_messages([MESSAGE] * 3)
        client.extend(await store.get_events("t"))
        async with ArchiveStore(tmp_path, durability="os") as other:
            await other.update_message("t-0001", trace_id="t", content="changed", tokens=100)
            await other.seal("t")
        await store.add_message(MESSAGE)
        client.extend(await store.get_events("t", client.cursor))
        assert "messages.cut" in await types(store)
        assert [message.content for message in client.messages()] == ["changed", "hi", "hi", "hi"]
        assert replayed(client) == await state(store)


@pytest.mark.parametrize("goes_on", ["told", "untold"])
async def test_what_was_told_of_messages_that_a_copy_lacks_is_taken_back(tmp_path: Path, goes_on: str) -> None:
    """A copy of the directory while it was written may hold an event whose message it left out, as may a power loss."""
    here, copy = tmp_path / "here", tmp_path / "copy"
    store = recording(here)
    await store.create_trace(Trace(trace_id="t"))
    await store.add_messages([MESSAGE] * 3)
    shutil.copytree(here, copy)
    await store.add_messages([MESSAGE.model_copy(update={"content": "lost"})] * 2)
    shutil.copytree(here / trace_prefix("t") / "events", copy / trace_prefix("t") / "events", dirs_exist_ok=True)
    client = await told(ArchiveStore(copy))
    assert len(client.messages()) == 5
    if goes_on == "untold":
        async with ArchiveStore(copy, durability="os") as other:
            await other.add_messages([MESSAGE.model_copy(update={"content": "other"})] * 3)
    async with recording(copy) as other:
        await other.add_message(MESSAGE)
        client.extend(await other.get_events("t", client.cursor))
        assert "lost" not in [message.content for message in client.messages()]
        assert replayed(client) == await state(other)
    await store.close()


async def test_events_of_the_same_types_that_others_make_are_not_taken_for_changes(tmp_path: Path) -> None:
    async with recording(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        for event_type in TYPES:
            await store.append_event("t", event_type, {"offset": 7, "change": {"offset": 7}})
            await store.append_event("t", event_type, None)
        await store.add_message(MESSAGE)
        assert replayed(await told(store)) == await state(store)


async def test_any_json_is_told_exactly(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(490):
        deep = [deep]
    values = [
        deep,
        "\ud800",
        2**70,
        -0.0,
        {"_offset": 1, "_after": "12345678"},
        ',"_offset":7',
        '{"_op":"update",',
        "é\n\0",
    ]
    async with recording(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        for value in values:
            message_id = await store.add_message(Message(trace_id="t", role="user", content=value))
            await store.update_message(message_id, trace_id="t", content={"_offset": value})
    reader = ArchiveStore(tmp_path)
    for _ in ("live", "sealed"):
        assert replayed(await told(reader)) == await state(reader)
        async with ArchiveStore(tmp_path) as store:
            await store.seal("t")


async def test_events_between_which_some_are_missing_are_refused(tmp_path: Path) -> None:
    async with recording(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_messages([MESSAGE] * 3)
        events = await store.get_events("t")
    with pytest.raises(InvalidValueError, match="the next event is 1, not 2"):
        Replay().extend(events[1:])


async def test_a_run_added_whole_is_told_too(tmp_path: Path) -> None:
    async with recording(tmp_path) as store:
        assert not store.adds_at_once
        tree = GoalTree(goals=[Goal(id="1")])
        await store.add_trace(Trace(trace_id="t", status="completed"), [MESSAGE] * 3, [("step", 1)], tree)
    reader = ArchiveStore(tmp_path)
    assert replayed(await told(reader)) == await state(reader)


async def write_at_once(stores: list[ArchiveStore]) -> None:
    """Let stores add, update and change goals at the same time, then check that events tell it."""
    await stores[0].create_trace(Trace(trace_id="t"))
    await asyncio.gather(*(store.add_message(MESSAGE) for store in stores for _ in range(10)))
    await asyncio.gather(
        *(store.add_goal("t", Goal(id=f"{at}-{number}")) for at, store in enumerate(stores) for number in range(3)),
        *(store.update_message(f"t-{at + 1:04d}", trace_id="t", tokens=at) for at, store in enumerate(stores * 3)),
        *(store.append_event("t", "step", 1) for store in stores),
    )
    await stores[0].update_trace("t", status="completed")
    replay = await told(stores[0])
    assert replayed(replay) == await state(stores[0])
    added = [event for event in await types(stores[0]) if event == "message.added"]
    assert len(added) == 10 * len(stores)
    for store in stores:
        await store.close()


async def test_several_stores_tell_each_change_once(tmp_path: Path) -> None:
    await write_at_once([recording(tmp_path) for _ in range(3)])


async def test_with_objects_too(ministack_server: S3Server) -> None:
    url, options = ministack_server.place(), ministack_server.storage_options
    await write_at_once([recording(url, storage_options=options) for _ in range(2)])


async def test_a_change_costs_one_request_more(ministack_server: S3Server) -> None:
    store = recording(ministack_server.place(), storage_options=ministack_server.storage_options)
    requests = Requests()
    await requests.listen(store)
    await store.create_trace(Trace(trace_id="t"))
    await store.add_message(MESSAGE)
    assert len(await requests.during(store.add_message(MESSAGE))) == 2
    assert len(await requests.during(store.add_messages([MESSAGE] * 50))) == 2
    assert len(await requests.during(asyncio.gather(*(store.add_message(MESSAGE) for _ in range(8))))) == 2
    await store.close()


async def test_a_recorded_run_is_imported_with_its_events_and_recorded_anew(tmp_path: Path) -> None:
    async with recording(tmp_path / "here") as store:
        for step in STEPS.values():
            await step(store)
        history = await types(store)
    async with ArchiveStore(tmp_path / "there") as store:
        report = await import_paths(store, [tmp_path / "here"])
        assert not [problem for file in report.files for problem in file.problems]
    async with recording(tmp_path / "there") as store:
        (trace,) = await store.list_traces()
        assert await types(store, trace.trace_id) == history
        await store.append_event(trace.trace_id, "more", None)
        assert replayed(await told(store, trace.trace_id)) == await state(store, trace.trace_id)


def test_the_page_has_the_types_of_the_code() -> None:
    head = "| type | payload | `change` | what it says |\n|---|---|---|---|\n"
    rows = "".join(f"| `{name}` | {' | '.join(told)} |\n" for name, told in TYPES.items())
    assert head + rows in (DOCS / "watching.md").read_text()
