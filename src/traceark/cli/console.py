"""The console that text is printed on: it takes every text as it is, and cuts lines to its width."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from traceark.showing import one_line

STATUS_STYLES = {"running": "yellow", "completed": "green", "failed": "red", "cancelled": "magenta"}
# A sign and a style for the status of a trace or a goal.
SIGNS = {
    "completed": ("✓", "green"),
    "in_progress": ("▶", "yellow"),
    "running": ("▶", "yellow"),
    "pending": ("○", "dim"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "magenta"),
    "abandoned": ("⊘", "magenta"),
}
# In a pipe nothing is fitted to a width that is not there.
PIPE_WIDTH = 1_000_000_000


class TerminalConsole(Console):
    """A console on standard output that takes every text as it is."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
        super().__init__(width=width, markup=False, highlight=False, emoji=False)

    @property
    def in_pipe(self) -> bool:
        """Whether there is no width to fit lines to."""
        return self.width == PIPE_WIDTH

    def fitting(self, text: str, limit: int) -> str:
        """Return text as one visible line: of at most `limit` characters, in a pipe whole."""
        return one_line(text, PIPE_WIDTH if self.in_pipe else limit)

    def on_broken_pipe(self) -> None:
        """Leave it to `main`; rich would exit here as if something had been found wrong."""
        raise BrokenPipeError

    def print_lines(self, laid_out: Table | Tree) -> None:
        """Print a grid or a tree without the spaces that fill up its lines."""
        for segments in self.render_lines(laid_out, pad=False):
            line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
            line.rstrip()
            self.print_line(line)

    def print_line(self, line: Text) -> None:
        """Print one line, or lines, each cut to the width."""
        self.print(line, no_wrap=True, overflow="ellipsis")
