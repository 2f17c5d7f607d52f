"""Repair: mends what can be mended without guessing, and keeps whatever it takes away in ``lost+found/``."""

from traceark.repair.report import Mend, RepairReport
from traceark.repair.run import repair

__all__ = ["Mend", "RepairReport", "repair"]
