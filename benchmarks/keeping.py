"""Sealing a trace and verifying it to the bottom, beside compressing and hashing the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks.data import messages
from benchmarks.measure import Figure, at_most, take_turns
from benchmarks.sizes import json_lines, zstd
from traceark import ArchiveStore, Trace
from traceark.codec.parquet import ZSTD_LEVEL


async def measure(folder: Path, *, rounds: int, count: int) -> list[Figure]:
    """Return the figures of sealing and verifying."""
    lines = b""
    async with ArchiveStore(folder / "keeping", durability="os") as store:
        for turn in range(rounds + 1):
            run = list(messages(f"keep-{turn}", count, seed=5))
            await store.create_trace(Trace(trace_id=f"keep-{turn}", task="benchmark"))
            await store.add_messages(run)
            lines = lines or json_lines(run)

        async def seal(turn: int) -> None:
            await store.seal(f"keep-{turn}")

        async def compress(_: int) -> None:
            zstd(lines, ZSTD_LEVEL)

        sealing = await take_turns({"ours": seal, "floor": compress}, rounds)

        async def verify(turn: int) -> None:
            assert await store.verify(f"keep-{turn}", deep=True) == []

        async def hash_files(turn: int) -> None:
            for path in (folder / "keeping" / "traces" / f"keep-{turn}").rglob("*"):
                if path.is_file():
                    hashlib.sha256(path.read_bytes()).hexdigest()

        verifying = await take_turns({"ours": verify, "floor": hash_files}, rounds)
    megabytes = len(lines) / 1e6
    what = f"{count:,} messages, {megabytes:.1f} MB of JSON"

    def rates(seconds: list[float]) -> list[float]:
        return [megabytes / each for each in seconds]

    return [
        at_most(
            f"seal, {what}",
            rates(sealing["ours"]),
            f"`zstd -{ZSTD_LEVEL}` of the lines",
            rates(sealing["floor"]),
            "MB/s",
            None,
        ),
        at_most(
            f"`verify --deep`, {what}",
            rates(verifying["ours"]),
            "sha256 of its files",
            rates(verifying["floor"]),
            "MB/s of JSON",
            None,
        ),
    ]
