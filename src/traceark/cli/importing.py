"""The verb that takes runs from other programs' files: import."""

from __future__ import annotations

import contextlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceark.cli.archives import opened
from traceark.cli.progress import progress
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options
from traceark.showing import one_line, visible

if TYPE_CHECKING:
    from traceark.importers.base import Importer
    from traceark.importers.report import ImportReport


@click.command("import")
@click.argument("sources", nargs=-1, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option("--to", "archive", metavar="ARCHIVE", required=True, help="The archive, made if it is not there.")
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    help="The format, whatever the files named hold; in trees only files of it. Without it each file's content tells.",
)
@click.option("--strict", is_flag=True, help="Stop at the first file that cannot be taken whole.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="How many processes share the work; without it as many as there are processors, where there is much to do.",
)
@click.option("--samples", is_flag=True, help="Import the sample runs that come with traceark.")
@shared_options
def import_verb(
    settings: Settings,
    sources: tuple[Path, ...],
    archive: str,
    format_name: str | None,
    strict: bool,
    jobs: int | None,
    samples: bool,
) -> int:
    """Import files, and trees of files, adding only what ARCHIVE does not hold yet."""
    from traceark.importers.run import import_paths

    if not sources and not samples:
        raise click.UsageError("name a SOURCE, or give --samples", click.get_current_context())
    importer = _importer(format_name) if format_name is not None else None
    with contextlib.ExitStack() as stack:
        paths = list(sources)
        if samples:
            paths.append(stack.enter_context(as_file(files("traceark") / "samples")))
        target = stack.enter_context(opened(settings, archive))
        advance = stack.enter_context(progress("importing"))
        report = target.run(
            import_paths(
                target.store,
                paths,
                importer=importer,
                strict=strict,
                workers=jobs,
                progress=lambda path, done, total: advance(path.name, done, total),
            )
        )
    settings.output().imported(report)
    wrong = _wrong(report, sources)
    for problem in wrong:
        click.echo(f"traceark: {one_line(problem)}", err=True)
    if settings.debug:
        for path, told in report.raised.items():
            click.echo(f"traceark: {one_line(path)}:\n{visible(told)}", err=True, nl=False)
    elif report.raised:
        click.echo("traceark: an importer failed; --debug shows where", err=True)
    if report.stopped_at is not None:
        click.echo(
            f"traceark: stopped at {one_line(report.stopped_at)}; what came before it is in the archive", err=True
        )
    return FOUND_WRONG if wrong else FINE


def _importer(name: str) -> Importer:
    from traceark.importers.find import importers

    known = {importer.name: importer for importer in importers()}
    if name not in known:
        raise click.UsageError(f"no format {name!r}; there are {', '.join(known)}", click.get_current_context())
    return known[name]


def _wrong(report: ImportReport, sources: tuple[Path, ...]) -> list[str]:
    """Return what could not be taken; a file that was named is expected to be a run, one found in a tree is not."""
    named = {str(source) for source in sources}
    return [
        f"{problem.path}:{problem.line}: {problem.reason}" if problem.line else f"{problem.path}: {problem.reason}"
        for problem in report.problems
    ] + [f"{path}: skipped, {_unknown(report.compressed.get(path))}" for path in report.skipped if path in named]


def _unknown(compression: str | None) -> str:
    if compression is None:
        return "it is in no format that is known here"
    return f"it is compressed with {compression}: import what is in it"
