"""What verbs print, behind one interface; `text` and `as_json` implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traceark import Event, GoalTree, Message, Trace
    from traceark.exporters.report import ExportReport
    from traceark.hits import SearchPage
    from traceark.importers.report import ImportReport
    from traceark.pages import TracePage
    from traceark.pending import SpoolStatus
    from traceark.redacting import RedactionReport
    from traceark.repair import RepairReport
    from traceark.retention import ExpiryReport
    from traceark.sync.pack import PackReport
    from traceark.sync.report import SyncReport
    from traceark.tracetree import TraceTree
    from traceark.verification import Finding


@dataclass(frozen=True, slots=True)
class Shown:
    """A trace with all that `show` shows of it.

    `children` are the traces of sub-agents that its goals name, as far as they are here.
    """

    trace: Trace
    tree: GoalTree | None
    messages: Sequence[Message]
    children: Mapping[str, Trace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to a query, by row."""

    columns: Sequence[str]
    values: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found in how many traces."""

    traces: int
    deep: bool
    findings: Sequence[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """The findings that are more than notes."""
        return [finding for finding in self.findings if not finding.is_note]


@dataclass(frozen=True, slots=True)
class Kept:
    """What compact, seal or rm did: `done` traces, those left alone, and why others failed."""

    word: str
    done: Sequence[str]
    left_alone: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


class Output(ABC):
    """Prints what a verb found or did."""

    @abstractmethod
    def traces(self, page: TracePage, short: Mapping[str, str]) -> None:
        """Print a page of traces; `short` names each of them."""

    @abstractmethod
    def tree(self, tree: TraceTree, short: Mapping[str, str]) -> None:
        """Print a trace with its sub-agents."""

    @abstractmethod
    def hits(self, page: SearchPage, short: Mapping[str, str]) -> None:
        """Print what a search found."""

    @abstractmethod
    def stats(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print sums by group; the group is the first of each row."""

    @abstractmethod
    def trace(self, shown: Shown, *, full: bool) -> None:
        """Print one trace; without `full` long text is shortened."""

    @abstractmethod
    def events(self, events: Sequence[Event], trace: Trace) -> None:
        """Print events; of a trace of which no times are known, without them."""

    @abstractmethod
    def rows(self, rows: Rows) -> None:
        """Print the answer to a query."""

    @abstractmethod
    def imported(self, report: ImportReport) -> None:
        """Print what an import did."""

    @abstractmethod
    def exported(self, report: ExportReport) -> None:
        """Print what an export did."""

    @abstractmethod
    def synced(self, report: SyncReport, word: str = "synced") -> None:
        """Print what a sync did, or an unpacking, as the word says."""

    @abstractmethod
    def packed(self, report: PackReport) -> None:
        """Print what a pack holds."""

    @abstractmethod
    def spooled(self, status: SpoolStatus) -> None:
        """Print what waits in a spool."""

    @abstractmethod
    def expired(self, report: ExpiryReport) -> None:
        """Print what was, or would be, deleted for its age."""

    @abstractmethod
    def redacted(self, report: RedactionReport) -> None:
        """Print what was, or would be, replaced."""

    @abstractmethod
    def verified(self, verified: Verified) -> None:
        """Print what is wrong."""

    @abstractmethod
    def repaired(self, report: RepairReport) -> None:
        """Print what was, or would be, mended, and what is left."""

    @abstractmethod
    def kept(self, kept: Kept) -> None:
        """Print what was done to traces."""

    @abstractmethod
    def report(self, word: str, figures: Mapping[str, Any]) -> None:
        """Print what was done to the whole archive."""
