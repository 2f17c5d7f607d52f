"""What a full look at all directories found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a full look found.

    Attributes
    ----------
    traces, files : int
        How many there are. On S3 a thousand files are listed by one request.
    read : int
        Traces whose files were not as they were known, and were read: one to four requests each.
    added, removed : int
        Traces that came and went by other means than a store.
    settled : int
        Traces that somebody left open, and that nobody writes to any more.
    problems : tuple of str
        What is wrong with what is left out.
    leftovers : int
        Files without a name of their own that were removed: writes that were cut short an hour ago or longer.
    """

    traces: int
    files: int
    read: int
    added: int
    removed: int
    settled: int
    problems: tuple[str, ...]
    leftovers: int = 0
