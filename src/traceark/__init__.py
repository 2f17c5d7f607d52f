"""traceark: the archive for the runs of LLM agents.

The public names are imported when they are first used, since pyarrow and duckdb take a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traceark.archive import Archive, open
    from traceark.models import Event, Goal, GoalStats, GoalTree, Message, Trace, Usage
    from traceark.protocol import TraceStore
    from traceark.store import ArchiveStore

__all__ = [
    "Archive",
    "ArchiveStore",
    "Event",
    "Goal",
    "GoalStats",
    "GoalTree",
    "Message",
    "Trace",
    "TraceStore",
    "Usage",
    "open",
]
__version__ = "0.1.0"

_HOMES = {"Archive": "archive", "open": "archive", "ArchiveStore": "store", "TraceStore": "protocol"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"traceark.{_HOMES.get(name, 'models')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
