"""What an export did, trace by trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, cast

from traceark.models import Json, JsonObject

Outcome = Literal["written", "same", "empty", "failed"]


@dataclass(slots=True)
class ExportedTrace:
    """What became of one trace.

    Attributes
    ----------
    outcome : str
        ``written``; ``same``: the file was there with this very content; ``empty``: the format has
        nothing to say of the trace, so there is no file; ``failed``: `reason` tells why.
    path : str, optional
        The file; None where bytes went elsewhere.
    left_out : Counter
        What the format has no place for, by reason.
    """

    trace_id: str
    outcome: Outcome
    path: str | None = None
    size: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    reason: str = ""


@dataclass(slots=True)
class ExportReport:
    """What an export did."""

    format: str
    traces: list[ExportedTrace] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every trace was exported."""
        return not self.failed

    @property
    def failed(self) -> list[ExportedTrace]:
        """The traces that were not exported."""
        return [trace for trace in self.traces if trace.outcome == "failed"]

    @property
    def left_out(self) -> Counter[str]:
        """What was left out of the traces that were exported, by reason."""
        total: Counter[str] = Counter()
        for trace in self.traces:
            if trace.outcome != "failed":
                total.update(trace.left_out)
        return total

    def to_json(self) -> JsonObject:
        """Return the report as plain JSON."""
        return {
            "ok": self.ok,
            "format": self.format,
            "left_out": cast("Json", dict(self.left_out)),
            # Of a counter `asdict` would make one that counts pairs.
            "traces": [
                {**cast("JsonObject", asdict(replace(trace, left_out=Counter()))), "left_out": dict(trace.left_out)}
                for trace in self.traces
            ],
        }
