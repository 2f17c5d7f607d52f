"""Processes that share a spool or are killed, and real servers that hang: nothing acknowledged is lost.

Run as a program, this file writes through a spool for ever and prints what was acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from profiles import some, tried
from program import PIPE, Program, ran
from servers import S3Server
from traceark.models import Message, Trace
from traceark.spool import background
from traceark.spool.ship import ship
from traceark.store import ArchiveStore
from weather import Proxy

RUN = "run-7"


async def write_for_ever(url: str, spool: Path, options: Mapping[str, Any], name: str, first: int) -> None:
    """Write one long trace and many short ones; print each record once it is acknowledged."""
    store = ArchiveStore(url, spool=spool, storage_options=options)
    if await store.get_trace(name) is None:
        await store.create_trace(Trace(trace_id=name))
    for at in itertools.count(first):
        await store.add_message(Message(trace_id=name, role="user", content=at))
        print(name, at, flush=True)
        if at % 7 == 0:
            short = f"{name}-short-{at}"
            await store.create_trace(Trace(trace_id=short))
            await store.add_message(Message(trace_id=short, role="user", content=at))
            await store.update_trace(short, status="completed")
            print(short, at, flush=True)
        if at % 13 == 0:
            await store.compact(name)
        await asyncio.sleep(0.002)


class Writer:
    """Such a process."""

    def __init__(self, url: str, spool: Path, options: Mapping[str, Any], name: str = RUN, first: int = 0) -> None:
        self._process = Program(__file__, url, spool, json.dumps(options), name, first, stdout=PIPE)
        self._told: list[str] = []

    def hear(self, lines: int) -> None:
        """Wait for so many records to be acknowledged."""
        assert self._process.stdout is not None
        self._told += [self._process.stdout.readline() for _ in range(lines)]

    def kill(self) -> dict[str, list[int]]:
        """Kill it; return all that it acknowledged by trace."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGKILL)
        self._told += self._process.stdout.readlines()
        self._process.wait()
        assert self._process.returncode == -signal.SIGKILL, "the writer ended by itself"
        found: dict[str, list[int]] = {}
        for line in self._told:
            if line.endswith("\n"):
                name, at = line.split()
                found.setdefault(name, []).append(int(at))
        return found


async def holds(url: str, options: Mapping[str, Any], acknowledged: Mapping[str, list[int]]) -> None:
    async with ArchiveStore(url, storage_options=options) as store:
        assert await store.verify(deep=True) == []
        for name, expected in acknowledged.items():
            found = [message.content for message in await store.get_trace_messages(name)]
            assert [each for each in found if each in set(expected)] == expected, name
            assert len(found) == len(set(map(str, found)))


def merged(one: dict[str, list[int]], more: dict[str, list[int]]) -> dict[str, list[int]]:
    return {name: one.get(name, []) + more.get(name, []) for name in one | more}


@pytest.mark.parametrize("resumed", some(["by the command line", "by the next store"], 1))
def test_a_killed_writer_loses_nothing_that_it_acknowledged(
    ministack_server: S3Server, tmp_path: Path, resumed: str
) -> None:
    url, options, spool = ministack_server.place(), ministack_server.storage_options, tmp_path / "spool"
    choose = random.Random(resumed)
    acknowledged: dict[str, list[int]] = {}
    for _ in range(tried(1, 4, 60)):
        writer = Writer(url, spool, options, first=max(acknowledged.get(RUN, [-1])) + 1000)
        writer.hear(choose.randrange(3, 160))
        acknowledged = merged(acknowledged, writer.kill())

    async def finish() -> None:
        if resumed == "by the command line":
            assert (await ship(spool, storage_options=options)).is_empty
        else:
            async with ArchiveStore(url, spool=spool, storage_options=options) as store:
                await store.flush()
        await holds(url, options, acknowledged)

    asyncio.run(finish())
    assert list((spool / "traces").iterdir()) == []


def test_when_the_process_that_ships_is_killed_another_goes_on(ministack_server: S3Server, tmp_path: Path) -> None:
    url, options, spool = ministack_server.place(), ministack_server.storage_options, tmp_path / "spool"
    one, other = Writer(url, spool, options, "one"), Writer(url, spool, options, "other")
    one.hear(tried(15, 40))
    other.hear(tried(15, 40))
    acknowledged = one.kill()

    async def shipped() -> None:
        async with ArchiveStore(url, storage_options=options) as store:
            while True:
                found = [message.content for message in await store.get_trace_messages("one")]
                if found[: len(acknowledged["one"])] == acknowledged["one"]:
                    return
                await asyncio.sleep(0.2)

    asyncio.run(asyncio.wait_for(shipped(), 60))
    acknowledged = merged(acknowledged, other.kill())

    async def finish() -> None:
        assert (await ship(spool, storage_options=options)).is_empty
        await holds(url, options, acknowledged)

    asyncio.run(finish())
    assert list((spool / "traces").iterdir()) == []


@pytest.fixture
def proxy(ministack_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(background, "_FIRST_DELAY_SECONDS", 0.05)
    found = Proxy(int(ministack_server.endpoint.rpartition(":")[2]))
    yield found
    found.close()


@pytest.mark.parametrize("sky", ["down", "hanging"])
async def test_a_server_that_answers_no_more_keeps_nobody_from_writing(
    ministack_server: S3Server, tmp_path: Path, proxy: Proxy, sky: Any
) -> None:
    url, spool = ministack_server.place(), tmp_path / "spool"
    times = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 0}}
    options = {
        **ministack_server.storage_options,
        "endpoint_url": f"http://127.0.0.1:{proxy.port}",
        "config_kwargs": times,
        "skip_instance_cache": True,
    }
    async with ArchiveStore(url, spool=spool, storage_options=options) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(Message(trace_id=RUN, role="user", content=0))
        await store.flush()
        proxy.turn(sky)
        await store.add_message(Message(trace_id=RUN, role="user", content=1))
        assert await asyncio.to_thread(proxy.was_asked.wait, 60)
        for number in range(2, 60):
            await store.add_message(Message(trace_id=RUN, role="user", content=number))
        assert (await store.spool_status()).records == 59
        proxy.turn("fair")
        await store.flush()
    await holds(url, ministack_server.storage_options, {RUN: list(range(60))})


def test_a_program_that_ends_without_closing_leaves_what_it_wrote_in_the_spool(
    ministack_server: S3Server, tmp_path: Path
) -> None:
    url, options, spool = ministack_server.place(), ministack_server.storage_options, tmp_path / "spool"
    text = f"""
import asyncio, traceark
async def run():
    store = traceark.ArchiveStore({url!r}, spool={str(spool)!r}, storage_options={options!r})
    await store.create_trace(traceark.Trace(trace_id="run-7"))
    for number in range(30):
        await store.add_message(traceark.Message(trace_id="run-7", role="user", content=number))
asyncio.run(run())
"""
    ended = ran("-c", text)
    assert (ended.returncode, ended.stderr) == (0, "")

    async def finish() -> None:
        assert (await ship(spool, storage_options=options)).is_empty
        await holds(url, options, {RUN: list(range(30))})

    asyncio.run(finish())


if __name__ == "__main__":
    asyncio.run(write_for_ever(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
