"""The verbs that read: ls, show, tail, sql."""

from __future__ import annotations

import warnings

import click

from traceark.cli.archives import find, opened_existing, short_ids, trace_ids
from traceark.cli.output import Shown
from traceark.cli.rows import check_ending, print_csv, rows_of, write
from traceark.cli.settings import FINE, Settings, shared_options
from traceark.errors import DamagedTraceError, DamagedTraceWarning


@click.command("ls")
@click.argument("archive")
@click.option("--mode", help="Only traces of this mode.")
@click.option("--agent-type", metavar="TYPE", help="Only traces of this agent.")
@click.option("--uid", help="Only traces of this user.")
@click.option(
    "--status", type=click.Choice(["running", "completed", "failed", "cancelled"]), help="Only traces in this status."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many traces.")
@shared_options
def ls_verb(
    settings: Settings,
    archive: str,
    mode: str | None,
    agent_type: str | None,
    uid: str | None,
    status: str | None,
    limit: int,
) -> int:
    """List the traces of ARCHIVE, the newest first; filters combine."""
    with opened_existing(settings, archive) as source:
        traces = source.list_traces(mode, agent_type, uid, status, limit)
        short = short_ids(trace_ids(source)) if not settings.as_json else {}
    # A trace that was created since its directory was listed has no short name.
    settings.output().traces(traces, {trace.trace_id: trace.trace_id for trace in traces} | short)
    return FINE


@click.command("show")
@click.argument("archive")
@click.argument("trace_id")
@click.option("--full", is_flag=True, help="All messages, every text whole.")
@shared_options
def show_verb(settings: Settings, archive: str, trace_id: str, full: bool) -> int:
    """Show one trace of ARCHIVE: header, goals with what they took, messages."""
    with opened_existing(settings, archive) as source:
        found = find(source, trace_id)
        trace = source.get_trace(found)
        assert trace is not None
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
@shared_options
def tail_verb(settings: Settings, archive: str, trace_id: str, since: int) -> int:
    """Print the events of a trace, in order."""
    with opened_existing(settings, archive) as source:
        events = source.get_events(find(source, trace_id), since)
    settings.output().events(events)
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
