"""Importing into an archive: only what is new, in any order, and through interruptions."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import SEED, some, tried
from test_import_claude_code import SAMPLES, SESSION, answer, call, corpus, row, streamed
from traceark.errors import ImportFailedError
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.find import GROUP, importers
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.importers.take_trace import BatchStore
from traceark.models import Goal, GoalTree, Json, Message, Trace
from traceark.protocol import TraceStore
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text, exact_texts
from traceark.testing.model import ModelStore

NOW = datetime(2026, 4, 1, tzinfo=UTC)
PARENT = "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803"
PARENT_FILE = SAMPLES / f"{PARENT}.jsonl"
CHILD_FILE = SAMPLES / PARENT / "subagents" / "agent-a31c7d.jsonl"


def store() -> ModelStore:
    return ModelStore(clock=lambda: NOW)


class Plain:
    """The fifteen methods of the protocol and no more."""

    def __init__(self, inner: ModelStore) -> None:
        for name in vars(TraceStore):
            if not name.startswith("_") and name != "update_message":
                setattr(self, name, getattr(inner, name))
        self._inner = inner

    async def update_message(self, message_id: str, **updates: Any) -> None:
        assert "trace_id" not in updates
        await self._inner.update_message(message_id, **updates)


class Killed(BaseException):
    """The process died here."""


class Dying(ModelStore):
    """A store whose process dies after some writes, perhaps within a batch."""

    def __init__(self, inner: ModelStore, writes: int) -> None:
        super().__init__(clock=lambda: NOW)
        self._traces = inner._traces
        self._left = writes

    def _write(self) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1

    async def create_trace(self, trace: Trace) -> str:
        self._write()
        return await super().create_trace(trace)

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        self._write()
        await super().update_trace(trace_id, **updates)

    async def update_goal_tree(self, trace_id: str, tree: Any) -> None:
        self._write()
        await super().update_goal_tree(trace_id, tree)

    async def add_message(self, message: Message) -> str:
        self._write()
        return await super().add_message(message)

    async def update_message(self, message_id: str, **updates: Any) -> None:
        self._write()
        await super().update_message(message_id, **updates)

    async def append_event(self, trace_id: str, event_type: str, payload: Json) -> int:
        self._write()
        return await super().append_event(trace_id, event_type, payload)


def run(into: Any, *paths: Path) -> ImportReport:
    return asyncio.run(import_paths(into, paths))


async def contents_of(of: ModelStore | ArchiveStore) -> dict[str, Any]:
    found = {}
    for trace in await of.list_traces(limit=1000):
        tree = await of.get_goal_tree(trace.trace_id)
        found[trace.trace_id] = {
            "header": exact_text(trace),
            "messages": exact_texts(await of.get_trace_messages(trace.trace_id)),
            "events": exact_texts(await of.get_events(trace.trace_id)),
            "goals": exact_text(tree) if tree is not None else None,
        }
    return found


def contents(of: ModelStore) -> dict[str, Any]:
    return asyncio.run(contents_of(of))


def imported(*paths: Path) -> dict[str, Any]:
    into = store()
    run(into, *paths)
    return contents(into)


def test_every_importer_of_the_package_is_offered_as_an_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    offered = project["project"]["entry-points"][GROUP]
    own = {importer.name: f"{type(importer).__module__}:{type(importer).__name__}" for importer in importers()}
    assert offered == own


def test_the_samples_are_imported_whole() -> None:
    into = store()
    report = run(into, SAMPLES)
    assert report.ok
    assert report.totals() == {
        "files": 5,
        "skipped": 0,
        "rows": 72,
        "traces": 5,
        "new_traces": 5,
        "new_messages": 65,
        "known_messages": 0,
        "new_events": 7,
        "known_events": 0,
        "goals": 7,
        "goal_changes": 16,
        "repaired": 0,
        "problems": 0,
        "differences": 0,
    }
    assert json.loads(json.dumps(report.to_json()))["rows"]["assistant"] == 37


def test_importing_again_adds_nothing() -> None:
    into = store()
    run(into, SAMPLES)
    before = contents(into)
    report = run(into, SAMPLES)
    assert {trace.outcome for file in report.files for trace in file.traces} == {"known"}
    assert (report.totals()["known_messages"], report.totals()["known_events"]) == (65, 7)
    assert contents(into) == before


def test_a_store_without_batches_gets_the_same() -> None:
    inner = store()
    plain = Plain(inner)
    assert not isinstance(plain, BatchStore)
    assert isinstance(inner, BatchStore)
    run(plain, SAMPLES)
    # The protocol gives an event no time but that of appending.
    found, expected = contents(inner), imported(SAMPLES)
    assert {key: without_event_times(each) for key, each in found.items()} == {
        key: without_event_times(each) for key, each in expected.items()
    }


@pytest.mark.parametrize("order", list(itertools.permutations([PARENT_FILE, CHILD_FILE])))
def test_parent_and_child_are_linked_in_any_order(order: Sequence[Path]) -> None:
    into = store()
    for path in order:
        run(into, path)
    child = asyncio.run(into.get_trace(f"{PARENT}-agent-a31c7d"))
    assert child is not None
    assert (child.parent_trace_id, child.parent_goal_id) == (PARENT, "toolu_02a")
    tree = asyncio.run(into.get_goal_tree(PARENT))
    assert tree is not None
    assert tree.goals[0].sub_trace_ids == [child.trace_id]
    assert contents(into) == imported(PARENT_FILE, CHILD_FILE)


def test_a_sub_agents_own_sub_agent_is_linked_to_it_in_any_order(tmp_path: Path) -> None:
    def agent_file(agent: str, *rows: dict[str, Any]) -> Path:
        path = tmp_path / f"agent-{agent}.jsonl"
        path.write_text("".join(json.dumps({**each, "isSidechain": True, "agentId": agent}) + "\n" for each in rows))
        return path

    def calls(agent: str) -> list[dict[str, Any]]:
        return [
            row(uuid="u" + agent),
            streamed("m" + agent, 1, call("c" + agent, "Agent", {"prompt": agent}), uuid="v" + agent),
            answer("c" + agent, {"agentId": agent, "status": "completed"}, uuid="w" + agent),
        ]

    main = tmp_path / "main.jsonl"
    main.write_text("".join(json.dumps(each) + "\n" for each in calls("one")))
    paths = [main, agent_file("one", *calls("two")), agent_file("two", row(uuid="x"))]
    expected = imported(*paths)
    for order in itertools.permutations(paths):
        into = store()
        for path in order:
            run(into, path)
        assert contents(into) == expected
    deepest = asyncio.run(into.get_trace(f"{SESSION}-agent-two"))
    assert deepest is not None
    assert (deepest.parent_trace_id, deepest.parent_goal_id) == (f"{SESSION}-agent-one", "ctwo")


def test_a_growing_real_session_ends_as_its_last_state_in_any_order() -> None:
    states = corpus("claude-code-growing")
    expected = imported(states[-1])
    orders = [
        [states[2], states[5], states[0], states[4], states[1], states[3]],
        states,
        states[::-1],
        [states[4], states[1], states[5]],
    ]
    for order in some(orders, 1):
        into = store()
        for path in order:
            assert run(into, path).ok
        assert contents(into) == expected


def test_each_import_of_a_growing_session_adds_only_what_is_new() -> None:
    into = store()
    messages = 0
    for number, path in enumerate(corpus("claude-code-growing")[: tried(3, 100)]):
        [file] = run(into, path).files
        [trace] = file.traces
        assert trace.outcome == ("grown" if number else "new")
        assert trace.known_messages == messages
        messages += trace.new_messages
    assert messages == file.rows["user"] + file.rows["assistant"]


def cut(path: Path, folder: Path, size: int) -> Path:
    target = folder / f"cut-{size}.jsonl"
    target.write_bytes(path.read_bytes()[:size])
    return target


def test_a_streamed_message_that_goes_on_moves_its_usage(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [streamed("m", 1, uuid="a"), streamed("m", 8, uuid="b")]
    into = store()
    for upto in (1, 2):
        path.write_text("".join(json.dumps(each) + "\n" for each in rows[:upto]))
        run(into, path)
    messages = asyncio.run(into.get_trace_messages(SESSION))
    assert [message.tokens for message in messages] == [None, 113]
    header = asyncio.run(into.get_trace(SESSION))
    assert header is not None
    assert header.total_tokens == 113


def test_a_torn_end_is_reported_and_becomes_its_row_when_the_file_grows(tmp_path: Path) -> None:
    whole = SAMPLES / "fix-failing-test.jsonl"
    into = store()
    report = run(into, cut(whole, tmp_path, 5000))
    assert [problem.reason for problem in report.problems] == ["the last row is not whole (yet)"]
    [trace] = asyncio.run(into.list_traces())
    assert trace.metadata["import"]["torn_tail"]
    assert asyncio.run(into.get_events(trace.trace_id))[-1].event_type != "claude-code.unreadable"
    assert run(into, whole).ok
    assert contents(into) == imported(whole)


def test_a_file_that_went_another_way_adds_its_new_messages_and_changes_nothing(tmp_path: Path) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    common = [row(uuid="a"), streamed("m", 1, uuid="b")]
    todo = [streamed("n", 1, call("c", "TodoWrite", {"todos": [{"content": "x", "status": "in_progress"}]}), uuid="t")]
    system = {"type": "system", "sessionId": SESSION}
    here.write_text("\n".join(map(json.dumps, [*common, row(uuid="c", content="here")])))
    there.write_text("\n".join(map(json.dumps, [*common, row(uuid="d"), system, *todo, answer("c", uuid="e")])))
    into = store()
    run(into, here)
    before = contents(into)[SESSION]
    for again in (False, True):
        report = run(into, there)
        assert not report.ok
        assert [trace.outcome for trace in report.files[0].traces] == ["diverged"]
        assert report.totals()["new_messages"] == (0 if again else 3)
    after = contents(into)[SESSION]
    assert after["messages"][:3] == before["messages"]
    assert (after["events"], after["goals"]) == (before["events"], before["goals"])
    assert [message.goal_id for message in asyncio.run(into.get_trace_messages(SESSION))] == [None] * 6
    # The archive's own source may still grow.
    here.write_text(here.read_text() + "\n" + json.dumps(row(uuid="f")))
    [trace] = run(into, here).files[0].traces
    assert (trace.outcome, trace.new_messages) == ("grown", 1)


def test_a_trace_that_no_import_wrote_is_not_taken_over() -> None:
    into = store()
    [source] = ClaudeCode().read(SAMPLES / "api-error.jsonl", ImportCounts())
    asyncio.run(into.create_trace(Trace(trace_id=source.trace.trace_id, task="live")))
    for _ in range(2):
        assert not run(into, SAMPLES / "api-error.jsonl").ok
    header = asyncio.run(into.get_trace(source.trace.trace_id))
    assert header is not None
    assert (header.task, header.status, header.total_messages) == ("live", "running", 5)


def test_an_import_killed_anywhere_and_repeated_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = SAMPLES / "rename-column.jsonl"
    part = cut(whole, tmp_path, 6000)
    expected = imported(whole)
    for earlier in ([], [part]):
        for writes in range(SEED % tried(3, 1), 100, tried(3, 1)):
            into = store()
            for path in earlier:
                run(into, path)
            try:
                run(Dying(into, writes), whole)
            except Killed:
                [header] = asyncio.run(into.list_traces()) or [Trace(status="running")]
                assert header.status == "running" or earlier
            else:
                break
            # Whatever comes next, the repeated import ends it.
            for path in (*earlier, whole):
                run(into, path)
            assert contents(into) == expected
        assert writes > 5


def test_a_directory_is_walked_and_what_is_no_session_is_listed(tmp_path: Path) -> None:
    tree = tmp_path / "projects"
    shutil.copytree(SAMPLES, tree / "p")
    (tree / "notes.jsonl").write_text('{"a":1}\n')
    (tree / "empty").touch()
    (tree / "p" / "renamed.txt").write_bytes((SAMPLES / "api-error.jsonl").read_bytes())
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes((SAMPLES / "api-error.jsonl").read_bytes())
    (tree / "link.jsonl").symlink_to(outside)
    (tree / "loop").symlink_to(tree)
    report = run(store(), tree)
    assert {Path(path).name for path in report.skipped} == {"notes.jsonl", "empty", "link.jsonl", "loop"}
    assert len(report.files) == 6
    assert report.totals()["traces"] == 5


@pytest.mark.parametrize(
    ("begins", "name"), [("1f8b08", "gzip"), ("28b52ffd", "zstd"), ("fd377a585a00", "xz"), ("425a68", "bzip2")]
)
def test_what_is_compressed_is_told_from_what_is_in_no_known_format(tmp_path: Path, begins: str, name: str) -> None:
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(bytes.fromhex(begins) + b"...")
    (tmp_path / "notes.txt").write_text("no run")
    (tmp_path / "empty").touch()
    report = run(store(), tmp_path)
    assert len(report.skipped) == 3
    assert report.compressed == report.to_json()["compressed"] == {str(packed): name}


def test_what_cannot_be_looked_at_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    report = run(store(), loop, SAMPLES / "api-error.jsonl")
    assert [(problem.path, problem.reason) for problem in report.problems] == [
        (str(loop), "cannot be read: Too many levels of symbolic links")
    ]
    assert report.totals()["traces"] == 1


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    pipe = tree / "pipe.jsonl"
    os.mkfifo(pipe)
    found = run(store(), tree)
    assert (found.skipped, found.ok) == ([str(pipe)], True)
    named = run(store(), pipe)
    assert [problem.reason for problem in named.problems] == ["cannot be read: it is neither a file nor a directory"]


def test_progress_is_told_in_bytes() -> None:
    told: list[tuple[str, int, int]] = []
    asyncio.run(
        import_paths(store(), [PARENT_FILE, CHILD_FILE], progress=lambda path, *done: told.append((path.name, *done)))
    )
    first, second = PARENT_FILE.stat().st_size, CHILD_FILE.stat().st_size
    both = first + second
    assert told == [(PARENT_FILE.name, 0, both), (CHILD_FILE.name, first, both), (CHILD_FILE.name, both, both)]


def test_a_path_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    into = store()
    with pytest.raises(ImportFailedError, match="does not exist"):
        run(into, PARENT_FILE, tmp_path / "nowhere")
    assert contents(into) == {}


def test_a_trace_that_cannot_be_kept_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(json.dumps(row(uuid="a", sessionId=session)) for session in ("x" * 400, "fine")))
    into = store()
    report = run(into, path)
    assert [trace.outcome for trace in report.files[0].traces] == ["failed", "new"]
    assert not report.ok
    assert list(contents(into)) == ["fine"]


@st.composite
def sessions(draw: st.DrawFn) -> bytes:
    """A session's file with every trap that may happen to one, its first row telling whose it is."""
    lines = [json.dumps(row(uuid="first"))]
    todo: st.SearchStrategy[Any] = st.lists(
        st.fixed_dictionaries(
            {"content": st.sampled_from("xyz"), "status": st.sampled_from(["pending", "in_progress"])}
        ),
        max_size=3,
    )
    for number in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["user", "stream", "todo", "answer", "agent", "plain", "junk", "merge", "again"]))
        where: dict[str, Any] = draw(
            st.sampled_from(
                [{}, {}, {"sessionId": "other"}, {"sessionId": None}, {"isSidechain": True, "agentId": "a"}]
            )
        )
        where = {**where, "uuid": f"u{number}", "timestamp": f"2026-03-01T10:00:{draw(st.integers(10, 59))}Z"}
        if kind == "user":
            lines.append(
                json.dumps(row(content=draw(st.sampled_from(["hi", None, "[Request interrupted by user]"])), **where))
            )
        elif kind == "stream":
            lines.append(json.dumps(streamed(draw(st.sampled_from(["m1", "m2"])), number, **where)))
        elif kind == "todo":
            lines.append(
                json.dumps(streamed(f"t{number}", 1, call("todo", "TodoWrite", {"todos": draw(todo)}), **where))
            )
        elif kind == "agent":
            lines.append(json.dumps(streamed(f"g{number}", 1, call("agent", "Agent", {"prompt": "p"}), **where)))
        elif kind == "answer":
            call_id = draw(st.sampled_from(["todo", "agent"]))
            lines.append(json.dumps(answer(call_id, {"agentId": "a"}, **where)))
        elif kind == "plain":
            lines.append(json.dumps({"type": "file-history-snapshot", "snapshot": {"n": number}}))
        elif kind == "junk":
            lines.append(
                draw(st.sampled_from(["<<<<<<< HEAD", "17", '{"type":"us', "", "{}", '{"type":"user","n":NaN}']))
            )
        elif kind == "merge":
            lines[-1] += json.dumps(row(**where))
        else:
            lines.append(draw(st.sampled_from(lines)))
    return "\n".join(lines).encode() + draw(st.sampled_from([b"", b"\n", b'\n{"type":', b"\r\n"]))


@settings(max_examples=tried(20, 250, 1500))
@given(sessions(), st.data())
def test_any_beginnings_in_any_order_and_the_whole_end_as_the_whole(session: bytes, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, len(session)), max_size=3))
    order = data.draw(st.permutations([*sizes, len(session)]))
    with TemporaryDirectory() as folder:
        path = Path(folder, "s.jsonl")
        path.write_bytes(session)
        expected = imported(path)
        into = store()
        for size in order:
            path.write_bytes(session[:size])
            for file in run(into, path).files:
                assert "diverged" not in {trace.outcome for trace in file.traces}
        assert contents(into) == expected


@settings(max_examples=tried(10, 150, 600))
@given(sessions(), st.data())
def test_a_killed_import_of_any_beginning_does_no_harm(session: bytes, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "s.jsonl")
        path.write_bytes(session)
        expected = imported(path)
        into = store()
        for size in data.draw(st.lists(st.integers(0, len(session)), max_size=3)):
            path.write_bytes(session[:size])
            with suppress(Killed):
                run(Dying(into, data.draw(st.integers(0, 25))), path)
        path.write_bytes(session)
        run(into, path)
        assert contents(into) == expected


def test_an_archive_on_disk_holds_what_the_model_holds(tmp_path: Path) -> None:
    async def through(url: str, *paths: Path) -> dict[str, Any]:
        async with ArchiveStore(url) as into:
            for path in paths:
                assert (await import_paths(into, [path])).ok
        async with ArchiveStore(url) as reopened:
            return await contents_of(reopened)

    whole = SAMPLES / "fix-failing-test.jsonl"
    lines = whole.read_bytes().splitlines(keepends=True)
    part = cut(whole, tmp_path, sum(map(len, lines[:20])))
    found = asyncio.run(through(str(tmp_path / "archive"), part, CHILD_FILE, SAMPLES, part))
    assert {key: without_event_times(each) for key, each in found.items()} == {
        key: without_event_times(each) for key, each in imported(SAMPLES).items()
    }


def without_event_times(trace: dict[str, Any]) -> dict[str, Any]:
    events = [{**json.loads(event), "created_at": None} for event in trace["events"]]
    return {**trace, "events": events}


def test_the_files_of_one_run_are_read_once(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)

    class Together:
        name = "together"

        def detect(self, path: Path) -> bool:
            return True

        def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
            return iter(())

        def files(self, path: Path) -> list[Path]:
            return [path.parent / name for name in "ba"] if path.name in "ab" else [path]

    report = asyncio.run(import_paths(store(), [tmp_path], importer=Together()))
    assert [Path(file.path).name for file in report.files] == ["b", "c"]


def test_a_trace_that_names_itself_is_not_its_own_parent(tmp_path: Path) -> None:
    goals = GoalTree(goals=[Goal(id="1", sub_trace_ids=["t", "u"])])

    class Names:
        name = "names"

        def detect(self, path: Path) -> bool:
            return True

        def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
            yield SourceTrace(Trace(trace_id="t", status="completed"), goals=goals, digests=["d"])
            yield SourceTrace(Trace(trace_id="u", status="completed"), digests=["d"])

    (tmp_path / "a").touch()

    async def parents() -> list[str | None]:
        async with ArchiveStore(tmp_path / "runs", durability="os") as archive:
            assert (await import_paths(archive, [tmp_path / "a"], importer=Names())).ok
            return [(await archive.get_trace(each)).parent_trace_id for each in "tu"]  # type: ignore[union-attr]

    assert asyncio.run(parents()) == [None, "t"]


def test_a_package_that_is_installed_while_the_process_runs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert "late" not in {importer.name for importer in importers()}
    information = tmp_path / "late-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: late\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\nlate = late:Late\n")
    (tmp_path / "late.py").write_text(
        "from traceark.importers.claude_code import ClaudeCode\nclass Late(ClaudeCode):\n    name = 'late'\n"
    )
    assert "late" in {importer.name for importer in importers()}


def test_other_packages_add_formats_and_one_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Better(ClaudeCode):
        pass

    class Other(ClaudeCode):
        name = "other"

    added = {"claude-code": Better, "other": Other}
    points = [EntryPoint(name, f"added:{name}", GROUP) for name in added]
    monkeypatch.setattr("traceark.plugins.points", lambda group, places: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: added[point.name])
    found = {importer.name: importer for importer in importers()}
    assert (type(found["claude-code"]), type(found["other"])) == (Better, Other)
    monkeypatch.undo()
    broken = EntryPoint("broken", "a_module_that_is_nowhere:It", GROUP)
    monkeypatch.setattr("traceark.plugins.points", lambda group, places: [broken])
    with pytest.raises(ImportFailedError, match=r"'broken' .*a_module_that_is_nowhere"):
        importers()
