"""Who may use the files of an archive: its owner alone, unless its marker says more and the umask lets it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import traceark
from profiles import some
from traceark.errors import InvalidValueError
from traceark.models import Goal, Message, Trace
from traceark.rollups.cache import FileCache
from traceark.storage.access import Access, Permissions
from traceark.storage.memory import MemoryStorage

UMASKS = (0o000, 0o002, 0o022, 0o027, 0o077)


@contextmanager
def masked(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def write_everything(root: Path, access: Access = "owner") -> None:
    """Make one of every kind of file that an archive holds."""
    with traceark.open(root, access=access) as archive:
        for trace_id in ("open", "sealed", "deleted", "damaged"):
            archive.create_trace(Trace(trace_id=trace_id))
            archive.add_goal(trace_id, Goal(id="1", description="one"))
            archive.add_message(Message(trace_id=trace_id, role="user", content="hi"))
            archive.append_event(trace_id, "begun")
        archive.compact("open")
        archive.add_message(Message(trace_id="open", role="user", content="hi again"))
        for trace_id in ("sealed", "damaged"):
            archive.update_trace(trace_id, status="completed")
            archive.seal(trace_id)
        archive.delete_trace("deleted")
        archive.pin("sealed")
        archive.refresh()
        archive.optimize()
        (root / "traces" / "damaged" / "goal_tree.json").write_text("not what was published")
        archive.repair(dry_run=False)


def modes(root: Path) -> dict[str, int]:
    """Return the permissions of all that lies in a directory, by path."""
    found = {".": stat.S_IMODE(root.stat().st_mode)}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = stat.S_IMODE(path.stat().st_mode)
    return found


def expected(found: dict[str, int], root: Path, file: int, directory: int) -> dict[str, int]:
    return {name: directory if (root / name).is_dir() else file for name in found}


@pytest.mark.parametrize("umask", some(UMASKS, 2), ids=oct)
def test_an_archive_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    with masked(umask):
        write_everything(tmp_path / "archive")
    found = modes(tmp_path / "archive")
    assert found.keys() >= {"traceark.json", "traces", "tombstones", "pins", "catalog/rollups", "lost+found"}
    assert {Path(name).suffix for name in found} >= {".json", ".jsonl", ".parquet", ".txt", ""}
    assert found == expected(found, tmp_path / "archive", 0o600, 0o700)


@pytest.mark.parametrize("umask", some(UMASKS, 2), ids=oct)
def test_an_archive_of_a_group_can_be_written_by_all_of_it(tmp_path: Path, umask: int) -> None:
    with masked(umask):
        write_everything(tmp_path / "archive", "group")
    found = modes(tmp_path / "archive")
    assert found == expected(found, tmp_path / "archive", 0o660, 0o2770)


@pytest.mark.parametrize("umask", some(UMASKS, 2), ids=oct)
def test_others_may_read_where_archive_and_umask_say_so(tmp_path: Path, umask: int) -> None:
    with masked(umask):
        write_everything(tmp_path / "archive", "others")
    found = modes(tmp_path / "archive")
    assert found == expected(found, tmp_path / "archive", 0o664 & ~(umask & 7), 0o2775 & ~(umask & 7))


def test_an_archive_is_shared_later_by_chmod(tmp_path: Path) -> None:
    with masked(0o022):
        with traceark.open(tmp_path / "archive") as archive:
            archive.create_trace(Trace(trace_id="before"))
            (tmp_path / "archive" / "traceark.json").chmod(0o640)
            archive.create_trace(Trace(trace_id="after"))
        header = tmp_path / "archive" / "traces" / "after" / "trace.json"
        assert (stat.S_IMODE(header.stat().st_mode), stat.S_IMODE(header.parent.stat().st_mode)) == (0o640, 0o750)


@pytest.mark.parametrize("umask", (0o022, 0o077), ids=oct)
def test_a_copy_is_as_private_as_the_archive_that_it_lies_in(tmp_path: Path, umask: int) -> None:
    with masked(umask):
        write_everything(tmp_path / "archive", "others")
        with traceark.open(tmp_path / "archive") as archive:
            archive.sync_to(tmp_path / "copy")
    found = modes(tmp_path / "copy")
    assert "traces/sealed/manifest-sha256.txt" in found
    assert found == expected(found, tmp_path / "copy", 0o600, 0o700)


def test_whoever_does_not_own_a_file_takes_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traceark.json").touch()
    (tmp_path / "traceark.json").chmod(0o660)
    (tmp_path / "theirs").touch()
    (tmp_path / "theirs").chmod(0o620)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    os.close(Permissions(tmp_path).open(tmp_path / "theirs", os.O_RDWR))
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o620


@pytest.mark.parametrize("umask", (0o000, 0o022), ids=oct)
async def test_copies_of_a_distant_archives_files_are_their_users_alone(tmp_path: Path, umask: int) -> None:
    storage = MemoryStorage(f"access-{umask}")
    await storage.create("part", b"content")
    with masked(umask):
        path = await FileCache(storage, tmp_path / "cache").path("part", len(b"content"))
    assert modes(tmp_path / "cache") == {".": 0o700, path.name: 0o600}


def test_another_word_for_access_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="access"):
        traceark.open(tmp_path, access="everybody")  # type: ignore[arg-type]
