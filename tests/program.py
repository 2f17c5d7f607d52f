"""The program `traceark` as users call it, also where only the sources are."""

from __future__ import annotations

import sys
from pathlib import Path


def program(directory: Path) -> Path:
    """Put the program into ``directory/bin`` and return that, for PATH."""
    place = directory / "bin"
    place.mkdir()
    (place / "traceark").write_text(f"#!{sys.executable}\nfrom traceark.cli import main\nmain()\n")
    (place / "traceark").chmod(0o755)
    return place
