"""Moving traces between archives."""

from traceark.sync.report import SyncedTrace, SyncReport
from traceark.sync.run import SyncOptions, sync

__all__ = ["SyncOptions", "SyncReport", "SyncedTrace", "sync"]
