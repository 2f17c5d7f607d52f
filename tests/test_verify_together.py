"""Verify looks at many traces of an object store together, at no more than it may, and leaves none to itself."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator

import pytest

from traceark.models import Message, Trace
from traceark.reading import scan
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.verification import parallel
from traceark.verification.one import Checked

TRACES = 40


class Watched(MemoryStorage):
    """Takes a while to read, and counts of how many traces something is read meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reading: Counter[str] = Counter()
        self.most = 0
        self.broken = ""

    async def read(self, key: str, start: int = 0) -> bytes:
        trace = key.split("/")[1]
        self.reading[trace] += 1
        self.most = max(self.most, len(+self.reading))
        try:
            for _ in range(5):
                await asyncio.sleep(0)
            if trace == self.broken:
                raise OSError("the network is gone")
            return await super().read(key, start)
        finally:
            self.reading[trace] -= 1


@pytest.fixture
def storage() -> Iterator[Watched]:
    name = secrets.token_hex(8)

    async def make() -> None:
        async with ArchiveStore(f"memory://{name}") as store:
            for at in range(TRACES):
                await store.create_trace(Trace(trace_id=f"t{at:02d}"))
                await store.add_message(Message(trace_id=f"t{at:02d}", role="user", content=at))
                if at % 2:
                    await store.seal(f"t{at:02d}")

    asyncio.run(make())
    yield Watched(name)
    MemoryStorage.forget(name)


async def checked(storage: Watched) -> dict[str, Checked]:
    listed, _ = await scan(storage)
    found: dict[str, Checked] = {}
    async for some in parallel.check_together(storage, listed, deep=True):
        assert found.keys().isdisjoint(some)
        found.update(some)
    return found


async def test_many_traces_are_looked_at_together_each_once(storage: Watched) -> None:
    await storage.replace("traces/t07/trace.json", b"{}")
    found = await checked(storage)
    assert storage.most == parallel._TOGETHER
    assert len(found) == TRACES
    assert [each for each in sorted(found) if found[each].findings] == ["t07"]


async def test_no_more_bytes_are_looked_at_together_than_may_be(
    storage: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, _ = await scan(storage)
    sizes = sorted(sum(entry.size for entry in entries.values()) for entries in listed.values())
    for bytes_together, most in ((sizes[-1] * 3, range(3, 16)), (1, range(1, 2))):
        monkeypatch.setattr(parallel, "_TOGETHER_BYTES", bytes_together)
        storage.most = 0
        assert len(await checked(storage)) == TRACES
        assert storage.most in most


async def test_an_error_ends_all_of_it_and_leaves_nothing_running(storage: Watched) -> None:
    storage.broken = "t20"
    with pytest.raises(OSError, match="network"):
        await checked(storage)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not +storage.reading
