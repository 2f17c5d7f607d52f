"""Whatever is changed in whichever file of a trace: what is read is right, or an error that names the trace.

`verify --deep` finds all of it (tests/test_verify.py); here it is readers who meet it first.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from profiles import SEED, tried
from traceark.errors import QueryError, TracearkError
from traceark.layout import GOAL_TREE, HEADER, LOCK, trace_prefix
from traceark.models import Goal, Message, Trace, Usage
from traceark.query.result import QueryResult
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore

IDS = ("run-a", "run-b")
QUERIES = (
    "SELECT trace_id, task, status, total_messages, total_tokens, total_cost FROM traces",
    "SELECT trace_id, goal_id, description FROM goals",
    "SELECT trace_id, message_id, sequence, role, content, tokens, cost, usage FROM messages",
    "SELECT trace_id, event_id, event_type, payload FROM events",
)


async def fill(store: ArchiveStore) -> None:
    for trace_id in IDS:
        await store.create_trace(Trace(trace_id=trace_id, task=f"task of {trace_id}", metadata={"a": [1, 2.5]}))
        await store.add_goal(trace_id, Goal(id="1", description=f"goal of {trace_id}"))
        for at in range(4):
            await store.add_message(
                Message(
                    trace_id=trace_id,
                    role="assistant",
                    content=f"{at} by {trace_id}",
                    goal_id="1",
                    tokens=at,
                    cost=0.25 * at,
                    usage=Usage(input_tokens=at) if at % 2 else None,
                )
            )
            await store.append_event(trace_id, f"step {at}", {"of": trace_id})
        await store.update_message(f"{trace_id}-0002", tokens=70)


async def sealed(store: ArchiveStore) -> None:
    await fill(store)
    for trace_id in IDS:
        await store.update_trace(trace_id, status="completed")
        await store.seal(trace_id)


async def compacted(store: ArchiveStore) -> None:
    await fill(store)
    for trace_id in IDS:
        await store.compact(trace_id)
        await store.add_message(Message(trace_id=trace_id, role="user", content="in a segment"))


STATES: dict[str, Callable[[ArchiveStore], Awaitable[None]]] = {"sealed": sealed, "compacted": compacted, "live": fill}


async def made(state: str) -> dict[str, bytes]:
    """Return the files of an archive of two traces."""
    name = f"made-{state}"
    async with ArchiveStore(f"memory://{name}") as store:
        await STATES[state](store)
    files = {key: value[0] for key, value in MemoryStorage(name)._objects.items()}
    MemoryStorage.forget(name)
    return files


def dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


async def told(store: ArchiveStore) -> dict[str, Any]:
    """Return the answers of all that reads the first trace; of what fails, its error."""

    async def ask(call: Awaitable[Any]) -> Any:
        try:
            found = await call
        except TracearkError as error:
            return error
        return [dumped(each) for each in found] if isinstance(found, list) else dumped(found)

    first = IDS[0]
    return {
        "trace": await ask(store.get_trace(first)),
        "tree": await ask(store.get_goal_tree(first)),
        "messages": await ask(store.get_trace_messages(first)),
        "message": await ask(store.get_message(f"{first}-0002", trace_id=first)),
        "of a goal": await ask(store.get_messages_by_goal(first, "1")),
        "events": await ask(store.get_events(first)),
        "later events": await ask(store.get_events(first, 2)),
    }


def wrong(found: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return what is neither right nor an error that names the trace, or a file of it."""
    return [
        f"{question}: {answer!r}"
        for question, answer in found.items()
        if (IDS[0] not in str(answer) if isinstance(answer, TracearkError) else answer != right[question])
    ]


def changes(files: Mapping[str, bytes], step: int) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield what can be done to the files of the first trace: which, what, and what it is then."""
    prefix = f"{trace_prefix(IDS[0])}/"
    twins = [each for each in files if each.startswith(f"{trace_prefix(IDS[1])}/")][:: tried(4, 1)]
    for key, data in files.items():
        if not key.startswith(prefix) or key.endswith(LOCK):
            continue
        for at in range(SEED % step, len(data), step):
            flipped = data[at] ^ 1 << at % 8
            yield key, f"bit {at % 8} of byte {at} flipped", data[:at] + bytes([flipped]) + data[at + 1 :]
            yield key, f"byte {at} zero", data[:at] + b"\0" + data[at + 1 :]
            yield key, f"cut to {at} bytes", data[:at]
        yield key, "twice", data * 2
        yield key, "zeros", bytes(len(data))
        yield from ((key, f"replaced by {twin}", files[twin]) for twin in twins)
        if not key.endswith(HEADER):  # a trace without its header has not arrived yet
            yield key, "absent", None


def is_told_by_nothing(state: str, key: str, what: str) -> bool:
    """Whether a trace that is not sealed has lost its goal tree: no other file says that it had one."""
    return state != "sealed" and key.endswith(GOAL_TREE) and (what == "absent" or "replaced" in what)


@pytest.mark.parametrize("state", STATES)
async def test_what_is_read_is_right_or_an_error_that_names_the_trace(state: str) -> None:
    files = await made(state)
    right = await answers(files)
    assert wrong(right, right) == [] and not any(isinstance(each, TracearkError) for each in right.values())
    found: list[str] = []
    count = 0
    for key, what, data in [*changes(files, tried(601, 15, 1))][SEED % tried(3, 1) :: tried(3, 1)]:
        if data != files[key] and not is_told_by_nothing(state, key, what):
            count += 1
            found += [f"{key} {what}: {each}" for each in wrong(await answers({**files, key: data}), right)]
    assert found == []
    assert count > tried(15, 100)


async def answers(files: Mapping[str, bytes | None]) -> dict[str, Any]:
    storage = MemoryStorage("corrupt")
    storage._objects.clear()
    for key, data in files.items():
        if data is not None:
            storage._put(key, data)
    async with ArchiveStore("memory://corrupt") as store:
        found = await told(store)
    MemoryStorage.forget("corrupt")
    return found


async def asked(folder: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """Return what SQL and the list say of each trace, and what warnings say."""
    found: dict[str, list[Any]] = {trace_id: [] for trace_id in IDS}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with ArchiveStore(folder) as store:
            for query in QUERIES:
                for row in (await store.sql(query)).rows():
                    found[row["trace_id"]].append((query, sorted(row.items())))
            for trace in await store.list_traces():
                found[trace.trace_id].append(("list", dumped(trace)))
    return found, [str(each.message) for each in caught]


@pytest.mark.parametrize("state", ["sealed", "compacted"])
async def test_what_sql_says_is_right_or_left_out_with_a_warning(tmp_path: Path, state: str) -> None:
    files = await made(state)
    for key, whole in files.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
    async with ArchiveStore(tmp_path) as store:
        await store.refresh()
    right, _ = await asked(tmp_path)
    assert all(right.values())
    found: list[str] = []
    # Segments are read as they are above; to ask DuckDB takes long.
    named = [each for each in changes(files, tried(2011, 401, 31)) if not each[0].endswith(".jsonl")]
    count = 0
    for key, what, data in named[:: tried(16, 1)]:
        if data == files[key] or is_told_by_nothing(state, key, what):
            continue
        count += 1
        path = tmp_path / key
        path.unlink() if data is None else path.write_bytes(data)
        try:
            rows, warned = await asked(tmp_path)
        except TracearkError as error:
            if IDS[0] not in str(error):
                found.append(f"{key} {what}: {error!r}")
        else:
            if rows[IDS[1]] != right[IDS[1]]:
                found.append(f"{key} {what}: another trace answers otherwise")
            lacking = [each for each in right[IDS[0]] if each not in rows[IDS[0]]]
            if [each for each in rows[IDS[0]] if each not in right[IDS[0]]]:
                found.append(f"{key} {what}: {rows[IDS[0]]}")
            elif lacking and not any(IDS[0] in each for each in warned):
                found.append(f"{key} {what}: {len(lacking)} rows left out without a word")
        finally:
            path.write_bytes(files[key])
    assert found == []
    assert count >= tried(2, 5)


async def rolled_up(place: Path) -> list[list[str]]:
    """Make an archive with rollups; return what the queries answer."""
    async with ArchiveStore(place) as store:
        await sealed(store)
        await store.refresh()
        await store.optimize()
        return [_sorted(await store.sql(query)) for query in QUERIES]


@pytest.mark.parametrize("checked", ["all", "what fails"])
@pytest.mark.filterwarnings("ignore::traceark.errors.DamagedTraceWarning")
async def test_a_damaged_rollup_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: str) -> None:
    if checked == "what fails":
        # As large files are.
        monkeypatch.setattr("traceark.rollups.reader._CHECKED_BYTES", -1)
    right = await rolled_up(tmp_path)
    asked = wrong = 0
    paths = sorted(tmp_path.glob("catalog/rollups/*/*.parquet"))
    # By default every other file, the others in the other run, and one byte of each, the last or an earlier one.
    for number, path in enumerate(paths[tried((SEED + (checked == "all")) % 2, 0) :: tried(2, 1)]):
        whole = path.read_bytes()
        step = tried(19207, 193, 13)
        for at in (*range(SEED % step, len(whole), step), len(whole) - 1)[tried(number % 2, 0) :: tried(2, 1)]:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            async with ArchiveStore(tmp_path) as store:
                message = await store.get_message(f"{IDS[0]}-0002")
                if message is None:
                    assert (path.name, checked) == ("ids.parquet", "what fails")  # a hash in it was changed
                else:
                    assert (message.trace_id, message.tokens) == (IDS[0], 70)
                answers = [_sorted(await store.sql(query)) for query in QUERIES]
                asked += len(answers)
                wrong += sum(map(operator.ne, answers, right))
                if at % 5 == 0 or at == len(whole) - 1:
                    assert any(path.name in finding.file for finding in await store.verify(deep=True))
        path.write_bytes(whole)
    # Of large files only what DuckDB fails on is noticed, and few other bits are one of an answer.
    assert asked and wrong <= (asked // 10 if checked == "what fails" else 0)


@pytest.mark.filterwarnings("ignore::traceark.errors.DamagedTraceWarning")
async def test_a_rollup_is_left_out_whose_names_are_no_text_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traceark.rollups.reader._CHECKED_BYTES", -1)
    right = await rolled_up(tmp_path)
    paths = [path for path in tmp_path.glob("catalog/rollups/*/*.parquet") if b"description" in path.read_bytes()]
    assert [path.name for path in sorted(paths)] == ["goals.parquet", "messages-1.parquet"]
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"description", b"\xe4escription"))
        async with ArchiveStore(tmp_path) as store:
            assert [_sorted(await store.sql(query)) for query in QUERIES] == right
        path.write_bytes(whole)


def _sorted(result: QueryResult) -> list[str]:
    return sorted(map(repr, result))


async def test_a_query_that_is_wrong_reads_no_rollup_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ArchiveStore(tmp_path) as store:
        await sealed(store)
        await store.refresh()
        await store.optimize()
        await store.sql(QUERIES[2])
        store._pool.standing.reader._proven.clear()
        monkeypatch.setattr("traceark.rollups.reader._CHECKED_BYTES", -1)
        monkeypatch.setattr("traceark.rollups.reader.file_crc", None)
        for query in ("SELECT colour FROM messages", "SELEC 1", "SELECT role::INTEGER FROM messages"):
            with pytest.raises(QueryError):
                await store.sql(query)


async def test_a_check_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    files = await made("live")
    right = await answers(files)
    monkeypatch.setattr("traceark.segments.proves_itself", lambda line: True)
    monkeypatch.setattr("traceark.codec.lines.proves_itself", lambda line: True)
    key = next(key for key in files if "/messages/000000000001" in key and IDS[0] in key)
    altered = files[key].replace(b"by run-a", b"by ruN-a")
    assert wrong(await answers({**files, key: altered}), right)
