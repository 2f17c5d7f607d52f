"""What goes on though its caller went away tells nobody of its errors, and asyncio's log neither."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from traceark.errors import StorageError
from traceark.models import Trace
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    MemoryStorage.forget("going-on")


@pytest.mark.parametrize("call", ["list_traces", "get_trace", "update_trace"])
async def test_an_error_after_who_asked_was_cancelled_is_not_logged(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, each: told.append(each))
    async with ArchiveStore("memory://going-on") as store:
        await store.create_trace(Trace(trace_id="t"))
    async with ArchiveStore("memory://going-on") as store:
        waiting = asyncio.Event()

        async def failing(*_: Any) -> Any:
            waiting.set()
            await asyncio.sleep(0.01)
            raise StorageError("the server is away")

        arguments: dict[str, tuple[Any, ...]] = {"get_trace": ("t",), "update_trace": ("t",)}
        with monkeypatch.context() as patch:
            for name in ("list", "read", "read_versioned", "children"):
                patch.setattr(store.storage, name, failing)
            asking = asyncio.create_task(getattr(store, call)(*arguments.get(call, ())))
            await waiting.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait(
                [*(asyncio.all_tasks() - {asyncio.current_task()}), asyncio.create_task(asyncio.sleep(0.05))]
            )
        del asking
        gc.collect()
        assert told == []
        assert [each.trace_id for each in await store.list_traces()] == ["t"]
