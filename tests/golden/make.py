"""Write the golden archive of this format version, and beside it what must be read from it for ever.

    python tests/golden/make.py

What is expected comes from the in-memory model and never from the archive itself. Ids and times
that the store would make up are taken from a counter, so that a second run writes the same content. A
released version's archive is never written again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from traceark.layout import FORMAT_VERSION, LOCK
from traceark.models import Goal, GoalStats, Message, Trace, Usage
from traceark.protocol import TraceStore
from traceark.store import ArchiveStore
from traceark.testing import ModelStore
from traceark.testing.compare import exact_text, exact_texts
from traceark.testing.values import hard_object

HERE = Path(__file__).parent
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TRACE_IDS = ("sort-mail", "Live/Run", "odd json", "empty")
Write = Callable[[TraceStore], Awaitable[object]]


class Clock:
    """Times that go up by a second, the same in the model and in the archive."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def __call__(self) -> datetime:
        return START + timedelta(seconds=next(self._seconds))


def made_up_ids() -> Callable[[int], str]:
    """Return a stand-in for `secrets.token_hex`."""
    counter = itertools.count(0xA0000001)
    return lambda size: f"{next(counter):0{2 * size}x}"[-2 * size :]


async def expected(store: TraceStore) -> dict[str, Any]:
    """Return all that can be read of an archive, as text that compares exactly."""
    found: dict[str, Any] = {}
    for trace_id in TRACE_IDS:
        trace, tree = await store.get_trace(trace_id), await store.get_goal_tree(trace_id)
        found[trace_id] = {
            "trace": trace and exact_text(trace),
            "tree": tree and exact_text(tree),
            "messages": exact_texts(await store.get_trace_messages(trace_id)),
            "events": exact_texts(await store.get_events(trace_id), without=["created_at"]),
        }
    return found


def message(trace_id: str, at: int, role: str, content: Any, **fields: Any) -> Message:
    given = {"trace_id": trace_id, "role": role, "content": content, "created_at": START + timedelta(minutes=at)}
    return Message.parse({**given, **fields})


def usage(**tokens: Any) -> Usage:
    return Usage.parse(tokens)


def sorting() -> list[Write]:
    """A finished run: goals, tools, usage, an update, sums that were set, unknown fields."""
    name = "sort-mail"
    trace = {
        "trace_id": name,
        "task": "sort the mail",
        "agent_type": "clerk",
        "uid": "user-1",
        "model": "m-1",
        "context": {"folder": "inbox", "limit": 3},
        "metadata": {"labels": ["a", "b"]},
        "created_at": START,
        "own_field": {"kept": True},
    }
    call = {"tool_call_id": "call-1", "tool_name": "list_mail"}
    return [
        lambda to: to.create_trace(Trace.parse(trace)),
        lambda to: to.add_goal(name, Goal(id="1", description="sort", reason="asked", created_at=START)),
        lambda to: to.add_goal(name, Goal.parse({"id": "1.1", "parent_id": "1", "description": "list", "own": [1]})),
        lambda to: to.add_message(message(name, 1, "user", "Sort my mail, please.")),
        lambda to: to.add_message(
            message(
                name,
                2,
                "assistant",
                [{"type": "tool_use", "id": "call-1", "name": "list_mail", "input": {"limit": 3}}],
                goal_id="1.1",
                usage=usage(input_tokens=12, output_tokens=5, cache_read_tokens=100, own_tokens=7),
                cost=0.1,
                duration_ms=1200,
                own_field="kept",
                **call,
            )
        ),
        lambda to: to.append_event(name, "tool_started", {"tool": "list_mail"}),
        lambda to: to.add_message(message(name, 3, "tool", {"mails": 3}, goal_id="1.1", duration_ms=80, **call)),
        lambda to: to.append_event(name, "tool_ended", None),
        lambda to: to.add_message(
            message(name, 4, "assistant", "Three mails — sorted.", goal_id="1", tokens=9, cost=0.2, description="end")
        ),
        lambda to: to.update_message("sort-mail-0003", status="ok", content={"mails": 3, "unread": 1}),
        lambda to: to.update_goal(
            name, "1.1", status="completed", self_stats=GoalStats(message_count=7, total_cost=0.3)
        ),
        lambda to: to.update_trace(name, total_tokens=200, result_summary="sorted"),
        lambda to: to.add_message(message(name, 5, "user", "Thanks!", tokens=3)),
        lambda to: to.update_trace(name, status="completed", completed_at=START + timedelta(minutes=6)),
    ]


def living(first: int, count: int) -> list[Write]:
    """Some records of a run that goes on."""
    writes: list[Write] = []
    for at in range(first, first + count):
        given = message(
            "Live/Run", at, "user" if at % 2 else "assistant", f"line {at}", goal_id="g", tokens=at, cost=0.1
        )
        writes.append(lambda to, given=given: to.add_message(given))  # type: ignore[misc]
        writes.append(lambda to, at=at: to.append_event("Live/Run", "step", {"at": at}))  # type: ignore[misc]
    return writes


def begun() -> list[Write]:
    return [
        lambda to: to.create_trace(
            Trace(trace_id="Live/Run", mode="call", parent_trace_id="sort-mail", created_at=START)
        ),
        lambda to: to.add_goal("Live/Run", Goal(id="g", description="go on")),
        *living(1, 2),
        lambda to: to.update_message("Live/Run-0001", status="changed before compaction"),
    ]


def odd() -> list[Write]:
    """Everything that JSON can say and other libraries change."""
    name = "odd json"
    trace = {"trace_id": name, "context": hard_object(), "metadata": hard_object(), "created_at": START}
    return [
        lambda to: to.create_trace(Trace.parse(trace)),
        lambda to: to.add_message(message(name, 1, "user", hard_object(), extra_field=hard_object())),
        lambda to: to.append_event(name, "odd", hard_object()),
        lambda to: to.create_trace(Trace(trace_id="empty", created_at=START)),
    ]


async def write(archive: Path, model: TraceStore) -> None:
    """Write the archive, and tell the model the same."""

    async def both(store: ArchiveStore, writes: list[Write]) -> None:
        for each in writes:
            await each(model)
            await each(store)

    async with ArchiveStore(archive, durability="os") as store:
        await both(store, [*sorting(), *odd()])
        await store.seal("odd json")
        await store.seal("empty")
        await both(store, begun())
        await store.compact("Live/Run")
        await both(store, living(3, 2))
    # A second writer, whose process dies: its records are past the headers' checkpoint, its last line is torn.
    store = ArchiveStore(archive, durability="os")
    await both(store, [*living(5, 2), lambda to: to.update_message("Live/Run-0003", content="changed at the end")])
    last = max((archive / "traces/live%2Frun~21/messages").glob("*.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        crashed = Path(folder, "crashed")
        shutil.copytree(archive, crashed)
        await store.close()
        shutil.rmtree(archive)
        shutil.copytree(crashed, archive, ignore=shutil.ignore_patterns(LOCK))
    with last.open("ab") as file:
        file.write(b'{"message_id":"Live/Run-0007","sequence":7,"cont')


def main(folder: Path) -> None:
    """Write ``archive`` and ``expected.json`` into a folder."""
    archive = folder / "archive"
    shutil.rmtree(archive, ignore_errors=True)
    model = ModelStore()
    with ExitStack() as stack:
        stack.enter_context(patch("secrets.token_hex", made_up_ids()))
        clock = Clock()
        for name, module in list(sys.modules.items()):
            if name.startswith("traceark.") and hasattr(module, "utc_now"):
                stack.enter_context(patch(f"{name}.utc_now", clock))
        stack.enter_context(patch("uuid.uuid4", lambda: "00000000-0000-4000-8000-000000000001"))
        asyncio.run(write(archive, model))
    text = json.dumps(asyncio.run(expected(model)), indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"v{FORMAT_VERSION}")
