"""One span of a trace, as far as an archive understands it.

A format's own module reads its records into this form, and `spans` makes a trace of it. It knows
neither formats nor how spans belong together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

from traceark.importers.conversation import Told
from traceark.models import Json, Usage

Kind = Literal["agent", "chat", "embedding", "tool", "other"]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where in its run stand the messages that a span tells, where that is told: then none of them is a repetition.

    Attributes
    ----------
    place : int, optional
        Of what a model or a tool said.
    inputs : tuple of int
        Of each of the span's inputs. Those of the role ``tool`` are told by spans of their own.
    status : str, optional
        Of the message at `place`, where it is more than that the span failed.
    """

    place: int | None
    inputs: tuple[int, ...] = ()
    status: str | None = None


@dataclass(slots=True)
class Span:
    """One span, as far as an archive understands it; `raw` is all of it.

    Attributes
    ----------
    span_id : str
        As told; unique in its trace. Empty where none is told: one is made of `raw`.
    kind : {'agent', 'chat', 'embedding', 'tool', 'other'}
        A run of an agent; a call of a model that chats, or that embeds; a call of a tool.
    raw : JSON
        The record, whole, for the event that keeps it.
    parent_id : str, optional
        It need not be there, nor lead to a root.
    name : str
    start, end : datetime, optional
        UTC. A span with a start and no end is still running.
    failed : bool
    cancelled : bool
        It was stopped from outside, by a person or the program around it; it has not failed then.
    error : str, optional
        What went wrong, in words.
    agent, model, tool : str, optional
        The names of an agent, of a model that answered, of a tool.
    call_id : str, optional
        Of a tool: the id that the model gave the call.
    arguments, result : JSON
        Of a tool.
    inputs, outputs : list of Told
        Of a call of a model: all that it was given, the system's message first, and what it said.
        Of an agent, or of a root of any kind: what it was asked and what it answered; taken only
        where no call of a model in it tells so.
    usage : Usage, optional
        Kinds of tokens that do not overlap: where the source counts cached tokens among the input,
        they are taken out of it. Of any kind of span: it counts only where no span below tells
        usage, and is compared with their sum otherwise.
    cost : float, optional
        As usage.
    placed : Placed, optional
        Where its messages stand, if it says so.
    """

    span_id: str
    kind: Kind
    raw: Json
    parent_id: str | None = None
    name: str = ""
    start: datetime | None = None
    end: datetime | None = None
    failed: bool = False
    cancelled: bool = False
    error: str | None = None
    agent: str | None = None
    model: str | None = None
    tool: str | None = None
    call_id: str | None = None
    arguments: Json = None
    result: Json = None
    inputs: list[Told] = field(default_factory=list)
    outputs: list[Told] = field(default_factory=list)
    usage: Usage | None = None
    cost: float | None = None
    placed: Placed | None = None

    def told(self) -> dict[str, object]:
        """Return what the record says of the span, but nothing of what it does not."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "raw"}
        return {name: value for name, value in values.items() if value not in (None, "", [], False)}

    def agrees(self, other: Span) -> bool:
        """Say whether two records of a span say the same of it, or one more than the other."""
        one, two = self.told(), other.told()
        return all(one[name] == two[name] for name in one.keys() & two.keys())
