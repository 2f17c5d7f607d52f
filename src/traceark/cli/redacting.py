"""The verb redact, and the options by which a verb is told what to look for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from traceark.cli.archives import find_all, opened_existing
from traceark.cli.asking import filter_options, understood
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.redaction.patterns import BUILT_IN, Pattern, patterns_of, read_patterns
from traceark.showing import count_of, one_line


def pattern_options(verb: Callable[..., int]) -> Callable[..., int]:
    """Give a verb the options that say what to look for; it gets `patterns`, None where none was given."""

    @click.option(
        "--pattern", "wanted", multiple=True, metavar="NAME", help="Only this built-in pattern, or none. Repeatable."
    )
    @click.option(
        "--regex", "own", multiple=True, metavar="NAME=REGEX", help="A pattern of your own, beside them. Repeatable."
    )
    @click.option(
        "--patterns-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Patterns of your own, a NAME=REGEX a line.",
    )
    @functools.wraps(verb)
    def told(wanted: tuple[str, ...], own: tuple[str, ...], patterns_file: Path | None, **options: Any) -> int:
        patterns: tuple[Pattern, ...] | None = None
        if wanted or own or patterns_file is not None:
            text = "" if patterns_file is None else patterns_file.read_text(encoding="utf-8") + "\n"
            patterns = patterns_of(wanted, read_patterns(text + "\n".join(own), "the patterns given"))
        return verb(patterns=patterns, **options)

    return told


def _list_patterns(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    for pattern in BUILT_IN:
        click.echo(f"{pattern.name}: {pattern.what}\n    {pattern.source}\n    {pattern.regex}")
    context.exit()


@click.command("redact")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "every", is_flag=True, help="All traces.")
@pattern_options
@click.option("--yes", is_flag=True, help="Replace it; without it nothing is written.")
@click.option(
    "--list-patterns",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_patterns,
    help="Show the built-in patterns, and do nothing else.",
)
@filter_options
@shared_options
def redact_verb(
    settings: Settings,
    archive: str,
    names: tuple[str, ...],
    every: bool,
    patterns: tuple[Pattern, ...] | None,
    yes: bool,
    filters: dict[str, Any],
) -> int:
    """Say which keys, tokens and addresses stand in traces; with --yes, replace them for good.

    What was found becomes [redacted:NAME] in messages, events, goals and headers; ids, times and
    totals stay. The old bytes are gone from the directories, the catalog and rollups, and no sync
    brings them back. To redact only copies: traceark sync --redact.
    """
    if (bool(names), every, bool(filters)).count(True) != 1:
        raise click.UsageError("give TRACE_IDs, or filters, or --all", click.get_current_context())
    with opened_existing(settings, archive) as target, progress("redacting") as advance:
        report = target.redact(
            find_all(target, names) if names else None,
            patterns=patterns,
            dry_run=not yes,
            progress=lambda done, total: advance("traces", done, total),
            **understood(target, filters),
        )
    settings.output().redacted(report)
    for problem in report.problems:
        click.echo(f"traceark: {one_line(problem)}", err=True)
    if report.unread:
        told = f"{count_of(len(report.unread), 'rollup')} cannot be read, and may hold rows of what was replaced"
        click.echo(f"traceark: {told}", err=True)
    return FOUND_WRONG if report.problems or report.unread or report.left else FINE
