"""An hour of two writers on an object store that fails now and then, and is gone for minutes, by a clock of its own.

What writers know of a store goes stale after minutes, others are taken for gone after a quarter of an hour, and
superseded objects wait as long: all of it happens here, in an hour that takes seconds. A seed makes the hour.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

import pytest

from clock import Clock
from profiles import SEED, THOROUGH, tried
from servers import S3Server
from traceark.errors import StorageError, TracearkError
from traceark.storage.base import Entry, Storage
from traceark.storage.memory import MemoryStorage
from traceark.storage.objects import S3Storage
from traceark.store import ArchiveStore
from traceark.testing.ledger import Ledger
from workload import Step, add, correct, create, goal, reach, recovered, sums_up, tell

# That folding failed for a while is told, and tried again.
pytestmark = pytest.mark.filterwarnings("ignore::traceark.errors.UnfoldedWarning")
HOUR_SECONDS = 3600.0
# What writers do, and how often.
_FREQUENT = {
    "add": 30,
    "together": 8,
    "tell": 10,
    "correct": 8,
    "goal": 4,
    "task": 4,
    "read": 8,
    "list": 4,
    "compact": 2,
    "refresh": 1,
    "restart": 1,
    "die": 1,
}


class Weather:
    """A clock that is moved by hand, and how often requests fail meanwhile."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.outage_ends = 0.0
        self.fails = 0.0
        self.faults = 0
        self.created: dict[str, float] = {}

    @property
    def ahead(self) -> float:
        """How much of the hour is over, in seconds."""
        return self.clock.ahead

    def strike(self) -> bool:
        """Say whether a request fails now."""
        fails = self.ahead < self.outage_ends or self.random.random() < self.fails
        self.faults += fails
        return fails


class Stormy(Storage):
    """A storage whose requests fail: before they are done, or after that, when their answer is lost."""

    weather: ClassVar[Weather]

    def _request(self, what: str) -> None:
        if self.weather.strike():
            raise StorageError(5, f"{self.url}/{what}: no connection")

    async def _answered(self, key: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self._request(key)
        done = await work()
        self.weather.created[f"{self.url}/{key}"] = self.weather.clock.time()
        self._request(key)
        return done

    async def read(self, key: str, start: int = 0) -> bytes:
        self._request(key)
        return await super().read(key, start)  # type: ignore[safe-super]

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        self._request(key)
        return await super().read_versioned(key)  # type: ignore[safe-super]

    async def list(self, prefix: str) -> dict[str, Entry]:
        self._request(prefix)
        listed = await super().list(prefix)  # type: ignore[safe-super]
        # The server's clock is the one that is moved.
        made = self.weather.created
        return {
            name: Entry(entry.size, entry.version, made.get(f"{self.url}/{prefix}/{name}", entry.modified))
            for name, entry in listed.items()
        }

    async def create(self, key: str, data: bytes) -> str:
        return str(await self._answered(key, lambda: super(Stormy, self).create(key, data)))  # type: ignore[safe-super]

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        return str(await self._answered(key, lambda: super(Stormy, self).replace(key, data, version)))  # type: ignore[safe-super]

    async def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._request(key)
            await super().delete([key])  # type: ignore[safe-super]
            self._request(key)


class StormyMemory(Stormy, MemoryStorage):
    """Objects in memory, in bad weather."""


class StormyS3(Stormy, S3Storage):
    """A server of S3 objects, in bad weather."""


def set_clock(monkeypatch: pytest.MonkeyPatch, weather: Weather) -> None:
    """Have the whole package go by the weather's clock, and nothing else."""
    weather.clock.set(monkeypatch)
    monkeypatch.setattr(Stormy, "weather", weather, raising=False)
    monkeypatch.setattr("traceark.storage.memory.MemoryStorage", StormyMemory)
    monkeypatch.setattr("traceark.storage.objects.S3Storage", StormyS3)


async def tried_until_done(work: Callable[[], Awaitable[object]]) -> None:
    """Do what a patient caller does: again, until the store answers."""
    for _ in range(100):
        try:
            await work()
            return
        except (TracearkError, ExceptionGroup):
            continue
    await work()


class Hour:
    """Two processes that write the same two traces, and what they were promised."""

    def __init__(self, weather: Weather, url: str, options: dict[str, Any]) -> None:
        self.weather, self.url, self.options = weather, url, options
        self.ledger = Ledger(now=lambda: 0)
        self.stores = [self.opened(), self.opened()]
        self.at = {"t": 0, "u": 0}
        self.told = 0
        self.acknowledged = 0
        self.log: list[str] = []

    def opened(self) -> ArchiveStore:
        return ArchiveStore(self.url, storage_options=self.options)

    async def do(self, number: int, what: str, step: Step) -> None:
        values, call = step
        try:
            with self.ledger.attempt(values):
                await call(self.stores[number])
            self.acknowledged += 1
            self.log.append(f"{self.weather.ahead:6.0f} s, writer {number}: {what}")
        except (TracearkError, ExceptionGroup) as error:
            self.log.append(f"{self.weather.ahead:6.0f} s, writer {number}: {what}: {error!r}")

    async def begin(self) -> None:
        for step in (create("t", "t"), create("u", "u"), goal()):
            await self.do(0, "create", step)

    async def step(self) -> None:
        """Let time pass, and do one thing that an agent or an operator does."""
        source = self.weather.random
        number = source.randrange(2)
        trace_id = source.choice("ttu")
        what = source.choices(list(_FREQUENT), list(_FREQUENT.values()))[0]
        if what in ("add", "together"):
            adds = []
            for _ in range(1 if what == "add" else 5):
                self.at[trace_id] += 1
                adds.append(add(trace_id, self.at[trace_id]))
            both = (number, 1 - number)
            await asyncio.gather(*(self.do(both[at % 2], f"{what} {trace_id}", each) for at, each in enumerate(adds)))
        elif what == "tell":
            self.told += 1
            await self.do(number, what, tell(self.told))
        elif what == "correct" and self.at["t"]:
            await self.do(number, what, correct(source.randint(1, self.at["t"]), source.randrange(1000)))
        elif what == "goal":
            await self.do(number, what, reach(source.choice(("pending", "in_progress", "completed"))))
        elif what == "task":
            task = f"task {source.random()}"
            await self.do(number, what, ({("trace", "t"): task}, lambda store: store.update_trace("t", task=task)))
        elif what == "read":
            await self.do(number, what, ({}, lambda store: store.get_events("t", self.told // 2)))
        elif what == "list":
            await self.do(number, what, ({}, lambda store: store.list_traces()))
        elif what == "compact":
            await self.do(number, what, ({}, lambda store: store.compact(trace_id)))
        elif what == "refresh":
            await self.do(number, what, ({}, lambda store: store.refresh()))
        elif what == "restart":
            await self.do(number, what, ({}, lambda store: store.close()))
            self.stores[number] = self.opened()
        elif what == "die":
            self.stores[number] = self.opened()


async def live(weather: Weather, url: str, options: dict[str, Any], steps: int, until: int) -> Hour:
    """Live through an hour, or its first steps, until the storm is over."""
    hour = Hour(weather, url, options)
    await hour.begin()
    weather.fails = 0.03
    for at in range(until):
        # Mostly seconds, now and then so long that all that was known is stale.
        weather.clock.ahead += weather.random.expovariate(steps / HOUR_SECONDS)
        if weather.random.random() < 4 / steps:
            weather.clock.ahead += 16 * 60
        if weather.random.random() < 3 / steps or at == steps // 2:
            weather.outage_ends = weather.ahead + weather.random.uniform(5, 240)
        await hour.step()
    weather.fails = weather.outage_ends = 0.0
    return hour


async def judge(hour: Hour) -> list[str]:
    """Return what is wrong with what was left, for the writers themselves and for a fresh reader."""
    faults: list[str] = []
    for store in hour.stores:
        await tried_until_done(store.close)
    fresh = hour.opened()
    await fresh.refresh()
    faults += hour.ledger.faults(await recovered(fresh), 0)
    events = [event.event_type for event in await fresh.get_events("t")]
    faults += [f"{each} was told twice" for each in set(events) if events.count(each) > 1]
    await sums_up(fresh)
    faults += [str(each) for each in await fresh.verify(deep=True) if not each.is_note]
    await fresh.close()
    return faults


async def endure(
    monkeypatch: pytest.MonkeyPatch, place: Callable[[], str], options: dict[str, Any], seed: int, steps: int
) -> None:
    """Fail with the shortest beginning of the hour that goes wrong."""

    async def first(until: int) -> tuple[Weather, Hour, list[str]]:
        weather = Weather(seed)
        with monkeypatch.context() as patch:
            set_clock(patch, weather)
            hour = await live(weather, place(), options, steps, until)
            return weather, hour, await judge(hour)

    weather, hour, faults = await first(steps)
    if faults:
        right, wrong = 0, steps
        while wrong - right > 1:
            middle = (right + wrong) // 2
            _, shorter, found = await first(middle)
            if found:
                wrong, hour, faults = middle, shorter, found
            else:
                right = middle
        pytest.fail(f"SEED={seed}, {wrong} of {steps} steps: {faults}; they were\n" + "\n".join(hour.log))
    assert weather.ahead > HOUR_SECONDS / 2
    assert weather.faults > steps // 50 and hour.acknowledged > steps // 3


@pytest.mark.parametrize("seed", range(SEED, SEED + tried(1, 3, 10)))
async def test_an_hour_in_bad_weather_loses_nothing(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    names = (f"hour-{seed}-{number}" for number in itertools.count())
    await endure(monkeypatch, lambda: f"memory://{next(names)}", {}, seed, tried(110, 300, 600))


@pytest.mark.skipif(not THOROUGH, reason="a server's hour takes minutes: the profile `thorough` has it")
async def test_an_hour_on_a_server_in_bad_weather_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, ministack_server: S3Server
) -> None:
    await endure(monkeypatch, ministack_server.place, ministack_server.storage_options, SEED, tried(0, 140, 200))
