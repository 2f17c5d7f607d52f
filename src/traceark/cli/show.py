"""One trace for a terminal: its header, its goals as a tree, its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from traceark.cli.console import PIPE_WIDTH, SIGNS, STATUS_STYLES, TerminalConsole
from traceark.cli.content import Piece, json_text, pieces_of
from traceark.cli.output import Shown
from traceark.cli.terminal import cost_text, count_of, duration_text, one_line, short_number, time_text, visible

if TYPE_CHECKING:
    from traceark import Goal, GoalStats, GoalTree, Message, Trace

_ROLES = {"user": "bold cyan", "assistant": "bold green", "tool": "bold blue", "system": "bold magenta"}
_STYLES = {"text": "", "thinking": "italic dim", "call": "yellow", "result": "dim", "other": "dim"}
_LEADS = {"text": "", "thinking": "", "call": "→ ", "result": "← ", "other": ""}
# What is shown of a long trace without --full.
_FIRST_MESSAGES, _LAST_MESSAGES = 10, 20
_LINES, _CHARS = 8, 800


def print_trace(console: TerminalConsole, shown: Shown, *, full: bool) -> None:
    """Print a trace; without `full` long texts, and the middle of many messages, are left out."""
    _print_header(console, shown.trace, full=full)
    if shown.tree is not None and shown.tree.goals:
        console.print()
        console.print_lines(_goals(shown.tree, shown, full=full))
    _print_messages(console, shown, full=full)


def _print_header(console: TerminalConsole, trace: Trace, *, full: bool) -> None:
    title = Text(visible(trace.trace_id), style="bold")
    title.append(f"  {trace.status}", style=STATUS_STYLES[trace.status])
    console.print(title)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    limit = 100_000 if full else 400
    for name, told in (
        ("task", trace.task),
        ("agent", " · ".join(filter(None, (trace.agent_type, trace.model, f"mode {trace.mode}", trace.uid)))),
        ("time", _span(trace)),
        ("totals", _totals(trace)),
        ("parent", " · goal ".join(filter(None, (trace.parent_trace_id, trace.parent_goal_id)))),
        ("result", trace.result_summary),
        ("error", trace.error_message),
        ("context", json_text(trace.context) if trace.context else ""),
        ("metadata", json_text(trace.metadata) if trace.metadata and full else ""),
    ):
        if told:
            grid.add_row(name, Text(one_line(told, limit), style="red" if name == "error" else ""))
    console.print_lines(grid)


def _span(trace: Trace) -> str:
    begun = f"{time_text(trace.created_at, seconds=True)} UTC"
    if trace.created_at is None or trace.completed_at is None:
        return begun
    took = (trace.completed_at - trace.created_at).total_seconds() * 1000
    return (
        f"{begun}, {duration_text(took)}" if took >= 0 else f"{begun} to {time_text(trace.completed_at, seconds=True)}"
    )


def _totals(trace: Trace) -> str:
    told = [count_of(trace.total_messages, "message"), count_of(trace.total_tokens, "token")]
    if trace.total_cost:
        told.append(f"cost {cost_text(trace.total_cost)}")
    if trace.total_duration_ms:
        told.append(duration_text(trace.total_duration_ms))
    if trace.last_event_id:
        told.append(count_of(trace.last_event_id, "event"))
    return " · ".join(told)


def _goals(tree: GoalTree, shown: Shown, *, full: bool) -> Tree:
    mission = one_line(tree.mission, 10_000 if full else 120)
    root = Tree(Text("goals", style="bold").append(f"  {mission}", style="dim"), guide_style="dim")
    branches = [root]
    for depth, goal in tree.walk():
        del branches[depth + 1 :]
        branch = branches[depth].add(_goal(goal, current=goal.id == tree.current_id, full=full))
        branches.append(branch)
        for child_id in goal.sub_trace_ids:
            branch.add(_child(child_id, shown.children.get(child_id)))
    return root


def _goal(goal: Goal, *, current: bool, full: bool) -> Text:
    sign, style = SIGNS.get(goal.status, ("•", ""))
    label = Text(f"{sign} ", style=style)
    label.append(one_line(goal.description or goal.id, 10_000 if full else 100))
    told = [one_line(goal.status, 40), *_stats(goal.cumulative_stats)]
    if goal.cumulative_stats != goal.self_stats:
        told.append(f"own: {', '.join(_stats(goal.self_stats)) or 'nothing'}")
    if current:
        told.append("current")
    label.append(f"\n{' · '.join(told)}", style="dim")
    for note in (goal.reason, goal.summary):
        if note and full:
            label.append(f"\n{visible(note)}", style="italic dim")
    return label


def _stats(stats: GoalStats) -> list[str]:
    told = [count_of(stats.message_count, "message")] if stats.message_count else []
    if stats.total_tokens:
        told.append(f"{short_number(stats.total_tokens)} tokens")
    if stats.total_cost:
        told.append(f"cost {cost_text(stats.total_cost)}")
    if stats.total_duration_ms:
        told.append(duration_text(stats.total_duration_ms))
    return told


def _child(child_id: str, child: Trace | None) -> Text:
    label = Text("↳ ", style="cyan").append(one_line(child_id))
    if child is None:
        return label.append("\nnot in this archive", style="dim")
    told = [child.status, count_of(child.total_messages, "message"), f"{short_number(child.total_tokens)} tokens"]
    if child.total_cost:
        told.append(f"cost {cost_text(child.total_cost)}")
    return label.append(f"\n{' · '.join(told)}", style="dim")


def _print_messages(console: TerminalConsole, shown: Shown, *, full: bool) -> None:
    messages = shown.messages
    left_out = 0 if full else len(messages) - _FIRST_MESSAGES - _LAST_MESSAGES
    for index, message in enumerate(messages):
        if left_out > 1 and _FIRST_MESSAGES <= index < _FIRST_MESSAGES + left_out:
            if index == _FIRST_MESSAGES:
                console.print(Text(f"\n… {count_of(left_out, 'message')} left out, --full shows all", style="italic"))
            continue
        console.print()
        console.print_line(_heading(message, shown.trace))
        pieces = pieces_of(message, full=full)
        for piece in pieces:
            _print_indented(console, _body(piece, full=full))
        if message.error and not _is_said(message.error, pieces):
            _print_indented(console, Text(visible(message.error), style="red"))
        elif not pieces:
            _print_indented(console, Text("nothing", style="italic dim"))


def _is_said(error: str, pieces: list[Piece]) -> bool:
    """Say whether an error only repeats, perhaps shortened to a line, what the message says."""
    line = one_line(error).removesuffix("…")
    return any(line in one_line(piece.text, len(line) + 1000) for piece in pieces)


def _print_indented(console: TerminalConsole, text: Text) -> None:
    in_pipe = console.width == PIPE_WIDTH
    lines = text.split("\n", allow_blank=True) if in_pipe else text.wrap(console, console.width - 2)
    for line in lines:
        line.rstrip()
    console.print_line(Text("\n").join(Text("  ") + line if line else line for line in lines))


def _heading(message: Message, trace: Trace) -> Text:
    heading = Text(f"{message.sequence} ", style="dim")
    heading.append(one_line(message.role, 40), style=_ROLES.get(message.role, "bold"))
    begun, moment = trace.created_at, message.created_at
    told = []
    if message.tool_name and message.role in ("tool", "function"):
        told.append(one_line(message.tool_name, 80))
    if moment is not None:
        same_day = begun is not None and begun.date() == moment.date()
        told.append(time_text(moment, seconds=True).partition(" ")[2] if same_day else time_text(moment, seconds=True))
    if message.counted_tokens():
        told.append(f"{short_number(message.counted_tokens())} tokens")
    if message.cost:
        told.append(f"cost {cost_text(message.cost)}")
    if message.duration_ms:
        told.append(duration_text(message.duration_ms))
    if message.goal_id:
        told.append(f"goal {one_line(message.goal_id, 40)}")
    if message.status:
        told.append(one_line(message.status, 40))
    return heading.append(f"  {' · '.join(told)}", style="dim")


def _body(piece: Piece, *, full: bool) -> Text:
    style = _STYLES[piece.kind]
    body = Text(_LEADS[piece.kind], style=style)
    if piece.label:
        body.append(one_line(piece.label, 80), style="bold")
        body.append("\n" if full and "\n" in piece.text else " ")
    shown, note = (piece.text, "") if full else excerpt(piece.text)
    # Without its own tab stops a tab would move a terminal's cursor past the width that is reckoned with.
    body.append(visible(shown).strip("\n").expandtabs(4))
    if note:
        body.append(f"\n{note}", style="italic")
    return body


def excerpt(text: str) -> tuple[str, str]:
    """Return the beginning of a long text, and a note of what is left out.

    Examples
    --------
    >>> excerpt("a\\nb"), excerpt("line\\n" * 100)[1]
    (('a\\nb', ''), '… 92 more lines')
    """
    text = text.replace("\r\n", "\n").strip("\n").rstrip()
    shown = "\n".join(text[: _CHARS * 4].split("\n")[:_LINES])[:_CHARS].rstrip()
    if len(shown) == len(text):
        return shown, ""
    more = text.count("\n") - shown.count("\n")
    return shown, f"… {count_of(more, 'more line')}" if more else f"… {len(text) - len(shown):,} more characters"
