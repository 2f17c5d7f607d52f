"""What an import did: per file, per trace, in all."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, cast

from traceark.errors import ImportFailedError
from traceark.importers.base import Problem
from traceark.models import Json, JsonObject

Outcome = Literal["new", "grown", "known", "older", "diverged", "failed"]


@dataclass(slots=True)
class TraceReport:
    """What became of one trace of a source.

    Attributes
    ----------
    outcome : str
        ``new``; ``grown``: the archive held an earlier state of the source; ``known``: it held
        this very state; ``older``: it holds a later one; ``diverged``: the archive's trace and
        the source disagree, and only messages of unknown ids were taken, none where ids
        tell no more than places; ``failed``: nothing was.
    new_events, known_events : int
        Those that are records of the source, so that all messages and events are its rows.
    goal_changes : int
        Events that say how goals changed, which are derived from rows.
    """

    trace_id: str
    outcome: Outcome
    new_messages: int = 0
    known_messages: int = 0
    new_events: int = 0
    known_events: int = 0
    goals: int = 0
    goal_changes: int = 0


@dataclass(slots=True)
class FileReport:
    """What became of one file: its rows by kind, what they made, what could not be read, totals that differ."""

    path: str
    importer: str
    rows: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    traces: list[TraceReport] = field(default_factory=list)
    differences: list[Problem] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Return the report as plain JSON."""
        return {
            "path": self.path,
            "importer": self.importer,
            "rows": cast("Json", dict(self.rows)),
            "repaired": cast("Json", dict(self.repaired)),
            "problems": [cast("Json", asdict(problem)) for problem in self.problems],
            "differences": [cast("Json", asdict(difference)) for difference in self.differences],
            "traces": [cast("Json", asdict(trace)) for trace in self.traces],
        }


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    files : list of FileReport
    skipped : list of str
        Files in no format that an importer knows, symbolic links, and what is no file, as pipes are.
    compressed : dict of str to str
        Of the skipped files those that are compressed, with what: what is in them was not looked at.
    covered : set of str
        Files that were read together with another one, as parts of one run.
    raised : dict of str to str
        Of files whose importer failed: the traceback, for whoever mends it.
    stopped_at : str, optional
        The file that ended a strict import, since it could not be taken whole.
    """

    files: list[FileReport] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    compressed: dict[str, str] = field(default_factory=dict)
    covered: set[str] = field(default_factory=set)
    raised: dict[str, str] = field(default_factory=dict)
    stopped_at: str | None = None

    def unreadable(self, path: str, error: OSError | ImportFailedError) -> None:
        """Say that a file or directory cannot be read, or that its importer failed."""
        self.files.append(FileReport(path, "", problems=[self.problem(path, error)]))

    def problem(self, path: str, error: OSError | ImportFailedError) -> Problem:
        """Return the problem that an error is to a file; of an importer that failed, keep where it did."""
        if isinstance(error, OSError):
            return Problem(path, 0, f"cannot be read: {error.strerror or error}")
        self.raised[path] = "".join(traceback.format_exception(error.__cause__ or error))
        return Problem(path, 0, f"{error}; nothing was taken")

    def add(self, other: ImportReport) -> None:
        """Take in what a part of the same import did."""
        self.files += other.files
        self.covered |= other.covered
        self.skipped = [path for path in (*self.skipped, *other.skipped) if path not in self.covered]
        self.compressed |= other.compressed
        self.raised |= other.raised
        self.stopped_at = self.stopped_at or other.stopped_at

    def circle(self, trace_ids: Sequence[str]) -> None:
        """Say that traces are sub-agents of each other by what they tell."""
        told = f"{' and '.join(trace_ids)} tell that they are sub-agents of each other; no goal is believed in that"
        for file in self.files:
            if any(trace.trace_id in trace_ids for trace in file.traces):
                file.problems.append(Problem(file.path, 0, told))
                return

    @property
    def problems(self) -> list[Problem]:
        """The problems of all files."""
        return [problem for file in self.files for problem in file.problems]

    @property
    def tells_of_known(self) -> bool:
        """Whether of some traces the archive held something already."""
        return any(trace.outcome not in ("new", "failed") for file in self.files for trace in file.traces)

    @property
    def ok(self) -> bool:
        """Whether everything was read and nothing disagreed."""
        return not self.problems

    @property
    def rows(self) -> Counter[str]:
        """Rows of all files by kind."""
        return _sum(file.rows for file in self.files)

    @property
    def repaired(self) -> Counter[str]:
        """Repaired values of all files by reason."""
        return _sum(file.repaired for file in self.files)

    def totals(self) -> dict[str, int]:
        """Return the sums over all files.

        Examples
        --------
        >>> ImportReport().totals()["new_messages"]
        0
        """
        traces = [trace for file in self.files for trace in file.traces]
        return {
            "files": len(self.files),
            "skipped": len(self.skipped),
            "rows": self.rows.total(),
            "traces": len({trace.trace_id for trace in traces}),
            "new_traces": sum(trace.outcome == "new" for trace in traces),
            "new_messages": sum(trace.new_messages for trace in traces),
            "known_messages": sum(trace.known_messages for trace in traces),
            "new_events": sum(trace.new_events for trace in traces),
            "known_events": sum(trace.known_events for trace in traces),
            "goals": sum(trace.goals for trace in traces),
            "goal_changes": sum(trace.goal_changes for trace in traces),
            "repaired": self.repaired.total(),
            "problems": len(self.problems),
            "differences": sum(len(file.differences) for file in self.files),
        }

    def to_json(self) -> JsonObject:
        """Return the report as plain JSON, without tracebacks: they are for whoever asks for them."""
        return {
            "ok": self.ok,
            "totals": cast("Json", self.totals()),
            "rows": cast("Json", dict(self.rows)),
            "repaired": cast("Json", dict(self.repaired)),
            "files": [file.to_json() for file in self.files],
            "skipped": list(self.skipped),
            "compressed": cast("Json", dict(self.compressed)),
            "stopped_at": self.stopped_at,
        }


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total
