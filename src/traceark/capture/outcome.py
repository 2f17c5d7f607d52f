"""What an error makes of the run that it ends."""

from __future__ import annotations

import sys
from typing import Literal

# Errors by which Python stops what runs, by the names of their classes; the last ends what is not read to its end.
_CANCELLED = frozenset({"CancelledError", "KeyboardInterrupt", "GeneratorExit"})
Outcome = Literal["completed", "failed", "cancelled"]


def outcome_of(error: BaseException | None) -> Outcome:
    """Return what an error makes of a run.

    Examples
    --------
    >>> outcome_of(None), outcome_of(KeyError("x")), outcome_of(KeyboardInterrupt())
    ('completed', 'failed', 'cancelled')
    """
    kinds = {each.__name__ for each in type(error).__mro__}
    # LangGraph stops a graph that waits for a person by an error of this kind.
    if error is None or "GraphBubbleUp" in kinds:
        return "completed"
    return "cancelled" if kinds & _CANCELLED else "failed"


class Endings:
    """By which error each thing ends, where whoever tells of its end does not say so."""

    def __init__(self) -> None:
        # What the program was handling already when it began, and so does not end it.
        self._handled: dict[str, BaseException] = {}

    def begin(self, name: str) -> None:
        """Take that something begins; to be called in its own context."""
        if (error := sys.exception()) is not None:
            self._handled[name] = error

    def end(self, name: str) -> BaseException | None:
        """Return the error by which it ends; to be called in its own context."""
        error, handled = sys.exception(), self._handled.pop(name, None)
        return error if error is not handled else None
