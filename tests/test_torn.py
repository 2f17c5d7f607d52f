"""Torn tails: whatever a crash left of a segment, what was whole is read and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, some, tried
from traceark.errors import CorruptFileError, DamagedTraceError, IncompleteTraceError
from traceark.layout import LOGS, LogName, trace_prefix
from traceark.models import Message, Trace
from traceark.store import ArchiveStore

COUNT = 3
# What a disk may hold behind the bytes that were written: blocks never written, or old ones.
RUBBISH = {
    "nothing": b"",
    "zeros": b"\0" * 600,
    "zeros, then old bytes": b"\0" * 512 + b'"_crc":"00000000"}\n',
    "old bytes": b'"old","_offset":9,"_crc":"00000000"}\n{"_offset"',
}


def message(at: int) -> Message:
    return Message(trace_id="t", role="user", content=f"message {at}: é\u2028")


async def write(store: ArchiveStore, first: int, count: int) -> None:
    """Append `count` messages and events, numbered from `first`."""
    for at in range(first, first + count):
        await store.add_message(message(at))
        await store.append_event("t", "step", {"at": at})


async def numbers(store: ArchiveStore, log: LogName) -> list[int]:
    """Return the numbers that `write` gave, as they are read, offsets and ids checked to be dense."""
    if log == "messages":
        messages = await store.get_trace_messages("t")
        assert [each.sequence for each in messages] == list(range(1, len(messages) + 1))
        return [int(each.content.split()[1].rstrip(":")) for each in messages]
    events = await store.get_events("t")
    assert [each.event_id for each in events] == list(range(1, len(events) + 1))
    return [each.payload["at"] for each in events]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A live trace with a few messages and events, its headers as of its creation: copied as a crash leaves it."""
    crashed = tmp_path / "crashed"

    async def make() -> None:
        async with ArchiveStore(tmp_path / "running", durability="os") as store:
            await store.create_trace(Trace(trace_id="t"))
            await write(store, 1, COUNT)
            shutil.copytree(tmp_path / "running", crashed)

    asyncio.run(make())
    return crashed


def segment_of(archive: Path, log: LogName) -> Path:
    """Return the one segment of a log."""
    (path,) = (archive / trace_prefix("t") / log).glob("*.jsonl")
    return path


def offsets(end: int, step: int) -> range:
    """Return one in so many of the offsets before an end; a thorough run gets all."""
    step = tried(step, 1)
    return range(SEED % step, end, step)


def lines(data: bytes) -> int:
    """Return how many whole lines some bytes hold."""
    return data.count(b"\n")


def reader(archive: Path) -> ArchiveStore:
    return ArchiveStore(archive, durability="os")


@pytest.mark.parametrize(("log", "rubbish"), some(itertools.product(LOGS, RUBBISH.values()), 4))
def test_a_segment_cut_at_any_byte_reads_as_its_whole_records(archive: Path, log: LogName, rubbish: bytes) -> None:
    path = segment_of(archive, log)
    whole = path.read_bytes()

    async def check() -> None:
        for length in offsets(len(whole) + 1, 4):
            path.write_bytes(whole[:length] + rubbish)
            expected = list(range(1, lines(whole[:length]) + 1))
            assert await numbers(reader(archive), log) == expected, f"cut at byte {length}"
        other: LogName = "events" if log == "messages" else "messages"
        assert await numbers(reader(archive), other) == list(range(1, COUNT + 1))

    asyncio.run(check())


@pytest.mark.parametrize(("log", "rubbish"), some(itertools.product(LOGS, RUBBISH.values()), 2))
def test_appending_after_a_torn_tail_goes_on_densely(
    archive: Path, tmp_path: Path, log: LogName, rubbish: bytes
) -> None:
    whole = segment_of(archive, log).read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    lengths = {0, 1, *ends, *(end - 1 for end in ends), *range(2, len(whole), tried(163, 41))}

    async def check(torn: Path, length: int) -> None:
        shutil.copytree(archive, torn)
        segment_of(torn, log).write_bytes(whole[:length] + rubbish)
        kept = lines(whole[:length])
        # Each reopening writer meets the torn tail of the one before, now in an earlier segment.
        for turn in range(2):
            store = reader(torn)
            await write(store, 10 + turn, 1)
            expected = [*range(1, kept + 1), *range(10, 11 + turn)]
            assert await numbers(store, log) == expected
            assert await numbers(reader(torn), log) == expected
            trace = await reader(torn).get_trace("t")
            assert trace is not None
            assert trace.last_event_id == len(await numbers(store, "events"))
            assert trace.total_messages == len(await numbers(store, "messages"))
            if turn:
                await store.seal("t")
                assert await numbers(reader(torn), log) == expected
            await store.close()
            assert await reader(torn).verify(deep=True) == []

    for length in sorted(lengths):
        asyncio.run(check(tmp_path / f"torn-{length}", length))


@pytest.mark.parametrize("log", LOGS)
def test_a_tail_that_a_checkpoint_covers_is_missing_and_not_torn(archive: Path, log: LogName) -> None:
    async def check() -> None:
        async with reader(archive) as store:
            await store.add_message(message(COUNT + 1))  # opens the trace, so that closing publishes a checkpoint
        path = segment_of(archive, log) if log == "events" else max((archive / trace_prefix("t") / log).iterdir())
        whole = path.read_bytes()
        first = int(path.name.partition("-")[0])
        last = first + lines(whole) - 1
        for length in offsets(len(whole), 4):
            path.write_bytes(whole[:length])
            lost = f"{first + lines(whole[:length])} to {last}"
            with pytest.raises(IncompleteTraceError, match=lost):
                await numbers(reader(archive), log)
        store = reader(archive)
        for append in (store.add_message(message(9)), store.append_event("t", "step", None)):
            with pytest.raises(IncompleteTraceError, match=lost):
                await append
        assert any(str(last) in finding.meaning for finding in await store.verify())
        await store.close()

    asyncio.run(check())


@pytest.mark.parametrize("log", LOGS)
def test_an_earlier_segment_may_end_torn_only_where_the_next_begins(archive: Path, log: LogName) -> None:
    async def check() -> None:
        store = reader(archive)
        await write(store, COUNT + 1, 1)
        earlier = min((archive / trace_prefix("t") / log).iterdir())
        whole = earlier.read_bytes()
        for length in range(0, len(whole), tried(21, 7)):
            earlier.write_bytes(whole[:length] + b"torn")
            lost = f"{lines(whole[:length]) + 1} to {COUNT}"
            with pytest.raises(IncompleteTraceError, match=lost):
                await numbers(reader(archive), log)
        earlier.write_bytes(whole + b"torn")
        assert await numbers(reader(archive), log) == list(range(1, COUNT + 2))
        await store.close()

    asyncio.run(check())


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("change", ["flipped", "made NUL", "lost"])
def test_a_changed_byte_before_whole_records_is_no_torn_tail(archive: Path, log: LogName, change: str) -> None:
    path = segment_of(archive, log)
    whole = path.read_bytes()
    last_line = whole[:-1].rindex(b"\n") + 1
    instead: dict[str, Any] = {
        "flipped": lambda byte: bytes([byte ^ 1]),
        "made NUL": lambda _: b"\0",
        "lost": lambda _: b"",
    }

    async def check() -> None:
        for number, at in enumerate(offsets(last_line - 1, 5)):
            path.write_bytes(whole[:at] + instead[change](whole[at]) + whole[at + 1 :])
            with pytest.raises(DamagedTraceError, match=path.name.partition("-")[0]) as caught:
                await numbers(reader(archive), log)
            assert isinstance(caught.value, CorruptFileError)
            if number % 50 == 0:
                findings = await reader(archive).verify()
                assert findings, f"byte {at} was {change} and verify found nothing"

    asyncio.run(check())


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_a_torn_tail_hides_no_changed_byte_before_it(archive: Path, rubbish: bytes) -> None:
    path = segment_of(archive, "messages")
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:] + rubbish)
    with pytest.raises(CorruptFileError, match="offset 1"):
        asyncio.run(numbers(reader(archive), "messages"))


def test_a_block_that_was_never_written_ends_what_was_acknowledged(archive: Path) -> None:
    path = segment_of(archive, "messages")
    whole = path.read_bytes()
    begun = whole.index(b"\n") + 20
    assert begun < 512 < len(whole) - 1
    path.write_bytes(whole[:begun] + bytes(512 - begun) + whole[512:])
    assert asyncio.run(numbers(reader(archive), "messages")) == [1]
