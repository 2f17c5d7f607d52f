"""What stays the same however long it goes on: memory, file handles and time per thousand appends.

One trace takes a million messages while readers follow it; one store takes a hundred thousand
traces. Time is the processor's, which other processes on the machine do not lengthen.

A list beside new directories reads the names of all: on a local disk nothing else tells of folders that
were copied in or deleted by hand. That grows with the archive, so it is measured by itself beside the list.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Figure
from traceark import ArchiveStore, Message, Trace
from traceark.following import Follower

# How much slower the end may be than the start.
MOST_SLOWER = 1.3
# What grows with a directory whoever uses it, by what it is a part of: making a directory in it, and reading its names.
FLOORS = {"traces": "bare mkdir", "list": "bare scandir"}
# How much more a list may grow by than reading the names does.
MOST_BESIDE_NAMES = 1.5
_PER_ROUND = 1_000
_EVENTS_PER_ROUND = 10
_MESSAGES_PER_TRACE = 3
_TRACES_PER_ROUND = 100
_CONTENT = "what an agent says to its user, or a tool to the agent; " * 4
# What grows by less cannot be compared.
_NOISE_SECONDS = 0.005
# The start and the end are each so much of a run.
_SHARE = 10


@dataclass
class Endured:
    """What was measured after each round: seconds by what was done, bytes of memory, open files."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def took(self, name: str, since: float) -> None:
        """Note how much of the processor's time something took in this round."""
        self.seconds.setdefault(name, []).append(time.process_time() - since)

    def look(self) -> None:
        """Note what the process holds, once nothing is left to collect."""
        gc.collect()
        self.memory.append(memory_bytes())
        self.handles.append(open_files())

    def ends(self, name: str) -> tuple[float, float]:
        """Return how long the start and the end took, by medians; the first round warms up."""
        values = self.seconds[name][1:]
        share = max(len(values) // _SHARE, 1)
        return statistics.median(values[:share]), statistics.median(values[-share:])

    def slower(self, name: str) -> float:
        """Return how many times as long the end took as the start."""
        start, end = self.ends(name)
        return end / start

    def growth(self, name: str) -> float:
        """Return by how many seconds the end took longer than the start."""
        start, end = self.ends(name)
        return end - start


def memory_bytes() -> int:
    """Return the memory of this process that lies in RAM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells every process's VmRSS")


def open_files() -> int:
    """Return how many files this process has open, without the one that tells it."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


async def one_trace(folder: Path, count: int, looks: int) -> Endured:
    """Add messages to one trace, a thousand a round, while the same store and another one read what came.

    Raises
    ------
    AssertionError
        A reader was not given just what came.
    """
    endured = Endured()
    rounds = count // _PER_ROUND
    async with ArchiveStore(folder, durability="os") as store, ArchiveStore(folder, durability="os") as other:
        await store.create_trace(Trace(trace_id="long"))
        follower = Follower(other.storage, "long")
        for turn in range(rounds):
            since = time.process_time()
            for at in range(turn * _PER_ROUND, (turn + 1) * _PER_ROUND):
                await store.add_message(
                    Message(trace_id="long", message_id=f"m{at}", role="tool", content=_CONTENT, tokens=7, cost=0.001)
                )
            for at in range(_EVENTS_PER_ROUND):
                await store.append_event("long", "progress", {"at": at})
            endured.took("append", since)
            cursor = turn * _EVENTS_PER_ROUND
            for name, reader in (("own events", store), ("others' events", other)):
                since = time.process_time()
                events = await reader.get_events("long", cursor)
                endured.took(name, since)
                assert [each.event_id for each in events] == list(range(cursor + 1, cursor + _EVENTS_PER_ROUND + 1))
            since = time.process_time()
            look = await follower.look()
            endured.took("follow", since)
            assert look is not None and len(look.news) == _PER_ROUND + _EVENTS_PER_ROUND
            if (turn + 1) % max(rounds // looks, 1) == 0:
                endured.look()
        trace = await other.get_trace("long")
        assert trace is not None and trace.total_messages == rounds * _PER_ROUND
    return endured


async def many_traces(folder: Path, count: int, looks: int) -> Endured:
    """Make, write and finish traces through one store, a hundred a round, while another store lists the newest.

    After each round as many bare directories are made in one of their own, and the names of all traces are read.
    """
    endured = Endured()
    rounds = count // _TRACES_PER_ROUND
    bare = folder / "bare"
    bare.mkdir(parents=True)
    folder = folder / "archive"
    async with ArchiveStore(folder, durability="os") as store, ArchiveStore(folder, durability="os") as other:
        for turn in range(rounds):
            since = time.process_time()
            for at in range(turn * _TRACES_PER_ROUND, (turn + 1) * _TRACES_PER_ROUND):
                trace_id = f"run-{at}"
                await store.create_trace(Trace(trace_id=trace_id, task="one of many"))
                for number in range(_MESSAGES_PER_TRACE):
                    await store.add_message(
                        Message(trace_id=trace_id, message_id=f"{trace_id}-{number}", role="user", content=_CONTENT)
                    )
                await store.update_trace(trace_id, status="completed")
            endured.took("traces", since)
            since = time.process_time()
            assert len(await other.list_traces(limit=20)) == 20
            endured.took("list", since)
            since = time.process_time()
            for at in range(turn * _TRACES_PER_ROUND, (turn + 1) * _TRACES_PER_ROUND):
                os.mkdir(f"{bare}/run-{at}")  # noqa: PTH102 - a path object takes time of its own
            endured.took(FLOORS["traces"], since)
            since = time.process_time()
            with os.scandir(folder / "traces") as entries:
                assert sum(1 for _ in entries) == (turn + 1) * _TRACES_PER_ROUND
            endured.took(FLOORS["list"], since)
            if (turn + 1) % max(rounds // looks, 1) == 0:
                endured.look()
    return endured


def figures(what: str, rounds: str, endured: Endured, each: int) -> list[Figure]:
    """Return the rows of a run; `each` says how many there were, for the bytes of memory that each took."""
    half = len(endured.memory) // 2
    grown = endured.memory[-1] - endured.memory[half]
    found = [
        Figure(
            f"{what}: {name}, end beside start",
            f"{statistics.median(values[1:]) * 1e3:.2f} ms {rounds}",
            "",
            f"{endured.slower(name):.2f}x",
            "" if name in FLOORS.values() else f"≤ {MOST_SLOWER}x",
            None if name in FLOORS.values() else endured.slower(name) <= MOST_SLOWER,
        )
        for name, values in endured.seconds.items()
    ]
    if "list" in endured.seconds and (floor := endured.growth(FLOORS["list"])) > _NOISE_SECONDS:
        grown_by = endured.growth("list")
        found.append(
            Figure(
                f"{what}: list, end less start",
                f"{grown_by * 1e3:.2f} ms",
                f"{FLOORS['list']}: {floor * 1e3:.2f} ms",
                f"{grown_by / floor:.2f}x",
                f"≤ {MOST_BESIDE_NAMES}x",
                grown_by <= MOST_BESIDE_NAMES * floor,
            )
        )
    found.append(
        Figure(
            f"{what}: memory",
            f"{endured.memory[0] / 1e6:.0f} MB, {endured.memory[half] / 1e6:.0f} MB, {endured.memory[-1] / 1e6:.0f} MB",
            f"second half: {grown / (each * (len(endured.memory) - half - 1) / len(endured.memory)):.0f} bytes each",
        )
    )
    least, most = min(endured.handles), max(endured.handles)
    found.append(Figure(f"{what}: open files", f"{least}–{most}"))
    return found


async def measure(folder: Path, *, messages: int, traces: int) -> list[Figure]:
    """Return the figures of both runs."""
    long = await one_trace(folder / "long", messages, looks=20)
    found = figures(f"{messages:,} messages in one trace", "a thousand", long, messages)
    many = await many_traces(folder / "many", traces, looks=20)
    return found + figures(f"{traces:,} traces", "a hundred", many, traces)


def told(found: Sequence[Figure]) -> str:
    """Return figures as lines to print."""
    return "\n".join(figure.row() for figure in found)
