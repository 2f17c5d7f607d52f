"""Which traces are sub-agents of which, told both ways, whichever of them came first.

A goal names the traces of its sub-agents, a trace its parent; a source may tell one of the two, or
one trace's source this and the other's that. When an import has taken its files, what the archive
then holds of the traces in question decides alone, so that any order, and any number of imports,
ends in the same links. It knows traces and goals, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from traceark.errors import DamagedTraceError
from traceark.importers import copies, merge
from traceark.importers.base import SourceTrace
from traceark.models import JsonObject
from traceark.protocol import TraceStore

# A limit that no archive reaches.
_ALL = 2**31


@dataclass(slots=True)
class Kin:
    """Traces of an import that are to be linked when it has taken its files.

    Attributes
    ----------
    telling : set of str
        They name a parent, or sub-agents.
    untold : set of str
        Only another trace may tell whose sub-agents they are.
    """

    telling: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)

    def see(self, source: SourceTrace) -> None:
        """Take note of a source."""
        trace = source.trace
        if source.copied is not None:
            # Its parents and goals are those that it had in its archive.
            return
        if trace.parent_trace_id is not None or children_of(source):
            self.telling.add(trace.trace_id)
        if source.parent_untold and trace.parent_trace_id is None:
            self.untold.add(trace.trace_id)

    def add(self, other: Kin) -> None:
        """Take what another process saw."""
        self.telling |= other.telling
        self.untold |= other.untold


@dataclass(frozen=True, slots=True)
class Known:
    """What the archive holds of a trace's kin.

    Attributes
    ----------
    parent : tuple of (trace id, goal id)
        As its header says; each may be None.
    names : sequence of (goal id, trace id)
        The sub-agents that its goals name, in their order.
    goals : set of str
    told : str, optional
        The parent that its own source tells.
    is_imported : bool
        Whether an import may change it: not what was captured or copied.
    """

    parent: tuple[str | None, str | None]
    names: Sequence[tuple[str, str]] = ()
    goals: frozenset[str] = frozenset()
    told: str | None = None
    is_imported: bool = True


@dataclass(slots=True)
class LinkPlan:
    """What to write.

    Attributes
    ----------
    parents : dict
        By trace the parent and the goal that its header is to say.
    names : list of (trace id, goal id, trace id)
        Goals that are to name one more sub-agent.
    circles : list of tuple of str
        Traces that are below each other by what they tell.
    """

    parents: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    names: list[tuple[str, str, str]] = field(default_factory=list)
    circles: list[tuple[str, ...]] = field(default_factory=list)


def children_of(source: SourceTrace) -> dict[str, tuple[str, str]]:
    """Return the trace and the goal that started them by the sub-agents that a source names."""
    trace_id = source.trace.trace_id
    goals = source.goals.goals if source.goals is not None else ()
    return {child: (trace_id, goal.id) for goal in goals for child in goal.sub_trace_ids if child != trace_id}


def plan_links(known: Mapping[str, Known]) -> LinkPlan:
    """Return what to write so that what traces tell of each other is told by both.

    A trace belongs to the goal that names it; of several, to that of the parent that its own source
    tells, else of the first trace by id. Its own source holds where no goal names it. A goal is not
    believed where that would put a trace below itself.

    Examples
    --------
    >>> plan_links({"a": Known((None, None), [("1", "b")]), "b": Known((None, None))}).parents
    {'b': ('a', '1')}
    """
    plan = LinkPlan()
    below: dict[str, set[str]] = {trace_id: set() for trace_id in known}
    named: dict[str, list[tuple[str, str]]] = {trace_id: [] for trace_id in known}
    for trace_id in sorted(known):
        for goal_id, child_id in known[trace_id].names:
            if child_id in known and child_id != trace_id:
                below[trace_id].add(child_id)
                named[child_id].append((trace_id, goal_id))
        for told in (known[trace_id].told, known[trace_id].parent[0]):
            if told in below and told != trace_id:
                below[told].add(trace_id)
    circle_of = _circles(below)
    plan.circles = sorted({circle for circle in circle_of.values() if len(circle) > 1})
    for trace_id in sorted(known):
        stored, own = known[trace_id].parent, known[trace_id].told
        sound = [each for each in named[trace_id] if circle_of[each[0]] != circle_of[trace_id]]
        wanted = (own, None) if stored[0] is None or stored in named[trace_id] else stored
        if sound:
            wanted = min(sound, key=lambda each: (each[0] != own, each[0]))
        if wanted != stored and known[trace_id].is_imported:
            plan.parents[trace_id] = wanted
        parent_id, goal_of = wanted
        parent = known.get(parent_id) if parent_id is not None else None
        if parent is None or parent_id is None or goal_of is None or not parent.is_imported:
            continue
        lacks = goal_of in parent.goals and (goal_of, trace_id) not in parent.names
        if lacks and circle_of[parent_id] != circle_of[trace_id]:
            plan.names.append((parent_id, goal_of, trace_id))
    return plan


def _circles(below: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Return for every trace those that are both below and above it, and itself (Tarjan's components)."""
    found: dict[str, tuple[str, ...]] = {}
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_ids: list[str] = []
    for root in below:
        if root in number:
            continue
        number[root] = lowest[root] = len(number)
        open_ids.append(root)
        path = [(root, iter(sorted(below[root])))]
        while path:
            trace_id, children = path[-1]
            child_id = next(children, None)
            if child_id is None:
                path.pop()
                if path:
                    above = path[-1][0]
                    lowest[above] = min(lowest[above], lowest[trace_id])
                if lowest[trace_id] == number[trace_id]:
                    start = open_ids.index(trace_id)
                    circle = tuple(sorted(open_ids[start:]))
                    del open_ids[start:]
                    found.update(dict.fromkeys(circle, circle))
            elif child_id not in number:
                number[child_id] = lowest[child_id] = len(number)
                open_ids.append(child_id)
                path.append((child_id, iter(sorted(below[child_id]))))
            elif child_id not in found:
                lowest[trace_id] = min(lowest[trace_id], number[child_id])
    return found


async def link(store: TraceStore, kin: Kin) -> list[tuple[str, ...]]:
    """Link the traces of an import with each other and with those that were there before; return circles."""
    known = await _known(store, {*kin.telling, *await _naming(store, kin.untold)})
    plan = plan_links(known)
    for parent_id, goal_id, child_id in plan.names:
        tree = await store.get_goal_tree(parent_id)
        goal = tree.goal(goal_id) if tree is not None else None
        if goal is not None:
            await store.update_goal(parent_id, goal_id, sub_trace_ids=[*goal.sub_trace_ids, child_id])
    for trace_id, (parent, goal_of) in plan.parents.items():
        await store.update_trace(trace_id, parent_trace_id=parent, parent_goal_id=goal_of)
    return plan.circles


async def _known(store: TraceStore, trace_ids: Iterable[str]) -> dict[str, Known]:
    """Return what the archive holds of traces, of those that they name, and so on."""
    known: dict[str, Known] = {}
    waiting, seen = sorted(trace_ids), set(trace_ids)
    while waiting:
        trace_id = waiting.pop()
        try:
            trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
        except DamagedTraceError:
            continue  # it cannot be linked; `verify`, and whoever reads it, says what is wrong
        if trace is None:
            continue
        goals = tree.goals if tree is not None else []
        state, others = merge.State.of(trace), {merge.CAPTURE, copies.STATE} & trace.metadata.keys()
        names = [(goal.id, child_id) for goal in goals for child_id in goal.sub_trace_ids]
        known[trace_id] = Known(
            (trace.parent_trace_id, trace.parent_goal_id),
            names,
            frozenset(goal.id for goal in goals),
            state.parent if state is not None else None,
            state is not None and not others,
        )
        kin = {trace.parent_trace_id, known[trace_id].told, *(child_id for _, child_id in names)} - {None}
        waiting += sorted(each for each in kin - seen if each is not None)
        seen |= {each for each in kin if each is not None}
    return known


@runtime_checkable
class _Asked(Protocol):
    """A store that answers SQL."""

    async def sql(self, query: str, /, **parameters: Any) -> _Rows: ...


class _Rows(Protocol):
    def rows(self) -> list[JsonObject]: ...


async def _naming(store: TraceStore, trace_ids: set[str]) -> set[str]:
    """Return the traces of an archive whose goals name some traces, which do not tell of it themselves."""
    if not trace_ids:
        return set()
    if isinstance(store, _Asked):
        answer = await store.sql(
            'SELECT DISTINCT "trace_id", unnest("sub_trace_ids") AS child FROM goals WHERE len("sub_trace_ids") > 0'
        )
        return {str(row["trace_id"]) for row in answer.rows() if row["child"] in trace_ids}
    found = set()
    for trace in await store.list_traces(limit=_ALL):
        tree = await store.get_goal_tree(trace.trace_id)
        if tree is not None and any(trace_ids.intersection(goal.sub_trace_ids) for goal in tree.goals):
            found.add(trace.trace_id)
    return found
