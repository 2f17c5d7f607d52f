"""What traces made of JSON Lines have in common: every row is chained, counted, and a message or an event."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from traceark.importers.base import ImportCounts, SourceEvent
from traceark.importers.jsonl import Row
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Message

_ABSENT: dict[str, Any] = dict.fromkeys(Message.model_fields)


class RowTrace:
    """One trace, put together row by row.

    Parameters
    ----------
    name : str
        The importer, the first part of the types of its events.
    counts : ImportCounts
    """

    def __init__(self, name: str, counts: ImportCounts) -> None:
        self.typed = Typed(counts.repaired)
        self.torn_tail: str | None = None
        # Their fields: a message is made when nothing of it changes any more, which spares looking at every change.
        self.messages: list[dict[str, Any]] = []
        self.events: list[SourceEvent] = []
        self.digests: list[str] = []
        self.counts = counts
        self._name = name
        # The last one that a row told.
        self._time: datetime | None = None
        self._is_dated = False

    def chain(self, row: Row) -> None:
        """Take a row, or a piece that is none, into the digest of all so far."""
        if self._time is not None and not self._is_dated:
            # What came before the first time has it, whatever times come later.
            self._is_dated = True
            self.events = [
                SourceEvent(each.event_type, each.payload, each.created_at or self._time) for each in self.events
            ]
        before = self.digests[-1] if self.digests else ""
        digest = hashlib.sha256(before.encode())
        digest.update(row.raw)
        self.digests.append(digest.hexdigest())
        if not row.exact:
            self.counts.repaired["a number beyond any type or a repeated key, the row kept as text too"] += 1

    def value_of(self, row: Row) -> JsonObject | None:
        """Take a row; return its value. A piece that is no row becomes an event, and has none."""
        self.chain(row)
        if row.value is None:
            self.counts.rows["unreadable"] += 1
            self.events.append(
                SourceEvent(f"{self._name}.unreadable", {"line": row.line, "text": row.text}, self._time)
            )
        return row.value

    def made(self) -> list[Message]:
        """Return the messages."""
        return list(map(_message, self.messages))

    def event(self, kind: str, row: Row) -> None:
        """Keep a row as an event."""
        told: Json = row.value if row.values is None else row.values
        payload: Json = told if row.exact else {"line": row.line, "text": row.text}
        self.events.append(SourceEvent(f"{self._name}.{kind}", payload, self._time))


def _message(fields: Mapping[str, Any]) -> Message:
    """Return the message of fields that `Typed` made, which are as the model wants them."""
    values, extra = _ABSENT.copy(), {}
    for name, value in fields.items():
        if name in values:
            values[name] = value
        else:
            extra[name] = value
    return Message.restored(values, extra)
