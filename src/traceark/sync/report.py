"""What a sync did, trace by trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from traceark.models import Json, JsonObject
from traceark.sync.compare import Outcome


@dataclass(frozen=True, slots=True)
class SyncedTrace:
    """One trace that is not the same on both sides.

    Attributes
    ----------
    outcome : str
        ``new``, ``forward`` (the target was an earlier state), ``behind`` (the source is one),
        ``diverged``, ``redacted`` (one is a redacted form of the other, and both are left as they are),
        ``deleted`` at the target, ``buried``: deleted or redacted there, and so not copied, or
        ``pinned``: to be deleted there, and kept for its pin.
    where : str
        Where the two part, if they diverged; which of them is redacted, if one is.
    copied_bytes : int
        What was written for it.
    kept_as : str, optional
        The trace at the target that holds the source's side, if they diverged and both are kept.
    """

    trace_id: str
    outcome: Outcome
    where: str = ""
    copied_bytes: int = 0
    kept_as: str | None = None

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        told: JsonObject = {"trace_id": self.trace_id, "outcome": self.outcome, "copied_bytes": self.copied_bytes}
        if self.where:
            told["where"] = self.where
        if self.kept_as is not None:
            told["kept_as"] = self.kept_as
        return told


@dataclass(slots=True)
class SyncReport:
    """What became of all traces of a sync.

    Attributes
    ----------
    outcomes : Counter
        Traces by outcome; those that are the same are counted only.
    traces : list of SyncedTrace
        All others, by trace id.
    problems : list of str
        Traces that could not be compared or copied: which, and why.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    traces: list[SyncedTrace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def copied_bytes(self) -> int:
        """Bytes that were written."""
        return sum(trace.copied_bytes for trace in self.traces)

    @property
    def is_clean(self) -> bool:
        """Whether both sides hold all that the source holds, and nothing has to be decided."""
        return not self.problems and not any(
            trace.outcome == "redacted" or (trace.outcome == "diverged" and trace.kept_as is None)
            for trace in self.traces
        )

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        outcomes: dict[str, Json] = dict(sorted(self.outcomes.items()))
        return {
            "outcomes": outcomes,
            "copied_bytes": self.copied_bytes,
            "traces": [trace.to_json() for trace in self.traces],
            "problems": list(self.problems),
        }
