"""What is left of a workload of several stores when all are closed, looked at by others."""

from __future__ import annotations

import asyncio
import io
import math
import warnings
from contextlib import suppress
from fractions import Fraction

import pyarrow.parquet as pq

from account import secrets_in, text_of
from several import Several
from several_steps import HERE, THERE
from traceark.changes import Replay
from traceark.errors import SpoolPendingWarning, TraceNotFoundError
from traceark.layout import LOCK, LOST_FOUND
from traceark.models import Event, GoalTree, JsonObject, Message, Trace
from traceark.redacting import redact
from traceark.storage.base import Storage
from traceark.store import ArchiveStore
from traceark.sync import sync
from traceark.testing.sums import TOTALS, counted

# What a header says last.
_LAST = 99_999
# Nothing takes longer.
_LONG_SECONDS = 600.0
# After so many syncs nothing is left to move.
_ROUNDS = 4


async def end(several: Several) -> None:
    """Close all stores, and assert that what they leave is right, reads alike everywhere, and can be gone on with."""
    account = several.account
    if any(math.isinf(each.ended) for each in account.deeds):
        # What was cancelled may be on its way still.
        await asyncio.sleep(_LONG_SECONDS)
    views = [await seen(store, trace) for store in several.stores for trace in HERE]
    if several.spooled is not None:
        # What was acknowledged while the store before it was closed waits for one that is used.
        await several.spooled.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpoolPendingWarning)
        for store in several.in_use:
            await several.by(store, store.close())
    here, there = several.opened(), several.opened(1)
    for at, view in enumerate(views):
        now = await seen(here, HERE[at % len(HERE)])
        assert view == now, f"store {at // len(HERE)} read {view}, and now it is {now}"
    for trace in sorted({each.trace for each in account.deeds}):
        store = there if trace == THERE else here
        begun = account.now()
        if await store.get_trace(trace) is None:
            assert account.may_be_absent(trace, begun), f"{trace} is lost"
            for log in ("say", "tell"):
                account.found("read", f"{trace} {log}", [], begun)
            continue
        assert account.may_be_present(trace, begun), f"{trace} was deleted"
        for what in ("say", "tell", "set"):
            await several.look(store, trace, what, is_home=True)
        await sums_up(store, trace, several.totals_are_set)
    told = account.history()
    assert not told, told[0]
    if (
        any(map(several.is_dead, several.deaths))
        or several.failing
        or (several.in_memory and several.chance.random() < 0.5)
    ):
        # What is done after a writer died; and in memory `verify` is silent of nothing any more for being young.
        several.loop.now += 3600
        await here.refresh()
    for trace in several.in_part("create", "delete"):
        if await here.get_trace(trace) is None:
            # As `verify` says.
            with suppress(TraceNotFoundError):
                await here.delete_trace(trace)
    if several.failing:
        await mended(several, here)
        await mended(several, there)
    await whole(several, here)
    await whole(several, there)
    await moves(several, here, there)
    await hides(several, here)
    await here.close()
    await there.close()


# Without the number of events, to which whoever records changes adds when it closes.
Seen = tuple[Trace | None, list[Message], JsonObject | None, list[Event]]


async def seen(store: ArchiveStore, trace: str) -> Seen:
    """Return all that a store reads of a trace."""
    header = await store.get_trace(trace)
    return (
        None if header is None else header.model_copy(update={"last_event_id": 0}),
        await store.get_trace_messages(trace),
        dumped(await store.get_goal_tree(trace)),
        [each for each in await store.get_events(trace) if each.event_type == "told"],
    )


async def whole(several: Several, store: ArchiveStore) -> None:
    """Verify that nothing is wrong, and nothing is left to mend."""
    found = several.amiss(await store.verify(deep=True))
    assert not found, found[0]


async def mended(several: Several, store: ArchiveStore) -> None:
    """Repair what is wrong, as `verify` advises: what was done and not answered may lie over a seal."""
    wrong = {
        each.trace_id for each in several.amiss(await store.verify(deep=True)) if "after it was sealed" in each.meaning
    }
    if wrong:
        report = await store.repair(sorted(wrong), dry_run=False)
        assert not several.amiss(report.left), report.to_json()
        # Nobody wants what was moved away.
        gone = await store.storage.list(LOST_FOUND)
        await store.storage.delete(f"{LOST_FOUND}/{name}" for name in gone)


async def sums_up(store: ArchiveStore, trace_id: str, totals_are_set: set[str]) -> None:
    """Recount totals and stats, and continue every cursor."""
    trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    messages, events = await store.get_trace_messages(trace_id), await store.get_events(trace_id)
    assert trace is not None
    if trace_id not in totals_are_set:
        totals = tuple(Fraction(repr(getattr(trace, name))) for name in TOTALS)
        assert totals == counted(messages), f"{trace_id}: {totals}"
    for goal in tree.goals if tree is not None else ():
        own = [message for message in messages if message.goal_id == goal.id]
        assert (goal.self_stats.message_count, Fraction(repr(goal.self_stats.total_cost))) == (
            len(own),
            counted(own)[2],
        )
    assert trace.last_event_id == len(events)
    for at in {0, len(events) // 2, len(events)}:
        assert await store.get_events(trace_id, at) == events[at:]
    for message in messages[-2:]:
        assert await store.get_message(str(message.message_id), trace_id=trace_id) == message


async def moves(several: Several, here: ArchiveStore, there: ArchiveStore) -> None:
    """Sync once more each way; then all that was never deleted is the same on both sides."""
    several.told(await sync(here, there))
    several.told(await sync(there, here))
    several.cut_short = False
    apart = {each.trace for each in several.account.deeds if each.did in ("delete", "redact")}
    for trace in {each.trace for each in several.account.deeds} - apart:
        one, other = await seen(here, trace), await seen(there, trace)
        assert one[1:] == other[1:], f"{trace} is not the same on both sides"
    await stays(several, here, there, apart)
    await whole(several, here)
    await whole(several, there)


async def stays(several: Several, here: ArchiveStore, there: ArchiveStore, apart: set[str]) -> None:
    """Sync until there is nothing to move, and assert that no file changes then, but of some traces.

    What is sealed anew by a store that tells of changes in events is to be moved once more.
    """
    for _ in range(_ROUNDS):
        before = [await stands(store, apart) for store in (here, there)]
        reports = [await sync(here, there), await sync(there, here)]
        for report in reports:
            several.told(report)
        told = [each for report in reports for each in report.traces if each.trace_id not in apart]
        if not any(each.outcome in ("new", "forward") for each in told):
            break
    else:
        raise AssertionError(f"there is always something to move: {reports}")
    after = [await stands(store, apart) for store in (here, there)]
    changed = [one.items() ^ other.items() for one, other in zip(before, after, strict=True)]
    assert not any(changed), f"there was nothing to move, and these files are not as they were: {changed}"


async def stands(store: ArchiveStore, apart: set[str]) -> dict[str, str]:
    """Return which files of traces there are, in which version, but of some traces."""
    found = await store.storage.list("traces")
    locks = {name for name in found if name.endswith(LOCK)}
    return {name: found[name].version for name in found.keys() - locks if name.partition("/")[0] not in apart}


async def hides(several: Several, here: ArchiveStore) -> None:
    """Go on, seal and redact all; then nothing that was redacted is in any file."""
    account = several.account
    for trace in HERE:
        if await here.get_trace(trace) is None:
            continue
        before = await here.get_trace_messages(trace)
        async with ArchiveStore(here.url, record_changes=True, durability="os") as store:
            await store.update_trace(trace, task=text_of(_LAST), status="completed")
            await replays(store, trace)
            await store.seal(trace)
        assert await here.get_trace_messages(trace) == before
        begun = account.now()
        shown = {name: found for name, found in (await shows(here.storage)).items() if _is_of(name, trace)}
        hidden = account.hidden(trace, begun)
        assert not any(found & hidden for found in shown.values()), f"redacted {hidden}, and in files: {shown}"
    if several.in_memory:
        several.loop.now += 3600
        await here.refresh()
    report = await redact(here, [each for each in HERE if await here.get_trace(each) is not None], dry_run=False)
    assert not report.problems, report.problems
    values = {_LAST, *(each.value for each in account.deeds if each.trace in HERE)}
    # What a header said earlier is in no trace any more; the catalog's rows of it go when they are folded.
    earlier = {each.value for each in account.deeds if each.of == "task"}
    left = {name: found & values - earlier for name, found in (await shows(here.storage)).items()}
    left = {name: found for name, found in left.items() if found}
    assert not left, f"still in files after a redaction: {left}"
    await whole(several, here)


def _is_of(name: str, trace: str) -> bool:
    return name.startswith(f"traces/{trace}/")


async def replays(store: ArchiveStore, trace_id: str) -> None:
    """Assert that the events of a trace tell all of it, once somebody who records changes had it open."""
    replay = Replay()
    replay.extend(await store.get_events(trace_id))
    trace, told, tree = await store.get_trace(trace_id), replay.trace(), replay.goal_tree()
    assert trace is not None and told is not None
    without = {"redactions"}
    same(told.model_dump(exclude=without), trace.model_dump(exclude=without), f"the header of {trace_id}")
    same(replay.messages(), await store.get_trace_messages(trace_id), f"the messages of {trace_id}")
    same(dumped(tree), dumped(await store.get_goal_tree(trace_id)), f"the goals of {trace_id}")


def dumped(tree: GoalTree | None) -> JsonObject | None:
    """Return a goal tree without the revision that it was read at."""
    return None if tree is None else tree.model_dump()


def same(one: object, other: object, what: str) -> None:
    assert one == other, f"{what}:\n  {one}\n  {other}"


async def shows(storage: Storage) -> dict[str, set[int]]:
    """Return what each file of an archive shows that a redaction would hide."""
    found: dict[str, set[int]] = {}
    for directory in ("traces", "catalog", "lost+found", "tombstones"):
        for name in await storage.list(directory):
            data = await storage.read(f"{directory}/{name}")
            text = (
                str(pq.read_table(io.BytesIO(data), use_threads=False).to_pylist())
                if name.endswith(".parquet")
                else data.decode("latin-1")
            )
            if values := secrets_in(text):
                found[f"{directory}/{name}"] = values
    return found
