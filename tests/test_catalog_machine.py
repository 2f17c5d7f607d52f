"""A state machine: whatever stores and hands do to an archive, every list says what the directories do."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time as clock
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import traceark.catalog.catalog
import traceark.catalog.known
import traceark.catalog.large
import traceark.catalog.lookup
import traceark.catalog.table
import traceark.pool
import traceark.storage.local
from directories import in_directories
from profiles import machine_settings
from traceark.errors import DamagedTraceWarning, TracearkError
from traceark.layout import TRACES, trace_prefix
from traceark.models import Message, Trace
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text

Answer = TypeVar("Answer")
STORES = 2

stores = st.integers(0, STORES - 1)
# Which of several, whatever their number, so that the same example is the same steps.
choices = st.integers(0, 5)
trace_ids = st.sampled_from(["t", "t", "t", "T", "a/b"])
statuses = st.sampled_from(["running", "completed", "failed"])


class Clock:
    """The time module with hours that can be put forward; files keep the true time."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.stopped_at: float | None = None

    def time(self) -> float:
        return (clock.time() if self.stopped_at is None else self.stopped_at) + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(clock, name)


class CatalogAgainstDirectories(RuleBasedStateMachine):
    """Two stores of one archive on local disk, and somebody with a file manager."""

    def __init__(self) -> None:
        super().__init__()
        warnings.simplefilter("ignore", DamagedTraceWarning)
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr(traceark.catalog.catalog, "FOLD_FILES", 6)
        self.patch.setattr(traceark.pool, "_HELD_SECONDS", 0.0)
        names = itertools.count(1)
        self.patch.setattr("secrets.token_hex", lambda size: f"{next(names):0{2 * size}x}")
        self.patch.setattr(traceark.catalog.lookup, "time", self.clock)
        self.patch.setattr(traceark.storage.local, "time", self.clock)
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="catalog-"))
        self.path = self.root / "archive"
        self.stores = [self.opened(at) for at in range(STORES)]
        self.stash: dict[str, list[Path]] = {}
        self.copying: tuple[Path, Path] | None = None
        self.number = 0

    def opened(self, at: int) -> ArchiveStore:
        return ArchiveStore(self.path, durability="os", max_open_traces=(1, 128)[at])

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(call)

    def attempt(self, call: Coroutine[Any, Any, Any]) -> None:
        """Make a call that hands may have made impossible."""
        try:
            self.run(call)
        except TracearkError as error:
            note(f"refused: {error!r}")

    def directory(self, trace_id: str) -> Path:
        return self.path / trace_prefix(trace_id)

    # What stores do

    @initialize(
        listed=st.booleans(),
        few=st.sampled_from([0, 256]),
        most=st.sampled_from([1, 131_072]),
        questions=st.integers(1, 20),
        logged=st.sampled_from([3, 100_000]),
    )
    def first(self, listed: bool, few: int, most: int, questions: int, logged: int) -> None:
        self.patch.setattr(traceark.catalog.table, "_FEW", few)
        self.patch.setattr(traceark.catalog.table, "_MOST_IN_MEMORY", most)
        self.patch.setattr(traceark.catalog.large, "_FEW_QUESTIONS", questions)
        self.patch.setattr(traceark.catalog.known, "_MOST_LOGGED", logged)
        if listed:
            self.run(self.stores[1].list_traces())
        self.attempt(self.stores[0].create_trace(Trace(trace_id="t")))

    @rule(at=stores, trace_id=trace_ids, status=statuses)
    def create(self, at: int, trace_id: str, status: str) -> None:
        self.attempt(self.stores[at].create_trace(Trace.parse({"trace_id": trace_id, "status": status})))

    @rule(at=stores, trace_id=trace_ids, count=st.integers(1, 3))
    def append(self, at: int, trace_id: str, count: int) -> None:
        for _ in range(count):
            self.attempt(self.stores[at].add_message(Message(trace_id=trace_id, role="user", tokens=1)))

    @rule(at=stores, trace_id=trace_ids)
    def append_event(self, at: int, trace_id: str) -> None:
        self.attempt(self.stores[at].append_event(trace_id, "step"))

    @rule(at=stores, trace_id=trace_ids, status=statuses)
    def update(self, at: int, trace_id: str, status: str) -> None:
        self.number += 1
        self.attempt(self.stores[at].update_trace(trace_id, status=status, task=f"task {self.number}"))

    @rule(at=stores, trace_id=trace_ids, step=st.sampled_from(["seal", "compact"]))
    def keep(self, at: int, trace_id: str, step: str) -> None:
        self.attempt(getattr(self.stores[at], step)(trace_id))

    @rule(at=stores, trace_id=trace_ids)
    def delete(self, at: int, trace_id: str) -> None:
        self.attempt(self.stores[at].delete_trace(trace_id))

    @rule(at=stores)
    def flush(self, at: int) -> None:
        self.attempt(self.stores[at].flush())

    @rule(at=stores, killed=st.booleans())
    def reopen(self, at: int, killed: bool) -> None:
        if not killed:
            try:
                self.run(self.stores[at].close())
            except* TracearkError as errors:
                note(f"closed with {errors!r}")
        self.stores[at] = self.opened(at)

    @rule(at=stores)
    def fold(self, at: int) -> None:
        self.run(self.stores[at]._pool.catalog.fold())

    @rule(at=stores)
    def refresh(self, at: int) -> None:
        self.run(self.stores[at].refresh())

    # What hands do

    @rule(trace_id=trace_ids)
    def back_up(self, trace_id: str) -> None:
        if self.directory(trace_id).exists() and self.copying is None:
            self.number += 1
            path = self.root / f"backup-{self.number}"
            shutil.copytree(self.directory(trace_id), path)
            self.stash.setdefault(trace_id, []).append(path)

    @rule(trace_id=trace_ids)
    def remove_by_hand(self, trace_id: str) -> None:
        if self.copying is None:
            shutil.rmtree(self.directory(trace_id), ignore_errors=True)

    def backup(self, trace_id: str, choice: int) -> Path | None:
        """Return a copy of a trace that was made earlier, if one was."""
        made = self.stash.get(trace_id)
        return made[choice % len(made)] if made and self.copying is None else None

    @rule(trace_id=trace_ids, moved=st.booleans(), choice=choices)
    def bring_by_hand(self, trace_id: str, moved: bool, choice: int) -> None:
        backup = self.backup(trace_id, choice)
        if backup is None or self.directory(trace_id).exists():
            return
        (self.path / TRACES).mkdir(parents=True, exist_ok=True)
        if moved:
            self.stash[trace_id].remove(backup)
            backup.rename(self.directory(trace_id))
        else:
            shutil.copytree(backup, self.directory(trace_id))

    @rule(trace_id=trace_ids, choice=choices)
    def begin_to_copy(self, trace_id: str, choice: int) -> None:
        """Copy the header, and nothing else yet."""
        backup = self.backup(trace_id, choice)
        if backup is None or self.directory(trace_id).exists() or not (backup / "trace.json").exists():
            return
        self.clock.stopped_at = clock.time()
        self.directory(trace_id).mkdir(parents=True, exist_ok=True)
        shutil.copy2(backup / "trace.json", self.directory(trace_id) / "trace.json")
        self.copying = (backup, self.directory(trace_id))

    @precondition(lambda self: self.copying is not None)
    @rule()
    def finish_the_copy(self) -> None:
        assert self.copying is not None
        backup, directory = self.copying
        if directory.exists():
            shutil.copytree(backup, directory, dirs_exist_ok=True)
        self.copying = None
        self.clock.stopped_at = None

    @rule(trace_id=trace_ids, at=stores, choice=choices)
    def replace_by_hand(self, trace_id: str, at: int, choice: int) -> None:
        """Put an older copy or another incarnation in a trace's place; that needs a refresh."""
        backup = self.backup(trace_id, choice)
        if backup is None:
            return
        shutil.rmtree(self.directory(trace_id), ignore_errors=True)
        (self.path / TRACES).mkdir(parents=True, exist_ok=True)
        shutil.copytree(backup, self.directory(trace_id))
        self.run(self.stores[at].refresh())

    @rule(
        how=st.sampled_from(["garbage", "truncated", "empty"]),
        choice=choices,
        where=st.integers(0, 8),
        in_place=st.booleans(),
        snapshot=st.booleans(),
    )
    def damage_the_catalog(self, how: str, choice: int, where: int, in_place: bool, snapshot: bool) -> None:
        files = sorted((self.path / "catalog").glob("*.parquet" if snapshot else "changes/*"))
        if not files:
            return
        file = files[choice % len(files)]
        content = file.read_bytes()
        at = len(content) * where // 8
        rest = {"garbage": b"garbage" + content[at + 7 :], "truncated": b"", "empty": b""}[how]
        if not in_place:
            file.unlink()
        file.write_bytes((b"" if how == "empty" else content[:at]) + rest)

    @rule(what=st.sampled_from(["all", "snapshots"]))
    def delete_the_catalog(self, what: str) -> None:
        if what == "all":
            shutil.rmtree(self.path / "catalog", ignore_errors=True)
        else:
            for file in (self.path / "catalog").glob("*.parquet"):
                file.unlink()

    @rule()
    def move_the_archive(self) -> None:
        """There and back: nothing of it depends on a name."""
        if self.path.exists():
            self.path.rename(self.root / "elsewhere")
            (self.root / "elsewhere").rename(self.path)

    # What must hold

    @rule()
    def time_passes(self) -> None:
        if self.copying is None:
            self.clock.ahead = 100.0
            self.lists_say_what_directories_do()
            self.clock.ahead = 0.0

    @invariant()
    def lists_say_what_directories_do(self) -> None:
        expected = self.run(in_directories(LocalStorage(self.path)))
        for at, store in enumerate(self.stores):
            listed = {trace.trace_id: exact_text(trace) for trace in self.run(store.list_traces(limit=1000))}
            assert listed == expected, f"store {at}"

    def teardown(self) -> None:
        try:
            fresh = self.opened(1)
            listed = {trace.trace_id: exact_text(trace) for trace in self.run(fresh.list_traces(limit=1000))}
            assert listed == self.run(in_directories(LocalStorage(self.path))), "a new store"
        finally:
            for task in asyncio.all_tasks(self.loop):
                self.loop.run_until_complete(asyncio.wait([task]))
            self.loop.close()
            self.patch.undo()
            shutil.rmtree(self.root)


TestCatalogAgainstDirectories = CatalogAgainstDirectories.TestCase
TestCatalogAgainstDirectories.settings = machine_settings(2, 25, thorough=20)


@pytest.mark.parametrize("damages", [1, 2])
def test_who_writes_to_a_trace_that_was_made_anew_is_known_though_the_catalog_was_damaged(damages: int) -> None:
    machine = CatalogAgainstDirectories()
    machine.first(listed=True, few=0, most=131_072, questions=12, logged=100_000)
    machine.append(at=1, trace_id="t", count=2)
    machine.lists_say_what_directories_do()
    machine.remove_by_hand(trace_id="t")
    for other in ["T", "a/b"][:damages]:
        machine.lists_say_what_directories_do()
        machine.damage_the_catalog(how="empty", choice=0, where=0, in_place=True, snapshot=True)
        machine.lists_say_what_directories_do()
        machine.create(at=0, trace_id=other, status="completed")
    machine.lists_say_what_directories_do()
    machine.create(at=0, trace_id="t", status="completed")
    machine.lists_say_what_directories_do()
    # It had said that it writes to the one that went.
    machine.append(at=1, trace_id="t", count=2)
    machine.lists_say_what_directories_do()
    machine.teardown()
