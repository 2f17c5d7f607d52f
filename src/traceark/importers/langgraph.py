"""Which runs in LangChain's traces are graphs: the agents of LangGraph, which no field names as such.

A graph's own steps are tagged with their number, or bear the name of the node that they are. It knows
runs by id, parent, name, tags and metadata, however a platform keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from traceark.models import Json

_STEP = "graph:step:"


@dataclass(frozen=True, slots=True)
class GraphRun:
    """What tells a step of a graph."""

    run_id: str
    parent_id: str | None
    name: str
    tags: Json = None
    metadata: Mapping[str, Json] = field(default_factory=dict)


def graphs(runs: Iterable[GraphRun]) -> set[str]:
    """Return the ids of the runs that are graphs.

    Examples
    --------
    >>> sorted(graphs([GraphRun("g", None, "agent"), GraphRun("n", "g", "model", ["graph:step:1"])]))
    ['g']
    """
    told = list(runs)
    tagged = {run.parent_id for run in told if _is_tagged(run.tags)}
    # A node that is a graph itself may bear its node's name; where steps are tagged, tags say it better.
    found = tagged or {run.parent_id for run in told if run.name and run.metadata.get("langgraph_node") == run.name}
    return {each for each in found if each is not None}


def _is_tagged(tags: Json) -> bool:
    return isinstance(tags, list) and any(isinstance(tag, str) and tag.startswith(_STEP) for tag in tags)
