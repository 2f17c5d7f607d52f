"""Tables of one line a row: columns side by side, cut to a width.

Pure, and quick with many thousand rows, which rich's tables are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
        Its heading.
    right : bool
        Aligned to the right, as numbers are.
    least : int, optional
        To how many cells it may be cut; None if it must not be, as numbers that are cut would lie.
    """

    name: str
    right: bool = False
    least: int | None = None


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return the cells of the heading and of each row, filled up or cut so that columns align.

    The widest columns give way first, where the whole does not fit into `width` cells. Behind the last
    column nothing needs to align: beside one long text thousands of short ones stay short.

    Examples
    --------
    >>> for cells in lay_out([Column("n", right=True), Column("text", least=4)], [["1", "abcdefgh"], ["10", "ab"]], 8):
    ...     print("|".join(cells) + "|")
     n|text|
     1|abc…|
    10|ab|
    """
    lines = [[column.name for column in columns], *rows]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    fitted = fit(widths, [column.least for column in columns], width - len(GAP) * (len(columns) - 1))
    fills = [*[True] * (len(columns) - 1), columns[-1].right]
    return [
        [
            _sized(text, size, column.right, fill)
            for text, size, column, fill in zip(line, fitted, columns, fills, strict=True)
        ]
        for line in lines
    ]


def fit(widths: Sequence[int], least: Sequence[int | None], width: int) -> list[int]:
    """Return widths whose sum is at most `width`, if the columns that may give way allow it.

    Examples
    --------
    >>> fit([4, 50, 30], [None, 8, 8], 44), fit([4, 50], [None, 8], 5)
    ([4, 20, 20], [4, 8])
    """
    fitted = list(widths)
    while sum(fitted) > width:
        giving = [index for index, floor in enumerate(least) if floor is not None and fitted[index] > floor]
        if not giving:
            break
        fitted[max(giving, key=lambda index: fitted[index])] -= 1
    return fitted


def _sized(text: str, size: int, right: bool, fill: bool) -> str:
    missing = size - cell_len(text)
    if missing < 0:
        return f"{set_cell_size(text, size - 1)}…"
    if not fill:
        return text
    return f"{' ' * missing}{text}" if right else f"{text}{' ' * missing}"
