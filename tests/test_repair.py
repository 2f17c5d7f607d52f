"""Repair mends what needs no guessing, keeps what it takes away, and touches nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from damages import (
    CASES,
    Damage,
    broken_manifest,
    make_archive,
    no_header,
    one,
    torn_header,
    torn_part,
    tree_state,
)
from profiles import some
from traceark import compact
from traceark.importers.run import import_paths
from traceark.layout import GOAL_TREE, HEADER, LOST_FOUND, MANIFEST, trace_prefix
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.repair import RepairReport
from traceark.store import ArchiveStore
from traceark.sync.run import sync
from traceark.testing.places import snapshot
from traceark.verification import settling

pytestmark = pytest.mark.usefixtures("interrupted_long_ago")

MENDED = {
    "no_header",
    "torn_header",
    "torn_goal_tree",
    "foreign_goal_tree",
    "interrupted_write",
    "leftover",
    "broken_manifest",
    "wrong_total",
    "wrong_last_event",
    "wrong_stats",
}
ACCEPTED = {"vanished", "wrong_hash"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "archive"
    make_archive(folder)
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "archive")
    return tmp_path / "archive"


async def repaired(archive: Path, *trace_ids: str, accept: bool = False, dry_run: bool = False) -> RepairReport:
    async with ArchiveStore(archive, durability="os") as store:
        return await store.repair(trace_ids or None, dry_run=dry_run, accept=accept)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file but locks, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def of_traces(archive: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(archive).items() if name.startswith("traces/")}


def assert_kept(archive: Path, before: Mapping[str, bytes], report: RepairReport) -> None:
    """Assert that what was taken away or replaced lies where the report says, byte for byte."""
    now = contents(archive)
    changed = {name for name, data in before.items() if now.get(name) != data}
    kept = {mend.file: mend.kept for mend in report.mended if mend.kept is not None}
    for name in changed:
        assert now[kept[name]] == before[name], name
        assert kept[name].startswith(f"{LOST_FOUND}/")


@pytest.mark.parametrize(("trace_id", "damage"), some([case[:2] for case in CASES], 12))
def test_a_damage_is_mended_or_left_as_it_is_and_told(archive: Path, trace_id: str, damage: Damage) -> None:
    damage(archive / trace_prefix(trace_id))
    before, traces = contents(archive), of_traces(archive)

    async def check() -> None:
        dry = await repaired(archive, dry_run=True)
        assert contents(archive) == before, "a dry run writes nothing"
        report = await repaired(archive)
        assert [each.file for each in report.left] == [each.file for each in dry.left]
        assert [(each.file, each.deed) for each in report.mended] == [(each.file, each.deed) for each in dry.mended]
        if damage.__name__ not in MENDED:
            assert of_traces(archive) == traces
            assert report.mended == [] and report.left
            assert all(each.meaning and each.remedy for each in report.left)
            assert any("--accept" in each.remedy for each in report.left) == (damage.__name__ in ACCEPTED)
            if damage.__name__ not in ACCEPTED:
                return
            report = await repaired(archive, accept=True)
        assert report.left == []
        assert {each.trace_id for each in report.mended} == {trace_id}
        assert await ArchiveStore(archive).verify(deep=True) == []
        assert_kept(archive, traces, report)
        mended = contents(archive)
        again = await repaired(archive, accept=True)
        assert (again.mended, again.left) == ([], [])
        assert contents(archive) == mended

    asyncio.run(check())


def test_a_healthy_archive_is_not_touched(archive: Path) -> None:
    before = tree_state(archive)

    async def check() -> None:
        store = ArchiveStore(archive)
        for accept in (False, True):
            report = await store.repair(dry_run=False, accept=accept)
            assert (report.traces, report.mended, report.left) == (3, [], [])
        await store.close()

    asyncio.run(check())
    assert tree_state(archive) == before


def test_an_archive_of_an_older_release_is_not_touched_either(tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(Path(__file__).parent / "golden" / "v1" / "archive", golden)
    before = tree_state(golden)
    report = asyncio.run(repaired(golden))
    assert (report.traces, report.mended, report.left) == (4, [], [])
    assert tree_state(golden) == before


@pytest.mark.parametrize("trace_id", ["sealed", "live", "compacted"])
@pytest.mark.parametrize("damage", [no_header, torn_header])
def test_a_header_is_rebuilt_from_the_logs_and_says_what_is_lost(archive: Path, trace_id: str, damage: Damage) -> None:
    async def check() -> None:
        store = ArchiveStore(archive)
        said = await snapshot(store, trace_id)
        before = await store.get_trace(trace_id)
        assert before is not None
        damage(archive / trace_prefix(trace_id))
        report = await repaired(archive, trace_id)
        assert "status" in next(each.meaning for each in report.mended if each.file.endswith(HEADER))
        store = ArchiveStore(archive)
        now = await snapshot(store, trace_id)
        assert {name: now[name] for name in ("messages", "events", "tree")} == {
            name: said[name] for name in ("messages", "events", "tree")
        }
        after = await store.get_trace(trace_id)
        assert after is not None
        for name in ("total_messages", "total_tokens", "total_cost", "last_sequence", "last_event_id"):
            assert getattr(after, name) == getattr(before, name)
        assert [trace.trace_id for trace in await store.list_traces()].count(trace_id) == 1
        assert not (archive / trace_prefix(trace_id) / MANIFEST).exists(), "what is lost may still be filled in"

    asyncio.run(check())


@pytest.mark.parametrize("trace_id", ["sealed", "live", "compacted", "whole"])
def test_a_sync_from_a_copy_brings_back_what_only_the_header_knew(archive: Path, tmp_path: Path, trace_id: str) -> None:
    async def check() -> None:
        async with ArchiveStore(archive) as store:
            whole = Trace(trace_id="whole", task="all at once", status="completed")
            await store.add_trace(whole, [Message(trace_id="whole", role="user", content="hi")])
            if trace_id != "whole":
                await store.update_trace(trace_id, task="sort the mail")
            said = await snapshot(store, trace_id)
        shutil.copytree(archive, tmp_path / "copy")
        no_header(archive / trace_prefix(trace_id))
        await repaired(archive, trace_id)
        async with ArchiveStore(archive) as store, ArchiveStore(tmp_path / "copy") as copy:
            assert await snapshot(store, trace_id) != said
            report = await sync(copy, store)
            assert report.outcomes[("forward")] == 1
        assert await snapshot(ArchiveStore(archive), trace_id) == said
        assert await ArchiveStore(archive).verify(deep=True) == []

    asyncio.run(check())


def test_a_header_that_was_changed_by_hand_is_taken_only_when_accepted(archive: Path) -> None:
    header = archive / trace_prefix("sealed") / HEADER
    record = json.loads(header.read_bytes())
    header.write_text(json.dumps({**record, "task": "by hand"}, indent=2))

    async def check() -> None:
        before = of_traces(archive)
        report = await repaired(archive)
        assert report.mended == []
        assert "--accept" in report.left[0].remedy
        assert of_traces(archive) == before
        report = await repaired(archive, accept=True)
        assert [each.deed for each in report.mended] == ["moved", "rewritten", "sealed"]
        assert_kept(archive, before, report)
        store = ArchiveStore(archive)
        trace = await store.get_trace("sealed")
        assert trace is not None and trace.task == "by hand"
        assert [each.task for each in await store.list_traces() if each.trace_id == "sealed"] == ["by hand"]
        assert await store.verify(deep=True) == []

    asyncio.run(check())


def test_a_part_that_is_broken_gives_way_to_its_segments(archive: Path) -> None:
    trace = archive / trace_prefix("live")

    async def check() -> None:
        segments = {path: path.read_bytes() for path in trace.rglob("*.jsonl")}
        said = await snapshot(ArchiveStore(archive), "live")
        async with ArchiveStore(archive, durability="os") as store:
            await store.seal("live")
        for path, data in segments.items():
            path.write_bytes(data)
        torn_part(trace)
        report = await repaired(archive, "live")
        assert report.left == []
        assert {each.deed for each in report.mended} == {"moved", "rewritten", "sealed"}
        assert await snapshot(ArchiveStore(archive), "live") == said
        assert await ArchiveStore(archive).verify(deep=True) == []
        assert sorted(path.suffix for path in trace.rglob("0*")) == [".parquet", ".parquet"]

    asyncio.run(check())


def test_a_segment_that_holds_more_than_its_part_stays(archive: Path) -> None:
    trace = archive / trace_prefix("live")

    async def check() -> None:
        segment = one(trace / "messages", "*.jsonl")
        whole = segment.read_bytes()
        os.truncate(segment, whole.index(b"\n") + 1)
        (trace / HEADER).unlink()
        (trace / GOAL_TREE).unlink()
        await repaired(archive, "live")
        async with ArchiveStore(archive, durability="os") as store:
            await store.compact("live")
        segment.write_bytes(whole)
        report = await repaired(archive, "live")
        assert not any(each.file.endswith(segment.name) for each in report.mended)
        assert len(await ArchiveStore(archive).get_trace_messages("live")) == 3

    asyncio.run(check())


def test_what_a_deletion_that_was_cut_short_left_is_not_brought_back(archive: Path) -> None:
    shutil.copytree(archive / trace_prefix("sealed"), archive / "kept")

    async def check() -> None:
        async with ArchiveStore(archive, durability="os") as store:
            await store.delete_trace("sealed")
        shutil.copytree(archive / "kept", archive / trace_prefix("sealed"))
        (archive / trace_prefix("sealed") / HEADER).unlink()
        report = await repaired(archive)
        assert report.mended == []
        assert "traceark rm" in report.left[0].remedy

    asyncio.run(check())


def test_nothing_reads_what_is_kept_and_nothing_in_it_is_overwritten(archive: Path, tmp_path: Path) -> None:
    torn_header(archive / trace_prefix("live"))
    broken_manifest(archive / trace_prefix("sealed"))

    async def check() -> None:
        await repaired(archive)
        first = {name for name in contents(archive) if name.startswith(LOST_FOUND)}
        torn_header(archive / trace_prefix("live"))
        await repaired(archive)
        second = {name for name in contents(archive) if name.startswith(LOST_FOUND)}
        assert first < second
        # A whole trace that was kept is no trace of the archive, nor of one that it is copied to.
        place = archive / next(iter(first)).partition("/traces/")[0]
        shutil.copytree(archive / trace_prefix("compacted"), place / "traces" / "other")
        async with ArchiveStore(archive) as store, ArchiveStore(tmp_path / "copy") as copy:
            await store.refresh()
            assert {trace.trace_id for trace in await store.list_traces()} == {"sealed", "live", "compacted"}
            assert await store.verify(deep=True) == []
            assert len((await sync(store, copy)).traces) == 3
        assert not (tmp_path / "copy" / LOST_FOUND).exists()
        packed = shutil.make_archive(str(tmp_path / "packed"), "zip", archive)
        for at, source in enumerate((archive, Path(packed))):
            async with ArchiveStore(tmp_path / f"imported-{at}") as imported:
                report = await import_paths(imported, [source])
                assert report.ok, report.problems
                assert len(await imported.list_traces()) == 3

    asyncio.run(check())


def test_what_is_purged_is_in_no_kept_byte_either(archive: Path) -> None:
    torn_header(archive / trace_prefix("live"))
    broken_manifest(archive / trace_prefix("sealed"))

    async def check() -> None:
        await repaired(archive)
        async with ArchiveStore(archive, durability="os") as store:
            await store.delete_trace("live")
            await store.purge(["live"])
        kept = [name for name in contents(archive) if name.startswith(LOST_FOUND)]
        assert kept and not any("/live/" in name for name in kept)

    asyncio.run(check())


def test_a_header_that_does_not_fit_the_logs_is_named_itself(archive: Path) -> None:
    header = archive / trace_prefix("live") / HEADER
    before = header.read_bytes()
    header.write_bytes(before.replace(b'"offset":3', b'"offset":8', 1))
    assert header.read_bytes() != before
    for accept in (False, True):
        report = asyncio.run(repaired(archive, accept=accept))
        assert report.mended == []
        [told] = [each for each in report.left if each.file.endswith(HEADER)]
        assert "--accept" not in told.remedy


def test_headers_that_are_older_than_updates_which_a_killed_seal_folded_in_are_not_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    async def killed(*_: Any) -> None:
        raise KilledError

    async def check() -> None:
        said = Message(trace_id="t", message_id="m", role="user", content="hi", tokens=1, goal_id="1")
        async with ArchiveStore(tmp_path / "archive", durability="os") as store:
            await store.create_trace(Trace(trace_id="t"))
            await store.update_goal_tree("t", GoalTree(mission="", goals=[Goal(id="1")]))
            await store.add_message(said)
        async with ArchiveStore(tmp_path / "archive", durability="os") as store:
            await store.update_message("m", trace_id="t", tokens=5)
            with monkeypatch.context() as context:
                context.setattr(compact, "_finish", killed)
                with pytest.raises(KilledError):
                    await store.seal("t")
            shutil.copytree(tmp_path / "archive", tmp_path / "copy")
        assert await ArchiveStore(tmp_path / "copy").verify(deep=True) == []
        report = await repaired(tmp_path / "copy", "t")
        assert [each for each in report.mended if each.file.endswith(".json")] == [] and report.left == []
        assert await snapshot(ArchiveStore(tmp_path / "copy"), "t") == await snapshot(
            ArchiveStore(tmp_path / "archive"), "t"
        )

    asyncio.run(check())


@pytest.mark.parametrize("seals", [False, True])
def test_a_repair_beside_a_compaction_does_it_no_harm(
    archive: Path, seals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link
    reports: list[RepairReport] = []

    def linked(source: Any, target: Any, **more: Any) -> None:
        if f"{trace_prefix('live')}/messages/0" in str(target) and LOST_FOUND not in str(target) and not reports:
            # In the thread that publishes the part, which holds no lock.
            reports.append(asyncio.run(repaired(archive, "live")))
            link(source, target, **more)
            reports.append(asyncio.run(repaired(archive, "live")))
        else:
            link(source, target, **more)

    async def check() -> None:
        said = await snapshot(ArchiveStore(archive), "live")
        with monkeypatch.context() as context:
            context.setattr(os, "link", linked)
            context.setattr(settling, "WRITE_SECONDS", 60.0)
            async with ArchiveStore(archive, durability="os") as store:
                await (store.seal if seals else store.compact)("live")
        assert [(report.mended, report.left) for report in reports] == [([], [])] * 2
        assert await snapshot(ArchiveStore(archive), "live") == said
        assert await ArchiveStore(archive).verify(deep=True) == []
        assert list((archive / trace_prefix("live") / "messages").glob("*.parquet"))

    asyncio.run(check())
