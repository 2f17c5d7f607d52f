"""Traces of archives, packed or as they lie: an import gives the same trace, and later states of it their changes."""

from __future__ import annotations

import asyncio
import json
import shutil
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from profiles import tried
from test_import_documents import trajectory
from test_import_run import Dying, Killed
from traceark.exporters.pack import Pack
from traceark.exporters.run import export_traces
from traceark.importers.archive import TracearkArchive
from traceark.importers.base import ImportCounts
from traceark.importers.find import importers
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.layout import HEADER, LOCK, MARKER, PINS, TOMBSTONES, trace_key, trace_prefix
from traceark.models import Event, Goal, GoalStats, GoalTree, Message, Trace, Usage
from traceark.protocol import TraceStore
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text, exact_texts
from traceark.testing.model import ModelStore
from traceark.testing.places import record_run

GOLDEN = Path(__file__).parent / "golden" / "v1" / "archive"


async def contents(store: TraceStore, trace_id: str = "t", *, times: bool = True) -> dict[str, Any]:
    """Return all that can be read of a trace, but for how far it was taken."""
    trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    assert trace is not None, trace_id
    trace.metadata.pop("copied", None)
    left_out = () if times else ("created_at",)
    return {
        "trace": exact_text(trace),
        "tree": tree and exact_text(tree),
        "messages": exact_texts(await store.get_trace_messages(trace_id)),
        "events": exact_texts(await store.get_events(trace_id), without=left_out),
    }


async def packed(store: ArchiveStore, path: Path, trace_id: str = "t") -> Path:
    report = await export_traces(store, [trace_id], Pack(), path, force=True)
    assert report.ok, report.failed
    return path


def outcomes(report: ImportReport) -> list[str]:
    return [trace.outcome for file in report.files for trace in file.traces]


async def recorded(root: Path, *trace_ids: str) -> Path:
    async with ArchiveStore(root, durability="os") as store:
        for trace_id in trace_ids:
            await record_run(store, trace_id)
    return root


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_packed_trace_is_the_same_trace_wherever_it_is_imported(tmp_path: Path, sealed: bool) -> None:
    async with ArchiveStore(tmp_path / "runs", durability="os") as store:
        await record_run(store, "Run/7")
        if sealed:
            await store.seal("Run/7")
        path = await packed(store, tmp_path / "a.zip", "Run/7")
        expected = await contents(store, "Run/7")
    async with ArchiveStore(tmp_path / "other", durability="os") as other:
        assert outcomes(await import_paths(other, [path])) == ["new"]
        assert await contents(other, "Run/7") == expected
        assert outcomes(await import_paths(other, [path])) == ["known"]
        assert await contents(other, "Run/7") == expected
    async with ArchiveStore(tmp_path / "other") as reopened:
        assert await contents(reopened, "Run/7") == expected
        assert await reopened.verify(deep=True) == []


async def test_an_archive_is_imported_as_it_lies_and_its_own_files_are_no_strangers(tmp_path: Path) -> None:
    root = await recorded(tmp_path / "runs", "t", "CON", "u")
    (root / "notes.txt").write_text("mine")
    (root / trace_prefix("t") / "stranger.txt").write_text("mine too")
    model = ModelStore()
    report = await import_paths(model, [root])
    assert report.ok, report.problems
    assert sorted(outcomes(report)) == ["new"] * 3
    assert sorted(Path(path).name for path in report.skipped) == ["notes.txt", "stranger.txt"]
    async with ArchiveStore(root) as store:
        for trace_id in ("t", "CON", "u"):
            assert await contents(model, trace_id) == await contents(store, trace_id)
    assert set(outcomes(await import_paths(model, [root]))) == {"known"}


async def test_a_directory_alone_or_a_zip_of_many_will_do(tmp_path: Path) -> None:
    root = await recorded(tmp_path / "runs", "t", "u")
    shutil.copytree(root / trace_prefix("t"), tmp_path / "mail" / "t")
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path, "runs")
    expected = [await contents(ArchiveStore(root), trace_id) for trace_id in ("t", "u")]
    for source, trace_ids in ((tmp_path / "mail", ["t"]), (tmp_path / "all.zip", ["t", "u"])):
        model = ModelStore()
        assert (await import_paths(model, [source])).ok
        assert [await contents(model, trace_id) for trace_id in trace_ids] == expected[: len(trace_ids)]


async def test_whichever_file_of_a_directory_is_found_first_it_is_the_trace(tmp_path: Path) -> None:
    """As while a directory is made: its lock is there before its header."""
    await recorded(tmp_path / "runs", "t")
    home = tmp_path / "runs" / trace_prefix("t")
    async with ArchiveStore(tmp_path / "runs") as source:
        expected = await contents(source)
    for at, path in enumerate([home / LOCK, *(home / "messages").iterdir()]):
        async with ArchiveStore(f"memory://{tmp_path}{at}") as store:
            report = await import_paths(store, [path])
            assert outcomes(report) == ["new"] and not report.files[0].problems
            assert await contents(store) == expected


def test_archives_of_older_releases_are_read() -> None:
    async def run() -> None:
        model = ModelStore()
        report = await import_paths(model, [GOLDEN])
        assert report.ok and not report.skipped
        async with ArchiveStore(GOLDEN) as store:
            for trace in await model.list_traces():
                assert await contents(model, trace.trace_id) == await contents(store, trace.trace_id)

    asyncio.run(run())


def test_no_other_importer_takes_its_files_and_it_takes_none_of_theirs(tmp_path: Path) -> None:
    for path in GOLDEN.rglob("*"):
        if path.is_file() and path.is_relative_to(GOLDEN / "traces"):
            assert [each.name for each in importers() if each.detect(path)] == ["traceark"]
    for name, text in (("trace.json", "{}"), ("traceark.json", "{}"), ("a.zip", "PK"), ("empty", "")):
        (tmp_path / name).write_text(text)
        assert not TracearkArchive().detect(tmp_path / name)
        assert not TracearkArchive().is_beside(tmp_path / name)


async def test_what_an_archive_holds_of_other_formats_is_not_taken_for_them(tmp_path: Path) -> None:
    spoken: dict[str, Any] = {"role": "user", "content": "hi", "turn_idx": 0}
    results = {
        "info": {"agent_info": {"llm": "m"}},
        "simulations": [{"id": "simulated", "task_id": "1", "messages": [spoken]}],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "t.json").write_text(json.dumps(trajectory()))
    store = ArchiveStore(tmp_path / "runs", durability="os")
    assert (await import_paths(store, [tmp_path / "results.json", tmp_path / "t.json"])).ok
    # Not sealed: its events are lines that hold the documents.
    for path in (tmp_path / "runs" / "traces").rglob("*"):
        if path.is_file():
            assert next(each.name for each in importers() if each.detect(path)) == "traceark", path
    report = await import_paths(ModelStore(), [tmp_path / "runs"])
    assert report.ok and outcomes(report) == ["new", "new"]
    await store.close()


class TestDamage:
    async def test_a_damaged_trace_is_named_and_the_others_are_taken(self, tmp_path: Path) -> None:
        root = await recorded(tmp_path / "runs", "t", "u")
        for trace_id, damage in (("t", b"{"), ("t", b'{"trace_id":"t"}\n'), ("u", b"")):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(root, tmp_path / "copy")
            (tmp_path / "copy" / trace_prefix(trace_id) / HEADER).write_bytes(damage)
            report = await import_paths(ModelStore(), [tmp_path / "copy"])
            [problem] = report.problems
            assert trace_prefix(trace_id).rpartition("/")[2] in problem.path and "nothing was taken" in problem.reason
            assert outcomes(report) == ["new"] and not report.skipped

    async def test_records_that_are_missing_are_named(self, tmp_path: Path) -> None:
        root = await recorded(tmp_path / "runs", "t")
        for path in (root / trace_prefix("t") / "events").iterdir():
            path.unlink()
        report = await import_paths(ModelStore(), [root])
        assert "events" in report.problems[0].reason and outcomes(report) == []

    async def test_a_directory_of_another_name_is_named(self, tmp_path: Path) -> None:
        root = await recorded(tmp_path / "runs", "t")
        for name, told in (("Renamed", "no key"), ("renamed", "another name")):
            shutil.copytree(root / trace_prefix("t"), tmp_path / name)
            report = await import_paths(ModelStore(), [tmp_path / name])
            assert told in report.problems[0].reason and outcomes(report) == []

    async def test_any_cut_or_changed_byte_of_a_zip_is_named(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await store.create_trace(Trace(trace_id="t"))
            await store.add_message(Message(trace_id="t", role="user", content="x" * 50))
            data = (await packed(store, tmp_path / "a.zip")).read_bytes()
            expected = await contents(store)
        for at in range(0, len(data), tried(29, 1)):
            for bad in (data[:at], data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]):
                path = tmp_path / "bad.zip"
                path.write_bytes(bad)
                model = ModelStore()
                report = await import_paths(model, [path])
                if outcomes(report) and report.ok:
                    # A bit that tells nothing of the content, such as a member's time.
                    assert await contents(model) == expected
                else:
                    assert report.problems or report.skipped

    @pytest.mark.parametrize("damaged_first", [False, True])
    async def test_a_stranger_in_a_zip_is_told_and_the_traces_beside_it_are_taken(
        self, tmp_path: Path, damaged_first: bool
    ) -> None:
        root = await recorded(tmp_path / "runs", "t", "u")
        (root / "notes.txt").write_text("mine")
        (root / trace_prefix("u") / HEADER).write_bytes(b"{")
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
            for path in sorted(root.rglob("*"), reverse=damaged_first):
                file.write(path, path.relative_to(tmp_path))
        report = await import_paths(ModelStore(), [tmp_path / "all.zip"])
        assert outcomes(report) == ["new"]
        assert sorted(("notes.txt" in each.reason, "u/trace.json" in each.reason) for each in report.problems) == [
            (False, True),
            (True, False),
        ]

    def test_a_zip_whose_names_lead_elsewhere_raises_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("t/trace.json", b'{"_incarnation":"')
            file.writestr("t/../../escape.txt", b"x")
        counts = ImportCounts()
        assert list(TracearkArchive().read(path, counts)) == [] and counts.problems
        assert not (tmp_path.parent / "escape.txt").exists()


class TestGrowing:
    async def test_a_later_state_brings_its_changes_and_an_older_one_nothing(self, tmp_path: Path) -> None:
        states, paths = [], []
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store)
            steps: list[Callable[[], Awaitable[object]]] = [
                lambda: store.add_message(Message(trace_id="t", role="tool", goal_id="1", tool_name="ls", tokens=3)),
                lambda: store.update_message("t-0001", status="done", content={"changed": [1.0]}, duration_ms=None),
                lambda: store.append_event("t", "step", {"n": 1}),
                lambda: store.add_goal("t", Goal(id="new", parent_id="1.1")),
                lambda: store.update_goal("t", "2", cumulative_stats=GoalStats(total_tokens=77)),
                lambda: store.update_trace("t", status="completed", total_cost=0.7, metadata={"a": 1}, context={}),
                lambda: store.seal("t"),
            ]
            for number, step in enumerate(steps):
                paths.append(await packed(store, tmp_path / f"{number}.zip"))
                states.append(await contents(store))
                await step()
            paths.append(await packed(store, tmp_path / "last.zip"))
            states.append(await contents(store))
        model = ModelStore()
        for path, state in zip(paths, states, strict=True):
            assert outcomes(await import_paths(model, [path])) in (["new"], ["grown"], ["known"])
            assert await contents(model) == state
        for path in paths:
            assert outcomes(await import_paths(model, [path]))[0] in ("older", "known")
            assert await contents(model) == states[-1]

    async def test_two_ways_from_one_state_are_told_and_nothing_is_overwritten(self, tmp_path: Path) -> None:
        root = await recorded(tmp_path / "a", "t")
        shutil.copytree(root, tmp_path / "b")
        paths = []
        for name in ("a", "b"):
            async with ArchiveStore(tmp_path / name, durability="os") as store:
                await store.update_message("t-0001", content=name)
                paths.append(await packed(store, tmp_path / f"{name}.zip"))
        model = ModelStore()
        assert outcomes(await import_paths(model, paths[:1])) == ["new"]
        before = await contents(model)
        report = await import_paths(model, paths[1:])
        assert outcomes(report) == ["diverged"] and not report.ok
        assert await contents(model) == before

    async def test_what_was_written_here_is_never_overwritten(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store)
            model = ModelStore()
            await import_paths(model, [await packed(store, tmp_path / "a.zip")])
            await model.update_message("t-0001", trace_id="t", content="noted here")
            before = await contents(model)
            await store.update_message("t-0001", status="later")
            assert outcomes(await import_paths(model, [await packed(store, tmp_path / "a.zip")])) == ["diverged"]
            assert await contents(model) == before

    async def test_a_trace_of_that_id_that_came_another_way_is_not_taken_over(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store)
            path = await packed(store, tmp_path / "a.zip")
        model = ModelStore()
        await model.create_trace(Trace(trace_id="t", task="live"))
        assert outcomes(await import_paths(model, [path])) == ["diverged"]
        assert (await model.get_trace_messages("t")) == []

    async def test_an_import_killed_anywhere_and_repeated_ends_as_one_that_was_not(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store)
            first = await packed(store, tmp_path / "first.zip")
            await store.update_message("t-0001", status="done")
            await store.update_message("t-0003", tokens=4)
            await store.add_message(Message(trace_id="t", role="user", content="more"))
            await store.update_trace("t", status="completed")
            last, expected = await packed(store, tmp_path / "last.zip"), await contents(store)
        for earlier in ([], [first]):
            for writes in range(0, 100, tried(7, 1)):
                model = ModelStore()
                await import_paths(model, earlier)
                dying = Dying(model, writes)
                try:
                    await import_paths(dying, [last])
                except Killed:
                    assert not earlier or outcomes(await import_paths(model, [first]))[0] in ("known", "older")
                    await import_paths(model, [last])
                else:
                    break
                assert await contents(model, times=False) == {
                    **expected,
                    "events": [_without_time(text) for text in expected["events"]],
                }
            assert writes >= 5


def _without_time(text: str) -> str:
    return exact_text(Event.parse(json.loads(text)), without=("created_at",))


IDS = st.sampled_from(["1", "2", "3"])
NUMBERS = st.integers(0, 1000)
COSTS = st.none() | st.floats(0, 10) | st.just(0.1)
STATS = st.builds(GoalStats, total_tokens=NUMBERS, total_cost=st.floats(0, 5), preview=st.none() | st.just("a → b"))
STEPS = st.one_of(
    st.tuples(st.just("message"), st.none() | IDS, st.none() | st.integers(1, 9), COSTS, st.none() | NUMBERS),
    st.tuples(st.just("update"), st.integers(1, 5), st.none() | IDS, st.none() | NUMBERS),
    st.tuples(st.just("event"), st.sampled_from(["a", ""]), st.recursive(st.none() | st.text(), st.lists)),
    st.tuples(st.just("goal"), IDS, st.none() | IDS),
    st.tuples(st.just("stats"), IDS, st.sampled_from(["self_stats", "cumulative_stats"]), STATS),
    st.tuples(st.just("tree")),
    st.tuples(st.just("totals"), st.sampled_from(["total_tokens", "last_sequence", "total_messages"]), NUMBERS),
    st.tuples(st.just("cost"), st.floats(0, 10)),
    st.tuples(st.just("status"), st.sampled_from(["running", "completed", "failed"])),
    st.tuples(st.just("seal")),
    st.tuples(st.just("compact")),
)


SAID = ("message", "1", None, None, None)


async def take(store: ArchiveStore, step: tuple[Any, ...]) -> None:
    """Take a step that a framework may take; one that is refused changes nothing."""
    kind, *told = step
    try:
        if kind == "message":
            goal_id, sequence, cost, tokens = told
            message = Message(trace_id="t", role="user", goal_id=goal_id, sequence=sequence, cost=cost, tool_name="ls")
            message.usage = Usage(input_tokens=tokens) if tokens is not None else None
            await store.add_message(message)
        elif kind == "update":
            await store.update_message(f"t-{told[0]:04d}", trace_id="t", goal_id=told[1], tokens=told[2])
        elif kind == "event":
            await store.append_event("t", told[0], told[1])
        elif kind == "goal":
            await store.add_goal("t", Goal(id=told[0], parent_id=told[1]))
        elif kind == "stats":
            await store.update_goal("t", told[0], **{told[1]: told[2]})
        elif kind == "tree":
            await store.update_goal_tree("t", GoalTree(mission="fresh", goals=[Goal(id="1")]))
        elif kind == "totals":
            await store.update_trace("t", **{told[0]: told[1]})
        elif kind == "cost":
            await store.update_trace("t", total_cost=told[0])
        elif kind == "status":
            await store.update_trace("t", status=told[0])
        elif kind == "seal":
            await store.seal("t")
        else:
            await store.compact("t")
    except (ValueError, LookupError):
        pass


@settings(max_examples=tried(5, 50, 600), deadline=None)
@given(st.lists(st.lists(STEPS, max_size=6), min_size=1, max_size=3))
@example(
    [[("tree",), ("message", "1", None, None, None), ("stats", "1", "self_stats", GoalStats(preview="a"))], [("tree",)]]
)
def test_whatever_was_written_comes_back_from_a_pack_and_each_later_pack_brings_the_rest(
    parts: list[list[tuple[Any, ...]]],
) -> None:
    async def run(folder: Path) -> None:
        async with (
            ArchiveStore(folder / "a", durability="os") as store,
            ArchiveStore(folder / "b", durability="os") as other,
            ArchiveStore(f"memory://{folder.name}") as bit_by_bit,
        ):
            # Only on disk is a trace that has ended written in one piece.
            assert (other.adds_at_once, bit_by_bit.adds_at_once) == (True, False)
            await store.create_trace(Trace(trace_id="t"))
            for part in parts:
                for step in part:
                    await take(store, step)
                path, expected = await packed(store, folder / "a.zip"), await contents(store)
                for again in (False, True):
                    for into in (other, bit_by_bit):
                        report = await import_paths(into, [path])
                        assert report.ok, report.problems
                        assert not again or outcomes(report) == ["known"]
                        assert await contents(into) == expected

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def test_the_marker_is_no_stranger() -> None:
    assert TracearkArchive().is_beside(GOLDEN / MARKER)
    assert TracearkArchive().is_beside(GOLDEN / TOMBSTONES / "run-7.5f3a9c21.json")
    assert TracearkArchive().is_beside(GOLDEN / PINS / "run-7")
    assert TracearkArchive().is_beside(GOLDEN / ".tmp-0011223344556677" / "run-7" / HEADER)
    assert trace_key("t") == "t"


@pytest.mark.parametrize("was_set", [{}, {"total_cost": 0.1}, {"last_sequence": 50}])
async def test_a_copy_of_a_run_that_has_ended_is_there_at_once_unless_somebody_set_its_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_set: dict[str, Any]
) -> None:
    async with ArchiveStore(tmp_path / "a", durability="os") as store:
        await store.create_trace(Trace.parse({"trace_id": "t", "own": 2**70}))
        await store.add_goal("t", Goal(id="1"))
        await store.add_message(Message(trace_id="t", role="user", content="hi", goal_id="1", tokens=3, cost=0.2))
        await store.append_event("t", "begun", {"at": None})
        await store.update_trace("t", status="completed", **was_set)
        path, expected = await packed(store, tmp_path / "a.zip"), await contents(store)
    added: list[str] = []
    plain = ArchiveStore.add_trace

    async def add_trace(store: ArchiveStore, trace: Trace, *rest: Any) -> str:
        added.append(trace.trace_id)
        return await plain(store, trace, *rest)

    monkeypatch.setattr(ArchiveStore, "add_trace", add_trace)
    async with ArchiveStore(tmp_path / "b", durability="os") as other:
        assert outcomes(await import_paths(other, [path])) == ["new"]
        assert await contents(other) == expected
    assert added == ([] if was_set else ["t"])
