"""The verbs of a spool, the directory that `ArchiveStore(url, spool=…)` writes to: status and ship."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from traceark.cli.archives import storage_options
from traceark.cli.settings import FINE, FOUND_WRONG, Settings, shared_options


@click.group("spool")
def spool_verb() -> None:
    """Look at a spool, or ship it without the agent that wrote it.

    A spool is the directory of ArchiveStore(url, spool=DIRECTORY): what is written is acknowledged there,
    and shipped to the archive in the background.
    """


@spool_verb.command("status")
@click.argument("directory")
@shared_options
def status(settings: Settings, directory: str) -> int:
    """Say what waits in the spool DIRECTORY. Exit code 1 when something cannot be shipped."""
    from traceark.spool.place import Place

    found = asyncio.run(Place(Path(directory)).status())
    settings.output().spooled(found)
    return FOUND_WRONG if found.problems or found.last_error is not None else FINE


@spool_verb.command("ship")
@click.argument("directory")
@shared_options
def ship_verb(settings: Settings, directory: str) -> int:
    """Ship what is left in the spool DIRECTORY to its archive, as after a crash, and remove it from the spool.

    Killed and repeated, it goes on. While a process that writes to the spool runs, that ships it.
    """
    from traceark.spool.place import Place
    from traceark.spool.ship import ship

    options = storage_options(settings, Place(Path(directory)).url())
    found = asyncio.run(ship(directory, storage_options=options))
    settings.output().spooled(found)
    return FINE if found.is_empty else FOUND_WRONG
