"""How the spans of one trace belong together: what is above a span, which are the same call, what was spent.

Spans come in any order; parents may be missing, or go in a circle. Pure: it makes no messages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from traceark.importers.span import Kind, Span

_FIRST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a model: what one span, or spans around the same call, tell of it.

    `span` has what the innermost of them tells, filled up with what those around it do; `above` is
    the nearest agent's span.
    """

    span: Span
    above: str | None


class SpanTree:
    """The spans of one trace by their parents.

    Attributes
    ----------
    spans : list of Span
        In their order, one of each id: of several the one that has ended, or says more, or is the last.
    circles : list of str
        Spans whose parent was left out of account, since it is below them.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        last: dict[str, Span] = {}
        for span in spans:
            known = last.get(span.span_id)
            if known is None or _says(span) >= _says(known):
                last[span.span_id] = span
        self.spans = [span for span in spans if last[span.span_id] is span]
        self._by_id = last
        self._parents = {
            span.span_id: span.parent_id for span in self.spans if span.parent_id is not None and span.parent_id in last
        }
        self.circles = self._cut_circles()
        self._agents: dict[str, str | None] = {}
        for span in self.spans:
            self._find_agent(span.span_id)

    def above(self, span: Span) -> Iterator[Span]:
        """Yield the spans above one, nearest first."""
        step = self._parents.get(span.span_id)
        while step is not None:
            yield self._by_id[step]
            step = self._parents.get(step)

    def roots(self) -> list[Span]:
        """Return the spans that have no parent here."""
        return [span for span in self.spans if span.span_id not in self._parents]

    def depth(self, span: Span) -> int:
        """Return how many spans are above one."""
        return sum(1 for _ in self.above(span))

    def agent_above(self, span: Span) -> str | None:
        """Return the id of the nearest agent's span above one."""
        return self._agents[span.span_id]

    def calls(self) -> list[Call]:
        """Return the calls of models.

        One is often told twice: by the framework, and by the client library that it uses. Only spans
        of agents and tools between two calls make them two.
        """
        around = {span.span_id: each for span in self.spans if (each := self._same_call_around(span, "chat"))}
        inside = Counter(each.span_id for each in around.values())
        found = []
        for span in self.spans:
            if span.kind in ("chat", "embedding") and span.span_id not in inside:
                told, outer = span, around.get(span.span_id)
                while outer is not None and inside[outer.span_id] == 1:
                    told, outer = _filled(told, outer), around.get(outer.span_id)
                found.append(Call(told, self._agents[span.span_id]))
        return found

    def places(self) -> dict[int, datetime]:
        """Return the places in the run that spans tell, each with a time that is no earlier than those before it."""
        told: dict[int, datetime] = {}
        for span in self.spans:
            if span.placed is not None:
                begin, end = span.start or span.end or _FIRST, span.end or span.start or _FIRST
                told.update(dict.fromkeys(span.placed.inputs, begin))
                if span.placed.place is not None:
                    told[span.placed.place] = end
        found, latest = {}, _FIRST
        for place in sorted(told):
            found[place] = latest = max(latest, told[place])
        return found

    def tools(self) -> list[Span]:
        """Return the calls of tools; one may be told twice, as one of a model."""
        around = {
            span.span_id: each
            for span in self.spans
            if (each := self._same_call_around(span, "tool")) and _same_tool_call(span, each)
        }
        inside = {each.span_id for each in around.values()}
        found = []
        for span in self.spans:
            if span.kind == "tool" and span.span_id not in inside:
                told, outer = span, around.get(span.span_id)
                while outer is not None:
                    told, outer = _filled(told, outer), around.get(outer.span_id)
                found.append(told)
        return found

    def _same_call_around(self, span: Span, kind: Kind) -> Span | None:
        if span.kind != kind or span.placed is not None:
            return None
        for each in self.above(span):
            if each.kind == kind:
                return each
            if each.kind != "other":
                return None
        return None

    def _cut_circles(self) -> list[str]:
        sound: set[str] = set()
        cut = []
        for span in self.spans:
            seen: dict[str, None] = {}
            step: str | None = span.span_id
            while step is not None and step not in sound:
                if step in seen:
                    # The first of the circle in the order of the source, wherever the search began.
                    circle = [*seen][[*seen].index(step) :]
                    places = {each.span_id: place for place, each in enumerate(self.spans) if each.span_id in circle}
                    first = min(circle, key=places.__getitem__)
                    del self._parents[first]
                    cut.append(first)
                    break
                seen[step] = None
                step = self._parents.get(step)
            sound.update(seen)
        return cut

    def _find_agent(self, span_id: str) -> None:
        walked = []
        step: str | None = span_id
        while step is not None and step not in self._agents:
            walked.append(step)
            step = self._parents.get(step)
        for each in reversed(walked):
            parent = self._parents.get(each)
            if parent is None:
                self._agents[each] = None
            else:
                self._agents[each] = parent if self._by_id[parent].kind == "agent" else self._agents[parent]


def _says(span: Span) -> tuple[bool, int, int]:
    """Return how much a record says of a span; of one that is going on, the longer the later."""
    has_ended = span.end is not None
    return has_ended, len(span.told()), 0 if has_ended else len(json.dumps(span.raw))


def _same_tool_call(span: Span, around: Span) -> bool:
    if span.call_id is not None and around.call_id is not None:
        return span.call_id == around.call_id
    return span.tool is not None and span.tool == around.tool


def _filled(span: Span, around: Span) -> Span:
    """Return a call's span with what the one around it tells beyond it."""
    return replace(
        span,
        failed=span.failed or (around.failed and not span.outputs and span.result is None),
        cancelled=span.cancelled or (around.cancelled and not span.outputs and span.result is None),
        error=span.error or around.error,
        agent=span.agent or around.agent,
        model=span.model or around.model,
        tool=span.tool or around.tool,
        call_id=span.call_id or around.call_id,
        arguments=span.arguments if span.arguments is not None else around.arguments,
        result=span.result if span.result is not None else around.result,
        inputs=span.inputs or around.inputs,
        outputs=span.outputs or around.outputs,
        usage=span.usage or around.usage,
        cost=span.cost if span.cost is not None else around.cost,
    )
