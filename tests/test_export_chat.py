"""Chats for fine-tuning: what a model said and was told, in the shape that trainers take, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from profiles import tried
from test_import_claude_code import SAMPLES, some_of
from traceark.exporters.base import Run
from traceark.exporters.chat import Chat
from traceark.importers import chat
from traceark.importers.base import ImportCounts
from traceark.importers.find import importers
from traceark.models import Event, GoalTree, Json, Message, Trace, utc_now


def run_of(*messages: dict[str, Any], **fields: Any) -> Run:
    """Return a run of messages, given by their fields."""
    made = [Message.parse({"trace_id": "t", "role": "assistant", **each}) for each in messages]
    return Run(Trace(trace_id="t", **fields), made)


def exported(run: Run) -> tuple[dict[str, Any] | None, Counter[str]]:
    left_out: Counter[str] = Counter()
    line = b"".join(Chat().export(run, left_out))
    assert line.count(b"\n") == (1 if line else 0)
    return json.loads(line) if line else None, +left_out


def messages_of(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    line, _ = exported(run_of(*messages))
    assert line is not None
    return list(line["messages"])


def called(call_id: str, name: str, **arguments: Json) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


ASKED = {"role": "user", "content": "Sort it."}
SAID = {"role": "assistant", "content": "I look.", "tool_calls": [called("c", "ls", path="/")]}
TOLD = {"role": "tool", "tool_call_id": "c", "content": "a b"}
DONE = {"role": "assistant", "content": "Done."}
CALLS: dict[str, list[dict[str, Any]]] = {
    "Claude Code": [
        {"content": [{"type": "text", "text": "I look."}], "source": {"message": {"id": "m"}}},
        {
            "content": [{"type": "tool_use", "id": "c", "name": "ls", "input": {"path": "/"}}],
            "source": {"message": {"id": "m"}},
        },
        {"role": "tool", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"text": "a b"}]}]},
    ],
    "Codex": [
        {"content": [{"type": "output_text", "text": "I look."}]},
        {"content": [{"type": "function_call", "call_id": "c", "name": "ls", "arguments": '{"path": "/"}'}]},
        {"role": "tool", "tool_call_id": "c", "content": "a b"},
    ],
    "Inspect": [
        {"content": ["I look.", {"type": "tool_call", "id": "c", "name": "ls", "arguments": {"path": "/"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a b"}]},
    ],
    "OpenAI": [
        {"content": {"content": "I look.", "tool_calls": [called("c", "ls", path="/")]}},
        {"role": "tool", "tool_call_id": "c", "content": "a b"},
    ],
    "a framework's own field": [
        {"content": "I look.", "tool_calls": [called("c", "ls", path="/")]},
        {"role": "function", "tool_call_id": "c", "content": {"text": "a b"}},
    ],
    "OpenTelemetry": [
        {
            "content": [
                {"type": "text", "content": "I look."},
                {"type": "tool_call", "id": "c", "name": "ls", "arguments": {"path": "/"}},
            ]
        },
        {"role": "tool", "content": [{"type": "tool_call_response", "id": "c", "response": "a b"}]},
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_and_their_answers_have_one_shape_wherever_they_come_from(name: str) -> None:
    assert messages_of(ASKED, *CALLS[name], DONE) == [ASKED, SAID, TOLD, DONE]


def test_an_answer_stands_behind_its_call_whatever_came_between() -> None:
    quick = {"role": "user", "content": "Quick."}
    found = messages_of(ASKED, *CALLS["Inspect"][:1], quick, *CALLS["Inspect"][1:], DONE)
    assert found == [ASKED, SAID, TOLD, quick, DONE]


def test_answers_without_ids_belong_to_the_calls_before_them() -> None:
    blocks: list[Json] = [{"type": "tool_use", "name": name, "input": {}} for name in ("a", "b")]
    told, *answers, _ = messages_of(
        {"content": blocks}, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, DONE
    )
    calls = told["tool_calls"]
    assert [(call["function"]["name"], each["content"]) for call, each in zip(calls, answers, strict=True)] == [
        ("a", "1"),
        ("b", "2"),
    ]
    assert [call["id"] for call in calls] == [each["tool_call_id"] for each in answers]


def test_neighbouring_answers_of_the_model_are_one_and_roles_are_those_of_the_format() -> None:
    found = messages_of(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "user", "content": "You there?"},
        {"role": "Planner", "content": "Yes."},
        {"role": "assistant", "content": "What now?"},
    )
    assert [(each["role"], each["content"]) for each in found] == [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("user", "You there?"),
        ("assistant", "Yes.\n\nWhat now?"),
    ]


def test_arguments_are_an_object_in_a_text_whatever_the_model_wrote() -> None:
    told: list[tuple[Json, Json]] = [
        ({"a": 1}, {"a": 1}),
        (None, {}),
        ('{"a": 1}', {"a": 1}),
        ("*** Begin Patch", {"input": "*** Begin Patch"}),
        ([1], {"input": [1]}),
    ]
    for given_, expected in told:
        call = {"type": "custom_tool_call", "call_id": "c", "name": "t", "input": given_}
        found = messages_of({"content": [call]}, {"role": "tool", "tool_call_id": "c", "content": ""})
        assert json.loads(found[0]["tool_calls"][0]["function"]["arguments"]) == expected


def test_what_a_model_must_not_learn_is_left_out_and_counted() -> None:
    _, left_out = exported(
        run_of(
            {"role": "user", "content": "x", "copied": True},
            {"content": "Earlier.", "copied": True},
            {"content": "API Error", "source": {"isApiErrorMessage": True}},
            {"content": "No response requested.", "source": {"message": {"model": "<synthetic>"}}},
            {"content": "Beside.", "source": {"isSidechain": True}},
            {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]},
            {"content": [{"type": "tool_use", "id": "lost", "name": "ls", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_call", "id": "u", "name": "phone", "arguments": {}}]},
            {"role": "tool", "tool_call_id": "u", "content": "rings"},
            {"role": "user", "content": [{"type": "image", "source": {"data": "…"}}]},
            {"content": "Done."},
        )
    )
    assert left_out == {
        "messages copied from another run": 2,
        "messages that no model wrote": 2,
        "messages of a sidechain": 1,
        "pieces of reasoning": 1,
        "calls without an answer": 1,
        "calls that are not the model's": 1,
        "answers of tools without a call of the model": 1,
        "attachments": 1,
    }


def test_a_sub_agents_own_trace_is_a_line() -> None:
    line, left_out = exported(run_of(ASKED, {"content": "Yes.", "source": {"isSidechain": True}}, parent_trace_id="p"))
    assert line is not None and not left_out


def test_a_call_that_ends_a_run_needs_no_answer() -> None:
    found = messages_of(ASKED, {"content": [{"type": "tool_use", "id": "c", "name": "submit", "input": {}}]})
    assert found[-1]["tool_calls"] == [called("c", "submit")]


def test_a_chat_ends_with_the_models_last_word_and_what_follows_is_counted() -> None:
    line, left_out = exported(run_of(ASKED, *CALLS["Inspect"], {"role": "user", "content": "Thanks."}))
    assert line is not None and line["messages"] == [ASKED, SAID]
    assert left_out == {"messages behind the model's last": 2}


def test_a_run_without_an_answer_of_the_model_is_no_line() -> None:
    line, left_out = exported(run_of(ASKED))
    assert line is None and left_out == {"runs in which the model says nothing": 1}


def test_definitions_of_tools_that_an_import_kept_come_along() -> None:
    tools = [{"type": "function", "function": {"name": "ls", "parameters": {}}}]
    for kind, name in (("chat.chat", "tools"), ("atif.agent", "tool_definitions")):
        event = Event(event_id=1, event_type=kind, payload={name: tools}, created_at=utc_now())
        run = Run(Trace(trace_id="t"), [Message(trace_id="t", role="assistant", content="x")], [event], GoalTree())
        line, left_out = exported(run)
        assert line is not None and line["tools"] == tools and left_out == {"events": 1}


def test_definitions_that_are_no_functions_are_left_out_and_counted() -> None:
    tools: list[Json] = [
        {"type": "function", "function": {"name": "ls"}},
        {"kind": "FinishTool", "title": "finish"},
        {"type": "function", "function": {"description": "nameless"}},
        {"type": "web_search"},
    ]
    event = Event(event_id=1, event_type="chat.chat", payload={"tools": tools}, created_at=utc_now())
    run = run_of(ASKED, DONE)
    line, left_out = exported(Run(run.trace, run.messages, [event]))
    assert line is not None and line["tools"] == tools[:1]
    assert left_out == {"events": 1, "definitions of tools in another shape": 3}


TEXTS = st.sampled_from(["a", "two\nlines", "\u2028", "\x85 \0 \x1b", "\ud800", "é", "{", " "]) | st.text(min_size=1)
CALL = st.builds(
    lambda call_id, arguments: {"type": "tool_use", "id": call_id, "name": "t", "input": arguments},
    st.sampled_from(["1", "2", "3"]),
    st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2),
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
    st.builds(lambda text: {"role": "system", "content": text}, TEXTS),
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda blocks: {"content": blocks}, st.lists(CALL, min_size=1, max_size=3)),
    st.builds(
        lambda call_id, text: {"role": "tool", "tool_call_id": call_id, "content": text},
        st.sampled_from(["1", "2", "3", None]),
        TEXTS,
    ),
)


def imported(line: bytes) -> Run:
    with TemporaryDirectory() as folder:
        path = Path(folder, "chat.jsonl")
        path.write_bytes(line)
        [importer] = [each for each in importers() if each.detect(path)]
        assert importer.name == chat.NAME
        counts = ImportCounts()
        [source] = importer.read(path, counts)
    assert not counts.problems
    return Run(source.trace, source.messages, [], source.goals)


@settings(max_examples=tried(80, 600, 3000), deadline=None)
@given(st.lists(MESSAGES, max_size=12))
def test_an_import_of_a_line_has_the_same_messages_and_gives_the_same_line(messages: list[dict[str, Any]]) -> None:
    left_out: Counter[str] = Counter()
    line = b"".join(Chat().export(run_of(*messages), left_out))
    if not line:
        return
    told, again = json.loads(line)["messages"], imported(line)
    assert [message.role for message in again.messages] == [each["role"] for each in told]
    answers = [each["tool_call_id"] for each in told if each["role"] == "tool"]
    assert [message.tool_call_id for message in again.messages if message.role == "tool"] == answers
    assert b"".join(Chat().export(again, Counter())) == line
    assert told[-1]["role"] == "assistant"
    asked = [each["content"] for each in messages if each.get("role") == "user"]
    kept = [message.content for message in again.messages if message.role == "user"]
    assert kept == asked[: len(kept)]
    assert len(asked) - len(kept) <= left_out["messages behind the model's last"]


def test_sessions_of_claude_code_become_chats() -> None:
    [importer] = [each for each in importers() if each.name == "claude-code"]
    [source] = importer.read(SAMPLES / "fix-failing-test.jsonl", ImportCounts())
    line, _ = exported(Run(source.trace, source.messages))
    assert line is not None
    calls = [call["id"] for each in line["messages"] for call in each.get("tool_calls", [])]
    assert calls == [each["tool_call_id"] for each in line["messages"] if each["role"] == "tool"]
    assert len(calls) == sum(message.role == "tool" for message in source.messages)


def test_every_real_run_is_a_chat_in_which_answers_follow_calls() -> None:
    lines = 0
    for folder in ("claude-code", "claude-code-small", "codex", "tau2-bench", "swe-agent", "inspect"):
        for path in some_of(folder):
            importer = next((each for each in importers() if each.detect(path)), None)
            for source in importer.read(path, ImportCounts()) if importer is not None else ():
                line, _ = exported(Run(source.trace, source.messages))
                lines += line is not None
                waiting: list[str] = []
                for each in line["messages"] if line is not None else ():
                    if each["role"] == "tool":
                        waiting.remove(each["tool_call_id"])
                    else:
                        assert not waiting
                        waiting = [call["id"] for call in each.get("tool_calls", [])]
    assert lines > tried(10, 500)
