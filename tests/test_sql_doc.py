"""The tables of `docs/sql.md` are the code's, and what DuckDB says of views and macros.

Run as a program, this puts the tables into the page: ``python tests/test_sql_doc.py``. Its examples
run with the other pages', in `test_docs`.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from traceark.query.macros import MACROS
from traceark.query.running import answer
from traceark.query.sources import VIEWS

PAGE = Path(__file__).parent.parent / "docs" / "sql.md"
USAGE = (
    "STRUCT(input_tokens BIGINT, output_tokens BIGINT, cache_read_tokens BIGINT, cache_write_tokens BIGINT, "
    "reasoning_tokens BIGINT)"
)
STATS = (
    "STRUCT(message_count BIGINT, total_tokens BIGINT, total_cost DOUBLE, total_duration_ms BIGINT, preview VARCHAR)"
)
TYPES = {
    "text": "VARCHAR",
    "json": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "time": "TIMESTAMP WITH TIME ZONE",
    "texts": "VARCHAR[]",
    "usage": USAGE,
    "stats": STATS,
}
# Long types have a name in the tables, which the page spells out.
NAMES = {USAGE: "usage", STATS: "stats", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
TABLE = re.compile(r"<!-- columns: (\w+) -->\n\n(?:\|.*\n)*")


def table(view: str) -> str:
    """Return the page's table of a view."""
    types = (NAMES.get(TYPES[column.kind], TYPES[column.kind]) for column in VIEWS[view])
    rows = (f"| `{column.name}` | {kind} | {column.doc} |\n" for column, kind in zip(VIEWS[view], types, strict=True))
    return f"<!-- columns: {view} -->\n\n| column | type | meaning |\n|---|---|---|\n{''.join(rows)}"


def page() -> str:
    """Return the page with the tables as they should be."""
    return TABLE.sub(lambda found: table(found[1]), PAGE.read_text())


def test_the_tables_are_those_of_the_code() -> None:
    assert TABLE.findall(PAGE.read_text()) == list(VIEWS)
    assert PAGE.read_text() == page(), "run: python tests/test_sql_doc.py"


@pytest.mark.parametrize("view", VIEWS)
def test_the_types_are_those_that_duckdb_tells(view: str) -> None:
    told = asyncio.run(answer({}, f"DESCRIBE {view}"))
    found = [(row["column_name"], re.sub(r'"', "", row["column_type"])) for row in told]
    assert found == [(column.name, TYPES[column.kind]) for column in VIEWS[view]]


def test_the_page_spells_out_types_and_macros() -> None:
    text = " ".join(PAGE.read_text().split())
    assert USAGE in text and STATS in text
    for macro in MACROS:
        assert f"`{macro.signature}`" in text, macro.signature
        assert macro.returns in text, macro.returns


if __name__ == "__main__":
    PAGE.write_text(page())
