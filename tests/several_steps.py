"""The steps of a workload of several stores at once, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Traces by where they are written to: at the archive, at the other one, through the spool.
HERE, THERE, SPOOLED = ("t", "u"), "b", "s"
WEIGHTS = {
    "add": 6, "add_many": 2, "add_again": 1, "tell": 3, "tell_many": 1, "change": 3, "set_task": 2, "set_status": 4,
    "set_total": 1, "add_goal": 2, "change_goal": 2, "change_tree": 1, "seal": 4, "compact": 4, "redact": 3,
    "repair": 1, "verify": 1, "remake": 2, "push": 3, "pull": 2, "add_whole": 1, "pack": 1, "add_spooled": 3,
    "flush": 1, "optimize": 1, "reopen": 1, "kill": 1, "take": 1, "read": 8, "list": 1, "ask": 1,
}  # fmt: skip
# Two openings of the archive and more: each is as another process would be.
STORES = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One call, by a store that is told by number, cancelled after some seconds or not."""

    number: int
    kind: str
    store: int
    trace: str
    cancelled_after: float | None

    def __str__(self) -> str:
        cut = "" if self.cancelled_after is None else f", cancelled after {self.cancelled_after:.4f} s"
        return f"{self.number}: store {self.store} {self.kind} {self.trace}{cut}"


def drawn(seed: int, count: int, only: Sequence[str] = ()) -> list[Step]:
    """Return the steps of a seed: of each seed some kinds only, so that those meet often."""
    chance = random.Random(f"steps {seed}")
    kinds = only or [kind for kind in WEIGHTS if kind in ("add", "read") or chance.random() < 0.6]
    weights = [WEIGHTS[kind] for kind in kinds]
    hot, cut = chance.choice([0.6, 0.95]), chance.choice([0.0, 0.0, 0.1])
    return [
        Step(
            number,
            chance.choices(kinds, weights)[0],
            chance.randrange(STORES),
            HERE[chance.random() > hot],
            chance.expovariate(50) if chance.random() < cut else None,
        )
        for number in range(1, count + 1)
    ]
