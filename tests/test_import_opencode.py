"""opencode sessions: the last state of everything counts, once, and every row is kept as it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from profiles import some, tried
from test_import_claude_code import corpus
from traceark.importers.base import GOAL_STATUS, ImportCounts, SourceTrace
from traceark.importers.find import importers
from traceark.importers.opencode import OpenCode
from traceark.importers.run import import_paths
from traceark.models import Json, Message
from traceark.testing import ModelStore

START = 1_767_323_045_000  # 2026-01-02 03:04:05, in milliseconds
Row = Any


def event(kind: str, **properties: Any) -> Row:
    return ["event", {"event": {"type": kind, "properties": properties}}]


def session(session_id: str, **info: Any) -> Row:
    return event("session.updated", info={"id": session_id, "time": {"created": START}, **info})


def status(kind: str, session_id: str = "ses_a") -> Row:
    return event("session.status", sessionID=session_id, status={"type": kind})


def message(message_id: str, role: str, session_id: str = "ses_a", **info: Any) -> Row:
    told = {"id": message_id, "role": role, "sessionID": session_id, "time": {"created": START + 1000}, **info}
    return event("message.updated", info=told)


def done(message_id: str, session_id: str = "ses_a", **info: Any) -> Row:
    times = {"created": START + 1000, "completed": START + 3000}
    return message(message_id, "assistant", session_id, **{"modelID": "m-1", "time": times, **info})


def part(part_id: str, message_id: str, kind: str, session_id: str = "ses_a", **fields: Any) -> Row:
    told = {"id": part_id, "messageID": message_id, "sessionID": session_id, "type": kind, **fields}
    return event("message.part.updated", part=told, time=START + 2000)


def tool(part_id: str, name: str, given: dict[str, Any], state: str = "completed", **fields: Any) -> Row:
    told = {"status": state, "input": given, "time": {"start": START, "end": START + 250}, **fields}
    return part(part_id, "msg_2", "tool", tool=name, callID=f"call_{part_id}", state=told)


def tokens(given: int, written: int, read: int = 0, thought: int = 0, **more: int) -> dict[str, Any]:
    return {"input": given, "output": written, "reasoning": thought, "cache": {"read": read, "write": 0}, **more}


ASKED: list[Row] = [
    session("ses_a", title="A title", version="1.14.20"),
    message("msg_1", "user"),
    part("prt_1", "msg_1", "text", text="Why does it fail?"),
    status("busy"),
    message("msg_2", "assistant", tokens=tokens(0, 0), cost=0),
]
ANSWERED: list[Row] = [
    *ASKED,
    ["tool.definition", {"toolID": "bash"}, {"description": "Runs a command", "parameters": {}}],
    part("prt_2", "msg_2", "step-start"),
    part("prt_3", "msg_2", "reasoning", text=""),
    event("message.part.delta", sessionID="ses_a", messageID="msg_2", partID="prt_3", field="text", delta="I lo"),
    part("prt_3", "msg_2", "reasoning", text="I look."),
    tool("prt_4", "bash", {}, "pending"),
    tool("prt_4", "bash", {"command": "ls"}, "running"),
    tool("prt_4", "bash", {"command": "ls"}, output="a.py\n"),
    part("prt_5", "msg_2", "step-finish", tokens=tokens(10, 5, 100, 2, total=117), cost=0.5),
    message("msg_2", "assistant", tokens=tokens(10, 5, 100, 2, total=117), cost=0.5, finish="tool-calls"),
    done("msg_2", tokens=tokens(10, 5, 100, 2, total=117), cost=0.5, finish="tool-calls"),
    message("msg_3", "assistant"),
    part("prt_6", "msg_3", "text", text="Because of a.py."),
    done("msg_3", tokens=tokens(3, 4, 110), cost=0.25, finish="stop"),
    status("idle"),
    ["event", {"event": {"type": "server.instance.disposed", "properties": {"directory": "/home/a"}}}],
]
CHILD = [
    session("ses_b", parentID="ses_a", title="Looks"),
    message("msg_b1", "user", "ses_b"),
    part("prt_b1", "msg_b1", "text", "ses_b", text="Look."),
    message("msg_b2", "assistant", "ses_b", agent="general"),
    part("prt_b2", "msg_b2", "text", "ses_b", text="Looked."),
    done("msg_b2", "ses_b", tokens=tokens(1, 1)),
    status("idle", "ses_b"),
]
SPAWNED = {"input": {"description": "Look", "prompt": "Look.", "subagent_type": "general"}, "time": {"start": START}}


def said(message_id: str, role: str, *parts: dict[str, Any], **info: Any) -> dict[str, Any]:
    told = {"id": message_id, "role": role, "sessionID": "ses_a", "time": {"created": START + 1000}, **info}
    ids = {"messageID": message_id, "sessionID": "ses_a"}
    return {"info": told, "parts": [{"id": f"{message_id}_{at}", **ids, **each} for at, each in enumerate(parts)]}


COMPLETED = {"created": START + 1000, "completed": START + 3000}
EXPORT: dict[str, Any] = {
    "info": {"id": "ses_a", "projectID": "global", "title": "A title", "time": {"created": START}, "permission": [1]},
    "messages": [
        said("msg_1", "user", {"type": "text", "text": "Why does it fail?"}),
        said(
            "msg_2",
            "assistant",
            {"type": "reasoning", "text": "I look."},
            {
                "type": "tool",
                "tool": "bash",
                "callID": "c",
                "state": {
                    "status": "completed",
                    "input": {"command": "ls"},
                    "output": "a.py\n",
                    "time": {"start": START, "end": START + 250},
                },
            },
            time=COMPLETED,
            tokens=tokens(10, 5, 100, 2, total=117),
            cost=0.5,
            modelID="m-1",
        ),
        said("msg_3", "assistant", {"type": "text", "text": "Because of a.py."}, time=COMPLETED),
    ],
    "todos": [],
}


def lines(rows: list[Row]) -> str:
    return "".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in rows)


def read_all(tmp_path: Path, *rows: Row) -> tuple[list[SourceTrace], ImportCounts]:
    path = tmp_path / "recording.jsonl"
    path.write_text(lines(list(rows)))
    counts = ImportCounts()
    return list(OpenCode().read(path, counts)), counts


def read(tmp_path: Path, *rows: Row) -> SourceTrace:
    [source], counts = read_all(tmp_path, *rows)
    assert counts.problems == counts.differences == []
    return source


def spent(each: Message) -> tuple[int | None, ...] | None:
    told = each.usage
    if told is None:
        return None
    return told.input_tokens, told.output_tokens, told.cache_read_tokens, told.reasoning_tokens


def test_a_message_has_the_last_state_of_its_parts_and_the_result_of_its_tool(tmp_path: Path) -> None:
    source = read(tmp_path, *ANSWERED)
    assert [(each.message_id, each.role, each.tool_call_id, each.tool_name) for each in source.messages] == [
        ("msg_1", "user", None, None),
        ("msg_2", "assistant", "call_prt_4", "bash"),
        ("prt_4", "tool", "call_prt_4", "bash"),
        ("msg_3", "assistant", None, None),
    ]
    assert [each.content for each in source.messages] == [
        [{"type": "text", "text": "Why does it fail?"}],
        [
            {"type": "thinking", "thinking": "I look."},
            {"type": "tool_call", "id": "call_prt_4", "name": "bash", "arguments": {"command": "ls"}},
        ],
        "a.py\n",
        [{"type": "text", "text": "Because of a.py."}],
    ]
    assert source.messages[2].duration_ms == 250


def test_the_header_says_what_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    trace = read(tmp_path, *ANSWERED).trace
    assert (trace.trace_id, trace.agent_type, trace.status, trace.model) == ("ses_a", "opencode", "completed", "m-1")
    assert (trace.task, trace.result_summary) == ("Why does it fail?", "Because of a.py.")
    assert trace.metadata == {"title": "A title", "version": "1.14.20"}
    assert trace.created_at is not None and trace.completed_at is not None
    assert (trace.completed_at - trace.created_at).total_seconds() == 3


def test_every_row_is_an_event_as_it_is(tmp_path: Path) -> None:
    source = read(tmp_path, *ANSWERED)
    assert [each.payload for each in source.events] == ANSWERED
    kinds = [each.event_type for each in source.events]
    assert kinds[0] == "opencode.session.updated" and kinds[5] == "opencode.tool.definition"


def test_usage_counts_once_with_cached_tokens_beside_the_input(tmp_path: Path) -> None:
    source = read(tmp_path, *ANSWERED)
    assert [spent(each) for each in source.messages] == [None, (10, 7, 100, 2), None, (3, 4, 110, 0)]
    assert [each.tokens for each in source.messages] == [None, 117, None, 117]
    assert [each.cost for each in source.messages] == [None, 0.5, None, 0.25]


@pytest.mark.parametrize("total", [{}, {"total": 164}, {"total": 104}, {"total": 1}])
def test_cached_tokens_are_beside_the_input_whatever_the_total_says(tmp_path: Path, total: dict[str, int]) -> None:
    source = read(tmp_path, *ASKED, done("msg_2", tokens=tokens(100, 4, 60, 3, **total)))
    assert spent(source.messages[-1]) == (100, 4, 60, 3)


def test_reasoning_beside_the_output_is_told_by_the_total(tmp_path: Path) -> None:
    source = read(tmp_path, *ASKED, done("msg_2", tokens=tokens(100, 4, 60, 30, total=194)))
    assert spent(source.messages[-1]) == (100, 34, 60, 30)


@pytest.mark.parametrize(
    "after", [message("msg_3", "assistant"), status("idle"), event("session.idle", sessionID="ses_a")]
)
def test_an_answer_that_is_never_completed_has_what_was_said_until_the_session_went_on(
    tmp_path: Path, after: Row
) -> None:
    delta = event("message.part.delta", sessionID="ses_a", messageID="msg_2", partID="prt_3", field="text", delta=" so")
    begun = [*ASKED, part("prt_3", "msg_2", "text", text="Not"), delta]
    assert [each.message_id for each in read(tmp_path, *begun).messages] == ["msg_1"]
    assert read(tmp_path, *begun, after).messages[1].content == [{"type": "text", "text": "Not so"}]


def test_a_message_of_several_steps_used_what_all_of_them_used(tmp_path: Path) -> None:
    steps = [part(f"prt_s{number}", "msg_2", "step-finish", tokens=tokens(10, 1, 20), cost=0.5) for number in range(3)]
    source = read(tmp_path, *ASKED, *steps, steps[0], done("msg_2", tokens=tokens(10, 1, 20), cost=1.5))
    assert spent(source.messages[-1]) == (30, 3, 60, 0)
    assert source.messages[-1].cost == 1.5


def test_a_message_that_states_another_cost_than_its_steps_is_a_difference(tmp_path: Path) -> None:
    step = part("prt_s", "msg_2", "step-finish", tokens=tokens(10, 1), cost=0.5)
    _, counts = read_all(tmp_path, *ASKED, step, done("msg_2", tokens=tokens(11, 1), cost=2))
    assert [each.reason for each in counts.differences] == [
        "ses_a: message msg_2 and its step differ in their tokens",
        "ses_a: message msg_2 costs 2.0, its steps 0.5",
    ]


def test_a_sub_agent_is_a_child_trace_with_links_both_ways(tmp_path: Path) -> None:
    spawned = part("prt_4", "msg_2", "tool", tool="task", callID="c", state={**SPAWNED, "status": "running"})
    ended = {**SPAWNED, "status": "completed", "output": "Looked.", "metadata": {"sessionId": "ses_b"}}
    rows = [*ASKED, spawned, *CHILD, part("prt_4", "msg_2", "tool", tool="task", callID="c", state=ended)]
    [parent, child], _ = read_all(tmp_path, *rows, done("msg_2"), status("idle"))
    assert parent.goals is not None
    [goal] = parent.goals.goals
    assert (goal.id, goal.type, goal.description, goal.status) == ("prt_4", "agent", "Look", "completed")
    assert goal.sub_trace_ids == [child.trace.trace_id] == ["ses_b"]
    assert [each.goal_id for each in parent.messages] == [None, "prt_4", "prt_4"]
    assert (child.trace.parent_trace_id, child.trace.task, child.trace.metadata["agent"]) == (
        "ses_a",
        "Look.",
        "general",
    )
    changes = [each.payload for each in parent.events if each.event_type == GOAL_STATUS]
    assert [(each["goal_id"], each["status"]) for each in changes] == [  # type: ignore[index, call-overload]
        ("prt_4", "in_progress"),
        ("prt_4", "completed"),
    ]
    assert len(parent.events) + len(child.events) == len(rows) + 2 + len(changes)

    async def link() -> str | None:
        store = ModelStore()
        await import_paths(store, [tmp_path / "recording.jsonl"])
        stored = await store.get_trace("ses_b")
        return stored.parent_goal_id if stored is not None else None

    assert asyncio.run(link()) == "prt_4"


def test_a_list_of_things_to_do_is_goals_which_messages_worked_on(tmp_path: Path) -> None:
    first = [{"content": "find", "status": "in_progress"}, {"content": "mend", "status": "pending"}]
    second = [{"content": "find", "status": "completed"}, {"content": "mend", "status": "in_progress"}]
    source = read(
        tmp_path,
        *ASKED,
        tool("prt_4", "todowrite", {"todos": first}, output="ok"),
        event("todo.updated", sessionID="ses_a", todos=first),
        done("msg_2"),
        message("msg_3", "assistant"),
        part("prt_6", "msg_3", "text", text="Found."),
        event("todo.updated", sessionID="ses_a", todos=second),
        done("msg_3"),
        status("idle"),
    )
    assert source.goals is not None
    told = [(goal.description, goal.status) for goal in source.goals.goals]
    assert told == [("find", "completed"), ("mend", "in_progress")]
    assert [each.goal_id for each in source.messages[1:]] == ["todo-1", "todo-1", "todo-1"]
    assert source.trace.current_goal_id == "todo-2"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([done("msg_2"), status("idle")], ("completed", None)),
        ([], ("running", None)),
        ([done("msg_2", error={"name": "APIError", "data": {"message": "no"}}), status("idle")], ("failed", "no")),
        (
            [event("session.error", sessionID="ses_a", error={"name": "MessageAbortedError"}), status("idle")],
            ("cancelled", "MessageAbortedError"),
        ),
        (
            [done("msg_2", error={"name": "APIError"}), message("msg_3", "assistant"), done("msg_3"), status("idle")],
            ("completed", None),
        ),
    ],
)
def test_the_status_is_what_the_session_said_last(
    tmp_path: Path, rows: list[Row], expected: tuple[str, str | None]
) -> None:
    trace = read(tmp_path, *ASKED, *rows).trace
    assert (trace.status, trace.error_message) == expected


def test_a_tool_that_fails_is_marked_and_one_that_does_not_answer_has_no_result(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        *ASKED,
        tool("prt_4", "glob", {}, "error", error="invalid arguments"),
        tool("prt_5", "bash", {"command": "sleep"}, "running"),
        done("msg_2"),
    )
    assert [(each.message_id, each.content, each.status) for each in source.messages[2:]] == [
        ("prt_4", "invalid arguments", "failed")
    ]


def test_a_tool_that_answers_after_its_message_still_does(tmp_path: Path) -> None:
    running = tool("prt_5", "bash", {"command": "sleep"}, "running")
    files = [{"id": "prt_f", "sessionID": "ses_a", "messageID": "msg_2", "type": "file", "url": "data:,x"}]
    answered = tool("prt_5", "bash", {"command": "sleep"}, output="slept", attachments=files)
    source = read(tmp_path, *ASKED, running, done("msg_2"), answered)
    assert source.messages[-1].content == [{"type": "text", "text": "slept"}, {"type": "file", "url": "data:,x"}]


def test_what_is_taken_back_before_it_is_finished_is_no_content(tmp_path: Path) -> None:
    text = part("prt_3", "msg_2", "text", text="Oops")
    back = event("message.part.removed", sessionID="ses_a", messageID="msg_2", partID="prt_3")
    assert read(tmp_path, *ASKED, text, back, done("msg_2")).messages[-1].content == []
    gone = event("message.removed", sessionID="ses_a", messageID="msg_2")
    assert [each.message_id for each in read(tmp_path, *ASKED, text, gone, status("idle")).messages] == ["msg_1"]


def test_what_was_asked_is_told_by_the_hook_too(tmp_path: Path) -> None:
    asked = {"id": "msg_1", "role": "user", "sessionID": "ses_a", "time": {"created": START}}
    parts = [
        {
            "id": "prt_0",
            "messageID": "msg_1",
            "sessionID": "ses_a",
            "type": "text",
            "text": "put in",
            "synthetic": True,
        },
        {"id": "prt_1", "messageID": "msg_1", "sessionID": "ses_a", "type": "text", "text": "Asked"},
        {
            "id": "prt_2",
            "messageID": "msg_1",
            "sessionID": "ses_a",
            "type": "file",
            "mime": "image/png",
            "url": "data:,",
        },
    ]
    hook = ["chat.message", {"sessionID": "ses_a", "agent": "build"}, {"message": asked, "parts": parts}]
    source = read(tmp_path, hook, status("busy"))
    assert source.messages[0].content == [
        {"type": "text", "text": "put in", "synthetic": True},
        {"type": "text", "text": "Asked"},
        {"type": "file", "mime": "image/png", "url": "data:,"},
    ]
    assert source.trace.task == "Asked"


def test_events_without_hooks_are_the_same_session(tmp_path: Path) -> None:
    bare = [row[1]["event"] for row in ANSWERED if row[0] == "event"]
    hooked = read(tmp_path, *(row for row in ANSWERED if row[0] == "event"))
    source = read(tmp_path, *bare)
    assert (source.trace, source.messages) == (hooked.trace, hooked.messages)
    assert [each.payload for each in source.events] == bare


def test_a_recording_that_grew_is_the_same_in_any_order(tmp_path: Path) -> None:
    text = lines([*ANSWERED, *CHILD])

    async def contents(sizes: list[int]) -> list[Any]:
        store = ModelStore()
        path = tmp_path / "recording.jsonl"
        for size in sizes:
            path.write_text(text[:size])
            report = await import_paths(store, [path], importer=OpenCode())
            traces = [trace for file in report.files for trace in file.traces]
            assert all(trace.outcome != "diverged" for trace in traces)
        found: list[Any] = []
        for trace in sorted(await store.list_traces(), key=lambda each: each.trace_id):
            found += [trace, await store.get_trace_messages(trace.trace_id)]
            found += [(each.event_type, each.payload) for each in await store.get_events(trace.trace_id)]
        return found

    expected = asyncio.run(contents([len(text)]))
    for size in range(len(lines(ANSWERED[:1])), len(text), tried(1055, 211)):
        for order in ([size, len(text)], [len(text), size], [size, size // 2 + 200, len(text), len(text)]):
            assert asyncio.run(contents(order)) == expected


def test_a_row_that_a_torn_one_runs_into_is_whole(tmp_path: Path) -> None:
    torn = json.dumps(ANSWERED[2])[:60]
    [source], counts = read_all(tmp_path, *ASKED[:2], torn, *ASKED[2:], "[1, 2]\n", '{"odd": true}\n', "<<<< HEAD\n")
    assert [each.payload for each in source.events if "unreadable" not in each.event_type] == [
        *ASKED,
        [1, 2],
        {"odd": True},
    ]
    assert [(each.line, each.reason[:8]) for each in counts.problems] == [(3, "not JSON"), (8, "not JSON")]
    assert [each.payload for each in source.events if "unreadable" in each.event_type] == [
        {"line": 3, "text": torn},
        {"line": 8, "text": "<<<< HEAD"},
    ]


@pytest.mark.parametrize("strange", some([None, 7, "x", [], ["x"], {}, {"type": ["x"]}, {"status": {"a": 1}}], 3))
def test_fields_of_other_types_are_kept_and_do_no_harm(tmp_path: Path, strange: Json) -> None:
    places = [(at, *path) for at, row in enumerate(ANSWERED) for path in _places(row)]
    for path in some(places, 60):
        changed = json.loads(json.dumps(ANSWERED))
        inside: Any = changed
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = strange
        sources, _ = read_all(tmp_path, *changed)
        events = [each for source in sources for each in source.events if each.event_type != GOAL_STATUS]
        payloads = [json.dumps(each.payload) for each in events]
        assert sorted(payloads) == sorted(map(json.dumps, changed))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in ((*path, key), *_places(each, (*path, key)))]


def exported(tmp_path: Path, document: Any) -> tuple[SourceTrace, ImportCounts]:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(document, indent=2))
    assert [each.name for each in importers() if each.detect(path)] == ["opencode"]
    counts = ImportCounts()
    [source] = OpenCode().read(path, counts)
    return source, counts


def test_an_export_is_the_messages_that_a_recording_is(tmp_path: Path) -> None:
    source, counts = exported(tmp_path, EXPORT)
    assert counts.problems == counts.differences == []
    recorded = read(tmp_path, *ANSWERED)
    assert [each.message_id for each in source.messages] == ["msg_1", "msg_2", "msg_2_1", "msg_3"]
    for one, other in zip(source.messages, recorded.messages, strict=True):
        assert (one.role, one.tool_name, one.duration_ms) == (other.role, other.tool_name, other.duration_ms)
    assert [spent(each) for each in source.messages[:3]] == [spent(each) for each in recorded.messages[:3]]
    assert [source.messages[at].content for at in (0, 2, 3)] == [recorded.messages[at].content for at in (0, 2, 3)]
    assert (source.trace.status, source.trace.task, source.trace.model) == ("completed", "Why does it fail?", "m-1")
    assert [each.payload for each in source.events] == EXPORT["messages"]
    assert source.trace.metadata["opencode"] == {"info": EXPORT["info"], "todos": []}


def test_an_export_of_a_session_that_went_on_adds_its_tail(tmp_path: Path) -> None:
    asked, answered, _ = EXPORT["messages"]
    begun = said("msg_3", "assistant", {"type": "text", "text": "Beca"})
    titled = {**EXPORT, "info": {**EXPORT["info"], "title": "A better title"}}
    states = [
        {**EXPORT, "messages": [asked]},
        {**EXPORT, "messages": [asked, answered]},
        {**titled, "messages": [asked, answered, begun]},
        titled,
    ]
    source, _ = exported(tmp_path, states[2])
    assert (source.trace.status, len(source.messages), "Beca" in str(source.torn_tail)) == ("running", 3, True)

    async def contents(order: list[dict[str, Any]]) -> list[Any]:
        store = ModelStore()
        for document in order:
            (tmp_path / "export.json").write_text(json.dumps(document))
            report = await import_paths(store, [tmp_path / "export.json"])
            assert report.ok
        events = [(each.event_type, each.payload) for each in await store.get_events("ses_a")]
        return [await store.get_trace("ses_a"), await store.get_trace_messages("ses_a"), events]

    expected = asyncio.run(contents(states[3:]))
    for order in (states, states[::-1], [states[2], states[0], states[3], states[3]]):
        assert asyncio.run(contents(order)) == expected


def test_an_export_whose_old_messages_changed_is_diverged_and_brings_its_new_ones(tmp_path: Path) -> None:
    asked, answered, last = json.loads(json.dumps(EXPORT["messages"]))
    answered["parts"][1]["state"]["time"]["compacted"] = START + 9000
    path = tmp_path / "export.json"

    async def run() -> tuple[list[str], list[str | None]]:
        store = ModelStore()
        outcomes: list[str] = []
        for messages in (EXPORT["messages"][:2], [asked, answered, last], [asked, answered, last]):
            path.write_text(json.dumps({**EXPORT, "messages": messages}))
            report = await import_paths(store, [path])
            outcomes += [trace.outcome for trace in report.files[0].traces]
        return outcomes, [each.message_id for each in await store.get_trace_messages("ses_a")]

    assert asyncio.run(run()) == (["new", "diverged", "diverged"], ["msg_1", "msg_2", "msg_2_1", "msg_3"])


@pytest.mark.parametrize("messages", [None, {}, "x"])
def test_an_export_without_messages_is_named(tmp_path: Path, messages: Json) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps({**EXPORT, "messages": messages}))
    counts = ImportCounts()
    assert list(OpenCode().read(path, counts)) == []
    assert [each.reason for each in counts.problems] == ["no session with messages; nothing was taken"]


def test_a_file_that_names_no_session_is_not_taken(tmp_path: Path) -> None:
    sources, counts = read_all(tmp_path, ["tool.definition", {"toolID": "bash"}, {}])
    assert sources == []
    assert [each.reason for each in counts.problems] == ["no row names a session; nothing was taken"]


def test_real_recordings_add_up_and_keep_every_row() -> None:
    paths = [path for path in corpus("langsmith") if path.name.startswith("ses_")]
    assert paths
    for path in paths:
        assert [each.name for each in importers() if each.detect(path)] == ["opencode"]
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        infos = [
            row[1]["event"]["properties"]["info"]
            for row in rows
            if row[0] == "event" and "message.updated" in str(row)
            if row[1]["event"]["type"] == "message.updated"
        ]
        last = {info["id"]: info for info in infos}
        counts = ImportCounts()
        sources = list(OpenCode().read(path, counts))
        assert (counts.problems, counts.differences, counts.repaired.total()) == ([], [], 0)
        events = [each for source in sources for each in source.events if each.event_type != GOAL_STATUS]
        payloads = [json.dumps(each.payload) for each in events]
        assert sorted(payloads) == sorted(map(json.dumps, rows))
        told = {each.message_id: each for source in sources for each in source.messages if each.role != "tool"}
        assert told.keys() == last.keys()
        stated = {key: info["tokens"]["total"] for key, info in last.items() if info["role"] == "assistant"}
        assert {key: told[key].tokens for key in stated} == stated
        called = {
            (block["id"], block["name"])
            for each in told.values()
            for block in each.content
            if block["type"] == "tool_call"
        }
        answered = {
            (each.tool_call_id, each.tool_name) for source in sources for each in source.messages if each.role == "tool"
        }
        assert called == answered
        links = {
            child: goal
            for source in sources
            if source.goals
            for goal in source.goals.goals
            for child in goal.sub_trace_ids
        }
        assert links.keys() == {source.trace.trace_id for source in sources if source.trace.parent_trace_id}


def test_an_export_of_the_last_states_in_a_real_recording_has_the_same_messages(tmp_path: Path) -> None:
    [path] = [each for each in corpus("langsmith") if each.name == "ses_editing.jsonl"]
    infos: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for row in map(json.loads, path.read_bytes().splitlines()):
        told = row[1].get("event", {"type": row[0]})
        if told["type"] == "message.updated":
            infos[told["properties"]["info"]["id"]] = told["properties"]["info"]
        elif told["type"] == "message.part.updated":
            part_ = told["properties"]["part"]
            parts.setdefault(part_["messageID"], {})[part_["id"]] = part_
    messages = [{"info": infos[each], "parts": list(parts[each].values())} for each in sorted(infos)]
    session_id = messages[0]["info"]["sessionID"]
    source, _ = exported(tmp_path, {"info": {"id": session_id, "projectID": "global"}, "messages": messages})
    [recorded] = OpenCode().read(path, ImportCounts())
    told_twice = [
        [(each.message_id, each.role, each.content, each.tokens, each.created_at) for each in trace.messages]
        for trace in (source, recorded)
    ]
    assert told_twice[0] == told_twice[1]
