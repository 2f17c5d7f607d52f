"""What is wrong, where, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from traceark.layout import HEADER, trace_prefix


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    trace_id : str
        The trace, or the directory's name where it names none; empty for what is of no trace.
    file : str
        Relative to the archive.
    offset : int or None
        The record's offset in its log, or the byte, as the meaning says.
    meaning : str
        What is wrong.
    remedy : str
        The command or step that mends it.
    is_note : bool
        Whether nothing is wrong, and this is only worth knowing.
    """

    trace_id: str
    file: str
    offset: int | None
    meaning: str
    remedy: str
    is_note: bool = False

    def __str__(self) -> str:
        where = f"{self.file} at {self.offset}" if self.offset is not None else self.file
        return f"{where}: {self.meaning}; {self.remedy}"


def unreadable(trace_id: str, why: str, verb: str) -> Finding:
    """Return the finding that a trace may not be read by this user, or that its disk cannot."""
    remedy = f"make it readable, or restore it from a copy; then {verb} again"
    return Finding(trace_id, trace_prefix(trace_id), None, f"it cannot be read: {why}", remedy)


def under_way(trace_id: str, verb: str) -> Finding:
    """Return the note that a trace has no header while somebody holds its lock.

    To copy a large one takes longer than anybody looks; its header comes last, and goes first.
    """
    meaning = "it is not there: somebody is making the trace, or removing it"
    return Finding(trace_id, f"{trace_prefix(trace_id)}/{HEADER}", None, meaning, f"{verb} again later", is_note=True)


RESTORE = "restore it from a copy, then verify again"
# The meaning of a header that is not there.
HEADLESS = "it is missing, so the folder is no trace"
