"""Codex CLI sessions: the rollout files under ``~/.codex/sessions``.

The format is the program's own; what is relied on here was read off files of versions 0.118 to
0.126: rows ``{timestamp, type, payload}`` of the types `session_meta`, `turn_context`,
`response_item`, `event_msg` and `compacted`. Response items become messages, all other rows
events, raw; `codex_trace` puts a trace together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.codex_trace import NAME, CodexTrace
from traceark.importers.jsonl import head_rows, rows_of
from traceark.importers.typed import Typed
from traceark.models import Json

_TYPES = frozenset({"session_meta", "turn_context", "response_item", "event_msg", "compacted"})


class Codex:
    """Reads a session's file; the trace id is the session's id.

    Examples
    --------
    >>> import tempfile
    >>> row = '{"timestamp":"2026-04-10T20:02:04Z","type":"session_meta","payload":{"id":"019d"}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "rollout.jsonl")
    ...     _ = path.write_text(row)
    ...     [source] = Codex().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.agent_type
    ('019d', 'codex')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether one of the first rows of the file is a session's row."""
        return any(row.value is not None and _is_session_row(row.value) for row in head_rows(path))

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the session's trace."""
        # A row is taken while it is near the processor, so no more are read ahead than it takes to name the session.
        rows, ahead, typed = rows_of(path.read_bytes()), [], Typed(counts.repaired)
        trace_id = None
        for row in rows:
            ahead.append(row)
            trace_id = _session_id(row.value, typed) if row.value is not None else None
            if trace_id is not None:
                break
        if trace_id is None:
            counts.problems.append(Problem(str(path), 0, "no row names the session; nothing was taken"))
            return
        trace = CodexTrace(trace_id, counts)
        file_rows = 0
        for row in chain(ahead, rows):
            file_rows += not row.torn
            if row.value is None:
                counts.problems.append(Problem(str(path), row.line, row.reason))
            if row.torn:
                counts.rows["torn"] += 1
                trace.torn_tail = row.text
            else:
                trace.add(row)
        source = trace.finish()
        source.file_rows = file_rows
        for line, told in trace.differences:
            counts.differences.append(Problem(str(path), line, f"{trace_id}: {told}"))
        yield source


def _is_session_row(value: Mapping[str, Json]) -> bool:
    kind = value.get("type")
    return isinstance(kind, str) and kind in _TYPES and isinstance(value.get("payload"), dict) and "timestamp" in value


def _session_id(value: Mapping[str, Json], typed: Typed) -> str | None:
    payload = value.get("payload")
    if value.get("type") != "session_meta" or not isinstance(payload, dict):
        return None
    return typed.identifier(payload.get("id"))
