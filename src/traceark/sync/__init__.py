"""Moving traces between archives."""

from traceark.sync.report import SyncedTrace, SyncReport
from traceark.sync.run import SyncOptions, sync, sync_trace

__all__ = ["SyncOptions", "SyncReport", "SyncedTrace", "sync", "sync_trace"]
