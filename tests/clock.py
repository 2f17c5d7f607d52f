"""A clock of the package's own, which a test moves: everything else goes by the real one."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest


class Clock:
    """The real time, and how far a test has moved it; only the wall clock can jump back."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.jumped = 0.0

    def monotonic(self) -> float:
        """Return seconds that never run back."""
        return time.monotonic() + self.ahead

    def time(self) -> float:
        """Return seconds since the epoch, as the wall clock has them."""
        return time.time() + self.ahead + self.jumped

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return int(self.time() * 1e9)

    def set(self, patch: pytest.MonkeyPatch) -> None:
        """Have every module of the package that is loaded go by this clock."""
        own = SimpleNamespace(**vars(time))
        own.monotonic, own.time, own.time_ns = self.monotonic, self.time, self.time_ns
        for name, module in list(sys.modules.items()):
            if name.startswith("traceark.") and getattr(module, "time", None) is time:
                patch.setattr(module, "time", own)
