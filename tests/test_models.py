"""Laws of the models: what they keep, what they refuse, and how other objects become them."""

from __future__ import annotations

import dataclasses
import warnings
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceark.errors import InvalidValueError, NaiveTimeWarning, UnknownFieldError
from traceark.models import (
    INT64_MAX,
    INT64_MIN,
    Event,
    Goal,
    GoalStats,
    GoalTree,
    Message,
    Trace,
    Usage,
    path_of,
    updated,
)
from traceark.protocol import TraceStore
from traceark.testing.compare import exact_text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
int64s = st.integers(INT64_MIN, INT64_MAX)
texts = st.none() | st.text(max_size=5)
message_fields = st.fixed_dictionaries(
    {"trace_id": st.text(max_size=5), "role": st.text(max_size=5), "content": json_values},
    optional={
        "message_id": texts, "sequence": int64s, "goal_id": texts, "tool_name": texts, "tokens": int64s,
        "cost": st.floats(allow_nan=False, allow_infinity=False), "duration_ms": int64s,
        "usage": st.fixed_dictionaries({"input_tokens": int64s}, optional={"output_tokens": int64s, "x": json_values}),
        "created_at": st.datetimes(timezones=st.just(UTC)), "own": json_values,
    },
)  # fmt: skip
# Goals by their position, each with the position of its parent or None.
forests = st.integers(0, 8).flatmap(
    lambda count: st.lists(st.none() | st.integers(0, max(count - 1, 0)), min_size=count, max_size=count)
)


def test_the_protocol_has_exactly_its_methods() -> None:
    methods = {name for name in vars(TraceStore) if not name.startswith("_")}
    assert methods == {
        "create_trace", "get_trace", "update_trace", "list_traces", "get_goal_tree", "update_goal_tree", "add_goal",
        "update_goal", "add_message", "get_message", "get_trace_messages", "get_messages_by_goal", "update_message",
        "get_events", "append_event",
    }  # fmt: skip


@given(message_fields)
def test_a_mapping_and_an_object_make_the_same_message(fields: dict[str, Any]) -> None:
    expected = exact_text(Message.parse(fields))
    assert exact_text(Message.coerce(fields)) == expected
    nested = {**fields, "usage": SimpleNamespace(**fields["usage"])} if fields.get("usage") else fields
    assert exact_text(Message.coerce(SimpleNamespace(**nested))) == expected


@given(message_fields)
def test_a_message_made_again_of_its_fields_is_the_same(fields: dict[str, Any]) -> None:
    message = Message.parse(fields)
    assert exact_text(Message.parse(message.fields())) == exact_text(message)
    assert Message.coerce(message) is message


def test_a_dataclass_makes_a_model_with_its_unknown_fields() -> None:
    @dataclasses.dataclass
    class Stats:
        total_tokens: int

    @dataclasses.dataclass
    class Step:
        id: str
        self_stats: Stats
        priority: int

    goal = Goal.coerce(Step("1", Stats(5), 3))
    assert (goal.self_stats, goal.model_extra) == (GoalStats(total_tokens=5), {"priority": 3})


def test_another_models_instance_is_taken_by_its_fields() -> None:
    class RicherMessage(Message):
        mood: str

    richer = RicherMessage(trace_id="t", role="user", mood="calm", usage=Usage(input_tokens=1))
    taken = Message.coerce(richer)
    assert type(taken) is Message
    assert (taken.model_extra, taken.counted_tokens()) == ({"mood": "calm"}, 1)


@pytest.mark.parametrize("value", [5, None, "text", [1], object(), Message])
def test_what_has_no_fields_is_refused(value: object) -> None:
    with pytest.raises(InvalidValueError):
        Message.coerce(value)


@pytest.mark.parametrize("number", [INT64_MIN, -1, 0, INT64_MAX])
def test_integers_of_64_bits_are_kept(number: int) -> None:
    assert Message.parse({"trace_id": "t", "role": "user", "tokens": number}).tokens == number


@pytest.mark.parametrize("number", [INT64_MIN - 1, INT64_MAX + 1, 1.0, True, "1"])
def test_other_numbers_are_refused_with_their_path(number: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        GoalTree.parse({"goals": [{"id": "1"}, {"id": "2", "self_stats": {"total_tokens": number}}]})
    assert caught.value.path == "goals[1].self_stats.total_tokens"


@given(st.datetimes(timezones=st.timezones() | st.just(timezone(timedelta(hours=14)))))
def test_a_time_keeps_its_instant_and_becomes_utc(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        return
    for given_as in (moment, moment.isoformat()):
        kept = Event.parse({"event_id": 1, "event_type": "e", "created_at": given_as}).created_at
        assert kept.utcoffset() == timedelta(0)
        assert kept == expected


def test_a_time_that_utc_cannot_say_is_refused() -> None:
    moment = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    with pytest.raises(InvalidValueError, match="created_at"):
        Trace.parse({"trace_id": "t", "created_at": moment})


@given(st.datetimes())
def test_a_naive_time_is_taken_as_utc_with_a_warning(moment: datetime) -> None:
    with pytest.warns(NaiveTimeWarning):
        trace = Trace.parse({"trace_id": "t", "created_at": moment})
    assert trace.created_at == moment.replace(tzinfo=UTC)


def test_a_time_with_its_zone_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trace(trace_id="t", created_at=datetime(2026, 1, 1, tzinfo=UTC))


@given(st.dictionaries(st.sampled_from(["task", "status", "total_tokens", "metadata"]), st.just(0), min_size=1))
def test_an_update_changes_a_copy_or_nothing(names: dict[str, int]) -> None:
    values: dict[str, Any] = {"task": "x", "status": "failed", "total_tokens": 5, "metadata": {"a": 1}}
    trace = Trace(trace_id="t")
    before = exact_text(trace)
    after = updated(trace, {name: values[name] for name in names})
    assert exact_text(trace) == before
    assert {name: getattr(after, name) for name in names} == {name: values[name] for name in names}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Trace(trace_id="t"), "trace_id"), (Trace(trace_id="t"), "colour"), (Goal(id="1"), "id"),
        (Message(trace_id="t", role="user"), "sequence"),
        (Message.parse({"trace_id": "t", "role": "user", "own": 1}), "own"),
    ],
)  # fmt: skip
def test_an_update_of_an_unknown_or_identifying_field_is_refused(model: Any, name: str) -> None:
    with pytest.raises(UnknownFieldError, match=name):
        updated(model, {name: "x"})


@given(forests)
def test_a_tree_is_sound_exactly_when_every_goal_reaches_a_root(parents: list[int | None]) -> None:
    def reaches_a_root(step: int | None) -> bool:
        for _ in range(len(parents) + 1):
            if step is None:
                return True
            step = parents[step]
        return False

    goals = [Goal(id=str(at), parent_id=None if up is None else str(up)) for at, up in enumerate(parents)]
    tree = GoalTree(goals=goals)
    if all(reaches_a_root(at) for at in range(len(parents))):
        tree.check()
        assert sorted(goal.id for _, goal in tree.walk()) == sorted(goal.id for goal in goals)
        depths = {goal.id: depth for depth, goal in tree.walk()}
        assert all(depths[each.id] == depths[each.parent_id] + 1 for each in goals if each.parent_id is not None)
    else:
        with pytest.raises(InvalidValueError, match=r"goals\[\d\]\.parent_id"):
            tree.check()


def test_a_long_chain_of_goals_is_checked_and_walked() -> None:
    goals = [Goal(id=str(at), parent_id=str(at - 1) if at else None) for at in range(5000)]
    tree = GoalTree(goals=goals[::-1])
    tree.check()
    assert max(depth for depth, _ in tree.walk()) == 4999


@given(st.lists(st.text("ab", min_size=1, max_size=2) | st.integers(0, 9), max_size=4))
def test_a_path_shows_every_step(steps: list[str | int]) -> None:
    path = path_of(steps)
    assert path.count("[") == sum(isinstance(step, int) for step in steps)
    assert all(str(step) in path for step in steps)
