"""Which events of a folder are of one run, where several conversations lie in it side by side.

Events name no conversation. What tells them apart: the ids by which events and states point at each
other, and that the runs follow each other in time, each counting from 0, with far more time between
than inside them. Where that does not hold, nothing is put together. Pure: no files are read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from traceark.importers.document import objects_of
from traceark.importers.openhands_files import EventFile
from traceark.importers.openhands_usage import statistics_of
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject

# So many times the longest pause inside a run lie between it and the next one.
_MARGIN = 10
_POINTERS = ("action_id", "parent_id")


@dataclass(frozen=True, slots=True)
class Run:
    """The events of one run, and the state of its conversation."""

    events: Sequence[EventFile]
    state: JsonObject | None = None


def tell_apart(events: Sequence[EventFile], states: Sequence[JsonObject]) -> list[Run] | None:
    """Return the runs in a folder; None where nothing tells them apart.

    Parameters
    ----------
    events : sequence of EventFile
        In the order of their numbers.
    states : sequence of dict
        Those in the same folder; one that no event belongs to is a run without events.
    """
    if not events:
        return [Run([], state) for state in states]
    numbers = [each.number for each in events]
    runs = [list(events)] if len(set(numbers)) == len(numbers) else _in_turn(events)
    owners = _owners(runs, states) if runs is not None else None
    if runs is None or owners is None or not _keep_together(runs):
        return None
    found = [Run(run, states[owners.index(place)] if place in owners else None) for place, run in enumerate(runs)]
    alone = [Run([], state) for state, place in zip(states, owners, strict=True) if place is None]
    return [*found, *alone]


def _in_turn(events: Sequence[EventFile]) -> list[list[EventFile]] | None:
    """Return runs that follow each other in time; None where the events are not that. What is no event is in none."""
    found = [(each, each.event.get("timestamp")) for each in events if each.event is not None]
    timed = [(at, each) for each, told in found if (at := Typed(Counter()).time(told)) is not None]
    if len(timed) < len(found):
        return None
    timed.sort(key=lambda pair: (pair[0], pair[1].number))
    runs: list[list[tuple[datetime, EventFile]]] = []
    for at, each in timed:
        if each.number == 0:
            runs.append([])
        if not runs or each.number != len(runs[-1]):
            return None
        runs[-1].append((at, each))
    for earlier, later in pairwise(runs):
        between = later[0][0] - earlier[-1][0]
        if len(earlier) < 2 or len(later) < 2 or between < _MARGIN * max(*_pauses(earlier), *_pauses(later)):
            return None
    return [[each for _, each in run] for run in runs]


def _pauses(run: Sequence[tuple[datetime, EventFile]]) -> Iterator[timedelta]:
    return (after - before for (before, _), (after, _) in pairwise(run))


def _keep_together(runs: Sequence[Sequence[EventFile]]) -> bool:
    """Say whether every event is in the run of the events that it points at."""
    places = {str(event["id"]): place for place, run in enumerate(runs) for event in _events(run) if "id" in event}
    return all(
        places.get(str(event.get(name)), place) == place
        for place, run in enumerate(runs)
        for event in _events(run)
        for name in _POINTERS
        if name in event
    )


def _owners(runs: Sequence[Sequence[EventFile]], states: Sequence[JsonObject]) -> list[int | None] | None:
    """Return for each state the run that it is of; None where two states say that of one run, or one of two."""
    places: dict[str, set[int]] = {}
    for place, run in enumerate(runs):
        for event in _events(run):
            for name in ("id", "llm_response_id"):
                if isinstance(told := event.get(name), str):
                    places.setdefault(told, set()).add(place)
    owners: list[int | None] = []
    for state in states:
        # An id that stands in several runs, as those of a test's model do, says nothing.
        named = {place for told in _pointed_at(state) if len(found := places.get(told, set())) == 1 for place in found}
        if len(named) > 1:
            return None
        owners.append(named.pop() if named else None)
    if len(runs) == len(states) == 1 and not any(_pointed_at(states[0])):
        return [0]
    return owners if max(Counter(place for place in owners if place is not None).values(), default=1) == 1 else None


def _pointed_at(state: Mapping[str, Json]) -> Iterator[str]:
    """Yield the ids of events and responses that a state names."""
    last = state.get("last_user_message_id")
    if isinstance(last, str):
        yield last
    for metrics in statistics_of(state).values():
        for name in ("token_usages", "response_latencies"):
            for row in objects_of(metrics.get(name)) if isinstance(metrics, dict) else ():
                if isinstance(told := row.get("response_id"), str) and told:
                    yield told


def _events(run: Sequence[EventFile]) -> Iterator[JsonObject]:
    return (each.event for each in run if each.event is not None)
