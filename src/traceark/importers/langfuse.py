"""Langfuse's traces and observations, as its interface and its public API export them.

A file is ``{"trace": …, "observations": […]}``, a trace with its observations in it, a page
``{"data": […]}`` of either, a list, or has one record a line (https://api.reference.langfuse.com).
Every observation is an event ``langfuse.span``; a trace is put together by `spans`. What an
observation does not say itself, the OpenTelemetry attributes in its metadata do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import documents_of, first_document, head_of, without
from traceark.importers.gen_ai import span_of
from traceark.importers.langgraph import GraphRun, graphs
from traceark.importers.model_calls import answered, asked, tool_answer, tool_arguments, unpacked, usage_in
from traceark.importers.otel_span import OtelSpan
from traceark.importers.pieces import SPAN, Piece, PiecedTrace, fullest, replayed, sources_of
from traceark.importers.spans import Kind, Span, SpanTrace
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.importers.usage import number_of, usage_of
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "langfuse"
_MARK = re.compile(rb'"(projectId|traceId|observations|parentObservationId|sessionId)"\s*:')
_KINDS: dict[str, Kind] = {"GENERATION": "chat", "EMBEDDING": "embedding", "AGENT": "agent", "TOOL": "tool"}
_TYPES = frozenset({"SPAN", "EVENT", "CHAIN", "RETRIEVER", "EVALUATOR", "GUARDRAIL", *_KINDS})
_FACTS = ("name", "sessionId", "environment", "release", "version", "tags")
# Units of usage: which part of the tokens they count. What is named otherwise is more of its side.
_READ, _WRITTEN, _THOUGHT = (
    re.compile("cache_read|cached"),
    re.compile("cache_(creation|write)"),
    re.compile("reasoning"),
)
_RECORDS: tuple[Place, ...] = ((), ("data",), ("observations",))
_COSTS = ("totalCost", "calculatedTotalCost")
_DIFFERS = 1e-9


class Langfuse:
    """Reads a file of traces; the trace id is Langfuse's.

    Examples
    --------
    >>> import json, tempfile
    >>> observation = {"id": "o", "traceId": "t", "type": "GENERATION", "input": "Hi!", "output": "Hello."}
    >>> document = {"trace": {"id": "t", "name": "greeting"}, "observations": [observation]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "trace.json")
    ...     _ = path.write_text(json.dumps(document))
    ...     [source] = Langfuse().read(path, ImportCounts())
    >>> source.trace.trace_id, [each.content for each in source.messages]
    ('t', ['Hi!', 'Hello.'])
    """

    name = NAME
    records = frozenset({SPAN, "trace"})

    def detect(self, path: Path) -> bool:
        """Say whether the file's document, or its first, is a trace or an observation, or has some."""
        if _MARK.search(head_of(path, lists=True)) is None:
            return False
        first = first_document(path)
        if isinstance(first, dict) and isinstance(trace := first.get("trace"), dict) and _is_trace(trace):
            # Its observations follow, and may be torn off.
            return True
        return any(_is_observation(each.record) or each.kind == "trace" for each in _pieces(first, {}))

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the traces of the file, in the order in which they are told of first."""
        yield from sources_of(self.pieced(path, counts), counts)

    def pieced(self, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        """Yield what the file tells of each trace."""
        traces: dict[str, PiecedTrace] = {}
        typed = Typed(counts.repaired)
        for line, document in documents_of(path, counts, _RECORDS):
            for piece in _pieces(document, {}):
                record = piece.record
                name = "id" if piece.kind == "trace" else "traceId"
                trace_id = typed.identifier(record.get(name)) if isinstance(record, dict) else None
                if trace_id is None or not (piece.kind == "trace" or _is_observation(record)):
                    told = f"neither a trace nor an observation of one, and not taken: {str(record)[:60]}"
                    counts.problems.append(Problem(str(path), line, told))
                    continue
                traces.setdefault(trace_id, PiecedTrace(self, trace_id, path)).pieces.append(piece)
        yield from traces.values()

    def put_together(self, trace_id: str, pieces: Sequence[Piece], path: Path, counts: ImportCounts) -> SourceTrace:
        """Return the trace that its record and observations tell."""
        building = SpanTrace(NAME, Trace(trace_id=trace_id), counts, str(path))
        typed = building.typed
        observations = [each.record for each in pieces if each.kind == SPAN and isinstance(each.record, dict)]
        agents = graphs(_graph_run(each) for each in observations)
        callers = _around_calls(observations)
        for piece, told, _ in replayed(pieces):
            for kind, each in told:
                building.around(kind, each)
            if piece.kind == SPAN and isinstance(piece.record, dict):
                run_id = str(piece.record.get("id"))
                span = _span(piece.record, typed, is_graph=run_id in agents, calls_models=run_id in callers)
                building.add(span)
                if differs := _unlike_its_total(piece.record, span.usage):
                    counts.differences.append(Problem(str(path), 0, f"{trace_id}: {differs}"))
        trace = building.trace
        described = fullest(piece.record for piece in pieces if piece.kind == "trace") or {}
        _describe(trace, described, typed)
        source = building.finish()
        if trace.result_summary is None:
            said = answered(described.get("output"))
            trace.result_summary = typed.summary(said[-1].text(), 500) if said else None
        _check_cost(source, described, path, counts)
        return source

    def endings(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Span]]:
        """Yield what observations say that have ended."""
        typed = Typed(Counter())
        for piece in pieces:
            if piece.kind == SPAN and isinstance(piece.record, dict) and piece.record.get("endTime") is not None:
                span = _span(piece.record, typed, is_graph=False, calls_models=False)
                yield span.span_id, span


def _pieces(document: Json, about: JsonObject) -> Iterator[Piece]:
    """Yield the traces and observations of a document, a trace before what is in it."""
    if isinstance(document, list):
        for each in document:
            yield from _pieces(each, about) if isinstance(each, dict) and _is_record(each) else [_piece(each, about)]
    elif not isinstance(document, dict) or _is_observation(document):
        yield _piece(document, about)
    elif isinstance(trace := document.get("trace"), dict) and isinstance(document.get("observations"), list):
        beside = {**about, **without(document, "trace", "observations")}
        yield from _trace_pieces(trace, document["observations"], beside)
    elif _is_trace(document):
        yield from _trace_pieces(document, None, about)
    elif isinstance(inside := document.get("data"), list):
        yield from _pieces(inside, {**about, **without(document, "data")})
    elif isinstance(inside := document.get("observations"), list):
        yield from _pieces(inside, {**about, **without(document, "observations")})
    else:
        yield _piece(document, about)


def _piece(record: Json, about: JsonObject, kind: str = SPAN) -> Piece:
    return Piece(kind, record, (("document", about),))


def _trace_pieces(trace: JsonObject, observations: Json, about: JsonObject) -> Iterator[Piece]:
    """Yield a trace and its observations; those in it are left out where they say nothing that others do not."""
    inside = trace.get("observations")
    beside = observations if isinstance(observations, list) else []
    if isinstance(inside, list) and not beside and any(map(_is_observation, inside)):
        trace, beside = without(trace, "observations"), inside
    elif isinstance(inside, list) and beside and _say_no_more(inside, beside):
        trace = without(trace, "observations")
    yield _piece(trace, about, "trace")
    for each in beside:
        yield _piece(each, about)


def _say_no_more(records: Sequence[Json], others: Sequence[Json]) -> bool:
    """Say whether observations repeat others, or less of them."""
    known = {str(each.get("id")): each for each in others if isinstance(each, dict)}
    return all(
        isinstance(each, dict)
        and all(
            value in (None, {}, []) or known.get(str(each.get("id")), {}).get(name) == value
            for name, value in each.items()
        )
        for each in records
    )


def _is_record(value: JsonObject) -> bool:
    return _is_observation(value) or _is_trace(value) or "trace" in value


def _is_observation(value: Json) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("traceId"), str):
        return False
    kind = value.get("type")
    return isinstance(value.get("id"), str) and isinstance(kind, str) and kind.upper() in _TYPES


def _is_trace(value: Mapping[str, Json]) -> bool:
    named = isinstance(value.get("id"), str) and "timestamp" in value and "name" in value
    return named and bool(value.keys() & {"projectId", "observations", "sessionId", "htmlPath"})


def _metadata(record: Mapping[str, Json]) -> JsonObject:
    told = unpacked(record.get("metadata"))
    return told if isinstance(told, dict) else {}


def _graph_run(record: JsonObject) -> GraphRun:
    metadata, parent = _metadata(record), record.get("parentObservationId")
    named = parent if isinstance(parent, str) else None
    return GraphRun(str(record.get("id")), named, str(record.get("name")), metadata.get("tags"), metadata)


def _around_calls(observations: Sequence[JsonObject]) -> set[str]:
    """Return the ids of the observations that calls of models are in."""
    parents = {str(each.get("id")): each.get("parentObservationId") for each in observations}
    found: set[str] = set()
    for each in observations:
        above = each.get("parentObservationId") if each.get("type") == "GENERATION" else None
        while isinstance(above, str) and above not in found:
            found.add(above)
            above = parents.get(above)
    return found


def _span(record: JsonObject, typed: Typed, *, is_graph: bool, calls_models: bool) -> Span:
    name = typed.text(record.get("name")) or ""
    start, end = typed.time(record.get("startTime")), typed.time(record.get("endTime"))
    failed = record.get("level") == "ERROR"
    meant = _meant(name, record)
    answer = tool_answer(record.get("output"))
    kind = _kind(record, meant, answers_call=answer.call_id is not None, is_graph=is_graph, calls_models=calls_models)
    span = Span(
        typed.identifier(record.get("id")) or "",
        kind,
        record,
        parent_id=typed.identifier(record.get("parentObservationId")),
        name=name,
        start=start,
        end=end if record.get("type") != "EVENT" else end or start,
        failed=failed,
        error=typed.text(record.get("statusMessage")) if failed else None,
        agent=meant.agent or (name if kind == "agent" else None),
        model=typed.text(record.get("model")) or meant.model,
        usage=_usage(record, typed),
        cost=_cost(record, typed),
    )
    inputs, outputs = record.get("input"), record.get("output")
    if span.kind == "tool":
        span.tool = answer.tool or meant.tool or name
        span.call_id = answer.call_id or meant.call_id
        span.arguments, span.result = tool_arguments(inputs), answer.result
    elif span.kind != "other" or span.parent_id is None:
        span.inputs, span.outputs = asked(inputs), answered(outputs)
    return span


def _kind(record: JsonObject, meant: Span, *, answers_call: bool, is_graph: bool, calls_models: bool) -> Kind:
    """Return the kind of an observation, as its type says, or what was exported before there were types for it."""
    told = record.get("type")
    kind: Kind = _KINDS.get(told.upper(), "other") if isinstance(told, str) else "other"
    if kind == "chat" and meant.kind == "agent":
        # An agent's span that tells usage is taken for a call of a model.
        return "agent"
    if kind != "other":
        return kind
    # Some instrumentations call every event of an agent one.
    is_agent = meant.kind == "agent" and (calls_models or record.get("parentObservationId") is None)
    if is_graph or is_agent:
        return "agent"
    return "tool" if answers_call or meant.kind == "tool" or meant.call_id is not None else "other"


def _meant(name: str, record: JsonObject) -> Span:
    """Return what the attributes of an observation that came as a span of OpenTelemetry mean."""
    attributes = unpacked(_metadata(record).get("attributes"))
    told: JsonObject = attributes if isinstance(attributes, dict) else {}
    # Little of it is taken, so that what is odd in the rest is of no account.
    meant = span_of(OtelSpan(None, None, None, name, None, attributes=told), Typed(Counter()))
    call_id = told.get("gen_ai.tool.call.id")
    return replace(meant, call_id=meant.call_id or (call_id if isinstance(call_id, str) and call_id else None))


def _usage(record: JsonObject, typed: Typed) -> Usage | None:
    """Return the usage of an observation: its units by part, whether parts overlap as the total says."""
    details = record.get("usageDetails")
    if not isinstance(details, dict) or not details:
        legacy = record.get("usage")
        if isinstance(legacy, dict):
            return usage_of(typed, **_legacy(legacy))
        return usage_in(record, typed)
    units = {name: typed.count(number_of(value)) or 0 for name, value in details.items()}
    total = units.pop("total", sum(units.values()))
    main = {side: units.pop(side, 0) for side in ("input", "output")}
    read, written, thought = (
        sum(count for name, count in units.items() if part.search(name)) for part in (_READ, _WRITTEN, _THOUGHT)
    )
    beside = total != sum(main.values()) and total >= sum(main.values()) + sum(units.values())
    if not beside:
        return usage_of(
            typed,
            input_tokens=main["input"],
            output_tokens=main["output"],
            cache_read=read,
            cache_write=written,
            reasoning=thought,
            total=total,
        )
    outputs = {name: count for name, count in units.items() if _is_output(name)}
    more = sum(count for name, count in units.items() if name not in outputs) - read - written
    return Usage(
        input_tokens=main["input"] + more,
        output_tokens=main["output"] + sum(outputs.values()),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thought,
    )


def _unlike_its_total(record: JsonObject, usage: Usage | None) -> str | None:
    """Return in words how the total of an observation differs from its parts, None where it does not."""
    details = record.get("usageDetails")
    stated = number_of(details.get("total")) if isinstance(details, dict) else None
    if not isinstance(stated, int) or not stated or usage is None or stated == usage.total():
        return None
    return f"the parts of observation {record.get('id')} have {usage.total():,} tokens, it states {stated:,}"


def _is_output(name: str) -> bool:
    return "output" in name or "completion" in name or _THOUGHT.search(name) is not None


def _legacy(usage: Mapping[str, Json]) -> JsonObject:
    """Return the counts that a usage of older versions has, by the parts that `usage_of` knows."""
    names = {"input_tokens": ("input", "promptTokens"), "output_tokens": ("output", "completionTokens")}
    found = {ours: next((usage[name] for name in theirs if usage.get(name)), None) for ours, theirs in names.items()}
    return {**found, "total": usage.get("total", usage.get("totalTokens"))}


def _cost(record: JsonObject, typed: Typed) -> float | None:
    details = record.get("costDetails")
    told = next((record[name] for name in _COSTS if record.get(name) is not None), None)
    if told is None and isinstance(details, dict):
        told = details.get("total")
    return typed.cost(number_of(told))


def _describe(trace: Trace, record: JsonObject, typed: Typed) -> None:
    """Say in the header what the trace's record does."""
    trace.uid = typed.text(record.get("userId"))
    facts = {name: record[name] for name in _FACTS if record.get(name) not in (None, "", [])}
    short = {name: value for name, value in facts.items() if len(str(value)) <= 200}
    if short:
        trace.metadata = {NAME: short}


def _check_cost(source: SourceTrace, record: JsonObject, path: Path, counts: ImportCounts) -> None:
    """Say so where the calls of a trace do not cost what it states: that adds up all its observations."""
    stated = number_of(record.get("totalCost"))
    spent = sum(message.cost or 0.0 for message in source.messages)
    if not isinstance(stated, int | float) or isinstance(stated, bool):
        return
    if abs(spent - stated) > _DIFFERS * max(1.0, abs(stated)):
        told = f"{source.trace.trace_id}: the calls in it cost {spent:.6f}, the trace states {stated:.6f}"
        counts.differences.append(Problem(str(path), 0, told))
