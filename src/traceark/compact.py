"""Compaction and sealing: closed segments into parts, a finished trace into its final form.

Killed anywhere it leaves a trace that reads the same: parts are published whole before segments
go, headers before the manifest, and the manifest last.
"""

from __future__ import annotations

import time
from contextlib import suppress

from traceark.codec.parquet import part_info
from traceark.errors import CorruptFileError, StorageError, TraceNotFoundError
from traceark.folding import build_part, part_keys
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, LogName, parse_log_name
from traceark.lifecycle import remove_remains, versions
from traceark.live import OpenTrace
from traceark.log import Files, grown
from traceark.manifest import decode_manifest, encode_manifest, sha256
from traceark.plan import plan_log
from traceark.publishing import put, seals_what_is_there
from traceark.reading import is_still
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, VersionMismatchError

_ATTEMPTS = 20


async def compact(trace: OpenTrace) -> int:
    """Fold the closed segments of a live trace into parts; return how many records moved.

    Writers go on in new segments meanwhile. Updates stay rows of their own, since a part of a live
    trace keeps every record at its offset.
    """
    if await _is_final(trace):
        return 0
    for _ in range(_ATTEMPTS):
        async with trace.exclusive() as writer:
            await writer.settle()
            await trace.refresh()
            await trace.reopen()
            entries, ends = dict(trace.entries), dict(trace.ends)
            writer.close_segments()
        moved = 0
        try:
            for log in LOGS:
                covered = max((trace.parts[key].last for key in part_keys(trace, log, entries)), default=0)
                if ends[log] > covered:
                    await _published(trace, log, covered + 1, ends[log], entries, folded=False)
                    moved += ends[log] - covered
        except KeyMissingError:
            continue  # another process compacts or seals too; look again
        async with trace.exclusive():
            await trace.refresh()
            await trace.retry(trace.publish_both)
            await _drop_superseded(trace)
        return moved
    raise StorageError(f"trace {trace.trace_id!r} was compacted by others all the while; try again")


async def _is_final(trace: OpenTrace) -> bool:
    """Say whether a trace is sealed, by these headers, and holds nothing but what its manifest lists; tidy it if so."""
    async with trace.held():
        await trace.refresh()
        sizes = {name: entry.size for name, entry in trace.entries.items()}
        if not trace.sealed or not trace.header.checkpoint.is_exact(sizes, trace.header.incarnation):
            return False
        try:
            what = f"{trace.prefix}/{MANIFEST}"
            hashes = decode_manifest(await trace.storage.read(what), what)
            for name in hashes.keys() & {HEADER, GOAL_TREE}:
                # Who changed one may have been killed, or copied it here, without a word to who had sealed.
                if sha256(await trace.storage.read(f"{trace.prefix}/{name}")) != hashes[name]:
                    return False
        except (KeyMissingError, CorruptFileError):
            return False
        listed = hashes.keys()
        present = {name for name in trace.entries if name not in (MANIFEST, LOCK)}
        late = {name for name in present - listed if trace.storage.grace_seconds and _is_of_log(name)}
        if present - late != listed:
            return False
        if late:  # on an object store; elsewhere there are none, and dropping files wants the lock
            await _drop_superseded(trace)
        return True


async def _published(
    trace: OpenTrace, log: LogName, first: int, last: int, entries: dict[str, Entry], *, folded: bool
) -> str:
    """Publish a part, as `build_part` does, and take it back where the trace went meanwhile; return its key.

    Beside it nothing keeps others from deleting the trace, and it may come to lie in what is made anew then.
    """
    storage, prefix, incarnation = trace.storage, trace.prefix, trace.header.incarnation
    name, _ = await build_part(trace, log, first, last, entries, folded=folded)
    if await is_still(storage, prefix, incarnation):
        return name
    await storage.delete([f"{prefix}/{name}"])
    if isinstance(storage, AppendStorage):
        with suppress(TraceNotFoundError):
            await remove_remains(storage, trace.trace_id, only=set())  # the directory that was made for it
    raise KeyMissingError(f"{prefix} holds another trace than was read, or none")


async def _drop_superseded(trace: OpenTrace, keep: frozenset[str] = frozenset()) -> None:
    """Delete files that parts supersede, once no late writer can rely on them."""
    now = time.time()
    entries = await trace.storage.list(trace.prefix)
    gone: list[str] = []
    for log in LOGS:
        names = [name.partition("/")[2] for name in entries if name.startswith(f"{log}/")]
        parts = {key.rpartition("/")[2]: trace.parts[key] for key in part_keys(trace, log, entries)}
        plan = plan_log(trace.prefix, names, trace.header.incarnation, parts)
        # A seal that another process begins does not close segments: its part may hold the beginning of an open one.
        longer = await grown(Files(trace.storage, f"{trace.prefix}/{log}"), plan)
        gone += [f"{log}/{name}" for name in (*plan.superseded, *plan.leftovers) if name not in longer]
    grace = trace.storage.grace_seconds
    gone = [name for name in gone if name not in keep and now - entries[name].modified >= grace]
    await trace.storage.delete(f"{trace.prefix}/{name}" for name in gone)
    for name in gone:
        trace.entries.pop(name, None)
    if gone:
        trace.files_changed()


async def seal(trace: OpenTrace) -> None:
    """Bring a trace into its final form: one part per log, headers, and the manifest last.

    Writing to it later reopens it. A trace that keeps being written to is tried again.
    """
    for _ in range(_ATTEMPTS):
        if await _is_final(trace):
            trace.touched = False
            return
        async with trace.held():
            await trace.refresh()
            entries, ends, incarnation = dict(trace.entries), dict(trace.ends), trace.header.incarnation
        built: dict[LogName, str] = {}
        try:
            for log in LOGS:
                if ends[log]:
                    known = _final_part(trace, log, ends[log], entries)
                    built[log] = known or await _published(trace, log, 1, ends[log], entries, folded=True)
        except KeyMissingError:
            continue  # another process compacts or seals too; look again
        async with trace.exclusive() as writer:
            await writer.settle()
            await trace.refresh()
            # A part that is not listed was taken away by another process, or the listing is an older one.
            is_whole = all(name in trace.entries for name in built.values())
            # Of another incarnation it may be another run, or the same one with other content.
            if is_whole and (trace.header.incarnation, trace.ends) == (incarnation, ends):
                await trace.reopen()
                writer.forget_segments()
                try:
                    await _finish(trace, built)
                    writer.looked()
                    return
                except KeyMissingError:
                    continue  # what it had built gave way to more, where no lock keeps others out
                except VersionMismatchError:
                    # Somebody wrote to it meanwhile, where no lock keeps others out; or sealed another header.
                    with suppress(VersionMismatchError):
                        await writer.look_again()
    raise StorageError(f"trace {trace.trace_id!r} was written to all the while; seal it when its writers are done")


def _final_part(trace: OpenTrace, log: LogName, end: int, entries: dict[str, Entry]) -> str | None:
    """Return the part that holds the whole log already, folded, if there is one."""
    for key in part_keys(trace, log, entries):
        info = trace.parts[key]
        if info.folded and info.first == 1 and info.last == end:
            return key[len(trace.prefix) + 1 :]
    return None


def _is_of_log(name: str) -> bool:
    """Say whether it is a log's file, and not one that another process is about to publish."""
    directory, _, rest = name.partition("/")
    return directory in LOGS and parse_log_name(rest) is not None


async def _finish(trace: OpenTrace, built: dict[LogName, str]) -> None:
    storage, prefix = trace.storage, trace.prefix
    hashes: dict[str, str] = {}
    for log, name in built.items():
        # What is about to replace the segments must be readable from where it lies.
        data = await storage.read(f"{prefix}/{name}")
        trace.parts[f"{prefix}/{name}"] = part_info(data, f"{prefix}/{name}")
        trace.tails[log] = None
        hashes[name] = sha256(data)
    for key in list(trace.parts):
        # The checkpoint must name the final parts, and no other that reaches as far.
        if key.removeprefix(f"{prefix}/") not in built.values():
            del trace.parts[key]
    keep = {HEADER, *built.values(), *([GOAL_TREE] if trace.tree is not None else [])}
    now = time.time()
    grace = storage.grace_seconds
    others = [
        name
        for name, entry in trace.entries.items()
        if name not in keep and _is_of_log(name) and not (grace and now - entry.modified < grace)
    ]
    for name in others:
        trace.entries.pop(name)
    await trace.publish_both()
    await storage.delete(f"{prefix}/{name}" for name in others)
    # Also where there are none: who removed them may have been killed before that was on stable storage.
    for directory in {name.partition("/")[0] for name in (*others, *keep) if _is_of_log(name)}:
        await storage.sync_names(f"{prefix}/{directory}")
    for name in sorted(keep - hashes.keys()):
        try:
            hashes[name] = sha256(await storage.read(f"{prefix}/{name}"))
        except KeyMissingError:
            raise StorageError(f"{prefix}/{name} vanished while the trace was sealed; seal it again") from None
    version = await put(storage, f"{prefix}/{MANIFEST}", encode_manifest(hashes), None)
    if not isinstance(storage, AppendStorage):
        stand = versions(trace.entries)
        if not await seals_what_is_there(storage, prefix, trace.header, stand, version):
            raise VersionMismatchError(f"{prefix} was written to while it was sealed")
    trace.entries[MANIFEST] = Entry(0, version, 0.0)
    trace.touched = False
    trace.files_changed()
