"""Live capture of OpenTelemetry: a processor of spans, and an exporter for processors that are there.

A span is turned into OTLP's JSON and read as the importer ``otlp`` reads a file of it, so that both
make the same of a run. It knows the SDK's spans, and no attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from traceark.capture.extras import needs
from traceark.capture.live_trace import LiveTrace
from traceark.capture.outcome import Endings, outcome_of
from traceark.capture.plain import plain
from traceark.capture.recorder import Recorder, StoreOptions
from traceark.importers.base import ImportCounts
from traceark.importers.gen_ai import span_of
from traceark.importers.otlp import NAME, OtelFacts
from traceark.importers.otlp_json import Found, spans_in
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

with needs("otel"):
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanContext

_INT64 = 2**63


class ArchiveSpanProcessor(SpanProcessor):
    """Writes every span to an archive: an agent's as it begins, everything as it ends.

    A call hands over what it tells and returns; another thread writes it at once.

    Parameters
    ----------
    url, **options
        As for `ArchiveStore`: `storage_options`, `durability`, `allow_unsafe_writes`.

    Examples
    --------
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> provider = TracerProvider()
    >>> provider.add_span_processor(ArchiveSpanProcessor("memory://otel-example"))
    >>> tracer = provider.get_tracer("example")
    >>> with tracer.start_as_current_span("invoke_agent guide"):
    ...     with tracer.start_as_current_span("chat m-1", attributes={"gen_ai.operation.name": "chat"}) as span:
    ...         span.set_attribute("gen_ai.output.messages", '[{"role": "assistant", "content": "Hello."}]')
    >>> provider.shutdown()
    >>> import traceark
    >>> with traceark.open("memory://otel-example") as archive:
    ...     archive.sql("SELECT agent_type, status, total_messages FROM traces").rows()
    [{'agent_type': 'guide', 'status': 'completed', 'total_messages': 1}]
    """

    def __init__(self, url: str | Path, **options: Unpack[StoreOptions]) -> None:
        self.recorder = Recorder(url, **options)
        self._running: dict[int, ReadableSpan] = {}
        self._endings = Endings()

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
        """Take what is known of a span as it begins."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._running[span.context.span_id] = span
            self._endings.begin(str(span.context.span_id))
            self._record(span, _beginning(span))

    def on_end(self, span: ReadableSpan) -> None:
        """Write a span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._running.pop(span.context.span_id, None)
            # OpenTelemetry keeps errors, but not that a task was cancelled.
            error = self._endings.end(str(span.context.span_id))
            self._record(span, _taking([span], error if outcome_of(error) == "cancelled" else None))

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Write everything, also what failed before."""
        return self.recorder.flush()

    def shutdown(self) -> None:
        """Write everything, also spans that have not ended, as they are; seal what has ended, and end."""
        for span in list(self._running.values()):
            self._record(span, _taking([span]))
        self._running.clear()
        self.recorder.close()

    def _record(self, span: ReadableSpan, change: Any) -> None:
        assert span.context is not None
        trace_id = f"{span.context.trace_id:032x}"
        self.recorder.record(trace_id, lambda: _OtelTrace(trace_id), change)


class ArchiveSpanExporter(SpanExporter):
    """Writes every span to an archive as it ends; for those who have a processor that exports.

    A call returns when its spans are durable: with `SimpleSpanProcessor` a span is in the archive
    before the program goes on behind it, with `BatchSpanProcessor` seconds later.

    Parameters
    ----------
    url, **options
        As for `ArchiveStore`: `storage_options`, `durability`, `allow_unsafe_writes`.
    """

    def __init__(self, url: str | Path, **options: Unpack[StoreOptions]) -> None:
        self.recorder = Recorder(url, **options)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write spans that have ended."""
        by_trace: dict[str, list[ReadableSpan]] = {}
        for span in spans:
            if span.context is not None:
                by_trace.setdefault(f"{span.context.trace_id:032x}", []).append(span)
        for trace_id, of_it in by_trace.items():
            self.recorder.record(trace_id, lambda trace_id=trace_id: _OtelTrace(trace_id), _taking(of_it))  # type: ignore[misc]
        return SpanExportResult.SUCCESS if self.recorder.write(by_trace) else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Write everything, also what failed before."""
        return self.recorder.flush()

    def shutdown(self) -> None:
        """Write everything, seal what has ended, and end."""
        self.recorder.close()


class _OtelTrace(LiveTrace):
    """A trace, and the facts of its header."""

    def __init__(self, trace_id: str) -> None:
        self.facts = OtelFacts()
        super().__init__(trace_id, NAME, self.facts.describe)


def _taking(spans: Sequence[ReadableSpan], cancelled: BaseException | None = None) -> Any:
    def take(trace: LiveTrace) -> None:
        assert isinstance(trace, _OtelTrace)
        typed = Typed(ImportCounts().repaired)
        for span in spans:
            for found in spans_in(_document(span), typed) or ():
                assert isinstance(found, Found)
                for kind, told in found.around:
                    trace.around(kind, told)
                trace.event("span", found.span.raw)
                trace.facts.note(found)
                meant = span_of(found.span, typed)
                trace.put(replace(meant, cancelled=cancelled is not None and not meant.failed))
            # What was called from elsewhere is a root here.
            if span.end_time is not None and (span.parent is None or span.parent.is_remote):
                trace.end(cancelled)

    return take


def _beginning(span: ReadableSpan) -> Any:
    document = _document(span)

    def take(trace: LiveTrace) -> None:
        typed = Typed(ImportCounts().repaired)
        for found in spans_in(document, typed) or ():
            assert isinstance(found, Found)
            trace.put(span_of(found.span, typed))

    return take


def _document(span: ReadableSpan) -> JsonObject:
    """Return a span as the document of OTLP's JSON that it would be exported in."""
    scope = span.instrumentation_scope
    inner: JsonObject = {}
    if scope is not None:
        inner = _filled({"name": scope.name, "version": scope.version, "attributes": _attributes(scope.attributes)})
    about = _filled({"scope": inner, "schemaUrl": scope.schema_url if scope is not None else None})
    resource = _filled({"attributes": _attributes(span.resource.attributes)})
    scoped: JsonObject = {**about, "spans": [_record(span)]}
    told: JsonObject = {"resource": resource, "scopeSpans": [scoped]}
    return {"resourceSpans": [{**told, **_filled({"schemaUrl": span.resource.schema_url})}]}


def _record(span: ReadableSpan) -> JsonObject:
    assert span.context is not None
    status = _filled({"message": span.status.description, "code": span.status.status_code.value})
    return {
        **_identity(span.context),
        **_filled({"parentSpanId": f"{span.parent.span_id:016x}" if span.parent is not None else None}),
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP begins with one for what is not told
        **_filled({"startTimeUnixNano": _nanos(span.start_time), "endTimeUnixNano": _nanos(span.end_time)}),
        **_filled(
            {
                "attributes": _attributes(span.attributes),
                "droppedAttributesCount": span.dropped_attributes,
                "events": [
                    {
                        "timeUnixNano": _nanos(event.timestamp),
                        "name": event.name,
                        **_filled(
                            {
                                "attributes": _attributes(event.attributes),
                                "droppedAttributesCount": event.dropped_attributes,
                            }
                        ),
                    }
                    for event in span.events
                ],
                "droppedEventsCount": span.dropped_events,
                "links": [
                    {
                        **_identity(link.context),
                        **_filled(
                            {
                                "attributes": _attributes(link.attributes),
                                "droppedAttributesCount": link.dropped_attributes,
                            }
                        ),
                    }
                    for link in span.links
                ],
                "droppedLinksCount": span.dropped_links,
            }
        ),
        "status": status,
    }


def _identity(context: SpanContext) -> JsonObject:
    state = ",".join(f"{name}={value}" for name, value in context.trace_state.items())
    ids: JsonObject = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}
    return {**ids, **_filled({"traceState": state})}


def _nanos(at: int | None) -> str | None:
    return str(at) if at is not None else None


def _filled(told: Mapping[str, Json]) -> JsonObject:
    """Return what is not at its default, as protobuf's JSON leaves out what is."""
    return {name: value for name, value in told.items() if value not in (None, "", 0, [], {})}


def _attributes(told: Mapping[str, Any] | None) -> list[Json]:
    return [{"key": name, "value": _value(value)} for name, value in (told or {}).items()]


def _value(value: object) -> Json:
    """Return a value of an attribute as OTLP's AnyValue."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": plain(value)}
    if isinstance(value, bytes):
        return {"bytesValue": plain(value)}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(value)}}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": value if isinstance(value, str) else str(value)}
