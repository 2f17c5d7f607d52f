"""The verbs that say what is kept: pin and expire."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

from traceark.cli.archives import find_all, opened_existing
from traceark.cli.asking import UNITS, filter_options, understood
from traceark.cli.output import Kept
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.showing import count_of

_AGE = re.compile(r"(\d{1,5})([mhdw])")


class _Age(click.ParamType[timedelta]):
    """So many minutes, hours, days or weeks."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the age."""
        if isinstance(value, timedelta):
            return value
        match = _AGE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no age such as 90d, 12h, 30m or 2w")
        return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command("pin")
@click.argument("archive")
@click.argument("names", nargs=-1, required=True, metavar="TRACE_ID...")
@click.option("--off", is_flag=True, help="Let them expire again.")
@shared_options
def pin_verb(settings: Settings, archive: str, names: tuple[str, ...], off: bool) -> int:
    """Keep traces from expiring. The runs stay as they are; a sync does not carry pins, and rm deletes all the same."""
    with opened_existing(settings, archive) as target:
        chosen = find_all(target, names)
        for trace_id in chosen:
            if off:
                target.unpin(trace_id)
            else:
                target.pin(trace_id)
    settings.output().kept(Kept("unpinned" if off else "pinned", chosen))
    return FINE


@click.command("expire")
@click.argument("archive")
@click.option("--older-than", type=_Age(), required=True, metavar="AGE", help="Created so long ago: 90d, 12h, 2w.")
@click.option("--keep-failed", is_flag=True, help="Not those that failed.")
@click.option("--include-running", is_flag=True, help="Also those that are still running.")
@click.option("--reason", metavar="TEXT", help="Why, for the tombstones.")
@click.option("--yes", is_flag=True, help="Delete them; without it nothing is deleted.")
@filter_options
@shared_options
def expire_verb(
    settings: Settings,
    archive: str,
    older_than: timedelta,
    keep_failed: bool,
    include_running: bool,
    reason: str | None,
    yes: bool,
    filters: dict[str, Any],
) -> int:
    """Say which traces are old enough to go; with --yes, delete them for good.

    Pinned traces stay, and so do running ones. What is deleted is removed from the catalog and from
    rollups too, and a tombstone without content keeps a sync from bringing it back.
    """
    with opened_existing(settings, archive) as target, progress("expiring") as advance:
        report = target.expire(
            older_than,
            dry_run=not yes,
            keep_failed=keep_failed,
            include_running=include_running,
            reason=reason,
            progress=lambda done, total: advance("traces", done, total),
            **understood(target, filters),
        )
    settings.output().expired(report)
    if report.unread:
        told = f"{count_of(len(report.unread), 'rollup')} cannot be read, and may hold rows of what was deleted"
        click.echo(f"traceark: {told}", err=True)
    return FOUND_WRONG if report.unread else FINE
