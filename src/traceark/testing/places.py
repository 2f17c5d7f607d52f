"""What tests of whole archives share: opening stores, and files as bytes under their keys.

Files are read and put through a storage of their own, so that no store knows of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from traceark.layout import MARKER, TRACES, trace_prefix
from traceark.models import Goal, GoalStats, Message, Trace, Usage
from traceark.protocol import TraceStore
from traceark.storage import storage_for
from traceark.storage.base import KeyMissingError
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_text, exact_texts
from traceark.testing.scenario import StoreTests, add_family, message
from traceark.testing.values import hard_object, odd_object

Files = dict[str, bytes]


class ArchiveTests(StoreTests):
    """Base of the classes that need a URL: a backend gives the fixtures `url` and `storage_options`."""

    archive_url: str
    options: Mapping[str, Any]

    @pytest.fixture(autouse=True)
    def _place(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self.archive_url = url
        self.options = storage_options

    def open_store(self) -> ArchiveStore:
        """Return a new store over this test's archive."""
        return self.store_at(self.archive_url)

    def store_at(self, url: str, **options: Any) -> ArchiveStore:
        """Return a new store over an archive of the same backend."""
        return ArchiveStore(url, storage_options=self.options, **options)

    async def names(self, trace_id: str | None = None) -> set[str]:
        """Return the keys of the files of the archive's traces, or of one trace; locks left out."""
        storage = storage_for(self.archive_url, self.options, "os")
        prefix = TRACES if trace_id is None else trace_prefix(trace_id)
        found = {f"{prefix}/{name}" for name in await storage.list(prefix)}
        await storage.close()
        return {key for key in found if not key.rpartition("/")[2].startswith(".")}

    async def files(self, url: str | None = None, trace_id: str | None = None) -> Files:
        """Return the files of an archive, or of one trace, by key; locks left out."""
        storage = storage_for(url or self.archive_url, self.options, "os")
        prefix = TRACES if trace_id is None else trace_prefix(trace_id)
        found: Files = {}
        try:
            for name in await storage.list(prefix):
                if not name.rpartition("/")[2].startswith("."):
                    found[f"{prefix}/{name}"] = await storage.read(f"{prefix}/{name}")
            if trace_id is None:
                found[MARKER] = await storage.read(MARKER)
        except KeyMissingError as error:
            raise AssertionError(f"{error} though nothing writes") from error
        finally:
            await storage.close()
        return found

    async def put(self, files: Files, url: str | None = None) -> None:
        """Put files into an archive, as `cp -r` would, over what is there."""
        storage = storage_for(url or self.archive_url, self.options, "os")
        for key, data in files.items():
            await storage.replace(key, data)
        await storage.close()

    async def remove(self, *keys: str) -> None:
        """Remove files from the archive."""
        storage = storage_for(self.archive_url, self.options, "os")
        await storage.delete(keys)
        await storage.close()

    async def copied(self) -> str:
        """Copy the whole archive as it is now; return the copy's URL."""
        url = f"{self.archive_url}-copy"
        await self.put(await self.files(), url)
        return url


async def snapshot(store: TraceStore, trace_id: str = "t") -> dict[str, Any]:
    """Return everything that can be read of a trace, as text that compares exactly."""
    trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
    return {
        "trace": trace and exact_text(trace),
        "tree": tree and exact_text(tree),
        "messages": exact_texts(await store.get_trace_messages(trace_id)),
        "events": exact_texts(await store.get_events(trace_id)),
    }


async def record_run(store: TraceStore, trace_id: str = "t") -> None:
    """Write a run with something of everything: goals, updates, stats that were set, hard values."""
    context: dict[str, Any] = odd_object()
    await store.create_trace(Trace.parse({"trace_id": trace_id, "context": context, "own": [1.0, None]}))
    await add_family(store, trace_id)
    # What is written at the same time shares a segment where it can, and what is written alone has its own.
    for together in ((0, 1), (2,), (3, 4, 5)):
        await asyncio.gather(*(store.add_message(_said(trace_id, at)) for at in together))
        await asyncio.gather(*(store.append_event(trace_id, "step", _stepped(at)) for at in together))
    await store.add_message(message(trace_id, message_id=f"{trace_id}/own", sequence=3, tokens=1000))
    second = f"{trace_id}-0002"
    await store.update_message(second, content={"new": odd_object()}, goal_id="2", error=None, usage=None, tokens=7)
    await store.update_message(second, status="ok")
    await store.update_goal(trace_id, "1.1", self_stats=GoalStats(message_count=9, total_cost=0.3, preview="a → b"))
    await store.update_trace(trace_id, total_tokens=99, task="sort the mail", model="m-1")
    await store.add_goal(trace_id, Goal(id="later", parent_id="2"))
    await store.add_message(message(trace_id, goal_id="1.1", tokens=5, cost=0.7, tool_name="last"))


def _said(trace_id: str, at: int) -> Message:
    return Message.parse(
        {
            "trace_id": trace_id,
            "role": "assistant",
            "goal_id": ("1", "1.1", "1.1.1", "2", "later", None)[at],
            "tool_name": f"tool{at}",
            "content": {1: odd_object(), 5: hard_object()}.get(at, f"text {at}"),
            "usage": Usage.parse({"input_tokens": at, "own": {"deep": [2**70]}}),
            "cost": 0.1,
            "duration_ms": at,
            "own": {"_offset": -0.0},
        }
    )


def _stepped(at: int) -> dict[str, Any]:
    return {"at": at, "hard": odd_object() if at in (0, 4) else [at, 2**70, -0.0]}
