"""The rows of a query, as the verb `sql` prints or writes them besides text and JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from traceark.cli.as_json import plain
from traceark.cli.output import Rows
from traceark.replacing import replacing
from traceark.showing import visible

if TYPE_CHECKING:
    from traceark.query import QueryResult

_ENDINGS = (".parquet", ".csv", ".json", ".jsonl")


def rows_of(result: QueryResult) -> Rows:
    """Return a result by row."""
    return Rows(result.columns, list(zip(*result.values(), strict=True)))


def print_csv(rows: Rows) -> None:
    """Print CSV: exact in a pipe; on a terminal with everything that it would obey as escapes."""
    _write_csv(sys.stdout, rows, shown=sys.stdout.isatty())


def check_ending(path: str) -> None:
    """Refuse a file whose ending says no format, before anything is read."""
    if Path(path).suffix.lower() not in _ENDINGS:
        raise click.BadParameter(f"{path!r} ends in none of {', '.join(_ENDINGS)}", param_hint="--output")


def write(result: QueryResult, path: str) -> None:
    """Write a result to a file in the format of its ending; one that is there is replaced, once the new one is whole.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending == ".parquet":
        result.to_parquet(target)
        return
    rows = rows_of(result)
    with replacing(target) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        if ending == ".csv":
            _write_csv(file, rows, shown=False)
            return
        lines = [json.dumps(each, ensure_ascii=False) for each in _objects(rows)]
        file.write("[" + ",\n".join(lines) + "]\n" if ending == ".json" else "".join(f"{line}\n" for line in lines))


def _objects(rows: Rows) -> Iterator[dict[str, Any]]:
    for row in rows.values:
        yield {name: plain(value) for name, value in zip(rows.columns, row, strict=True)}


def _write_csv(file: TextIO, rows: Rows, *, shown: bool) -> None:
    """Write CSV: NULL is an empty field, nested values are JSON."""
    writer = csv.writer(file, lineterminator="\n")
    lines: Iterator[Sequence[Any]] = (list(map(_field, row)) for row in rows.values)
    for line in ([*rows.columns], *lines):
        writer.writerow([visible(each) if shown and isinstance(each, str) else each for each in line])


def _field(value: Any) -> Any:
    simple = plain(value)
    return json.dumps(simple, ensure_ascii=False) if isinstance(simple, dict | list | bool) else simple
