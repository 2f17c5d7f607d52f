"""The conformance suite on every backend: memory, local disk, and two S3 servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from profiles import THOROUGH, WHOLE, tried
from servers import S3Server
from traceark.protocol import TraceStore
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.testing import ModelStore
from traceark.testing.events import EventTests
from traceark.testing.messages import MessageTests
from traceark.testing.places import ArchiveTests, Files
from traceark.testing.queries import QueryTests
from traceark.testing.sharing import SharingTests
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


# What is appended is asked about; thorough runs ask all of the protocol.
_Appended: type[ArchiveTests] = (
    ArchiveProtocolConformance if THOROUGH else type("_Appended", (ArchiveTests, MessageTests, EventTests), {})
)


class TestLocalWithoutSync(OnDisk, _Appended):  # type: ignore[misc,valid-type]
    """Local disk, `durability="os"`: other code appends, the rest is the same."""

    def store_at(self, url: str, **options: Any) -> ArchiveStore:
        given = {"storage_options": self.options, "durability": "os", **options}
        return ArchiveStore(url, **given)


class InMemory:
    """Where an archive in memory is tried."""

    @pytest.fixture
    def url(self) -> Iterator[str]:
        name = uuid4().hex
        yield f"memory://{name}"
        for archive in (name, f"{name}-copy", f"{name}-other"):
            MemoryStorage.forget(archive)

    @pytest.fixture
    def storage_options(self) -> Mapping[str, Any]:
        return {}


class TestMemory(InMemory, StoreConformance):
    """An object store without a network."""

    every = tried(2, 1)


class TestMinistack(StoreConformance):
    """S3, on a server whose conditional writes hold under contention."""

    step = tried(9, 1)
    every = tried(3, 1)

    @pytest.fixture
    def url(self, ministack_server: S3Server) -> str:
        return ministack_server.place()

    @pytest.fixture
    def storage_options(self, ministack_server: S3Server) -> Mapping[str, Any]:
        return ministack_server.storage_options


class TestMoto(ArchiveProtocolConformance):
    """S3, on the server that most people test with."""

    step = tried(8, 3, 1)

    @pytest.fixture
    def url(self, moto_server: S3Server) -> str:
        return moto_server.place()

    @pytest.fixture
    def storage_options(self, moto_server: S3Server) -> Mapping[str, Any]:
        return moto_server.storage_options


class TestCeph(StoreConformance):
    """S3, on a server of another family than the others, where `make ceph` has installed it."""

    @pytest.fixture
    def url(self, ceph_server: S3Server) -> str:
        return ceph_server.place()

    @pytest.fixture
    def storage_options(self, ceph_server: S3Server) -> Mapping[str, Any]:
        return ceph_server.storage_options


class Spooled:
    """An archive behind a spool; each archive has a spool of its own, which all stores of a test share."""

    @pytest.fixture(autouse=True)
    def _spools(self, tmp_path: Path) -> None:
        self.spools = tmp_path / "spools"

    def store_at(self, url: str, **options: Any) -> ArchiveStore:
        spool = self.spools / url.rpartition("/")[2]
        given = {"storage_options": self.options, "spool": spool, **options}  # type: ignore[attr-defined]
        return ArchiveStore(url, **given)

    async def names(self, trace_id: str | None = None) -> set[str]:
        """Return the keys of the archive's files, once all that was written is there."""
        await self._flush(self.archive_url)  # type: ignore[attr-defined]
        return await super().names(trace_id)  # type: ignore[misc, no-any-return]

    async def files(self, url: str | None = None, trace_id: str | None = None) -> Files:
        """Return the files of the archive, once all that was written is there."""
        await self._flush(url or self.archive_url)  # type: ignore[attr-defined]
        return await super().files(url, trace_id)  # type: ignore[misc, no-any-return]

    async def _flush(self, url: str) -> None:
        async with self.store_at(url) as store:
            await store.flush()


# What a thorough run asks of the spool besides.
_AskedInMemory: type[ArchiveTests] = (
    type("_AskedInMemory", (QueryTests, ArchiveProtocolConformance), {}) if THOROUGH else ArchiveProtocolConformance
)


class TestSpooledInMemory(Spooled, InMemory, SharingTests, _AskedInMemory):  # type: ignore[misc,valid-type]
    """A spool in front of an object store without a network."""

    step = tried(8, 1)

    def test_folders_put_in_and_removed_by_hand_are_noticed(self) -> None:
        pytest.skip("they are put into the archive, past the spool, which holds the trace")

    def test_a_run_that_has_ended_is_added_at_once(self) -> None:
        pytest.skip("what its files are is seen where they are shipped to, which is not at once")

    def test_a_later_format_is_refused_by_name(self) -> None:
        pytest.skip("the spool takes what is written, and shipping it is what is refused")

    def test_goals_of_sealed_traces_come_from_rollups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.skip("which storage a trace is read from depends on how far shipping has come")


# What is asked of the spool in memory is asked in front of a server too: of events, of messages where tests are
# thorough, and in whole runs all of the protocol.
_Asked: type[ArchiveTests] = (
    ArchiveProtocolConformance
    if WHOLE
    else type("_Asked", (ArchiveTests, *((MessageTests,) if THOROUGH else ()), EventTests), {})
)


class TestSpooled(Spooled, _Asked):  # type: ignore[misc,valid-type]
    """A spool in front of S3."""

    @pytest.fixture
    def url(self, ministack_server: S3Server) -> str:
        return ministack_server.place()

    @pytest.fixture
    def storage_options(self, ministack_server: S3Server) -> Mapping[str, Any]:
        return ministack_server.storage_options
