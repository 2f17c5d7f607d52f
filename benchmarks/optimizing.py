"""`python -m benchmarks.optimizing <archive>`: optimize in a process of its own.

Prints its seconds and the most memory that the process ever took, in bytes, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from pathlib import Path

from traceark import ArchiveStore


async def optimize(root: Path) -> dict[str, float]:
    """Optimize an archive whose catalog is read before; return `seconds`, `peak` and `messages`."""
    async with ArchiveStore(root) as store:
        await store.list_traces(limit=1)
        start = time.perf_counter()
        report = await store.optimize()
        seconds = time.perf_counter() - start
    if report.left_out:
        raise RuntimeError(f"{len(report.left_out)} traces were left out")
    return {"seconds": seconds, "peak": _peak_bytes(), "messages": report.messages}


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux `ru_maxrss` counts what the process that started this one took before.
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(asyncio.run(optimize(Path(sys.argv[1])))))
