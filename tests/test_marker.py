"""An archive of a format that is not known, or whose marker is torn: nothing reads it, and nothing is written to it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shell import out, wrong
from traceark.errors import CorruptFileError, UnsupportedFormatError
from traceark.importers.run import import_paths
from traceark.layout import MARKER
from traceark.models import Goal, Message, Trace
from traceark.store import ArchiveStore

RUN = "run-7"
READS: dict[str, Callable[[ArchiveStore], Awaitable[object]]] = {
    "get_trace": lambda store: store.get_trace(RUN),
    "get_trace of none": lambda store: store.get_trace("zz"),
    "get_goal_tree": lambda store: store.get_goal_tree(RUN),
    "get_trace_messages": lambda store: store.get_trace_messages(RUN),
    "get_messages_by_goal": lambda store: store.get_messages_by_goal(RUN, "1"),
    "get_message": lambda store: store.get_message(f"{RUN}-0001"),
    "get_message of a trace": lambda store: store.get_message(f"{RUN}-0001", trace_id=RUN),
    "get_events": lambda store: store.get_events(RUN),
    "list_traces": lambda store: store.list_traces(),
    "import": lambda store: import_paths(store, []),
}
MARKERS = {"newer": UnsupportedFormatError, "torn": CorruptFileError}


async def record(store: ArchiveStore) -> None:
    await store.create_trace(Trace(trace_id=RUN))
    await store.add_goal(RUN, Goal(id="1", description="find it"))
    await store.add_message(Message(trace_id=RUN, role="user", content="hi", goal_id="1"))
    await store.append_event(RUN, "said", None)
    await store.update_trace(RUN, status="completed")


def spoil(archive: Path, how: str) -> None:
    marker = archive / MARKER
    told = json.loads(marker.read_text())
    marker.write_text(json.dumps({**told, "version": 99}) if how == "newer" else "{bad")


@pytest.mark.parametrize("how", MARKERS)
@pytest.mark.parametrize("read", READS)
async def test_an_archive_whose_format_is_not_known_is_not_read(tmp_path: Path, how: str, read: str) -> None:
    async with ArchiveStore(tmp_path) as store:
        await record(store)
    spoil(tmp_path, how)
    async with ArchiveStore(tmp_path) as store:
        for _ in range(2):
            with pytest.raises(MARKERS[how], match="upgrade traceark" if how == "newer" else "is torn"):
                await READS[read](store)


@pytest.mark.parametrize("how", MARKERS)
def test_an_import_into_an_archive_whose_format_is_not_known_fails(tmp_path: Path, how: str) -> None:
    given = ["import", "--samples", "--to", tmp_path]
    out(*given)
    spoil(tmp_path, how)
    assert ("upgrade traceark" if how == "newer" else f"{MARKER} is torn") in wrong(1, *given)


async def test_without_a_marker_directories_are_an_archive_too(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        await record(store)
    (tmp_path / MARKER).unlink()
    async with ArchiveStore(tmp_path) as store:
        assert len(await store.get_trace_messages(RUN)) == 1
