"""A fault at every request to S3.

What fails is refused with an error of this package, within bounded time, and what was acknowledged is there for
whoever opens the archive afterwards. A fault befalls one request, or all its retries too, so that the client's own
patience does not hide it. Backing off takes no time here; what the server is left with is judged in memory.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import s3fs

from clock import Clock
from profiles import SEED, THOROUGH, WHOLE, some, tried
from servers import REGION, S3Server
from test_disk_faults import is_told
from traceark.errors import StorageError, TracearkError, UnsafeStorageError
from traceark.models import Trace
from traceark.storage import objects
from traceark.storage.base import KeyExistsError, VersionMismatchError
from traceark.storage.memory import MemoryStorage
from traceark.storage.objects import S3Storage
from traceark.storage.s3_errors import ConflictError, CredentialsError, translated
from traceark.store import ArchiveStore
from traceark.testing.ledger import Ledger
from traceark.testing.proxy import Fault, Plan, Proxy, Request, proxy
from traceark.verification import Finding
from workload import Step, add, correct, create, damage, delete, goal, goes_on, reach, recovered, sums_up, tell, work

# That folding failed for a while is told, and tried again.
pytestmark = pytest.mark.filterwarnings("ignore::traceark.errors.UnfoldedWarning")
# More than the client tries anything: s3fs five times, and what conflicts is tried six times more.
ALL_RETRIES = 30
IMPATIENT = {"retries": {"max_attempts": 0}}
# Any call is over by then.
BOUND_SECONDS = 120.0
# How long an answer is waited for where none comes.
PATIENCE = {"read_timeout": 0.2}

Befalls = tuple[Fault, int]
# What the client gets over by itself: no call fails.
PASSING: dict[str, Befalls] = {
    "an internal error": (Fault("InternalError"), 0),
    "an internal error though it was done": (Fault("InternalError", done=True), 0),
    "slow down": (Fault("SlowDown"), 0),
    "a conflict": (Fault("ConditionalRequestConflict"), 0),
    "a conflict with an operation": (Fault("OperationAborted"), 0),
    "a conflict of a reader": (Fault("ConcurrentModification"), 0),
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
    if fault.name == "ConcurrentModification":
        return request.method == "GET" and request.prefix is None
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
        keys = files.find(root)
        return {key.removeprefix(f"{root}/"): data for key, data in files.cat(keys).items()} if keys else {}


async def met(place: Place, ledger: Ledger, plan: Plan, **settings: Any) -> list[Exception]:
    """Go through the workload with faults; return what failed."""
    store = ArchiveStore(place.url, storage_options=place.options(**settings))
    place.faulty.plan = plan
    failed = await asyncio.wait_for(work(store, ledger), BOUND_SECONDS)
    place.faulty.plan = Plan()
    return failed


def damage_beside_leftovers(findings: list[Finding]) -> list[str]:
    """Leave out what a deletion that was cut short leaves beside a namesake, too: nobody reads it."""
    return damage([each for each in findings if "another incarnation" not in each.meaning])


async def reopened(url: str, ledger: Ledger, told: Callable[[list[Finding]], list[str]]) -> list[str]:
    """Return what is wrong for whoever opens the archive afterwards."""
    reader = ArchiveStore(url)
    faults = ledger.faults(await recovered(reader), at=0)
    await sums_up(reader)
    faults += told(await reader.verify(deep=True))
    await reader.close()
    await goes_on(ArchiveStore(url))
    after = ArchiveStore(url)
    faults += [f"afterwards: {each}" for each in told(await after.verify(deep=True))]
    await after.close()
    return faults


def judged(place: Place, ledger: Ledger, *, may_fail: bool = False) -> list[str]:
    """Return what is wrong with what the server is left with."""
    told = damage_beside_leftovers if may_fail else damage
    name = place.url.removeprefix("s3://")
    MemoryStorage._archives[name] = MemoryStorage.of(place.left())._objects
    try:
        return asyncio.run(reopened(f"memory://{name}", ledger, told))
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
    return [f"{each} ({'; '.join(hits[:3])})" for each in found + judged(place, ledger, may_fail=may_fail)]


def apart(befalls: Befalls) -> int:
    """Return how many requests lie between those that a fault befalls in one run."""
    fault, retries = befalls
    if fault.name in ("stale", "torn"):
        return 10
    return 20 if retries else 12


def patience(name: str) -> dict[str, Any]:
    """Return how patient the client is to be with a fault, in botocore's words."""
    return PATIENCE if name in SILENT else IMPATIENT if name in LASTING else {}


@pytest.mark.skipif(not THOROUGH, reason="every fault at every request takes minutes: the profile `thorough` has it")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_request_loses_nothing_and_is_told(
    ministack_server: S3Server, faulty: Proxy, name: str, record_property: Any
) -> None:
    befalls = FAULTS[name]
    points = 0
    for first in range(0, apart(befalls), 1 if WHOLE else 4):
        place = Place(ministack_server, faulty)
        plan = Befalling([befalls], first, apart(befalls))
        assert wrong(place, plan, may_fail=name in LASTING | UNSEEN, config_kwargs=patience(name)) == []
        points += plan.points
    assert points
    record_property("points", points)
    record_property("runs", len(range(0, apart(befalls), 1 if WHOLE else 4)))


@pytest.mark.parametrize("first", range(SEED, SEED + tried(1, 9)))
def test_what_passes_is_noticed_by_no_caller(ministack_server: S3Server, faulty: Proxy, first: int) -> None:
    plan = Befalling(list(PASSING.values()), 4 * first, 9)
    assert wrong(Place(ministack_server, faulty), plan, may_fail=False) == []
    assert plan.points > len(PASSING)


@pytest.mark.parametrize("first", range(SEED, SEED + tried(1, 9)))
def test_what_lasts_is_told_and_loses_nothing(ministack_server: S3Server, faulty: Proxy, first: int) -> None:
    plan = Befalling(list(LASTING.values()), 7 * first, 23)
    assert wrong(Place(ministack_server, faulty), plan, may_fail=True, config_kwargs=IMPATIENT) == []
    assert plan.points


def test_a_stale_listing_makes_no_call_go_wrong(ministack_server: S3Server, faulty: Proxy) -> None:
    plan = Befalling(list(UNSEEN.values()), SEED, apart(UNSEEN["a stale listing"]))
    assert wrong(Place(ministack_server, faulty), plan, may_fail=True) == []
    assert plan.points


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_is_said(
    ministack_server: S3Server, faulty: Proxy
) -> None:
    plan = Befalling(list(SILENT.values()), SEED, 40)
    assert wrong(Place(ministack_server, faulty), plan, may_fail=False, config_kwargs=PATIENCE) == []
    assert plan.points


@dataclass
class Throttled(Plan):
    """The server asks to slow down for a minute, from a request on."""

    clock: Clock
    at: int
    until: float | None = None

    def fault(self, request: Request) -> Fault | None:
        if self.until is None and request.number >= self.at:
            self.until = self.clock.ahead + 60
        slows = self.until is not None and self.clock.ahead < self.until
        return Fault("SlowDown") if slows else None


@pytest.mark.parametrize("at", range(40, 150, tried(120, 10)))
def test_a_minute_of_throttling_is_told_and_loses_nothing(
    ministack_server: S3Server, faulty: Proxy, clock: Clock, at: int
) -> None:
    place, ledger, plan = Place(ministack_server, faulty), Ledger(now=lambda: 0), Throttled(clock, at)
    failed = asyncio.run(met(place, ledger, plan))
    # Some calls are patient enough; what follows from one that failed says so in its own words.
    assert all(map(is_told, failed)) and all("SlowDown" in str(error) for error in failed[:1])
    assert judged(place, ledger, may_fail=True) == []
    assert plan.until is not None and clock.ahead >= plan.until
    assert place.faulty.requests[-1].number > place.faulty.hits[-1][0].number


@dataclass
class Expired(Plan):
    """A key is taken no more, from a request on."""

    at: int

    def fault(self, request: Request) -> Fault | None:
        is_old = "Credential=testing/" in request.headers.get("authorization", "")
        return Fault("ExpiredToken") if is_old and request.number >= self.at else None


def tells_of_expiry(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return all(map(tells_of_expiry, error.exceptions))
    return isinstance(error, CredentialsError) and "expired" in str(error)


# The workload makes about 150 requests.
@pytest.mark.parametrize("at", range(50, 150, tried(120, 10)))
def test_credentials_that_expire_are_told_and_what_was_acknowledged_is_there(
    ministack_server: S3Server, faulty: Proxy, at: int
) -> None:
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    failed = asyncio.run(met(place, ledger, Expired(at)))
    assert failed and all(map(tells_of_expiry, failed))
    assert judged(place, ledger, may_fail=True) == []


def test_renewed_credentials_are_taken_when_the_archive_is_opened_again(
    ministack_server: S3Server, faulty: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(ministack_server, faulty)
    options = {"endpoint_url": faulty.endpoint, "client_kwargs": {"region_name": REGION}}

    async def create(trace_id: str) -> None:
        async with ArchiveStore(place.url, storage_options=options) as store:
            await store.create_trace(Trace(trace_id=trace_id))

    for name, value in ministack_server.environment.items():
        monkeypatch.setenv(name, value)
    asyncio.run(create("before"))
    faulty.plan = Expired(1)
    with pytest.raises(CredentialsError, match=r"expired.*open the archive again"):
        asyncio.run(create("refused"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    asyncio.run(create("after"))
    assert {"before", "after"} == set(asyncio.run(names(place)))


async def names(place: Place) -> list[str]:
    async with ArchiveStore(place.url, storage_options=place.server.storage_options) as store:
        return [trace.trace_id for trace in await store.list_traces()]


# Requests that arrive late


@dataclass
class Once(Plan):
    """A fault at the first request of a method for a key that ends so."""

    what: Fault
    method: str
    end: str
    is_over: bool = False

    def fault(self, request: Request) -> Fault | None:
        if self.is_over or request.method != self.method or not request.key.endswith(self.end):
            return None
        self.is_over = True
        return self.what


# By the end a late request has arrived.
ANEW = [create("t", "first"), goal(), delete("t"), create("t", "second"), goal(), *(add("t", at) for at in range(9))]


@pytest.mark.parametrize("file", some(["trace.json", "goal_tree.json"], 1))
def test_a_deletion_that_arrives_late_spares_the_trace_that_was_made_anew(
    ministack_server: S3Server, faulty: Proxy, file: str
) -> None:
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    faulty.plan = Once(Fault("late"), "DELETE", file)
    asyncio.run(alternately(place, ledger, ANEW, writers=1))
    assert judged(place, ledger) == []
    assert faulty.hits and not faulty._late


def test_traces_are_deleted_where_a_server_deletes_under_no_condition(
    ministack_server: S3Server, faulty: Proxy
) -> None:
    class Unable(Plan):
        def fault(self, request: Request) -> Fault | None:
            conditional = request.method == "DELETE" and "if-match" in request.headers
            return Fault("NotImplemented") if conditional else None

    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    faulty.plan = Unable()
    asyncio.run(alternately(place, ledger, [create("t", "first"), goal(), add("t", 1), delete("t")], writers=1))
    assert faulty.hits and judged(place, ledger) == []
    assert not any("traces/" in key for key in place.left())


# Several writers


async def alternately(place: Place, ledger: Ledger, steps: Sequence[Step], writers: int = 2) -> None:
    """Do steps by several writers in turn, who find out about each other by conditions that do not hold."""
    # Equal options share a client, and with it connections.
    stores = [ArchiveStore(place.url, storage_options=place.options()) for _ in range(writers)]
    for at, (values, call) in enumerate(steps):
        with ledger.attempt(values):
            await call(stores[at % writers])
    for store in stores:
        await store.close()


IN_TURN = [
    create("t", "first"),
    goal(),
    *(add("t", at) for at in range(1, 8)),
    *(tell(at) for at in range(1, 5)),
    *(reach(status) for status in ("in_progress", "completed", "pending")),
    *(correct(at, 10 * at) for at in range(1, 5)),
]


@pytest.mark.parametrize("first", range(SEED, SEED + tried(1, 9)))
def test_two_writers_lose_nothing_of_each_other(ministack_server: S3Server, faulty: Proxy, first: int) -> None:
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    faulty.plan = Befalling(list(PASSING.values()), first, 9)
    asyncio.run(alternately(place, ledger, IN_TURN))
    assert judged(place, ledger) == []
    assert len(faulty.hits) > len(PASSING)


# A server of another family


@pytest.fixture(scope="module")
def before_ceph(ceph_server: S3Server) -> Iterator[Proxy]:
    with proxy(ceph_server.endpoint) as running:
        yield running


@pytest.mark.parametrize("first", range(SEED, SEED + tried(1, 9)))
@pytest.mark.parametrize(
    ("kinds", "every"), [(PASSING, 9), (LASTING, 23), (UNSEEN, 10)], ids=["passing", "lasting", "unseen"]
)
def test_ceph_loses_nothing_by_faults(
    ceph_server: S3Server, before_ceph: Proxy, kinds: dict[str, Befalls], every: int, first: int
) -> None:
    plan = Befalling(list(kinds.values()), 4 * first, every)
    settings = IMPATIENT if kinds is LASTING else {}
    may_fail = kinds is not PASSING
    assert wrong(Place(ceph_server, before_ceph), plan, may_fail=may_fail, config_kwargs=settings) == []
    assert plan.points


@pytest.mark.parametrize("first", range(SEED, SEED + tried(1, 9)))
def test_two_writers_on_ceph_lose_nothing_of_each_other(ceph_server: S3Server, before_ceph: Proxy, first: int) -> None:
    place, ledger = Place(ceph_server, before_ceph), Ledger(now=lambda: 0)
    before_ceph.plan = Befalling(list(PASSING.values()), first, 9)
    asyncio.run(alternately(place, ledger, IN_TURN))
    assert judged(place, ledger) == []
    assert len(before_ceph.hits) > len(PASSING)


# These checks can fail


@dataclass
class Forgetful(Plan):
    """A server that takes conditional writes and ignores the condition; at first it does not show."""

    at: int

    def fault(self, request: Request) -> Fault | None:
        return Fault("unconditional") if request.method == "PUT" and request.number >= self.at else None


def test_a_server_that_ignores_conditions_is_refused_by_what_it_answers(
    ministack_server: S3Server, faulty: Proxy
) -> None:
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    failed = asyncio.run(met(place, ledger, Forgetful(1)))
    assert failed and not any("traces/" in key for key in place.left())
    assert any(isinstance(error, UnsafeStorageError) for error in failed)


def test_a_condition_that_is_dropped_is_found(ministack_server: S3Server, faulty: Proxy) -> None:
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    # The first six requests prove that conditions hold.
    faulty.plan = Forgetful(7)
    with suppress(TracearkError):
        asyncio.run(alternately(place, ledger, IN_TURN))
    assert judged(place, ledger)


async def acknowledged_early(self: S3Storage, key: str, data: bytes) -> str:
    try:
        return await real_create(self, key, data)
    except KeyExistsError:
        raise
    except StorageError:
        return '"never"'


async def forgotten(self: S3Storage, key: str, mark: str) -> None:
    return None


def confused(error: Exception, what: str) -> StorageError:
    found = translated(error, what)
    return VersionMismatchError(str(found)) if isinstance(found, ConflictError) else found


async def whatever_it_is(self: S3Storage, versions: Mapping[str, str]) -> Sequence[str]:
    await self.delete(versions)
    return []


def test_a_deletion_whatever_is_there_is_found(
    ministack_server: S3Server, faulty: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Storage, "delete_unchanged", whatever_it_is)
    place, ledger = Place(ministack_server, faulty), Ledger(now=lambda: 0)
    faulty.plan = Once(Fault("late"), "DELETE", "trace.json")
    with suppress(TracearkError):
        asyncio.run(alternately(place, ledger, ANEW, writers=1))
    assert judged(place, ledger)


real_create = S3Storage.create
# What is put in, what befalls then, and where that is found soon.
BUGS = {
    "a write that failed is acknowledged": ((S3Storage, "create", acknowledged_early), "internal errors only", 13),
    "a write does not know its own": ((S3Storage, "_version_if_written", forgotten), "a cut after it was done", 1),
    "a conflict is taken for a condition": ((objects, "translated", confused), "a conflict", 1),
    "half an answer is the last word": ((objects, "_WAITS", ()), "half an answer", 1),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_found(
    ministack_server: S3Server, faulty: Proxy, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in, name, soon = BUGS[bug]
    monkeypatch.setattr(*put_in)
    befalls = FAULTS[name]
    runs = (Befalling([befalls], soon + more, apart(befalls)) for more in range(apart(befalls)))
    places = (Place(ministack_server, faulty) for _ in range(apart(befalls)))
    found = (
        wrong(*run, may_fail=name in LASTING, config_kwargs=patience(name)) for run in zip(places, runs, strict=True)
    )
    assert any(found)
