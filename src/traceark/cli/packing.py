"""The verbs that put traces into one file and take them out of it: pack and unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from traceark.cli.archives import find_all, opened, opened_existing
from traceark.cli.asking import filter_options, understood
from traceark.cli.moving import tell
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.showing import bytes_text, one_line


@click.command("pack")
@click.argument("archive")
@click.argument("names", nargs=-1, metavar="[TRACE_ID]...")
@click.option("--all", "everything", is_flag=True, help="All traces.")
@click.option(
    "--to", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The file: .zip or .tar.zst."
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@filter_options
@shared_options
def pack_verb(
    settings: Settings,
    archive: str,
    names: tuple[str, ...],
    everything: bool,
    to: Path,
    force: bool,
    filters: dict[str, Any],
) -> int:
    """Pack traces of ARCHIVE into one file: those named, those that the filters leave, or all.

    Its content is their very directories, so that unzip and tar unpack it too. The same sealed traces
    give the same bytes; of a trace that is being written it holds a state that it had.
    """
    if (bool(names), bool(filters), everything).count(True) != 1:
        raise click.UsageError("name TRACE_IDs, or give filters, or --all", click.get_current_context())
    with opened_existing(settings, archive) as source, progress("packing") as advance:
        report = source.pack(
            *find_all(source, names),
            to=to,
            force=force,
            progress=lambda done, total, size: advance(bytes_text(size), done, total),
            **understood(source, filters),
        )
    settings.output().packed(report)
    for problem in report.problems:
        click.echo(f"traceark: {one_line(problem)}", err=True)
    return FOUND_WRONG if report.problems else FINE


@click.command("unpack")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--to", "archive", metavar="ARCHIVE", required=True, help="The archive, made if it is not there.")
@click.option("--dry-run", is_flag=True, help="Check the pack, say what would be copied, and write nothing.")
@click.option("--sync-once", is_flag=True, help="On a disk, sync file systems, not each file.")
@click.option("--max-bytes", type=click.IntRange(1), metavar="N", help="At most so many bytes may come out of FILE.")
@click.option("--max-members", type=click.IntRange(1), metavar="N", help="At most so many members may it have.")
@shared_options
def unpack_verb(
    settings: Settings,
    file: Path,
    archive: str,
    dry_run: bool,
    sync_once: bool,
    max_bytes: int | None,
    max_members: int | None,
) -> int:
    """Copy to ARCHIVE what it lacks of the traces in a packed FILE, as sync would do.

    All of FILE is checked first; one that is damaged, or holds anything that is no trace, is refused
    and nothing is taken from it. What was deleted in ARCHIVE does not come back.
    """
    from traceark.sync import Limits, SyncOptions

    usual = Limits()
    limits = Limits(members=max_members or usual.members, bytes=max_bytes or usual.bytes)
    with opened(settings, archive) as target, progress("unpacking") as advance:
        report = target.unpack(
            file,
            options=SyncOptions(dry_run=dry_run, sync_each=not sync_once),
            limits=limits,
            progress=lambda done, total, copied: advance(bytes_text(copied), done, total),
        )
    settings.output().synced(report, "unpacked")
    return tell(report)
