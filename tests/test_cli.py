"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import traceark
from profiles import tried
from program import PIPE, TRACEARK, Program, ran
from servers import REGION, S3Server, free_port
from shell import out, run, told, wrong
from traceark.cli import program
from traceark.cli.archives import meant, short_ids

SAMPLES = Path(traceark.__file__).parent / "samples" / "claude-code"
SESSION, AGENT = "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803", "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803-agent-a31c7d"
BUGFIX = "7d1f0c52-64a5-4b0e-9b57-2f6f3f0c9a11"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COMMAND = (sys.executable, "-c", "from traceark.cli import main; main()")
# What files may be no larger than.
LIMITED = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); from traceark.cli import main; main()"
)
# What a terminal obeys, or what reorders text; a newline is the only control that output may hold.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("cli") / "runs"
    out("import", SAMPLES, "--to", archive)
    return archive


@pytest.fixture
def archive(imported: Path, tmp_path: Path) -> Path:
    """An archive of the samples that a test may change."""
    return Path(shutil.copytree(imported, tmp_path / "runs"))


class TestImport:
    def test_prints_the_counts_and_a_second_time_adds_nothing(self, tmp_path: Path) -> None:
        assert "65 new, 0 known" in out("import", SAMPLES, "--to", tmp_path / "runs")
        assert "0 new, 65 known" in out("import", SAMPLES, "--to", tmp_path / "runs")

    def test_the_samples_come_with_the_package(self, tmp_path: Path) -> None:
        assert told("import", "--samples", "--to", tmp_path / "runs")["totals"]["traces"] == 5

    def test_json_has_every_file(self, tmp_path: Path) -> None:
        report = told("import", SAMPLES, "--to", tmp_path / "runs")
        assert report["ok"] and len(report["files"]) == 5

    def test_of_many_kinds_of_rows_a_terminal_gets_the_most_frequent_and_a_pipe_all(self, tmp_path: Path) -> None:
        lines = (SAMPLES / "api-error.jsonl").read_text().splitlines()
        lines += [json.dumps(json.loads(lines[0]) | {"type": f"kind-of-row-{number}"}) for number in range(100)]
        (tmp_path / "run.jsonl").write_text("\n".join([*lines, ""]))
        for columns in (None, 80):
            printed = run("import", tmp_path / "run.jsonl", "--to", tmp_path / "runs", columns=columns).stdout
            assert ("1 kind-of-row-99" in printed) == (columns is None)
            assert ("more kinds" in printed) == (columns == 80)

    def test_a_source_that_is_not_there_makes_no_archive(self, tmp_path: Path) -> None:
        assert "does not exist" in wrong(2, "import", tmp_path / "nothing", "--to", tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    def test_a_named_file_in_no_known_format_is_found_wrong_and_one_in_a_tree_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no run")
        assert "notes.txt" in wrong(1, "import", tmp_path / "notes.txt", "--to", tmp_path / "runs")
        out("import", tmp_path, "--to", tmp_path / "runs")

    def test_a_file_that_is_compressed_is_said_to_be(self, tmp_path: Path) -> None:
        tree = tmp_path / "sources"
        tree.mkdir()
        packed = tree / "session.jsonl"
        packed.write_bytes(gzip.compress((SAMPLES / "api-error.jsonl").read_bytes()))
        (tree / "notes.txt").write_text("no run")
        assert "session.jsonl: skipped, it is compressed with gzip" in wrong(
            1, "import", packed, "--to", tmp_path / "runs"
        )
        for jobs in ("1", "2"):
            printed = out("import", tree, "--jobs", jobs, "--to", tmp_path / "runs")
            assert "0 read, 2 skipped (1 of them compressed)" in printed

    def test_a_row_that_cannot_be_read_is_named_by_line(self, tmp_path: Path) -> None:
        lines = (SAMPLES / "api-error.jsonl").read_text().splitlines()
        (tmp_path / "broken.jsonl").write_text("\n".join([*lines[:2], "{broken", *lines[2:], ""]))
        assert "broken.jsonl:3: " in wrong(1, "import", tmp_path / "broken.jsonl", "--to", tmp_path / "runs")

    def test_a_strict_import_stops_there(self, tmp_path: Path) -> None:
        shutil.copytree(SAMPLES, tmp_path / "sources")
        (tmp_path / "sources" / "a.jsonl").write_bytes((SAMPLES / "api-error.jsonl").read_bytes() + b"{broken\n{}\n")
        result = run("import", tmp_path / "sources", "--strict", "--to", tmp_path / "runs")
        assert result.exit_code == 1
        assert "a.jsonl; what came before it is in the archive" in result.stderr.splitlines()[-1]
        assert "0 new" in result.stdout

    def test_several_jobs_do_the_same(self, imported: Path, tmp_path: Path) -> None:
        assert "65 new, 0 known" in out("import", SAMPLES, "--jobs", "2", "--to", tmp_path / "runs")
        assert out("ls", tmp_path / "runs") == out("ls", imported)

    def test_the_format_can_be_named(self, tmp_path: Path) -> None:
        out("import", SAMPLES, "--format", "claude-code", "--to", tmp_path / "runs")
        assert "claude-code" in wrong(2, "import", SAMPLES, "--format", "other", "--to", tmp_path / "runs")


class TestLs:
    @pytest.mark.parametrize("columns", [76, 80, 100, 140, 200])
    def test_fits_the_terminal(self, imported: Path, columns: int) -> None:
        lines = out("ls", imported, columns=columns).splitlines()
        assert max(map(len, lines)) <= columns
        assert len(lines) == (6 if columns >= 120 else 11)
        assert any("7d1f0c52" in line and "2026-03-02" in line and "completed" in line for line in lines)
        assert any("171.7k" in line for line in lines)

    def test_in_a_pipe_a_trace_is_one_line_with_its_whole_task(self, imported: Path) -> None:
        lines = out("ls", imported).splitlines()
        assert len(lines) == 6
        assert lines[-1].endswith("The test test_parse_empty fails since this morning. Please find out why and fix it.")

    def test_in_a_pipe_no_list_cuts_a_text(self, tmp_path: Path) -> None:
        long = " ".join(f"word-{number}" for number in range(2000))
        with traceark.open(tmp_path / "runs") as opened:
            opened.create_trace(traceark.Trace(trace_id="run-7", task=long, agent_type=f"agent {long}"))
            opened.add_message(traceark.Message(trace_id="run-7", role="user", content=long))
            opened.append_event("run-7", f"type {long}", {"said": long})
            opened.update_trace("run-7", status="completed")
        given = (tmp_path / "runs", "run-7")
        for verb in (["ls"], ["stats", "--by", "agent"], ["tree", "run-7"]):
            assert f"agent {long}" in out(verb[0], given[0], *verb[1:])
        for verb in (["ls"], ["tree", "run-7"], ["search", "word-7"]):
            assert f" {long}" in out(verb[0], given[0], *verb[1:])
        assert f"type {long}" in out("tail", *given) and f'"{long}"' in out("tail", *given)
        assert f'"{long}"' in out("tail", *given, "--follow")
        assert max(map(len, out("tail", *given, columns=80).splitlines())) <= 80

    def test_costs_are_shown_where_there_are_any(self, archive: Path) -> None:
        assert "cost" not in out("ls", archive, columns=80)
        with traceark.open(archive) as opened:
            opened.create_trace(traceark.Trace(trace_id="paid", total_cost=1.25))
        lines = out("ls", archive, columns=80).splitlines()
        assert lines[0].endswith("cost") and lines[1].endswith("1.25")
        assert max(map(len, lines)) <= 80

    def test_filters_combine_and_the_newest_come_first(self, imported: Path) -> None:
        assert [trace["status"] for trace in told("ls", imported)[:2]] == ["cancelled", "failed"]
        completed = told("ls", imported, "--status", "completed", "--agent-type", "claude-code", "--mode", "agent")
        assert [trace["trace_id"] for trace in completed] == [AGENT, SESSION, BUGFIX]
        assert told("ls", imported, "--uid", "nobody") == []

    def test_bad_filters_are_used_wrong(self, imported: Path) -> None:
        assert "--limit" in wrong(2, "ls", imported, "--limit", 0)
        assert "--status" in wrong(2, "ls", imported, "--status", "done")

    def test_every_printed_id_is_understood(self, imported: Path) -> None:
        for line in out("ls", imported).splitlines()[1:]:
            told("show", imported, line.split()[0])


class TestShow:
    def test_has_header_goals_and_messages(self, imported: Path) -> None:
        text = out("show", imported, "7d1f")
        assert text.startswith(f"{BUGFIX}  completed\n")
        assert "33 messages · 171,665 tokens · 13 events" in text
        assert "├── ✓ Reproduce the failure\n│   completed · 10 messages · 45.7k tokens\n" in text
        assert "→ Bash command=pytest" in text
        assert "\n  ← 48 passed in 1.31s\n" in text

    def test_names_the_traces_of_sub_agents_with_what_they_took(self, imported: Path) -> None:
        assert f"↳ {AGENT}\n        completed · 7 messages · 24.6k tokens\n" in out("show", imported, SESSION)

    def test_leaves_out_the_middle_and_full_does_not(self, imported: Path) -> None:
        assert "… 3 messages left out, --full shows all" in out("show", imported, BUGFIX)
        assert "left out" not in out("show", imported, BUGFIX, "--full")

    def test_shortens_long_text_and_full_does_not(self, archive: Path) -> None:
        with traceark.open(archive) as opened:
            opened.create_trace(traceark.Trace(trace_id="long"))
            opened.add_message(traceark.Message(trace_id="long", role="user", content="line\n" * 99 + "end"))
            opened.add_message(traceark.Message(trace_id="long", role="user", content="x" * 5000))
        text = out("show", archive, "long")
        assert "… 92 more lines" in text and "… 4,200 more characters" in text
        assert "\n  end\n" in out("show", archive, "long", "--full")

    def test_names_which_agent_said_what_and_the_mistake(self, tmp_path: Path) -> None:
        run = {"question_ID": "q", "question": "2 + 2?", "mistake_agent": "adder", "mistake_step": "1"}
        steps = [{"role": "planner", "content": "Add."}, {"role": "user", "name": "adder\x1b", "content": "5"}]
        (tmp_path / "run.json").write_text(json.dumps(run | {"history": steps}))
        out("import", tmp_path / "run.json", "--to", tmp_path / "runs")
        for flags in ([], ["--full"]):
            text = out("show", tmp_path / "runs", "q", *flags)
            assert "\n1 assistant  planner\n  Add.\n" in text and "\n2 user  adder\\x1b  mistake\n  5\n" in text

    def test_a_time_that_is_unknown_is_no_time(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(json.dumps({"question_ID": "q", "mistake_step": "0", "history": [{}]}))
        out("import", tmp_path / "run.json", "--to", tmp_path / "runs")
        for columns in (None, 80):
            assert "q-" in out("ls", tmp_path / "runs", columns=columns)
            assert " –" in out("ls", tmp_path / "runs", columns=columns).splitlines()[1][:30]
        text = out("show", tmp_path / "runs", "q")
        assert "time    unknown" in text and "1970" not in text and "00:00:00" not in text

    def test_a_time_that_is_unknown_is_none_of_its_events_and_no_day(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            opened.create_trace(traceark.Trace(trace_id="q", created_at=EPOCH, metadata={"times": "unknown"}))
            opened.create_trace(traceark.Trace(trace_id="born", created_at=EPOCH, status="completed"))
            for trace_id in ("q", "born"):
                opened.append_events(trace_id, [("begun", None, EPOCH)])
            opened.append_event("q", "seen", None)
            opened.update_trace("q", status="completed")
        for flags in ([], ["--follow"]):
            first, second = out("tail", tmp_path / "runs", "q", *flags).splitlines()[-2:]
            assert " unknown " in first and "00:00:00" not in first and "unknown" not in second
            assert "00:00:00" in out("tail", tmp_path / "runs", "born", *flags)
        assert [line.split()[0] for line in out("stats", tmp_path / "runs").splitlines()[1:3]] == [
            "1970-01-01",
            "unknown",
        ]
        assert [row["day"] for row in told("stats", tmp_path / "runs")] == ["1970-01-01", "unknown"]
        rows = told("sql", tmp_path / "runs", "SELECT nullif(created_at, 'epoch') AS at FROM traces")
        assert rows == [{"at": None}, {"at": None}]

    def test_reasoning_is_told_from_speech_without_colour(self, archive: Path) -> None:
        content = [{"type": "thinking", "thinking": "Hm.\n\nWell."}, {"type": "text", "text": "Yes."}]
        with traceark.open(archive) as opened:
            opened.create_trace(traceark.Trace(trace_id="thinks"))
            opened.add_message(traceark.Message(trace_id="thinks", role="assistant", content=content))
        assert out("show", archive, "thinks").endswith("\n  ~ Hm.\n  ~\n  ~ Well.\n  Yes.\n")

    def test_json_is_whole(self, imported: Path) -> None:
        shown = told("show", imported, BUGFIX)
        assert shown["trace"]["total_messages"] == len(shown["messages"]) == 33
        assert [goal["status"] for goal in shown["goal_tree"]["goals"]] == ["completed"] * 3

    @pytest.mark.parametrize("columns", [40, 80, 140])
    def test_fits_the_terminal(self, imported: Path, columns: int) -> None:
        assert max(map(len, out("show", imported, BUGFIX, columns=columns).splitlines())) <= columns

    def test_a_name_that_fits_several_traces_lists_them(self, archive: Path) -> None:
        with traceark.open(archive) as opened:
            opened.create_trace(traceark.Trace(trace_id="7d1f0c52-other"))
        line = wrong(2, "show", archive, "7d1f")
        assert BUGFIX in line and "7d1f0c52-other" in line

    def test_an_unknown_name_is_found_wrong_and_the_nearest_are_named(self, imported: Path) -> None:
        assert f"did you mean {BUGFIX}?" in wrong(1, "show", imported, BUGFIX[:-1] + "2")
        assert "traceark ls" in wrong(1, "show", imported, "zzz")


class TestTail:
    def test_prints_the_events_after_a_cursor(self, imported: Path) -> None:
        assert [event["event_id"] for event in told("tail", imported, BUGFIX)] == [*range(1, 14)]
        assert [event["event_id"] for event in told("tail", imported, BUGFIX, "--since", 12)] == [13]
        assert len(out("tail", imported, BUGFIX, "--since", 11).splitlines()) == 3
        assert out("tail", imported, BUGFIX, "--since", 13) == "no events\n"

    def test_a_cursor_below_zero_is_used_wrong(self, imported: Path) -> None:
        assert "--since" in wrong(2, "tail", imported, BUGFIX, "--since", -1)


class TestSql:
    def test_prints_a_table(self, imported: Path) -> None:
        text = out("sql", imported, "SELECT role, count(*) AS n FROM messages GROUP BY role ORDER BY role")
        assert text == "role        n\nassistant  37\ntool       22\nuser        6\n3 rows\n"

    def test_prints_records_where_columns_do_not_fit(self, imported: Path) -> None:
        text = out("sql", imported, "SELECT * FROM traces LIMIT 1", columns=80)
        assert re.search(r"^ +trace_id  ", text, re.MULTILINE) and max(map(len, text.splitlines())) <= 80

    def test_json_has_numbers_as_numbers_and_every_column(self, imported: Path) -> None:
        columns = "sum(total_tokens) AS t, 1 AS a, 2 AS a, 'NaN'::DOUBLE AS n, NULL AS z, DATE '2026-01-02' AS d"
        row = told("sql", imported, f"SELECT {columns} FROM traces")[0]
        assert row == {"t": 297050, "a": 1, "a_2": 2, "n": "nan", "z": None, "d": "2026-01-02"}

    def test_no_rows(self, imported: Path) -> None:
        assert told("sql", imported, "SELECT 1 WHERE false") == []
        assert out("sql", imported, "SELECT 1 AS n WHERE false") == "n\n0 rows\n"

    def test_bad_sql_is_used_wrong(self, imported: Path) -> None:
        assert "syntax error" in wrong(2, "sql", imported, "SELEC 1")
        assert "nothing_there" in wrong(2, "sql", imported, "SELECT nothing_there FROM traces")

    def test_csv_has_values_whole_and_nested_ones_as_json(self, imported: Path) -> None:
        query = "SELECT 'a,\"b\"' AS text, ['x'] AS list, NULL AS z, true AS yes, 1.5 AS d, 'a\nb' AS lines"
        assert out("sql", imported, query, "--csv") == (
            'text,list,z,yes,d,lines\n"a,""b""","[""x""]",,true,1.5,"a\nb"\n'
        )

    @pytest.mark.parametrize("ending", ["parquet", "csv", "json", "jsonl"])
    def test_a_file_has_the_format_of_its_ending(self, imported: Path, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"it's %41.{ending}"
        rows = "SELECT role, count(*) AS n, min(created_at) AS first FROM messages GROUP BY role ORDER BY role"
        for _ in range(2):  # a second time it is replaced
            assert out("sql", imported, rows, "-o", path) == ""
        assert list(tmp_path.iterdir()) == [path]
        read = f"SELECT role, n, epoch_us(first::TIMESTAMPTZ) AS first FROM '{str(path).replace(chr(39), chr(39) * 2)}'"
        expected = f"SELECT role, n, epoch_us(first) AS first FROM ({rows})"
        assert told("sql", imported, read) == told("sql", imported, expected)

    @pytest.mark.parametrize("ending", ["parquet", "csv", "json", "jsonl"])
    def test_a_file_that_cannot_be_written_stays_as_it_was(self, imported: Path, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"rows.{ending}"
        path.write_text("what was there")
        query = "SELECT md5(range::VARCHAR) AS t FROM range(100000)"
        found = ran("-c", LIMITED.format(1 << 16), "sql", imported, query, "-o", path)
        assert (found.returncode, found.stderr) == (1, f"traceark: {path} cannot be written: File too large\n")
        assert path.read_text() == "what was there" and list(tmp_path.iterdir()) == [path]

    def test_a_place_that_is_not_there_is_named(self, imported: Path, tmp_path: Path) -> None:
        for ending in ("csv", "parquet"):
            path = tmp_path / "none" / f"rows.{ending}"
            told = f"traceark: {path} cannot be written: No such file or directory\n"
            assert wrong(1, "sql", imported, "SELECT 1", "-o", path) == told

    def test_a_file_that_is_replaced_keeps_who_may_read_it(self, imported: Path, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.touch(mode=0o600)
        out("sql", imported, "SELECT 1 AS n", "-o", path)
        assert path.read_text() == "n\n1\n" and path.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("{}", "2020-01-01 00:00:00.000000001"),
            ("[{}]", ["2020-01-01 00:00:00.000000001"]),
            ("[{}]::TIMESTAMP_NS[1]", ["2020-01-01 00:00:00.000000001"]),
            ("{{'at': [{}]}}", {"at": ["2020-01-01 00:00:00.000000001"]}),
            ("MAP {{'at': {}}}", [["at", "2020-01-01 00:00:00.000000001"]]),
            ("{}::TIME_NS", "00:00:00.000000001"),
        ],
    )
    def test_nanoseconds_are_told(self, imported: Path, tmp_path: Path, value: str, shown: object) -> None:
        moment = "TIMESTAMP_NS '2020-01-01 00:00:00.000000001'"
        query = f"SELECT {value.format(moment)} AS t"
        assert told("sql", imported, query) == [{"t": shown}]
        assert "00:00:00.000000001" in out("sql", imported, query)
        for ending in ("csv", "json", "jsonl"):
            out("sql", imported, query, "-o", tmp_path / f"rows.{ending}")
            assert "00:00:00.000000001" in (tmp_path / f"rows.{ending}").read_text()

    def test_other_endings_and_two_outputs_are_used_wrong(self, imported: Path, tmp_path: Path) -> None:
        assert ".parquet" in wrong(2, "sql", imported, "SELECT 1", "-o", tmp_path / "rows.txt")
        assert "exclude" in wrong(2, "sql", imported, "SELECT 1", "--csv", "--json")

    def test_the_sandbox_reads_the_archive_only(self, imported: Path, tmp_path: Path) -> None:
        assert told("sql", imported, "SELECT count(*) AS n FROM traces", "--sandbox") == [{"n": 5}]
        copying = f"COPY (SELECT 1) TO '{tmp_path}/x.csv'"
        assert "refused" in wrong(2, "sql", imported, copying, "--sandbox")
        assert not list(tmp_path.iterdir())


class TestExport:
    def test_what_was_left_out_is_told_of_what_was_written(self, imported: Path, tmp_path: Path) -> None:
        given = ("export", imported, BUGFIX, "--format", "html", "--to")
        assert "left out: 13 events" in out(*given, tmp_path / "run.html")
        failed = run(*given, tmp_path / "none" / "run.html")
        assert failed.exit_code == 1 and "left out" not in failed.stdout + failed.stderr


class TestKeeping:
    def test_verify_without_ids_takes_all(self, imported: Path) -> None:
        assert out("verify", imported, "--deep") == "5 traces verified, deep: nothing is wrong\n"
        assert told("verify", imported, SESSION) == {"ok": True, "traces": 1, "deep": False, "findings": []}

    def test_a_file_for_verify_that_cannot_be_written_is_named(self, imported: Path, tmp_path: Path) -> None:
        path = tmp_path / "none" / "kept"
        told = f"traceark: {path} cannot be written: No such file or directory\n"
        assert wrong(1, "verify", imported, "--resume", path) == told

    def test_verify_names_file_meaning_and_remedy(self, archive: Path) -> None:
        tree = archive / "traces" / BUGFIX / "goal_tree.json"
        tree.write_bytes(tree.read_bytes().replace(b"Fix parse", b"Mix parse"))
        result = run("verify", archive, "--deep")
        assert result.exit_code == 1 and result.stderr == ""
        assert f"traces/{BUGFIX}/goal_tree.json" in result.stdout and "→ restore it" in result.stdout
        findings = json.loads(run("verify", archive, "7d1f", "--deep", "--json").stdout)["findings"]
        assert {finding["trace_id"] for finding in findings} == {BUGFIX}
        out("verify", archive, SESSION, "--deep")

    def test_a_damaged_trace_is_left_out_with_a_warning_and_exit_code_1(self, archive: Path) -> None:
        (archive / "traces" / BUGFIX / "trace.json").write_text("{}")
        for arguments in (("ls", archive), ("sql", archive, "SELECT count(*) FROM traces"), ("seal", archive, "--all")):
            result = run(*arguments)
            assert result.exit_code == 1 and result.stdout
            assert result.stderr.startswith("traceark: warning: ") and result.stderr.count("\n") == 1
        assert BUGFIX in wrong(1, "show", archive, BUGFIX)

    def test_compact_and_seal_want_ids_or_all(self, archive: Path) -> None:
        for verb in ("compact", "seal"):
            assert "--all" in wrong(2, verb, archive)
            assert "--all" in wrong(2, verb, archive, SESSION, "--all")
            out(verb, archive, "--all")
        assert told("seal", archive, "7d1f") == {"sealed": [BUGFIX], "left_alone": [], "failed": {}}

    def test_seal_all_leaves_running_traces_alone(self, archive: Path) -> None:
        with traceark.open(archive) as opened:
            opened.create_trace(traceark.Trace(trace_id="live"))
        assert told("seal", archive, "--all")["left_alone"] == ["live"]
        assert told("seal", archive, "live")["sealed"] == ["live"]

    def test_rm_deletes_what_is_named_and_no_more(self, archive: Path) -> None:
        assert told("rm", archive, "7d1f", "1b6f")["removed"] == [BUGFIX, "1b6f3c88-9d20-47e5-b3aa-640c5e7f1d92"]
        assert len(told("ls", archive)) == 3

    def test_rm_says_what_rollups_still_hold_and_purge_rewrites_them(self, archive: Path) -> None:
        assert told("optimize", archive)["made"] == 1
        assert told("optimize", archive)["made"] == 0
        left = run("rm", archive, "7d1f")
        assert left.exit_code == 0
        assert "1 rollup still holds rows" in left.stderr and "traceark optimize" in left.stderr
        assert told("sql", archive, "SELECT count(*) AS n FROM messages") == [{"n": 32}]
        assert told("optimize", archive)["purged"] == 1
        out("rm", archive, "1b6f", "--purge")
        assert told("sql", archive, "SELECT count(*) AS n FROM messages") == [{"n": 20}]
        assert told("optimize", archive)["purged"] == 0

    def test_refresh_notices_contents_that_were_replaced(self, archive: Path, imported: Path) -> None:
        assert told("refresh", archive)["traces"] == 5
        header = archive / "traces" / BUGFIX / "trace.json"
        whole = header.read_bytes()
        header.write_bytes(whole[:-20])
        damaged = run("refresh", archive)
        assert (damaged.exit_code, BUGFIX in damaged.stdout) == (1, True)
        assert BUGFIX not in run("ls", archive).stdout
        header.write_bytes(whole)
        assert told("refresh", archive)["problems"] == []
        assert BUGFIX in [trace["trace_id"] for trace in told("ls", archive)]

    def test_rm_deletes_nothing_when_one_is_not_there_or_not_clear(self, archive: Path) -> None:
        wrong(1, "rm", archive, "7d1f", "nothing")
        assert AGENT in wrong(2, "rm", archive, "7d1f", "c2b9")
        assert len(told("ls", archive)) == 5


class TestUsage:
    def test_reading_where_there_is_no_archive(self, tmp_path: Path) -> None:
        for verb in (
            ["ls"],
            ["show", "x"],
            ["tail", "x"],
            ["sql", "SELECT 1"],
            ["verify"],
            ["seal", "--all"],
            ["rm", "x"],
        ):
            assert "there is no archive" in wrong(2, verb[0], tmp_path / "none", *verb[1:])
        assert not (tmp_path / "none").exists()

    def test_a_file_in_an_archives_place_is_named(self, archive: Path, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("hi")
        for arguments in (("ls", file), ("import", "--samples", "--to", file), ("sync", archive, file)):
            assert wrong(2, *arguments).startswith(f"traceark: {file} is a file, and an archive is a directory;")
        assert file.read_text() == "hi"

    def test_trace_directories_in_an_empty_folder_are_an_archive(self, imported: Path, tmp_path: Path) -> None:
        shutil.copytree(imported / "traces" / BUGFIX, tmp_path / "some" / "traces" / BUGFIX)
        assert [trace["trace_id"] for trace in told("ls", tmp_path / "some")] == [BUGFIX]

    def test_no_verb_an_unknown_one_and_missing_arguments(self) -> None:
        assert out().startswith("Usage: traceark ")
        assert "'list'" in wrong(2, "list")
        assert "ARCHIVE" in wrong(2, "ls")
        assert out("--version") == f"traceark {traceark.__version__}\n"

    def test_an_endpoint_is_for_s3(self, imported: Path) -> None:
        assert "S3" in wrong(2, "ls", imported, "--endpoint-url", "http://localhost:1")

    def test_a_url_that_nothing_opens(self) -> None:
        assert "nosuch" in wrong(2, "ls", "nosuch://x")

    def test_a_traceback_only_with_debug(self, tmp_path: Path) -> None:
        assert "Traceback" not in wrong(2, "ls", tmp_path / "none")
        found = ran(TRACEARK, "ls", tmp_path / "none", "--debug")
        assert found.returncode == 2
        assert found.stderr.startswith("Traceback") and found.stderr.splitlines()[-1].startswith("traceark: ")


HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \r back \u202e\u2066 [bold]markup[/bold] :smile: \x00 \x7f"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("hostile") / "runs"
    with traceark.open(archive) as opened:
        trace = traceark.Trace(
            trace_id=f"id {HOSTILE}",
            task=HOSTILE,
            agent_type=HOSTILE,
            model=HOSTILE,
            uid=HOSTILE,
            mode=HOSTILE,
            context={HOSTILE: HOSTILE},
            result_summary=HOSTILE,
            error_message=HOSTILE,
            parent_trace_id=HOSTILE,
        )
        trace_id = opened.create_trace(trace)
        goal = traceark.Goal(id=HOSTILE, description=HOSTILE, status=HOSTILE, reason=HOSTILE, sub_trace_ids=[HOSTILE])
        opened.update_goal_tree(trace_id, traceark.GoalTree(mission=HOSTILE, goals=[goal], current_id=HOSTILE))
        call = {"type": "tool_use", "name": HOSTILE, "input": {HOSTILE: HOSTILE}}
        for role, content in (
            (HOSTILE, HOSTILE),
            ("user", [{"type": "text", "text": HOSTILE}, call, {"type": "tool_result", "content": HOSTILE}]),
            ("tool", {HOSTILE: ["\ud800 lone"]}),
            ("tool", {"type": "image", "source": {"media_type": HOSTILE, "data": "AAAA"}}),
        ):
            opened.add_message(
                traceark.Message(
                    trace_id=trace_id,
                    role=role,
                    content=content,
                    goal_id=HOSTILE,
                    tool_name=HOSTILE,
                    error=HOSTILE,
                    status=HOSTILE,
                )
            )
        opened.append_event(trace_id, HOSTILE, {HOSTILE: HOSTILE})
    return archive


class TestHostileContent:
    @pytest.mark.parametrize("as_json", [False, True])
    @pytest.mark.parametrize("columns", [None, 80, 140])
    @pytest.mark.parametrize(
        "verb",
        [
            ["ls"],
            ["show", "id"],
            ["show", "id", "--full"],
            ["tail", "id"],
            ["sql", "SELECT * FROM traces"],
            ["sql", f'SELECT task AS "{HOSTILE.replace(chr(0), "")}", event_type FROM traces, events'],
            ["sql", "SELECT content, role FROM messages"],
            ["verify", "--deep"],
            ["seal", "id"],
            ["show", HOSTILE],
            ["sql", f"SELECT '{HOSTILE}"],
        ],
        ids=lambda verb: verb[0],
    )
    def test_never_reaches_the_terminal_raw(
        self, hostile: Path, verb: list[str], columns: int | None, as_json: bool
    ) -> None:
        result = run(verb[0], hostile, *verb[1:], *(["--json"] if as_json else []), columns=columns)
        assert result.exit_code in (0, 1, 2) and "--debug" not in result.stderr
        assert not OBEYED.search(result.stdout + result.stderr)
        if as_json and result.exit_code == 0:
            json.loads(result.stdout)

    def test_is_shown_as_escapes_and_markup_as_it_is(self, hostile: Path) -> None:
        text = out("show", hostile, "id")
        assert r"\x1b[31mred\x1b]0;title\x07" in text and "[bold]markup[/bold] :smile:" in text

    def test_json_gives_it_back_exactly(self, hostile: Path) -> None:
        shown = told("show", hostile, "id")
        assert shown["trace"]["task"] == HOSTILE and shown["messages"][2]["content"] == {HOSTILE: ["\ud800 lone"]}

    @pytest.mark.parametrize(
        "trace_id", ["..", "/", "a/b", "\0", "CON", "dots...", "😀" * 12, "Twin", "twin", " ", "--json", "x…y"]
    )
    def test_hostile_ids_are_found_by_their_whole(self, tmp_path: Path, trace_id: str) -> None:
        with traceark.open(tmp_path) as opened:
            for each in ("Twin", "twin", trace_id):
                if opened.get_trace(each) is None:
                    opened.create_trace(traceark.Trace(trace_id=each))
        shown = CliRunner().invoke(program, ["show", "--json", "--", str(tmp_path), trace_id])
        assert json.loads(shown.stdout)["trace"]["trace_id"] == trace_id
        out("ls", tmp_path, columns=80)

    def test_ids_that_name_no_directory_are_unknown(self, imported: Path) -> None:
        assert "no trace" in wrong(1, "show", imported, "x" * 300)
        for verb in ("show", "rm", "tree"):
            assert "the id is empty" in wrong(2, verb, imported, "")

    def test_near_ids_are_quoted_where_they_would_not_be_told_apart(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path) as opened:
            for each in ("a run\nof mine, 1", "a run\nof mine, 2", "plain"):
                opened.create_trace(traceark.Trace(trace_id=each))
        assert r"'a run\nof mine, 1', 'a run\nof mine, 2'" in wrong(2, "show", tmp_path, "a run")
        assert r"did you mean 'a run\nof mine, " in wrong(1, "show", tmp_path, "a run of mine, 1")
        assert "did you mean plain?" in wrong(1, "show", tmp_path, "pla1n")


@settings(max_examples=tried(25, 500))
@given(st.sets(st.text("ab-", min_size=1, max_size=30) | st.text(min_size=1, max_size=30), min_size=1, max_size=12))
def test_a_short_id_means_its_trace(ids: set[str]) -> None:
    ordered = sorted(ids)
    short = short_ids(ordered)
    assert {each: meant(ordered, short[each]) for each in ids} == {each: [each] for each in ids}


class TestProcess:
    def test_a_reader_that_has_enough_is_no_error(self, imported: Path) -> None:
        for flags in ([], ["--json"]):
            query = "SELECT repeat('x', 100) AS t FROM range(5000)"
            process = Program(TRACEARK, "sql", imported, query, *flags, stdout=PIPE, stderr=PIPE)
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait() == 141

    def test_an_interrupted_import_by_processes_is_one_line(self, tmp_path: Path) -> None:
        sources = tmp_path / "sources"
        sources.mkdir()
        text = (SAMPLES / "api-error.jsonl").read_text()
        [session] = set(re.findall(r'"sessionId":\s*"([^"]+)"', text))
        for number in range(1500):
            (sources / f"{number}.jsonl").write_text(text.replace(session, f"session-{number}"))
        process = subprocess.Popen(
            [*COMMAND, "import", str(sources), "--to", str(tmp_path / "runs"), "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            # Whoever runs the tests in the background has it ignored, which a process inherits.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        # By the first traces the server of the other processes is loading the package.
        while len(list(tmp_path.glob("runs/traces/*"))) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        printed, told = process.communicate(timeout=60)
        # Behind the ^C of a terminal a line begins.
        assert (process.returncode, printed, told) == (130, "", "\ntraceark: interrupted\n")

    @pytest.mark.parametrize(
        ("verb", "unbuffered"),
        [
            (["ls"], ""),
            (["ls"], "1"),
            (["ls", "--json"], ""),
            (["sql", "SELECT range FROM range(50000)"], ""),
            (["export", BUGFIX, "--format", "html"], "1"),
        ],
    )
    def test_output_that_takes_no_more_is_named(self, imported: Path, verb: list[str], unbuffered: str) -> None:
        with Path("/dev/full").open("w") as full:
            given = (verb[0], str(imported), *verb[1:])
            if unbuffered:
                environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
                found = subprocess.run([*COMMAND, *given], stdout=full, stderr=PIPE, text=True, env=environment)
            else:
                found = ran(TRACEARK, *given, stdout=full)
        told = "traceark: standard output cannot be written: No space left on device\n"
        assert (found.returncode, found.stderr) == (1, told)

    def test_a_standard_output_that_is_closed_is_one_line_and_takes_no_file_in_its_place(self, tmp_path: Path) -> None:
        command = [*COMMAND, "import", "--samples", "--to", str(tmp_path / "runs")]
        found = subprocess.run(["bash", "-c", '"$@" >&-', "-", *command], capture_output=True, text=True)
        told = "traceark: standard output is closed; to see nothing of it, send it to /dev/null\n"
        assert (found.returncode, found.stderr) == (1, told) and not (tmp_path / "runs").exists()
        command = [*COMMAND, "ls", str(tmp_path / "runs")]
        found = subprocess.run(["bash", "-c", '"$@" 2>&- <&-', "-", *command], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (2, "")

    def test_a_disk_that_takes_no_more_rollups_is_one_line(self, archive: Path) -> None:
        found = ran("-c", LIMITED.format(1 << 12), "optimize", archive)
        assert found.returncode == 1 and "File too large; what is there stays" in found.stderr
        assert "{" not in found.stderr and found.stderr.count("\n") == 1
        assert told("optimize", archive)["made"] == 1

    def test_in_a_pipe_there_is_no_progress_and_no_colour(self, tmp_path: Path) -> None:
        found = ran(TRACEARK, "import", SAMPLES, "--to", tmp_path / "runs")
        assert (
            (found.returncode, found.stderr) == (0, "")
            and "\x1b" not in found.stdout
            and "importing" not in found.stdout
        )

    def test_on_a_terminal_there_is_a_progress_bar_and_colour(self, tmp_path: Path) -> None:
        shown, code = on_terminal("import", SAMPLES, "--to", tmp_path / "runs")
        assert code == 0 and "importing" in shown
        shown, code = on_terminal("ls", tmp_path / "runs")
        assert code == 0 and "\x1b[32mcompleted" in shown

    def test_csv_is_exact_in_a_pipe_and_shown_on_a_terminal(self, imported: Path) -> None:
        command = ("sql", imported, "SELECT chr(27) || '[31mred' AS t", "--csv")
        assert ran(TRACEARK, *command).stdout == "t\n\x1b[31mred\n"
        shown, code = on_terminal(*command)
        assert code == 0 and "\x1b" not in shown and r"\x1b[31mred" in shown

    def test_an_encoding_without_the_characters_gets_escapes(self, imported: Path) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        for flags in ([], ["--json"]):
            found = ran(TRACEARK, "show", imported, SESSION, *flags, env=environment)
            assert found.returncode == 0 and found.stdout.isascii()


class TestS3:
    def test_every_verb_works_there(self, ministack_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_DEFAULT_REGION", REGION),
        ):
            monkeypatch.setenv(name, value)
        url, at = ministack_server.place(), ("--endpoint-url", ministack_server.endpoint)
        assert "there is no archive" in wrong(2, "ls", url, *at)
        assert told("import", SAMPLES, "--to", url, *at)["totals"]["new_messages"] == 65
        assert len(told("ls", url, *at)) == 5
        assert told("show", url, "7d1f", *at)["trace"]["trace_id"] == BUGFIX
        assert len(told("tail", url, BUGFIX, *at)) == 13
        assert told("sql", url, "SELECT count(*) AS n FROM messages", *at) == [{"n": 65}]
        assert len(told("compact", url, "--all", *at)["compacted"]) == 5
        assert len(told("seal", url, "--all", *at)["sealed"]) == 5
        assert told("verify", url, "--deep", *at)["ok"]
        assert told("rm", url, BUGFIX, *at)["removed"] == [BUGFIX]
        assert len(told("ls", url, *at)) == 4

    def test_a_server_that_is_not_there_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        url = f"http://127.0.0.1:{free_port()}"
        assert "s3://bucket/runs" in wrong(1, "ls", "s3://bucket/runs", "--endpoint-url", url)


def on_terminal(*command: object) -> tuple[str, int]:
    """Run a command on a terminal of 80 columns and return what it showed, and its exit code."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = Program(TRACEARK, *command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    try:
        shown = b"".join(_chunks(master))
    finally:
        os.close(master)
    return shown.decode(), process.wait()


def _chunks(master: int) -> Iterator[bytes]:
    while select.select([master], [], [], 60)[0]:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux says so when the last writer is gone
            return
        if not chunk:
            return
        yield chunk


class TestRetention:
    def test_expire_is_dry_until_told_otherwise(self, archive: Path) -> None:
        dry = told("expire", archive, "--older-than", "0d")
        assert dry["dry_run"] and dry["bytes"] > 0 and len(dry["trace_ids"]) == len(told("ls", archive))
        assert "--yes deletes" in out("expire", archive, "--older-than", "0d")
        assert told("pin", archive, "7d1f")["pinned"] == [BUGFIX]
        done = told("expire", archive, "--older-than", "0d", "--yes", "--reason", "spring cleaning")
        assert not done["dry_run"] and done["kept"]["pinned"] == 1
        assert [trace["trace_id"] for trace in told("ls", archive)] == [BUGFIX]
        [reason] = {json.loads(path.read_bytes())["reason"] for path in (archive / "tombstones").iterdir()}
        assert reason == "spring cleaning"
        assert told("pin", archive, "7d1f", "--off")["unpinned"] == [BUGFIX]
        assert told("expire", archive, "--older-than", "0d")["trace_ids"] == [BUGFIX]

    def test_redact_is_dry_until_told_otherwise(self, archive: Path, tmp_path: Path) -> None:
        given = ("redact", archive, "--all", "--pattern", "none", "--regex", "word=rosa")
        dry = told(*given)
        assert dry["dry_run"] and dry["looked_at"] == len(told("ls", archive))
        assert dry["replaced"]["word"]["messages.content"] > 0 and not dry["left"]
        assert "--yes replaces" in out(*given)
        (tmp_path / "patterns").write_text("word=rosa\n")
        file = ("--pattern", "none", "--patterns-file", tmp_path / "patterns")
        assert "[redacted:word]" not in out("sql", archive, "SELECT content FROM messages")
        done = told("redact", archive, "--all", *file, "--yes")
        assert not done["dry_run"] and done["replaced"] == dry["replaced"]
        assert told(*given)["replaced"] == {}
        assert "[redacted:word]" in out("sql", archive, "SELECT content FROM messages")

    def test_redact_needs_to_know_where_and_what(self, archive: Path) -> None:
        for which in ((), ("7d1f", "--all"), ("--all", "--status", "failed")):
            assert "TRACE_IDs, or filters, or --all" in wrong(2, "redact", archive, *which)
        assert "no pattern 'mail'" in wrong(2, "redact", archive, "--all", "--pattern", "mail")
        assert "NAME=REGEX" in wrong(2, "redact", archive, "--all", "--regex", "mail")
        assert "--redact" in wrong(2, "sync", archive, archive / "copy", "--pattern", "email")
        assert "email: e-mail addresses" in out("redact", "--list-patterns")

    def test_sync_redacts_copies_and_says_where_it_did_not(self, archive: Path, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        assert "new" in out("sync", archive, shared, "--redact", "--regex", "word=rosa")
        assert "[redacted:word]" in out("sql", shared, "SELECT content FROM messages")
        assert "[redacted:word]" not in out("sql", archive, "SELECT content FROM messages")
        assert "redacted on one side" in wrong(1, "sync", archive, shared)

    def test_an_age_is_needed_and_must_be_one(self, archive: Path) -> None:
        assert "--older-than" in wrong(2, "expire", archive, "--yes")
        assert "no age" in wrong(2, "expire", archive, "--older-than", "2026-01-02")

    def test_rm_says_why_in_the_tombstone_and_a_sync_does_not_bring_it_back(
        self, archive: Path, tmp_path: Path
    ) -> None:
        out("sync", archive, tmp_path / "backup")
        out("rm", archive, "7d1f", "--purge", "--reason", "asked for")
        [tombstone] = (archive / "tombstones").iterdir()
        assert json.loads(tombstone.read_bytes())["reason"] == "asked for"
        assert f"buried {BUGFIX}" in out("sync", tmp_path / "backup", archive)
        assert told("sync", tmp_path / "backup", archive)["outcomes"]["buried"] == 1


class TestRepair:
    def test_repair_is_dry_until_told_otherwise_and_says_where_it_keeps_what_was_there(self, archive: Path) -> None:
        manifest = next(archive.glob("traces/7d1f*/manifest-sha256.txt"))
        scratched = manifest.read_bytes() + b"\n"
        manifest.write_bytes(scratched)
        dry = run("repair", archive, "7d1f")
        assert dry.exit_code == 1 and "--yes mends" in dry.stdout and manifest.read_bytes() == scratched
        done = told("repair", archive, "--all", "--yes")
        assert [each["deed"] for each in done["mended"]] == ["moved", "rewritten", "sealed"] and done["left"] == []
        assert (archive / done["mended"][0]["kept"]).read_bytes() == scratched
        assert "mended 0 traces" in out("repair", archive, "--all", "--yes")
        assert told("verify", archive, "--deep")["ok"]

    def test_which_traces_must_be_said(self, archive: Path) -> None:
        assert "--all" in wrong(2, "repair", archive)

    def test_what_cannot_be_mended_is_found_wrong_and_named(self, archive: Path) -> None:
        part = next(archive.glob("traces/7d1f*/messages/*.parquet"))
        part.write_bytes(part.read_bytes()[:-1])
        result = run("repair", archive, "--all", "--yes")
        assert result.exit_code == 1 and part.name in result.stdout


def test_a_list_leaves_alone_what_is_slow_to_import_and_pandas_can_be_used_all_the_same(imported: Path) -> None:
    program = """
import sys
import pyarrow
from traceark.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert not {"pandas", "pyarrow.compute"} & sys.modules.keys()
assert list(pyarrow.table({"a": [1]}).to_pandas()["a"]) == [1]
"""
    found = subprocess.run([sys.executable, "-c", program, "ls", imported], capture_output=True, text=True, check=True)
    assert BUGFIX[:8] in found.stdout


@pytest.mark.parametrize("given", [None, "3"])
def test_a_verb_lets_numpy_start_no_threads_unless_it_is_told_to(imported: Path, given: str | None) -> None:
    program = """
import os
from traceark.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print(os.environ["OPENBLAS_NUM_THREADS"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    found = ran("-c", program, "ls", imported, "--limit", "1", "--json", env=environment)
    *listed, threads = found.stdout.splitlines()
    assert (len(json.loads("\n".join(listed))), threads) == (1, given or "1")
