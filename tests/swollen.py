"""Files that say that they are far more than they are, and what the archive's owner meets who asks about them.

Runs in a process of its own, with little memory: `test_fuzz_bounds` starts it.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from test_import_inspect import LOG, zstd_zip
from traceark.codec.lines import decode_line, encode_line
from traceark.errors import TracearkError
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.rollups.files import ROLLUP_FILE, ROLLUPS
from traceark.store import ArchiveStore

# Of messages; said in footers, where nothing else says it.
ROWS = 3001
ABSURD = 1 << 40


def number(value: int) -> bytes:
    """Return an integer as Thrift's compact protocol writes it."""
    value, out = value << 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def rows_absurd(data: bytes) -> bytes:
    """Return a Parquet file that says that it has more rows than any disk holds."""
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8].replace(number(ROWS), number(ABSURD))
    assert len(footer) > size
    return data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def page_absurd(data: bytes) -> bytes:
    """Return a Parquet file whose first page says that it unpacks to two gigabytes."""
    # After the magic: the page's type, then its size when it is unpacked, each behind a byte that names its field.
    begin, end = 7, 7
    while data[end] & 0x80:
        end += 1
    assert data[4:5] == b"\x15" and data[6:7] == b"\x15"
    return data[:begin] + number(2**31 - 1) + data[end + 1 :]


def footer_absurd(data: bytes) -> bytes:
    """Return a Parquet file whose footer says that it is four gigabytes."""
    return data[:-8] + b"\xff\xff\xff\xff" + b"PAR1"


def log_of_inspect(says: int, has: int) -> bytes:
    """Return a log of Inspect with a member by zstd that says that it unpacks to so many bytes, and has as many."""
    data = zstd_zip({"header.json": json.dumps(LOG), "samples/1_epoch_1.json": "\0" * has})
    return data.replace(struct.pack("<L", has), struct.pack("<L", says))


async def made(root: Path) -> None:
    """Make an archive of a sealed trace and a live one, with a rollup."""
    messages = [Message(trace_id="t", message_id=f"t-{at}", role="user", content=f"text {at}") for at in range(ROWS)]
    async with ArchiveStore(root, durability="os") as store:
        await store.add_trace(Trace(trace_id="t", status="completed"), messages, [], GoalTree(goals=[Goal(id="1")]))
        await store.create_trace(Trace(trace_id="live"))
        await store.add_goal("live", Goal(id="1"))
        await store.add_message(Message(trace_id="live", role="user", content="x"))


async def told(root: Path) -> None:
    """Ask all that reads, and print what it says; what raises another error than this package's ends the program."""

    async def ask(what: str, call: Awaitable[Any]) -> None:
        try:
            print(what, str(await call)[:300])
        except TracearkError as error:
            print(what, type(error).__name__, str(error)[:1000])

    async with ArchiveStore(root, durability="os") as store:
        for trace_id in ("t", "live"):
            await ask("trace", store.get_trace(trace_id))
            await ask("tree", store.get_goal_tree(trace_id))
            await ask("messages", store.get_trace_messages(trace_id))
            await ask("message", store.get_message(f"{trace_id}-1", trace_id=trace_id))
        await ask("list", store.list_traces())
        await ask("sql", _count(store))
        await ask("verify", store.verify(deep=True))


async def _count(store: ArchiveStore) -> object:
    return (await store.sql("SELECT count(content), count(DISTINCT content) FROM messages")).rows()


def swollen(root: Path, pattern: str, change: Callable[[Path], object], *, rolled: bool = False) -> None:
    """Change the files of an archive that a pattern finds, and ask."""

    async def run() -> None:
        await made(root)
        if rolled:
            async with ArchiveStore(root, durability="os") as store:
                await store.optimize()
        paths = list(root.glob(pattern))
        assert paths, pattern
        for path in paths:
            change(path)
        for path in root.glob(f"{ROLLUPS}/*/{ROLLUP_FILE}"):
            _tell_sizes(path)
        await told(root)

    asyncio.run(run())


def _tell_sizes(path: Path) -> None:
    """Let a `rollup.json` tell the sizes that its files have."""
    record = cast("dict[str, Any]", decode_line(path.read_bytes(), str(path)))
    record["files"] = {name: (path.parent / name).stat().st_size for name in record["files"]}
    path.write_bytes(encode_line(record))


def bytewise(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return what changes a file by its bytes; where its name tells their CRC-32, it tells that of the new ones."""

    def changed(path: Path) -> None:
        data = path.read_bytes()
        other = change(data)
        path.write_bytes(other)
        path.rename(path.with_name(path.name.replace(f"{zlib.crc32(data):08x}", f"{zlib.crc32(other):08x}")))

    return changed


def sparse(size: int) -> Callable[[Path], object]:
    """Return what lengthens a file by zeros that take no room on the disk."""

    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(size)

    return change
