"""However long it goes on: nothing is lost, no file stays open, and memory grows by what a message needs and no more.

How long things take at the end beside the start is printed, here and by `python -m benchmarks --only endurance`, and
not asserted: a busy machine would make any bound a lie.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.endurance import Endured, figures, many_traces, one_trace, told

from profiles import tried

ROUND = tried(25, 100)
MESSAGES, TRACES = tried(6_000, 60_000, 1_000_000), tried(200, 2_000, 100_000)
# What is kept of each message of an open trace: its id and what the totals need to change it by.
MOST_BYTES_PER_MESSAGE = 400
# Both stores keep the catalog in memory, which grows by a row of each trace; besides, what is in use comes and goes.
MOST_BYTES_PER_ROW, STORES, COMES_AND_GOES = 400, 2, 30_000_000
# A hundred and twenty-eight open traces, with their locks and segments, and a few that are on their way.
MOST_OPEN_FILES = 3 * 128 + 40


def grown(endured: Endured) -> int:
    """Return by how many bytes memory grew in the second half of a run."""
    return endured.memory[-1] - endured.memory[len(endured.memory) // 2]


def stay_open(handles: list[int]) -> bool:
    """Say whether ever more files are open: each round leaves one so."""
    # A compaction in the background or a reader has one open for a moment.
    half = len(handles) // 2
    return min(handles[half:]) > min(handles[:half]) + 1


def test_files_that_stay_open_are_found() -> None:
    assert stay_open([54, 55, 56, 57, 58, 59])
    assert not stay_open([54, 54, 54, 54, 54, 55])


async def test_a_million_messages_go_into_one_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endured = await one_trace(tmp_path, MESSAGES, looks=10)
    with capsys.disabled():
        print(f"\n{told(figures(f'{MESSAGES:,} messages in one trace', 'a thousand', endured, MESSAGES))}")
    assert not stay_open(endured.handles)
    assert max(endured.handles) <= endured.handles[0] + 8
    assert grown(endured) < MESSAGES // 2 * MOST_BYTES_PER_MESSAGE + 10_000_000


async def test_very_many_traces_go_through_one_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.endurance._TRACES_PER_ROUND", ROUND)
    endured = await many_traces(tmp_path, TRACES, looks=8)
    with capsys.disabled():
        print(f"\n{told(figures(f'{TRACES:,} traces', f'each {ROUND}', endured, TRACES))}")
    assert max(endured.handles) < MOST_OPEN_FILES
    assert max(endured.handles[-2:]) <= max(endured.handles[:-2]) + 8
    assert grown(endured) < TRACES // 2 * STORES * MOST_BYTES_PER_ROW + COMES_AND_GOES
