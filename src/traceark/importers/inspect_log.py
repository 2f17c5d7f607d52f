"""Inspect AI logs: ``.eval`` files (zip) and the older ``.json`` ones; each sample is a trace.

The format is that of https://inspect.aisi.org.uk/eval-logs.html. A sample's messages become messages
with their attachments put in, its events raw events ``inspect.<event>`` as they are. Everything else
of the sample is an event ``inspect.sample``; what is short of it, and the scores, are in the trace's
metadata, under ``inspect``. What the log says of all samples is an event ``inspect.log`` of the first
one's trace, whose id the others have as ``log_in``.
A zip's summaries and journal repeat what the samples say, and are not taken.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import INEXACT, DocumentTrace, document_of, head_of, may_have, without
from traceark.importers.inspect_usage import LogTotals, events_of, take_usage
from traceark.importers.jsonl import whole_value
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Trace

NAME = "inspect"
_LOG = re.compile(rb'"version"\s*:\s*\d.*?"eval"\s*:\s*\{', re.DOTALL)
_KEYS = frozenset({"version", "eval"})
# A member's own header, by the name of one that logs have (APPNOTE 4.3.7).
_TORN_ZIP = re.compile(rb"PK\x03\x04.{26}(samples/|_journal/|header\.json)", re.DOTALL)
_HEAD_BYTES = 65_536
_ATTACHMENT = "attachment://"
# What Python's library raises where a zip is damaged, or of a kind that it does not know.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
# Of the zip format (APPNOTE 4.4.5); Python's own library reads it from 3.14 on.
_ZSTANDARD = 93
# A log that is larger unpacks to so many times its size at most; real ones do to 25 times theirs.
_LARGE_BYTES, _MOST_RATIO = 2**26, 200
# A member that says it is larger is no sample.
_MOST_BYTES = 2**29


class InspectLog:
    """Reads a log; the trace id is a sample's ``uuid``, else made of the run's, the sample's and its epoch."""

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the file is a zip with a log's members, or the beginning that of a log in JSON."""
        if _LOG.search(head_of(path)) is not None:
            return may_have(path, _KEYS)
        try:
            with zipfile.ZipFile(path) as file:
                names = set(file.namelist())
        except _BAD_ZIP:
            return _TORN_ZIP.search(_zip_head(path)) is not None
        return bool(names & {"header.json", "_journal/start.json"})

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the trace of each sample; say so where the log states other totals than its samples have."""
        kept_in: str | None = None
        totals: LogTotals | None = None
        for log, sample in _samples(path, counts):
            totals = totals or LogTotals(log)
            totals.add(sample)
            if sample is not None:
                source = _trace(sample, log, kept_in, path, counts)
                kept_in = kept_in or source.trace.trace_id
                yield source
        for told in totals.differences() if totals is not None else ():
            counts.differences.append(Problem(str(path), 0, told))


def _samples(path: Path, counts: ImportCounts) -> Iterator[tuple[JsonObject, JsonObject | None]]:
    """Yield what a log says of all samples with each of them, None for one that cannot be read."""
    if not zipfile.is_zipfile(path) and not _zip_head(path):
        yield from _listed(path, counts)
        return
    try:
        file = zipfile.ZipFile(path)
    except _BAD_ZIP as error:
        told = f"a torn or damaged zip, whose directory cannot be read ({error}); nothing was taken"
        hint = "`zip -FF` may save the samples in it that are whole"
        counts.problems.append(Problem(str(path), 0, f"{told}; {hint}"))
        return
    with file:
        yield from _zipped(file, path, counts)


def _listed(path: Path, counts: ImportCounts) -> Iterator[tuple[JsonObject, JsonObject | None]]:
    """Yield what a document says of all samples with each of them, None for what is none."""
    log = document_of(path, counts)
    if log is None:
        return
    samples, rest = log.get("samples"), without(log, "samples")
    for number, sample in enumerate(samples if isinstance(samples, list) else (), start=1):
        if not isinstance(sample, dict):
            counts.problems.append(Problem(str(path), 0, f"sample {number} is no object; it was not taken"))
        yield rest, sample if isinstance(sample, dict) else None
    if not isinstance(samples, list) or not samples:
        counts.problems.append(Problem(str(path), 0, "the log has no samples; nothing was taken"))


def _zipped(file: zipfile.ZipFile, path: Path, counts: ImportCounts) -> Iterator[tuple[JsonObject, JsonObject | None]]:
    """Yield what a zip says of all samples with each of them, None for one that cannot be read."""
    size = sum(info.file_size for info in file.infolist())
    if size > max(_LARGE_BYTES, _MOST_RATIO * path.stat().st_size):
        told = f"its members say that they have {size:,} bytes, which is no log's; nothing was taken"
        counts.problems.append(Problem(str(path), 0, told))
        return
    header = _member(file, "header.json", path, counts) or _member(file, "_journal/start.json", path, counts)
    log = dict(header or {})
    if "reductions.json" in file.namelist() and (reductions := _value(file, "reductions.json", path, counts)):
        log["reductions"] = reductions
    names = [name for name in file.namelist() if name.startswith("samples/") and name.endswith(".json")]
    for name in names:
        yield log, _member(file, name, path, counts)
    if not names:
        counts.problems.append(Problem(str(path), 0, "the log has no samples; nothing was taken"))


def _zip_head(path: Path) -> bytes:
    """Return the beginning of a file that begins as a zip, else nothing."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head if head.startswith(b"PK\3\4") else b""


def _member(file: zipfile.ZipFile, name: str, path: Path, counts: ImportCounts) -> JsonObject | None:
    """Return the object that a member holds; None, with a problem, where it holds none."""
    value = _value(file, name, path, counts) if name in file.namelist() else None
    if value is not None and not isinstance(value, dict):
        counts.problems.append(Problem(str(path), 0, f"{name} holds no object; it was not taken"))
    return value if isinstance(value, dict) else None


def _value(file: zipfile.ZipFile, name: str, path: Path, counts: ImportCounts) -> Json:
    try:
        data = _bytes(file, file.getinfo(name))
    except _BAD_ZIP as error:
        counts.problems.append(Problem(str(path), 0, f"{name} cannot be read: {error}"))
        return None
    whole = whole_value(data)
    if whole.reason:
        counts.problems.append(Problem(str(path), 0, f"{name}: {whole.reason}; it was not taken"))
    elif not whole.exact:
        counts.problems.append(Problem(str(path), 0, f"{name}: {INEXACT}"))
    return whole.value


def _bytes(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"it says that it has {info.file_size:,} bytes")
    if info.compress_type != _ZSTANDARD:
        return file.read(info)
    # The member's own header: 30 bytes, then a name and extra fields of the lengths that it tells.
    assert file.fp is not None
    file.fp.seek(info.header_offset)
    name_size, extra_size = struct.unpack("<26x2H", file.fp.read(30))
    file.fp.seek(info.header_offset + 30 + name_size + extra_size)
    packed = file.fp.read(info.compress_size)
    data = bytes(pa.decompress(packed, info.file_size, codec="zstd"))
    if zlib.crc32(data) != info.CRC:
        raise ValueError("its CRC-32 is not the one that the zip tells")
    return data


def _trace(sample: JsonObject, log: JsonObject, kept_in: str | None, path: Path, counts: ImportCounts) -> SourceTrace:
    """Return a sample's trace; what the log says of all samples is kept in the first one's, `kept_in`."""
    typed = Typed(counts.repaired)
    told = log.get("eval")
    about: JsonObject = told if isinstance(told, dict) else {}
    run = about.get("eval_id") or about.get("run_id") or about.get("task_id") or path.stem
    made_up = f"{run}-{sample.get('id')}-{sample.get('epoch')}"
    trace = Trace(trace_id=typed.identifier(sample.get("uuid")) or made_up, status="completed")
    trace.agent_type, trace.model = typed.text(about.get("task")), typed.text(about.get("model"))
    rest, transcript = without(sample, "messages", "events"), sample.get("transcript")
    if sample.get("events") is None and isinstance(transcript, dict):
        rest["transcript"] = without(transcript, "events")
    building = DocumentTrace(NAME, trace, counts)
    short = building.keep("sample", rest)
    if kept_in is None:
        building.keep("log", log)
    else:
        short["log_in"] = kept_in
    trace.metadata = {NAME: {**short, "scores": _scores(sample.get("scores", sample.get("score")))}}
    building.time(about.get("created"))
    trace.task = typed.summary(_text_of(sample.get("input")))
    attachments = sample.get("attachments")
    texts: JsonObject = attachments if isinstance(attachments, dict) else {}
    for number, message in building.each("message", sample.get("messages")):
        _add_message(building, number, message, texts)
    for _, event in building.each("event", events_of(sample)):
        building.time(event.get("timestamp"))
        building.event(typed.text(event.get("event")) or "unknown", event)
    _take_outcome(building, sample)
    return building.finish(path, take_usage(building, sample))


def _add_message(building: DocumentTrace, number: int, message: JsonObject, texts: JsonObject) -> None:
    typed = building.typed
    added = building.spoken(number, message, lambda call: _block(call, texts), lambda told: _resolved(told, texts))
    if added.role == "tool":
        building.answers(added, message.get("tool_call_id"), message.get("function"))
        error = message.get("error")
        if isinstance(error, dict):
            added.status, added.error = "failed", typed.summary(error.get("message"))
    elif added.role == "assistant":
        building.trace.result_summary = typed.summary(_text_of(added.content), 500) or building.trace.result_summary


def _block(call: JsonObject, texts: JsonObject) -> JsonObject | None:
    """Return a call as a block; None where the names of its fields do not allow that."""
    if call.get("type") not in (None, "function") or "name" in call:
        return None
    rest = _resolved(without(call, "function", "type"), texts)
    assert isinstance(rest, dict)
    return {"type": "tool_call", "name": call.get("function"), **rest}


def _scores(told: Json) -> Json:
    """Return the value of each score."""
    scores = told if isinstance(told, dict) else {}
    return {name: score.get("value") if isinstance(score, dict) else score for name, score in scores.items()}


def _resolved(value: Json, texts: Mapping[str, Json]) -> Json:
    """Return a value with the attachments that it names put in."""
    if isinstance(value, str):
        return texts.get(value.removeprefix(_ATTACHMENT), value) if value.startswith(_ATTACHMENT) else value
    if isinstance(value, list):
        return [_resolved(each, texts) for each in value]
    if isinstance(value, dict):
        return {name: _resolved(each, texts) for name, each in value.items()}
    return value


def _text_of(content: Json) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [each.get("text", each.get("content")) for each in blocks if isinstance(each, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _take_outcome(building: DocumentTrace, sample: Mapping[str, Json]) -> None:
    error, limit = sample.get("error"), sample.get("limit")
    if isinstance(error, dict):
        building.trace.status = "failed"
        building.trace.error_message = building.typed.summary(error.get("message"), 1000)
    elif isinstance(limit, dict):
        building.trace.status = "failed"
        building.trace.error_message = building.typed.text(f"limit: {limit.get('type')} {limit.get('limit')}")
