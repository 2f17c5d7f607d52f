"""What is told of a run beside its messages, as short texts: facts of the header, what goals took, facts of a message.

For terminals, Markdown and pages alike; it knows none of them.
"""

from __future__ import annotations

from datetime import datetime

from traceark.exporters.content import Part, json_text
from traceark.models import TIMES, Goal, GoalStats, GoalTree, Message, Trace
from traceark.showing import cost_text, count_of, duration_text, one_line, short_number, time_text

# Told in place of a time that is none.
UNKNOWN = "unknown"
_TOOL_ROLES = ("tool", "function")
# Each argument of a call gets as much of a line, and where there are few, they share this much.
_ARGUMENT_CHARS, _LINE_CHARS = 60, 180
_SIGNS = {"completed": "✓", "failed": "✗", "cancelled": "✗", "in_progress": "▸", "running": "▸", "pending": "○"}


def facts_of(trace: Trace) -> list[tuple[str, str]]:
    """Return what a header says, each fact with its name; what is empty is left out.

    Examples
    --------
    >>> facts_of(Trace(trace_id="run-7", task="sort the mail", total_messages=2))[:2]
    [('task', 'sort the mail'), ('agent', 'mode agent')]
    """
    told = (
        ("task", trace.task),
        ("agent", " · ".join(filter(None, (trace.agent_type, trace.model, f"mode {trace.mode}", trace.uid)))),
        ("time", span_of(trace)),
        ("totals", " · ".join(totals_of(trace))),
        ("parent", " · goal ".join(filter(None, (trace.parent_trace_id, trace.parent_goal_id)))),
        ("result", trace.result_summary),
        ("error", trace.error_message),
    )
    return [(name, text) for name, text in told if text]


def begun_of(trace: Trace) -> datetime | None:
    """Return when a run began; None where nothing tells that, and an import gave it a time that is none.

    Examples
    --------
    >>> begun_of(Trace(trace_id="run-7", metadata={"times": "unknown"}))
    """
    return None if trace.metadata.get(TIMES) == "unknown" else trace.created_at


def made_of(moment: datetime | None, trace: Trace) -> datetime | None:
    """Return when a record of a run was made; None where it only has the time of a run of which nothing tells it."""
    return None if moment == trace.created_at and begun_of(trace) is None else moment


def moment_text(moment: datetime | None, trace: Trace) -> str:
    """Return when a record of a run was made, to the second."""
    return UNKNOWN if moment is not None and made_of(moment, trace) is None else time_text(moment, seconds=True)


def span_of(trace: Trace) -> str:
    """Return when a run began, and how long it took."""
    if begun_of(trace) is None:
        return UNKNOWN
    begun = f"{time_text(trace.created_at, seconds=True)} UTC"
    if trace.created_at is None or trace.completed_at is None:
        return begun
    took = (trace.completed_at - trace.created_at).total_seconds() * 1000
    return (
        f"{begun}, {duration_text(took)}" if took >= 0 else f"{begun} to {time_text(trace.completed_at, seconds=True)}"
    )


def totals_of(trace: Trace) -> list[str]:
    """Return the totals of a run."""
    told = [count_of(trace.total_messages, "message"), count_of(trace.total_tokens, "token")]
    if trace.total_cost:
        told.append(f"cost {cost_text(trace.total_cost)}")
    if trace.total_duration_ms:
        told.append(duration_text(trace.total_duration_ms))
    if trace.last_event_id:
        told.append(count_of(trace.last_event_id, "event"))
    return told


def stats_of(stats: GoalStats) -> list[str]:
    """Return what a goal took; nothing where it took nothing."""
    told = [count_of(stats.message_count, "message")] if stats.message_count else []
    if stats.total_tokens:
        told.append(f"{short_number(stats.total_tokens)} tokens")
    if stats.total_cost:
        told.append(f"cost {cost_text(stats.total_cost)}")
    if stats.total_duration_ms:
        told.append(duration_text(stats.total_duration_ms))
    return told


def sign_of(goal: Goal) -> str:
    """Return a character that stands for a goal's status."""
    return _SIGNS.get(goal.status, "•")


def about_goal(goal: Goal, tree: GoalTree) -> list[str]:
    """Return a goal's status, what it took with all below it, and itself where that differs."""
    told = [one_line(goal.status, 40), *stats_of(goal.cumulative_stats)]
    if goal.cumulative_stats != goal.self_stats:
        told.append(f"own: {', '.join(stats_of(goal.self_stats)) or 'nothing'}")
    if goal.id == tree.current_id:
        told.append("current")
    return told


def child_of(child: Trace) -> list[str]:
    """Return what a sub-agent took."""
    told = [child.status, count_of(child.total_messages, "message"), f"{short_number(child.total_tokens)} tokens"]
    return [*told, f"cost {cost_text(child.total_cost)}"] if child.total_cost else told


def spent_of(message: Message) -> list[str]:
    """Return what a message took."""
    told = [f"{short_number(message.counted_tokens())} tokens"] if message.counted_tokens() else []
    if message.cost:
        told.append(f"cost {cost_text(message.cost)}")
    if message.duration_ms:
        told.append(duration_text(message.duration_ms))
    return told


def time_of(message: Message, trace: Trace) -> str:
    """Return when a message was made: without the day where it is that on which the run began."""
    moment, begun = made_of(message.created_at, trace), trace.created_at
    text = time_text(moment, seconds=True)
    same_day = moment is not None and begun is not None and begun.date() == moment.date()
    return text.partition(" ")[2] if same_day else text if moment is not None else ""


def says(part: Part, error: str) -> bool:
    """Say whether an error only repeats, perhaps shortened to a line, what a part says."""
    line = one_line(error).removesuffix("…")
    return line in one_line(part.text, len(line) + 1000)


def size_of(text: str) -> str:
    """Return how long a text is: in lines, or where they are few in characters."""
    lines = text.count("\n") + 1
    return count_of(lines, "line") if lines > 3 else count_of(len(text), "character")


def tool_of(message: Message) -> str:
    """Return the tool whose result a message is."""
    return message.tool_name or "" if message.role in _TOOL_ROLES else ""


def agent_of(message: Message) -> str:
    """Return which of several agents said a message, where an import kept that.

    Examples
    --------
    >>> agent_of(Message(trace_id="run-7", role="assistant", agent="planner"))
    'planner'
    """
    agent = (message.model_extra or {}).get("agent")
    return agent if isinstance(agent, str) else ""


def is_mistake(message: Message) -> bool:
    """Say whether somebody marked a message as the one that made the run fail."""
    return (message.model_extra or {}).get("mistake") is True


def arguments_of(call: Part, *, full: bool) -> str:
    """Return the arguments of a call, one a line, or shortened on one line."""
    if not isinstance(call.arguments, dict):
        return call.text
    if full:
        return "\n".join(f"{key}: {json_text(value)}" for key, value in call.arguments.items())
    room = max(_ARGUMENT_CHARS, _LINE_CHARS // max(len(call.arguments), 1))
    return ", ".join(f"{key}={_short(json_text(value), room)}" for key, value in call.arguments.items())


def _short(text: str, room: int) -> str:
    joined = " ".join(text[: room * 20].split())
    return joined if len(joined) <= room else f"{joined[: room - 1]}…"
