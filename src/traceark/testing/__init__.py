"""What proves a store: the conformance suite and the in-memory model that it is measured by.

`ModelStore` needs nothing but the package. `traceark.testing.suite` needs pytest,
`traceark.testing.strategies` Hypothesis; both are imported by name, so that the model stays light.
"""

from traceark.testing.model import ModelStore

__all__ = ["ModelStore"]
