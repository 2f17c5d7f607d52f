"""A trace with the traces of its sub-agents, and what they took, each counted once. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from graphlib import CycleError, TopologicalSorter

from traceark import notebook
from traceark.models import Trace, utc_now

_TASK_CHARS = 60


@dataclass(frozen=True, slots=True)
class Totals:
    """What some traces took: how many there are, their messages, tokens, cost and milliseconds."""

    traces: int = 0
    messages: int = 0
    tokens: int = 0
    cost: float = 0.0
    duration_ms: int = 0

    def __str__(self) -> str:
        told = [_count(self.messages, "message"), _count(self.tokens, "token")]
        if self.cost:
            told.append(f"cost {self.cost:,.4f}".rstrip("0").rstrip("."))
        return ", ".join(told)


@dataclass(eq=False, slots=True)
class TraceTree:
    """A trace with the traces of its sub-agents.

    A sub-agent's trace names its parent, or a goal of the parent names it, or both; however it is
    reached, it stands in the tree once. Iterating gives the node and all below it, parents first.

    Attributes
    ----------
    trace : Trace
        The trace of this node.
    children : list of TraceTree
        Sub-agents, the oldest first.
    goal_ids : tuple of str
        The parent's goals that this trace worked on.
    own, total : Totals
        What the trace itself took; the same with all sub-agents.
    absent : tuple of str
        Traces that its goals name and that the archive does not hold.
    cycles : list of tuple of str
        On the root: traces that are each other's ancestors, each cycle as a path that ends where it begins.

    Examples
    --------
    >>> run = Trace(trace_id="run-7", total_messages=4, total_tokens=100)
    >>> helper = Trace(trace_id="helper", parent_trace_id="run-7", total_messages=1, total_tokens=20)
    >>> print(build("run-7", [run, helper], {}))
    run-7  running  4 messages, 100 tokens; with sub-agents: 5 messages, 120 tokens
    └─ helper  running  1 message, 20 tokens
    """

    trace: Trace
    goal_ids: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    children: list[TraceTree] = field(default_factory=list)
    cycles: list[tuple[str, ...]] = field(default_factory=list)
    own: Totals = Totals()
    total: Totals = Totals()

    def __iter__(self) -> Iterator[TraceTree]:
        return (node for _, node in self.walk())

    def walk(self) -> Iterator[tuple[int, TraceTree]]:
        """Yield ``(depth, node)``, this one first, every parent before its children."""
        pending = [(0, self)]
        while pending:
            depth, node = pending.pop()
            yield depth, node
            pending += [(depth + 1, child) for child in reversed(node.children)]

    def __repr__(self) -> str:
        return f"TraceTree({self.trace.trace_id!r}, {_count(self.total.traces - 1, 'sub-agent')})"

    def __str__(self) -> str:
        lines = [f"{guide}{_label(node)}" for guide, node in self.guided()]
        return "\n".join([*lines, *self._notes()])

    def _repr_html_(self) -> str:
        rows = []
        for depth, node in self.walk():
            name = f"{'&nbsp;' * 4 * depth}{html.escape(node.trace.trace_id)}"
            total = node.total if node.children else Totals()
            rows.append(
                [
                    notebook.Markup(name),
                    node.trace.status,
                    node.trace.agent_type,
                    *(node.own.messages, node.own.tokens, node.own.cost),
                    *((total.messages, total.tokens, total.cost) if total.traces else (None, None, None)),
                    node.trace.task,
                ]
            )
        headings = ["trace_id", "status", "agent_type", "messages", "tokens", "cost"]
        headings += [f"{name} with sub-agents" for name in headings[3:]]
        return notebook.table([*headings, "task"], rows, "; ".join(self._notes()))

    def guided(self) -> Iterator[tuple[str, TraceTree]]:
        """Yield every node with the lines that lead to it, as in a drawn tree."""
        pending = [("", "", self)]
        while pending:
            guide, below, node = pending.pop()
            yield guide, node
            last = len(node.children) - 1
            pending += [
                (f"{below}└─ ", f"{below}   ", child) if index == last else (f"{below}├─ ", f"{below}│  ", child)
                for index, child in reversed(list(enumerate(node.children)))
            ]

    def _notes(self) -> list[str]:
        notes = [f"not in this archive: {', '.join(node.absent)}" for node in self if node.absent]
        return notes + [f"a cycle, counted once: {' → '.join(cycle)}" for cycle in self.cycles]


def build(root_id: str, traces: Iterable[Trace], named: Mapping[str, Sequence[tuple[str, str]]]) -> TraceTree:
    """Return the tree of a trace.

    Parameters
    ----------
    root_id : str
        The trace at the top; whose sub-agent it is does not matter.
    traces : iterable of Trace
        At least the root and all that are reached from it.
    named : mapping
        By trace id the pairs of a goal and a trace that it names in ``sub_trace_ids``.
    """
    by_id = {trace.trace_id: trace for trace in traces}
    links: dict[str, dict[str, list[str]]] = {trace_id: {} for trace_id in by_id}
    absent: dict[str, list[str]] = {}
    for trace in sorted(by_id.values(), key=lambda trace: (trace.created_at or utc_now(), trace.trace_id)):
        if trace.parent_trace_id in by_id:
            goal_ids = [trace.parent_goal_id] if trace.parent_goal_id is not None else []
            links[trace.parent_trace_id][trace.trace_id] = goal_ids
    for trace_id, pairs in named.items():
        for goal_id, child_id in pairs:
            if child_id not in by_id:
                absent.setdefault(trace_id, []).append(child_id)
            elif trace_id in links:
                goal_ids = links[trace_id].setdefault(child_id, [])
                goal_ids += [goal_id] if goal_id not in goal_ids else []

    nodes = {root_id: TraceTree(by_id[root_id], absent=tuple(dict.fromkeys(absent.get(root_id, ()))))}
    order = [nodes[root_id]]
    for node in order:
        for child_id, goal_ids in links[node.trace.trace_id].items():
            if child_id not in nodes:
                missing = tuple(dict.fromkeys(absent.get(child_id, ())))
                child = TraceTree(by_id[child_id], tuple(goal_ids), missing)
                nodes[child_id] = child
                node.children.append(child)
                order.append(child)
    for node in order:
        node.children.sort(key=lambda child: (child.trace.created_at or utc_now(), child.trace.trace_id))
    _count_up(order)
    order[0].cycles = _cycles({trace_id: set(links[trace_id]) for trace_id in nodes})
    return order[0]


def _count_up(order: Sequence[TraceTree]) -> None:
    """Set what each node took, and what it took with all below; `order` has parents first."""
    costs: dict[int, Decimal] = {}
    for node in reversed(order):
        trace = node.trace
        node.own = Totals(1, trace.total_messages, trace.total_tokens, trace.total_cost, trace.total_duration_ms)
        below = [child.total for child in node.children]
        costs[id(node)] = Decimal(repr(trace.total_cost)) + sum(costs[id(child)] for child in node.children)
        node.total = Totals(
            1 + sum(each.traces for each in below),
            node.own.messages + sum(each.messages for each in below),
            node.own.tokens + sum(each.tokens for each in below),
            float(costs[id(node)]),
            node.own.duration_ms + sum(each.duration_ms for each in below),
        )


def _cycles(links: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Return cycles, one at a time, each broken where it was found to find the next."""
    found: list[tuple[str, ...]] = []
    while True:
        try:
            TopologicalSorter(links).prepare()
        except CycleError as error:
            # Each is a predecessor of the next, which is what a child is here: turned round it runs downwards.
            cycle: list[str] = error.args[1][::-1]
            found.append(tuple(cycle))
            links[cycle[0]].discard(cycle[1])
        else:
            return found


def _label(node: TraceTree) -> str:
    trace = node.trace
    told = [trace.trace_id, trace.status, *filter(None, (trace.agent_type,)), str(node.own)]
    text = "  ".join(told)
    if node.children:
        text += f"; with sub-agents: {node.total}"
    task = " ".join((trace.task or "")[: _TASK_CHARS * 4].split())
    if len(task) > _TASK_CHARS:
        task = f"{task[: _TASK_CHARS - 1]}…"
    return f"{text}  {task}".rstrip()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
