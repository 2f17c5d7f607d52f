"""Which importer a file goes to: by its content however it is laid out, by `--format`, and where it is torn."""

from __future__ import annotations

import asyncio
import gzip
import json
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from profiles import tried
from shell import run, told
from test_import_claude_code import corpus
from test_import_documents import BASH, CHAT, MARKED, SOLVED, USED, of_mini_swe_agent, results
from test_import_inspect import packed, sample
from test_import_run import store
from traceark.importers.base import ImportCounts, Importer, SourceTrace
from traceark.importers.chat import Chat
from traceark.importers.find import GROUP, importers
from traceark.importers.inspect_log import InspectLog
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.models import Json, JsonObject, Trace

SIMULATION: JsonObject = {"id": "s", "task_id": "7", "trial": 0, "messages": [{"role": "user", "content": "hi"}]}
CALLED: JsonObject = {
    "role": "assistant",
    "content": None,
    "tool_calls": [BASH],
    "extra": {"response": {"usage": USED}, "cost": 0.25, "timestamp": 1767322801.5},
}
# How `json.dumps` indents: on one line, and on many.
LAYOUTS = (None, 2)


def taken(*paths: Path, **options: object) -> ImportReport:
    return asyncio.run(import_paths(store(), paths, **options))  # type: ignore[arg-type]


def formats(report: ImportReport) -> list[str]:
    return [file.importer for file in report.files]


def written(path: Path, value: Json, indent: int | None = None) -> Path:
    path.write_text(json.dumps(value, indent=indent))
    return path


@pytest.mark.parametrize("indent", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("tau2", SIMULATION),
        ("tau2", results()),
        ("swe-agent", of_mini_swe_agent(CALLED, cost=0.25)),
        ("swe-agent", SOLVED),
        ("who-and-when", MARKED),
    ],
)
def test_a_document_is_of_its_format_on_one_line_and_on_many(
    tmp_path: Path, name: str, document: JsonObject, indent: int | None
) -> None:
    report = taken(written(tmp_path / "run.json", document, indent))
    assert formats(report) == [name]
    assert report.ok and report.totals()["new_traces"] == 1


def test_what_a_run_used_is_told_on_one_line_too(tmp_path: Path) -> None:
    path = written(tmp_path / "bug-1.traj", of_mini_swe_agent(CALLED, cost=0.25))

    async def run() -> tuple[int, float]:
        into = store()
        await import_paths(into, [path])
        (trace,) = await into.list_traces()
        return trace.total_tokens, trace.total_cost

    assert asyncio.run(run()) == (107, 0.25)


@pytest.mark.parametrize(
    "beside",
    [
        {"user_info": {"name": "ann"}},
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"user_info": {}, "task_id": {}}}}}]},
        {"tools": [{"task_id": {}, "trial": {}, "history": {}, "message_type": {}, "mini_version": {}}]},
        {"tools": [{"history": {}, "mistake_step": {}, "version": 1, "eval": {"type": "object"}}]},
        {"messages": [{"role": "user", "content": "mini-swe-agent, what is it?"}]},
    ],
)
def test_a_chat_that_has_words_of_another_format_in_it_is_one(tmp_path: Path, beside: JsonObject) -> None:
    assert formats(taken(written(tmp_path / "chat.jsonl", {**CHAT, **beside}))) == ["chat"]


def test_another_packages_format_is_asked_before_chat_which_takes_whatever_has_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        name = "own"

        def detect(self, path: Path) -> bool:
            return b'"own"' in path.read_bytes()

        def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
            yield SourceTrace(Trace(trace_id="o"))

    points = [EntryPoint("own", "own:Own", GROUP)]
    monkeypatch.setattr("traceark.plugins.points", lambda group, places: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: Own)
    assert importers()[-1].name == "chat"
    assert formats(taken(written(tmp_path / "own.jsonl", {**CHAT, "own": 1}))) == ["own"]


@pytest.mark.parametrize("folder", ["tau2-bench", "swe-agent", "who-and-when", "atif", "langfuse", "otel-genai"])
def test_real_documents_are_of_one_format_however_they_are_laid_out(tmp_path: Path, folder: str) -> None:
    for path in _small(corpus(folder)):
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            continue
        found = []
        for indent in LAYOUTS:
            written(tmp_path / "run.json", document, indent)
            found.append(
                [each.name for each in importers() if each.name != "chat" and each.detect(tmp_path / "run.json")]
            )
        assert found[0] == found[1], path.name
        assert len(found[0]) <= 1, path.name


def _small(paths: Sequence[Path]) -> list[Path]:
    """Return the smallest ones: what they are does not depend on how long they are."""
    return sorted(paths, key=lambda path: path.stat().st_size)[: tried(3, 8)]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('{"schema_version": "ATIF-v1.6",\n "steps": [\n1 2]}', 3, "not JSON: "),
        ('\n\n{"schema_version": "ATIF-v1.6",\n "steps": [', 4, "not JSON, torn at its end: "),
        ('{"schema_version": "ATIF-v1.6",\n "steps": ["a', 2, "not JSON, torn at its end: "),
        ('{"schema_version": "ATIF-v1.6"\n}\n\n{}', 2, "more than one JSON value"),
        ('{"resourceSpans": [{"resource": {},\n"scopeSpans": []]', 2, "not JSON: "),
        ('{"schema_version": "ATIF-v1.6", "steps": []}', 0, "has no session_id"),
    ],
)
def test_where_a_document_breaks_is_told_by_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    (problem,) = taken(path).problems
    assert (problem.path, problem.line) == (str(path), line)
    assert says in problem.reason


def test_a_broken_event_of_openhands_is_told_by_its_line(tmp_path: Path) -> None:
    events = tmp_path / "6c1f7a52-6d0a-4b3e-9a3a-5f0f0f6f7a11" / "events"
    events.mkdir(parents=True)
    event: JsonObject = {"id": "e", "timestamp": "2026-01-02T03:04:05", "source": "user", "kind": "MessageEvent"}
    for number in (0, 2):
        written(events / f"event-{number:05d}-e{number}.json", {**event, "id": f"e{number}"})
    broken = events / "event-00001-e1.json"
    broken.write_text('{"id": "e1",\n "kind" "MessageEvent"}')
    (problem,) = taken(events).problems
    assert (problem.path, problem.line) == (str(broken), 2)


OBSERVATION: JsonObject = {"id": "o", "traceId": "t", "type": "GENERATION", "input": "Hi!", "output": "Hello."}
RUN: JsonObject = {"id": "r", "trace_id": "r", "run_type": "chain", "name": "greeter", "inputs": {"input": "Hi!"}}
ITEM: JsonObject = {"object": "trace.span", "id": "s", "trace_id": "t", "span_data": {"type": "agent", "name": "a"}}
SPAN: JsonObject = {"traceId": "AB", "spanId": "01", "name": "chat", "startTimeUnixNano": "1700000000000000000"}
JAEGER: JsonObject = {"traceID": "ab", "spanID": "01", "operationName": "chat", "startTime": 1700000000000000}
DOCUMENTS: dict[str, list[Json]] = {
    "langfuse": [{"trace": {"id": "t", "name": "greeting"}, "observations": [OBSERVATION]}, [OBSERVATION]],
    "langsmith": [[RUN], {"runs": [RUN]}],
    "openai-agents": [{"data": [{"object": "trace", "id": "t"}, ITEM]}],
    "otlp": [[SPAN], {"data": [{"traceID": "ab", "spans": [JAEGER], "processes": {}}]}],
    "who-and-when": [MARKED, {"history": MARKED["history"], **MARKED}],
    "chat": [CHAT],
}


@pytest.mark.parametrize(
    ("name", "document", "indent"),
    [
        (name, each, indent)
        for name, documents in DOCUMENTS.items()
        for each in documents
        # A chat is one line.
        for indent in (LAYOUTS if name != "chat" else LAYOUTS[:1])
    ],
)
def test_a_torn_document_is_named_as_one_by_the_importer_of_its_format(
    tmp_path: Path, name: str, document: Json, indent: int | None
) -> None:
    path, text = tmp_path / "run.json", json.dumps(document, indent=indent)
    path.write_text(text)
    assert formats(taken(path)) == [name]
    for size in (len(text) - 1, len(text) - 2):
        path.write_text(text[:size])
        report = taken(path)
        assert formats(report) == [name]
        (problem,) = report.problems
        assert "torn" in problem.reason or "not whole" in problem.reason
        assert problem.line == text[:size].rstrip().count("\n") + 1
        assert bool(report.totals()["traces"]) == problem.reason.endswith("the records before that are whole")


def test_a_file_that_is_broken_and_of_no_format_is_skipped_as_before(tmp_path: Path) -> None:
    for number, text in enumerate(
        ('{"a": [1', '[{"id": 1}, {"id"', "{ not json", '{"sessionId": "s", "notes": "…', "{")
    ):
        (tmp_path / f"{number}.json").write_text(text)
    report = taken(tmp_path)
    assert report.ok and len(report.skipped) == 5


def test_a_torn_zip_of_inspect_is_named_and_other_torn_zips_are_not(tmp_path: Path) -> None:
    log = packed(tmp_path / "log.eval", sample())
    assert taken(log).ok
    whole = log.read_bytes()
    at = whole.index(b"PK\1\2")
    for torn in (whole[:at], whole[: at // 2], whole[:-4], whole[:at] + b"PK\1\3" + whole[at + 4 :]):
        log.write_bytes(torn)
        report = taken(log)
        assert formats(report) == ["inspect"]
        (problem,) = report.problems
        assert "torn or damaged zip" in problem.reason and "nothing was taken" in problem.reason
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "x" * 100)
    (tmp_path / "other.zip").write_bytes((tmp_path / "other.zip").read_bytes()[:80])
    report = taken(tmp_path / "other.zip")
    assert report.ok and len(report.skipped) == 1


def test_real_documents_that_are_torn_stop_a_strict_import(tmp_path: Path) -> None:
    torn = {
        "inspect": "log.eval",
        "langfuse": "agno-2025-06-11.trace.json",
        "who-and-when": "Hand-Crafted__15.json",
        "otel-genai": "adk_adot_spans.json",
        "otel-jaeger": "helm.json",
        "openai-agents": "traces.json_at_5c6a68fb",
    }
    for folder, name in torn.items():
        [path] = [each for each in corpus(folder) if each.name == name]
        data = path.read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 7 // 10])
    report = taken(tmp_path)
    assert sorted(Path(problem.path).name for problem in report.problems) == sorted(torn.values())
    begun = [each.path for each in report.problems if each.reason.endswith("the records before that are whole")]
    assert report.skipped == [] and report.totals()["traces"] == len(begun) == 2
    assert taken(tmp_path, strict=True).stopped_at == str(tmp_path / min(torn.values()))


def test_a_file_that_is_named_is_read_in_the_format_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(f"junk\n{json.dumps({**CHAT, 'id': 'c'})}\n")
    assert taken(path).skipped == [str(path)]
    for jobs in ("1", "2"):
        result = run("import", "--format", "chat", "--jobs", jobs, "--to", tmp_path / f"runs-{jobs}", path)
        assert result.exit_code == 1
        assert f"traceark: {path}:1: not JSON" in result.stderr and result.stderr.count("\n") == 1
        assert [trace["trace_id"] for trace in told("ls", tmp_path / f"runs-{jobs}")] == ["c"]


def test_a_torn_log_is_named_where_its_format_is(tmp_path: Path) -> None:
    log = packed(tmp_path / "log.eval", sample())
    log.write_bytes(log.read_bytes()[:40])
    report = taken(log, importer=InspectLog())
    assert ["torn or damaged zip" in problem.reason for problem in report.problems] == [True]


def test_in_a_tree_only_files_of_the_format_that_is_named_are_taken(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Runs")
    written(tmp_path / "run.json", SOLVED)
    chats = written(tmp_path / "chats.jsonl", CHAT)
    report = taken(tmp_path, importer=Chat())
    assert report.ok and [file.path for file in report.files] == [str(chats)]
    assert len(report.skipped) == 2
    # One that is named as well is read all the same.
    report = taken(tmp_path / "README.md", chats, importer=Chat())
    assert [(Path(problem.path).name, problem.line) for problem in report.problems] == [("README.md", 1)]


def test_what_is_compressed_is_said_to_be_whatever_its_format(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(CHAT).encode()))
    assert taken(path, importer=Chat()).compressed == {str(path): "gzip"}


NO_RUNS = {
    "empty": b"",
    "text": b"# Notes\n\nNo run.\n",
    "json": b'{"a": 1}',
    "list": b"[1, 2]",
    "number": b"7\n8\n",
    "torn": b'{"a": [1, {"b',
    "zip": b"PK\3\4" + bytes(60),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", NO_RUNS)
@pytest.mark.parametrize("importer", importers(), ids=lambda importer: str(importer.name))
def test_a_file_that_holds_nothing_of_the_format_that_is_named_is_named(
    tmp_path: Path, importer: Importer, what: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(NO_RUNS[what])
    report = taken(path, importer=importer)
    assert report.raised == {}
    assert report.problems and report.totals()["traces"] == 0
