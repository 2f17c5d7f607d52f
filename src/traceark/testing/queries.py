"""The suite's part on SQL: the four views say what the store's methods say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from traceark.errors import QueryError
from traceark.layout import GOAL_TREE, trace_prefix
from traceark.models import Goal, Trace, Usage
from traceark.store import ArchiveStore
from traceark.testing.places import ArchiveTests, record_run
from traceark.testing.scenario import header, message, scenario, tree_of
from traceark.testing.values import HARD_VALUES, HOSTILE_IDS

TOTALS = "count(*) AS messages, sum(coalesce(tokens, 0)) AS tokens, count(DISTINCT goal_id) AS goals"


async def rows(store: ArchiveStore, query: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Return the rows that a query gives."""
    return list((await store.sql(query, parameters)).rows())


async def everything(store: ArchiveStore) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all views."""
    keys = {"traces": "trace_id", "goals": "trace_id, position", "messages": "trace_id, message_id"}
    keys["events"] = "trace_id, event_id"
    return {view: await rows(store, f"SELECT * FROM {view} ORDER BY {key}") for view, key in keys.items()}


class QueryTests(ArchiveTests):
    """SQL over all traces of an archive."""

    @scenario
    async def test_an_empty_archive_has_four_empty_views(self, store: ArchiveStore) -> None:
        for view in ("traces", "goals", "messages", "events"):
            assert await rows(store, f"SELECT count(*) AS n FROM {view}") == [{"n": 0}]

    @scenario
    async def test_live_and_sealed_traces_answer_alike(self, store: ArchiveStore) -> None:
        await record_run(store)
        await record_run(store, "sealed")
        await store.seal("sealed")
        await record_run(store, "compacted")
        await store.compact("compacted")
        await store.append_event("compacted", "more", None)
        counted = await rows(store, f"SELECT trace_id, {TOTALS} FROM messages GROUP BY trace_id ORDER BY trace_id")
        expected = []
        for trace_id in ("compacted", "sealed", "t"):
            found = await store.get_trace_messages(trace_id)
            goals = {each.goal_id for each in found if each.goal_id is not None}
            tokens = sum(each.tokens or 0 for each in found)
            expected.append({"trace_id": trace_id, "messages": len(found), "tokens": tokens, "goals": len(goals)})
        assert counted == expected
        assert await rows(store, "SELECT trace_id, count(*) AS n FROM events GROUP BY 1 ORDER BY 1") == [
            {"trace_id": "compacted", "n": 7},
            {"trace_id": "sealed", "n": 6},
            {"trace_id": "t", "n": 6},
        ]

    @scenario
    async def test_rollups_answer_like_the_directories(self, store: ArchiveStore) -> None:
        for trace_id in ("a", "b", "c", HOSTILE_IDS[0]):
            await record_run(store, trace_id)
            await store.seal(trace_id)
        await record_run(store, "live")
        before = await everything(store)
        report = await store.optimize()
        assert (report.made, report.left_out) == (1, [])
        assert await everything(store) == before
        assert (await store.optimize()).made == 0
        assert (await store.get_message("b-0002")) == await store.get_message("b-0002", trace_id="b")
        # What changes shows at once, and so does what goes.
        await store.add_message(message("a", content="later"))
        await store.update_goal("b", "1", summary="later")
        await store.seal("b")
        await store.delete_trace("c")
        assert await store.get_message("c-0002") is None
        changed = await everything(store)
        reopened = self.open_store()
        assert await everything(reopened) == changed
        await reopened.close()
        await store.seal("a")
        report = await store.optimize()
        assert report.left_out == []
        assert await everything(store) == changed
        # On an object store what was rewritten stays for a while, for those who read it.
        pools = [pool for pool in (store._pool, store._pool.under) if pool is not None]
        assert await store.rollups_with(["c"]) == (1 if pools[-1].storage.grace_seconds else 0)

    @scenario
    async def test_goals_of_sealed_traces_come_from_rollups(
        self, store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for trace_id in ("a", "b", "c"):
            await record_run(store, trace_id)
            await store.seal(trace_id)
        await record_run(store, "live")
        query = "SELECT * FROM goals ORDER BY trace_id, position"
        before = await rows(store, query)
        await store.optimize()
        read: list[str] = []
        reading = store.storage.read

        async def counted(key: str, start: int = 0) -> bytes:
            if key.endswith(GOAL_TREE):
                read.append(key)
            return await reading(key, start)

        monkeypatch.setattr(store.storage, "read", counted)
        assert await rows(store, query) == before
        assert read == [f"{trace_prefix('live')}/{GOAL_TREE}"]
        await store.update_goal("b", "1", summary="changed since")
        await store.seal("b")
        read.clear()
        changed = await rows(store, query)
        assert {row["trace_id"] for row in changed if row["summary"] == "changed since"} == {"b"}
        assert [row for row in changed if row["trace_id"] != "b"] == [row for row in before if row["trace_id"] != "b"]
        assert sorted(read) == [f"{trace_prefix(each)}/{GOAL_TREE}" for each in ("b", "live")]
        # Only its goals changed, so its rows are taken anew.
        assert (await store.optimize()).traces == 1
        read.clear()
        assert await rows(store, query) == changed
        assert read == [f"{trace_prefix('live')}/{GOAL_TREE}"]
        assert (await store.optimize()).made == 0

    @scenario
    async def test_the_views_of_traces_and_goals_hold_what_the_headers_say(self, store: ArchiveStore) -> None:
        await record_run(store)
        trace = await header(store)
        (found,) = await rows(
            store, "SELECT total_messages, total_tokens, total_cost, task, last_sequence, last_event_id FROM traces"
        )
        assert found == {name: getattr(trace, name) for name in found}
        goals = await rows(
            store,
            "SELECT goal_id, parent_id, self_stats.total_tokens AS own, cumulative_stats.total_cost AS cost, "
            "self_stats.preview AS preview FROM goals ORDER BY position",
        )
        assert goals == [
            {
                "goal_id": goal.id,
                "parent_id": goal.parent_id,
                "own": goal.self_stats.total_tokens,
                "cost": goal.cumulative_stats.total_cost,
                "preview": goal.self_stats.preview,
            }
            for goal in (await tree_of(store)).goals
        ]

    @scenario
    async def test_a_message_has_its_columns(self, store: ArchiveStore) -> None:
        moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        await store.create_trace(Trace(trace_id="t"))
        await store.add_message(
            message(usage=Usage(input_tokens=3), created_at=moment, cost=0.1, content={"a": [1]}, own=[2.5])
        )
        query = (
            "SELECT message_id, sequence, usage.input_tokens AS input, usage.output_tokens AS output, "
            "epoch_us(created_at) AS at, cost, "
            "content->>'$.a[0]' AS a, extra->>'$.own[0]' AS own, goal_id FROM messages"
        )
        expected = {
            "message_id": "t-0001", "sequence": 1, "input": 3, "output": None,
            "at": int(moment.timestamp()) * 10**6 + 678901, "cost": 0.1, "a": "1", "own": "2.5", "goal_id": None,
        }  # fmt: skip
        assert await rows(store, query) == [expected]
        await store.seal("t")
        assert await rows(store, query) == [expected]

    @pytest.mark.parametrize("sealed", [False, True])
    @scenario
    async def test_content_is_json_text_whatever_it_holds(self, store: ArchiveStore, sealed: bool) -> None:
        await store.create_trace(Trace(trace_id="t"))
        for value in HARD_VALUES.values():
            await store.add_message(message(content=value))
            await store.append_event("t", "e", value)
        if sealed:
            await store.seal("t")
        for view, column, order in (("messages", "content", "sequence"), ("events", "payload", "event_id")):
            found = await rows(store, f"SELECT {column} AS value FROM {view} ORDER BY {order}")
            values = [None if row["value"] is None else json.loads(row["value"]) for row in found]
            assert [json.dumps(each) for each in values] == [json.dumps(each) for each in HARD_VALUES.values()]

    @scenario
    async def test_values_are_bound_and_never_read_as_sql(self, store: ArchiveStore) -> None:
        asked = ("..", "a/b", "'", "';--", "🦜", "RUN")
        ids = sorted({*HOSTILE_IDS[:: self.step], *asked})
        for trace_id in ids:
            await store.create_trace(Trace(trace_id=trace_id))
            await store.add_message(message(trace_id))
        await store.flush()
        found = await rows(store, "SELECT trace_id FROM messages")
        assert sorted(row["trace_id"] for row in found) == ids
        for trace_id in asked:
            assert await rows(store, "SELECT trace_id AS t FROM traces WHERE trace_id = ?", [trace_id]) == [
                {"t": trace_id}
            ]
        named = await rows(
            store, "SELECT count(*) AS n FROM messages WHERE trace_id = $id", {"id": "'; DROP TABLE x; --"}
        )
        assert named == [{"n": 0}]

    @scenario
    async def test_every_write_is_seen_at_once_by_all(self, store: ArchiveStore) -> None:
        other = self.open_store()
        await store.create_trace(Trace(trace_id="t"))
        for at in range(1, 4):
            await store.add_message(message(tokens=at))
            await store.add_goal("t", Goal(id=str(at)))
            await store.append_event("t", "e", None)
            for reader in (store, other):
                for view in ("messages", "goals", "events"):
                    assert await rows(reader, f"SELECT count(*) AS n FROM {view}") == [{"n": at}]
                assert await rows(reader, "SELECT total_messages AS n FROM traces") == [{"n": at}]
        await store.update_message("t-0001", tokens=100)
        for reader in (store, other):
            assert await rows(reader, "SELECT sum(tokens) AS n FROM messages") == [{"n": 105}]
            assert await rows(reader, "SELECT total_tokens AS n FROM traces") == [{"n": 105}]
        await store.delete_trace("t")
        for reader in (store, other):
            assert await rows(reader, "SELECT count(*) AS n FROM messages") == [{"n": 0}]
        await other.close()

    @scenario
    async def test_folders_put_in_and_removed_by_hand_are_noticed(self, store: ArchiveStore) -> None:
        await record_run(store)
        files = await self.files(trace_id="t")
        async with self.store_at(f"{self.archive_url}-other") as other:
            assert await rows(other, "SELECT count(*) AS n FROM traces") == [{"n": 0}]
            await self.put(files, other.url)
            await other.refresh()
            assert await rows(other, "SELECT trace_id FROM traces") == [{"trace_id": "t"}]
            assert await rows(other, "SELECT count(*) AS n FROM messages") == [{"n": 8}]
        await self.remove(*files)
        await store.refresh()
        assert await rows(store, "SELECT count(*) AS n FROM messages") == [{"n": 0}]

    @pytest.mark.parametrize("query", ["SELEC 1", "SELECT * FROM absent", "SELECT nothing FROM traces"])
    @scenario
    async def test_a_query_that_duckdb_refuses_is_an_error_of_ours(self, store: ArchiveStore, query: str) -> None:
        with pytest.raises(QueryError):
            await store.sql(query)

    @scenario
    async def test_a_result_comes_as_rows_and_as_an_arrow_table(self, store: ArchiveStore) -> None:
        await store.create_trace(Trace(trace_id="t"))
        result = await store.sql("SELECT trace_id, total_messages FROM traces")
        assert result.rows() == [{"trace_id": "t", "total_messages": 0}]
        assert result.arrow().to_pylist() == result.rows()
