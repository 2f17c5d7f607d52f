"""What a workload of several stores asked for and was told, and what may be read of it: at any moment, and in the end.

Every value is a number that comes once, and is in all that is said: in a message, an event, a header's task. A deed
that failed, or was cancelled, may have been done at any time since. Deletions make it open whether what was done
beside them is there; where a trace was never deleted its history must be linearizable (`traceark.testing.history`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from traceark.testing.history import Kind, Operation, faults

# What is appended to a log, what a register is set to, and what becomes of the trace.
Did = Literal["say", "tell", "set", "create", "delete", "redact"]


def text_of(value: int) -> str:
    """Return what is said for a value: something that a redaction finds is in it."""
    return f"say {value} to a{value}@example.org"


def value_of(text: object) -> int:
    """Return which value a text was said for, whether it was redacted since or not."""
    found = re.match(r"say (\d+) to", str(text))
    assert found is not None, f"nobody said {text!r}"
    return int(found[1])


def secrets_in(text: str) -> set[int]:
    """Return of which values a text shows what a redaction finds."""
    return set(map(int, re.findall(r"a(\d+)@example\.org", text)))


@dataclass(slots=True)
class Deed:
    """One call: `of` says which register, `ended` when it was acknowledged.

    It may be done until it is `over`: where it failed or was cancelled at any time, unless who did it, `by`, is dead.
    """

    did: Did
    trace: str
    value: int
    of: str
    begun: int
    ended: float = math.inf
    by: object = field(default=None, compare=False)
    died: float = math.inf

    @property
    def over(self) -> float:
        """The moment after which nothing comes of it any more."""
        return min(self.ended, self.died)


@dataclass
class Account:
    """All deeds, by moments that an own clock counts.

    Parameters
    ----------
    process : callable
        Returns which process does what is done now.
    """

    process: Callable[[], object]
    deeds: list[Deed] = field(default_factory=list)
    read: list[Operation] = field(default_factory=list)
    _moments: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def now(self) -> int:
        """Return the next moment."""
        return next(self._moments)

    @contextmanager
    def deed(self, did: Did, trace: str, *values: int, of: str = "") -> Iterator[None]:
        """Do something inside the block, which ends when it is acknowledged; without an end it may be done yet."""
        begun = [Deed(did, trace, value, of, self.now(), by=self.process()) for value in values or (0,)]
        self.deeds += begun
        yield
        for each in begun:
            each.ended = self.now()

    def died(self, process: object) -> None:
        """Note that a process is dead: what it was at, is not gone on with."""
        for each in self.deeds:
            if each.by is process and math.isinf(each.ended):
                each.died = self.now()

    def done(self, trace: str, did: Did) -> list[Deed]:
        """Return what was done to a trace."""
        return [each for each in self.deeds if each.trace == trace and each.did == did]

    def may_be_absent(self, trace: str, begun: int) -> bool:
        """Say whether a trace may not have been there, at some time since a moment."""
        made = [each.begun for each in self.done(trace, "create") if each.ended <= begun]
        return not made or any(each.over > max(made) for each in self.done(trace, "delete"))

    def may_be_present(self, trace: str, begun: int) -> bool:
        """Say whether a trace may have been there, at some time since a moment."""
        gone = [each for each in self.done(trace, "delete") if each.ended <= begun]
        return any(all(each.begun < made.ended for each in gone) for made in self.done(trace, "create"))

    def must_hold(self, trace: str, did: Did, begun: int) -> set[int]:
        """Return the values that whoever reads a log since a moment finds, if the trace is there."""
        gone = self.done(trace, "delete")
        return {
            each.value
            for each in self.done(trace, did)
            if each.ended <= begun and all(other.over <= each.begun for other in gone)
        }

    def may_hold(self, trace: str, did: Did, begun: int) -> set[int]:
        """Return the values that whoever reads a log since a moment may find."""
        gone = [each for each in self.done(trace, "delete") if each.ended <= begun]
        return {each.value for each in self.done(trace, did) if all(other.begun < each.ended for other in gone)}

    def hidden(self, trace: str, begun: int) -> set[int]:
        """Return the values that were redacted before a moment."""
        redacted = max((each.begun for each in self.done(trace, "redact") if each.ended <= begun), default=0)
        said = [each for each in self.deeds if each.trace == trace and each.value]
        # What is added again is said again.
        return {each.value for each in said} - {each.value for each in said if each.ended > redacted}

    def judge(self, trace: str, did: Did, values: Sequence[int], begun: int) -> None:
        """Assert that these may be the values of a log, read since a moment."""
        assert len(values) == len(set(values)), f"{did} of {trace} is there twice: {values}"
        lost = self.must_hold(trace, did, begun) - set(values)
        assert not lost, f"acknowledged and lost: {did} {sorted(lost)} of {trace}"
        made_up = set(values) - self.may_hold(trace, did, begun)
        assert not made_up, f"deleted, or never attempted: {did} {sorted(made_up)} of {trace}"

    def found(self, kind: Kind, of: str, value: object, begun: int) -> None:
        """Write down what was read since a moment."""
        self.read.append(Operation(kind, of, value, begun, self.now()))

    def history(self) -> list[str]:
        """Return why what was done to traces that were never deleted, and read of them, is not linearizable."""
        deleted = {each.trace for each in self.deeds if each.did == "delete"}
        # A message that is added again is in its place since the first time.
        first = {(each.trace, each.value): each for each in reversed(self.deeds) if each.did in ("say", "tell", "set")}
        done = [
            Operation("set" if each.did == "set" else "append", self.name(each), each.value, each.begun, each.ended)
            for each in first.values()
            if each.trace not in deleted
        ]
        return faults([*done, *(each for each in self.read if each.of.partition(" ")[0] not in deleted)])

    @staticmethod
    def name(deed: Deed) -> str:
        """Return the name of a log or a register."""
        return f"{deed.trace} {deed.of or deed.did}"
