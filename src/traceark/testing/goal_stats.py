"""The suite's part on stats: what messages add up to, by goal, and what a caller sets of it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from traceark.models import Goal, GoalStats, GoalTree, Trace
from traceark.protocol import TraceStore
from traceark.testing.scenario import StoreTests, add_family, goal_of, header, message, scenario, tree_of


async def cumulative_tokens(store: TraceStore) -> dict[str, int]:
    """Return the cumulative tokens of each goal."""
    return {goal.id: goal.cumulative_stats.total_tokens for goal in (await tree_of(store)).goals}


class GoalStatsTests(StoreTests):
    """What the protocol says of a goal's own and cumulative stats."""

    @scenario
    async def test_a_message_counts_to_its_goal_and_every_ancestor(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1", tokens=5, cost=0.25, duration_ms=10, tool_name="grep"))
        counted = GoalStats(message_count=1, total_tokens=5, total_cost=0.25, total_duration_ms=10, preview="grep")
        assert [(goal.self_stats, goal.cumulative_stats) for goal in (await tree_of(store)).goals] == [
            (GoalStats(), counted),
            (counted, counted),
            (GoalStats(), GoalStats()),
            (GoalStats(), GoalStats()),
        ]
        assert (await header(store)).total_tokens == 5

    @pytest.mark.parametrize("order", list(itertools.permutations(["goals", "leaf", "root"])))
    @scenario
    async def test_goals_and_messages_may_come_in_any_order(self, store: TraceStore, order: tuple[str, ...]) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for step in order:
            if step == "goals":
                await add_family(store)
            else:
                goal_id = {"leaf": "1.1.1", "root": "1"}[step]
                await store.add_message(message(goal_id=goal_id, tokens={"leaf": 1, "root": 2}[step]))
        assert await cumulative_tokens(store) == {"1": 3, "1.1": 1, "1.1.1": 1, "2": 0}

    @scenario
    async def test_a_message_without_a_goal_counts_to_the_trace_alone(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(tokens=5))
        assert set((await cumulative_tokens(store)).values()) == {0}
        assert (await header(store)).total_tokens == 5

    @scenario
    async def test_stats_follow_a_message_to_another_goal(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1.1", tokens=5, tool_name="grep"))
        await store.update_message("t-0001", goal_id="2", tokens=6)
        assert await cumulative_tokens(store) == {"1": 0, "1.1": 0, "1.1.1": 0, "2": 6}
        assert (await goal_of(store, "1")).cumulative_stats == GoalStats()
        assert (await goal_of(store, "2")).self_stats.preview == "grep"
        assert [each.message_id for each in await store.get_messages_by_goal("t", "2")] == ["t-0001"]
        await store.update_message("t-0001", goal_id=None)
        assert set((await cumulative_tokens(store)).values()) == {0}
        await store.update_message("t-0001", goal_id="later")
        await store.add_goal("t", Goal(id="later"))
        assert (await goal_of(store, "later")).self_stats.total_tokens == 6

    @scenario
    async def test_stats_follow_a_goal_to_another_parent(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1.1", tokens=5))
        await store.update_goal("t", "1.1", parent_id="2")
        assert await cumulative_tokens(store) == {"1": 0, "1.1": 5, "1.1.1": 5, "2": 5}
        await store.update_goal("t", "1.1.1", parent_id=None)
        assert await cumulative_tokens(store) == {"1": 0, "1.1": 0, "1.1.1": 5, "2": 0}

    @scenario
    async def test_cost_is_summed_exactly(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        for at in range(10):
            await store.add_message(message(goal_id=("1", "1.1", "1.1.1")[at % 3], cost=0.1))
        assert (await goal_of(store, "1")).cumulative_stats.total_cost == 1.0
        assert (await goal_of(store, "1")).self_stats.total_cost == 0.4

    @scenario
    async def test_the_preview_names_the_last_five_tools(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        assert (await goal_of(store, "1")).self_stats.preview is None
        for at in range(7):
            await store.add_message(message(goal_id="1" if at % 2 else "1.1", tool_name=f"tool{at}", sequence=100 - at))
            await store.add_message(message(goal_id="1"))
        goal = await goal_of(store, "1")
        assert goal.self_stats.preview == "tool1 → tool3 → tool5"
        assert goal.cumulative_stats.preview == "tool2 → tool3 → tool4 → tool5 → tool6"
        await store.update_message("t-0097", tool_name="renamed")
        assert (await goal_of(store, "1")).self_stats.preview == "tool1 → renamed → tool5"

    @scenario
    async def test_a_preview_finds_older_tools_when_newer_ones_leave(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        said = (message(message_id=f"m{at}", sequence=at, goal_id="1", tool_name=f"tool{at}") for at in range(1, 61))
        await asyncio.gather(*(store.add_message(each) for each in said))
        await asyncio.gather(*(store.update_message(f"m{at}", goal_id="2") for at in range(51, 61)))
        assert (await goal_of(store, "1")).self_stats.preview == "tool46 → tool47 → tool48 → tool49 → tool50"
        assert (await goal_of(store, "2")).self_stats.preview == "tool56 → tool57 → tool58 → tool59 → tool60"

    @scenario
    async def test_own_stats_that_are_set_are_read_back_and_added_to(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1", tokens=5))
        given = GoalStats(message_count=9, total_tokens=90, total_cost=0.3, total_duration_ms=7, preview="a → b")
        await store.update_goal("t", "1.1", self_stats=given)
        assert (await goal_of(store, "1.1")).self_stats == given
        await store.add_message(message(goal_id="1.1", tokens=1, cost=0.1, tool_name="c"))
        goal = await goal_of(store, "1.1")
        assert goal.self_stats == GoalStats(
            message_count=10, total_tokens=91, total_cost=0.4, total_duration_ms=7, preview="a → b → c"
        )
        # What is set of a goal's own counts to the goals above it.
        assert await cumulative_tokens(store) == {"1": 91, "1.1": 91, "1.1.1": 0, "2": 0}
        await store.update_goal("t", "1.1", self_stats=GoalStats())
        assert (await goal_of(store, "1.1")).self_stats == GoalStats()

    @scenario
    async def test_cumulative_stats_that_are_set_are_read_back_and_added_to(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1", tokens=5, cost=0.1))
        given = GoalStats(message_count=3, total_tokens=50, total_cost=0.7)
        await store.update_goal("t", "1.1", cumulative_stats=given)
        goal = await goal_of(store, "1.1")
        assert goal.cumulative_stats == given
        assert goal.self_stats.total_tokens == 5
        await store.add_message(message(goal_id="1.1.1", tokens=1, cost=0.2))
        assert (await goal_of(store, "1.1")).cumulative_stats == GoalStats(
            message_count=4, total_tokens=51, total_cost=0.9
        )
        # What is set of a goal's cumulative stats is of that goal alone.
        assert (await goal_of(store, "1")).cumulative_stats.total_tokens == 6

    @scenario
    async def test_stats_in_a_fresh_tree_are_set_and_zeros_are_not(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(goal_id="1", tokens=5))
        await store.add_message(message(goal_id="2", tokens=7))
        own = GoalStats(message_count=2, total_tokens=20)
        await store.update_goal_tree("t", GoalTree(goals=[Goal(id="1", self_stats=own), Goal(id="2")]))
        tree = await tree_of(store)
        assert [goal.self_stats.total_tokens for goal in tree.goals] == [20, 7]
        await store.add_message(message(goal_id="1", tokens=1))
        assert (await goal_of(store, "1")).self_stats.total_tokens == 21

    @scenario
    async def test_stats_of_a_goal_that_is_added_are_set(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal(id="1", self_stats=GoalStats(message_count=2, total_tokens=20)))
        await store.add_message(message(goal_id="1", tokens=1))
        goal = await goal_of(store, "1")
        assert (goal.self_stats.message_count, goal.self_stats.total_tokens) == (3, 21)
        assert goal.cumulative_stats.total_tokens == 21

    @scenario
    async def test_a_tree_written_back_leaves_the_stats_it_read_alone(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="1.1", tokens=5))
        tree = await tree_of(store)
        await store.add_message(message(goal_id="1.1", tokens=1))
        tree.mission = "ship"
        tree.goals[3].self_stats = GoalStats(message_count=1, total_tokens=100)
        await store.update_goal_tree("t", tree)
        assert await cumulative_tokens(store) == {"1": 6, "1.1": 6, "1.1.1": 0, "2": 100}
        await store.update_message("t-0001", tokens=2)
        assert await cumulative_tokens(store) == {"1": 3, "1.1": 3, "1.1.1": 0, "2": 100}

    @scenario
    async def test_messages_outlive_their_goal(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await add_family(store)
        await store.add_message(message(goal_id="2", tokens=5))
        await store.update_goal_tree("t", GoalTree(goals=[Goal(id="1")]))
        assert [each.goal_id for each in await store.get_messages_by_goal("t", "2")] == ["2"]
        await store.add_goal("t", Goal(id="2"))
        assert (await goal_of(store, "2")).self_stats.total_tokens == 5
