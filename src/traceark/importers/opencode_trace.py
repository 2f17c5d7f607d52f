"""One trace of an opencode session, put together row by row: its header, and every row as an event.

It is a fold over the past: the trace of the first rows is a beginning of the whole one, but that
usage may change. `opencode_messages` makes the messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import object_of, objects_of, without
from traceark.importers.jsonl import Row
from traceark.importers.opencode_messages import SessionMessages, failure_of
from traceark.importers.rows import RowTrace
from traceark.models import Json, JsonObject, Trace

NAME = "opencode"
_FACTS = ("title", "slug", "version", "projectID", "directory")


@dataclass(frozen=True, slots=True)
class Told:
    """What a row tells: an event with its properties, or a hook with its two arguments."""

    kind: str
    properties: JsonObject = field(default_factory=dict)
    output: JsonObject = field(default_factory=dict)


class SessionTrace(RowTrace):
    """Takes the rows of one session, in order."""

    def __init__(self, trace_id: str, counts: ImportCounts) -> None:
        super().__init__(NAME, counts)
        self._said = SessionMessages(trace_id, self.typed, self.messages)
        self._trace_id = trace_id
        self._metadata: JsonObject = {}
        self._header: dict[str, Any] = {"trace_id": trace_id, "agent_type": NAME, "metadata": self._metadata}
        self._outcome: tuple[str, str | None] = ("completed", None)
        self._busy = False
        self._times: list[datetime] = []
        self._models: list[Json] = []

    def add(self, row: Row, told: Told | None) -> None:
        """Take a row, or a piece that is none."""
        if told is None:
            self.value_of(row)
            return
        self.chain(row)
        kind = self.typed.text(told.kind) or "unknown"
        self.counts.rows[kind] += 1
        self._take(kind, told)
        self.event(kind, row)
        self.events += self._said.goals.changes()

    def export(self, info: JsonObject, told: JsonObject) -> None:
        """Take what an export says of the session, and all that it says beside messages."""
        self._take_session(info)
        self._metadata["opencode"] = told

    def status(self, status: Json) -> None:
        """Take what the session does."""
        self._busy = status != "idle"
        if self._busy:
            self._said.close_asked()
        else:
            self._said.close_all()

    def finish(self, path: Path) -> SourceTrace:
        """Return the trace; say so where a message states another usage or cost than its steps do."""
        for differs in self._said.spend():
            self.counts.differences.append(Problem(str(path), 0, f"{self._trace_id}: {differs}"))
        if len(self._models) > 1:
            self._metadata["models"] = list(self._models)
        header, said = self._header, self._said
        header["task"] = self.typed.summary(next(filter(None, said.texts("user")), None))
        header["result_summary"] = self.typed.summary(next(filter(None, reversed(said.texts("assistant"))), None), 500)
        header["status"], header["error_message"] = self._outcome
        if self._busy and header["status"] == "completed":
            header["status"] = "running"
        goals = said.goals.tree(header["task"] or "")
        header["current_goal_id"] = goals.current_id if goals is not None else None
        header["created_at"], header["completed_at"] = min(self._times, default=None), max(self._times, default=None)
        trace = Trace.parse(header)
        return SourceTrace(trace, self.made(), self.events, goals, self.digests, torn_tail=self.torn_tail)

    def _take(self, kind: str, told: Told) -> None:
        properties, said = told.properties, self._said
        if kind in ("session.created", "session.updated"):
            self._take_session(object_of(properties.get("info")))
        elif kind in ("chat.message", "message"):
            info = object_of(told.output.get("message"))
            # It begins, it gets its parts, and perhaps it is completed.
            self._take_info(without(info, "time"))
            for part in objects_of(told.output.get("parts")):
                said.part(part)
            self._take_info(info)
        elif kind == "message.updated":
            self._take_info(object_of(properties.get("info")))
        elif kind == "message.part.updated":
            self._see_time(properties.get("time"))
            said.part(object_of(properties.get("part")))
        elif kind == "message.part.delta":
            said.delta(properties)
        elif kind in ("message.removed", "message.part.removed"):
            said.remove(properties.get("messageID"), properties.get("partID"))
        elif kind == "session.status":
            self.status(object_of(properties.get("status")).get("type"))
        elif kind == "session.idle":
            self.status("idle")
        elif kind == "session.error":
            self._outcome = failure_of(properties.get("error"), self.typed)
        elif kind == "todo.updated":
            said.goals.write_todos(objects_of(properties.get("todos")), self._times[-1] if self._times else None)

    def _see_time(self, told: Json) -> None:
        at = self.typed.milliseconds(told)
        if at is not None:
            self._times.append(at)
            self._time = at

    def _take_session(self, info: JsonObject) -> None:
        for name in _FACTS:
            if info.get(name) is not None:
                self._metadata[name] = info[name]
        for at in object_of(info.get("time")).values():
            self._see_time(at)
        if (parent := self.typed.identifier(info.get("parentID"))) is not None:
            self._header["parent_trace_id"] = parent

    def _take_info(self, info: JsonObject) -> None:
        for at in object_of(info.get("time")).values():
            self._see_time(at)
        if self._said.info(info):
            # What failed before has been gone on from.
            self._outcome = ("completed", None)
        if info.get("role") != "assistant":
            return
        if (model := self.typed.text(info.get("modelID"))) is not None:
            self._header["model"] = model
            if model not in self._models:
                self._models.append(model)
        if (agent := info.get("agent") or info.get("mode")) is not None:
            self._metadata.setdefault("agent", agent)
        if info.get("error") is not None:
            self._outcome = failure_of(info["error"], self.typed)
