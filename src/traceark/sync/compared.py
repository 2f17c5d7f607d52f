"""What one side of a trace is to another: by who wrote what, or of runs made apart by what they say."""

from __future__ import annotations

from dataclasses import dataclass

from traceark.sync.compare import Outcome, compare, compare_contents
from traceark.sync.redacted import how_redacted
from traceark.sync.sides import Side


@dataclass(frozen=True, slots=True)
class Found:
    """What a sync finds: the outcome, and of a trace that diverged where, and what names the source's side."""

    outcome: Outcome
    where: str = ""
    side: str = ""


async def compared(side: Side, there: Side | None) -> Found:
    """Return what a source's side of a trace is to the target's.

    Raises
    ------
    DamagedTraceError, UnreadableError
    """
    if there is None:
        if side.manifest is None:
            side.prove(await side.copy())
        return Found("new")
    if side.header.incarnation == there.header.incarnation:
        ours = await side.copy()
        found = compare(ours, await there.copy())
        if found.outcome in ("same", "forward"):
            side.prove(ours)
        if found.outcome == "same" and side.manifest is not None and there.manifest is None:
            return Found("forward")  # sealed since
    else:
        found = compare_contents(await side.content(), await there.content())
        told = how_redacted(side.header, there.header)
        if told is not None and found.outcome != "same":
            return Found("redacted", told)
    return Found(found.outcome, found.where, found.side or side.header.incarnation)
