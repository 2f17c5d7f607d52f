"""Traces that come in pieces: in several files, in any order, at once or one after the other, and told again later."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import test_import_langfuse as langfuse
import test_import_langsmith as langsmith
import test_import_openai_agents as openai_agents
from profiles import some, tried
from test_import_claude_code import corpus
from test_import_otlp import CHAT, RUN, TRACE, document, part, span, told
from test_import_run import Dying, Killed, contents, contents_of, run, store
from traceark.importers.merge import STATE, SUPERSEDED
from traceark.importers.otlp import Otlp
from traceark.importers.run import import_paths
from traceark.models import Json, JsonObject
from traceark.store import ArchiveStore
from traceark.testing.compare import exact_texts
from traceark.testing.model import ModelStore

ASKED, SAID = told("user", part("text", content="Rome?")), told("assistant", part("text", content="Sunny."))


def call(number: int, parent: int, at: tuple[int, int], given: Sequence[Json], said: JsonObject = SAID) -> Any:
    words: JsonObject = {
        "gen_ai.input.messages": json.dumps(given),
        "gen_ai.output.messages": json.dumps([said]),
        "gen_ai.usage.input_tokens": number,
        "gen_ai.usage.output_tokens": 1,
    }
    return span(number, {**CHAT, **words}, parent, f"chat {number}", at)


def agent(number: int, parent: int | None, at: tuple[int, int], told: JsonObject) -> Any:
    return span(number, {"gen_ai.operation.name": "invoke_agent", **told}, parent, f"invoke_agent a{number}", at)


# Agents in one another, a call told twice, by a framework and by its client, and calls at the same time.
NESTED: list[Any] = [
    *RUN[:3],
    agent(5, 1, (5, 20), {"gen_ai.input.messages": json.dumps([ASKED]), "gen_ai.usage.input_tokens": 999}),
    call(6, 5, (6, 8), [ASKED]),
    call(7, 6, (7, 8), [ASKED]),
    call(8, 5, (9, 12), [ASKED, SAID, ASKED]),
    call(9, 5, (10, 11), [ASKED, SAID, ASKED, ASKED], told("assistant", part("text", content="Still sunny."))),
    RUN[3],
]
OTLP: list[Any] = [document(each, host="a" if number % 3 else "b") for number, each in enumerate(NESTED)]
OBSERVED: list[Any] = [{"trace": langfuse.TRACE, "observations": [each]} for each in langfuse.OBSERVATIONS]
HALVES: list[Any] = [
    {**half, "trace_id": langsmith.ROOT, "dotted_order": each["dotted_order"]}
    for each in langsmith.RUNS
    for half in langsmith.halves(each)
]
EXPORTED: list[Any] = [{"data": [each]} for each in [openai_agents.WORKFLOW, *openai_agents.SPANS]]
FORMATS: dict[str, Sequence[Json]] = {
    "otlp": OTLP,
    "langfuse": OBSERVED,
    "langsmith": HALVES,
    "openai-agents": EXPORTED,
}


def write(path: Path, rows: Iterable[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said_of(of: ModelStore | ArchiveStore) -> dict[str, Any]:
    """Return what an archive holds but for the order of its logs, and messages that others stand for."""
    return asyncio.run(_said_of(of))


async def _said_of(of: ModelStore | ArchiveStore) -> dict[str, Any]:
    found = {}
    for trace in await of.list_traces(limit=1000):
        messages = await of.get_trace_messages(trace.trace_id)
        told = [each.model_copy(update={"sequence": None}) for each in messages if each.status != SUPERSEDED]
        others = [each for each in messages if each.status == SUPERSEDED]
        events = await of.get_events(trace.trace_id)
        tree = await of.get_goal_tree(trace.trace_id)
        goals = [each.model_dump(exclude={"self_stats", "cumulative_stats"}) for each in tree.goals] if tree else []
        counted = trace.model_dump(exclude={"last_sequence", "last_event_id", "total_messages"})
        found[trace.trace_id] = {
            "header": counted,
            "messages": sorted(exact_texts(told)),
            "spans": sorted(
                json.dumps(each.payload, sort_keys=True) for each in events if each.event_type.endswith(".span")
            ),
            "goals": goals,
            "tokens": {each.id: each.cumulative_stats.total_tokens for each in tree.goals} if tree else {},
            "counted twice": [each for each in others if each.counted_tokens() or each.cost or each.duration_ms],
        }
    return found


@st.composite
def split(draw: st.DrawFn, rows: Sequence[Json]) -> list[list[Json]]:
    """Draw pieces of a file: its rows in any order, in one file or more."""
    order = draw(st.permutations(rows))
    cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1), max_size=4)))
    return [list(order[begin:end]) for begin, end in itertools.pairwise([0, *cuts, len(rows)])]


@pytest.mark.parametrize("name", some(FORMATS, 3))
@settings(max_examples=tried(3, 25, 200), deadline=None)
@given(data=st.data())
def test_pieces_that_are_imported_at_once_end_as_one_file_that_tells_them(name: str, data: st.DataObject) -> None:
    pieces = data.draw(split(FORMATS[name]))
    with TemporaryDirectory() as folder:
        paths = [write(Path(folder, f"{number}.jsonl"), rows) for number, rows in enumerate(pieces)]
        into, whole = store(), store()
        report = run(into, *paths)
        one = run(whole, write(Path(folder, "whole.jsonl"), itertools.chain(*pieces)))
        assert report.ok and one.ok
        assert report.totals()["new_traces"] == 1
        assert report.rows["span"] == one.rows["span"]
        assert _plain(contents(into)) == _plain(contents(whole))
        again = run(into, *reversed(paths)).totals()
        assert (again["new_messages"], again["new_events"]) == (0, 0)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out events of what stands around spans where it was told for each file anew."""
    return {key: {name: each[name] for name in ("header", "messages", "goals")} for key, each in found.items()}


@pytest.mark.parametrize("name", some(FORMATS, 3))
@settings(max_examples=tried(3, 60, 400), deadline=None)
@given(data=st.data())
def test_pieces_that_are_imported_one_by_one_say_the_same_in_any_order(name: str, data: st.DataObject) -> None:
    pieces = data.draw(split(FORMATS[name]))
    with TemporaryDirectory() as folder:
        whole = store()
        run(whole, write(Path(folder, "whole.jsonl"), FORMATS[name]))
        into = store()
        for rows in pieces:
            report = run(into, write(Path(folder, "piece.jsonl"), rows))
            assert all(each.outcome != "diverged" for file in report.files for each in file.traces)
        assert said_of(into) == said_of(whole)
        before = contents(into)
        for rows in pieces:
            run(into, write(Path(folder, "piece.jsonl"), rows))
        assert contents(into) == before


def test_calls_at_the_same_time_say_the_same_in_any_order_of_their_spans(tmp_path: Path) -> None:
    alike = [
        agent(5, None, (5, 20), {}),
        *(call(number, 5, (6, end), [ASKED]) for number, end in ((6, 8), (7, 8), (4, 7))),
    ]
    found = []
    for order in itertools.permutations(alike):
        into = store()
        run(into, write(tmp_path / "t.jsonl", map(document, order)))
        found.append(contents(into)[TRACE]["messages"])
    assert found == [found[0]] * len(found)


def unfinished(record: JsonObject) -> JsonObject:
    """Return what an export of Langfuse has of an observation while it goes on."""
    empty: JsonObject = {"endTime": None, "output": None, "usageDetails": {}, "costDetails": {}, "totalCost": 0}
    return {**record, **{name: value for name, value in empty.items() if name in record}}


def test_what_a_later_span_names_the_agent_of_an_earlier_call_is_no_reason_to_fail(tmp_path: Path) -> None:
    outer = span(6, {**CHAT, "gen_ai.agent.name": "guide"}, None, "chat", (6, 9))
    rows = [document(call(7, 6, (7, 8), [ASKED])), document(outer)]
    found = []
    for order in ([0, 1], [1, 0]):
        into = store()
        for number in order:
            assert run(into, write(tmp_path / "spans.jsonl", [rows[number]])).ok
        messages = asyncio.run(into.get_trace_messages(TRACE))
        found.append({(each.role, each.content, each.tokens) for each in messages if each.status != SUPERSEDED})
    assert found[0] == found[1] != set()


def test_an_export_of_a_run_that_went_on_and_one_of_its_end_make_one_trace_in_any_order(tmp_path: Path) -> None:
    early = {**langfuse.TRACE, "output": None, "updatedAt": "2026-01-02T03:04:04Z"}
    late = {**langfuse.TRACE, "updatedAt": "2026-01-02T03:05:00Z"}
    running = [langfuse.OBSERVATIONS[0], *langfuse.OBSERVATIONS[1:2]]
    states: list[JsonObject] = [
        {"trace": early, "observations": [unfinished(each) for each in running]},
        {"trace": early, "observations": [unfinished(running[0]), *running[1:], *langfuse.OBSERVATIONS[2:3]]},
        {"trace": late, "observations": list(langfuse.OBSERVATIONS)},
    ]
    whole = store()
    run(whole, write(tmp_path / "t.json", states[-1:]))
    expected = said_of(whole)["t1"]
    for order in itertools.permutations(states):
        into = store()
        for state in order:
            assert run(into, write(tmp_path / "t.json", [state])).ok
        found = said_of(into)["t1"]
        for name in ("messages", "goals", "tokens", "counted twice"):
            assert found[name] == expected[name], name
        assert found["header"].pop("metadata")["langfuse"] == expected["header"]["metadata"]["langfuse"]
        assert found["header"] == {name: each for name, each in expected["header"].items() if name != "metadata"}
    first = store()
    run(first, write(tmp_path / "t.json", states[:1]))
    [trace] = asyncio.run(first.list_traces())
    assert (trace.status, trace.completed_at) == ("running", None)


def changed(record: Any) -> Any:
    other = copy.deepcopy(record)
    [inner] = other["resourceSpans"][0]["scopeSpans"][0]["spans"]
    inner["endTimeUnixNano"] = inner["startTimeUnixNano"]
    return other


@pytest.mark.parametrize("at_once", [True, False])
def test_a_span_that_ended_otherwise_is_a_divergence_and_overwrites_nothing(tmp_path: Path, at_once: bool) -> None:
    one = write(tmp_path / "one.jsonl", OTLP[:5])
    other = write(tmp_path / "two.jsonl", [changed(OTLP[4]), *OTLP[5:]])
    into, expected = store(), store()
    run(expected, one)
    reports = [run(into, one, other)] if at_once else [run(into, one), run(into, other)]
    assert [each.outcome for each in reports[-1].files[-1].traces][:1] == ["diverged"]
    assert "nothing was taken" in reports[-1].problems[0].reason
    assert said_of(into)[TRACE]["messages"] == said_of(expected)[TRACE]["messages"]
    assert said_of(into)[TRACE]["spans"] == said_of(expected)[TRACE]["spans"]
    # What agrees is still taken.
    assert run(into, write(tmp_path / "three.jsonl", OTLP[5:])).ok
    run(expected, tmp_path / "three.jsonl")
    assert said_of(into)[TRACE]["messages"] == said_of(expected)[TRACE]["messages"]


def test_a_span_in_another_encoding_is_the_same_span(tmp_path: Path) -> None:
    dumped = [{**each, "spanId": each["spanId"].upper(), "traceId": f"0x{TRACE}"} for each in NESTED]
    into, whole = store(), store()
    run(whole, write(tmp_path / "one.jsonl", OTLP))
    assert run(into, tmp_path / "one.jsonl", write(tmp_path / "two.jsonl", dumped)).ok
    found, expected = said_of(into)[TRACE], said_of(whole)[TRACE]
    assert (found["messages"], found["goals"], found["tokens"]) == (
        expected["messages"],
        expected["goals"],
        expected["tokens"],
    )


@settings(max_examples=tried(4, 60, 300), deadline=None)
@given(data=st.data(), writes=st.integers(1, 25))
def test_an_import_of_a_piece_that_is_interrupted_ends_as_one_that_is_not(data: st.DataObject, writes: int) -> None:
    pieces = data.draw(split(OTLP))
    with TemporaryDirectory() as folder:
        paths = [write(Path(folder, f"{number}.jsonl"), rows) for number, rows in enumerate(pieces)]
        whole = store()
        for path in paths:
            run(whole, path)
        into = store()
        for number, path in enumerate(paths):
            if number == len(paths) - 1:
                with suppress(Killed):
                    run(Dying(into, writes), path)
            run(into, path)
        assert said_of(into) == said_of(whole)


def spans_of(path: Path) -> list[Json]:
    """Return the spans of a real file that is a list of them; none of another."""
    try:
        whole = json.loads(path.read_bytes())
    except ValueError:
        return []
    return whole if isinstance(whole, list) else []


def test_real_traces_in_pieces_say_the_same_in_any_order(tmp_path: Path) -> None:
    taken = 0
    for path in corpus("otel-genai"):
        rows = spans_of(path)
        if not 2 <= len(rows) <= tried(30, 400) or not Otlp().detect(path):
            continue
        whole = store()
        run(whole, write(tmp_path / "whole.jsonl", rows))
        thirds = [rows[begin::3] for begin in range(3)]
        for order in (thirds, thirds[::-1]):
            into = store()
            for piece in order:
                run(into, write(tmp_path / "piece.jsonl", piece))
            assert said_of(into) == said_of(whole), path.name
        taken += 1
    assert taken >= 10


def test_pieces_that_processes_share_end_in_the_same_archive(tmp_path: Path) -> None:
    source = tmp_path / "sources"
    source.mkdir()
    for number, row in enumerate([*OTLP, *OBSERVED]):
        write(source / f"{number:02d}.jsonl", [row])

    async def imported(place: str, workers: int) -> dict[str, Any]:
        async with ArchiveStore(tmp_path / place, durability="os") as archive:
            report = await import_paths(archive, [source], workers=workers)
            assert report.ok
            assert [Path(file.path).name for file in report.files] == sorted(each.name for each in source.iterdir())
            return await contents_of(archive)

    one, two = (asyncio.run(imported(place, workers)) for place, workers in (("one", 1), ("two", 2)))
    for key in one:
        assert [one[key][name] for name in ("header", "messages", "goals")] == [
            two[key][name] for name in ("header", "messages", "goals")
        ]
    assert STATE in json.loads(one[TRACE]["header"])["metadata"]
