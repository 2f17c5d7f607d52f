"""A fault at every request to S3.

What fails is refused with an error of this package, within bounded time, and what was acknowledged is there for
whoever opens the archive afterwards. A fault befalls one request, or all its retries too, so that the client's own
patience does not hide it. Backing off takes no time here; what the server is left with is judged in memory.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import s3fs

from clock import Clock
from profiles import SEED, THOROUGH, tried
from servers import S3Server
from test_disk_faults import is_told
from test_power_loss import damage
from traceark.storage import objects
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing.ledger import Ledger
from traceark.testing.proxy import Fault, Plan, Proxy, Request, proxy
from workload import goes_on, recovered, sums_up, work

# That folding failed for a while is told, and tried again.
pytestmark = pytest.mark.filterwarnings("ignore::traceark.errors.UnfoldedWarning")
# More than the client tries anything: botocore and s3fs five times each.
ALL_RETRIES = 30
# Any call is over by then.
BOUND_SECONDS = 120.0
# What `silent` requests wait for.
PATIENCE_SECONDS = 0.3

Befalls = tuple[Fault, int]
# What the client gets over by itself: no call fails.
PASSING: dict[str, Befalls] = {
    "an internal error": (Fault("InternalError"), 0),
    "an internal error though it was done": (Fault("InternalError", done=True), 0),
    "slow down": (Fault("SlowDown"), 0),
    "a conflict": (Fault("ConditionalRequestConflict"), 0),
    "a conflict with an operation": (Fault("OperationAborted"), 0),
    "a cut": (Fault("cut"), 0),
    "a cut after it was done": (Fault("cut", done=True), 0),
    "half an answer": (Fault("half", done=True), 0),
    "half a request": (Fault("torn"), 0),
    "a request that arrives late": (Fault("late"), 0),
}
# What takes the client's whole patience: calls fail, and say so.
LASTING: dict[str, Befalls] = {
    "internal errors only": (Fault("InternalError"), ALL_RETRIES),
    "internal errors only, though it was done": (Fault("InternalError", done=True), ALL_RETRIES),
    "slow down, too often": (Fault("SlowDown"), ALL_RETRIES),
    "conflicts only": (Fault("ConditionalRequestConflict"), ALL_RETRIES),
    "cuts only": (Fault("cut"), ALL_RETRIES),
    "cuts only, after it was done": (Fault("cut", done=True), ALL_RETRIES),
    "half answers only": (Fault("half", done=True), ALL_RETRIES),
}
# What no client can see: calls may go by what was, and conflict.
UNSEEN: dict[str, Befalls] = {"a stale listing": (Fault("stale"), 0)}
# What takes the time that a client waits for an answer.
SILENT: dict[str, Befalls] = {
    "no answer": (Fault("silent"), 0),
    "no answer though it was done": (Fault("silent", done=True), 0),
}
FAULTS = PASSING | LASTING | UNSEEN | SILENT


def is_suitable(fault: Fault, request: Request) -> bool:
    """Say whether a fault can befall a request."""
    if fault.name == "stale":
        return request.prefix is not None
    if fault.name in ("ConditionalRequestConflict", "OperationAborted", "torn"):
        return request.method == "PUT"
    if fault.name == "half":
        return request.method == "GET"
    return True


@dataclass
class Befalling(Plan):
    """Faults in turn at every so many requests that are suitable, each at so many retries too."""

    faults: Sequence[Befalls]
    first: int
    apart: int
    points: int = 0
    count: int = 0
    last: tuple[Request, Fault] | None = None
    left: int = 0

    def fault(self, request: Request) -> Fault | None:
        if self.last is not None and self.left and request.is_retry_of(self.last[0]):
            self.left -= 1
            return self.last[1]
        suitable = [each for each in self.faults if is_suitable(each[0], request)]
        if not suitable:
            return None
        self.count += 1
        if self.count % self.apart != self.first % self.apart:
            return None
        fault, self.left = suitable[self.points % len(suitable)]
        self.last = request, fault
        self.points += 1
        return fault


@pytest.fixture(scope="module")
def faulty(ministack_server: S3Server) -> Iterator[Proxy]:
    with proxy(ministack_server.endpoint) as running:
        yield running


class Hurried:
    """The module `asyncio`, but sleeping moves a clock instead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        wakes = self._clock.ahead + seconds
        await asyncio.sleep(0)
        self._clock.ahead = max(self._clock.ahead, wakes)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let clients back off in no time, and logs be folded early."""
    clock = Clock()
    clock.set(monkeypatch)
    for name in ("s3fs.core", "aiobotocore.endpoint", "traceark.storage.objects"):
        monkeypatch.setattr(importlib.import_module(name), "asyncio", Hurried(clock))
    monkeypatch.setattr("traceark.folding.OBJECTS", 3)
    return clock


@dataclass
class Place:
    """An archive on S3, with a proxy before it and without."""

    server: S3Server
    faulty: Proxy
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.server.place()
        self.faulty.clear()
        objects._proven.clear()

    def options(self, **settings: Any) -> dict[str, Any]:
        """Return the options of a store that meets the faults."""
        return {**self.server.storage_options, "endpoint_url": self.faulty.endpoint, **settings}

    def left(self) -> dict[str, bytes]:
        """Return what the server is left with."""
        files = s3fs.S3FileSystem(**self.server.storage_options)
        root = self.url.removeprefix("s3://")
        return {key.removeprefix(f"{root}/"): data for key, data in files.cat(files.find(root)).items()}


async def met(place: Place, ledger: Ledger, plan: Plan, **settings: Any) -> list[Exception]:
    """Go through the workload with faults; return what failed."""
    store = ArchiveStore(place.url, storage_options=place.options(**settings))
    place.faulty.plan = plan
    failed = await asyncio.wait_for(work(store, ledger), BOUND_SECONDS)
    place.faulty.plan = Plan()
    return failed


async def reopened(url: str, ledger: Ledger) -> list[str]:
    """Return what is wrong for whoever opens the archive afterwards."""
    reader = ArchiveStore(url)
    faults = ledger.faults(await recovered(reader), at=0)
    await sums_up(reader)
    faults += damage(await reader.verify(deep=True))
    await reader.close()
    await goes_on(ArchiveStore(url))
    after = ArchiveStore(url)
    faults += [f"afterwards: {each}" for each in damage(await after.verify(deep=True))]
    await after.close()
    return faults


def judged(place: Place, ledger: Ledger) -> list[str]:
    """Return what is wrong with what the server is left with."""
    name = place.url.removeprefix("s3://")
    MemoryStorage._archives[name] = MemoryStorage.of(place.left())._objects
    try:
        return asyncio.run(reopened(f"memory://{name}", ledger))
    except Exception as error:  # whatever goes wrong is what is looked for
        return [repr(error)]
    finally:
        MemoryStorage.forget(name)


def wrong(place: Place, plan: Plan, *, may_fail: bool, **settings: Any) -> list[str]:
    """Return what is wrong after a run with faults, in which calls may fail if they say so, or may not fail."""
    ledger = Ledger(now=lambda: 0)
    failed = asyncio.run(met(place, ledger, plan, **settings))
    found = [f"failed: {error!r}" for error in failed if not (may_fail and is_told(error))]
    hits = [f"{request.number} {request.method} {request.target}: {fault}" for request, fault in place.faulty.hits]
    return [f"{each} ({'; '.join(hits[:3])})" for each in found + judged(place, ledger)]


def apart(befalls: Befalls) -> int:
    """Return how many requests lie between those that a fault befalls in one run."""
    fault, retries = befalls
    if fault.name in ("stale", "torn"):
        return 10
    return 40 if retries else 15


@pytest.mark.skipif(not THOROUGH, reason="every fault at every request takes minutes: the profile `thorough` has it")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_request_loses_nothing_and_is_told(
    ministack_server: S3Server, faulty: Proxy, name: str, record_property: Any
) -> None:
    befalls = FAULTS[name]
    points = 0
    for first in range(apart(befalls)):
        place = Place(ministack_server, faulty)
        plan = Befalling([befalls], first, apart(befalls))
        settings = {"config_kwargs": {"read_timeout": PATIENCE_SECONDS}} if name in SILENT else {}
        assert wrong(place, plan, may_fail=name in LASTING | UNSEEN, **settings) == []
        points += plan.points
    record_property("points", points)
    record_property("runs", apart(befalls))


@pytest.mark.parametrize("first", range(SEED, SEED + tried(3, 9)))
def test_what_passes_is_noticed_by_no_caller(ministack_server: S3Server, faulty: Proxy, first: int) -> None:
    plan = Befalling(list(PASSING.values()), first, 9)
    assert wrong(Place(ministack_server, faulty), plan, may_fail=False) == []
    assert plan.points > len(PASSING)


@pytest.mark.parametrize("first", range(SEED, SEED + tried(2, 9)))
def test_what_lasts_is_told_and_loses_nothing(ministack_server: S3Server, faulty: Proxy, first: int) -> None:
    plan = Befalling([*LASTING.values(), *UNSEEN.values()], 7 * first, 23)
    assert wrong(Place(ministack_server, faulty), plan, may_fail=True) == []
    assert plan.points
