"""One trace of a Codex CLI session, put together row by row.

It is a fold over the past: the trace of the first rows is a beginning of the whole one, but that
usage may come to a message later.

A session that was forked from another one begins with a copy of it. Those rows are messages like
all others, marked ``copied``, and their usage is the other session's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.codex_usage import RunningTotal
from traceark.importers.document import object_of
from traceark.importers.goals import GoalFold
from traceark.importers.jsonl import Row
from traceark.importers.rows import RowTrace
from traceark.importers.times import time_of_id
from traceark.importers.usage import sum_of
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "codex"
_OUTPUTS = frozenset(
    {"function_call_output", "custom_tool_call_output", "local_shell_call_output", "mcp_tool_call_output"}
)
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "web_search_call", "mcp_tool_call"})
# Calls that name no tool.
_TOOLS = {"local_shell_call": "local_shell", "web_search_call": "web_search"}
_SPAWN, _WAITS = "spawn_agent", frozenset({"wait", "wait_agent"})
# How a sub-agent stands, in the words of goals.
_AGENT_STATUS = {"completed": "completed", "errored": "failed", "interrupted": "cancelled", "shutdown": "completed"}
_FACTS = ("cwd", "originator", "cli_version", "source", "model_provider", "git", "forked_from_id")


class CodexTrace(RowTrace):
    """Takes the rows of one session, in order."""

    def __init__(self, trace_id: str, counts: ImportCounts) -> None:
        super().__init__(NAME, counts)
        self._goals = GoalFold(self.typed)
        self._trace_id = trace_id
        # The header's fields, made a trace when nothing of them changes any more.
        self._metadata: JsonObject = {}
        self._header: dict[str, Any] = {
            "trace_id": trace_id,
            "agent_type": NAME,
            "status": "completed",
            "metadata": self._metadata,
        }
        self._began: datetime | None = None
        self._ended_at: datetime | None = None
        self._born = time_of_id(trace_id)
        self._models: list[Json] = []
        self._tool_names: dict[str, str] = {}
        self._ended: dict[str, Mapping[str, Json]] = {}
        # The goals of sub-agents by their sessions.
        self._agents: dict[str, str] = {}
        self._plans: dict[str, list[Json]] = {}
        self._total = RunningTotal(self.typed)
        # Tokens that it grew by, and those that no message has so far.
        self._stated_tokens = 0
        self._waiting: list[Usage] = []
        # The message that the model wrote last, and what it used.
        self._answer: dict[str, Any] | None = None
        self._copying = False
        # Where rows state other tokens than messages have: lines and words.
        self.differences: list[tuple[int, str]] = []

    def add(self, row: Row) -> None:
        """Take a row or a piece that is none."""
        value = self.value_of(row)
        if value is None:
            return
        kind = self.typed.text(value.get("type")) or "unknown"
        inner = value.get("payload")
        payload: JsonObject = inner if isinstance(inner, dict) else {}
        subtype = self.typed.text(payload.get("type")) if kind in ("response_item", "event_msg") else None
        name = f"{kind}.{subtype}" if subtype is not None else kind
        self.counts.rows[name] += 1
        at = self.typed.time(value.get("timestamp"))
        self._see_time(at)
        if kind == "response_item" and isinstance(inner, dict):
            self._add_message(row, value, payload, subtype or "unknown")
            return
        if kind == "session_meta":
            self._see_session(payload)
        elif kind == "turn_context":
            self._see_turn(payload)
        elif kind == "event_msg":
            self._see_event(subtype or "", payload, row.line)
        self.event(name, row)

    def finish(self) -> SourceTrace:
        """Return the trace."""
        if len(self._models) > 1:
            self._metadata["models"] = list(self._models)
        goals = self._goals.tree(self._header.get("task") or "")
        self._header["current_goal_id"] = goals.current_id if goals is not None else None
        self._header["created_at"], self._header["completed_at"] = self._began, self._ended_at
        tokens = sum(fields.get("tokens") or 0 for fields in self.messages)
        if tokens != self._stated_tokens:
            told = f"the messages have {tokens:,} tokens, the file states {self._stated_tokens:,}"
            self.differences.append((0, told))
        return SourceTrace(
            Trace.parse(self._header),
            self.made(),
            self.events,
            goals,
            self.digests,
            torn_tail=self.torn_tail,
            positional=True,
        )

    # What rows say of the whole run

    def _see_time(self, at: datetime | None) -> None:
        if at is None:
            return
        self._time = at
        if self._began is None or at < self._began:
            self._began = at
        if self._ended_at is None or at > self._ended_at:
            self._ended_at = at

    def _see_session(self, payload: Mapping[str, Json]) -> None:
        other = self.typed.identifier(payload.get("id"))
        if other is not None and other != self._trace_id:
            # What follows was copied from the session that this one was forked from.
            self._copying = True
            self._metadata.setdefault("forked_from_id", other)
            return
        for name in _FACTS:
            if payload.get(name) is not None:
                self._metadata[name] = payload[name]
        source = payload.get("source")
        if isinstance(source, dict):
            self._header["parent_trace_id"] = self.typed.identifier(
                _inside(source, "subagent", "thread_spawn", "parent_thread_id")
            )

    def _see_turn(self, payload: Mapping[str, Json]) -> None:
        self._begin_turn(payload)
        model = self.typed.text(payload.get("model"))
        if model is not None:
            self._header["model"] = model
            if model not in self._models:
                self._models.append(model)

    def _begin_turn(self, payload: Mapping[str, Json]) -> None:
        """End the copy with the first turn that is not older than the session."""
        began = time_of_id(payload.get("turn_id"))
        if self._copying and (began is None or self._born is None or began >= self._born):
            self._copying = False
            self._metadata["copied_messages"] = len(self.messages)

    def _see_event(self, subtype: str, payload: Mapping[str, Json], line: int) -> None:
        header = self._header
        if subtype == "task_started":
            self._begin_turn(payload)
            header["status"], header["error_message"] = "completed", None
        elif subtype == "user_message" and header.get("task") is None and not self._copying:
            header["task"] = self.typed.summary(payload.get("message"))
        elif subtype == "agent_message":
            header["result_summary"] = self.typed.summary(payload.get("message"), 500) or header.get("result_summary")
        elif subtype == "thread_name_updated":
            self._metadata["title"] = payload.get("thread_name")
        elif subtype == "turn_aborted":
            header["status"] = "cancelled"
        elif subtype == "error":
            header["status"], header["error_message"] = "failed", self.typed.summary(payload.get("message"), 1000)
        elif subtype == "collab_agent_spawn_end" and not self._copying:
            self._start(self.typed.identifier(payload.get("call_id")) or "", payload.get("new_thread_id"))
        elif subtype == "token_count":
            self._take_total(payload.get("info"), line)
        elif subtype.endswith("_end") and (call_id := self.typed.identifier(payload.get("call_id"))) is not None:
            self._ended[call_id] = payload

    def _take_total(self, told: Json, line: int) -> None:
        """Give what the running total grew by to the message that the model wrote last, else to its next one."""
        info = object_of(told)
        total = info.get("total_token_usage")
        growth = self._total.grow(total, object_of(info.get("last_token_usage"))) if isinstance(total, dict) else None
        if growth is None or self._copying:
            return
        tokens = growth.usage.total()
        if tokens < growth.last_tokens:
            told_here = f"the total grew by {tokens:,} tokens, the last call used {growth.last_tokens:,}"
            self.differences.append((line, told_here))
        self._stated_tokens += tokens
        self._waiting.append(growth.usage)
        self._spend()

    def _spend(self) -> None:
        if self._answer is None or not self._waiting:
            return
        known = self._answer.get("usage") or Usage()
        usage = sum_of([known, *self._waiting])
        self._answer["usage"], self._answer["tokens"] = usage, usage.total()
        self._waiting.clear()

    # Messages

    def _add_message(self, row: Row, value: JsonObject, payload: JsonObject, kind: str) -> None:
        is_message, is_output = kind == "message", kind in _OUTPUTS
        told = self.typed.text(payload.get("role")) if is_message else None
        content_name = "content" if is_message else "output" if is_output else None
        content: Json = payload.get(content_name) if content_name is not None else [payload]
        rest: JsonObject = {name: item for name, item in payload.items() if name != content_name}
        fields: dict[str, Any] = {
            "message_id": f"{self._trace_id}-row-{row.number}",
            "trace_id": self._trace_id,
            "role": told or ("tool" if is_output else "assistant"),
            "content": content,
            "created_at": self._time,
            "source": {**value, "payload": rest if content_name is not None else {"type": kind}},
        }
        if not row.exact:
            fields["source_text"] = row.text
        if self._copying:
            fields["copied"] = True
        if kind in _CALLS:
            self._take_call(fields, payload, kind)
        elif is_output:
            self._take_output(fields, payload)
        fields.setdefault("goal_id", self._goals.current())
        self.events += self._goals.changes(fields["message_id"])
        self.messages.append(fields)
        if fields["role"] == "assistant" and not self._copying:
            self._answer = fields
            self._spend()

    def _take_call(self, fields: dict[str, Any], payload: Mapping[str, Json], kind: str) -> None:
        call_id = self.typed.identifier(payload.get("call_id"))
        tool = self.typed.text(payload.get("name")) or _TOOLS.get(kind)
        fields["tool_call_id"], fields["tool_name"] = call_id, tool
        if call_id is None or tool is None:
            return
        self._tool_names[call_id] = tool
        if tool == "update_plan":
            self._plans[call_id] = _plan_of(payload.get("arguments"))
        elif tool == _SPAWN and not self._copying:
            # What was copied started another session's sub-agents.
            told = self.typed.summary(_object(payload.get("arguments")).get("message"))
            fields["goal_id"] = self._goals.start_agent(call_id, told or tool, self._time).id

    def _take_output(self, fields: dict[str, Any], payload: Mapping[str, Json]) -> None:
        call_id = self.typed.identifier(payload.get("call_id"))
        if call_id is None:
            return
        fields["tool_call_id"], fields["tool_name"] = call_id, self._tool_names.get(call_id)
        ended = self._ended.pop(call_id, {})
        fields["duration_ms"] = self._duration(ended.get("duration"))
        failed = ended.get("status") == "failed" or ended.get("success") is False
        if failed or ended.get("exit_code") not in (None, 0):
            fields["status"] = "failed"
            fields["error"] = self.typed.summary(
                ended.get("stderr") or ended.get("aggregated_output") or payload.get("output")
            )
        if (goal := self._goals.agent(call_id)) is not None:
            fields["goal_id"] = goal.id
            self._start(call_id, _object(payload.get("output")).get("agent_id"))
            if fields.get("status") == "failed":
                self._goals.change(goal, self._time, "failed")
        elif fields["tool_name"] in _WAITS:
            self._take_statuses(_object(payload.get("output")).get("status"))
        plan = self._plans.pop(call_id, None)
        if plan is not None:
            self._goals.write_todos(plan, self._time)

    def _start(self, call_id: str, told: Json) -> None:
        """Note which session a call started."""
        goal, child_id = self._goals.agent(call_id), self.typed.identifier(told)
        if goal is not None and child_id is not None:
            self._goals.name_trace(goal, child_id)
            self._agents[child_id] = goal.id

    def _take_statuses(self, told: Json) -> None:
        """Take how sub-agents stand, as waiting for them tells it: a word, or an object of a word and a text."""
        for child_id, standing in told.items() if isinstance(told, dict) else ():
            goal = self._goals.agent(self._agents.get(child_id))
            words = standing if isinstance(standing, dict) else {standing: None} if isinstance(standing, str) else {}
            for word, text in words.items():
                if goal is not None and word in _AGENT_STATUS:
                    self._goals.change(goal, self._time, _AGENT_STATUS[word])
                    goal.summary = self.typed.summary(text) or goal.summary

    def _duration(self, told: Json) -> int | None:
        """Return the milliseconds of ``{secs, nanos}``."""
        if not isinstance(told, dict):
            return None
        seconds, nanoseconds = told.get("secs"), told.get("nanos")
        if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
            return None
        return self.typed.duration_ms(seconds * 1000 + nanoseconds // 1_000_000)


def _plan_of(arguments: Json) -> list[Json]:
    """Return the steps of a call of `update_plan` as things to do."""
    steps = _object(arguments).get("plan")
    return [
        {"content": step.get("step"), "status": step.get("status")}
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, dict)
    ]


def _object(told: Json) -> Mapping[str, Json]:
    """Return an object, be it as text; an empty one for what is none."""
    try:
        value = json.loads(told) if isinstance(told, str) else told
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _inside(value: Mapping[str, Json], *names: str) -> Json:
    """Return what lies below some names, one in the other; None where something is missing."""
    found: Json = dict(value)
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
