"""`TraceStore`: the async protocol that an agent framework writes its run through.

Fifteen methods, no more. `ArchiveStore` implements them over directories; the shipped suite in
`traceark.testing` says what each of them means.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from traceark.models import Event, Goal, GoalTree, Json, Message, Trace


@runtime_checkable
class TraceStore(Protocol):
    """Where a running agent writes its trace, and where it is read back from.

    Whatever is absent is None or an empty list when read; a write to something absent is an error.
    """

    async def create_trace(self, trace: Trace) -> str:
        """Begin a trace and return its id; an id that is there already is refused."""
        ...

    async def get_trace(self, trace_id: str) -> Trace | None:
        """Return the header of a trace, its totals up to date."""
        ...

    async def update_trace(self, trace_id: str, **updates: Any) -> None:
        """Set fields of the header; what is set is read back, later messages add to it."""
        ...

    async def list_traces(
        self,
        mode: str | None = None,
        agent_type: str | None = None,
        uid: str | None = None,
        status: str | None = None,
        limit: int = 50,
    ) -> list[Trace]:
        """Return traces that match all filters given, the newest `created_at` first."""
        ...

    async def get_goal_tree(self, trace_id: str) -> GoalTree | None:
        """Return the goal tree with its stats up to date."""
        ...

    async def update_goal_tree(self, trace_id: str, tree: GoalTree) -> None:
        """Replace the goal tree; one that was read and has been changed since is refused."""
        ...

    async def add_goal(self, trace_id: str, goal: Goal) -> None:
        """Add a goal, making a tree when there is none."""
        ...

    async def update_goal(self, trace_id: str, goal_id: str, **updates: Any) -> None:
        """Set fields of a goal."""
        ...

    async def add_message(self, message: Message) -> str:
        """Append a message and return its id; the same message again counts once."""
        ...

    async def get_message(self, message_id: str) -> Message | None:
        """Return a message by its id."""
        ...

    async def get_trace_messages(self, trace_id: str) -> list[Message]:
        """Return the messages of a trace by sequence."""
        ...

    async def get_messages_by_goal(self, trace_id: str, goal_id: str) -> list[Message]:
        """Return the messages of one goal, without those of its descendants."""
        ...

    async def update_message(self, message_id: str, **updates: Any) -> None:
        """Set fields of a message; totals and stats follow."""
        ...

    async def get_events(self, trace_id: str, since_event_id: int = 0) -> list[Event]:
        """Return the events after a cursor, in order; 0 gives all."""
        ...

    async def append_event(self, trace_id: str, event_type: str, payload: Json) -> int:
        """Append an event and return its id; ids are dense from 1."""
        ...
