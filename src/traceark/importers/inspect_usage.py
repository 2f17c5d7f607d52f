"""What the samples of an Inspect AI log used: of each one's messages, and of all against what the log states.

It takes samples and events as the log tells them, and knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from traceark.importers.document import DocumentTrace, object_of, objects_of
from traceark.importers.typed import Typed
from traceark.importers.usage import spend, spend_in_all, sum_of, usage_of
from traceark.models import Json, Usage

_NAMES = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "input_tokens_cache_read": "cache_read",
    "input_tokens_cache_write": "cache_write",
    "reasoning_tokens": "reasoning",
    "total_tokens": "total",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a model, as an event tells it: of which one, the id of the answer, what it used."""

    model: str
    message_id: str | None
    usage: Usage | None


def events_of(sample: Mapping[str, Json]) -> Json:
    """Return the events of a sample, which older versions have in a transcript."""
    events = sample.get("events")
    return object_of(sample.get("transcript")).get("events") if events is None else events


def take_usage(building: DocumentTrace, sample: Mapping[str, Json]) -> int | None:
    """Give messages the usage of the calls that wrote them, if that is all that the evaluated model used.

    That is what the sample states, else what the model's events add up to, else what the sample's output tells.
    Where the calls of the messages are not all, it stands at the last message of the model, marked `whole_run`.
    Return the total to check the messages against, None where nothing is stated.
    """
    typed, model = building.typed, building.trace.model or ""
    told = object_of(sample.get("model_usage")).get(model)
    calls = list(_calls(sample, model, typed))
    total = _usage(told, typed) if isinstance(told, dict) else None
    ids = [(each, (each.model_extra or {}).get("source", {}).get("id")) for each in building.messages]
    by_id = {told_id: each for each, told_id in ids if isinstance(told_id, str)}
    found = {
        call.message_id: call.usage
        for call in calls
        if call.message_id in by_id and call.usage is not None and call.usage.total()
    }
    if total is None:
        total = _untold(sample, calls, typed, model).get(model)
    if total is None or sum(usage.total() for usage in found.values()) == total.total():
        for message_id, spent in found.items():
            spend(by_id[message_id or ""], spent)
    elif (last := next((each for each in reversed(building.messages) if each.role == "assistant"), None)) is not None:
        spend_in_all(last, total)
    if isinstance(told, dict):
        # Logs that state no total have 0 there.
        return typed.count(told.get("total_tokens")) or None
    return total.total() if total is not None else None


class LogTotals:
    """Adds up what samples used, to compare it with what their log states of each model.

    Parameters
    ----------
    log : dict
        What the log says of all samples.

    Examples
    --------
    >>> totals = LogTotals({"stats": {"model_usage": {"m": {"total_tokens": 9}}}, "results": {"total_samples": 4}})
    >>> totals.add({"model_usage": {"m": {"total_tokens": 2}}})
    >>> list(totals.differences())
    ['the file holds 1 of 4 samples, which have 2 tokens of m; it states 9 for all']
    """

    def __init__(self, log: Mapping[str, Json]) -> None:
        self._log = log
        # What is no number is counted where messages are given their usage.
        self._typed = Typed(Counter())
        self._spent: Counter[str] = Counter()
        self._read, self._all = 0, 0

    def add(self, sample: Mapping[str, Json] | None) -> None:
        """Take what a sample used; None is one that could not be read."""
        self._read += sample is not None
        self._all += 1
        if sample is None:
            return
        stated = object_of(sample.get("model_usage"))
        if stated:
            self._spent.update(self._totals(stated))
            return
        model = self._typed.text(object_of(self._log.get("eval")).get("model")) or ""
        calls = list(_calls(sample, model, self._typed))
        untold = _untold(sample, calls, self._typed, model)
        self._spent.update({name: usage.total() for name, usage in untold.items()})

    def differences(self) -> Iterator[str]:
        """Yield, in words, each model of which the log states another total than its samples have."""
        stated = self._totals(object_of(object_of(self._log.get("stats")).get("model_usage")))
        ran = max(self._ran(), self._all)
        for model, total in stated.items() if self._read else ():
            spent = self._spent[model]
            if spent != total and self._read < ran:
                held = f"the file holds {self._read:,} of {ran:,} samples, which have {spent:,} tokens of {model}"
                yield f"{held}; it states {total:,} for all"
            elif spent != total:
                yield f"the samples have {spent:,} tokens of {model}, the file states {total:,}"

    def _totals(self, stated: Mapping[str, Json]) -> dict[str, int]:
        return {name: self._total(told) for name, told in stated.items() if isinstance(told, dict)}

    def _total(self, told: Mapping[str, Json]) -> int:
        usage = _usage(told, self._typed)
        return self._typed.count(told.get("total_tokens")) or (usage.total() if usage is not None else 0)

    def _ran(self) -> int:
        """Return how many samples ran, or should have, by what the log says of its results or its data."""
        about = object_of(self._log.get("eval"))
        ids = object_of(about.get("dataset")).get("sample_ids")
        epochs = self._typed.count(object_of(about.get("config")).get("epochs")) or 1
        ran = self._typed.count(object_of(self._log.get("results")).get("total_samples"))
        return ran or (len(ids) * epochs if isinstance(ids, list) else 0)


def _calls(sample: Mapping[str, Json], evaluated: str, typed: Typed) -> Iterator[_Call]:
    """Yield the calls of models; an event that names none is the evaluated one's."""
    told = events_of(sample)
    for event in map(object_of, told if isinstance(told, list) else ()):
        output = event.get("output")
        if event.get("event") != "model" or not isinstance(output, dict):
            continue
        choices, usage = objects_of(output.get("choices")), output.get("usage")
        message_id = object_of(choices[0].get("message")).get("id") if choices else None
        spent = _usage(usage, typed) if isinstance(usage, dict) else None
        # Inspect counts nothing for an answer out of its own cache.
        spent = Usage() if event.get("cache") == "read" else spent
        model = typed.text(event.get("model")) or evaluated
        yield _Call(model, message_id if isinstance(message_id, str) else None, spent)


def _untold(sample: Mapping[str, Json], calls: Sequence[_Call], typed: Typed, evaluated: str) -> dict[str, Usage]:
    """Return what each model used where the sample does not state it: by its events, else by its output."""
    spent: dict[str, list[Usage]] = {}
    for call in calls:
        if call.usage is not None:
            spent.setdefault(call.model, []).append(call.usage)
    if spent:
        return {model: sum_of(usages) for model, usages in spent.items()}
    told = object_of(sample.get("output")).get("usage")
    usage = _usage(told, typed) if isinstance(told, dict) else None
    return {evaluated: usage} if usage is not None else {}


def _usage(told: Mapping[str, Json], typed: Typed) -> Usage | None:
    return usage_of(typed, **{ours: told.get(theirs) for theirs, ours in _NAMES.items()})
