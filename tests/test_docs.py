"""The documentation runs: every ``python`` and ``console`` block of README and docs, and every docstring's example.

The blocks of a page run from top to bottom in one empty directory, as one reader would. In a console block a
line that is only ``…`` stands for any lines.
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import traceark
from program import loaded_program

ROOT = Path(__file__).parent.parent
# The format's page runs on the golden archive, in a test of its own.
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("**/*.md")) - {ROOT / "docs" / "format.md"})]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = sorted(module.name for module in pkgutil.walk_packages(traceark.__path__, "traceark."))


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is that all pages call."""
    return loaded_program(tmp_path_factory.mktemp("program"))


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{loaded}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    samples = Path(traceark.__file__).parent / "samples" / "claude-code"
    shutil.copytree(samples, tmp_path / "home" / ".claude" / "projects" / "-home-rosa")
    names: dict[str, Any] = {"__name__": "__main__"}
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(text, page.name, "exec"), names)
        else:
            _converse(text)


def _converse(text: str) -> None:
    for turn in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = turn.partition("\n")
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert found.returncode == 0, f"{command}\n{found.stderr}"
        pieces = re.split(r"^…\n", expected, flags=re.MULTILINE)
        assert re.fullmatch(".*".join(map(re.escape, pieces)), found.stdout, re.DOTALL), f"$ {command}\n{found.stdout}"


@pytest.mark.parametrize("name", ["traceark", *MODULES])
def test_the_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=options).failed == 0


def test_the_demo_runs_and_runs_again(tmp_path: Path, loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{loaded}{os.pathsep}{os.environ['PATH']}")
    for outcome in ("65 new, 0 known", "0 new, 65 known"):
        found = subprocess.run(["sh", ROOT / "docs" / "demo.sh"], cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0 and found.stderr == "", found.stderr
        assert outcome in found.stdout and "deep: nothing is wrong" in found.stdout
