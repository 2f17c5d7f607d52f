"""Imports that several processes share, that are killed, and that are strict."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import traceark
from profiles import SEED, THOROUGH, some, tried
from servers import S3Server
from test_import_claude_code import SAMPLES
from test_import_run import CHILD_FILE, PARENT, PARENT_FILE, contents_of, cut, store, without_event_times
from traceark.errors import ImportFailedError, InvalidValueError, StorageError
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.parallel import sensible_workers
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.storage.local import LocalStorage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore


def sessions_of(folder: Path, count: int) -> Path:
    """Write sessions with sub-agents, each with ids of its own: the sub-agents' files first, then their parents'."""
    for number in range(count):
        for path, name in ((CHILD_FILE, "a-child"), (PARENT_FILE, "b-parent")):
            text = path.read_text().replace(PARENT, f"{PARENT}-{number}").replace("a31c7d", f"a31c7d{number}")
            (folder / f"{name}-{number}.jsonl").write_text(text)
    return folder


def on_disk(url: Path) -> dict[str, Any]:
    """Return what an archive holds, but for the times of events."""

    async def read() -> dict[str, Any]:
        async with ArchiveStore(url) as reopened:
            found = await reopened.verify(deep=True)
            # A process that is killed may leave the temporary name of a file, which nothing refers to; an import
            # that stops may have taken a child and not its parent.
            wrong = [each for each in found if not each.is_note]
            assert [each for each in wrong if "a write was interrupted here" not in each.meaning] == []
            return await contents_of(reopened)

    return {key: without_event_times(each) for key, each in asyncio.run(read()).items()}


async def into(url: Path, source: Path, **options: Any) -> ImportReport:
    async with ArchiveStore(url, durability="os") as archive:
        return await import_paths(archive, [source], **options)


def test_processes_that_share_an_import_make_the_same_archive(tmp_path: Path) -> None:
    source = tmp_path / "sources"
    source.mkdir()
    sessions_of(source, 3)
    # The same session once more, at an earlier state: whoever comes second, the archive has the later one.
    cut(source / "b-parent-0.jsonl", source, (source / "b-parent-0.jsonl").stat().st_size // 2)
    told: list[tuple[int, int]] = []
    shared = asyncio.run(
        into(tmp_path / "two", source, workers=2, progress=lambda path, done, total: told.append((done, total)))
    )
    alone = asyncio.run(into(tmp_path / "one", source))
    assert on_disk(tmp_path / "two") == on_disk(tmp_path / "one")
    assert [file.path for file in shared.files] == [file.path for file in alone.files]
    assert shared.rows == alone.rows
    total = sum(path.stat().st_size for path in source.iterdir())
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    again = asyncio.run(into(tmp_path / "two", source, workers=2)).totals()
    assert (again["new_messages"], again["new_events"]) == (0, 0)


def test_processes_share_an_import_into_s3(ministack_server: S3Server, tmp_path: Path) -> None:
    source = tmp_path / "sources"
    source.mkdir()
    sessions_of(source, 2)
    asyncio.run(into(tmp_path / "disk", source))

    async def run() -> dict[str, Any]:
        url, options = ministack_server.place(), ministack_server.storage_options
        async with ArchiveStore(url, storage_options=options) as archive:
            assert (await import_paths(archive, [source], workers=2)).ok
        async with ArchiveStore(url, storage_options=options) as reopened:
            return {key: without_event_times(each) for key, each in (await contents_of(reopened)).items()}

    assert asyncio.run(run()) == on_disk(tmp_path / "disk")


def test_a_store_that_others_cannot_open_is_shared_by_no_processes() -> None:
    with pytest.raises(InvalidValueError, match="workers"):
        asyncio.run(import_paths(store(), [SAMPLES], workers=2))
    with pytest.raises(TypeError, match="memory of this process"):
        asyncio.run(import_paths(ArchiveStore("memory://not-shared"), [SAMPLES], workers=2))


def told_of(url: Path) -> tuple[Any, ...]:
    """Return what very many traces add up to, their ids, and which files they have."""
    folders = sorted((url / "traces").iterdir())
    with traceark.open(url) as archive:
        wrong = [each for each in archive.verify(deep=True, workers=None) if not each.is_note]
        assert [each for each in wrong if "a write was interrupted here" not in each.meaning] == []
        sums = archive.sql(
            "SELECT count(*), sum(total_messages), sum(total_tokens), bit_xor(hash(trace_id, status, parent_trace_id))"
            " FROM traces"
        )
        said = archive.sql("SELECT count(*), bit_xor(hash(message_id, role, content, goal_id, tokens)) FROM messages")
        return sums.rows(), said.rows(), [[each.name, *sorted(files_of(each))] for each in folders]


def files_of(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(".")}


def test_an_import_of_many_files_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    source, runs = tmp_path / "sources", tmp_path / "killed"
    source.mkdir()
    count, kills = tried(12, 800, 100_000), tried(1, 3, 6)
    sessions_of(source, count // 2)
    command = [sys.executable, "-m", "traceark", "import", str(source), "--to", str(runs), "--jobs", "2"]
    dice = random.Random(SEED)
    for kill in range(kills):
        until = count * dice.uniform(kill, kill + 1) / (kills + 1)
        with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and sum(1 for _ in runs.glob("traces/*")) <= until:
                time.sleep(0.1 if THOROUGH else 0)
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(process.pid, signal.SIGKILL)
    assert asyncio.run(into(runs, source, workers=2)).ok
    assert asyncio.run(into(tmp_path / "whole", source)).ok
    assert told_of(runs) == told_of(tmp_path / "whole")


def test_a_repeated_import_seals_what_a_killed_one_left_unsealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, part = tmp_path / "runs", cut(PARENT_FILE, tmp_path, PARENT_FILE.stat().st_size // 2)
    asyncio.run(into(runs, part))
    with monkeypatch.context() as patch:

        async def killed(trace: object) -> None:
            """Seal nothing, as a process that is gone."""

        patch.setattr("traceark.pool.seal", killed)
        assert asyncio.run(into(runs, PARENT_FILE)).totals()["new_messages"]
    manifest = runs / "traces" / PARENT / "manifest-sha256.txt"
    assert not manifest.exists()
    asyncio.run(into(runs, PARENT_FILE))
    assert manifest.exists()
    on_disk(runs)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_strict_import_stops_before_what_cannot_be_taken_whole(tmp_path: Path, workers: int) -> None:
    source = tmp_path / "sources"
    source.mkdir()
    whole = PARENT_FILE.read_bytes()
    (source / "b.jsonl").write_bytes(whole.replace(b"\n", b"\n<<<<<<< HEAD\n", 1))
    for number in range(3):
        (source / f"c{number}.jsonl").write_bytes(CHILD_FILE.read_bytes())
    report = asyncio.run(into(tmp_path / "archive", source, strict=True, workers=workers))
    assert report.stopped_at == str(source / "b.jsonl")
    assert report.to_json()["stopped_at"] == report.stopped_at
    assert [problem.line for problem in report.problems] == [2]
    assert PARENT not in on_disk(tmp_path / "archive")
    (source / "b.jsonl").write_bytes(whole)
    assert asyncio.run(into(tmp_path / "archive", source, strict=True, workers=workers)).stopped_at is None
    assert PARENT in on_disk(tmp_path / "archive")


class Elsewhere:
    """An importer that reads in other processes only: this one waits until another has begun."""

    name = "elsewhere"

    def __init__(self, begun: Path) -> None:
        self._begun = begun

    def detect(self, path: Path) -> bool:
        return True

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        if multiprocessing.parent_process() is None:
            deadline = time.monotonic() + 60
            while not self._begun.exists():
                assert time.monotonic() < deadline
        else:
            self._begun.touch()
            self.read_there(counts)
        return iter(())

    def read_there(self, counts: ImportCounts) -> None:
        counts.rows[os.environ["SURROUNDINGS"]] += 1


def test_processes_that_share_an_import_have_the_environment_of_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in ("first", "second"):
        monkeypatch.setenv("SURROUNDINGS", now)
        importer = Elsewhere(tmp_path / now)
        report = asyncio.run(into(tmp_path / "runs", SAMPLES, workers=2, importer=importer))
        assert report.rows.keys() == {now}


class Deadly(Elsewhere):
    """An importer whose process dies."""

    name = "deadly"

    def read_there(self, counts: ImportCounts) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_told_and_the_import_can_go_on(tmp_path: Path) -> None:
    with pytest.raises(ImportFailedError, match="import again"):
        asyncio.run(into(tmp_path / "runs", SAMPLES, workers=2, importer=Deadly(tmp_path / "begun")))
    assert asyncio.run(into(tmp_path / "runs", SAMPLES)).ok


@pytest.mark.parametrize("most", [10**9, 1000])
def test_processes_are_started_where_that_pays_and_they_can_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("traceark.importers.parallel._WORTH_BYTES", most)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert sensible_workers(ArchiveStore(tmp_path), [600, 600]) == (1 if most > 1200 else 7)
    assert sensible_workers(ArchiveStore("memory://alone"), [600, 600]) == 1
    assert sensible_workers(store(), [600, 600]) == 1


@pytest.mark.parametrize("where", ["disk", "objects"])
def test_an_import_whose_storage_fails_anywhere_and_that_is_repeated_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # On a disk the run comes in one piece, which is tried call by call where runs are added whole.
    storage, write = (LocalStorage, "stage") if where == "disk" else (MemoryStorage, "_put")
    plain = getattr(storage, write)
    source = SAMPLES / "rename-column.jsonl"
    asyncio.run(into(tmp_path / "whole", source))
    expected = on_disk(tmp_path / "whole")

    async def run(url: str | Path, lucky: int) -> bool:
        left = lucky

        def failing(storage: Any, what: str, *rest: Any, **named: Any) -> Any:
            nonlocal left
            if what.startswith("traces/"):
                if not left:
                    raise StorageError("the storage is gone")
                left -= 1
            return plain(storage, what, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(storage, write, failing)
            archive = ArchiveStore(url, durability="os")
            [outcome] = await asyncio.gather(import_paths(archive, [source]), return_exceptions=True)
            with suppress(ExceptionGroup, StorageError):  # what it could not seal
                await archive.close()
        async with ArchiveStore(url, durability="os") as again:
            assert (await import_paths(again, [source])).ok
        async with ArchiveStore(url, durability="os") as reopened:
            found = {key: without_event_times(each) for key, each in (await contents_of(reopened)).items()}
            assert found == expected, lucky
        return isinstance(outcome, StorageError)

    failed = [
        asyncio.run(run(tmp_path / str(lucky) if where == "disk" else f"memory://failing-{lucky}", lucky))
        for lucky in (0, *some(range(1, 12), 5))
    ]
    assert failed[0]
