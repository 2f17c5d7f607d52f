"""The checker of histories says what an exhaustive search says, and finds each kind of wrong answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import tried
from traceark.testing.history import Operation, Recorder, faults, recorded


def append(value: int, begun: float, ended: float) -> Operation:
    return Operation("append", "log", value, begun, ended)


def read(found: Any, begun: float, ended: float) -> Operation:
    return Operation("read", "log", found, begun, ended)


def put(value: int, begun: float, ended: float) -> Operation:
    return Operation("set", "status", value, begun, ended)


def look(value: int | None, begun: float, ended: float) -> Operation:
    return Operation("look", "status", value, begun, ended)


END = 1000.0
GOOD: dict[str, list[Operation]] = {
    "one after the other": [append(1, 0, 1), read([1], 2, 3), append(2, 4, 5), read([1, 2], END, END)],
    "at the same time": [append(1, 0, 9), append(2, 0, 9), read([2], 1, 8), read([2, 1], END, END)],
    "not yet there": [append(1, 0, 9), read([], 1, 8), read([1], END, END)],
    "already there": [append(1, 0, 9), read(1, 1, 2), read([1], END, END)],
    "failed, and was not done": [append(1, 0, math.inf), read([], END, END)],
    "failed, and was done": [append(1, 0, math.inf), read([], 5, 6), read([1], END, END)],
    "the last wins": [put(1, 0, 1), put(2, 2, 3), look(2, 4, 5)],
    "either wins": [put(1, 0, 9), put(2, 0, 9), look(2, 1, 2), look(1, 3, 8)],
    "before it was set": [look(None, 0, 1), put(1, 0, 9), look(1, 2, 3)],
    "failed, and was seen": [put(1, 0, math.inf), look(None, 1, 2), look(1, 3, 4)],
}
BAD: dict[str, tuple[list[Operation], str]] = {
    "acknowledged early": ([append(1, 0, 1), read([], END, END)], "not there in the end"),
    "counted twice": ([append(1, 0, 1), read([1, 1], END, END)], "2 times"),
    "out of nothing": ([read([1], END, END)], "nobody appended"),
    "a stale reading": ([append(1, 0, 1), read([], 2, 3), read([1], END, END)], "stands behind"),
    "a stale count": ([append(1, 0, 1), read(0, 2, 3), read([1], END, END)], "stands behind"),
    "readings that go back": (
        [append(1, 0, 9), read([1], 1, 2), read([], 3, 4), read([1], END, END)],
        "stands behind",
    ),
    "order turned round": ([append(1, 0, 1), append(2, 2, 3), read([2, 1], END, END)], "stands behind"),
    "read before it was appended": ([read([1], 0, 1), append(1, 2, 3), read([1], END, END)], "stands behind"),
    "a hole": ([append(1, 0, 1), append(2, 0, 1), read([2], 5, 6), read([1, 2], END, END)], "not how log begins"),
    "never read": ([append(1, 0, 1)], "never read"),
    "a lost update": ([put(1, 0, 1), look(None, 2, 3)], "while it was"),
    "an update undone": ([put(1, 0, 1), put(2, 2, 3), look(1, 4, 5)], "while it was"),
    "back and forth": ([put(1, 0, 9), put(2, 0, 9), look(1, 1, 2), look(2, 3, 4), look(1, 5, 6)], "while it was"),
    "seen before": ([look(1, 0, 1), put(1, 2, 3)], "before it was set"),
    "from nowhere": ([look(1, 0, 1)], "nobody set"),
    "a failure that is seen and unseen": ([put(1, 0, math.inf), look(1, 1, 2), look(None, 3, 4)], "while it was"),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_right_history_has_no_faults(history: list[Operation]) -> None:
    assert faults(history) == []


@pytest.mark.parametrize(("history", "said"), BAD.values(), ids=BAD)
def test_a_wrong_history_is_told(history: list[Operation], said: str) -> None:
    found = faults(history)
    assert found and all(said in each for each in found)


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Try all orders: each next operation must have begun before any that is left has ended."""

    def search(left: tuple[Operation, ...], log: tuple[int, ...], status: int | None) -> bool:
        if all(each.ended == math.inf for each in left):
            return True  # what failed need not have been done
        return any(
            search(left[:at] + left[at + 1 :], *after)
            for at, each in enumerate(left)
            if all(each.begun <= other.ended for other in left)
            for after in outcomes(each, log, status)
        )

    return search(tuple(history), (), None)


def outcomes(each: Operation, log: tuple[int, ...], status: int | None) -> Iterator[tuple[tuple[int, ...], int | None]]:
    if each.kind == "append":
        yield (*log, each.value), status
    elif each.kind == "set":
        yield log, each.value
    elif each.kind == "look":
        if each.value == status:
            yield log, status
    elif each.value in (list(log), len(log)):
        yield log, status


TIMES = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def log_histories(draw: st.DrawFn) -> list[Operation]:
    whole = draw(st.permutations(range(draw(st.integers(0, 4)))))
    history = [append(value, *draw(TIMES)) for value in whole]
    history = [replace(each, ended=draw(st.sampled_from([each.ended] * 3 + [math.inf]))) for each in history]
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, len(whole)))
        history.append(read(draw(st.sampled_from([whole[:count], count])), *draw(TIMES)))
    history += [append(9, draw(st.integers(0, 9)), math.inf)] * draw(st.integers(0, 1))
    return [*history, read(list(whole), END, END)]


@st.composite
def register_histories(draw: st.DrawFn) -> list[Operation]:
    count = draw(st.integers(0, 3))
    history = []
    for value in range(count):
        begun, ended = draw(TIMES)
        history.append(put(value, begun, draw(st.sampled_from([ended, ended, ended, math.inf]))))
    values = st.sampled_from([None, *range(count)])
    return history + [look(draw(values), *draw(TIMES)) for _ in range(draw(st.integers(0, 4)))]


@given(log_histories())
@settings(max_examples=tried(300, 2_000, 20_000), deadline=None)
def test_of_a_log_it_says_what_a_search_of_all_orders_says(history: list[Operation]) -> None:
    assert (faults(history) == []) == is_linearizable(history)


@given(register_histories())
@settings(max_examples=tried(300, 2_000, 20_000), deadline=None)
def test_of_a_register_it_says_what_a_search_of_all_orders_says(history: list[Operation]) -> None:
    assert (faults(history) == []) == is_linearizable(history)


async def test_what_is_recorded_comes_back_and_a_call_that_failed_has_no_end(tmp_path: Path) -> None:
    async def answer(value: int) -> int:
        if value < 0:
            raise ValueError(value)
        return value

    recorder = Recorder(tmp_path / "one.jsonl")
    await recorder.does("append", "log", answer(1), "said")
    with pytest.raises(ValueError):
        await recorder.does("set", "status", answer(-1), "done")
    await recorder.finds("read", "log", answer(1), lambda count: ["said"] * count)
    first, second, third = recorded(tmp_path)
    assert (first.kind, first.of, first.value) == ("append", "log", "said")
    assert (second.kind, second.ended) == ("set", math.inf)
    assert third.value == ["said"] and first.begun <= first.ended <= second.begun <= third.begun <= third.ended
    assert faults([first, second, third]) == []
