"""Answers about many traces for a terminal: a tree of sub-agents, hits of a search, sums with bars."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

from traceark.cli.columns import GAP, Column, lay_out
from traceark.cli.console import SIGNS, TerminalConsole
from traceark.showing import NOTHING, cost_text, count_of, model_text, one_line, short_number, visible

if TYPE_CHECKING:
    from traceark.hits import SearchHit, SearchPage
    from traceark.tracetree import Totals, TraceTree

_TASK_CHARS = 160
_PIPE_BAR, _LEAST_BAR, _MOST_BAR = 20, 6, 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
# Of sub-agents that are not here, so many are named; --json has all.
_NAMED = 3
_NAME_CHARS = 40


def print_tree(console: TerminalConsole, tree: TraceTree, short: Mapping[str, str]) -> None:
    """Print for each trace its id and task, below it what it took, alone and with its sub-agents."""
    for guide, node in tree.guided():
        trace = node.trace
        sign, style = SIGNS.get(trace.status, ("•", ""))
        line = Text().append(guide, style="dim").append(f"{sign} ", style=style)
        line.append(console.fitting(short[trace.trace_id], 40), style="cyan")
        line.append(f"  {console.fitting(trace.task or '', _TASK_CHARS)}")
        line.rstrip()
        console.print_line(line)
        below = guide.replace("├─ ", "│  ").replace("└─ ", "   ") + ("│ " if node.children else "  ")
        told = [trace.status, console.fitting(trace.agent_type or "", 24), *_took(node.own)]
        if node.goal_ids:
            told.append(f"goal {console.fitting(', '.join(node.goal_ids), 40)}")
        console.print_line(Text(f"{below}{' · '.join(filter(None, told))}", style="dim"))
        if node.children and node is not tree:
            console.print_line(Text(f"{below}with sub-agents: {' · '.join(_took(node.total))}", style="dim"))
        if node.absent:
            more = f" and {len(node.absent) - _NAMED} more" if len(node.absent) > _NAMED else ""
            absent = f"{below}not in this archive: {', '.join(node.absent[:_NAMED])}{more}"
            console.print_line(Text(one_line_kept(absent), style="italic dim"))
    for cycle in tree.cycles:
        shown = " → ".join(short[each] for each in cycle)
        console.print(Text(f"a cycle, counted once: {visible(shown)}", style="yellow"))
    together = [count_of(tree.total.traces, "trace"), *_took(tree.total)]
    console.print_line(Text(f"together {' · '.join(together)}", style="bold"))


def _took(totals: Totals) -> list[str]:
    told = [count_of(totals.messages, "message"), f"{short_number(totals.tokens)} tokens"]
    return [*told, f"cost {cost_text(totals.cost)}"] if totals.cost else told


def print_hits(console: TerminalConsole, page: SearchPage, short: Mapping[str, str]) -> None:
    """Print each trace once, its messages below it with the match in the middle."""
    if not page:
        console.print("nothing found")
        return
    traces = 0
    for trace_id, hits in itertools.groupby(page, lambda hit: hit.trace_id):
        several = list(hits)
        if traces:
            console.print()
        traces += 1
        heading = Text(console.fitting(short[trace_id], 40), style="bold cyan")
        heading.append(f"  {console.fitting(several[0].task or '', _TASK_CHARS)}", style="not bold default")
        heading.rstrip()
        console.print_line(heading)
        for hit in several:
            console.print_line(_line(hit, console.width))
    console.print_line(Text(f"{count_of(len(page), 'message')} in {count_of(traces, 'trace')}", style="dim"))
    if page.next is not None:
        # Whole, however narrow the terminal: it is to be copied.
        console.print(Text(f"there are more: --after {page.next}", style="dim"), soft_wrap=True)


def _line(hit: SearchHit, width: int) -> Text:
    tool = f" {one_line(hit.tool_name, 24)}" if hit.tool_name and hit.role != "user" else ""
    line = Text().append(f"{hit.sequence:>5} ", style="dim")
    line.append(f"{one_line(hit.role, 20)}{tool}", style="green" if hit.role == "assistant" else "blue")
    line.append("  ")
    left = one_line_kept(hit.snippet[: hit.start]).lstrip()
    match = one_line_kept(hit.snippet[hit.start : hit.end])
    right = one_line_kept(hit.snippet[hit.end :])
    free = max(width - line.cell_len, 20)
    spare = free - cell_len(match) - cell_len(right)
    room = max(spare, free // 3, 0)
    if cell_len(left) > room:
        left = f"…{_ending(left, room - 1)}"
    return line.append(left).append(match, style="bold black on yellow").append(right.rstrip())


def one_line_kept(text: str) -> str:
    """Return text as one visible line, with a space where there was white space, also at its ends.

    Examples
    --------
    >>> one_line_kept("a\\n\\n  b "), one_line_kept("\\x1b[31m")
    ('a b ', '\\\\x1b[31m')
    """
    return re.sub(r"\s+", " ", visible(text))


def _ending(text: str, cells: int) -> str:
    return chop_cells(text[::-1], cells)[0][::-1] if cells > 0 and text else ""


def print_stats(console: TerminalConsole, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line a group, with a bar of its cost, or of its tokens where nothing has a cost."""
    if not rows:
        console.print("no traces")
        return
    by = next(iter(rows[0]))
    measure = "cost" if any(row["cost"] for row in rows) else "tokens"
    columns = [Column(by, least=8), Column("runs", right=True), Column("failed", right=True)]
    columns += [Column("msgs", right=True), Column("tokens", right=True)]
    columns += [Column("cost", right=True)] if measure == "cost" else []
    total: dict[str, Any] = {name: sum(row[name] for row in rows) for name in rows[0] if name != by}
    names = _names(rows, by, whole=console.in_pipe)
    cells = [
        [console.fitting(name, _NAME_CHARS), *_sums(row)][: len(columns)]
        for name, row in zip((*names, "together"), (*rows, total), strict=True)
    ]
    room = console.width - len(GAP) - _LEAST_BAR
    heading, *lines = lay_out(columns, cells, room)
    used = cell_len(GAP.join(heading)) + len(GAP)
    size = _PIPE_BAR if console.in_pipe else min(max(console.width - used, _LEAST_BAR), _MOST_BAR)
    largest = max(row[measure] for row in rows)
    console.print_line(Text(GAP.join(heading).rstrip(), style="bold"))
    for row, line in zip(rows, lines, strict=False):
        text = Text(GAP.join(line))
        if row["failed"]:
            begin = sum(map(len, line[:2])) + 2 * len(GAP)
            text.stylize("red", begin, begin + len(line[2]))
        text.append(GAP).append(_bar(row[measure] / largest if largest > 0 else 0, size), style="cyan")
        text.rstrip()
        console.print_line(text)
    console.print_line(Text(GAP.join(lines[-1]).rstrip(), style="bold"))


def _names(rows: Sequence[Mapping[str, Any]], by: str, *, whole: bool) -> list[str]:
    """Return a name for each group: of a model a short one, unless others would have the same."""
    names = [NOTHING if row[by] is None else row[by] for row in rows]
    if by != "model" or whole:
        return names
    short = [model_text(name) for name in names]
    shared = Counter(short)
    return [name if shared[label] > 1 else label for name, label in zip(names, short, strict=True)]


def _sums(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['runs']:,}",
        f"{row['failed']:,}" if row["failed"] else NOTHING,
        f"{row['messages']:,}",
        short_number(row["tokens"]),
        cost_text(row["cost"]),
    ]


def _bar(share: float, cells: int) -> str:
    """Return a bar; what is not nothing is seen."""
    eighths = round(max(share, 0) * cells * 8)
    if share > 0 and not eighths:
        eighths = 1
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")
