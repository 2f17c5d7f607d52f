"""The suite's part on archives: what reopening, compacting and sealing must leave as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import pytest

from traceark.errors import (
    GoalNotFoundError,
    InvalidValueError,
    MessageConflictError,
    MessageNotFoundError,
    StaleGoalTreeError,
)
from traceark.layout import MANIFEST, trace_prefix
from traceark.models import Goal, GoalTree, Trace
from traceark.store import ArchiveStore
from traceark.testing.places import ArchiveTests, record_run, snapshot
from traceark.testing.scenario import header, message, message_of, scenario, tree_of
from traceark.testing.values import HOSTILE_IDS, HUGE_TEXT

WRITES: dict[str, Callable[[ArchiveStore], Awaitable[object]]] = {
    "add_message": lambda store: store.add_message(message(content="more")),
    "update_message": lambda store: store.update_message("t-0001", content="changed"),
    "append_event": lambda store: store.append_event("t", "more", None),
    "update_trace": lambda store: store.update_trace("t", task="changed"),
    "add_goal": lambda store: store.add_goal("t", Goal(id="more")),
    "update_goal": lambda store: store.update_goal("t", "1", status="changed"),
    "update_goal_tree": lambda store: store.update_goal_tree("t", GoalTree(mission="changed")),
}
# What `keep` knows.
STEPS = ("nothing", "flush", "compact", "seal", "compact twice", "close")


async def keep(store: ArchiveStore, step: str, trace_id: str = "t") -> None:
    """Do what a store does to a trace's files without changing what they say."""
    if step == "flush":
        await store.flush()
    elif step == "seal":
        await store.seal(trace_id)
    elif step == "close":
        await store.close()
    elif step.startswith("compact"):
        await store.compact(trace_id)
        if step.endswith("twice"):
            await store.compact(trace_id)


class CaseTests(ArchiveTests):
    """Base of the classes whose tests are tried with each thing that a store does to a trace's files.

    Attributes
    ----------
    every : int
        Of `STEPS` every so many-th is tried, others for other tests; more than 1 for servers that take long.
    """

    every = 1

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each step."""
        if "step" in metafunc.fixturenames:
            first = sum(map(ord, metafunc.function.__name__)) % self.every
            metafunc.parametrize("step", STEPS[first :: self.every])


class KeepingTests(CaseTests):
    """Reopening, compacting, sealing."""

    @scenario
    async def test_whatever_is_done_to_the_files_the_trace_reads_the_same(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        before = await snapshot(store)
        await keep(store, step)
        for reader in (self.open_store(), store):
            if step != "close" or reader is not store:
                assert await snapshot(reader) == before
        assert await self.open_store().verify(deep=True) == []

    @scenario
    async def test_writing_goes_on_after_it(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        await keep(store, step)
        writer = self.open_store() if step == "close" else store
        trace = await header(writer)
        assert await writer.add_message(message()) == f"t-{trace.last_sequence + 1:04d}"
        assert await writer.append_event("t", "e", None) == trace.last_event_id + 1
        await writer.update_message("t-0001", content="late")
        assert (await message_of(writer, "t-0001")).content == "late"
        assert await snapshot(self.open_store()) == await snapshot(writer)
        await keep(writer, step)
        assert await self.open_store().verify(deep=True) == []
        await writer.close()

    @scenario
    async def test_a_cursor_goes_on_working(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        await keep(store, step)
        for reader in (self.open_store(), self.store_at(await self.copied())):
            assert [event.payload["at"] for event in await reader.get_events("t", 4) if event.payload] == [4, 5]
            assert [event.event_id for event in await reader.get_events("t")][:6] == [1, 2, 3, 4, 5, 6]

    @scenario
    async def test_a_known_message_is_known_after_it(self, store: ArchiveStore, step: str) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(message_id="m", content="first", tokens=5))
        await store.update_message("m", content="second")
        await store.update_message("m", content="third")
        await keep(store, step)
        writer = self.open_store()
        for content in ("first", "third"):
            assert await writer.add_message(message(message_id="m", content=content, tokens=5)) == "m"
        for content in ("second", "other"):
            with pytest.raises(MessageConflictError):
                await writer.add_message(message(message_id="m", content=content, tokens=5))
        assert (await header(writer)).total_tokens == 5
        await writer.close()

    @scenario
    async def test_a_tree_that_nobody_changed_is_not_out_of_date(self, store: ArchiveStore, step: str) -> None:
        await record_run(store)
        tree = await tree_of(store)
        await store.add_message(message(goal_id="1", tokens=5))
        await keep(store, step)
        writer = self.open_store()
        tree.mission = "changed"
        await writer.update_goal_tree("t", tree)
        assert (await tree_of(writer)).mission == "changed"
        tree.mission = "again"
        await writer.add_goal("t", Goal(id="new"))
        with pytest.raises(StaleGoalTreeError):
            await writer.update_goal_tree("t", tree)
        await writer.close()

    @scenario
    async def test_sums_that_were_set_are_added_to_after_sealing(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t", total_tokens=100, last_sequence=9))
        await store.add_message(message(tokens=5))
        await store.seal("t")
        await store.close()
        writer = self.open_store()
        assert await writer.add_message(message(tokens=1)) == "t-0011"
        assert (await header(writer)).total_tokens == 106
        await writer.close()
        assert (await header(self.open_store())).total_tokens == 106

    @scenario
    async def test_a_manifest_names_every_file_with_its_hash(self, store: ArchiveStore) -> None:
        await record_run(store)
        await store.seal("t")
        files = await self.files(trace_id="t")
        prefix = trace_prefix("t") + "/"
        manifest = files.pop(prefix + MANIFEST).decode()
        lines = [line.split("  ", 1) for line in manifest.splitlines()]
        stated = {name: digest for digest, name in lines}
        hashes = {key.removeprefix(prefix): hashlib.sha256(data).hexdigest() for key, data in files.items()}
        assert stated.items() <= hashes.items()
        # An object store keeps superseded segments until no late writer can rely on them.
        assert all(name.endswith(".jsonl") for name in hashes.keys() - stated.keys())

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    @scenario
    async def test_any_write_reopens_a_sealed_trace(
        self, store: ArchiveStore, write: Callable[[ArchiveStore], Awaitable[object]]
    ) -> None:
        await record_run(store)
        await store.seal("t")
        before = await snapshot(store)
        await store.close()
        writer = self.open_store()
        await write(writer)
        after = await snapshot(writer)
        assert after != before
        assert f"{trace_prefix('t')}/{MANIFEST}" not in await self.names()
        assert await snapshot(self.open_store()) == after
        await writer.seal("t")
        assert f"{trace_prefix('t')}/{MANIFEST}" in await self.names()
        assert await snapshot(self.open_store()) == after
        assert await writer.verify(deep=True) == []
        await writer.close()

    @scenario
    async def test_a_refused_write_leaves_a_sealed_trace_sealed(self, store: ArchiveStore) -> None:
        await record_run(store)
        known = message(message_id="known", content="one")
        await store.add_message(known)
        await store.seal("t")
        await store.close()
        before = await self.files()
        writer = self.open_store()
        with pytest.raises(GoalNotFoundError):
            await writer.update_goal("t", "nowhere", status="completed")
        with pytest.raises(MessageNotFoundError):
            await writer.update_message("nowhere", status="completed")
        with pytest.raises(InvalidValueError):
            await writer.update_trace("t", last_event_id=1000)
        with pytest.raises(MessageConflictError):
            await writer.add_message(known.model_copy(update={"content": "another"}))
        assert await writer.add_message(known) == "known"
        await writer.close()
        assert await self.files() == before
        assert await self.open_store().verify(deep=True) == []

    @scenario
    async def test_closing_seals_what_is_finished_and_nothing_else(self, store: ArchiveStore) -> None:
        for status in ("running", "completed", "failed", "cancelled"):
            await store.create_trace(Trace(trace_id=status))
            await store.add_message(message(status))
            await store.update_trace(status, status=status)
            await store.append_event(status, "after", None)
        await store.close()
        sealed = {key.split("/")[1] for key in await self.names() if key.endswith(MANIFEST)}
        assert sealed == {"completed", "failed", "cancelled"}
        assert await self.open_store().verify(deep=True) == []

    @scenario
    async def test_16_mib_survive_sealing(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(message(content=HUGE_TEXT))
        await store.add_message(message(content=[HUGE_TEXT[: 1 << 20], "\ud800"]))
        await store.seal("t")
        first, second = await self.open_store().get_trace_messages("t")
        same = first.content == HUGE_TEXT and second.content == [HUGE_TEXT[: 1 << 20], "\ud800"]
        assert same, "16 MiB came back changed"

    @scenario
    async def test_hostile_ids_survive_sealing(self, store: ArchiveStore) -> None:
        ids = HOSTILE_IDS[:: self.step]
        for trace_id in ids:
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(message(trace_id, content=trace_id))
            await store.update_trace(trace_id, status="completed")
        await store.close()
        reader = self.open_store()
        listed = await reader.list_traces(limit=1000)
        assert sorted(trace.trace_id for trace in listed) == sorted(ids)
        for trace_id in ids:
            assert [each.content for each in await reader.get_trace_messages(trace_id)] == [trace_id]
        assert await reader.verify(deep=True) == []
