"""Packs: traces in one file, byte for byte, and what comes out of one by the rules of a sync."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import traceark
from profiles import tried
from program import Program
from servers import S3Server
from shell import run
from test_sync import RUN, add, archive, sound, told
from traceark.errors import InvalidValueError, TraceNotFoundError
from traceark.layout import HEADER, TRACES, trace_prefix
from traceark.models import GoalTree, Message, Trace
from traceark.packed import Limits
from traceark.storage.base import Entry
from traceark.storage.staging import TEMPORARY
from traceark.store import ArchiveStore
from traceark.sync import PackReport, SyncOptions, SyncReport, pack, sync, unpack

KINDS = ("runs.zip", "runs.tar.zst")


def files(root: Path) -> dict[str, bytes]:
    """Return the files of all traces, as a sync carries them."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / TRACES).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


async def packed(root: Path, path: Path, *trace_ids: str) -> PackReport:
    async with archive(root) as store:
        return await pack(store, path, trace_ids or None, force=True)


async def unpacked(path: Path, root: Path, options: SyncOptions | None = None) -> SyncReport:
    async with archive(root) as store:
        return await unpack(path, store, options)


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An archive with two sealed traces and one that is being written."""

    async def make() -> None:
        await add(tmp_path / "runs", "a", "b" * 2000, trace_id="Run/7", status="completed")
        await add(tmp_path / "runs", "c", trace_id="x" * 190, status="failed")
        await add(tmp_path / "runs", "d", trace_id="live")

    asyncio.run(make())
    return tmp_path / "runs"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_packed_comes_out_as_the_same_files(runs: Path, tmp_path: Path, kind: str) -> None:
    report = await packed(runs, tmp_path / kind)
    assert report.trace_ids == ["live", "Run/7", "x" * 190] and not report.problems
    assert report.files == len(files(runs)) and report.bytes == sum(map(len, files(runs).values()))
    assert (await unpacked(tmp_path / kind, tmp_path / "other")).outcomes == {"new": 3}
    assert files(tmp_path / "other") == files(runs)
    assert await sound(tmp_path / "other")
    assert (await unpacked(tmp_path / kind, tmp_path / "other")).outcomes == {"same": 3}


@pytest.mark.parametrize("kind", KINDS)
async def test_from_memory_and_s3_and_back_it_is_the_same_bytes(
    runs: Path, tmp_path: Path, ministack_server: S3Server, kind: str
) -> None:
    await packed(runs, tmp_path / kind, "Run/7", "x" * 190)
    places: tuple[tuple[str, dict[str, Any]], ...]
    places = ((f"memory://{tmp_path}", {}), (ministack_server.place(), ministack_server.storage_options))
    for url, options in places:
        async with ArchiveStore(url, storage_options=options) as store:
            assert (await unpack(tmp_path / kind, store)).outcomes == {"new": 2}
            assert (await unpack(tmp_path / kind, store)).outcomes == {"same": 2}
            await pack(store, tmp_path / f"again.{kind}", force=True)
            assert await store.verify(deep=True) == []
        assert (tmp_path / f"again.{kind}").read_bytes() == (tmp_path / kind).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
async def test_unpacked_by_other_programs_it_is_an_archive(runs: Path, tmp_path: Path, kind: str) -> None:
    await packed(runs, tmp_path / kind)
    other = tmp_path / "other"
    other.mkdir()
    if kind.endswith("zip"):
        command = ["unzip", "-q", str(tmp_path / kind), "-d", str(other)]
    else:
        command = ["tar", "--zstd", "-xf", str(tmp_path / kind), "-C", str(other)]
    if shutil.which(command[0]) is None or (command[0] == "tar" and shutil.which("zstd") is None):
        pytest.skip(f"{command[0]} or zstd is not installed")
    assert await asyncio.to_thread(output_of, command) == ""
    assert files(other) == files(runs)
    assert await sound(other)


async def test_python_reads_the_zip_too(runs: Path, tmp_path: Path) -> None:
    await packed(runs, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert file.testzip() is None
        file.extractall(tmp_path / "other")
    assert files(tmp_path / "other") == files(runs)


async def test_what_others_pack_of_an_archive_is_a_pack(runs: Path, tmp_path: Path) -> None:
    async with archive(runs) as store:
        await store.optimize()
        await store.pin("live")
        await store.delete_trace("x" * 190)
    lost = runs / "lost+found" / "20260102T030405Z-5f3a9c21" / trace_prefix("live") / HEADER
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"scratched")
    begun = runs / f"{TEMPORARY}0011223344556677"
    shutil.copytree(runs / trace_prefix("live"), begun / "live")
    shutil.make_archive(str(tmp_path / "by-python"), "zip", tmp_path, "runs")
    names = ["by-python.zip"]
    if shutil.which("zstd") is not None:
        for name, where in (("whole.tar.zst", "."), ("named.tar.zst", "runs")):
            inside = str(runs if where == "." else tmp_path)
            await asyncio.to_thread(output_of, ["tar", "--zstd", "-C", inside, "-cf", str(tmp_path / name), where])
            names.append(name)
    if shutil.which("zip") is not None:
        for command in ("zip -qr by-zip.zip runs", "zip -qr - runs > stream.zip"):
            await asyncio.to_thread(output_of, ["sh", "-c", f"cd '{tmp_path}' && {command}"])
        names += ["by-zip.zip", "stream.zip"]
    for name in names:
        assert (await unpacked(tmp_path / name, tmp_path / f"to-{name}")).outcomes == {"new": 2}, name
        assert files(tmp_path / f"to-{name}") == files(runs)
        beside = {"pins", "tombstones", "lost+found", begun.name}
        assert beside.isdisjoint(path.name for path in (tmp_path / f"to-{name}").iterdir())


async def test_of_a_trace_that_was_sealed_in_an_object_store_just_now_it_holds_what_the_manifest_says(
    tmp_path: Path,
) -> None:
    async with ArchiveStore(f"memory://{tmp_path}") as store:
        await store.create_trace(Trace(trace_id=RUN, status="completed"))
        await store.add_message(Message(trace_id=RUN, role="user", content="a"))
        await store.seal(RUN)
        # For a while the segments stay beside the part that supersedes them.
        assert any(name.endswith(".jsonl") for name in await store.storage.list(trace_prefix(RUN)))
        assert (await pack(store, tmp_path / "a.zip")).problems == []
    assert (await unpacked(tmp_path / "a.zip", tmp_path / "there")).outcomes == {"new": 1}
    assert await sound(tmp_path / "there")
    assert not [name for name in files(tmp_path / "there") if name.endswith(".jsonl")]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_trace_may_have_the_name_of_what_lies_beside_traces(tmp_path: Path, kind: str) -> None:
    ids = ("catalog", "lost+found", "pins", "tombstones")
    for trace_id in ids:
        await add(tmp_path / "runs", "a", trace_id=trace_id, status="completed")
    assert (await packed(tmp_path / "runs", tmp_path / kind)).trace_ids == list(ids)
    assert (await unpacked(tmp_path / kind, tmp_path / "there")).outcomes == {"new": len(ids)}
    assert files(tmp_path / "there") == files(tmp_path / "runs")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_sealed_traces_give_the_same_bytes_in_any_order(runs: Path, tmp_path: Path, kind: str) -> None:
    await packed(runs, tmp_path / kind, "Run/7", "x" * 190)
    first = (tmp_path / kind).read_bytes()
    async with archive(runs) as one, archive(tmp_path / "copy") as other:
        await sync(one, other)
    await packed(tmp_path / "copy", tmp_path / kind, "x" * 190, "Run/7")
    assert (tmp_path / kind).read_bytes() == first


async def test_an_export_is_the_same_pack(runs: Path, tmp_path: Path) -> None:
    with traceark.open(runs) as opened:
        await asyncio.to_thread(opened.export, "Run/7", format="pack", output=tmp_path / "exported.zip")
        await asyncio.to_thread(opened.pack, "Run/7", to=tmp_path / "packed.zip")
    assert (tmp_path / "exported.zip").read_bytes() == (tmp_path / "packed.zip").read_bytes()


@pytest.mark.parametrize("has_goals", [True, False])
async def test_it_holds_no_records_that_came_after_a_header_which_it_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_goals: bool
) -> None:
    await add(tmp_path / "runs", "one")
    async with archive(tmp_path / "runs") as store, archive(tmp_path / "runs") as writer:
        if has_goals:
            await writer.update_goal_tree(RUN, GoalTree(mission="before", goals=[]))
        listed, words = store.storage.list, ["two"]

        async def written_first(prefix: str) -> dict[str, Entry]:
            # The headers have been read.
            if prefix == trace_prefix(RUN) and words:
                await writer.update_goal_tree(RUN, GoalTree(mission=words[0], goals=[]))
                await writer.add_message(Message(trace_id=RUN, role="user", content=words.pop()))
            return await listed(prefix)

        monkeypatch.setattr(store.storage, "list", written_first)
        assert not (await pack(store, tmp_path / "runs.zip", [RUN])).problems and not words
    await unpacked(tmp_path / "runs.zip", tmp_path / "other")
    async with archive(tmp_path / "other") as store:
        said = [message.content for message in await store.get_trace_messages(RUN)]
        tree = await store.get_goal_tree(RUN)
        assert said == ["one", "two"] and tree is not None and tree.mission == "two"


@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_trace_that_is_being_written_it_holds_a_state_that_it_had(tmp_path: Path, kind: str) -> None:
    written = asyncio.Event()

    async def write() -> None:
        async with archive(tmp_path / "runs") as store:
            await store.create_trace(Trace(trace_id=RUN))
            for at in range(tried(60, 300, 1000)):
                await store.append_event(RUN, "before", at)
                await store.add_message(Message(trace_id=RUN, role="user", content=at, tokens=1))
                if at % 7 == 0:
                    await store.compact(RUN)
                if at % 17 == 0:
                    await store.seal(RUN)
                await asyncio.sleep(0)
        written.set()

    writing = asyncio.create_task(write())
    lengths: list[int] = []
    while not written.is_set():
        report = await packed(tmp_path / "runs", tmp_path / kind)
        if report.trace_ids:
            copy = tmp_path / f"copy-{len(lengths)}"
            assert (await unpacked(tmp_path / kind, copy)).outcomes == {"new": 1}
            async with archive(copy) as store:
                said = [message.content for message in await store.get_trace_messages(RUN)]
                happened = [event.payload for event in await store.get_events(RUN)]
                trace = await store.get_trace(RUN)
            assert said == list(range(len(said))) and happened == list(range(len(happened)))
            assert len(happened) - len(said) in (0, 1) and trace is not None and trace.total_tokens == len(said)
            lengths.append(len(said))
        assert not report.problems
        await asyncio.sleep(0.001)
    await writing
    assert lengths == sorted(lengths) and len(set(lengths)) > 2


class TestOutcomes:
    async def test_a_later_state_brings_a_trace_forward_and_an_earlier_one_changes_nothing(
        self, tmp_path: Path
    ) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        await add(here, "a")
        await packed(here, tmp_path / "first.zip")
        await add(here, "b", status="completed")
        await packed(here, tmp_path / "last.zip")
        assert (await unpacked(tmp_path / "first.zip", there)).outcomes == {"new": 1}
        dry = await unpacked(tmp_path / "last.zip", there, SyncOptions(dry_run=True))
        assert dry.outcomes == {"forward": 1} and dry.copied_bytes == 0
        assert (await unpacked(tmp_path / "last.zip", there)).outcomes == {"forward": 1}
        assert files(there) == files(here)
        assert (await unpacked(tmp_path / "first.zip", there)).outcomes == {"behind": 1}
        assert files(there) == files(here)

    async def test_what_went_on_on_both_sides_is_told(self, tmp_path: Path) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        await add(here, "a")
        await packed(here, tmp_path / "a.zip")
        await unpacked(tmp_path / "a.zip", there)
        await add(here, "b")
        await add(there, "c")
        before = await told(there)
        await packed(here, tmp_path / "a.zip")
        report = await unpacked(tmp_path / "a.zip", there)
        assert report.outcomes == {"diverged": 1} and not report.is_clean
        assert await told(there) == before

    async def test_what_was_deleted_does_not_come_back(self, tmp_path: Path) -> None:
        await add(tmp_path / "here", "a", status="completed")
        await packed(tmp_path / "here", tmp_path / "a.zip")
        async with archive(tmp_path / "here") as store:
            await store.delete_trace(RUN)
        assert (await unpacked(tmp_path / "a.zip", tmp_path / "here")).outcomes == {"buried": 1}
        assert files(tmp_path / "here") == {}

    async def test_a_dry_run_makes_no_archive(self, runs: Path, tmp_path: Path) -> None:
        await packed(runs, tmp_path / "a.zip")
        report = await unpacked(tmp_path / "a.zip", tmp_path / "other", SyncOptions(dry_run=True))
        assert report.outcomes == {"new": 3} and not (tmp_path / "other").exists()


class TestPacking:
    async def test_a_damaged_trace_is_told_and_the_others_are_packed(self, runs: Path, tmp_path: Path) -> None:
        part = next((runs / trace_prefix("Run/7") / "messages").glob("*.parquet"))
        part.write_bytes(part.read_bytes()[:-20])
        report = await packed(runs, tmp_path / "a.zip")
        assert report.trace_ids == ["live", "x" * 190]
        [problem] = report.problems
        assert part.name in problem and "was not packed" in problem

    async def test_strangers_in_a_directory_stay_behind(self, runs: Path, tmp_path: Path) -> None:
        before = files(runs)
        (runs / trace_prefix("live") / "notes.txt").write_text("mine")
        (runs / TRACES / "no trace").mkdir()
        (runs / TRACES / "empty").mkdir()
        assert (await packed(runs, tmp_path / "a.zip")).problems == []
        await unpacked(tmp_path / "a.zip", tmp_path / "other")
        assert files(tmp_path / "other") == before

    async def test_what_is_not_there_cannot_be_packed(self, runs: Path, tmp_path: Path) -> None:
        with pytest.raises(TraceNotFoundError, match="gone"):
            await packed(runs, tmp_path / "a.zip", "gone")
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    async def test_a_file_that_is_there_is_replaced_only_when_asked(self, runs: Path, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_text("mine")
        async with archive(runs) as store:
            with pytest.raises(InvalidValueError, match="there already"):
                await pack(store, tmp_path / "a.zip")
            assert (tmp_path / "a.zip").read_text() == "mine"
            await pack(store, tmp_path / "a.zip", force=True, status="running")
        assert (await unpacked(tmp_path / "a.zip", tmp_path / "other")).outcomes == {"new": 1}

    async def test_the_ending_tells_the_form(self, runs: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match=r"\.zip nor \.tar\.zst"):
            await packed(runs, tmp_path / "a.rar")

    def test_killed_it_leaves_no_half_file(self, runs: Path, tmp_path: Path) -> None:
        for kind in KINDS:
            assert Program(__file__, runs, tmp_path / kind).wait() == -signal.SIGKILL
            assert not (tmp_path / kind).exists()
            assert [path.suffix for path in tmp_path.glob(".tmp-*")]


class TestCommandLine:
    def test_pack_and_unpack(self, runs: Path, tmp_path: Path) -> None:
        path = tmp_path / "runs.tar.zst"
        assert run("pack", runs, "--all", "--to", path).output == f"packed 3 traces, {_size(runs)}, to {path}\n"
        assert run("unpack", path, "--to", tmp_path / "other", "--dry-run").output.endswith(
            "unpacked: 3 new; 0 B copied\n"
        )
        assert not (tmp_path / "other").exists()
        assert "3 new" in run("unpack", path, "--to", tmp_path / "other", "--sync-once").output
        assert run("unpack", path, "--to", tmp_path / "other").output == "unpacked: 3 same; 0 B copied\n"
        assert '"outcomes": {"same": 3}' in run("unpack", path, "--to", tmp_path / "other", "--json").output

    def test_what_is_packed_is_named_or_filtered(self, runs: Path, tmp_path: Path) -> None:
        for number, chosen in enumerate((["live"], ["--where", "status = 'running'"], ["--status", "running"])):
            done = run("pack", runs, *chosen, "--to", tmp_path / f"{number}.zip", "--json")
            assert '"trace_ids": ["live"]' in done.output
        assert len({(tmp_path / f"{number}.zip").read_bytes() for number in range(3)}) == 1
        for wrong in ([], ["live", "--all"], ["--all", "--status", "failed"]):
            assert run("pack", runs, *wrong, "--to", tmp_path / "a.zip").exit_code == 2
        assert run("pack", runs, "--all", "--to", tmp_path / "0.zip").exit_code == 2
        assert run("pack", runs, "gone", "--to", tmp_path / "a.zip").exit_code == 1

    def test_a_pack_that_is_refused_is_said_in_a_line(self, runs: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
            file.writestr("../escape", b"x")
        done = run("unpack", tmp_path / "bad.zip", "--to", tmp_path / "other")
        assert done.exit_code == 1 and "../escape" in done.stderr and not (tmp_path / "other").exists()
        run("pack", runs, "--all", "--to", tmp_path / "runs.zip")
        for limit in ("--max-bytes", "--max-members"):
            done = run("unpack", tmp_path / "runs.zip", "--to", tmp_path / "other", limit, "5")
            assert done.exit_code == 1 and not (tmp_path / "other").exists()

    def test_a_damaged_trace_makes_exit_code_1(self, runs: Path, tmp_path: Path) -> None:
        (runs / trace_prefix("live") / HEADER).write_text("{")
        done = run("pack", runs, "--all", "--to", tmp_path / "runs.zip")
        assert done.exit_code == 1 and "live" in done.stderr and (tmp_path / "runs.zip").exists()


def _size(root: Path) -> str:
    from traceark.showing import bytes_text

    return bytes_text(sum(map(len, files(root).values())))


def test_the_facade_has_both(runs: Path, tmp_path: Path) -> None:
    with traceark.open(runs) as opened:
        assert opened.pack("live", to=tmp_path / "a.zip").trace_ids == ["live"]
        assert opened.pack(to=tmp_path / "b.zip", status="failed").trace_ids == ["x" * 190]
        with pytest.raises(InvalidValueError, match="not both"):
            opened.pack("live", to=tmp_path / "c.zip", status="failed")
    with traceark.open(tmp_path / "other") as opened:
        assert opened.unpack(tmp_path / "a.zip", limits=Limits(members=100)).outcomes == {"new": 1}


if __name__ == "__main__":

    def _die(*_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def _main() -> None:
        async with archive(Path(sys.argv[1])) as store:
            await pack(store, sys.argv[2], progress=_die)

    asyncio.run(_main())
