"""Bombs: what would be far more than it looks is refused within little memory and little time."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles import tried
from program import ran

# Of address space, which Arrow and DuckDB reserve by the gigabyte though they use little of it.
MOST_BYTES = 4 << 30
MOST_SECONDS = 30

BEGIN = f"""
KEYS, MEGABYTES = {tried(10**4, 10**6)}, {tried(70, 600)}
SPARSE = {tried(1 << 26, 1 << 29)}
import asyncio, io, resource, sys, zipfile, zlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
import pyarrow as pa
from pathlib import Path
from traceark.errors import TracearkError
from traceark.importers.run import import_paths
from traceark.packed import spooled
from traceark.store import ArchiveStore
from traceark.headers import Header
from swollen import bytewise, footer_absurd, log_of_inspect, page_absurd, rows_absurd, sparse, swollen
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

def gzipped(size):
    packer = zlib.compressobj(wbits=31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])

def each(patterns, changes, rolled=False):
    for at, (pattern, change) in enumerate((p, c) for p in patterns for c in changes):
        swollen(Path(sys.argv[1], f"runs-{{at}}"), pattern, change, rolled=rolled)

def unpacked(data):
    path = Path(sys.argv[1], "bomb.pack")
    path.write_bytes(data)
    with spooled(path):
        pass
"""

BOMBS: dict[str, tuple[str, ...]] = {
    "a deep document": ("taken(b'[' * 10**5 + b']' * 10**5)", "bomb.json"),
    "a deep row": ("taken(b'{\"type\":\"user\",\"message\":' + b'[' * 10**5 + b']' * 10**5 + b'}')", "bomb.json"),
    "a deep header": ("header(b'{\"a\":' + b'[' * 10**5 + b']' * 10**5 + b'}')", "the.json"),
    "a wide header": (
        "header(b'{' + b','.join(b'\"%d\":1' % n for n in range(KEYS)) + b'}')",
        "the.json",
    ),
    "a wide document": ("taken(b'{' + b','.join(b'\"%d\":1' % n for n in range(KEYS)) + b'}')", "bomb.json"),
    "a number of 10^5 digits": ("header(b'{\"a\":' + b'9' * 10**5 + b'}')", "the.json"),
    "a gzip of zeros": ("taken(gzipped(MEGABYTES << 20))", "bomb.json"),
    "a log of Inspect with a huge member": (
        "taken(zipped({'header.json': MEGABYTES << 20}))", "bomb.json", "is no log's; nothing was taken",
    ),
    "a log of Inspect with zeros in zstd": (
        "taken(log_of_inspect(1 << 30, 1 << 10))", "is no log's; nothing was taken",
    ),
    "a log of Inspect whose zstd has more than it says": (
        "taken(log_of_inspect(1 << 10, MEGABYTES << 20))", "samples/1_epoch_1.json cannot be read",
    ),
    "a part that says that it is far more": (
        "each(['traces/t/messages/*.parquet'], map(bytewise, (rows_absurd, page_absurd, footer_absurd)))",
        "messages CorruptFileError traces/t/messages/", "list [Trace(trace_id='live'", "verify [Finding(trace_id='t'",
    ),
    "a rollup that says that it is far more": (
        "each(['catalog/rollups/*/messages-1.parquet'], map(bytewise, (rows_absurd, page_absurd, footer_absurd)), "
        "rolled=True)",
        "verify [Finding(trace_id='', file='catalog/rollups/",
    ),
    "files of a trace that are larger than the memory": (
        "each(['traces/t/trace.json', 'traces/t/goal_tree.json', 'traces/t/manifest*', 'traces/t/messages/*'], "
        "[sparse(1 << 40)])",
        "traces/t/trace.json is larger than the memory", "traces/t/goal_tree.json is larger than the memory",
        "traces/t/manifest-sha256.txt is larger than the memory", "list [Trace(trace_id='live'",
    ),
    "a segment that is larger than the memory": (
        "each(['traces/live/messages/*'], [sparse(1 << 40)])",
        ".jsonl is larger than the memory", "list [Trace(trace_id='t'",
    ),
    "a header that ends in zeros": (
        "each(['traces/t/trace.json'], [sparse(SPARSE)])",
        "trace CorruptFileError traces/t/trace.json", "list [Trace(trace_id='live'",
    ),
    "a goal tree that ends in zeros": (
        "each(['traces/t/goal_tree.json'], [sparse(SPARSE)])", "tree CorruptFileError traces/t/goal_tree.json",
    ),
    "a manifest that ends in zeros": (
        "each(['traces/t/manifest*'], [sparse(SPARSE)])", "manifest-sha256.txt has the line",
    ),
    "a segment that ends in zeros": (
        "each(['traces/live/messages/*'], [sparse(SPARSE)])", "messages [Message(message_id='live-",
    ),
    "a pack of zeros": ("refused(lambda: unpacked(zipped({'traces/t/trace.json': MEGABYTES << 20})))", "bomb.pack"),
    "a compressed tar of zeros": (
        "refused(lambda: unpacked(bytes(pa.compress(bytes(MEGABYTES << 20), codec='zstd', asbytes=True))))",
        "bomb.pack",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", list(BOMBS)[:: tried(8, 2, 1)])
def test_a_bomb_is_refused_by_name_in_little_memory_and_time(bomb: str, tmp_path: Path) -> None:
    program, *named = BOMBS[bomb]
    done = ran("-c", f"{BEGIN}\n{program}", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [each for each in named if each not in done.stdout] == []
