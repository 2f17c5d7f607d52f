"""The running total of a Codex CLI session: what it grew by from row to row.

It knows counters, and nothing of rows or messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from traceark.importers.typed import Typed
from traceark.models import Json, Usage

_COUNTERS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")


@dataclass(frozen=True, slots=True)
class Growth:
    """What a total grew by, and how many tokens the last call used by what is told beside it."""

    usage: Usage
    last_tokens: int


class RunningTotal:
    """Tells what each total is more than the one before.

    One that is smaller than before, or no more than what the last call used, counts from nothing.

    Examples
    --------
    >>> from collections import Counter
    >>> total = RunningTotal(Typed(Counter()))
    >>> one, two = {"input_tokens": 100, "output_tokens": 10}, {"input_tokens": 50, "output_tokens": 5}
    >>> total.grow(one, one).usage.total(), total.grow(one, one), total.grow(two, two).usage.total()
    (110, None, 55)
    """

    def __init__(self, typed: Typed) -> None:
        self._typed = typed
        self._total = dict.fromkeys(_COUNTERS, 0)

    def grow(self, total: Mapping[str, Json], last: Mapping[str, Json]) -> Growth | None:
        """Take a total, and what the last call used; return what it grew by, None where it did not."""
        now, used = self._counters(total), self._counters(last)
        if now == self._total:
            return None
        began_anew = now == used or any(now[name] < self._total[name] for name in _COUNTERS)
        before = dict.fromkeys(_COUNTERS, 0) if began_anew else self._total
        grown = {name: now[name] - before[name] for name in _COUNTERS}
        self._total = now
        cached = min(grown["cached_input_tokens"], grown["input_tokens"])
        usage = Usage(
            input_tokens=grown["input_tokens"] - cached,
            output_tokens=grown["output_tokens"],
            cache_read_tokens=cached,
            reasoning_tokens=grown["reasoning_output_tokens"],
        )
        return Growth(usage, used["input_tokens"] + used["output_tokens"]) if any(grown.values()) else None

    def _counters(self, told: Mapping[str, Json]) -> dict[str, int]:
        return {name: self._typed.count(told.get(name)) or 0 for name in _COUNTERS}
