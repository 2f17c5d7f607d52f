"""What an error makes of the run that it ends."""

from __future__ import annotations

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
