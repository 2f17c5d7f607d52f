"""A workload of several stores at once on one archive, and on another that it is synced with, by chance.

Steps are drawn from a seed; some tasks take one after the other from the list, and each is done by the store that it
names. What is read meanwhile is judged by what was acknowledged and attempted until then, and in the end all of it is.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import Any

from account import Account, Deed, Did, text_of, value_of
from several_looks import Looks
from several_steps import HERE, SPOOLED, STORES, THERE, Step
from simulated import PROCESS, FailedCallError, SimulatedLoop, simulated
from traceark.errors import (
    BusyError,
    GoalExistsError,
    GoalNotFoundError,
    MessageConflictError,
    MessageNotFoundError,
    SpoolPendingWarning,
    StaleGoalTreeError,
    StorageError,
    StoreClosedError,
    TraceExistsError,
    TraceNotFoundError,
)
from traceark.importers.run import import_paths
from traceark.models import GivenEvent, Goal, GoalTree, Message, Trace
from traceark.redacting import redact
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import SyncReport, pack, sync, unpack
from traceark.verification import Finding
from traceark.verification.finding import HEADLESS

# What anybody may be told who meets others.
_OF_OTHERS = (GoalExistsError, GoalNotFoundError, StaleGoalTreeError, MessageConflictError, MessageNotFoundError)


class FaultError(AssertionError):
    """What must not be."""


class Several(Looks):
    """Several stores on one archive and on another, one with a spool, and the account of what they did.

    Each is a process of its own, with both archives open.

    Parameters
    ----------
    folder : Path
    in_memory : bool
        Whether both archives are, instead of on a disk; then there is no spool.
    failing : float
        How many of the calls of both archives fail while steps are taken.
    chance : random.Random
        What decides all that the steps leave open.
    """

    def __init__(self, folder: Path, in_memory: bool, chance: random.Random, failing: float = 0.0) -> None:
        self.folder = folder
        self.in_memory = in_memory
        self.failing = failing
        self.chance = chance
        self.account = Account(PROCESS.get)
        self.urls = [f"memory://several/{name}" if in_memory else str(folder / name) for name in ("here", "there")]
        self.closed: list[ArchiveStore] = []
        # By store: what is done once its process was killed, and is that process's name.
        self.deaths: dict[ArchiveStore, asyncio.Future[None]] = {}
        # The other archive, as the process of each store has it open.
        self.others: dict[ArchiveStore, ArchiveStore] = {}
        self.stores = [self.begun() for _ in range(STORES)]
        self.spooled = None if in_memory else self.with_spool()
        self.texts: dict[tuple[str, str], Message] = {}
        self.totals_are_set: set[str] = set()
        self.packs = 0
        # Who pushes, and who was killed meanwhile.
        self.pushing: list[ArchiveStore] = []
        # Whether a sync was, or who synced or shipped was killed: it may leave files that are no trace yet.
        self.cut_short = False

    def begun(self) -> ArchiveStore:
        """Return a store of a process that begins."""
        death = self.loop.create_future()
        store, other = (of_process(death).run(self.opened, at) for at in (0, 1))
        self.deaths[store], self.others[store] = death, other
        return store

    def opened(self, at: int = 0) -> ArchiveStore:
        return ArchiveStore(
            self.urls[at],
            durability=self.chance.choice(["fsync", "os"]),
            # A copy in which others tell of changes is written to on both sides.
            record_changes=at == 0 and self.chance.random() < 0.3,
            max_open_traces=self.chance.choice([1, 128]),
            cache_dir=self.folder / "cache",
        )

    def with_spool(self) -> ArchiveStore:
        death = self.loop.create_future()
        make = partial(ArchiveStore, self.urls[0], spool=self.folder / "spool", durability="os")
        store: ArchiveStore = of_process(death).run(make)
        self.deaths[store] = death
        return store

    def is_dead(self, store: ArchiveStore) -> bool:
        return self.deaths[store].done()

    @property
    def in_use(self) -> list[ArchiveStore]:
        """Return all stores that are to be closed in the end."""
        return [
            *self.stores,
            *(self.others[store] for store in self.stores),
            *([] if self.spooled is None else [self.spooled]),
        ]

    async def begin(self) -> None:
        async def make(store: ArchiveStore, trace: str) -> None:
            with self.account.deed("create", trace):
                await store.create_trace(Trace(trace_id=trace))

        first = self.stores[0]
        for trace in HERE:
            await self.by(first, make(first, trace))
        await self.by(first, make(self.others[first], THERE))

    @property
    def loop(self) -> SimulatedLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        return loop

    async def run(self, steps: Sequence[Step], at_once: int) -> None:
        """Take the steps, so many at a time."""
        waiting = deque(steps)
        self.loop.failing = self.failing

        async def some() -> None:
            while waiting:
                await self.take_step(waiting.popleft())

        tasks = [asyncio.create_task(some()) for _ in range(at_once)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop.failing = 0.0

    async def take_step(self, step: Step) -> None:
        store, begun = self.stores[step.store], self.account.now()
        call: Callable[[ArchiveStore, Step], Coroutine[Any, Any, None]] = getattr(self, step.kind)
        task = asyncio.create_task(call(store, step), context=of_process(self.deaths[store]))
        if step.cancelled_after is not None:
            asyncio.get_running_loop().call_later(step.cancelled_after, task.cancel)
        try:
            await asyncio.wait([task, self.deaths[store]], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done() or task.cancelled():
            if step.cancelled_after is None and not self.is_dead(store):
                raise FaultError(f"{step}: it was cancelled by nobody")
            self.is_cut_short(step)
            return
        error = task.exception()
        if isinstance(error, StoreClosedError) or is_of_failed_call(error):
            self.is_cut_short(step)
        if error is not None and not self.is_allowed(error, step, store, begun):
            raise FaultError(f"{step}: {type(error).__name__}: {error}") from error

    def is_cut_short(self, step: Step) -> None:
        self.cut_short = self.cut_short or step.kind in ("push", "pull", "pack")

    def is_allowed(self, error: BaseException, step: Step, store: ArchiveStore, begun: int) -> bool:
        """Say whether a step may be told this, by what others did since it began."""
        if isinstance(error, TraceNotFoundError):
            of = {"add_spooled": [SPOOLED], "add_again": HERE}.get(step.kind, [step.trace])
            return any(self.account.may_be_absent(trace, begun) for trace in of)
        if isinstance(error, TraceExistsError):
            return step.kind == "remake" and self.account.may_be_present(step.trace, begun)
        if isinstance(error, StoreClosedError):
            return store in self.closed or (step.kind in ("add_spooled", "flush", "read") and bool(self.closed))
        if isinstance(error, BusyError):
            return step.kind in ("optimize", "redact")
        if isinstance(error, StorageError):
            # Whether a redaction left something in the catalog is told without what kept it from being written.
            words = ("all the while", *(["may hold what was deleted"] if self.failing else []))
            return is_of_failed_call(error) or any(each in str(error) for each in words)
        return isinstance(error, _OF_OTHERS) or (isinstance(error, ExceptionGroup) and is_of_failed_call(error))

    # What is written

    def message(self, trace: str, value: int) -> Message:
        return Message(
            trace_id=trace,
            message_id=f"m{value}" if self.chance.random() < 0.7 else None,
            role="user",
            content=text_of(value),
            tokens=value % 7,
            cost=0.1,
            duration_ms=value % 5,
            goal_id=self.chance.choice([None, "1", "2"]),
        )

    async def say(self, store: ArchiveStore, trace: str, count: int, step: Step) -> None:
        values = [step.number * 100 + at for at in range(count)]
        messages = [self.message(trace, value) for value in values]
        with self.account.deed("say", trace, *values):
            if count == 1:
                ids = [await store.add_message(messages[0])]
            else:
                ids = await store.add_messages(messages)
        for message, message_id in zip(messages, ids, strict=True):
            assert message.message_id in (None, message_id)
            self.texts[trace, message_id] = message

    async def add(self, store: ArchiveStore, step: Step) -> None:
        await self.say(store, step.trace, 1, step)

    async def add_many(self, store: ArchiveStore, step: Step) -> None:
        await self.say(store, step.trace, 3, step)

    async def add_again(self, store: ArchiveStore, step: Step) -> None:
        known = [each for each in self.texts.values() if each.message_id is not None and each.trace_id in HERE]
        if known:
            message = self.chance.choice(known)
            value = value_of(message.content)
            with self.account.deed("say", message.trace_id, value):
                await store.add_message(message)

    async def tell(self, store: ArchiveStore, step: Step) -> None:
        value = step.number * 100
        with self.account.deed("tell", step.trace, value):
            await store.append_event(step.trace, "told", text_of(value))

    async def tell_many(self, store: ArchiveStore, step: Step) -> None:
        values = [step.number * 100 + at for at in range(3)]
        with self.account.deed("tell", step.trace, *values):
            await store.append_events(step.trace, [("told", text_of(value)) for value in values])

    async def change(self, store: ArchiveStore, step: Step) -> None:
        known = [message_id for trace, message_id in self.texts if trace == step.trace]
        if not known:
            return
        message_id, value = self.chance.choice(known), step.number * 100
        with self.account.deed("set", step.trace, value, of=f"description {message_id}"):
            changed = {"description": text_of(value), "tokens": self.chance.choice([None, value % 11])}
            await store.update_message(message_id, trace_id=step.trace, **changed)

    async def set_task(self, store: ArchiveStore, step: Step) -> None:
        value = step.number * 100
        with self.account.deed("set", step.trace, value, of="task"):
            await store.update_trace(step.trace, task=text_of(value))

    async def set_status(self, store: ArchiveStore, step: Step) -> None:
        await store.update_trace(step.trace, status=self.chance.choice(["completed", "failed", "running"]))

    async def set_total(self, store: ArchiveStore, step: Step) -> None:
        self.totals_are_set.add(step.trace)
        await store.update_trace(step.trace, total_tokens=self.chance.randrange(1000), total_cost=0.7)

    async def add_goal(self, store: ArchiveStore, step: Step) -> None:
        await store.add_goal(step.trace, Goal(id=self.chance.choice(["1", "2"])))

    async def change_goal(self, store: ArchiveStore, step: Step) -> None:
        value, goal = step.number * 100, self.chance.choice(["1", "2"])
        with self.account.deed("set", step.trace, value, of=f"summary {goal}"):
            await store.update_goal(step.trace, goal, summary=text_of(value))

    async def change_tree(self, store: ArchiveStore, step: Step) -> None:
        tree, value = await store.get_goal_tree(step.trace), step.number * 100
        if tree is not None:
            tree.mission = text_of(value)
            with self.account.deed("set", step.trace, value, of="mission"):
                await store.update_goal_tree(step.trace, tree)

    async def add_whole(self, store: ArchiveStore, step: Step) -> None:
        value, trace = step.number * 100, f"w{step.number}"
        deed = self.account.deed
        with deed("create", trace), deed("say", trace, value), deed("tell", trace, value + 1):
            tree = GoalTree(mission="", goals=[Goal(id="1")])
            message = self.message(trace, value)
            told: list[GivenEvent] = [("told", text_of(value + 1))]
            await store.add_trace(Trace(trace_id=trace, status="completed"), [message], told, tree)

    async def by(self, store: ArchiveStore | None, work: Coroutine[Any, Any, None]) -> None:
        """Have the process of a store do something, if that is another one; where it is killed nothing comes of it."""
        death = None if store is None else self.deaths.get(store)
        if death is None or death is PROCESS.get():
            await work
            return
        task = asyncio.create_task(work, context=of_process(death))
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            await task

    async def add_spooled(self, _: ArchiveStore, step: Step) -> None:
        if self.spooled is not None:
            await self.by(self.spooled, self.add_to_spool(self.spooled, step))

    async def add_to_spool(self, store: ArchiveStore, step: Step) -> None:
        if not self.account.done(SPOOLED, "create"):
            with self.account.deed("create", SPOOLED):
                await store.create_trace(Trace(trace_id=SPOOLED))
            return
        await self.say(store, SPOOLED, 1, step)
        if self.chance.random() < 0.2:
            await store.update_trace(SPOOLED, status="completed")

    async def flush(self, store: ArchiveStore, step: Step) -> None:
        spooled = self.spooled
        if spooled is None or self.chance.random() < 0.5:
            await store.flush()
            return
        await self.by(spooled, spooled.flush())
        said = [value_of(each.content) for each in await store.get_trace_messages(SPOOLED)]
        assert set(said) <= self.account.may_hold(SPOOLED, "say", 0)

    # What keeps it in order

    async def keep(self, store: ArchiveStore, step: Step) -> None:
        """Seal or compact a trace, or seldom what the other archive has of it."""
        if self.chance.random() < 0.9:
            await getattr(store, step.kind)(step.trace)
            return
        with suppress(TraceNotFoundError):
            await getattr(self.others[store], step.kind)(step.trace)

    seal = compact = keep

    async def redact(self, store: ArchiveStore, step: Step) -> None:
        # One that is told to be busy has redacted the trace all the same.
        deed = Deed("redact", step.trace, 0, "", self.account.now())
        self.account.deeds.append(deed)
        report = await redact(store, [step.trace], dry_run=False)
        if not report.problems:
            deed.ended = self.account.now()

    async def repair(self, store: ArchiveStore, step: Step) -> None:
        begun = self.account.now()
        report = await store.repair([step.trace], dry_run=False)
        # What a compaction beside it was about to remove, a repair may move away.
        wrong = [each for each in report.mended if each.meaning != "parts hold all its records"]
        assert not wrong and not self.amiss(report.left, begun), report.to_json()

    async def verify(self, store: ArchiveStore, step: Step) -> None:
        begun, began_at = self.account.now(), self.loop.time()
        found = self.amiss(await store.verify(self.chance.choice([step.trace, None]), deep=True), begun)
        if self.loop.time() - began_at > 10:
            # Of a trace that others replaced for so long it cannot be said more.
            found = [each for each in found if not each.meaning.startswith("a file vanished while it was checked")]
        assert not found, found[0]

    def amiss(self, findings: Sequence[Finding], begun: float = math.inf) -> list[Finding]:
        """Leave out notes, and what is left for now, by verify's word, of what went on since a moment or was cut short.

        And where no locks are what was deleted beside writers.
        """
        deleted = {each.trace for each in self.account.deeds if each.did == "delete"} if self.in_memory else set()
        outrun = "written to after it was sealed" if self.failing and begun < math.inf else None
        made, redacted = self.in_part("create", "delete", begun=begun), self.in_part("redact", begun=begun)
        return [
            each
            for each in findings
            if not each.is_note
            and not (outrun is not None and outrun in each.meaning)
            and not (each.trace_id in deleted | redacted and "another incarnation" in each.meaning)
            and not ((self.cut_short or each.trace_id in made) and each.meaning == HEADLESS)
            and not (each.trace_id in made and each.meaning.endswith("its deletion was interrupted"))
        ]

    def in_part(self, *deeds: Did, begun: float = math.inf) -> set[str]:
        """Return the traces to which something is being done, was done since a moment, or was begun and cut short."""
        return {each.trace for each in self.account.deeds if each.did in deeds and each.ended >= begun}

    async def remake(self, store: ArchiveStore, step: Step) -> None:
        with self.account.deed("delete", step.trace):
            await store.delete_trace(step.trace)
        with self.account.deed("create", step.trace):
            await store.create_trace(Trace(trace_id=step.trace))

    async def optimize(self, store: ArchiveStore, _: Step) -> None:
        await store.optimize()

    async def reopen(self, store: ArchiveStore, step: Step) -> None:
        if self.spooled is not None and self.chance.random() < 0.2:
            spooled, self.spooled = self.spooled, None
            self.closed.append(spooled)
            await self.by(spooled, self.reopen_spool(spooled))
            return
        if store not in self.closed:
            self.closed += [store, self.others[store]]
            self.stores[step.store] = self.begun()
            await store.close()
            await self.others[store].close()

    async def reopen_spool(self, spooled: ArchiveStore) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SpoolPendingWarning)
                await spooled.close()
        finally:
            self.spooled = self.with_spool()

    async def kill(self, store: ArchiveStore, step: Step) -> None:
        """End a store as the death of its process does: none of its calls goes on, or is told what came of it."""
        spooled = self.spooled
        if spooled is not None and self.chance.random() < 0.2:
            self.end(spooled)
            self.spooled = self.with_spool()
            self.cut_short = True
        elif not self.is_dead(store) and store not in self.closed:
            self.stores[step.store] = self.begun()
            self.end(store)

    def end(self, store: ArchiveStore) -> None:
        death = self.deaths[store]
        death.set_result(None)
        self.loop.kill(death)
        self.account.died(death)

    # What moves it

    async def push(self, store: ArchiveStore, _: Step) -> None:
        self.pushing.append(store)
        try:
            self.told(await sync(store, self.others[store]))
            # Done again it completes what those left who were killed.
            self.pushing = [each for each in self.pushing if not self.is_dead(each)]
        finally:
            if store in self.pushing:
                self.pushing.remove(store)

    async def pull(self, store: ArchiveStore, _: Step) -> None:
        self.told(await sync(self.others[store], store))

    def told(self, report: SyncReport) -> None:
        # Without locks one that is in the middle of being copied may be told so, and is copied by the next sync.
        diverged = [each for each in report.traces if each.outcome == "diverged" and not self.in_memory]
        deleted = {each.trace for each in self.account.deeds if each.did == "delete"}
        assert all(each.trace_id in deleted for each in diverged), diverged
        problems = [each for each in report.problems if not self.failing or "was not done" not in each]
        problems = [each for each in problems if not self.failing or "was done, and not answered" not in each]
        self.cut_short = self.cut_short or problems != report.problems
        assert not problems, problems

    async def pack(self, store: ArchiveStore, _: Step) -> None:
        self.packs += 1
        path = self.folder / f"{self.packs}.zip"
        report = await pack(store, path)
        assert not report.problems, report.problems
        beside = bool(self.pushing)
        brought = await unpack(path, self.others[store])
        if beside:
            # A copy whose source was compacted meanwhile, or whose copier was killed, is begun again: until then its
            # logs are newer than its header, and an older pack is told from that as if both had been written to. In
            # the end all is the same.
            brought.traces = [each for each in brought.traces if each.outcome != "diverged"]
        self.told(brought)

    async def take(self, _: ArchiveStore, step: Step) -> None:
        """Import what the other archive holds into one of its own."""
        if not self.in_memory:
            async with ArchiveStore(self.folder / f"taken {step.number}", durability="os") as store:
                report = await import_paths(store, [self.urls[1]])
                # What gives way to another incarnation is left behind until it goes.
                problems = [each for file in report.files for each in file.problems if "left behind" not in each.reason]
                assert not report.raised and not problems, (report.raised, problems)
                assert not self.amiss(await store.verify(deep=True))

    # What is read

    async def read(self, store: ArchiveStore, step: Step) -> None:
        trace = self.chance.choice([step.trace, step.trace, THERE, SPOOLED])
        homes = {THERE: self.others[store], SPOOLED: self.spooled}
        home = homes.get(trace, store)
        what = self.chance.choice(["say", "tell", "set"])
        if home is not None and self.chance.random() < 0.8:
            await self.by(home, self.look(home, trace, what, is_home=True))
        else:
            await self.look(self.others[store] if home is store else store, trace, what, is_home=False)

    async def list(self, store: ArchiveStore, _: Step) -> None:
        begun = self.account.now()
        listed = {each.trace_id for each in await store.list_traces(limit=1000)}
        missing = {each for each in HERE if each not in listed and not self.account.may_be_absent(each, begun)}
        assert not missing, f"not listed: {missing}"

    async def ask(self, store: ArchiveStore, step: Step) -> None:
        begun = self.account.now()
        rows = (await store.sql("SELECT content FROM messages WHERE trace_id = $1", [step.trace])).rows()
        values = [value_of(json.loads(row["content"])) for row in rows]
        if values or not self.account.may_be_absent(step.trace, begun):
            self.account.judge(step.trace, "say", values, begun)
        self.hides(step.trace, str(rows), begun, is_home=True)


def of_process(process: object) -> Context:
    """Return the context of a task of another process than the one that asks for it."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return context


def is_of_failed_call(error: BaseException | None) -> bool:
    """Say whether an error comes of a call that chance let fail."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_of_failed_call, error.exceptions))
    while error is not None and not isinstance(error, FailedCallError):
        error = error.__cause__ or error.__context__
    return error is not None


def run(seed: int, steps: Sequence[Step], folder: Path, *, in_memory: bool, failing: float = 0.0) -> Several:
    """Take steps by the chances of a seed, and judge all that is left; raises what is wrong."""
    from several_end import end  # which looks at what is made here

    async def work(chance: random.Random) -> Several:
        several = Several(folder, in_memory, chance, failing)
        await several.begin()
        await asyncio.wait_for(several.run(steps, chance.choice([2, 3, 5])), 3600)
        await end(several)
        return several

    try:
        return simulated(seed, work, aging=in_memory)
    finally:
        for name in ("here", "there"):
            MemoryStorage.forget(f"several/{name}")
