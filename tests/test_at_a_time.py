"""What is done to many things is done some at a time, in their order, and ends for all where one fails."""

from __future__ import annotations

import asyncio

import pytest

from traceark.at_a_time import for_each

ITEMS, AT_A_TIME = range(20), 3


class Work:
    """Takes longer for some than for others, and counts what is under way."""

    def __init__(self, failing: int | None = None) -> None:
        self.begun: list[int] = []
        self.running, self.most = set[int](), 0
        self.failing = failing
        self.begun_at_the_failure = 0

    async def __call__(self, item: int) -> None:
        self.begun.append(item)
        self.running.add(item)
        self.most = max(self.most, len(self.running))
        try:
            for _ in range(1 + item * 7 % 5):
                await asyncio.sleep(0)
            if item == self.failing:
                self.begun_at_the_failure = len(self.begun)
                raise ValueError(f"{item} fails")
        finally:
            self.running.remove(item)


async def test_each_is_done_once_in_order_and_some_at_a_time() -> None:
    work = Work()
    await for_each(ITEMS, work, AT_A_TIME)
    assert work.begun == [*ITEMS]
    assert work.most == AT_A_TIME
    assert not work.running


async def test_after_an_error_none_is_begun_and_none_is_left_running() -> None:
    work = Work(failing=7)
    with pytest.raises(ValueError, match="7 fails"):
        await for_each(ITEMS, work, AT_A_TIME)
    assert work.begun[:8] == [*range(8)]
    assert len(work.begun) == work.begun_at_the_failure < len(ITEMS)
    assert not work.running
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_waits_for_it_may_go_away() -> None:
    work = Work()
    waiting = asyncio.create_task(for_each(ITEMS, work, AT_A_TIME))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.running
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not work.running
