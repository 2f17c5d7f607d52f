"""A quick start for programs that only answer one question."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import pyarrow as pa


class _Hidden(MetaPathFinder):
    """Says that pandas is not there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Refuse pandas; of all else others know."""
        if name == "pandas":
            raise ModuleNotFoundError(f"{name} is not looked for yet", name=name)


def leave_pandas_for_later() -> None:
    """Keep pyarrow from loading pandas until a table is turned into a data frame.

    With the first list that becomes an array pyarrow loads pandas where it is installed, to know its
    series, which takes longer than to read a small archive. What was not found then it looks for again
    once it needs it. Until then a series counts as a list of its values, its NaN as NaN.

    Examples
    --------
    >>> from traceark.starting import leave_pandas_for_later
    >>> leave_pandas_for_later()
    """
    if "pandas" in sys.modules:
        return
    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
