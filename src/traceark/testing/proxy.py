"""A proxy before an S3 server, that fails, cuts, delays or falsifies the requests which a plan names.

It runs on a loop of its own in a thread and needs what s3fs needs. It knows nothing of archives: a `Plan` sees
every request, numbered from 1, and says what befalls it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aiohttp import ClientSession, web
from yarl import URL

Answer = TypeVar("Answer")
# What a server may refuse with: the status, and what it says.
ERRORS = {
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "SlowDown": (503, "Please reduce your request rate."),
    "ConditionalRequestConflict": (409, "A conflicting operation occurred during the request."),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress. Please try again."),
    "ExpiredToken": (400, "The provided token has expired."),
}
_HOP_BY_HOP = ("connection", "expect", "keep-alive", "transfer-encoding")
_KEY = re.compile(rb"<Key>(.*?)</Key>")
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client; `number` counts all that came since the proxy was started or cleared."""

    number: int
    method: str
    target: str
    body: bytes = b""
    authorization: str = ""

    @property
    def is_listing(self) -> bool:
        """Whether it lists keys."""
        return "list-type=2" in self.target

    def is_retry_of(self, other: Request) -> bool:
        """Say whether it asks for the same as an earlier one."""
        return (self.method, self.target, self.body) == (other.method, other.target, other.body)


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a request.

    Attributes
    ----------
    name : str
        One of `ERRORS`, or ``cut``: the connection ends; ``half``: it ends in the midst of the answer; ``slow``: the
        answer comes after that to the client's retry; ``stale``: a listing is one from before the latest writes.
    done : bool
        Whether the server did what was asked, all the same.
    """

    name: str
    done: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {'done' if self.done else 'not done'}"


class Plan:
    """Says what befalls each request; this one lets all of them pass. It is asked in the proxy's thread."""

    def fault(self, request: Request) -> Fault | None:
        """Return what befalls a request, or None to let it pass."""
        return None


class Proxy:
    """Passes requests on to an S3 server, by a plan.

    Attributes
    ----------
    endpoint : str
        Where it listens, once it was started.
    plan : Plan
        May be replaced at any time.
    requests : list of Request
        All that came.
    hits : list
        Those that something befell, with what that was.
    """

    def __init__(self, upstream: str, stale_writes: int = 8) -> None:
        self.endpoint = ""
        self.plan = Plan()
        self.requests: list[Request] = []
        self.hits: list[tuple[Request, Fault]] = []
        self._upstream = upstream
        self._stale_writes = stale_writes
        # The latest writes: the key's path, and its entry in the listing before, if one was seen.
        self._written: list[tuple[str, bytes | None]] = []
        self._listed: dict[str, bytes] = {}
        self._retried = asyncio.Condition()
        self._session: ClientSession

    def clear(self) -> None:
        """Count from nothing, let all pass, and know nothing of earlier writes."""
        self.plan = Plan()
        self.requests.clear()
        self.hits.clear()
        self._written.clear()
        self._listed.clear()

    async def start(self) -> web.AppRunner:
        """Listen on a free port."""
        self._session = ClientSession(auto_decompress=False)
        runner = web.AppRunner(web.Application(client_max_size=2**30))
        runner.app.router.add_route("*", "/{any:.*}", self._handle)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = cast("Any", site)._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        return runner

    async def stop(self, runner: web.AppRunner) -> None:
        """End all connections."""
        await runner.cleanup()
        await self._session.close()

    async def _handle(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.read()
        request = Request(
            len(self.requests) + 1, asked.method, asked.raw_path, body, asked.headers.get("Authorization", "")
        )
        self.requests.append(request)
        fault = self.plan.fault(request)
        if fault is not None:
            self.hits.append((request, fault))
        if fault is None or fault.done:
            answer = await self._pass_on(asked, request)
        else:
            answer = web.Response(status=500)
        if fault is not None:
            answer = await self._befall(asked, request, fault, answer)
        async with self._retried:
            self._retried.notify_all()
        return answer

    async def _pass_on(self, asked: web.Request, request: Request) -> web.Response:
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = URL(self._upstream + request.target, encoded=True)
        async with self._session.request(request.method, url, headers=headers, data=request.body or None) as got:
            body = await got.read()
            kept = {name: value for name, value in got.headers.items() if name.lower() not in _HOP_BY_HOP}
        if request.is_listing:
            self._listed |= _entries(body)
        elif request.method in ("PUT", "DELETE") and got.status < 300:
            key = request.target.partition("?")[0].lstrip("/").partition("/")[2]
            self._written.append((key, self._listed.get(key)))
        if request.method == "HEAD":
            return web.Response(status=got.status, headers=kept)
        kept.pop("Content-Length", None)
        return web.Response(status=got.status, headers=kept, body=body)

    async def _befall(self, asked: web.Request, request: Request, fault: Fault, answer: web.Response) -> web.Response:
        if fault.name in ERRORS:
            status, text = ERRORS[fault.name]
            body = f"<Error><Code>{fault.name}</Code><Message>{text}</Message></Error>"
            return web.Response(status=status, text=body, content_type="application/xml")
        if fault.name == "stale":
            return self._stale(answer) if request.is_listing else answer
        if fault.name == "slow":
            await self._wait_for_retry(request)
            return answer
        assert asked.transport is not None
        if fault.name == "half":
            body = bytes(cast("bytes", answer.body or b""))
            head = f"HTTP/1.1 {answer.status} -\r\nContent-Length: {len(body) + 1}\r\n"
            head += "".join(
                f"{name}: {value}\r\n" for name, value in answer.headers.items() if name != "Content-Length"
            )
            asked.transport.write(head.encode() + b"\r\n" + body[: len(body) // 2])
            asked.transport.close()
        else:
            asked.transport.abort()
        return answer

    async def _wait_for_retry(self, request: Request) -> None:
        """Wait until the client asked for the same again and was answered; it must give up on this one first."""

        def is_retried() -> bool:
            return any(each.is_retry_of(request) for each in self.requests[request.number :])

        async with self._retried:
            await self._retried.wait_for(is_retried)

    def _stale(self, answer: web.Response) -> web.Response:
        """Return a listing without the latest writes, and with what they removed."""
        body = bytes(cast("bytes", answer.body))
        latest = self._written[-self._stale_writes :]
        first = {key: before for key, before in reversed(latest)}
        entries = _entries(body)
        found = re.search(rb"<Prefix>(.*?)</Prefix>", body)
        prefix = found[1].decode() if found is not None else ""
        for key, before in first.items():
            if not key.startswith(prefix):
                continue
            if before is None:
                entries.pop(key, None)
            else:
                entries[key] = before
        head = _CONTENTS.sub(b"", body)
        listed = b"".join(entries[key] for key in sorted(entries))
        end = head.rindex(b"</ListBucketResult>")
        return web.Response(status=answer.status, body=head[:end] + listed + head[end:], content_type="application/xml")


def _entries(listing: bytes) -> dict[str, bytes]:
    """Return the entries of a listing, by their keys."""
    found = ((_KEY.search(each), each) for each in _CONTENTS.findall(listing))
    return {key[1].decode(): each for key, each in found if key is not None}


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before the server at an URL until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    running = Proxy(upstream)
    runner = run(running.start())
    try:
        yield running
    finally:
        run(running.stop(runner))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
