"""What to roll up: which traces go into one new rollup, and which rollups become one.

Pure. Rollups grow as in an LSM tree: `fan_in` of one size tier become one of the next, so that
their number stays logarithmic and every row is rewritten a few times at most. The largest are
left alone. Knows no files and no SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How large rollups get.

    Attributes
    ----------
    records, bytes, traces : int
        At most this much in one new rollup; it is published before the next is begun, so this much
        is done again after a kill. One trace alone may be larger. Messages and events are records alike.
    fan_in : int
        How many rollups of a tier become one.
    smallest_tier_bytes : int
        Rollups below this are of tier 0; each further tier is `fan_in` times larger.
    largest_bytes : int
        A rollup of half this size is not merged any more, and no merge is planned to pass it.
    """

    records: int = 4_000_000
    bytes: int = 1 << 30
    traces: int = 100_000
    fan_in: int = 8
    smallest_tier_bytes: int = 4 << 20
    largest_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sealed trace that is in no rollup.

    `created_at` is microseconds since the epoch, None if unknown; `messages_part` and
    `events_part` are the parts that are its logs, None where a log is empty; `tree` is the
    catalog's number of its goal tree; `bytes` what its parts weigh and `records` how many they hold.
    `messages` and `events` are what the header counts.
    """

    trace_id: str
    created_at: int | None
    messages: int
    events: int
    incarnation: str
    messages_part: str | None
    events_part: str | None
    tree: int | None
    bytes: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Weight:
    """A rollup as the plan sees it: its id, its size, and how many of its traces are masked."""

    id: str
    bytes: int
    masked: int = 0


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates by time and id, so that statistics of row groups tell times apart."""
    return sorted(candidates, key=lambda each: (each.created_at is not None, each.created_at or 0, each.trace_id))


def cut(candidates: Sequence[Candidate], limits: Limits) -> Iterator[list[Candidate]]:
    """Cut candidates, in the order given, into the contents of new rollups."""
    batch: list[Candidate] = []
    records = size = 0
    for each in candidates:
        if batch and (
            records + each.records > limits.records or size + each.bytes > limits.bytes or len(batch) >= limits.traces
        ):
            yield batch
            batch, records, size = [], 0, 0
        batch.append(each)
        records += each.records
        size += each.bytes
    if batch:
        yield batch


def tier_of(size: int, limits: Limits) -> int:
    """Return the size tier of a rollup of so many bytes.

    Examples
    --------
    >>> [tier_of(size, Limits(fan_in=8, smallest_tier_bytes=100)) for size in (0, 99, 100, 799, 800)]
    [0, 0, 1, 1, 2]
    """
    tier, bound = 0, limits.smallest_tier_bytes
    while size >= bound:
        tier += 1
        bound *= limits.fan_in
    return tier


def plan_merges(rollups: Sequence[Weight], limits: Limits) -> list[list[str]]:
    """Return which rollups are to be rewritten as one, each at most once.

    Rollups with masked rows are rewritten in any case, alone if need be: rows of traces that were
    deleted or redacted must not stay. Done again after what it planned was done, it plans on, and
    ends with fewer than `fan_in` rollups in each tier but the largest ones.
    """
    groups: list[list[str]] = []
    planned: set[str] = set()
    tiers: dict[int, list[Weight]] = {}
    for rollup in sorted(rollups, key=lambda each: each.id):
        if rollup.bytes * 2 < limits.largest_bytes:
            tiers.setdefault(tier_of(rollup.bytes, limits), []).append(rollup)
    for tier in sorted(tiers):
        if len(tiers[tier]) >= limits.fan_in:
            for group in _bounded(tiers[tier], limits):
                groups.append([each.id for each in group])
                planned.update(groups[-1])
    groups += [[each.id] for each in rollups if each.masked and each.id not in planned]
    return groups


def _bounded(rollups: Sequence[Weight], limits: Limits) -> Iterator[list[Weight]]:
    """Yield runs of rollups whose sum passes the largest size by no more than their last one does."""
    group: list[Weight] = []
    size = 0
    for each in rollups:
        if len(group) > 1 and size + each.bytes > limits.largest_bytes:
            yield group
            group, size = [], 0
        group.append(each)
        size += each.bytes
    if len(group) > 1:
        yield group


def sizes_by_tier(rollups: Iterable[Weight], limits: Limits) -> Mapping[int, int]:
    """Return how many rollups each tier has; those that are not merged any more are tier -1."""
    found: dict[int, int] = {}
    for each in rollups:
        tier = -1 if each.bytes * 2 >= limits.largest_bytes else tier_of(each.bytes, limits)
        found[tier] = found.get(tier, 0) + 1
    return found
