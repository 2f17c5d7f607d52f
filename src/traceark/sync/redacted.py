"""A trace with its secrets replaced, as the side of a sync: what is carried is no more what lies in the source.

The redacted trace has an incarnation of its own, which follows from the source's and the patterns;
offsets, ids, sequences, times and who wrote what are the source's. So copies of later states go
forward like any other. It lies in memory, one part a log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from traceark.codec.lines import dumps, seal_record
from traceark.codec.parquet import PartInfo, PartRecord, encode_part
from traceark.headers import REDACTIONS, Checkpoint, Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, LogName, PartName
from traceark.log import LogRead
from traceark.manifest import encode_manifest, sha256
from traceark.models import Json
from traceark.plan import join_runs
from traceark.reading import fold_updates
from traceark.redaction import Pattern, Redactor
from traceark.redaction.records import record_without, redaction_of, set_without, trace_without, tree_without
from traceark.requests import fold_record
from traceark.stats import MessageFold, totals_of, with_stats
from traceark.storage.base import Entry
from traceark.storage.memory import MemoryStorage
from traceark.sync.sides import Side, reading


@dataclass(frozen=True, slots=True)
class Redacted:
    """A trace with what patterns found replaced, and what that was.

    Attributes
    ----------
    source : Side
        The trace as it is.
    redactor : Redactor
        What it counted.
    """

    source: Side
    redactor: Redactor
    header: Header
    tree: TreeFile | None
    logs: Mapping[LogName, LogRead]
    rows: Mapping[LogName, Sequence[PartRecord]]

    async def side(self) -> Side:
        """Return it as a side of its own, sealed if the source is."""
        return await asyncio.to_thread(self._made)

    def _made(self) -> Side:
        source, header, files = self.source, self.header, dict[str, bytes]()
        for log, read in self.logs.items():
            if read.end:
                data = _part(log, read, self.rows[log], source.trace_id, header.incarnation)
                name = str(PartName(1, read.end, header.incarnation, f"{zlib.crc32(data):08x}"))
                files[f"{log}/{name}"] = data
                header.checkpoint.files[log], header.checkpoint.ends[log] = (name, len(data)), read.end
        tree = None if self.tree is None else self.tree.encode()
        if tree is not None:
            files[GOAL_TREE] = tree
        files[HEADER] = header.encode()
        manifest = None
        if source.manifest is not None:
            manifest = files[MANIFEST] = encode_manifest({name: sha256(data) for name, data in files.items()})
        storage = MemoryStorage.of({f"{source.prefix}/{name}": data for name, data in files.items()})
        entries = {name: Entry(len(data), "", 0.0) for name, data in files.items()}
        return Side(storage, source.trace_id, files[HEADER], header, tree, self.tree, manifest, entries)


def redacted_incarnation(incarnation: str, patterns: Sequence[Pattern]) -> str:
    """Return the incarnation of a trace after a redaction: the same for the same trace and patterns.

    Examples
    --------
    >>> redacted_incarnation("5f3a9c21", [Pattern("badge", "B-[0-9]{4}")])
    '219a584b'
    """
    told = json.dumps([incarnation, [[pattern.name, pattern.regex] for pattern in patterns]])
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def redactions_of(header: Header) -> list[Json]:
    """Return what a header tells of redactions, oldest first."""
    told = (header.trace.__pydantic_extra__ or {}).get(REDACTIONS)
    return told if isinstance(told, list) else []


def how_redacted(source: Header, target: Header) -> str | None:
    """Say how two traces of one id are redacted forms of one another; None where they are not."""
    ours, theirs = _before(source), _before(target)
    if target.incarnation in ours:
        return "the target holds it as it was before"
    if source.incarnation in theirs:
        return "the target's is redacted"
    return None if ours.isdisjoint(theirs) else "the target's is redacted by other patterns"


def _before(header: Header) -> set[Json]:
    return {told.get("of") for told in redactions_of(header) if isinstance(told, dict)}


async def redacted(side: Side, patterns: Sequence[Pattern]) -> Redacted:
    """Return a trace with what patterns find replaced.

    Raises
    ------
    DamagedTraceError, UnreadableError
    """
    stored = side.stored()
    with reading(side.storage):
        logs = {log: await stored.log(log) for log in LOGS}
    return await asyncio.to_thread(_redacted, side, logs, patterns)


def _redacted(side: Side, logs: Mapping[LogName, LogRead], patterns: Sequence[Pattern]) -> Redacted:
    redactor = Redactor(patterns)
    incarnation = redacted_incarnation(side.header.incarnation, patterns)
    rows = {log: [_row(log, row, redactor) for row in read.records] for log, read in logs.items()}
    fold = MessageFold()
    for row in rows["messages"]:
        fold_record(fold, row.op, row.record, row.offset)
    tree = None if side.tree is None else _tree(side.tree, fold, logs["messages"].end, incarnation, redactor)
    header = _header(side.header, fold, logs["events"].end, incarnation, redactor)
    return Redacted(side, redactor, header, tree, logs, rows)


def _row(log: LogName, row: PartRecord, redactor: Redactor) -> PartRecord:
    record = record_without(log, row.record, redactor)
    # A hash of what was replaced would let it be guessed.
    return PartRecord(row.offset, row.op, record, row.digest if record == row.record else None)


def _part(log: LogName, read: LogRead, rows: Sequence[PartRecord], trace_id: str, incarnation: str) -> bytes:
    covers = join_runs(read.runs)
    # What is written later must follow this very record, as the line that it never was.
    last = seal_record(dumps(rows[-1].record).encode(), read.end, f"{incarnation}-{covers[-1].writer}")
    if log == "messages":
        rows = sorted(fold_updates(list(rows)), key=lambda row: row.offset)
    info = PartInfo(log, trace_id, incarnation, 1, read.end, True, covers, last_crc=last[-11:-3].decode())
    return encode_part(info, rows)


def _tree(tree: TreeFile, fold: MessageFold, end: int, incarnation: str, redactor: Redactor) -> TreeFile:
    was_set = set_without(tree, redactor)
    goals = with_stats(tree_without(tree, redactor), fold.by_goal, was_set)
    revision = tree.revision + 1
    without = replace(
        tree, tree=goals, incarnation=incarnation, revision=revision, messages=end, was_set=was_set, before=""
    )
    # Who read it before must not write it back.
    return without if without.told() == tree.told() else replace(without, changed=revision)


def _header(header: Header, fold: MessageFold, last_event_id: int, incarnation: str, redactor: Redactor) -> Header:
    trace = trace_without(header.trace, redactor)
    told = trace.__dict__
    told.update(totals_of(fold.total, header.adjustments))
    told["last_sequence"] = max(fold.last_sequence, header.floor)
    told["last_event_id"] = last_event_id
    history = [*redactions_of(header), redaction_of(header, redactor)]
    trace = trace.model_copy(update={REDACTIONS: history})
    return replace(header, trace=trace, incarnation=incarnation, revision=header.revision + 1, checkpoint=Checkpoint())
