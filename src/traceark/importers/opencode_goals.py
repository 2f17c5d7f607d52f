"""The goals of an opencode session: its list of things to do, and its calls of sub-agents.

This module knows calls of tools, not messages or rows.
"""

from __future__ import annotations

from traceark.importers.document import object_of, objects_of
from traceark.importers.goals import GoalFold
from traceark.importers.typed import Typed
from traceark.models import Goal, JsonObject

# In which states of a call its tool has ended.
ENDED = ("completed", "error")


class OpenCodeGoals(GoalFold):
    """The goals so far; that of a sub-agent has the id of the part that is its call.

    Parameters
    ----------
    typed : Typed
        Makes typed fields of what the session says.
    session : str
        The session's id.
    """

    def __init__(self, typed: Typed, session: str) -> None:
        super().__init__(typed)
        self._session = session

    def agent_goal(self, part_id: str | None) -> str | None:
        """Return the goal of the sub-agent that a call started."""
        goal = self.agent(part_id)
        return goal.id if goal is not None else None

    def call(self, part_id: str, part: JsonObject) -> None:
        """Take the state of a call of a tool."""
        state = object_of(part.get("state"))
        given, times = object_of(state.get("input")), object_of(state.get("time"))
        ended = self.typed.milliseconds(times.get("end"))
        if part.get("tool") == "todowrite" and state.get("status") == "completed":
            self.write_todos(objects_of(given.get("todos")), ended)
        elif part.get("tool") == "task" and given:
            description = self.typed.summary(given.get("description")) or "task"
            began = self.typed.milliseconds(times.get("start"))
            goal = self.start_agent(part_id, description, began)
            self.change(goal, began, description=description)
            self._see_agent(goal, given, state)
            if state.get("status") in ENDED:
                self.change(goal, ended, "failed" if state["status"] == "error" else "completed")
                goal.summary = self.typed.summary(state.get("output", state.get("error")))

    def _see_agent(self, goal: Goal, given: JsonObject, state: JsonObject) -> None:
        if given.get("subagent_type") is not None:
            setattr(goal, "subagent_type", given["subagent_type"])  # noqa: B010
        child = self.typed.identifier(object_of(state.get("metadata")).get("sessionId"))
        if child is not None and child != self._session:
            goal.sub_trace_ids = [child]
