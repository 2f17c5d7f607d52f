"""verify --deep compares every row of the rollups with the traces that they were made of, and writes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from damages import tree_state
from traceark.catalog.contents import CATALOG
from traceark.codec.crc import file_crc
from traceark.codec.lines import decode_line, encode_line
from traceark.models import Goal, Message, Trace, Usage
from traceark.rollups.files import IDS, ROLLUP_FILE, ROLLUPS
from traceark.store import ArchiveStore
from traceark.testing.values import hard_object
from traceark.verification import Finding


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with four traces in one rollup, one of them written to since, and one that is in none."""
    folder = tmp_path_factory.mktemp("rollups") / "archive"

    async def record(store: ArchiveStore, trace_id: str) -> None:
        await store.create_trace(Trace(trace_id=trace_id))
        await store.add_goal(trace_id, Goal(id="1", created_at=datetime(2026, 1, 2, tzinfo=UTC)))
        for at in range(3):
            said = Message(trace_id=trace_id, role="user", content=[hard_object(), at, "\ud800"], cost=0.1 * at)
            said.usage = Usage.parse({"input_tokens": at, "of_images": 1}) if at else None
            await store.add_message(Message.parse({**said.fields(), "of_mine": [2**70, -0.0]}) if at == 2 else said)
            await store.append_event(trace_id, "step", hard_object())
        await store.update_message(f"{trace_id}-0001", content="changed")
        await store.seal(trace_id)

    async def make() -> None:
        async with ArchiveStore(folder, durability="os") as store:
            for trace_id in ("a", "b", "c", "changed"):
                await record(store, trace_id)
            await store.create_trace(Trace(trace_id="empty"))
            await store.seal("empty")
            await store.optimize()
            await store.add_message(Message(trace_id="changed", role="user", content="more"))
            await store.seal("changed")
            await record(store, "new")

    asyncio.run(make())
    shutil.copytree(folder / CATALOG, folder.with_name("catalog"))
    return folder


@pytest.fixture
def archive(made: Path) -> Iterator[Path]:
    """The archive as it was made; it stays in its place, since a rollup is bound to that and ignored in a copy."""
    yield made
    shutil.rmtree(made / CATALOG)
    shutil.copytree(made.with_name("catalog"), made / CATALOG)


def rollup(archive: Path) -> Path:
    (found,) = (path.parent for path in (archive / ROLLUPS).glob(f"*/{ROLLUP_FILE}"))
    return found


def rewritten(archive: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of a file of the rollup, and make what the rollup says of it agree."""
    path = rollup(archive) / name
    schema = pq.read_schema(path)
    pq.write_table(change(pq.read_table(path)).cast(schema), path)
    about = rollup(archive) / ROLLUP_FILE
    told: dict[str, Any] = json.loads(json.dumps(decode_line(about.read_bytes(), ROLLUP_FILE)))
    told["files"][name] = path.stat().st_size
    told["crcs"][name] = file_crc(path)
    about.write_bytes(encode_line(told))


def cell(column: str, value: Any, trace_id: str) -> Callable[[pa.Table], pa.Table]:
    """Return what sets one cell of the first row of a trace."""

    def change(table: pa.Table) -> pa.Table:
        cells, ids = table[column].to_pylist(), table["trace_id"].to_pylist()
        cells[ids.index(trace_id)] = value
        at = table.schema.get_field_index(column)
        return table.set_column(at, table.schema.field(column), pa.array(cells, table.schema.field(column).type))

    return change


async def verified(archive: Path, *, deep: bool = True) -> list[Finding]:
    before = tree_state(archive)
    found = await ArchiveStore(archive).verify(deep=deep)
    assert tree_state(archive) == before
    return found


async def test_rollups_whose_rows_are_those_of_the_traces_are_fine(archive: Path) -> None:
    assert await verified(archive) == []


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("messages-1.parquet", "content", '"forged"'),
        ("messages-1.parquet", "cost", 7.0),
        ("messages-1.parquet", "usage", {"input_tokens": 99}),
        ("messages-1.parquet", "message_id", "other"),
        ("messages-1.parquet", "extra", '{"of_mine":1}'),
        ("events-1.parquet", "payload", "{}"),
        ("events-1.parquet", "event_id", 70),
        ("goals.parquet", "description", "forged"),
        ("goals.parquet", "self_stats", {"message_count": 99}),
        ("goals.parquet", "sub_trace_ids", ["a"]),
    ],
)
async def test_a_row_that_is_not_the_traces_is_found(archive: Path, name: str, column: str, value: Any) -> None:
    rewritten(archive, name, cell(column, value, "b"))
    found = await verified(archive)
    assert {finding.trace_id for finding in found if finding.file.endswith(name)} == {"b"}
    assert all("traceark optimize" in finding.remedy for finding in found)
    assert await verified(archive, deep=False) == []


async def test_a_row_too_few_is_found_and_one_that_nobody_is_shown_is_not(archive: Path) -> None:
    rewritten(archive, "messages-1.parquet", cell("content", '"forged"', "changed"))
    assert await verified(archive) == []
    rewritten(archive, "events-1.parquet", lambda table: table.slice(1))
    assert len(await verified(archive)) == 1


async def test_goals_that_are_missing_are_found_and_those_that_nobody_is_shown_are_not(archive: Path) -> None:
    rewritten(archive, "goals.parquet", cell("description", "forged", "changed"))
    assert await verified(archive) == []
    rewritten(archive, "goals.parquet", lambda table: table.slice(0, table.num_rows - 2))
    assert len(await verified(archive)) in (1, 2)


@pytest.mark.parametrize("name", ["messages-1.parquet", "events-1.parquet", "goals.parquet"])
async def test_rows_of_a_trace_that_is_not_in_the_rollup_are_found(archive: Path, name: str) -> None:
    rewritten(archive, name, lambda table: pa.concat_tables([table, cell("trace_id", "ghost", "b")(table.slice(0))]))
    assert "ghost" in {finding.trace_id for finding in await verified(archive)}


async def test_an_index_of_other_ids_is_found(archive: Path) -> None:
    rewritten(archive, IDS, lambda table: table.slice(1))
    [finding] = await verified(archive)
    assert finding.file.endswith(IDS)


async def test_a_file_that_cannot_be_read_is_found(archive: Path) -> None:
    path = rollup(archive) / "events-1.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    [finding] = await verified(archive)
    assert finding.file.endswith(path.name)


async def test_what_the_remedy_says_mends(archive: Path) -> None:
    rewritten(archive, "messages-1.parquet", cell("content", '"forged"', "b"))
    shutil.rmtree(rollup(archive))
    async with ArchiveStore(archive, durability="os") as store:
        await store.optimize()
        assert await store.verify(deep=True) == []
