"""What the spans of a trace become: goals, each message once and in order, usage once, every span kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from profiles import tried
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.chat_messages import told_of
from traceark.importers.python_repr import object_of
from traceark.importers.spans import Kind, Span, SpanTrace, Told
from traceark.models import Json, JsonObject, Message, Trace, Usage

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def span(
    span_id: str, kind: Kind, parent: str | None = None, at: tuple[float, float] | None = None, **told: Any
) -> Span:
    """Return a span that begins and ends so many seconds after the start."""
    start, end = (START + timedelta(seconds=each) for each in at) if at is not None else (None, None)
    return Span(span_id, kind, {"id": span_id}, parent, start=start, end=end, **told)


def built(spans: Sequence[Span], **header: Any) -> tuple[SourceTrace, ImportCounts]:
    counts = ImportCounts()
    building = SpanTrace("form", Trace(trace_id="t", **header), counts)
    for each in spans:
        building.add(each)
    return building.finish(), counts


def call(call_id: str | None, name: str, **arguments: Json) -> Json:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def said(source: SourceTrace) -> list[tuple[str, Json]]:
    return [(each.role, each.content) for each in source.messages]


def tokens(source: SourceTrace) -> list[int]:
    return [each.tokens for each in source.messages if each.tokens is not None]


SYSTEM, ASKED = Told("system", "You add."), Told("user", "What is 2 + 2?")
CALLED = Told("assistant", [call("c1", "add", a=2, b=2)])
ANSWER = Told("assistant", "Four.")
FIRST = span("chat1", "chat", "agent", (1, 2), inputs=[SYSTEM, ASKED], outputs=[CALLED], model="m-1", cost=0.5)
FIRST.usage = Usage(input_tokens=10, output_tokens=2)
ADDED = span("tool1", "tool", "agent", (2, 3), tool="add", call_id="c1", arguments={"a": 2, "b": 2}, result="4")
SECOND = span("chat2", "chat", "agent", (3, 4), outputs=[ANSWER], model="m-2", cost=0.25)
SECOND.inputs, SECOND.usage = [SYSTEM, ASKED, CALLED, Told("tool", "4", "c1")], Usage(input_tokens=20, output_tokens=3)
WHOLE = span("agent", "agent", None, (0, 5), agent="adder", inputs=[ASKED], outputs=[ANSWER], cost=0.75)
WHOLE.usage = Usage(input_tokens=30, output_tokens=5)
RUN = [FIRST, ADDED, SECOND, WHOLE]


def test_a_conversation_that_each_call_repeats_reads_once() -> None:
    source, counts = built(RUN)
    told = [(each.message_id, each.role, each.content, each.tool_call_id, each.tool_name) for each in source.messages]
    assert told == [
        ("t-chat1-in-1", "system", "You add.", None, None),
        ("t-chat1-in-2", "user", "What is 2 + 2?", None, None),
        ("t-chat1-out-1", "assistant", [call("c1", "add", a=2, b=2)], "c1", "add"),
        ("t-tool1-tool", "tool", "4", "c1", "add"),
        ("t-chat2-out-1", "assistant", "Four.", None, None),
    ]
    assert [each.goal_id for each in source.messages] == ["agent"] * 5
    assert [each.duration_ms for each in source.messages] == [None, None, 1000, 1000, 1000]
    assert (source.messages[2].model_extra or {})["model"] == "m-1"
    assert (source.messages[3].model_extra or {})["arguments"] == {"a": 2, "b": 2}
    assert counts.problems == counts.differences == []


def test_a_trace_is_described_by_its_root() -> None:
    source, _ = built(RUN)
    trace = source.trace
    assert (trace.task, trace.result_summary) == ("What is 2 + 2?", "Four.")
    assert (trace.agent_type, trace.model, trace.status, trace.mode) == ("adder", "m-2", "completed", "agent")
    assert (trace.created_at, trace.completed_at) == (START, START + timedelta(seconds=5))
    assert source.goals is not None
    [goal] = source.goals.goals
    assert (goal.id, goal.description, goal.type, goal.status, goal.summary) == (
        "agent",
        "adder",
        "agent",
        "completed",
        "Four.",
    )
    assert (goal.created_at, goal.completed_at) == (START, START + timedelta(seconds=5))


def test_what_the_header_says_already_stays() -> None:
    source, _ = built(RUN, task="sum", agent_type="maths", model="m", mode="lesson", status="cancelled")
    trace = source.trace
    assert (trace.task, trace.agent_type, trace.model, trace.mode, trace.status) == (
        "sum",
        "maths",
        "m",
        "lesson",
        "cancelled",
    )


def test_every_span_is_an_event_as_it_is_and_in_the_order_of_the_source() -> None:
    source, counts = built([*RUN, span("odd", "other")])
    assert [(each.event_type, each.payload) for each in source.events] == [
        ("form.span", {"id": each.span_id}) for each in (*RUN, span("odd", "other"))
    ]
    assert counts.rows == {"span": 5}
    assert len(source.digests) == 5 and not source.positional


def test_what_stands_around_spans_is_an_event_where_it_changes() -> None:
    building = SpanTrace("form", Trace(trace_id="t"), ImportCounts())
    for number, resource in enumerate([{"host": "a"}, {"host": "a"}, {"host": "b"}, {}]):
        building.around("resource", dict(resource))
        building.add(span(str(number), "other"))
    told = [(each.event_type, each.payload) for each in building.finish().events]
    assert told == [
        ("form.resource", {"host": "a"}),
        ("form.span", {"id": "0"}),
        ("form.span", {"id": "1"}),
        ("form.resource", {"host": "b"}),
        ("form.span", {"id": "2"}),
        ("form.resource", {}),
        ("form.span", {"id": "3"}),
    ]


@settings(max_examples=tried(60, 600, 2000))
@given(st.permutations(RUN))
def test_spans_may_come_in_any_order(spans: list[Span]) -> None:
    whole, found = built(RUN)[0], built(spans)[0]
    assert (found.trace, found.messages, found.goals) == (whole.trace, whole.messages, whole.goals)


def test_usage_of_an_agent_that_restates_its_calls_counts_once() -> None:
    source, counts = built(RUN)
    assert tokens(source) == [12, 23]
    assert sum(each.cost or 0 for each in source.messages) == 0.75
    assert counts.differences == []


def test_usage_that_an_agent_states_otherwise_is_reported() -> None:
    other = span("agent", "agent", None, (0, 5), usage=Usage(input_tokens=31), cost=0.5)
    source, counts = built([*RUN[:3], other])
    assert tokens(source) == [12, 23]
    assert [each.reason for each in counts.differences] == [
        "t: span agent (): the calls in it have 35 tokens, it states 31",
        "t: span agent (): the calls in it cost 0.750000, it states 0.500000",
    ]


def test_an_agent_may_state_what_its_own_calls_used_or_what_all_in_it_did() -> None:
    spans = [
        span("a", "agent", usage=Usage(input_tokens=4)),
        span("b", "chat", "a", usage=Usage(input_tokens=4)),
        span("c", "agent", "a", usage=Usage(input_tokens=7)),
        span("d", "chat", "c", usage=Usage(input_tokens=7)),
    ]
    assert built(spans)[1].differences == []
    spans[0].usage = Usage(input_tokens=11)
    assert built(spans)[1].differences == []
    spans[0].usage = Usage(input_tokens=12)
    assert len(built(spans)[1].differences) == 1


def test_usage_that_only_a_whole_run_tells_stands_at_its_last_message() -> None:
    run = span(
        "agent", "agent", None, (0, 5), inputs=[ASKED], outputs=[CALLED, ANSWER], usage=Usage(input_tokens=9), cost=0.5
    )
    inner = span("sub", "agent", "agent", (1, 2), usage=Usage(input_tokens=4))
    source, counts = built([run])
    assert [(each.message_id, each.tokens, each.cost) for each in source.messages] == [
        ("t-agent-in-1", None, None),
        ("t-agent-out-1", None, None),
        ("t-agent-out-2", 9, 0.5),
    ]
    assert source.messages[-1].usage is not None and (source.messages[-1].usage.model_extra or {})["whole_run"] is True
    # What an agent inside tells of itself is in it.
    source, counts = built([run, inner])
    assert tokens(source) == [4]
    assert len(counts.differences) == 1


def test_costs_and_usage_of_zero_tell_nothing() -> None:
    inner = span("chat1", "chat", "agent", (1, 2), outputs=[ANSWER], usage=Usage(input_tokens=0), cost=0.0)
    source, counts = built([inner, span("agent", "agent", None, (0, 5), usage=Usage(input_tokens=9), cost=0.5)])
    assert [(each.message_id, each.tokens, each.cost) for each in source.messages] == [
        ("t-chat1-out-1", 0, 0.0),
        ("t-agent-whole-run", 9, 0.5),
    ]
    assert counts.differences == []


def test_what_an_agent_answered_stands_before_the_tools_that_it_called() -> None:
    run = span("agent", "agent", None, (0, 9), inputs=[ASKED], outputs=[Told("assistant", "I add."), CALLED, ANSWER])
    source, _ = built([run, span("tool1", "tool", "agent", (2, 3), tool="add", call_id="c1", result="4")])
    assert [each.message_id for each in source.messages] == [
        "t-agent-in-1", "t-agent-out-1", "t-agent-out-2", "t-tool1-tool", "t-agent-out-3",
    ]  # fmt: skip
    assert source.messages[2].created_at == START + timedelta(seconds=2)


def test_a_call_that_contains_its_tool_was_made_before_it() -> None:
    chat = span("chat1", "chat", None, (1, 4), inputs=[ASKED], outputs=[CALLED])
    source, _ = built([chat, span("tool1", "tool", "chat1", (2, 3), tool="add", call_id="c1", result="4")])
    assert [each.role for each in source.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_call_that_several_layers_tell_is_one(order: tuple[int, ...]) -> None:
    layers = [
        span("outer", "chat", None, (0, 4), inputs=[ASKED], outputs=[ANSWER], usage=Usage(input_tokens=9)),
        span("between", "chat", "outer", (1, 3), agent="adder"),
        span("inner", "chat", "between", (1, 3), model="m", usage=Usage(input_tokens=5, cache_read_tokens=4)),
    ]
    source, counts = built([layers[each] for each in order])
    assert [(each.message_id, each.content, each.tokens) for each in source.messages] == [
        ("t-inner-in-1", "What is 2 + 2?", None),
        ("t-inner-out-1", "Four.", 9),
    ]
    assert source.messages[1].model_extra == {"span_id": "inner", "model": "m", "agent": "adder"}
    assert counts.differences == []


def test_a_call_around_several_tells_their_sum() -> None:
    spans = [
        span("outer", "chat", None, (0, 4), inputs=[ASKED], outputs=[ANSWER], usage=Usage(input_tokens=8)),
        span("try1", "chat", "outer", (0, 1), failed=True, error="busy", usage=Usage(input_tokens=3)),
        span("try2", "chat", "outer", (1, 3), usage=Usage(input_tokens=5)),
    ]
    source, counts = built(spans)
    assert tokens(source) == [3, 5]
    assert ("user", "What is 2 + 2?") in said(source) and ("assistant", "Four.") in said(source)
    assert [(each.status, each.error) for each in source.messages if each.status] == [("failed", "busy")]
    assert counts.differences == []


def test_a_tool_and_the_result_that_a_model_is_given_are_one_message() -> None:
    source, _ = built(RUN)
    assert [each.content for each in source.messages if each.role == "tool"] == ["4"]
    # Without a span of the tool, the result is a message of the call that it was given to.
    source, _ = built([RUN[0], *RUN[2:]])
    assert [(each.message_id, each.content, each.tool_name) for each in source.messages if each.role == "tool"] == [
        ("t-chat2-in-4", "4", "add")
    ]


@pytest.mark.parametrize("at", [(2, 3), (2, 3.5)])
def test_a_tool_without_a_result_has_the_one_that_the_model_was_given(at: tuple[float, float]) -> None:
    bare = span("tool1", "tool", "agent", at, tool="add", call_id="c1", failed=True, error="Timeout")
    source, _ = built([RUN[0], bare, *RUN[2:]])
    [answer] = [each for each in source.messages if each.role == "tool"]
    assert (answer.message_id, answer.content, answer.status, answer.error) == (
        "t-tool1-tool",
        "4",
        "failed",
        "Timeout",
    )


def test_a_tool_that_tells_no_id_answers_the_call_of_its_name_and_arguments() -> None:
    asked = Told("assistant", [call("c1", "add", a=1), call("c2", "add", a=2), call("c3", "look")])
    spans = [
        span("chat1", "chat", None, (0, 1), outputs=[asked]),
        span("x", "tool", None, (1, 2), tool="add", arguments='{"a": 2}', result="2"),
        span("y", "tool", None, (1, 3), tool="add", arguments={"a": 1}, result="1"),
        span("z", "tool", None, (1, 4), tool="look", result="z"),
        span("w", "tool", None, (1, 5), tool="add", arguments={"a": 9}, result="w"),
    ]
    source, _ = built(spans)
    found = [(each.tool_call_id, each.content) for each in source.messages if each.role == "tool"]
    assert found == [("c2", "2"), ("c1", "1"), ("c3", "z"), (None, "w")]


def test_a_call_that_is_told_by_another_id_later_is_the_same() -> None:
    again = Told("assistant", [call("other-id", "add", a=2, b=2)])
    later = span(
        "chat2", "chat", "agent", (3, 4), inputs=[SYSTEM, ASKED, again, Told("tool", "4", "c1")], outputs=[ANSWER]
    )
    assert said(built([*RUN[:2], later])[0]) == said(built(RUN)[0])


def test_the_same_words_said_twice_are_two_messages_and_repeated_they_stay_two() -> None:
    yes, more = Told("user", "Yes."), Told("assistant", "More?")
    spans = [
        span("a", "chat", None, (0, 1), inputs=[yes], outputs=[more]),
        span("b", "chat", None, (1, 2), inputs=[yes, more, yes], outputs=[more]),
        span("c", "chat", None, (2, 3), inputs=[yes, more, yes, more], outputs=[Told("assistant", "Done.")]),
    ]
    assert [text for _, text in said(built(spans)[0])] == ["Yes.", "More?", "Yes.", "More?", "Done."]


def test_calls_told_in_one_message_are_known_when_they_come_one_by_one() -> None:
    both = Told("assistant", [call("c1", "add"), call("c2", "look")])
    apart = [Told("assistant", [call("c1", "add")]), Told("assistant", [call("c2", "look")])]
    spans = [
        span("a", "chat", None, (0, 1), outputs=[both]),
        span("b", "chat", None, (1, 2), inputs=apart, outputs=[ANSWER]),
    ]
    assert [each.message_id for each in built(spans)[0].messages] == ["t-a-out-1", "t-b-out-1"]


def test_an_answer_is_known_with_the_words_that_stopped_it() -> None:
    stopped = "<code>\nprint('a rather long answer')\n"
    spans = [
        span("a", "chat", None, (0, 1), outputs=[Told("assistant", stopped)]),
        span("b", "chat", None, (1, 2), inputs=[Told("assistant", f"{stopped}</code>")], outputs=[ANSWER]),
    ]
    assert len(built(spans)[0].messages) == 2


def test_each_agent_has_a_conversation_of_its_own_and_carries_on_what_was_said() -> None:
    spans = [
        span("a", "agent", "root", (0, 3), agent="first"),
        span("b", "agent", "root", (3, 6), agent="second"),
        span("root", "agent", None, (0, 6), agent="both"),
        span("x", "chat", "a", (1, 2), inputs=[ASKED], outputs=[ANSWER]),
        span("turn", "other", "b", (4, 5)),
        span("y", "chat", "turn", (4, 5), inputs=[ASKED, ANSWER], outputs=[Told("assistant", "Indeed.")]),
    ]
    source, _ = built(spans)
    assert [(each.goal_id, each.content) for each in source.messages] == [
        ("a", "What is 2 + 2?"),
        ("a", "Four."),
        ("b", "What is 2 + 2?"),
        ("b", "Indeed."),
    ]
    assert source.goals is not None
    assert [(goal.id, goal.parent_id) for goal in source.goals.goals] == [("root", None), ("a", "root"), ("b", "root")]
    assert source.trace.agent_type == "both"


def test_a_trace_whose_calls_tell_nothing_has_the_words_of_its_root() -> None:
    spans = [
        span("root", "other", None, (0, 4), inputs=[ASKED], outputs=[ANSWER]),
        span("inside", "other", "root", (0, 4), inputs=[Told("user", "{}")]),
        span("chat1", "chat", "root", (1, 2), usage=Usage(input_tokens=3)),
    ]
    source, _ = built(spans)
    assert said(source) == [("user", "What is 2 + 2?"), ("assistant", None), ("assistant", "Four.")]
    # What merely lacks its parent is no root.
    spans[0].parent_id = "elsewhere"
    assert said(built(spans)[0]) == [("assistant", None)]


def test_a_parent_that_is_missing_is_none() -> None:
    source, counts = built([span("a", "agent", "gone"), span("b", "chat", "lost", outputs=[ANSWER])])
    assert source.goals is not None
    assert [(goal.id, goal.parent_id) for goal in source.goals.goals] == [("a", None)]
    assert source.messages[0].goal_id is None
    assert counts.problems == []


def test_parents_that_go_in_a_circle_are_named_and_cut() -> None:
    circle = [span("a", "agent", "c"), span("b", "agent", "a"), span("c", "agent", "b")]
    spans = [span("below", "chat", "c", outputs=[ANSWER]), *circle]
    source, counts = built(spans)
    assert source.goals is not None
    source.goals.check()
    assert {goal.id: goal.parent_id for goal in source.goals.goals} == {"a": None, "b": "a", "c": "b"}
    assert [each.reason for each in counts.problems] == [
        "t: the parents of span a go in a circle; it stands as one without"
    ]
    assert source.messages[0].goal_id == "c"


def test_a_span_that_comes_twice_is_the_one_that_ended() -> None:
    begun, ended = span("a", "chat", at=None, outputs=[]), span("a", "chat", at=(0, 1), outputs=[ANSWER])
    begun.start = START
    for spans in ([begun, ended], [ended, begun]):
        source, _ = built(spans)
        assert said(source) == [("assistant", "Four.")]
        assert len(source.events) == 2


def test_spans_without_ids_or_times_are_taken_in_their_order() -> None:
    spans = [Span("", "chat", {"n": number}, outputs=[Told("assistant", str(number))]) for number in range(3)]
    source, _ = built(spans)
    assert [each.content for each in source.messages] == ["0", "1", "2"]
    assert len({each.message_id for each in source.messages}) == 3
    assert built(spans)[0].messages == source.messages
    assert source.trace.created_at is None


@pytest.mark.parametrize(
    ("root", "status"),
    [
        (span("r", "agent", None, (0, 1), failed=True, error="out of\nmemory"), "failed"),
        (span("r", "agent", None, (0, 1)), "completed"),
        (Span("r", "agent", {}, start=START), "running"),
    ],
)
def test_a_trace_ended_as_its_root_did(root: Span, status: str) -> None:
    source, _ = built([root, span("inside", "tool", "r", (0, 1), failed=True, error="no")])
    assert source.trace.status == status
    assert source.trace.error_message == ("out of memory" if status == "failed" else None)
    assert (source.trace.completed_at is None) is (status == "running")
    assert source.goals is not None
    [goal] = source.goals.goals
    assert goal.status == {"running": "in_progress"}.get(status, status)


def test_a_clock_that_runs_backwards_gives_no_duration() -> None:
    source, counts = built([span("a", "chat", None, (2, 1), outputs=[ANSWER])])
    assert source.messages[0].duration_ms is None
    assert counts.repaired == {"not a duration": 1}


def test_a_call_of_a_tool_that_two_layers_tell_is_one() -> None:
    spans = [
        span("outer", "tool", None, (0, 3), tool="add", call_id="c1", arguments={"a": 1}),
        span("client", "tool", "outer", (1, 2), tool="add", result="1"),
        span("helper", "tool", "client", (1, 2), tool="log", result="logged"),
    ]
    source, _ = built(spans)
    assert [(each.tool_name, each.tool_call_id, each.content) for each in source.messages] == [
        ("add", "c1", "1"),
        ("log", None, "logged"),
    ]


def test_an_embedding_counts_what_it_used() -> None:
    source, _ = built([span("e", "embedding", None, (0, 1), name="embed", usage=Usage(input_tokens=7))])
    assert tokens(source) == [7]
    assert (source.messages[0].description, source.trace.mode) == ("embed", "call")


PARENTS = st.none() | st.sampled_from("abcdef")
TOLD = st.builds(
    Told,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.sampled_from([None, "", "x", "y", ["x"], [call("c", "add")], [call(None, "add")], {"odd": 1}, 5]),
    st.none() | st.just("c"),
)
SPANS = st.builds(
    span,
    st.sampled_from("abcdef"),
    st.sampled_from(["agent", "chat", "embedding", "tool", "other"]),
    PARENTS,
    st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    call_id=st.none() | st.just("c"),
    tool=st.none() | st.just("add"),
    result=st.none() | st.just("x"),
    inputs=st.lists(TOLD, max_size=3),
    outputs=st.lists(TOLD, max_size=2),
    usage=st.none() | st.builds(Usage, input_tokens=st.integers(0, 3)),
)


@settings(max_examples=tried(200, 4000, 10_000))
@given(st.lists(SPANS, max_size=7))
def test_whatever_the_spans_are_the_trace_is_sound(spans: list[Span]) -> None:
    source, counts = built(spans)
    ids = [each.message_id for each in source.messages]
    assert len(set(ids)) == len(ids)
    assert len(source.events) == len(spans)
    goals = {goal.id for goal in source.goals.goals} if source.goals is not None else set()
    if source.goals is not None:
        source.goals.check()
    assert {each.goal_id for each in source.messages} <= goals | {None}
    # Nothing that a call states is lost, and nothing counts that no span states.
    told = {each.span_id: each for each in spans}
    spent = sum(each.usage.total() for each in told.values() if each.usage is not None)
    assert sum(tokens(source)) <= spent or len(told) < len(spans)
    if spent and len(told) == len(spans):
        assert sum(tokens(source)) > 0
    assert all("circle" in problem.reason for problem in counts.problems)


CALL: JsonObject = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
USE: JsonObject = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
LOOK: JsonObject = {"type": "text", "text": "I look."}
RESULT: JsonObject = {"type": "tool_result", "tool_use_id": "c", "content": "4"}
BEDROCK = '[{"text": "I look."}, {"toolUse": {"toolUseId": "c", "name": "f", "input": {}}}]'
GEMINI: JsonObject = {"function_call": {"id": "c", "name": "f", "args": {"a": 1}}}
ANSWERED: JsonObject = {"function_response": {"id": "c", "name": "f", "response": {"r": 4}}}
ITEMS: list[Json] = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "4"},
]
THOUGHT: list[Json] = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Four."}]
SHAPES: list[tuple[Json, list[Told]]] = [
    ("hi", [Told("user", "hi")]),
    ('{"not": "a message"}', [Told("user", {"not": "a message"})]),
    ("[sic", [Told("user", "[sic")]),
    ([], []),
    (None, []),
    ([{"role": "human", "content": "hi"}], [Told("user", "hi")]),
    ({"messages": [[{"type": "human", "content": "hi"}]]}, [Told("user", "hi")]),
    ([{"kwargs": {"content": "hi", "type": "human"}}], [Told("user", "hi")]),
    ({"type": "constructor", "id": ["x", "AIMessage"], "kwargs": {"content": "hi"}}, [Told("assistant", "hi")]),
    ({"role": "assistant", "content": None, "tool_calls": [CALL]}, [Told("assistant", [call("c", "f", a=1)])]),
    ({"role": "assistant", "content": [LOOK, USE]}, [Told("assistant", [LOOK, call("c", "f")])]),
    (
        {"role": "user", "content": [RESULT, {"type": "text", "text": "on"}]},
        [Told("tool", "4", "c"), Told("user", "on")],
    ),
    ({"role": "tool", "tool_call_id": "c", "name": "f", "content": "4"}, [Told("tool", "4", "c", "f")]),
    ({"role": "model", "parts": [GEMINI]}, [Told("assistant", [call("c", "f", a=1)])]),
    ({"role": "user", "parts": [ANSWERED]}, [Told("tool", {"r": 4}, "c", "f")]),
    ({"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "4"}]}, [Told("tool", "4", "c")]),
    ({"role": "assistant", "content": BEDROCK}, [Told("assistant", [LOOK, call("c", "f")])]),
    (ITEMS, [Told("assistant", [call("c", "f")]), Told("tool", "4", "c")]),
    (
        {"role": "assistant", "parts": THOUGHT},
        [Told("assistant", [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Four."}])],
    ),
    ({"generations": [[{"text": "Four.", "message": {"kwargs": {"content": ""}}}]]}, [Told("assistant", "Four.")]),
]


@pytest.mark.parametrize(("value", "told"), SHAPES)
def test_messages_of_all_shapes_are_told_in_one(value: Json, told: list[Told]) -> None:
    assert told_of(value, "user") == told


def test_what_python_shows_of_an_object_is_read_and_never_run() -> None:
    assert object_of("A(x=-1, y={'k': [1.5, None]}, z=B(t='a\\'b'))") == {
        "x": -1,
        "y": {"k": [1.5, None]},
        "z": {"t": "a'b"},
    }
    for text in (
        "A(1)",
        "A(x=open('f'))",
        "A(x=__import__('os'))",
        "A(x=1e999)",
        "A(x=y)",
        "A(",
        "(" * 500,
        "A(x=" * 500 + ")" * 500,
        "",
        5,
    ):
        assert object_of(text) is None


def test_messages_name_the_span_that_told_them() -> None:
    def told(message: Message) -> JsonObject:
        return message.model_extra or {}

    assert [told(each)["span_id"] for each in built(RUN)[0].messages] == ["chat1", "chat1", "chat1", "tool1", "chat2"]
