"""What one store reads of a trace, judged by the account of what all of them did."""

from __future__ import annotations

from typing import Literal

from account import Account, secrets_in, value_of
from traceark.store import ArchiveStore

Log = Literal["say", "tell"]


class Looks:
    """Looks at traces."""

    account: Account

    async def look(self, store: ArchiveStore, trace: str, what: str, *, is_home: bool) -> None:
        """Read a log or the registers of a trace, and judge it: all of it where it is written to."""
        begun = self.account.now()
        if what == "tell":
            events = await store.get_events(trace)
            assert [each.event_id for each in events] == list(range(1, len(events) + 1))
            told = [value_of(each.payload) for each in events if each.event_type == "told"]
            self.log(trace, "tell", told, begun, is_home, str(events))
        elif what == "say":
            messages = await store.get_trace_messages(trace)
            assert [each.sequence for each in messages] == list(range(1, len(messages) + 1)), messages
            assert len({each.message_id for each in messages}) == len(messages)
            self.log(trace, "say", [value_of(each.content) for each in messages], begun, is_home, str(messages))
            for each in messages:
                self.register(trace, f"description {each.message_id}", each.description, begun, is_home)
        else:
            header, tree = await store.get_trace(trace), await store.get_goal_tree(trace)
            self.register(trace, "task", header.task if header else None, begun, is_home)
            self.register(trace, "mission", tree.mission or None if tree else None, begun, is_home)
            for goal in tree.goals if tree else ():
                self.register(trace, f"summary {goal.id}", goal.summary, begun, is_home)
            self.hides(trace, f"{header} {tree}", begun, is_home)

    def log(self, trace: str, did: Log, values: list[int], begun: int, is_home: bool, text: str) -> None:
        if is_home and (values or not self.account.may_be_absent(trace, begun)):
            self.account.judge(trace, did, values, begun)
        if is_home:
            self.account.found("read", f"{trace} {did}", values, begun)
        self.hides(trace, text, begun, is_home)

    def hides(self, trace: str, text: str, begun: int, is_home: bool) -> None:
        shown = secrets_in(text) & self.account.hidden(trace, begun) if is_home else set()
        assert not shown, f"redacted and shown: {shown}"

    def register(self, trace: str, name: str, text: str | None, begun: int, is_home: bool) -> None:
        if is_home:
            self.account.found("look", f"{trace} {name}", None if text is None else value_of(text), begun)
