"""Any copier is right: one that overwrites, skips, deletes or is killed, at any moments, in any order, again and again.

Copiers are modelled over the films of a local disk and of an object store with folding. What they differ in is how
they write a file, which files they skip, and when they delete; each is run a few times onto one target, from any
moment of the source to any other, back in time too, and may be killed in each run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from film import Frame, History, cut, filmed_on_disk, filmed_on_objects, judge_copies, judge_synced
from profiles import some, tried


@dataclass(frozen=True)
class Copier:
    """How a program copies.

    Attributes
    ----------
    writes : {'whole', 'in place'}
        A file appears when it is complete, or is overwritten where it lies, so that a kill leaves its new beginning
        and its old rest, or only a beginning.
    skips : {'nothing', 'there', 'same time', 'not newer'}
        Files that are there; those of the same size and time; of the same size and not newer than the copy.
    deletes : {'nothing', 'before', 'after'}
        What the source does not list, before or after it copies.
    frozen : bool
        Whether it copies a tree that was taken before, as git and zip do.
    """

    writes: Literal["whole", "in place"] = "whole"
    skips: Literal["nothing", "there", "same time", "not newer"] = "nothing"
    deletes: Literal["nothing", "before", "after"] = "nothing"
    frozen: bool = False


COPIERS: Mapping[str, Copier] = {
    "cp -r": Copier(writes="in place"),
    "cp -rn": Copier(writes="in place", skips="there"),
    "rsync -a": Copier(skips="same time"),
    "rsync -a --delete-before": Copier(skips="same time", deletes="before"),
    "rsync -a --delete-after": Copier(skips="same time", deletes="after"),
    "rsync -a --inplace --delete": Copier("in place", "same time", "before"),
    "aws s3 sync": Copier(skips="not newer"),
    "aws s3 sync --delete": Copier(skips="not newer", deletes="after"),
    "unzip -o": Copier("in place", frozen=True),
    "git checkout": Copier(deletes="before", frozen=True),
}


class Source:
    """A film with the moment of each file's last change."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = list(frames)
        self.times: list[dict[str, int]] = [{}]
        for at, frame in enumerate(self.frames[1:], 1):
            before, times = self.frames[at - 1], self.times[-1]
            self.times.append({name: times[name] if before.get(name) is data else at for name, data in frame.items()})


class Copying:
    """One target, and the runs of a copier onto it."""

    def __init__(self, copier: Copier, source: Source, choose: random.Random) -> None:
        self.copier = copier
        self.source = source
        self.choose = choose
        self.target: Frame = {}
        # For each file the time that the copier gave it, or that it was written at.
        self.times: dict[str, float] = {}
        # File systems keep times as coarse as two seconds.
        self.grain = choose.choice((1, 1, 5))

    def run(self) -> None:
        """Copy once, from a moment on; the source goes on meanwhile."""
        frames = [cut(self.source.frames, self.choose)] if self.copier.frozen else self.source.frames
        now = self.choose.randrange(len(frames))
        span = self.choose.choice((1, 1, 1, 2, 5, 20, len(frames) // 4 + 1))
        listed = sorted(frames[now])
        steps: list[tuple[str, str]] = [("copy", name) for name in listed]
        self.choose.shuffle(steps)
        if self.choose.random() < 0.3:
            steps.sort()
        gone = [("delete", name) for name in sorted(self.target.keys() - set(listed))]
        self.choose.shuffle(gone)
        if self.copier.deletes == "before":
            steps = gone + steps
        elif self.copier.deletes == "after":
            steps += gone
        killed = self.choose.randrange(len(steps)) if steps and self.choose.random() < 0.3 else None
        for at, (what, name) in enumerate(steps):
            now = min(now + self.choose.randrange(span), len(frames) - 1)
            if what == "delete":
                self.target.pop(name, None)
            elif name in frames[now]:
                time = 0.0 if self.copier.frozen else self.source.times[now][name] // self.grain * self.grain
                self.write(name, frames[now][name], time, now, killed=at == killed)
            if at == killed:
                return

    def write(self, name: str, data: bytes, time: float, now: int, *, killed: bool) -> None:
        old = self.target.get(name)
        if old is not None:
            if self.copier.skips == "there":
                return
            if len(old) == len(data):
                if self.copier.skips == "same time" and self.times[name] == time:
                    return
                if self.copier.skips == "not newer" and time <= self.times[name]:
                    return
        if killed:
            if self.copier.writes == "in place":
                at = self.choose.randrange(len(data) + 1)
                rest = old[at:] if old is not None and self.copier.skips == "same time" else b""
                self.target[name] = data[:at] + rest
                self.times[name] = -1.0
            return
        self.target[name] = data
        self.times[name] = float(now) if self.copier.skips == "not newer" else time


def copies(frames: Sequence[Frame], copier: Copier, count: int) -> Iterator[Frame]:
    """Yield what lies at the target after each run."""
    source, choose = Source(frames), random.Random(5)
    while count > 0:
        copying = Copying(copier, source, choose)
        for _ in range(choose.choice((1, 2, 3, 5))):
            copying.run()
            yield dict(copying.target)
            count -= 1


@pytest.fixture(scope="module", params=["disk", "objects", "objects without grace"])
def filmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Frame], History]:
    """The frames of the workload on each kind of storage, and the states that may be found in copies."""
    if request.param == "disk":
        return filmed_on_disk(tmp_path_factory.mktemp("film") / "archive")
    return filmed_on_objects("filmed", few=3, grace_seconds=900.0 if request.param == "objects" else 0.0)


@pytest.mark.parametrize("name", some(COPIERS, 4))
def test_what_a_copier_leaves_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History], name: str
) -> None:
    frames, history = filmed
    count = tried(12, 60, 400)
    found = asyncio.run(judge_copies(copies(frames, COPIERS[name], count), history))
    assert found["whole"] > count * 0.05


@pytest.mark.parametrize("name", some(COPIERS, 4))
@pytest.mark.parametrize("on_disk", [True, False], ids=["to a disk", "to objects"])
def test_a_sync_of_what_a_copier_leaves_tells_what_it_is(
    filmed: tuple[list[Frame], History], tmp_path: Path, name: str, *, on_disk: bool
) -> None:
    frames, _ = filmed
    found = asyncio.run(judge_synced(copies(frames, COPIERS[name], tried(8, 40, 200)), tmp_path if on_disk else None))
    assert found.keys() & {"new", "forward", "same"}


def test_a_copy_of_one_moment_is_an_earlier_state(filmed: tuple[list[Frame], History]) -> None:
    frames, history = filmed
    found = asyncio.run(judge_copies(iter(frames[:: tried(53, 1)]), history))
    assert "damaged" not in found


def test_a_copy_in_any_order_is_an_earlier_state_or_says_what_is_missing(
    filmed: tuple[list[Frame], History],
) -> None:
    frames, history = filmed
    choose, count = random.Random(6), tried(15, 150, 2000)
    found = asyncio.run(judge_copies((cut(frames, choose) for _ in range(count)), history))
    assert found["whole"] > count * 0.2
