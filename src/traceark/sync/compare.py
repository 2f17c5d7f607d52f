"""How two copies of a trace stand to each other: pure, and told by who wrote what.

A log is runs of offsets, each by one writer, and a header remembers who changed it. Two copies that
name the same writers as far as both reach were never written to apart. Copies of different
incarnations were made apart, such as by an import on each of two machines; of them the content
tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from traceark.codec.parquet import Run
from traceark.headers import Changes, Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, LogName
from traceark.models import JsonObject

Standing = Literal["same", "forward", "behind", "diverged"]
Outcome = Literal["same", "new", "forward", "behind", "diverged", "redacted", "deleted", "buried", "pinned"]


@dataclass(frozen=True, slots=True)
class Copy:
    """What tells one copy of a trace from another: its headers, and who wrote its logs."""

    header: Header
    tree: TreeFile | None
    runs: Mapping[LogName, Sequence[Run]]


@dataclass(frozen=True, slots=True)
class Content:
    """What a trace says: its logs with updates folded in, what callers said of it, and its goals."""

    messages: Sequence[JsonObject]
    events: Sequence[JsonObject]
    told: JsonObject
    goals: JsonObject | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a source stands to a target, seen from the target.

    ``forward``: the target is an earlier state; ``behind``: the source is. `where` says where they
    part, if they diverged, and `side` names the source's side of that, however it goes on.
    """

    outcome: Standing
    where: str = ""
    side: str = ""


def compare(source: Copy, target: Copy) -> Comparison:
    """Return how two copies of one incarnation stand to each other."""
    compared = _compare(source, target)
    return replace(compared, side=_side(source, target)) if compared.outcome == "diverged" else compared


def _compare(source: Copy, target: Copy) -> Comparison:
    found: dict[str, Standing] = {}
    for log in LOGS:
        offset = parting(source.runs[log], target.runs[log])
        if offset is not None:
            return Comparison("diverged", f"{log} offset {offset}")
        found[log] = _by_length(_end(source.runs[log]), _end(target.runs[log]))
    found[HEADER] = _by_changes(
        (source.header.told(), source.header.changes, source.header.revision),
        (target.header.told(), target.header.changes, target.header.revision),
    )
    found[GOAL_TREE] = _trees(source, target)
    return _together(found)


def _side(source: Copy, target: Copy) -> str:
    """Return the writer of the first thing that only the source has."""
    for log in LOGS:
        first = parting(source.runs[log], target.runs[log]) or _end(target.runs[log]) + 1
        for run in source.runs[log]:
            if run.last >= first:
                return run.writer
    changes = [(source.header.changes, target.header.changes)]
    if source.tree is not None and target.tree is not None:
        changes.append((source.tree.changes, target.tree.changes))
    found = (ours.beyond(theirs) for ours, theirs in changes)
    return next((writer for writer in found if writer is not None), source.header.incarnation)


def compare_contents(source: Content, target: Content) -> Comparison:
    """Return how two traces of one id stand to each other by what they say."""
    found: dict[str, Standing] = {}
    for log, ours, theirs in (
        ("messages", source.messages, target.messages),
        ("events", source.events, target.events),
    ):
        for offset, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
            if one != other:
                return Comparison("diverged", f"{log.removesuffix('s')} {offset}")
        found[log] = _by_length(len(ours), len(theirs))
    logs = _together(found)
    if logs.outcome == "same" and (source.told, source.goals) != (target.told, target.goals):
        return Comparison("diverged", HEADER if source.told != target.told else GOAL_TREE)
    # No run loses its goals: without any it is no later state of one that has some.
    found[GOAL_TREE] = _by_length(source.goals is not None, target.goals is not None)
    return logs if logs.outcome == "diverged" else _together(found)


def parting(ours: Sequence[Run], theirs: Sequence[Run]) -> int | None:
    """Return the first offset that two logs have from different writers; None where there is none.

    Examples
    --------
    >>> parting([Run(1, "aaaaaaaa", 5)], [Run(1, "aaaaaaaa", 3), Run(4, "bbbbbbbb", 1)])
    4
    >>> parting([Run(1, "aaaaaaaa", 5)], [Run(1, "aaaaaaaa", 2), Run(3, "aaaaaaaa", 1)]) is None
    True
    """
    for first, one, other in _aligned(ours, theirs):
        if one != other:
            return first
    return None


def _aligned(ours: Sequence[Run], theirs: Sequence[Run]) -> Iterator[tuple[int, str, str]]:
    """Yield ranges that both logs have, by their first offset, with who wrote them."""
    at, there = 0, 0
    while at < len(ours) and there < len(theirs):
        one, other = ours[at], theirs[there]
        yield max(one.first, other.first), one.writer, other.writer
        if one.last <= other.last:
            at += 1
        if other.last <= one.last:
            there += 1


def _end(runs: Sequence[Run]) -> int:
    return runs[-1].last if runs else 0


def _by_length(source: int, target: int) -> Standing:
    return "same" if source == target else "forward" if source > target else "behind"


def _by_changes(source: tuple[JsonObject, Changes, int], target: tuple[JsonObject, Changes, int]) -> Standing:
    if source[0] == target[0]:
        return "same"
    ahead, back = source[1].follow(target[1]), target[1].follow(source[1])
    if ahead != back:
        return "forward" if ahead else "behind"
    # Nobody is known to have changed either, or the same one: of older releases, which did not say who.
    return _by_length(source[2], target[2]) if ahead and source[2] != target[2] else "diverged"


def _trees(source: Copy, target: Copy) -> Standing:
    if source.tree is None or target.tree is None:
        return _by_length(source.tree is not None, target.tree is not None)
    found = _by_changes(*((tree.told(), tree.changes, tree.changed) for tree in (source.tree, target.tree)))
    one, other = _is_ahead(source), _is_ahead(target)
    if found == "diverged" and one != other and source.tree.changes == target.tree.changes:
        return "forward" if one else "behind"
    return found


def _is_ahead(copy: Copy) -> bool:
    """Say whether its goals are redacted, or replaced, already, and all else is about to be."""
    return copy.tree is not None and copy.tree.incarnation != copy.header.incarnation


def _together(found: Mapping[str, Standing]) -> Comparison:
    """Return what holds for the whole: parts that went on on different sides diverged."""
    changed: Iterable[Standing] = {each for each in found.values() if each != "same"}
    if not changed:
        return Comparison("same")
    if len(set(changed)) == 1:
        outcome = next(iter(changed))
        where = ", ".join(name for name, each in found.items() if each == "diverged")
        return Comparison(outcome, where)
    parts = [f"{name} {each}" for name, each in found.items() if each != "same"]
    return Comparison("diverged", ", ".join(parts))
