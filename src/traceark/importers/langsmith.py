"""LangSmith's runs, as JSON Lines or documents of them: each run whole, or its creation and its updates.

The format is that of https://docs.langchain.com/langsmith/run-data-format. Rows of one ``id`` are
merged, the tree is that of ``parent_run_id``, else of ``dotted_order``. Every row is an event
``langsmith.span``; a trace is put together by `spans`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import documents_of, first_document, head_of, without
from traceark.importers.jsonl import head_rows
from traceark.importers.langgraph import GraphRun, graphs
from traceark.importers.model_calls import answered, asked, tool_answer, tool_arguments, usage_in
from traceark.importers.pieces import SPAN, Piece, PiecedTrace, replayed, sources_of
from traceark.importers.spans import Kind, Span, SpanTrace
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.importers.usage import number_of
from traceark.models import Json, JsonObject, Trace

NAME = "langsmith"
_RUN = re.compile(rb'"(run_type|dotted_order|parent_run_id|start_time)"\s*:')
_KINDS: dict[str, Kind] = {"llm": "chat", "embedding": "embedding", "tool": "tool"}
_AGENTS = frozenset({"AgentExecutor"})
_PLACES = frozenset({"dotted_order", "trace_id", "parent_run_id", "parent_run_ids", "session_id", "session_name"})
# What an update may say of a run that was told before.
_UPDATES = frozenset({"end_time", "outputs", "error", "status"})
# Under which documents have runs: answers of the API, bodies of its batches; and runs those in them.
_LISTS = ("runs", "post", "patch")
_CHILDREN = "child_runs"
_RECORDS: tuple[Place, ...] = ((), *((name,) for name in _LISTS))
_FACTS = ("session_name", "session_id", "tags")
_THREADS = ("thread_id", "session_id", "conversation_id")


class LangSmith:
    """Reads a file of runs; the trace id is LangSmith's, the id of the root's run.

    Examples
    --------
    >>> import json, tempfile
    >>> run = {"id": "r", "trace_id": "r", "run_type": "chain", "name": "greeter", "inputs": {"input": "Hi!"}}
    >>> update = {"id": "r", "end_time": "2026-01-02T03:04:05", "outputs": {"output": "Hello."}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "runs.jsonl")
    ...     _ = path.write_text(f"{json.dumps(run)}\\n{json.dumps(update)}")
    ...     [source] = LangSmith().read(path, ImportCounts())
    >>> source.trace.trace_id, [each.content for each in source.messages]
    ('r', ['Hi!', 'Hello.'])
    """

    name = NAME
    records = frozenset({SPAN})

    def detect(self, path: Path) -> bool:
        """Say whether the file's document, or its first, is a run or has some."""
        if _RUN.search(head_of(path, lists=True)) is None:
            return False
        # An update may come before any run.
        rows: list[Json] = [row.value for row in head_rows(path) if row.value is not None]
        return any(
            _is_run(item) or _is_update(item) for each in rows or [first_document(path)] for item, _ in _items(each, {})
        )

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of the file, in the order in which they are told of first."""
        yield from sources_of(self.pieced(path, counts), counts)

    def pieced(self, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        """Yield what the file tells of each trace."""
        typed = Typed(counts.repaired)
        rows: list[_Row] = []
        for line, document in documents_of(path, counts, _RECORDS):
            for item, about in _items(document, {}):
                run_id = typed.identifier(item.get("id")) if isinstance(item, dict) else None
                if run_id is None or not isinstance(item, dict) or not (_is_run(item) or item.keys() & _UPDATES):
                    told = f"neither a run nor an update of one, and not taken: {str(item)[:60]}"
                    counts.problems.append(Problem(str(path), line, told))
                else:
                    rows.append(_Row(line, run_id, item, (("document", about),)))
        runs = _Runs(rows, typed)
        traces: dict[str, PiecedTrace] = {}
        for row in _in_order(rows):
            trace_id = runs.trace_of(row)
            if trace_id is None:
                told = f"an update of a run that the file does not tell of; it was not taken: {str(row.item)[:60]}"
                counts.problems.append(Problem(str(path), row.line, told))
            else:
                trace = traces.setdefault(trace_id, PiecedTrace(self, trace_id, path))
                trace.pieces.append(Piece(SPAN, row.item, row.around))
        yield from traces.values()

    def put_together(self, trace_id: str, pieces: Sequence[Piece], path: Path, counts: ImportCounts) -> SourceTrace:
        """Return the trace that runs and their updates tell."""
        building = SpanTrace(NAME, Trace(trace_id=trace_id), counts, str(path))
        runs = _Runs(list(_rows(pieces)), building.typed)
        spans = runs.spans()
        for piece, told, _ in replayed(pieces):
            for kind, each in told:
                building.around(kind, each)
            if piece.kind == SPAN and isinstance(piece.record, dict):
                span = spans.get(str(piece.record.get("id")))
                if span is not None:
                    building.add(replace(span, raw=piece.record))
                else:
                    building.unknown(piece.record)
                    shown = f"an update of a run that was not told of so far: {str(piece.record)[:60]}"
                    counts.problems.append(Problem(str(path), 0, f"{trace_id}: {shown}"))
        root = runs.runs.get(trace_id)
        if root is not None:
            _describe(building.trace, root, building.typed)
        return building.finish()

    def endings(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Span]]:
        """Yield what runs, and apart from them their updates, say that have ended."""
        typed = Typed(Counter())
        for row in _rows(pieces):
            if row.has_ended:
                told = row.run_id if _is_run(row.item) else f"update of {row.run_id}"
                yield told, _span(row.run_id, row.item, None, False, typed)


@dataclass(frozen=True, slots=True)
class _Row:
    """A run or an update of one."""

    line: int
    run_id: str
    item: JsonObject
    around: tuple[tuple[str, Json], ...] = ()

    @property
    def has_ended(self) -> bool:
        return bool(self.item.get("end_time"))


def _rows(pieces: Sequence[Piece]) -> Iterator[_Row]:
    for piece in pieces:
        if piece.kind == SPAN and isinstance(piece.record, dict):
            yield _Row(0, str(piece.record.get("id")), piece.record)


def _in_order(rows: Sequence[_Row]) -> Iterator[_Row]:
    """Yield rows, an update after the row that tells of its run."""
    waiting: dict[str, list[_Row]] = {}
    known: set[str] = set()
    for row in rows:
        if row.run_id not in known and not _is_run(row.item):
            waiting.setdefault(row.run_id, []).append(row)
            continue
        known.add(row.run_id)
        yield row
        yield from waiting.pop(row.run_id, [])
    for left in waiting.values():
        yield from left


class _Runs:
    """What rows say together of their runs; `runs` has those that are told of, not merely updated."""

    def __init__(self, rows: Sequence[_Row], typed: Typed) -> None:
        self._typed = typed
        told = {row.run_id for row in rows if _is_run(row.item)}
        self.runs: dict[str, JsonObject] = {}
        # What tells of a run comes before its updates, and what tells of its end last, however they were written.
        for row in sorted(rows, key=lambda each: (not _is_run(each.item), each.has_ended)):
            if row.run_id in told:
                self.runs[row.run_id] = _updated(self.runs.get(row.run_id, {}), row.item)

    def spans(self) -> dict[str, Span]:
        """Return the spans of the runs."""
        parents = {run_id: self._parent_of(run) for run_id, run in self.runs.items()}
        agents = graphs(
            GraphRun(run_id, parents[run_id], str(run.get("name")), run.get("tags"), _metadata(run))
            for run_id, run in self.runs.items()
        )
        return {
            run_id: _span(run_id, run, parents[run_id], run_id in agents, self._typed)
            for run_id, run in self.runs.items()
        }

    def trace_of(self, row: _Row) -> str | None:
        """Return the trace that a row belongs to; None for an update that names none, of a run that is not told of."""
        return self._trace_of(row.run_id) if row.run_id in self.runs else self._named(row.item)

    def _named(self, run: JsonObject) -> str | None:
        return self._typed.identifier(run.get("trace_id")) or next(iter(_path_of(run)), None)

    def _parent_of(self, run: JsonObject) -> str | None:
        """Return the run above one: the nearest that is known, else the one that is named."""
        named = self._typed.identifier(run.get("parent_run_id"))
        above = [*reversed(_path_of(run)[:-1])]
        known = next((each for each in (named, *above) if each in self.runs), None)
        return known or named or next(iter(above), None)

    def _trace_of(self, run_id: str) -> str:
        """Return the trace that a run names, else the one of its parent, else itself."""
        seen: set[str] = set()
        while run_id not in seen:
            seen.add(run_id)
            run = self.runs[run_id]
            named, parent = self._named(run), self._parent_of(run)
            if named is not None or parent is None:
                return named or run_id
            if parent not in self.runs:
                return parent
            run_id = parent
        return run_id


def _items(document: Json, about: JsonObject) -> Iterator[tuple[Json, JsonObject]]:
    """Yield the runs of a document, those within runs after them, and what the document says beside them."""
    if isinstance(document, list):
        for each in document:
            yield from _items(each, about) if _is_run(each) else [(each, about)]
    elif isinstance(document, dict) and not _is_run(document) and any(_is_list(document, name) for name in _LISTS):
        lists = [name for name in _LISTS if _is_list(document, name)]
        for name in lists:
            yield from _items(document[name], {**about, **without(document, *lists)})
    elif isinstance(document, dict) and _is_list(document, _CHILDREN):
        yield without(document, _CHILDREN), about
        yield from _items(document[_CHILDREN], about)
    else:
        yield document, about


def _is_list(document: Mapping[str, Json], name: str) -> bool:
    return isinstance(document.get(name), list)


def _is_run(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str)
        and isinstance(value.get("run_type"), str)
        and bool(value.keys() & (_PLACES | {"inputs", "start_time"}))
    )


def _is_update(value: Json) -> bool:
    """Say whether this is an update of a run by itself, as the client sends them with the place of the run."""
    return (
        isinstance(value, dict) and {"id", "trace_id", "dotted_order"} <= value.keys() and bool(value.keys() & _UPDATES)
    )


def _updated(run: JsonObject, update: JsonObject) -> JsonObject:
    """Return a run with what an update says of it; what is empty says nothing."""
    said = {name: value for name, value in update.items() if value not in (None, {}, []) or name not in run}
    extra, more = run.get("extra"), said.get("extra")
    if isinstance(extra, dict) and isinstance(more, dict):
        metadata = {**_metadata(run), **_metadata(said)}
        said["extra"] = {**extra, **more, **({"metadata": metadata} if metadata else {})}
    return {**run, **said}


def _metadata(run: Mapping[str, Json]) -> JsonObject:
    extra = run.get("extra")
    metadata = extra.get("metadata") if isinstance(extra, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _path_of(run: Mapping[str, Json]) -> list[str]:
    """Return the ids from the root to a run, as its dotted order has them after a time each."""
    order = run.get("dotted_order")
    return [step.partition("Z")[2] for step in order.split(".")] if isinstance(order, str) and "Z" in order else []


def _span(run_id: str, run: JsonObject, parent: str | None, is_graph: bool, typed: Typed) -> Span:
    name, error, metadata = typed.text(run.get("name")) or "", run.get("error"), _metadata(run)
    told = run.get("run_type")
    kind = _KINDS.get(told, "other") if isinstance(told, str) else "other"
    if kind == "other" and (is_graph or name in _AGENTS or told == "agent"):
        kind = "agent"
    failed = (error is not None and error != "") or run.get("status") == "error"
    span = Span(
        run_id,
        kind,
        None,
        parent_id=parent,
        name=name,
        start=typed.time(run.get("start_time")),
        end=typed.time(run.get("end_time")),
        failed=failed,
        error=typed.text(error) or (typed.text(str(error)) if failed and error is not None else None),
        cost=_cost(run, typed),
    )
    inputs, outputs = run.get("inputs"), run.get("outputs")
    span.usage = usage_in(_counts(run), typed)
    ended = span.end is not None or failed or outputs is not None
    if kind in ("agent", "other"):
        span.agent = name or None
        if ended and (kind == "agent" or span.parent_id is None):
            span.inputs, span.outputs = asked(inputs), answered(outputs)
    elif not ended:
        # What it will have been is not known yet.
        span.kind = "other"
    elif kind == "tool":
        answer = tool_answer(outputs)
        span.tool, span.call_id, span.result = name, answer.call_id, answer.result
        span.arguments = tool_arguments(inputs)
    else:
        span.model = _model(run, metadata, typed)
        span.usage = span.usage or usage_in(outputs, typed) or usage_in(metadata, typed)
        span.inputs, span.outputs = asked(inputs), answered(outputs)
    return span


def _counts(run: Mapping[str, Json]) -> JsonObject:
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_token_details", "completion_token_details")
    return {name: run[name] for name in names if run.get(name) is not None}


def _cost(run: Mapping[str, Json], typed: Typed) -> float | None:
    total = number_of(run.get("total_cost"))
    if total is not None:
        return typed.cost(total)
    parts = [typed.cost(number_of(run.get(name))) for name in ("prompt_cost", "completion_cost")]
    return sum(part or 0.0 for part in parts) if any(part is not None for part in parts) else None


def _model(run: Mapping[str, Json], metadata: Mapping[str, Json], typed: Typed) -> str | None:
    extra = run.get("extra")
    invocation = extra.get("invocation_params") if isinstance(extra, dict) else None
    params: JsonObject = invocation if isinstance(invocation, dict) else {}
    inputs = run.get("inputs")
    asked_for = inputs.get("model") if isinstance(inputs, dict) else None
    told = (metadata.get("ls_model_name"), params.get("model"), params.get("model_name"), asked_for)
    return next((model for each in told if (model := typed.text(each)) is not None), None)


def _describe(trace: Trace, root: JsonObject, typed: Typed) -> None:
    """Say in the header what the root's run says of the whole."""
    metadata = _metadata(root)
    trace.uid = typed.text(metadata.get("user_id"))
    facts: JsonObject = {name: root[name] for name in _FACTS if root.get(name) not in (None, [], "")}
    facts.update({name: metadata[name] for name in _THREADS if typed.text(metadata.get(name)) is not None})
    short = {name: value for name, value in facts.items() if len(str(value)) <= 200}
    if short:
        trace.metadata = {NAME: short}
