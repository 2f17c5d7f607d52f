"""A copy taken at any moment, in any file order, is an earlier state or says what is missing.

A workload is filmed: what lay in the archive's directory after every single file operation. Copies are
then cut from the film: one frame, or each file from a frame of its own, or one copy laid over another.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from film import (
    NOW,
    Film,
    Frame,
    History,
    cut,
    filmed_on_disk,
    judge_copies,
    laid_out,
    message,
    messages_text,
    prints,
)
from profiles import SEED, tried
from traceark.errors import CorruptFileError, DamagedTraceError
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, MARKER, trace_prefix
from traceark.models import Goal, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Frame], History]:
    """The frames of the workload, and the states that may be found in copies."""
    return filmed_on_disk(tmp_path_factory.mktemp("film") / "archive")


def test_a_copy_between_any_two_file_operations_is_an_earlier_state(filmed: tuple[list[Frame], History]) -> None:
    frames, history = filmed
    step = tried(11, 1)
    chosen = frames[SEED % step :: step]
    found = asyncio.run(judge_copies(iter(chosen), history))
    assert "damaged" not in found, "a copy of one moment is whole"
    assert found["whole"] > len(chosen) * 0.9


def test_a_copy_in_any_file_order_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History],
) -> None:
    frames, history = filmed
    choose, count = random.Random(SEED + 1), tried(35, 350, 5000)
    found = asyncio.run(judge_copies((cut(frames, choose) for _ in range(count)), history))
    assert found["whole"] > count * 0.3


@pytest.mark.parametrize("overwriting", [True, False])
def test_a_copy_over_an_older_copy_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History], overwriting: bool
) -> None:
    frames, history = filmed
    choose, count = random.Random(SEED + 2), tried(12, 200, 1500)

    def over() -> Frame:
        first, second = cut(frames, choose), cut(frames, choose)
        return {**first, **second} if overwriting else {**second, **first}

    found = asyncio.run(judge_copies((over() for _ in range(count)), history))
    assert found["whole"] > count * 0.15


@pytest.mark.parametrize("missing", [HEADER, GOAL_TREE, MANIFEST, "messages/", "events/"])
def test_a_copy_without_some_files_is_never_a_wrong_answer(filmed: tuple[list[Frame], History], missing: str) -> None:
    frames, history = filmed
    history.trees.add("none")
    copies = ({name: data for name, data in frame.items() if missing not in name} for frame in frames[:: tried(15, 5)])
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

    for at in range(tried(12, 200, 800)):
        asyncio.run(check(tmp_path / str(at), choose.choice(frames) if at % 2 else cut(frames, choose)))


async def test_a_marker_that_is_torn_is_named_and_verify_looks_at_the_traces_all_the_same(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path, durability="os") as store:
        await store.create_trace(Trace(trace_id="t"))
        await store.seal("t")
    marker = tmp_path / MARKER
    marker.write_bytes(marker.read_bytes()[:20])
    copy = ArchiveStore(tmp_path)
    with pytest.raises(CorruptFileError, match=r"traceark\.json is torn.*copy it again"):
        await copy.list_traces()
    (tmp_path / trace_prefix("t") / HEADER).write_bytes(b"{")
    found = await copy.verify(deep=True)
    assert {finding.file for finding in found} >= {MARKER, f"{trace_prefix('t')}/{HEADER}"}


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
    for copy in (*film.frames[1:], *(cut(film.frames[1:], choose) for _ in range(tried(40, 200)))):
        asyncio.run(check(copy))
