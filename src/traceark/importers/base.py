"""What an importer is: something that turns a source file into plain records.

An importer knows its format and nothing of storage; `run` writes what it yields through a
`TraceStore`. Importers are found through the entry-point group ``traceark.importers``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceark.models import GoalTree, Json, Message, Trace


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """An event as a source tells it; the store assigns its id."""

    event_type: str
    payload: Json
    created_at: datetime | None = None


@dataclass(slots=True)
class SourceTrace:
    """One trace as a source tells it.

    `messages` have ids that derive from the source's own, `events` are in the order of the
    source; importing the same source, or one that has grown, yields the same ids and the same
    events again, then more.
    """

    trace: Trace
    messages: list[Message] = field(default_factory=list)
    events: list[SourceEvent] = field(default_factory=list)
    goals: GoalTree | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A piece of a source that could not be taken: where, and why."""

    path: str
    line: int
    reason: str


@dataclass(slots=True)
class ImportCounts:
    """What became of the rows of a source."""

    rows: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


@runtime_checkable
class Importer(Protocol):
    """Reads one format."""

    name: str

    def detect(self, path: Path) -> bool:
        """Say whether the file's content (never its name alone) is in this format."""
        ...

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of a file, counting every row of it in `counts`."""
        ...
