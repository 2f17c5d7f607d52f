"""An import reads a file while the one before it is written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from test_import_claude_code import SAMPLES
from traceark.errors import StorageError
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.run import import_paths
from traceark.models import GivenEvent, GoalTree, Message, Trace
from traceark.store import ArchiveStore

FILES = sorted(SAMPLES.glob("*.jsonl"))[:2]
# Longer than any machine takes; what waits for longer waits for ever.
PATIENCE = 60


class Noticed(ClaudeCode):
    """Says when the last of the files is read."""

    def __init__(self) -> None:
        self.last_is_read = threading.Event()

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        sources = list(super().read(path, counts))
        if path == FILES[-1]:
            self.last_is_read.set()
        yield from sources


class Waiting(ArchiveStore):
    """Writes no trace before that."""

    importer: Noticed

    async def add_trace(
        self,
        trace: Trace,
        messages: Iterable[Message] = (),
        events: Iterable[GivenEvent] = (),
        goal_tree: GoalTree | None = None,
    ) -> str:
        assert await asyncio.to_thread(self.importer.last_is_read.wait, PATIENCE), "nothing was read meanwhile"
        return await super().add_trace(trace, messages, events, goal_tree)


class Failing(ArchiveStore):
    """Writes none at all."""

    async def add_trace(
        self,
        trace: Trace,
        messages: Iterable[Message] = (),
        events: Iterable[GivenEvent] = (),
        goal_tree: GoalTree | None = None,
    ) -> str:
        raise StorageError("the disk is gone")


async def test_the_next_file_is_read_while_one_is_written(tmp_path: Path) -> None:
    async with Waiting(tmp_path, durability="os") as store:
        store.importer = Noticed()
        report = await import_paths(store, FILES, importer=store.importer)
        assert [file.path for file in report.files] == [str(path) for path in FILES]
        assert [file.traces[0].outcome for file in report.files] == ["new", "new"]


@pytest.mark.parametrize("files", [FILES[:1], FILES])
async def test_what_cannot_be_written_stops_the_import_even_behind_the_last_file(
    tmp_path: Path, files: list[Path]
) -> None:
    async with Failing(tmp_path) as store:
        with pytest.raises(StorageError, match="the disk is gone"):
            await import_paths(store, files)
    assert asyncio.all_tasks() == {asyncio.current_task()}
