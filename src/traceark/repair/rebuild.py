"""Headers from what is left of them, or from the logs alone. Pure."""

from __future__ import annotations

import json
import secrets
from typing import cast

from traceark.codec.lines import encode_line
from traceark.errors import CorruptFileError, InvalidValueError, UnsupportedFormatError
from traceark.headers import Checkpoint, Header, TreeFile
from traceark.log import LogRead
from traceark.models import JsonObject, Trace
from traceark.stats import MessageFold, totals_of, with_stats
from traceark.verification.recount import fold_to, wrong_stats, wrong_totals


def _proven_again(data: bytes) -> bytes | None:
    """Return a JSON object's text as a line that proves itself, or None where it is no JSON object."""
    try:
        record = json.loads(data.decode())
        if not isinstance(record, dict):
            return None
        record.pop("_crc", None)
        return encode_line(cast("JsonObject", record))
    except (UnicodeDecodeError, ValueError, RecursionError):
        return None


def accepted_header(data: bytes, what: str) -> Header | None:
    """Return what a `trace.json` that does not prove itself says, changed as of now, or None where it cannot be read.

    The change has a writer of its own, so that a copy without it is known to be an earlier state.
    """
    line = _proven_again(data)
    if line is None:
        return None
    try:
        header = Header.decode(line, what)
    except (CorruptFileError, UnsupportedFormatError):
        return None
    header.revision += 1
    header.changes = header.changes.then(header.revision, secrets.token_hex(4))
    return header


def accepted_tree(data: bytes, what: str) -> TreeFile | None:
    """Return what a `goal_tree.json` that does not prove itself says; see `accepted_header`."""
    line = _proven_again(data)
    if line is None:
        return None
    try:
        tree = TreeFile.decode(line, what)
        tree.tree.check()
    except (CorruptFileError, UnsupportedFormatError, InvalidValueError):
        return None
    tree.revision += 1
    tree.changed = tree.revision
    tree.changes = tree.changes.then(tree.revision, secrets.token_hex(4))
    return tree


def rebuilt_header(trace_id: str, incarnation: str, messages: LogRead, last_event: int) -> Header | None:
    """Return the header that the logs prove, or None where their records cannot be counted.

    Its revision is below every other, and nobody changed it: so a copy's header, if there is one,
    is a later state, and a sync brings it.
    """
    fold = _fold(messages)
    if fold is None:
        return None
    header = Header(Trace(trace_id=trace_id), incarnation, revision=0)
    header.checkpoint = Checkpoint({"messages": messages.end, "events": last_event})
    _count(header, fold)
    return header


def recounted_header(header: Header, messages: LogRead) -> bytes | None:
    """Return a header with the totals that the messages up to its checkpoint give, or None where it has these."""
    fold = _fold(messages, header.checkpoint.ends["messages"])
    if fold is None or not any(wrong_totals(header, fold)):
        return None
    header.revision += 1
    _count(header, fold)
    return header.encode()


def _count(header: Header, fold: MessageFold) -> None:
    totals = header.trace.__dict__
    totals.update(totals_of(fold.total, header.adjustments))
    totals["last_sequence"] = max(fold.last_sequence, header.floor)
    totals["last_event_id"] = header.checkpoint.ends["events"]


def recounted_tree(tree: TreeFile, messages: LogRead) -> bytes | None:
    """Return a goal tree with the stats that the messages give, or None where it has these."""
    fold = _fold(messages, tree.messages)
    try:
        tree.tree.check()
        if fold is None or not any(wrong_stats(tree, fold)):
            return None
    except InvalidValueError:
        return None  # goals that do not make a tree have no sums, nor have messages that add up to more than fits
    tree.revision += 1
    tree.tree = with_stats(tree.tree, fold.by_goal, tree.was_set)
    return tree.encode()


def _fold(messages: LogRead, end: int | None = None) -> MessageFold | None:
    """Return the fold up to an offset, or None where a record is no message: a check says which."""
    try:
        return fold_to(messages.records, messages.end if end is None else end)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
