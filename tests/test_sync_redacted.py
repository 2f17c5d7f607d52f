"""Redacting before sharing: a sync that redacts leaves the source as it is, and no secret in the target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test_redact import GONE, RUN, SECRET, add, files, opened, redactions, replaced, told
from test_retention import holding
from traceark.layout import HEADER, trace_prefix
from traceark.models import Goal, Message, Trace
from traceark.redacting import redact
from traceark.redaction import patterns_of
from traceark.storage.memory import MemoryStorage
from traceark.sync import SyncOptions, SyncReport, sync

REDACT = SyncOptions(redact=patterns_of())


async def synced(source: str | Path, target: str | Path, options: SyncOptions = REDACT) -> SyncReport:
    async with opened(source) as one, opened(target) as other:
        return await sync(one, other, options)


async def sound(url: str | Path) -> bool:
    async with opened(url) as store:
        return await store.verify(deep=True) == []


@pytest.mark.parametrize("status", ["completed", "running"])
@pytest.mark.parametrize("remote", [False, True])
async def test_copies_are_redacted_and_the_source_is_as_it_was(tmp_path: Path, status: str, remote: bool) -> None:
    here, there = tmp_path / "here", f"memory://{tmp_path.name}" if remote else str(tmp_path / "there")
    await add(here, status=status)
    before, said = await files(here), await told(here)
    assert (await synced(here, there)).outcomes == {"new": 1}
    assert await files(here) == before
    assert await holding(there, SECRET) == set() and await sound(there)
    assert await told(there) == replaced(said)
    [done] = await redactions(there)
    assert done["replaced"]["github-token"]["trace.task"] == 1
    once = await files(there)
    assert (await synced(here, there)).outcomes == {"same": 1}
    assert await files(there) == once
    if remote:
        MemoryStorage.forget(tmp_path.name)


async def test_the_same_source_and_patterns_make_the_same_bytes_everywhere(tmp_path: Path) -> None:
    await add(tmp_path / "here")
    await synced(tmp_path / "here", tmp_path / "one")
    await synced(tmp_path / "here", tmp_path / "other")
    async with opened(tmp_path / "here") as store:
        assert not (await redact(store, dry_run=False)).problems
    one, other, here = [
        {name: data for name, data in (await files(tmp_path / place)).items() if not name.endswith(".lock")}
        for place in ("one", "other", "here")
    ]
    assert one == other == here


async def test_a_run_without_a_secret_is_copied_as_looked_through(tmp_path: Path) -> None:
    async with opened(tmp_path / "here") as store:
        await store.create_trace(Trace(trace_id=RUN, status="completed"))
    assert (await synced(tmp_path / "here", tmp_path / "there")).outcomes == {"new": 1}
    [done] = await redactions(tmp_path / "there")
    assert done["replaced"] == {} and "email" in done["patterns"]
    assert (await synced(tmp_path / "here", tmp_path / "there", SyncOptions())).outcomes == {"same": 1}


async def test_a_copy_goes_forward_with_its_source_until_that_is_sealed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here, status="running")
    await synced(here, there)

    async def goes_forward() -> bool:
        found = (await synced(here, there)).outcomes
        said = await told(there) == replaced(await told(here))
        return found == {"forward": 1} and said and await sound(there) and not await holding(str(there), SECRET)

    async with opened(here) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content=f"more {SECRET}"))
    assert await goes_forward()
    async with opened(here) as store:
        await store.append_event(RUN, "later", [SECRET])
        await store.update_message(f"{RUN}-0003", content=SECRET)
    assert await goes_forward()
    async with opened(here) as store:
        await store.add_goal(RUN, Goal(id="2", description=SECRET))
        await store.compact(RUN)
    assert await goes_forward()
    async with opened(here) as store:
        await store.update_trace(RUN, task=f"other {SECRET}")
    assert await goes_forward()
    async with opened(here) as store:
        await store.update_trace(RUN, status="completed")
    assert await goes_forward()
    assert (await synced(here, there)).outcomes == {"same": 1}
    async with opened(there) as store:
        assert RUN in await store.settled()


async def test_a_copy_that_somebody_wrote_to_diverged(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here, status="running")
    await synced(here, there)
    for place in (here, there):
        async with opened(place) as store:
            await store.add_message(Message(trace_id=RUN, role="user", content=f"at {place.name} {SECRET}"))
    report = await synced(here, there)
    assert [(each.outcome, each.where) for each in report.traces] == [("diverged", "messages offset 5")]
    report = await synced(here, there, SyncOptions(redact=REDACT.redact, keep_both=True))
    async with opened(there) as store:
        [kept] = [each.kept_as for each in report.traces if each.kept_as]
        assert (await store.get_trace_messages(kept))[-1].content == f"at here {GONE}"


@pytest.mark.parametrize(("first", "then", "where"), [
    (SyncOptions(), REDACT, "the target holds it as it was before"),
    (REDACT, SyncOptions(), "the target's is redacted"),
    (REDACT, SyncOptions(redact=patterns_of(["github-token"])), "the target's is redacted by other patterns"),
])  # fmt: skip
async def test_forms_of_one_trace_that_differ_are_left_as_they_are_and_told(
    tmp_path: Path, first: SyncOptions, then: SyncOptions, where: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here, status="running")
    async with opened(here) as store:
        await store.update_trace(RUN, model="ann@example.org")
    await synced(here, there, first)
    before = await files(there)
    async with opened(here) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content="nothing in here"))
    for options in (then, SyncOptions(redact=then.redact, keep_both=True)):
        report = await synced(here, there, options)
        assert [(each.outcome, each.where) for each in report.traces] == [("redacted", where)]
        assert not report.is_clean and await files(there) == before


async def test_what_is_longer_by_harmless_words_is_no_later_state_of_its_redacted_form(tmp_path: Path) -> None:
    """Of the messages that both have nothing was replaced: by what they say alone, the source would go forward."""
    here, there = tmp_path / "here", tmp_path / "there"
    async with opened(here) as store:
        await store.create_trace(Trace(trace_id=RUN, task=SECRET))
    await synced(here, there)
    async with opened(here) as store:
        await store.add_message(Message(trace_id=RUN, role="user", content=SECRET))
    assert (await synced(here, there, SyncOptions())).outcomes == {"redacted": 1}
    assert await holding(str(there), SECRET) == set()


async def test_what_was_deleted_at_the_target_does_not_come_back(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here)
    await synced(here, there)
    async with opened(there) as store:
        await store.delete_trace(RUN)
    assert (await synced(here, there)).outcomes == {"buried": 1}


async def test_a_dry_run_writes_nothing_and_a_mirror_drops_what_is_gone(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await add(here)
    assert (await synced(here, there, SyncOptions(redact=REDACT.redact, dry_run=True))).outcomes == {"new": 1}
    assert not there.exists()
    await synced(here, there)
    async with opened(here) as store:
        await store.delete_trace(RUN)
    report = await synced(here, there, SyncOptions(redact=REDACT.redact, delete=True))
    assert report.outcomes == {"deleted": 1} and report.is_clean


async def test_a_damaged_trace_is_told_and_not_copied(tmp_path: Path) -> None:
    here = tmp_path / "here"
    await add(here)
    part = next((here / trace_prefix(RUN) / "messages").iterdir())
    part.write_bytes(part.read_bytes()[:-40])
    report = await synced(here, tmp_path / "there")
    assert report.outcomes == {"failed": 1} and len(report.problems) == 1


async def incarnation(url: Path) -> Any:
    return json.loads(await opened(url).storage.read(f"{trace_prefix(RUN)}/{HEADER}"))["_incarnation"]


async def test_a_copy_of_other_patterns_is_another_incarnation(tmp_path: Path) -> None:
    await add(tmp_path / "here")
    found = {await incarnation(tmp_path / "here")}
    for number, patterns in enumerate((patterns_of(), patterns_of(["email"]), patterns_of(["none"], {"own": "use"}))):
        await synced(tmp_path / "here", tmp_path / str(number), SyncOptions(redact=patterns))
        found.add(await incarnation(tmp_path / str(number)))
    assert len(found) == 4


@pytest.mark.parametrize("remote", [False, True])
async def test_what_does_not_fit_its_manifest_is_not_redacted_and_copied(tmp_path: Path, remote: bool) -> None:
    here, there = tmp_path / "here", f"memory://{tmp_path.name}" if remote else str(tmp_path / "there")
    await add(here)
    part = next((here / trace_prefix(RUN) / "messages").glob("*.parquet"))
    data = part.read_bytes()
    part.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    report = await synced(here, there)
    assert report.outcomes == {"failed": 1} and part.name in report.problems[0]
    assert await holding(there, "redacted") == set()
    if remote:
        MemoryStorage.forget(tmp_path.name)
