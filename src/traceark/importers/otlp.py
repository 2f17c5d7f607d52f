"""Traces of OpenTelemetry in files: OTLP as JSON, one document or one a line, Jaeger's and Tempo's, dumps of spans.

A trace is one by its trace id, wherever its spans stand in the file. Every span is an event
``otlp.span``, and what stands around spans (a resource, a scope, what else a document says) an event
before the first span that it holds for. What spans mean is `gen_ai`'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import documents_of, first_document, head_of
from traceark.importers.gen_ai import span_of
from traceark.importers.otel_span import attributes_of
from traceark.importers.otlp_json import Found, Lost, Pieces, spans_in
from traceark.importers.spans import SpanTrace
from traceark.importers.typed import Typed
from traceark.models import JsonObject, Trace

NAME = "otlp"
# Spans have these near the beginning of a file; what merely quotes them does not have its quotes bare.
_TRACE_ID = re.compile(rb'"trace_?id"\s*:', re.IGNORECASE)
_SPAN_ID = re.compile(rb'"span_?id"\s*:', re.IGNORECASE)
_RESOURCES = re.compile(rb'\{\s*"(resourceSpans|batches)"\s*:\s*\[\s*\{\s*"(resource|scopeSpans|instrumentationLib)')
# Facts of a trace that its header has room for, in a resource's attributes or in spans'.
_FACTS = ("service.name", "gen_ai.conversation.id", "session.id")
_USERS = ("user.id", "enduser.id")


class Otlp:
    """Reads a file of spans; the trace id is OpenTelemetry's, in lower-case hex where it is hex.

    Examples
    --------
    >>> import json, tempfile
    >>> span = {"traceId": "AB", "spanId": "01", "name": "invoke_agent guide", "startTimeUnixNano": "17000000000000"}
    >>> document = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "own"}, "spans": [span]}]}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "traces.json")
    ...     _ = path.write_text(json.dumps(document))
    ...     [source] = Otlp().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.agent_type
    ('ab', 'guide')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file begins with spans, or is a document of them."""
        head = head_of(path, lists=True)
        if _RESOURCES.match(head):
            return True
        if _TRACE_ID.search(head) is None or _SPAN_ID.search(head) is None:
            return False
        return spans_in(first_document(path), Typed(ImportCounts().repaired)) is not None

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of the file, in the order of their first spans."""
        traces: dict[str, _OtelTrace] = {}
        for line, document in documents_of(path, counts):
            pieces = spans_in(document, Typed(counts.repaired))
            if pieces is None:
                counts.problems.append(Problem(str(path), line, "no document of spans; it was not taken"))
            else:
                _take(pieces, traces, path, line, counts)
        for trace in traces.values():
            yield trace.finish()


def _take(pieces: Pieces, traces: dict[str, _OtelTrace], path: Path, line: int, counts: ImportCounts) -> None:
    for piece in pieces:
        if isinstance(piece, Lost):
            counts.problems.append(Problem(str(path), line, f"{piece.reason}; it was not taken"))
            continue
        span = piece.span
        trace_id = Typed(counts.repaired).identifier(span.trace_id)
        if trace_id is None:
            told = f"a span without a trace id belongs to no trace and was not taken: {span.span_id} {span.name[:60]}"
            counts.problems.append(Problem(str(path), line, told))
            continue
        if trace_id not in traces:
            traces[trace_id] = _OtelTrace(trace_id, path, counts)
        traces[trace_id].add(piece)


class OtelFacts:
    """What spans and resources say of a trace that its header has room for."""

    def __init__(self) -> None:
        self._facts: JsonObject = {}

    def note(self, found: Found) -> None:
        """Take what a span, and what stands around it, says."""
        for kind, told in found.around:
            if kind == "resource" and isinstance(told, dict):
                inner = told.get("resource")
                self._note(attributes_of(inner.get("attributes")) if isinstance(inner, dict) else {})
        self._note(found.span.attributes)

    def describe(self, trace: Trace, typed: Typed) -> None:
        """Say it in the header, where the header does not say otherwise."""
        if self._facts:
            facts = {name: told for name, told in self._facts.items() if name in _FACTS}
            trace.metadata = {**trace.metadata, NAME: facts}
        trace.uid = next((told for name in _USERS if (told := typed.text(self._facts.get(name)))), None)
        trace.agent_type = trace.agent_type or typed.text(self._facts.get("service.name"))

    def _note(self, attributes: JsonObject) -> None:
        for name in (*_FACTS, *_USERS):
            told = attributes.get(name)
            if isinstance(told, str) and told:
                self._facts.setdefault(name, told)


class _OtelTrace:
    """One trace, and the facts of its header."""

    def __init__(self, trace_id: str, path: Path, counts: ImportCounts) -> None:
        self._building = SpanTrace(NAME, Trace(trace_id=trace_id), counts, str(path))
        self._facts = OtelFacts()

    def add(self, found: Found) -> None:
        for kind, told in found.around:
            self._building.around(kind, told)
        self._facts.note(found)
        self._building.add(span_of(found.span, self._building.typed))

    def finish(self) -> SourceTrace:
        source = self._building.finish()
        self._facts.describe(source.trace, self._building.typed)
        return source
