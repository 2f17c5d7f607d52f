"""An importer that fails, by an error of whatever kind, fails for that file alone; the report says which and where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from shell import run
from shell import told as printed
from test_import_claude_code import SAMPLES
from test_import_otlp import RUN, document
from test_import_run import store
from traceark.errors import ImportFailedError, InvalidValueError
from traceark.importers.base import ImportCounts, Importer, SourceTrace
from traceark.importers.find import GROUP, importers
from traceark.importers.otlp import Otlp
from traceark.importers.pieces import PiecedTrace
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.models import Trace
from traceark.store import ArchiveStore


class TwoPartsError(Exception):
    """An error that no process can be sent: it is made of two things."""

    def __init__(self, model: str, line: int) -> None:
        super().__init__(f"{model} in line {line}")


ERRORS: dict[str, Exception] = {
    "KeyError: 'model'": KeyError("model"),
    "RecursionError: too deep": RecursionError("too deep"),
    "InvalidValueError: metadata.a: no": InvalidValueError("no", "metadata.a"),
    "TwoPartsError: gpt in line 7": TwoPartsError("gpt", 7),
}


class Foreign:
    """Another package's importer, of files that begin with "mine"; one with "bad" in it makes it fail somewhere."""

    name = "mine"

    def __init__(self, where: str = "read", error: str = "KeyError: 'model'") -> None:
        self._where, self._error = where, error

    def _at(self, where: str, path: Path) -> None:
        if where == self._where and path.suffix == ".mine" and b"bad" in path.read_bytes():
            raise ERRORS[self._error]

    def is_beside(self, path: Path) -> bool:
        self._at("is_beside", path)
        return False

    def detect(self, path: Path) -> bool:
        self._at("detect", path)
        return path.read_bytes().startswith(b"mine")

    def files(self, path: Path) -> Sequence[Path]:
        self._at("files", path)
        return [path]

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        counts.rows["line"] += 1
        yield SourceTrace(Trace(trace_id=f"of {path.name}", status="completed"), digests=["d"], file_rows=1)
        self._at("read", path)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, text in {"a.mine": "mine", "b.mine": "mine, bad", "c.mine": "mine"}.items():
        (folder / name).write_text(text)
    (folder / "d.jsonl").write_bytes((SAMPLES / "api-error.jsonl").read_bytes())
    return folder


def use(monkeypatch: pytest.MonkeyPatch, importer: Importer) -> None:
    """Install an importer as another package does."""
    point = EntryPoint("mine", "other:Mine", GROUP)
    monkeypatch.setattr("traceark.plugins.points", lambda group, places: [point])
    monkeypatch.setattr(EntryPoint, "load", lambda point: lambda: importer)


def said(report: ImportReport) -> list[tuple[str, str]]:
    return [(Path(problem.path).name, problem.reason) for problem in report.problems]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["is_beside", "detect", "files", "read"])
def test_an_importer_that_fails_is_named_with_the_file_and_the_import_goes_on(
    monkeypatch: pytest.MonkeyPatch, sources: Path, where: str, error: str
) -> None:
    use(monkeypatch, Foreign(where, error))
    report = asyncio.run(import_paths(store(), [sources]))
    assert said(report) == [("b.mine", f"the importer 'mine' failed: {error}; nothing was taken")]
    traces = {trace.trace_id for file in report.files for trace in file.traces}
    assert {"of a.mine", "of c.mine"} < traces and "of b.mine" not in traces and len(traces) == 3
    [(path, at)] = report.raised.items()
    assert Path(path).name == "b.mine" and f"in {where}" in at and error in at
    assert "Traceback" in at and "Traceback" not in json.dumps(report.to_json())


def test_a_file_whose_importer_failed_counts_no_rows(sources: Path) -> None:
    report = asyncio.run(import_paths(store(), [sources / "a.mine", sources / "b.mine"], importer=Foreign()))
    assert report.rows == {"line": 1}


def test_it_fails_so_where_processes_share_the_import(monkeypatch: pytest.MonkeyPatch, sources: Path) -> None:
    use(monkeypatch, Foreign(error="TwoPartsError: gpt in line 7"))

    async def shared() -> ImportReport:
        async with ArchiveStore(sources.parent / "runs", durability="os") as archive:
            return await import_paths(archive, [sources], workers=2)

    report = asyncio.run(shared())
    assert said(report) == [("b.mine", "the importer 'mine' failed: TwoPartsError: gpt in line 7; nothing was taken")]
    assert [Path(path).name for path in report.raised] == ["b.mine"]
    assert report.totals()["new_traces"] == 3


def test_a_strict_import_stops_there(sources: Path) -> None:
    report = asyncio.run(import_paths(store(), [sources], importer=Foreign(), strict=True))
    assert (report.stopped_at, report.totals()["new_traces"]) == (str(sources / "b.mine"), 1)


def test_the_command_line_says_it_by_its_exit_code_and_debug_shows_the_cause(
    monkeypatch: pytest.MonkeyPatch, sources: Path
) -> None:
    use(monkeypatch, Foreign())
    result = run("import", sources, "--to", sources.parent / "runs")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"traceark: {sources / 'b.mine'}: the importer 'mine' failed: KeyError: 'model'; nothing was taken",
        "traceark: an importer failed; --debug shows where",
    ]
    shown = run("import", sources, "--to", sources.parent / "runs", "--debug")
    assert shown.exit_code == 1
    assert "Traceback (most recent call last)" in shown.stderr and "in read" in shown.stderr
    assert shown.stderr.endswith("KeyError: 'model'\n")
    assert "of c.mine" in str(printed("ls", sources.parent / "runs"))


class NoNumber(Foreign):
    """Raises what libraries below do for a file that they cannot read: an error of the system without a number."""

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        raise OSError("the footer is not where it should be")


def test_an_error_of_the_system_without_a_number_says_what_it_says(sources: Path) -> None:
    report = asyncio.run(import_paths(store(), [sources / "a.mine"], importer=NoNumber()))
    assert said(report) == [("a.mine", "cannot be read: the footer is not where it should be")]
    assert report.raised == {}


@pytest.mark.parametrize("method", ["put_together", "endings"])
@pytest.mark.parametrize("last", ["told", "unreadable"])
def test_a_trace_in_pieces_that_cannot_be_put_together_is_told_of_the_last_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, last: str
) -> None:
    names, real = ["a", "b", "c"], Otlp.pieced
    for name, spans in zip(names, (RUN[:2], RUN[2:3], RUN[3:]), strict=True):
        (tmp_path / name).write_text(json.dumps(document(*spans)))

    def fail(*_: Any) -> Any:
        raise IndexError("no span")

    def pieced(self: Otlp, path: Path, counts: ImportCounts) -> Iterator[PiecedTrace]:
        if last == "unreadable" and path.name == "c":
            raise OSError("gone")
        return real(self, path, counts)

    monkeypatch.setattr(Otlp, "pieced", pieced)
    monkeypatch.setattr(Otlp, method, fail)
    report = asyncio.run(import_paths(store(), [tmp_path]))
    told = "the importer 'otlp' failed: IndexError: no span; nothing was taken"
    assert ("b" if last == "unreadable" else "c", told) in said(report)
    # Of the first file alone, where only what is told twice is looked at.
    assert report.totals()["new_traces"] == (method == "endings")


@pytest.mark.parametrize("error", [SyntaxError("invalid syntax"), RuntimeError("no licence")])
def test_an_importer_that_does_not_load_is_named_whatever_it_raises(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(point: EntryPoint) -> Any:
        raise error

    use(monkeypatch, Foreign())
    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(ImportFailedError, match=f"'mine' .* does not load: {error}"):
        importers()
