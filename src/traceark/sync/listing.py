"""Which traces an archive has, and which are the same in two of them by their manifests alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from traceark.layout import (
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


@dataclass(frozen=True, slots=True)
class Listing:
    """The traces of an archive, with their files where one listing tells them all."""

    storage: Storage
    traces: Mapping[str, Mapping[str, Entry] | None]
    strangers: list[str]

    def files(self, trace_id: str) -> Mapping[str, Entry] | None:
        """Return a trace's files, none where there is no trace; None where the listing does not tell."""
        return None if isinstance(self.storage, AppendStorage) else self.traces.get(trace_id) or {}

    async def manifest(self, trace_id: str) -> bytes | str | None:
        """Return a trace's manifest, or its MD5 where the listing tells that; None where it has none."""
        entries = self.traces.get(trace_id)
        if entries is not None:
            if MANIFEST not in entries or HEADER not in entries or _was_written_to(entries):
                return None
            if match := MD5.fullmatch(entries[MANIFEST].version):
                return match[1]
        try:
            with reading(self.storage):
                return await self.storage.read(f"{trace_prefix(trace_id)}/{MANIFEST}")
        except KeyMissingError:
            return None


def _was_written_to(entries: Mapping[str, Entry]) -> bool:
    """Say whether a log holds more than its parts, as that of a sealed trace does not."""
    for log in LOGS:
        parsed = [parse_log_name(name) for name in log_names(entries, log)]
        end = max((each.last for each in parsed if isinstance(each, PartName)), default=0)
        if any(isinstance(each, SegmentName) and each.first > end for each in parsed):
            return True
    return False


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
    """Say whether both sides are sealed and have the same manifest."""
    if trace_id not in theirs.traces:
        return False
    one, other = await ours.manifest(trace_id), await theirs.manifest(trace_id)
    if one is None or other is None:
        return False
    if isinstance(one, str) != isinstance(other, str):
        one, other = _md5(one), _md5(other)
    return one == other


def _md5(manifest: bytes | str) -> str:
    return manifest if isinstance(manifest, str) else hashlib.md5(manifest, usedforsecurity=False).hexdigest()
