"""A verify that was killed goes on where it was, given a file to keep that in; and it looks at tombstones."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from damages import changed_page, make_archive, no_header, torn_header, wrong_total
from shell import told, wrong
from traceark.errors import InvalidValueError
from traceark.layout import TOMBSTONES, trace_prefix
from traceark.store import ArchiveStore
from traceark.verification import Finding


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "archive"
    make_archive(folder)
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "archive")
    return tmp_path / "archive"


class Killed(BaseException):
    """What ends a verify."""


async def killed_after(archive: Path, resume: Path, traces: int) -> None:
    """Verify, and end it after so many traces."""

    def progress(done: int, total: int) -> None:
        if done == traces:
            raise Killed

    with pytest.raises(Killed):
        await ArchiveStore(archive).verify(deep=True, resume=resume, progress=progress)


async def verified(archive: Path, resume: Path | None, workers: int = 1) -> tuple[list[Finding], int]:
    """Verify to the end; return what was found, and how many traces were not checked again."""
    done: list[int] = []
    store = ArchiveStore(archive)
    found = await store.verify(deep=True, resume=resume, workers=workers, progress=lambda at, _: done.append(at))
    return found, done[0]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_verify_that_was_killed_goes_on_and_finds_the_same(archive: Path, tmp_path: Path, workers: int) -> None:
    wrong_total(archive / trace_prefix("live"))
    changed_page(archive / trace_prefix("sealed"))
    expected, none = await verified(archive, None)
    assert expected and none == 0
    file = tmp_path / "progress"
    for traces in (1, 2, 3):
        await killed_after(archive, file, traces)
        assert file.exists()
        assert await verified(archive, file, workers) == (expected, traces)
        assert not file.exists(), "all was checked, so the next begins anew"


async def test_a_trace_that_changed_since_is_checked_again(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "progress"
    await killed_after(archive, file, 3)
    torn_header(archive / trace_prefix("live"))
    found, known = await verified(archive, file)
    assert {finding.trace_id for finding in found} == {"live"}
    assert known == 2


@pytest.mark.parametrize("torn", [1, 30, 200])
async def test_a_line_that_a_kill_cut_short_is_checked_again(archive: Path, tmp_path: Path, torn: int) -> None:
    file = tmp_path / "progress"
    await killed_after(archive, file, 3)
    whole = file.read_bytes()
    file.write_bytes(whole[:-torn])
    await killed_after(archive, file, 3)
    assert len(file.read_bytes().splitlines()) == len(whole.splitlines())
    assert await verified(archive, file) == ([], 3)


async def test_what_is_no_progress_of_this_verify_is_refused_and_left_alone(archive: Path, tmp_path: Path) -> None:
    file, mine = tmp_path / "progress", tmp_path / "mine.txt"
    mine.write_text("my own\n")
    await killed_after(archive, file, 1)
    before = file.read_bytes()
    shutil.copytree(archive, tmp_path / "copy")
    store, copy = ArchiveStore(archive), ArchiveStore(tmp_path / "copy")
    for other, deep, path in (
        (copy, True, file),
        (store, False, file),
        (store, True, mine),
        (store, True, archive / "traces" / "progress"),
    ):
        with pytest.raises(InvalidValueError, match="resume"):
            await other.verify(deep=deep, resume=path)
    with pytest.raises(InvalidValueError, match="resume"):
        await store.verify("live", resume=file)
    assert (file.read_bytes(), mine.read_text()) == (before, "my own\n")
    assert not (archive / "traces" / "progress").exists()


def test_the_command_line_takes_a_file_to_go_on_from(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "progress"
    asyncio.run(killed_after(archive, file, 2))
    assert told("verify", archive, "--deep", "--resume", file)["ok"]
    assert not file.exists()
    assert "--resume" in wrong(2, "verify", archive, "live", "--resume", file)


async def buried(archive: Path, trace_id: str) -> Path:
    """Delete a trace and put its directory back; return it."""
    home = archive / trace_prefix(trace_id)
    shutil.copytree(home, archive.parent / "kept")
    async with ArchiveStore(archive, durability="os") as store:
        await store.delete_trace(trace_id)
    shutil.copytree(archive.parent / "kept", home)
    return home


async def test_a_trace_that_has_a_tombstone_is_told_as_a_note(archive: Path) -> None:
    await buried(archive, "sealed")
    [finding] = await ArchiveStore(archive).verify()
    assert finding.is_note and finding.file.startswith(f"{TOMBSTONES}/sealed.")
    assert "traceark rm" in finding.remedy


async def test_what_a_deletion_that_was_cut_short_left_is_told_as_that(archive: Path) -> None:
    no_header(await buried(archive, "sealed"))
    for trace_id in (None, "sealed"):
        [finding] = await ArchiveStore(archive).verify(trace_id)
        assert "its deletion was interrupted" in finding.meaning
        assert "traceark rm" in finding.remedy
    async with ArchiveStore(archive, durability="os") as store:
        await store.delete_trace("sealed")
        assert await store.verify() == []


@pytest.mark.usefixtures("interrupted_long_ago")
async def test_a_tombstone_that_is_none_is_found(archive: Path) -> None:
    async with ArchiveStore(archive, durability="os") as store:
        await store.delete_trace("sealed")
    [tombstone] = (archive / TOMBSTONES).iterdir()
    whole = tombstone.read_bytes()
    tombstone.write_bytes(whole.replace(b'"sealed"', b'"sealer"'))
    (archive / TOMBSTONES / "notes.txt").write_text("mine")
    (archive / TOMBSTONES / ".tmp-00").write_text("half")
    found = await ArchiveStore(archive).verify()
    assert {finding.file.rpartition("/")[2] for finding in found} == {tombstone.name, "notes.txt", ".tmp-00"}
    assert not any(finding.is_note for finding in found)
