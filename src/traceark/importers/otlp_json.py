"""Documents of spans: OTLP's JSON, Tempo's, Jaeger's, and plain lists of spans as exporters dump them.

A document is read into spans of OpenTelemetry with what stands around each. It knows where what
stands, and no attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from traceark.importers.document import without
from traceark.importers.otel_span import OtelEvent, OtelSpan, attributes_of, has_failed, id_of, time_of
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

_RESOURCES = ("resourceSpans", "resource_spans", "batches")
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans", "instrumentation_library_spans")
# Where a document has its resources, the scopes in them, and the spans in those.
PLACES = tuple(
    place
    for resources in _RESOURCES
    for around in ((resources,), ("trace", resources))
    for place in (around, *((*around, scopes, *inner) for scopes in _SCOPES for inner in ((), ("spans",))))
)
_TRACE_ID = ("traceId", "trace_id", "traceID")
_SPAN_ID = ("spanId", "span_id", "spanID")
_PARENT_ID = ("parentSpanId", "parent_span_id", "parent_id", "parentId")
_START = ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime")
_END = ("endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime")
_EVENTS = ("events", "span_events", "spanEvents")
_MOST_MICROS = 10**15


@dataclass(frozen=True, slots=True)
class Found:
    """A span, and what stands around it: kinds of context, the outermost first, and what they say."""

    span: OtelSpan
    around: tuple[tuple[str, Json], ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A piece of a document that is no span and belongs to none."""

    reason: str


Pieces = Iterator[Found | Lost]


def spans_in(document: Json, typed: Typed) -> Pieces | None:
    """Return the spans of a document, None where it is no document of spans.

    Examples
    --------
    >>> from collections import Counter
    >>> span = {"traceId": "AB", "spanId": "01", "name": "chat", "startTimeUnixNano": "1700000000000000000"}
    >>> document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    >>> [found.span.trace_id for found in spans_in(document, Typed(Counter()))]
    ['ab']
    """
    if isinstance(document, list):
        if any(_is_jaeger_trace(each) for each in document):
            return _jaeger(document, (), typed)
        return _plain(document, (), typed) if any(_is_span(each) for each in document) else None
    if not isinstance(document, dict):
        return None
    if (inner := document.get("trace")) and isinstance(inner, dict) and any(name in inner for name in _RESOURCES):
        pieces = spans_in(inner, typed)
        return _inside(("document", without(document, "trace")), pieces) if pieces is not None else None
    for name in _RESOURCES:
        resources = document.get(name)
        if isinstance(resources, list) and any(
            isinstance(each, dict) and any(scopes in each for scopes in _SCOPES) for each in resources
        ):
            return _otlp(resources, (("document", without(document, name)),), typed)
    if _is_jaeger_trace(document):
        return _jaeger([document], (), typed)
    if _is_span(document):
        return _plain([document], (), typed)
    for name in ("data", "traces"):
        traces = document.get(name)
        around = (("document", without(document, name)),)
        if isinstance(traces, list) and any(_is_jaeger_trace(each) for each in traces):
            return _jaeger(traces, around, typed)
        if isinstance(traces, list) and any(_is_dumped_trace(each) for each in traces):
            return _dumped(traces, around, typed)
    return _dumped([document], (), typed) if _is_dumped_trace(document) else None


def span_told(told: JsonObject, around: Mapping[str, Json], typed: Typed) -> OtelSpan:
    """Return the span that a record tells with what stands around it, as `spans_in` has found them."""
    if "spanID" in told and "operationName" in told:
        trace = around.get("trace")
        return _jaeger_span(told, trace if isinstance(trace, dict) else {}, typed)
    scope = around.get("scope")
    return _span(told, _scope_name(scope) if isinstance(scope, dict) else "", typed)


def _scope_name(scope: Mapping[str, Json]) -> str:
    inner = scope.get("scope", scope.get("instrumentationLibrary"))
    told = inner.get("name") if isinstance(inner, dict) else None
    return told if isinstance(told, str) else ""


def _inside(context: tuple[str, Json], pieces: Pieces) -> Pieces:
    for piece in pieces:
        yield Found(piece.span, (context, *piece.around)) if isinstance(piece, Found) else piece


def _is_span(value: Json) -> bool:
    if not isinstance(value, dict):
        return False
    context = value.get("context")
    ids = context if isinstance(context, dict) else value
    told = any(name in ids for name in _TRACE_ID) and any(name in ids for name in _SPAN_ID)
    return told and "name" in value and any(name in value for name in _START)


def _is_dumped_trace(value: Json) -> bool:
    spans = value.get("spans") if isinstance(value, dict) else None
    return isinstance(spans, list) and any(_is_span(each) for each in spans)


def _is_jaeger_trace(value: Json) -> bool:
    spans = value.get("spans") if isinstance(value, dict) else None
    return isinstance(spans, list) and any(
        isinstance(each, dict) and "spanID" in each and "operationName" in each for each in spans
    )


def _objects(values: Json, what: str) -> Iterator[JsonObject | Lost]:
    """Yield the objects of a list, and name what is none."""
    if not isinstance(values, list):
        yield Lost(f"no list of {what}: {_shown(values)}")
        return
    for each in values:
        yield each if isinstance(each, dict) else Lost(f"no {what}: {_shown(each)}")


def _shown(value: Json) -> str:
    return str(value)[:60]


def _otlp(resources: list[Json], around: tuple[tuple[str, Json], ...], typed: Typed) -> Pieces:
    for resource in _objects(resources, "resource with spans"):
        if isinstance(resource, Lost):
            yield resource
            continue
        names = [name for name in _SCOPES if name in resource]
        about = (*around, ("resource", without(resource, *names)))
        if not any(resource[name] for name in names):
            yield Lost(f"a resource without spans belongs to no trace: {_shown(resource)}")
        for name in names:
            for scope in _objects(resource[name], "scope with spans"):
                if isinstance(scope, Lost):
                    yield scope
                    continue
                if not scope.get("spans"):
                    yield Lost(f"a scope without spans belongs to no trace: {_shown(scope)}")
                    continue
                told = without(scope, "spans")
                yield from _plain(scope["spans"], (*about, ("scope", told)), typed, _scope_name(scope))


def _dumped(traces: list[Json], around: tuple[tuple[str, Json], ...], typed: Typed) -> Pieces:
    for trace in _objects(traces, "trace"):
        if isinstance(trace, Lost):
            yield trace
        else:
            yield from _plain(trace.get("spans"), (*around, ("trace", without(trace, "spans"))), typed)


def _plain(spans: Json, around: tuple[tuple[str, Json], ...], typed: Typed, scope: str = "") -> Pieces:
    for span in _objects(spans, "span"):
        yield span if isinstance(span, Lost) else Found(_span(span, scope, typed), around)


def _span(told: JsonObject, scope: str, typed: Typed) -> OtelSpan:
    context = told.get("context")
    ids = context if isinstance(context, dict) else told
    status = told.get("status")
    state: Mapping[str, Json] = status if isinstance(status, dict) else {"code": status}
    own_scope = told.get("scope", told.get("instrumentation_scope"))
    named = own_scope.get("name") if isinstance(own_scope, dict) else None
    start = time_of(_first(told, _START), typed)
    end = time_of(_first(told, _END), typed)
    return OtelSpan(
        id_of(_first(ids, _TRACE_ID)),
        id_of(_first(ids, _SPAN_ID)),
        id_of(_first(told, _PARENT_ID)),
        str(told.get("name") or ""),
        told,
        start,
        end,
        has_failed(_first(state, ("code", "status_code", "statusCode"))),
        typed.text(_first(state, ("message", "description"))),
        attributes_of(told.get("attributes")),
        list(_events(_first(told, _EVENTS))),
        named if isinstance(named, str) else scope,
    )


def _events(told: Json) -> Iterator[OtelEvent]:
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict):
            name = each.get("name") or each.get("event_name")
            yield OtelEvent(str(name or ""), attributes_of(each.get("attributes")), each.get("body"))


def _first(told: Mapping[str, Json], names: tuple[str, ...]) -> Json:
    return next((told[name] for name in names if told.get(name) not in (None, "")), None)


def _jaeger(traces: list[Json], around: tuple[tuple[str, Json], ...], typed: Typed) -> Pieces:
    for trace in _objects(traces, "trace"):
        if isinstance(trace, Lost):
            yield trace
            continue
        about = (*around, ("trace", without(trace, "spans")))
        for span in _objects(trace.get("spans"), "span"):
            yield span if isinstance(span, Lost) else Found(_jaeger_span(span, trace, typed), about)


def _jaeger_span(told: JsonObject, trace: JsonObject, typed: Typed) -> OtelSpan:
    trace_id = id_of(told.get("traceID")) or id_of(trace.get("traceID"))
    tags = attributes_of(told.get("tags"))
    start, duration = time_of(told.get("startTime"), typed, per_second=10**6), told.get("duration")
    end = start
    if start is not None and isinstance(duration, int) and 0 <= duration < _MOST_MICROS:
        end = start + timedelta(microseconds=duration)
    failed = tags.get("error") is True or tags.get("error") == "true" or has_failed(tags.get("otel.status_code"))
    scope = tags.get("otel.scope.name", tags.get("otel.library.name"))
    return OtelSpan(
        trace_id,
        id_of(told.get("spanID")),
        _jaeger_parent(told, trace_id),
        str(told.get("operationName") or ""),
        told,
        start,
        end,
        failed,
        typed.text(tags.get("otel.status_description")),
        tags,
        list(_logs(told.get("logs"))),
        scope if isinstance(scope, str) else "",
    )


def _jaeger_parent(told: JsonObject, trace_id: str | None) -> str | None:
    references = told.get("references")
    found = [each for each in references if isinstance(each, dict)] if isinstance(references, list) else []
    for kind in ("CHILD_OF", "FOLLOWS_FROM"):
        for each in found:
            if each.get("refType") == kind and id_of(each.get("traceID")) in (trace_id, None):
                return id_of(each.get("spanID"))
    return id_of(told.get("parentSpanID"))


def _logs(told: Json) -> Iterator[OtelEvent]:
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict):
            fields = attributes_of(each.get("fields"))
            yield OtelEvent(str(fields.get("event") or ""), fields)
