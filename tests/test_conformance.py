"""The conformance suite on every backend."""

from __future__ import annotations

from traceark.protocol import TraceStore
from traceark.testing import ModelStore
from traceark.testing.suite import ProtocolConformance


class TestModel(ProtocolConformance):
    """The oracle itself."""

    def open_store(self) -> TraceStore:
        return ModelStore()
