"""Running the notebooks as a reader would; `make notebooks` stores what they then show.

Each runs in an empty copy of the folder, with the interpreter that runs this and with none of its user's settings.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from program import loaded_program

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What a notebook says of the machine that ran it; the rest would change at every run.
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# A kernel asks programs for colours, whether they write to a terminal or not.
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def executed(notebook: Path, directory: Path) -> Any:
    """Run a notebook in a copy of its folder under `directory`; return it with its outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell failed.
    """
    # Those who only look at the notebooks need none of these.
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    place = directory / "notebooks"
    shutil.copytree(FOLDER, place, ignore=lambda _, names: [name for name in names if not (FOLDER / name).is_file()])
    found = nbformat.read(notebook, as_version=4)
    # Without folders to look in, the only kernel is the one of this very interpreter.
    specs = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    client = NotebookClient(
        found,
        km=kernel,
        timeout=120,
        coalesce_streams=True,
        resources={"metadata": {"path": str(place)}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=_environment(directory), cleanup_kc=True)
    for cell in found.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name != "execution"}
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = _ANSI.sub("", output.text)
    found.metadata = _METADATA
    return found


def _environment(directory: Path) -> Mapping[str, str]:
    home = directory / "home"
    home.mkdir()
    return {
        **os.environ,
        "PATH": f"{loaded_program(directory)}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(home),
        "COLUMNS": "80",
    }


def main() -> None:
    """Run all notebooks, or those that are named, and store them with their outputs."""
    for notebook in map(Path, sys.argv[1:]) if sys.argv[1:] else NOTEBOOKS:
        with tempfile.TemporaryDirectory() as directory:
            nbformat.write(executed(notebook, Path(directory)), notebook)
        print(notebook.name)


if __name__ == "__main__":
    main()
