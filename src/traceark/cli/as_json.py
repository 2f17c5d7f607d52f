"""JSON output: one document on standard output, lists with one element a line.

It is safe to print, too: what a terminal would obey is escaped as JSON escapes it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from traceark.cli.output import Kept, Output, Rows, Shown, Verified

if TYPE_CHECKING:
    from traceark import Event, Trace
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

_UNSAFE_IN_JSON = re.compile(
    "[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


class JsonOutput(Output):
    """JSON on standard output."""

    def traces(self, page: TracePage, short: Mapping[str, str]) -> None:
        """Print an array of headers; `ls` says beside it how to go on."""
        _print_list(page)

    def tree(self, tree: TraceTree, short: Mapping[str, str]) -> None:
        """Print an object with all nodes in one array, parents first."""
        parents = {child.trace.trace_id: node.trace.trace_id for node in tree for child in node.children}
        nodes = [
            {
                "trace": node.trace,
                "parent": parents.get(node.trace.trace_id),
                "depth": depth,
                "goal_ids": list(node.goal_ids),
                "own": asdict(node.own),
                "total": asdict(node.total),
                "absent": list(node.absent),
            }
            for depth, node in tree.walk()
        ]
        _print({"nodes": nodes, "cycles": [list(cycle) for cycle in tree.cycles]})

    def hits(self, page: SearchPage, short: Mapping[str, str]) -> None:
        """Print an object with the hits and the cursor of the next page."""
        _print({"hits": [asdict(hit) for hit in page], "next": page.next})

    def stats(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print an array of objects."""
        _print_list({name: plain(value) for name, value in row.items()} for row in rows)

    def trace(self, shown: Shown, *, full: bool) -> None:
        """Print an object; it is always whole."""
        _print({"trace": shown.trace, "goal_tree": shown.tree, "messages": list(shown.messages)})

    def events(self, events: Sequence[Event], trace: Trace) -> None:
        """Print an array of events."""
        _print_list(events)

    def rows(self, rows: Rows) -> None:
        """Print an array of objects."""
        _print_list({name: plain(value) for name, value in zip(rows.columns, row, strict=True)} for row in rows.values)

    def imported(self, report: ImportReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def exported(self, report: ExportReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def synced(self, report: SyncReport, word: str = "synced") -> None:
        """Print the report."""
        _print(report.to_json())

    def packed(self, report: PackReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def spooled(self, status: SpoolStatus) -> None:
        """Print the status."""
        _print(status.to_json())

    def expired(self, report: ExpiryReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def redacted(self, report: RedactionReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def verified(self, verified: Verified) -> None:
        """Print the findings."""
        _print(
            {
                "ok": not verified.wrong,
                "traces": verified.traces,
                "deep": verified.deep,
                "findings": [asdict(finding) for finding in verified.findings],
            }
        )

    def repaired(self, report: RepairReport) -> None:
        """Print the report."""
        _print(report.to_json())

    def report(self, word: str, figures: Mapping[str, Any]) -> None:
        """Print an object of the figures."""
        _print(figures)

    def kept(self, kept: Kept) -> None:
        """Print the ids."""
        _print({kept.word: list(kept.done), "left_alone": list(kept.left_alone), "failed": dict(kept.failed)})


def line_of(value: object) -> str:
    """Return JSON in one line, as safe to print as all else here."""
    return _dump(value)


def _print_list(values: Iterable[object]) -> None:
    before = "["
    for value in values:
        sys.stdout.write(f"{before}{_dump(value)}")
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[" else "]\n")


def _print(value: object) -> None:
    sys.stdout.write(f"{_dump(value)}\n")


def _dump(value: object) -> str:
    unicode = (sys.stdout.encoding or "ascii").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, default=_of_model)
    # None of these can stand outside of a string, where the escape means the same.
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _of_model(value: Any) -> object:
    """Return a model as the fields it has, a time as ISO 8601."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.fields()


def plain(value: Any) -> Any:
    """Return a value of a query as JSON can say it; what JSON has no type for becomes text.

    Examples
    --------
    >>> plain([Decimal("12"), Decimal("0.1"), float("nan"), b"\\x00\\xff"])
    [12, 0.1, 'nan', '00ff']
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Decimal):
        if value == value.to_integral_value():
            return int(value)
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return _of_model(value) if isinstance(value, datetime) else str(value)
