"""Bombs: what would be far more than it looks is refused within little memory and little time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profiles import THOROUGH, tried

# Of address space, which Arrow and DuckDB reserve by the gigabyte though they use little of it.
MOST_BYTES = 4 << 30
MOST_SECONDS = 30

BEGIN = f"""
KEYS, MEGABYTES = {tried(10**4, 10**6)}, {tried(70, 600)}
import asyncio, io, resource, sys, zipfile, zlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
import pyarrow as pa
from pathlib import Path
from traceark.errors import TracearkError
from traceark.importers.run import import_paths
from traceark.packed import spooled
from traceark.store import ArchiveStore
from traceark.headers import Header
resource.setrlimit(resource.RLIMIT_AS, ({MOST_BYTES}, {MOST_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, ({MOST_SECONDS}, {MOST_SECONDS}))

def sealed(body):
    return body[:-1] + b',"_crc":"%08x"}}\\n' % zlib.crc32(body[:-1])

def taken(data):
    path = Path(sys.argv[1], "bomb.json")
    path.write_bytes(data)
    async def take():
        async with ArchiveStore("memory://bombs") as store:
            return await import_paths(store, [path])
    report = asyncio.run(take())
    print(report.skipped, report.problems)

def header(body):
    refused(lambda: Header.decode(sealed(body), 'the.json'))

def refused(call):
    try:
        call()
    except TracearkError as error:
        print(str(error)[:300])
    else:
        raise AssertionError("it was taken")

def zipped(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=9) as packed:
        for name, size in members.items():
            with packed.open(name, "w", force_zip64=True) as member:
                for _ in range(size >> 20):
                    member.write(bytes(1 << 20))
    return file.getvalue()

def unpacked(data):
    path = Path(sys.argv[1], "bomb.pack")
    path.write_bytes(data)
    with spooled(path):
        pass
"""

BOMBS = {
    "a deep document": ("taken(b'[' * 10**5 + b']' * 10**5)", "bomb.json"),
    "a deep row": ("taken(b'{\"type\":\"user\",\"message\":' + b'[' * 10**5 + b']' * 10**5 + b'}')", "bomb.json"),
    "a deep header": ("header(b'{\"a\":' + b'[' * 10**5 + b']' * 10**5 + b'}')", "the.json"),
    "a wide header": (
        "header(b'{' + b','.join(b'\"%d\":1' % n for n in range(KEYS)) + b'}')",
        "the.json",
    ),
    "a wide document": ("taken(b'{' + b','.join(b'\"%d\":1' % n for n in range(KEYS)) + b'}')", "bomb.json"),
    "a number of 10^5 digits": ("header(b'{\"a\":' + b'9' * 10**5 + b'}')", "the.json"),
    "a log of Inspect with a huge member": ("taken(zipped({'header.json': 600 << 20}))", "bomb.json"),
    "a pack of zeros": ("refused(lambda: unpacked(zipped({'traces/t/trace.json': MEGABYTES << 20})))", "bomb.pack"),
    "a compressed tar of zeros": (
        "refused(lambda: unpacked(bytes(pa.compress(bytes(MEGABYTES << 20), codec='zstd', asbytes=True))))",
        "bomb.pack",
    ),
}  # fmt: skip


# It takes more than half a gigabyte to say more than a member of a log may have.
LARGE = {"a log of Inspect with a huge member"}


@pytest.mark.parametrize("bomb", BOMBS if THOROUGH else [each for each in BOMBS if each not in LARGE])
def test_a_bomb_is_refused_by_name_in_little_memory_and_time(bomb: str, tmp_path: Path) -> None:
    program, named = BOMBS[bomb]
    done = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}\n{program}", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert named in done.stdout
