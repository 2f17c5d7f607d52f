"""A sync that is killed anywhere and repeated ends where one that was not ends, also beside a writer, also on S3.

Run as a program, this file syncs one archive with another, and can be killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, some, tried
from servers import Requests, S3Server
from test_sync import RUN, add, archive, told
from traceark.models import Message, Trace
from traceark.storage.staging import TEMPORARY, staging
from traceark.store import ArchiveStore
from traceark.sync import sync

KILLS = tried(1, 12, 200)
CHANGING = ("write", "link", "rename", "replace", "unlink", "mkdir", "ftruncate")


# What a process runs that is killed; it says when it begins.
PROGRAM = """
import asyncio, sys
from traceark.store import ArchiveStore
from traceark.sync import sync
async def main():
    async with ArchiveStore(sys.argv[1], durability="os") as one, ArchiveStore(sys.argv[2], durability="os") as other:
        print("begun", flush=True)
        await sync(one, other)
asyncio.run(main())
"""


class Killed(BaseException):
    pass


@contextmanager
def killed_at(count: int) -> Iterator[None]:
    """Let this process change so many things on the disk, and none after that."""
    left = count

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            if left == 0 and real is os_write and len(args[1]) > 1:
                real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                raise Killed
            return real(*args, **kwargs)

        return change

    os_write = os.write
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield


async def _sync_killed_at(source: Path, target: Path, count: int) -> bool:
    """Sync, die after so many changes; say whether it came to its end."""
    one, other = archive(source), archive(target)
    with killed_at(count):
        try:
            await sync(one, other)
        except Killed:
            return False
    await one.close()
    await other.close()
    return True


@pytest.mark.parametrize(
    ("before", "after"), some(itertools.product(["nothing", "live", "sealed"], ["live", "sealed"]), 3)
)
async def test_killed_at_any_change_it_leaves_a_true_state_and_goes_on(tmp_path: Path, before: str, after: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here, "a", status="completed" if before == "sealed" else "running")
    if before != "nothing":
        async with archive(here) as one, archive(there) as other:
            await sync(one, other)
    states = [await told(here)] if before != "nothing" else []
    await add(here, "b", "c", status="completed" if after == "sealed" else "running")
    goal = await told(here)
    ended = False
    step = tried(4, 1)
    for count in range(SEED % step, 400, step):
        copy = tmp_path / f"copy-{count}"
        if there.exists():
            shutil.copytree(there, copy)
        ended = await _sync_killed_at(here, copy, count)
        async with archive(copy) as store:
            trace = await store.get_trace(RUN)
        if trace is None:
            assert before == "nothing"
        else:
            said, happened = await messages_and_events(copy)
            assert said == goal[1][: len(said)] and happened == goal[2][: len(happened)]  # type: ignore[index]
            assert not states or len(said) >= len(states[0][1])  # type: ignore[arg-type]
        if not ended:
            async with archive(here) as one, archive(copy) as other:
                assert (await sync(one, other)).is_clean
        assert await told(copy) == goal
        assert await sound(copy)
        assert not any(path.is_dir() for path in copy.glob(f"{TEMPORARY}*"))
        shutil.rmtree(copy)
        if ended:
            break
    assert ended and count > 10


async def sound(root: Path) -> bool:
    """Say whether nothing is wrong but that files without a name of their own were left by who was killed."""
    async with archive(root) as store:
        return all(TEMPORARY in finding.file for finding in await store.verify(deep=True))


async def messages_and_events(root: Path) -> tuple[list[str], list[str]]:
    _, messages, events, _ = await told(root)
    return messages, events  # type: ignore[return-value]


async def test_beside_a_writer_it_copies_a_true_state_each_time(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written = asyncio.Event()

    async def write() -> None:
        async with archive(here) as store:
            await store.create_trace(Trace(trace_id=RUN))
            for at in range(tried(40, 300)):
                await store.add_message(Message(trace_id=RUN, role="user", content=at, tokens=1))
                await store.append_event(RUN, "at", at)
                if at % 7 == 0:
                    await store.compact(RUN)
                if at % 11 == 0:
                    await store.update_trace(RUN, task=str(at))
                if at % 13 == 0:
                    await store.seal(RUN)
                await asyncio.sleep(0)
        written.set()

    writing = asyncio.create_task(write())
    rounds = 0
    while not written.is_set():
        async with archive(here) as one, archive(there) as other:
            report = await sync(one, other)
            assert report.is_clean, report
            said = [message.content for message in await other.get_trace_messages(RUN)]
            assert said == list(range(len(said)))
        rounds += 1
        await asyncio.sleep(0.001)
    await writing
    async with archive(here) as one, archive(there) as other:
        await sync(one, other)
    assert rounds > 3
    assert await told(there) == await told(here)
    assert await sound(there)


async def test_what_a_sync_is_making_is_left_to_it_and_goes_when_it_was_killed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here, "a", status="completed")
    await add(there, "b", trace_id="other")
    with staging(there, 0o600) as place:
        (place / "run-7").mkdir()
        async with archive(here) as one, archive(there) as other:
            assert (await sync(one, other)).outcomes == {"new": 1}
            assert await other.verify(deep=True) == []
        assert (place / "run-7").is_dir()
    abandoned = there / f"{TEMPORARY}0011223344556677"
    async with archive(here) as one, archive(there) as other:
        for tidying in (other.refresh, lambda: other.purge(["gone"]), lambda: sync(one, other)):
            shutil.copytree(there / "traces", abandoned)
            assert await other.verify(deep=True) == []
            await tidying()
            assert not abandoned.exists()


def test_killed_for_real_anywhere_and_repeated_it_ends_with_the_same_manifests(tmp_path: Path) -> None:
    here = tmp_path / "here"

    async def make() -> None:
        async with archive(here) as store:
            for number in range(30):
                said = [Message(trace_id=f"run-{number}", role="user", content="x" * 2000) for _ in range(3)]
                await store.add_trace(Trace(trace_id=f"run-{number}", status="completed"), said)
            await store.create_trace(Trace(trace_id="live"))
            await store.add_message(Message(trace_id="live", role="user", content="x"))

    async def complete(there: Path) -> None:
        async with archive(here) as one, archive(there) as other:
            assert (await sync(one, other)).is_clean

    asyncio.run(make())
    chance, seconds, kills = random.Random(SEED + 7), 0.0, 0
    for attempt in itertools.count():
        if kills == KILLS:
            break
        assert attempt <= 4 * KILLS, "most ended before they were killed"
        there = tmp_path / f"there-{attempt}"
        command = [sys.executable, "-c", PROGRAM, str(here), str(there)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"begun\n"
            start = time.monotonic()
            try:
                # The first one tells how long it takes.
                process.wait(chance.uniform(0, seconds) if attempt else None)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        seconds = seconds or time.monotonic() - start
        asyncio.run(complete(there))
        assert manifests(there) == manifests(here)
        assert asyncio.run(told(there, "live")) == asyncio.run(told(here, "live"))
        assert asyncio.run(sound(there))
        shutil.rmtree(there)


def manifests(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("traces/*/manifest-sha256.txt")}


async def test_to_s3_and_back_it_is_the_same_bytes_and_costs_few_requests(
    tmp_path: Path, ministack_server: S3Server
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    count = tried(7, 20)
    for number in range(count):
        await add(here, "a", "b", trace_id=f"run-{number}", status="completed")
    await add(here, "c", trace_id="live")
    url, options = ministack_server.place(), ministack_server.storage_options
    requests = Requests()
    async with archive(here) as one, ArchiveStore(url, storage_options=options) as other:
        await other.make_ready()
        await requests.listen(other)
        sent = await requests.during(sync(one, other))
        puts = [each for each in sent if each.startswith("PUT")]
        # Two parts, a header and a manifest of each sealed trace, and what tells other processes of it; the server's
        # answer has the hash of what it got, so that nothing is read back but the row of the catalog. One request
        # is the listing that shows whether somebody else wrote the same at the same time.
        assert 4 * count < len(puts) <= 5.5 * (count + 1)
        assert len(sent) <= 8.5 * (count + 1) + 10, len(sent)
        again = await requests.during(sync(one, other))
        # One listing, of which the entity tags say that the manifests are the same; the live trace is looked at.
        assert len(again) <= 12, again
        await add(here, "d", trace_id="live")
        assert (await sync(one, other)).outcomes == {"same": count, "forward": 1}
    async with ArchiveStore(url, storage_options=options) as one, archive(back) as other:
        assert len(await requests.during(sync(one, other))) <= 4 * count + 12
    assert manifests(back) == manifests(here)
    assert await told(back, "live") == await told(here, "live")
    assert await sound(back)
