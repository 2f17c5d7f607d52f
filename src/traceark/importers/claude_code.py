"""Claude Code sessions: the JSON Lines files under ``~/.claude/projects``.

The format is the program's own and undocumented; what is relied on here was read off files of
versions 2.0 to 2.1 and is kept small: `type`, `sessionId`, `uuid`, `parentUuid`, `isSidechain`,
`agentId`, `timestamp`, `message`, `toolUseResult`. This module decides which trace a row belongs
to; `claude_trace` puts a trace together.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.claude_goals import child_trace_id
from traceark.importers.claude_trace import NAME, TraceBuilder
from traceark.importers.jsonl import Row, head_rows, rows_of
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

_AGENT_FILE = re.compile(r"agent-(.+)\.jsonl", re.IGNORECASE)


class ClaudeCode:
    """Reads a session's file.

    The trace id is the session's id; a sub-agent is a child trace ``<session>-agent-<agent>``.

    Examples
    --------
    >>> from pathlib import Path
    >>> import traceark.importers
    >>> sample = Path(traceark.importers.__file__).parent.parent / "samples/claude-code/fix-failing-test.jsonl"
    >>> [trace] = ClaudeCode().read(sample, ImportCounts())
    >>> trace.trace.task
    'The test test_parse_empty fails since this morning. Please find out why and fix it.'
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether one of the first rows of the file is a session's row."""
        return any(row.value is not None and _is_session_row(row.value) for row in head_rows(path))

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the session's trace, then those of sub-agents and other sessions in the file."""
        # A row is taken while it is near the processor, so no more are read ahead than it takes to know the file.
        rows, ahead = rows_of(path.read_bytes()), []
        named = marked = False
        for row in rows:
            ahead.append(row)
            if row.value is not None:
                named, marked = named or _session_of(row.value) is not None, marked or _is_marked(row.value)
            if named and marked:
                break
        router = _Router(path, ahead, counts)
        if router.first_session is None:
            counts.problems.append(Problem(str(path), 0, "no row names a session; nothing was taken"))
            return
        file_rows = 0
        for row in chain(ahead, rows):
            file_rows += not row.torn
            if row.value is None:
                counts.problems.append(Problem(str(path), row.line, row.reason))
            builder = router.builder(row)
            if row.torn:
                counts.rows["torn"] += 1
                builder.torn_tail = row.text
            else:
                builder.add(row)
        for builder in router.builders.values():
            source = builder.finish()
            source.file_rows = file_rows
            yield source


def _is_session_row(row: Mapping[str, Json]) -> bool:
    if not isinstance(row.get("type"), str):
        return False
    if isinstance(row.get("sessionId"), str):
        return isinstance(row.get("message"), dict) or "isSidechain" in row or row["type"] in _PLAIN_ROWS
    return row["type"] == "file-history-snapshot" and isinstance(row.get("snapshot"), dict)


_PLAIN_ROWS = frozenset(
    {"permission-mode", "last-prompt", "queue-operation", "custom-title", "ai-title", "agent-name", "pr-link", "mode"}
)


class _Router:
    """Finds the trace of each row, making its builder when it is the first of it.

    A row that says nothing of where it belongs goes with the rows around it.
    """

    def __init__(self, path: Path, rows: Sequence[Row], counts: ImportCounts) -> None:
        self.builders: dict[str, TraceBuilder] = {}
        self._counts = counts
        self._typed = Typed(counts.repaired)
        sessions = filter(None, map(_session_of, _values(rows)))
        self.first_session = next(sessions, None) or _uuid_of(path.stem)
        self._session = self.first_session or ""
        number, marked = next(
            ((row.number, row.value) for row in rows if row.value is not None and _is_marked(row.value)),
            (0, {}),
        )
        match = _AGENT_FILE.fullmatch(path.name)
        self._file_agent = self._typed.text(match[1]) if match and _is_sidechain(marked) else None
        self._chains: dict[str, str] = {}
        self._home_agent = self._agent_of(marked, number) if _is_sidechain(marked) else None
        self._previous: TraceBuilder | None = None

    def builder(self, row: Row) -> TraceBuilder:
        """Return the builder of the trace that a row belongs to."""
        if row.value is None:
            builder = self._previous or self._builder(self._home_agent)
        else:
            self._session = _session_of(row.value) or self._session
            builder = self._builder_of(row.value, row.number)
        self._previous = builder
        return builder

    def _builder_of(self, value: JsonObject, number: int) -> TraceBuilder:
        if _is_sidechain(value):
            agent = self._agent_of(value, number)
            builder = self._builder(agent)
            if agent != self._home_agent:
                self._link(value, agent, builder)
            return builder
        unmarked = "isSidechain" not in value
        return self._builder(self._home_agent if unmarked else None)

    def _builder(self, agent: str | None) -> TraceBuilder:
        trace_id = self._session if agent is None else child_trace_id(self._session, agent)
        builder = self.builders.get(trace_id)
        if builder is None:
            builder = self.builders[trace_id] = TraceBuilder(trace_id, self._session, agent, self._counts)
        return builder

    def _agent_of(self, value: Mapping[str, Json], number: int) -> str:
        """Return the agent of a sidechain's row: as told, by the file's name, or the row the chain began with."""
        own, parent = value.get("uuid"), value.get("parentUuid")
        agent = self._typed.identifier(value.get("agentId")) or self._file_agent
        if agent is None and isinstance(parent, str):
            agent = self._chains.get(parent)
        agent = agent or self._typed.identifier(own) or f"row-{number}"
        if isinstance(own, str):
            self._chains[own] = agent
        return agent

    def _link(self, value: Mapping[str, Json], agent: str, child: TraceBuilder) -> None:
        """Where a chain begins beside the session that started it, find the call by its prompt."""
        parent, inner = self.builders.get(self._session), value.get("message")
        if parent is None or value.get("parentUuid") is not None or not isinstance(inner, dict):
            return
        goal_id = parent.goals.link_prompt(inner.get("content"), agent)
        if goal_id is not None:
            child.header.under(None, goal_id)


def _values(rows: Sequence[Row]) -> Iterator[JsonObject]:
    return (row.value for row in rows if row.value is not None)


def _is_marked(value: Mapping[str, Json]) -> bool:
    return "isSidechain" in value or "agentId" in value


def _is_sidechain(value: Mapping[str, Json]) -> bool:
    return value.get("isSidechain") is True or isinstance(value.get("agentId"), str)


def _session_of(value: Mapping[str, Json]) -> str | None:
    session = value.get("sessionId")
    if not isinstance(session, str) or not session:
        return None
    return session if session.isascii() or session == session.encode(errors="replace").decode() else None


def _uuid_of(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
