"""One run of OpenHands, put together event by event.

What an event becomes is said in `openhands_events` for the SDK's events and in `openhands_old` for
those of older versions; here is what both need: messages with their goals, the list of tasks, what
the model used, and the header. The state of a conversation is rewritten as the run goes on; so it is
in the header alone, which may change, and in no event, which may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, objects_of
from traceark.importers.openhands_files import EventFile
from traceark.importers.openhands_usage import Spending, statistics_of, with_statistics
from traceark.models import Json, JsonObject, Message, Trace, TraceStatus

NAME = "openhands"
TASK_TOOL = "task_tracker"
AGENT_TOOLS = frozenset({"task", "delegate"})
_TASK_STATUS = {"todo": "pending", "in_progress": "in_progress", "done": "completed"}
_STATUS: dict[str, TraceStatus] = {
    "finished": "completed",
    "error": "failed",
    "stuck": "failed",
    "rejected": "failed",
    "stopped": "cancelled",
    "deleting": "cancelled",
    "idle": "running",
    "running": "running",
    "paused": "running",
    "waiting_for_confirmation": "running",
}


class RunTrace:
    """Takes the events of one run, in order.

    Parameters
    ----------
    trace_id : str
    counts : ImportCounts

    Attributes
    ----------
    status : str, optional
        How the run stands, in the words of OpenHands.
    error : str, optional
        What ended it.
    """

    def __init__(self, trace_id: str, counts: ImportCounts) -> None:
        self.building = DocumentTrace(NAME, Trace(trace_id=trace_id, agent_type=NAME, status="completed"), counts)
        self.typed = self.building.typed
        self.spending = Spending(self.typed)
        self.status: str | None = None
        self.error: str | None = None
        # What an event that came later replaces: the statistics of a run without a state.
        self.statistics: JsonObject = {}
        self._counts = counts
        self._goals = self.building.goals
        self._ids: set[str] = set()
        self._plans: dict[str, list[Json]] = {}
        # The ids of tasks by their titles, as of the last list.
        self._tasks: dict[str, str] = {}
        # Of sub-agents: goals by the ids of their tasks and by calls without an answer, prompts by goals.
        self._agents: dict[str, str] = {}
        self._started: dict[str, str] = {}
        self._prompts: dict[str, str] = {}
        self._named = 0
        self._torn: str | None = None

    def add(self, kind: str, event: JsonObject, take: Callable[[], bool]) -> None:
        """Take an event: `take` says whether it made a message of it; else it is a raw event."""
        self.building.row(kind, event)
        self.building.time(event.get("timestamp"))
        if take():
            self.building.tell_goals(self.building.messages[-1])
        else:
            self.building.event(kind, event)
            self.building.tell_goals(None)

    def say(self, number: int, event: JsonObject, role: str, content: Json, kept: JsonObject) -> Message:
        """Add the message of an event; `kept` is what the event says beyond its role and content."""
        message = self.building.message(str(number), role, content, kept, goal_id=self._goals.current())
        message.message_id = self._message_id(event.get("id"), number)
        if role == "user":
            self.spending.interrupt()
        return message

    def plan(self, call_id: str, arguments: Json) -> None:
        """Take a list of tasks that the model wants written."""
        told = arguments.get("task_list") if isinstance(arguments, dict) else None
        if isinstance(told, list) and isinstance(arguments, dict) and arguments.get("command") == "plan":
            self._plans[call_id] = told

    def delegate(self, message: Message, call_id: str, arguments: Json) -> None:
        """Take a call that gives work to sub-agents: a prompt to one, or several by their names."""
        if not isinstance(arguments, dict):
            return
        told, resumed = arguments.get("tasks"), self._agents.get(self.typed.identifier(arguments.get("resume")) or "")
        tasks = told if isinstance(told, dict) else {}
        for name, prompt in tasks.items():
            self._start(f"{call_id}-{name}", name, prompt)
        if resumed is not None:
            self._started[call_id] = message.goal_id = resumed
            self._goals.change(self._goals.goals[resumed], self.building.time(None), "in_progress")
        elif isinstance(prompt := arguments.get("prompt"), str):
            self._start(call_id, self.typed.summary(arguments.get("description")), prompt)
            self._started[call_id] = message.goal_id = call_id

    def delegated(self, message: Message, call_id: str, observation: JsonObject) -> None:
        """Take the answer of a sub-agent, or of several."""
        failed = message.status == "failed" or observation.get("status") == "error"
        one, task_id = self._started.pop(call_id, None), self.typed.identifier(observation.get("task_id"))
        if one is not None:
            message.goal_id = one
            if task_id is not None:
                self._agents[task_id] = one
        for goal in self._goals.goals.values():
            if goal.type == "agent" and (goal.id == one or goal.id.startswith(f"{call_id}-")):
                self._goals.change(goal, self.building.time(None), "failed" if failed else "completed")
                goal.summary = self.typed.summary(text_of(message.content))

    def name_children(self, children: Iterable[tuple[str, str]]) -> None:
        """Find the goals of sub-agents, told by their ids and first prompts."""
        waiting = dict(self._prompts)
        for child_id, prompt in children:
            goal_id = next((each for each, asked in waiting.items() if asked == prompt), None)
            if goal_id is not None and (goal := self._goals.agent(goal_id)) is not None:
                del waiting[goal_id]
                self._goals.name_trace(goal, child_id)
                self._named += 1

    def _start(self, goal_id: str, name: str | None, prompt: Json) -> None:
        described = name or self.typed.summary(prompt) or goal_id
        self._goals.start_agent(goal_id, described, self.building.time(None))
        if isinstance(prompt, str):
            self._prompts.setdefault(goal_id, prompt)

    def planned(self, call_id: str) -> None:
        """Note that a list of tasks was written."""
        told = self._plans.pop(call_id, None)
        if told is None:
            return
        known, self._tasks = self._tasks, {}
        todos: list[Json] = []
        for task in objects_of(told):
            title, own = str(task.get("title")), str(task.get("id") or "")
            # A task whose id the model left out gets another one each time.
            key = own if own in known.values() else known.get(title, own or title)
            self._tasks[title] = key
            status = _TASK_STATUS.get(str(task.get("status")), "pending")
            todos.append({"id": key, "content": task.get("title"), "status": status})
        self._goals.write_todos(todos, self.building.time(None))

    def unreadable(self, file: EventFile, *, last: bool) -> None:
        """Take a file that holds no event; the last one may still be being written."""
        self._counts.problems.append(Problem(str(file.path), file.line, file.reason))
        if last and not file.reason.startswith("JSON"):
            self._counts.rows["torn"] += 1
            self._torn = file.text
            return
        record: JsonObject = {"name": file.path.name, "text": file.text}
        self.building.row("unreadable", record)
        self.building.event("unreadable", record)

    def finish(self, path: Path, state: JsonObject | None, beside: Mapping[str, Json]) -> SourceTrace:
        """Return the trace.

        Parameters
        ----------
        path : Path
            The file to name where totals differ.
        state : dict, optional
            The conversation's.
        beside : dict
            What else the header keeps.
        """
        trace = self.building.trace
        told = state or {}
        agent = told.get("agent")
        llm = agent.get("llm") if isinstance(agent, dict) else None
        self.building.model(llm.get("model") if isinstance(llm, dict) else None)
        self._take_status(told.get("execution_status", told.get("agent_status")))
        statistics = statistics_of(told) or self.statistics
        left = self.spending.settle(statistics)
        metadata = with_statistics(told, left)
        if metadata or beside:
            trace.metadata = {NAME: {**metadata, **beside}}
        for difference in self.spending.differences:
            self._counts.differences.append(Problem(str(path), 0, f"{trace.trace_id}: {difference}"))
        source = self.building.finish(path)
        trace.current_goal_id = self._goals.current()
        source.torn_tail = self._torn
        # A state that tells more than before is taken even though no event is new, and sub-agents that came later.
        source.file_rows += _weight(statistics) + (trace.status != "running") + self._named
        return source

    def _message_id(self, told: Json, number: int) -> str:
        """Return the id of an event's message: the event's own, where it has one that none had before."""
        prefix = self.building.trace.trace_id
        own = self.typed.identifier(told)
        if own is None:
            own = f"{prefix}-event-{told if isinstance(told, int) and not isinstance(told, bool) else number}"
        if own in self._ids:
            own = f"{prefix}-message-{len(self._ids) + 1}"
        self._ids.add(own)
        return own

    def _take_status(self, told: Json) -> None:
        trace = self.building.trace
        self.status = self.typed.text(told) or self.status
        trace.status = _STATUS.get((self.status or "").lower(), "failed" if self.error else "completed")
        if trace.status == "failed":
            trace.error_message = self.error or self.status


def text_of(content: Json) -> str:
    """Return the text of content.

    Examples
    --------
    >>> text_of([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])
    'a\\nb'
    """
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    texts = [each.get("text") for each in blocks if isinstance(each, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _weight(statistics: Mapping[str, Any]) -> int:
    """Return how much statistics tell: they only ever grow."""
    rows = [value for metrics in statistics.values() if isinstance(metrics, dict) for value in metrics.values()]
    return sum(len(value) for value in rows if isinstance(value, list))
