"""The conformance suite: subclass it, say how a store is opened, and pytest does the rest.

`ProtocolConformance` asks for nothing but the `TraceStore` protocol; any implementation may be
measured by it.

Examples
--------
>>> class TestModel(ProtocolConformance):
...     def open_store(self):
...         return ModelStore()
"""

from __future__ import annotations

from traceark.testing.events import EventTests
from traceark.testing.exactness import ExactnessTests
from traceark.testing.goal_stats import GoalStatsTests
from traceark.testing.goals import GoalTests
from traceark.testing.messages import MessageTests
from traceark.testing.model import ModelStore
from traceark.testing.traces import TraceTests

__all__ = ["ModelStore", "ProtocolConformance"]


class ProtocolConformance(TraceTests, MessageTests, GoalTests, GoalStatsTests, EventTests, ExactnessTests):
    """Everything that the protocol says; `open_store` must return a store over a fresh place."""
