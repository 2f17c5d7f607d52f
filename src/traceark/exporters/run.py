"""Exporting traces of an archive: read each whole, and write its file, or hand over its bytes.

What is written is whole or not there: files get their names when they are complete, and one that is
there with other content is not replaced unless that is asked for.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from traceark.errors import DamagedTraceError, DamagedTraceWarning, ExportFailedError, StorageError, TraceNotFoundError
from traceark.exporters.atif import Atif
from traceark.exporters.base import Exporter, Format, Packer, Run
from traceark.exporters.chat import Chat
from traceark.exporters.html import Html
from traceark.exporters.markdown import Markdown
from traceark.exporters.otlp import Otlp
from traceark.exporters.pack import Pack
from traceark.exporters.report import ExportedTrace, ExportReport, Outcome
from traceark.layout import trace_key
from traceark.models import GoalTree, Trace
from traceark.plugins import installed
from traceark.protocol import TraceStore
from traceark.replacing import replacing, told_unwritten
from traceark.storage.base import Storage
from traceark.sync.files import trace_files

GROUP = "traceark.exporters"
_TRIES = 4

_OWN: tuple[Callable[[], Format], ...] = (Atif, Chat, Html, Markdown, Otlp, Pack)

Progress = Callable[[str, int, int], None]
Sink = Callable[[bytes], object]


@runtime_checkable
class StoreOfFiles(TraceStore, Protocol):
    """A store whose traces are files, which can be packed."""

    async def holder(self, trace_id: str) -> Storage:
        """Return the storage that a trace's files are in."""
        ...


def exporters() -> list[Format]:
    """Return one exporter of each installed format.

    Examples
    --------
    >>> "pack" in [exporter.name for exporter in exporters()]
    True
    """
    return installed(GROUP, _OWN, ExportFailedError)


def exporter_of(name: str) -> Format:
    """Return the exporter of a format.

    Raises
    ------
    ExportFailedError
        There is none of this name.
    """
    known = {exporter.name: exporter for exporter in exporters()}
    if name not in known:
        raise ExportFailedError(f"no format {name!r}; there are {', '.join(known)}")
    return known[name]


def target_of(output: str | Path) -> Path:
    """Return where to export to; a text that ends with a slash names a directory, which is made.

    Raises
    ------
    ExportFailedError
    """
    path = Path(output)
    if str(output).endswith("/"):
        _make(path)
    return path


async def read_run(store: TraceStore, trace_id: str) -> Run:
    """Return a trace, whole: of one that is being written, totals and messages agree unless it never rests.

    Raises
    ------
    TraceNotFoundError, DamagedTraceError
    """
    trace = await _header(store, trace_id)
    for _ in range(_TRIES):
        messages, events = await store.get_trace_messages(trace_id), await store.get_events(trace_id)
        goals = await store.get_goal_tree(trace_id)
        before, trace = trace, await _header(store, trace_id)
        if before == trace:
            break
    return Run(trace, messages, events, goals, await _children(store, goals))


async def _header(store: TraceStore, trace_id: str) -> Trace:
    trace = await store.get_trace(trace_id)
    if trace is None:
        raise TraceNotFoundError(f"no trace {trace_id!r}")
    return trace


async def _children(store: TraceStore, goals: GoalTree | None) -> dict[str, Trace]:
    found: dict[str, Trace] = {}
    for goal in goals.goals if goals is not None else ():
        for child_id in goal.sub_trace_ids:
            try:
                child = await store.get_trace(child_id)
            except DamagedTraceError as error:
                warnings.warn(str(error), DamagedTraceWarning, stacklevel=2)
                continue
            if child is not None:
                found[child_id] = child
    return found


async def export_traces(
    store: TraceStore,
    trace_ids: Sequence[str],
    exporter: Format,
    target: Path | Sink,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export traces, one file for each, or all in one where the format joins them.

    Parameters
    ----------
    store : TraceStore
        Where from; only one with files can be packed.
    trace_ids : sequence of str
        Which traces, in this order.
    exporter : Format
        An `Exporter` or a `Packer`.
    target : path or callable
        A directory that is there; a file; else a directory to make where there are several traces
        whose format does not join them. Or what takes the bytes.
    force : bool
        Replace files that are there with other content.
    progress : callable, optional
        Called with a trace id about to be exported, the number of traces done and of all.

    Raises
    ------
    ExportFailedError
        The target cannot take what is to be exported; nothing was written.

    Examples
    --------
    >>> import asyncio
    >>> from traceark.store import ArchiveStore
    >>> async def run() -> list[bytes]:
    ...     pieces: list[bytes] = []
    ...     async with ArchiveStore("memory://export-example") as store:
    ...         await store.create_trace(Trace(trace_id="run-7"))
    ...         await export_traces(store, ["run-7"], Pack(), pieces.append)
    ...     return pieces
    >>> asyncio.run(run())[0][:2]
    b'PK'
    """
    if isinstance(exporter, Packer) and not isinstance(store, StoreOfFiles):
        raise ExportFailedError(f"the format {exporter.name} holds files, and this store has none")
    several = len(trace_ids) > 1
    report = ExportReport(exporter.name)
    if isinstance(target, Path) and (target.is_dir() or (several and not exporter.joins)):
        _make(target)
        for number, trace_id in enumerate(trace_ids):
            _tell(progress, trace_id, number, len(trace_ids))
            exported, data = await _exported(store, trace_id, exporter)
            report.traces.append(exported)
            if data:
                _write(target / f"{trace_key(trace_id)}{exporter.suffix}", data, [exported], force=force)
        return report
    if several and not exporter.joins:
        raise ExportFailedError(
            f"{len(trace_ids)} traces are no one file in the format {exporter.name}; name a directory"
        )
    pieces: list[bytes] = []
    for number, trace_id in enumerate(trace_ids):
        _tell(progress, trace_id, number, len(trace_ids))
        exported, data = await _exported(store, trace_id, exporter)
        report.traces.append(exported)
        if isinstance(target, Path):
            pieces.append(data)
        elif data:
            target(data)
    if any(pieces) and isinstance(target, Path):
        written = [exported for exported in report.traces if exported.outcome == "written"]
        _write(target, b"".join(pieces), written, force=force)
    return report


def _tell(progress: Progress | None, trace_id: str, done: int, total: int) -> None:
    if progress is not None:
        progress(trace_id, done, total)


async def _exported(store: TraceStore, trace_id: str, exporter: Format) -> tuple[ExportedTrace, bytes]:
    """Return what became of a trace, and its bytes, if there are any."""
    left_out: Counter[str] = Counter()
    try:
        if isinstance(exporter, Packer):
            assert isinstance(store, StoreOfFiles)
            files = await trace_files(await store.holder(trace_id), trace_id)
            pieces: Iterable[bytes] = exporter.pack(trace_key(trace_id), files)
        else:
            assert isinstance(exporter, Exporter)
            pieces = exporter.export(await read_run(store, trace_id), left_out)
        data = b"".join(pieces)
    except (DamagedTraceError, TraceNotFoundError) as error:
        return ExportedTrace(trace_id, "failed", reason=str(error)), b""
    outcome: Outcome = "written" if data else "empty"
    return ExportedTrace(trace_id, outcome, size=len(data), left_out=+left_out), data


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportFailedError(f"{directory} cannot be made: {error.strerror}") from error


def _write(path: Path, data: bytes, exported: Sequence[ExportedTrace], *, force: bool) -> None:
    """Write a file whole, and tell the traces in it what became of them."""
    for each in exported:
        each.path = str(path)
    outcome: Outcome
    try:
        with told_unwritten(str(path)):
            # With what a device or a pipe holds there is nothing to compare.
            there = path.read_bytes() if path.is_file() else None
        if there == data:
            outcome, reason = "same", ""
        elif there is not None and not force:
            outcome, reason = "failed", f"{path} is there already, with other content; --force replaces it"
        else:
            with replacing(path) as beside:
                beside.write_bytes(data)
            outcome, reason = "written", ""
    except StorageError as error:
        outcome, reason = "failed", str(error)
    for each in exported:
        each.outcome, each.reason = outcome, reason
