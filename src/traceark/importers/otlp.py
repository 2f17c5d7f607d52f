"""Traces of OpenTelemetry in files: OTLP as JSON, one document or one a line, Jaeger's and Tempo's, dumps of spans.

A trace is one by its trace id, wherever its spans stand in the file. Every span is an event
``otlp.span``, and what stands around spans (a resource, a scope, what else a document says) an event
before the first span that it holds for. What spans mean is `gen_ai`'s to say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import documents_of, first_document, head_of
from traceark.importers.gen_ai import span_of
from traceark.importers.otel_span import OtelSpan, attributes_of
from traceark.importers.otlp_json import PLACES, Found, Lost, Pieces, span_told, spans_in
from traceark.importers.pieces import SPAN, Piece, PiecedTrace, replayed, sources_of
from traceark.importers.spans import Span, SpanTrace
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Trace

NAME = "otlp"
# Spans have these near the beginning of a file; what merely quotes them does not have its quotes bare.
_TRACE_ID = re.compile(rb'"trace_?id"\s*:', re.IGNORECASE)
_SPAN_ID = re.compile(rb'"span_?id"\s*:', re.IGNORECASE)
_RESOURCES = re.compile(rb'\{\s*"(resourceSpans|batches)"\s*:\s*\[\s*\{\s*"(resource|scopeSpans|instrumentationLib)')
# Facts of a trace that its header has room for, in a resource's attributes or in spans'.
_FACTS = ("service.name", "gen_ai.conversation.id", "session.id")
_USERS = ("user.id", "enduser.id")
_RECORDS: tuple[Place, ...] = ((), ("data",), ("traces",), ("spans",), *PLACES)
_LAST = datetime.max.replace(tzinfo=UTC)


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
    records = frozenset({SPAN})

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
        yield from sources_of(self.pieced(path, counts), counts)

    def pieced(self, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        """Yield what the file tells of each trace."""
        traces: dict[str, PiecedTrace] = {}
        for line, document in documents_of(path, counts, _RECORDS):
            pieces = spans_in(document, Typed(counts.repaired))
            if pieces is None:
                counts.problems.append(Problem(str(path), line, "no document of spans; it was not taken"))
            else:
                self._take(pieces, traces, path, line, counts)
        yield from traces.values()

    def _take(
        self, pieces: Pieces, traces: dict[str, PiecedTrace], path: Path, line: int, counts: ImportCounts
    ) -> None:
        for piece in pieces:
            if isinstance(piece, Lost):
                counts.problems.append(Problem(str(path), line, f"{piece.reason}; it was not taken"))
                continue
            span = piece.span
            trace_id = Typed(counts.repaired).identifier(span.trace_id)
            if trace_id is None:
                told = (
                    f"a span without a trace id belongs to no trace and was not taken: {span.span_id} {span.name[:60]}"
                )
                counts.problems.append(Problem(str(path), line, told))
                continue
            trace = traces.setdefault(trace_id, PiecedTrace(self, trace_id, path))
            trace.pieces.append(Piece(SPAN, span.raw, piece.around, span))

    def put_together(self, trace_id: str, pieces: Sequence[Piece], path: Path, counts: ImportCounts) -> SourceTrace:
        """Return the trace that spans tell."""
        building = SpanTrace(NAME, Trace(trace_id=trace_id), counts, str(path))
        facts = OtelFacts()
        for piece, told, around in replayed(pieces):
            for kind, each in told:
                building.around(kind, each)
            if piece.kind == SPAN:
                span = _span(piece, around, building.typed)
                facts.note(Found(span, tuple(around.items())))
                building.add(span_of(span, building.typed))
        source = building.finish()
        facts.describe(source.trace, building.typed)
        return source

    def endings(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Span]]:
        """Yield what spans say that have ended."""
        typed = Typed(Counter())
        for piece, _, around in replayed(pieces):
            if piece.kind == SPAN:
                told = _span(piece, around, typed)
                if told.span_id is not None and told.end is not None:
                    yield told.span_id, span_of(told, typed)


def _span(piece: Piece, around: Mapping[str, Json], typed: Typed) -> OtelSpan:
    if isinstance(piece.parsed, OtelSpan):
        return piece.parsed
    return span_told(piece.record if isinstance(piece.record, dict) else {}, around, typed)


class OtelFacts:
    """What spans and resources say of a trace that its header has room for: of several, what the earliest says."""

    def __init__(self) -> None:
        self._facts: JsonObject = {}
        self._since: dict[str, tuple[datetime, str]] = {}

    def note(self, found: Found) -> None:
        """Take what a span, and what stands around it, says."""
        since = found.span.start or found.span.end or _LAST, found.span.span_id or ""
        for kind, told in found.around:
            if kind == "resource" and isinstance(told, dict):
                inner = told.get("resource")
                self._note(attributes_of(inner.get("attributes")) if isinstance(inner, dict) else {}, since)
        self._note(found.span.attributes, since)

    def describe(self, trace: Trace, typed: Typed) -> None:
        """Say it in the header, where the header does not say otherwise."""
        if self._facts:
            facts = {name: told for name, told in self._facts.items() if name in _FACTS}
            trace.metadata = {**trace.metadata, NAME: facts}
        trace.uid = next((told for name in _USERS if (told := typed.text(self._facts.get(name)))), None)
        trace.agent_type = trace.agent_type or typed.text(self._facts.get("service.name"))

    def _note(self, attributes: JsonObject, since: tuple[datetime, str]) -> None:
        for name in (*_FACTS, *_USERS):
            told = attributes.get(name)
            if isinstance(told, str) and told and (name not in self._since or since < self._since[name]):
                self._facts[name], self._since[name] = told, since
