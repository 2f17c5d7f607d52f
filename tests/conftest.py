"""Fixtures that all tests share: the S3 servers, one of each per test process."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Here and in all programs that tests start: numpy starts no threads for linear algebra, which nobody does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What is collected stays to the end: to look for garbage in it takes a fifth of the collection.
gc.disable()
pytest.register_assert_rewrite("traceark.testing")

from profiles import SEED, THOROUGH  # noqa: E402
from servers import CEPH, S3RVER, S3Server, ceph, ministack, moto, s3rver  # noqa: E402
from traceark.starting import leave_pandas_for_later  # noqa: E402

leave_pandas_for_later()  # it takes a second, and few tests turn a result into a data frame

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how what failed in a thorough run is seen again, and at how many points faults were put in."""
    counted = [
        dict(report.user_properties)
        for report in terminalreporter.stats.get("passed", [])
        if "points" in dict(report.user_properties)
    ]
    if counted:
        points, runs = (sum(each[name] for each in counted) for name in ("points", "runs"))
        terminalreporter.write_line(f"faults of S3: {points:,} in {runs:,} runs")
    if THOROUGH and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"SEED={SEED}: `make torture SEED={SEED}` does the same again")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through what was collected, half a million objects, ever again."""
    gc.collect()
    gc.freeze()
    # Nor often through what the libraries and one test keep, which takes a twentieth of a run.
    gc.set_threshold(20_000, 20, 100)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that awaits in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def interrupted_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file of a write that was interrupted count as one that nobody is at any more."""
    monkeypatch.setattr("traceark.verification.settling.WRITE_SECONDS", 0.0)


@pytest.fixture(scope="session")
def ministack_server() -> Iterator[S3Server]:
    """A ministack server for this test process."""
    with ministack() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """A moto server for this test process."""
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[S3Server]:
    """A Ceph gateway for this test process, where one is installed."""
    if not (CEPH / "installed").exists() or os.geteuid() != 0:
        pytest.skip("Ceph is not installed: `make ceph`, as root")
    with ceph(CEPH) as server:
        yield server


@pytest.fixture(scope="session")
def s3rver_server() -> Iterator[S3Server]:
    """An s3rver, which ignores conditions, for this test process, where one is installed."""
    if not S3RVER.exists():
        pytest.skip("s3rver is not installed: `make s3rver`, with Node")
    with s3rver(S3RVER) as server:
        yield server
