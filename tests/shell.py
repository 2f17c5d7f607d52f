"""Running the command line inside the test's process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from traceark.cli import program


def run(*arguments: object, columns: int | None = None) -> Result:
    environment = {"COLUMNS": str(columns) if columns else None}
    return CliRunner().invoke(program, [str(each) for each in arguments], env=environment)


def out(*arguments: object, columns: int | None = None) -> str:
    result = run(*arguments, columns=columns)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def told(*arguments: object) -> Any:
    return json.loads(out(*arguments, "--json"))


def wrong(code: int, *arguments: object) -> str:
    """Return the one line on standard error of a call that ends with this code."""
    result = run(*arguments)
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("traceark: ") and result.stderr.count("\n") == 1
    return result.stderr
