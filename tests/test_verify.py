"""Verify finds every kind of damage, names the file and what mends it, and writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from damages import CASES, Damage, changed_page, make_archive, one, torn_header, tree_state, wrong_total
from profiles import SEED, tried
from traceark.errors import DamagedTraceError, InvalidValueError, TraceNotFoundError
from traceark.layout import GOAL_TREE, HEADER, LOCK, MANIFEST, trace_prefix
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.verification import Finding

pytestmark = pytest.mark.usefixtures("interrupted_long_ago")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "archive"
    make_archive(folder)
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "archive")
    return tmp_path / "archive"


def verified(archive: Path, trace_id: str | None = None, *, deep: bool = True) -> list[Finding]:
    return asyncio.run(ArchiveStore(archive).verify(trace_id, deep=deep))


@pytest.mark.parametrize(
    ("trace_id", "damage", "deep"), CASES, ids=[f"{name}-{each.__name__}" for name, each, _ in CASES]
)
def test_a_damage_is_found_with_its_file_and_remedy(archive: Path, trace_id: str, damage: Damage, deep: bool) -> None:
    trace = archive / trace_prefix(trace_id)
    named = damage(trace)
    wanted = os.path.normpath(f"{trace_prefix(trace_id)}/{named}")
    before = tree_state(archive)
    for level in {deep, True}:
        findings = verified(archive, deep=level)
        assert wanted in {finding.file for finding in findings}, [str(each) for each in findings]
        assert {finding.trace_id for finding in findings} <= {trace_id, "renamed"}
        for finding in findings:
            assert finding.meaning
            assert finding.remedy
            assert finding.file in str(finding)
            assert "\n" not in str(finding)
    assert tree_state(archive) == before


def test_nothing_is_found_in_a_whole_archive_and_nothing_written(archive: Path) -> None:
    before = tree_state(archive)
    for deep in (False, True):
        assert verified(archive, deep=deep) == []
        for trace_id in ("sealed", "live", "compacted"):
            assert verified(archive, trace_id, deep=deep) == []
    assert tree_state(archive) == before


def test_several_processes_find_the_same_in_the_same_order(archive: Path) -> None:
    wrong_total(archive / trace_prefix("live"))
    changed_page(archive / trace_prefix("sealed"))
    told: list[tuple[int, int]] = []

    async def check() -> None:
        store = ArchiveStore(archive)
        alone = await store.verify(deep=True, progress=lambda done, total: told.append((done, total)))
        assert {finding.trace_id for finding in alone} == {"live", "sealed"}
        assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
        told.clear()
        shared = await store.verify(deep=True, workers=2, progress=lambda done, total: told.append((done, total)))
        assert shared == alone
        assert told[0] == (0, 3)
        assert told[-1] == (3, 3)

    asyncio.run(check())


def test_a_script_that_starts_processes_whenever_it_is_loaded_is_told_so(archive: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\nfrom traceark import ArchiveStore\n"
        f"asyncio.run(ArchiveStore({str(archive)!r}).verify(deep=True, workers=2))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    told = "StorageError: a process that shared the check died, for want of memory, or since the script"
    assert (ended.returncode, told in ended.stderr) == (1, True), ended.stderr
    assert "never retrieved" not in ended.stderr


def test_processes_share_an_archive_on_a_disk_only() -> None:
    with pytest.raises(InvalidValueError, match="workers"):
        asyncio.run(ArchiveStore("memory://shared").verify(workers=2))


def test_damage_beside_a_trace_is_none_of_its_own(archive: Path) -> None:
    torn_header(archive / trace_prefix("live"))
    assert verified(archive, "sealed") == []
    with pytest.raises(TraceNotFoundError):
        verified(archive, "absent")
    (archive / "traces" / "Not A Key").mkdir()
    (archive / "traces" / "Not A Key" / "x").write_text("")
    assert "traces/Not A Key" in {finding.file for finding in verified(archive)}


def test_a_flipped_bit_in_any_byte_of_any_file_of_a_sealed_trace_is_found(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of some bytes; of every byte where tests are thorough, and four of each in a whole run."""
    # As if all had been there for long.
    monkeypatch.setattr(MemoryStorage, "grace_seconds", 0.0)
    trace = made / trace_prefix("sealed")
    files = {path.relative_to(made).as_posix(): path.read_bytes() for path in trace.rglob("*") if path.is_file()}
    assert {name.partition("/sealed/")[2].partition("/")[0] for name in files} == {
        *(HEADER, GOAL_TREE, MANIFEST, LOCK, "messages", "events")
    }

    step = tried(23, 1)

    async def check() -> None:
        storage = MemoryStorage("flips")
        for name, whole in files.items():
            await storage.replace(name, whole)
        store = ArchiveStore("memory://flips")
        for name, whole in files.items():
            if name.endswith(LOCK):
                continue  # its content is nobody's
            for at in range(SEED % step, len(whole), step):
                for bit in [1 << (at + each) % 8 for each in range(tried(1, 1, 4))]:
                    await storage.replace(name, whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
                    findings = await store.verify("sealed", deep=True)
                    assert findings, f"bit {bit:#x} of byte {at} of {name} was flipped and nothing was found"
            await storage.replace(name, whole)
        assert await store.verify("sealed", deep=True) == []

    asyncio.run(check())
    MemoryStorage.forget("flips")


def test_a_changed_byte_of_a_part_is_never_a_wrong_answer(archive: Path) -> None:
    path = one(archive / trace_prefix("compacted") / "messages", "*.parquet")
    whole = path.read_bytes()

    async def check() -> None:
        expected = await ArchiveStore(archive).get_trace_messages("compacted")
        for at in range(0, len(whole), tried(67, 9, 1)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            store = ArchiveStore(archive)
            with contextlib.suppress(DamagedTraceError):
                assert await store.get_trace_messages("compacted") == expected, f"byte {at}"
            assert await store.verify("compacted", deep=True) != [], f"byte {at} was changed and nothing was found"

    asyncio.run(check())


def test_a_remedy_mends(archive: Path) -> None:
    wrong_total(archive / trace_prefix("live"))
    findings = verified(archive)
    assert findings and all("traceark repair" in finding.remedy for finding in findings)

    async def mend() -> None:
        async with ArchiveStore(archive) as store:
            await store.repair(["live"], dry_run=False)

    asyncio.run(mend())
    assert verified(archive) == []
