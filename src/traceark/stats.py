"""Totals and stats as folds over a trace's messages.

Pure: records in, sums out. The sums do not depend on the order in which goals and messages
arrive; cost is summed exactly. What a caller sets is kept as an *adjustment*, the difference
between what was set and what the messages added up to at that moment, so that a recount still
proves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from functools import partial
from typing import Any, NamedTuple, cast

from traceark.codec.malformed import stated, stated_decimal
from traceark.errors import InvalidValueError
from traceark.models import INT64_MAX, INT64_MIN, Goal, GoalStats, GoalTree, JsonObject

PREVIEW_TOOLS = 5
PREVIEW_ARROW = " → "
# Doubles need at most 767 significant digits and reach from 1e-324 to 1e308; sums of 2**63 of them
# still fit. Inexact is trapped, so a sum that would round is an error and not a wrong total.
EXACT = Context(prec=1500, traps=[Inexact], Emin=-10_000, Emax=10_000)

# Attributes of a context take longer than an addition.
_add = EXACT.add
_NOTHING = Decimal(0)
# Totals below the first have room for 10,000 messages of less than the second, more than any batch.
_ROOMY, _ORDINARY = 2**62, 2**48
_ROOMY_DIGITS, _ORDINARY_COST = 300, 1e290
_LEAST, _LEAST_COST = -_ORDINARY, -_ORDINARY_COST
# So many appended messages are summed together: one by one, after a sync, each takes three times as long.
_SUMMED_TOGETHER = 64


def exact(cost: float | None) -> Decimal:
    """Return a cost as the decimal that is written for it."""
    return Decimal(repr(cost)) if cost else _NOTHING


class Facts(NamedTuple):
    """What the folds need to know of one message: `tokens` as given, and the sum of its usage."""

    offset: int
    sequence: int
    goal_id: str | None
    tokens: int | None
    usage_tokens: int
    cost: float | None
    duration_ms: int
    tool_name: str | None

    def counted_tokens(self) -> int:
        """Return the tokens that the message adds to the totals."""
        return self.usage_tokens if self.tokens is None else self.tokens


# `Facts._make` in half the time.
as_facts: Callable[[Iterable[Any]], Facts] = partial(tuple.__new__, Facts)


def usage_tokens(usage: Mapping[str, int | None] | None) -> int:
    """Return the tokens of a usage record (see `Usage.total`)."""
    if not usage:
        return 0
    return sum(
        usage.get(kind) or 0 for kind in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    )


def facts_of(record: Mapping[str, Any], offset: int) -> Facts:
    """Return the facts of a message record that was added at an offset."""
    return Facts(
        offset,
        record["sequence"],
        record.get("goal_id"),
        record.get("tokens"),
        usage_tokens(record.get("usage")),
        record.get("cost"),
        record.get("duration_ms") or 0,
        record.get("tool_name"),
    )


def updated_facts(old: Facts, fields: Mapping[str, Any]) -> Facts:
    """Return the facts of a message after an update has set `fields`."""
    changes: dict[str, Any] = {
        name: fields[name] for name in ("goal_id", "tool_name", "cost", "tokens") if name in fields
    }
    if "duration_ms" in fields:
        changes["duration_ms"] = fields["duration_ms"] or 0
    if "usage" in fields:
        changes["usage_tokens"] = usage_tokens(fields["usage"])
    return old._replace(**changes) if changes else old


@dataclass(slots=True)
class Sums:
    """Counts and sums over some messages."""

    count: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    duration_ms: int = 0
    tools: list[tuple[int, str]] = field(default_factory=list)

    def add(self, tokens: int, duration_ms: int, cost: Decimal) -> None:
        """Count one message in."""
        self.count += 1
        self.tokens += tokens
        self.duration_ms += duration_ms
        if cost:
            self.cost = _add(self.cost, cost)

    def remove(self, facts: Facts, cost: Decimal) -> None:
        """Count one message out, which leaves `tools` alone."""
        self.count -= 1
        self.tokens -= facts.counted_tokens()
        self.duration_ms -= facts.duration_ms
        self.cost = EXACT.subtract(self.cost, cost)

    def absorb(self, other: Sums) -> None:
        """Add another goal's sums."""
        self.count += other.count
        self.tokens += other.tokens
        self.duration_ms += other.duration_ms
        self.cost = _add(self.cost, other.cost)
        self.tools = sorted([*self.tools, *other.tools])[-PREVIEW_TOOLS:]

    def last_tools(self) -> list[tuple[int, str]]:
        """Return the last few tool names with their offsets, oldest first."""
        return sorted(self.tools)[-PREVIEW_TOOLS:]


class MessageFold:
    """The running fold over a trace's message log: totals, sums by goal, facts by message id."""

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self.last_sequence = 0
        self._total = Sums()
        self._by_goal: dict[str | None, Sums] = {}
        # Facts that are not summed yet, all ordinary.
        self._waiting: list[Facts] = []
        # Whether the totals are far from their limits, once that was asked.
        self._roomy: bool | None = None

    @property
    def total(self) -> Sums:
        """The sums over all messages."""
        self._sum_waiting()
        return self._total

    @property
    def by_goal(self) -> dict[str | None, Sums]:
        """The sums of each goal's messages."""
        self._sum_waiting()
        return self._by_goal

    def surely_fits(self, facts: Facts) -> bool:
        """Whether a message needs no `check_room`, whatever batch of such messages comes before it."""
        if self._roomy is None:
            total = self.total
            self._roomy = (
                -_ROOMY < total.tokens < _ROOMY
                and -_ROOMY < total.duration_ms < _ROOMY
                and total.cost.adjusted() < _ROOMY_DIGITS
            )
        _, sequence, _, tokens, usage, cost, duration_ms, _ = facts
        return (
            self._roomy
            and _LEAST < (usage if tokens is None else tokens) < _ORDINARY
            and (_LEAST < duration_ms < _ORDINARY and _LEAST < sequence < _ORDINARY)
            and (cost is None or _LEAST_COST < cost < _ORDINARY_COST)
        )

    def check_room(self, changed: Mapping[str, Facts]) -> None:
        """Refuse messages, by id as they will be, that would carry a total beyond 64 bits."""
        total, added = self.total, Sums()
        for message_id, facts in changed.items():
            if message_id in self.facts:
                old = self.facts[message_id]
                added.remove(old, exact(old.cost))
            added.add(facts.counted_tokens(), facts.duration_ms, exact(facts.cost))
        if not INT64_MIN <= total.tokens + added.tokens <= INT64_MAX:
            raise InvalidValueError("the trace's total would pass 64 bits", "tokens")
        if not INT64_MIN <= total.duration_ms + added.duration_ms <= INT64_MAX:
            raise InvalidValueError("the trace's total would pass 64 bits", "duration_ms")
        if math.isinf(float(EXACT.add(total.cost, added.cost))):
            raise InvalidValueError("the trace's total would pass a 64-bit float", "cost")

    def add(self, message_id: str, facts: Facts) -> None:
        """Fold in a message that was added."""
        fits = self.surely_fits(facts)
        self.add_fitting({message_id: facts}, max(self.last_sequence, facts.sequence))
        if not fits:
            self._sum_waiting()

    def add_fitting(self, added: Mapping[str, Facts], last_sequence: int) -> None:
        """Do as `add` with messages that surely fit, which are summed when sums are asked for, or with others."""
        self.facts.update(added)
        self.last_sequence = last_sequence
        self._waiting += added.values()
        if len(self._waiting) >= _SUMMED_TOGETHER:
            self._sum_waiting()

    def _sum_waiting(self) -> None:
        if not self._waiting:
            return
        added: dict[str | None, Sums] = {}
        # In one step, which takes a fraction of as many attributes.
        for offset, _, goal_id, tokens, usage, cost, duration_ms, tool_name in self._waiting:
            sums = added.get(goal_id)
            if sums is None:
                sums = added[goal_id] = Sums()
            sums.count += 1
            sums.tokens += usage if tokens is None else tokens
            sums.duration_ms += duration_ms
            if cost:
                sums.cost = _add(sums.cost, exact(cost))
            if tool_name is not None:
                sums.tools.append((offset, tool_name))
        self._waiting, self._roomy = [], None
        for goal_id, sums in added.items():
            self._total.absorb(sums)
            self._by_goal.setdefault(goal_id, Sums()).absorb(sums)

    def replace(self, message_id: str, facts: Facts) -> None:
        """Fold in an update: the message counts with its new facts and no more with its old ones."""
        old = self.facts[message_id]
        if old == facts:
            return
        self._sum_waiting()
        self._roomy = None
        self.facts[message_id] = facts
        before, after = exact(old.cost), exact(facts.cost)
        self._total.remove(old, before)
        self._total.add(facts.counted_tokens(), facts.duration_ms, after)
        self._by_goal[old.goal_id].remove(old, before)
        self._by_goal.setdefault(facts.goal_id, Sums()).add(facts.counted_tokens(), facts.duration_ms, after)
        if (old.goal_id, old.tool_name) != (facts.goal_id, facts.tool_name) or old.tool_name is not None:
            self._recount_tools({old.goal_id, facts.goal_id})

    def _recount_tools(self, goal_ids: set[str | None]) -> None:
        for goal_id in goal_ids:
            self._by_goal[goal_id].tools = sorted(
                (facts.offset, facts.tool_name)
                for facts in self.facts.values()
                if facts.goal_id == goal_id and facts.tool_name is not None
            )[-PREVIEW_TOOLS:]


TOTALS = ("total_messages", "total_tokens", "total_cost", "total_duration_ms")
STATS = ("message_count", "total_tokens", "total_cost", "total_duration_ms")

Adjustments = dict[str, Decimal]


def totals_of(sums: Sums, adjustments: Mapping[str, Decimal]) -> dict[str, int | float]:
    """Return trace totals: what the messages add up to, plus what was set."""
    counted = (Decimal(sums.count), Decimal(sums.tokens), sums.cost, Decimal(sums.duration_ms))
    totals: dict[str, int | float] = {}
    for name, value in zip(TOTALS, counted, strict=True):
        whole = EXACT.add(value, adjustments.get(name, Decimal(0)))
        totals[name] = float(whole) if name == "total_cost" else int(whole)
    return totals


def adjustment(name: str, value: int | float, sums: Sums) -> Decimal:
    """Return what must be added to a recount so that it gives the value that was set."""
    counted = {
        "total_messages": Decimal(sums.count),
        "message_count": Decimal(sums.count),
        "total_tokens": Decimal(sums.tokens),
        "total_cost": sums.cost,
        "total_duration_ms": Decimal(sums.duration_ms),
    }[name]
    return EXACT.subtract(Decimal(repr(value)) if isinstance(value, float) else Decimal(value), counted)


@dataclass(slots=True)
class SetStats:
    """What a caller set of one goal's stats: adjustments by field, and the preview with its offset."""

    adjustments: Adjustments = field(default_factory=dict)
    preview: str | None = None
    preview_offset: int = 0

    def to_json(self) -> JsonObject:
        """Return it as `goal_tree.json` keeps it."""
        out: JsonObject = {name: str(value) for name, value in self.adjustments.items()}
        if self.preview_offset:
            out["preview"] = {"value": self.preview, "offset": self.preview_offset - 1}
        return out

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> SetStats:
        """Return it from what `goal_tree.json` keeps; raises one of `MALFORMED` where that is nothing."""
        found = cls()
        for name, value in stored.items():
            if name == "preview":
                preview = cast("dict[str, object]", value)
                found.preview = None if preview["value"] is None else stated(preview, "value", str)
                found.preview_offset = stated(preview, "offset", int) + 1
            else:
                found.adjustments[name] = stated_decimal(stored, name)
        return found


# Per goal id: what was set of self_stats and of cumulative_stats.
SetGoals = dict[str, tuple[SetStats, SetStats]]


def _goal_stats(sums: Sums, was_set: SetStats | None, template: GoalStats) -> GoalStats:
    adjustments = was_set.adjustments if was_set else {}
    tools = sums.last_tools()
    names = [name for _, name in tools]
    if was_set is not None and was_set.preview_offset:
        later = [name for offset, name in tools if offset >= was_set.preview_offset]
        names = ([*was_set.preview.split(PREVIEW_ARROW), *later] if was_set.preview else later)[-PREVIEW_TOOLS:]
        if not later and was_set.preview is not None:
            names = [was_set.preview]
    counted = (Decimal(sums.count), Decimal(sums.tokens), sums.cost, Decimal(sums.duration_ms))
    fields: dict[str, object] = dict(template.__pydantic_extra__ or {})
    for name, value in zip(STATS, counted, strict=True):
        whole = EXACT.add(value, adjustments.get(name, Decimal(0)))
        fields[name] = float(whole) if name == "total_cost" else int(whole)
    fields["preview"] = PREVIEW_ARROW.join(names) if names else None
    return GoalStats.parse(fields)


def _with_self_adjustments(sums: Sums, was_set: SetStats | None) -> Sums:
    if was_set is None:
        return Sums(sums.count, sums.tokens, sums.cost, sums.duration_ms, sums.last_tools())
    adjust = was_set.adjustments
    return Sums(
        sums.count + int(adjust.get("message_count", 0)),
        sums.tokens + int(adjust.get("total_tokens", 0)),
        EXACT.add(sums.cost, adjust.get("total_cost", Decimal(0))),
        sums.duration_ms + int(adjust.get("total_duration_ms", 0)),
        sums.last_tools(),
    )


def goal_sums(
    goals: Iterable[Goal], by_goal: Mapping[str | None, Sums], was_set: SetGoals
) -> dict[str, tuple[Sums, Sums]]:
    """Return, per goal, the sums of its own messages and of its own plus all descendants'.

    The first leaves adjustments out; the second contains the self adjustments of all goals below
    and of the goal itself, but no cumulative ones.
    """
    listed = list(goals)
    own = {goal.id: by_goal.get(goal.id) or Sums() for goal in listed}
    cumulative = {
        goal.id: _with_self_adjustments(own[goal.id], was_set[goal.id][0] if goal.id in was_set else None)
        for goal in listed
    }
    parents = {goal.id: goal.parent_id for goal in listed}
    depth: dict[str, int] = {}
    for goal_id in parents:
        chain: list[str] = []
        step: str | None = goal_id
        while step is not None and step not in depth:
            chain.append(step)
            step = parents[step]
        base = depth[step] if step is not None else -1
        for distance, link in enumerate(reversed(chain), start=1):
            depth[link] = base + distance
    for goal_id in sorted(parents, key=lambda each: depth[each], reverse=True):
        parent = parents[goal_id]
        if parent is not None:
            cumulative[parent].absorb(cumulative[goal_id])
    return {goal.id: (own[goal.id], cumulative[goal.id]) for goal in listed}


def with_stats(tree: GoalTree, by_goal: Mapping[str | None, Sums], was_set: SetGoals) -> GoalTree:
    """Return the tree with every goal's stats as the sums of the messages and what was set make them."""
    sums = goal_sums(tree.goals, by_goal, was_set)
    nothing = (None, None)
    goals = []
    for goal in tree.goals:
        own_set, cumulative_set = was_set.get(goal.id, nothing)
        own, cumulative = sums[goal.id]
        copy = goal.model_copy()
        copy.__dict__["self_stats"] = _goal_stats(own, own_set, goal.self_stats)
        copy.__dict__["cumulative_stats"] = _goal_stats(cumulative, cumulative_set, goal.cumulative_stats)
        goals.append(copy)
    out = tree.model_copy()
    out.__dict__["goals"] = goals
    return out


def set_from(given: GoalStats, sums: Sums, offset: int) -> SetStats:
    """Return what a caller set by giving these stats after the log had reached `offset`."""
    adjustments = {name: adjustment(name, getattr(given, name), sums) for name in STATS}
    return SetStats({name: value for name, value in adjustments.items() if value}, given.preview, offset + 1)
