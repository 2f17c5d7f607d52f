"""opencode sessions, as its hooks told them to a plugin that wrote them down, or as it exports them.

A row is a list: the name of a hook, and what the hook was given, such as
``["event", {"event": {"type": "message.updated", "properties": {…}}}]``. A stream of events, as
opencode's server sends it, has the events alone, an object each. What is relied on was read off
recordings of version 1.14. This module decides which session a row belongs to; `opencode_trace`
puts a trace together, and exports are `opencode_export`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.jsonl import Row, head_rows, rows_of
from traceark.importers.opencode_export import is_export, read_export
from traceark.importers.opencode_trace import NAME, SessionTrace, Told
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

# What tells of a session for certain.
_KINDS = ("session.", "message.", "chat.message")


class OpenCode:
    """Reads a recording, which may be of several sessions: those of sub-agents are sessions of their own.

    The trace id is the session's id.

    Examples
    --------
    >>> import tempfile
    >>> row = '["event",{"event":{"type":"session.created","properties":{"info":{"id":"ses_1","title":"A test"}}}}]'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "recording.jsonl")
    ...     _ = path.write_text(row)
    ...     [source] = OpenCode().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.metadata, source.events[0].event_type
    ('ses_1', {'title': 'A test'}, 'opencode.session.created')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file is an export, or one of its first rows tells of a session or of a message in one."""
        told = (_told(row) for row in head_rows(path))
        return is_export(path) or any(
            each is not None and each.kind.startswith(_KINDS) and _session_of(each) for each in told
        )

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of the sessions, in the order in which they are first named."""
        if is_export(path):
            yield from read_export(path, counts)
            return
        rows = [(row, _told(row)) for row in rows_of(path.read_bytes())]
        typed = Typed(counts.repaired)
        sessions = [typed.identifier(_session_of(told)) if told is not None else None for _, told in rows]
        session = next((each for each in sessions if each is not None), None)
        if session is None:
            counts.problems.append(Problem(str(path), 0, "no row names a session; nothing was taken"))
            return
        traces: dict[str, SessionTrace] = {}
        for (row, told), named in zip(rows, sessions, strict=True):
            # What names no session, such as the definition of a tool, goes with the rows around it.
            session = named or session
            trace = traces.get(session) or traces.setdefault(session, SessionTrace(session, counts))
            if told is None:
                counts.problems.append(Problem(str(path), row.line, row.reason))
            if row.torn:
                counts.rows["torn"] += 1
                trace.torn_tail = row.text
            else:
                trace.add(row, told)
        file_rows = sum(not row.torn for row, _ in rows)
        for trace in traces.values():
            source = trace.finish(path)
            source.file_rows = file_rows
            yield source


def _told(row: Row) -> Told | None:
    """Return what a row tells; None for a piece that is no row."""
    if row.value is not None:
        return _event(row.value) or Told("unknown")
    if row.values is None:
        return None
    hook, *given = row.values or [None]
    if not isinstance(hook, str):
        return Told("unknown")
    objects: list[JsonObject] = [each if isinstance(each, dict) else {} for each in (*given, {}, {})]
    inner = objects[0].get("event") if hook == "event" else None
    event = _event(inner) if isinstance(inner, dict) else None
    return event or Told(hook, objects[0], objects[1])


def _event(value: Mapping[str, Json]) -> Told | None:
    kind, properties = value.get("type"), value.get("properties")
    return Told(kind, properties) if isinstance(kind, str) and isinstance(properties, dict) else None


def _session_of(told: Told) -> str | None:
    """Return the id of the session that a row names, itself or in what it tells of."""
    info, part = told.properties.get("info"), told.properties.get("part")
    inner = [each for each in (info, part) if isinstance(each, dict)]
    names = [each.get("sessionID") for each in (told.properties, *inner)]
    if told.kind.startswith("session.") and isinstance(info, dict):
        names.append(info.get("id"))
    return next((each for each in names if isinstance(each, str) and each), None)
