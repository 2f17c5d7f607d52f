"""Packs from strangers: what is damaged or hostile is refused by name, and leaves nothing behind, here or elsewhere."""

from __future__ import annotations

import asyncio
import random
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packs import TarMember, ZipMember, compressed, write_tar, write_zip
from profiles import tried
from test_pack import KINDS, files, packed, unpacked
from test_sync import add, archive
from traceark.errors import PackError, StorageError, TracearkError
from traceark.layout import HEADER, TRACES, trace_prefix
from traceark.models import Message, Trace
from traceark.packed import Limits
from traceark.store import ArchiveStore
from traceark.sync import unpack

ZIP, TAR = KINDS
SMALL = Limits(members=50, bytes=1 << 20, ratio=100, allowance=1 << 16)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to try things in, of which nothing is left: no archive, no temporary file, nothing beside it."""
    inside = tmp_path / "inside"
    for name in ("inside", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield inside
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} <= {"inside", "temporary"}
    assert not list((tmp_path / "temporary").iterdir())
    assert not (inside / "archive").exists()


def refused(path: Path, *words: str, limits: Limits | None = None) -> None:
    """Check that a pack is refused, with an error that names it and says these words."""

    async def attempt() -> None:
        async with archive(path.parent / "archive") as store:
            await unpack(path, store, limits=limits)

    with pytest.raises(PackError) as caught:
        asyncio.run(attempt())
    for word in (path.name, "nothing was taken", *words):
        assert word in str(caught.value)


HEADER_NAME = "traces/t/trace.json"
NAMES = {
    "../escape": "leaves its directory",
    "traces/t/../../../escape/trace.json": "leaves its directory",
    "traces/../t/trace.json": "leaves its directory",
    "traces/t/./trace.json": "roundabout",
    "traces//t/trace.json": "roundabout",
    "..": "leaves its directory",
    "/etc/passwd": "absolute",
    "/traces/t/trace.json": "absolute",
    "C:/traces/t/trace.json": "absolute",
    "c:trace.json": "absolute",
    "traces\\t\\trace.json": "backslash",
    "..\\escape": "backslash",
    "traces/t/trace.json\0.txt": "NUL",
    "x" * 5000: "5,000 characters",
    "traces/t/notes.txt": "no file of a trace",
    "traces/T/trace.json": "no file of a trace",
    "traces/t/Trace.json": "no file of a trace",
    "traces/t/messages/../trace.json": "leaves its directory",
    "traces/t/messages/1.jsonl": "no file of a trace",
    "traces/t/messages/deep/000000000001-5f3a9c21-0a1b2c3d.jsonl": "no file of a trace",
    "traces/con/trace.json": "no file of a trace",
    "trace.json": "no file of a trace",
    "traces/t": "no file of a trace",
    "é\u202e/exe.txt": "no file of a trace",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_place_for_a_traces_file(place: Path, name: str) -> None:
    shown = repr(name)[1:-1][:150]
    utf_8 = 1 << 11
    refused(write_zip(place / ZIP, [ZipMember(name, flags=utf_8)]), NAMES[name], shown)
    # A tar's header ends a name at the first NUL; a longer header may hold one.
    long = [TarMember("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME), TarMember("short")]
    refused(write_tar(place / TAR, long), NAMES[name], shown)
    record = b" path=" + name.encode() + b"\n"
    length = next(each for each in range(len(record), len(record) + 9) if each == len(str(each)) + len(record))
    pax = [TarMember("pax", str(length).encode() + record, tarfile.XHDTYPE), TarMember("short")]
    refused(write_tar(place / TAR, pax), NAMES[name], shown)


@pytest.mark.parametrize("kind", [0o120000, 0o010000, 0o020000, 0o060000, 0o140000, 0o040000])
def test_a_member_of_a_zip_that_is_no_plain_file(place: Path, kind: int) -> None:
    refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, b"/etc/passwd", mode=kind | 0o644)]), HEADER_NAME, "link")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"K", b"V", b"g", b"?"])
def test_a_member_of_a_tar_that_is_no_plain_file(place: Path, kind: bytes) -> None:
    member = TarMember(HEADER_NAME, b"", kind, linkname="/etc/passwd")
    refused(write_tar(place / TAR, [member]), HEADER_NAME, "link")


@pytest.mark.parametrize("words", [b"linkpath=/etc/passwd", b"GNU.sparse.map=0,1"])
def test_what_a_header_before_it_makes_a_link_or_full_of_holes(place: Path, words: bytes) -> None:
    record = f"{len(words) + 4} ".encode() + words + b"\n"
    refused(write_tar(place / TAR, [TarMember("pax", record, tarfile.XHDTYPE), TarMember(HEADER_NAME)]), "link")


@pytest.mark.parametrize("twin", ["traces/t/trace.json", "Traces/T/trace.JSON", "./traces/t/trace.json"])
def test_members_that_are_there_twice_or_differ_only_in_case(place: Path, twin: str) -> None:
    refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME), ZipMember(twin)]), "twice", twin)
    refused(write_tar(place / TAR, [TarMember(HEADER_NAME), TarMember(twin)]), "twice", twin)


def test_one_trace_in_two_places(place: Path) -> None:
    refused(write_zip(place / ZIP, [ZipMember("a/traces/t/trace.json"), ZipMember("b/t/trace.json")]), "another is too")
    refused(write_tar(place / TAR, [TarMember("a/traces/t/trace.json"), TarMember("t/trace.json")]), "another is too")


def test_a_directory_with_content(place: Path) -> None:
    member = ZipMember("traces/t/", b"hidden", mode=0o040755)
    refused(write_zip(place / ZIP, [member]), "directory with content")
    refused(write_tar(place / TAR, [TarMember("traces/t/", b"hidden", tarfile.DIRTYPE)]), "directory with content")


class TestBombs:
    def test_much_from_little(self, place: Path) -> None:
        zeros = bytes(300_000)
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, zeros)]), "bombs", HEADER_NAME, limits=SMALL)
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME, zeros)]), "bombs", HEADER_NAME, limits=SMALL)
        zeros = bytes(100_000_000)
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, zeros)]), "bombs")
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME, zeros)]), "bombs")

    def test_more_than_there_is_room_for(self, place: Path) -> None:
        noise = random.Random(7).randbytes(400_000)
        members = [(f"traces/{number}/{HEADER}", noise) for number in range(3)]
        refused(write_zip(place / ZIP, [ZipMember(*each) for each in members]), "1,048,576 bytes", limits=SMALL)
        refused(write_tar(place / TAR, [TarMember(*each) for each in members]), "1,048,576 bytes", limits=SMALL)

    def test_zeros_behind_the_end(self, place: Path) -> None:
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME)], end=bytes(300_000)), "bombs", limits=SMALL)

    def test_what_is_passed_over(self, place: Path) -> None:
        member = TarMember("catalog/snapshot", bytes(300_000))
        refused(write_tar(place / TAR, [member]), "bombs", limits=SMALL)

    @pytest.mark.parametrize("size", [1 << 40, 0xFFFFFFFE])
    def test_huge_sizes_that_are_only_said(self, place: Path, size: int) -> None:
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME, size=size)]), HEADER_NAME)
        if size < 1 << 32:
            for method in (0, 8):
                member = ZipMember(HEADER_NAME, method=method, size=size)
                refused(write_zip(place / ZIP, [member]), HEADER_NAME)
                refused(write_zip(place / ZIP, [member]), HEADER_NAME, f"{size:,}", limits=SMALL)

    @pytest.mark.parametrize("size", [0, 1, 3, 4000])
    @pytest.mark.parametrize("method", [0, 8])
    def test_a_size_that_lies(self, place: Path, size: int, method: int) -> None:
        data = bytes(1000)
        crc = zlib.crc32(data[:size])
        refused(
            write_zip(place / ZIP, [ZipMember(HEADER_NAME, data, method, size=size, crc=crc)]), HEADER_NAME, "bytes"
        )

    def test_a_header_of_any_size(self, place: Path) -> None:
        for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            refused(write_tar(place / TAR, [TarMember("x", bytes(1 << 17), kind)]), "header of 131,072 bytes")

    def test_members_without_end(self, place: Path) -> None:
        names = [f"traces/{number}/{HEADER}" for number in range(60)]
        refused(write_zip(place / ZIP, [ZipMember(name) for name in names]), "60 members", limits=SMALL)
        refused(write_tar(place / TAR, [TarMember(name) for name in names]), "51 members", limits=SMALL)

    def test_a_million_tiny_members(self, place: Path) -> None:
        with zipfile.ZipFile(place / "few.zip", "w") as file:
            file.writestr(f"traces/0/{HEADER}", b"")
        local, central = (place / "few.zip").read_bytes()[: 30 + 19], (place / "few.zip").read_bytes()[49:-22]
        count = 1_000_001
        # What it says in its end, which is 32 bits wide and large enough for a million.
        large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(central) * count, len(local))
        at = len(local) + len(central) * count
        with (place / ZIP).open("wb") as out:
            out.write(local)
            for _ in range(1000):
                out.write(central * 1000)
            out.write(central + large + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1))
            out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0))
        refused(place / ZIP, "1,000,001 members")


class TestZips:
    def test_encrypted(self, place: Path) -> None:
        for flags in (1, 1 | 64, 1 << 13):
            refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, flags=flags)]), HEADER_NAME, "encrypted")

    @pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 95, 99])
    def test_compressed_in_other_ways(self, place: Path, method: int) -> None:
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, method=method)]), HEADER_NAME, f"method {method}")

    def test_patched(self, place: Path) -> None:
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME, flags=32)]), HEADER_NAME)

    def test_one_that_overlaps_with_another(self, place: Path) -> None:
        inner = ZipMember("traces/b/trace.json", b"{}")
        outer = ZipMember(HEADER_NAME, inner.local(), method=0)
        behind = 30 + len(HEADER_NAME)
        refused(write_zip(place / ZIP, [outer, ZipMember(inner.name, inner.data, at=behind)]), "overlaps")

    def test_two_names_for_the_same_bytes(self, place: Path) -> None:
        one = ZipMember("traces/a/trace.json")
        refused(write_zip(place / ZIP, [one, ZipMember("traces/b/trace.json", at=0)]), "overlaps")

    def test_a_name_that_is_another_in_its_own_header(self, place: Path) -> None:
        member = ZipMember(HEADER_NAME, local_name="traces/u/trace.json")
        refused(write_zip(place / ZIP, [member]), HEADER_NAME, "not where the directory says")

    def test_something_between_members_before_the_first_or_before_the_directory(self, place: Path) -> None:
        whole = write_zip(place / ZIP, [ZipMember(HEADER_NAME)]).read_bytes()
        (place / ZIP).write_bytes(b"#!/bin/sh\n" + whole)
        refused(place / ZIP)
        first, second = ZipMember("traces/a/trace.json"), ZipMember("traces/b/trace.json")
        end = len(first.local()) + 5 + len(second.local())
        directory = first.central(0) + second.central(len(first.local()) + 5)
        last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), end, 0)
        (place / ZIP).write_bytes(first.local() + b"shell" + second.local() + directory + last)
        refused(place / ZIP, "hides behind it")
        directory = first.central(5)
        last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 5 + len(first.local()), 0)
        (place / ZIP).write_bytes(b"PK\3\4x" + first.local() + directory + last)
        refused(place / ZIP, "does not begin where")
        (place / ZIP).write_bytes(b"PK\3\4" + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 4, 0))
        refused(place / ZIP, "no member")

    @pytest.mark.parametrize("behind", [b"x", b"PK\5\6", bytes(70_000)])
    def test_something_behind_the_end(self, place: Path, behind: bytes) -> None:
        path = write_zip(place / ZIP, [ZipMember(HEADER_NAME)])
        path.write_bytes(path.read_bytes() + behind)
        refused(path)

    @pytest.mark.parametrize("count", [0, 2, 65534])
    def test_another_number_of_members_than_there_are(self, place: Path, count: int) -> None:
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME)], count=count), f"{count:,} members")

    @pytest.mark.parametrize("end", [{"size": 1}, {"size": 1 << 30}, {"start": 1}, {"start": 1 << 31}, {"comment": 5}])
    def test_an_end_that_lies(self, place: Path, end: dict[str, int]) -> None:
        refused(write_zip(place / ZIP, [ZipMember(HEADER_NAME)], end=end))

    def test_two_ends_that_say_two_things(self, place: Path) -> None:
        members = [ZipMember(HEADER_NAME)]
        at = write_zip(place / ZIP, members).stat().st_size - 22
        start = len(members[0].local())
        for large in (
            (0, 0, 2, 2, at - start, start),
            (0, 0, 1, 1, at, 0),
            (0, 0, 1, 1, 1 << 60, 1 << 60),
            (1, 0, 1, 1, at - start, start),
        ):
            end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, *large) + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
            refused(write_zip(place / ZIP, members, before_end=end))

    @pytest.mark.parametrize(
        "data", [b"", b"PK", b"PK\3\4", b"PK\5\6", b"\x28\xb5\x2f\xfd", b"hello", b"\x1f\x8b", bytes(1000)]
    )
    def test_what_is_no_pack_at_all(self, place: Path, data: bytes) -> None:
        (place / "any").write_bytes(data)
        refused(place / "any")


class TestTars:
    def test_something_behind_the_end(self, place: Path) -> None:
        end = bytes(1024) + b"x" + bytes(511)
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME)], end=end), "goes on behind its end")
        path = write_tar(place / TAR, [TarMember(HEADER_NAME)])
        path.write_bytes(path.read_bytes() + b"x")
        refused(path)

    def test_no_end(self, place: Path) -> None:
        refused(write_tar(place / TAR, [TarMember(HEADER_NAME)], end=b""), "cut off")

    def test_a_header_that_does_not_prove_itself(self, place: Path) -> None:
        header = bytearray(TarMember(HEADER_NAME).header())
        header[0] ^= 1
        (place / TAR).write_bytes(compressed(bytes(header) + bytes(2048)))
        refused(place / TAR, "no tar")

    @pytest.mark.parametrize(
        "record", [b"5 a=b\n", b"999 path=x\n", b"path=x\n", b"0 path=x\n", b"9 path=xy", b"12 size=-1x\n", b"-1 a=b\n"]
    )
    def test_a_header_before_it_that_is_damaged(self, place: Path, record: bytes) -> None:
        refused(write_tar(place / TAR, [TarMember("p", record, tarfile.XHDTYPE), TarMember(HEADER_NAME)]), "damaged")


class TestTraces:
    """Well-made packs whose traces are not sound."""

    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        root = tmp_path / "inside" / "runs"
        asyncio.run(add(root, "a", "b", trace_id="t", status="completed"))
        asyncio.run(add(root, "c", trace_id="u"))
        return root

    def zipped(self, root: Path) -> Path:
        members = [ZipMember(name, data) for name, data in files(root).items()]
        return write_zip(root.parent / ZIP, members)

    def test_a_file_that_is_changed_or_missing(self, place: Path, runs: Path) -> None:
        for path in sorted((runs / TRACES).rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            before = path.read_bytes()
            path.write_bytes(before[:10] + bytes([before[10] ^ 1]) + before[11:])
            refused(self.zipped(runs), path.relative_to(runs).parts[1])
            path.unlink()
            if path.name not in ("manifest-sha256.txt", "goal_tree.json"):
                refused(self.zipped(runs), path.relative_to(runs).parts[1])
            path.write_bytes(before)

    def test_a_trace_under_the_name_of_another(self, place: Path, runs: Path) -> None:
        (runs / trace_prefix("t")).rename(runs / TRACES / "v")
        refused(self.zipped(runs), "traces/v/trace.json", "'t'")

    def test_logs_without_a_header(self, place: Path, runs: Path) -> None:
        (runs / trace_prefix("u") / HEADER).unlink()
        refused(self.zipped(runs), "traces/u/trace.json")

    def test_nothing_of_the_others_is_taken(self, place: Path, runs: Path, tmp_path: Path) -> None:
        (runs / trace_prefix("u") / HEADER).write_text("{")
        path = self.zipped(runs)

        async def attempt() -> None:
            async with ArchiveStore(f"memory://{tmp_path}") as store:
                with pytest.raises(PackError):
                    await unpack(path, store)
                assert await store.storage.list("") == {}

        asyncio.run(attempt())


def test_a_pack_that_cannot_be_read_is_named(place: Path) -> None:
    for path in (place / "gone.zip", place):
        with pytest.raises(StorageError, match=path.name):
            asyncio.run(unpacked(path, place / "archive"))


@pytest.fixture(scope="module")
def sound_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, dict[str, bytes]]]:
    folder = tmp_path_factory.mktemp("packs")

    async def make() -> None:
        async with archive(folder / "runs") as store:
            for trace_id, status in (("t", "completed"), ("u", "running")):
                await store.create_trace(Trace(trace_id=trace_id))
                await store.add_message(Message(trace_id=trace_id, role="user", content="x" * 50))
                await store.update_trace(trace_id, status=status)
        for kind in KINDS:
            await packed(folder / "runs", folder / kind)

    asyncio.run(make())
    return {kind: ((folder / kind).read_bytes(), files(folder / "runs")) for kind in KINDS}


async def refused_or_the_same(data: bytes, expected: dict[str, bytes]) -> bool:
    """Say whether a pack was refused; where it was not, it gives what it gave before it was changed."""
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder, "archive"), Path(folder, "pack")
        path.write_bytes(data)
        try:
            report = await unpacked(path, root)
        except TracearkError:
            assert not root.exists()
            return True
        assert report.outcomes == {"new": 2} and files(root) == expected
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_cut_anywhere_it_is_refused(sound_packs: dict[str, tuple[bytes, dict[str, bytes]]], kind: str) -> None:
    data, expected = sound_packs[kind]
    # Without its hash a tar is still whole.
    whole = {len(data) - 40} if kind == TAR else set()
    for end in {*range(0, len(data), tried(67, 3, 1)), *range(len(data) - 45, len(data))}:
        assert asyncio.run(refused_or_the_same(data[:end], expected)) == (end not in whole)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=tried(40, 500))
@given(
    changes=st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255), st.booleans()), min_size=1, max_size=3)
)
def test_whatever_is_changed_it_is_refused_or_the_same(
    sound_packs: dict[str, tuple[bytes, dict[str, bytes]]], kind: str, changes: list[tuple[int, int, bool]]
) -> None:
    data, expected = sound_packs[kind]
    changed = bytearray(data)
    for at, value, inserts in changes:
        if inserts:
            changed.insert(at % (len(changed) + 1), value)
        else:
            changed[at % len(changed)] = value
    asyncio.run(refused_or_the_same(bytes(changed), expected))
