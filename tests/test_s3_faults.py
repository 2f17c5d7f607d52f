"""A fault at every request to S3.

What fails is refused with an error of this package, within bounded time, and what was acknowledged is there for
whoever opens the archive afterwards. A fault befalls one request, or all its retries too, so that the client's own
patience does not hide it. Backing off takes no time here.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from profiles import THOROUGH
from servers import S3Server
from test_disk_faults import is_told
from test_power_loss import damage
from traceark.storage import objects
from traceark.store import ArchiveStore
from traceark.testing.ledger import Ledger
from traceark.testing.proxy import Fault, Plan, Proxy, Request, proxy
from workload import goes_on, recovered, sums_up, work

# More than the client tries anything: botocore and s3fs five times each.
ALL_RETRIES = 30
# Any call is over by then.
BOUND_SECONDS = 120.0


@dataclass
class Befalling(Plan):
    """The same fault at the n-th suitable request, for each n given, and at so many of its retries."""

    what: Fault
    at: range | tuple[int, ...]
    retries: int = 0
    count: int = 0
    last: Request | None = None
    left: int = 0

    def fault(self, request: Request) -> Fault | None:
        if self.last is not None and self.left and request.is_retry_of(self.last):
            self.left -= 1
            return self.what
        if not is_suitable(self.what, request):
            return None
        self.count += 1
        if self.count not in self.at:
            return None
        self.last, self.left = request, self.retries
        return self.what


@dataclass
class Lasting(Plan):
    """A fault at a request and at all that follow, or so many of them."""

    what: Fault
    at: int
    requests: int = 1_000_000

    def fault(self, request: Request) -> Fault | None:
        return self.what if self.at <= request.number < self.at + self.requests else None


class Several(Plan):
    """The faults of several plans in one run."""

    def __init__(self, *plans: Plan) -> None:
        self._plans = plans

    def fault(self, request: Request) -> Fault | None:
        found = [plan.fault(request) for plan in self._plans]
        return next((each for each in found if each is not None), None)


def is_suitable(fault: Fault, request: Request) -> bool:
    """Say whether a fault can befall a request."""
    if fault.name == "stale":
        return request.is_listing
    if fault.name in ("ConditionalRequestConflict", "OperationAborted"):
        return request.method == "PUT"
    if fault.name == "half":
        return request.method == "GET"
    return True


@pytest.fixture(scope="module")
def before_ministack(ministack_server: S3Server) -> Iterator[Proxy]:
    with proxy(ministack_server.endpoint) as running:
        yield running


class Hurried:
    """The module `asyncio`, but nothing in it takes time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients back off in no time, and logs be folded early."""
    for name in ("s3fs.core", "aiobotocore.endpoint", "traceark.storage.objects"):
        monkeypatch.setattr(importlib.import_module(name), "asyncio", Hurried())
    monkeypatch.setattr("traceark.folding.OBJECTS", 3)


@dataclass
class Place:
    """An archive on S3, with a proxy before it and without."""

    server: S3Server
    faulty: Proxy

    def __post_init__(self) -> None:
        self.url = self.server.place()
        self.faulty.clear()
        objects._proven.clear()

    def through(self, **settings: Any) -> ArchiveStore:
        """Return a store that meets the faults."""
        options = {**self.server.storage_options, "endpoint_url": self.faulty.endpoint}
        return ArchiveStore(self.url, storage_options=options | settings)

    def past(self) -> ArchiveStore:
        """Return a store that meets none."""
        return ArchiveStore(self.url, storage_options=self.server.storage_options)


async def met(place: Place, ledger: Ledger, plan: Plan, **settings: Any) -> list[str]:
    """Go through the workload with faults; return what is wrong in the store that met them."""
    store = place.through(**settings)
    place.faulty.plan = plan
    failed = await asyncio.wait_for(work(store, ledger), BOUND_SECONDS)
    place.faulty.plan = Plan()
    return [f"{'told' if is_told(each) else 'not told'}: {each!r}" for each in failed]


async def reopened(place: Place, ledger: Ledger) -> list[str]:
    """Return what is wrong for whoever opens the archive afterwards."""
    reader = place.past()
    faults = ledger.faults(await recovered(reader), at=0)
    await sums_up(reader)
    faults += damage(await reader.verify(deep=True))
    await reader.close()
    await goes_on(place.past())
    after = place.past()
    faults += [f"afterwards: {each}" for each in damage(await after.verify(deep=True))]
    await after.close()
    return faults


def wrong(place: Place, plan: Plan, *, may_fail: bool, **settings: Any) -> Iterator[str]:
    """Yield what is wrong after a run with faults, in which calls may fail if they say so, or may not fail."""
    ledger = Ledger(now=lambda: 0)

    async def run() -> list[str]:
        failed = await met(place, ledger, plan, **settings)
        return [each for each in failed if not (may_fail and each.startswith("told"))] + await reopened(place, ledger)

    try:
        found = asyncio.run(run())
    except Exception as error:  # whatever goes wrong is what is looked for
        found = [repr(error)]
    hits = [f"{request.number} {request.method} {request.target}: {fault}" for request, fault in place.faulty.hits]
    for each in found:
        yield f"{each} ({'; '.join(hits[:3])})"


FAULTS = {
    "an internal error": (Fault("InternalError"), 0),
    "an internal error though it was done": (Fault("InternalError", done=True), 0),
    "internal errors only": (Fault("InternalError"), ALL_RETRIES),
    "internal errors only, though it was done": (Fault("InternalError", done=True), ALL_RETRIES),
    "slow down, too often": (Fault("SlowDown"), ALL_RETRIES),
    "a conflict": (Fault("ConditionalRequestConflict"), 0),
    "a conflict with an operation": (Fault("OperationAborted"), 0),
    "conflicts only": (Fault("ConditionalRequestConflict"), ALL_RETRIES),
    "a cut": (Fault("cut"), 0),
    "a cut after it was done": (Fault("cut", done=True), 0),
    "cuts only": (Fault("cut"), ALL_RETRIES),
    "cuts only, after it was done": (Fault("cut", done=True), ALL_RETRIES),
    "half an answer": (Fault("half", done=True), 0),
    "a stale listing": (Fault("stale", done=True), 0),
}
# In a run that a fault befalls at several requests they lie so far apart.
APART = 60


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_loses_nothing_and_is_told(ministack_server: S3Server, before_ministack: Proxy, name: str) -> None:
    fault, retries = FAULTS[name]
    apart = APART if fault.name != "stale" else APART // 3
    first = 1 + list(FAULTS).index(name) * 7 % apart
    for at in range(1, apart + 1) if THOROUGH else [first]:
        plan = Befalling(fault, range(at, 1000, apart), retries)
        place = Place(ministack_server, before_ministack)
        assert list(wrong(place, plan, may_fail=retries > 0)) == []
        assert place.faulty.hits
