"""Reading a sealed trace and importing sessions, beside parsing the same JSON from memory."""

from __future__ import annotations

import json
import re
import time
import uuid
from pathlib import Path

import traceark
from benchmarks.data import messages
from benchmarks.measure import Figure, at_most, take_turns
from benchmarks.sizes import json_lines
from traceark import ArchiveStore, Message, Trace
from traceark.importers.run import import_paths

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# How much more than parsing and validating the same rows from memory reading a sealed trace may cost.
MOST = 1.5
_PROVIDER_ID = re.compile(r"\b(msg|toolu|req)_\w+")


async def measure(folder: Path, *, rounds: int, count: int, import_bytes: int) -> list[Figure]:
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
        await _importing(folder, rounds, import_bytes),
    ]


async def _importing(folder: Path, rounds: int, size: int) -> Figure:
    sources = folder / "sources"
    sources.mkdir()
    samples = sorted((Path(traceark.__file__).parent / "samples" / "claude-code").glob("*.jsonl"))
    files = [_scaled(sample, sources / sample.name, size // len(samples)) for sample in samples]
    total = sum(path.stat().st_size for path in files) / 1e6

    async def ours(turn: int) -> None:
        async with ArchiveStore(folder / f"imported-{turn}") as store:
            report = await import_paths(store, files)
            assert not any(file.problems for file in report.files), report

    async def floor(_: int) -> None:
        for path in files:
            with path.open("rb") as lines:
                for line in lines:
                    json.loads(line)

    seconds = await take_turns({"ours": ours, "floor": floor}, rounds)
    return _rate(
        f"import of {len(files)} sessions, {total:.1f} MB, sealed", seconds, total, "`json.loads` of the same files"
    )


def _rate(name: str, seconds: dict[str, list[float]], megabytes: float, floor: str) -> Figure:
    rates = {who: [megabytes / each for each in values] for who, values in seconds.items()}
    return at_most(name, rates["ours"], floor, rates["floor"], "MB/s", None)


def _scaled(sample: Path, target: Path, size: int) -> Path:
    """Write a session's rows again and again under new ids, until the file has the size."""
    text = sample.read_text(encoding="utf-8").rstrip("\n") + "\n"
    session = str(json.loads(text.partition("\n")[0]).get("sessionId", ""))
    with target.open("w", encoding="utf-8") as out:
        repetition = 0
        while repetition == 0 or out.tell() < size:
            out.write(_renamed(text, session, repetition) if repetition else text)
            repetition += 1
    return target


def _renamed(text: str, session: str, repetition: int) -> str:
    def again(match: re.Match[str]) -> str:
        return match[0] if match[0] == session else str(uuid.uuid5(uuid.UUID(match[0]), str(repetition)))

    return _PROVIDER_ID.sub(lambda match: f"{match[0]}x{repetition}", _UUID.sub(again, text))
