"""The benchmarks run, on sizes too small to say anything about speed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))

from benchmarks.__main__ import Scale, figures_of
from benchmarks.data import messages
from benchmarks.measure import Figure

from profiles import some

TINY = Scale(
    append_rounds=1,
    append_messages=16,
    counts=(40,),
    rounds=1,
    messages=40,
    import_bytes=1,
    sessions=None,
    endured_messages=3_000,
    endured_traces=300,
).sized(0.0001)


async def _measured(name: str, folder: Path) -> list[Figure]:
    return await figures_of(TINY)[name](folder)


@pytest.mark.parametrize("name", some(figures_of(TINY), 2))
def test_each_figure_stands_beside_its_floor(name: str, tmp_path: Path) -> None:
    figures = asyncio.run(_measured(name, tmp_path))
    assert figures
    assert all(figure.row().count("|") == 7 for figure in figures)


def test_generated_messages_are_the_same_every_time() -> None:
    assert list(messages("run", 30, seed=1)) == list(messages("run", 30, seed=1))
    assert list(messages("run", 30, seed=1)) != list(messages("run", 30, seed=2))
