"""Formats that are installed: the package's own, and those that other packages add as entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Protocol, TypeVar

from traceark.errors import TracearkError


class Named(Protocol):
    """Something that users name."""

    name: str


T = TypeVar("T", bound=Named)


def installed(group: str, own: Sequence[Callable[[], T]], error: type[TracearkError]) -> list[T]:
    """Return one of each format, the package's own first; another package's of the same name stands for it.

    Parameters
    ----------
    group : str
        Of entry points.
    own : sequence of callable
        Which make this package's; run from a source tree, it has no metadata that tells them.
    error : type
        Raised where an entry point does not load.
    """
    found = {each.name: each for each in (make() for make in own)}
    for point in points(group, places()):
        try:
            each = point.load()()
        except Exception as problem:  # another package's code runs here, and may raise anything
            raise error(f"{point.name!r} of {group} ({point.value}) does not load: {problem}") from problem
        found[each.name] = each
    return list(found.values())


@lru_cache(maxsize=8)
def points(group: str, places: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return the entry points of a group; to find them reads a file of every package there is."""
    return entry_points(group=group)


def places() -> tuple[tuple[str, int], ...]:
    """Return where packages may be, each with when something was last put in or taken out."""
    found = []
    for place in sys.path:
        with suppress(OSError):  # what is not there holds none
            found.append((place, Path(place).stat().st_mtime_ns))
    return tuple(found)
