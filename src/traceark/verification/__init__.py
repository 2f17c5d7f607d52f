"""Verify: what is wrong with traces, where, and what mends it. It writes nothing."""

from traceark.verification.finding import Finding
from traceark.verification.run import verify

__all__ = ["Finding", "verify"]
