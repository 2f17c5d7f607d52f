"""Moving traces between archives, at once or by way of a file."""

from traceark.packed.members import Limits
from traceark.sync.pack import PackReport, pack
from traceark.sync.report import SyncedTrace, SyncReport
from traceark.sync.run import SyncOptions, sync, sync_trace
from traceark.sync.unpack import unpack

__all__ = ["Limits", "PackReport", "SyncOptions", "SyncReport", "SyncedTrace", "pack", "sync", "sync_trace", "unpack"]
