"""A page of traces: a sequence that knows where the next one begins. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from traceark import notebook
from traceark.codec.fields import TRACES
from traceark.codec.lines import to_record
from traceark.codec.parquet import to_table
from traceark.models import Trace

_SHOWN = ("trace_id", "created_at", "status", "agent_type", "model", "total_messages", "total_tokens", "total_cost")


class TracePage(Sequence[Trace]):
    """Some traces, in order.

    Attributes
    ----------
    next : str or None
        The cursor of the next page, for ``after=``; None on the last.

    Examples
    --------
    >>> page = TracePage([Trace(trace_id="run-7")], None)
    >>> [trace.trace_id for trace in page], page.next
    (['run-7'], None)
    """

    def __init__(self, traces: Sequence[Trace], next: str | None) -> None:
        self._traces = list(traces)
        self.next = next

    @overload
    def __getitem__(self, index: int) -> Trace: ...

    @overload
    def __getitem__(self, index: slice) -> list[Trace]: ...

    def __getitem__(self, index: int | slice) -> Trace | list[Trace]:
        return self._traces[index]

    def __len__(self) -> int:
        return len(self._traces)

    def __repr__(self) -> str:
        return f"TracePage({len(self)} traces{', and there are more' if self.next else ''})"

    def _repr_html_(self) -> str:
        rows = [[*(getattr(trace, name) for name in _SHOWN), trace.task] for trace in self]
        note = f"{len(self):,} traces" + ("; the next page: after=page.next" if self.next else "")
        return notebook.table([*_SHOWN, "task"], rows, note)

    def df(self) -> Any:
        """Return the traces as a pandas DataFrame with the columns of the view `traces`; pandas must be installed."""
        return to_table(TRACES, [to_record(trace) for trace in self]).to_pandas()
