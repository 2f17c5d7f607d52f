"""Which traces an archive has, and which are sealed and the same in two of them, told without a look at their logs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from traceark.layout import (
    GOAL_TREE,
    HEADER,
    LOGS,
    MANIFEST,
    TRACES,
    PartName,
    SegmentName,
    parse_log_name,
    trace_id_of,
    trace_prefix,
)
from traceark.log import log_names
from traceark.reading import scan
from traceark.storage.base import AppendStorage, Entry, KeyMissingError, Storage
from traceark.sync.putting import MD5
from traceark.sync.sides import reading

# What says all of a sealed trace whose logs end where these say.
PROOFS = (MANIFEST, HEADER, GOAL_TREE)
_PART_ENDING = ".parquet"
# By log, the name of the part that ends it; none where there is no part.
Ends = list[str]


@dataclass(frozen=True, slots=True)
class Listing:
    """The traces of an archive, with their files where one listing tells them all."""

    storage: Storage
    traces: Mapping[str, Mapping[str, Entry] | None]
    strangers: list[str]

    def files(self, trace_id: str) -> Mapping[str, Entry] | None:
        """Return a trace's files, none where there is no trace; None where the listing does not tell."""
        return None if isinstance(self.storage, AppendStorage) else self.traces.get(trace_id) or {}

    async def sealed(self, trace_id: str) -> tuple[Mapping[str, Entry], Ends] | None:
        """Return a sealed trace's files, with where its logs end; None where it is not sealed, or was written to."""
        entries = self.traces.get(trace_id)
        if entries is None:
            with reading(self.storage):
                entries = await self.storage.list(trace_prefix(trace_id))
        ends = ends_of(entries) if MANIFEST in entries and HEADER in entries else None
        return (entries, ends) if ends is not None else None

    async def told(self, trace_id: str, name: str, version: str) -> bytes | str:
        """Return a file of a trace, or its MD5 where its version tells that."""
        if match := MD5.fullmatch(version):
            return match[1]
        with reading(self.storage):
            return await self.storage.read(f"{trace_prefix(trace_id)}/{name}")


def ends_of(names: Iterable[str]) -> Ends | None:
    """Return where the logs end by the names of a trace's files; None where they hold more than their parts."""
    ends: Ends = []
    for log in LOGS:
        files = log_names(names, log)
        if len(files) == 1 and files[0].endswith(_PART_ENDING):
            ends += files  # as nearly always
            continue
        parsed = {name: parse_log_name(name) for name in files}
        last, end = max(
            ((each.last, name) for name, each in parsed.items() if isinstance(each, PartName)), default=(0, "")
        )
        if any(isinstance(each, SegmentName) and each.first > last for each in parsed.values()):
            return None
        ends.append(end)
    return ends


async def listing(storage: Storage) -> Listing:
    """List an archive."""
    if not isinstance(storage, AppendStorage):
        listed, strangers = await scan(storage)
        return Listing(storage, listed, strangers)
    keys = {key: trace_id_of(key) for key in sorted(await storage.children(TRACES))}
    return Listing(
        storage,
        {trace_id: None for trace_id in keys.values() if trace_id is not None},
        sorted(key for key, trace_id in keys.items() if trace_id is None),
    )


async def is_same(trace_id: str, ours: Listing, theirs: Listing) -> bool:
    """Say whether a trace is sealed on both sides, and is the same there.

    A manifest by itself does not tell: who copies and deletes nothing leaves it there under newer headers and records.
    """
    if trace_id not in theirs.traces:
        return False
    try:
        one, other = await ours.sealed(trace_id), await theirs.sealed(trace_id)
        if one is None or other is None or one[1] != other[1]:
            return False
        for name in PROOFS:
            here, there = one[0].get(name), other[0].get(name)
            if here is None and there is None:
                continue
            if here is None or there is None:
                return False
            told = await ours.told(trace_id, name, here.version), await theirs.told(trace_id, name, there.version)
            if told[0] != told[1] and _md5(told[0]) != _md5(told[1]):
                return False
    except KeyMissingError:
        return False  # replaced or deleted meanwhile
    return True


def _md5(told: bytes | str) -> str:
    return told if isinstance(told, str) else hashlib.md5(told, usedforsecurity=False).hexdigest()
