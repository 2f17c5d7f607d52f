"""Messages as spans tell them, and which of those that a call repeats have been taken already.

A call of a model gets the whole conversation so far, so that a run's spans tell its messages again
and again. This module knows messages and blocks of content in one form; it knows no spans and no format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from traceark.importers.jsonl import whole_text
from traceark.models import Json, JsonObject

Part = tuple[str, ...]
# Characters of what stops an answer, at most.
_MOST_STOP = 16


@dataclass(slots=True)
class Told:
    """A message as a span tells it, in the one form that messages of all formats are brought to.

    Attributes
    ----------
    role : str
        ``system``, ``user``, ``assistant`` or ``tool``; a format's own word where it is none of them.
    content : JSON
        A text, or blocks: ``{"type": "text", "text"}``, ``{"type": "thinking", "thinking"}``,
        ``{"type": "tool_call", "id", "name", "arguments"}``, and any other as it was told. Of the role
        ``tool`` it is the result as it was told.
    call_id : str, optional
        Of the role ``tool``: the call that it answers.
    tool : str, optional
        Of the role ``tool``: the tool's name, where it is told.
    """

    role: str
    content: Json
    call_id: str | None = None
    tool: str | None = None

    def calls(self) -> list[JsonObject]:
        """Return the blocks that are calls of tools."""
        blocks = self.content if isinstance(self.content, list) else []
        return [each for each in blocks if isinstance(each, dict) and each.get("type") == "tool_call"]

    def text(self) -> str:
        """Return the texts of the content, one a line.

        Examples
        --------
        >>> Told("user", [{"type": "text", "text": "hi"}, {"type": "image"}]).text()
        'hi'
        """
        blocks = self.content if isinstance(self.content, list) else [self.content]
        texts = [each.get("text") if isinstance(each, dict) else each for each in blocks]
        return "\n".join(text for text in texts if isinstance(text, str))


class Conversations:
    """What has been said so far, in a whole trace.

    What a model said or a tool answered is known in the whole trace, since a handed over
    conversation carries it along; what was asked is known in its own agent's conversation. What
    stands in one input twice is known twice only if it was said twice.

    Examples
    --------
    >>> said = Conversations()
    >>> [number for number, _ in said.new("a", [Told("user", "hi")])]
    [1]
    >>> said.take("a", Told("assistant", "Hello."))
    >>> repeated = [Told("user", "hi"), Told("assistant", "Hello."), Told("user", "hi")]
    >>> [number for number, _ in said.new("a", repeated)]
    [3]
    """

    def __init__(self) -> None:
        self._taken: Counter[Part] = Counter()
        # The last input of each agent, and how often everything stands in it: the next mostly goes on from there.
        self._last: dict[str, tuple[list[Told], Counter[Part]]] = {}

    def take(self, agent: str, told: Told) -> None:
        """Take a message, known or not."""
        for part in _parts(told):
            self._taken.update(_placed(agent, name) for name in part)

    def new(self, agent: str, told: Sequence[Told]) -> Iterator[tuple[int, Told]]:
        """Take one input of a model, and yield what is new of it with its places, which count from 1."""
        last, seen = self._last.get(agent, ([], Counter()))
        told = list(told)
        if told[: len(last)] != last:
            last, seen = [], Counter()
        self._last[agent] = told, seen
        for number, each in enumerate(told[len(last) :], start=len(last) + 1):
            fresh = False
            for part in _parts(each):
                names = [_placed(agent, name) for name in part]
                seen.update(names)
                if not any(self._knows(name, seen[name]) for name in names):
                    self._taken.update(names)
                    fresh = True
            if fresh:
                yield number, each

    def _knows(self, name: Part, times: int) -> bool:
        """Say whether something has been said as often as it was told now; an id is one however often it is told."""
        if self._taken[name] >= (1 if name[1] == "id" else times):
            return True
        if name[1:3] != ("text", "assistant"):
            return False
        # What stopped an answer, such as `</code>`, is put back by some frameworks.
        cut = [
            (*name[:3], name[3][:-length].strip()) for length in range(1, _MOST_STOP) if len(name[3]) > 2 * _MOST_STOP
        ]
        return any(self._taken[each] >= times for each in cut)


def canonical(value: Json) -> str:
    """Return a value as text that is the same for equal values, be they JSON or text that holds JSON.

    Examples
    --------
    >>> canonical('{"b": 1, "a": 2}') == canonical({"a": 2, "b": 1})
    True
    """
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith(("{", "[")):
            return text
        found = whole_text(text)
        if found.reason or not found.exact:
            return text
        value = found.value
    return json.dumps(value, sort_keys=True)


def _parts(told: Told) -> list[tuple[Part, ...]]:
    """Return what a message says in parts, in which it is compared: its blocks may be told one by one later.

    A part has one name or more, and is known by any of them.
    """
    if told.role == "tool":
        return [(("id", "result", told.call_id),)] if told.call_id else [(("result", canonical(told.content)),)]
    blocks = told.content if isinstance(told.content, list) else [told.content]
    # Thinking is not always told again.
    said = [each for each in blocks if not (isinstance(each, dict) and each.get("type") == "thinking")] or blocks
    return [_names(told.role, each) for each in said] or [(("empty", told.role),)]


def _names(role: str, block: Json) -> tuple[Part, ...]:
    if isinstance(block, str):
        return (("text", role, block.strip()),)
    if isinstance(block, dict):
        kind, text, call_id = block.get("type"), block.get("text"), block.get("id")
        if kind == "text" and isinstance(text, str):
            return (("text", role, text.strip()),)
        if kind == "tool_call":
            call = ("call", str(block.get("name")), canonical(block.get("arguments")))
            # Some tell a call by another id later.
            return (("id", "call", call_id), call) if isinstance(call_id, str) and call_id else (call,)
    return (("other", role, canonical(block)),)


def _placed(agent: str, name: Part) -> Part:
    anywhere = name[0] in ("id", "result") or name[1] == "assistant"
    return ("", *name) if anywhere else (agent, *name)
