"""Goals that a run sets itself as it goes: a list of things to do, folded call by call.

A fold over the past only: the goals of the first rows of a run are what the whole run had at that
point, and so are their changes, which become events. This module knows lists of things to do, no format.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from traceark.importers.base import GOAL_STATUS, SourceEvent
from traceark.importers.typed import Typed
from traceark.models import Goal, GoalTree, Json, JsonObject


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
        self._changes: list[tuple[JsonObject, datetime | None]] = []

    def current(self) -> str | None:
        """Return the goal being worked on: the one started last of those in progress."""
        return self._in_progress[-1] if self._in_progress else None

    def tree(self, mission: str) -> GoalTree | None:
        """Return the tree, None when the run set no goals."""
        if not self.goals:
            return None
        return GoalTree(mission=mission, goals=list(self.goals.values()), current_id=self.current())

    def changes(self, message_id: str | None = None) -> list[SourceEvent]:
        """Return what has changed since this was asked last, as events.

        A payload has ``goal_id`` and ``status``; the status ``before``, unless the goal is new; the
        ``description``, where it is new; ``listed``, false, where the goal is not on the list any more.

        Parameters
        ----------
        message_id : str, optional
            The message that told it.
        """
        if not self._changes:
            return []
        by: JsonObject = {"message_id": message_id} if message_id is not None else {}
        changes, self._changes = self._changes, []
        return [SourceEvent(GOAL_STATUS, {**payload, **by}, at) for payload, at in changes]

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
            while key in listed:
                # The same words again are another thing to do.
                key += "'"
            goal, status = self.goals.get(self._todo_goals.get(key, "")), self.typed.text(todo.get("status"))
            if goal is None:
                number = 1 + sum(each.type == "todo" for each in self.goals.values())
                goal = self.add("todo", str(number), text, at, status or "pending")
            else:
                self.change(goal, at, status, text)
            listed[key] = goal.id
        for key, goal_id in self._todo_goals.items():
            if key not in listed:
                goal = self.goals[goal_id]
                self.change(goal, at, "completed" if goal.status == "completed" else "deleted", listed=False)
        self._todo_goals = listed

    def add(self, kind: str, name: str, description: str, at: datetime | None, status: str = "pending") -> Goal:
        """Add a goal under an id that no other has."""
        goal_id, again = f"{kind}-{name}", 1
        while goal_id in self.goals:
            again += 1
            goal_id = f"{kind}-{name}-{again}"
        goal = Goal(id=goal_id, description=description, type=kind, created_at=at)
        self._stand(goal, status, at)
        return self._added(goal)

    def start_agent(self, goal_id: str, description: str, at: datetime | None, status: str = "in_progress") -> Goal:
        """Add the goal of a sub-agent that is started, under the id of the call that does."""
        if goal_id in self.goals:
            return self.goals[goal_id]
        goal = Goal(id=goal_id, description=description, type="agent", status=status, created_at=at)
        goal.parent_id = self.current()
        return self._added(goal)

    def agent(self, goal_id: str | None) -> Goal | None:
        """Return the goal of a sub-agent."""
        goal = self.goals.get(goal_id) if goal_id is not None else None
        return goal if goal is not None and goal.type == "agent" else None

    def name_trace(self, goal: Goal, trace_id: str) -> None:
        """Note which trace a sub-agent's goal has."""
        if trace_id not in goal.sub_trace_ids:
            goal.sub_trace_ids = [*goal.sub_trace_ids, trace_id]

    def change(
        self,
        goal: Goal,
        at: datetime | None,
        status: str | None = None,
        description: str | None = None,
        *,
        listed: bool = True,
    ) -> None:
        """Take a change of a goal: the status or the description that it has now, or that it is not listed any more."""
        status = status or goal.status
        changed: JsonObject = {}
        if description is not None and description != goal.description:
            changed["description"] = goal.description = description
        if not listed:
            changed["listed"] = False
        if changed or status != goal.status:
            self._changes.append(({"goal_id": goal.id, "status": status, "before": goal.status, **changed}, at))
        self._stand(goal, status, at)

    def _added(self, goal: Goal) -> Goal:
        self.goals[goal.id] = goal
        told: JsonObject = {"goal_id": goal.id, "status": goal.status, "description": goal.description}
        self._changes.append((told, goal.created_at))
        return goal

    def _stand(self, goal: Goal, status: str, at: datetime | None) -> None:
        if goal.type != "agent" and (status == "in_progress") != (goal.id in self._in_progress):
            if status == "in_progress":
                self._in_progress.append(goal.id)
            else:
                self._in_progress.remove(goal.id)
        if status != goal.status:
            goal.status = status
            goal.completed_at = at if status in {"completed", "failed", "deleted"} else None
