"""Formats that are installed: the package's own, and those that other packages add as entry points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
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
    for point in entry_points(group=group):
        try:
            each = point.load()()
        except Exception as problem:  # another package's code runs here, and may raise anything
            raise error(f"{point.name!r} of {group} ({point.value}) does not load: {problem}") from problem
        found[each.name] = each
    return list(found.values())
