"""The suite's part on goals: trees, what is refused in them, and trees that are out of date."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from traceark.errors import (
    GoalExistsError,
    GoalNotFoundError,
    InvalidValueError,
    StaleGoalTreeError,
    UnknownFieldError,
)
from traceark.models import Goal, GoalTree, Trace
from traceark.protocol import TraceStore
from traceark.testing.compare import exact_text
from traceark.testing.scenario import StoreTests, add_family, as_given, case, goal_of, message, scenario, tree_of

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


class GoalTests(StoreTests):
    """What the protocol says of goals and goal trees."""

    @scenario
    async def test_every_field_of_a_tree_comes_back(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        goal = Goal(
            id="1", description="look", reason="asked", type="search", status="completed", summary="found",
            sub_trace_ids=["u", "v"], created_at=NEW_YEAR, completed_at=NEW_YEAR,
        )  # fmt: skip
        child = Goal.parse({"id": "1.1", "parent_id": "1", "created_at": NEW_YEAR, "unknown": {"deep": [2**70]}})
        tree = GoalTree.parse({"mission": "ship", "goals": [goal, child], "current_id": "1.1", "extra": [1.0]})
        await store.update_goal_tree("t", tree)
        assert exact_text(await tree_of(store)) == exact_text(tree)

    @scenario
    async def test_a_first_goal_makes_a_tree(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal(id="1", description="look"))
        tree = await tree_of(store)
        assert tree.mission == ""
        assert [(goal.id, goal.description, goal.status) for goal in tree.goals] == [("1", "look", "pending")]

    @scenario
    async def test_goals_stay_in_the_order_of_adding(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.update_goal_tree("t", GoalTree(mission="ship", goals=[Goal(id="z")]))
        for goal_id in ("b", "a", "c"):
            await store.add_goal("t", Goal(id=goal_id, parent_id="z"))
        tree = await tree_of(store)
        assert (tree.mission, [goal.id for goal in tree.goals]) == ("ship", ["z", "b", "a", "c"])

    @scenario
    async def test_the_same_goal_again_is_no_error_and_another_is(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        goal = Goal(id="1", description="look", created_at=NEW_YEAR)
        await store.add_goal("t", goal)
        await store.add_message(message(goal_id="1", tokens=5))
        await store.add_goal("t", goal)
        with pytest.raises(GoalExistsError) as caught:
            await store.add_goal("t", Goal(id="1", description="other", created_at=NEW_YEAR))
        assert isinstance(caught.value, ValueError)
        assert [goal.description for goal in (await tree_of(store)).goals] == ["look"]
        assert (await goal_of(store, "1")).self_stats.total_tokens == 5

    @scenario
    async def test_goals_added_by_many_tasks_are_all_there(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await asyncio.gather(*(store.add_goal("t", Goal(id=str(at))) for at in range(20)))
        assert sorted(int(goal.id) for goal in (await tree_of(store)).goals) == list(range(20))

    @scenario
    async def test_an_update_sets_what_it_names_and_nothing_else(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal.parse({"id": "1", "description": "look", "created_at": NEW_YEAR, "own": 1}))
        await store.update_goal("t", "1", status="completed", summary="found", sub_trace_ids=["u"], reason=None)
        await store.update_goal("t", "1", completed_at=NEW_YEAR)
        expected = {
            "id": "1", "description": "look", "created_at": NEW_YEAR, "own": 1, "status": "completed",
            "summary": "found", "sub_trace_ids": ["u"], "completed_at": NEW_YEAR,
        }  # fmt: skip
        assert exact_text(await goal_of(store, "1")) == exact_text(Goal.parse(expected))

    @scenario
    async def test_updates_from_many_tasks_are_all_kept(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await asyncio.gather(*(store.update_goal("t", goal, summary=goal) for goal in ("1", "1.1", "1.1.1", "2")))
        assert [goal.summary for goal in (await tree_of(store)).goals] == ["1", "1.1", "1.1.1", "2"]

    @scenario
    async def test_an_update_of_an_absent_goal_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.raises(GoalNotFoundError, match="absent") as caught:
            await store.update_goal("t", "absent", status="x")
        assert isinstance(caught.value, KeyError)
        await store.add_goal("t", Goal(id="1"))
        with pytest.raises(GoalNotFoundError, match="absent"):
            await store.update_goal("t", "absent", status="x")

    @pytest.mark.parametrize("name", ["colour", "id"])
    @scenario
    async def test_an_update_of_an_unknown_or_identifying_field_is_refused(self, store: TraceStore, name: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal(id="1"))
        with pytest.raises(UnknownFieldError):
            await store.update_goal("t", "1", **{"status": "x", name: "2"})
        assert [(goal.id, goal.status) for goal in (await tree_of(store)).goals] == [("1", "pending")]

    @scenario
    async def test_a_value_that_a_goal_cannot_hold_is_refused_by_its_path(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        refused: list[tuple[str, Any]] = [
            ("description", None), ("description", "\ud800"), ("status", 5), ("sub_trace_ids", "u"),
            ("sub_trace_ids", [5]), ("parent_id", "absent"), ("parent_id", "1"),
            ("self_stats", {"total_tokens": 2**63}), ("created_at", 5),
            ("self_stats", {"total_cost": float("nan")}), ("sub_trace_ids", ["a", "\udfff"]),
        ]  # fmt: skip
        for field, value in refused:
            with case((field, value)):
                with pytest.raises(InvalidValueError) as caught:
                    await store.add_goal("t", as_given(id="1", **{field: value}))
                assert field in caught.value.path
                with pytest.raises(InvalidValueError) as caught:
                    await store.update_goal_tree("t", as_given(goals=[{"id": "0"}, {"id": "1", field: value}]))
                assert caught.value.path.startswith(f"goals[1].{field}")
                # Nor does it pass in a goal that was made without validation.
                unchecked = Goal.model_construct(**{"id": "1", field: value})
                with pytest.raises(InvalidValueError) as caught:
                    await store.add_goal("t", unchecked)
                assert field in caught.value.path
                with pytest.raises(InvalidValueError) as caught:
                    await store.update_goal_tree("t", GoalTree(goals=[Goal(id="0"), unchecked]))
                assert caught.value.path.startswith(f"goals[1].{field}")
        assert await store.get_goal_tree("t") is None
        await store.add_goal("t", Goal(id="1", created_at=NEW_YEAR))
        for field, value in refused:
            with case((field, value)), pytest.raises(InvalidValueError) as caught:
                await store.update_goal("t", "1", **{field: value})
            assert field in caught.value.path
        assert exact_text(await goal_of(store, "1")) == exact_text(Goal(id="1", created_at=NEW_YEAR))

    @scenario
    async def test_a_cycle_of_goals_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        with pytest.raises(InvalidValueError, match="parent_id"):
            await store.update_goal("t", "1", parent_id="1.1.1")
        cycle = [Goal(id="a", parent_id="b"), Goal(id="b", parent_id="c"), Goal(id="c", parent_id="a")]
        with pytest.raises(InvalidValueError, match=r"goals\[0\].parent_id"):
            await store.update_goal_tree("t", GoalTree(goals=cycle))
        assert [goal.parent_id for goal in (await tree_of(store)).goals] == [None, "1", "1.1", None]

    @scenario
    async def test_two_goals_of_one_id_and_an_unknown_current_goal_are_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.raises(InvalidValueError, match=r"goals\[1\].id"):
            await store.update_goal_tree("t", GoalTree(goals=[Goal(id="a"), Goal(id="a")]))
        with pytest.raises(InvalidValueError, match="current_id"):
            await store.update_goal_tree("t", GoalTree(goals=[Goal(id="a")], current_id="b"))
        assert await store.get_goal_tree("t") is None

    @scenario
    async def test_a_parent_may_stand_after_its_children(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.update_goal_tree("t", GoalTree(goals=[Goal(id="1.1", parent_id="1"), Goal(id="1")]))
        await store.add_message(message(goal_id="1.1", tokens=5))
        assert (await goal_of(store, "1")).cumulative_stats.total_tokens == 5

    @scenario
    async def test_a_tree_that_was_read_is_written_back(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        tree = await tree_of(store)
        tree.mission = "ship"
        tree.goals[0].status = "in_progress"
        tree.goals = [*tree.goals, Goal(id="3")]
        tree.current_id = "3"
        await store.update_goal_tree("t", tree)
        kept = await tree_of(store)
        assert (kept.mission, kept.current_id) == ("ship", "3")
        assert [(goal.id, goal.status) for goal in kept.goals][::4] == [("1", "in_progress"), ("3", "pending")]

    @scenario
    async def test_a_tree_may_be_written_back_more_than_once(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        tree = await tree_of(store)
        for mission in ("a", "b", "c"):
            tree.mission = mission
            await store.update_goal_tree("t", tree)
        assert (await tree_of(store)).mission == "c"

    @scenario
    async def test_a_tree_that_was_changed_since_it_was_read_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        changes = (
            store.add_goal("t", Goal(id="3")),
            store.update_goal("t", "1", status="completed"),
            store.update_goal_tree("t", GoalTree(mission="other", goals=[Goal(id="1")])),
        )
        for change in changes:
            tree = await tree_of(store)
            await change
            with pytest.raises(StaleGoalTreeError) as caught:
                await store.update_goal_tree("t", tree)
            assert isinstance(caught.value, RuntimeError)
        assert (await tree_of(store)).mission == "other"

    @scenario
    async def test_of_two_who_read_one_tree_the_first_to_write_wins(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        first, second = await tree_of(store), await tree_of(store)
        first.mission, second.mission = "first", "second"
        await store.update_goal_tree("t", first)
        with pytest.raises(StaleGoalTreeError):
            await store.update_goal_tree("t", second)
        assert (await tree_of(store)).mission == "first"

    @scenario
    async def test_messages_do_not_put_a_tree_out_of_date(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        tree = await tree_of(store)
        await store.add_message(message(goal_id="1", tokens=5))
        await store.update_message("t-0001", tokens=6)
        await store.update_trace("t", task="x")
        await store.append_event("t", "e", None)
        tree.mission = "ship"
        await store.update_goal_tree("t", tree)
        assert (await goal_of(store, "1")).self_stats.total_tokens == 6

    @scenario
    async def test_a_fresh_tree_replaces_what_is_there(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1", tokens=5))
        await store.update_goal_tree("t", GoalTree(mission="anew", goals=[Goal(id="9"), Goal(id="1.1", parent_id="9")]))
        tree = await tree_of(store)
        assert [goal.id for goal in tree.goals] == ["9", "1.1"]
        assert [goal.cumulative_stats.total_tokens for goal in tree.goals] == [5, 5]

    @scenario
    async def test_the_callers_own_goal_stays_as_it_was(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        goal = Goal(id="1", sub_trace_ids=["u"], created_at=NEW_YEAR)
        tree = GoalTree(goals=[goal])
        await store.update_goal_tree("t", tree)
        await store.add_message(message(goal_id="1", tokens=5))
        assert goal.self_stats.total_tokens == 0
        goal.sub_trace_ids.append("v")
        tree.goals.append(Goal(id="2"))
        assert [each.sub_trace_ids for each in (await tree_of(store)).goals] == [["u"]]
        (await goal_of(store, "1")).sub_trace_ids.append("w")
        assert (await goal_of(store, "1")).sub_trace_ids == ["u"]
