"""A trace made in one piece: sealed from its first moment, without segments on the way.

For runs that have ended before the archive hears of them. What comes out is what the same records
would be after they were added one by one and sealed; the same run is the same bytes wherever it is added.
It knows records and files, and no other traces.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from traceark import goals
from traceark.codec.lines import check_texts, dumps, json_bytes, now_text, seal_record, to_record
from traceark.codec.parquet import LOG_COLUMNS, PartInfo, PartRow, Run, encode_rows, to_row
from traceark.errors import InvalidValueError
from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, LogName, PartName
from traceark.manifest import encode_manifest, sha256
from traceark.models import INT64_MAX, GivenEvent, GoalTree, JsonObject, Message
from traceark.requests import event_fields
from traceark.stats import MessageFold, facts_of, totals_of, with_stats


def sealed_files(
    header: Header, messages: Sequence[Message], events: Iterable[GivenEvent], tree: GoalTree | None
) -> dict[str, bytes]:
    """Return the files of a sealed trace by key relative to it, in the order in which they are to be published.

    Parameters
    ----------
    header : Header
        A first one, which is brought up to date; it gets an incarnation made of the content.
    messages : sequence of Message
        Of this trace; ids, sequences and times that are missing are given, as by `add_message`.
    events : iterable of (event type, payload, perhaps a time)
    tree : GoalTree, optional

    Raises
    ------
    InvalidValueError
        A value cannot be kept exactly, or an id comes twice; the error names its path.
    """
    trace_id = header.trace.trace_id
    fold = MessageFold()
    records: dict[LogName, Iterator[JsonObject]] = {
        "messages": _message_records(trace_id, messages, fold, max(header.trace.last_sequence, header.floor)),
        "events": _event_records(trace_id, events),
    }
    digest = hashlib.sha256(json_bytes(to_record(header.trace)))
    logs = [_taken(log, each, digest) for log, each in records.items()]
    if tree is not None:
        digest.update(json_bytes(to_record(tree)))
    # Which another trace, or another state of this one, does not get.
    header.incarnation, writer = digest.hexdigest()[:8], digest.hexdigest()[8:16]
    files: dict[str, bytes] = {}
    for log in logs:
        if log.rows:
            try:
                data = _part(log, trace_id, header.incarnation, writer)
            except UnicodeEncodeError:
                for message in messages:
                    check_texts(message)
                raise
            name = str(PartName(1, len(log.rows), header.incarnation, f"{zlib.crc32(data):08x}"))
            files[f"{log.name}/{name}"] = data
            header.checkpoint.files[log.name] = (name, len(data))
            header.checkpoint.ends[log.name] = len(log.rows)
    if tree is not None:
        files[GOAL_TREE] = _tree_file(tree, fold, header).encode()
    told = header.trace.__dict__
    told.update(totals_of(fold.total, header.adjustments))
    told["last_sequence"] = max(fold.last_sequence, header.floor)
    told["last_event_id"] = header.checkpoint.ends["events"]
    files[HEADER] = header.encode()
    files[MANIFEST] = encode_manifest({name: sha256(data) for name, data in files.items()})
    return files


@dataclass(frozen=True, slots=True)
class _Log:
    """A log's records as rows of its part, and the last of them as it is."""

    name: LogName
    rows: Sequence[PartRow]
    last: JsonObject


def _taken(log: LogName, records: Iterable[JsonObject], digest: hashlib._Hash) -> _Log:
    """Take records one after the other: while one is near the processor, all that is made of it costs half as much."""
    digest.update(log.encode())
    rows: list[PartRow] = []
    record: JsonObject = {}
    for offset, record in enumerate(records, start=1):
        digest.update(json_bytes(record))
        rows.append(to_row(LOG_COLUMNS[log], record) | {"_offset": offset})
    return _Log(log, rows, record)


def _message_records(trace_id: str, messages: Iterable[Message], fold: MessageFold, last: int) -> Iterator[JsonObject]:
    for offset, message in enumerate(messages, start=1):
        if message.trace_id != trace_id:
            raise InvalidValueError(f"the message is of trace {message.trace_id!r}, not {trace_id!r}", "trace_id")
        record = to_record(message)
        record.setdefault("created_at", now_text())
        sequence, message_id = message.sequence, message.message_id
        if sequence is None:
            sequence = last + 1
            if message_id is None:
                while f"{trace_id}-{sequence:04d}" in fold.facts:
                    sequence += 1
            if sequence > INT64_MAX:
                raise InvalidValueError(f"no sequence is left after {INT64_MAX}; give one", "sequence")
        message_id = message_id if message_id is not None else f"{trace_id}-{sequence:04d}"
        if message_id in fold.facts:
            raise InvalidValueError(f"the message id {message_id!r} comes twice", "message_id")
        record["sequence"], record["message_id"] = sequence, message_id
        facts = facts_of(record, offset)
        if not fold.surely_fits(facts):
            fold.check_room({message_id: facts})
        fold.add(message_id, facts)
        last = max(last, sequence)
        yield record


def _event_records(trace_id: str, events: Iterable[GivenEvent]) -> Iterator[JsonObject]:
    for number, event in enumerate(events, start=1):
        fields = event_fields(trace_id, *event)
        yield {"event_id": number, "created_at": fields.get("created_at") or now_text(), **fields}


def _part(log: _Log, trace_id: str, incarnation: str, writer: str) -> bytes:
    count = len(log.rows)
    # What is written later must follow this very record, as the line that it never was.
    last_line = seal_record(dumps(log.last).encode(), count, f"{incarnation}-{writer}")
    info = PartInfo(
        log.name,
        trace_id,
        incarnation,
        1,
        count,
        folded=True,
        covers=(Run(1, writer, count),),
        last_crc=last_line[-11:-3].decode(),
    )
    return encode_rows(info, log.rows)


def _tree_file(tree: GoalTree, fold: MessageFold, header: Header) -> TreeFile:
    given = goals.replaced(None, tree, MessageFold(), 0, header.incarnation)
    stats = with_stats(given.tree, fold.by_goal, given.was_set)
    return TreeFile(stats, header.incarnation, messages=header.checkpoint.ends["messages"], was_set=given.was_set)
