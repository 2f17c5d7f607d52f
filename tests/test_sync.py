"""Syncing: what a target lacks is copied, what went on on both sides is told, and nothing is overwritten."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from profiles import some
from traceark.errors import InvalidValueError
from traceark.layout import trace_prefix
from traceark.manifest import sha256
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.storage.base import Entry
from traceark.store import ArchiveStore
from traceark.sync import SyncOptions, SyncReport, sync
from traceark.sync.carry import carry
from traceark.sync.putting import ChangedMeanwhileError
from traceark.testing.compare import exact_text, exact_texts
from weather import meeting

RUN = "run-7"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def archive(root: Path) -> ArchiveStore:
    return ArchiveStore(root, durability="os")


async def add(root: Path, *contents: str, trace_id: str = RUN, status: str = "running") -> None:
    """Add messages to a trace as one process does, and close it."""
    async with archive(root) as store:
        if await store.get_trace(trace_id) is None:
            await store.create_trace(Trace(trace_id=trace_id, task="t"))
        for content in contents:
            await store.add_message(Message(trace_id=trace_id, role="user", content=content))
            await store.append_event(trace_id, "said", {"content": content})
        if status != "running":
            await store.update_trace(trace_id, status=status)


async def synced(source: Path, target: Path, options: SyncOptions | None = None) -> SyncReport:
    async with archive(source) as one, archive(target) as other:
        report = await sync(one, other, options)
        assert {trace.trace_id for trace in await other.list_traces(limit=1000)} >= {
            trace.trace_id for trace in report.traces if trace.outcome in ("new", "forward") and not _is_dry(options)
        }
        return report


def _is_dry(options: SyncOptions | None) -> bool:
    return options is not None and options.dry_run


async def told(root: Path, trace_id: str = RUN) -> tuple[object, ...]:
    """Return all that a trace says."""
    async with archive(root) as store:
        trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
        assert trace is not None
        return (
            exact_text(trace),
            exact_texts(await store.get_trace_messages(trace_id)),
            exact_texts(await store.get_events(trace_id)),
            None if tree is None else exact_text(tree),
        )


async def sound(root: Path) -> bool:
    async with archive(root) as store:
        return await store.verify(deep=True) == []


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


async def test_what_is_missing_is_copied_and_then_the_same(here: Path, there: Path) -> None:
    await add(here, "a", "b", status="completed")
    await add(here, "c", trace_id="live")
    report = await synced(here, there)
    assert report.outcomes == {"new": 2} and report.copied_bytes > 0 and report.is_clean
    for trace_id in (RUN, "live"):
        assert await told(there, trace_id) == await told(here, trace_id)
    again = await synced(here, there)
    assert again.outcomes == {"same": 2} and again.copied_bytes == 0
    assert await sound(there)


async def test_a_sealed_trace_is_the_same_bytes(here: Path, there: Path) -> None:
    await add(here, "a", status="completed")
    await synced(here, there)
    ours, theirs = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("traces/*/**/*.*")} for root in (here, there)
    )
    assert len(ours) >= 4
    assert {path: data for path, data in ours.items() if path.name != ".lock"} == {
        path: data for path, data in theirs.items() if path.name != ".lock"
    }


@pytest.mark.parametrize("before", ["running", "completed"])
@pytest.mark.parametrize("after", ["running", "completed"])
async def test_a_run_that_went_on_is_brought_forward(here: Path, there: Path, before: str, after: str) -> None:
    await add(here, "a", status=before)
    await synced(here, there)
    await add(here, "b", "c", status=after)
    report = await synced(here, there)
    assert report.outcomes == {"forward": 1}
    assert await told(there) == await told(here)
    assert await sound(there)
    assert (await synced(here, there)).outcomes == {"same": 1}


async def test_of_a_segment_only_what_is_new_is_copied(here: Path, there: Path) -> None:
    async with archive(here) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.add_message(Message(trace_id=RUN, role="user", content="x" * 100_000))
        await synced(here, there)
        await store.add_message(Message(trace_id=RUN, role="user", content="y"))
        report = await synced(here, there)
    assert report.outcomes == {"forward": 1} and report.copied_bytes < 5_000
    assert await told(there) == await told(here)


async def test_an_earlier_state_overwrites_nothing(here: Path, there: Path) -> None:
    await add(here, "a")
    await synced(here, there)
    await add(there, "b")
    before = await told(there)
    report = await synced(here, there)
    assert report.outcomes == {"behind": 1} and report.copied_bytes == 0
    assert await told(there) == before


@pytest.mark.parametrize("sealed", ["neither", "source", "target", "both"])
async def test_a_trace_written_to_on_both_sides_is_told_with_the_offset_where_they_part(
    here: Path, there: Path, sealed: str
) -> None:
    await add(here, "a")
    await synced(here, there)
    await add(here, "b", status="completed" if sealed in ("source", "both") else "running")
    await add(there, "c", status="completed" if sealed in ("target", "both") else "running")
    before = await told(here), await told(there)
    report = await synced(here, there)
    assert [(trace.outcome, trace.where) for trace in report.traces] == [("diverged", "messages offset 2")]
    assert not report.is_clean
    assert (await told(here), await told(there)) == before


@pytest.mark.parametrize("what", ["task", "goals", "total_tokens"])
async def test_headers_that_were_changed_on_both_sides_diverged(here: Path, there: Path, what: str) -> None:
    await add(here, "a")
    await synced(here, there)
    for root, times in ((here, 1), (there, 2)):
        async with archive(root) as store:
            for each in range(times):
                if what == "goals":
                    await store.add_goal(RUN, Goal(id=f"{root.name}-{each}", description="d"))
                else:
                    value = f"{root.name} {each}" if what == "task" else 100 * times + each
                    await store.update_trace(RUN, **{what: value})
    report = await synced(here, there)
    where = "goal_tree.json" if what == "goals" else "trace.json"
    assert [(trace.outcome, trace.where) for trace in report.traces] == [("diverged", where)]


@pytest.mark.parametrize("times", [1, 3, 40])
async def test_a_header_changed_on_one_side_only_is_a_later_state(here: Path, there: Path, times: int) -> None:
    await add(here, "a")
    await synced(here, there)
    for each in range(times):
        async with archive(here) as store:
            await store.update_trace(RUN, task=f"task {each}")
            await store.update_goal_tree(RUN, GoalTree(mission=f"mission {each}"))
    assert (await synced(there, here)).outcomes == {"behind": 1}
    assert (await synced(here, there)).outcomes == {"forward": 1}
    assert await told(there) == await told(here)


@pytest.mark.parametrize("what", ["task", "mission"])
@pytest.mark.parametrize("far", ["disk", "memory"])
async def test_what_is_set_at_the_target_while_it_is_looked_at_is_not_overwritten(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch, what: str, far: str
) -> None:
    url = str(there) if far == "disk" else f"memory://{there}"
    await add(here, "both")
    async with archive(here) as near, ArchiveStore(url) as other, ArchiveStore(url) as writer:
        await sync(near, other)
        await near.update_trace(RUN, task="of the source")
        await near.update_goal_tree(RUN, GoalTree(mission="of the source", goals=[]))
        listed, waiting = other.storage.list, ["of the target"]

        async def set_first(prefix: str) -> dict[str, Entry]:
            # The headers have been read.
            if prefix == trace_prefix(RUN) and waiting:
                word = waiting.pop()
                if what == "task":
                    await writer.update_trace(RUN, task=word)
                else:
                    await writer.update_goal_tree(RUN, GoalTree(mission=word, goals=[]))
            return await listed(prefix)

        monkeypatch.setattr(other.storage, "list", set_first)
        report = await sync(near, other)
        assert not waiting and report.outcomes == {"diverged": 1}
        trace, tree = await other.get_trace(RUN), await other.get_goal_tree(RUN)
        assert trace is not None and "of the target" in (trace.task, tree.mission if tree is not None else "")


async def test_what_only_one_side_sealed_is_no_difference(here: Path, there: Path) -> None:
    await add(here, "a")
    await synced(here, there)
    async with archive(here) as store:
        await store.seal(RUN)
    assert (await synced(there, here)).outcomes == {"same": 1}
    assert (await synced(here, there)).outcomes == {"forward": 1}
    assert (await synced(here, there)).outcomes == {"same": 1}
    assert await sound(there)


@pytest.mark.parametrize(("ours", "theirs", "outcome"), [(2, 2, "same"), (3, 2, "forward"), (2, 3, "behind")])
async def test_a_run_made_on_both_sides_is_told_by_what_it_says(
    here: Path, there: Path, ours: int, theirs: int, outcome: str
) -> None:
    """As imports do, of one source at two points of its growth."""
    for root, count in ((here, ours), (there, theirs)):
        async with archive(root) as store:
            trace = Trace(trace_id=RUN, status="completed", created_at=NOW, task=f"as of {count}")
            said = [Message(trace_id=RUN, role="user", content=str(each), created_at=NOW) for each in range(count)]
            if count == 3:
                await store.add_trace(trace, said)
            else:
                await store.create_trace(trace)
                await store.add_messages(said)
                await store.update_trace(RUN, task="as of 2")
    if ours == theirs:
        for root in (here, there):
            async with archive(root) as store:
                await store.seal(RUN)
    before = await told(there)
    assert (await synced(here, there)).outcomes == {outcome: 1}
    assert await told(there) == (await told(here) if outcome == "forward" else before)
    assert await sound(there)


async def test_runs_made_on_both_sides_that_say_other_things_diverged(here: Path, there: Path) -> None:
    for root in (here, there):
        async with archive(root) as store:
            said = [Message(trace_id=RUN, role="user", content=root.name, created_at=NOW)]
            await store.add_trace(Trace(trace_id=RUN, status="completed", created_at=NOW), said)
    report = await synced(here, there)
    assert [(trace.outcome, trace.where) for trace in report.traces] == [("diverged", "message 1")]


@pytest.mark.parametrize("longer", ["the one without goals", "the one with goals"])
async def test_a_run_without_goals_is_no_later_state_of_one_that_has_some(here: Path, there: Path, longer: str) -> None:
    for root, goals in ((here, False), (there, True)):
        async with archive(root) as store:
            count = 2 + ((longer == "the one with goals") is goals)
            said = [Message(trace_id=RUN, role="user", content=str(each), created_at=NOW) for each in range(count)]
            tree = GoalTree(mission="m", goals=[Goal(id="1")]) if goals else None
            await store.add_trace(Trace(trace_id=RUN, status="failed", created_at=NOW), said, [], tree)
    before = await told(here), await told(there)
    for source, target in ((here, there), (there, here)):
        outcome = "diverged" if longer == "the one without goals" else "forward" if target is here else "behind"
        assert (await synced(source, target)).outcomes == {outcome: 1}
    assert await told(there) == before[1]
    assert await told(here) == (before[0] if longer == "the one without goals" else before[1])


async def test_of_a_trace_that_is_deleted_while_it_is_copied_nothing_is_left(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(here, "a")
    async with archive(here) as near, archive(there) as far, archive(here) as other:
        real = near.storage.read

        async def read(key: str, start: int = 0) -> bytes:
            # Of messages and events the events are copied last.
            if "/events/" in key and await other.get_trace(RUN) is not None:
                await other.delete_trace(RUN)
            return await real(key, start)

        monkeypatch.setattr(near.storage, "read", read)
        report = await sync(near, far)
        assert not report.outcomes and not report.problems
        assert await far.storage.children("traces") == [] and await far.verify(deep=True) == []


async def test_a_try_that_takes_longer_than_patience_lasts_is_not_the_only_one(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(here, "a")
    meetings = [1, 2, 3]

    async def met(*args: Any, **options: Any) -> int:
        if meetings:
            raise ChangedMeanwhileError(f"it was written to meanwhile, {meetings.pop()}")
        return await carry(*args, **options)

    monkeypatch.setattr("traceark.sync.run.carry", met)
    monkeypatch.setattr("traceark.sync.run._PATIENT_SECONDS", 0.0)
    assert (await synced(here, there)).outcomes == {"new": 1}
    meetings += range(1000)
    await add(here, "b")
    (problem,) = (await synced(here, there)).problems
    assert "written to meanwhile" in problem


async def test_goals_that_a_killed_sync_left_of_another_run_go(here: Path, there: Path) -> None:
    async with archive(here) as store:
        await store.create_trace(Trace(trace_id=RUN))
        await store.update_goal_tree(RUN, GoalTree(mission="m", goals=[]))
        await synced(here, there)
        (there / trace_prefix(RUN) / "trace.json").unlink()
        await store.delete_trace(RUN)
        await store.create_trace(Trace(trace_id=RUN))
    assert (await synced(here, there)).outcomes == {"new": 1}
    assert await told(there) == await told(here) and await sound(there)


async def test_a_dry_run_writes_nothing(here: Path, there: Path) -> None:
    await add(here, "a")
    report = await synced(here, there, SyncOptions(dry_run=True))
    assert report.outcomes == {"new": 1}
    assert not there.exists()


async def test_what_the_source_does_not_have_is_deleted_only_when_asked(here: Path, there: Path) -> None:
    await add(here, "a")
    await add(there, "b", trace_id="other")
    await synced(here, there)
    assert await told(there, "other")
    report = await synced(here, there, SyncOptions(delete=True))
    assert report.outcomes == {"same": 1, "deleted": 1}
    async with archive(there) as store:
        assert [trace.trace_id for trace in await store.list_traces()] == [RUN]


async def test_an_archive_is_not_synced_with_itself(here: Path) -> None:
    await add(here, "a")
    with pytest.raises(InvalidValueError, match="is the source and the target"):
        await synced(here, here)


@pytest.mark.parametrize("what", ["messages", "header", "apart"])
async def test_both_sides_are_kept_when_asked_and_go_on_under_the_same_id(here: Path, there: Path, what: str) -> None:
    if what == "apart":
        for root in (here, there):
            async with archive(root) as store:
                said = [Message(trace_id=RUN, role="user", content=root.name, created_at=NOW)]
                await store.add_trace(Trace(trace_id=RUN, status="completed", created_at=NOW), said)
    else:
        await add(here, "a")
        await synced(here, there)
        for root in (here, there):
            if what == "messages":
                await add(root, root.name)
            else:
                async with archive(root) as store:
                    await store.update_trace(RUN, task=root.name)
    ours, theirs = await told(here), await told(there)
    both = SyncOptions(keep_both=True)
    [trace] = (await synced(here, there, both)).traces
    assert trace.outcome == "diverged" and trace.kept_as is not None
    assert await told(there) == theirs and await told(here) == ours
    async with archive(there) as store:
        kept = await store.get_trace(trace.kept_as)
        assert kept is not None and kept.metadata["diverged_from"] == RUN
        texts = [message.content for message in await store.get_trace_messages(trace.kept_as)]
    async with archive(here) as store:
        assert texts == [message.content for message in await store.get_trace_messages(RUN)]
    [again] = (await synced(here, there, both)).traces
    assert again.kept_as == trace.kept_as
    if what == "messages":
        await add(here, "more")
        [grown] = (await synced(here, there, both)).traces
        assert grown.kept_as == trace.kept_as
        async with archive(there) as store:
            texts = [message.content for message in await store.get_trace_messages(trace.kept_as)]
        assert texts == ["a", "here", "more"]
    assert await sound(there)


@pytest.mark.parametrize(
    ("what", "status"), some(itertools.product(["task", "goals", "sealed"], ["running", "completed"]), 4)
)
async def test_a_change_is_listed_where_the_header_was_published_more_often_too(
    here: Path, there: Path, what: str, status: str
) -> None:
    """A target that sealed, or brought its totals up to date, has the higher revision, though nothing was changed."""
    await add(here, "a")
    await synced(here, there)
    async with archive(there) as other:
        for _ in range(3):
            await other.seal(RUN)
            await other.append_events(RUN, [])
            await other.update_trace(RUN, task="t")
        assert [trace.task for trace in await other.list_traces()] == ["t"]
        async with archive(here) as one:
            if what == "task":
                await one.update_trace(RUN, task="new")
            elif what == "goals":
                await one.add_goal(RUN, Goal(id="1"))
            if status != "running":
                await one.update_trace(RUN, status=status)
            await one.seal(RUN)
        async with archive(here) as one:
            await sync(one, other)
        [listed] = await other.list_traces()
        assert (listed.task, listed.status) == ("new" if what == "task" else "t", status)
        assert exact_text(listed) == (await told(here))[0]
    assert await told(there) == await told(here)
    assert await sound(there)
    again = await synced(here, there)
    assert again.outcomes == {"same": 1} and again.copied_bytes == 0


@pytest.mark.parametrize("to", ["disk", "memory"])
async def test_a_file_that_does_not_fit_its_manifest_is_not_copied(here: Path, there: Path, to: str) -> None:
    await add(here, "a", status="completed")
    await add(here, "b", trace_id="other", status="completed")
    part = next((here / "traces" / RUN / "messages").glob("*.parquet"))
    data = part.read_bytes()
    part.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    async with archive(here) as one, ArchiveStore(there if to == "disk" else f"memory://{there}") as other:
        report = await sync(one, other)
        assert report.outcomes == {"new": 1, "failed": 1} and part.name in report.problems[0]
        assert await other.get_trace(RUN) is None and await other.get_trace("other") is not None


NAMES = ["../../mine", "messages/../../../mine", "messages/x/y", "/mine", "mine", "a\0b", "."]


@pytest.mark.parametrize(("name", "each"), some(itertools.product(NAMES, [False, True]), 5))
async def test_a_manifest_that_names_what_is_no_file_of_a_trace_brings_nothing(
    here: Path, there: Path, name: str, each: bool
) -> None:
    await add(here, "a", status="completed")
    await add(here, "a", trace_id="sound", status="completed")
    (here / "mine").write_bytes(b"mine")
    (here / "traces" / RUN / "mine").write_bytes(b"mine")
    with (here / "traces" / RUN / "manifest-sha256.txt").open("a") as file:
        file.write(f"{sha256(b'mine')}  {name}\n")
    report = await synced(here, there, SyncOptions(sync_each=each))
    assert report.outcomes["new"] >= 1 and await told(there, "sound") == await told(here, "sound")
    assert not list(there.rglob("*mine*")) and not (there.parent / "mine").exists()


async def test_a_sealed_trace_that_lacks_only_its_manifest_is_made_the_same_bytes(here: Path, there: Path) -> None:
    await add(here, "a", status="completed")
    await synced(here, there)
    manifest = there / "traces" / RUN / "manifest-sha256.txt"
    manifest.unlink()
    assert (await synced(here, there)).outcomes == {"forward": 1}
    assert manifest.read_bytes() == (here / "traces" / RUN / "manifest-sha256.txt").read_bytes()
    assert (await synced(here, there)).outcomes == {"same": 1} and await sound(there)


async def test_a_live_trace_that_was_synced_to_an_object_store_is_sound_there_when_it_is_sealed(here: Path) -> None:
    async with ArchiveStore(f"memory://{here}") as far:
        for word in ("a", "b", "c"):
            await add(here, word)
            async with archive(here) as near:
                assert (await sync(near, far)).is_clean
            await add(here, status="completed")
            async with archive(here) as near:
                assert (await sync(near, far)).is_clean
            assert await far.verify(deep=True) == []
        assert [message.content for message in await far.get_trace_messages(RUN)] == ["a", "b", "c"]


async def test_two_syncs_that_bring_two_sides_to_an_object_store_at_once_damage_nothing(
    here: Path, there: Path
) -> None:
    far = f"memory://{there}"
    await add(here, "both")
    await synced(here, there)
    async with archive(here) as near, ArchiveStore(far) as other:
        await sync(near, other)
    await add(here, "one")
    await add(there, "other")

    async def bring(root: Path) -> SyncReport:
        async with archive(root) as near, ArchiveStore(far) as other:
            return await sync(near, other)

    with meeting():
        await asyncio.gather(bring(here), bring(there))
    async with ArchiveStore(far) as other:
        assert await other.verify(deep=True) == []
        said = [message.content for message in await other.get_trace_messages(RUN)]
    assert said in (["both"], ["both", "one"], ["both", "other"])
    assert sorted([(await bring(here)).outcomes["diverged"], (await bring(there)).outcomes["diverged"]]) == [0, 1]
