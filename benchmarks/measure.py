"""Timing side by side, and the table of what came out.

Machines are noisy and a disk's latency drifts, so contestants take turns in short rounds, each
round in another order, and are compared round by round.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Spread:
    """A measurement's median, and the least and most of its runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some runs."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def exactly(cls, value: float) -> Spread:
        """Return the spread of what does not vary."""
        return cls(value, value, value)

    def text(self, unit: str) -> str:
        """Return it for the table.

        Examples
        --------
        >>> Spread(12.34, 10.0, 20.0).text("µs")
        '12.3 µs (10.0–20.0)'
        """
        if self.least == self.most:
            return f"{_number(self.median)} {unit}".strip()
        return f"{_number(self.median)} {unit} ({_number(self.least)}–{_number(self.most)})"


def _number(value: float) -> str:
    """Return three digits of a number, or all of a whole one."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Figure:
    """One row of the table: what was measured, what stands beside it, and what was aimed at.

    `met` is None where nothing was aimed at, or nothing could be measured.
    """

    name: str
    measured: str
    beside: str = ""
    ratio: str = ""
    aim: str = ""
    met: bool | None = None

    def row(self) -> str:
        """Return it as a row of a Markdown table."""
        met = {True: "yes", False: "no", None: ""}[self.met]
        return f"| {self.name} | {self.measured} | {self.beside} | {self.ratio} | {self.aim} | {met} |"


HEAD = "| figure | measured | beside | ratio | aim | met |\n|---|---|---|---|---|---|"


def at_most(
    name: str,
    ours: Sequence[float],
    rival: str,
    theirs: Sequence[float],
    unit: str,
    most: float | None,
    bound: float | None = None,
) -> Figure:
    """Return the figure of a cost that should be at most `most` times the rival's, compared run by run.

    With `bound` its median should be at most that too.
    """
    ratio = statistics.median([mine / other for mine, other in zip(ours, theirs, strict=True)])
    aim = "" if most is None else "below it" if most == 1 else f"≤ {most:g}x"
    met = None if most is None else ratio < 1 if most == 1 else ratio <= most
    if bound is not None:
        aim += f", ≤ {bound:g} {unit}"
        met = met is not False and statistics.median(ours) <= bound
    return Figure(
        name, Spread.of(ours).text(unit), f"{rival}: {Spread.of(theirs).text(unit)}", f"{ratio:.2f}x", aim, met
    )


def within(name: str, ours: Sequence[float], unit: str, bound: float | None = None, beside: str = "") -> Figure:
    """Return the figure of a cost whose median should be at most `bound`."""
    aim = "" if bound is None else f"≤ {bound:g} {unit}"
    return Figure(
        name, Spread.of(ours).text(unit), beside, "", aim, None if bound is None else statistics.median(ours) <= bound
    )


def at_least(name: str, ours: Sequence[float], rival: str, theirs: Sequence[float], unit: str, least: float) -> Figure:
    """Return the figure of a cost that the rival should have at least `least` times of."""
    ratio = statistics.median([other / mine for mine, other in zip(ours, theirs, strict=True)])
    return Figure(
        name,
        Spread.of(ours).text(unit),
        f"{rival}: {Spread.of(theirs).text(unit)}",
        f"{ratio:.1f}x the rate",
        f"≥ {least:g}x the rate",
        ratio >= least,
    )


async def take_turns(
    contestants: Mapping[str, Work],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Run each contestant once per round, in turning order; return the seconds of each round.

    A contestant is called with the number of the round, and `before` just before, outside of its time; one more round
    goes before, uncounted.
    What waits for nothing is better timed by `time.process_time`, which leaves other processes out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    gc.collect()
    gc.freeze()  # so that collecting between turns takes no time of its own
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            # What one contestant left to collect is not another's time.
            before()
            gc.collect()
            start = clock()
            await contestants[name](turn)
            if turn:
                seconds[name].append(clock() - start)
    gc.unfreeze()
    return seconds
