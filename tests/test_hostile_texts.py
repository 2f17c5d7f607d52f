"""SQL in every id, controls in every file's name: they are found as they are, shown, and never obeyed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from click.testing import Result

import traceark
from profiles import some, tried
from shell import run
from traceark.errors import QueryError
from traceark.filters import Filters
from traceark.layout import trace_prefix
from traceark.models import Goal, GoalTree, Message, Trace

# What a terminal obeys, or is reordered by.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SQL = (
    "'; DROP TABLE traces; --",
    "' OR '1'='1",
    '" OR ""="',
    "x'); ATTACH '/etc/passwd' AS p; --",
    "*/ SELECT 1 /*",
    "$uid",
    "?",
    "%",
    "_",
    "\\' OR 1=1 --",
    "$$; SELECT 1; $$",
    "NULL",
    "{{1}}",
    "[a-z]*",
    "𝔘 ’ʼ＇ OR 1=1",
)
# A directory of an archive, as nobody would name it: SQL, a glob, a partition, an escape.
PLACE = "it's; -- \"*?[a] day=1 %41 \x1b[31m{x}"
CONTROLS = "\x1b[2J\x9b31m\u202e\u2066\x07"
# What a name of a file can hold.
NAME = f"n{CONTROLS}\n\r\t\x7f"


def said(text: str) -> Trace:
    return Trace(
        trace_id=text,
        task=text,
        uid=text,
        mode=text,
        agent_type=text,
        model=text,
        parent_trace_id=text,
        status="failed",
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive in a hostile place whose traces are hostile, half of them sealed and rolled up."""
    folder = tmp_path_factory.mktemp("sql") / PLACE
    with traceark.open(folder, durability="os") as archive:
        archive.create_trace(Trace(trace_id="victim", uid="victim"))
        for at, text in enumerate(SQL):
            archive.create_trace(said(text))
            archive.update_goal_tree(text, GoalTree(mission=text, goals=[Goal(id=text, description=text)]))
            call = {"type": "tool_use", "id": text, "name": text, "input": {text: text}}
            archive.add_message(
                Message(trace_id=text, message_id=f"m{text}", role=text, content=text, goal_id=text, tool_name=text)
            )
            archive.add_message(Message(trace_id=text, role="assistant", content=[call]))
            archive.append_event(text, text, {text: text})
            if at % 2:
                archive.run(archive.store.seal(text))
        archive.refresh()
        archive.run(archive.store.optimize())
    return folder


@pytest.fixture(scope="module")
def archive(place: Path) -> Iterator[traceark.Archive]:
    with traceark.open(place) as opened:
        yield opened


@pytest.mark.parametrize("text", some(SQL, 2))
def test_sql_in_a_value_finds_what_has_the_value_and_nothing_else(archive: traceark.Archive, text: str) -> None:
    for given in ({"uid": text}, {"mode": text}, {"agent_type": text}, {"model": text}, {"parent": text}):
        assert [trace.trace_id for trace in archive.traces(**cast("Filters", given))] == [text], given
    assert [trace.trace_id for trace in archive.list_traces(uid=text)] == [text]
    for found in (
        archive.search(text, role=text),
        archive.search(text, tool_name=text),
        archive.search(text, uid=text),
    ):
        assert {hit.trace_id for hit in found} == {text}
    assert [message.message_id for message in archive.get_messages_by_goal(text, text)] == [f"m{text}"]
    message = archive.get_message(f"m{text}")
    assert message is not None and message.content == text
    assert [event.event_type for event in archive.get_events(text)] == [text]
    (row,) = archive.sql("SELECT count(*) AS n FROM messages WHERE goal_id = ? AND trace_id = ?", [text, text]).rows()
    assert row["n"] == 1
    calls = "SELECT name FROM tool_call_rows() WHERE trace_id = $id"
    assert archive.sql(calls, {"id": text}, sandbox=True).rows() == [{"name": text}]
    assert {each["uid"] for each in archive.sql("SELECT uid FROM traces").rows()} == {"victim", *SQL}


@pytest.mark.parametrize("text", SQL[:: tried(17, 1)])
def test_sql_in_an_argument_of_the_command_line_is_a_value(place: Path, text: str) -> None:
    for option in ("--uid", "--mode", "--agent", "--model", "--parent"):
        shown = run("ls", place, option, text, "--json")
        assert shown.exit_code == 0 and shown.stdout.count('"trace_id"') == 1, (option, shown.stdout, shown.stderr)
    assert run("search", place, text, "--tool", text, "--role", text, "--json").stdout.count('"message_id"') == 1
    assert run("show", "--json", "--", place, text).exit_code == 0
    assert run("stats", place, "--by", "day", "--uid", text).exit_code == 0


def test_nothing_is_lost_of_an_archive_in_a_hostile_place(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / PLACE / "copy"
    shutil.copytree(place, copy)
    verbs: tuple[tuple[object, ...], ...] = (
        ("verify", copy, "--deep"),
        ("refresh", copy),
        ("optimize", copy),
        ("sync", copy, tmp_path / "synced"),
        ("verify", tmp_path / "synced", "--deep"),
    )
    for verb in verbs:
        result = run(*verb)
        assert result.exit_code == 0, (verb[0], result.stdout, result.stderr)
        assert not OBEYED.search(result.stdout + result.stderr), verb[0]
    with traceark.open(tmp_path / "synced") as synced:
        assert len(synced.sql("SELECT DISTINCT content FROM messages WHERE role <> 'assistant'").rows()) == len(SQL)


def hostile_names(folder: Path) -> Path:
    """Return an archive that has files whose names hold controls wherever there may be one."""
    archive = folder / f"runs {CONTROLS}"
    with traceark.open(archive, durability="os") as opened:
        for trace_id in ("sealed", f"id {CONTROLS}"):
            opened.create_trace(said(trace_id))
            opened.add_message(Message(trace_id=trace_id, role="user", content=CONTROLS))
            opened.append_event(trace_id, CONTROLS, CONTROLS)
        opened.run(opened.store.seal("sealed"))
        opened.refresh()
        opened.run(opened.store.optimize())
        opened.run(opened.store.delete_trace(opened.create_trace(Trace(trace_id=f"gone {CONTROLS}"))))
    for directory in [archive, *(path for path in archive.rglob("*") if path.is_dir())]:
        (directory / NAME).write_text(CONTROLS)
        (directory / f"{NAME}.jsonl").write_text(CONTROLS)
    for name in ("traces", trace_prefix("sealed"), "tombstones", "catalog", "catalog/rollups"):
        (archive / name / f"d{NAME}").mkdir(parents=True, exist_ok=True)
        (archive / name / f"d{NAME}" / "trace.json").write_text(CONTROLS)
        (archive / name / f"l{NAME}").symlink_to(NAME)
    return archive


def test_controls_in_names_of_files_reach_no_terminal(tmp_path: Path) -> None:
    archive, out = hostile_names(tmp_path), tmp_path / f"out {CONTROLS}"
    out.mkdir()
    sources = out / "sources"
    sources.mkdir()
    (sources / NAME).write_text("nothing")
    (sources / f"{NAME}.json").write_text('{"a": ')
    (sources / f"{NAME}.jsonl").write_bytes(b'{"type": "user", "sessionId": "s", "message": \xff}\n')
    (sources / f"{NAME}.zip").write_bytes(b"PK\x03\x04")
    (sources / f"l{NAME}").symlink_to(NAME)
    os.mkfifo(sources / f"p{NAME}")
    other = out / "other"
    with traceark.open(other) as opened:
        opened.create_trace(Trace(trace_id=f"id {CONTROLS}"))
        opened.add_message(Message(trace_id=f"id {CONTROLS}", role="user", content="other"))
    verbs: tuple[tuple[object, ...], ...] = (
        ("ls", archive),
        ("show", archive, "id"),
        ("tail", archive, "id"),
        ("tree", archive, "id"),
        ("search", archive, "31m"),
        ("stats", archive, "--by", "agent"),
        ("sql", archive, "SELECT * FROM messages JOIN events USING (trace_id)"),
        ("sql", archive, f"SELECT * FROM '{NAME}'"),
        ("verify", archive),
        ("verify", archive, "--deep"),
        ("verify", archive, f"no {NAME}"),
        ("export", archive, "--format", "html", "-o", out),
        ("export", archive, "--format", f"no {NAME}", "-o", out),
        ("export", archive, "sealed", "--format", "markdown", "-o", out / f"{NAME}.md"),
        ("pack", archive, "sealed", "--to", out / f"{NAME}.zip"),
        ("pack", archive, "--all", "--to", out / f"{NAME}.all.zip"),
        ("pack", archive, "sealed", "--to", out / NAME),
        ("unpack", out / f"{NAME}.zip", "--to", out / f"unpacked {NAME}"),
        ("unpack", sources / f"{NAME}.zip", "--to", out / "unpacked"),
        ("import", sources, "--to", out / "imported"),
        ("import", archive, "--to", out / "imported"),
        ("import", sources / f"p{NAME}", "--to", out / "imported"),
        ("import", sources / f"none {NAME}", "--to", out / "imported"),
        ("sync", archive, out / f"synced {NAME}"),
        ("sync", archive, other),
        ("sync", archive, sources / NAME),
        ("ls", out / f"none {NAME}"),
        ("ls", archive, "--uid", NAME, "--after", NAME),
        ("pin", archive, "id"),
        ("redact", archive, "--all"),
        ("redact", archive, "id", "--patterns-file", out / f"none {NAME}"),
        ("repair", archive, "--all"),
        ("refresh", archive),
        ("optimize", archive),
        ("compact", archive, "--all"),
        ("seal", archive, "--all"),
        ("repair", archive, "--all", "--yes"),
        ("expire", archive, "--older-than", "0d", "--yes", "--reason", NAME),
        ("rm", archive, "id", "--reason", NAME),
    )
    for verb in verbs:
        for flags in ((), ("--json",)):
            refuse_controls(verb, run(*verb, *flags))


def refuse_controls(verb: tuple[object, ...], result: Result) -> None:
    assert result.exit_code in (0, 1, 2) and "--debug" not in result.stderr, (verb, result.stderr)
    assert "No such option" not in result.stderr, verb
    found = OBEYED.search(result.stdout) or OBEYED.search(result.stderr)
    assert found is None, (verb, found, result.stdout, result.stderr)


@pytest.mark.parametrize("place", ["traceark.cli.text.visible", "traceark.cli.text.one_line", "traceark.cli.one_line"])
def test_a_text_that_is_not_made_visible_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(place, lambda text, *limit: text)
    with pytest.raises(AssertionError):
        test_controls_in_names_of_files_reach_no_terminal(tmp_path)


def test_a_value_that_is_made_part_of_sql_is_found(archive: traceark.Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def pasted(column: str, name: str, values: Sequence[str], bound: dict[str, object]) -> str:
        return f"\"{column}\" = '{values[0]}'"

    monkeypatch.setattr("traceark.filters.one_of", pasted)
    with pytest.raises((AssertionError, QueryError)):
        test_sql_in_a_value_finds_what_has_the_value_and_nothing_else(archive, SQL[1])
