"""Bytes of a sealed trace, beside `zstd -19` of the same messages as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from benchmarks.data import messages
from benchmarks.measure import Figure, Spread
from traceark import ArchiveStore, Message, Trace
from traceark.codec.lines import to_record
from traceark.importers.elsewhere import whole
from traceark.importers.run import import_paths

MOST = 1.15


def json_lines(run: Iterable[Message]) -> bytes:
    """Return messages as compact JSON lines, with nothing of the archive's own."""
    return b"".join(
        json.dumps(to_record(message), ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for message in run
    )


def zstd(data: bytes, level: int = 19) -> bytes:
    """Return data as one zstd frame."""
    return bytes(pa.Codec("zstd", compression_level=level).compress(data, asbytes=True))


async def measure(folder: Path, *, counts: tuple[int, ...], sessions: Path | None = None) -> list[Figure]:
    """Return the figures of sizes."""
    figures: list[Figure] = []
    async with ArchiveStore(folder / "sizes", durability="os") as store:
        for count in counts:
            run = list(messages(f"size-{count}", count, seed=2))
            trace_id = await store.create_trace(Trace(trace_id=f"size-{count}", task="benchmark"))
            await store.add_messages(run)
            await store.seal(trace_id)
            lines = json_lines(run)
            floor = len(zstd(lines))
            whole = _bytes(folder / "sizes" / "traces" / trace_id)
            part = _bytes(folder / "sizes" / "traces" / trace_id / "messages")
            what = f"{count:,} generated messages, {len(lines) / count:,.0f} bytes of JSON each"
            figures += [
                _compared(f"bytes per message, sealed folder; {what}", whole / count, floor / count, "bytes"),
                _compared(f"bytes per message, messages part alone; {what}", part / count, floor / count, "bytes"),
            ]
    if sessions is not None and sessions.is_dir():
        figures += await _of_sessions(folder, sessions)
    return figures


async def _of_sessions(folder: Path, sessions: Path) -> list[Figure]:
    files = sorted(sessions.rglob("*.jsonl"))
    parts = stored = told = count = 0
    async with ArchiveStore(folder / "sessions", durability="os") as store:
        await import_paths(store, files)
    # Closing has sealed what is finished.
    async with ArchiveStore(folder / "sessions", durability="os") as store:
        traces = await store.list_traces(limit=1_000_000)
        for trace in traces:
            await store.seal(trace.trace_id)
            run = await store.get_trace_messages(trace.trace_id)
            if run:
                count += len(run)
                by_id = {str(message.message_id): message for message in run}
                stored += len(zstd(json_lines(run)))
                told += len(zstd(json_lines(whole(message, by_id) for message in run)))
                parts += _bytes(folder / "sessions" / "traces" / trace.trace_id / "messages")
    folders = _bytes(folder / "sessions" / "traces")
    sources = sum(len(zstd(path.read_bytes())) for path in files)
    what = f"{len(traces)} real sessions, {count:,} messages"
    name = f"bytes per message, messages parts alone; {what}"
    return [
        _compared(name, parts / count, told / count, "bytes", of="the JSON lines, all told in full"),
        _compared(name, parts / count, stored / count, "bytes", of="the JSON lines, as the import shortens them"),
        _compared(
            f"kB, all sealed folders with events; {what}", folders / 1e3, sources / 1e3, "kB", of="the session files"
        ),
    ]


def _compared(name: str, ours: float, floor: float, unit: str, of: str = "the JSON lines") -> Figure:
    return Figure(
        name,
        Spread.exactly(ours).text(unit),
        f"`zstd -19` of {of}: {Spread.exactly(floor).text(unit)}",
        f"{ours / floor:.3f}x",
        f"≤ {MOST:g}x",
        ours / floor <= MOST,
    )


def _bytes(folder: Path) -> int:
    """Return the size of a folder's files, but for locks, which hold nothing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
