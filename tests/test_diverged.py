"""Archives merged by `cp -r`: clean where one side wrote, reported where both did, never a guess."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest

from profiles import some
from traceark.codec.lines import seal_record
from traceark.codec.messages import message_json
from traceark.errors import DamagedTraceError, DamagedTraceWarning, DivergedTraceError
from traceark.folding import build_part
from traceark.layout import HEADER, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.reading import retrying
from traceark.storage import storage_for
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

Step = Callable[[ArchiveStore], Awaitable[object]]


async def write(store: ArchiveStore, name: str, count: int = 2) -> None:
    for at in range(count):
        await store.add_message(Message(trace_id="t", role="user", content=f"{name} {at}"))
        await store.append_event("t", name, at)


async def nothing(store: ArchiveStore) -> None:
    pass


async def live(store: ArchiveStore) -> None:
    """Leave segments."""


async def compacted(store: ArchiveStore) -> None:
    """Leave a part and an empty segment."""
    await store.compact("t")


async def sealed(store: ArchiveStore) -> None:
    """Leave final parts and a manifest."""
    await store.seal("t")


async def compacted_and_live(store: ArchiveStore) -> None:
    """Leave a part and a segment."""
    await store.compact("t")
    await write(store, "more", 1)


STATES: tuple[Step, ...] = (live, compacted, sealed, compacted_and_live)
PAIRS = list(itertools.product(STATES, repeat=2))


def names(pair: tuple[Step, ...]) -> str:
    return " | ".join(getattr(step, "__name__", "") for step in pair)


class Sides:
    """One archive and its copy, before and after both go their own way."""

    def __init__(self, folder: Path) -> None:
        self.left = folder / "left"
        self.right = folder / "right"
        self.merged = folder / "merged"

    async def begin(self, state: Step) -> None:
        """Write the common beginning, and copy."""
        async with ArchiveStore(self.left, durability="os") as store:
            await store.create_trace(Trace(trace_id="t"))
            await store.create_trace(Trace(trace_id="other"))
            await store.add_goal("t", Goal(id="1"))
            await write(store, "common")
            await state(store)
        shutil.copytree(self.left, self.right)

    @staticmethod
    async def go_on(side: Path, name: str, state: Step) -> None:
        """Write to one side and bring it into a state."""
        async with ArchiveStore(side, durability="os") as store:
            await write(store, name)
            await state(store)

    def merge(self, source: Path, target: Path) -> ArchiveStore:
        """Copy one side over the other, as `cp -r` does; return a store over the outcome."""
        shutil.rmtree(self.merged, ignore_errors=True)
        shutil.copytree(target, self.merged)
        shutil.copytree(source, self.merged, dirs_exist_ok=True)
        return ArchiveStore(self.merged, durability="os")

    def both_ways(self) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
        return (self.left, self.right), (self.right, self.left)


@pytest.mark.parametrize(
    ("beginning", "states"),
    some(itertools.product([live, compacted, sealed], PAIRS), 5),
    ids=lambda each: each.__name__ if callable(each) else names(each),
)
def test_two_sides_that_both_wrote_are_reported(tmp_path: Path, beginning: Step, states: tuple[Step, Step]) -> None:
    sides = Sides(tmp_path)

    async def run() -> None:
        await sides.begin(beginning)
        await sides.go_on(sides.left, "left", states[0])
        await sides.go_on(sides.right, "right", states[1])
        for source, target in sides.both_ways():
            store = sides.merge(source, target)
            await assert_reported(store)
            await store.close()

    asyncio.run(run())


async def assert_reported(store: ArchiveStore) -> None:
    """Assert that a diverged trace is refused everywhere, and its neighbour read."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get_trace_messages": lambda: store.get_trace_messages("t"),
        "get_events": lambda: store.get_events("t"),
        "get_trace": lambda: store.get_trace("t"),
        "add_message": lambda: store.add_message(Message(trace_id="t", role="user")),
        "append_event": lambda: store.append_event("t", "e", None),
        "seal": lambda: store.seal("t"),
    }
    accepted: list[str] = []
    for name, call in calls.items():
        try:
            await call()
        except DivergedTraceError as error:
            assert re.search(r"00000000000[13]-.* at offset 3", str(error))
        else:
            accepted.append(name)
    assert accepted == [], "calls that answered all the same"
    with pytest.warns(DamagedTraceWarning, match=r"traces/t"):
        assert [each.trace_id for each in await store.list_traces()] == ["other"]
    with pytest.warns(DamagedTraceWarning, match=r"traces/t"):
        assert (await store.sql("SELECT trace_id FROM traces")).rows() == [{"trace_id": "other"}]
    for deep in (False, True):
        findings = await store.verify(deep=deep)
        assert {finding.trace_id for finding in findings} == {"t"}
        assert any("offset 3" in finding.meaning or finding.offset == 3 for finding in findings)
        assert all(finding.remedy for finding in findings)


@pytest.mark.parametrize("beginning", [live, compacted, sealed])
@pytest.mark.parametrize("state", STATES)
def test_a_side_that_did_not_write_merges_cleanly(tmp_path: Path, beginning: Step, state: Step) -> None:
    sides = Sides(tmp_path)

    async def run() -> None:
        await sides.begin(beginning)
        await sides.go_on(sides.left, "left", state)
        newest = ArchiveStore(sides.left)
        expected = [each.content for each in await newest.get_trace_messages("t")]
        older = [each.content for each in await ArchiveStore(sides.right).get_trace_messages("t")]
        store = sides.merge(sides.left, sides.right)
        assert [each.content for each in await store.get_trace_messages("t")] == expected
        assert [each.event_id for each in await store.get_events("t")] == list(range(1, len(expected) + 1))
        found = await store.get_trace("t")
        assert found is not None
        assert found.total_messages == len(expected)
        await store.add_message(Message(trace_id="t", role="user", content="after"))
        await store.seal("t")
        assert [each.content for each in await store.get_trace_messages("t")] == [*expected, "after"]
        assert await store.verify(deep=True) == []
        await store.close()

        # The older side over the newer: newer records stay, or what is missing is named.
        store = sides.merge(sides.right, sides.left)
        try:
            contents = [each.content for each in await store.get_trace_messages("t")]
        except DamagedTraceError:
            assert await store.verify(deep=True) != []
        else:
            assert contents[: len(older)] == older
            assert contents == expected[: len(contents)]
            found = await store.get_trace("t")
            assert found is not None
            assert found.total_messages == len(contents)

    asyncio.run(run())


@pytest.mark.parametrize("states", some(PAIRS, 2), ids=names)
def test_two_sides_that_only_kept_the_files_differently_merge_cleanly(
    tmp_path: Path, states: tuple[Step, Step]
) -> None:
    sides = Sides(tmp_path)

    async def keep(side: Path, state: Step) -> None:
        async with ArchiveStore(side, durability="os") as store:
            await (compacted if state is compacted_and_live else state)(store)

    async def run() -> None:
        await sides.begin(nothing)
        await keep(sides.left, states[0])
        await keep(sides.right, states[1])
        for source, target in sides.both_ways():
            store = sides.merge(source, target)
            expected = ["common 0", "common 1"]
            assert [each.content for each in await store.get_trace_messages("t")] == expected
            assert [each.event_id for each in await store.get_events("t")] == [1, 2]
            await store.seal("t")
            assert [each.content for each in await store.get_trace_messages("t")] == expected
            assert await store.verify(deep=True) == []
            await store.close()

    asyncio.run(run())


def test_two_sides_of_an_object_store_that_both_wrote_are_reported() -> None:
    async def objects(url: str) -> dict[str, bytes]:
        storage = storage_for(url, None, "os")
        return {f"traces/{name}": await storage.read(f"traces/{name}") for name in await storage.list("traces")}

    async def put(url: str, files: dict[str, bytes]) -> None:
        storage = storage_for(url, None, "os")
        for key, data in files.items():
            await storage.replace(key, data)

    async def run() -> None:
        left, right = ArchiveStore("memory://left"), ArchiveStore("memory://right")
        await left.create_trace(Trace(trace_id="t"))
        await write(left, "common")
        await put("memory://right", await objects("memory://left"))
        await write(left, "left", 1)
        await write(right, "right", 2)
        await left.flush()
        await right.flush()
        await put("memory://right", await objects("memory://left"))
        merged = ArchiveStore("memory://right")
        with pytest.raises(DivergedTraceError, match="offset 4"):
            await merged.get_trace_messages("t")
        with pytest.raises(DivergedTraceError, match="offset 4"):
            await merged.get_events("t")
        assert await merged.verify(deep=True) != []

    try:
        asyncio.run(run())
    finally:
        MemoryStorage.forget("left")
        MemoryStorage.forget("right")


def test_one_log_may_diverge_alone(tmp_path: Path) -> None:
    sides = Sides(tmp_path)

    async def run() -> None:
        await sides.begin(live)
        for side, count in ((sides.left, 1), (sides.right, 2)):
            async with ArchiveStore(side, durability="os") as store:
                await store.append_events("t", [(side.name, at) for at in range(count)])
        store = sides.merge(sides.left, sides.right)
        with pytest.raises(DivergedTraceError, match="events"):
            await store.get_events("t")
        assert any(finding.file.endswith("events") for finding in await store.verify())

    asyncio.run(run())


def test_two_traces_of_one_id_that_were_made_apart_never_mix(tmp_path: Path) -> None:
    sides = Sides(tmp_path)

    async def run() -> None:
        for side in (sides.left, sides.right):
            async with ArchiveStore(side, durability="os") as store:
                await store.create_trace(Trace(trace_id="t", task=side.name))
                await store.add_goal("t", Goal(id=side.name))
                await write(store, side.name)
        for source, target in sides.both_ways():
            store = sides.merge(source, target)
            found, tree = await store.get_trace("t"), await store.get_goal_tree("t")
            assert found is not None
            assert found.task == source.name
            contents = [each.content for each in await store.get_trace_messages("t")]
            assert contents == [f"{source.name} 0", f"{source.name} 1"]
            assert {each.event_type for each in await store.get_events("t")} == {source.name}
            assert tree is not None
            assert [goal.id for goal in tree.goals] == [source.name]
            assert any("incarnation" in finding.meaning for finding in await store.verify())

    asyncio.run(run())


def test_folders_moved_by_hand_are_seen_at_once(tmp_path: Path) -> None:
    sides = Sides(tmp_path)

    async def ids(store: ArchiveStore) -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedTraceWarning)
            return sorted(each.trace_id for each in await store.list_traces())

    async def run() -> None:
        await sides.begin(sealed)
        store = ArchiveStore(sides.left, durability="os")
        await write(store, "open", 1)  # the store holds the trace open
        place = sides.left / trace_prefix("t")
        place.rename(tmp_path / "away")
        assert await ids(store) == ["other"]
        assert await store.get_trace("t") is None
        assert await store.get_trace_messages("t") == []
        (tmp_path / "away").rename(place.with_name("t2"))
        with pytest.warns(DamagedTraceWarning, match="t2"):
            await store.list_traces()
        assert await ids(store) == ["other"]
        with pytest.raises(DamagedTraceError, match="t2"):
            await store.get_trace("t2")
        place.with_name("t2").rename(place.with_name("Not A Key"))
        with pytest.warns(DamagedTraceWarning, match="Not A Key"):
            await store.list_traces()
        assert any("Not A Key" in finding.file for finding in await store.verify())
        place.with_name("Not A Key").rename(place)
        assert await ids(store) == ["other", "t"]
        assert len(await store.get_trace_messages("t")) == 3
        await write(store, "again", 1)
        assert len(await ArchiveStore(sides.left).get_events("t")) == 4
        shutil.rmtree(place)
        shutil.copytree(sides.right / trace_prefix("t"), place)
        assert len(await ArchiveStore(sides.left).get_trace_messages("t")) == 2
        (place / HEADER).unlink()
        await store.refresh()
        assert await ids(store) == ["other"]
        await store.close()

    asyncio.run(run())


async def partly_sealed(root: Path) -> ArchiveStore:
    """Return a store that goes on with a trace whose last segment a seal that was cut short has taken in half."""
    store = ArchiveStore(root)
    await store.create_trace(Trace(trace_id="t"))
    for at in (1, 2):
        await store.add_message(Message(trace_id="t", role="user", content=at))
    trace = await store._pool.opened("t")
    await build_part(trace, "messages", 1, 2, dict(trace.entries), folded=True)
    for at in (3, 4):
        await store.add_message(Message(trace_id="t", role="user", content=at))
    return store


async def contents_of(store: ArchiveStore) -> list[object]:
    return [message.content for message in await store.get_trace_messages("t")]


def test_a_segment_that_parts_took_in_piece_by_piece_is_no_other_side(tmp_path: Path) -> None:
    async def story() -> None:
        store = await partly_sealed(tmp_path / "one")
        trace = await store._pool.opened("t")
        await trace.refresh()
        await build_part(trace, "messages", 3, 4, dict(trace.entries), folded=False)
        assert await contents_of(ArchiveStore(tmp_path / "one")) == [1, 2, 3, 4]
        await store.compact("t")
        await store.add_message(Message(trace_id="t", role="user", content=5))
        assert await contents_of(ArchiveStore(tmp_path / "one")) == [1, 2, 3, 4, 5]
        await store.close()
        assert await ArchiveStore(tmp_path / "one").verify(deep=True) == []

    asyncio.run(story())


def test_a_segment_that_grew_elsewhere_behind_a_part_is_never_mixed_in(tmp_path: Path) -> None:
    async def story() -> None:
        store = await partly_sealed(tmp_path / "here")
        trace = await store._pool.opened("t")
        [path] = (tmp_path / "here" / "traces" / "t" / "messages").glob("*.jsonl")
        # Somebody who copied the folder goes on in the same segment, with two records.
        elsewhere = path.read_bytes() + b"".join(
            seal_record(
                message_json(Message(trace_id="t", message_id=f"m{at}", role="user", content="there", sequence=at)),
                at,
                f"{trace.header.incarnation}-{trace.writer_id}",
            )
            for at in (5, 6)
        )
        await store.add_message(Message(trace_id="t", role="user", content="here"))
        await store.compact("t")
        await store.close()
        path.write_bytes(elsewhere)
        with pytest.raises(DivergedTraceError, match="offset 6"):
            await contents_of(ArchiveStore(tmp_path / "here"))

    asyncio.run(story())


async def test_what_a_copy_of_a_compacted_segment_has_more_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    writer = ArchiveStore(here, durability="os")
    await writer.create_trace(Trace(trace_id="t"))
    await write(writer, "begin")
    shutil.copytree(here, there)

    async def nothing_goes(storage: LocalStorage, keys: Iterable[str]) -> None:
        """Leave it undone, as a compaction that is killed here does."""

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", nothing_goes)
        await ArchiveStore(there, durability="os").compact("t")
    await write(writer, "more", 1)
    for log in ("messages", "events"):
        for segment in (here / "traces/t" / log).iterdir():
            shutil.copy(segment, there / "traces/t" / log)
    trace = await ArchiveStore(there).get_trace("t")
    assert trace is not None
    assert (trace.total_messages, trace.last_event_id) == (3, 3)
    await writer.close()


async def test_what_parts_once_is_read_again_and_what_parts_twice_is_told() -> None:
    tries: list[str] = []

    async def read(told: Sequence[str]) -> int:
        tries.append(told[len(tries)])
        if tries[-1]:
            raise DivergedTraceError(tries[-1])
        return len(tries)

    assert await retrying("t", partial(read, ["they part at 5", "they part at 7", ""])) == 3
    tries.clear()
    with pytest.raises(DivergedTraceError, match="at 7"):
        await retrying("t", partial(read, ["they part at 5", "they part at 7", "they part at 7", ""]))
