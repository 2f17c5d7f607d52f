"""Traces that come in pieces, while files that are to tell more of them have not been taken yet.

So a trace that several files of an import tell of is written once, as if one file told all of it. It knows
which files there are, and no storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from traceark.importers.base import Problem, SourceTrace
from traceark.importers.pieces import PiecedTrace, spread, trace_key, traces_named
from traceark.importers.report import FileReport, TraceReport


class Awaited:
    """What files have told of traces of which others are to tell.

    Parameters
    ----------
    files : sequence of Path
        In the order in which they are taken; those of formats whose traces come in pieces.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        named = [traces_named(path) for path in files] if len(files) > 1 else []
        self._last = {name: str(files[place]) for name, place in spread(named).items()}
        self._told: dict[tuple[str, str], list[tuple[PiecedTrace, FileReport]]] = {}

    def join(self, source: SourceTrace, file: FileReport) -> Iterator[SourceTrace]:
        """Yield a source with what files before told of it; none where others are to come, or one told otherwise."""
        pieced = source.pieced
        last = self._last.get(trace_key(pieced.trace_id)) if pieced is not None else None
        if pieced is None or last is None:
            yield source
            return
        key = file.importer, pieced.trace_id
        earlier = self._told.setdefault(key, [])
        if earlier and pieced.after(_together(earlier).pieces) is None:
            told = f"{earlier[-1][0].path} tells the end of a span of trace {pieced.trace_id} otherwise"
            file.traces.append(TraceReport(pieced.trace_id, "diverged"))
            file.problems.append(Problem(file.path, 0, f"{told}; nothing was taken"))
        else:
            earlier.append((pieced, file))
        if last == file.path:
            yield _together(self._told.pop(key)).source()

    def rest(self) -> Iterator[tuple[PiecedTrace, FileReport]]:
        """Yield what awaits files that were not taken."""
        while self._told:
            told = self._told.pop(next(iter(self._told)))
            yield _together(told), told[-1][1]


def _together(told: Sequence[tuple[PiecedTrace, FileReport]]) -> PiecedTrace:
    """Return what files tell of a trace, by their names: whichever was taken first, it is the same."""
    first, *others = sorted((trace for trace, _ in told), key=lambda trace: str(trace.path))
    for trace in others:
        first = trace.after(first.pieces) or first
    return first
