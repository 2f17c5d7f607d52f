"""A directory or a file that the user may not read takes away one trace, and no other."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from profiles import some
from traceark.errors import DamagedTraceWarning, StorageError
from traceark.models import Message, Trace
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, sync

NOBODY = 65534
COUNT = "SELECT trace_id, count(*) AS n FROM messages GROUP BY 1 ORDER BY 1"


@pytest.fixture
def archive() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="traceark-unreadable-"))
    folder.chmod(0o777)
    yield folder / "archive"
    shutil.rmtree(folder)


async def made(archive: Path) -> None:
    async with ArchiveStore(archive) as store:
        for trace_id in ("bad", "good"):
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(Message(trace_id=trace_id, role="user", content="hi"))
            await store.append_event(trace_id, "said", None)
            await store.update_trace(trace_id, status="completed")
    async with ArchiveStore(archive) as store:
        await store.sql(COUNT)  # what is imported late is, before it cannot be read


@contextmanager
def as_somebody_who_may_not_read(path: Path) -> Iterator[None]:
    """Forbid a path; root, who may read all, becomes nobody, who may write to nothing there."""
    mode = path.stat().st_mode
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        for each in path.parents:
            if each.name == "archive":
                for other in (each, *each.rglob("*")):
                    if other != path:
                        other.chmod(0o755)
                break
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)


@contextmanager
def on_a_disk_that_cannot_read(path: Path) -> Iterator[None]:
    """Let the disk fail at a path and all below it, and nowhere else."""

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(where: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if isinstance(where, str | os.PathLike) and path in (Path(where), *Path(where).parents):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(where))
            return real(where, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "scandir"):
            patch.setattr(os, name, failing(getattr(os, name)))
        yield


Unreadable = Callable[[Path], AbstractContextManager[None]]
WAYS = [on_a_disk_that_cannot_read, *([as_somebody_who_may_not_read] if os.name != "nt" else [])]
FILES = ["messages", "trace.json", ""]


@pytest.mark.skipif(os.name == "nt", reason="it has other permissions")
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("what", ["messages", "events", "trace.json", ""])
async def test_a_trace_that_may_not_be_read_is_left_out_with_a_warning(
    archive: Path, what: str, is_known: bool
) -> None:
    await made(archive)
    if not is_known:
        shutil.rmtree(archive / "catalog")
    path = archive / "traces" / "bad" / what
    with as_somebody_who_may_not_read(path):
        async with ArchiveStore(archive) as store:
            if is_known and what == "trace.json":
                return  # its header is known, and its messages are read
            if not is_known:
                with pytest.warns(DamagedTraceWarning, match=f"^left out: {path}[^:]*: Permission denied$"):
                    assert [trace.trace_id for trace in await store.list_traces()] == ["good"]
            if what != "events" or not is_known:
                with pytest.warns(DamagedTraceWarning, match=r"^left out: [^:]*: Permission denied$"):
                    assert list(await store.sql(COUNT)) == [{"trace_id": "good", "n": 1}]
            with pytest.warns(DamagedTraceWarning, match=r"^left out: [^:]*: Permission denied$"):
                await store.refresh()
                assert [trace.trace_id for trace in await store.list_traces()] == ["good"]
    async with ArchiveStore(archive) as store:
        await store.refresh()
        assert {trace.trace_id for trace in await store.list_traces()} == {"bad", "good"}
        assert await store.verify(deep=True) == []


@pytest.mark.parametrize(("unreadable", "what"), some(itertools.product(WAYS, FILES), 2))
async def test_a_trace_that_cannot_be_read_is_told_by_verify_which_checks_the_others(
    archive: Path, what: str, unreadable: Unreadable
) -> None:
    await made(archive)
    (archive / "traces" / "good" / "notes.txt").write_text("mine")
    with unreadable(archive / "traces" / "bad" / what):
        found = await ArchiveStore(archive).verify(deep=True)
    told = {finding.file: str(finding) for finding in found}
    assert told.keys() == {"traces/bad", "traces/good/notes.txt"}
    assert f"it cannot be read: {archive / 'traces' / 'bad' / what}" in told["traces/bad"]


@pytest.mark.parametrize(("unreadable", "what", "named"), some(itertools.product(WAYS, FILES, [True, False]), 2))
async def test_repair_tells_a_trace_that_cannot_be_read_and_looks_at_the_others(
    archive: Path, what: str, unreadable: Unreadable, named: bool
) -> None:
    await made(archive)
    (archive / "traces" / "good" / "manifest-sha256.txt").write_text("scratched")
    with unreadable(archive / "traces" / "bad" / what):
        report = await ArchiveStore(archive).repair(["bad", "good"] if named else None)
    assert {mend.trace_id for mend in report.mended} == {"good"}
    assert [finding.file for finding in report.left] == ["traces/bad"]
    assert f"it cannot be read: {archive / 'traces' / 'bad' / what}" in str(report.left[0])
    assert str(report.left[0]).endswith("make it readable, or restore it from a copy; then repair again")


async def said(archive: Path) -> dict[str, list[Any]]:
    """Return what every trace says."""
    async with ArchiveStore(archive) as store:
        return {
            trace.trace_id: [message.content for message in await store.get_trace_messages(trace.trace_id)]
            for trace in await store.list_traces()
        }


@pytest.mark.parametrize(("unreadable", "what", "is_sealed"), some(itertools.product(WAYS, FILES, [True, False]), 2))
async def test_a_source_that_cannot_be_read_is_told_by_sync_and_nothing_is_deleted_for_it(
    archive: Path, what: str, unreadable: Unreadable, is_sealed: bool
) -> None:
    copy = archive.parent / "copy"
    await made(archive)
    shutil.copytree(archive, copy)
    async with ArchiveStore(archive) as store:
        for trace_id in ("bad", "good"):
            await store.add_message(Message(trace_id=trace_id, role="user", content="more"))
            if is_sealed:
                await store.seal(trace_id)
    everybodys(copy)
    with unreadable(archive / "traces" / "bad" / what):
        async with ArchiveStore(archive) as store, ArchiveStore(copy) as target:
            report = await sync(store, target, SyncOptions(delete=True))
    assert not report.is_clean and report.outcomes == {"forward": 1, "failed": 1}
    assert [each.startswith(f"trace bad: {archive / 'traces' / 'bad' / what}") for each in report.problems] == [True]
    assert report.problems[0].endswith("; make it readable, or restore it from a copy; it was not copied")
    assert await said(copy) == {"bad": ["hi"], "good": ["hi", "more"]}


@pytest.mark.parametrize(("unreadable", "what", "is_gone"), some(itertools.product(WAYS, FILES, [True, False]), 2))
async def test_a_target_that_cannot_be_read_is_told_by_sync_and_not_overwritten(
    archive: Path, what: str, unreadable: Unreadable, is_gone: bool
) -> None:
    copy = archive.parent / "copy" / "archive"
    await made(archive)
    shutil.copytree(archive, copy)
    async with ArchiveStore(archive) as store:
        for trace_id in ("bad", "good"):
            await store.add_message(Message(trace_id=trace_id, role="user", content="more"))
        if is_gone:
            shutil.rmtree(archive / "traces" / "bad")
    everybodys(copy)
    everybodys(archive)
    with unreadable(copy / "traces" / "bad" / what):
        async with ArchiveStore(archive) as store, ArchiveStore(copy) as target:
            report = await sync(store, target, SyncOptions(delete=True))
        assert report.outcomes["forward"] == 1
    assert not report.is_clean and report.outcomes["failed"] == 1
    assert f"{copy / 'traces' / 'bad'}" in report.problems[0]
    assert await said(copy) == {"bad": ["hi"], "good": ["hi", "more"]}


def everybodys(archive: Path) -> None:
    """Give an archive to the user that root becomes."""
    if os.geteuid() == 0:
        for path in (archive.parent, archive, *archive.rglob("*")):
            os.chown(path, NOBODY, -1)


@pytest.mark.parametrize("reading", range(1, 6))
async def test_a_trace_of_which_a_reading_failed_once_is_in_the_next_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: int
) -> None:
    async with ArchiveStore(tmp_path) as writer, ArchiveStore(tmp_path) as store:
        for trace_id in ("s", "t"):
            await writer.create_trace(Trace(trace_id=trace_id))
        assert len(await store.list_traces()) == 2
        await writer.add_message(Message(trace_id="t", role="user", content="changed since"))
        read, readings = store.storage.read, 0

        async def fails(key: str, start: int = 0) -> bytes:
            nonlocal readings
            readings += key.startswith("traces/")
            if readings == reading:
                raise StorageError(errno.EIO, f"{key}: input/output error")
            return await read(key, start)

        with monkeypatch.context() as context, warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedTraceWarning)
            context.setattr(store.storage, "read", fails)
            await store.list_traces()
        assert len(await store.list_traces()) == 2
