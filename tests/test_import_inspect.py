"""Inspect AI logs: samples as traces, whatever way the log is packed."""

from __future__ import annotations

import asyncio
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from test_import_claude_code import corpus, some_of
from traceark.importers.base import ImportCounts, SourceTrace
from traceark.importers.inspect_log import InspectLog
from traceark.importers.run import import_paths
from traceark.models import Json, JsonObject
from traceark.testing import ModelStore

LOG: JsonObject = {
    "version": 2,
    "status": "success",
    "eval": {"eval_id": "e", "run_id": "r", "task": "adding", "model": "m", "created": "2026-01-02T03:04:05+01:00"},
    "plan": {},
}


def model_event(message_id: str, **usage: int) -> JsonObject:
    told: JsonObject = {"input_tokens": 0, "output_tokens": 0, **usage}
    answer: JsonObject = {"id": message_id, "role": "assistant", "content": "4"}
    return {
        "event": "model",
        "timestamp": "2026-01-02T03:04:09+01:00",
        "output": {"usage": told, "choices": [{"message": answer}]},
    }


def sample(**fields: Any) -> JsonObject:
    return {
        "id": 1,
        "epoch": 1,
        "uuid": "u",
        "input": "2 + 2?",
        "target": "4",
        "messages": [
            {"id": "a", "role": "user", "content": "attachment://abc", "source": "input"},
            {
                "id": "b",
                "role": "assistant",
                "content": "I ask.",
                "tool_calls": [
                    {"id": "c", "function": "add", "arguments": {"a": "attachment://abc"}, "type": "function"}
                ],
            },
            {
                "id": "t",
                "role": "tool",
                "content": "no",
                "tool_call_id": "c",
                "function": "add",
                "error": {"message": "x"},
            },
            {"id": "d", "role": "assistant", "content": [{"type": "text", "text": "Four."}]},
        ],
        "events": [
            model_event("b", input_tokens=10, output_tokens=2),
            model_event("d", input_tokens=20, output_tokens=1),
        ],
        "model_usage": {
            "m": {"input_tokens": 30, "output_tokens": 3, "total_tokens": 33},
            "grader": {"total_tokens": 9},
        },
        "attachments": {"abc": "2 + 2, please"},
        "scores": {"match": {"value": "C"}},
        **fields,
    }


def packed(path: Path, *samples: JsonObject, log: Mapping[str, Json] = {}, others: Mapping[str, bytes] = {}) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number, each in enumerate(samples, start=1):
            file.writestr(f"samples/{number}_epoch_1.json", json.dumps(each))
        for name, data in others.items():
            file.writestr(name, data)
        file.writestr("header.json", json.dumps({**LOG, **log}))
    return path


def read(path: Path) -> tuple[list[SourceTrace], ImportCounts]:
    counts = ImportCounts()
    assert InspectLog().detect(path)
    return list(InspectLog().read(path, counts)), counts


def test_a_sample_is_a_trace(tmp_path: Path) -> None:
    (source,), counts = read(packed(tmp_path / "l.eval", sample()))
    assert [(each.role, each.tool_call_id, each.tool_name, each.tokens, each.status) for each in source.messages] == [
        ("user", None, None, None, None),
        ("assistant", "c", "add", 12, None),
        ("tool", "c", "add", None, "failed"),
        ("assistant", None, None, 21, None),
    ]
    assert source.messages[0].content == "2 + 2, please"
    assert source.messages[1].content == [
        {"type": "text", "text": "I ask."},
        {"type": "tool_call", "name": "add", "id": "c", "arguments": {"a": "2 + 2, please"}},
    ]
    rest = {key: value for key, value in sample().items() if key not in ("messages", "events")}
    assert [(each.event_type, each.payload) for each in source.events[:2]] == [
        ("inspect.sample", rest),
        ("inspect.log", LOG),
    ]
    assert [each.payload for each in source.events[2:]] == sample()["events"]
    trace = source.trace
    assert (trace.trace_id, trace.agent_type, trace.model, trace.task) == ("u", "adding", "m", "2 + 2?")
    assert (trace.status, trace.result_summary) == ("completed", "Four.")
    short = {"id": 1, "epoch": 1, "uuid": "u", "input": "2 + 2?", "target": "4", "scores": {"match": "C"}}
    assert trace.metadata == {"inspect": short}
    assert counts.rows == {"sample": 1, "log": 1, "message": 4, "event": 2}


def test_json_and_zip_are_the_same_trace(tmp_path: Path) -> None:
    whole = tmp_path / "l.json"
    whole.write_text(json.dumps({**LOG, "samples": [sample()]}, indent=2))
    (one,), _ = read(whole)
    (other,), _ = read(packed(tmp_path / "l.eval", sample()))
    assert one == other


def test_what_is_stated_stands_at_the_last_message_where_calls_do_not_add_up_to_it(tmp_path: Path) -> None:
    usage = {"m": {"input_tokens": 100, "output_tokens": 7, "total_tokens": 107, "input_tokens_cache_read": 60}}
    (source,), _ = read(packed(tmp_path / "l.eval", sample(model_usage=usage)))
    assert [each.tokens for each in source.messages] == [None, None, None, 107]
    last = source.messages[-1]
    assert last.usage is not None
    # The total tells that the cached tokens are among the input's.
    assert (last.usage.input_tokens, last.usage.cache_read_tokens, last.usage.output_tokens) == (40, 60, 7)
    assert (last.usage.model_extra or {})["whole_run"] is True


def test_tokens_of_reasoning_count_once_be_they_among_the_outputs_or_beside_them(tmp_path: Path) -> None:
    told = {"input_tokens": 59, "output_tokens": 20, "reasoning_tokens": 15}
    for total, written in ((79, 20), (94, 35)):
        usage = {"m": {**told, "total_tokens": total}}
        (source,), counts = read(packed(tmp_path / "l.eval", sample(model_usage=usage)))
        last = source.messages[-1]
        assert last.usage is not None
        assert (last.tokens, last.usage.output_tokens, last.usage.reasoning_tokens) == (total, written, 15)
        assert counts.differences == []


def test_a_total_that_the_parts_do_not_add_up_to_is_reported(tmp_path: Path) -> None:
    usage = {"m": {"input_tokens": 59, "output_tokens": 20, "total_tokens": 99}}
    (source,), counts = read(packed(tmp_path / "l.eval", sample(model_usage=usage)))
    assert [each.reason for each in counts.differences] == [
        f"{source.trace.trace_id}: the messages have 79 tokens, the file states 99"
    ]


def unstated(**fields: Any) -> JsonObject:
    """Return a sample of which the log states no usage, as older versions have none."""
    told = sample(**fields)
    del told["model_usage"]
    return told


def nameless(usage: JsonObject, **fields: Any) -> JsonObject:
    """Return a model event of older versions, whose answer has no id."""
    answer: JsonObject = {"role": "assistant", "content": "4"}
    return {"event": "model", "output": {"usage": usage, "choices": [{"message": answer}]}, **fields}


USED: JsonObject = {"input_tokens": 66, "output_tokens": 2, "total_tokens": 68}


def whole_run(source: SourceTrace) -> list[int | None]:
    """Return the tokens of the messages, the last of which has those of the whole run."""
    assert source.messages[-1].usage is not None and (source.messages[-1].usage.model_extra or {})["whole_run"] is True
    return [each.tokens for each in source.messages]


def test_without_a_stated_total_the_models_events_are_it(tmp_path: Path) -> None:
    own: list[Json] = [nameless(USED), nameless({"input_tokens": 30, "output_tokens": 2}, model="m")]
    # A grader is another model, and an answer out of Inspect's cache was paid for before.
    others = [nameless(USED, model="grader"), nameless(USED, model="m", cache="read")]
    told = unstated(events=[*own, *others], output={"usage": {"input_tokens": 1, "output_tokens": 1}})
    (source,), counts = read(packed(tmp_path / "l.eval", told))
    assert whole_run(source) == [None, None, None, 100]
    assert counts.differences == []
    older: JsonObject = {**told, "transcript": {"events": own}}
    del older["events"]
    (source,), _ = read(packed(tmp_path / "l.eval", older))
    assert whole_run(source) == [None, None, None, 100]


def test_events_of_which_some_have_no_message_are_the_total_too(tmp_path: Path) -> None:
    told = unstated(events=[model_event("b", input_tokens=10, output_tokens=2), nameless(USED)])
    (source,), _ = read(packed(tmp_path / "l.eval", told))
    assert whole_run(source) == [None, None, None, 80]


def test_without_events_the_output_states_the_usage(tmp_path: Path) -> None:
    told = unstated(events=[], output={"model": "m-1", "usage": USED})
    (source,), _ = read(packed(tmp_path / "l.eval", told))
    assert whole_run(source) == [None, None, None, 68]


def test_usage_without_an_answer_to_stand_at_is_a_difference(tmp_path: Path) -> None:
    told = unstated(events=[nameless(USED)], messages=[{"role": "user", "content": "hi"}])
    _, counts = read(packed(tmp_path / "l.eval", told))
    assert [each.reason for each in counts.differences] == ["u: the messages have 0 tokens, the file states 68"]


def stating(path: Path, *samples: JsonObject, **log: Any) -> list[str]:
    """Return how the totals of a log differ from its samples', told alike by both ways of packing it."""
    (whole := path / "l.json").write_text(json.dumps({**LOG, "samples": samples, **log}))
    reasons = [[each.reason for each in read(whole)[1].differences]]
    zipped = packed(path / "l.eval", *samples, log=log)
    reasons.append([each.reason for each in read(zipped)[1].differences])
    assert reasons[0] == reasons[1]
    return reasons[0]


def of_models(**totals: int) -> JsonObject:
    return {"model_usage": {name: {"input_tokens": total, "total_tokens": total} for name, total in totals.items()}}


def test_what_a_log_states_of_each_model_is_checked(tmp_path: Path) -> None:
    two = [sample(), sample(uuid="v", epoch=2)]
    assert stating(tmp_path, *two, stats=of_models(m=66, grader=18)) == []
    assert stating(tmp_path, *two, stats=of_models(m=67, grader=18, other=5)) == [
        "the samples have 66 tokens of m, the file states 67",
        "the samples have 0 tokens of other, the file states 5",
    ]
    assert stating(tmp_path, *two, stats={"model_usage": {}}) == stating(tmp_path, *two) == []
    # Without a usage of its own, a sample has that of its events.
    assert stating(tmp_path, unstated(), stats=of_models(m=33)) == []
    assert stating(tmp_path, unstated(events=[], output={"usage": USED}), stats=of_models(m=68)) == []


def test_a_log_with_a_part_of_its_samples_says_that_its_totals_are_of_all(tmp_path: Path) -> None:
    expected = ["the file holds 1 of 20 samples, which have 33 tokens of m; it states 660 for all"]
    stats = of_models(m=660)
    assert stating(tmp_path, sample(), stats=stats, results={"total_samples": 20}) == expected
    told = {"model": "m", "dataset": {"samples": 99, "sample_ids": [*range(10)]}, "config": {"epochs": 2}}
    assert stating(tmp_path, sample(), stats=stats, eval=told) == expected
    # One that ended early may have no more than these, and then they add up.
    assert stating(tmp_path, sample(), stats=of_models(m=33), eval=told, status="error") == []


def test_a_sample_that_cannot_be_read_is_missing_in_the_sum(tmp_path: Path) -> None:
    broken = {"samples/2_epoch_1.json": b"{"}
    path = packed(tmp_path / "l.eval", sample(), log={"stats": of_models(m=66)}, others=broken)
    assert [each.reason for each in read(path)[1].differences] == [
        "the file holds 1 of 2 samples, which have 33 tokens of m; it states 66 for all"
    ]


def test_errors_and_limits_fail_a_sample_and_ids_are_made_where_there_are_none(tmp_path: Path) -> None:
    failed, limited = sample(error={"message": "boom"}), sample(limit={"type": "token", "limit": 5})
    del failed["uuid"], limited["uuid"]
    sources, _ = read(packed(tmp_path / "l.eval", failed, {**limited, "epoch": 2}))
    assert [(each.trace.trace_id, each.trace.status, each.trace.error_message) for each in sources] == [
        ("e-1-1", "failed", "boom"),
        ("e-1-2", "failed", "limit: token 5"),
    ]


def test_a_broken_member_is_named_and_the_others_are_taken(tmp_path: Path) -> None:
    path = packed(tmp_path / "l.eval", sample(), others={"samples/9_epoch_1.json": b'{"id": 9'})
    sources, counts = read(path)
    assert [each.trace.trace_id for each in sources] == ["u"]
    assert [problem.reason.split(":")[0] for problem in counts.problems] == ["samples/9_epoch_1.json"]
    data = bytearray(path.read_bytes())
    data[80] ^= 0xFF
    path.write_bytes(data)
    _, counts = read(path)
    assert any("samples/1_epoch_1.json cannot be read" in problem.reason for problem in counts.problems)


def test_members_compressed_with_zstd_are_read(tmp_path: Path) -> None:
    path = tmp_path / "l.eval"
    path.write_bytes(zstd_zip({"header.json": json.dumps(LOG), "samples/1_epoch_1.json": json.dumps(sample())}))
    (source,), counts = read(path)
    assert (source.trace.trace_id, len(source.messages), counts.problems) == ("u", 4, [])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 16] ^= 1  # the CRC-32 of the last member
    path.write_bytes(data)
    _, counts = read(path)
    assert [problem.reason for problem in counts.problems] == [
        "samples/1_epoch_1.json cannot be read: its CRC-32 is not the one that the zip tells"
    ]


def zstd_zip(members: dict[str, str]) -> bytes:
    """Return a zip whose members are compressed by method 93, which the standard library cannot write."""
    out, directory = bytearray(), bytearray()
    for name, text in members.items():
        data = text.encode()
        small = bytes(pa.compress(data, codec="zstd", asbytes=True))
        about = struct.pack("<5H3L2H", 63, 0, 93, 0, 0, zlib.crc32(data), len(small), len(data), len(name), 0)
        directory += b"PK\1\2\x3f\0" + about + struct.pack("<3H2L", 0, 0, 0, 0, len(out)) + name.encode()
        out += b"PK\3\4" + about + name.encode() + small
    end = struct.pack("<4H2LH", 0, 0, len(members), len(members), len(directory), len(out), 0)
    return bytes(out + directory + b"PK\5\6" + end)


def test_other_zips_and_files_are_no_logs(tmp_path: Path) -> None:
    path = tmp_path / "l.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "x")
    assert not InspectLog().detect(path)
    path.write_text('{"version": "1", "eval": 5}')
    assert not InspectLog().detect(path)


def test_real_logs_have_a_trace_for_every_sample() -> None:
    paths = [path for path in corpus("inspect") if InspectLog().detect(path)]
    paths = [path for path in paths if path.stat().st_size < 50_000]

    async def run() -> tuple[set[str], int, set[str]]:
        store = ModelStore()
        report = await import_paths(store, paths)
        traces = {trace.trace_id for trace in await store.list_traces(limit=10_000)}
        return traces, report.totals()["traces"], {problem.reason.partition(";")[0] for problem in report.problems}

    traces, count, problems = asyncio.run(run())
    assert len(traces) == count > 30
    assert all("has no samples" in each or "neither an earlier nor a later" in each for each in problems)


def test_real_logs_state_the_tokens_that_their_samples_have() -> None:
    differences: dict[str, list[str]] = {}
    tokens: dict[str, int] = {}
    named = ("log_formats.json", "log_formats.eval", "log.eval", "log_tool_call_error.json")
    for path in sorted({*some_of("inspect"), *(path for path in corpus("inspect") if path.name in named)}):
        if InspectLog().detect(path):
            sources, counts = read(path)
            tokens[path.name] = sum(each.tokens or 0 for source in sources for each in source.messages)
            if counts.differences:
                differences[path.name] = [each.reason for each in counts.differences]
    assert tokens["log_formats.json"] == tokens["log_formats.eval"] == 68
    assert differences == {
        "log.eval": [
            "the file holds 15 of 790 samples, which have 425,882 tokens of openai/gpt-4o; it states 29,484,305 for all"
        ],
        "log_tool_call_error.json": ["the file holds 1 of 4 samples, which have 0 tokens of ...; it states 1 for all"],
    }
