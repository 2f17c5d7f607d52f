"""`docs/format.md` holds without traceark: its blocks run on the golden archive, its tables are the code's."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from traceark import folding
from traceark.codec.fields import CATALOG, EVENTS, INTERNAL, MESSAGES, TRACES, USAGE, Column
from traceark.layout import FORMAT_VERSION, SegmentName, trace_key
from traceark.models import Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

DOC = Path(__file__).parent.parent / "docs" / "format.md"
GOLDEN = Path(__file__).parent / "golden" / f"v{FORMAT_VERSION}"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2], match[3] or "") for match in BLOCK.finditer(DOC.read_text())]
NEEDED = re.compile(r"^\s*(jq|sha256sum)\b", re.MULTILINE)
TABLES: dict[str, Sequence[Column]] = {
    "messages": MESSAGES,
    "events": EVENTS,
    "internal": INTERNAL,
    "traces": TRACES,
    "catalog": CATALOG,
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "archive", tmp_path / "archive")
    return tmp_path / "archive"


def run_python(code: str, archive: Path) -> tuple[dict[str, Any], str]:
    """Run a block inside the archive; return its names and what it printed."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.chdir(archive), contextlib.redirect_stdout(printed):
        exec(compile(code, str(DOC), "exec"), names)
    return names, printed.getvalue()


@pytest.mark.parametrize(
    ("language", "code", "output"), BLOCKS, ids=[f"{at}-{kind}" for at, (kind, *_) in enumerate(BLOCKS)]
)
def test_a_block_prints_what_the_page_says(archive: Path, language: str, code: str, output: str) -> None:
    assert "import traceark" not in code
    if language == "python":
        assert run_python(code, archive)[1] == output
        return
    for tool in NEEDED.findall(code):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    ran = subprocess.run(["sh", "-euc", code], cwd=archive, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == output


def test_the_page_reads_the_archive_as_traceark_does(archive: Path) -> None:
    (reader,) = [code for language, code, _ in BLOCKS if language == "python" and "def messages" in code]
    names, _ = run_python(reader, archive)
    for trace_id, expected in json.loads((GOLDEN / "expected.json").read_text()).items():
        trace = archive / "traces" / trace_key(trace_id)
        assert [ordered(each) for each in names["messages"](trace)] == expected["messages"]
        events = names["read_log"](trace, "events")
        shown = ("event_id", "event_type", "payload")
        assert [ordered({name: each[name] for name in shown if name in each}) for each in events] == expected["events"]


def ordered(record: dict[str, Any]) -> str:
    """Return a record as `expected.json` has it."""
    return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(record[name])}" for name in sorted(record)) + "}"


def table(columns: Sequence[Column]) -> str:
    """Return the page's table of some columns."""
    rows = "".join(f"| {column.id} | `{column.name}` | {column.kind} | {column.doc} |\n" for column in columns)
    return f"| field id | column | type | meaning |\n|---|---|---|---|\n{rows}"


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_code(name: str) -> None:
    wanted = f"<!-- columns: {name} -->\n\n{table(TABLES[name])}\n"
    assert wanted in DOC.read_text(), f"put into {DOC.name}:\n{wanted}"


def test_the_page_names_the_ids_of_usage() -> None:
    text = DOC.read_text()
    assert all(f"`{name}` ({field_id})" in text for field_id, name in USAGE)


def test_the_page_states_this_version() -> None:
    assert DOC.read_text().startswith(f"# The format, version {FORMAT_VERSION}\n")


async def test_the_page_reads_a_folded_trace_as_traceark_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "OBJECTS", 3)
    url = f"memory://{tmp_path}"
    ahead, behind = ArchiveStore(url), ArchiveStore(url)
    await ahead.create_trace(Trace(trace_id="t"))
    for at in range(30):
        await (behind if at == 8 else ahead).add_message(Message(trace_id="t", role="user", content=at))
        if at == 9:
            async with (await behind._pool.opened("t")).reading():
                pass
    await ahead.close()
    # Its first attempt is void, and reaches past what is folded.
    await behind.add_messages([Message(trace_id="t", role="user", content=at) for at in range(30, 80)])
    objects = MemoryStorage(str(tmp_path))._objects
    void = f"traces/t/messages/{SegmentName(11, behind._pool._open['t'].header.incarnation)}"
    assert objects[void][0].count(b"\n") == 50
    await behind.close()
    for key, (data, *_) in objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    MemoryStorage.forget(str(tmp_path))
    (reader,) = [code for language, code, _ in BLOCKS if language == "python" and "def messages" in code]
    names, _ = run_python(reader.partition("\nfor message in")[0], tmp_path)
    read = names["messages"](tmp_path / "traces/t")
    assert [each["content"] for each in read] == list(range(80))
    assert [each.content for each in await ArchiveStore(tmp_path).get_trace_messages("t")] == list(range(80))
