"""The verb `merge`: two archives that both have what the other lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import traceark
from shell import out, run, wrong
from traceark import Message, Trace


def written(place: Path, *trace_ids: str, content: str = "hello") -> None:
    """Make traces in an archive, or write on in those that are there."""
    with traceark.open(place) as archive:
        for trace_id in trace_ids:
            if archive.get_trace(trace_id) is None:
                archive.create_trace(Trace(trace_id=trace_id, task="a task"))
            archive.add_message(Message(trace_id=trace_id, role="user", content=content))


def contents(place: Path) -> dict[str, list[object]]:
    """Return what the messages of each trace say."""
    with traceark.open(place) as archive:
        ids = [trace.trace_id for trace in archive.list_traces()]
        return {each: [message.content for message in archive.get_trace_messages(each)] for each in ids}


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    written(tmp_path / "laptop", "both", "on-the-laptop")
    return tmp_path / "laptop"


@pytest.fixture
def server(tmp_path: Path, laptop: Path) -> Path:
    """The laptop's archive as it was copied; since then each went on with other traces."""
    server = tmp_path / "server"
    out("sync", laptop, server)
    written(server, "both", "on-the-server", content="went on")
    written(laptop, "later")
    return server


def test_afterwards_both_have_all_that_the_other_had(laptop: Path, server: Path) -> None:
    lines = out("merge", laptop, server).splitlines()
    assert f"into {server}: 1 behind, 1 new, 1 same; 681 B copied" in lines
    assert f"into {laptop}: 2 same, 1 forward, 1 new; 1.4 kB copied" in lines
    assert contents(laptop) == contents(server)
    assert contents(laptop) == {
        "both": ["hello", "went on"],
        "on-the-laptop": ["hello"],
        "on-the-server": ["went on"],
        "later": ["hello"],
    }
    assert run("verify", laptop, "--deep").exit_code == run("verify", server, "--deep").exit_code == 0
    again = out("merge", laptop, server).splitlines()
    assert again == [f"into {place}: 4 same; 0 B copied" for place in (server, laptop)]


def test_only_the_chosen_traces_are_merged(laptop: Path, server: Path) -> None:
    out("merge", laptop, server, "--where", "trace_id LIKE 'on-%'")
    assert sorted(contents(laptop)) == ["both", "later", "on-the-laptop", "on-the-server"]
    assert sorted(contents(server)) == ["both", "on-the-laptop", "on-the-server"]


def test_a_dry_run_tells_the_same_and_writes_nothing(laptop: Path, server: Path) -> None:
    before = contents(laptop), contents(server)
    result = run("merge", laptop, server, "--dry-run", "--json")
    assert result.exit_code == 0
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["outcomes"]["new"] for report in reports] == [1, 1]
    assert (contents(laptop), contents(server)) == before


def test_traces_that_were_written_to_on_both_sides_are_told_or_both_kept(laptop: Path, server: Path) -> None:
    written(laptop, "both", content="went elsewhere")
    assert "1 trace diverged" in wrong(1, "merge", laptop, server)
    assert contents(laptop)["both"] == ["hello", "went elsewhere"]
    assert contents(server)["both"] == ["hello", "went on"]
    assert "on-the-server" in contents(laptop)
    out("merge", laptop, server, "--on-diverged", "keep-both")
    kept = contents(laptop), contents(server)
    assert [each["both"][1] for each in kept] == ["went elsewhere", "went on"]
    for each in kept:
        assert sorted(texts for name, texts in each.items() if name.startswith("both")) == [
            ["hello", "went elsewhere"],
            ["hello", "went on"],
        ]
    out("merge", laptop, server, "--on-diverged", "keep-both")
    assert (contents(laptop), contents(server)) == kept


def test_a_side_that_was_kept_goes_everywhere_but_to_where_it_is_from(
    laptop: Path, server: Path, tmp_path: Path
) -> None:
    written(laptop, "both", content="went elsewhere")
    out("merge", laptop, server, "--on-diverged", "keep-both")
    [kept] = [name for name in contents(laptop) if ".diverged-" in name]
    third = tmp_path / "third"
    out("sync", laptop, third)
    assert contents(third)[kept] == ["hello", "went on"]
    # Where its own run lost what was kept of it, or is damaged, it comes back.
    (header,) = (server / "traces" / "both").glob("trace.json")
    header.write_bytes(b"torn")
    run("sync", laptop, server)
    assert kept in {each.name for each in (server / "traces").iterdir()}


def test_a_mistyped_name_makes_no_archive(laptop: Path, tmp_path: Path) -> None:
    for pair in ((laptop, tmp_path / "lapptop"), (tmp_path / "lapptop", laptop)):
        assert "there is no archive at" in wrong(2, "merge", *pair)
    assert [path.name for path in tmp_path.iterdir()] == ["laptop"]
