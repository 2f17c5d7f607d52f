"""How the suite's tests run: plain functions that drive a coroutine, with no plugin for async tests.

Holds the base of all test classes and the few ways in which they look at a store.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from traceark.models import Goal, GoalTree, Message, Trace
from traceark.protocol import TraceStore

P = ParamSpec("P")
S = TypeVar("S", bound=TraceStore)


class StoreTests:
    """Base of the suite's classes; a backend says how a store over a fresh place is opened.

    Attributes
    ----------
    step : int
        Of hostile ids and hard values every so many-th is tried; more than 1 for servers that take long.
    """

    step = 1

    def open_store(self) -> TraceStore:
        """Return a new store over this test's own, at first empty, place."""
        raise NotImplementedError("override open_store")


def scenario(test: Callable[Concatenate[Any, S, P], Awaitable[None]]) -> Callable[Concatenate[Any, P], None]:
    """Make a plain test of a coroutine function that takes a store: opened before, closed after."""

    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            store = self.open_store()
            try:
                await test(self, store, *args, **kwargs)
            finally:
                if hasattr(store, "close"):
                    await store.close()

        asyncio.run(whole())

    functools.update_wrapper(run, test)
    signature = inspect.signature(test)
    kept = [parameter for at, parameter in enumerate(signature.parameters.values()) if at != 1]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return run


@contextmanager
def case(given: object) -> Iterator[None]:
    """Say in a failure which one of several cases it was; those of one test share a store."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the case: {given!r:.200}")
        raise


def as_given(**fields: object) -> Any:
    """Return fields as a framework may hand them over: a mapping in place of a model."""
    return fields


def message(trace_id: str = "t", /, **fields: Any) -> Message:
    """Return a message of a trace, by a user unless `fields` say otherwise."""
    return Message(**{"trace_id": trace_id, "role": "user", **fields})


async def header(store: TraceStore, trace_id: str = "t") -> Trace:
    """Return a trace that must be there."""
    found = await store.get_trace(trace_id)
    assert found is not None, f"no trace {trace_id!r}"
    return found


async def tree_of(store: TraceStore, trace_id: str = "t") -> GoalTree:
    """Return a goal tree that must be there."""
    found = await store.get_goal_tree(trace_id)
    assert found is not None, f"no goal tree in {trace_id!r}"
    return found


async def goal_of(store: TraceStore, goal_id: str, trace_id: str = "t") -> Goal:
    """Return a goal that must be there."""
    found = (await tree_of(store, trace_id)).goal(goal_id)
    assert found is not None, f"no goal {goal_id!r} in {trace_id!r}"
    return found


async def message_of(store: TraceStore, message_id: str) -> Message:
    """Return a message that must be there."""
    found = await store.get_message(message_id)
    assert found is not None, f"no message {message_id!r}"
    return found


async def add_family(store: TraceStore, trace_id: str = "t") -> None:
    """Add the goals that tests of stats use: 1, below it 1.1, below that 1.1.1; and 2."""
    for goal_id, parent_id in (("1", None), ("1.1", "1"), ("1.1.1", "1.1"), ("2", None)):
        await store.add_goal(trace_id, Goal(id=goal_id, description=f"do {goal_id}", parent_id=parent_id))
