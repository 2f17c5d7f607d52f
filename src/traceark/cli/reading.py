"""The verbs that read: show, tail, sql."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import click

from traceark.cli.archives import find, opened, opened_existing
from traceark.cli.output import Shown
from traceark.cli.rows import check_ending, print_csv, rows_of, write
from traceark.cli.settings import FINE, Settings, shared_options
from traceark.errors import DamagedTraceError, DamagedTraceWarning, TraceNotFoundError

if TYPE_CHECKING:
    from traceark import Archive, Trace


@click.command("show")
@click.argument("archive")
@click.argument("trace_id")
@click.option("--full", is_flag=True, help="All messages, every text whole.")
@shared_options
def show_verb(settings: Settings, archive: str, trace_id: str, full: bool) -> int:
    """Show one trace of ARCHIVE: header, goals with what they took, messages."""
    with opened_existing(settings, archive) as source:
        found = find(source, trace_id)
        trace = _header(source, found)
        tree = source.get_goal_tree(found)
        messages = source.get_trace_messages(found)
        children = {}
        for goal in tree.goals if tree is not None and not settings.as_json else ():
            for child_id in goal.sub_trace_ids:
                try:
                    child = source.get_trace(child_id)
                except DamagedTraceError as error:
                    warnings.warn(str(error), DamagedTraceWarning, stacklevel=2)
                    continue
                if child is not None:
                    children[child_id] = child
    settings.output().trace(Shown(trace, tree, messages, children), full=full)
    return FINE


def _header(source: Archive, trace_id: str) -> Trace:
    trace = source.get_trace(trace_id)
    if trace is None:
        raise TraceNotFoundError(f"{trace_id!r} has no header in {source.url}; traceark verify tells what is there")
    return trace


@click.command("tail")
@click.argument("archive")
@click.argument("trace_id")
@click.option(
    "--since",
    type=click.IntRange(min=0),
    default=0,
    metavar="EVENT_ID",
    help="Only events after this one; 0, the default, gives all.",
)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what comes, messages too, till the run ends.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --follow: how often to look.",
)
@click.option("--wait", "waits", is_flag=True, help="With --follow: wait for a trace that is not there yet.")
@shared_options
def tail_verb(
    settings: Settings, archive: str, trace_id: str, since: int, follows: bool, interval: float, waits: bool
) -> int:
    """Print the events of a trace, in order.

    With --follow also its messages, as they come, until the run has ended; --json then prints an
    object a line: {"event": …}, {"message": …} or {"update": …}. The number before an event is
    what --since takes to go on from there.
    """
    if waits and not follows:
        raise click.UsageError("--wait is for --follow")
    with (opened if waits else opened_existing)(settings, archive) as source:
        if follows:
            from traceark.cli.following import follow

            return follow(settings, source, trace_id if waits else find(source, trace_id), since, interval)
        found = find(source, trace_id)
        trace, events = _header(source, found), source.get_events(found, since)
    settings.output().events(events, trace)
    return FINE


@click.command("sql")
@click.argument("archive")
@click.argument("query")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of text.")
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the rows to FILE, whose ending says how: .parquet, .csv, .json or .jsonl.",
)
@click.option("--sandbox", is_flag=True, help="Read this archive and nothing else: for queries that are not trusted.")
@shared_options
def sql_verb(settings: Settings, archive: str, query: str, as_csv: bool, path: str | None, sandbox: bool) -> int:
    """Answer SQL (DuckDB's) over the views traces, goals, messages and events.

    Columns and macros are in docs/sql.md. The text output shortens long values; --json, --csv and -o
    have them whole. On a terminal CSV, too, shows what a terminal would obey as escapes.
    """
    if as_csv + settings.as_json + (path is not None) > 1:
        raise click.UsageError("--json, --csv and --output exclude each other")
    if path is not None:
        check_ending(path)
    with opened_existing(settings, archive) as source:
        result = source.sql(query, sandbox=sandbox)
    if path is not None:
        write(result, path)
    elif as_csv:
        print_csv(rows_of(result))
    else:
        settings.output().rows(rows_of(result))
    return FINE
