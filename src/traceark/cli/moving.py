"""The verbs that bring two archives together: sync and merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from traceark.cli.archives import opened_existing, storage_options
from traceark.cli.asking import filter_options, understood
from traceark.cli.progress import progress
from traceark.cli.redacting import pattern_options
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.redaction.patterns import Pattern, patterns_of
from traceark.showing import bytes_text, count_of, one_line, visible

if TYPE_CHECKING:
    from traceark.sync import SyncReport


def _shared(verb: Callable[..., int]) -> Callable[..., int]:
    """Add the options that both verbs have."""
    for option in (
        click.option("--no-check", is_flag=True, help="Do not read back what was written."),
        click.option(
            "--on-diverged",
            type=click.Choice(["report", "keep-both"]),
            default="report",
            show_default=True,
            help="With keep-both the source's side is stored too, as TRACE_ID.diverged-….",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be copied, and write nothing."),
    ):
        verb = option(verb)
    return verb


@click.command("sync")
@click.argument("source")
@click.argument("target")
@_shared
@click.option(
    "--delete",
    is_flag=True,
    help="Also delete at TARGET what SOURCE does not have or has deleted, unless it is pinned there.",
)
@click.option("--sync-once", is_flag=True, help="On a disk, sync file systems, not each file.")
@click.option("--redact", is_flag=True, help="Replace keys, tokens and addresses in the copies; see traceark redact.")
@pattern_options
@filter_options
@shared_options
def sync_verb(
    settings: Settings,
    source: str,
    target: str,
    dry_run: bool,
    delete: bool,
    on_diverged: str,
    no_check: bool,
    sync_once: bool,
    redact: bool,
    patterns: tuple[Pattern, ...] | None,
    filters: dict[str, Any],
) -> int:
    """Copy to the archive TARGET what it lacks of SOURCE; both may be written to meanwhile.

    Nothing is overwritten but by a later state of itself. A trace that was written to on both sides
    is told, with the place where they part, and left as it is, but for --on-diverged. What TARGET
    has deleted is not brought back. Killed and repeated, it goes on.
    """
    from traceark.sync import SyncOptions

    if patterns is not None and not redact:
        raise click.UsageError("patterns go with --redact", click.get_current_context())
    options = SyncOptions(
        dry_run=dry_run,
        delete=delete,
        keep_both=on_diverged == "keep-both",
        check=not no_check,
        sync_each=not sync_once,
        redact=(patterns or patterns_of()) if redact else (),
    )
    with opened_existing(settings, source, target) as archive, progress("syncing") as advance:
        report = archive.sync_to(
            target,
            storage_options=storage_options(settings, target, source),
            options=options,
            progress=lambda done, total, copied: advance(bytes_text(copied), done, total),
            **understood(archive, filters),
        )
    settings.output().synced(report)
    return tell(report)


@click.command("merge")
@click.argument("one")
@click.argument("other")
@_shared
@filter_options
@shared_options
def merge_verb(
    settings: Settings,
    one: str,
    other: str,
    dry_run: bool,
    on_diverged: str,
    no_check: bool,
    filters: dict[str, Any],
) -> int:
    """Sync two archives both ways: each has all that the other had, but for traces that diverged.

    Told is first what OTHER got, then what ONE did.
    """
    from traceark.sync import SyncOptions

    options = SyncOptions(dry_run=dry_run, keep_both=on_diverged == "keep-both", check=not no_check)
    # A name that is mistyped is not to become an archive: to make one of another is what sync does.
    with opened_existing(settings, other, one) as archive:
        there = archive.url
    with opened_existing(settings, one, other) as archive, progress("merging") as advance:

        def told(done: int, total: int, copied: int) -> None:
            advance(bytes_text(copied), done, total)

        chosen = understood(archive, filters)
        away = storage_options(settings, other, one)
        to_other = archive.sync_to(other, storage_options=away, options=options, progress=told, **chosen)
        to_one = archive.sync_from(other, storage_options=away, options=options, progress=told, **chosen)
    settings.output().synced(to_other, f"into {visible(there)}")
    settings.output().synced(to_one, f"into {visible(archive.url)}")
    return tell(to_other, to_one)


def tell(*reports: SyncReport) -> int:
    """Say what could not be copied, once what several reports tell of; return the exit code."""
    told: list[str] = []
    for report in reports:
        told += map(one_line, report.problems)
        if diverged := sum(trace.outcome == "diverged" and trace.kept_as is None for trace in report.traces):
            told.append(f"{count_of(diverged, 'trace')} diverged: both sides were written to; nothing was copied")
        if redacted := sum(trace.outcome == "redacted" for trace in report.traces):
            told.append(f"{count_of(redacted, 'trace')} redacted on one side; nothing was copied")
    for line in dict.fromkeys(told):
        click.echo(f"traceark: {line}", err=True)
    return FINE if all(report.is_clean for report in reports) else FOUND_WRONG
