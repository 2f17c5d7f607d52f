"""An archive of three traces, and every way in which one of them may be damaged."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from traceark.codec.parquet import METADATA_KEY
from traceark.layout import GOAL_TREE, HEADER, MANIFEST
from traceark.models import Goal, Message, Trace
from traceark.storage.local_publish import TEMPORARY
from traceark.store import ArchiveStore

Damage = Callable[[Path], str]


def make_archive(folder: Path) -> None:
    """Make an archive with a sealed trace, a live one in segments, and one that has a part and a segment."""

    async def make() -> None:
        async with ArchiveStore(folder, durability="os") as store:
            for trace_id in ("sealed", "live", "compacted"):
                await store.create_trace(Trace(trace_id=trace_id))
                await store.add_goal(trace_id, Goal(id="1"))
                for at in range(3):
                    await store.add_message(
                        Message(trace_id=trace_id, role="user", content=at, goal_id="1", tokens=at, cost=0.1)
                    )
                    await store.append_event(trace_id, "step", at)
            await store.update_message("sealed-0001", content="changed")
            await store.seal("sealed")
            await store.compact("compacted")
            await store.add_message(Message(trace_id="compacted", role="user", content=3))

    asyncio.run(make())


def tree_state(archive: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return content, inode and time of change of every file, `.lock` included."""
    return {
        str(path): (path.read_bytes(), path.stat().st_ino, path.stat().st_ctime_ns)
        for path in archive.rglob("*")
        if path.is_file()
    }


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any]], None], line: int = 0) -> None:
    """Change a line's JSON and make it prove itself again."""
    lines = path.read_bytes().splitlines()
    record = json.loads(lines[line])
    del record["_crc"]
    change(record)
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=False)[:-1].encode()
    lines[line] = b'%b,"_crc":"%08x"}' % (body, zlib.crc32(body))
    path.write_bytes(b"\n".join(lines) + b"\n")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# Each damages a trace and returns the file that must be named; "deep" ones only verify(deep=True) finds.


def no_header(trace: Path) -> str:
    (trace / HEADER).unlink()
    return HEADER


def torn_header(trace: Path) -> str:
    os.truncate(trace / HEADER, 50)
    return HEADER


def later_header(trace: Path) -> str:
    rewritten(trace / HEADER, lambda record: record.update(_format=2))
    return HEADER


def torn_goal_tree(trace: Path) -> str:
    os.truncate(trace / GOAL_TREE, 50)
    return GOAL_TREE


def cyclic_goal_tree(trace: Path) -> str:
    rewritten(trace / GOAL_TREE, lambda record: record["goals"][0].update(parent_id="1"))
    return GOAL_TREE


def foreign_goal_tree(trace: Path) -> str:
    rewritten(trace / GOAL_TREE, lambda record: record.update(_incarnation="00000000"))
    return GOAL_TREE


def tree_ahead(trace: Path) -> str:
    rewritten(trace / GOAL_TREE, lambda record: record.update(_checkpoint={"messages": {"offset": 99}}))
    return GOAL_TREE


def header_ahead(trace: Path) -> str:
    rewritten(trace / HEADER, lambda record: record["_checkpoint"]["events"].update(offset=99))
    return "events"


def no_messages(trace: Path) -> str:
    shutil.rmtree(trace / "messages")
    return "messages"


def strange_file(trace: Path) -> str:
    (trace / "notes.txt").write_text("mine")
    return "notes.txt"


def strange_log_file(trace: Path) -> str:
    (trace / "messages" / "1.jsonl").write_text("{}\n")
    return "messages/1.jsonl"


def interrupted_write(trace: Path) -> str:
    (trace / "messages" / f"{TEMPORARY}00").write_text("half")
    return f"messages/{TEMPORARY}00"


def leftover(trace: Path) -> str:
    (trace / "events" / "000000000001-00000000-00000000.jsonl").write_text("")
    return "events/000000000001-00000000-00000000.jsonl"


def wrong_directory(trace: Path) -> str:
    trace.rename(trace.with_name("renamed"))
    return "../renamed/" + HEADER


def torn_part(trace: Path) -> str:
    path = one(trace / "messages", "*.parquet")
    os.truncate(path, path.stat().st_size - 1)
    return f"messages/{path.name}"


def renamed_part(trace: Path) -> str:
    path = one(trace / "messages", "*.parquet")
    name = path.name.replace("000000000001-", "000000000002-", 1)
    path.rename(path.with_name(name))
    return f"messages/{name}"


def foreign_part(trace: Path) -> str:
    path = one(trace / "messages", "*.parquet")
    data = path.read_bytes()
    assert data.count(METADATA_KEY) == 1
    path.write_bytes(data.replace(METADATA_KEY, b"tracebrk"))
    return f"messages/{path.name}"


def changed_page(trace: Path) -> str:
    path = one(trace / "messages", "*.parquet")
    flip(path, 60)
    return f"messages/{path.name}"


def broken_manifest(trace: Path) -> str:
    with (trace / MANIFEST).open("a") as file:
        file.write("\n")
    return MANIFEST


def wrong_hash(trace: Path) -> str:
    text = (trace / MANIFEST).read_text()
    (trace / MANIFEST).write_text("0" * 64 + text[64:])
    return text.splitlines()[0].split("  ")[1]


def vanished(trace: Path) -> str:
    (trace / GOAL_TREE).unlink()
    return GOAL_TREE


def changed_record(trace: Path) -> str:
    flip(one(trace / "messages", "*.jsonl"), 30)
    return "messages"


def wrong_offset(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.update(_offset=7))
    return "messages"


def wrong_total(trace: Path) -> str:
    rewritten(trace / HEADER, lambda record: record.update(total_tokens=1000))
    return HEADER


def wrong_last_event(trace: Path) -> str:
    rewritten(trace / HEADER, lambda record: record.update(last_event_id=1000))
    return HEADER


def wrong_stats(trace: Path) -> str:
    rewritten(trace / GOAL_TREE, lambda record: record["goals"][0]["self_stats"].update(message_count=1000))
    return GOAL_TREE


def wrong_event_id(trace: Path) -> str:
    rewritten(one(trace / "events", "*.jsonl"), lambda record: record.update(event_id=1000))
    return "events"


def other_traces_message(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.update(trace_id="other"))
    return "messages"


def no_message(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.update(cost="much"))
    return "messages"


def no_message_id(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.pop("message_id"))
    return "messages"


def no_sequence(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.update(sequence="first"))
    return "messages"


def same_message_twice(trace: Path) -> str:
    rewritten(one(trace / "messages", "*.jsonl"), lambda record: record.update(message_id="live-0001"), line=1)
    return "messages"


ANY = (
    *(no_header, torn_header, later_header, header_ahead, wrong_directory, no_messages),
    *(torn_goal_tree, cyclic_goal_tree, foreign_goal_tree, tree_ahead),
    *(strange_file, strange_log_file, interrupted_write, leftover),
)
PARTS = (torn_part, renamed_part, foreign_part)
LIVE_DEEP = (
    *(changed_record, wrong_offset, wrong_event_id, other_traces_message, no_message, same_message_twice),
    *(no_message_id, no_sequence),
    *(wrong_total, wrong_last_event, wrong_stats),
)
CASES: list[tuple[str, Damage, bool]] = [
    *((trace_id, damage, False) for trace_id in ("sealed", "live", "compacted") for damage in ANY),
    *((trace_id, damage, False) for trace_id in ("sealed", "compacted") for damage in PARTS),
    *((trace_id, changed_page, True) for trace_id in ("sealed", "compacted")),
    ("sealed", broken_manifest, False),
    ("sealed", vanished, False),
    ("sealed", wrong_hash, True),
    *(("live", damage, True) for damage in LIVE_DEEP),
]
