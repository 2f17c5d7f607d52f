"""Readers that follow a log read what came, not the whole log again; what they were given is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from traceark.errors import TracearkError
from traceark.following import Follower
from traceark.layout import trace_prefix
from traceark.models import Message, Trace
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text

CONTENT = "x" * 1000


class Counted(LocalStorage):
    """A local disk that counts the bytes that are read of it."""

    read_bytes = 0

    async def read(self, key: str, start: int = 0) -> bytes:
        data = await super().read(key, start)
        Counted.read_bytes += len(data)
        return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceark.storage.local.LocalStorage", Counted)


async def add(store: ArchiveStore, first: int, count: int) -> None:
    for at in range(first, first + count):
        await store.add_message(Message(trace_id="t", message_id=f"m{at}", role="user", content=CONTENT))
        await store.append_event("t", "came", {"at": at, "content": CONTENT})


@pytest.mark.usefixtures("counted")
async def test_a_reader_at_the_end_reads_only_what_came(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store, ArchiveStore(tmp_path) as other:
        await store.create_trace(Trace(trace_id="t"))
        await add(store, 0, 300)
        follower = Follower(other.storage, "t")
        assert len((await follower.look() or pytest.fail("no trace")).news) == 600
        for reader in (store, other):
            assert len(await reader.get_events("t")) == 300
        Counted.read_bytes = 0
        await add(store, 300, 1)
        assert len((await follower.look() or pytest.fail("no trace")).news) == 2
        for reader in (store, other):
            assert [event.event_id for event in await reader.get_events("t", 300)] == [301]
        assert 2 * len(CONTENT) < Counted.read_bytes < 20 * len(CONTENT)


@pytest.mark.usefixtures("counted")
async def test_two_writers_of_one_trace_read_only_what_the_other_wrote(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as one, ArchiveStore(tmp_path) as two:
        await one.create_trace(Trace(trace_id="t"))
        await add(one, 0, 300)
        await add(two, 300, 1)
        await add(one, 301, 1)
        Counted.read_bytes = 0
        for at in range(302, 322, 2):
            await add(one, at, 1)
            await add(two, at + 1, 1)
        assert 20 * len(CONTENT) < Counted.read_bytes < 20 * 6 * len(CONTENT)
        messages = [exact_text(each) for each in await one.get_trace_messages("t")]
        assert len(messages) == 322
    async with ArchiveStore(tmp_path) as fresh:
        assert [exact_text(each) for each in await fresh.get_trace_messages("t")] == messages


async def test_every_cursor_of_every_reader_gives_the_same(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store, ArchiveStore(tmp_path) as other:
        await store.create_trace(Trace(trace_id="t"))
        for turn in range(8):
            await add(store, turn * 5, 5)
            for cursor in (turn * 5, 0, turn * 3, turn * 5 + 4, turn * 5 + 5, turn):
                expected = list(range(cursor + 1, turn * 5 + 6))
                for reader in (other, store):
                    assert [event.event_id for event in await reader.get_events("t", cursor)] == expected
                async with ArchiveStore(tmp_path) as fresh:
                    known = [exact_text(event) for event in await other.get_events("t", cursor)]
                    assert known == [exact_text(event) for event in await fresh.get_events("t", cursor)]


async def answer(store: ArchiveStore, cursor: int) -> str:
    try:
        return repr([exact_text(event) for event in await store.get_events("t", cursor)])
    except TracearkError as error:
        return f"{type(error).__name__}: {error}"


async def test_a_file_that_was_put_back_shorter_or_other_is_read_anew(tmp_path: Path) -> None:
    async with ArchiveStore(tmp_path) as store:
        await store.create_trace(Trace(trace_id="t"))
        await add(store, 0, 5)
    [segment] = (tmp_path / trace_prefix("t") / "events").glob("*.jsonl")
    whole = segment.read_bytes()
    lines = whole.splitlines(keepends=True)
    states = {
        "torn": whole + b'{"torn',
        "shorter": b"".join(lines[:3]),
        "longer": whole,
        "holes": whole[:-200] + bytes(200),
        "other": lines[0] + lines[1].replace(b"came", b"cane!") + b"".join(lines[2:]),
        "nothing": b"",
    }
    async with ArchiveStore(tmp_path) as reader:
        for state in states.values():
            for cursor in (5, 3, 0):
                segment.write_bytes(whole)
                assert len(await reader.get_events("t")) == 5
                segment.write_bytes(state)
                async with ArchiveStore(tmp_path) as fresh:
                    expected = await answer(fresh, cursor)
                assert await answer(reader, cursor) == expected
