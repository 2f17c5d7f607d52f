"""Every test that the page on reliability names is there, and every line of its tables names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+)`", PAGE)))
WRITTEN = {
    name
    for folder in (ROOT / "tests", ROOT / "src" / "traceark" / "testing")
    for path in folder.rglob("*.py")
    for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not re.match(r"\| (where|promise) \|", line)]
FAILURES = (
    "Loss of power",
    "Disk full",
    "An I/O error when syncing",
    "A killed process",
    "An interrupted copy",
    "Flipped bits",
    "Copies that diverged",
    "An outage of S3",
    "Lost or expired credentials",
    "A clock that jumps",
)


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_is_there(name: str) -> None:
    assert name in WRITTEN


@pytest.mark.parametrize("row", ROWS)
def test_a_promise_names_its_test(row: str) -> None:
    assert "`test_" in row


def test_each_level_and_backend_has_its_promise() -> None:
    for where in ("local disk", "memory", "S3", "other fsspec"):
        levels = " ".join(row.split("|")[2] for row in ROWS if row.startswith(f"| {where} |"))
        assert "both" in levels or ("`os`" in levels and "`fsync`" in levels)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_says_what_is_seen_and_what_to_do(failure: str) -> None:
    section = PAGE.partition(f"### {failure}\n")[2].partition("\n### ")[0]
    assert "*Seen:*" in section and "*Do:*" in section
