"""A proxy before an S3 server, that fails, cuts, delays or falsifies the requests which a plan names.

It runs on a loop of its own in a thread, and knows nothing of archives: a `Plan` sees every request, numbered from 1,
and says what befalls it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

Answer = TypeVar("Answer")
# What a server may refuse with: the status, and what it says.
ERRORS = {
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "SlowDown": (503, "Please reduce your request rate."),
    "ConditionalRequestConflict": (409, "A conflicting operation occurred during the request."),
    "ConcurrentModification": (409, "The object was replaced while it was read."),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress. Please try again."),
    "NotImplemented": (501, "A header you provided implies functionality that is not implemented."),
    "ExpiredToken": (400, "The provided token has expired."),
}
# A late request reaches the server when at least so many others did.
LATE_BY = 6
# A stale listing knows nothing of so many writes.
STALE_BY = 8
_CONDITIONS = ("if-match", "if-none-match")
_WITHOUT_BODY = (204, 304)
_KEY = re.compile(rb"<Key>(.*?)</Key>")
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client.

    Attributes
    ----------
    number : int
        Counts all that came since the proxy was started or cleared.
    method, target, headers, body
        What was asked; names of headers are in lower case.
    """

    number: int
    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def key(self) -> str:
        """The object's key; of a listing it is empty."""
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]

    @property
    def prefix(self) -> str | None:
        """What a listing is for; None if this is none, or one of names and not of objects."""
        query = parse_qs(urlsplit(self.target).query)
        return query.get("prefix", [""])[0] if "list-type" in query and "delimiter" not in query else None

    def is_retry_of(self, other: Request) -> bool:
        """Say whether it asks for the same as an earlier one."""
        return (self.method, self.target, self.body) == (other.method, other.target, other.body)


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a request.

    Attributes
    ----------
    name : str
        One of `ERRORS`, or ``cut``: the connection ends; ``half``: it ends in the midst of the answer; ``torn``: it
        ends in the midst of what the client sends; ``silent``: no answer comes until the client gives up; ``late``: the
        connection ends, and the request reaches the server after its retry and some others; ``stale``: a
        listing is one from before the latest writes; ``unconditional``: the server sees no conditions.
    done : bool
        Whether the server did what was asked, where the name does not say it.
    """

    name: str
    done: bool = False

    def __str__(self) -> str:
        return f"{self.name}, done" if self.done else self.name


class Plan:
    """Says what befalls each request; this one lets all of them pass. It is asked in the proxy's thread."""

    def fault(self, request: Request) -> Fault | None:
        """Return what befalls a request, or None to let it pass."""
        return None


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer, as it goes over a connection."""

    first: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def head(self, length: int) -> bytes:
        """Return what goes before a body; an answer to HEAD tells the length of one that does not come."""
        left_out = ("connection", "content-length", "expect", "keep-alive", "transfer-encoding")
        lines = [f"{name}: {value}" for name, value in self.headers.items() if name not in left_out]
        if self.first.startswith("HTTP/") and self.status in _WITHOUT_BODY:
            return "\r\n".join([self.first, *lines, "", ""]).encode("latin-1")
        return "\r\n".join([self.first, *lines, f"content-length: {length}", "", ""]).encode("latin-1")

    def whole(self) -> bytes:
        """Return it as bytes."""
        return self.head(len(self.body)) + self.body


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

    def __init__(self, upstream: str) -> None:
        self.endpoint = ""
        where = urlsplit(upstream)
        self._host, self._port = where.hostname, where.port
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.clear()

    def clear(self) -> None:
        """Count from nothing, let all pass, and know nothing of earlier writes."""
        self.plan = Plan()
        self.requests: list[Request] = []
        self.hits: list[tuple[Request, Fault]] = []
        self._answered: list[Request] = []
        self._late: list[Request] = []
        # The latest writes: their keys, and the entries in the listing before, if they were seen.
        self._written: list[tuple[str, bytes | None]] = []
        self._listed: dict[str, bytes] = {}

    async def start(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def stop(self, server: asyncio.Server) -> None:
        """End all connections."""
        server.close()
        clients = dict(self._clients)
        for writer in clients.values():
            writer.transport.abort()
        await asyncio.gather(*clients)
        for _, writer in self._idle:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        try:
            while (asked := await _received(reader, writer)) is not None:
                method, target, _ = asked.first.split()
                request = Request(len(self.requests) + 1, method, target, asked.headers, asked.body)
                self.requests.append(request)
                await self._answer(request, reader, writer)
                self._answered.append(request)
        except (OSError, asyncio.IncompleteReadError):
            return  # the client went, or the server did, which the client is to notice
        finally:
            del self._clients[task]
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._do_what_is_late(request.number)
        fault = self.plan.fault(request)
        if fault is None:
            return writer.write((await self._asked(request)).whole())
        self.hits.append((request, fault))
        if fault.name == "unconditional":
            kept = {name: value for name, value in request.headers.items() if name not in _CONDITIONS}
            unconditional = Request(request.number, request.method, request.target, kept, request.body)
            return writer.write((await self._asked(unconditional)).whole())
        if fault.name == "stale":
            return writer.write(self._stale(request, await self._asked(request)).whole())
        answer = await self._asked(request) if fault.done else None
        if fault.name in ERRORS:
            return writer.write(_refusal(fault.name, is_head=request.method == "HEAD").whole())
        if fault.name == "half":
            assert answer is not None
            writer.write(answer.head(len(answer.body) + 1) + answer.body[: len(answer.body) // 2])
        elif fault.name == "torn":
            await self._torn(request)
        elif fault.name == "silent":
            await reader.read()
        elif fault.name == "late":
            self._late.append(request)
        elif fault.name != "cut":
            raise ValueError(f"no fault is called {fault.name!r}")
        return writer.close()

    async def _do_what_is_late(self, number: int) -> None:
        due = [
            late
            for late in self._late
            if number > late.number + LATE_BY
            and any(each.number > late.number and each.is_retry_of(late) for each in self._answered)
        ]
        for late in due:
            self._late.remove(late)
            await self._asked(late)

    async def _asked(self, request: Request) -> _Message:
        """Return the server's answer."""
        connection = await self._connection()
        reader, writer = connection
        writer.write(_sent(request).whole())
        answer = await _received(reader, without_body=request.method == "HEAD")
        if answer is None:
            raise ConnectionResetError(f"the server did not answer {request.method} {request.target}")
        if answer.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        if request.prefix is not None:
            self._listed |= _entries(answer.body)
        elif request.method in ("PUT", "DELETE") and answer.status < 300:
            self._written.append((request.key, self._listed.get(request.key)))
        return answer

    async def _torn(self, request: Request) -> None:
        """Let the server see the beginning of a request, and no more."""
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(_sent(request).head(len(request.body)) + request.body[: len(request.body) // 2])
        writer.close()
        await writer.wait_closed()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def _stale(self, request: Request, answer: _Message) -> _Message:
        """Return a listing without the latest writes, and with what they removed."""
        prefix = request.prefix
        if prefix is None:
            raise ValueError(f"{request.method} {request.target} is no listing of objects")
        entries = _entries(answer.body)
        for key, before in reversed(self._written[-STALE_BY:]):
            if not key.startswith(prefix):
                continue
            if before is None:
                entries.pop(key, None)
            else:
                entries[key] = before
        head = _CONTENTS.sub(b"", answer.body)
        end = head.rindex(b"</ListBucketResult>")
        body = head[:end] + b"".join(entries[key] for key in sorted(entries)) + head[end:]
        return _Message(answer.first, answer.headers, body)


def _sent(request: Request) -> _Message:
    return _Message(f"{request.method} {request.target} HTTP/1.1", dict(request.headers), request.body)


def _refusal(name: str, *, is_head: bool) -> _Message:
    status, text = ERRORS[name]
    body = f"<Error><Code>{name}</Code><Message>{text}</Message></Error>".encode()
    return _Message(f"HTTP/1.1 {status} -", {"content-type": "application/xml"}, b"" if is_head else body)


async def _received(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None = None, *, without_body: bool = False
) -> _Message | None:
    """Return what comes next on a connection, or None if it ends before that; to `writer` goes that more may come."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if writer is not None and headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    message = _Message(first, headers)
    if without_body or (first.startswith("HTTP/") and message.status in _WITHOUT_BODY):
        return message
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _Message(first, headers, await _chunks(reader))
    return _Message(first, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        found += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        continue  # what trails says nothing that is wanted
    return found


def _entries(listing: bytes) -> dict[str, bytes]:
    """Return the entries of a listing, by their keys."""
    found = ((_KEY.search(each), each) for each in _CONTENTS.findall(listing))
    return {unquote(key[1].decode()): each for key, each in found if key is not None}


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before the server at an URL until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    running = Proxy(upstream)
    server = run(running.start())
    try:
        yield running
    finally:
        run(running.stop(server))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
