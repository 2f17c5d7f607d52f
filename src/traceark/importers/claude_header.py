"""The header of a Claude Code session's trace: task, model, status, times, and what the rows say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from traceark.importers.claude_goals import child_trace_id
from traceark.importers.typed import Typed
from traceark.models import Json, Trace, TraceStatus

# Text that the program itself puts into a user's row.
_NO_PROMPT = re.compile(
    r"\s*(<(local-command|command-|system-reminder|bash-|task-notification|user-)|Caveat:|\[Request)"
)
_COMMAND = re.compile(r"<command-name>(.*?)</command-name>", re.DOTALL)
_ARGUMENTS = re.compile(r"<command-args>(.*?)</command-args>", re.DOTALL)
_INTERRUPTED = "[Request interrupted by user"
# Names of metadata by the row's field; the last value said counts.
_FACTS = {
    "cwd": "cwd",
    "gitBranch": "gitBranch",
    "version": "version",
    "slug": "slug",
    "entrypoint": "entrypoint",
    "userType": "userType",
    "permissionMode": "permissionMode",
    "customTitle": "title",
    "aiTitle": "title",
    "agentName": "agentName",
    "prUrl": "prUrl",
}


class HeaderFold:
    """The header so far.

    A session's file never says that a run has ended, and a file on disk is usually one that has:
    the status is ``completed`` unless the last message is an API error (``failed``) or an
    interruption by the user (``cancelled``). A file that grew brings the header up to date.
    """

    def __init__(self, trace_id: str, session: str, agent_id: str | None, typed: Typed) -> None:
        self._typed = typed
        self._session = session
        self._trace_id = trace_id
        self._parent = session if agent_id is not None else None
        self._parent_goal: str | None = None
        self._began: datetime | None = None
        self._ended: datetime | None = None
        self._status: TraceStatus = "completed"
        self._error: str | None = None
        self._result: str | None = None
        self._task: str | None = None
        self._command: str | None = None
        self._told: list[Json] = []
        self._copied = 0
        self._model: str | None = None
        self._models: list[Json] = []
        self._metadata: dict[str, Json] = {"sessionId": session}
        if agent_id is not None:
            self._metadata["agentId"] = agent_id

    def under(self, parent_agent: str | None, goal_id: str | None) -> None:
        """Say which trace and goal this one belongs to."""
        if parent_agent is not None:
            self._parent = child_trace_id(self._session, parent_agent)
        self._parent_goal = goal_id

    def see(self, row: Mapping[str, Json], at: datetime | None) -> None:
        """Take what any row says of the whole run."""
        if at is not None:
            if self._began is None or at < self._began:
                self._began = at
            if self._ended is None or at > self._ended:
                self._ended = at
        told = [row.get(name) for name in _FACTS]
        if told != self._told:
            # Row by row they are mostly the same.
            self._told = told
            for metadata_name, value in zip(_FACTS.values(), told, strict=True):
                if (fact := self._typed.text(value)) is not None:
                    self._metadata[metadata_name] = fact
        if row.get("type") == "summary" and (summary := self._typed.text(row.get("summary"))) is not None:
            self._metadata.setdefault("title", summary)

    def copied_from(self, row: Mapping[str, Json]) -> bool:
        """Say whether a message was copied from the session that this one was forked from, and remember where."""
        told = row.get("forkedFrom")
        origin = self._typed.identifier(told.get("sessionId")) if isinstance(told, dict) else None
        if origin is None or origin == self._session or not isinstance(told, dict):
            return False
        self._metadata.setdefault("forked_from_id", origin)
        self._metadata["forked_at"] = told.get("messageUuid")
        self._copied += 1
        self._metadata["copied_messages"] = self._copied
        return True

    def see_message(self, role: str, content: Json, row: Mapping[str, Json]) -> None:
        """Take what a message says of the whole run."""
        text = _prompt_of(content)
        is_prompt = role == "user" and not ("forkedFrom" in row or row.get("isMeta") or row.get("isCompactSummary"))
        if is_prompt and self._task is None:
            self._take_prompt(text)
        if role == "assistant":
            self._take_model(row)
        self._take_outcome(role, row, text)

    def trace(self) -> Trace:
        """Return the header."""
        metadata = dict(self._metadata)
        if len(self._models) > 1:
            metadata["models"] = list(self._models)
        return Trace.parse(
            {
                "trace_id": self._trace_id,
                "agent_type": "claude-code",
                "status": self._status,
                "task": self._task or self._command,
                "model": self._model,
                "parent_trace_id": self._parent,
                "parent_goal_id": self._parent_goal,
                "result_summary": self._typed.summary(self._result, 500),
                "error_message": self._error,
                "metadata": metadata,
                "created_at": self._began,
                "completed_at": self._ended,
            }
        )

    def _take_prompt(self, text: str) -> None:
        if not text.strip():
            return
        if not _NO_PROMPT.match(text):
            self._task = self._typed.summary(text)
        elif self._command is None and (command := _COMMAND.search(text)):
            arguments = _ARGUMENTS.search(text)
            self._command = self._typed.summary(f"{command[1]} {arguments[1] if arguments else ''}")

    def _take_model(self, row: Mapping[str, Json]) -> None:
        inner = row.get("message")
        model = self._typed.text(inner.get("model")) if isinstance(inner, dict) else None
        if model is None or model.startswith("<"):
            return
        self._model = model
        if model not in self._models:
            self._models.append(model)

    def _take_outcome(self, role: str, row: Mapping[str, Json], text: str) -> None:
        self._status, self._error = "completed", None
        if row.get("isApiErrorMessage") is True:
            self._status, self._error = "failed", self._typed.summary(text, 1000)
        elif role != "assistant" and _INTERRUPTED in text[:100]:
            self._status = "cancelled"
        elif role == "assistant" and text.strip():
            self._result = text


def _prompt_of(content: Json) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        for block in content:
            if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
                return str(block["text"])
    return ""
