"""The catalog beside the directories: what it says of traces that is not so. It reads, and writes nothing.

Readers take a settled row at its word, so one that is wrong hides what is there until the next
`refresh`. Rows of traces that somebody has open are looked at whenever somebody asks, and are left
out here; so is a catalog that will be made anew anyhow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from traceark.catalog import files
from traceark.catalog.contents import CATALOG
from traceark.catalog.notes import Note, changed, decode_notes, is_doubtful
from traceark.catalog.rows import COLUMNS, SETTLED, describe, fingerprint
from traceark.codec.fields import TRACES
from traceark.codec.parts import records
from traceark.errors import CorruptFileError, DamagedTraceError, StorageError, UnsupportedFormatError
from traceark.layout import TRACES as DIRECTORIES
from traceark.layout import trace_prefix
from traceark.models import JsonObject
from traceark.reading import load, why_unreadable
from traceark.storage.base import Entry, KeyMissingError, Storage

_SAID = (*(column.name for column in TRACES), "_incarnation", "_sealed", "_messages", "_events")


@dataclass(frozen=True, slots=True)
class Amiss:
    """What is not so: of which trace, if of one; which file of the catalog says it; and what is so."""

    trace_id: str | None
    file: str
    meaning: str


@dataclass(frozen=True, slots=True)
class _Told:
    """What readers go by: the rows of all traces by id, from which snapshot, and whether it tells all names."""

    file: str
    rows: Mapping[str, JsonObject]
    all_names: bool


async def amiss(
    storage: Storage, binding: str, listed: Mapping[str, Mapping[str, Entry]], *, deep: bool
) -> list[Amiss]:
    """Return what the catalog says that is not so.

    Parameters
    ----------
    storage : Storage
        Of the archive.
    binding : str
        Of the archive and its place.
    listed : mapping
        The files of all traces, as they were listed before.
    deep : bool
        Read the header of every trace, and not only of those whose files are not the row's.
    """
    told = await _told(storage, binding)
    if isinstance(told, Amiss):
        return [told]
    if told is None:
        return []
    settled = {each: row for each, row in told.rows.items() if row.get("_state") == SETTLED}
    unlike = [
        each
        for each in sorted(settled.keys() & listed.keys())
        if (deep or settled[each].get("_files") != fingerprint(listed[each]))
        # Where it was written to since it was listed, a new listing tells.
        and not await _is_as_told(storage, each, settled[each], listed[each])
        and not await _is_as_told(storage, each, settled[each], None)
    ]
    missing: set[str] = set()
    new: set[str] = set()
    if told.all_names:
        missing = {each for each in settled.keys() - listed.keys() if not await storage.list(trace_prefix(each))}
        new = {each for each in listed.keys() - told.rows.keys() if await storage.list(trace_prefix(each))}
    if not (unlike or missing or new):
        return []
    # A writer says that it will write before it does. What nobody spoke of meanwhile, nobody wrote.
    again = await _told(storage, binding)
    if not isinstance(again, _Told):
        return []
    same = {each for each in {*unlike, *missing, *new} if again.rows.get(each) == told.rows.get(each)}
    if not again.all_names:
        same -= missing | new
    return list(_amiss(told.file, same, unlike, missing, new))


def _amiss(file: str, same: set[str], unlike: Sequence[str], missing: set[str], new: set[str]) -> Iterator[Amiss]:
    for group, meaning in (
        (unlike, "its row is not what its directory says"),
        (sorted(missing), "it has a row, and no directory"),
        (sorted(new), "it has a directory, and no row"),
    ):
        yield from (Amiss(each, file, meaning) for each in group if each in same)


async def _told(storage: Storage, binding: str) -> _Told | Amiss | None:
    """Return what readers go by; None where they would look everywhere anyhow."""
    try:
        contents = await files.contents(storage, binding)
        if contents.newest is None:
            return None
        file = f"{CATALOG}/{contents.newest.name}"
        found = await files.opened(storage, contents.newest, binding)
        if found is None:
            return Amiss(None, file, "it is no snapshot, or torn")
        try:
            table = await asyncio.to_thread(found.rows)
        except CorruptFileError as error:
            return Amiss(None, file, str(error))
        rows = {str(row["trace_id"]): row for row in records(COLUMNS, table)}
        if contents.has_gap(found.info.folded) or contents.foreign != found.info.foreign:
            return None
        notes: dict[str, list[Note]] = {}
        for name in contents.unseen(found.info.folded):
            key = f"{CATALOG}/{name}"
            try:
                for note in decode_notes(await storage.read(key), key):
                    notes.setdefault(note.trace_id, []).append(note)
            except CorruptFileError as error:
                return Amiss(None, key, str(error))
    except (KeyMissingError, FileNotFoundError):
        return None  # it is being folded
    for trace_id, group in notes.items():
        # What is doubtful readers look up themselves.
        known = rows.get(trace_id)
        rows[trace_id] = {"trace_id": trace_id} if is_doubtful(known, group) else changed(known, group)
    stamped = storage.stamp(DIRECTORIES)
    return _Told(file, rows, stamped is None or stamped[0] == found.info.stamp)


async def _is_as_told(storage: Storage, trace_id: str, row: JsonObject, entries: Mapping[str, Entry] | None) -> bool:
    """Say whether a row is what its directory says, or it has none, or what is wrong is wrong with the trace itself."""
    try:
        stored = await load(storage, trace_id, trace_prefix(trace_id), entries)
        if stored is None:
            return True
        found = describe(stored, stored.header.trace if stored.is_exact() else await stored.trace())
    except (DamagedTraceError, UnsupportedFormatError, KeyMissingError):
        return True
    except StorageError as error:
        if why_unreadable(error, storage) is None:
            raise
        return True
    return _said(found) == _said(row)


def _said(row: JsonObject) -> JsonObject:
    return {name: row[name] for name in _SAID if row.get(name) is not None}
