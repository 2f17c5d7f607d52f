"""What formats of spans have in common: the spans of one trace become one `SourceTrace`.

A format's own module reads its records into `Span`; here they become goals, messages, events and a
header. This module knows no format and does no I/O, so that an exporter of a running program can
use it as well as an importer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.conversation import Told
from traceark.importers.document import DocumentTrace
from traceark.importers.span import Kind, Span
from traceark.importers.span_messages import SpanMessages
from traceark.importers.span_tree import SpanTree
from traceark.importers.typed import Typed
from traceark.models import Goal, GoalTree, Json, Trace

__all__ = ["Kind", "Span", "SpanTrace", "Told"]

_FIRST = datetime.min.replace(tzinfo=UTC)


class SpanTrace:
    """Puts the trace of some spans together.

    Every span is an event ``<name>.span`` with its `raw` record. An agent's span is a goal too, a
    call of a model the messages that are new in it, a call of a tool one message of the role ``tool``.
    Ids of messages are ``<trace>-<span>-in-<n>``, ``…-out-<n>`` and ``…-tool``. They have the extra
    fields `span_id`, `model` (of what a model said), `arguments` (of a tool), `agent` where the span
    names one, and `whole_run` where usage is told for a whole run alone.

    Parameters
    ----------
    name : str
        The importer, the first part of the types of events.
    trace : Trace
        The header, with what the format says beyond spans; `task`, `agent_type`, `model`,
        `result_summary`, `error_message`, times and status are taken from spans where they are
        not set here.
    counts : ImportCounts
    path : str
        Of the source, for problems.

    Examples
    --------
    >>> said = [Told("assistant", "Hello.")]
    >>> building = SpanTrace("example", Trace(trace_id="t"), ImportCounts())
    >>> building.add(Span("a", "agent", {"raw": 1}, agent="greeter"))
    >>> building.add(Span("b", "chat", {"raw": 2}, parent_id="a", inputs=[Told("user", "Hi!")], outputs=said))
    >>> source = building.finish()
    >>> [(each.message_id, each.goal_id, each.content) for each in source.messages]
    [('t-b-in-1', 'a', 'Hi!'), ('t-b-out-1', 'a', 'Hello.')]
    >>> source.trace.agent_type, source.trace.task, [goal.description for goal in source.goals.goals]
    ('greeter', 'Hi!', ['greeter'])
    """

    def __init__(self, name: str, trace: Trace, counts: ImportCounts, path: str = "") -> None:
        self.trace = trace
        self.typed = Typed(counts.repaired)
        self._counts = counts
        self._path = path
        self._document = DocumentTrace(name, trace, counts)
        self._spans: list[Span] = []
        self._around: dict[str, Json] = {}

    def add(self, span: Span) -> None:
        """Add a span, in the order of the source."""
        self._document.row("span", span.raw)
        self._document.event("span", span.raw, span.end or span.start)
        if self.typed.identifier(span.span_id) is None:
            digest = hashlib.sha256(json.dumps(span.raw, sort_keys=True).encode()).hexdigest()
            span = replace(span, span_id=f"unnamed-{digest[:16]}")
        self._spans.append(span)

    def unknown(self, told: Json) -> None:
        """Keep a record of a span that is not told of yet."""
        self._document.row("span", told)
        self._document.event("span", told)

    def around(self, kind: str, told: Json) -> None:
        """Keep what stands around the spans that follow, such as a resource: an event, unless it is as before."""
        if self._around.get(kind, {}) != told:
            self._around[kind] = told
            self._document.row(kind, told)
            self._document.event(kind, told)

    def finish(self) -> SourceTrace:
        """Return the trace."""
        tree = SpanTree(self._spans)
        for span_id in tree.circles:
            told = f"{self.trace.trace_id}: the parents of span {span_id} go in a circle; it stands as one without"
            self._counts.problems.append(Problem(self._path, 0, told))
        messages = SpanMessages(self._document, tree, self._counts, self._path)
        messages.build()
        self._describe(tree, messages)
        source = self._document.finish(Path(self._path))
        agents = [span for span in tree.spans if span.kind == "agent"]
        if agents:
            agents.sort(key=lambda span: (_begin(span), tree.depth(span), span.span_id))
            goals = [_goal(span, tree, messages, self.typed) for span in agents]
            source.goals = GoalTree(mission=self.trace.task or "", goals=goals)
        source.positional = False
        return source

    def _describe(self, tree: SpanTree, messages: SpanMessages) -> None:
        """Say in the header what the spans tell; what it says already stays."""
        trace, typed = self.trace, self.typed
        roots = sorted(tree.roots() or tree.spans, key=_begin)
        outermost = [span for span in tree.spans if span.kind == "agent" and tree.agent_above(span) is None]
        agent = min(outermost, key=_begin, default=None)
        told = [each for each in (agent, *roots[:1]) if each is not None]
        trace.task = trace.task or messages.task or next(map(typed.summary, (each.name for each in roots)), None)
        trace.model = trace.model or messages.model
        kinds = {span.kind for span in tree.spans}
        if trace.mode == "agent" and not kinds & {"agent", "tool"}:
            trace.mode = "call" if kinds & {"chat", "embedding"} else "spans"
        if agent is not None:
            trace.model = trace.model or typed.text(agent.model)
            trace.agent_type = trace.agent_type or typed.text(agent.agent or agent.name)
        said = messages.answers.get(agent.span_id if agent is not None and len(outermost) == 1 else None)
        said = said or messages.answers.get(None)
        trace.result_summary = trace.result_summary or said
        starts = [span.start for span in tree.spans if span.start is not None]
        ends = [span.end for span in tree.spans if span.end is not None]
        trace.created_at = trace.created_at or min((*starts, *ends), default=None)
        running = any(span.start is not None and span.end is None for span in told)
        failed = [span for span in told if span.failed]
        cancelled = any(span.cancelled for span in told)
        if failed:
            trace.error_message = trace.error_message or typed.summary(failed[0].error, 1000)
        if trace.status == "running" and tree.spans and not running:
            trace.status = "failed" if failed else "cancelled" if cancelled else "completed"
        elif failed and trace.status == "running":
            trace.status = "failed"
        if trace.status != "running":
            trace.completed_at = trace.completed_at or max((*starts, *ends), default=None)


def _begin(span: Span) -> datetime:
    return span.start or span.end or _FIRST


def _status(span: Span) -> str:
    if span.failed:
        return "failed"
    if span.cancelled:
        return "cancelled"
    return "in_progress" if span.start is not None and span.end is None else "completed"


def _goal(span: Span, tree: SpanTree, messages: SpanMessages, typed: Typed) -> Goal:
    return Goal(
        id=span.span_id,
        description=typed.summary(span.agent or span.name) or span.span_id,
        type="agent",
        parent_id=tree.agent_above(span),
        status=_status(span),
        summary=messages.answers.get(span.span_id),
        reason=typed.summary(span.error) if span.failed else None,
        created_at=span.start,
        completed_at=span.end,
    )
