"""Requests per operation on S3, counted as they leave, and what a listing costs, on a server that this run starts."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from benchmarks.archives import Shape, make_traces
from benchmarks.data import messages
from benchmarks.measure import Figure, Work, at_most, take_turns
from traceark import ArchiveStore, Goal, Trace
from traceark.layout import TRACES
from traceark.storage.objects import S3Storage
from traceark.sync import sync

_OBJECTS = 100
BESIDE = "the fewest that can do it"


async def measure(folder: Path, *, count: int, moved: Shape, rounds: int, per_round: int) -> list[Figure]:
    """Return the figures of requests: of a run of `count` messages, of a sync of `moved`, and of a spool.

    What is timed takes so many rounds, and a spool so many messages in each.
    """
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    try:
        servers: Any = importlib.import_module("servers")
    except ImportError as error:
        return [_absent(f"{error.name} is not installed")]
    finally:
        sys.path.pop()
    if not Path(sys.executable).with_name("ministack").exists():
        return [_absent("ministack is not installed")]
    with servers.ministack() as server:
        return [
            *await _measure(server, servers.Requests()),
            *await _long_run(server, servers.Requests(), count),
            *await _moving(server, servers.Requests(), folder, moved),
            await _listing(server, rounds),
            *await _spool(server, folder, rounds, per_round),
        ]


def _absent(reason: str) -> Figure:
    return Figure("requests per operation on S3", f"not measured: {reason}")


async def _measure(server: Any, requests: Any) -> list[Figure]:
    run = list(messages("run", 60, seed=3))
    url = server.place()

    def opened() -> ArchiveStore:
        return ArchiveStore(url, storage_options=server.storage_options)

    figures: list[Figure] = []

    async def figure(name: str, work: Awaitable[object], fewest: int | None = None, aim: int | None = None) -> None:
        figures.append(_figure(name, len(await requests.during(work)), fewest, aim))

    store = opened()
    await requests.listen(store)
    await store.create_trace(Trace(trace_id="warm", task="benchmark"))
    await figure("`create_trace`", store.create_trace(Trace(trace_id="run", task="benchmark")), 1)
    await figure("`add_message`, the first of a process", store.add_message(run[0]), 3)
    await figure("`add_message`", store.add_message(run[1]), 1, 1)
    await figure("`add_messages`, 50 of them", store.add_messages(run[2:52]), 1)
    await figure("`add_message`, 8 at once", asyncio.gather(*(store.add_message(each) for each in run[52:])), 1)
    await store.append_event("run", "step", {"number": 1})
    await figure("`append_event`", store.append_event("run", "step", {"number": 2}), 1, 1)
    await figure("`add_goal`", store.add_goal("run", Goal(id="1", description="find it")), 1)
    await figure("`update_goal`", store.update_goal("run", "1", status="in_progress"), 1)
    await figure("`update_trace`", store.update_trace("run", current_goal_id="1"), 1)
    await figure("`get_trace`, open for writing", store.get_trace("run"), 1)
    await figure("`list_traces`, 2 traces, one being written", store.list_traces(), 3)
    await figure("`seal`, 3 files", store.seal("run"))
    await store.close()

    store = opened()
    await figure("`get_trace`, cold, of a sealed trace", store.get_trace("run"), 2)
    await store.close()
    store = opened()
    reads = len(await requests.during(_read(store)))
    figures.append(_figure("cold read of a sealed trace: `get_trace`, `get_trace_messages`", reads, 3, 4))
    await store.close()
    store = opened()
    await figure("`get_trace_messages`, cold, of a sealed trace", store.get_trace_messages("run"), 3, 4)
    await store.close()
    store = opened()
    await figure("`list_traces`, cold, 2 traces", store.list_traces(), 3)
    await store.close()
    return figures


async def _long_run(server: Any, requests: Any, count: int) -> list[Figure]:
    """Return what a run of one PUT per message shows at most, sends and writes, folding included."""
    url, prefix = server.place(), f"{TRACES}/run"
    store = ArchiveStore(url, storage_options=server.storage_options)
    # A client of its own, whose requests are not counted.
    looker = S3Storage(url, {**server.storage_options, "config_kwargs": {"user_agent_extra": "looker"}})
    await requests.listen(store)
    await store.create_trace(Trace(trace_id="run", task="benchmark"))
    run = messages("run", count, seed=4)
    await store.add_message(next(run))
    requests.clear()

    async def write() -> None:
        for each in run:
            await store.add_message(each)

    most = 0
    writing = asyncio.ensure_future(write())
    while not writing.done():
        most = max(most, len(await looker.list(prefix)))
    await writing
    sent = Counter(line.partition(" ")[0] for line in requests.sent)
    sent["LIST"] = sum("list-type=2" in line for line in requests.sent)
    sent["GET"] -= sent["LIST"]
    sizes = [(size, key.partition("?")[0]) for key, size in requests.puts]
    appended = sum(size for size, key in sizes if key.endswith(".jsonl"))
    await store.close()
    what = f"{count:,} messages on S3, one PUT each"
    each = ", ".join(f"{sent[name] / (count - 1):.2f} {name}" for name in ("PUT", "DELETE", "LIST", "GET"))
    return [
        Figure(f"{what}: most objects that a listing showed", str(most), "", "", "≤ 100", most <= 100),
        Figure(f"{what}: requests per message", each, "without folding: 1 PUT"),
        Figure(
            f"{what}: bytes written per byte of messages",
            f"{sum(size for size, _ in sizes) / appended:.2f}",
            "without folding: 1",
        ),
    ]


async def _moving(server: Any, requests: Any, folder: Path, moved: Shape) -> list[Figure]:
    """Return the figures of a first sync, of one with nothing to do, and of one to a disk that has nothing."""
    make_traces(folder / "moved", moved)
    files = sum(1 for path in (folder / "moved" / "traces").rglob("*") if path.is_file() and path.name[0] != ".")
    # Each listing of so many files takes a request per thousand.
    pages = -(-files // 1_000)
    url, found = server.place(), []
    async with (
        ArchiveStore(folder / "moved") as source,
        ArchiveStore(url, storage_options=server.storage_options) as target,
        ArchiveStore(folder / "back") as back,
    ):
        await requests.listen(target)
        await target.make_ready()
        for name, work, fewest in (
            ("up, into an empty prefix", sync(source, target), files + 1),
            ("up again, with nothing to do", sync(source, target), pages),
            ("down, onto an empty disk", sync(target, back), files + pages),
        ):
            sent = len(await requests.during(work))
            found.append(
                _figure(f"`sync` of {moved.traces:,} sealed traces, {files:,} files, {name}", sent, fewest, None)
            )
    return found


async def _listing(server: Any, rounds: int) -> Figure:
    """Return the processor time that this process spends on a listing, beside botocore's own way to read times."""
    session = importlib.import_module("aiobotocore.session").AioSession()  # optional, as s3fs is
    url, options = server.place(), server.storage_options
    ours = S3Storage(url, options)
    rival = S3Storage(url, {**options, "session": session})
    for number in range(_OBJECTS):
        await ours.create(f"many/{number:04d}", b"x")

    def lists(storage: S3Storage) -> Work:
        async def work(_: int) -> None:
            assert len(await storage.list("many")) == _OBJECTS

        return work

    seconds = await take_turns({"ours": lists(ours), "rival": lists(rival)}, rounds, time.process_time)
    milliseconds = {who: [each * 1e3 for each in values] for who, values in seconds.items()}
    return at_most(
        f"processor time of a listing of {_OBJECTS} objects on S3",
        milliseconds["ours"],
        "botocore reads the times",
        milliseconds["rival"],
        "ms",
        None,
    )


async def _spool(server: Any, folder: Path, rounds: int, per_round: int) -> list[Figure]:
    """Return what a message costs that is acknowledged in a spool and shipped meanwhile, beside other places."""
    run = list(messages("run", (rounds + 1) * per_round, seed=5))
    url, options = server.place(), server.storage_options
    spooled = ArchiveStore(url, spool=folder / "spool", storage_options=options)
    direct = ArchiveStore(server.place(), storage_options=options)
    async with spooled, direct, ArchiveStore(folder / "disk") as disk:
        stores = {"spool": spooled, "disk": disk, "s3": direct}
        for store in stores.values():
            await store.create_trace(Trace(trace_id="run", task="benchmark"))

        def adds(store: ArchiveStore) -> Work:
            async def work(number: int) -> None:
                for message in run[number * per_round : (number + 1) * per_round]:
                    await store.add_message(message)

            return work

        seconds = await take_turns({name: adds(store) for name, store in stores.items()}, rounds)
        cost = {name: [each / per_round * 1e6 for each in values] for name, values in seconds.items()}
        await spooled.flush()
    name = "`add_message`, S3 with a spool"
    return [
        at_most(name, cost["spool"], "the local disk, `fsync`", cost["disk"], "µs", 2),
        at_most(name, cost["spool"], "S3 without one, on this host", cost["s3"], "µs", 1),
    ]


async def _read(store: ArchiveStore) -> None:
    await store.get_trace("run")
    await store.get_trace_messages("run")


def _figure(name: str, sent: int, fewest: int | None, aim: int | None) -> Figure:
    return Figure(
        f"requests on S3: {name}",
        str(sent),
        "" if fewest is None else f"{BESIDE}: {fewest}",
        "" if fewest is None else f"{sent / fewest:.2f}x",
        "" if aim is None else str(aim),
        None if aim is None else sent <= aim,
    )
