"""The suite's part on messages: ids and sequences, totals, idempotence, updates."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from traceark.errors import (
    AmbiguousMessageId,
    InvalidValueError,
    MessageConflictError,
    MessageNotFoundError,
    UnknownFieldError,
)
from traceark.models import INT64_MAX, Goal, Message, Trace, Usage
from traceark.protocol import TraceStore
from traceark.testing.compare import exact_text, exact_texts
from traceark.testing.scenario import StoreTests, as_given, case, header, message, message_of, scenario

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


class MessageTests(StoreTests):
    """What the protocol says of messages."""

    @scenario
    async def test_every_field_of_a_message_comes_back(self, store: TraceStore) -> None:
        full = Message(
            message_id="m-1", trace_id="t", role="tool", sequence=7, goal_id="1", tool_call_id="c-1", tool_name="grep",
            content=[{"type": "text", "text": "x"}], description="looked", tokens=12,
            usage=Usage(input_tokens=1, output_tokens=2, cache_read_tokens=3, cache_write_tokens=4, reasoning_tokens=5),
            cost=0.25, duration_ms=30, status="ok", error="none", created_at=NEW_YEAR,
        )  # fmt: skip
        await store.create_trace(Trace(trace_id="t"))
        assert await store.add_message(full) == "m-1"
        assert exact_text(await message_of(store, "m-1")) == exact_text(full)
        assert exact_texts(await store.get_trace_messages("t")) == [exact_text(full)]

    @scenario
    async def test_unknown_fields_are_kept_nested_ones_too(self, store: TraceStore) -> None:
        usage = {"input_tokens": 1, "server_tool_use": {"web": 2}}
        given = Message.parse({"trace_id": "t", "role": "user", "usage": usage, "raw": [1.0, None], "n": None})
        await store.create_trace(Trace(trace_id="t"))
        message_id = await store.add_message(given)
        await store.update_message(message_id, content="x")
        kept = await message_of(store, message_id)
        assert (kept.model_extra or {})["raw"] == [1.0, None]
        assert kept.usage is not None
        assert kept.usage.model_extra == {"server_tool_use": {"web": 2}}

    @scenario
    async def test_a_message_that_its_caller_changes_while_it_waits_is_added_as_given(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        given = Message(trace_id="t", role="user", content="as given", tokens=1)
        adding = asyncio.ensure_future(store.add_message(given))
        await asyncio.sleep(0)
        given.message_id, given.sequence, given.created_at, given.tokens = "other", 9, NEW_YEAR, 100
        assert await adding == "t-0001"
        kept = await message_of(store, "t-0001")
        assert (kept.sequence, kept.tokens, kept.created_at == NEW_YEAR) == (1, 1, False)
        assert (await header(store)).total_tokens == 1

    @scenario
    async def test_ids_sequences_and_times_are_assigned_when_absent(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        before = datetime.now(UTC)
        assert await store.add_message(message()) == "t-0001"
        assert await store.add_message(message()) == "t-0002"
        second = await message_of(store, "t-0002")
        assert (second.message_id, second.sequence) == ("t-0002", 2)
        assert second.created_at is not None
        assert before <= second.created_at <= datetime.now(UTC)
        assert (await header(store)).last_sequence == 2

    @scenario
    async def test_the_callers_own_message_stays_as_it_was(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        given = message(content={"a": [1]})
        before = exact_text(given)
        await store.add_message(given)
        assert exact_text(given) == before
        given.content["a"].append(2)
        assert (await message_of(store, "t-0001")).content == {"a": [1]}
        read = await message_of(store, "t-0001")
        read.content["a"].append(3)
        assert (await message_of(store, "t-0001")).content == {"a": [1]}
        assert (await store.get_trace_messages("t"))[0].content == {"a": [1]}

    @scenario
    async def test_a_sequence_may_be_given_and_the_next_goes_on_from_the_highest(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        assert await store.add_message(message(sequence=41)) == "t-0041"
        assert await store.add_message(message(sequence=7)) == "t-0007"
        assert await store.add_message(message()) == "t-0042"
        assert await store.add_message(message(sequence=12345)) == "t-12345"
        assert await store.add_message(message(message_id="own")) == "own"
        assert [each.sequence for each in await store.get_trace_messages("t")] == [7, 41, 42, 12345, 12346]
        assert (await header(store)).last_sequence == 12346

    @scenario
    async def test_equal_sequences_stand_in_the_order_of_adding(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for message_id, sequence in (("c", 2), ("b", 2), ("a", 2), ("z", 1)):
            await store.add_message(message(message_id=message_id, sequence=sequence))
        assert [each.message_id for each in await store.get_trace_messages("t")] == ["z", "c", "b", "a"]

    @scenario
    async def test_an_id_that_is_taken_is_skipped(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="t-0002", sequence=1))
        assert await store.add_message(message()) == "t-0003"
        assert (await message_of(store, "t-0003")).sequence == 3

    @scenario
    async def test_no_sequence_is_left_after_the_highest(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(sequence=INT64_MAX))
        with pytest.raises(InvalidValueError, match="sequence"):
            await store.add_message(message())
        assert len(await store.get_trace_messages("t")) == 1

    @scenario
    async def test_fifty_tasks_get_fifty_dense_sequences(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        ids = await asyncio.gather(*(store.add_message(message(content=at, tokens=1)) for at in range(50)))
        assert sorted(ids) == [f"t-{at:04d}" for at in range(1, 51)]
        messages = await store.get_trace_messages("t")
        assert [each.sequence for each in messages] == list(range(1, 51))
        assert {each.message_id: each.content for each in messages} == {each: at for at, each in enumerate(ids)}
        assert (await header(store)).total_tokens == 50

    @scenario
    async def test_totals_sum_all_messages(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(tokens=10, cost=0.5, duration_ms=100))
        await store.add_message(message(usage=Usage(input_tokens=1, output_tokens=2, cache_read_tokens=4)))
        await store.add_message(message(tokens=0, usage=Usage(input_tokens=99)))
        await store.add_message(message())
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens) == (4, 17)
        assert (trace.total_cost, trace.total_duration_ms) == (0.5, 100)

    @scenario
    async def test_cost_is_summed_exactly(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for cost in (*[0.1] * 10, 1e16, 1.0, -1e16):
            await store.add_message(message(cost=cost))
        assert (await header(store)).total_cost == 2.0

    @pytest.mark.parametrize(
        ("field", "value"),
        [("tokens", INT64_MAX), ("duration_ms", INT64_MAX), ("cost", 1.7e308), ("tokens", -(2**62) - 1)],
    )
    @scenario
    async def test_a_total_beyond_its_type_is_refused_when_added(
        self, store: TraceStore, field: str, value: Any
    ) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(**{field: value}))
        with pytest.raises(InvalidValueError):
            await store.add_message(message(**{field: value}))
        await store.add_message(message())
        with pytest.raises(InvalidValueError):
            await store.update_message("t-0002", **{field: value})
        assert (await header(store)).total_messages == 2

    @pytest.mark.parametrize(
        ("field", "value"), [("tokens", INT64_MAX), ("duration_ms", INT64_MAX), ("cost", 1.7e308), ("cost", -1.7e308)]
    )
    @scenario
    async def test_a_total_beyond_its_type_is_refused_within_a_batch(
        self, store: TraceStore, field: str, value: Any
    ) -> None:
        await store.create_trace(Trace(trace_id="t"))
        added = [store.add_message(message(**{field: value})) for _ in range(2)]
        refused = [each for each in await asyncio.gather(*added, return_exceptions=True) if not isinstance(each, str)]
        assert list(map(type, refused)) == [InvalidValueError]
        trace = await header(store)
        assert (trace.total_messages, getattr(trace, f"total_{field}")) == (1, value)

    @pytest.mark.parametrize("field", ["tokens", "duration_ms"])
    @scenario
    async def test_a_total_reaches_the_end_of_its_type_and_goes_no_further(self, store: TraceStore, field: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await asyncio.gather(*(store.add_message(message(**{field: 1})) for _ in range(70)))
        values = [1, INT64_MAX - 71, 1, -1, 1, 1]
        added = await asyncio.gather(
            *(store.add_message(message(**{field: value})) for value in values), return_exceptions=True
        )
        assert [isinstance(each, str) for each in added] == [True, True, False, True, True, False]
        trace = await header(store)
        assert (trace.total_messages, getattr(trace, f"total_{field}")) == (74, INT64_MAX)
        with pytest.raises(InvalidValueError):
            await store.add_message(message(**{field: 1}))

    @scenario
    async def test_an_update_that_takes_too_much_away_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for tokens in (INT64_MAX, -INT64_MAX, -INT64_MAX, INT64_MAX):
            await store.add_message(message(tokens=tokens))
        await store.update_message("t-0001", tokens=0)
        with pytest.raises(InvalidValueError):
            await store.update_message("t-0004", tokens=0)
        assert (await header(store)).total_tokens == -INT64_MAX

    @scenario
    async def test_the_same_message_again_counts_once(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        given = message(message_id="m", content={"a": 1}, tokens=5)
        for _ in range(3):
            assert await store.add_message(given) == "m"
        assert await store.add_message(await message_of(store, "m")) == "m"
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens, trace.last_sequence) == (1, 5, 1)

    @scenario
    async def test_the_same_message_from_many_tasks_counts_once(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        given = message(message_id="m", content="x", tokens=5)
        assert set(await asyncio.gather(*(store.add_message(given) for _ in range(20)))) == {"m"}
        assert (await header(store)).total_tokens == 5

    @scenario
    async def test_after_an_update_the_first_and_the_present_content_are_known(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m", content="first"))
        await store.update_message("m", content="second")
        await store.update_message("m", content="third")
        assert await store.add_message(message(message_id="m", content="first")) == "m"
        assert await store.add_message(message(message_id="m", content="third")) == "m"
        with pytest.raises(MessageConflictError):
            await store.add_message(message(message_id="m", content="second"))
        assert (await message_of(store, "m")).content == "third"

    @scenario
    async def test_a_known_id_with_other_content_is_refused(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m", content=1))
        others: list[dict[str, Any]] = [
            {"content": 1.0}, {"content": True}, {"content": "1"}, {"content": 1, "role": "tool"},
            {"content": 1, "cost": 0.0}, {"content": 1, "goal_id": "1"}, {"content": 1, "unknown": 1},
            {"content": 1, "sequence": 9}, {},
            {"content": 1, "created_at": datetime(2026, 1, 2, tzinfo=UTC)}, {"content": 1, "usage": {}},
        ]  # fmt: skip
        for other in others:
            with case(other), pytest.raises(MessageConflictError, match="m") as caught:
                await store.add_message(as_given(trace_id="t", message_id="m", **{"role": "user", **other}))
            assert isinstance(caught.value, ValueError)
        assert (await message_of(store, "m")).content == 1
        assert (await header(store)).total_messages == 1

    @scenario
    async def test_the_same_id_in_two_traces_is_two_messages(self, store: TraceStore) -> None:
        for trace_id in ("t", "u"):
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(message(trace_id, message_id="m", content=trace_id))
        with pytest.raises(AmbiguousMessageId) as caught:
            await store.get_message("m")
        assert isinstance(caught.value, LookupError)
        with pytest.raises(AmbiguousMessageId):
            await store.update_message("m", content="x")
        assert [each.content for each in await store.get_trace_messages("u")] == ["u"]

    @scenario
    async def test_any_text_is_a_message_id(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for message_id in ("../x", "a\0b", "\n", "💬", "x" * 10_000, "' OR 1=1 --", "t-0001 "):
            with case(message_id):
                assert await store.add_message(message(message_id=message_id, goal_id=message_id)) == message_id
                await store.update_message(message_id, content="x")
                assert (await message_of(store, message_id)).content == "x"
                assert [each.message_id for each in await store.get_messages_by_goal("t", message_id)] == [message_id]

    @scenario
    async def test_messages_of_a_goal_are_those_of_that_goal_alone(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_goal("t", Goal(id="1"))
        await store.add_goal("t", Goal(id="2", parent_id="1"))
        for goal_id, sequence in (("1", 3), ("2", 2), ("1", 1), (None, 4)):
            await store.add_message(message(goal_id=goal_id, sequence=sequence))
        assert [each.sequence for each in await store.get_messages_by_goal("t", "1")] == [1, 3]
        assert [each.sequence for each in await store.get_messages_by_goal("t", "2")] == [2]

    @scenario
    async def test_an_update_sets_what_it_names_and_totals_follow(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content="a", tokens=5, cost=0.1, duration_ms=7, created_at=NEW_YEAR))
        await store.update_message("t-0001", content={"b": -0.0}, tokens=None, usage={"output_tokens": 3}, error="e")
        await store.update_message("t-0001", cost=0.2, duration_ms=None)
        expected = message(
            message_id="t-0001", sequence=1, content={"b": -0.0}, usage=Usage(output_tokens=3), cost=0.2, error="e",
            created_at=NEW_YEAR,
        )  # fmt: skip
        assert exact_text(await message_of(store, "t-0001")) == exact_text(expected)
        trace = await header(store)
        assert (trace.total_messages, trace.total_tokens) == (1, 3)
        assert (trace.total_cost, trace.total_duration_ms) == (0.2, 0)

    @scenario
    async def test_an_update_replaces_a_value_whole(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content={"a": 1}, usage=Usage(input_tokens=1, output_tokens=2)))
        await store.update_message("t-0001", content={"b": 2}, usage=Usage(output_tokens=9))
        updated = await message_of(store, "t-0001")
        assert updated.content == {"b": 2}
        assert updated.usage == Usage(output_tokens=9)
        await store.update_message("t-0001", content=None, usage=None)
        updated = await message_of(store, "t-0001")
        assert (updated.content, updated.usage) == (None, None)

    @scenario
    async def test_updates_from_many_tasks_are_all_kept(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message())
        fields: dict[str, Any] = {
            "content": 1,
            "tokens": 2,
            "cost": 0.5,
            "duration_ms": 3,
            "status": "ok",
            "error": "e",
        }
        await asyncio.gather(*(store.update_message("t-0001", **{name: fields[name]}) for name in fields))
        updated = await message_of(store, "t-0001")
        assert {name: getattr(updated, name) for name in fields} == fields

    @scenario
    async def test_an_update_of_an_absent_message_is_refused(self, store: TraceStore) -> None:
        with pytest.raises(MessageNotFoundError, match="absent") as caught:
            await store.update_message("absent", content=1)
        assert isinstance(caught.value, KeyError)

    @pytest.mark.parametrize("name", ["colour", "message_id", "sequence"])
    @scenario
    async def test_an_update_of_an_unknown_or_identifying_field_is_refused(self, store: TraceStore, name: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(colour="blue"))
        before = exact_text(await message_of(store, "t-0001"))
        with pytest.raises(TypeError) as caught:
            await store.update_message("t-0001", **{"content": 1, name: 5})
        # `message_id` is the protocol's own parameter: Python itself refuses it twice.
        assert isinstance(caught.value, UnknownFieldError) or name == "message_id"
        assert exact_text(await message_of(store, "t-0001")) == before

    @scenario
    async def test_a_message_that_was_made_without_validation_is_refused_by_its_path(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message())
        refused: list[tuple[str, Any, str]] = [
            ("role", 5, "role"), ("role", None, "role"), ("tokens", "5", "tokens"), ("tokens", 2**63, "tokens"),
            ("cost", float("nan"), "cost"), ("sequence", 2**63, "sequence"), ("message_id", 7, "message_id"),
            ("usage", {"input_tokens": "x"}, "usage.input_tokens"), ("created_at", "yesterday", "created_at"),
            ("usage", Usage.model_construct(output_tokens="5"), "usage.output_tokens"),
            ("usage", Usage().model_copy(update={"input_tokens": 1.5}), "usage.input_tokens"),
        ]  # fmt: skip
        for field, value, path in refused:
            for extra in ({}, {"mine": 1}):
                with case((field, value)), pytest.raises(InvalidValueError) as caught:
                    fields = {"trace_id": "t", "role": "user", field: value, **extra}
                    await store.add_message(Message.model_construct(**fields))
                assert caught.value.path == path
        # What the model would have taken is taken.
        right: dict[str, Any] = {"usage": {"input_tokens": 5}, "created_at": "2026-01-02T00:00:00Z", "mine": 1}
        given: list[dict[str, Any]] = [{}, {"usage": Usage.model_construct(input_tokens=5)}, right]
        for fields in given:
            await store.add_message(Message.model_construct(trace_id="t", role="user", **fields))
        assert len(await store.get_trace_messages("t")) == 4
        assert (await header(store)).total_tokens == 10

    @scenario
    async def test_a_value_that_a_field_cannot_hold_is_refused_by_its_path(self, store: TraceStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m"))
        before = exact_text(await message_of(store, "m"))
        refused: list[tuple[str, Any, str]] = [
            ("role", None, "role"), ("role", 5, "role"), ("role", "\ud800", "role"), ("goal_id", 1, "goal_id"),
            ("tool_name", "x\udfff", "tool_name"), ("description", b"x", "description"), ("tokens", 2**63, "tokens"),
            ("tokens", 1.0, "tokens"), ("tokens", True, "tokens"), ("duration_ms", "5", "duration_ms"),
            ("cost", float("nan"), "cost"), ("cost", float("-inf"), "cost"), ("cost", 2**53 + 1, "cost"),
            ("cost", "0.5", "cost"), ("usage", {"input_tokens": 2**64}, "usage.input_tokens"), ("usage", 5, "usage"),
            ("usage", {"odd": float("nan")}, "usage.odd"), ("created_at", "2026-13-01", "created_at"),
        ]  # fmt: skip
        for field, value, path in refused:
            with case((field, value)):
                with pytest.raises(InvalidValueError) as caught:
                    await store.add_message(as_given(trace_id="t", **{"role": "user", field: value}))
                assert caught.value.path == path
                with pytest.raises(InvalidValueError) as caught:
                    await store.update_message("m", **{field: value})
                assert caught.value.path == path
        assert exact_text(await message_of(store, "m")) == before
        assert (await header(store)).total_messages == 1
