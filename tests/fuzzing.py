"""What is fuzzed: every parser of bytes from strangers, with true samples to begin from, and ways to spoil them.

A target takes bytes. It is done where they are read, or refused by an error of `TracearkError`; any other
error, and a law that does not hold, is a find. `test_fuzz` feeds them by hypothesis, `fuzz_atheris` by coverage.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import test_import_codex as codex
from packs import compressed
from test_import_claude_code import SAMPLES
from test_import_inspect import LOG, sample, zstd_zip
from test_import_keeps import DOCUMENTS
from traceark.catalog.notes import Note, changed, decode_notes, encode_notes, is_doubtful
from traceark.catalog.snapshot import SCHEMA, SnapshotInfo, checked, encode_snapshot, snapshot_info
from traceark.codec.checked import sound_part
from traceark.codec.lines import check_json, decode_line, encode_line, to_record
from traceark.codec.parquet import METADATA_KEY, PART_SCHEMAS, PartInfo, Run, part_info
from traceark.codec.parts import read_message, read_messages, read_part
from traceark.errors import InvalidIdError, InvalidValueError, TracearkError
from traceark.filters import unpack
from traceark.headers import Header, TreeFile
from traceark.importers.report import ImportReport
from traceark.importers.run import import_paths
from traceark.layout import (
    HEADER,
    MARKER,
    LogName,
    parse_log_name,
    parse_tombstone_name,
    tombstone_key,
    trace_id_of,
    trace_key,
    trace_prefix,
)
from traceark.manifest import decode_manifest, encode_manifest
from traceark.marker import read_marker
from traceark.models import Event, JsonObject, Message
from traceark.packed import Limits, ZipWriter, spooled
from traceark.packed.members import place_of
from traceark.packed.tars import TarWriter
from traceark.reading import load
from traceark.repair.rebuild import accepted_header, accepted_tree
from traceark.rollups.files import Rollup, decode_rollup
from traceark.segments import parse_segment
from traceark.spool.place import Mark
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.tombstones import Tombstone

GOLDEN = Path(__file__).parent / "golden" / "v1" / "archive"
MAIL, LIVE = GOLDEN / "traces" / "sort-mail", GOLDEN / "traces" / "live%2Frun~21"
BINDING, ROLLUP_ID = "5f3a9c21", "000000000001-5f3a9c21"


@dataclass(frozen=True)
class Target:
    """A parser: its name, samples of what it reads, what runs it, and whether the samples are JSON."""

    name: str
    seeds: Sequence[bytes]
    run: Callable[[bytes], None]
    is_json: bool = True


def attempt(target: Target, data: bytes) -> bool:
    """Run a target; say whether it took the bytes, rather than refusing them."""
    try:
        target.run(data)
    except TracearkError:
        return False
    return True


# --- samples


def unsealed(data: bytes) -> bytes:
    """Return lines without their proofs, for `sealed` to prove again once they are spoiled."""
    return re.sub(rb',"_crc":"[0-9a-f]{8}"}', b"}", data)


def sealed(data: bytes) -> bytes:
    """Return lines that end as an object does with a proof, so that the CRC hides no parser behind it."""
    lines = data.split(b"\n")
    return b"\n".join(
        line[:-1] + b',"_crc":"%08x"}' % zlib.crc32(line[:-1]) if line.endswith(b"}") else line for line in lines
    )


def one(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def texts(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


HEADERS = [unsealed((folder / HEADER).read_bytes()) for folder in (MAIL, LIVE)]
TREES = [unsealed((folder / "goal_tree.json").read_bytes()) for folder in (MAIL, LIVE)]
SEGMENTS = [
    unsealed(one(LIVE, f"{log}/*000000000{first}-*-a000001d.jsonl").read_bytes())
    for log, first in (("messages", 4), ("events", 3))
]
PARTS: dict[LogName, list[bytes]] = {
    log: [one(folder, f"{log}/*.parquet").read_bytes() for folder in (MAIL, LIVE)] for log in ("messages", "events")
}
STONE = Tombstone("run-7", "5f3a9c21", HEADER, "0" * 64, "old")
ROW: JsonObject = {
    "trace_id": "t",
    "_revision": 2,
    "_incarnation": "5f3a9c21",
    "_openings": ["a-1-b"],
    "_gone": ["0a0a0a0a"],
}
NOTES = [
    Note("open", "t", "5f3a9c21-6553f100-1b2c3d4e"),
    Note(
        "settled",
        "t",
        closes=("5f3a9c21-6553f100-1b2c3d4e",),
        row={"trace_id": "t", "_revision": 3, "_incarnation": "5f3a9c21"},
    ),
    Note("gone", "t", closes=("5f3a9c21-6553f100-1b2c3d4e",), incarnation="5f3a9c21"),
]
ROLLUP = Rollup(
    ROLLUP_ID,
    {"members.parquet": 5},
    {"members.parquet": "cbf43926"},
    {"messages": 1},
    began=3,
    replaces=("000000000000-5f3a9c21",),
)
INFO = PartInfo("messages", "t", "5f3a9c21", 1, 1, True, (Run(1, "0a1b2c3d", 1),))


NAMES = [b"Run/7", b"run%2F7~1", b"000000000001-5f3a9c21-0a1b2c3d.jsonl", b"traces/t/trace.json"]


def snapshot() -> bytes:
    return encode_snapshot(
        SnapshotInfo(BINDING, 1, folded={"a": 2}, strangers=("x",)), SCHEMA.empty_table().to_reader()
    )


def packs() -> dict[str, bytes]:
    """Return the same trace as a zip and as a compressed tar."""
    found = {}
    for kind, writer in (("zip", ZipWriter), ("tar", TarWriter)):
        file = io.BytesIO()
        writing = writer(file)
        for path in sorted(MAIL.rglob("*")):
            if path.is_file():
                writing.add(f"traces/sort-mail/{path.relative_to(MAIL).as_posix()}", path.read_bytes())
        writing.close()
        found[kind] = file.getvalue()
    return found


def logs_in_zips() -> list[bytes]:
    file = io.BytesIO()
    members = {"samples/1_epoch_1.json": json.dumps(sample()), "header.json": json.dumps(LOG)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in members.items():
            packed.writestr(name, text)
    return [file.getvalue(), zstd_zip(members)]


# --- what reads them


def run_line(data: bytes) -> None:
    record = decode_line(sealed(data), "a line")
    check_json(record)
    assert decode_line(encode_line(record), "again") == record


def run_header(data: bytes) -> None:
    accepted_header(data, "trace.json")
    header = Header.decode(sealed(data), "trace.json")
    again = Header.decode(header.encode(), "again")
    assert (again.told(), again.checkpoint.to_json(), again.changes) == (
        header.told(),
        header.checkpoint.to_json(),
        header.changes,
    )


def run_tree(data: bytes) -> None:
    accepted_tree(data, "goal_tree.json")
    tree = TreeFile.decode(sealed(data), "goal_tree.json")
    assert TreeFile.decode(tree.encode(), "again").told() == tree.told()
    tree.tree.check()


def run_segment(data: bytes) -> None:
    first = 3 if b'"_offset":3' in data else 4
    segment = parse_segment(sealed(data), "a segment", first, "a000001b")
    assert segment.count == len(segment.records)
    for record in segment.records:
        for model in (Message, Event):
            try:
                read = model.parse(record.record)
                assert model.parse(to_record(read)) == read
            except InvalidValueError:
                continue


def run_tombstone(data: bytes) -> None:
    stone = Tombstone.decode(sealed(data), STONE.key)
    assert Tombstone.decode(stone.encode(), STONE.key) == stone


def run_notes(data: bytes) -> None:
    notes = decode_notes(sealed(data), "a change file")
    check_json([each.row for each in notes])
    if notes:
        changed(ROW, notes)
        changed(None, notes)
        is_doubtful(ROW, notes)
    assert [(each.kind, each.row) for each in decode_notes(encode_notes(notes), "again")] == [
        (each.kind, None if each.row is None else {k: v for k, v in each.row.items() if v is not None})
        for each in notes
    ]


def run_rollup(data: bytes) -> None:
    rollup = decode_rollup(sealed(data), ROLLUP_ID, BINDING)
    if rollup is not None:
        assert decode_rollup(rollup.encode(BINDING), ROLLUP_ID, BINDING) == rollup


def run_manifest(data: bytes) -> None:
    assert encode_manifest(decode_manifest(data, "a manifest")) == data


def run_marker(data: bytes) -> None:
    asyncio.run(read_marker(MemoryStorage.of({MARKER: data})))


def run_mark(data: bytes) -> None:
    mark = Mark.decode(data)
    assert mark is None or str(Mark.decode(mark.encode())) == str(mark)


def part_target(log: LogName) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        sound = sound_part(data, log, "sort-mail")
        try:
            info = part_info(data, "a part")
            taken = read_part(data, log, "a part")
            if log == "messages":
                read_messages(data, "a part", info.last)
                read_message(data, "a part", info.last, "sort-mail-0001")
        except TracearkError:
            # `sound_part` answers for no part that a closer look refuses.
            assert sound is None
            raise
        assert sound is None or all(1 <= each.offset <= info.last for each in taken)

    return run


def part_with(log: LogName, metadata: bytes, **cells: object) -> bytes:
    """Return a part with one row, whose metadata and cells say what they like."""
    usual: dict[str, object] = {
        "message_id": "t-0001", "trace_id": "t", "role": "user", "sequence": 1, "_offset": 1, "event_id": 1,
        "event_type": "e", "created_at": 0, **cells,
    }  # fmt: skip
    schema = PART_SCHEMAS[log]
    table = pa.table(
        {name: pa.array([usual.get(name)], schema.field(name).type) for name in schema.names}, schema=schema
    )
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata}), out, write_page_checksum=True)
    return out.getvalue()


def run_part_metadata(data: bytes) -> None:
    part_target("messages")(part_with("messages", data))


def run_part_cells(data: bytes) -> None:
    text = data.decode(errors="ignore")
    logs: tuple[LogName, ...] = ("messages", "events")
    for log in logs:
        for cell in ("content" if log == "messages" else "payload", "extra"):
            info = PartInfo(log, "t", "5f3a9c21", 1, 1, True, (Run(1, "0a1b2c3d", 1),))
            packed = part_with(log, info.to_json().encode(), **{cell: text})
            try:
                part_target(log)(packed)
            except TracearkError:
                continue
    update = part_with("messages", INFO.to_json().encode(), _op="update", extra=text)
    read_part(update, "messages", "a part")


def run_snapshot(data: bytes) -> None:
    file = io.BytesIO(data)
    info = snapshot_info(file, "a snapshot")
    file.seek(0)
    for _ in checked(info, file, "a snapshot"):
        pass


def run_snapshot_metadata(data: bytes) -> None:
    out = io.BytesIO()
    pq.write_table(SCHEMA.empty_table().replace_schema_metadata({METADATA_KEY: data}), out)
    run_snapshot(out.getvalue())


LIMITS = Limits(members=1000, bytes=1 << 22, ratio=200, allowance=1 << 20)


def run_pack(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pack")
        path.write_bytes(data)
        with spooled(path, LIMITS) as spool:
            inside = [each.resolve() for each in spool.root.rglob("*")]
            assert all(spool.root.resolve() in each.parents for each in inside)
        assert [each.name for each in Path(folder).iterdir()] == ["a.pack"]


# Formats in which a row may become a message and an event too; in the others each is one of them.
TOLD_TWICE = ("atif", "langfuse", "langsmith", "openai-agents", "opencode", "otlp")


def import_target(name: str) -> Callable[[bytes], None]:
    """Return what imports a file twice: each row is taken or refused, and the second time adds nothing."""

    async def take(path: Path) -> None:
        async with ArchiveStore(f"memory://fuzzed-{name}") as store:
            first = await import_paths(store, [path])
            again = await import_paths(store, [path])
        totals = again.totals()
        assert (totals["new_messages"], totals["new_events"], totals["new_traces"]) == (0, 0, 0)
        assert first.rows == again.rows
        assert not first.raised, "\n".join(first.raised.values())
        assert_each_row_is_taken_or_refused(first)
        assert len(first.files) + len(first.skipped) == 1

    def run(data: bytes) -> None:
        MemoryStorage.forget(f"fuzzed-{name}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "source.json")
            path.write_bytes(data)
            asyncio.run(take(path))

    return run


def assert_each_row_is_taken_or_refused(report: ImportReport) -> None:
    """Fail where the counts of a first import do not add up, unless a trace was refused with all its rows."""
    totals = report.totals()
    rows, taken, refused = totals["rows"], totals["new_messages"] + totals["new_events"], totals["problems"]
    if all(trace.outcome in ("new", "grown") for file in report.files for trace in file.traces):
        assert rows <= taken + refused, f"{rows} rows, {taken} taken, {refused} refused"
        told_twice = any(file.importer.startswith(TOLD_TWICE) for file in report.files)
        assert told_twice or taken <= rows, f"{rows} rows, {taken} taken"


def run_names(data: bytes) -> None:
    text = (
        data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace")
        if _decodes(data)
        else data.decode("latin-1")
    )
    try:
        key = trace_key(text)
    except InvalidIdError:
        pass
    else:
        assert trace_id_of(key) == text
        assert "/" not in key and key not in (".", "..")
        assert parse_tombstone_name(tombstone_key(text, "5f3a9c21").partition("/")[2]) == (text, "5f3a9c21")
    for name in (text, text.strip()):
        trace_id = trace_id_of(name)
        assert trace_id is None or trace_key(trace_id) == name
        parsed = parse_log_name(name)
        assert parsed is None or str(parsed) == name
        parse_tombstone_name(name)
        place = place_of(name)
        assert place is None or trace_id_of(place.key) is not None


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def run_cursor(data: bytes) -> None:
    unpack(base64.urlsafe_b64encode(data).rstrip(b"=").decode(), ((str,), (str, int, float, type(None)), (str,)))


def trace_target(name: str) -> Callable[[bytes], None]:
    """Return what reads a whole trace in which the file of that name is another."""
    files = {str(path.relative_to(GOLDEN)): path.read_bytes() for path in LIVE.rglob("*") if path.is_file()}
    [key] = [each for each in files if each.endswith(name)]
    trace_id = trace_id_of(LIVE.name) or ""

    async def read(data: bytes) -> None:
        storage = MemoryStorage.of({**files, key: data})
        trace = await load(storage, trace_id, trace_prefix(trace_id))
        assert trace is not None

        async def events() -> object:
            return await trace.log("events")

        for part in (trace.trace, trace.tree, trace.models, trace.messages, events):
            try:
                await part()
            except TracearkError:
                continue

    return lambda data: asyncio.run(read(sealed(data)))


def targets() -> dict[str, Target]:
    """Return all targets by name."""
    zips = packs()
    claude = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jsonl"))][:2]
    rollout = [codex.META, codex.said("Done.", 3), codex.total(10, 5, 2)]
    found = [
        Target("line", [each.split(b"\n")[0] for each in (*HEADERS, *SEGMENTS)], run_line),
        Target("trace.json", HEADERS, run_header),
        Target("goal_tree.json", TREES, run_tree),
        Target("segment", SEGMENTS, run_segment),
        Target("tombstone", [unsealed(STONE.encode())], run_tombstone),
        Target("change file", [unsealed(encode_notes(NOTES))], run_notes),
        Target("rollup.json", [unsealed(ROLLUP.encode(BINDING))], run_rollup),
        Target("manifest", [(MAIL / "manifest-sha256.txt").read_bytes()], run_manifest, is_json=False),
        Target("marker", [(GOLDEN / MARKER).read_bytes()], run_marker),
        Target("mark of a spool", [Mark({"a": (1, "v")}, {"messages": 1, "events": 0}, 0.5).encode()], run_mark),
        Target("part of messages", PARTS["messages"], part_target("messages"), is_json=False),
        Target("part of events", PARTS["events"], part_target("events"), is_json=False),
        Target("metadata of a part", [INFO.to_json().encode()], run_part_metadata),
        Target("cells of a part", texts({"a": [1, "x"], "usage": {"more": 1}}, [{"type": "text"}]), run_part_cells),
        Target("snapshot", [snapshot()], run_snapshot, is_json=False),
        Target(
            "metadata of a snapshot",
            texts({"format": 1, "catalog": asdict(SnapshotInfo(BINDING, 1, folded={"a": 2}, strangers=("x",)))}),
            run_snapshot_metadata,
        ),
        Target("pack, zip", [zips["zip"]], run_pack, is_json=False),
        Target("pack, tar", [zips["tar"], compressed(bytes(2048))], run_pack, is_json=False),
        Target("trace, header", HEADERS[1:], trace_target("/trace.json")),
        Target("trace, segment", SEGMENTS[:1], trace_target("messages/000000000004-a000001b-a000001d.jsonl")),
        Target("trace, goal tree", TREES[1:], trace_target("/goal_tree.json")),
        Target("names", NAMES, run_names, is_json=False),
        Target("cursor", texts(["created_at", 5, "t"]), run_cursor),
        Target("import, claude-code", claude, import_target("claude-code")),
        Target("import, codex", [b"\n".join(texts(*rollout))], import_target("codex")),
        Target("import, zips of inspect", logs_in_zips(), import_target("zips"), is_json=False),
        Target("import, pack", [zips["zip"]], import_target("pack"), is_json=False),
        *(
            Target(f"import, {name}", texts(document), import_target(str(number)))
            for number, (name, (_, document)) in enumerate(DOCUMENTS.items())
        ),
    ]  # fmt: skip
    return {target.name: target for target in found}
