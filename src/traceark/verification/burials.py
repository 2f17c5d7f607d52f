"""Tombstones beside the directories: what deletions that were cut short left, and what is no tombstone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from traceark.errors import CorruptFileError, DamagedTraceError, UnsupportedFormatError
from traceark.headers import Header
from traceark.layout import HEADER, TOMBSTONES, parse_tombstone_name, trace_prefix
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.tombstones import Buried, read_tombstone
from traceark.verification.finding import Finding
from traceark.verification.names import incarnations, is_unfinished
from traceark.verification.settling import is_under_way


async def amiss(storage: Storage, listed: Mapping[str, Mapping[str, Entry]]) -> list[Finding]:
    """Return what is wrong with tombstones, given the files of all traces; and, as notes, traces that have one."""
    found: list[Finding] = []
    for name, entry in sorted((await storage.list(TOMBSTONES)).items()):
        key, said = f"{TOMBSTONES}/{name}", parse_tombstone_name(name)
        if is_unfinished(name):
            if not is_under_way(name, entry):
                meaning = "a write was interrupted here; nothing refers to it"
                found.append(Finding(name, key, None, meaning, "delete it"))
            continue
        if said is None:
            found.append(Finding(name, key, None, "its name is none of a tombstone", "move it out of the archive"))
            continue
        trace_id, incarnation = said
        try:
            await read_tombstone(storage, trace_id, incarnation)
        except UnsupportedFormatError as error:
            found.append(Finding(trace_id, key, None, str(error), "upgrade traceark"))
        except CorruptFileError as error:
            remedy = "restore it from a copy, or delete it, and the run may be synced here again"
            found.append(Finding(trace_id, key, None, str(error), remedy))
        except KeyMissingError:
            continue  # the run was added again meanwhile
        if await _incarnation(storage, trace_id, listed.get(trace_id, {})) == incarnation:
            meaning = "the trace is here all the same: its deletion was interrupted, or it was added again since"
            remedy = f"delete it again (traceark rm {storage.url} {trace_id}), or delete the tombstone"
            found.append(Finding(trace_id, key, None, meaning, remedy, is_note=True))
    return found


async def _incarnation(storage: Storage, trace_id: str, entries: Mapping[str, Entry]) -> str | None:
    if HEADER not in entries:
        return None
    what = f"{trace_prefix(trace_id)}/{HEADER}"
    try:
        return Header.decode(await storage.read(what), what).incarnation
    except (DamagedTraceError, UnsupportedFormatError, KeyMissingError):
        return None  # the trace's own check tells


def was_buried(trace_id: str, names: Iterable[str], buried: Set[Buried]) -> bool:
    """Say whether files without a header are what the deletion of a trace that has a tombstone left."""
    told = incarnations(names)
    return any(each == trace_id and (incarnation in told or not told) for each, incarnation in buried)


def with_burial(storage: Storage, finding: Finding) -> Finding:
    """Return what is wrong with a header that is missing, of a trace that has a tombstone."""
    return replace(
        finding,
        meaning="it is missing, and the trace has a tombstone: its deletion was interrupted",
        remedy=f"traceark rm {storage.url} {finding.trace_id}",
    )
