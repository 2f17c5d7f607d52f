"""What `pyarrow.compute` holds, imported once it is asked for: that takes longer than to read a small archive."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import pyarrow.compute

    return getattr(pyarrow.compute, name)
