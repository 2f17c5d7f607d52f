"""What a workload asked for and was promised: acknowledged ⊆ recovered ⊆ attempted.

A *thing* is whatever has one value at a time: a message, an event, a goal's status, a header's field.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Thing = Hashable
ABSENT = None


@dataclass(slots=True)
class _Attempt:
    value: object
    begun: int
    acknowledged: int | None = None
    refused: bool = False


@dataclass(slots=True)
class Ledger:
    """The attempts on every thing, each with the moments at which it began and was acknowledged.

    Parameters
    ----------
    now : callable
        Returns the moment: how many calls there were.

    Examples
    --------
    >>> ledger = Ledger(now=lambda: 0)
    >>> with ledger.attempt({"message 1": "hello"}):
    ...     pass
    >>> ledger.faults({"message 1": None}, at=1)
    ["'message 1' is None, and may be 'hello'"]
    """

    now: Callable[[], int]
    _attempts: dict[Thing, list[_Attempt]] = field(default_factory=dict)

    @contextmanager
    def attempt(self, values: Mapping[Thing, object]) -> Iterator[None]:
        """Attempt to give things these values inside the block, which ends when that is acknowledged.

        Where the block fails, nothing is promised, and each may have been done all the same.
        """
        begun = [(thing, _Attempt(value, self.now())) for thing, value in values.items()]
        for thing, attempt in begun:
            self._attempts.setdefault(thing, []).append(attempt)
        yield
        for _, attempt in begun:
            attempt.acknowledged = self.now()

    def allowed(self, thing: Thing, at: int) -> list[object]:
        """Return the values that a thing may have if all ended at a moment."""
        allowed: list[object] = [ABSENT]
        for attempt in self._attempts.get(thing, ()):
            if attempt.acknowledged is not None and attempt.acknowledged <= at:
                allowed = [attempt.value]
            elif attempt.begun <= at:
                allowed.append(attempt.value)
        return allowed

    def faults(self, found: Mapping[Thing, object], at: int) -> list[str]:
        """Return what is wrong with what was recovered; all that was ever attempted is looked at."""
        return [
            f"{thing!r} is {found.get(thing, ABSENT)!r}, and may be {' or '.join(map(repr, allowed))}"
            for thing in self._attempts.keys() | found.keys()
            if found.get(thing, ABSENT) not in (allowed := self.allowed(thing, at))
        ]
