"""A run that has ended, added in one piece, is what it would be if it had been added bit by bit and sealed."""

from __future__ import annotations

import asyncio
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from profiles import tried
from test_stateful import contents, goal_ids, message_fields, new_fields
from traceark.errors import (
    InvalidIdError,
    InvalidValueError,
    MessageConflictError,
    StorageError,
    TraceExistsError,
)
from traceark.layout import HEADER, LOCK, MANIFEST, trace_prefix
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text, exact_texts

NOW = datetime(2026, 1, 2, tzinfo=UTC)
messages = st.lists(st.tuples(message_fields, new_fields).map(lambda both: both[0] | both[1]), max_size=6)
events = st.lists(st.tuples(st.sampled_from(["begun", "ended"]), contents), max_size=4)
trees = st.none() | st.lists(goal_ids, max_size=3, unique=True).map(
    lambda ids: GoalTree(mission="m", goals=[Goal(id=each) for each in ids])
)
headers = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed"])},
    optional={
        "task": st.text(max_size=3),
        "total_tokens": st.integers(0, 50),
        "last_sequence": st.integers(0, 9),
        "metadata": st.fixed_dictionaries({"v": contents}),
    },
)


def message(fields: dict[str, Any]) -> Message:
    return Message.parse({"trace_id": "t", "role": "user", "created_at": NOW, **fields})


async def told(store: ArchiveStore, trace_id: str = "t") -> dict[str, Any]:
    """Return all that a trace says, but for the times of its events, which are the store's."""
    trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    files = await store.storage.list(trace_prefix(trace_id))
    assert trace is not None
    return {
        "trace": exact_text(trace),
        "messages": exact_texts(await store.get_trace_messages(trace_id)),
        "events": exact_texts(await store.get_events(trace_id), without={"created_at"}),
        "tree": None if tree is None else exact_text(tree),
        "listed": [exact_text(each) for each in await store.list_traces()],
        "files": sorted({name.split("/")[0] for name in files if name != LOCK}),
    }


@settings(max_examples=tried(14, 80, 1500))
@given(headers, messages, events, trees)
@example({"status": "completed"}, [], [], None)
@example({"status": "completed"}, [{"message_id": "t-0001"}, {}, {"sequence": 2}], [("begun", "\ud800")], None)
def test_it_is_as_if_it_had_been_added_bit_by_bit(
    header: dict[str, Any], said: list[dict[str, Any]], happened: list[tuple[str, Any]], tree: GoalTree | None
) -> None:
    trace, given_messages = Trace.parse({"trace_id": "t", "created_at": NOW, **header}), list(map(message, said))

    async def bit_by_bit(store: ArchiveStore) -> None:
        await store.create_trace(trace.model_copy(update={"status": "running"}))
        if tree is not None:
            await store.update_goal_tree("t", tree)
        for each in given_messages:
            await store.add_message(each)
        await store.append_events("t", happened)
        await store.update_trace("t", status=trace.status)
        await store.seal("t")

    async def at_once(store: ArchiveStore) -> None:
        await store.add_trace(trace, given_messages, happened, tree)

    async def run(folder: str) -> None:
        outcomes: list[Any] = []
        for name, add in (("whole", at_once), ("bits", bit_by_bit)):
            async with ArchiveStore(Path(folder, name), durability="os") as store:
                try:
                    await add(store)
                except (InvalidValueError, MessageConflictError) as error:
                    outcomes.append(str(error))
                    assert name == "bits" or await store.list_traces() == []
                    continue
                outcomes.append(await told(store))
                assert await store.verify(deep=True) == []
                more = [await store.add_message(message({"content": "more"})), await store.append_event("t", "more")]
                outcomes[-1]["more"] = more
                async with ArchiveStore(Path(folder, name)) as other:
                    outcomes[-1]["after"] = exact_text((await other.list_traces())[0])
        refused = [isinstance(each, str) for each in outcomes]
        known = len({each.get("message_id") for each in said}) < len(said)
        # Said twice with the same content, a message is known when it comes bit by bit, and an error at once.
        assert refused == [refused[1]] * 2 or (known and refused == [True, False])
        if not any(refused):
            assert outcomes[0] == outcomes[1]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


async def test_what_cannot_be_added_leaves_nothing(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        ended = Trace(trace_id="t", status="completed")
        twice = message({"message_id": "m"})
        with pytest.raises(InvalidValueError, match="content"):
            await store.add_trace(ended, [message({"content": float("nan")})])
        with pytest.raises(InvalidValueError, match="comes twice"):
            await store.add_trace(ended, [twice, twice])
        with pytest.raises(InvalidValueError, match="of trace 'other'"):
            await store.add_trace(ended, [Message(trace_id="other", role="user")])
        with pytest.raises(InvalidValueError, match="status"):
            await store.add_trace(Trace(trace_id="t", status="running"))
        with pytest.raises(InvalidValueError, match="event_type"):
            await store.add_trace(ended, [], [("\ud800", None)])
        with pytest.raises(InvalidIdError):
            await store.add_trace(Trace(trace_id="", status="completed"))
        assert await store.list_traces() == []
        assert await store.add_trace(ended) == "t"
        with pytest.raises(TraceExistsError):
            await store.add_trace(ended)
        names = set(await store.storage.list(trace_prefix("t"))) - {LOCK}
        assert names == {HEADER, MANIFEST}


async def test_a_trace_that_comes_where_something_was_left_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, tree = [message({"content": at}) for at in range(3)], GoalTree(mission="m", goals=[Goal(id="1")])
    ended = Trace(trace_id="t", status="completed")
    publish = LocalStorage._publish
    for lucky in range(6):
        folder, left = tmp_path / str(lucky), lucky
        (folder / trace_prefix("t") / "messages").mkdir(parents=True)

        def dying(storage: Any, file: Any, *, exclusive: bool) -> str:
            nonlocal left
            if file.path.is_relative_to(storage.root / "traces"):
                if not left:
                    raise StorageError("the disk is gone")
                left -= 1
            return publish(storage, file, exclusive=exclusive)

        async with ArchiveStore(folder, durability="os") as store, ArchiveStore(folder) as fresh:
            with monkeypatch.context() as patch:
                patch.setattr(LocalStorage, "_publish", dying)
                outcome = await asyncio.gather(store.add_trace(ended, said, [("e", 1)], tree), return_exceptions=True)
            there = await store.get_trace("t") is not None
            # Two parts, the tree, the header, the manifest: from the header on it is there.
            assert (there, isinstance(outcome[0], StorageError)) == (lucky >= 4, lucky < 5)
            # So long after it came, the directory counts as known.
            monkeypatch.setattr("traceark.catalog.catalog._RACY_SECONDS", -1.0)
            assert [each.trace_id for each in await fresh.list_traces()] == ["t"] * there
            if not there:
                await store.add_trace(ended, said, [("e", 1)], tree)
            assert [each.trace_id for each in await fresh.list_traces()] == ["t"]
            assert len(await fresh.get_trace_messages("t")) == 3
            assert await fresh.verify(deep=True) == []


async def test_of_many_who_add_the_same_trace_one_wins(tmp_path: Path) -> None:
    stores = [ArchiveStore(tmp_path, durability="os") for _ in range(4)]
    adding = [
        store.add_trace(Trace(trace_id="t", status="completed"), [message({"content": at})])
        for at, store in enumerate(stores)
    ]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sorted(map(repr, map(type, outcomes))) == sorted([repr(str), *[repr(TraceExistsError)] * 3])
    won = next(at for at, outcome in enumerate(outcomes) if outcome == "t")
    for store in stores:
        assert [each.content for each in await store.get_trace_messages("t")] == [won]
        assert [each.total_messages for each in await store.list_traces()] == [1]
        await store.close()


def _run(task: str = "t", said: str = "hi", event: str = "begun", mission: str = "m") -> tuple[Any, ...]:
    """Return a run whose times are all told, as `add_trace` takes it."""
    trace = Trace(trace_id="t", status="completed", task=task, created_at=NOW, completed_at=NOW)
    return trace, [message({"content": said})], [(event, {"n": 1}, NOW)], GoalTree(mission=mission)


def _bytes(root: Path) -> dict[str, bytes]:
    folder = root / "traces" / "t"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_the_same_run_is_the_same_bytes_wherever_it_is_added(tmp_path: Path) -> None:
    for name in ("one", "other"):
        async with ArchiveStore(tmp_path / name, durability="os") as store:
            await store.add_trace(*_run())
    one, other = _bytes(tmp_path / "one"), _bytes(tmp_path / "other")
    assert len(one) == 5  # two parts, the headers, the manifest
    assert one == other


@pytest.mark.parametrize("what", ["task", "said", "event", "mission"])
async def test_another_state_of_a_run_is_another_incarnation(tmp_path: Path, what: str) -> None:
    found = set()
    for name in ("a", "b"):
        async with ArchiveStore(tmp_path / name, durability="os") as store:
            await store.add_trace(*_run(**{what: name}))
        found.add(json.loads((tmp_path / name / "traces" / "t" / HEADER).read_bytes())["_incarnation"])
    assert len(found) == 2
