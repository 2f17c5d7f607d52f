"""The conformance suite: subclass it, say where a test may work, and pytest does the rest.

`ProtocolConformance` asks for nothing but the `TraceStore` protocol; any implementation may be
measured by it. `ArchiveConformance` is for the backends of `ArchiveStore`: it reopens, seals, copies,
damages, verifies, repairs and queries. `StoreConformance` is both.

Examples
--------
>>> from traceark.testing import ModelStore
>>> class TestModel(ProtocolConformance):
...     def open_store(self):
...         return ModelStore()
>>> import pytest
>>> class TestMemory(StoreConformance):
...     @pytest.fixture
...     def url(self, request):
...         return f"memory://{request.node.name}"
...     @pytest.fixture
...     def storage_options(self):
...         return {}
"""

from __future__ import annotations

from traceark.testing.archive import KeepingTests
from traceark.testing.copies import CopyTests
from traceark.testing.events import EventTests
from traceark.testing.exactness import ExactnessTests
from traceark.testing.goal_stats import GoalStatsTests
from traceark.testing.goals import GoalTests
from traceark.testing.messages import MessageTests
from traceark.testing.places import ArchiveTests
from traceark.testing.queries import QueryTests
from traceark.testing.repairs import RepairTests
from traceark.testing.sharing import SharingTests
from traceark.testing.traces import TraceTests


class ProtocolConformance(TraceTests, MessageTests, GoalTests, GoalStatsTests, EventTests, ExactnessTests):
    """Everything that the protocol says; `open_store` must return a store over a fresh place."""


class ArchiveConformance(KeepingTests, SharingTests, CopyTests, QueryTests, RepairTests):
    """Everything that an archive promises; give the fixtures `url`, fresh for a test, and `storage_options`."""


class ArchiveProtocolConformance(ArchiveTests, ProtocolConformance):
    """The protocol part alone on a backend of `ArchiveStore`; give `url` and `storage_options`."""


class StoreConformance(ArchiveConformance, ArchiveProtocolConformance):
    """Everything on a backend of `ArchiveStore`; give `url`, fresh for a test, and `storage_options`."""
