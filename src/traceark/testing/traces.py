"""The suite's part on traces: headers, filters, totals that a caller sets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from traceark.errors import (
    InvalidIdError,
    InvalidValueError,
    NaiveTimeWarning,
    TracearkError,
    TraceExistsError,
    TraceNotFoundError,
    UnknownFieldError,
)
from traceark.models import Trace
from traceark.protocol import TraceStore
from traceark.testing.compare import exact_text
from traceark.testing.scenario import StoreTests, as_given, case, header, message, scenario
from traceark.testing.values import HOSTILE_IDS, REFUSED_IDS

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


class TraceTests(StoreTests):
    """What the protocol says of traces."""

    def test_a_store_is_a_trace_store(self) -> None:
        assert isinstance(self.open_store(), TraceStore)

    @scenario
    async def test_every_field_of_a_trace_comes_back(self, store: TraceStore) -> None:
        trace = Trace(
            trace_id="t", mode="call", task="sort the mail", agent_type="clerk", uid="u-1", model="m-1",
            status="failed", parent_trace_id="p", parent_goal_id="p-1", current_goal_id="1", result_summary="none",
            error_message="no", context={"a": [1, 2.0]}, metadata={"b": None}, created_at=NEW_YEAR,
            completed_at=NEW_YEAR + timedelta(1),
        )  # fmt: skip
        assert await store.create_trace(trace) == "t"
        assert exact_text(await header(store)) == exact_text(trace)

    @scenario
    async def test_unknown_fields_of_a_trace_are_kept(self, store: TraceStore) -> None:
        await store.create_trace(Trace.parse({"trace_id": "t", "git": {"commit": "c0ffee"}, "depth": 2**70}))
        await store.update_trace("t", task="x")
        assert (await header(store)).model_extra == {"git": {"commit": "c0ffee"}, "depth": 2**70}

    @scenario
    async def test_a_trace_without_an_id_is_given_one(self, store: TraceStore) -> None:
        first, second = await store.create_trace(as_given(task="a")), await store.create_trace(as_given(task="b"))
        assert first != second
        assert (await header(store, first)).task == "a"

    @scenario
    async def test_a_trace_is_stamped_when_it_has_no_time(self, store: TraceStore) -> None:
        before = datetime.now(UTC)
        await store.create_trace(Trace(trace_id="t"))
        created_at = (await header(store)).created_at
        assert created_at is not None
        assert created_at.utcoffset() == timedelta(0)
        assert before <= created_at <= datetime.now(UTC)

    @scenario
    async def test_times_come_back_in_utc_to_the_microsecond(self, store: TraceStore) -> None:
        east = datetime(2026, 3, 4, 5, 6, 7, 123457, tzinfo=timezone(timedelta(hours=9)))
        await store.create_trace(Trace(trace_id="t", created_at=east, completed_at=datetime.max.replace(tzinfo=UTC)))
        trace = await header(store)
        assert trace.created_at == east
        assert trace.created_at is not None
        assert trace.created_at.utcoffset() == timedelta(0)
        assert trace.completed_at == datetime.max.replace(tzinfo=UTC)

    @scenario
    async def test_a_naive_time_is_taken_as_utc_and_said_so(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        with pytest.warns(NaiveTimeWarning):
            await store.update_trace("t", completed_at=datetime(2026, 1, 1))
        assert (await header(store)).completed_at == NEW_YEAR

    @scenario
    async def test_a_second_trace_of_an_id_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t", task="first"))
        with pytest.raises(TraceExistsError) as caught:
            await store.create_trace(Trace(trace_id="t", task="second"))
        assert isinstance(caught.value, FileExistsError)
        assert (await header(store)).task == "first"

    @scenario
    async def test_of_many_who_create_one_id_one_wins(self, store: TraceStore) -> None:
        made = await asyncio.gather(
            *(store.create_trace(Trace(trace_id="t", task=str(at))) for at in range(10)), return_exceptions=True
        )
        assert made.count("t") == 1
        assert sum(isinstance(each, TraceExistsError) for each in made) == 9
        assert (await header(store)).task == str(made.index("t"))

    @scenario
    async def test_what_is_absent_is_none_or_nothing(self, store: TraceStore) -> None:
        for trace_id in ("absent", "../absent", *REFUSED_IDS.values()):
            assert await store.get_trace(trace_id) is None
            assert await store.get_goal_tree(trace_id) is None
            assert await store.get_trace_messages(trace_id) == []
            assert await store.get_messages_by_goal(trace_id, "1") == []
            assert await store.get_events(trace_id) == []
        assert await store.get_message("absent") is None
        assert await store.list_traces() == []
        await store.create_trace(Trace(trace_id="t"))
        assert await store.get_goal_tree("t") is None
        assert await store.get_trace_messages("t") == []
        assert await store.get_events("t") == []
        assert await store.get_message("absent") is None
        assert await store.get_messages_by_goal("t", "absent") == []

    @scenario
    async def test_a_write_to_an_absent_trace_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        writes = (
            store.update_trace("absent", task="x"),
            store.add_message(message("absent")),
            store.append_event("absent", "e", {}),
            store.add_goal("absent", as_given(id="1")),
            store.update_goal("absent", "1", status="x"),
            store.update_goal_tree("absent", as_given(mission="x")),
        )
        for write in writes:
            with pytest.raises(TraceNotFoundError, match="absent") as caught:
                await write
            assert isinstance(caught.value, KeyError)
        assert [trace.trace_id for trace in await store.list_traces()] == ["t"]

    @scenario
    async def test_an_update_sets_what_it_names_and_nothing_else(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t", task="a", uid="u", created_at=NEW_YEAR))
        await store.update_trace("t", status="completed", result_summary="done", context={"k": 1}, uid=None)
        await store.update_trace("t", metadata={"m": 2})
        expected = Trace(
            trace_id="t", task="a", status="completed", result_summary="done", context={"k": 1}, metadata={"m": 2},
            created_at=NEW_YEAR,
        )  # fmt: skip
        assert exact_text(await header(store)) == exact_text(expected)

    @scenario
    async def test_an_update_of_an_unknown_field_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t", created_at=NEW_YEAR))
        with pytest.raises(UnknownFieldError, match="colour") as caught:
            await store.update_trace("t", status="failed", colour="red")
        assert isinstance(caught.value, TypeError)
        assert (await header(store)).status == "running"

    @scenario
    async def test_a_value_that_a_field_cannot_hold_is_refused_by_name(self, store: TraceStore) -> None:
        refused: list[tuple[str, Any]] = [
            ("status", "done"), ("status", None), ("task", 5), ("task", "\ud800"), ("total_tokens", 2**63),
            ("total_tokens", -(2**63) - 1), ("total_tokens", 1.5), ("total_tokens", "5"), ("total_tokens", True),
            ("total_cost", float("nan")), ("total_cost", float("inf")), ("context", []), ("created_at", "yesterday"),
            ("created_at", "2026-01-01T00:00:00.1234567Z"), ("completed_at", 5),
        ]  # fmt: skip
        for field, value in refused:
            with case((field, value)), pytest.raises(InvalidValueError) as caught:
                await store.create_trace(as_given(trace_id="refused", **{field: value}))
            assert caught.value.path == field
            assert field in str(caught.value)
            with case((field, value)), pytest.raises(InvalidValueError) as caught:
                await store.create_trace(Trace.model_construct(trace_id="refused", **{field: value}))
            assert caught.value.path == field
        assert await store.get_trace("refused") is None
        await store.create_trace(Trace(trace_id="t", created_at=NEW_YEAR))
        for field, value in refused:
            with case((field, value)), pytest.raises(InvalidValueError) as caught:
                await store.update_trace("t", **{field: value})
            assert caught.value.path == field
        assert exact_text(await header(store)) == exact_text(Trace(trace_id="t", created_at=NEW_YEAR))

    @scenario
    async def test_hostile_ids_name_traces_like_any_other(self, store: TraceStore) -> None:
        ids = HOSTILE_IDS[:: self.step]
        for trace_id in ids:
            await store.create_trace(Trace(trace_id=trace_id, task=trace_id))
            await store.add_message(message(trace_id, content=trace_id))
        for trace_id in ids:
            trace = await header(store, trace_id)
            assert (trace.trace_id, trace.task, trace.total_messages) == (trace_id, trace_id, 1)
            (kept,) = await store.get_trace_messages(trace_id)
            assert (kept.message_id, kept.content) == (f"{trace_id}-0001", trace_id)
        listed = [trace.trace_id for trace in await store.list_traces(limit=1000)]
        assert sorted(listed) == sorted(ids)

    @pytest.mark.parametrize("trace_id", REFUSED_IDS.values(), ids=REFUSED_IDS.keys())
    @scenario
    async def test_an_id_that_cannot_name_a_directory_is_refused(self, store: TraceStore, trace_id: str) -> None:
        with pytest.raises(InvalidValueError) as caught:
            await store.create_trace(as_given(trace_id=trace_id))
        assert caught.value.path == "trace_id"
        assert isinstance(caught.value, InvalidIdError) or trace_id == "\ud800"
        with pytest.raises(TracearkError):
            await store.append_event(trace_id, "e", None)
        with pytest.raises(TracearkError):
            await store.add_message(as_given(trace_id=trace_id, role="user"))
        assert await store.list_traces() == []

    @scenario
    async def test_traces_are_listed_newest_first(self, store: TraceStore) -> None:
        for trace_id, day in (("b", 1), ("a", 3), ("d", 2), ("c", 2)):
            await store.create_trace(Trace(trace_id=trace_id, created_at=NEW_YEAR + timedelta(day)))
        assert [trace.trace_id for trace in await store.list_traces()] == ["a", "c", "d", "b"]
        assert [trace.trace_id for trace in await store.list_traces(limit=2)] == ["a", "c"]

    @scenario
    async def test_fifty_traces_are_listed_unless_more_are_asked_for(self, store: TraceStore) -> None:
        for at in range(52):
            await store.create_trace(Trace(trace_id=f"t{at:02d}", created_at=NEW_YEAR + timedelta(at)))
        assert [trace.trace_id for trace in await store.list_traces()] == [f"t{at:02d}" for at in range(51, 1, -1)]
        assert len(await store.list_traces(limit=1000)) == 52

    @scenario
    async def test_filters_combine_with_and(self, store: TraceStore) -> None:
        for at in range(16):
            await store.create_trace(
                Trace(
                    trace_id=f"{at:04b}",
                    mode="agent" if at & 8 else "call",
                    agent_type="x" if at & 4 else None,
                    uid="u" if at & 2 else "U",
                    status="completed" if at & 1 else "running",
                )
            )

        async def listed(**filters: Any) -> list[str]:
            return sorted(trace.trace_id for trace in await store.list_traces(**filters))

        everything = [f"{at:04b}" for at in range(16)]
        assert await listed() == everything
        assert await listed(mode="agent") == everything[8:]
        assert await listed(agent_type="x") == [each for each in everything if each[1] == "1"]
        assert await listed(uid="u") == [each for each in everything if each[2] == "1"]
        assert await listed(status="running") == [each for each in everything if each[3] == "0"]
        assert await listed(mode="call", agent_type="x", uid="U", status="completed") == ["0101"]
        assert await listed(mode="call", uid="nobody") == []
        assert await listed(uid="u' OR '1'='1") == []

    @scenario
    async def test_an_empty_filter_matches_only_the_empty_text(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="none"))
        await store.create_trace(Trace(trace_id="empty", uid=""))
        assert [trace.trace_id for trace in await store.list_traces(uid="")] == ["empty"]

    @scenario
    async def test_a_listing_shows_totals_and_status_as_they_are_now(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(tokens=5, cost=0.5))
        await store.update_trace("t", status="completed")
        (listed,) = await store.list_traces(status="completed")
        assert exact_text(listed) == exact_text(await header(store))
        assert (listed.total_messages, listed.total_tokens, listed.total_cost) == (1, 5, 0.5)
        assert await store.list_traces(status="running") == []

    @pytest.mark.parametrize("limit", [0, -1])
    @scenario
    async def test_a_limit_below_one_is_refused(self, store: TraceStore, limit: int) -> None:
        with pytest.raises(InvalidValueError, match="limit"):
            await store.list_traces(limit=limit)

    @scenario
    async def test_totals_that_are_set_are_read_back_and_added_to(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t", total_tokens=100, total_cost=1.5))
        await store.add_message(message(tokens=5, cost=0.25, duration_ms=10))
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens, trace.total_cost) == (1, 105, 1.75)
        await store.update_trace("t", total_tokens=7, total_messages=0)
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens, trace.total_cost) == (0, 7, 1.75)
        assert trace.total_duration_ms == 10
        await store.add_message(message(tokens=1, cost=0.25))
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens, trace.total_cost) == (1, 8, 2.0)

    @scenario
    async def test_the_last_sequence_may_be_raised(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t", last_sequence=10))
        assert (await header(store)).last_sequence == 10
        assert await store.add_message(message()) == "t-0011"
        await store.update_trace("t", last_sequence=99)
        assert (await header(store)).last_sequence == 99
        assert await store.add_message(message()) == "t-0100"
        assert (await header(store)).last_sequence == 100

    @scenario
    async def test_the_last_event_id_cannot_run_ahead_of_the_events(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.append_event("t", "e", None)
        await store.append_event("t", "e", None)
        await store.update_trace("t", last_event_id=1, task="x")
        trace = await header(store)
        assert (trace.last_event_id, trace.task) == (2, "x")
        with pytest.raises(InvalidValueError, match="last_event_id"):
            await store.update_trace("t", last_event_id=3)
        assert await store.append_event("t", "e", None) == 3
