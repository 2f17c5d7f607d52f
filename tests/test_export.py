"""Exporting: files that are whole, named by their trace, and never in place of others unasked."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

import traceark
from program import TRACEARK, ran
from shell import out, run, told, wrong
from traceark.cli import program
from traceark.errors import ExportFailedError
from traceark.exporters.base import Exporter, Packer, Run
from traceark.exporters.pack import Pack
from traceark.exporters.run import GROUP, export_traces, exporters, read_run
from traceark.layout import HEADER, MANIFEST, trace_key, trace_prefix
from traceark.models import Message, Trace
from traceark.storage import storage_for
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_texts
from traceark.testing.model import ModelStore
from traceark.testing.places import record_run, snapshot

ROOT = Path(__file__).parents[1]
BUGFIX = "7d1f0c52-64a5-4b0e-9b57-2f6f3f0c9a11"


class Plain:
    """Writes the texts of a run, one a line."""

    name = "plain"
    suffix = ".txt"

    def __init__(self, *, joins: bool = False) -> None:
        self.joins = joins

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        for message in run.messages:
            yield f"{message.content}\n".encode()


async def store_of(*trace_ids: str) -> ModelStore:
    store = ModelStore()
    for trace_id in trace_ids:
        await store.create_trace(Trace(trace_id=trace_id))
        await store.add_message(Message(trace_id=trace_id, role="user", content=f"I am {trace_id}"))
    return store


async def test_a_trace_goes_into_a_file_and_several_into_a_directory_under_their_keys(tmp_path: Path) -> None:
    store = await store_of("a/b", "CON")
    await export_traces(store, ["a/b"], Plain(), tmp_path / "one.txt")
    assert (tmp_path / "one.txt").read_text() == "I am a/b\n"
    report = await export_traces(store, ["a/b", "CON"], Plain(), tmp_path / "new" / "folder")
    names = {f"{trace_key(each)}.txt" for each in ("a/b", "CON")}
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == names
    assert [trace.outcome for trace in report.traces] == ["written", "written"]
    (tmp_path / "there").mkdir()
    await export_traces(store, ["CON"], Plain(), tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == [f"{trace_key('CON')}.txt"]


async def test_a_format_that_joins_puts_several_into_one_file(tmp_path: Path) -> None:
    store = await store_of("a", "b")
    await export_traces(store, ["b", "a"], Plain(joins=True), tmp_path / "all.txt")
    assert (tmp_path / "all.txt").read_text() == "I am b\nI am a\n"
    pieces: list[bytes] = []
    await export_traces(store, ["b", "a"], Plain(joins=True), pieces.append)
    assert b"".join(pieces) == (tmp_path / "all.txt").read_bytes()
    with pytest.raises(ExportFailedError, match="directory"):
        await export_traces(store, ["b", "a"], Plain(), pieces.append)


async def test_a_file_with_other_content_stays_unless_it_is_forced(tmp_path: Path) -> None:
    store, path = await store_of("a"), tmp_path / "a.txt"
    path.write_text("mine")
    report = await export_traces(store, ["a"], Plain(), path)
    assert not report.ok and "--force" in report.traces[0].reason
    assert path.read_text() == "mine"
    assert (await export_traces(store, ["a"], Plain(), path, force=True)).traces[0].outcome == "written"
    before = path.stat()
    assert (await export_traces(store, ["a"], Plain(), path)).traces[0].outcome == "same"
    assert path.stat() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_a_directory_that_cannot_be_made_and_a_file_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    store = await store_of("a", "b")
    (tmp_path / "file").touch()
    with pytest.raises(ExportFailedError, match="file"):
        await export_traces(store, ["a", "b"], Plain(), tmp_path / "file")
    report = await export_traces(store, ["a"], Plain(), tmp_path / "nowhere" / "a.txt")
    assert [trace.outcome for trace in report.failed] == ["failed"] and "nowhere" in report.traces[0].reason


async def test_a_trace_of_which_a_format_says_nothing_has_no_file(tmp_path: Path) -> None:
    store = await store_of("a")
    await store.create_trace(Trace(trace_id="silent"))
    report = await export_traces(store, ["silent", "a"], Plain(), tmp_path / "all")
    assert (report.traces[0].outcome, report.traces[0].path) == ("empty", None) and report.ok
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["a.txt"]
    report = await export_traces(store, ["silent"], Plain(), tmp_path / "one.txt")
    assert report.traces[0].outcome == "empty" and not (tmp_path / "one.txt").exists()
    report = await export_traces(store, ["silent", "a"], Plain(joins=True), tmp_path / "both.txt")
    assert [trace.outcome for trace in report.traces] == ["empty", "written"]


async def test_a_pipe_takes_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(pipe.read_bytes)
        report = await export_traces(await store_of("a"), ["a"], Plain(), pipe, force=True)
    assert reading.result() == b"I am a\n"
    assert report.traces[0].outcome == "written" and pipe.is_fifo()


async def test_what_is_not_there_fails_alone(tmp_path: Path) -> None:
    report = await export_traces(await store_of("a"), ["gone", "a"], Plain(), tmp_path / "all")
    assert [(trace.trace_id, trace.outcome) for trace in report.traces] == [("gone", "failed"), ("a", "written")]
    assert json.loads(json.dumps(report.to_json()))["ok"] is False


async def test_a_run_has_the_headers_of_its_sub_agents() -> None:
    store = ModelStore()
    await store.create_trace(Trace(trace_id="a"))
    await store.create_trace(Trace(trace_id="child", task="help"))
    await store.add_goal("a", traceark.Goal(id="1", sub_trace_ids=["child", "elsewhere"]))
    assert {name: child.task for name, child in (await read_run(store, "a")).children.items()} == {"child": "help"}


class TestPack:
    async def test_holds_the_directory_byte_for_byte_always_in_the_same_bytes(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store, "Run/7")
            await store.seal("Run/7")
            for name in ("one.zip", "two.zip"):
                assert (await export_traces(store, ["Run/7"], Pack(), tmp_path / name)).ok
        directory = tmp_path / "runs" / trace_prefix("Run/7")
        files = {
            path.relative_to(tmp_path / "runs").as_posix(): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file() and path.name != ".lock"
        }
        with zipfile.ZipFile(tmp_path / "one.zip") as file:
            assert {name: file.read(name) for name in file.namelist()} == files
            assert f"{trace_prefix('Run/7')}/{MANIFEST}" in files
            assert file.testzip() is None
        assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()

    @pytest.mark.parametrize("sealed", [True, False])
    async def test_unpacked_into_an_archive_it_is_a_trace_of_it(self, tmp_path: Path, sealed: bool) -> None:
        async with ArchiveStore(f"memory://{tmp_path}") as store:
            await record_run(store)
            if sealed:
                await store.seal("t")
            before = await snapshot(store)
            await export_traces(store, ["t"], Pack(), tmp_path / "t.zip")
        with zipfile.ZipFile(tmp_path / "t.zip") as file:
            file.extractall(tmp_path / "other")
        async with ArchiveStore(tmp_path / "other") as other:
            assert await snapshot(other) == before
            assert await other.verify(deep=True) == []

    async def test_of_a_trace_that_is_being_written_it_is_an_earlier_state(self, tmp_path: Path) -> None:
        archive = tmp_path / "runs"
        async with ArchiveStore(archive, durability="os") as store:
            await store.create_trace(Trace(trace_id="t"))

            async def write() -> None:
                for at in range(120):
                    await store.add_message(Message(trace_id="t", role="user", content=at))
                    await asyncio.sleep(0)
                    if at % 20 == 0:
                        await store.update_trace("t", total_tokens=at)
                        await store.seal("t")

            writing = asyncio.create_task(write())
            lengths: list[int] = []
            while not writing.done():
                pieces: list[bytes] = []
                async with ArchiveStore(archive) as reader:
                    report = await export_traces(reader, ["t"], Pack(), pieces.append)
                assert report.ok, report.failed
                with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as file:
                    file.extractall(tmp_path / f"{len(lengths)}")
                async with ArchiveStore(tmp_path / f"{len(lengths)}") as copy:
                    contents = [message.content for message in await copy.get_trace_messages("t")]
                assert contents == list(range(len(contents)))
                lengths.append(len(contents))
            assert lengths == sorted(lengths) and len(set(lengths)) > 2

    async def test_a_damaged_trace_is_not_packed(self, tmp_path: Path) -> None:
        async with ArchiveStore(tmp_path / "runs", durability="os") as store:
            await record_run(store)
            await store.seal("t")
        part = next((tmp_path / "runs" / trace_prefix("t") / "messages").glob("*.parquet"))
        part.write_bytes(part.read_bytes()[:-20])
        async with ArchiveStore(tmp_path / "runs") as store:
            report = await export_traces(store, ["t"], Pack(), tmp_path / "t.zip")
        assert not report.ok and part.name in report.traces[0].reason
        assert not (tmp_path / "t.zip").exists()

    async def test_a_store_without_files_cannot_be_packed(self, tmp_path: Path) -> None:
        with pytest.raises(ExportFailedError, match="files"):
            await export_traces(await store_of("a"), ["a"], Pack(), tmp_path / "a.zip")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("export") / "runs"
    out("import", "--samples", "--to", archive)
    return archive


class TestCommandLine:
    def test_names_what_it_wrote(self, archive: Path, tmp_path: Path) -> None:
        assert BUGFIX in out("export", archive, "7d1f", "--format", "pack", "-o", tmp_path / "a.zip")
        assert "as it was" in out("export", archive, "7d1f", "--format", "pack", "-o", tmp_path / "a.zip")
        (tmp_path / "a.zip").write_text("mine")
        assert "--force" in wrong(1, "export", archive, "7d1f", "--format", "pack", "-o", tmp_path / "a.zip")
        out("export", archive, "7d1f", "--format", "pack", "-o", tmp_path / "a.zip", "--force")
        assert zipfile.is_zipfile(tmp_path / "a.zip")

    def test_exports_all_that_the_filters_leave(self, archive: Path, tmp_path: Path) -> None:
        report = told("export", archive, "--format", "pack", "-o", f"{tmp_path}/all/")
        assert report["ok"] and len(report["traces"]) == 5
        assert {path.suffix for path in (tmp_path / "all").iterdir()} == {".zip"}
        report = told("export", archive, "--format", "pack", "--status", "failed", "-o", f"{tmp_path}/failed/")
        assert len(report["traces"]) == len(list((tmp_path / "failed").iterdir())) == 1
        assert out("export", archive, "--format", "pack", "--uid", "nobody", "-o", tmp_path / "none") == "no traces\n"

    @pytest.mark.parametrize("output", [(), ("-o", "-")])
    def test_one_trace_goes_to_standard_output(self, archive: Path, output: tuple[str, ...]) -> None:
        found = CliRunner().invoke(program, ["export", str(archive), "7d1f", "--format", "pack", *output])
        assert found.exit_code == 0
        assert f"{trace_prefix(BUGFIX)}/{HEADER}" in zipfile.ZipFile(io.BytesIO(found.stdout_bytes)).namelist()

    def test_a_terminal_gets_no_zip(self, archive: Path) -> None:
        leader, follower = pty.openpty()
        with open(follower, "w", closefd=False) as terminal:
            found = ran(TRACEARK, "export", archive, "7d1f", "--format", "pack", stdout=terminal)
        os.close(follower)
        os.close(leader)
        assert found.returncode == 2 and "-o" in found.stderr

    def test_is_used_wrong(self, archive: Path, tmp_path: Path) -> None:
        assert "pack" in wrong(2, "export", archive, "7d1f", "--format", "none", "-o", tmp_path / "a")
        assert "filters" in wrong(2, "export", archive, "7d1f", "--roots", "--format", "pack", "-o", tmp_path / "a")
        assert "-o" in wrong(2, "export", archive, "7d1f", "--format", "pack", "--json")
        assert "directory" in wrong(2, "export", archive, "--format", "pack")
        assert run("export", tmp_path / "nothing", "--format", "pack").exit_code == 2


def test_the_library_says_the_same_as_the_command_line(archive: Path, tmp_path: Path) -> None:
    with traceark.open(archive) as opened:
        report = opened.export(BUGFIX, format="pack", output=tmp_path / "a.zip")
        assert report.traces[0].path == str(tmp_path / "a.zip")
        with pytest.raises(ExportFailedError, match="not both"):
            opened.export(BUGFIX, format="pack", output=tmp_path / "b.zip", status="failed")
        with pytest.raises(ExportFailedError, match="pack"):
            opened.export(BUGFIX, format="none", output=tmp_path / "b.zip")


def test_the_report_of_one_that_leaves_something_out_is_json(archive: Path, tmp_path: Path) -> None:
    with traceark.open(archive) as opened:
        opened.append_event(BUGFIX, "step", 1)
    [trace] = told("export", archive, BUGFIX, "--format", "html", "-o", tmp_path / "a.html")["traces"]
    assert trace["outcome"] == "written" and trace["left_out"]["events"] > 0


async def test_exporting_changes_nothing(archive: Path, tmp_path: Path) -> None:
    storage = storage_for(archive, None, "os")
    before = await storage.list("traces")
    with traceark.open(archive) as opened:
        await asyncio.to_thread(opened.export, format="pack", output=f"{tmp_path}/all/")
        messages = await asyncio.to_thread(opened.get_trace_messages, BUGFIX)
    assert await storage.list("traces") == before
    assert exact_texts(messages)


def test_every_format_has_its_page() -> None:
    page = (ROOT / "docs" / "exporting.md").read_text()
    names = sorted(exporter.name for exporter in exporters())
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", page.partition("\n## ")[0], re.MULTILINE)) == names
    assert sorted(set(re.findall(r"^## ([\w-]+)$", page, re.MULTILINE))) == names
    for exporter in exporters():
        assert f"| `{exporter.suffix}` | {'yes' if exporter.joins else 'no'} |" in page


def test_every_format_is_an_entry_point() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    named = {name: f"{type(each).__module__}:{type(each).__name__}" for each in exporters() for name in [each.name]}
    assert points == named
    assert all(isinstance(exporter, Exporter | Packer) for exporter in exporters())
    assert len({exporter.suffix for exporter in exporters()}) == len(exporters())
