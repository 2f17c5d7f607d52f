"""One trace for a terminal: its header, its goals as a tree, its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from traceark.cli.console import SIGNS, STATUS_STYLES, TerminalConsole
from traceark.cli.content import Piece, pieces_of
from traceark.cli.output import Shown
from traceark.exporters.content import json_text
from traceark.exporters.telling import agent_of, child_of, facts_of, is_mistake, spent_of, stats_of, time_of, tool_of
from traceark.showing import count_of, one_line, visible

if TYPE_CHECKING:
    from traceark import Goal, GoalTree, Message, Trace

_ROLES = {"user": "bold cyan", "assistant": "bold green", "tool": "bold blue", "system": "bold magenta"}
_STYLES = {"text": "", "thinking": "italic dim", "call": "yellow", "result": "dim", "other": "dim"}
_LEADS = {"text": "", "thinking": "~ ", "call": "→ ", "result": "← ", "other": ""}
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
    more = (
        ("context", json_text(trace.context) if trace.context else ""),
        ("metadata", json_text(trace.metadata) if trace.metadata and full else ""),
    )
    for name, told in (*facts_of(trace), *more):
        if told:
            grid.add_row(name, Text(one_line(told, limit), style="red" if name == "error" else ""))
    console.print_lines(grid)


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
    told = [one_line(goal.status, 40), *stats_of(goal.cumulative_stats)]
    if goal.cumulative_stats != goal.self_stats:
        told.append(f"own: {', '.join(stats_of(goal.self_stats)) or 'nothing'}")
    if current:
        told.append("current")
    label.append(f"\n{' · '.join(told)}", style="dim")
    for note in (goal.reason, goal.summary):
        if note and full:
            label.append(f"\n{visible(note)}", style="italic dim")
    return label


def _child(child_id: str, child: Trace | None) -> Text:
    label = Text("↳ ", style="cyan").append(one_line(child_id))
    if child is None:
        return label.append("\nnot in this archive", style="dim")
    return label.append(f"\n{' · '.join(child_of(child))}", style="dim")


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
    lines = text.split("\n", allow_blank=True) if console.in_pipe else text.wrap(console, console.width - 2)
    for line in lines:
        line.rstrip()
    console.print_line(Text("\n").join(Text("  ") + line if line else line for line in lines))


def _heading(message: Message, trace: Trace) -> Text:
    heading = Text(f"{message.sequence} ", style="dim")
    heading.append(one_line(message.role, 40), style=_ROLES.get(message.role, "bold"))
    if agent := agent_of(message):
        heading.append(f"  {one_line(agent, 80)}")
    if is_mistake(message):
        heading.append("  mistake", style="bold red")
    told = [one_line(tool_of(message), 80), time_of(message, trace), *spent_of(message)]
    if message.goal_id:
        told.append(f"goal {one_line(message.goal_id, 40)}")
    if message.status:
        told.append(one_line(message.status, 40))
    heading.append(f"  {' · '.join(filter(None, told))}", style="dim")
    heading.rstrip()
    return heading


def _body(piece: Piece, *, full: bool) -> Text:
    style = _STYLES[piece.kind]
    body = Text(_LEADS[piece.kind], style=style)
    if piece.label:
        body.append(one_line(piece.label, 80), style="bold")
        body.append("\n" if full and "\n" in piece.text else " ")
    shown, note = (piece.text, "") if full else excerpt(piece.text)
    # Without its own tab stops a tab would move a terminal's cursor past the width that is reckoned with.
    said = visible(shown).strip("\n").expandtabs(4)
    # Where it ends is seen without colour, too.
    body.append(said.replace("\n", f"\n{_LEADS['thinking']}") if piece.kind == "thinking" else said)
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
