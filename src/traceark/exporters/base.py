"""What an exporter is: something that turns one run, as plain models, into the bytes of a file.

An exporter knows its format and nothing of storage; `run` reads what it gets from a `TraceStore`
and writes what it yields. Exporters are found through the entry-point group ``traceark.exporters``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from traceark.models import Event, GoalTree, Message, Trace


@dataclass(frozen=True, slots=True)
class Run:
    """One run, whole.

    Attributes
    ----------
    messages : sequence of Message
        By sequence.
    goals : GoalTree, optional
        With stats.
    children : mapping of str to Trace
        The headers of sub-agents that goals name, by trace id, as far as they are in the archive.
    """

    trace: Trace
    messages: Sequence[Message] = ()
    events: Sequence[Event] = ()
    goals: GoalTree | None = None
    children: Mapping[str, Trace] = field(default_factory=dict)


@runtime_checkable
class Format(Protocol):
    """What all exporters tell of themselves.

    Attributes
    ----------
    name : str
        As ``--format`` has it.
    suffix : str
        The end of a file's name, such as ``.html``.
    joins : bool
        Whether several runs may follow each other in one file.
    """

    name: str
    suffix: str
    joins: bool


@runtime_checkable
class Exporter(Format, Protocol):
    """Writes one format."""

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the bytes of a run, and count in `left_out`, by reason, what the format has no place for."""
        ...


@runtime_checkable
class Packer(Format, Protocol):
    """Writes a format that holds the very files of a trace."""

    def pack(self, directory: str, files: Mapping[str, bytes]) -> Iterator[bytes]:
        """Yield the bytes of a file that holds a trace's directory, given its name and its files by their names."""
        ...
