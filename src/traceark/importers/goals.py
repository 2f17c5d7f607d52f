"""Goals that a run sets itself as it goes: a list of things to do, folded call by call.

A fold over the past only: the goals of the first rows of a run are what the whole run had at that
point. This module knows lists of things to do, no format.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from traceark.importers.typed import Typed
from traceark.models import Goal, GoalTree, Json


class GoalFold:
    """The goals so far.

    Parameters
    ----------
    typed : Typed
        Makes typed fields of what the run says.
    """

    def __init__(self, typed: Typed) -> None:
        self.typed = typed
        self.goals: dict[str, Goal] = {}
        self._todo_goals: dict[str, str] = {}
        self._in_progress: list[str] = []

    def current(self) -> str | None:
        """Return the goal being worked on: the one started last of those in progress."""
        return self._in_progress[-1] if self._in_progress else None

    def tree(self, mission: str) -> GoalTree | None:
        """Return the tree, None when the run set no goals."""
        if not self.goals:
            return None
        return GoalTree(mission=mission, goals=list(self.goals.values()), current_id=self.current())

    def write_todos(self, todos: Sequence[Json], at: datetime | None) -> None:
        """Take a list of things to do, each with ``content``, ``status`` and perhaps ``id``, in place of the last one.

        What is not on it any more and was not completed is deleted.
        """
        listed: dict[str, str] = {}
        for todo in todos:
            if not isinstance(todo, dict):
                continue
            text = self.typed.summary(todo.get("content"))
            told = todo.get("id")
            key = str(told) if isinstance(told, str | int) else text
            if text is None or key is None:
                continue
            goal = self.goals.get(self._todo_goals.get(key, ""))
            if goal is None:
                goal = self.add("todo", str(1 + sum(each.type == "todo" for each in self.goals.values())), text, at)
            listed[key] = goal.id
            goal.description = text
            self.set_status(goal, self.typed.text(todo.get("status")) or goal.status, at)
        for key, goal_id in self._todo_goals.items():
            if key not in listed and self.goals[goal_id].status != "completed":
                self.set_status(self.goals[goal_id], "deleted", at)
        self._todo_goals = listed

    def add(self, kind: str, name: str, description: str, at: datetime | None) -> Goal:
        """Add a goal under an id that no other has."""
        goal_id, again = f"{kind}-{name}", 1
        while goal_id in self.goals:
            again += 1
            goal_id = f"{kind}-{name}-{again}"
        goal = Goal(id=goal_id, description=description, type=kind, created_at=at)
        self.goals[goal_id] = goal
        return goal

    def start_agent(self, goal_id: str, description: str, at: datetime | None) -> Goal:
        """Add the goal of a sub-agent that is started, under the id of the call that does."""
        if goal_id not in self.goals:
            self.goals[goal_id] = Goal(
                id=goal_id,
                description=description,
                type="agent",
                status="in_progress",
                parent_id=self.current(),
                created_at=at,
            )
        return self.goals[goal_id]

    def agent(self, goal_id: str | None) -> Goal | None:
        """Return the goal of a sub-agent."""
        goal = self.goals.get(goal_id) if goal_id is not None else None
        return goal if goal is not None and goal.type == "agent" else None

    def name_trace(self, goal: Goal, trace_id: str) -> None:
        """Note which trace a sub-agent's goal has."""
        if trace_id not in goal.sub_trace_ids:
            goal.sub_trace_ids = [*goal.sub_trace_ids, trace_id]

    def set_status(self, goal: Goal, status: str, at: datetime | None) -> None:
        """Take a change of a goal's status."""
        if goal.type != "agent" and (status == "in_progress") != (goal.id in self._in_progress):
            if status == "in_progress":
                self._in_progress.append(goal.id)
            else:
                self._in_progress.remove(goal.id)
        if status != goal.status:
            goal.status = status
            goal.completed_at = at if status in {"completed", "failed", "deleted"} else None
