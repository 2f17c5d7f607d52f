"""How much tests try: a little in every test run, far more with the profile ``thorough``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hypothesis import settings

Case = TypeVar("Case")

# What chance decides follows from it: `make torture SEED=7`.
SEED = int(os.environ.get("SEED", "0"))
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
# All that there is, for hours: `make torture WHOLE=1`.
WHOLE = THOROUGH and bool(os.environ.get("WHOLE"))


def tried(count: int, thorough: int, whole: int | None = None) -> int:
    """Return how many samples to take, or which step to take between them."""
    if WHOLE and whole is not None:
        return whole
    return thorough if THOROUGH else count


def some(cases: Iterable[Case], count: int) -> list[Case]:
    """Return so many of the cases, spread over all of them; a thorough run gets all. Another `SEED` gives others."""
    every = list(cases)
    if THOROUGH or count >= len(every):
        return every
    return [every[(SEED + at * len(every) // count) % len(every)] for at in range(count)]


def in_turn(kinds: Sequence[Case], name: str) -> list[Case]:
    """Return one of the kinds for the test of a name, and others for others; a thorough run gets all for each."""
    return list(kinds) if THOROUGH else [kinds[(SEED + len(name)) % len(kinds)]]


def points(count: int, step: int) -> range:
    """Return one in so many of the calls that there are, counted from 1, to put a fault in at: one at the least."""
    step = min(step, count)
    return range(1 + (SEED + step // 2) % step, count + 1, step)


def machine_settings(max_examples: int, steps: int, *, thorough: int) -> settings:
    """Return the settings of a state machine."""
    from hypothesis import settings  # nothing else here needs it, and programs of tests import this module

    examples = tried(max_examples, thorough, 10 * thorough)
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None)
