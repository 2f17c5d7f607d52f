"""One row of the catalog: a trace's header as of now, and how to tell whether its directory changed since.

Pure but for what `describe` is given: it reads nothing. Knows no change files and no snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from traceark.codec.fields import CATALOG, TRACES, Column
from traceark.codec.lines import to_record
from traceark.layout import GOAL_TREE, LOCK, LOGS, LogName, PartName, parse_log_name
from traceark.models import JsonObject, Trace
from traceark.reading import StoredTrace
from traceark.storage.base import Entry

COLUMNS: tuple[Column, ...] = TRACES + CATALOG
SETTLED, OPEN, DAMAGED, GONE = "settled", "open", "damaged", "gone"


def fingerprint(entries: Mapping[str, Entry]) -> str:
    """Return a hash of a trace's files: their names, sizes, versions and times."""
    told = hashlib.sha256()
    for name in sorted(entries):
        if name != LOCK:
            entry = entries[name]
            told.update(f"{name}\n{entry.size}\n{entry.version}\n{entry.modified}\n".encode())
    return told.hexdigest()[:16]


def describe(stored: StoredTrace, trace: Trace) -> JsonObject:
    """Return the row of a trace that was just read.

    Parameters
    ----------
    stored : StoredTrace
        Its files as they were listed.
    trace : Trace
        Its header with exact totals.
    """
    sealed = stored.is_sealed()
    tree = stored.entries.get(GOAL_TREE)
    row = to_record(trace)
    row.update(
        _state=SETTLED,
        _listed=True,
        _incarnation=stored.header.incarnation,
        _revision=stored.header.revision,
        _sealed=sealed,
        _files=fingerprint(stored.entries),
        _tree=None if tree is None else tree_number(tree.size, tree.version),
        _openings=[],
        _gone=[],
    )
    for log in LOGS:
        row[f"_{log}"] = _whole_part(stored, log) if sealed else None
    return row


def damaged(trace_id: str, entries: Mapping[str, Entry], problem: str) -> JsonObject:
    """Return the row of a trace that cannot be read."""
    return {
        "trace_id": trace_id,
        "_state": DAMAGED,
        "_listed": False,
        "_files": fingerprint(entries),
        "_openings": [],
        "_gone": [],
        "_problem": problem,
    }


def tree_number(size: int, version: str) -> int:
    """Return the number of a goal tree, which tells it from any other of its trace, given its file's size and version.

    Examples
    --------
    >>> tree_number(100, "a") == tree_number(100, "a"), tree_number(100, "a") == tree_number(100, "b")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(f"{size}-{version}".encode()).digest()[:8], signed=True)


def _whole_part(stored: StoredTrace, log: LogName) -> str | None:
    """Return the part that is a sealed trace's whole log; superseded files may still lie beside it."""
    checkpoint = stored.header.checkpoint
    name = checkpoint.files.get(log, ("", 0))[0]
    parsed = parse_log_name(name)
    whole = isinstance(parsed, PartName) and (parsed.first, parsed.last) == (1, checkpoint.ends[log])
    return name if whole else None
