"""traceark: the archive for the runs of LLM agents."""

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
