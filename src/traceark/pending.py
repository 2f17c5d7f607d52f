"""What waits in a spool: plain values, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from traceark.models import Json, JsonObject


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What a spool holds.

    Attributes
    ----------
    directory, url : str
        The spool, and the archive that it is shipped to.
    traces, records, bytes : int
        What is not there yet: traces, records of their logs, and bytes of their files.
    oldest : datetime, optional
        Of the traces that wait, when the one that waits longest was last written to.
    deletions : int
        Deleted traces that are still to be deleted at the archive.
    shipped : int
        Traces that are at the archive as they are here, and are kept since they may be written to.
    last_error : str, optional
        Why shipping failed, if it failed last.
    problems : mapping of str to str
        By trace id, why a trace is not shipped though the archive can be reached.
    kept_as : mapping of str to str
        By trace id, the trace at the archive that holds this side of one that diverged.
    is_shipping : bool
        Whether a process ships.

    Examples
    --------
    >>> status = SpoolStatus("./spool", "s3://bucket/runs", traces=1, records=7, bytes=2048)
    >>> status.is_empty, status.waiting
    (False, '1 trace, 7 records, 2,048 bytes')
    """

    directory: str
    url: str
    traces: int = 0
    records: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    deletions: int = 0
    shipped: int = 0
    last_error: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    kept_as: Mapping[str, str] = field(default_factory=dict)
    is_shipping: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self.traces or self.deletions)

    @property
    def waiting(self) -> str:
        """What waits, in words."""
        told = [_count(self.traces, "trace"), _count(self.records, "record"), _count(self.bytes, "byte")]
        return ", ".join(told + ([_count(self.deletions, "deletion")] if self.deletions else []))

    def to_json(self) -> JsonObject:
        """Return it for programs."""
        problems: dict[str, Json] = dict(self.problems)
        kept_as: dict[str, Json] = dict(self.kept_as)
        return {
            "directory": self.directory,
            "url": self.url,
            "pending": {
                "traces": self.traces,
                "records": self.records,
                "bytes": self.bytes,
                "deletions": self.deletions,
                "oldest": self.oldest.isoformat() if self.oldest is not None else None,
            },
            "shipped": self.shipped,
            "is_shipping": self.is_shipping,
            "last_error": self.last_error,
            "problems": problems,
            "kept_as": kept_as,
        }

    def to_text(self) -> Sequence[str]:
        """Return it as lines."""
        lines = [f"{self.directory} is the spool of {self.url}"]
        lines.append("nothing waits" if self.is_empty else f"waiting: {self.waiting}")
        if self.oldest is not None:
            lines.append(f"waiting longest: last written to at {self.oldest:%Y-%m-%d %H:%M:%S %Z}")
        if self.shipped:
            lines.append(f"shipped, and kept since it is not finished: {_count(self.shipped, 'trace')}")
        lines += [f"{trace_id} diverged: this side is kept as {kept}" for trace_id, kept in self.kept_as.items()]
        lines += [f"{trace_id} is not shipped: {problem}" for trace_id, problem in self.problems.items()]
        if self.last_error is not None:
            lines.append(f"shipping failed last: {self.last_error}")
        if self.is_shipping:
            lines.append("a process is shipping")
        return lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
