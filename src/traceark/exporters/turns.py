"""Messages as turns: what a model answered in one response is one turn, however many rows tell it.

Pure. Claude Code and Codex write a response as several rows; a trace has a message for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from traceark.exporters.content import Part, parts_of
from traceark.models import Message

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "tool": "tool",
    "function": "tool",
}


@dataclass(slots=True)
class Turn:
    """Messages that are one turn, and what they say; a role that is none of the four is the assistant's."""

    role: Role
    messages: list[Message] = field(default_factory=list)
    told: list[tuple[Message, Part]] = field(default_factory=list)

    def add(self, message: Message) -> None:
        """Take a message in."""
        self.messages.append(message)
        self.told += [(message, part) for part in parts_of(message)]

    @property
    def parts(self) -> list[Part]:
        """What the messages say."""
        return [part for _, part in self.told]

    def results(self) -> list[tuple[Message, Part]]:
        """Return the answers of tools, each with the message that holds it."""
        return [(message, part) for message, part in self.told if part.kind == "result"]

    def texts(self) -> list[str]:
        """Return the texts, and what else is no call, result, reasoning or attachment."""
        return [part.text for part in self.parts if part.kind in ("text", "other") and part.text]


class Answers:
    """The answers of tools in some turns; each is given once, to a call that stands before it.

    An answer that names no call is given to a call of the model's last turn before it.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        # Under the call's id, or the place of the model's last turn.
        self._waiting: dict[str | int, list[tuple[int, Message, Part]]] = {}
        asked = -1
        for at, turn in enumerate(turns):
            asked = at if turn.role == "assistant" else asked
            for message, part in turn.told:
                if part.kind == "result":
                    key = asked if part.call_id is None else part.call_id
                    self._waiting.setdefault(key, []).append((at, message, part))

    def take(self, call: Part, at: int) -> tuple[Message, Part] | None:
        """Return the next answer to a call in the turn `at`, with the message that holds it."""
        for key in (call.call_id, at):
            waiting = self._waiting.get(key, []) if key is not None else []
            for index, (place, message, part) in enumerate(waiting):
                if place > at:
                    del waiting[index]
                    return message, part
        return None

    def left(self) -> list[tuple[int, Message, Part]]:
        """Return the answers that were given to no call, each with the turn that it stands in."""
        return sorted(chain.from_iterable(self._waiting.values()), key=lambda each: each[0])


def role_of(message: Message) -> Role:
    """Return which of the four roles a message has.

    Examples
    --------
    >>> role_of(Message(trace_id="t", role="developer")), role_of(Message(trace_id="t", role="Planner"))
    ('system', 'assistant')
    """
    return _ROLES.get(message.role.lower(), "assistant")


def turns_of(messages: Iterable[Message]) -> list[Turn]:
    """Return messages as turns, in order."""
    found: list[Turn] = []
    previous: str | None = None
    for message in messages:
        role, response = role_of(message), _response_of(message)
        if not (found and role == found[-1].role == "assistant" and response is not None and response == previous):
            found.append(Turn(role))
        found[-1].add(message)
        previous = response
    return found


def is_copied(message: Message) -> bool:
    """Say whether a message was copied from another run, as context."""
    return (message.model_extra or {}).get("copied") is True


def model_of(turn: Turn) -> str | None:
    """Return the model that an import kept beside a turn's first message."""
    extra = turn.messages[0].model_extra or {}
    source = extra.get("source")
    about = source if isinstance(source, dict) else {}
    inner = about.get("message")
    told = (extra.get("model"), inner.get("model") if isinstance(inner, dict) else None, about.get("model_name"))
    return next((each for each in told if isinstance(each, str) and each), None)


def _response_of(message: Message) -> str | None:
    """Return what tells one response of a model from another, where the source has several rows for one."""
    source = (message.model_extra or {}).get("source")
    if not isinstance(source, dict):
        return None
    if source.get("type") == "response_item":
        # Codex tells no ids; what follows each other without an answer between is one response.
        return "response_item"
    inner = source.get("message")
    told = inner.get("id") if isinstance(inner, dict) else None
    return told if isinstance(told, str) else None
