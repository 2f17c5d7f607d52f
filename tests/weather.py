"""Networks that fail: what lies between a store and archives in memory, and a proxy in front of a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from traceark.errors import StorageError
from traceark.storage.memory import MemoryStorage

Sky = Literal["fair", "down", "hanging"]
CALLS = ("read", "read_versioned", "list", "children", "create", "replace", "delete")


class Weather:
    """Whether archives in memory can be reached.

    Attributes
    ----------
    sky : str
        ``fair``; ``down``: every call fails; ``hanging``: no call returns until the sky is fair.
    was_asked : threading.Event
        Set by a call that could not be answered.
    calls : int
        How many were answered.
    down_after : int, optional
        The sky is down once so many calls were answered.
    """

    def __init__(self) -> None:
        self.sky: Sky = "fair"
        self.was_asked = threading.Event()
        self.calls = 0
        self.down_after: int | None = None

    async def pass_through(self, what: str) -> None:
        if self.down_after is not None and self.calls >= self.down_after:
            self.sky = "down"
        while self.sky == "hanging":
            self.was_asked.set()
            await asyncio.sleep(0.001)
        if self.sky == "down":
            self.was_asked.set()
            raise StorageError(111, f"{what}: Connection refused")
        self.calls += 1


@contextmanager
def weather() -> Iterator[Weather]:
    """Put weather over all archives in memory."""
    found = Weather()
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(MemoryStorage, name, _through(found, name))
        yield found


def _through(found: Weather, name: str) -> Any:
    real = getattr(MemoryStorage, name)

    async def call(self: MemoryStorage, *args: Any, **options: Any) -> Any:
        await found.pass_through(f"{self.url}/{args[0]}")
        return await real(self, *args, **options)

    return call


class Proxy:
    """Carries bytes between clients and a server on this host, until it is told not to.

    ``down`` breaks every connection; ``hanging`` takes what clients send and answers nothing.
    """

    def __init__(self, port: int) -> None:
        self.sky: Sky = "fair"
        self.was_asked = threading.Event()
        self._server_port = port
        self._ready = threading.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        server.close()
        self._loop.close()

    def turn(self, sky: Sky) -> None:
        """Change the sky; open connections break."""
        self.sky = sky
        self.was_asked.clear()
        self._loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.sky != "fair":
            self.was_asked.set()
        if self.sky == "down":
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            if self.sky == "hanging":
                while await reader.read(1 << 16):
                    pass
                return
            back, there = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._open.add(there)
            await asyncio.gather(_carry(reader, there), _carry(back, writer))
        except OSError:
            return  # one of both ends went
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextmanager
def meeting(count: int = 2) -> Iterator[None]:
    """Let the first segments that are copied to archives in memory be created when so many are about to be."""
    arrived: list[str] = []
    real = MemoryStorage.create

    async def create(self: MemoryStorage, key: str, data: bytes) -> str:
        if "/messages/" in key and len(arrived) < count:
            arrived.append(key)
            while True:
                await asyncio.sleep(0.001)
                if len(arrived) >= count:
                    break
        return await real(self, key, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStorage, "create", create)
        yield
