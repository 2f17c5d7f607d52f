"""`python -m benchmarks`: measure everything, print one Markdown table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import appends, endurance, imports, keeping, listing, moves, questions, reads, s3_requests, sizes
from benchmarks.archives import Shape
from benchmarks.measure import HEAD, Figure

# 100,000 small traces, ten million short messages, a million of about a kilobyte.
MANY = Shape(100_000, 12, 4)
SHORT = Shape(20_000, 500)
LONG = Shape(2_000, 500, content=True)
SMALL = Shape(20_000, 12, 4)
LARGE = Shape(3, 20_000, content=True)
MOVED = Shape(1_000, 12, 4)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    append_rounds: int = 15
    append_messages: int = 200
    counts: tuple[int, ...] = (1_000, 10_000)
    rounds: int = 5
    messages: int = 10_000
    import_bytes: int = 30_000_000
    large_import_bytes: int = 200_000_000
    # Real sessions, if a collection of them lies beside the checkout.
    sessions: Path | None = Path("..", "shared", "corpora", "claude-code")
    # The number of traces in a catalog, and the most milliseconds that a list may take.
    listed: tuple[tuple[int, float], ...] = ((100, 15.0), (100_000, 15.0), (1_000_000, 30.0))
    many: Shape = MANY
    short: Shape = SHORT
    long: Shape = LONG
    small: Shape = SMALL
    large: Shape = LARGE
    # What is synced to S3.
    moved: Shape = MOVED
    endured_messages: int = 1_000_000
    endured_traces: int = 100_000

    def sized(self, size: float) -> Scale:
        """Return the scale with archives of another size."""
        return replace(
            self,
            listed=tuple((max(int(count * size), 50), most) for count, most in self.listed),
            many=self.many.sized(size),
            short=self.short.sized(size),
            long=self.long.sized(size),
            small=self.small.sized(size),
            large=self.large.sized(size),
            moved=self.moved.sized(size),
        )


FULL = Scale()
QUICK = Scale(
    append_rounds=5,
    append_messages=40,
    counts=(1_000,),
    rounds=3,
    messages=1_000,
    import_bytes=100_000,
    large_import_bytes=200_000,
    endured_messages=5_000,
    endured_traces=300,
).sized(0.01)


def figures_of(scale: Scale) -> dict[str, Callable[[Path], Awaitable[list[Figure]]]]:
    """Return what can be measured, by name."""
    return {
        "append": lambda folder: appends.measure(folder, rounds=scale.append_rounds, per_round=scale.append_messages),
        "s3": lambda folder: s3_requests.measure(
            folder,
            count=scale.messages,
            moved=scale.moved,
            rounds=max(scale.append_rounds // 2, 1),
            per_round=scale.append_messages,
        ),
        "size": lambda folder: sizes.measure(folder, counts=scale.counts, sessions=scale.sessions),
        "read": lambda folder: reads.measure(folder, rounds=scale.rounds, count=scale.messages),
        "import": lambda folder: imports.measure(
            folder,
            rounds=max(scale.rounds // 2, 1),
            size=scale.import_bytes,
            large_size=scale.large_import_bytes,
            corpora=None if scale.sessions is None else scale.sessions.parent,
        ),
        "keep": lambda folder: keeping.measure(folder, rounds=scale.rounds, count=scale.messages),
        "move": lambda folder: moves.measure(folder, rounds=scale.rounds, shape=scale.small, large=scale.large),
        "list": lambda folder: listing.measure(folder, rounds=scale.rounds * 3, counts=dict(scale.listed)),
        "endurance": lambda folder: endurance.measure(
            folder, messages=scale.endured_messages, traces=scale.endured_traces
        ),
        "questions": lambda folder: questions.measure(
            folder, rounds=scale.rounds, many=scale.many, short=scale.short, long=scale.long
        ),
    }


def run(scale: Scale, only: list[str] | None = None) -> list[Figure]:
    """Measure, in a temporary folder inside the current directory, so on the disk that holds it."""
    found: list[Figure] = []
    for name, measure in figures_of(scale).items():
        if only and name not in only:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=".benchmarks-", dir=Path.cwd()) as folder:
            found += asyncio.run(_awaited(measure(Path(folder))))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return found


async def _awaited(work: Awaitable[list[Figure]]) -> list[Figure]:
    return await work


def main(arguments: list[str] | None = None) -> int:
    """Measure what the arguments say, print the table, return an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure traceark beside floors and rivals."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: half a minute, rough figures")
    parser.add_argument(
        "--only", action="append", choices=list(figures_of(QUICK)), help="measure this alone; repeatable"
    )
    parser.add_argument(
        "--size",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="how large the archives of `list` and `questions` are; the full sizes take ten minutes and 5 GB",
    )
    given = parser.parse_args(arguments)
    found = run((QUICK if given.quick else FULL).sized(given.size), given.only)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}; medians (least–most).\n")
    print(HEAD)
    for figure in found:
        print(figure.row())
    return 0


if __name__ == "__main__":
    sys.exit(main())
