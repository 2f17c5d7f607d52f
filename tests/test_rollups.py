"""Rollups: what goes into them, which rows of them count, and that they are never needed and never wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import warnings
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import in_turn, some, tried
from traceark.catalog.rows import tree_number
from traceark.codec.fields import EVENTS, GOALS, MESSAGES
from traceark.codec.lines import decode_line, encode_line, to_record
from traceark.codec.parquet import arrow_schema, to_table
from traceark.errors import BusyError, DamagedTraceWarning
from traceark.headers import Header
from traceark.layout import GOAL_TREE, HEADER, LOGS, trace_prefix
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.rollups.cache import FileCache
from traceark.rollups.coverage import MEMBERS_SCHEMA, all_members, cover, cover_all_views
from traceark.rollups.files import (
    GOALS_FILE,
    MEMBER_SCHEMA,
    MEMBERS,
    ROLLUP_FILE,
    ROLLUPS,
    ROW_SCHEMA,
    Rollup,
    current,
    decode_rollup,
    message_hash,
    next_id,
)
from traceark.rollups.optimize import optimize, purge
from traceark.rollups.plan import Candidate, Limits, Weight, cut, in_order, plan_merges, sizes_by_tier
from traceark.rollups.reader import RollupReader
from traceark.rollups.workshop import OptimizeReport, PurgeReport
from traceark.storage import storage_for
from traceark.storage.base import AppendStorage, KeyMissingError, Storage
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing.values import hard_object

Answer = TypeVar("Answer")
BINDING = "5f3a9c21"
# Everything is merged as soon as there are two.
EAGER = Limits(fan_in=2)


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run one coroutine to its end."""
    return asyncio.run(work)


class Place:
    """An archive on one backend, with a store to write and the catalog's rows faked from the directories."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url = url
        self.storage: Storage = storage_for(url, {}, "os")
        self.cache = FileCache(self.storage, cache)

    @property
    def local(self) -> bool:
        """Whether the archive is on a local disk."""
        return isinstance(self.storage, AppendStorage)

    async def record(self, trace_id: str, *, messages: int = 3, events: int = 2, goals: int = 1) -> None:
        """Write a sealed trace."""
        async with ArchiveStore(self.url, durability="os") as store:
            await store.create_trace(Trace(trace_id=trace_id, task="t"))
            if goals:
                tree = GoalTree(mission="m", goals=[Goal.parse({"id": str(at), "own": 1}) for at in range(goals)])
                await store.update_goal_tree(trace_id, tree)
            for at in range(messages):
                # The last comes first: rows are kept in the order of `sequence`.
                await store.add_message(
                    Message.parse(
                        {
                            "trace_id": trace_id,
                            "role": "user",
                            "message_id": f"{trace_id}/{at}",
                            "sequence": messages - at,
                            "content": f"message {at}" if at else hard_object(),
                            "usage": {"input_tokens": at, "own": 2**70},
                            "goal_id": "0",
                        }
                    )
                )
            for at in range(events):
                await store.append_event(trace_id, "step", {"at": at})
            await store.seal(trace_id)

    async def rows(self) -> pa.Table:
        """Return the catalog's rows of all sealed traces, going by their directories."""
        found: list[dict[str, Any]] = []
        async with ArchiveStore(self.url, durability="os") as store:
            traces = await store.list_traces(limit=1000)
        for trace in traces:
            prefix = trace_prefix(trace.trace_id)
            names = await self.storage.list(prefix)
            header = Header.decode(await self.storage.read(f"{prefix}/{HEADER}"), HEADER)
            parts = {log: header.checkpoint.files.get(log, (None, 0))[0] for log in LOGS}
            tree = names.get(GOAL_TREE)
            found.append(
                {
                    "trace_id": trace.trace_id,
                    "created_at": trace.created_at,
                    "total_messages": trace.total_messages,
                    "last_event_id": trace.last_event_id,
                    "_incarnation": header.incarnation,
                    "_messages": parts["messages"],
                    "_events": parts["events"],
                    "_tree": None if tree is None else tree_number(tree.size, tree.version),
                }
            )
        return pa.Table.from_pylist(found, schema=ROW_SCHEMA)

    async def optimize(self, rows: pa.Table | None = None, **options: Any) -> OptimizeReport:
        """Bring the rollups up to date with the directories."""
        return await optimize(self.storage, BINDING, await self.rows() if rows is None else rows, **options)

    async def purge(self, *trace_ids: str) -> PurgeReport:
        """Purge traces from the rollups."""
        return await purge(self.storage, BINDING, trace_ids)

    def reader(self) -> RollupReader:
        """Return a new reader."""
        return RollupReader(self.storage, BINDING, self.cache)

    async def seen(self, view: str, rows: pa.Table | None = None) -> list[dict[str, Any]]:
        """Return a view's rows as a reader sees them in rollups, those that are masked left out."""
        reader = self.reader()
        rollups = await reader.refresh()
        coverage = cover(await self.rows() if rows is None else rows, reader.members())
        masks = coverage.masks(len(rollups), goals=view == "goals")
        found: list[dict[str, Any]] = []
        for paths, mask in zip(await reader.paths(view), masks, strict=True):
            for path in paths:
                found += [row for row in pq.read_table(path).to_pylist() if row["trace_id"] not in mask]
        return found

    async def truth(self, view: str) -> list[dict[str, Any]]:
        """Return a view's rows as the store gives them, by trace."""
        found: list[dict[str, Any]] = []
        async with ArchiveStore(self.url, durability="os") as store:
            for trace in await store.list_traces(limit=1000):
                records: list[Any] = []
                if view == "messages":
                    records = [to_record(each) for each in await store.get_trace_messages(trace.trace_id)]
                elif view == "events":
                    events = await store.get_events(trace.trace_id)
                    records = [{"trace_id": trace.trace_id, **to_record(each)} for each in events]
                elif tree := await store.get_goal_tree(trace.trace_id):
                    for position, goal in enumerate(tree.goals):
                        record = to_record(goal)
                        records.append(
                            {"trace_id": trace.trace_id, "goal_id": record.pop("id"), "position": position, **record}
                        )
                columns = {"messages": MESSAGES, "events": EVENTS, "goals": GOALS}[view]
                found += to_table(columns, records).to_pylist()
        return found


KINDS = ("local", "memory")
# What these end with is another thing on another kind of storage.
OF_BOTH_KINDS = {"test_rollups_merge_and_keep_every_row", "test_a_run_that_was_killed_leaves_nothing_that_counts"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give most tests one kind of storage, in turn; a thorough run gives each both."""
    if "place" in metafunc.fixturenames:
        name = metafunc.function.__name__
        kinds = KINDS if name in OF_BOTH_KINDS else in_turn(KINDS, name)
        metafunc.parametrize("place", kinds, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An archive on each kind of storage."""
    if request.param == "local":
        # A directory whose name DuckDB would take for a pattern.
        yield Place(str(tmp_path / "a*[1]?'x"), tmp_path / "cache")
        return
    name = f"rollups-{secrets.token_hex(4)}"
    yield Place(f"memory://{name}", tmp_path / "cache")
    MemoryStorage.forget(name)


def by_trace(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return rows as text by trace, their order within it kept."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["trace_id"], []).append(repr(row))
    return found


async def check(place: Place, rows: pa.Table | None = None) -> None:
    """Check that rollups hold exactly what the store gives, each row once."""
    if rows is None:
        rows = await place.rows()
    for view in ("messages", "events", "goals"):
        assert by_trace(await place.seen(view, rows)) == by_trace(await place.truth(view)), view


def test_a_rollup_holds_every_row_as_the_store_gives_it(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "B", "c/d'e", "empty"):
            await place.record(trace_id, messages=3 * (trace_id != "empty"), events=2 * (trace_id != "empty"))
        report = await place.optimize()
        assert (report.made, report.traces, report.messages, report.events) == (1, 4, 9, 6)
        await check(place)

    run(story())


def test_a_second_run_does_nothing(place: Place) -> None:
    async def story() -> None:
        await place.record("a")
        await place.optimize()
        before = await place.storage.list(ROLLUPS)
        report = await place.optimize()
        assert (report.made, report.merged, report.purged, report.removed) == (0, 0, 0, 0)
        assert {name: entry.version for name, entry in before.items() if name != ".lock"} == {
            name: entry.version for name, entry in (await place.storage.list(ROLLUPS)).items() if name != ".lock"
        }

    run(story())


def test_a_rollup_is_parquet_with_field_ids_and_the_columns_of_the_views(place: Place) -> None:
    async def story() -> None:
        await place.record("a")
        await place.optimize()
        reader = place.reader()
        await reader.refresh()
        for view, columns in (("messages", MESSAGES), ("events", EVENTS), ("goals", GOALS)):
            [[path]] = await reader.paths(view)
            found = pq.read_schema(path)
            assert found.names == [column.name for column in columns]
            for field, expected in zip(found, arrow_schema(columns), strict=True):
                assert field.type == expected.type or pa.types.is_list(field.type)
                assert field.metadata[b"PARQUET:field_id"] == expected.metadata[b"PARQUET:field_id"]

    run(story())


def test_rollups_merge_and_keep_every_row(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b", "c"):
            await place.record(trace_id)
            report = await place.optimize(limits=EAGER)
        assert report.merged == 2
        # Where there is no lock, what was replaced stays for a while, for those who read it.
        assert report.removed == (2 if place.local else 0)
        reader = place.reader()
        [rollup] = await reader.refresh()
        assert rollup.rows == {"messages": 9, "events": 6, "goals": 3, "traces": 3}
        await check(place)

    run(story())


def test_a_trace_written_to_again_shows_no_old_rows_and_is_rolled_up_anew(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b"):
            await place.record(trace_id)
        await place.optimize()
        async with ArchiveStore(place.url, durability="os") as store:
            await store.add_message(Message(trace_id="a", role="user", message_id="late", content="x"))
            await store.seal("a")
        rows = await place.rows()
        assert {row["trace_id"] for row in await place.seen("messages", rows)} == {"b"}
        report = await place.optimize(rows)
        assert (report.made, report.traces, report.purged) == (1, 1, 1)
        await check(place)

    run(story())


def test_a_goal_tree_written_again_hides_the_goals_alone(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b"):
            await place.record(trace_id)
        rows = await place.rows()
        await place.optimize(rows)
        changed = rows.set_column(
            rows.schema.get_field_index("_tree"),
            "_tree",
            pa.array(
                [
                    99 if each == "a" else tree
                    for each, tree in zip(rows["trace_id"].to_pylist(), rows["_tree"].to_pylist(), strict=True)
                ],
                pa.int64(),
            ),
        )
        assert {row["trace_id"] for row in await place.seen("goals", changed)} == {"b"}
        assert {row["trace_id"] for row in await place.seen("messages", changed)} == {"a", "b"}
        reader = place.reader()
        await reader.refresh()
        assert cover(changed, reader.members()).uncovered_goals["trace_id"].to_pylist() == ["a"]
        # A tree that is not the one of the catalog is not taken; it is read where it lies, and not tried for ever.
        await place.optimize(changed)
        assert {row["trace_id"] for row in await place.seen("goals", changed)} == {"b"}
        again = await place.optimize(changed)
        assert (again.made, again.purged) == (0, 0)

    run(story())


def test_a_rollup_that_took_no_goals_is_made_anew_with_them(place: Place) -> None:
    """As builds of the first release made them: every trace's `tree` is -1, and there are no goals."""

    async def story() -> None:
        for trace_id in ("a", "b"):
            await place.record(trace_id)
        rows = await place.rows()
        await place.optimize(rows)
        reader = place.reader()
        [rollup] = await reader.refresh()
        members = reader.members_of(rollup.id)
        column = members.schema.get_field_index("tree")
        without = members.set_column(column, "tree", pa.array([-1, -1], pa.int64()))
        sink = BytesIO()
        pq.write_table(without, sink)
        await place.storage.replace(rollup.key(MEMBERS), sink.getvalue())
        files = {name: size for name, size in rollup.files.items() if name != GOALS_FILE}
        files[MEMBERS] = len(sink.getvalue())
        old = replace(rollup, files=files, crcs={}, rows={**rollup.rows, "goals": 0})
        await place.storage.delete([rollup.key(GOALS_FILE)])
        await place.storage.replace(rollup.key(ROLLUP_FILE), old.encode(BINDING))
        place.cache.forget(rollup.key(MEMBERS))
        # It is read as it is: its goals lie with the traces.
        assert await place.seen("goals", rows) == []
        assert {row["trace_id"] for row in await place.seen("messages", rows)} == {"a", "b"}
        assert (await place.optimize(rows)).traces == 2
        await check(place, rows)
        assert (await place.optimize(rows)).made == 0

    run(story())


def test_a_deleted_trace_leaves_no_bytes(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("kept", "secret"):
            await place.record(trace_id)
        await place.optimize()
        report = await place.purge("secret", "unknown")
        assert report.rewritten == 1 and not report.unread
        for name in await place.storage.list(ROLLUPS):
            if name.endswith(".parquet"):
                path = await place.cache.path(f"{ROLLUPS}/{name}", (await place.storage.list(ROLLUPS))[name].size)
                assert "secret" not in str(pq.read_table(path).to_pylist())
        assert {row["trace_id"] for row in await place.seen("messages")} == {"kept"}
        assert (await place.purge("kept")).rewritten == 1
        assert not [name for name in await place.storage.list(ROLLUPS) if name != ".lock"]

    run(story())


def test_traces_that_are_gone_are_purged_by_the_next_run(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b"):
            await place.record(trace_id)
        rows = await place.rows()
        await place.optimize(rows)
        left = rows.filter(pa.compute.equal(rows["trace_id"], "a"))
        assert (await place.optimize(left)).purged == 1
        assert {row["trace_id"] for row in await place.seen("messages", rows)} == {"a"}

    run(story())


@pytest.mark.parametrize(("log", "damage"), some(itertools.product(LOGS, ["torn", "flipped", "foreign", "gone"]), 1))
def test_a_damaged_part_leaves_out_its_trace_alone(place: Place, log: str, damage: str) -> None:
    async def story() -> None:
        for trace_id in ("a", "bad", "c"):
            await place.record(trace_id)
        rows = await place.rows()
        of = {row["trace_id"]: row for row in rows.to_pylist()}
        key = f"{trace_prefix('bad')}/{log}/{of['bad'][f'_{log}']}"
        data = await place.storage.read(key)
        if damage == "torn":
            await place.storage.replace(key, data[: len(data) // 2])
        elif damage == "flipped":
            await place.storage.replace(key, data[:60] + bytes([data[60] ^ 1]) + data[61:])
        elif damage == "foreign":
            await place.storage.replace(
                key, await place.storage.read(f"{trace_prefix('a')}/{log}/{of['a'][f'_{log}']}")
            )
        else:
            await place.storage.delete([key])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", DamagedTraceWarning)
            report = await place.optimize(rows)
        # What is gone was reopened or deleted since the catalog was read: no damage.
        assert report.left_out == ([] if damage == "gone" else ["bad"])
        assert [str(each.message) for each in said if "'bad'" in str(each.message)] or damage == "gone"
        assert report.traces == 2
        for view in ("messages", "events", "goals"):
            assert {row["trace_id"] for row in await place.seen(view, rows)} == {"a", "c"}

    run(story())


def test_a_part_of_another_trace_under_a_right_name_leaves_out_its_trace(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "bad"):
            await place.record(trace_id)
        rows = await place.rows()
        of = {row["trace_id"]: row for row in rows.to_pylist()}
        name = of["a"]["_messages"]
        await place.storage.replace(
            f"{trace_prefix('bad')}/messages/{name}",
            await place.storage.read(f"{trace_prefix('a')}/messages/{name}"),
        )
        rows = pa.Table.from_pylist([of["a"], of["bad"] | {"_messages": name}], schema=ROW_SCHEMA)
        with pytest.warns(DamagedTraceWarning, match="bad"):
            assert (await place.optimize(rows)).left_out == ["bad"]
        assert len(await place.seen("messages", rows)) == 3

    run(story())


def test_totals_that_a_caller_set_are_no_damage(place: Place) -> None:
    async def story() -> None:
        await place.record("a")
        async with ArchiveStore(place.url, durability="os") as store:
            await store.update_trace("a", total_messages=99)
            await store.seal("a")
        report = await place.optimize()
        assert (report.left_out, report.messages) == ([], 3)
        await check(place)

    run(story())


@pytest.mark.parametrize(
    "damage", some(["no json", "torn json", "missing", "size", "foreign", "newer", "renamed", "members"], 1)
)
def test_what_is_no_rollup_is_ignored_and_made_again(place: Place, damage: str) -> None:
    async def story() -> None:
        await place.record("a")
        rows = await place.rows()
        await place.optimize(rows)
        [rollup] = await place.reader().refresh()
        key = rollup.key(ROLLUP_FILE)
        data = await place.storage.read(key)
        record = decode_line(data, key)
        if damage == "no json":
            await place.storage.delete([key])
        elif damage == "torn json":
            await place.storage.replace(key, data[:-9])
        elif damage == "missing":
            await place.storage.delete([rollup.key("events-1.parquet")])
        elif damage == "size":
            await place.storage.replace(rollup.key("events-1.parquet"), b"PAR1")
        elif damage == "members":
            await place.storage.replace(rollup.key("members.parquet"), b"x" * rollup.files["members.parquet"])
            place.cache.forget(rollup.key("members.parquet"))
        elif damage == "renamed":
            await place.storage.replace(key, data.replace(rollup.id.encode(), b"000000000009-00000000"))
        else:
            record |= {"binding": "other"} if damage == "foreign" else {"format": 2}
            await place.storage.replace(key, encode_line(record))
        assert await place.reader().refresh() == []
        assert (await place.optimize(rows)).made == 1
        await check(place, rows)

    run(story())


@pytest.mark.parametrize("damage", ["unreadable", "a bit"])
def test_a_damaged_rollup_is_removed_by_a_merge_and_made_again(place: Place, damage: str) -> None:
    async def story() -> None:
        await place.record("a")
        await place.optimize()
        await place.record("b")
        [rollup] = await place.reader().refresh()
        name = rollup.names("messages")[0]
        data = await place.storage.read(rollup.key(name))
        changed = data[:4] + bytes(len(data) - 8) + data[-4:]
        if damage == "a bit":
            # Readable, and another message: in the rollup that it is merged into nobody would notice.
            at = data.index(b"a/0")
            changed = data[:at] + b"b" + data[at + 1 :]
        await place.storage.replace(rollup.key(name), changed)
        with pytest.warns(DamagedTraceWarning, match=rollup.id):
            await place.optimize(limits=EAGER)
        await place.optimize(limits=EAGER)
        await check(place)

    run(story())


def test_a_damaged_rollup_is_made_again_by_the_next_run(tmp_path: Path) -> None:
    async def story() -> None:
        place = Place(str(tmp_path / "a"), tmp_path / "cache")
        await place.record("a")
        await place.optimize()
        [rollup] = await place.reader().refresh()
        key = rollup.key(rollup.names("messages")[0])
        data = await place.storage.read(key)
        await place.storage.replace(key, data[:9] + bytes([data[9] ^ 1]) + data[10:])
        with pytest.warns(DamagedTraceWarning, match=rollup.id):
            assert (await place.optimize()).made == 1
        await check(place)
        assert rollup.id not in {each.id for each in await place.reader().refresh()}

    run(story())


def test_to_look_for_damage_fetches_nothing_that_was_not_read(tmp_path: Path) -> None:
    async def story() -> None:
        place = Place("memory://fetches", tmp_path / "cache")
        await place.record("a")
        await place.optimize()
        reader = place.reader()
        [rollup] = await reader.refresh()
        [[path]] = await reader.paths("messages")
        for name in rollup.files:
            place.cache.forget(rollup.key(name))
        assert not await reader.leave_out_damaged({str(path.with_name("of another archive"))})
        assert list(path.parent.iterdir()) == []

    run(story())


def test_all_that_are_damaged_are_left_out_at_once(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b", "c"):
            await place.record(trace_id)
            await place.optimize()
        reader = place.reader()
        for rollup in await reader.refresh():
            key = rollup.key(rollup.names("messages")[0])
            await place.storage.replace(key, bytes(len(await place.storage.read(key))))
            place.cache.forget(key)
        with pytest.warns(DamagedTraceWarning), pytest.raises(KeyMissingError, match="left out"):
            await reader.paths("messages")
        assert await reader.refresh() == []

    run(story())


def test_a_run_that_was_killed_leaves_nothing_that_counts(place: Place) -> None:
    async def story() -> None:
        await place.record("a")
        await place.storage.create(f"{ROLLUPS}/000000000001-00000000/messages-1.parquet", b"half")
        assert (await place.optimize()).made == 1
        await check(place)
        left = [name for name in await place.storage.list(ROLLUPS) if name.startswith("000000000001-00000000")]
        # On an object store it may be somebody's upload that is going on.
        assert bool(left) != place.local

    run(story())


def test_one_run_at_a_time_on_a_local_disk(tmp_path: Path) -> None:
    async def story() -> None:
        place = Place(str(tmp_path / "a"), tmp_path / "cache")
        await place.record("a")
        await place.optimize()
        assert isinstance(place.storage, AppendStorage)
        lock = place.storage.lock(f"{ROLLUPS}/.lock")
        assert lock.try_acquire()
        try:
            with pytest.raises(BusyError):
                await place.optimize()
            with pytest.raises(BusyError):
                await place.purge("a")
        finally:
            lock.close()
        assert (await place.purge("a")).rewritten == 1

    run(story())


def test_two_runs_that_race_show_no_row_twice(tmp_path: Path) -> None:
    async def story() -> None:
        name = f"race-{secrets.token_hex(4)}"
        place = Place(f"memory://{name}", tmp_path / "cache")
        for trace_id in ("a", "b"):
            await place.record(trace_id)
        rows = await place.rows()
        await asyncio.gather(*(place.optimize(rows) for _ in range(3)))
        await check(place, rows)
        await place.optimize(rows)
        await check(place, rows)
        MemoryStorage.forget(name)

    run(story())


def test_progress_tells_how_many_traces_are_done(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b", "c"):
            await place.record(trace_id)
        said: list[tuple[int, int]] = []
        report = await place.optimize(progress=lambda done, total: said.append((done, total)), limits=Limits(traces=1))
        assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
        assert report.made == 3

    run(story())


def test_a_message_is_found_by_its_id_alone(place: Place) -> None:
    async def story() -> None:
        for trace_id in ("a", "b", "c"):
            await place.record(trace_id)
            await place.optimize(limits=EAGER)
        reader = place.reader()
        await reader.refresh()
        assert await reader.find_message("b/1") == ["b"]
        assert await reader.find_message("b/99") == []

    run(story())


@settings(max_examples=tried(5, 100))
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_hash_of_a_message_id_is_that_of_duckdb(message_id: str) -> None:
    found = duckdb.execute("SELECT md5_number_upper(?), typeof(md5_number_upper(?))", [message_id] * 2).fetchone()
    assert found == (message_hash(message_id), "UBIGINT")


def test_a_cache_keeps_within_its_bound_and_files_whole(tmp_path: Path) -> None:
    async def story() -> None:
        name = f"cache-{secrets.token_hex(4)}"
        storage = MemoryStorage(name)
        for at in range(4):
            await storage.create(f"f{at}", b"x" * 100)
        cache = FileCache(storage, tmp_path / "cache", max_bytes=250)
        paths = [await cache.path(f"f{at}", 100) for at in range(2)]
        assert all(path.read_bytes() == b"x" * 100 for path in paths)
        os.utime(paths[0], (1, 1))
        os.utime(paths[1], (2, 2))
        await cache.path("f0", 100)
        assert paths[0].stat().st_mtime > 2
        await cache.path("f2", 100)
        assert not paths[1].exists() and paths[0].exists()
        paths[0].write_bytes(b"torn")
        assert (await cache.path("f0", 100)).read_bytes() == b"x" * 100
        cache.forget("f0")
        assert not paths[0].exists()
        many = await asyncio.gather(*(FileCache(storage, tmp_path / "cache").path("f3", 100) for _ in range(8)))
        assert len(set(many)) == 1 and many[0].read_bytes() == b"x" * 100
        MemoryStorage.forget(name)

    run(story())


# --- laws of the plan


def candidate(at: int, created_at: int | None, records: int, size: int) -> Candidate:
    """Return a candidate of a size."""
    return Candidate(f"t{at}", created_at, records, 0, "i", "p", None, None, size, records)


candidates = st.lists(
    st.tuples(st.none() | st.integers(0, 50), st.integers(0, 30), st.integers(0, 30)), max_size=40
).map(lambda drawn: [candidate(at, *each) for at, each in enumerate(drawn)])
LIMITS = Limits(records=50, bytes=60, traces=7, fan_in=3, smallest_tier_bytes=4, largest_bytes=200)


@settings(max_examples=tried(40, 500))
@given(candidates)
def test_every_candidate_is_in_one_batch_in_order_and_within_bounds(found: list[Candidate]) -> None:
    ordered = in_order(found)
    batches = list(cut(ordered, LIMITS))
    assert [each for batch in batches for each in batch] == ordered
    assert sorted(each.trace_id for each in ordered) == sorted(each.trace_id for each in found)
    times = [each.created_at for each in ordered if each.created_at is not None]
    assert times == sorted(times)
    for batch in batches:
        assert batch and len(batch) <= LIMITS.traces
        assert len(batch) == 1 or sum(each.records for each in batch) <= LIMITS.records
        assert len(batch) == 1 or sum(each.bytes for each in batch) <= LIMITS.bytes


def merged(rollups: list[Weight], limits: Limits) -> tuple[list[Weight], int]:
    """Do what is planned until nothing is; return what is left, and how many bytes were written."""
    written = 0
    while groups := plan_merges(rollups, limits):
        planned = [each for group in groups for each in group]
        assert len(planned) == len(set(planned))
        of = {each.id: each for each in rollups}
        rollups = [each for each in rollups if each.id not in planned]
        for group in groups:
            size = sum(of[each].bytes for each in group)
            written += size
            rollups.append(Weight(next_id([*of, *(each.id for each in rollups)], "0" * 8), size))
    return rollups, written


@settings(max_examples=tried(40, 500))
@given(st.lists(st.tuples(st.integers(0, 250), st.booleans()), max_size=60))
def test_merging_ends_with_few_rollups_in_each_tier_and_loses_none(drawn: list[tuple[int, bool]]) -> None:
    rollups = [Weight(f"{at:012d}-0", size, int(masked)) for at, (size, masked) in enumerate(drawn)]
    left, _ = merged(rollups, LIMITS)
    assert sum(each.bytes for each in left) == sum(each.bytes for each in rollups)
    assert not any(each.masked for each in left)
    for tier, count in sizes_by_tier(left, LIMITS).items():
        assert tier == -1 or count < LIMITS.fan_in


@settings(max_examples=tried(40, 500))
@given(st.integers(1, 300), st.integers(1, 3))
def test_rollups_stay_few_and_rows_are_rewritten_few_times(runs: int, size: int) -> None:
    rollups: list[Weight] = []
    written = 0
    for at in range(runs):
        rollups.append(Weight(next_id([each.id for each in rollups], f"{at:08x}"), size))
        rollups, more = merged(rollups, LIMITS)
        written += more
    total = runs * size
    # Tiers up to half the largest size, with fewer than `fan_in` each, and the large ones.
    assert len(rollups) <= 2 * 5 + total // (LIMITS.largest_bytes // 2) + 1
    assert written <= total * 6


# --- laws of coverage

ids = st.sampled_from(["a", "b", "c", "d"])
versions = st.tuples(st.sampled_from(["i", "j"]), st.sampled_from(["p", "q", None]), st.sampled_from([1, 2, None]))
rollups_drawn = st.lists(st.dictionaries(ids, versions, max_size=4), max_size=4)
rows_drawn = st.dictionaries(ids, versions, max_size=4)


def row_table(drawn: dict[str, Any]) -> pa.Table:
    """Return rows of the catalog."""
    return pa.Table.from_pylist(
        [
            {"trace_id": each, "_incarnation": incarnation, "_messages": part, "_events": None, "_tree": tree}
            for each, (incarnation, part, tree) in drawn.items()
        ],
        schema=ROW_SCHEMA,
    )


def member_table(drawn: list[dict[str, Any]]) -> pa.Table:
    """Return members of rollups."""
    tables = [
        pa.Table.from_pylist(
            [
                {"trace_id": each, "incarnation": incarnation, "messages": part, "events": None, "tree": tree}
                for each, (incarnation, part, tree) in members.items()
            ],
            schema=MEMBER_SCHEMA,
        )
        for members in drawn
    ]
    return all_members(tables)


def pairs(table: pa.Table) -> set[tuple[Any, ...]]:
    """Return a table's rows as tuples."""
    return {tuple(row.values()) for row in table.to_pylist()}


@settings(max_examples=tried(10, 200))
@given(rows_drawn, rollups_drawn)
def test_each_trace_counts_once_and_only_where_the_catalog_agrees(
    rows: dict[str, Any], held: list[dict[str, Any]]
) -> None:
    found = cover(row_table(rows), member_table(held))
    valid = {
        trace_id: at
        for at, members in reversed(list(enumerate(held)))
        for trace_id, version in members.items()
        if trace_id in rows and version[:2] == rows[trace_id][:2]
    }
    assert pairs(found.valid) == {(at, trace_id) for trace_id, at in valid.items()}
    everyone = {(at, trace_id) for at, members in enumerate(held) for trace_id in members}
    assert pairs(found.masked) == everyone - pairs(found.valid)
    assert set(found.uncovered["trace_id"].to_pylist()) == rows.keys() - valid.keys()
    with_goals = {(at, each) for each, at in valid.items() if held[at][each][2] == rows[each][2]}
    assert pairs(found.masked_goals) == everyone - with_goals
    assert set(found.uncovered_goals["trace_id"].to_pylist()) == {
        each for each, version in rows.items() if version[2] is not None
    } - {each for _, each in with_goals}
    assert len(found.masked) == len(pairs(found.masked))


@settings(max_examples=tried(10, 200))
@given(rows_drawn, rollups_drawn, st.sets(ids))
def test_a_part_of_the_traces_can_be_asked_about_alone(
    rows: dict[str, Any], held: list[dict[str, Any]], changed: set[str]
) -> None:
    whole = cover(row_table(rows), member_table(held))
    some = cover(
        row_table({each: version for each, version in rows.items() if each in changed}),
        member_table([{each: version for each, version in members.items() if each in changed} for members in held]),
    )
    for name in ("valid", "masked", "masked_goals"):
        assert pairs(getattr(some, name)) == {row for row in pairs(getattr(whole, name)) if row[1] in changed}
    for name in ("uncovered", "uncovered_goals"):
        assert set(getattr(some, name)["trace_id"].to_pylist()) == changed & set(
            getattr(whole, name)["trace_id"].to_pylist()
        )


def test_no_rollups_cover_nothing() -> None:
    rows = row_table({"a": ("i", "p", None)})
    for coverage in (cover(rows, MEMBERS_SCHEMA.empty_table()), cover_all_views(rows, all_members([]))):
        assert coverage.uncovered["trace_id"].to_pylist() == ["a"]
        assert coverage.masks(0) == []


def test_what_a_complete_rollup_replaces_is_not_read() -> None:
    old, new = Rollup("000000000001-a", {}, {}, {}), Rollup("000000000002-b", {}, {}, {}, replaces=("000000000001-a",))
    assert current([new, old]) == ([new], [old])
    assert current([old]) == ([old], [])
    assert decode_rollup(new.encode(BINDING), new.id, BINDING) == new
    assert json.loads(new.encode(BINDING))["binding"] == BINDING
