"""Reading a sealed trace, beside parsing the same JSON from memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.data import messages
from benchmarks.measure import Figure, at_most, take_turns
from benchmarks.sizes import json_lines
from traceark import ArchiveStore, Message, Trace

# How much more than parsing and validating the same rows from memory reading a sealed trace may cost.
MOST = 1.5


async def measure(folder: Path, *, rounds: int, count: int) -> list[Figure]:
    """Return the figures of reading."""
    run = list(messages("read", count, seed=4))
    async with ArchiveStore(folder / "reads", durability="os") as store:
        await store.create_trace(Trace(trace_id="read", task="benchmark"))
        await store.add_messages(run)
        await store.seal("read")
    lines = json_lines(run).splitlines()

    async def ours(_: int) -> None:
        async with ArchiveStore(folder / "reads") as store:
            assert len(await store.get_trace_messages("read")) == count

    async def floor(_: int) -> None:
        assert len([Message.model_validate(json.loads(line)) for line in lines]) == count

    seconds = await take_turns({"ours": ours, "floor": floor}, rounds, time.process_time)
    milliseconds = {name: [each * 1e3 for each in values] for name, values in seconds.items()}
    return [
        at_most(
            f"`get_trace_messages`, a sealed trace of {count:,}",
            milliseconds["ours"],
            "`json.loads` and validation, from memory",
            milliseconds["floor"],
            "ms of CPU",
            MOST,
        ),
    ]
