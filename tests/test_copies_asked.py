"""SQL over what a copier leaves says what reading it says, whatever of catalog and rollups is there.

A copy lies elsewhere, with what came of its catalog; or traces are copied back over those that a catalog tells of.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from film import NOW, Film, Frame, laid_out, message, prints
from profiles import SEED, tried
from test_copiers import COPIERS, Copying, Source
from traceark.errors import CorruptFileError, DamagedTraceError
from traceark.layout import MARKER, TRACES
from traceark.models import Goal, Trace
from traceark.rollups import coverage
from traceark.rollups.files import ROLLUPS
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

_LONG_AGO = 1_700_000_000


async def work(root: Path) -> None:
    """Have a trace sealed, rolled up, gone on with in all of its files, and rolled up again."""
    changes: list[Callable[[ArchiveStore], Awaitable[object]]] = [
        lambda store: store.add_message(message(3, "2")),
        lambda store: store.update_message("t-0001", content="changed", goal_id="2", tokens=70),
        lambda store: store.append_event("t", "step", {"at": 2}),
        lambda store: store.update_goal("t", "1", status="completed"),
        lambda store: store.update_trace("t", result_summary="well"),
    ]
    async with ArchiveStore(root, durability="os") as store:
        await store.create_trace(Trace(trace_id="t", task="first", created_at=NOW))
        await store.add_goal("t", Goal(id="1", created_at=NOW))
        await store.add_goal("t", Goal(id="2", parent_id="1", created_at=NOW))
        await store.add_message(message(1, None))
        await store.add_message(message(2, "1"))
        await store.append_event("t", "step", {"at": 1})
    for change in changes:
        async with ArchiveStore(root, durability="os") as store:
            await store.seal("t")
            await store.optimize()
            await change(store)
    async with ArchiveStore(root, durability="os") as store:
        await store.seal("t")
        await store.optimize()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    film = Film(tmp_path_factory.mktemp("film") / "archive")
    with pytest.MonkeyPatch.context() as patch, film.roll(patch):
        asyncio.run(work(film.root))
    assert any(name.startswith(ROLLUPS) for name in film.frames[-1])
    return film


def copies(frames: Sequence[Frame], chance: random.Random) -> Iterator[Frame]:
    """Yield what copiers leave, one after another, of moments at random."""
    source = Source(frames)
    while True:
        for copier in COPIERS.values():
            copying = Copying(copier, source, chance)
            for _ in range(chance.choice((1, 2, 4))):
                copying.run()
                yield dict(copying.target)


async def restored(copy: Frame, film: Film) -> ArchiveStore:
    """Return a store over a copy's traces in place of those that were filmed, whose catalog is there still."""
    for path in film.root.iterdir():  # another directory would be another place
        if path.is_dir():
            shutil.rmtree(path)
    catalog = {name: data for name, data in film.frames[-1].items() if not name.startswith(TRACES)}
    for name, data in {**copy, **catalog}.items():
        (film.root / name).parent.mkdir(parents=True, exist_ok=True)
        (film.root / name).write_bytes(data)
        # Long ago, so that nothing more is on its way.
        os.utime(film.root / name, (_LONG_AGO, _LONG_AGO))
    store = ArchiveStore(film.root, durability="os")
    await store.refresh()
    return store


async def asked(store: ArchiveStore) -> list[list[tuple[Any, ...]]]:
    """Return what SQL says of all, in an order."""
    questions = (
        "SELECT trace_id, task, result_summary, total_messages, total_tokens, last_event_id FROM traces",
        "SELECT message_id, content::VARCHAR, goal_id FROM messages ORDER BY sequence",
        "SELECT event_id, payload::VARCHAR FROM events ORDER BY event_id",
        "SELECT goal_id, status FROM goals ORDER BY goal_id",
    )
    return [[tuple(row.values()) for row in (await store.sql(question)).rows()] for question in questions]


async def judge(store: ArchiveStore) -> bool:
    """Assert that SQL says what reading says; say whether the trace could be read."""
    try:
        trace, tree = await store.get_trace("t"), await store.get_goal_tree("t")
        messages, events = await store.get_trace_messages("t"), await store.get_events("t")
        traces, said, happened, goals = await asked(store)
    except DamagedTraceError:
        return False
    except CorruptFileError as error:
        assert f"{MARKER} is torn" in str(error)
        return False
    totals = [] if trace is None else [trace.total_messages, trace.total_tokens, trace.last_event_id]
    assert traces == ([] if trace is None else [("t", trace.task, trace.result_summary, *totals)])
    said = [(message_id, json.loads(content), goal_id) for message_id, content, goal_id in said]
    assert said == [(each.message_id, each.content, each.goal_id) for each in messages]
    assert [(at, json.loads(payload)) for at, payload in happened] == [(each.event_id, each.payload) for each in events]
    assert goals == sorted((each.id, each.status) for each in (tree.goals if tree is not None else ()))
    return trace is not None


def try_all(film: Film, count: int, *, in_place: bool) -> int:
    """Judge copies; return how many could be read."""

    async def all_of_them() -> int:
        whole = 0
        for _, copy in zip(range(count), copies(film.frames, random.Random(SEED)), strict=False):
            store = await restored(copy, film) if in_place else await laid_out(copy)
            try:
                whole += await judge(store)
            except Exception as error:
                error.add_note(f"the copy:\n{prints(copy)}")
                raise
            finally:
                await store.close()
                MemoryStorage.forget("copy")
        return whole

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "elsewhere"])
def test_sql_over_what_a_copier_leaves_says_what_reading_says(film: Film, *, in_place: bool) -> None:
    count = tried(20, 60, 400)
    assert try_all(film, count, in_place=in_place) > count * 0.3


def test_a_rollup_that_is_believed_by_the_name_of_a_trace_is_found(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    of_these_parts = "AND r._messages IS NOT DISTINCT FROM m.messages AND r._events IS NOT DISTINCT FROM m.events"
    assert of_these_parts in coverage._JOINED
    monkeypatch.setattr(coverage, "_JOINED", coverage._JOINED.replace(of_these_parts, ""))
    with pytest.raises(AssertionError):
        try_all(film, 200, in_place=True)
