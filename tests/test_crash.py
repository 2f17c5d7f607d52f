"""A process that is killed while it writes loses nothing that it acknowledged.

Run as a program, this file is that process: it writes for ever and prints what was acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from pathlib import Path
from typing import cast

import pytest

from profiles import tried
from program import PIPE, Program
from traceark.layout import HEADER, MANIFEST, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.storage.base import Durability
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.verification import Finding

ROUNDS = tried(2, 8, 40)


async def write_for_ever(store: ArchiveStore, first: int) -> None:
    """Write with compaction, sealing and updates among it; print each call once it has returned."""
    if await store.get_trace("t") is None:
        await store.create_trace(Trace(trace_id="t"))
    if await store.get_goal_tree("t") is None:
        await store.add_goal("t", Goal(id="1"))
    for at in itertools.count(first):
        message = Message(trace_id="t", role="user", content=at, goal_id="1", tokens=1, cost=0.1)
        message_id = await store.add_message(message)
        acknowledge("message", message_id, at)
        acknowledge("event", await store.append_event("t", "step", at), at)
        if at % 5 == 0:
            await store.update_message(message_id, trace_id="t", status=str(at))
            acknowledge("status", message_id, at)
        if at % 7 == 0:
            await store.update_trace("t", task=str(at))
            acknowledge("task", "t", at)
        if at % 11 == 0:
            await store.compact("t")
        if at % 13 == 0:
            await store.update_goal("t", "1", summary=str(at))
            acknowledge("summary", "1", at)
        if at % 17 == 0:
            await store.seal("t")
        if at % 19 == 0:
            brief = f"brief-{at}"
            await store.create_trace(Trace(trace_id=brief))
            await store.add_message(Message(trace_id=brief, role="user", content=at))
            await store.update_trace(brief, status="completed")
            acknowledge("brief", brief, at)
        if at % 38 == 0:
            await store.delete_trace(brief)
            acknowledge("deleted", brief, at)


def acknowledge(kind: str, key: object, at: int) -> None:
    print(kind, key, at, flush=True)


def killed_writer(archive: Path, durability: Durability, first: int, lines: int) -> list[str]:
    """Run this file on an archive, kill it after so many lines; return all lines that it printed."""
    with Program(__file__, archive, durability, first, stdout=PIPE) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL, "the writer ended by itself"
    return [line for line in printed if line.endswith("\n")]


def damage(findings: list[Finding]) -> list[Finding]:
    """Leave out what a killed process may leave: files that nothing refers to, half a deletion."""
    return [
        finding
        for finding in findings
        if TEMPORARY not in finding.file and not (finding.file.endswith(HEADER) and "missing" in finding.meaning)
    ]


async def check(store: ArchiveStore, acknowledged: dict[tuple[str, str], int]) -> int:
    """Assert that all that was acknowledged is there; return the highest number that is."""
    messages = await store.get_trace_messages("t")
    events = await store.get_events("t")
    trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
    assert trace is not None
    assert [each.sequence for each in messages] == list(range(1, len(messages) + 1))
    assert [each.event_id for each in events] == list(range(1, len(events) + 1))
    assert (trace.total_messages, trace.last_event_id) == (len(messages), len(events))
    assert trace.total_cost == round(0.1 * len(messages), 9)
    by_id = {each.message_id: each for each in messages}
    gone = {key for kind, key in acknowledged if kind == "deleted"}
    for (kind, key), at in acknowledged.items():
        if kind == "message":
            assert by_id[key].content == at
        elif kind == "status":
            assert by_id[key].status == str(at)
        elif kind == "event":
            assert events[int(key) - 1].payload == at
        elif kind == "task":
            assert int(trace.task or 0) >= at
        elif kind == "summary":
            assert tree is not None
            assert int(tree.goals[0].summary or 0) >= at
        elif kind == "brief" and key not in gone:
            assert [each.content for each in await store.get_trace_messages(key)] == [at]
        elif kind == "deleted":
            assert await store.get_trace(key) is None
    return max(int(each.content) for each in messages)


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, durability: Durability) -> None:
    choose = random.Random(durability)
    acknowledged: dict[tuple[str, str], int] = {}

    async def recover() -> int:
        store = ArchiveStore(tmp_path, durability=durability)
        assert damage(await store.verify(deep=True)) == []
        return await check(store, acknowledged)

    first = 1
    for _ in range(ROUNDS):
        for line in killed_writer(tmp_path, durability, first, choose.randrange(20, 200)):
            kind, key, at = line.split()
            acknowledged[kind, key] = int(at)
        first = asyncio.run(recover()) + 1

    async def finish() -> None:
        async with ArchiveStore(tmp_path, durability=durability) as store:
            await store.update_trace("t", status="completed")
        assert (tmp_path / trace_prefix("t") / MANIFEST).exists()
        assert damage(await store.verify(deep=True)) == []
        await check(store, acknowledged)

    asyncio.run(finish())


def test_a_deletion_that_was_cut_short_leaves_no_trace_and_the_id_free(tmp_path: Path) -> None:
    async def write(store: ArchiveStore, content: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content=content))
        await store.append_event("t", content, None)
        await store.add_goal("t", Goal(id=content))

    async def run() -> None:
        async with ArchiveStore(tmp_path, durability="os") as store:
            await write(store, "old")
            await store.seal("t")
        (tmp_path / trace_prefix("t") / HEADER).unlink()  # a deletion begins so
        store = ArchiveStore(tmp_path, durability="os")
        assert await store.get_trace("t") is None
        assert await store.list_traces() == []
        assert await store.get_trace_messages("t") == []
        assert await store.get_message("t-0001") is None
        assert [finding.trace_id for finding in await store.verify()] == ["t"]
        await write(store, "new")
        assert [each.content for each in await store.get_trace_messages("t")] == ["new"]
        assert [each.event_type for each in await store.get_events("t")] == ["new"]
        assert await store.verify(deep=True) == []
        await store.close()

    asyncio.run(run())


if __name__ == "__main__":
    place, level, number = sys.argv[1:]
    asyncio.run(write_for_ever(ArchiveStore(place, durability=cast("Durability", level)), int(number)))
