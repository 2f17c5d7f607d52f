"""traceark: the archive for the runs of LLM agents."""

from traceark.models import Event, Goal, GoalStats, GoalTree, Message, Trace, Usage
from traceark.protocol import TraceStore
from traceark.store import ArchiveStore

__all__ = ["ArchiveStore", "Event", "Goal", "GoalStats", "GoalTree", "Message", "Trace", "TraceStore", "Usage"]
__version__ = "0.1.0"
