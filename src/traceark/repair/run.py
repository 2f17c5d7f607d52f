"""Traces repaired one after the other: looked at, and under their lock looked at again and mended.

Whatever goes or is replaced lies in ``lost+found/`` before, so that a kill loses nothing; done again, a
repair goes on with what is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from traceark.errors import InvalidIdError, StorageError, TraceNotFoundError
from traceark.layout import HEADER, MANIFEST, TRACES, trace_prefix
from traceark.lifecycle import locked
from traceark.reading import scan_readable, why_unreadable
from traceark.repair.lost import keep, new_place
from traceark.repair.plan import Step, TracePlan, plan_trace
from traceark.repair.report import Deed, Mend, RepairReport
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage
from traceark.tombstones import Buried, buried
from traceark.verification.finding import Finding, under_way, unreadable
from traceark.verification.settling import is_locked, looks

# Keeps other stores told of a trace whose files change, for as long as they do.
Replacing = Callable[[str], AbstractAsyncContextManager[None]]
Seal = Callable[[str], Awaitable[None]]


async def repair(
    storage: Storage,
    trace_ids: Iterable[str] | None,
    *,
    dry_run: bool,
    accept: bool,
    replacing: Replacing,
    seal: Seal,
    progress: Callable[[int, int], None] | None = None,
) -> RepairReport:
    """Repair some traces, or all; see `ArchiveStore.repair`."""
    report = RepairReport(dry_run=dry_run)
    chosen = await _chosen(storage, trace_ids, report)
    tombstones, place = await buried(storage), new_place()
    for number, (trace_id, listed) in enumerate(chosen.items()):
        if progress is not None:
            progress(number, len(chosen))
        entries, plan = listed, TracePlan(trace_id)
        try:
            async for entries in looks(storage, trace_prefix(trace_id), listed):
                plan = await _planned(storage, trace_id, entries, tombstones, accept=accept)
                if not (plan.steps or plan.left):
                    break
            if HEADER not in entries and is_locked(storage, trace_prefix(trace_id), entries):
                plan = TracePlan(trace_id, left=[under_way(trace_id, "repair")])
        except StorageError as error:
            plan = TracePlan(trace_id, left=[_unreadable(storage, trace_id, error)])
        kept: dict[str, str] = {}
        if plan.steps and not dry_run:
            try:
                async with replacing(trace_id), _alone(storage, trace_id):
                    # Somebody may have written to it, or repaired it, since it was looked at.
                    entries = await storage.list(trace_prefix(trace_id))
                    plan = await _planned(storage, trace_id, entries, tombstones, accept=accept)
                    kept = await _carry_out(storage, plan, entries, place)
                if plan.seals:
                    await seal(trace_id)
            except (KeyMissingError, TraceNotFoundError) as error:
                is_there = bool(await storage.list(trace_prefix(trace_id)))
                plan = TracePlan(trace_id, left=[_changed(trace_id, error)] if is_there else [])
        report.traces += 1
        report.mended += _told(plan, entries, kept)
        report.left += plan.left
    if progress is not None:
        progress(len(chosen), len(chosen))
    return report


async def _planned(
    storage: Storage, trace_id: str, entries: Mapping[str, Entry], tombstones: Set[Buried], *, accept: bool
) -> TracePlan:
    """Return what to do to a trace; nothing where it was deleted meanwhile."""
    return await plan_trace(storage, trace_id, entries, tombstones, accept=accept) if entries else TracePlan(trace_id)


async def _chosen(
    storage: Storage, trace_ids: Iterable[str] | None, report: RepairReport
) -> Mapping[str, Mapping[str, Entry]]:
    if trace_ids is None:
        listed, strangers, refused = await scan_readable(storage)
        report.left += [unreadable(trace_id, why, "repair") for trace_id, why in sorted(refused.items())]
        for key in strangers:
            meaning, remedy = "the directory's name is no trace key", "rename it, or move it out of the archive"
            report.left.append(Finding(key, f"{TRACES}/{key}", None, meaning, remedy))
        return dict(sorted(listed.items()))
    found: dict[str, Mapping[str, Entry]] = {}
    for trace_id in trace_ids:
        try:
            found[trace_id] = await storage.list(trace_prefix(trace_id))
        except InvalidIdError as error:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}: {error}") from None
        except StorageError as error:
            report.left.append(_unreadable(storage, trace_id, error))
            continue
        if not found[trace_id]:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
    return found


@asynccontextmanager
async def _alone(storage: Storage, trace_id: str) -> AsyncIterator[None]:
    """Keep writers out, where that can be done; elsewhere replacements are conditional."""
    if not isinstance(storage, AppendStorage):
        yield
        return
    async with locked(storage, trace_prefix(trace_id)) as lock:
        try:
            yield
        finally:
            lock.bump()


async def _carry_out(storage: Storage, plan: TracePlan, entries: Mapping[str, Entry], place: str) -> dict[str, str]:
    """Do what is planned; return where what was there is kept, by name."""
    prefix = trace_prefix(plan.trace_id)
    kept: dict[str, str] = {}
    versions: dict[str, str] = {}
    for name in (*(step.name for step in plan.steps), *plan.published):
        if name in entries:
            key = f"{prefix}/{name}"
            data, versions[name] = await storage.read_versioned(key)
            kept[name] = await keep(storage, place, key, data)
    for step in plan.steps:
        key = f"{prefix}/{step.name}"
        if step.data is None:
            await storage.delete([key])
        elif step.name in versions:
            await storage.replace(key, step.data, versions[step.name])
        else:
            await storage.create(key, step.data)
    return kept


def _unreadable(storage: Storage, trace_id: str, error: StorageError) -> Finding:
    """Return the finding that a trace cannot be read; any other error is raised again."""
    why = why_unreadable(error, storage)
    if why is None:
        raise error
    return unreadable(trace_id, why, "repair")


def _changed(trace_id: str, error: Exception) -> Finding:
    meaning = f"another process changed or deleted it meanwhile ({error})"
    return Finding(trace_id, trace_prefix(trace_id), None, meaning, "repair again when nobody writes")


def _told(plan: TracePlan, entries: Mapping[str, Entry], kept: Mapping[str, str]) -> list[Mend]:
    prefix = trace_prefix(plan.trace_id)

    def mend(step: Step) -> Mend:
        deed: Deed = "moved" if step.data is None else "rewritten" if step.name in entries else "made"
        return Mend(plan.trace_id, f"{prefix}/{step.name}", deed, step.meaning, kept.get(step.name))

    found = [mend(step) for step in plan.steps]
    for name in plan.published:
        found.append(Mend(plan.trace_id, f"{prefix}/{name}", "rewritten", "sealing publishes it again", kept.get(name)))
    if plan.seals:
        found.append(Mend(plan.trace_id, f"{prefix}/{MANIFEST}", "sealed", "the trace is as it now is"))
    return found
