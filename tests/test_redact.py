"""Redacting in place: what was found is gone from every byte of the archive, and all else is as it was."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import SEED, in_turn, some, tried
from secrets_made_up import SECRETS
from test_retention import holding
from test_sync_faults import Killed, killed_at
from traceark import keeping, redacting
from traceark.changes import Replay
from traceark.errors import InvalidValueError, StaleGoalTreeError, StorageError, TraceNotFoundError
from traceark.importers.run import import_paths
from traceark.layout import HEADER, trace_prefix
from traceark.models import Event, Goal, GoalStats, GoalTree, Json, Message, Trace
from traceark.redacting import redact
from traceark.redaction import Pattern, patterns_of
from traceark.storage.base import Entry, KeyMissingError
from traceark.storage.memory import MemoryStorage
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, sync
from traceark.sync.redacted import Redacted
from traceark.sync.redacted import redacted as redacted_form
from traceark.sync.sides import Side
from traceark.testing.compare import exact_text, exact_texts
from traceark.tombstones import buried, read_tombstone

RUN = "run-7"
SECRET = SECRETS["github-token"][0][1]
GONE = "[redacted:github-token]"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "url" in metafunc.fixturenames:
        metafunc.parametrize("url", in_turn(["disk", "memory"], metafunc.function.__name__), indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "archive")
    else:
        yield f"memory://{tmp_path.name}"
        MemoryStorage.forget(tmp_path.name)


def opened(url: str | Path) -> ArchiveStore:
    return ArchiveStore(url, durability="os")


async def add(url: str | Path, trace_id: str = RUN, *, status: str = "completed") -> None:
    """Add a trace that tells the secret wherever there is text, as one process does."""
    async with opened(url) as store:
        await store.create_trace(
            Trace.parse(
                {
                    "trace_id": trace_id,
                    "task": f"use {SECRET}",
                    "uid": SECRET,
                    "context": {"env": [{"TOKEN": SECRET}]},
                    "metadata": {f"of {SECRET}": 1},
                    "team": {"notes": SECRET},
                    "total_cost": 0.5,
                }
            )
        )
        await store.update_goal_tree(
            trace_id,
            GoalTree(mission=f"hide {SECRET}", goals=[Goal(id="1", description=SECRET, reason=SECRET, summary=SECRET)]),
        )
        nested = json.dumps({"arguments": json.dumps({"t": f"é {SECRET}\n"})})
        usage = {"input_tokens": 3, "tier": SECRET}
        for fields in (
            {"content": {"call": nested, SECRET: [1, SECRET]}, "tool_name": f"use_{1}", "usage": usage},
            {"content": "\ud800 " + SECRET, "error": SECRET, "description": SECRET, "goal_id": "1", "cost": 0.1},
            {"content": "nothing", "note": SECRET, "duration_ms": 7, "tool_name": SECRET, "goal_id": "1"},
        ):
            await store.add_message(Message.parse({"trace_id": trace_id, "role": "user", **fields}))
        await store.update_message(f"{trace_id}-0001", description=f"was {SECRET}", tokens=11)
        await store.append_event(trace_id, "said", {"x": [SECRET]})
        await store.append_event(trace_id, f"on {SECRET}", None)
        await store.update_goal(trace_id, "1", self_stats=GoalStats(message_count=9, preview=SECRET))
        await store.update_trace(
            trace_id, status=status, result_summary=SECRET, error_message=SECRET, total_tokens=1000
        )


async def told(url: str | Path, trace_id: str = RUN) -> list[str]:
    """Return all that a trace says, but for what it says of redactions."""
    async with opened(url) as store:
        trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
        assert trace is not None and tree is not None
        messages, events = await store.get_trace_messages(trace_id), await store.get_events(trace_id)
    return [exact_text(trace, without={"redactions"}), exact_text(tree), *exact_texts(messages), *exact_texts(events)]


async def redactions(url: str | Path, trace_id: str = RUN) -> list[Any]:
    trace = await opened(url).get_trace(trace_id)
    assert trace is not None
    found = (trace.model_extra or {}).get("redactions", [])
    assert isinstance(found, list)
    return found


async def files(url: str | Path) -> dict[str, bytes]:
    storage = opened(url).storage
    return {name: await storage.read(f"traces/{name}") for name in await storage.list("traces")}


def replaced(texts: list[str]) -> list[str]:
    return [text.replace(SECRET, GONE) for text in texts]


async def redacted(url: str | Path, **options: Any) -> Any:
    async with opened(url) as store:
        return await redact(store, dry_run=False, **options)


async def test_what_was_redacted_is_gone_from_every_byte_and_all_else_is_as_it_was(url: str) -> None:
    await add(url)
    await add(url, "other")
    async with opened(url) as store:
        await store.optimize()
    before = await told(url)
    assert {name.partition("/")[0] for name in await holding(url, SECRET)} == {"traces", "catalog"}
    report = await redacted(url, trace_ids=[RUN])
    assert report.looked_at == 1 and not report.problems and not report.left and report.rollups == 1
    assert await told(url) == replaced(before)
    async with opened(url) as store:
        assert await store.verify(deep=True) == []
        assert all(
            "/other/" in name or "/" not in name or name.startswith("catalog/") for name in await holding(url, SECRET)
        )
        await store.pin("other")
    await redacted(url)
    assert await holding(url, SECRET) == set()
    async with opened(url) as store:
        assert await store.verify(deep=True) == []
        found = await store.sql("SELECT count(*) AS n FROM messages WHERE content LIKE '%redacted:github-token%'")
        assert [row["n"] for row in found.rows()] == [4]
        assert await store.pinned() == {"other"}


async def test_offsets_stay_and_an_update_that_was_folded_in_leaves_its_gap(url: str) -> None:
    await add(url)

    async def offsets() -> list[tuple[int, int]]:
        stored = await opened(url)._pool.stored(RUN)
        assert stored is not None
        return [(row.offset, int(str(row.record["sequence"]))) for row in await stored.messages()]

    before = await offsets()
    await redacted(url)
    assert await offsets() == before
    async with opened(url) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content="more"))
    assert await offsets() == [*before, (5, 4)]
    assert await opened(url).verify(deep=True) == []


async def test_nothing_is_written_unless_asked(url: str) -> None:
    await add(url)
    before = await files(url)
    async with opened(url) as store:
        report = await redact(store)
    assert report.dry_run and report.replaced["github-token", "messages.content"] == 4
    assert await files(url) == before and await buried(opened(url).storage) == set()


async def test_a_trace_without_a_match_stays_the_same_bytes(url: str) -> None:
    await add(url)
    before = await files(url)
    assert (await redacted(url, patterns=patterns_of(["jwt"]))).traces == []
    assert await files(url) == before


async def test_the_header_tells_what_was_done_and_a_tombstone_when(url: str) -> None:
    await add(url)
    storage = opened(url).storage
    old = str(json.loads(await storage.read(f"{trace_prefix(RUN)}/{HEADER}"))["_incarnation"])
    patterns = patterns_of(["github-token", "email"], {"word": "nothing"})
    await redacted(url, patterns=patterns)
    [done] = await redactions(url)
    assert done["of"] == old and done["patterns"] == {pattern.name: pattern.digest for pattern in patterns}
    assert done["replaced"]["word"] == {"messages.content": 1}
    assert done["replaced"]["github-token"] == {
        "events.event_type": 1, "events.payload": 1, "goals.description": 1, "goals.mission": 1, "goals.preview": 1,
        "goals.reason": 1, "goals.summary": 1, "messages.content": 4, "messages.description": 2, "messages.error": 1,
        "messages.extra": 2, "messages.tool_name": 1, "trace.context": 1, "trace.error_message": 1, "trace.extra": 1,
        "trace.metadata": 1, "trace.result_summary": 1, "trace.task": 1, "trace.uid": 1,
    }  # fmt: skip
    left = await read_tombstone(storage, RUN, old)
    assert left.reason == "redacted" and left.deleted_at.endswith("Z")
    await redacted(url, patterns=patterns_of([], {"again": "use"}))
    assert [set(each["replaced"]) for each in await redactions(url)] == [{"github-token", "word"}, {"again"}]


async def test_doing_it_again_changes_nothing(url: str) -> None:
    await add(url)
    await redacted(url)
    before = await files(url)
    assert (await redacted(url)).traces == []
    assert await files(url) == before


async def test_a_secret_in_an_id_is_told_as_left(url: str) -> None:
    async with opened(url) as store:
        await store.create_trace(Trace(trace_id=RUN, parent_trace_id=SECRET, status="completed"))
        await store.add_message(Message(trace_id=RUN, role="user", message_id=SECRET, tool_call_id=SECRET))
    report = await redacted(url)
    assert report.left == {
        ("github-token", "messages.message_id"): 1,
        ("github-token", "messages.tool_call_id"): 1,
        ("github-token", "trace.parent_trace_id"): 1,
    }
    assert not report.replaced and await redactions(url) == []


async def test_what_is_not_there_cannot_be_redacted(url: str) -> None:
    await add(url)
    async with opened(url) as store:
        with pytest.raises(TraceNotFoundError):
            await redact(store, ["absent"])
        with pytest.raises(InvalidValueError):
            await redact(store, [RUN], status="completed")


async def test_filters_choose_and_a_damaged_trace_is_told(url: str) -> None:
    await add(url)
    await add(url, "other")
    storage = opened(url).storage
    await storage.replace(f"{trace_prefix('other')}/{HEADER}", b"{}\n")
    report = await redacted(url, where=f"trace_id = '{RUN}'")
    assert report.looked_at == 1 and not report.problems
    report = await redacted(url, trace_ids=["other"])
    assert len(report.problems) == 1 and "it was not redacted" in report.problems[0]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_trace_that_is_sealed_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    await add(tmp_path, status="running")
    seals = [RUN]

    async def sealed_first(side: Side, patterns: Sequence[Pattern]) -> Redacted:
        if seals:
            async with opened(tmp_path) as other:
                await other.seal(seals.pop())
        return await redacted_form(side, patterns)

    monkeypatch.setattr(redacting, "redacted", sealed_first)
    async with opened(tmp_path) as store:
        report = await redact(store, dry_run=dry_run)
    assert not report.problems and report.replaced
    assert (await holding(str(tmp_path), SECRET) == set()) is not dry_run


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_trace_whose_files_keep_changing_is_told_and_the_others_are_redacted(
    url: str, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    for trace_id in ("a", "b", "c"):
        await add(url, trace_id)

    async def changing(side: Side, patterns: Sequence[Pattern]) -> Redacted:
        if side.trace_id == "b":
            raise KeyMissingError("messages/000000000001-aaaaaaaa.jsonl is not there")
        return await redacted_form(side, patterns)

    monkeypatch.setattr(redacting, "redacted", changing)
    async with opened(url) as store:
        report = await redact(store, dry_run=dry_run)
    assert {trace.trace_id for trace in report.traces} == {"a", "c"}
    (problem,) = report.problems
    assert problem.startswith("trace b: ") and problem.endswith("; it was not redacted")


async def test_what_was_redacted_before_an_error_is_gone_from_all_files(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(url, "a")
    await add(url, "b")
    async with opened(url) as store:
        await store.optimize()

    async def failing(side: Side, patterns: Sequence[Pattern]) -> Redacted:
        if side.trace_id == "b":
            raise StorageError(5, "Input/output error")
        return await redacted_form(side, patterns)

    monkeypatch.setattr(redacting, "redacted", failing)
    async with opened(url) as store:
        with pytest.raises(StorageError, match="Input/output"):
            await redact(store, ["a", "b"], dry_run=False)
        assert await store.rollups_with(["a"]) == 0
    async with opened(url) as store:
        await store.delete_trace("b")
        await store.purge(["b"])
    assert await holding(url, SECRET) == set()


@pytest.mark.parametrize("named", [True, False])
async def test_a_trace_that_is_deleted_meanwhile_stops_nothing_unless_it_was_named(
    url: str, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    for trace_id in ("a", "b", "c"):
        await add(url, trace_id)

    async def deleting(side: Side, patterns: Sequence[Pattern]) -> Redacted:
        if side.trace_id == "c":
            await store.delete_trace("b")
        return await redacted_form(side, patterns)

    monkeypatch.setattr(redacting, "redacted", deleting)
    async with opened(url) as store:
        if named:
            with pytest.raises(TraceNotFoundError):
                await redact(store, ["c", "b", "a"])
        else:
            assert {trace.trace_id for trace in (await redact(store)).traces} == {"a", "c"}


async def test_changes_that_are_told_after_a_redaction_tell_of_it(url: str) -> None:
    async with ArchiveStore(url, durability="os", record_changes=True) as store:
        await store.create_trace(Trace(trace_id=RUN, task=f"use {SECRET}"))
        await store.update_trace(RUN, status="completed")
        await store.seal(RUN)
        assert not (await redact(store, [RUN], dry_run=False)).problems
        await store.update_trace(RUN, mode="again")
        replay = Replay()
        replay.extend(await store.get_events(RUN))
        trace = await store.get_trace(RUN)
        assert trace is not None and await redactions(url)
        assert replay.trace() == trace


async def test_goals_that_were_read_before_a_redaction_cannot_be_written_back(url: str) -> None:
    await add(url)
    async with opened(url) as store:
        tree = await store.get_goal_tree(RUN)
        assert tree is not None and SECRET in tree.mission
        async with opened(url) as other:
            report = await redact(other, [RUN], dry_run=False)
            assert report.traces and not report.problems
        tree.goals[0].status = "completed"
        with pytest.raises(StaleGoalTreeError, match="read it again"):
            await store.update_goal_tree(RUN, tree)
        assert SECRET not in str(await store.get_goal_tree(RUN))


async def test_a_trace_that_is_open_elsewhere_goes_on_redacted(tmp_path: Path) -> None:
    await add(tmp_path, status="running")
    async with opened(tmp_path) as writer:
        await writer.add_message(Message(trace_id=RUN, role="user", content=f"fourth {SECRET}"))
        assert not (await redacted(tmp_path)).problems
        await writer.add_message(Message(trace_id=RUN, role="user", content="fifth"))
        await writer.update_message(f"{RUN}-0002", description="again")
        await writer.append_event(RUN, "third")
        await writer.add_goal(RUN, Goal(id="2"))
        assert len(await writer.get_trace_messages(RUN)) == 5
    assert await holding(str(tmp_path), SECRET) == set()
    async with opened(tmp_path) as store:
        assert [each.content for each in await store.get_trace_messages(RUN)][3:] == [f"fourth {GONE}", "fifth"]
        assert [each.event_id for each in await store.get_events(RUN)] == [1, 2, 3]
        tree = await store.get_goal_tree(RUN)
        assert tree is not None and [goal.id for goal in tree.goals] == ["1", "2"]
        assert await store.verify(deep=True) == []


@pytest.mark.parametrize("has_goals", [True, False])
async def test_what_another_store_sets_while_a_trace_is_looked_at_is_redacted_and_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_goals: bool
) -> None:
    async with opened(tmp_path) as writer, opened(tmp_path) as store:
        await writer.create_trace(Trace(trace_id=RUN, task=SECRET))
        if has_goals:
            await writer.update_goal_tree(RUN, GoalTree(mission="before", goals=[]))
        listed, waiting = store.storage.list, ["after"]

        async def set_first(prefix: str) -> dict[str, Entry]:
            # The headers have been read.
            if prefix == trace_prefix(RUN) and waiting:
                word = waiting.pop()
                await writer.update_trace(RUN, task=f"{word} {SECRET}")
                await writer.update_goal_tree(RUN, GoalTree(mission=f"{word} {SECRET}", goals=[]))
            return await listed(prefix)

        monkeypatch.setattr(store.storage, "list", set_first)
        report = await redact(store, [RUN], dry_run=False)
        assert not report.problems and not waiting
        trace, tree = await store.get_trace(RUN), await store.get_goal_tree(RUN)
        assert trace is not None and tree is not None
        assert (trace.task, tree.mission) == (f"after {GONE}", f"after {GONE}")
    assert await holding(str(tmp_path), SECRET) == set()


async def test_on_an_object_store_a_trace_is_redacted_once_it_is_sealed_and_nobody_has_it_open(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    await add(place, status="running")
    report = await redacted(place)
    assert len(report.problems) == 1 and "seal it first" in report.problems[0]
    async with opened(place) as store:
        await store.update_trace(RUN, status="failed")
    async with opened(place) as writer:
        await writer.append_event(RUN, "late")
        assert len((await redacted(place)).problems) == 1
    assert not (await redacted(place)).problems
    assert await holding(place, SECRET) == set()
    MemoryStorage.forget(tmp_path.name)


async def test_no_sync_brings_back_what_was_redacted_nor_takes_it_for_diverged(url: str, tmp_path: Path) -> None:
    await add(url)
    backup = tmp_path / "backup"
    async with opened(url) as here, opened(backup) as there:
        await sync(here, there)
    await redacted(url)
    async with opened(url) as here, opened(backup) as there:
        report = await sync(there, here)
        assert [(each.outcome, each.where) for each in report.traces] == [("buried", "the target's is redacted")]
        assert report.is_clean
        report = await sync(here, there)
        assert [(each.outcome, each.where) for each in report.traces] == [
            ("redacted", "the target holds it as it was before")
        ]
        assert not report.is_clean and await holding(str(backup), SECRET)
        report = await sync(here, there, SyncOptions(delete=True))
        assert report.outcomes == {"deleted": 1, "new": 1} and report.is_clean
        await there.purge([RUN])
    assert await holding(str(backup), SECRET) == set()
    assert await told(backup) == await told(url)


async def test_a_trace_of_which_only_the_goals_are_redacted_yet_is_not_taken_for_diverged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(url)
    copy, older = tmp_path / "copy", tmp_path / "older"
    for place in (copy, older):
        async with opened(url) as here, opened(place) as there:
            await sync(here, there)
    before = await told(url)
    here = opened(url)
    real = here.storage.replace

    async def replace(key: str, *args: Any) -> str:
        if key.endswith(HEADER):
            raise Killed
        return await real(key, *args)

    monkeypatch.setattr(here.storage, "replace", replace)
    with pytest.raises(Killed):
        await redact(here, dry_run=False)
    assert [one == other for one, other in zip(before, await told(url), strict=True)].count(False) == 1
    async with opened(url) as source, opened(copy) as there:
        assert (await sync(source, there)).outcomes == {"forward": 1}
    assert await told(copy) == await told(url)
    async with opened(older) as source, opened(url) as there:
        assert (await sync(source, there)).outcomes == {"behind": 1}


async def test_what_was_written_to_an_unredacted_copy_meanwhile_does_not_come_back_either(tmp_path: Path) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    await add(here, status="running")
    shutil.copytree(here, copy)
    await redacted(here)
    async with opened(copy) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content="more"))
    async with opened(copy) as one, opened(here) as other:
        assert (await sync(one, other)).outcomes == {"buried": 1}
    assert await holding(str(here), SECRET) == set()


async def test_importing_the_same_source_again_does_not_bring_it_back(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    rows = [{"role": "user", "content": f"use {SECRET}"}, {"role": "assistant", "content": "no"}]
    source.write_text(json.dumps({"id": "c1", "messages": rows}) + "\n")
    url = tmp_path / "archive"
    async with opened(url) as store:
        await import_paths(store, [source])
    assert (await redacted(url)).replaced.total() == 2
    async with opened(url) as store:
        report = await import_paths(store, [source])
        assert [trace.outcome for file in report.files for trace in file.traces] == ["known"]
    assert await holding(str(url), SECRET) == set()


@pytest.mark.parametrize("status", some(["completed", "running"], 1))
async def test_killed_anywhere_it_is_as_before_or_as_after_and_doing_it_again_ends_it(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goals may be redacted a moment before the rest; at no time are they absent."""
    # As if whoever was killed had been so a while ago.
    monkeypatch.setattr(keeping, "_UNFINISHED_SECONDS", -1.0)
    here = tmp_path / "here"
    await add(here, status=status)
    async with opened(here) as store:
        await store.optimize()
    before = await told(here)
    after = replaced(before)
    ended, seen = False, set()
    step = tried(11, 2, 1)
    for count in range(SEED % step, 400, step):
        copy = tmp_path / f"copy-{count}"
        shutil.copytree(here, copy)
        store = opened(copy)
        with killed_at(count):
            try:
                await redact(store, dry_run=False)
                ended = True
            except Killed:
                pass
        state = await told(copy)
        without_goals = [state[0], *state[2:]]
        assert without_goals in ([before[0], *before[2:]], [after[0], *after[2:]])
        assert state[1] in (before[1], after[1]) if state[0] == before[0] else state[1] == after[1]
        seen.add(state[0] == after[0])
        await redacted(copy)
        assert await told(copy) == after
        assert await holding(str(copy), SECRET) == set(), count
        async with opened(copy) as store:
            assert [each for each in await store.verify(deep=True) if "interrupted" not in each.meaning] == []
        shutil.rmtree(copy)
        if ended:
            break
    assert ended and count > 20 and seen == {True, False}


TEXTS = st.text(max_size=12)
SAMPLES = st.sampled_from([secret for name in ("github-token", "email", "openai-key", "npm-token")
                           for _, secret in SECRETS[name]])  # fmt: skip
PLANTED = st.builds(lambda before, secret, after: f"{before} {secret} {after}", TEXTS, SAMPLES, TEXTS)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | TEXTS | PLANTED,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | PLANTED, inner, max_size=3)
        | inner.map(lambda value: json.dumps(value))
        | inner.map(lambda value: json.dumps(value, ensure_ascii=False))
    ),
    max_leaves=8,
)


def shape(value: Json) -> Json:
    """Return what no redaction may change of a value: its numbers, its lists, how many keys an object has."""
    if isinstance(value, dict):
        return [shape(child) for child in value.values()]
    if isinstance(value, list):
        return [shape(child) for child in value]
    return "text" if isinstance(value, str) else value


@given(st.lists(st.tuples(VALUES, VALUES, TEXTS | PLANTED), min_size=1, max_size=4), st.booleans())
@settings(deadline=None, max_examples=tried(5, 120, 400))
def test_wherever_secrets_were_planted_none_is_left_and_the_rest_is_equal(
    given_messages: list[tuple[Json, Json, str]], sealed: bool
) -> None:
    asyncio.run(_plant(given_messages, sealed))


async def _plant(given_messages: list[tuple[Json, Json, str]], sealed: bool) -> None:
    name = "redact-planted"
    MemoryStorage.forget(name)
    url = f"memory://{name}"
    async with opened(url) as store:
        await store.create_trace(Trace(trace_id=RUN))
        for content, payload, error in given_messages:
            await store.add_message(Message(trace_id=RUN, role="user", content=content, cost=0.1, error=error))
            await store.append_event(RUN, "said", payload)
        if sealed:
            await store.update_trace(RUN, status="completed")
        await store.seal(RUN)
        before = await _contents(store)
    report = await redacted(url)
    assert not report.problems
    async with opened(url) as store:
        after = await _contents(store)
        assert await store.verify(deep=True) == []
    secrets = [secret for name in ("github-token", "email", "openai-key", "npm-token") for _, secret in SECRETS[name]]
    assert await holding(url, *secrets) == set()
    assert [shape(value) for value in after[0]] == [shape(value) for value in before[0]]
    assert after[1] == before[1]
    assert bool(report.replaced) == (after[0] != before[0])
    MemoryStorage.forget(name)


async def _contents(store: ArchiveStore) -> tuple[list[Json], list[str]]:
    """Return the values of a trace, and all that is not text of it."""
    messages, events = await store.get_trace_messages(RUN), await store.get_events(RUN)
    trace = await store.get_trace(RUN)
    assert trace is not None
    texts: list[Json] = [value for each in messages for value in (each.content, each.error)]
    texts += [event.payload for event in events]
    return texts, [
        exact_text(trace, without={"redactions"}),
        *(exact_text(message, without={"content", "error"}) for message in messages),
        *(exact_text(Event.parse({**event.fields(), "payload": None})) for event in events),
    ]
