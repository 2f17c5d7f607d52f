"""What the responses of an OpenHands run used: tokens, cost and time, each counted once.

Three places tell it: the statistics of a conversation, response by response; the running total that
older events carry; and the response itself that older events carry. The first of them that speaks
of tokens is believed, and the first that speaks of cost. This module knows no events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from traceark.importers.document import objects_of, without
from traceark.importers.typed import Typed
from traceark.importers.usage import of_whole_run
from traceark.models import Json, JsonObject, Message, Usage

_PROMPT, _COMPLETION, _READ, _WRITE = "prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens"
_NAMES = (_PROMPT, _COMPLETION, _READ, _WRITE, "reasoning_tokens")
_TOTAL, _TOTAL_COST = "accumulated_token_usage", "accumulated_cost"
_TOKENS, _COSTS, _LATENCIES = "token_usages", "costs", "response_latencies"
# Costs are added up as floats, here and there.
_CLOSE = 1e-9

Counts = dict[str, int]
T = TypeVar("T")


@dataclass(slots=True)
class _Written:
    """A message that the model wrote, and what the events themselves say that it used."""

    message: Message
    response_id: str | None
    grown: Counts | None = None
    grown_cost: float | None = None
    reply: Counts | None = None


@dataclass(slots=True)
class Spending:
    """Takes what a run says of its use, and gives it to the messages at the end.

    Parameters
    ----------
    typed : Typed
        Makes typed fields of what the run says.
    """

    typed: Typed
    differences: list[str] = field(default_factory=list)
    _written: list[_Written] = field(default_factory=list)
    # Of each response its last message. A test's model gives the same id to several responses.
    _responses: dict[str, list[_Written]] = field(default_factory=dict)
    _current: str | None = None
    _total: Counts = field(default_factory=dict)
    _total_cost: float = 0.0

    def interrupt(self) -> None:
        """Note that someone else spoke: what the model writes next is another response."""
        self._current = None

    def wrote(self, message: Message, response_id: str | None) -> None:
        """Take a message of the model; several one after the other may be of one response."""
        written = _Written(message, response_id)
        self._written.append(written)
        if response_id is not None:
            responses = self._responses.setdefault(response_id, [])
            if response_id == self._current:
                responses.pop()
            responses.append(written)
        self._current = response_id

    def grew(self, metrics: Json) -> None:
        """Take the running total that came with the last message."""
        if not isinstance(metrics, dict) or not self._written:
            return
        last, total, cost = self._written[-1], metrics.get(_TOTAL), self.typed.cost(metrics.get(_TOTAL_COST))
        if isinstance(total, dict):
            now = self._counts(total)
            # A total that is smaller than before counts from nothing.
            before = self._total if all(now[name] >= self._total.get(name, 0) for name in _NAMES) else {}
            last.grown, self._total = _difference(now, before), now
        if cost is not None:
            last.grown_cost = cost - (self._total_cost if cost >= self._total_cost else 0.0)
            self._total_cost = cost

    def replied(self, usage: Json) -> None:
        """Take the usage that the response of the last message states."""
        if not isinstance(usage, dict) or not self._written:
            return
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        told = {
            _PROMPT: usage.get(_PROMPT),
            _COMPLETION: usage.get(_COMPLETION),
            _READ: usage.get("cache_read_input_tokens", cached),
            _WRITE: usage.get("cache_creation_input_tokens"),
        }
        self._written[-1].reply = self._counts(told)

    def settle(self, statistics: Mapping[str, Json]) -> JsonObject:
        """Give every message what it used; return what of the statistics is at no message.

        What was used and is no message's stands at the model's last message, marked `whole_run`
        in its usage: usage may move on when the run goes on, other extra fields may not.
        """
        kept: JsonObject = {}
        rest, rest_cost, tells_tokens, tells_cost = dict.fromkeys(_NAMES, 0), 0.0, False, False
        for usage_id, metrics in statistics.items():
            if not isinstance(metrics, dict):
                kept[usage_id] = metrics
                continue
            tells_tokens |= isinstance(metrics.get(_TOTAL), dict) or bool(objects_of(metrics.get(_TOKENS)))
            tells_cost |= _TOTAL_COST in metrics
            kept[usage_id], more, more_cost = self._give(usage_id, metrics)
            rest, rest_cost = _sum(rest, more), rest_cost + more_cost
        if not tells_tokens:
            self._give_what_events_tell()
        if not tells_cost:
            for each in self._written:
                each.message.cost = each.grown_cost or each.message.cost
        self._give_rest(rest, rest_cost)
        return kept

    def _give(self, usage_id: str, metrics: JsonObject) -> tuple[JsonObject, Counts, float]:
        """Give messages what one usage's statistics tell of them; return what is left, as it is and as numbers."""
        rows = {name: objects_of(metrics.get(name)) for name in (_TOKENS, _LATENCIES, _COSTS)}
        owners = {name: self._owners(rows[name]) for name in (_TOKENS, _LATENCIES)}
        # Costs name no response; one is added with each latency, and none for what cost nothing.
        alike = (name for name in (_LATENCIES, _TOKENS) if len(rows[name]) == len(rows[_COSTS]))
        owners[_COSTS] = next((owners[name] for name in alike), [None] * len(rows[_COSTS]))
        counts = [self._counts(row) for row in rows[_TOKENS]]
        costs = [self.typed.cost(row.get("cost")) or 0.0 for row in rows[_COSTS]]
        for owner, count in _owned(owners[_TOKENS], counts):
            _spend(owner, count)
        for owner, cost in _owned(owners[_COSTS], costs):
            owner.cost = (owner.cost or 0.0) + cost
        for owner, row in _owned(owners[_LATENCIES], rows[_LATENCIES]):
            owner.duration_ms = self._milliseconds(row.get("latency"))
        kept = dict(metrics)
        for name, found in rows.items():
            for owner, row in _owned(owners[name], found):
                _note(owner, usage_id, name, row)
            if found:
                kept[name] = [row for owner, row in zip(owners[name], found, strict=True) if owner is None]
        stated, stated_cost = self._stated(usage_id, metrics, counts, costs)
        for _, count in _owned(owners[_TOKENS], counts):
            stated = _difference(stated, count)
        return kept, stated, stated_cost - sum(cost for _, cost in _owned(owners[_COSTS], costs))

    def _stated(
        self, usage_id: str, metrics: JsonObject, counts: Sequence[Counts], costs: Sequence[float]
    ) -> tuple[Counts, float]:
        """Return the tokens and the cost of one usage, noting where its responses add up to others."""
        listed = {name: sum(count[name] for count in counts) for name in _NAMES}
        total, cost = metrics.get(_TOTAL), self.typed.cost(metrics.get(_TOTAL_COST))
        stated = self._counts(total) if isinstance(total, dict) else listed
        if counts and _usage(stated).total() != _usage(listed).total():
            told = f"its responses have {_usage(listed).total():,} tokens"
            self.differences.append(f"{usage_id}: {told}, the statistics state {_usage(stated).total():,}")
        if costs and cost is not None and abs(sum(costs) - cost) > _CLOSE * max(1.0, cost):
            told = f"its responses cost {sum(costs):.6f}"
            self.differences.append(f"{usage_id}: {told}, the statistics state {cost:.6f}")
        return stated, sum(costs) if cost is None else cost

    def _owners(self, rows: Sequence[Mapping[str, Json]]) -> list[Message | None]:
        """Return the message that each row speaks of; rows that repeat an id speak of one response after the other."""
        found: list[Message | None] = []
        turns: Counts = {}
        for row in rows:
            told = row.get("response_id")
            responses = self._responses.get(told, []) if isinstance(told, str) else []
            turn = turns.get(str(told), 0)
            turns[str(told)] = turn + 1
            found.append(responses[turn].message if turn < len(responses) else None)
        return found

    def _give_what_events_tell(self) -> None:
        grown = any(each.grown is not None for each in self._written)
        for each in self._written:
            replied = each.response_id is None or each is self._responses[each.response_id][-1]
            counts = each.grown if grown else each.reply if replied else None
            if counts is not None and any(counts.values()):
                _spend(each.message, counts)

    def _give_rest(self, rest: Counts, cost: float) -> None:
        cost = cost if cost > _CLOSE else 0.0
        if not any(rest.values()) and not cost:
            return
        if not self._written:
            told = f"{_usage(rest).total():,} tokens and a cost of {cost:.6f} are stated"
            self.differences.append(f"{told}, and there is no message of the model")
            return
        last = self._written[-1].message
        _spend(last, rest)
        last.usage = of_whole_run(last.usage)
        last.cost = (last.cost or 0.0) + cost if cost else last.cost

    def _counts(self, told: Mapping[str, Json]) -> Counts:
        return {name: self.typed.count(told.get(name)) or 0 for name in _NAMES}

    def _milliseconds(self, seconds: Json) -> int | None:
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            return self.typed.duration_ms(round(seconds * 1000))
        return self.typed.duration_ms(seconds)


def statistics_of(state: Mapping[str, Json]) -> JsonObject:
    """Return the statistics of a conversation's state, by usage, whatever its version calls them."""
    outer, inner = _place(state)
    told = state.get(outer)
    metrics = told.get(inner) if isinstance(told, dict) else None
    return metrics if isinstance(metrics, dict) else {}


def with_statistics(state: Mapping[str, Json], left: JsonObject) -> JsonObject:
    """Return a state with other statistics; as it is where it has none."""
    outer, inner = _place(state)
    told = state.get(outer)
    return {**state, outer: {**told, inner: left}} if isinstance(told, dict) and inner in told else dict(state)


def _place(state: Mapping[str, Json]) -> tuple[str, str]:
    for outer in ("stats", "conversation_stats"):
        told = state.get(outer)
        for inner in ("usage_to_metrics", "service_to_metrics"):
            if isinstance(told, dict) and isinstance(told.get(inner), dict):
                return outer, inner
    return "", ""


def _owned(owners: Sequence[Message | None], told: Sequence[T]) -> Iterator[tuple[Message, T]]:
    """Yield what is told of a message, with the message."""
    return ((owner, each) for owner, each in zip(owners, told, strict=True) if owner is not None)


def _sum(one: Counts, other: Counts) -> Counts:
    return {name: one[name] + other[name] for name in _NAMES}


def _difference(more: Counts, less: Counts) -> Counts:
    """Return what is left of counts, which is never below nothing."""
    return {name: max(more.get(name, 0) - less.get(name, 0), 0) for name in _NAMES}


def _spend(message: Message, counts: Counts) -> None:
    """Add tokens to what a message used."""
    known, more = message.usage or Usage(), _usage(counts)
    sums = {name: (getattr(known, name) or 0) + (getattr(more, name) or 0) for name in Usage.model_fields}
    message.usage = Usage.parse({**known.fields(), **sums})
    message.tokens = message.usage.total()


def _note(message: Message, usage_id: str, name: str, row: JsonObject) -> None:
    """Keep a row of the statistics in the usage of the message that it speaks of."""
    known = message.usage or Usage()
    source = (known.model_extra or {}).get("source") or {}
    beside = without(source, "usage_id", name)
    message.usage = Usage.parse({**known.fields(), "source": {"usage_id": usage_id, **beside, name: row}})


def _usage(counts: Counts) -> Usage:
    """Return a usage; a prompt's tokens contain those read from a cache, and mostly those written to one.

    Examples
    --------
    >>> told = {"prompt_tokens": 100, "completion_tokens": 5, "cache_read_tokens": 60, "cache_write_tokens": 30}
    >>> _usage(told).input_tokens, _usage(told).total()
    (10, 105)
    """
    prompt, read, write = (counts.get(name, 0) for name in (_PROMPT, _READ, _WRITE))
    fresh = prompt - read if prompt >= read else prompt
    return Usage(
        input_tokens=fresh - write if fresh >= write else fresh,
        output_tokens=counts.get(_COMPLETION, 0),
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=counts.get("reasoning_tokens", 0),
    )
