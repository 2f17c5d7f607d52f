"""What an importer is: something that turns a source file into plain records.

An importer knows its format and nothing of storage; `run` writes what it yields through a
`TraceStore`. Importers are found through the entry-point group ``traceark.importers``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from traceark.errors import ImportFailedError
from traceark.models import GoalStats, GoalTree, Json, Message, Trace

if TYPE_CHECKING:
    from traceark.importers.pieces import PiecedTrace

# The type of an event that says how a goal changed. Importers derive it from rows; it is no row of a source itself.
GOAL_STATUS = "goal.status"


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """An event as a source tells it; the store assigns its id. Without a time it has that of the one before it."""

    event_type: str
    payload: Json
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """What a source tells that is a trace of an archive: more than what its records add up to.

    Attributes
    ----------
    revision : int
        Grows with whatever changes in the headers of the trace.
    totals : dict
        Totals that somebody set, as they are read.
    self_stats, cumulative_stats : dict
        Stats of goals that somebody set, as they are read, by goal id.
    """

    revision: int
    totals: dict[str, int | float] = field(default_factory=dict)
    self_stats: dict[str, GoalStats] = field(default_factory=dict)
    cumulative_stats: dict[str, GoalStats] = field(default_factory=dict)


@dataclass(slots=True)
class SourceTrace:
    """One trace as a source tells it.

    Importing the same source, or one that has grown, yields the same messages (by id) and events
    (by position) again, then more; only usage, cost and duration may move to a later message, and a
    message without a goal may get one.

    Attributes
    ----------
    digests : list of str
        One per row of the source that belongs to the trace: a hash of that row and all before it.
        Two states of one source are recognised by it: the older one's last digest is the newer
        one's at the same place.
    file_rows : int
        Rows of the whole file, of all its traces.
    torn_tail : str, optional
        The end of a file that is still being written, when it is not a whole row yet.
    positional : bool
        Whether the ids of messages say no more than their place in the source. Then a source that
        disagrees with what is stored adds nothing: what is new cannot be told.
    parent_untold : bool
        Whether the trace may be a sub-agent's without saying so: then only its parent tells.
    pieced : PiecedTrace, optional
        Of a trace that comes in pieces: those. Then messages may change as more of them are told.
    copied : Copied, optional
        Of a trace of an archive: every field is the trace's own, exactly, and a later state may have
        changed any of them; messages are in the order of adding.
    """

    trace: Trace
    messages: list[Message] = field(default_factory=list)
    events: list[SourceEvent] = field(default_factory=list)
    goals: GoalTree | None = None
    digests: list[str] = field(default_factory=list)
    file_rows: int = 0
    torn_tail: str | None = None
    positional: bool = False
    parent_untold: bool = False
    pieced: PiecedTrace | None = None
    copied: Copied | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A piece of a source that could not be taken as what it should be: where, and why.

    `line` counts from 1; 0 speaks of the whole file.
    """

    path: str
    line: int
    reason: str


@dataclass(slots=True)
class ImportCounts:
    """What became of the rows of a source.

    Attributes
    ----------
    rows : Counter
        Rows by kind, in the words of the source.
    repaired : Counter
        Values that a typed field cannot hold, by reason; they are kept raw beside it.
    problems : list of Problem
        What could not be read. It is kept raw too.
    differences : list of Problem
        Where a source states totals of its own that its records do not add up to.
    """

    rows: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    differences: list[Problem] = field(default_factory=list)

    def add(self, other: ImportCounts) -> None:
        """Take in what became of other rows."""
        self.rows.update(other.rows)
        self.repaired.update(other.repaired)
        self.problems += other.problems
        self.differences += other.differences


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


@runtime_checkable
class Beside(Protocol):
    """An importer whose format keeps files beside its runs that tell nothing of their own, as indexes do."""

    def is_beside(self, path: Path) -> bool:
        """Say whether a file is one of these; it is neither read nor reported."""
        ...


@runtime_checkable
class ManyFiles(Protocol):
    """An importer whose sources may be spread over several files, as a directory with a file per event is."""

    def files(self, path: Path) -> Sequence[Path]:
        """Return all files of the source that `path` belongs to, itself among them; `read` is called with the first."""
        ...


@contextmanager
def asked(name: str) -> Iterator[None]:
    """Name the importer whose code raises anything in the block but that a file cannot be read.

    Raises
    ------
    ImportFailedError
        It did; what it raised is the cause.

    Examples
    --------
    >>> with asked("mine"):
    ...     {}["model"]
    Traceback (most recent call last):
    traceark.errors.ImportFailedError: the importer 'mine' failed: KeyError: 'model'
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # importers are anybody's: whatever one raises is told of its file
        raise ImportFailedError(f"the importer {name!r} failed: {type(error).__name__}: {error}") from error
