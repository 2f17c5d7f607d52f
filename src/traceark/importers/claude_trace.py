"""One trace of a Claude Code session, put together row by row.

Each user or assistant row becomes one message, every other row one event; goals, the events of their
changes and the header are derived from them. What a row says beyond the message's fields stays in its
extra field `source`, where `elsewhere` refers to what is said twice.
It is a fold over the past: the trace of the first rows is a beginning of the whole one, but that
usage moves to the last row of its streamed message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from traceark.importers import elsewhere
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.claude_goals import ClaudeGoals, Result
from traceark.importers.claude_header import HeaderFold
from traceark.importers.jsonl import Row
from traceark.importers.rows import RowTrace
from traceark.models import Json, JsonObject, Usage

NAME = "claude-code"
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_USAGE_NAMES = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}


@dataclass(slots=True)
class _Spent:
    """What one streamed message cost, by its last row so far."""

    index: int
    usage: Json = None
    cost: float | None = None


class TraceBuilder(RowTrace):
    """Takes the rows of one trace, in order."""

    def __init__(self, trace_id: str, session: str, agent_id: str | None, counts: ImportCounts) -> None:
        super().__init__(NAME, counts)
        self.goals = ClaudeGoals(self.typed, session)
        self.header = HeaderFold(trace_id, session, agent_id, self.typed)
        self._trace_id = trace_id
        self._rows_by_id: dict[str, bytes] = {}
        self._spent: dict[str, _Spent] = {}
        self._tool_names: dict[str, str] = {}
        # By the id of a call the place of its message, and of each message that of the call it answers.
        self._calls: dict[str, int] = {}
        self._answered: list[int | None] = []

    def add(self, row: Row) -> None:
        """Take a row or a piece that is none."""
        value = self.value_of(row)
        if value is None:
            return
        told = value.get("type")
        kind = self.typed.text(told) or "unknown"
        self.counts.rows[kind] += 1
        at = self.typed.time(value.get("timestamp"))
        self.header.see(value, at)
        self._time = at or self._time
        inner = value.get("message")
        if kind in ("user", "assistant") and isinstance(inner, dict) and "content" in inner:
            message_id = self._message_id(row)
            if message_id is not None:
                self._add_message(row, value, inner, message_id, kind)
                self.events += self.goals.changes(message_id)
                return
        self._link(value)
        self.goals.notice(value.get("content"), self._time)
        self.event(kind, row)
        self.events += self.goals.changes()

    def finish(self) -> SourceTrace:
        """Return the trace."""
        for spent in self._spent.values():
            fields = self.messages[spent.index]
            if isinstance(spent.usage, dict):
                fields["usage"] = usage = self._usage(spent.usage)
                fields["tokens"] = usage.total()
            fields["cost"] = spent.cost
        trace = self.header.trace()
        goals = self.goals.tree(trace.task or "")
        trace.current_goal_id = goals.current_id if goals is not None else None
        messages = self.made()
        for message, call in zip(messages, self._answered, strict=True):
            elsewhere.shorten(message, messages[call] if call is not None else None)
        return SourceTrace(trace, messages, self.events, goals, self.digests, torn_tail=self.torn_tail)

    def _message_id(self, row: Row) -> str | None:
        """Return the row's id; None when the very same row has been taken already."""
        told = self.typed.identifier(row.value["uuid"]) if row.value and "uuid" in row.value else None
        message_id = told or f"{self._trace_id}-row-{row.number}"
        name, again = message_id, 1
        while (seen := self._rows_by_id.get(name)) is not None:
            if seen == row.raw:
                self.counts.repaired["a row that repeats an earlier one, kept as an event"] += 1
                return None
            again += 1
            name = f"{message_id}#{again}"
        if again > 1:
            self.counts.repaired["an id that another row has, made unique"] += 1
        self._rows_by_id[name] = row.raw
        return name

    def _add_message(self, row: Row, value: JsonObject, inner: JsonObject, message_id: str, kind: str) -> None:
        without_content: JsonObject = {name: item for name, item in inner.items() if name != "content"}
        fields: dict[str, Any] = {
            "message_id": message_id,
            "trace_id": self._trace_id,
            "role": kind,
            "content": inner["content"],
            "created_at": self._time,
            "source": {**value, "message": without_content},
        }
        if not row.exact:
            fields["source_text"] = row.text
        copied = self.header.copied_from(value)
        self.goals.copying = copied
        if copied:
            fields["copied"] = True
        before = self.goals.current()
        if kind == "assistant":
            self._take_calls(fields, inner)
            if not copied:
                self._take_usage(value, inner)
        else:
            self._take_results(fields, value, inner)
            self.goals.notice(inner["content"], self._time)
        if fields.get("goal_id") is None:
            fields["goal_id"] = before or self.goals.current()
        self.header.see_message(fields["role"], inner["content"], value)
        self._answered.append(self._calls.get(fields.get("tool_call_id") or ""))
        self.messages.append(fields)

    def _take_calls(self, fields: dict[str, Any], inner: Mapping[str, Json]) -> None:
        calls = [block for block in _blocks(inner["content"]) if block.get("type") in _CALLS]
        for block in calls:
            call_id, tool = self.typed.identifier(block.get("id")), self.typed.text(block.get("name"))
            if call_id is None or tool is None:
                continue
            self._tool_names[call_id] = tool
            self._calls[call_id] = len(self.messages)
            arguments = block.get("input")
            self.goals.call(call_id, tool, arguments if isinstance(arguments, dict) else {}, self._time)
            if len(calls) == 1:
                fields["tool_call_id"], fields["tool_name"] = call_id, tool
                fields["goal_id"] = self.goals.agent_goal(call_id)

    def _take_results(self, fields: dict[str, Any], value: Mapping[str, Json], inner: Mapping[str, Json]) -> None:
        results = [block for block in _blocks(inner["content"]) if block.get("type") == "tool_result"]
        if not results:
            return
        fields["role"] = "tool"
        beside = value.get("toolUseResult")
        alone = len(results) == 1
        details: Mapping[str, Json] = beside if alone and isinstance(beside, dict) else {}
        for block in results:
            call_id = self.typed.identifier(block.get("tool_use_id"))
            if call_id is None:
                continue
            result = Result(call_id, text_of(block.get("content")), block.get("is_error") is True, details)
            self.goals.result(result, self._time)
            if alone:
                duration = details.get("durationMs", details.get("totalDurationMs"))
                fields["tool_call_id"], fields["tool_name"] = call_id, self._tool_names.get(call_id)
                fields["goal_id"] = self.goals.agent_goal(call_id)
                fields["duration_ms"] = self.typed.duration_ms(duration)
                if result.is_error:
                    fields["status"], fields["error"] = "failed", self.typed.summary(result.text)

    def _take_usage(self, value: Mapping[str, Json], inner: Mapping[str, Json]) -> None:
        usage, cost = inner.get("usage"), self.typed.cost(value.get("costUSD"))
        if not isinstance(usage, dict) and cost is None:
            return
        index = len(self.messages)
        told = inner.get("id")
        spent = self._spent.setdefault(told if isinstance(told, str) and told else f"#{index}", _Spent(index))
        spent.index = index
        spent.usage = usage if isinstance(usage, dict) else spent.usage
        spent.cost = cost if cost is not None else spent.cost

    def _usage(self, raw: JsonObject) -> Usage:
        counts: dict[str, Any] = dict.fromkeys(Usage.model_fields)
        extra: dict[str, Any] = {}
        for name, value in raw.items():
            if name in _USAGE_NAMES:
                counts[_USAGE_NAMES[name]] = self.typed.count(value)
            elif name not in counts and self.typed.identifier(name) is not None:
                extra[name] = value
        return Usage.restored(counts, extra)

    def _link(self, value: Mapping[str, Json]) -> None:
        """Note which sub-agent a call started, where a progress row tells it."""
        data, call_id = value.get("data"), value.get("parentToolUseID")
        agent_id = self.typed.identifier(data.get("agentId")) if isinstance(data, dict) else None
        if agent_id is not None and isinstance(call_id, str):
            self.goals.link_agent(call_id, agent_id)


def text_of(content: Json) -> str:
    """Return the text of a message's or a tool result's content.

    Examples
    --------
    >>> text_of([{"type": "text", "text": "done"}, {"type": "image"}])
    'done'
    """
    if isinstance(content, str):
        return content
    texts = (block.get("text") for block in _blocks(content) if block.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _blocks(content: Json) -> Iterator[JsonObject]:
    if isinstance(content, list):
        for block in content:
            if isinstance(block, dict):
                yield block
