"""The conformance suite on every backend: memory, local disk, and two S3 servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from profiles import tried
from servers import S3Server
from traceark.protocol import TraceStore
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing import ModelStore
from traceark.testing.suite import ArchiveProtocolConformance, ProtocolConformance, StoreConformance


class TestModel(ProtocolConformance):
    """The oracle itself."""

    def open_store(self) -> TraceStore:
        return ModelStore()


class OnDisk:
    """Where an archive on a local disk is tried."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "archive")

    @pytest.fixture
    def storage_options(self) -> Mapping[str, Any]:
        return {}


class TestLocal(OnDisk, StoreConformance):
    """Local disk, every acknowledged write on stable storage."""


class TestLocalWithoutSync(OnDisk, ArchiveProtocolConformance):
    """Local disk, `durability="os"`: other code appends, the rest is the same."""

    def store_at(self, url: str, **options: Any) -> ArchiveStore:
        return super().store_at(url, **{"durability": "os", **options})


class TestMemory(StoreConformance):
    """An object store without a network."""

    @pytest.fixture
    def url(self) -> Iterator[str]:
        name = uuid4().hex
        yield f"memory://{name}"
        for archive in (name, f"{name}-copy", f"{name}-other"):
            MemoryStorage.forget(archive)

    @pytest.fixture
    def storage_options(self) -> Mapping[str, Any]:
        return {}


class TestMinistack(StoreConformance):
    """S3, on a server whose conditional writes hold under contention."""

    @pytest.fixture
    def url(self, ministack_server: S3Server) -> str:
        return ministack_server.place()

    @pytest.fixture
    def storage_options(self, ministack_server: S3Server) -> Mapping[str, Any]:
        return ministack_server.storage_options


class TestMoto(ArchiveProtocolConformance):
    """S3, on the server that most people test with."""

    step = tried(5, 1)

    @pytest.fixture
    def url(self, moto_server: S3Server) -> str:
        return moto_server.place()

    @pytest.fixture
    def storage_options(self, moto_server: S3Server) -> Mapping[str, Any]:
        return moto_server.storage_options
