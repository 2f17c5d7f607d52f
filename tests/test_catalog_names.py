"""Directories that come and go by hand, once the names of all have been read: only those that differ are looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import traceark.catalog.known
from test_catalog import assert_right, listed, made, store_at
from traceark.catalog.known import KnownTraces
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
