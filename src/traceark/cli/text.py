"""Text output: tables, trees and summaries for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from traceark.cli.answers import print_hits, print_stats, print_tree
from traceark.cli.as_json import plain
from traceark.cli.columns import GAP, Column, lay_out
from traceark.cli.console import STATUS_STYLES, TerminalConsole
from traceark.cli.output import Kept, Output, Rows, Shown, Verified
from traceark.cli.show import print_trace
from traceark.exporters.content import json_text
from traceark.exporters.telling import begun_of, moment_text
from traceark.showing import (
    NOTHING,
    bytes_text,
    cost_text,
    count_of,
    model_text,
    one_line,
    short_number,
    time_text,
    visible,
)

if TYPE_CHECKING:
    from traceark import Event, Trace
    from traceark.exporters.report import ExportReport
    from traceark.hits import SearchPage
    from traceark.importers.report import ImportReport
    from traceark.pages import TracePage
    from traceark.pending import SpoolStatus
    from traceark.redacting import RedactionReport
    from traceark.repair import RepairReport
    from traceark.retention import ExpiryReport
    from traceark.sync.pack import PackReport
    from traceark.sync.report import SyncReport
    from traceark.tracetree import TraceTree
    from traceark.verification import Finding

_WIDE = 120
_TASK_CHARS = 160
_CELL_CHARS = 200
_LEAST_CELL = 8
_SHORT_ID = 17
# Of the kinds of rows that an import met, so many are told on a terminal.
_KINDS = 24


class TextOutput(Output):
    """Text on standard output."""

    def __init__(self) -> None:
        self.console = TerminalConsole()

    def traces(self, page: TracePage, short: Mapping[str, str]) -> None:
        """Print a table, in a narrow terminal with the task in a second line, and how to go on."""
        traces = list(page)
        if not traces:
            self.console.print("no traces")
            return
        wide = self.console.width >= _WIDE
        columns = [
            Column("id"),
            Column("created (UTC)" if wide else "created"),
            Column("status"),
            Column("agent", least=6),
            Column("model", least=6),
            Column("msgs", right=True),
            Column("tokens", right=True),
        ]
        if wide or any(trace.total_cost for trace in traces):
            columns.append(Column("cost", right=True))
        if wide:
            columns.append(Column("task", least=8))
        rows = [self._trace_cells(trace, short, wide=wide)[: len(columns)] for trace in traces]
        heading, *lines = lay_out(columns, rows, self.console.width)
        self.console.print_line(Text(GAP.join(heading).rstrip(), style="bold"))
        for trace, line in zip(traces, lines, strict=True):
            text = Text(GAP.join(line).rstrip())
            text.stylize("cyan", 0, len(line[0]))
            begin = sum(map(len, line[:2])) + 2 * len(GAP)
            text.stylize(STATUS_STYLES[trace.status], begin, begin + len(line[2]))
            self.console.print_line(text)
            if trace.task and not wide:
                indent = " " * (cell_len(line[0]) + len(GAP))
                self.console.print_line(Text(indent + self.console.fitting(trace.task, _TASK_CHARS)))
        if page.next is not None:
            self.console.print_line(Text(f"there are more: --after {visible(short[traces[-1].trace_id])}", style="dim"))

    def _trace_cells(self, trace: Trace, short: Mapping[str, str], *, wide: bool) -> list[str]:
        fitting = self.console.fitting
        return [
            fitting(short[trace.trace_id], 40 if wide else _SHORT_ID),
            time_text(begun_of(trace)) if wide else time_text(begun_of(trace)).partition(" ")[0],
            trace.status,
            fitting(trace.agent_type or NOTHING, 24),
            fitting(model_text(trace.model) if trace.model else NOTHING, 24),
            f"{trace.total_messages:,}",
            short_number(trace.total_tokens),
            cost_text(trace.total_cost),
            fitting(trace.task or "", _TASK_CHARS),
        ]

    def tree(self, tree: TraceTree, short: Mapping[str, str]) -> None:
        """Print a drawn tree."""
        print_tree(self.console, tree, short)

    def hits(self, page: SearchPage, short: Mapping[str, str]) -> None:
        """Print each message with a match as a line below its trace."""
        print_hits(self.console, page, short)

    def stats(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a table with bars."""
        print_stats(self.console, rows)

    def trace(self, shown: Shown, *, full: bool) -> None:
        """Print the header, the goal tree and the messages."""
        print_trace(self.console, shown, full=full)

    def events(self, events: Sequence[Event], trace: Trace) -> None:
        """Print an event a line: id, time, type, payload."""
        if not events:
            self.console.print("no events")
            return
        columns = [Column("id", right=True), Column("time (UTC)"), Column("type"), Column("payload", least=8)]
        rows = [
            [
                str(event.event_id),
                moment_text(event.created_at, trace),
                self.console.fitting(event.event_type, 40),
                self.console.fitting(json_text(event.payload), _CELL_CHARS),
            ]
            for event in events
        ]
        self._table(columns, rows)

    def rows(self, rows: Rows) -> None:
        """Print a table, or a record a paragraph when its columns do not fit."""
        if not rows.columns:
            self.console.print("done")
            return
        cells = [[_value_text(value) for value in row] for row in rows.values]
        columns = []
        for index, name in enumerate(rows.columns):
            numeric = bool(rows.values) and all(_is_number(row[index]) for row in rows.values)
            heading = one_line(name, _CELL_CHARS)
            columns.append(Column(heading, right=numeric, least=max(cell_len(heading), _LEAST_CELL)))
        least = sum(
            max(cell_len(column.name), *(min(cell_len(row[index]), _LEAST_CELL) for row in cells), 0) + len(GAP)
            for index, column in enumerate(columns)
        )
        if least - len(GAP) > self.console.width:
            self._paragraphs([column.name for column in columns], cells)
        else:
            self._table(columns, cells)
        self.console.print(count_of(len(rows.values), "row"), style="dim")

    def _paragraphs(self, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        for row in cells:
            pairs = list(zip(names, row, strict=True))
            for pair in lay_out([Column("", right=True), Column("", least=8)], pairs, self.console.width)[1:]:
                self.console.out(GAP.join(pair).rstrip(), highlight=False)
            self.console.out("")

    def _table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        heading, *lines = lay_out(columns, rows, self.console.width)
        self.console.print_line(Text(GAP.join(heading).rstrip(), style="bold"))
        for line in lines:
            self.console.out(GAP.join(line).rstrip(), highlight=False)

    def imported(self, report: ImportReport) -> None:
        """Print the counts; problems go to standard error."""
        totals = report.totals()
        outcomes = Counter(trace.outcome for file in report.files for trace in file.traces)
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        compressed = f" ({len(report.compressed):,} of them compressed)" if report.compressed else ""
        grid.add_row("files", f"{totals['files']:,} read, {totals['skipped']:,} skipped{compressed}")
        grid.add_row("rows", Text(f"{totals['rows']:,} ({self._kinds(report.rows)})" if totals["rows"] else "0"))
        grid.add_row("traces", f"{totals['traces']:,} ({told})" if told else "0")
        grid.add_row("messages", f"{totals['new_messages']:,} new, {totals['known_messages']:,} known")
        grid.add_row("events", f"{totals['new_events']:,} new, {totals['known_events']:,} known")
        grid.add_row("goals", f"{totals['goals']:,} ({totals['goal_changes']:,} changes)")
        if report.repaired:
            grid.add_row("kept raw", Text(self._kinds(report.repaired)))
        for file in report.files:
            for difference in file.differences:
                grid.add_row("differs", Text(self.console.fitting(f"{difference.path}: {difference.reason}", 1000)))
        self.console.print_lines(grid)

    def _kinds(self, counter: Mapping[str, int]) -> str:
        """Return how many there are of each kind: on a terminal of the most frequent ones."""
        most = len(counter) if self.console.in_pipe else _KINDS
        shown = dict(Counter(counter).most_common(most))
        more = f" and {count_of(len(counter) - most, 'more kind')}" if len(counter) > most else ""
        return f"{_counted(shown)}{more}"

    def exported(self, report: ExportReport) -> None:
        """Print the files of few traces, the number of many, and what has no place in the format."""
        done = [trace for trace in report.traces if trace.outcome in ("written", "same")]
        if len(done) <= 5:
            for trace in done:
                same = " (as it was)" if trace.outcome == "same" else ""
                self.console.print_line(Text(f"exported {visible(trace.trace_id)} to {visible(str(trace.path))}{same}"))
        else:
            self.console.print(f"exported {count_of(len(done), 'trace')}")
        if empty := sum(trace.outcome == "empty" for trace in report.traces):
            self.console.print(f"no file for {count_of(empty, 'trace')} of which the format has nothing to say")
        if report.left_out:
            self.console.print_line(Text(f"left out: {_counted(report.left_out)}", style="dim"))
        if not report.traces:
            self.console.print("no traces")

    def packed(self, report: PackReport) -> None:
        """Print how many traces and bytes there are in the file."""
        amount = f"{count_of(len(report.trace_ids), 'trace')}, {bytes_text(report.bytes)}"
        self.console.print_line(Text(f"packed {amount}, to {visible(str(report.path))}"))

    def synced(self, report: SyncReport, word: str = "synced") -> None:
        """Print few traces that are not the same, each, then how many there are of each kind."""
        told = [trace for trace in report.traces if trace.outcome in ("diverged", "redacted")]
        if len(report.traces) <= 5:
            told = report.traces
        for trace in told:
            where = f"{' at ' if trace.outcome == 'diverged' else ': '}{trace.where}" if trace.where else ""
            copied = f", {bytes_text(trace.copied_bytes)}" if trace.copied_bytes else ""
            if trace.kept_as is not None:
                copied = f", kept as {visible(trace.kept_as)}"
            self.console.print_line(Text(f"{trace.outcome} {visible(trace.trace_id)}{where}{copied}"))
        self.console.print(
            f"{word}: {_counted(report.outcomes) or 'no traces'}; {bytes_text(report.copied_bytes)} copied"
        )

    def spooled(self, status: SpoolStatus) -> None:
        """Print it line by line."""
        for line in status.to_text():
            self.console.print_line(Text(visible(line)))

    def expired(self, report: ExpiryReport) -> None:
        """Print few ids, then how many traces and bytes, and what is kept."""
        if len(report.trace_ids) <= 5:
            for trace_id in report.trace_ids:
                self.console.print_line(Text(f"{'old' if report.dry_run else 'deleted'} {visible(trace_id)}"))
        amount = f"{count_of(len(report.trace_ids), 'trace')}, {bytes_text(report.bytes)}"
        kept = {"pinned": report.pinned, "running": report.running, "failed": report.failed}
        told = ", ".join(f"{number} {word}" for word, number in kept.items() if number)
        self.console.print(
            f"{'would delete' if report.dry_run else 'deleted'} {amount}{f'; kept: {told}' if told else ''}"
            + ("; --yes deletes" if report.dry_run and report.trace_ids else "")
        )

    def redacted(self, report: RedactionReport) -> None:
        """Print what was found by pattern and field, what stays, and in how many traces."""
        for (pattern, where), number in sorted(report.replaced.items()):
            self.console.print_line(Text(f"{pattern} in {where}: {number:,}"))
        for (pattern, where), number in sorted(report.left.items()):
            self.console.print_line(Text(f"left, since it is an id: {pattern} in {where}: {number:,}"))
        found = sum(bool(trace.replaced) for trace in report.traces)
        word = "would replace" if report.dry_run else "replaced"
        self.console.print(
            f"{word} {count_of(report.replaced.total(), 'match', 'matches')} in {found:,} of "
            f"{count_of(report.looked_at, 'trace')}" + ("; --yes replaces" if report.dry_run and found else "")
        )

    def verified(self, verified: Verified) -> None:
        """Print the findings, then how many there are; of notes the first, since most archives lack some sub-agents."""
        notes = [finding for finding in verified.findings if finding.is_note]
        for finding in (*verified.wrong, *notes[:1]):
            self._finding(finding)
        if len(notes) > 1:
            self.console.print(Text(f"  and {len(notes) - 1} more of this kind; --json has them all"))
        looked_at = f"{count_of(verified.traces, 'trace')} verified{', deep' if verified.deep else ''}"
        if verified.wrong:
            traces = {finding.trace_id for finding in verified.wrong}
            where = [f"in {count_of(len(traces - {''}), 'trace')}"] if traces - {""} else []
            where += ["outside of traces"] if "" in traces else []
            found = f"{count_of(len(verified.wrong), 'finding')} {' and '.join(where)}"
            self.console.print(Text(f"{looked_at}: {found}", style="bold red"))
        else:
            self.console.print(Text(f"{looked_at}: nothing is wrong", style="green"))

    def _finding(self, finding: Finding) -> None:
        where = finding.file if finding.offset is None else f"{finding.file} at {finding.offset}"
        self.console.print(Text(visible(where), style="bold"))
        told = f"note: {one_line(finding.meaning)}" if finding.is_note else one_line(finding.meaning)
        self.console.print(Text(f"  {told}", style="yellow" if finding.is_note else "red"))
        self.console.print(Text(f"  → {one_line(finding.remedy)}"))

    def repaired(self, report: RepairReport) -> None:
        """Print each file that is mended, with where it was kept; then what is left, as `verified` does."""
        for mend in report.mended:
            self.console.print(Text(f"{mend.deed} {visible(mend.file)}", style="bold"))
            self.console.print(Text(f"  {one_line(mend.meaning)}"))
            if mend.kept is not None:
                self.console.print(Text(f"  kept as {visible(mend.kept)}", style="dim"))
        for finding in report.left:
            self._finding(finding)
        mended = count_of(len({mend.trace_id for mend in report.mended}), "trace")
        left = len({finding.trace_id for finding in report.left})
        self.console.print(
            f"{count_of(report.traces, 'trace')} looked at: {'would mend' if report.dry_run else 'mended'} {mended}"
            + (f"; {count_of(left, 'trace')} left as {'they are' if left > 1 else 'it is'}" if left else "")
            + ("; --yes mends" if report.dry_run and report.mended else "")
        )

    def report(self, word: str, figures: Mapping[str, Any]) -> None:
        """Print the figures that are not zero in one sentence, then the problems."""
        told = [
            f"{amount:,.1f} s" if name == "seconds" else f"{name.replace('_', ' ')} {amount:,}"
            for name, amount in figures.items()
            if isinstance(amount, int | float) and amount
        ]
        self.console.print(f"{word}: {', '.join(told) or 'nothing to do'}")
        for problems in figures.values():
            if isinstance(problems, list | tuple):
                for problem in problems:
                    self.console.print(Text(f"  left out: {visible(str(problem))}"))

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


def _value_text(value: Any) -> str:
    simple = plain(value)
    if simple is None:
        return "NULL"
    return one_line(str(simple) if _is_number(value) else json_text(simple), _CELL_CHARS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _counted(counter: Mapping[str, int]) -> str:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {one_line(what)}" for what, number in ordered)
