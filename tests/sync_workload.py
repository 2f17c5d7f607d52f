"""A sync to an archive that has some of the traces already, with a ledger of what may be there; and the check of it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from traceark.layout import MANIFEST
from traceark.models import Goal, Message, Trace
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, SyncReport, sync
from traceark.testing.ledger import Ledger
from workload import STEPS, damage, recovered, work

# Sealed: the first two are at the target from the start, the first in an earlier state.
WRITTEN_ON, SAME, *MISSING = SEALED = ("written on", "same", "missing 1", "missing 2", "missing 3")
# So much of the workload has the target, whose traces are live then, and sealed or deleted and made anew later.
KNOWN_STEPS = 10
# How it is synced, and whether the target has an earlier state; of two of them, spread, each way and state is one.
SYNCS = [("each", True), ("each", False), ("once", False), ("once", True)]
WAYS = {"each": SyncOptions(), "once": SyncOptions(sync_each=False)}


@dataclass(frozen=True)
class Held:
    """A source, an earlier state of it that a target has, and what the source holds; nobody changes them."""

    source: Path
    before: Path
    things: dict[Hashable, object]
    manifests: dict[str, bytes]


def make(folder: Path) -> Held:
    """Make the archives, and read once what the source holds."""
    source, before = folder / "source", folder / "before"

    async def _make() -> Held:
        async with ArchiveStore(source, durability="os") as store:
            for trace_id in (WRITTEN_ON, SAME):
                await _sealed(store, trace_id, trace_id)
            assert await work(store, Ledger(now=lambda: 0), STEPS[:KNOWN_STEPS]) == []
        await synced(source, before, SyncOptions())
        async with ArchiveStore(source, durability="os") as store:
            for trace_id in MISSING:
                await _sealed(store, trace_id, trace_id)
            await _sealed(store, WRITTEN_ON, "and more")
            assert await work(store, Ledger(now=lambda: 0), STEPS[KNOWN_STEPS:]) == []
            things = await found(store)
        return Held(
            source, before, things, {name: data for name, data in files(source).items() if name.endswith(MANIFEST)}
        )

    return asyncio.run(_make())


async def _sealed(store: ArchiveStore, trace_id: str, content: str) -> None:
    if await store.get_trace(trace_id) is None:
        await store.create_trace(Trace(trace_id=trace_id))
        await store.add_goal(trace_id, Goal(id="1"))
    await store.add_message(Message(trace_id=trace_id, role="user", content=content, goal_id="1", cost=0.1))
    await store.append_event(trace_id, "said", content)
    await store.seal(trace_id)


async def found(store: ArchiveStore) -> dict[Hashable, object]:
    """Return what a store holds, as the ledger names it: of a sealed trace each log."""
    things = await recovered(store)
    for trace_id in SEALED:
        trace = await store.get_trace(trace_id)
        if trace is None:
            continue
        messages, tree = await store.get_trace_messages(trace_id), await store.get_goal_tree(trace_id)
        events = await store.get_events(trace_id)
        assert tree is not None and trace.total_messages == len(messages)
        assert tree.goals[0].cumulative_stats.message_count == len(messages)
        things["said", trace_id] = [each.content for each in messages]
        things["events", trace_id] = [each.payload for each in events]
    return things


def trace_of(thing: Hashable) -> str:
    """Return which trace a thing is of."""
    assert isinstance(thing, tuple)
    what, name = thing
    if what in ("said", "events", "trace", "status"):
        return str(name)
    return str(name)[0] if what == "message" else "t"


@contextmanager
def promised(ledger: Ledger, *, is_known: bool) -> Iterator[None]:
    """Have a ledger expect what is at the target, and from the end of the block on what the source has."""
    with ExitStack() as known, ExitStack() as at_the_end:
        before = known if is_known else at_the_end
        for trace_id in SEALED:
            to = at_the_end if trace_id in MISSING else before
            to.enter_context(ledger.attempt({("said", trace_id): [trace_id], ("events", trace_id): [trace_id]}))
        for at, together in enumerate(STEPS):
            if at == KNOWN_STEPS:
                known.close()
            for values, _ in together:
                (before if at < KNOWN_STEPS else at_the_end).enter_context(ledger.attempt(values))
        for what in ("said", "events"):
            at_the_end.enter_context(ledger.attempt({(what, WRITTEN_ON): [WRITTEN_ON, "and more"]}))
        yield


async def synced(source: Path, target: Path, options: SyncOptions) -> SyncReport:
    """Sync once, as a process of its own would."""
    async with ArchiveStore(source) as one, ArchiveStore(target) as other:
        return await sync(one, other, options)


async def completed(held: Held, target: Path, options: SyncOptions) -> list[str]:
    """Sync to the end; return what is not as at the source then."""
    report = await synced(held.source, target, options)
    faults = [] if report.is_clean else [f"not clean: {report.to_json()}"]
    theirs = files(target)
    faults += [f"{name} is another" for name, data in held.manifests.items() if theirs.get(name) != data]
    faults += [f"{path} is left" for path in target.glob(f"{TEMPORARY}*") if path.is_dir()]
    async with ArchiveStore(target) as store:
        if await found(store) != held.things:
            faults.append("the target reads otherwise than the source")
        faults += damage(await store.verify(deep=True))
    again = await synced(held.source, target, options)
    return faults if again.copied_bytes == 0 else [*faults, f"done again it copied: {again.to_json()}"]


def files(root: Path) -> dict[str, bytes]:
    """Return all files below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
