"""Whatever a kill leaves, repair makes clean, and it reads as before; repair itself may be killed anywhere too."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from damages import (
    Damage,
    broken_manifest,
    foreign_goal_tree,
    interrupted_write,
    leftover,
    make_archive,
    no_header,
    torn_goal_tree,
    torn_header,
    wrong_hash,
    wrong_total,
)
from film import Film, Frame, History, cut, prints, work
from profiles import SEED, some, tried
from traceark.errors import DamagedTraceError
from traceark.layout import LOST_FOUND, trace_prefix
from traceark.store import ArchiveStore
from traceark.testing.places import snapshot

pytestmark = pytest.mark.usefixtures("interrupted_long_ago")


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what changes no file: these tests lay out hundreds of archives."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def lay_out(root: Path, frame: Frame) -> None:
    for name, data in frame.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def bytes_of(root: Path) -> Frame:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def read(root: Path) -> dict[str, Any] | None:
    """Return all that can be read of the trace, or None where it is damaged."""
    try:
        return await snapshot(ArchiveStore(root))
    except DamagedTraceError:
        return None


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """What lay on the disk after every file operation of a workload."""
    film = Film(tmp_path_factory.mktemp("film") / "archive")
    with pytest.MonkeyPatch.context() as patch, film.roll(patch):
        asyncio.run(work(lambda: ArchiveStore(film.root, durability="os"), History()))
    return film.frames


def test_after_a_kill_between_any_two_file_operations_repair_leaves_all_clean_and_as_it_read(
    frames: list[Frame], tmp_path: Path
) -> None:
    mended = 0

    async def check(root: Path, frame: Frame) -> None:
        nonlocal mended
        lay_out(root, frame)
        before = await read(root)
        assert before is not None
        async with ArchiveStore(root, durability="os") as store:
            report = await store.repair(dry_run=False)
        if before["trace"] is not None:
            assert report.left == []
            assert await ArchiveStore(root).verify(deep=True) == []
        assert await read(root) == before
        mended += bool(report.mended)

    for at, frame in enumerate(frames[:: tried(41, 5, 1)]):
        try:
            asyncio.run(check(tmp_path / str(at), frame))
        except BaseException as error:
            error.add_note(f"frame {at}:\n{prints(frame)}")
            raise
        shutil.rmtree(tmp_path / str(at), ignore_errors=True)
    assert mended > tried(0, 20)


def test_a_copy_in_any_file_order_reads_after_repair_as_before_or_is_left_as_it_is(
    frames: list[Frame], tmp_path: Path
) -> None:
    choose = random.Random(SEED + 5)

    async def check(root: Path) -> None:
        copy = cut(frames, choose)
        lay_out(root, copy)
        before, files = await read(root), bytes_of(root)
        async with ArchiveStore(root, durability="os") as store:
            report = await store.repair(dry_run=False)
        found = await ArchiveStore(root).verify(deep=True)
        after = await read(root)
        if report.left:
            assert {name: data for name, data in bytes_of(root).items() if name.startswith("traces/")} == {
                name: data for name, data in files.items() if name.startswith("traces/")
            }
            assert found != []
        else:
            assert found == [], prints(copy)
        if before is not None and before["trace"] is not None:
            assert after == before, prints(copy)

    for at in range(tried(8, 90, 600)):
        asyncio.run(check(tmp_path / str(at)))
        shutil.rmtree(tmp_path / str(at), ignore_errors=True)  # of a copy without any file there is nothing


DAMAGES: list[tuple[str, Damage]] = [
    ("sealed", broken_manifest),
    ("sealed", wrong_hash),
    ("sealed", no_header),
    ("sealed", torn_goal_tree),
    ("sealed", leftover),
    ("live", torn_header),
    ("live", wrong_total),
    ("compacted", foreign_goal_tree),
    ("compacted", interrupted_write),
]


@pytest.mark.parametrize(("trace_id", "damage"), some(DAMAGES, 2))
def test_a_repair_that_is_killed_anywhere_loses_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace_id: str, damage: Damage
) -> None:
    film = Film(tmp_path / "archive")
    make_archive(film.root)
    damage(film.root / trace_prefix(trace_id))
    lost = {name: data for name, data in bytes_of(film.root).items() if name.startswith("traces/")}

    async def repair(root: Path) -> None:
        async with ArchiveStore(root, durability="os") as store:
            assert (await store.repair(dry_run=False, accept=True)).left == []

    with film.roll(monkeypatch):
        film.shoot()
        asyncio.run(repair(film.root))
    expected = asyncio.run(snapshot(ArchiveStore(film.root), trace_id))

    async def check(root: Path, frame: Frame) -> None:
        lay_out(root, frame)
        await repair(root)
        assert await ArchiveStore(root).verify(deep=True) == []
        assert await snapshot(ArchiveStore(root), trace_id) == expected
        now = bytes_of(root)
        kept = [data for name, data in now.items() if name.startswith(f"{LOST_FOUND}/")]
        for name, data in lost.items():
            assert now.get(name) == data or data in kept or name.endswith(".lock"), name

    assert len(film.frames) > 10
    for at, frame in enumerate(film.frames[1 :: tried(19, 4, 1)]):
        asyncio.run(check(tmp_path / str(at), frame))
