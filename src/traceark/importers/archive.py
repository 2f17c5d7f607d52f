"""Traces of archives: directories as they lie in one, wherever they were copied to, and packed ones in zips.

They are read by the package's own reader, which proves every record, and come out as they are, totals
and stats that somebody set included. The archive's marker and its catalog tell nothing of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from traceark.errors import DamagedTraceError, InvalidValueError, PackError, StorageError, UnsupportedFormatError
from traceark.headers import TreeFile
from traceark.importers.base import Copied, ImportCounts, Problem, SourceEvent, SourceTrace
from traceark.importers.copies import STATE
from traceark.layout import (
    GOAL_TREE,
    HEADER,
    LOCK,
    LOGS,
    MANIFEST,
    MARKER,
    TRACES,
    parse_log_name,
    trace_id_of,
)
from traceark.log import LogRead
from traceark.models import Event, GoalTree, JsonObject, Message
from traceark.packed.members import BESIDE
from traceark.packed.spool import is_pack, spooled
from traceark.reading import StoredTrace, fold_updates, load, retrying
from traceark.stats import SetStats
from traceark.storage.base import Storage
from traceark.storage.local import LocalStorage

NAME = "traceark"
_FILES = frozenset({HEADER, GOAL_TREE, MANIFEST, LOCK})
# Stands near the end of every header, which is one line.
_MARK = b'"_incarnation":"'
_TEMPORARY = ".tmp-"
_NOT_READ = (DamagedTraceError, UnsupportedFormatError, InvalidValueError, StorageError)


class TracearkArchive:
    """Reads the trace of a directory, or those in a zip; ids, times, totals and goals are the trace's own.

    Examples
    --------
    >>> import asyncio, tempfile
    >>> from traceark import ArchiveStore, Trace
    >>> async def keep(folder: str) -> None:
    ...     async with ArchiveStore(folder) as store:
    ...         await store.create_trace(Trace(trace_id="run-7", task="sort the mail"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(keep(folder))
    ...     [source] = TracearkArchive().read(Path(folder, "traces", "run-7", "trace.json"), ImportCounts())
    >>> source.trace.trace_id, source.trace.task
    ('run-7', 'sort the mail')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file belongs to a trace's directory, by its header, or is a zip with one inside."""
        return _home(path) is not None or is_pack(path)

    def files(self, path: Path) -> Sequence[Path]:
        """Return the files of the directory that a file belongs to, the header first."""
        home = _home(path)
        if home is None:
            return [path]
        beside = [each for folder in (home, *(home / log for log in LOGS)) for each in _files_in(folder)]
        others = sorted(each for each in beside if each != home / HEADER and _is_ours(each, home))
        return [home / HEADER, *others]

    def is_beside(self, path: Path) -> bool:
        """Say whether the file is an archive's marker, or lies in a directory of it beside the traces."""
        if path.name == MARKER:
            return _is_marker(path)
        return any(_is_beside(each.name) and _is_marker(each.parent / MARKER) for each in path.parents)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the trace of the directory that the file belongs to, or each in a zip."""
        # Of a directory that was just being made another file may have been found before there was a header.
        found = path.parent if path.name == HEADER else _home(path)
        if found is not None and not zipfile.is_zipfile(path):
            home = found.resolve()
            yield from _sources(LocalStorage(home.parent), home.name, path, counts)
            return
        try:
            with spooled(path) as spool:
                for name in spool.strangers:
                    told = f"{name} is no file of a trace in the zip; it was not taken"
                    counts.problems.append(Problem(str(path), 0, told))
                for key in spool.keys:
                    yield from _sources(LocalStorage(spool.root / TRACES), key, path, counts)
        except PackError as error:
            counts.problems.append(Problem(str(path), 0, str(error)))


def _is_beside(directory: str) -> bool:
    return directory in BESIDE or directory.startswith(_TEMPORARY)


def _home(path: Path) -> Path | None:
    """Return the directory of the trace that a file belongs to."""
    path = path.absolute()
    for home in (path.parent, path.parent.parent):
        if _is_ours(path, home) and _is_header(home):
            return home
    return None


def _is_ours(path: Path, home: Path) -> bool:
    """Say whether a file of a trace's directory is one that the format knows."""
    if path.name.startswith(_TEMPORARY):
        return True
    if path.parent == home:
        return path.name in _FILES
    return path.parent.name in LOGS and parse_log_name(path.name) is not None


def _is_header(home: Path) -> bool:
    """Say whether a directory has a trace's header, perhaps damaged where it lies in an archive."""
    path = home / HEADER
    try:
        marked = _is_file(path) and _MARK in path.read_bytes()
    except OSError:
        return False
    return marked or (home.parent.name == TRACES and _is_marker(home.parent.parent / MARKER))


def _is_file(path: Path) -> bool:
    """Say whether a file is one: a link may lead to what nobody named, and a pipe to read waits for a writer."""
    return path.is_file() and not path.is_symlink()


def _is_marker(path: Path) -> bool:
    try:
        told = json.loads(path.read_bytes()) if _is_file(path) else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("format") == NAME


def _files_in(folder: Path) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if _is_file(each)] if not folder.is_symlink() else []
    except OSError:
        return []


def _sources(storage: Storage, key: str, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    """Yield the trace that lies under a key; what is wrong with it is a problem."""
    trace_id = trace_id_of(key)
    if trace_id is None:
        told = f"the directory's name {key!r} is no key of a trace; give it back its own; nothing was taken"
        counts.problems.append(Problem(str(path), 0, told))
        return

    async def read() -> SourceTrace | None:
        stored = await load(storage, trace_id, key)
        return await source_of(stored, path, counts) if stored is not None else None

    try:
        source = asyncio.run(retrying(trace_id, read))
    except _NOT_READ as error:
        counts.problems.append(Problem(str(path), 0, f"{error}; nothing was taken"))
        return
    if source is not None:
        yield source


async def source_of(stored: StoredTrace, path: Path, counts: ImportCounts) -> SourceTrace:
    """Return a trace of an archive as a source of another; raises `DamagedTraceError` where it cannot be read."""
    trace, messages, events = await stored.trace(), await stored.log("messages"), await stored.log("events")
    trace.metadata = {name: value for name, value in trace.metadata.items() if name != STATE}
    tree = await stored.tree()
    copied = await _copied(stored, tree)
    added = sorted(fold_updates(messages.records), key=lambda row: row.offset)
    counts.rows.update(message=len(messages.records), event=len(events.records))
    for name, error in {**messages.damaged, **events.damaged}.items():
        counts.problems.append(Problem(str(path), 0, f"{name} was left out, other files hold its records: {error}"))
    for name in (*messages.plan.leftovers, *events.plan.leftovers):
        told = f"{name} is what another trace of this id left behind, or has lost its name; it was not taken"
        counts.problems.append(Problem(str(path), 0, told))
    digests = _digests(stored, messages)
    return SourceTrace(
        trace,
        [Message.parse(row.record) for row in added],
        [_event(row.record, path, counts) for row in events.records],
        tree,
        digests,
        len(digests),
        copied=copied,
    )


def _event(record: JsonObject, path: Path, counts: ImportCounts) -> SourceEvent:
    event = Event.parse(record)
    # What a recorded change says beside its payload is of the offsets of that very trace.
    unknown = sorted((event.__pydantic_extra__ or {}).keys() - {"trace_id", "change"})
    if unknown:
        told = f"event {event.event_id} has fields that are not known here, {', '.join(unknown)}; they were not taken"
        counts.problems.append(Problem(str(path), 0, told))
    return SourceEvent(event.event_type, event.payload, event.created_at)


def _digests(stored: StoredTrace, messages: LogRead) -> list[str]:
    """Return a digest for the trace's making, and one for each record of its messages: who wrote it, after whom.

    Compaction, sealing and copying leave them as they are.
    """
    found = [hashlib.sha256(stored.header.incarnation.encode()).hexdigest()]
    for run in messages.runs:
        for _ in range(run.count):
            found.append(hashlib.sha256(f"{found[-1]}{run.writer}".encode()).hexdigest())
    return found


async def _copied(stored: StoredTrace, tree: GoalTree | None) -> Copied:
    """Return what was set of totals and stats, as it is read."""
    header, trace = stored.header, await stored.trace()
    copied = Copied(header.revision, {name: getattr(trace, name) for name in header.adjustments})
    if header.floor:
        copied.totals["last_sequence"] = trace.last_sequence
    if tree is None:
        return copied
    what = f"{stored.prefix}/{GOAL_TREE}"
    file = TreeFile.decode(await stored.storage.read(what), what)
    for goal in tree.goals:
        own, cumulative = file.was_set.get(goal.id, (SetStats(), SetStats()))
        if _is_set(own) or goal.self_stats.__pydantic_extra__:
            copied.self_stats[goal.id] = goal.self_stats
        if _is_set(cumulative) or goal.cumulative_stats.__pydantic_extra__:
            copied.cumulative_stats[goal.id] = goal.cumulative_stats
    return Copied(header.revision + file.revision, copied.totals, copied.self_stats, copied.cumulative_stats)


def _is_set(stats: SetStats) -> bool:
    return bool(stats.adjustments or stats.preview_offset)
