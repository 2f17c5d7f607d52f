"""A manifest under newer headers or records, as a copier that deletes nothing leaves it, seals nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from film import state
from test_sync import archive
from traceark.layout import HEADER, MANIFEST, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import sync

PREFIX = trace_prefix("t")
Change = Callable[[ArchiveStore], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "a message": lambda store: store.add_message(Message(trace_id="t", role="user", content="more")),
    "an event": lambda store: store.append_event("t", "step", None),
    "a task": lambda store: store.update_trace("t", task="another"),
    "a goal": lambda store: store.update_goal("t", "1", description="another"),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for name in ("here", "copy", "kept", "new"):
        MemoryStorage.forget(f"outrun/{name}")


@asynccontextmanager
async def opened(folder: Path | None, name: str) -> AsyncIterator[ArchiveStore]:
    """Open an archive in memory, or on a disk."""
    async with ArchiveStore(f"memory://outrun/{name}") if folder is None else archive(folder / name) as store:
        yield store


async def copied(source: ArchiveStore, target: ArchiveStore) -> None:
    """Copy files and delete none, as `cp -r` does."""
    for key in await source.storage.list(PREFIX):
        await target.storage.replace(f"{PREFIX}/{key}", await source.storage.read(f"{PREFIX}/{key}"))


async def sealed(store: ArchiveStore) -> None:
    await store.create_trace(Trace(trace_id="t"))
    await store.add_goal("t", Goal(id="1"))
    await CHANGES["a message"](store)
    await CHANGES["an event"](store)
    await store.seal("t")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("from_disk", [True, False], ids=["from a disk", "from objects"])
@pytest.mark.parametrize("to_disk", [True, False], ids=["to a disk", "to objects"])
async def test_what_came_after_a_seal_is_synced_on_though_its_manifest_is_there_still(
    tmp_path: Path, change: Change, *, from_disk: bool, to_disk: bool
) -> None:
    folder, target = (tmp_path if on_disk else None for on_disk in (from_disk, to_disk))
    async with opened(folder, "here") as here, opened(target, "kept") as kept:
        await sealed(here)
        async with opened(folder, "copy") as copy:
            await copy.make_ready()
            await copied(here, copy)
            assert (await sync(copy, kept)).outcomes == {"new": 1} and (await sync(copy, kept)).outcomes == {"same": 1}
        await change(here)
        await here.flush()
        async with opened(folder, "copy") as copy:
            await copied(here, copy)
            assert MANIFEST in await copy.storage.list(PREFIX) and MANIFEST not in await here.storage.list(PREFIX)
            assert (await sync(copy, kept)).outcomes == {"forward": 1}
            assert await state(kept) == await state(copy) == await state(here)
            async with opened(target, "new") as new:
                assert (await sync(copy, new)).outcomes == {"new": 1}
                assert await state(new) == await state(here)


@pytest.mark.parametrize("on_disk", [True, False], ids=["on a disk", "of objects"])
async def test_a_seal_mends_it(tmp_path: Path, *, on_disk: bool) -> None:
    async with opened(tmp_path if on_disk else None, "here") as store:
        await sealed(store)
        manifest = await store.storage.read(f"{PREFIX}/{MANIFEST}")
        await store.update_trace("t", task="another")
        await store.flush()
        assert MANIFEST not in await store.storage.list(PREFIX)
        await store.storage.create(f"{PREFIX}/{MANIFEST}", manifest)
    async with opened(tmp_path if on_disk else None, "here") as store:
        await store.seal("t")
        assert await store.storage.read(f"{PREFIX}/{MANIFEST}") != manifest
        assert await store.verify("t", deep=True) == []


@pytest.mark.parametrize("on_disk", [True, False], ids=["on a disk", "of objects"])
async def test_a_trace_that_lacks_what_its_header_tells_of_is_not_copied(tmp_path: Path, *, on_disk: bool) -> None:
    folder = tmp_path if on_disk else None
    async with opened(folder, "here") as here, opened(folder, "kept") as kept:
        await sealed(here)
        gone = [f"{PREFIX}/{name}" for name in await here.storage.list(PREFIX) if name.startswith("messages/")]
        await here.storage.delete([*gone, f"{PREFIX}/{MANIFEST}"])
    async with opened(folder, "here") as here, opened(folder, "kept") as kept:
        report = await sync(here, kept)
        assert report.outcomes == {"failed": 1} and "copy the messages directory again" in report.problems[0]
        assert await kept.storage.list(PREFIX) == {}
        assert HEADER in await here.storage.list(PREFIX)
