"""The verb that gives runs to other programs and to people: export."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from traceark.cli.archives import find_all, opened_existing
from traceark.cli.asking import filter_options, understood
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.showing import one_line, visible

if TYPE_CHECKING:
    from traceark.exporters.base import Format
    from traceark.exporters.report import ExportReport


@click.command("export")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--format", "format_name", metavar="NAME", required=True, help="The format; see docs/exporting.md.")
@click.option(
    "-o",
    "--output",
    "--to",
    "output",
    metavar="FILE_OR_DIRECTORY",
    help="Where to; one trace goes to standard output without it, or with '-'. A directory, there or with a slash at "
    "the end, gets a file for each trace.",
)
@click.option("--force", is_flag=True, help="Replace files that are there with other content.")
@filter_options
@shared_options
def export_verb(
    settings: Settings,
    archive: str,
    names: tuple[str, ...],
    format_name: str,
    output: str | None,
    force: bool,
    filters: dict[str, Any],
) -> int:
    """Export traces of ARCHIVE: those named, or those that the filters leave.

    A file that is there is replaced only with --force; one with the same content stays.
    """
    from traceark.exporters.run import export_traces, exporter_of, target_of

    if names and filters:
        raise click.UsageError("give TRACE_IDs or filters, not both", click.get_current_context())
    exporter = exporter_of(format_name)
    output = None if output == "-" else output
    if output is None:
        _check_standard_output(settings, exporter)
    with opened_existing(settings, archive) as source:
        chosen = find_all(source, names) if names else source.run(source.store.trace_ids(**understood(source, filters)))
        target = target_of(output) if output is not None else _print
        with progress("exporting") as advance:
            report = source.run(export_traces(source.store, chosen, exporter, target, force=force, progress=advance))
    if output is not None:
        settings.output().exported(report)
    return _tell(report, aside=output is None)


def _check_standard_output(settings: Settings, exporter: Format) -> None:
    from traceark.exporters.base import Packer

    context = click.get_current_context()
    if settings.as_json:
        raise click.UsageError("--json tells of files; name one with -o", context)
    if isinstance(exporter, Packer) and sys.stdout.isatty():
        raise click.UsageError(f"{exporter.name} is nothing for a terminal; name a file with -o", context)


def _print(data: bytes) -> None:
    """Write an export to standard output; a terminal is shown what it would obey."""
    if sys.stdout.isatty():
        click.echo(visible(data.decode(errors="replace")), nl=False)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def _tell(report: ExportReport, *, aside: bool) -> int:
    """Say what failed, and beside an export on standard output what was left out."""
    for trace in report.failed:
        click.echo(f"traceark: {one_line(trace.reason)}", err=True)
    if aside:
        # Where it takes no more, nothing was exported of which that could be told.
        sys.stdout.flush()
    if aside and report.left_out:
        told = ", ".join(f"{number:,} {reason}" for reason, number in report.left_out.most_common())
        click.echo(f"traceark: left out: {one_line(told)}", err=True)
    return FINE if report.ok else FOUND_WRONG
