"""S3 servers for the tests: each is a process of its own on a free port, gone when the tests end."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from traceark import ArchiveStore

START_SECONDS = 60.0
REGION = "eu-central-1"


@dataclass
class S3Server:
    """A running server with one bucket; `place()` gives a prefix that nobody has used."""

    endpoint: str
    bucket: str = "archives"
    region: str = REGION
    # Both the key and its secret.
    key: str = "testing"
    _places: Iterator[int] = field(default_factory=itertools.count)

    @property
    def storage_options(self) -> dict[str, Any]:
        """What s3fs needs to reach the server."""
        return {
            "key": self.key,
            "secret": self.key,
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": self.region},
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process, or for a store that is opened without options."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def place(self) -> str:
        """Return the URL of an unused prefix."""
        return f"s3://{self.bucket}/archive-{next(self._places)}"


class Requests:
    """Counts the requests that the S3 client of a store sends, the keys they are for, and the bytes of what is put."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.puts: list[tuple[str, int]] = []

    async def listen(self, store: ArchiveStore) -> None:
        """Count from now on; stores with the same options share one client."""
        files = cast("Any", store.storage)._fs
        await asyncio.to_thread(files.connect)
        files.s3.meta.events.register("before-send.s3", self._sent)

    def _sent(self, request: Any, **_: object) -> None:
        self.sent.append(f"{request.method} {request.url}")
        if request.method == "PUT":
            self.puts.append((request.url, int(request.headers["Content-Length"])))

    def clear(self) -> None:
        """Count from nothing."""
        self.sent.clear()
        self.puts.clear()

    async def during(self, work: Awaitable[object]) -> list[str]:
        """Return the requests that a call makes."""
        self.clear()
        await work
        return list(self.sent)


@contextmanager
def ministack() -> Iterator[S3Server]:
    """Run ministack, whose conditional writes hold under contention."""
    port = free_port()
    settings = {
        "SERVICES": "s3",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        # Nothing here may start containers.
        "DOCKER_HOST": "unix:///nonexistent",
    }
    with _running([_program("ministack")], settings, port) as server:
        yield server


# It looks for the directories of all services with each request, and logs each to nobody: a quarter of its time.
_MOTO = """
import logging, sys
from moto import backends, server
services = list(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: services
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server.main(sys.argv[1:])
"""


@contextmanager
def moto() -> Iterator[S3Server]:
    """Run moto's server, the one most people test with."""
    port = free_port()
    with _running([sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)], {}, port) as server:
        yield server


# Made by `make ceph` and `make s3rver` and not by the tests: one is as large as an operating system, one wants Node.
CEPH = Path(__file__).parent.parent / ".ceph"
S3RVER = Path(__file__).parent.parent / ".s3rver"


@contextmanager
def ceph(root: Path) -> Iterator[S3Server]:
    """Run a Ceph cluster of one with its S3 gateway, in the root that it was installed in; wants to be root."""
    monitor, gateway = free_port(), free_port()
    command = [str(Path(__file__).with_name("ceph.sh")), "run", str(root), str(monitor), str(gateway)]
    # Its one zone group is called so, and takes no buckets for others.
    with _running(command, {}, gateway, region="default") as server:
        yield server


@contextmanager
def s3rver(root: Path) -> Iterator[S3Server]:
    """Run s3rver, which takes conditional writes and ignores the conditions."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(root / "node_modules/.bin/s3rver"), "-s", "-d", folder, "-a", "127.0.0.1", "-p", str(port)]
        with _running(command, {}, port, key="S3RVER") as server:
            yield server


def free_port() -> int:
    """Return a TCP port that is free on this host."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _program(name: str) -> str:
    """Return the path of a program installed beside the running Python."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def _running(
    command: list[str], settings: Mapping[str, str], port: int, region: str = REGION, key: str = "testing"
) -> Iterator[S3Server]:
    # Programs that tests start import this module, and most of them need no S3.
    import s3fs

    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(endpoint, process)
        server = S3Server(endpoint, region=region, key=key)
        s3fs.S3FileSystem(**server.storage_options, skip_instance_cache=True).mkdir(server.bucket)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it answered")
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not answer within {START_SECONDS} seconds")
