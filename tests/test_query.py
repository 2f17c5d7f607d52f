"""SQL beyond the four views: macros, sources, interrupting, the forms of a result."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import traceark
from profiles import tried
from program import PIPE, TRACEARK, Program, ran
from traceark.codec.fields import MESSAGES
from traceark.codec.lines import dumps
from traceark.codec.parquet import MESSAGE_SCHEMA, to_table
from traceark.errors import MissingLibraryError, QueryError
from traceark.models import Json
from traceark.query import QueryResult
from traceark.query.gather import gather
from traceark.query.running import answer
from traceark.query.sources import Source
from traceark.rollups.reader import RollupReader
from traceark.testing.values import HARD_VALUES

# It would run for years.
ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range + b.range = -1"


def ask(text: str, *parameters: Any, **sources: list[Source]) -> QueryResult:
    """Answer a query that stands on no archive."""
    return asyncio.run(answer(sources, text, list(parameters) or None))


def value(text: str, *parameters: Any) -> Any:
    ((found,),) = (row.values() for row in ask(text, *parameters).rows())
    return found


TEXTS: dict[str, tuple[Json, str | None]] = {
    "a text": ("a\n\"b\"", "a\n\"b\""),
    "nothing": (None, None),
    "text blocks, a line each": ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    "texts in a list": (["a", "b"], "a\nb"),
    "an object with a text": ({"text": "a"}, "a"),
    "the result of a tool": ([{"type": "tool_result", "tool_use_id": "1", "content": "[1, 2]"}], "[1, 2]"),
    "the result of a tool in blocks": (
        [{"type": "tool_result", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {}}, "b"]}],
        "a\nb",
    ),
    "an output as OpenAI has it": ([{"type": "function_call_output", "call_id": "1", "output": "a"}], "a"),
    "a message within": ({"role": "user", "content": [{"type": "input_text", "text": "a"}]}, "a"),
    "thinking and calls are no text": (
        [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "name": "f"}, {"type": "text", "text": "a"}],
        "a",
    ),
    "a call alone": ([{"type": "tool_use", "id": "1", "name": "f", "input": {}}], ""),
    "anything else is its JSON": ({"a": [1]}, '{"a":[1]}'),
    "so is it in a list": ([1, {"a": 1}, None, "b"], '1\n{"a":1}\nb'),
    "a number": (5, "5"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "text"), TEXTS.values(), ids=TEXTS)
def test_the_text_of_a_message(content: Json, text: str | None) -> None:
    assert value("SELECT message_text($1)", dumps(content)) == text


CALLS: dict[str, tuple[Json, Json, list[tuple[str | None, str | None, str | None]]]] = {
    "Anthropic's": (
        [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": [1]}}],
        None,
        [("1", "f", '{"x":[1]}')],
    ),
    "OpenAI's in the content": (
        {"content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        None,
        [("1", "f", "{}")],
    ),
    "OpenAI's beside the content": (
        "text",
        {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g"}}]},
        [("1", "f", "{}"), (None, "g", None)],
    ),
    "OpenAI's responses": (
        [{"type": "function_call", "id": "fc", "call_id": "1", "name": "f", "arguments": "{broken"}],
        None,
        [("1", "f", "{broken")],
    ),
    "a block alone": ({"type": "tool_use", "id": "1", "name": "f", "input": {}}, None, [("1", "f", "{}")]),
    "no calls": ([{"type": "text", "text": "function"}], {"a": 1}, []),
    "a text that reads like one": ('{"type":"tool_use"}', None, []),
    "nothing": (None, None, []),
}  # fmt: skip


@pytest.mark.parametrize(("content", "extra", "calls"), CALLS.values(), ids=CALLS)
def test_the_tool_calls_of_a_message(
    content: Json, extra: Json, calls: list[tuple[str | None, str | None, str | None]]
) -> None:
    found = value(
        "SELECT tool_calls($1, $2)",
        None if content is None else dumps(content),
        None if extra is None else dumps(extra),
    )
    assert [tuple(call.values()) for call in found] == calls


@pytest.mark.parametrize("content", HARD_VALUES.values(), ids=HARD_VALUES)
def test_no_content_makes_a_macro_fail(content: Json) -> None:
    texts = [
        dumps(each)
        for each in (
            content,
            [content],
            {"type": "tool_use", "input": content},
            [{"type": "tool_result", "content": content}],
        )
    ]
    asked = "SELECT message_text(said) AS text, tool_calls(said, said) AS calls FROM unnest($1) AS texts(said)"
    for text, row in zip(texts, ask(asked, texts).rows(), strict=True):
        assert isinstance(row["calls"], list)
        if "\\ud" in text:  # JSON that DuckDB refuses
            assert row == {"text": text, "calls": []}


def test_calls_as_rows_and_tokens_by_kind(tmp_path: Path) -> None:
    with traceark.open(tmp_path) as archive:
        archive.create_trace(traceark.Trace(trace_id="t"))
        content: Json = [{"type": "tool_use", "id": str(at), "name": "f", "input": at} for at in (1, 2)]
        usage = traceark.Usage(input_tokens=3, output_tokens=5, reasoning_tokens=2)
        archive.add_message(traceark.Message(trace_id="t", role="assistant", content=content, usage=usage))
        archive.add_message(traceark.Message(trace_id="t", role="user", content="thanks"))
        rows = archive.sql("FROM tool_call_rows() ORDER BY tool_call_id").rows()
        assert rows == [
            {"trace_id": "t", "message_id": "t-0001", "sequence": 1, "tool_call_id": str(at), "name": "f",
             "arguments": str(at)}
            for at in (1, 2)
        ]  # fmt: skip
        kinds = archive.sql(
            "SELECT each.kind, each.tokens FROM (SELECT unnest(tokens_by_kind(usage)) AS each FROM messages)"
        )
        assert [tuple(row.values()) for row in kinds] == [("input", 3), ("output", 5), ("reasoning", 2)]


def test_a_view_is_the_union_of_its_sources(tmp_path: Path) -> None:
    def messages(*trace_ids: str) -> pa.Table:
        return to_table(
            MESSAGES, [{"trace_id": each, "message_id": each, "role": "user", "content": "hi"} for each in trace_ids]
        )

    plain, masked = tmp_path / "pl'ain *?[x].parquet", tmp_path / "masked %41.parquet"
    pq.write_table(messages("a").append_column("_offset", pa.array([1])), plain)
    pq.write_table(messages("b", "c", "d"), masked)
    sources = [
        Source(paths=(str(plain),)),
        Source(paths=(str(masked),), masked=pa.table({"trace_id": ["b", "d", "x"]})),
        Source(table=messages("e", "f"), masked=pa.table({"trace_id": ["f"]})),
        Source(),
    ]
    found = ask("FROM messages ORDER BY trace_id", messages=sources)
    assert [row["trace_id"] for row in found] == ["a", "c", "e"]
    assert found.columns == MESSAGE_SCHEMA.names
    sandboxed = asyncio.run(answer({"messages": sources}, "SELECT count(*) AS n FROM messages", sandbox=True))
    assert sandboxed.rows() == [{"n": 3}]
    assert len(ask("FROM messages")) == 0


def test_a_view_that_the_text_names_in_pieces_is_whole(tmp_path: Path) -> None:
    with traceark.open(tmp_path) as archive:
        archive.create_trace(traceark.Trace(trace_id="t"))
        assert archive.sql("SELECT count(*) AS n FROM query_table('tra' || 'ces')").rows() == [{"n": 1}]


def test_variables_of_the_program_are_no_tables() -> None:
    mine = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="mine"):
        ask("FROM mine")
    assert len(mine) == 1


def queries() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("traceark query")]


@pytest.mark.parametrize("running", [False, True], ids=["as it begins", "as it runs"])
def test_cancelling_ends_a_long_query_and_its_thread(tmp_path: Path, running: bool) -> None:
    begun = tmp_path / "begun.csv"

    async def run() -> None:
        text = f"COPY (SELECT 1) TO '{begun}'; {ENDLESS}" if running else ENDLESS
        task = asyncio.create_task(answer({}, text))
        # A thread and a file tell of it, which set no event.
        while not (begun.exists() if running else queries()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for thread in queries():
            thread.join()
        assert not queries()

    asyncio.run(run())


def test_a_store_goes_on_after_a_query_was_cancelled(tmp_path: Path) -> None:
    async def run() -> None:
        async with traceark.ArchiveStore(tmp_path) as store:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.sql(ENDLESS), timeout=0.01)
            assert (await store.sql("SELECT 1 AS one")).rows() == [{"one": 1}]

    asyncio.run(run())


def test_ctrl_c_ends_a_long_query(tmp_path: Path) -> None:
    with traceark.open(tmp_path / "runs") as archive:
        archive.create_trace(traceark.Trace(trace_id="t"))
    begun = tmp_path / "begun.csv"
    process = Program(TRACEARK, "sql", tmp_path / "runs", f"COPY (SELECT 1) TO '{begun}'; {ENDLESS}", stderr=PIPE)
    while not begun.exists():
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert (process.stderr.read().strip(), process.wait()) == ("traceark: interrupted", 130)


def test_what_is_spilled_goes_away_and_never_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    rows = "SELECT DISTINCT range, hash(range)::VARCHAR FROM range(3_000_000)"
    assert ask(f"SET memory_limit = '64MB'; SET threads = 1; SELECT count(*) AS n FROM ({rows})").rows() == [
        {"n": 3_000_000}
    ]
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "temp").iterdir()) == []


TIMES = "SELECT TIMESTAMPTZ '2026-01-02 03:04:05.678901+00' AS at, 'é' AS text, [1, 2] AS list, NULL AS nothing"


def test_a_result_in_every_form() -> None:
    result = ask(TIMES)
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    expected = {"at": at, "text": "é", "list": [1, 2], "nothing": None}
    assert result.rows() == list(result) == result.arrow().to_pylist() == [expected]
    assert result.relation().fetchall() == [tuple(expected.values())]
    assert result.relation().filter("text = 'é'").project('epoch_us("at") AS us').fetchall() == [
        (int(at.timestamp()) * 10**6 + 678901,)
    ]
    frame = result.df()
    assert frame["at"][0] == at and list(frame.columns) == list(expected)


def test_times_need_no_further_package() -> None:
    """As where `pytz` is not installed."""
    code = (
        "import sys; sys.modules['pytz'] = None\n"
        "import asyncio\n"
        "from traceark.query.running import answer\n"
        f"result = asyncio.run(answer({{}}, {TIMES!r}))\n"
        "print(result.rows()[0]['at'], result.relation().fetchall()[0][0], result.df()['at'][0])"
    )
    found = ran("-c", code)
    assert found.stdout.split("\n")[0] == " ".join(["2026-01-02 03:04:05.678901+00:00"] * 3)


def test_polars_gets_the_rows_or_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingLibraryError, match="pip install polars"):
        ask(TIMES).pl()
    monkeypatch.undo()
    try:
        importlib.import_module("polars")
    except ModuleNotFoundError:
        pytest.skip("polars is not installed")
    assert ask(TIMES).pl()["text"].to_list() == ["é"]


def test_an_empty_result_keeps_its_columns_in_every_form() -> None:
    result = ask("FROM traces")
    names = result.columns
    assert len(result) == 0 and list(result) == []
    assert list(result.df().columns) == result.relation().columns == result.arrow().column_names == names
    assert result.relation().fetchall() == []
    assert "0 rows" in result._repr_html_()


def test_a_large_result_is_whole_in_every_form() -> None:
    result = ask("SELECT range AS n, repeat('x', 20) AS text FROM range(500_000)")
    assert len(result) == len(result.df()) == 500_000
    assert result.relation().aggregate("sum(n)").fetchall() == [(500_000 * 499_999 // 2,)]
    assert sum(row["n"] for row in result) == 500_000 * 499_999 // 2
    assert result._repr_html_().count("<tr>") == 21 and "500,000 rows, the first 20 shown" in result._repr_html_()


def test_a_notebook_shows_text_and_obeys_none() -> None:
    shown = ask("SELECT '<script>alert(1)</script>' AS \"<b>\", ['<i>'] AS list")._repr_html_()
    assert "<script" not in shown and "<b>" not in shown and "<i>" not in shown
    assert "&lt;script&gt;" in shown


def test_columns_that_share_a_name_are_numbered() -> None:
    assert ask("SELECT 1 AS a, 2 AS a").rows() == [{"a": 1, "a_2": 2}]


def test_a_parquet_file_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    ask("SELECT 1 AS n").to_parquet(path)
    with pytest.raises(QueryError, match="cast the column"):
        ask("SELECT union_value(k := 1) AS u").to_parquet(path)
    assert pq.read_table(path).to_pylist() == [{"n": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parameters", [5, [], ["a", "b"], {"y": 1}, [object()]])
def test_parameters_that_do_not_fit_are_an_error_of_ours(parameters: Any) -> None:
    with pytest.raises(QueryError):
        asyncio.run(answer({}, "SELECT ? AS a", parameters))


def test_files_that_vanish_under_a_query_are_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []

    async def late(pool: Any, wanted: Any) -> Any:
        found = await gather(pool, wanted)
        looks.append(found)
        if len(looks) == 1:
            # Between the look and the reading another process optimizes: what was found is merged, and goes.
            (paths,) = [source.paths for source in found["messages"] if source.paths]
            for path in paths:
                Path(path).rename(f"{path}.merged")
        elif len(looks) == 2:
            for merged in Path(looks[0]["messages"][0].paths[0]).parent.glob("*.merged"):
                merged.rename(merged.with_suffix(""))
            found = await gather(pool, wanted)
        return found

    with traceark.open(tmp_path / "runs") as archive:
        trace_id = archive.create_trace(traceark.Trace(task="x"))
        archive.add_message(traceark.Message(trace_id=trace_id, role="user", content="hi"))
        archive.seal(trace_id)
        archive.optimize()
        monkeypatch.setattr("traceark.query.gather", late)
        assert archive.sql("SELECT count(*) AS n FROM messages").rows() == [{"n": 1}]
        assert len(looks) == 2


def test_files_that_vanish_at_every_look_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(pool: Any, wanted: Any) -> Any:
        return {"messages": [Source(paths=(str(tmp_path / "merged.parquet"),))]}

    monkeypatch.setattr("traceark.query.gather", gone)
    with traceark.open(tmp_path / "runs") as archive, pytest.raises(QueryError, match="went while they were read"):
        archive.sql("SELECT count(*) FROM messages")


async def test_questions_that_are_asked_at_once_see_all_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RollupReader.find_message

    async def find_message(self: RollupReader, message_id: str) -> list[str]:
        await asyncio.sleep(0.005)  # as where the index is far away
        return await real(self, message_id)

    monkeypatch.setattr(RollupReader, "find_message", find_message)
    async with traceark.ArchiveStore(tmp_path, durability="os") as store:
        await store.create_trace(traceark.Trace(trace_id="t"))
        await store.add_message(traceark.Message(trace_id="t", role="user", content="first"))
        said = 1

        async def ask_on() -> None:
            nonlocal said
            for _ in range(tried(4, 50)):
                await store.add_message(traceark.Message(trace_id="t", role="user", content="more"))
                said += 1
                least = said
                assert await store.get_message("t-0001") is not None
                found = (
                    await store.sql("SELECT count(*) AS n, count(DISTINCT message_id) AS ids FROM messages")
                ).rows()
                assert least <= found[0]["n"] == found[0]["ids"]

        await asyncio.gather(*(ask_on() for _ in range(4)))


async def test_a_message_is_found_while_its_rollup_is_merged_into_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traceark.ArchiveStore(tmp_path, durability="os") as store:
        await store.create_trace(traceark.Trace(trace_id="t"))
        await store.add_message(traceark.Message(trace_id="t", message_id="sought", role="user", content="here"))
        await store.update_trace("t", status="completed")
        await store.seal("t")
        await store.optimize()
    reader = importlib.import_module("traceark.rollups.reader")
    real, merged = reader._open, list[Path]()

    def opened(path: Path) -> object:
        if not merged:
            merged.append(path)
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(reader, "_open", opened)
    async with traceark.ArchiveStore(tmp_path) as store:
        found = await store.get_message("sought")
        assert merged and found is not None and found.content == "here"
