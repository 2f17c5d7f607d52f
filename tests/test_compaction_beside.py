"""Compaction, a seal and a redaction of one trace in several stores: what one of them reads another may replace."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from traceark.errors import TraceNotFoundError
from traceark.folding import build_part
from traceark.layout import MANIFEST, trace_prefix
from traceark.manifest import decode_manifest
from traceark.models import Goal, Message, Trace
from traceark.redacting import redact
from traceark.store import ArchiveStore
from traceark.sync.carry import publish


async def said(archive: Path) -> list[Any]:
    """Return the contents of the messages, as a new reader finds them, where verify finds nothing."""
    async with ArchiveStore(archive) as store:
        assert await store.verify(deep=True) == []
        return [message.content for message in await store.get_trace_messages("t")]


async def begun(archive: Path, *contents: str) -> ArchiveStore:
    store = ArchiveStore(archive, durability="os")
    await store.create_trace(Trace(trace_id="t"))
    for content in contents:
        await store.add_message(Message(trace_id="t", role="user", content=content))
    return store


async def test_a_redaction_that_waits_within_its_lock_loses_nothing_to_a_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await begun(tmp_path, "ann@example.org", "bye"), ArchiveStore(tmp_path, durability="os")
    is_within, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Any:
        is_within.set()
        await may_go_on.wait()
        return await publish(*args, **more)

    monkeypatch.setattr("traceark.redacting.publish", slow)
    redaction = asyncio.create_task(redact(other, ["t"], dry_run=False))
    await is_within.wait()
    seal = asyncio.create_task(store.seal("t"))
    while not list((tmp_path / trace_prefix("t") / "messages").glob("*.parquet")):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    may_go_on.set()
    await asyncio.gather(redaction, seal)
    [first, second] = await said(tmp_path)
    assert "ann@example.org" not in first and second == "bye"
    await store.close()
    await other.close()


async def test_compaction_keeps_a_segment_that_grew_behind_the_part_of_a_seal_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await begun(tmp_path, "one"), ArchiveStore(tmp_path, durability="os")
    done = False

    async def built(*args: Any, folded: bool, **more: Any) -> Any:
        nonlocal done
        part = await build_part(*args, folded=folded, **more)
        if folded:
            raise asyncio.CancelledError  # the seal's process dies here
        if not done:
            done = True
            await store.add_message(Message(trace_id="t", role="user", content="two"))
            with pytest.raises(asyncio.CancelledError):
                await other.seal("t")
            await store.add_message(Message(trace_id="t", role="user", content="three"))
        return part

    with monkeypatch.context() as context:
        context.setattr("traceark.compact.build_part", built)
        await store.compact("t")
    assert done and await said(tmp_path) == ["one", "two", "three"]
    await store.add_message(Message(trace_id="t", role="user", content="four"))
    await store.seal("t")
    await store.close()
    await other.close()
    assert await said(tmp_path) == ["one", "two", "three", "four"]
    names = {path.name for path in (tmp_path / trace_prefix("t") / "messages").iterdir()}
    assert len(names) == 1 and (tmp_path / trace_prefix("t") / MANIFEST).exists()


@pytest.mark.parametrize("verb", ["seal", "compact"])
async def test_a_look_at_what_is_sealed_deletes_nothing_of_a_redaction_that_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    one = await begun(tmp_path, "ann@example.org", "bye")
    await one.seal("t")
    await one.close()
    redacted = False

    def redact_now() -> None:
        asyncio.run(redact(ArchiveStore(tmp_path, durability="os"), ["t"], dry_run=False))

    def decoded(*args: Any) -> Any:
        nonlocal redacted
        if not redacted:
            redacted = True
            # Another process: this one holds no lock, and has listed what the redaction replaces.
            other = threading.Thread(target=redact_now)
            other.start()
            other.join()
        return decode_manifest(*args)

    monkeypatch.setattr("traceark.compact.decode_manifest", decoded)
    async with ArchiveStore(tmp_path, durability="os") as store:
        await getattr(store, verb)("t")
    assert redacted
    [first, second] = await said(tmp_path)
    assert "ann@example.org" not in first and second == "bye"


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("how", ["seal", "compact"])
@pytest.mark.parametrize("place", ["disk", "memory"])
async def test_the_part_of_a_trace_that_another_store_deletes_meanwhile_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, how: str, again: bool
) -> None:
    url = str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}"
    async with ArchiveStore(url) as store, ArchiveStore(url) as other:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(Message(trace_id="t", role="user", content="of the first"))
        create, made = store.storage.create, list[str]()

        async def late(key: str, data: bytes) -> str:
            if key.endswith(".parquet") and not made:
                made.append(key)
                await other.delete_trace("t")
                if again:
                    await other.create_trace(Trace(trace_id="t"))
            return await create(key, data)

        monkeypatch.setattr(store.storage, "create", late)
        if again:
            await getattr(store, how)("t")
        else:
            with pytest.raises(TraceNotFoundError):
                await getattr(store, how)("t")
        assert made and await other.verify(deep=True) == []
        assert await other.storage.children("traces") == (["t"] if again else [])


async def test_a_repair_counts_nothing_anew_by_a_part_into_which_later_updates_are_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def built(*args: Any, **more: Any) -> Any:
        await build_part(*args, **more)
        raise asyncio.CancelledError  # the seal's process dies here

    store = await begun(tmp_path)
    await store.add_goal("t", Goal(id="1"))
    message = Message(trace_id="t", message_id="m", role="user", content="one", tokens=1, goal_id="1")
    await store.add_message(message)
    await store.flush()
    await store.update_message("m", trace_id="t", tokens=5)
    with monkeypatch.context() as context, pytest.raises(asyncio.CancelledError):
        context.setattr("traceark.compact.build_part", built)
        await store.seal("t")
    async with ArchiveStore(tmp_path, durability="os") as other:
        report = await other.repair(["t"], dry_run=False)
        assert not [each for each in report.mended if each.file.endswith(".json")] and report.left == []
        trace = await other.get_trace("t")
        assert trace is not None and trace.total_tokens == 5
    await store.close()
