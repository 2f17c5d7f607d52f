"""The suite's part on values: what JSON can say comes back, what it cannot is refused by its path."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import SimpleNamespace
from typing import Any

import pytest

from traceark.errors import InvalidValueError
from traceark.models import RESERVED_FIELDS, Goal, GoalTree, Json, Message, Trace
from traceark.protocol import TraceStore
from traceark.testing.compare import exact_text
from traceark.testing.scenario import (
    StoreTests,
    as_given,
    case,
    goal_of,
    header,
    message,
    message_of,
    scenario,
    tree_of,
)
from traceark.testing.values import HARD_VALUES, HUGE_TEXT, REFUSED_VALUES, nested_lists


def exact_json(value: Json) -> str:
    """Return a value as text that tells 1 from 1.0."""
    return exact_text(Message(trace_id="t", role="user", content=value))


class ExactnessTests(StoreTests):
    """What the models promise of values, and of objects that are no models."""

    @scenario
    async def test_what_json_can_say_comes_back(self, store: TraceStore) -> None:
        for number, (name, value) in enumerate(list(HARD_VALUES.items())[:: self.step]):
            with case(name):
                await self.comes_back(store, f"t{number}", value)

    async def comes_back(self, store: TraceStore, trace_id: str, value: Json) -> None:
        """Assert that a value comes back wherever it may stand in a trace."""
        await store.create_trace(Trace(trace_id=trace_id, context={"v": value}, metadata={"v": value}))
        await store.update_trace(trace_id, metadata={"w": value})
        await store.add_message(message(trace_id, content=value, unknown=value))
        await store.add_message(message(trace_id))
        await store.update_message(f"{trace_id}-0002", content=value)
        await store.append_event(trace_id, "e", value)
        await store.add_goal(trace_id, Goal.parse({"id": "1", "unknown": value}))
        trace = await header(store, trace_id)
        (event,) = await store.get_events(trace_id)
        first, second = await store.get_trace_messages(trace_id)
        goal = await goal_of(store, "1", trace_id)
        kept = [
            trace.context["v"], trace.metadata["w"], event.payload, first.content, second.content,
            (first.model_extra or {})["unknown"], (goal.model_extra or {})["unknown"],
        ]  # fmt: skip
        assert {exact_json(each) for each in kept} == {exact_json(value)}

    @scenario
    async def test_a_text_of_16_mib_comes_back(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content=HUGE_TEXT))
        await store.append_event("t", "e", [HUGE_TEXT])
        kept = (await message_of(store, "t-0001")).content
        # Compared apart from `assert`, which would spend minutes on showing a difference.
        same = kept == HUGE_TEXT and (await store.get_events("t"))[0].payload == [HUGE_TEXT]
        assert same, "16 MiB came back changed"

    @scenario
    async def test_what_json_cannot_say_is_refused_by_its_path(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m"))
        await store.add_goal("t", Goal(id="1"))
        for name, (value, tail) in REFUSED_VALUES.items():
            with case(name):
                await self.is_refused(store, value, tail)
        assert [each.message_id for each in await store.get_trace_messages("t")] == ["m"]
        assert await store.get_events("t") == []
        assert await store.get_trace("u") is None
        assert [goal.id for goal in (await tree_of(store)).goals] == ["1"]

    async def is_refused(self, store: TraceStore, value: Any, tail: str) -> None:
        """Assert that a value is refused wherever it may stand in a trace; `tail` ends the path to it."""
        inside = {"v": value}
        refused: list[tuple[Any, str]] = [
            (store.add_message(message(content=value)), f"content{tail}"),
            (store.add_message(message(unknown=value)), f"unknown{tail}"),
            (store.update_message("m", content=value), f"content{tail}"),
            (store.append_event("t", "e", value), f"payload{tail}"),
            (store.create_trace(Trace(trace_id="u", context=inside)), f"context.v{tail}"),
            (store.update_trace("t", metadata=inside), f"metadata.v{tail}"),
            (store.add_goal("t", Goal.parse({"id": "2", "unknown": inside})), f"unknown.v{tail}"),
            (
                store.update_goal_tree("t", GoalTree(goals=[Goal.parse({"id": "2", "unknown": inside})])),
                f"goals[0].unknown.v{tail}",
            ),
        ]
        for write, path in refused:
            with pytest.raises(InvalidValueError) as caught:
                await write
            # A goal that is added may be named by its place in the tree.
            assert caught.value.path.endswith(path)
            assert caught.value.path in str(caught.value)

    @scenario
    async def test_nesting_without_end_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        endless: list[Any] = []
        endless.append(endless)
        for value in (endless, nested_lists(100_000)):
            with pytest.raises(InvalidValueError, match="payload"):
                await store.append_event("t", "e", value)
        assert await store.get_events("t") == []

    @scenario
    async def test_unknown_fields_must_not_take_the_archives_own_names(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for name in sorted(RESERVED_FIELDS):
            with pytest.raises(InvalidValueError, match=name):
                await store.add_message(as_given(trace_id="t", role="user", **{name: 1}))
            with pytest.raises(InvalidValueError, match=name):
                await store.create_trace(as_given(trace_id="u", **{name: 1}))
            with pytest.raises(InvalidValueError, match=name):
                await store.add_goal("t", as_given(id="1", **{name: 1}))
        assert await store.get_trace_messages("t") == []
        assert await store.get_trace("u") is None

    @scenario
    async def test_dataclasses_are_taken_for_models(self, store: TraceStore) -> None:
        trace_id = await store.create_trace(FrameworkTrace("t", Mode.AGENT))  # type: ignore[arg-type]
        assert trace_id == "t"
        goals = [FrameworkGoal("1", Status.COMPLETED), FrameworkGoal("1.1", Status.PENDING, parent_id="1")]
        await store.update_goal_tree("t", FrameworkTree("ship", goals, current_id="1.1"))  # type: ignore[arg-type]
        await store.add_goal("t", FrameworkGoal("2", Status.PENDING))  # type: ignore[arg-type]
        given = FrameworkMessage("t", Role.TOOL, {"a": [1.0]}, FrameworkUsage(3, 4), goal_id="1.1", mood="calm")
        message_id = await store.add_message(given)  # type: ignore[arg-type]
        trace = await header(store)
        assert (trace.mode, trace.status, trace.total_tokens) == ("agent", "running", 7)
        tree = await tree_of(store)
        assert (tree.mission, tree.current_id) == ("ship", "1.1")
        assert [(goal.id, goal.status) for goal in tree.goals] == [
            ("1", "completed"),
            ("1.1", "pending"),
            ("2", "pending"),
        ]
        assert tree.goals[0].cumulative_stats.total_tokens == 7
        kept = await message_of(store, message_id)
        assert (kept.role, kept.content, kept.model_extra) == ("tool", {"a": [1.0]}, {"mood": "calm"})
        assert kept.usage is not None
        assert (kept.usage.input_tokens, kept.usage.output_tokens) == (3, 4)

    @scenario
    async def test_plain_objects_are_taken_for_models(self, store: TraceStore) -> None:
        await store.create_trace(SimpleNamespace(trace_id="t", task="x", _private=object()))  # type: ignore[arg-type]
        usage = SimpleNamespace(input_tokens=1, output_tokens=2)
        given: Any = SimpleNamespace(trace_id="t", role="user", content="hi", usage=usage)
        await store.add_message(given)
        goal: Any = SimpleNamespace(id="1", description="look", self_stats=SimpleNamespace(total_tokens=5))
        await store.add_goal("t", goal)
        trace = await header(store)
        assert (trace.task, trace.total_tokens, trace.model_extra) == ("x", 3, {})
        assert (await goal_of(store, "1")).self_stats.total_tokens == 5

    @scenario
    async def test_enums_and_dataclasses_are_taken_in_updates(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal(id="1"))
        await store.add_message(message())
        await store.update_trace("t", status=Status.COMPLETED)
        await store.update_goal("t", "1", status=Status.COMPLETED)
        await store.update_message("t-0001", usage=FrameworkUsage(3, 4), tokens=Count.SEVEN)
        trace = await header(store)
        assert (trace.status, trace.total_tokens) == ("completed", 7)
        assert (await goal_of(store, "1")).status == "completed"

    @scenario
    async def test_a_cost_is_taken_when_a_float_holds_it(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for cost in (Decimal("0.1"), 3, -0.0, 5e-324):
            await store.add_message(as_given(trace_id="t", role="user", cost=cost))
        assert [repr(each.cost) for each in await store.get_trace_messages("t")] == ["0.1", "3.0", "-0.0", "5e-324"]
        with pytest.raises(InvalidValueError, match="cost"):
            await store.add_message(as_given(trace_id="t", role="user", cost=Decimal("0.1000000000000000055")))

    @scenario
    async def test_times_are_taken_as_text(self, store: TraceStore) -> None:
        await store.create_trace(as_given(trace_id="t", created_at="2026-01-02T03:04:05.6Z"))
        assert (await header(store)).created_at == datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)


class Mode(Enum):
    """A framework's own word for a mode."""

    AGENT = "agent"


class Status(str, Enum):  # noqa: UP042 (as frameworks write it)
    """A framework's own words for a status."""

    COMPLETED = "completed"
    PENDING = "pending"


class Role(StrEnum):
    """A framework's own word for a role."""

    TOOL = "tool"


class Count(IntEnum):
    """A number with a name."""

    SEVEN = 7


@dataclass
class FrameworkTrace:
    """A framework's own trace."""

    trace_id: str
    mode: Mode


@dataclass(frozen=True)
class FrameworkUsage:
    """A framework's own usage."""

    input_tokens: int
    output_tokens: int


@dataclass
class FrameworkMessage:
    """A framework's own message, with a field that the archive does not know."""

    trace_id: str
    role: Role
    content: Any
    usage: FrameworkUsage
    goal_id: str | None
    mood: str
    message_id: str | None = None


@dataclass(slots=True)
class FrameworkGoal:
    """A framework's own goal."""

    id: str
    status: Status
    parent_id: str | None = None
    sub_trace_ids: list[str] = field(default_factory=list)


@dataclass
class FrameworkTree:
    """A framework's own goal tree."""

    mission: str
    goals: list[FrameworkGoal]
    current_id: str | None
