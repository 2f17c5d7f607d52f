"""Tables for notebooks: HTML in which every value is escaped, so that nothing from an archive is obeyed. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import datetime

_CELL_CHARS = 160


class Markup(str):
    """Text that is HTML already."""


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """Return a table as HTML.

    Parameters
    ----------
    headings : sequence of str
    rows : iterable of sequences
        Numbers are aligned to the right, times shown to the second, long text shortened.
    note : str
        A line below the table.

    Examples
    --------
    >>> "<td>&lt;b&gt;</td>" in table(["task"], [["<b>"]]).replace(' style="text-align:left"', "")
    True
    """
    head = "".join(f'<th style="text-align:left">{html.escape(each)}</th>' for each in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def _cell(value: object) -> str:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return f'<td style="text-align:{"right" if right else "left"}">{_shown(value)}</td>'


def _shown(value: object) -> str:
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds").partition("+")[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    text = " ".join(str(value)[: _CELL_CHARS * 4].split())
    return html.escape(text if len(text) <= _CELL_CHARS else f"{text[: _CELL_CHARS - 1]}…")
