"""Text output: tables, trees and summaries for people."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from traceark.cli.content import json_text
from traceark.cli.output import Kept, Output, Rows, Shown, Verified, plain
from traceark.cli.terminal import NOTHING, cost_text, count_of, model_text, one_line, short_number, time_text, visible

if TYPE_CHECKING:
    from traceark import Event, Trace
    from traceark.importers.report import ImportReport

STATUS_STYLES = {"running": "yellow", "completed": "green", "failed": "red", "cancelled": "magenta"}
# In a pipe nothing is fitted to a width that is not there.
PIPE_WIDTH = 100_000
_WIDE = 120
_TASK_CHARS = 160
_CELL_CHARS = 200
_LEAST_CELL = 8


class TerminalConsole(Console):
    """A console on standard output that takes every text as it is."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
        super().__init__(width=width, markup=False, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Leave it to `main`; rich would exit here as if something had been found wrong."""
        raise BrokenPipeError

    def print_lines(self, table: Table | Tree, *last: tuple[str, Text]) -> None:
        """Print a table or a tree without the spaces that fill up its lines.

        Parameters
        ----------
        table : Table or Tree
            What is laid out to fit the width.
        last : (str, Text)
            What follows each line, behind that text, up to the end of the width.
        """
        for index, segments in enumerate(self.render_lines(table, pad=False)):
            line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
            if last:
                before, text = last[index]
                line.append(before)
                line.append_text(text)
            line.rstrip()
            self.print_line(line)

    def print_line(self, line: Text) -> None:
        """Print one line, or lines, each cut to the width."""
        self.print(line, no_wrap=True, overflow="ellipsis")


class TextOutput(Output):
    """Text on standard output."""

    def __init__(self) -> None:
        self.console = TerminalConsole()

    def traces(self, traces: Sequence[Trace], short: Mapping[str, str]) -> None:
        """Print a table, in a narrow terminal with the task in a second line."""
        if not traces:
            self.console.print("no traces")
            return
        wide = self.console.width >= _WIDE
        costs = wide or any(trace.total_cost for trace in traces)
        columns = [
            "id",
            "created (UTC)" if wide else "created",
            "status",
            "agent",
            "model",
            ">msgs",
            ">tokens",
            ">cost",
        ]
        rows = [_trace_cells(trace, short, wide=wide) for trace in traces]
        shown = columns[: None if costs else -1]
        table = _table(*shown)
        # The names of agents and models give way, since numbers that are cut would lie.
        widths = [
            max(cell_len(text) for text in (name.lstrip(">"), *cells))
            for name, *cells in zip(shown, *rows, strict=False)
        ]
        room = self.console.width - sum(widths[:3] + widths[5:]) - 2 * (len(shown) - 1)
        for row in rows:
            for index in (3, 4):
                row[index] = one_line(row[index], max(min(room // 2, 24), 6))
            id_, status = Text(row[0], style="cyan"), Text(row[2], style=STATUS_STYLES[row[2]])
            table.add_row(id_, row[1], status, *map(Text, row[3 : len(shown)]))
        tasks = [Text(one_line(trace.task or "", _TASK_CHARS)) for trace in traces]
        if wide:
            self.console.print_lines(table, ("  ", Text("task", style="bold")), *(("  ", task) for task in tasks))
            return
        indent = "\n" + " " * (widths[0] + 2)
        self.console.print_lines(table, ("", Text()), *((indent if task else "", task) for task in tasks))

    def trace(self, shown: Shown, *, full: bool) -> None:
        """Print the header, the goal tree and the messages."""
        from traceark.cli.show import print_trace

        print_trace(self.console, shown, full=full)

    def events(self, events: Sequence[Event]) -> None:
        """Print an event a line: id, time, type, payload."""
        if not events:
            self.console.print("no events")
            return
        table = _table(">id", "time (UTC)", "type")
        for event in events:
            table.add_row(
                str(event.event_id), time_text(event.created_at, seconds=True), Text(one_line(event.event_type, 40))
            )
        payloads = [("  ", _cell(json_text(event.payload))) for event in events]
        self.console.print_lines(table, ("  ", Text("payload", style="bold")), *payloads)

    def rows(self, rows: Rows) -> None:
        """Print a table, or a record a paragraph when its columns do not fit."""
        if not rows.columns:
            self.console.print("done")
            return
        cells = [[_value_cell(value) for value in row] for row in rows.values]
        names = [_cell(name) for name in rows.columns]
        widths = [
            max([name.cell_len, *(min(row[index].cell_len, _LEAST_CELL) for row in cells)])
            for index, name in enumerate(names)
        ]
        if sum(width + 2 for width in widths) - 2 > self.console.width:
            self._paragraphs(names, cells)
        else:
            table = _table()
            for index, (name, width) in enumerate(zip(names, widths, strict=True)):
                numeric = bool(rows.values) and all(
                    isinstance(row[index], int | float | Decimal) for row in rows.values
                )
                table.add_column(
                    name, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis", min_width=width
                )
            for row in cells:
                table.add_row(*row)
            self.console.print_lines(table)
        self.console.print(count_of(len(rows.values), "row"), style="dim")

    def _paragraphs(self, names: Sequence[Text], cells: Sequence[Sequence[Text]]) -> None:
        width = max(name.cell_len for name in names)
        for row in cells:
            for name, cell in zip(names, row, strict=True):
                label = Text(" " * (width - name.cell_len)) + name
                label.stylize("bold")
                self.console.print_line(label + Text("  ") + cell)
            self.console.print()

    def imported(self, report: ImportReport) -> None:
        """Print the counts; problems go to standard error."""
        totals = report.totals()
        outcomes = Counter(trace.outcome for file in report.files for trace in file.traces)
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        grid.add_row("files", f"{totals['files']:,} read, {totals['skipped']:,} skipped")
        grid.add_row("rows", Text(f"{totals['rows']:,} ({_counted(report.rows)})" if totals["rows"] else "0"))
        grid.add_row("traces", f"{totals['traces']:,} ({told})" if told else "0")
        grid.add_row("messages", f"{totals['new_messages']:,} new, {totals['known_messages']:,} known")
        grid.add_row("events", f"{totals['new_events']:,} new, {totals['known_events']:,} known")
        grid.add_row("goals", f"{totals['goals']:,}")
        if report.repaired:
            grid.add_row("kept raw", Text(_counted(report.repaired)))
        self.console.print_lines(grid)

    def verified(self, verified: Verified) -> None:
        """Print the findings, then how many there are."""
        for finding in verified.findings:
            where = finding.file if finding.offset is None else f"{finding.file} at {finding.offset}"
            self.console.print(Text(visible(where), style="bold"))
            self.console.print(Text(f"  {one_line(finding.meaning)}", style="red"))
            self.console.print(Text(f"  → {one_line(finding.remedy)}"))
        looked_at = f"{count_of(verified.traces, 'trace')} verified{', deep' if verified.deep else ''}"
        if verified.findings:
            wrong = len({finding.trace_id for finding in verified.findings})
            found = f"{count_of(len(verified.findings), 'finding')} in {count_of(wrong, 'trace')}"
            self.console.print(Text(f"{looked_at}: {found}", style="bold red"))
        else:
            self.console.print(Text(f"{looked_at}: nothing is wrong", style="green"))

    def kept(self, kept: Kept) -> None:
        """Print the ids of few traces, the number of many."""
        if len(kept.done) <= 5:
            for trace_id in kept.done:
                self.console.print(Text(f"{kept.word} {visible(trace_id)}"))
        else:
            self.console.print(f"{kept.word} {count_of(len(kept.done), 'trace')}")
        if kept.left_alone:
            self.console.print(f"left alone {count_of(len(kept.left_alone), 'trace')} still running")
        elif not kept.done and not kept.failed:
            self.console.print("no traces")


_SHORT_ID = 17


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _trace_cells(trace: Trace, short: Mapping[str, str], *, wide: bool) -> list[str]:
    return [
        one_line(short[trace.trace_id], 40 if wide else _SHORT_ID),
        time_text(trace.created_at) if wide else time_text(trace.created_at).partition(" ")[0],
        trace.status,
        trace.agent_type or NOTHING,
        model_text(trace.model) if trace.model else NOTHING,
        f"{trace.total_messages:,}",
        short_number(trace.total_tokens),
        cost_text(trace.total_cost),
    ]


def _cell(text: str) -> Text:
    return Text(one_line(text, _CELL_CHARS))


def _value_cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    simple = plain(value)
    return _cell(str(value) if isinstance(simple, int | float) and not isinstance(simple, bool) else json_text(simple))


def _counted(counter: Mapping[str, int]) -> str:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return one_line(", ".join(f"{number:,} {what}" for what, number in ordered))
