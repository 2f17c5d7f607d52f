"""The goals of a Claude Code session: its todo tools and its calls of sub-agents, folded row by row.

A fold over the past only: the goals of the first rows of a session are what the whole session had
at that point. A change counts when its tool has answered without an error, as the session's own
list does. This module knows tool calls and results, not rows or messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from traceark.importers.typed import Typed
from traceark.models import Goal, GoalTree, Json

AGENT_TOOLS = frozenset({"Task", "Agent"})
_TODO_TOOLS = frozenset({"TodoWrite", "TaskCreate", "TaskUpdate"})
_CREATED = re.compile(r"Task #(\S+) created")
# What an agent's own result says of it, in the words of goals.
_AGENT_STATUS = {"completed": "completed", "async_launched": "in_progress"}


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a tool call: its text, whether it is an error, and the details beside it."""

    call_id: str
    text: str
    is_error: bool
    details: Mapping[str, Json]


@dataclass(slots=True)
class GoalFold:
    """The goals so far.

    Parameters
    ----------
    typed : Typed
        Makes typed fields of what the session says.
    session : str
        The session's id; trace ids of sub-agents begin with it.
    """

    typed: Typed
    session: str
    _goals: dict[str, Goal] = field(default_factory=dict)
    _calls: dict[str, tuple[str, Mapping[str, Json]]] = field(default_factory=dict)
    _task_goals: dict[str, str] = field(default_factory=dict)
    _todo_goals: dict[str, str] = field(default_factory=dict)
    _agent_prompts: dict[str, str] = field(default_factory=dict)
    _in_progress: list[str] = field(default_factory=list)

    def current(self) -> str | None:
        """Return the goal being worked on: the one started last of those in progress."""
        return self._in_progress[-1] if self._in_progress else None

    def tree(self, mission: str) -> GoalTree | None:
        """Return the tree, None when the session set no goals."""
        if not self._goals:
            return None
        return GoalTree(mission=mission, goals=list(self._goals.values()), current_id=self.current())

    def agent_goal(self, call_id: str | None) -> str | None:
        """Return the goal of the sub-agent that a tool call started."""
        goal = self._goals.get(call_id) if call_id is not None else None
        return goal.id if goal is not None and goal.type == "agent" else None

    def call(self, call_id: str, tool: str, arguments: Mapping[str, Json], at: datetime | None) -> None:
        """Take a tool call."""
        if tool in _TODO_TOOLS:
            self._calls[call_id] = (tool, arguments)
        elif tool in AGENT_TOOLS and call_id not in self._goals:
            self._calls[call_id] = (tool, arguments)
            description = self.typed.summary(arguments.get("description")) or tool
            goal = Goal(
                id=call_id, description=description, type="agent", status="in_progress", parent_id=self.current()
            )
            goal.created_at = at
            self._keep_extra(goal, "subagent_type", arguments.get("subagent_type"))
            self._goals[call_id] = goal
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
            self._write_todos(arguments, at)

    def link_agent(self, call_id: str, agent_id: str) -> None:
        """Note which sub-agent a call started."""
        goal = self._goals.get(call_id)
        if goal is None or goal.type != "agent":
            return
        child = child_trace_id(self.session, agent_id)
        if child not in goal.sub_trace_ids:
            goal.sub_trace_ids = [*goal.sub_trace_ids, child]

    def link_prompt(self, prompt: object, agent_id: str) -> str | None:
        """Note that the agent of this prompt is `agent_id`; return its goal."""
        call_id = self._agent_prompts.pop(prompt, None) if isinstance(prompt, str) else None
        if call_id is not None:
            self.link_agent(call_id, agent_id)
        return call_id

    def _agent_result(self, result: Result, at: datetime | None) -> None:
        goal = self._goals[result.call_id]
        agent_id = self.typed.identifier(result.details.get("agentId"))
        if agent_id is not None:
            self.link_agent(goal.id, agent_id)
        told = result.details.get("status")
        status = "failed" if result.is_error else _AGENT_STATUS.get(told if isinstance(told, str) else "", "completed")
        self._set_status(goal, status, at)
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
        goal = self._add("task", task_id, self.typed.summary(arguments.get("subject")) or "", at)
        goal.reason = self.typed.summary(arguments.get("description"), 1000)
        self._task_goals[task_id] = goal.id

    def _update_task(self, arguments: Mapping[str, Json], at: datetime | None) -> None:
        told = arguments.get("taskId")
        goal = self._goals.get(self._task_goals.get(str(told), ""))
        if goal is None:
            return
        goal.description = self.typed.summary(arguments.get("subject")) or goal.description
        goal.reason = self.typed.summary(arguments.get("description"), 1000) or goal.reason
        self._set_status(goal, self.typed.text(arguments.get("status")) or goal.status, at)

    def _write_todos(self, arguments: Mapping[str, Json], at: datetime | None) -> None:
        todos = arguments.get("todos")
        listed: dict[str, str] = {}
        for todo in todos if isinstance(todos, list) else []:
            if not isinstance(todo, dict):
                continue
            text = self.typed.summary(todo.get("content"))
            told = todo.get("id")
            key = str(told) if isinstance(told, str | int) else text
            if text is None or key is None:
                continue
            goal = self._goals.get(self._todo_goals.get(key, ""))
            if goal is None:
                goal = self._add("todo", str(1 + sum(each.type == "todo" for each in self._goals.values())), text, at)
            listed[key] = goal.id
            goal.description = text
            self._set_status(goal, self.typed.text(todo.get("status")) or goal.status, at)
        for key, goal_id in self._todo_goals.items():
            if key not in listed and self._goals[goal_id].status != "completed":
                self._set_status(self._goals[goal_id], "deleted", at)
        self._todo_goals = listed

    def _add(self, kind: str, name: str, description: str, at: datetime | None) -> Goal:
        goal_id, again = f"{kind}-{name}", 1
        while goal_id in self._goals:
            again += 1
            goal_id = f"{kind}-{name}-{again}"
        goal = Goal(id=goal_id, description=description, type=kind, created_at=at)
        self._goals[goal_id] = goal
        return goal

    def _set_status(self, goal: Goal, status: str, at: datetime | None) -> None:
        if goal.type != "agent" and (status == "in_progress") != (goal.id in self._in_progress):
            if status == "in_progress":
                self._in_progress.append(goal.id)
            else:
                self._in_progress.remove(goal.id)
        if status != goal.status:
            goal.status = status
            goal.completed_at = at if status in {"completed", "failed", "deleted"} else None

    def _keep_extra(self, goal: Goal, name: str, value: Json) -> None:
        if value is not None:
            setattr(goal, name, value)


def child_trace_id(session: str, agent_id: str) -> str:
    """Return the trace id of a sub-agent of a session.

    Examples
    --------
    >>> child_trace_id("4f0b", "a70b")
    '4f0b-agent-a70b'
    """
    return f"{session}-agent-{agent_id}"
