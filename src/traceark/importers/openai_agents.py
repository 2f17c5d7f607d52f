"""Traces that the OpenAI Agents SDK exports: objects ``trace`` and ``trace.span``, in a document or one a line.

They stand in a list, under ``data`` as they are sent, under ``traces`` with their ``spans``, or alone
(https://openai.github.io/openai-agents-python/tracing/). A trace is one by its id. Every span is an event
``openai-agents.span``; a trace, and what else a document says, an event before its first span.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.chat_messages import decoded, told_of
from traceark.importers.document import documents_of, first_document, head_of, without
from traceark.importers.pieces import SPAN, Piece, PiecedTrace, fullest, replayed, sources_of
from traceark.importers.python_repr import object_of
from traceark.importers.spans import Kind, Span, SpanTrace
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.importers.usage import usage_of
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "openai-agents"
_OBJECT = re.compile(rb'"object"\s*:\s*"trace(\.span)?"')
_LISTS = ("data", "traces", "spans", "items")
_RECORDS: tuple[Place, ...] = ((), *((name,) for name in _LISTS))
_KINDS: dict[str, Kind] = {"agent": "agent", "generation": "chat", "response": "chat", "function": "tool"}
_USAGE = {"input_tokens": ("input_tokens", "prompt_tokens"), "output_tokens": ("output_tokens", "completion_tokens")}
_DETAILS = {
    "cache_read": ("input_tokens_details", "prompt_tokens_details", "cached_tokens"),
    "cache_write": ("input_tokens_details", "prompt_tokens_details", "cache_write_tokens"),
    "reasoning": ("output_tokens_details", "completion_tokens_details", "reasoning_tokens"),
}


class OpenAIAgents:
    """Reads a file of traces; the trace id is the SDK's, ``trace_…``.

    Examples
    --------
    >>> import json, tempfile
    >>> agent = {"type": "agent", "name": "guide"}
    >>> span = {"object": "trace.span", "id": "span_1", "trace_id": "trace_1", "span_data": agent}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "traces.jsonl")
    ...     _ = path.write_text(json.dumps({"object": "trace", "id": "trace_1"}) + "\\n" + json.dumps(span))
    ...     [source] = OpenAIAgents().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.agent_type
    ('trace_1', 'guide')
    """

    name = NAME
    records = frozenset({SPAN, "trace"})

    def detect(self, path: Path) -> bool:
        """Say whether the file's document, or its first, has a trace or a span of the SDK in it."""
        return _OBJECT.search(head_of(path, lists=True)) is not None and _holds(first_document(path))

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of the file, in the order in which they are told of first."""
        yield from sources_of(self.pieced(path, counts), counts)

    def pieced(self, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        """Yield what the file tells of each trace."""
        traces: dict[str, PiecedTrace] = {}
        for line, document in documents_of(path, counts, _RECORDS):
            for item, about in _items(document, {}):
                kind, trace_id = _place(item, Typed(counts.repaired))
                if trace_id is None:
                    told = f"neither a trace nor a span of one, and not taken: {str(item)[:60]}"
                    counts.problems.append(Problem(str(path), line, told))
                    continue
                if kind == "trace" and isinstance(item, dict) and isinstance(item.get("spans"), list):
                    item = without(item, "spans")
                trace = traces.setdefault(trace_id, PiecedTrace(self, trace_id, path))
                trace.pieces.append(Piece(kind, item, (("document", about),)))
        yield from traces.values()

    def put_together(self, trace_id: str, pieces: Sequence[Piece], path: Path, counts: ImportCounts) -> SourceTrace:
        """Return the trace that its record and spans tell."""
        building = SpanTrace(NAME, Trace(trace_id=trace_id), counts, str(path))
        for piece, told, _ in replayed(pieces):
            for kind, each in told:
                building.around(kind, each)
            if piece.kind == SPAN and isinstance(piece.record, dict):
                building.add(span_of(piece.record, building.typed))
        if (about := fullest(piece.record for piece in pieces if piece.kind == "trace")) is not None:
            building.trace.metadata = facts_of(about, building.typed)
        return building.finish()

    def endings(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Span]]:
        """Yield what spans say that have ended."""
        typed = Typed(Counter())
        for piece in pieces:
            if piece.kind == SPAN and isinstance(piece.record, dict) and piece.record.get("ended_at") is not None:
                span = span_of(piece.record, typed)
                yield span.span_id, span


def _is_item(value: Json) -> bool:
    return isinstance(value, dict) and value.get("object") in ("trace", "trace.span")


def _holds(document: Json) -> bool:
    if _is_item(document):
        return True
    if isinstance(document, dict):
        document = next((document[name] for name in _LISTS if isinstance(document.get(name), list)), None)
    return isinstance(document, list) and any(map(_is_item, document))


def _items(document: Json, about: JsonObject) -> Iterator[tuple[Json, JsonObject]]:
    """Yield the traces and spans of a document, and what the document says beside them."""
    if _is_item(document) and isinstance(document, dict):
        yield document, about
        spans = document.get("spans")
        if document.get("object") == "trace" and isinstance(spans, list):
            for span in spans:
                yield span, about
    elif isinstance(document, list):
        for each in document:
            yield from _items(each, about) if _is_item(each) else [(each, about)]
    elif isinstance(document, dict) and (
        name := next((name for name in _LISTS if isinstance(document.get(name), list)), None)
    ):
        yield from _items(document[name], without(document, name))
    else:
        yield document, about


def _place(item: Json, typed: Typed) -> tuple[str, str | None]:
    """Return the kind of an item and the id of its trace, None where it is neither a trace nor a span."""
    if not isinstance(item, dict):
        return "", None
    if item.get("object") == "trace":
        return "trace", typed.identifier(item.get("id"))
    return SPAN, typed.identifier(item.get("trace_id")) if isinstance(item.get("span_data"), dict) else None


def facts_of(told: JsonObject, typed: Typed) -> JsonObject:
    """Return the metadata of a header: what a trace of the SDK says of itself, in short."""
    facts = {name: told[name] for name in ("workflow_name", "group_id") if typed.text(told.get(name))}
    return {"openai_agents": {name: typed.summary(value) for name, value in facts.items()}}


def span_of(record: JsonObject, typed: Typed) -> Span:
    """Return what a span of the SDK means."""
    told = record.get("span_data")
    data: JsonObject = told if isinstance(told, dict) else {}
    kind = data.get("type")
    error = record.get("error")
    name = typed.text(data.get("name")) or typed.text(kind) or ""
    span = Span(
        typed.identifier(record.get("id")) or "",
        _KINDS.get(kind, "other") if isinstance(kind, str) else "other",
        record,
        parent_id=typed.identifier(record.get("parent_id")),
        name=name,
        start=typed.time(record.get("started_at")),
        end=typed.time(record.get("ended_at")),
        failed=bool(error),
        error=_error(error, typed),
        usage=_usage(data.get("usage"), typed),
    )
    if span.kind == "agent":
        span.agent = name
    elif span.kind == "tool":
        span.tool, span.arguments, span.result = name, decoded(data.get("input")), data.get("output")
    elif span.kind == "chat":
        _take_call(span, record, data, typed)
    return span


def _take_call(span: Span, record: JsonObject, data: JsonObject, typed: Typed) -> None:
    """Take what a call says; the SDK leaves out what a response says, which some exporters add beside it."""
    asked = next((each for each in (data.get("input"), record.get("span_data_input")) if each is not None), None)
    beside = (data.get("response"), record.get("span_data_response"), record.get("response"))
    response = next((found for each in beside if (found := _object(each)) is not None), {})
    output = response.get("output") if data.get("output") is None else data["output"]
    span.model = typed.text(response.get("model")) or typed.text(data.get("model"))
    span.inputs = [*told_of(response.get("instructions"), "system"), *told_of(asked, "user")]
    span.outputs = told_of(output, "assistant")
    span.usage = span.usage or _usage(response.get("usage"), typed)


def _object(value: Json) -> JsonObject | None:
    found = decoded(value)
    return found if isinstance(found, dict) else object_of(value)


def _error(error: Json, typed: Typed) -> str | None:
    if not isinstance(error, dict):
        return typed.text(error)
    message, data = typed.text(error.get("message")), error.get("data")
    # What went wrong in a tool stands beside "Error running tool".
    cause = typed.text(data.get("error")) if isinstance(data, dict) else None
    return ": ".join(each for each in (message, cause) if each is not None) or None


def _usage(told: Json, typed: Typed) -> Usage | None:
    if not isinstance(told, dict):
        return None
    counts = {ours: next((told[name] for name in names if name in told), None) for ours, names in _USAGE.items()}
    for ours, (*places, name) in _DETAILS.items():
        details: list[Mapping[str, Json]] = [each for place in places if isinstance(each := told.get(place), dict)]
        counts[ours] = next((each[name] for each in details if name in each), None)
    return usage_of(typed, **counts, total=told.get("total_tokens"))
