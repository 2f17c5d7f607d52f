"""Questions over the headers of two archives that are read as one: where both hold a trace, the first one's counts."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from traceark.catalog.catalog import Catalog
from traceark.codec.fields import TRACES

Answer = TypeVar("Answer")
_ROWS = f"SELECT {', '.join(f'{chr(34)}{column.name}{chr(34)}' for column in TRACES)} FROM traces"


class Listing(Protocol):
    """What answers questions over the headers of all traces; see `Catalog.select`."""

    async def select(self, text: str, parameters: Mapping[str, Any], *, where: str | None = None) -> pa.Table:
        """Return the rows that a query over the view `traces` gives."""
        ...

    async def fetch(
        self, text: str, parameters: Mapping[str, Any], *, where: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the same as tuples of Python's values."""
        ...


class Reach(Protocol):
    """Waits for an answer of the second archive, and says what it means when there is none."""

    async def __call__(self, answer: Awaitable[Answer]) -> Answer:
        """Return the answer."""
        ...


class Layered:
    """The catalogs of two archives as one.

    Parameters
    ----------
    upper, lower : Catalog
        Of the archive whose traces count, and of the one that has the others.
    reach : callable
        Through it `lower` is asked.
    """

    def __init__(self, upper: Catalog, lower: Catalog, reach: Reach) -> None:
        self._upper = upper
        self._lower = lower
        self._reach = reach

    async def select(self, text: str, parameters: Mapping[str, Any], *, where: str | None = None) -> pa.Table:
        """Return the rows that a query over the view `traces` gives."""
        over = await self._upper.select(_ROWS, {})
        return await self._reach(self._lower.select(text, parameters, where=where, over=over))

    async def fetch(
        self, text: str, parameters: Mapping[str, Any], *, where: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the same as tuples of Python's values."""
        over = await self._upper.select(_ROWS, {})
        return await self._reach(self._lower.fetch(text, parameters, where=where, over=over))
