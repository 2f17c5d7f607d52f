"""The verbs that ask about many traces: ls with filters and pages, tree, search, stats."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import traceark
from shell import out, run, told, wrong
from traceark import Goal, Message, Trace
from traceark.cli import program

SAMPLES = Path(traceark.__file__).parent / "samples" / "claude-code"
SESSION, AGENT = "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803", "c2b9a6f4-0d3e-4a77-8f15-9be1d2a4c803-agent-a31c7d"
BUGFIX = "7d1f0c52-64a5-4b0e-9b57-2f6f3f0c9a11"


def listed(*arguments: object) -> list[str]:
    result = run("ls", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [trace["trace_id"] for trace in json.loads(result.stdout)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("asking") / "runs"
    out("import", SAMPLES, "--to", place)
    return place


class TestLs:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--agent", "claude-code", "--status", "completed"], [AGENT, SESSION, BUGFIX]),
            (["--model", "haiku-4-5"], [AGENT]),
            (["--model", "claude-opus-4-5-20251101", "--model", "haiku-4-5"], [AGENT, SESSION]),
            (["--parent", "c2b9a6f4"], [AGENT]),
            (["--parent", "not-here"], []),
            (["--roots", "--status", "completed"], [SESSION, BUGFIX]),
            (["--since", "2026-03-03", "--until", "2026-03-04"], [AGENT, SESSION]),
            (["--since", "2026-03-03T15:41"], ["1b6f3c88", "e0a4d9b7"]),
            (["--until", "1000w"], []),
            (["--where", "total_messages BETWEEN 6 AND 9", "--order-by", "total_messages"], [AGENT, SESSION]),
            (["--order-by", "-total_tokens", "--limit", "1"], [BUGFIX]),
        ],
    )
    def test_filters(self, archive: Path, options: list[str], expected: list[str]) -> None:
        found = listed(archive, *options)
        assert len(found) == len(expected) and all(map(str.startswith, found, expected))

    def test_an_age_counts_back_from_now(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            for days in (1, 10):
                created_at = datetime.now(UTC) - timedelta(days=days)
                opened.create_trace(Trace(trace_id=f"{days}-days", created_at=created_at))
        assert listed(tmp_path / "runs", "--since", "2d") == ["1-days"]
        assert listed(tmp_path / "runs", "--since", "2w", "--until", "47h") == ["10-days"]

    def test_every_page_says_how_to_get_the_next(self, archive: Path) -> None:
        whole = listed(archive)
        found: list[str] = []
        after: tuple[str, ...] = ()
        while True:
            lines = out("ls", archive, "--limit", 2, *after).splitlines()
            found += [line.split()[0] for line in lines[1:3]]
            more = re.fullmatch(r"there are more: (--after) (\S+)", lines[-1])
            if more is None:
                break
            after = (more[1], more[2])
        names = [line.split()[0] for line in out("ls", archive).splitlines()[1:]]
        assert found[: len(whole)] == names

    def test_json_says_beside_it_how_to_get_the_next(self, archive: Path) -> None:
        first = run("ls", archive, "--limit", 2, "--json")
        more = re.fullmatch(r"traceark: there are more: --after (\S+)\n", first.stderr)
        assert first.exit_code == 0 and more is not None
        found = [trace["trace_id"] for trace in json.loads(first.stdout)]
        assert [*found, *listed(archive, "--after", more[1])] == listed(archive)
        assert run("ls", archive, "--json").stderr == ""

    def test_a_cursor_goes_on_too(self, archive: Path) -> None:
        with traceark.open(archive) as opened:
            page = opened.traces(limit=2)
        assert [*(trace.trace_id for trace in page), *listed(archive, "--after", page.next)] == listed(archive)

    def test_what_cannot_be_meant_is_used_wrong(self, archive: Path) -> None:
        assert "7d" in wrong(2, "ls", archive, "--since", "yesterday-ish")
        assert "order_by" in wrong(2, "ls", archive, "--order-by", "metadata")
        assert "no_such_column" in wrong(2, "ls", archive, "--where", "no_such_column > 1")
        assert "roots" in wrong(2, "ls", archive, "--roots", "--parent", SESSION)


class TestTree:
    def test_shows_what_a_run_took_with_its_sub_agents(self, archive: Path) -> None:
        for columns in (None, 80, 120):
            lines = out("tree", archive, "c2b9a6f4", columns=columns).splitlines()
            assert lines[0].startswith("✓ c2b9a6f4  Which parts") and lines[2].startswith("└─ ✓ c2b9a6f4…a31c7d  List")
            assert lines[-1] == "together 2 traces · 15 messages · 57.9k tokens"
            assert columns is None or max(map(len, lines)) <= columns

    def test_every_trace_with_sub_agents_has_both_sums(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            for trace_id, parent in (("top", None), ("middle", "top"), ("below", "middle")):
                opened.create_trace(Trace(trace_id=trace_id, parent_trace_id=parent, total_tokens=10))
        lines = out("tree", tmp_path / "runs", "top").splitlines()
        assert [line for line in lines if "with sub-agents" in line] == ["   │ with sub-agents: 0 messages · 20 tokens"]
        assert lines[-1] == "together 3 traces · 0 messages · 30 tokens"

    def test_json_has_the_nodes_in_one_list(self, archive: Path) -> None:
        tree = told("tree", archive, SESSION)
        assert [(node["trace"]["trace_id"], node["parent"], node["depth"]) for node in tree["nodes"]] == [
            (SESSION, None, 0),
            (AGENT, SESSION, 1),
        ]
        assert tree["nodes"][0]["total"]["tokens"] == 57_928 and tree["cycles"] == []

    def test_cycles_and_traces_that_are_not_here_are_told(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            opened.create_trace(Trace(trace_id="a\x1b[31m", parent_trace_id="b", total_cost=1.5))
            opened.create_trace(Trace(trace_id="b", parent_trace_id="a\x1b[31m"))
            opened.add_goal("b", Goal(id="1", sub_trace_ids=["gone\x1b"]))
        shown = out("tree", tmp_path / "runs", "b")
        assert "a cycle, counted once: " in shown and "not in this archive: gone\\x1b" in shown
        assert "cost 1.50" in shown and "\x1b" not in shown


class TestSearch:
    def test_prints_a_line_a_message_below_its_trace(self, archive: Path) -> None:
        lines = out("search", archive, "parse_empty", "--until", "2026-03-03").splitlines()
        assert lines[0].startswith("7d1f0c52  The test test_parse_empty")
        assert lines[1].split()[:2] == ["1", "user"] and "test_parse_empty" in lines[1]
        assert re.fullmatch(r"\d+ messages in 1 trace", lines[-1])

    @pytest.mark.parametrize("columns", [60, 80, 120])
    def test_fits_the_terminal_and_shows_the_match(self, archive: Path, columns: int) -> None:
        lines = out("search", archive, "tile", columns=columns).splitlines()
        assert max(map(len, lines)) <= columns
        hits = [line for line in lines if re.match(r" *\d+ (user|assistant|tool)", line)]
        assert len(hits) > 3 and all("tile" in line.lower() for line in hits)

    def test_pages_go_on_by_cursor(self, archive: Path) -> None:
        whole = told("search", archive, "tile")
        first = told("search", archive, "tile", "--limit", 2)
        rest = told("search", archive, "tile", "--after", first["next"])
        assert whole["next"] is None and first["hits"] + rest["hits"] == whole["hits"]
        assert out("search", archive, "tile", "--limit", 2, columns=80).endswith(f"--after {first['next']}\n")

    def test_options(self, archive: Path) -> None:
        hits = told("search", archive, r"\bdef \w+\(", "--regex", "--tool", "Read", "--role", "tool", "--roots")["hits"]
        assert hits and all((hit["role"], hit["tool_name"]) == ("tool", "Read") for hit in hits)
        assert told("search", archive, "TiLe", "--case-sensitive") == {"hits": [], "next": None}
        assert out("search", archive, "nowhere to be found") == "nothing found\n"
        assert "RE2" in wrong(2, "search", archive, "(", "--regex")

    def test_what_is_found_is_not_obeyed_by_a_terminal(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            opened.create_trace(Trace(trace_id="t", task="\x1b]0;title\x07"))
            opened.add_message(
                Message(trace_id="t", role="r\x1b", content="\x1b[2J needle \u202e\x9b\x1b[31m", tool_name="\x1b")
            )
        shown = out("search", tmp_path / "runs", "needle")
        assert "needle" in shown and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)


class TestStats:
    def test_sums_by_day_with_bars(self, archive: Path) -> None:
        heading, *lines, together = out("stats", archive).splitlines()
        assert heading.split() == ["day", "runs", "failed", "msgs", "tokens"]
        assert [line.split()[:2] for line in lines] == [
            ["2026-03-02", "1"],
            ["2026-03-03", "2"],
            ["2026-03-04", "1"],
            ["2026-03-05", "1"],
        ]
        assert lines[0].endswith("█" * 20) and together.split()[:3] == ["together", "5", "1"]

    @pytest.mark.parametrize("by", ["day", "agent", "model", "status"])
    @pytest.mark.parametrize("columns", [60, 80, 120])
    def test_fits_the_terminal(self, archive: Path, by: str, columns: int) -> None:
        assert max(map(len, out("stats", archive, "--by", by, columns=columns).splitlines())) <= columns

    def test_costs_are_shown_where_there_are_any(self, tmp_path: Path) -> None:
        with traceark.open(tmp_path / "runs") as opened:
            for cost in (0.1, 0.2):
                opened.create_trace(Trace(agent_type="sorter", total_cost=cost))
            opened.create_trace(Trace())
        lines = out("stats", tmp_path / "runs", "--by", "agent").splitlines()
        assert lines[0].endswith("cost") and lines[1].split()[:2] == ["sorter", "2"] and "0.30" in lines[1]
        assert lines[2].startswith("–")

    def test_models_that_would_share_a_name_have_their_whole_one(self, tmp_path: Path) -> None:
        models = ["gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06", "claude-haiku-4-5-20251001"]
        with traceark.open(tmp_path / "runs") as opened:
            for model in models:
                opened.create_trace(Trace(model=model))
        for columns, single in ((80, "haiku-4-5"), (None, models[-1])):
            lines = out("stats", tmp_path / "runs", "--by", "model", columns=columns).splitlines()
            assert {line.split()[0] for line in lines[1:-1]} == {*models[:-1], single}

    def test_filters_and_json(self, archive: Path) -> None:
        [row] = told("stats", archive, "--by", "status", "--status", "failed")
        assert (row["status"], row["runs"], row["failed"], row["tokens"]) == ("failed", 1, 1, 13_838)
        assert out("stats", archive, "--uid", "nobody") == "no traces\n"


def test_a_terminal_gets_the_match_marked(archive: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    shown = CliRunner().invoke(program, ["search", str(archive), "parse_empty"], env=environment).stdout
    assert "\x1b[1;30;43mparse_empty\x1b[0m" in shown
