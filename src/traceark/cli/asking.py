"""The verbs that ask about many traces: ls, tree, search, stats, and the filters that they share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import click

from traceark.cli.archives import find, opened_existing, short_ids, trace_ids
from traceark.cli.settings import FINE, Settings, shared_options
from traceark.errors import InvalidValueError, TraceNotFoundError
from traceark.showing import model_text

if TYPE_CHECKING:
    from traceark import Archive

_AGO = re.compile(r"(\d{1,5})([mhdw])")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Every cursor is the base64 of a JSON list whose first element is a text.
_CURSOR = re.compile(r"WyI[\w-]{10,}")


class _Moment(click.ParamType[datetime]):
    """A time: so long ago, or ISO 8601."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC."""
        from traceark.filters import utc_moment

        ago = _AGO.fullmatch(value)
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        try:
            return cast("datetime", utc_moment(value, ""))
        except InvalidValueError:
            self.fail(
                f"{value!r} is neither a time such as 2026-01-02 or 2026-01-02T15:00 nor an age such as 7d or 12h"
            )


_FILTERS: tuple[Callable[[Callable[..., int]], Callable[..., int]], ...] = (
    click.option(
        "--status",
        type=click.Choice(["running", "completed", "failed", "cancelled"]),
        multiple=True,
        help="Only traces in this status.",
    ),
    click.option(
        "--agent", "--agent-type", "agent_type", metavar="TYPE", multiple=True, help="Only traces of this agent."
    ),
    click.option("--uid", multiple=True, help="Only traces of this user."),
    click.option("--mode", multiple=True, help="Only traces of this mode."),
    click.option("--model", multiple=True, help="Only traces of this model, as it is or as ls shows it."),
    click.option("--parent", metavar="TRACE_ID", multiple=True, help="Only sub-agents right below this trace."),
    click.option("--roots", is_flag=True, help="Only traces that are no sub-agents."),
    click.option(
        "--since",
        type=_Moment(),
        metavar="TIME",
        help="Only traces created at this time (UTC) or later: 2026-01-02, 2026-01-02T15:00, or 7d, 12h, 30m, 2w ago.",
    ),
    click.option("--until", type=_Moment(), metavar="TIME", help="Only traces created before this time."),
    click.option("--where", metavar="SQL", help="Only traces that meet a condition, such as 'total_tokens > 10000'."),
)


def filter_options(verb: Callable[..., int]) -> Callable[..., int]:
    """Give a verb the filters; it gets those that were given as one dictionary, `filters`."""

    @functools.wraps(verb)
    def told(**options: Any) -> int:
        names = ("status", "agent_type", "uid", "mode", "model", "parent", "roots", "since", "until", "where")
        filters = {name: options.pop(name) for name in names}
        return verb(filters={name: value for name, value in filters.items() if value}, **options)

    for option in reversed(_FILTERS):
        told = option(told)
    return told


def understood(source: Archive, filters: dict[str, Any]) -> dict[str, Any]:
    """Return filters with short names of traces and models as what they stand for."""
    found = dict(filters)
    if "parent" in filters:
        found["parent"] = [_trace_or_text(source, name) for name in filters["parent"]]
    if "model" in filters:
        models = [row["model"] for row in source.stats("model").rows() if row["model"] is not None]
        meant = [[each for each in models if name in (each, model_text(each))] or [name] for name in filters["model"]]
        found["model"] = [each for several in meant for each in several]
    return found


def _trace_or_text(source: Archive, name: str) -> str:
    try:
        return find(source, name)
    except TraceNotFoundError:
        return name  # a parent need not be here


@click.command("ls")
@click.argument("archive")
@click.option(
    "--order-by",
    default="-created_at",
    show_default=True,
    metavar="COLUMN",
    help="A column of the view traces, with - in front for descending.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many traces.")
@click.option("--after", metavar="TRACE_ID", help="Go on behind this trace, or from a cursor.")
@filter_options
@shared_options
def ls_verb(
    settings: Settings, archive: str, filters: dict[str, Any], order_by: str, limit: int, after: str | None
) -> int:
    """List the traces of ARCHIVE, the newest first; filters combine, and one given twice means either."""
    with opened_existing(settings, archive) as source:
        if after is not None and _CURSOR.fullmatch(after) is None:
            after = _behind(source, after, order_by)
        page = source.traces(**understood(source, filters), order_by=order_by, limit=limit, after=after)
        short = short_ids(trace_ids(source)) if not settings.as_json else {}
    # A trace that was created since its directory was listed has no short name.
    settings.output().traces(page, {trace.trace_id: trace.trace_id for trace in page} | short)
    if settings.as_json and page.next is not None:
        # A list has no place for it.
        click.echo(f"traceark: there are more: --after {page.next}", err=True)
    return FINE


def _behind(source: Archive, name: str, order_by: str) -> str:
    from traceark.filters import cursor_behind

    trace = source.get_trace(find(source, name))
    if trace is None:
        raise TraceNotFoundError(f"{name!r} has no header in {source.url}; traceark verify tells what is there")
    return cursor_behind(trace, order_by)


@click.command("tree")
@click.argument("archive")
@click.argument("trace_id")
@shared_options
def tree_verb(settings: Settings, archive: str, trace_id: str) -> int:
    """Show a trace with its sub-agents, and what they took together."""
    with opened_existing(settings, archive) as source:
        tree = source.tree(find(source, trace_id))
        short = short_ids(trace_ids(source)) if not settings.as_json else {}
    settings.output().tree(tree, {node.trace.trace_id: node.trace.trace_id for node in tree} | short)
    return FINE


@click.command("search")
@click.argument("archive")
@click.argument("text")
@click.option("--regex", is_flag=True, help="TEXT is a regular expression (RE2's); ^ and $ are ends of lines.")
@click.option("--case-sensitive", is_flag=True, help="Tell upper case from lower case.")
@click.option("--role", multiple=True, help="Only messages of this role.")
@click.option("--tool", metavar="NAME", multiple=True, help="Only messages of this tool.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many messages.")
@click.option("--after", metavar="CURSOR", help="Go on where the search before ended.")
@filter_options
@shared_options
def search_verb(
    settings: Settings,
    archive: str,
    filters: dict[str, Any],
    text: str,
    regex: bool,
    case_sensitive: bool,
    role: tuple[str, ...],
    tool: tuple[str, ...],
    limit: int,
    after: str | None,
) -> int:
    """Find TEXT in what messages say, in arguments and results of tools too; the newest trace comes first.

    The filters are those of the messages' traces.
    """
    with opened_existing(settings, archive) as source:
        page = source.search(
            text,
            regex=regex,
            ignore_case=not case_sensitive,
            role=role or None,
            tool_name=tool or None,
            limit=limit,
            after=after,
            **understood(source, filters),
        )
        short = short_ids(trace_ids(source)) if not settings.as_json else {}
    settings.output().hits(page, {hit.trace_id: hit.trace_id for hit in page} | short)
    return FINE


@click.command("stats")
@click.argument("archive")
@click.option(
    "--by",
    type=click.Choice(["day", "agent", "model", "status"]),
    default="day",
    show_default=True,
    help="What to sum up by; days are those of UTC on which traces were created, or unknown.",
)
@filter_options
@shared_options
def stats_verb(settings: Settings, archive: str, filters: dict[str, Any], by: Any) -> int:
    """Sum up runs, failures, messages, tokens and cost of the traces of ARCHIVE.

    Each trace counts on its own, sub-agents too; --roots leaves them out.
    """
    with opened_existing(settings, archive) as source:
        rows = source.stats(by, **understood(source, filters)).rows()
    settings.output().stats(rows)
    return FINE
