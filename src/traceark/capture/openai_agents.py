"""Live capture of the OpenAI Agents SDK: a tracing processor.

A span is told as the SDK exports it, with what the SDK leaves out of a response beside it, and read
as the importer ``openai-agents`` reads a file of them. It knows the SDK's traces and spans, and nothing of what
their data means.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from traceark import models
from traceark.capture.extras import needs
from traceark.capture.live_trace import LiveTrace
from traceark.capture.outcome import Endings, outcome_of
from traceark.capture.plain import plain
from traceark.capture.recorder import Recorder, StoreOptions
from traceark.importers.base import ImportCounts
from traceark.importers.openai_agents import NAME, facts_of, span_of
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

with needs("openai-agents"):
    from agents.tracing import Span, Trace, TracingProcessor


class ArchiveTracingProcessor(TracingProcessor):
    """Writes every trace to an archive: its agents as they begin, everything as it ends.

    A call hands over what it tells and returns; another thread writes it at once.

    Parameters
    ----------
    url, **options
        As for `ArchiveStore`: `storage_options`, `durability`, `allow_unsafe_writes`.

    Examples
    --------
    >>> from agents import tracing
    >>> processor = ArchiveTracingProcessor("memory://agents-example")
    >>> tracing.set_trace_processors([processor])
    >>> with tracing.trace("Sums"), tracing.agent_span("adder"):
    ...     with tracing.function_span("add", input="[2, 2]") as span:
    ...         span.span_data.output = "4"
    >>> processor.shutdown()
    >>> import traceark
    >>> with traceark.open("memory://agents-example") as archive:
    ...     archive.sql("SELECT agent_type, status, total_messages FROM traces").rows()
    [{'agent_type': 'adder', 'status': 'completed', 'total_messages': 1}]
    """

    def __init__(self, url: str | Path, **options: Unpack[StoreOptions]) -> None:
        self.recorder = Recorder(url, **options)
        self._endings = Endings()

    def on_trace_start(self, trace: Trace) -> None:
        """Begin a trace."""
        told = plain(trace.export())
        self._endings.begin(trace.trace_id)
        self._record(trace.trace_id, lambda live: live.tell(told))

    def on_trace_end(self, trace: Trace) -> None:
        """End a trace."""

        told, error = plain(trace.export()), self._endings.end(trace.trace_id)

        def end(live: _AgentsTrace) -> None:
            live.tell(told)
            live.end(error)

        self._record(trace.trace_id, end)

    def on_span_start(self, span: Span[Any]) -> None:
        """Take what is known of a span as it begins: an agent is a goal from then on, all is an event once it ended."""
        record = _record(span)
        self._endings.begin(span.span_id)
        self._record(span.trace_id, lambda live: live.put(span_of(record, _typed())))

    def on_span_end(self, span: Span[Any]) -> None:
        """Write a span."""

        record, cancelled = _record(span), outcome_of(self._endings.end(span.span_id)) == "cancelled"

        def end(live: _AgentsTrace) -> None:
            live.event("span", record)
            ended = span_of(record, _typed())
            live.put(replace(ended, cancelled=cancelled and not ended.failed))

        self._record(span.trace_id, end)

    def force_flush(self) -> None:
        """Write everything, also what failed before."""
        self.recorder.flush()

    def shutdown(self) -> None:
        """Write everything, seal what has ended, and end."""
        self.recorder.close()

    def _record(self, trace_id: str, change: Any) -> None:
        self.recorder.record(trace_id, lambda: _AgentsTrace(trace_id), change)


class _AgentsTrace(LiveTrace):
    """A trace, and what the SDK says of it as a whole."""

    def __init__(self, trace_id: str) -> None:
        self._facts: JsonObject = {}
        super().__init__(trace_id, NAME, self._describe_it)

    def tell(self, told: Json) -> None:
        if isinstance(told, dict):
            self.around("trace", told)
            self._facts = facts_of(told, _typed())

    def _describe_it(self, trace: models.Trace, typed: Typed) -> None:
        trace.metadata = {**trace.metadata, **self._facts}


def _record(span: Span[Any]) -> JsonObject:
    """Return a span as the SDK exports it, with what it keeps to itself beside that."""
    told = plain(span.export())
    record: JsonObject = told if isinstance(told, dict) else {}
    data = span.span_data
    if data.type == "response":
        for name in ("input", "response"):
            if (value := getattr(data, name, None)) is not None:
                record[f"span_data_{name}"] = plain(value)
    return record


def _typed() -> Typed:
    return Typed(ImportCounts().repaired)
