"""What a Claude Code row says twice is kept once, and comes back exactly."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from profiles import tried
from test_import_claude_code import answer, as_rows, call, canonical, extra, one, read, row
from traceark.importers import elsewhere
from traceark.importers.run import import_paths
from traceark.models import Json
from traceark.store import ArchiveStore

OUTPUT = "3 passed, 1 failed\n" * 20
LINES = [f"line {number} of a file" for number in range(1, 12)]
SHOWN = "\n".join(f"{number:6}→{line}" for number, line in enumerate(LINES, 1))
PLAIN = "\n".join(LINES)

# Few texts, so that they meet; some with numbers before their lines, some with none to take away, some short.
texts = st.sampled_from([OUTPUT, SHOWN, PLAIN, "1\t" + PLAIN, "x" * 100, "y" * 99, "é\ud800" * 60, "", "null"])
names = st.sampled_from(["stdout", "a/b", "~1", "~", "", "0", "is", "of", "as", "content"])
values: st.SearchStrategy[Json] = st.recursive(
    texts | st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
moments = st.sampled_from(
    ["2026-03-01T10:00:00.000Z", "2026-03-01T10:00:00Z", "2026-03-01T12:00:00.000+02:00", "x", None]
)


def asked(arguments: Json, call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return row("assistant", [call(call_id, "Edit", arguments)], **{"uuid": "u1", **fields})


def answered(content: Json, details: Json, call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    block: Json = {"type": "tool_result", "tool_use_id": call_id, "content": content}
    return row("user", [block], toolUseResult=details, **{"uuid": "u2", **fields})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_what_the_message_and_its_call_say_is_referred_to(tmp_path: Path) -> None:
    details: Json = {"stdout": OUTPUT, "file": {"content": PLAIN}, "newString": "new " * 40, "stderr": "short"}
    rows = [asked({"new_string": "new " * 40}), answered([{"text": OUTPUT}, {"text": SHOWN}], details)]
    messages = one(tmp_path, *rows).messages
    kept = extra(messages[1], "source")
    assert (kept["uuid"], kept["timestamp"]) == (None, None)
    assert kept["toolUseResult"] == {"stdout": None, "file": {"content": None}, "newString": None, "stderr": "short"}
    assert extra(messages[1], "source_elsewhere") == {
        "/uuid": "/message_id",
        "/timestamp": "/created_at",
        "/toolUseResult/stdout": "/content/0/content/0/text",
        "/toolUseResult/file/content": {"is": "/content/0/content/1/text", "as": "unnumbered"},
        "/toolUseResult/newString": {"is": "/content/0/input/new_string", "of": "u1"},
    }
    assert as_rows(messages) == rows


def test_a_row_that_says_nothing_twice_is_kept_as_it_is(tmp_path: Path) -> None:
    [message] = one(tmp_path, row(content="hi", timestamp="yesterday")).messages
    assert "source_elsewhere" not in (message.model_extra or {})


@given(st.data())
@settings(max_examples=tried(100, 1500, 3000), deadline=None)
def test_every_row_comes_back_whole(data: st.DataObject) -> None:
    rows = []
    for number in range(data.draw(st.integers(1, 4))):
        call_id = data.draw(st.sampled_from(["c1", "c2"]))
        place: dict[str, Any] = {"timestamp": data.draw(moments)}
        if data.draw(st.booleans()):
            place["uuid"] = data.draw(st.sampled_from(["u1", "u2", f"u-{number}"]))
        if data.draw(st.booleans()):
            rows.append(row("assistant", [call(call_id, "Edit", data.draw(values))], **place))
        else:
            block: Json = {"type": "tool_result", "tool_use_id": call_id, "content": data.draw(values)}
            rows.append(row("user", [block], toolUseResult=data.draw(values), number=number, **place))
    with TemporaryDirectory() as folder:
        traces, _ = read(write(Path(folder, "s.jsonl"), rows))
    [source] = traces.values()
    made = [*as_rows(source.messages), *(event.payload for event in source.events)]
    assert sorted(map(canonical, made)) == sorted(map(canonical, rows))


async def test_it_comes_back_out_of_a_sealed_archive(tmp_path: Path) -> None:
    rows = [asked({"content": OUTPUT}), answered(SHOWN, {"content": OUTPUT, "file": PLAIN})]
    path = write(tmp_path / "s.jsonl", rows)
    async with ArchiveStore(tmp_path / "runs", durability="os") as store:
        await import_paths(store, [path])
    async with ArchiveStore(tmp_path / "runs", durability="os") as store:
        [trace] = await store.list_traces()
        messages = await store.get_trace_messages(trace.trace_id)
    assert OUTPUT not in canonical(extra(messages[1], "source"))
    assert as_rows(messages) == rows


async def test_a_session_that_was_imported_with_whole_rows_grows(tmp_path: Path, monkeypatch: Any) -> None:
    rows = [asked({"content": OUTPUT}), answered("done", {"content": OUTPUT})]
    path = write(tmp_path / "s.jsonl", rows)
    async with ArchiveStore(tmp_path / "runs", durability="os") as store:
        with monkeypatch.context() as patched:
            patched.setattr(elsewhere, "shorten", lambda message, call=None: None)
            await import_paths(store, [path])
        report = await import_paths(store, [write(path, [*rows, answer("c9", uuid="u9")])])
        assert [trace.outcome for file in report.files for trace in file.traces] == ["grown"]


async def test_a_row_that_is_taken_from_a_file_that_went_another_way_refers_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    other = [asked({"content": "another text " * 20}), answered("done", {"content": "another text " * 20})]
    async with ArchiveStore(tmp_path / "runs", durability="os") as store:
        await import_paths(store, [write(path, [asked({"content": OUTPUT})])])
        report = await import_paths(store, [write(path, other)])
        [trace] = report.files[0].traces
        messages = await store.get_trace_messages(trace.trace_id)
    assert (trace.outcome, trace.new_messages) == ("diverged", 1)
    assert extra(messages[1], "source") == {**other[1], "message": {"role": "user"}}
