"""A progress bar on a terminal; nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show a bar while the block runs.

    Yields
    ------
    callable
        Takes what is at hand, how much is done, and how much there is. Until it is called the bar
        only shows that something goes on.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda item, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from traceark.showing import one_line

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[item]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, item="")

        def advance(item: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, item=one_line(item, 40))

        yield advance
