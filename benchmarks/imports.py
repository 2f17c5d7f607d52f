"""Importing, beside parsing the same files alone: milliseconds a megabyte of JSON."""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import re
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

import benchmarks
import traceark
from benchmarks.measure import Figure, at_most, take_turns, within
from traceark import ArchiveStore
from traceark.codec.lines import json_bytes
from traceark.codec.parquet import PartInfo, PartRecord, encode_part, part_info
from traceark.codec.parts import read_part
from traceark.importers.run import import_paths
from traceark.models import Message

MOST = 4.0
FORMATS = ("claude-code", "codex", "inspect")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PROVIDER_ID = re.compile(r"\b(msg|toolu|req)_\w+")
_LOG_ID = re.compile(rb'("(?:uuid|eval_id|run_id)":\s*"[^"]+)"')


async def measure(
    folder: Path, *, rounds: int, size: int, large_size: int, corpora: Path | None = None
) -> list[Figure]:
    """Return the figures of imports: of made sessions of `size` bytes, and of as many of real runs where there are any.

    A real run is copied under new ids until there is enough. What an import has to start is the same for all of
    them: it stands in a row of its own, and weighs less in one of `large_size` bytes, which is what users have.
    """
    sources = folder / "sources"
    sources.mkdir()
    # As installing does: a process that has to compile the package takes a quarter longer to start.
    for package in (traceark, benchmarks):
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=1)
    samples = sorted((Path(traceark.__file__).parent / "samples" / "claude-code").glob("*.jsonl"))
    made = [_scaled(sample, sources / sample.name, size // len(samples)) for sample in samples]
    figures = [
        await _starting(folder / "starting", samples, rounds),
        *await _importing(folder / "made", f"{len(made)} made sessions", made, rounds),
    ]
    for name in FORMATS:
        if corpora is not None and (corpora / name).is_dir():
            real = sorted(path for path in (corpora / name).rglob("*") if path.is_file())
            files = _repeated(real, sources / name, size)
            figures += await _importing(folder / name, f"{len(files)} files of {name}", files, rounds)
            if name == FORMATS[0]:
                files = _repeated(real, sources / "large", large_size)
                figures += await _importing(folder / "large", f"{len(files)} files of {name}", files, 1)
    return figures


async def _starting(folder: Path, samples: list[Path], rounds: int) -> Figure:
    """Return what an import of next to nothing takes by processes of its own, which nothing was loaded for."""
    workers = os.cpu_count() or 1

    async def start(turn: int) -> None:
        async with ArchiveStore(folder / str(turn), durability="os") as store:
            assert (await import_paths(store, samples, workers=workers)).totals()["new_traces"]

    seconds = (await take_turns({"start": start}, rounds, before=_forget_server))["start"]
    name = f"import of {len(samples)} sessions of a few rows, {workers} processes: what starting takes"
    return within(name, [each * 1e3 for each in seconds], "ms")


async def _importing(folder: Path, what: str, files: list[Path], rounds: int) -> list[Figure]:
    """Return the figure of an import, and that of the least that makes the same parts of the same files."""
    workers = os.cpu_count() or 1
    total = sum(len(text) for path in files for text in _texts(path)) / 1e6

    async def ours(turn: int) -> None:
        async with ArchiveStore(folder / str(turn), durability="os") as store:
            report = await import_paths(store, files, workers=workers)
            assert report.totals()["new_traces"]

    async def floor(_: int) -> None:
        for path in files:
            for text in _texts(path):
                with suppress(ValueError):
                    json.loads(text)

    async def least(turn: int) -> None:
        await floor(turn)
        for path in files:
            for text in _texts(path):
                hashlib.sha256(text)
        for number, (info, records) in enumerate(parts):
            digest = hashlib.sha256()
            for each in records:
                if info.log == "messages":
                    Message.model_validate(each.record)
                digest.update(json_bytes(each.record))
            data = encode_part(info, records)
            digest.update(data)
            (folder / f"part-{number}").write_bytes(data)

    seconds = await take_turns({"ours": ours, "floor": floor}, rounds, before=_forget_server)
    parts = [_part(path) for path in (folder / "0" / "traces").rglob("*.parquet")]
    seconds |= await take_turns({"least": least}, rounds)
    cost = {who: [each / total * 1e3 for each in values] for who, values in seconds.items()}
    alone = "`json.loads` of the same"
    return [
        at_most(
            f"import of {what}, {total:.1f} MB of JSON, `os`, sealed, {workers} processes",
            cost["ours"],
            alone,
            cost["floor"],
            "ms/MB",
            MOST,
        ),
        at_most(
            f"the least that goes into it: each row parsed and hashed, each message validated, each record encoded and "
            f"hashed, {len(parts):,} parts encoded, hashed and written; shared by {workers} processes that are there "
            "already, without loss",
            [each / workers for each in cost["least"]],
            alone,
            cost["floor"],
            "ms/MB",
            None,
        ),
    ]


def _part(path: Path) -> tuple[PartInfo, list[PartRecord]]:
    data = path.read_bytes()
    info = part_info(data, path.name)
    return info, read_part(data, info.log, path.name)


def _forget_server() -> None:
    """End the process that others are forked from: an import from the command line waits for one to start, too."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # what Python's own tests use


def _texts(path: Path) -> Iterator[bytes]:
    """Yield the JSON texts of a file: its lines, the whole of it, or the samples in a zip."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                # Python's own library reads no members in zstd.
                with suppress(NotImplementedError, zipfile.BadZipFile):
                    if name.startswith("samples/"):
                        yield file.read(name)
    elif path.suffix == ".jsonl":
        yield from path.read_bytes().splitlines()
    else:
        yield path.read_bytes()


def _repeated(files: list[Path], folder: Path, size: int) -> list[Path]:
    """Return copies of files in a folder, each time under new ids, with so many bytes of JSON together."""
    texts = sum(len(text) for path in files for text in _texts(path))
    found: list[Path] = []
    for repetition in range(max(round(size / texts), 1)):
        for path in files:
            copied = folder / str(repetition) / path.name
            copied.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".jsonl":
                copied = copied.with_name(_renamed(path.name, "", repetition))
                copied.write_text(_renamed(path.read_text(encoding="utf-8"), "", repetition), encoding="utf-8")
            elif zipfile.is_zipfile(path):
                _copy_zip(path, copied, repetition)
            else:
                copied.write_bytes(_LOG_ID.sub(rb'\g<1>x%d"' % repetition, path.read_bytes()))
            found.append(copied)
    return found


def _copy_zip(path: Path, copied: Path, repetition: int) -> None:
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(copied, "w", zipfile.ZIP_DEFLATED) as out:
        for name in file.namelist():
            # Python's own library reads no members in zstd.
            with suppress(NotImplementedError):
                out.writestr(name, _LOG_ID.sub(rb'\g<1>x%d"' % repetition, file.read(name)))


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
