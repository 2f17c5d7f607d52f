"""What a repair did, or would do, file by file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, cast

from traceark.models import JsonObject
from traceark.verification.finding import Finding

Deed = Literal["moved", "rewritten", "made", "sealed"]


@dataclass(frozen=True, slots=True)
class Mend:
    """One file that was mended, or would be.

    Attributes
    ----------
    trace_id : str
    file : str
        Relative to the archive.
    deed : {'moved', 'rewritten', 'made', 'sealed'}
        Moved away, rewritten, made anew where it was missing, or, of the manifest, written by sealing.
    meaning : str
        Why, and what is lost by it, if anything.
    kept : str or None
        Where what was there lies now, relative to the archive; None of a dry run, or where nothing was.
    """

    trace_id: str
    file: str
    deed: Deed
    meaning: str
    kept: str | None = None


@dataclass(slots=True)
class RepairReport:
    """What a repair did, or would do.

    Attributes
    ----------
    traces : int
        How many were looked at.
    mended : list of Mend
        In the order in which it was done.
    left : list of Finding
        What is wrong and cannot be mended without guessing, and what mends it. Such a trace is left as
        it is, but for what has nothing to do with it.
    dry_run : bool
        Whether nothing was done.
    """

    traces: int = 0
    mended: list[Mend] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    dry_run: bool = True

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        return {
            "dry_run": self.dry_run,
            "traces": self.traces,
            "mended": [cast("JsonObject", asdict(each)) for each in self.mended],
            "left": [cast("JsonObject", asdict(each)) for each in self.left],
        }
