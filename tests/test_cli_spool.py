"""`traceark spool`: what waits, and shipping it without the agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from servers import REGION, S3Server, free_port
from shell import out, run, told, wrong
from traceark.errors import SpoolPendingWarning
from traceark.models import Message, Trace
from traceark.spool.place import Place
from traceark.store import ArchiveStore


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


def left_behind(url: str, spool: Path) -> None:
    """Leave a spool whose archive could not be reached."""

    async def write() -> None:
        options = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "config_kwargs": {"retries": {"max_attempts": 0}}}
        store = ArchiveStore(url, spool=spool, storage_options=options)
        for number in range(2):
            await store.create_trace(Trace(trace_id=f"run-{number}"))
            await store.add_message(Message(trace_id=f"run-{number}", role="user", content="hi"))
        with pytest.warns(SpoolPendingWarning):
            await store.close()

    asyncio.run(write())


@pytest.mark.usefixtures("credentials")
def test_a_spool_that_was_left_is_told_of_and_shipped(ministack_server: S3Server, tmp_path: Path) -> None:
    url, spool = ministack_server.place(), tmp_path / "spool"
    at = ("--endpoint-url", ministack_server.endpoint)
    left_behind(url, spool)
    status = run("spool", "status", spool)
    assert status.exit_code == 1
    assert f"spool of {url}" in status.stdout and "waiting: 2 traces, 2 records" in status.stdout
    assert "shipping failed last" in status.stdout
    assert "nothing waits" in out("spool", "ship", spool, *at)
    assert told("spool", "status", spool)["pending"]["traces"] == 0
    assert {trace["trace_id"] for trace in told("ls", url, *at)} == {"run-0", "run-1"}
    assert "nothing waits" in out("spool", "ship", spool, *at)


@pytest.mark.usefixtures("credentials")
def test_an_archive_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    url, spool = "s3://archives/runs", tmp_path / "spool"
    left_behind(url, spool)
    assert url in wrong(1, "spool", "ship", spool, "--endpoint-url", f"http://127.0.0.1:{free_port()}")
    assert told_waiting(spool) == 2


def told_waiting(spool: Path) -> int:
    return asyncio.run(Place(spool).status()).traces


def test_what_is_no_spool_or_is_being_shipped_is_refused(tmp_path: Path) -> None:
    for verb in ("status", "ship"):
        assert "is no spool" in wrong(2, "spool", verb, tmp_path)
    asyncio.run(Place(tmp_path / "spool").bind(str(tmp_path / "far")))
    lock = Place(tmp_path / "spool").try_shipping()
    assert lock is not None
    assert "another process ships" in wrong(1, "spool", "ship", tmp_path / "spool")
    lock.close()
    assert "nothing waits" in out("spool", "ship", tmp_path / "spool")
