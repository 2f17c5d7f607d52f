"""The messages of a trace of spans: calls of models, each message once and in order, and calls of tools.

It decides who tells a message where several spans do, and where usage counts; how spans belong
together is the tree's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from traceark.importers.base import ImportCounts, Problem
from traceark.importers.conversation import Conversations, Told, canonical
from traceark.importers.document import DocumentTrace
from traceark.importers.span import Span
from traceark.importers.span_tree import Call, SpanTree
from traceark.importers.usage import spend_in_all
from traceark.models import Json, Message, Usage

_FIRST = datetime.min.replace(tzinfo=UTC)
# When something becomes messages: at one time what ends comes before what begins, then the order of the
# source; a span without length begins and ends at once.
_Order = tuple[datetime, bool, int, bool]
_Moment = tuple[_Order, Callable[[], object]]
# Costs are sums of floats.
_COST_DIFFERS = 1e-9


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A call that a model has made and no tool has answered yet."""

    agent: str | None
    call_id: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _WholeRun:
    """What a span tells of all that it contains, where nothing in it tells what it spent itself."""

    usage: Usage | None
    cost: float | None


class SpanMessages:
    """Makes the messages.

    Parameters
    ----------
    document : DocumentTrace
        Where messages are added to.
    tree : SpanTree
    counts : ImportCounts
    path : str
        Of the source, for differences.

    Attributes
    ----------
    task, model : str, optional
        What was asked first, and the model that answered last.
    answers : dict
        The last text that a model said, by the span of the agent; under None in all.
    """

    def __init__(self, document: DocumentTrace, tree: SpanTree, counts: ImportCounts, path: str) -> None:
        self.task: str | None = None
        self.model: str | None = None
        self.answers: dict[str | None, str] = {}
        self._document = document
        self._tree = tree
        self._counts = counts
        self._path = path
        self._said = Conversations()
        self._waiting: dict[str, _Waiting] = {}
        self._tools = {span.call_id: span for span in tree.tools() if span.call_id}
        self._concluded: dict[str, Message] = {}
        # Messages of tools: by the call that they answer, and by their results.
        self._answers: dict[str, Message] = {}
        self._same_results: dict[tuple[str | None, str], list[Message]] = {}
        # Results as models were given them, by the call.
        self._results: dict[str, Told] = {}
        self._order = self._orders()
        self._places = tree.places()

    def build(self) -> None:
        """Add all messages."""
        calls = self._tree.calls()
        whole_runs = self._whole_runs(calls)
        moments: list[_Moment] = []
        for call in calls:
            moments += self._asked(call.span, call.above)
            moments += self._said_in_turn(call.span, partial(self._say, call.span, call.above))
        for span in self._tree.tools():
            moments.append((self._ends(span), partial(self._use, span)))
        for span, inputs, outputs in self._others(calls):
            agent = self._agent_of(span)
            if inputs:
                moments += self._asked(span, agent)
            if outputs:
                moments += self._said_in_turn(span, partial(self._conclude, span, agent))
        for span in self._tree.spans:
            if (whole_run := whole_runs.get(span.span_id)) is not None:
                moments.append((self._ends(span), partial(self._spend_in_all, span, whole_run)))
        for _, add in sorted(moments, key=lambda moment: moment[0]):
            add()

    def _orders(self) -> dict[str, tuple[datetime, datetime, int]]:
        """Return begin, end and place of each span; where no time is told, that of the span before it.

        What happened at one time is placed by the tree, outer spans first; by the order of the source only where times
        are missing, since the files of a trace may come in any order.
        """
        times = {}
        last = _FIRST
        for span in self._tree.spans:
            begin = span.start or span.end or last
            last = begin
            times[span.span_id] = (begin, max(begin, span.end or begin))
        spans = list(self._tree.spans)
        if all(span.start or span.end for span in spans):
            spans.sort(key=lambda span: (self._tree.depth(span), *times[span.span_id], span.span_id))
        return {span.span_id: (*times[span.span_id], place) for place, span in enumerate(spans)}

    def _begins(self, span: Span) -> _Order:
        begin, _, place = self._order[span.span_id]
        return begin, True, place, False

    def _ends(self, span: Span) -> _Order:
        if span.placed is not None and span.placed.place is not None:
            return self._stands(span.placed.place)
        begin, end, place = self._order[span.span_id]
        return end, begin == end, place, True

    def _stands(self, place: int) -> _Order:
        """Return when a message is told whose place is known."""
        return self._places[place], False, place, True

    def _asked(self, span: Span, agent: str | None) -> list[_Moment]:
        """Return when what a span was given becomes messages: as it begins, or each where it is known to stand."""
        if span.placed is None:
            return [(self._begins(span), partial(self._ask, span, agent))]
        return [
            (self._stands(place), partial(self._add, span, f"in-{number}", told, agent, span.start or span.end))
            for number, (place, told) in enumerate(zip(span.placed.inputs, span.inputs, strict=True), start=1)
            if told.role != "tool"
        ]

    def _said_in_turn(self, span: Span, say: Callable[[int, datetime | None], None]) -> list[_Moment]:
        """Return when each output of a span was said: before the tools that it called began, else at the end.

        The span of an agent ends long after most of its answers, and that of a call may contain its tools.
        """
        begin, end, place = self._order[span.span_id]
        at, told = end, span.end or span.start
        if span.placed is not None:
            return [(self._ends(span), partial(say, number + 1, told)) for number in range(max(len(span.outputs), 1))]
        found: list[_Moment] = []
        for number in range(max(len(span.outputs), 1), 0, -1):
            calls = span.outputs[number - 1].calls() if span.outputs else []
            tools = [
                self._tools[call_id]
                for call in calls
                if isinstance(call_id := call.get("id"), str) and call_id in self._tools
            ]
            for tool in tools:
                if begin <= self._order[tool.span_id][0] < at:
                    at, told = self._order[tool.span_id][0], tool.start
            found.insert(0, ((at, at == begin, place, True), partial(say, number, told)))
        return found

    def _others(self, calls: Sequence[Call]) -> list[tuple[Span, bool, bool]]:
        """Return the spans that are no calls, and whether their own inputs and outputs are to be taken.

        Those of agents are where no call in their conversation tells any, those of roots where nothing does.
        """
        called = {call.span.span_id for call in calls}
        others = [span for span in self._tree.spans if span.span_id not in called and span.kind != "tool"]
        # What merely lacks its parent so far is no root.
        roots = {span.span_id for span in self._tree.roots() if span.parent_id is None}
        takers: dict[str, set[str]] = {}
        for what in ("inputs", "outputs"):
            told = [call.span for call in calls if getattr(call.span, what)]
            inside = {each.span_id for span in told for each in self._conversation_of(span)}
            own = [each for each in others if each.kind in ("agent", "chat") and getattr(each, what)]
            takers[what] = {span.span_id for span in own if span.span_id not in inside}
            if not told and not own:
                takers[what] = {span.span_id for span in others if span.span_id in roots and getattr(span, what)}
        return [(span, span.span_id in takers["inputs"], span.span_id in takers["outputs"]) for span in others]

    def _agent_of(self, span: Span) -> str | None:
        """Return the agent whose conversation a span's own words are part of."""
        return span.span_id if span.kind == "agent" else self._tree.agent_above(span)

    def _conversation_of(self, span: Span) -> Iterator[Span]:
        """Yield the spans above one up to the agent whose conversation it is part of."""
        for each in self._tree.above(span):
            yield each
            if each.kind == "agent":
                return

    def _whole_runs(self, calls: Sequence[Call]) -> dict[str, _WholeRun]:
        """Return what counts beyond calls: usage and costs of spans that contain none which tells its own."""
        usages: dict[str, list[tuple[str | None, Usage]]] = {}
        costs: dict[str, list[float]] = {}
        found: dict[str, _WholeRun] = {}
        for call in calls:
            self._spend(call.span, call.above, call.span.usage, call.span.cost, usages, costs)
        called = {call.span.span_id for call in calls}
        telling = [span for span in self._tree.spans if span.usage is not None or span.cost is not None]
        others = [span for span in telling if span.span_id not in called]
        for span in sorted(others, key=self._tree.depth, reverse=True):
            usage = span.usage if span.usage is not None and span.usage.total() else None
            cost = span.cost or None
            if usage is not None and (below := usages.get(span.span_id)):
                self._compare_usage(span, usage, below)
                usage = None
            if cost is not None and (spent := costs.get(span.span_id)):
                self._compare_cost(span, cost, sum(spent))
                cost = None
            if usage is not None or cost is not None:
                found[span.span_id] = _WholeRun(usage, cost)
                self._spend(span, self._tree.agent_above(span), usage, cost, usages, costs)
        return found

    def _spend(
        self,
        span: Span,
        agent: str | None,
        usage: Usage | None,
        cost: float | None,
        usages: dict[str, list[tuple[str | None, Usage]]],
        costs: dict[str, list[float]],
    ) -> None:
        for above in self._tree.above(span):
            if usage is not None and usage.total():
                usages.setdefault(above.span_id, []).append((agent, usage))
            if cost:
                costs.setdefault(above.span_id, []).append(cost)

    def _compare_usage(self, span: Span, usage: Usage, below: list[tuple[str | None, Usage]]) -> None:
        """Say so where a span states neither what all calls in it used nor what its agent's own did."""
        own = sum(each.total() for agent, each in below if agent == span.span_id)
        total = sum(each.total() for _, each in below)
        if usage.total() not in (own, total):
            self._differs(span, f"the calls in it have {total:,} tokens, it states {usage.total():,}")

    def _compare_cost(self, span: Span, cost: float, spent: float) -> None:
        if abs(cost - spent) > _COST_DIFFERS * max(1.0, cost):
            self._differs(span, f"the calls in it cost {spent:.6f}, it states {cost:.6f}")

    def _differs(self, span: Span, reason: str) -> None:
        told = f"{self._document.trace.trace_id}: span {span.span_id} ({span.name}): {reason}"
        self._counts.differences.append(Problem(self._path, 0, told))

    def _ask(self, span: Span, agent: str | None) -> None:
        """Add what is new of what a span was given."""
        for number, told in self._said.new(agent or "", span.inputs):
            if told.role == "tool" and self._is_told_by_tool(agent, told):
                continue
            self._add(span, f"in-{number}", told, agent, span.start or span.end)

    def _say(self, span: Span, agent: str | None, number: int, at: datetime | None) -> None:
        """Add one of the messages that a call's model said; a call that tells nothing of it is a message too."""
        told = span.outputs[number - 1] if span.outputs else Told("assistant", None)
        if span.outputs:
            self._said.take(agent or "", told)
        message = self._add(span, f"out-{number}", told, agent, at, _beside(span))
        if number < len(span.outputs):
            return
        self._settle(message, span)
        _spend(message, span.usage, span.cost)
        if span.kind == "embedding":
            message.description = self._document.typed.text(span.name)
        self.model = self._document.typed.text(span.model) or self.model

    def _conclude(self, span: Span, agent: str | None, number: int, at: datetime | None) -> None:
        """Add one of the messages that a span which is no call tells at its end, unless it is known."""
        for _, told in self._said.new(agent or "", span.outputs[number - 1 : number]):
            self._concluded[span.span_id] = self._add(span, f"out-{number}", told, agent, at, _beside(span))

    def _spend_in_all(self, span: Span, whole_run: _WholeRun) -> None:
        message = self._concluded.get(span.span_id)
        if message is None:
            at, told = span.end or span.start, Told("assistant", None)
            message = self._add(span, "whole-run", told, self._agent_of(span), at, _beside(span))
        spend_in_all(message, whole_run.usage, whole_run.cost)

    def _use(self, span: Span) -> None:
        """Add a call of a tool."""
        agent = self._tree.agent_above(span)
        call_id = span.call_id or (self._made(agent, span) if span.placed is None else None)
        self._waiting.pop(call_id or "", None)
        told = self._results.get(call_id or "") if span.result is None else None
        result = told.content if told is not None else span.result
        arguments = {"arguments": span.arguments} if span.arguments is not None else {}
        answer = Told("tool", result, call_id, span.tool)
        message = self._add(span, "tool", answer, agent, span.end or span.start, arguments)
        self._settle(message, span)
        self._concluded[span.span_id] = message
        if call_id is not None:
            self._answers[call_id] = message
        self._same_results.setdefault((agent, canonical(result)), []).append(message)

    def _made(self, agent: str | None, span: Span) -> str | None:
        """Return the id of the call that a tool's span without one answers, of those not answered yet."""
        named = [each for each in self._waiting.values() if (each.agent, each.tool) == (agent, span.tool)]
        exact = [each for each in named if each.arguments == canonical(span.arguments)]
        if exact:
            return exact[0].call_id
        return named[0].call_id if len(named) == 1 and span.arguments is None else None

    def _is_told_by_tool(self, agent: str | None, told: Told) -> bool:
        """Say whether a result that a model was given is that of a tool's span, and complete its message."""
        if told.call_id is not None:
            self._results.setdefault(told.call_id, told)
            if (answer := self._answers.get(told.call_id)) is not None:
                if answer.content is None:
                    answer.content = told.content
                return True
        alike = self._same_results.get((agent, canonical(told.content)), [])
        for message in alike:
            if message.tool_call_id is None or told.call_id is None:
                message.tool_call_id = message.tool_call_id or told.call_id
                alike.remove(message)
                return True
        return told.call_id in self._tools

    def _add(
        self,
        span: Span,
        place: str,
        told: Told,
        agent: str | None,
        at: datetime | None,
        fields: Mapping[str, Json] | None = None,
    ) -> Message:
        typed = self._document.typed
        message = self._document.message(
            f"{span.span_id}-{place}",
            typed.text(told.role) or "unknown",
            told.content,
            {},
            goal_id=agent,
            created_at=at,
            span_id=span.span_id,
            **(fields or {}),
        )
        calls = told.calls()
        self._document.calls(message, calls)
        for call in calls:
            call_id, tool = typed.identifier(call.get("id")), typed.text(call.get("name"))
            if call_id is not None and tool is not None:
                self._waiting[call_id] = _Waiting(agent, call_id, tool, canonical(call.get("arguments")))
        if told.role == "tool":
            self._document.answers(message, told.call_id, told.tool)
        elif told.role == "user":
            self.task = self.task or typed.summary(told.text())
        elif told.role == "assistant" and (said := typed.summary(told.text(), 500)):
            self.answers[agent] = self.answers[None] = said
        return message

    def _settle(self, message: Message, span: Span) -> None:
        """Say how a span ended, and how long it took."""
        if span.failed:
            message.status, message.error = "failed", self._document.typed.summary(span.error, 1000)
        elif span.cancelled:
            message.status = "cancelled"
        elif span.placed is not None:
            message.status = span.placed.status
        if span.start is not None and span.end is not None:
            milliseconds = round((span.end - span.start).total_seconds() * 1000)
            message.duration_ms = self._document.typed.duration_ms(milliseconds)


def _spend(message: Message, usage: Usage | None, cost: float | None) -> None:
    message.usage, message.cost = usage, cost
    message.tokens = usage.total() if usage is not None else None


def _beside(span: Span) -> dict[str, Json]:
    told: dict[str, Json] = {"model": span.model, "agent": span.agent}
    return {name: value for name, value in told.items() if value}
