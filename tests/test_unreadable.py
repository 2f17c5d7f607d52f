"""A directory or a file that the user may not read takes away one trace, and no other."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from traceark.errors import DamagedTraceWarning
from traceark.models import Message, Trace
from traceark.store import ArchiveStore

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


@pytest.mark.skipif(os.name == "nt", reason="it has other permissions")
@pytest.mark.parametrize("what", ["messages", "trace.json", ""])
async def test_a_trace_that_may_not_be_read_is_told_by_verify_which_checks_the_others(archive: Path, what: str) -> None:
    await made(archive)
    (archive / "traces" / "good" / "notes.txt").write_text("mine")
    with as_somebody_who_may_not_read(archive / "traces" / "bad" / what):
        found = await ArchiveStore(archive).verify(deep=True)
    told = {finding.file: finding.meaning for finding in found}
    assert told.keys() == {"traces/bad", "traces/good/notes.txt"}
    assert told["traces/bad"].endswith("Permission denied") and told["traces/bad"].count("traces/bad") == 1
