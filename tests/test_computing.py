"""Computing in threads: side by side, and in turns where that is said."""

from __future__ import annotations

import asyncio
import threading

from traceark.computing import computed, in_turns


async def test_two_things_are_computed_side_by_side() -> None:
    both = threading.Barrier(2, timeout=60)
    await asyncio.gather(computed(both.wait), computed(both.wait))


async def test_in_turns_one_thing_is_computed_after_the_other_by_whatever_tasks() -> None:
    begun: list[str] = []
    ended = threading.Event()

    def first() -> None:
        begun.append("first")
        ended.wait(60)

    with in_turns():
        tasks = [asyncio.create_task(computed(each)) for each in (first, lambda: begun.append("second"))]
        while not begun:
            await asyncio.to_thread(lambda: None)
        before = begun.copy()
        ended.set()
        await asyncio.gather(*tasks)
    assert (before, begun) == (["first"], ["first", "second"])


async def test_a_thread_that_waits_for_the_disk_waits_beside_what_is_computed() -> None:
    both = threading.Barrier(2, timeout=60)
    with in_turns():
        await asyncio.gather(computed(both.wait), asyncio.to_thread(both.wait))
