"""The golden archives, written by a released format version each: every later version reads them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from traceark.layout import FORMAT_VERSION, trace_key
from traceark.models import Message
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_texts

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(GOLDEN.glob("v*/archive"))


def script() -> ModuleType:
    """Return the script that writes the archive of this version."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script()


def expected_of(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive.parent / "expected.json").read_text())
    return found


@pytest.fixture(params=VERSIONS, ids=[path.parent.name for path in VERSIONS])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden archive, its expected content beside it."""
    shutil.copytree(request.param.parent, tmp_path / "golden")
    return tmp_path / "golden" / "archive"


def test_there_is_an_archive_of_every_version() -> None:
    assert [path.parent.name for path in VERSIONS] == [f"v{at}" for at in range(1, FORMAT_VERSION + 1)]


def test_everything_reads_as_it_was_written(golden: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(golden)
        found = await MAKE.expected(store)
        for trace_id, parts in expected_of(golden).items():
            for part, text in parts.items():
                assert found[trace_id][part] == text, f"{part} of {trace_id}"
        assert sorted(each.trace_id for each in await store.list_traces()) == sorted(MAKE.TRACE_IDS)
        assert await store.verify(deep=True) == []

    asyncio.run(run())


def test_sql_counts_what_is_there(golden: Path) -> None:
    async def run() -> None:
        store = ArchiveStore(golden)
        rows = (await store.sql("SELECT trace_id, count(*) AS n FROM messages GROUP BY ALL")).rows()
        expected = {name: len(parts["messages"]) for name, parts in expected_of(golden).items() if parts["messages"]}
        assert {row["trace_id"]: row["n"] for row in rows} == expected

    asyncio.run(run())


def test_it_can_be_written_on_and_sealed(golden: Path) -> None:
    async def run() -> None:
        expected = expected_of(golden)
        async with ArchiveStore(golden, durability="os") as store:
            for trace_id, parts in expected.items():
                await store.add_message(Message(trace_id=trace_id, role="user", content="later"))
                assert await store.append_event(trace_id, "later", None) == len(parts["events"]) + 1
                await store.seal(trace_id)
        reader = ArchiveStore(golden)
        for trace_id, parts in expected.items():
            assert exact_texts(await reader.get_trace_messages(trace_id))[:-1] == parts["messages"]
        assert await reader.verify(deep=True) == []

    asyncio.run(run())


def test_the_script_still_writes_what_is_expected(tmp_path: Path) -> None:
    MAKE.main(tmp_path)
    assert expected_of(tmp_path / "archive") == expected_of(GOLDEN / f"v{FORMAT_VERSION}" / "archive")
    assert {path.name for path in (tmp_path / "archive/traces").iterdir()} == {
        trace_key(name) for name in MAKE.TRACE_IDS
    }
