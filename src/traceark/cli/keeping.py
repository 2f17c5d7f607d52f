"""The verbs that keep an archive in order: compact, seal, verify, rm, refresh, optimize."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceark.at_a_time import for_each
from traceark.cli.archives import find_all, find_exactly, opened_existing, trace_ids
from traceark.cli.output import Kept, Verified
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.errors import DamagedTraceError, TraceNotFoundError
from traceark.showing import count_of, one_line

if TYPE_CHECKING:
    from traceark import Archive

# Sealing a trace takes memory for all of it.
_AT_A_TIME = 4


@click.command("compact")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "every", is_flag=True, help="All traces.")
@shared_options
def compact_verb(settings: Settings, archive: str, names: tuple[str, ...], every: bool) -> int:
    """Fold the live segments of traces into Parquet; writers go on meanwhile."""
    _check_choice(names, every)
    with opened_existing(settings, archive) as target:
        chosen = trace_ids(target) if every else find_all(target, names)
        done, failed = _each(target, "compacting", chosen, target.store.compact)
    return _tell(settings, Kept("compacted", done, failed=failed))


@click.command("seal")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "every", is_flag=True, help="All traces that are not running.")
@shared_options
def seal_verb(settings: Settings, archive: str, names: tuple[str, ...], every: bool) -> int:
    """Bring traces into their final form: one part a log, and a manifest that sha256sum checks.

    A later write reopens a trace.
    """
    _check_choice(names, every)
    with opened_existing(settings, archive) as target:
        running: list[str] = []
        if every:
            # Damaged traces are left out with a warning, and so with the exit code 1.
            traces = target.list_traces(limit=sys.maxsize)
            chosen = sorted(trace.trace_id for trace in traces if trace.status != "running")
            running = sorted(trace.trace_id for trace in traces if trace.status == "running")
        else:
            chosen = find_all(target, names)
        done, failed = _each(target, "sealing", chosen, target.store.seal)
    return _tell(settings, Kept("sealed", done, running, failed))


@click.command("verify")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "every", is_flag=True, help="All traces, which is what no TRACE_ID means too.")
@click.option(
    "--deep", is_flag=True, help="Also every hash and record, a recount of totals and stats, and the rollups."
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="How many processes share the work; without it as many as there are processors, where there is much to do.",
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep how far it is in FILE, outside of ARCHIVE, and go on from there; deleted when all is checked.",
)
@shared_options
def verify_verb(
    settings: Settings,
    archive: str,
    names: tuple[str, ...],
    every: bool,
    deep: bool,
    jobs: int | None,
    resume: Path | None,
) -> int:
    """Check traces, and say of what is wrong where it is and what mends it. Nothing is written.

    Without a TRACE_ID also what traces say of each other, tombstones, and the catalog. That a parent or a
    child is not in ARCHIVE is a note: nothing is wrong, since directories are copied one by one.
    """
    if every and names:
        raise click.UsageError("give TRACE_IDs or --all, not both", click.get_current_context())
    if resume is not None and names:
        raise click.UsageError("--resume is for all traces", click.get_current_context())
    with opened_existing(settings, archive) as source, progress("verifying") as advance:
        if not names:
            traces = len(trace_ids(source))
            findings = source.verify(
                deep=deep, workers=jobs, resume=resume, progress=lambda done, total: advance("traces", done, total)
            )
        else:
            chosen = find_all(source, names)
            traces, findings = len(chosen), []
            for number, trace_id in enumerate(chosen):
                advance(trace_id, number, traces)
                findings += source.verify(trace_id, deep=deep)
    verified = Verified(traces, deep, findings)
    settings.output().verified(verified)
    return FOUND_WRONG if verified.wrong else FINE


@click.command("rm")
@click.argument("archive")
@click.argument("names", nargs=-1, required=True, metavar="TRACE_ID...")
@click.option("--purge", is_flag=True, help="Also rewrite, now, the catalog and the rollups that hold rows of them.")
@click.option("--reason", metavar="TEXT", help="Why, for the tombstones.")
@shared_options
def rm_verb(settings: Settings, archive: str, names: tuple[str, ...], purge: bool, reason: str | None) -> int:
    """Delete traces for good, without asking. Nothing is deleted when one of them is not there.

    Rollups that `optimize` made show nothing of them from then on. Their rows lie there, hidden,
    until --purge or the next optimize, and this says so. A tombstone without content keeps a sync
    from bringing them back.
    """
    with opened_existing(settings, archive) as target:
        chosen = list(dict.fromkeys(find_exactly(target, name) for name in names))
        done, failed = _each(target, "removing", chosen, partial(target.store.delete_trace, reason=reason))
        left = target.rollups_with(done)
        if done and purge:
            report = target.purge(done)
            left = len(report.unread)
    code = _tell(settings, Kept("removed", done, failed=failed))
    if left:
        rollups = f"{count_of(left, 'rollup')} still hold{'' if left > 1 else 's'}"
        hint = f"traceark optimize {archive} rewrites {'them' if left > 1 else 'it'}"
        click.echo(f"traceark: {rollups} rows of what was removed, hidden; {one_line(hint)}", err=True)
    return code


@click.command("refresh")
@click.argument("archive")
@shared_options
def refresh_verb(settings: Settings, archive: str) -> int:
    """Look at all directories for what came, went or was replaced by hand.

    On a local disk directories that come and go are noticed without it. On S3 it takes one request
    per thousand files, and up to four for each trace that is not as it was.
    """
    with opened_existing(settings, archive) as target:
        report = target.refresh()
    settings.output().report("refreshed", asdict(report))
    return FOUND_WRONG if report.problems else FINE


@click.command("optimize")
@click.argument("archive")
@shared_options
def optimize_verb(settings: Settings, archive: str) -> int:
    """Bring the rollups up to date: a few large files over all sealed traces, for fast SQL."""
    with opened_existing(settings, archive) as target, progress("optimizing") as advance:
        report = target.optimize(progress=lambda done, total: advance("traces", done, total))
    settings.output().report("optimized", asdict(report))
    return FOUND_WRONG if report.left_out else FINE


def _check_choice(names: Sequence[str], every: bool) -> None:
    if every == bool(names):
        raise click.UsageError("give TRACE_IDs, or --all", click.get_current_context())


def _each(
    target: Archive, what: str, chosen: Sequence[str], work: Callable[[str], Awaitable[None]]
) -> tuple[list[str], dict[str, str]]:
    """Do something to each trace, some at a time; return those it was done to, and why others failed."""
    failed: dict[str, str] = {}
    begun = itertools.count()
    with progress(what) as advance:

        async def one(trace_id: str) -> None:
            advance(trace_id, next(begun), len(chosen))
            try:
                await work(trace_id)
            except (DamagedTraceError, TraceNotFoundError) as error:
                failed[trace_id] = str(error)

        target.run(for_each(chosen, one, _AT_A_TIME))
    failed = {each: failed[each] for each in chosen if each in failed}
    return [each for each in chosen if each not in failed], failed


def _tell(settings: Settings, kept: Kept) -> int:
    settings.output().kept(kept)
    for reason in kept.failed.values():
        click.echo(f"traceark: {one_line(reason)}", err=True)
    return FOUND_WRONG if kept.failed else FINE
