"""The verbs that read: show, tail, sql."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import click

from traceark.cli.archives import find, opened_existing
from traceark.cli.output import Rows, Shown
from traceark.cli.settings import FINE, Settings, shared_options
from traceark.errors import DamagedTraceError, DamagedTraceWarning


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
@shared_options
def sql_verb(settings: Settings, archive: str, query: str) -> int:
    """Answer SQL (DuckDB's) over the views traces, goals, messages and events.

    The text output shortens long values; --json has them whole.
    """
    with opened_existing(settings, archive) as source:
        table = source.sql(query).arrow()
    columns = [column.to_pylist() for column in table.columns]
    settings.output().rows(Rows(_distinct(table.column_names), list(zip(*columns, strict=True))))
    return FINE


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the columns that share a name, which an object cannot hold twice."""
    found: list[str] = []
    for name in names:
        number, told = 1, name
        while told in found:
            number += 1
            told = f"{name}_{number}"
        found.append(told)
    return found
