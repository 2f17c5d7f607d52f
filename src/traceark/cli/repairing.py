"""The verb that mends: repair."""

from __future__ import annotations

import click

from traceark.cli.archives import find_all, opened_existing
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options


@click.command("repair")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "every", is_flag=True, help="All traces.")
@click.option("--yes", is_flag=True, help="Mend; without it nothing is written.")
@click.option(
    "--accept", is_flag=True, help="Take for right what was changed by hand, such as trace.json or a manifest."
)
@shared_options
def repair_verb(settings: Settings, archive: str, names: tuple[str, ...], every: bool, yes: bool, accept: bool) -> int:
    """Say what can be mended of damaged traces without guessing; with --yes, mend it.

    Traces of which verify --deep finds nothing are not touched. What is taken away or replaced is
    kept in ARCHIVE/lost+found. What cannot be mended is left as it is, with what to copy from where.
    """
    if every == bool(names):
        raise click.UsageError("give TRACE_IDs, or --all", click.get_current_context())
    with opened_existing(settings, archive) as target, progress("repairing") as advance:
        report = target.repair(
            None if every else find_all(target, names),
            dry_run=not yes,
            accept=accept,
            progress=lambda done, total: advance("traces", done, total),
        )
    settings.output().repaired(report)
    return FOUND_WRONG if report.left or (report.dry_run and report.mended) else FINE
