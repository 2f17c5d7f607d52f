"""What a search finds: messages with the piece of text in which the match stands. Pure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, overload

import pyarrow as pa

from traceark import notebook
from traceark.models import path_of
from traceark.needles import Found

_AROUND = 80
_MATCH_CHARS = 400


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One message with a match, the first one in it.

    Attributes
    ----------
    trace_id, message_id, sequence, role, tool_name, created_at
        The message's.
    task : str, optional
        The trace's.
    path : str
        Where in the content the text stands, such as ``[0].input.command``; empty where the content is the text.
    snippet : str
        The text around the match, as it is.
    start, end : int
        The match is ``snippet[start:end]``.
    """

    trace_id: str
    message_id: str
    sequence: int
    role: str
    tool_name: str | None
    created_at: datetime | None
    task: str | None
    path: str
    snippet: str
    start: int
    end: int


def hit_of(row: dict[str, Any], found: Found) -> SearchHit:
    """Return the hit of a message's row and the match in it; a very long match is cut."""
    begin = max(found.start - _AROUND, 0)
    end = min(found.end, found.start + _MATCH_CHARS)
    return SearchHit(
        row["trace_id"],
        row["message_id"],
        row["sequence"],
        row["role"],
        row["tool_name"],
        row["created_at"],
        row["task"],
        path_of(found.path),
        found.text[begin : end + _AROUND],
        found.start - begin,
        end - begin,
    )


class SearchPage(Sequence[SearchHit]):
    """Some hits, those of the newest trace first.

    Attributes
    ----------
    next : str or None
        The cursor of the next page, for ``after=``; None on the last.
    """

    def __init__(self, hits: Sequence[SearchHit], next: str | None) -> None:
        self._hits = list(hits)
        self.next = next

    @overload
    def __getitem__(self, index: int) -> SearchHit: ...

    @overload
    def __getitem__(self, index: slice) -> list[SearchHit]: ...

    def __getitem__(self, index: int | slice) -> SearchHit | list[SearchHit]:
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __repr__(self) -> str:
        return f"SearchPage({len(self)} hits{', and there are more' if self.next else ''})"

    def _repr_html_(self) -> str:
        rows = [[hit.trace_id, hit.sequence, hit.role, hit.tool_name, hit.created_at, _marked(hit)] for hit in self]
        note = f"{len(self):,} hits" + ("; the next page: after=page.next" if self.next else "")
        return notebook.table(["trace_id", "sequence", "role", "tool_name", "created_at", "text"], rows, note)

    def df(self) -> Any:
        """Return the hits as a pandas DataFrame; pandas must be installed."""
        return pa.Table.from_pylist([asdict(hit) for hit in self]).to_pandas()


def _marked(hit: SearchHit) -> notebook.Markup:
    before, match, behind = hit.snippet[: hit.start], hit.snippet[hit.start : hit.end], hit.snippet[hit.end :]
    return notebook.Markup(f"{html.escape(before)}<mark>{html.escape(match)}</mark>{html.escape(behind)}")
