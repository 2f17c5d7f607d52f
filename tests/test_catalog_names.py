"""Directories that come and go by hand, once the names of all have been read: only those that differ are looked at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, strategies

import traceark.catalog.catalog
import traceark.catalog.files
import traceark.catalog.known
import traceark.catalog.names
from test_catalog import assert_right, listed, made, store_at
from traceark.catalog.known import KnownTraces
from traceark.catalog.lookup import Lookup
from traceark.catalog.names import Names
from traceark.catalog.table import CatalogTable
from traceark.errors import DamagedTraceWarning
from traceark.layout import TRACES, trace_id_of
from traceark.models import Trace


async def test_what_came_and_went_since_is_listed_as_it_is(tmp_path: Path) -> None:
    await made(tmp_path / "a", "x", "Y", "z/1")
    await made(tmp_path / "b", "New", "y")
    here, traces = store_at(tmp_path / "a"), tmp_path / "a" / TRACES
    await listed(here)
    for name in ("new~1", "y"):
        shutil.copytree(tmp_path / "b" / TRACES / name, traces / name)
        await assert_right(here)
    await here.create_trace(Trace(trace_id="own"))
    await assert_right(here)
    await here.delete_trace("x")
    shutil.rmtree(traces / "y~1")
    assert set(await assert_right(here)) == {"New", "y", "z/1", "own"}
    (traces / "y").rename(tmp_path / "away")
    assert set(await assert_right(here)) == {"New", "z/1", "own"}
    (tmp_path / "away").rename(traces / "y")
    assert set(await assert_right(here)) == {"New", "y", "z/1", "own"}
    await here.close()


async def test_all_rows_are_compared_once_and_then_only_those_whose_names_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(tmp_path, *(f"t{at}" for at in range(20)))
    here, other = store_at(tmp_path), store_at(tmp_path)
    decoded: list[str] = []
    compared = 0
    names_apart = CatalogTable.names_apart

    def decode(key: str) -> str | None:
        decoded.append(key)
        return trace_id_of(key)

    def compare(table: CatalogTable, ids: list[str]) -> tuple[list[str], list[str]]:
        nonlocal compared
        compared += 1
        return names_apart(table, ids)

    await other.create_trace(Trace(trace_id="first"))
    await listed(here)
    monkeypatch.setattr(traceark.catalog.known, "trace_id_of", decode)
    monkeypatch.setattr(CatalogTable, "names_apart", compare)
    for at in range(3):
        await other.create_trace(Trace(trace_id=f"new-{at}"))
        await other.delete_trace(f"t{at}")
        assert len(await listed(here)) == 21
    assert compared == 0
    assert sorted(decoded) == ["new-0", "new-1", "new-2"]
    shutil.rmtree(tmp_path / TRACES / "t9")
    assert len(await listed(here)) == 20
    assert compared == 1  # whose name it was that went, only the rows can tell
    await here.close()
    await other.close()


async def test_a_stranger_is_told_of_while_it_is_there_and_no_longer(tmp_path: Path) -> None:
    await made(tmp_path, "t")
    here = store_at(tmp_path)
    await listed(here)
    (tmp_path / TRACES / "Stranger").mkdir()
    (tmp_path / TRACES / "Another").mkdir()
    with pytest.warns(DamagedTraceWarning, match="Stranger is no trace key"):
        assert set(await listed(here)) == {"t"}
    (tmp_path / TRACES / "Stranger").rename(tmp_path / "away")
    with pytest.warns(DamagedTraceWarning) as told:
        assert set(await listed(here)) == {"t"}
    assert [str(each.message).split()[2] for each in told] == ["traces/Another"]
    await here.close()


async def test_an_empty_directory_that_is_filled_is_listed_as_soon_as_another_comes(tmp_path: Path) -> None:
    await made(tmp_path / "a", "t")
    await made(tmp_path / "b", "u", "v")
    here, traces = store_at(tmp_path / "a"), tmp_path / "a" / TRACES
    await listed(here)
    (traces / "u").mkdir()
    assert set(await listed(here)) == {"t"}
    shutil.copytree(tmp_path / "b" / TRACES / "u", traces / "u", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "b" / TRACES / "v", traces / "v")
    assert set(await assert_right(here)) == {"t", "u", "v"}
    await here.close()


async def test_names_and_rows_are_compared_anew_after_a_fault_and_after_very_many_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(tmp_path / "a", "t", "u")
    await made(tmp_path / "b", "v")
    here = store_at(tmp_path / "a")
    await listed(here)
    shutil.copytree(tmp_path / "b" / TRACES / "v", tmp_path / "a" / TRACES / "v")

    async def fails(known: KnownTraces, missing: list[str]) -> None:
        raise OSError("the processor is on fire")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="on fire"):
        patch.setattr(KnownTraces, "remove", fails)
        await listed(here)
    assert set(await assert_right(here)) == {"t", "u", "v"}
    monkeypatch.setattr(traceark.catalog.known, "_MOST_TOUCHED", 1)
    for trace_id in ("t", "u", "v"):
        await here.update_trace(trace_id, task="changed")
        await listed(here)
    shutil.rmtree(tmp_path / "a" / TRACES / "u")
    assert set(await assert_right(here)) == {"t", "v"}
    await here.close()


NAMES = strategies.lists(strategies.sampled_from([f"run-{at}" for at in range(40)]), unique=True)


@given(NAMES, NAMES, strategies.booleans())
def test_what_came_and_what_went_is_told_in_whatever_order_names_are_listed(
    before: list[str], now: list[str], is_ordered: bool
) -> None:
    if is_ordered:
        before, now = sorted(before), sorted({*before, *now})
    came, went = Names(now).since(Names(before), now)
    assert came == [each for each in now if each not in before]
    assert went == {hash(each) for each in before if each not in now}
    assert Names(now).without(before) == [each for each in before if each not in now]


def test_names_are_looked_up_only_where_some_went_or_stand_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[int] = []
    absent = traceark.catalog.names._absent

    def count(hashes: pa.Array, among: pa.Array) -> pa.Array:
        looked_up.append(len(hashes))
        return absent(hashes, among)

    all_names = [f"run-{at}" for at in range(500)]
    before = Names(all_names)
    monkeypatch.setattr(traceark.catalog.names, "_absent", count)
    now = ["new-1", *all_names[:300], "new-2", "new-3", *all_names[300:], "new-4"]
    assert Names(now).since(before, now) == ([f"new-{at}" for at in range(1, 5)], set())
    assert Names(all_names).since(before, all_names) == ([], set())
    assert not looked_up
    assert Names(all_names[::-1]).since(before, all_names[::-1]) == ([], set())
    now = ["new-1", *all_names[1:]]
    assert Names(now).since(before, now) == (["new-1"], {hash("run-0")})
    assert looked_up == [500, 500, 500, 500]


async def test_traces_that_came_by_hand_are_read_by_one_process_and_not_by_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traceark.catalog.catalog, "FOLD_FILES", 4)
    await made(tmp_path / "a", "t")
    await made(tmp_path / "b", *(f"copy-{at}" for at in range(6)))
    for at in range(6):
        shutil.copytree(tmp_path / "b" / TRACES / f"copy-{at}", tmp_path / "a" / TRACES / f"copy-{at}")
    read: list[str] = []
    row = Lookup.row

    async def reads(lookup: Lookup, trace_id: str, *rest: Any) -> Any:
        read.append(trace_id)
        return await row(lookup, trace_id, *rest)

    monkeypatch.setattr(Lookup, "row", reads)
    for at in range(2):
        here = store_at(tmp_path / "a")
        assert len(await listed(here)) == 7
        await here.close()
        assert bool(read) == (at == 0)
        read.clear()
    await assert_right(store_at(tmp_path / "a"))


async def test_of_many_traces_more_change_files_are_left_before_all_rows_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traceark.catalog.catalog, "FOLD_FILES", 2)
    monkeypatch.setattr(traceark.catalog.catalog, "_SHARE_ON_DISK", 4)
    await made(tmp_path, *(f"t{at}" for at in range(20)), messages=0)
    published: list[int] = []
    publish = traceark.catalog.files.publish

    async def publishes(*given: Any) -> Any:
        published.append(1)
        return await publish(*given)

    writer, here = store_at(tmp_path), store_at(tmp_path)
    await listed(here)
    await here.refresh()
    monkeypatch.setattr(traceark.catalog.files, "publish", publishes)
    for at in range(6):
        await writer.create_trace(Trace(trace_id=f"new-{at}"))
        assert len(await listed(here)) == 20 + at + 1
    assert not published
    await writer.create_trace(Trace(trace_id="one too many"))
    assert len(await listed(here)) == 27
    await here.close()
    assert len(published) == 1
    await writer.close()
