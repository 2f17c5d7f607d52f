"""Waiting until a trace is shipped as it was at a moment.

No clock is asked, since one that jumps would end the wait too soon, or never: what a mark says of files and offsets
tells, or that two marks were set since. The look for the second one began after the moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from traceark.errors import SpoolPendingError
from traceark.layout import GOAL_TREE, HEADER, LOGS
from traceark.lifecycle import versions
from traceark.spool.place import Mark, Place

_HEADERS = (HEADER, GOAL_TREE)


@dataclass(slots=True)
class Awaited:
    """A trace that is to be shipped at least as it was when this was made.

    Attributes
    ----------
    files, ends : mapping
        The versions of its files and the ends of its logs then.
    mark : Mark, optional
        The last one that was seen; the first one was set before.
    marks : int
        How many others were seen since.
    """

    place: Place
    trace_id: str
    files: Mapping[str, str]
    ends: Mapping[str, int]
    mark: Mark | None
    marks: int = 0

    @classmethod
    async def of(cls, place: Place, trace_id: str) -> Awaited | None:
        """Return a trace of a spool as it is now, None where there is none."""
        mark = await place.mark(trace_id)  # first, so that no other mark is taken for one that was set before
        trace = await place.trace(trace_id)
        if trace is None:
            return None
        return cls(place, trace_id, versions(trace.entries), await place.ends(trace_id, trace.entries), mark)

    async def is_shipped(self) -> bool:
        """Say whether it was shipped as it was then, or later.

        Raises
        ------
        SpoolPendingError
            It was found since that it cannot be.
        """
        trace = await self.place.trace(self.trace_id)
        if trace is None or trace.is_shipped:
            return True
        if trace.mark != self.mark:
            self.mark, self.marks = trace.mark, self.marks + 1
        mark = trace.mark
        if mark is None or (self.marks < 2 and not self._is_in(mark)):
            return False
        if mark.problem is not None and self.marks:
            raise SpoolPendingError(f"trace {self.trace_id!r} in {self.place.directory} is not shipped: {mark.problem}")
        return mark.problem is None

    def _is_in(self, mark: Mark) -> bool:
        """Say whether a mark is of headers that are these, and of logs that end here or later."""
        same = all(mark.files.get(name, (0, None))[1] == self.files.get(name) for name in _HEADERS)
        return same and all(mark.ends[log] >= self.ends[log] for log in LOGS)
