"""The notebooks run, on the samples that come with the library, and show what is stored in them."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebook_runner import FOLDER, NOTEBOOKS, executed
from profiles import some

# What must not be seen in a notebook: places of the machine that ran it, warnings, objects without a text of their own.
NOISE = re.compile(r"/tmp/|/root/|site-packages|Warning|Traceback| object at 0x")


@pytest.mark.parametrize("notebook", some(NOTEBOOKS, 1), ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_and_shows_what_is_stored(notebook: Path, tmp_path: Path) -> None:
    stored = nbformat.read(notebook, as_version=4)
    fresh = executed(notebook, tmp_path)
    for before, now in zip(stored.cells, fresh.cells, strict=True):
        if "jq" in before.metadata.get("tags", ()) and not shutil.which("jq"):
            continue
        assert _shown(before) == _shown(now), f"{before.source}\n\nshows other things now; run: make notebooks"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_stored_whole_and_without_noise(notebook: Path) -> None:
    stored = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [text for cell in cells for text in _shown(cell)]
    assert not [text for text in shown if NOISE.search(text)]
    assert not [cell.source for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert shown, "no cell shows anything"


def test_there_are_the_notebooks_that_the_folder_lists() -> None:
    listed = re.findall(r"\]\(([\w-]+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == [notebook.name for notebook in NOTEBOOKS]


def _shown(cell: Any) -> list[str]:
    """Return the text of a cell's outputs, spaces apart; of a picture only that there is one."""
    return [" ".join(_text(output).split()) for output in cell.get("outputs", ())]


def _text(output: Any) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return "a picture"
    if "text/html" in data:
        return html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", data["text/html"], flags=re.DOTALL))
    return str(data["text/plain"])
