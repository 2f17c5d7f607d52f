"""The goals of a Claude Code session: its todo tools and its calls of sub-agents, folded row by row.

A change counts when its tool has answered without an error, as the session's own list does. This
module knows tool calls and results, not rows or messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from traceark.importers.goals import GoalFold
from traceark.importers.typed import Typed
from traceark.models import Json

AGENT_TOOLS = frozenset({"Task", "Agent"})
_TODO_TOOLS = frozenset({"TodoWrite", "TaskCreate", "TaskUpdate"})
_CREATED = re.compile(r"Task #(\S+) created")
# What an agent's own result says of it, in the words of goals.
_AGENT_STATUS = {"completed": "completed", "async_launched": "in_progress"}
# What is said when an agent in the background has ended, and what that is in the words of goals.
_NOTIFICATION = "<task-notification>"
_ENDED = re.compile(r"<task-id>(.*?)</task-id>.*?<status>(.*?)</status>", re.DOTALL)
_ENDED_STATUS = {"completed": "completed", "failed": "failed", "killed": "failed"}
_REPORT = re.compile(r"<result>(.*)</result>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a tool call: its text, whether it is an error, and the details beside it."""

    call_id: str
    text: str
    is_error: bool
    details: Mapping[str, Json]


class ClaudeGoals(GoalFold):
    """The goals so far.

    Parameters
    ----------
    typed : Typed
        Makes typed fields of what the session says.
    session : str
        The session's id; trace ids of sub-agents begin with it.
    """

    def __init__(self, typed: Typed, session: str) -> None:
        super().__init__(typed)
        self.session = session
        # Whether rows are taken that were copied from another session, whose sub-agents are its own.
        self.copying = False
        self._calls: dict[str, tuple[str, Mapping[str, Json]]] = {}
        self._task_goals: dict[str, str] = {}
        self._agent_prompts: dict[str, str] = {}

    def agent_goal(self, call_id: str | None) -> str | None:
        """Return the goal of the sub-agent that a tool call started."""
        goal = self.goals.get(call_id) if call_id is not None else None
        return goal.id if goal is not None and goal.type == "agent" else None

    def call(self, call_id: str, tool: str, arguments: Mapping[str, Json], at: datetime | None) -> None:
        """Take a tool call."""
        if tool in _TODO_TOOLS:
            self._calls[call_id] = (tool, arguments)
        elif tool in AGENT_TOOLS and call_id not in self.goals:
            self._calls[call_id] = (tool, arguments)
            description = self.typed.summary(arguments.get("description")) or tool
            goal = self.start_agent(call_id, description, at)
            if (kind := arguments.get("subagent_type")) is not None:
                setattr(goal, "subagent_type", kind)  # noqa: B010 (a field of the source, not of the model)
            prompt = arguments.get("prompt")
            if isinstance(prompt, str):
                self._agent_prompts.setdefault(prompt, call_id)

    def result(self, result: Result, at: datetime | None) -> None:
        """Take the answer to a tool call."""
        tool, arguments = self._calls.pop(result.call_id, ("", {}))
        if tool in AGENT_TOOLS:
            self._agent_result(result, at)
        elif result.is_error:
            return
        elif tool == "TaskCreate":
            self._create_task(arguments, result, at)
        elif tool == "TaskUpdate" and result.details.get("success") is not False:
            self._update_task(arguments, at)
        elif tool == "TodoWrite":
            todos = arguments.get("todos")
            self.write_todos(todos if isinstance(todos, list) else [], at)

    def notice(self, told: Json, at: datetime | None) -> None:
        """Take what may be the news that an agent in the background has ended."""
        if not isinstance(told, str) or not told.startswith(_NOTIFICATION) or (ended := _ENDED.search(told)) is None:
            return
        child, status = child_trace_id(self.session, ended[1]), _ENDED_STATUS.get(ended[2])
        for goal in self.goals.values():
            if child in goal.sub_trace_ids and goal.status == "in_progress" and status is not None:
                self.change(goal, at, status)
                report = _REPORT.search(told)
                goal.summary = self.typed.summary(report[1]) if report is not None else None

    def link_agent(self, call_id: str, agent_id: str) -> None:
        """Note which sub-agent a call started."""
        goal = self.goals.get(call_id)
        if goal is None or goal.type != "agent" or self.copying:
            return
        self.name_trace(goal, child_trace_id(self.session, agent_id))

    def link_prompt(self, prompt: object, agent_id: str) -> str | None:
        """Note that the agent of this prompt is `agent_id`; return its goal."""
        call_id = self._agent_prompts.pop(prompt, None) if isinstance(prompt, str) else None
        if call_id is not None:
            self.link_agent(call_id, agent_id)
        return call_id

    def _agent_result(self, result: Result, at: datetime | None) -> None:
        goal = self.goals[result.call_id]
        agent_id = self.typed.identifier(result.details.get("agentId"))
        if agent_id is not None:
            self.link_agent(goal.id, agent_id)
        told = result.details.get("status")
        status = "failed" if result.is_error else _AGENT_STATUS.get(told if isinstance(told, str) else "", "completed")
        self.change(goal, at, status)
        if status != "in_progress":
            goal.summary = self.typed.summary(result.text)

    def _create_task(self, arguments: Mapping[str, Json], result: Result, at: datetime | None) -> None:
        task = result.details.get("task")
        told = task.get("id") if isinstance(task, dict) else None
        if told is None and (match := _CREATED.search(result.text)):
            told = match[1]
        task_id = self.typed.identifier(str(told) if isinstance(told, int) else told)
        if task_id is None:
            return
        goal = self.add("task", task_id, self.typed.summary(arguments.get("subject")) or "", at)
        goal.reason = self.typed.summary(arguments.get("description"), 1000)
        self._task_goals[task_id] = goal.id

    def _update_task(self, arguments: Mapping[str, Json], at: datetime | None) -> None:
        told = arguments.get("taskId")
        goal = self.goals.get(self._task_goals.get(str(told), ""))
        if goal is None:
            return
        goal.reason = self.typed.summary(arguments.get("description"), 1000) or goal.reason
        self.change(goal, at, self.typed.text(arguments.get("status")), self.typed.summary(arguments.get("subject")))


def child_trace_id(session: str, agent_id: str) -> str:
    """Return the trace id of a sub-agent of a session.

    Examples
    --------
    >>> child_trace_id("4f0b", "a70b")
    '4f0b-agent-a70b'
    """
    return f"{session}-agent-{agent_id}"
