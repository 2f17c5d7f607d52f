"""What a message says, for a terminal: calls as their tool and a line of arguments, all else as text.

Pure. Which shapes messages have is known in `traceark.exporters.content`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from traceark.exporters.content import Part, parts_of
from traceark.exporters.telling import arguments_of

if TYPE_CHECKING:
    from traceark.models import Message

Kind = Literal["text", "thinking", "call", "result", "other"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that a message says; `label` is the tool's name of a call."""

    kind: Kind
    text: str
    label: str = ""


def pieces_of(message: Message, *, full: bool = False) -> list[Piece]:
    """Return what a message says, in order.

    Parameters
    ----------
    message : Message
        Any.
    full : bool
        Arguments of tool calls whole, one a line, instead of summarised.

    Examples
    --------
    >>> from traceark import Message
    >>> content = [{"type": "text", "text": "Look:"}, {"type": "tool_use", "name": "Read", "input": {"path": "a.py"}}]
    >>> for piece in pieces_of(Message(trace_id="run-7", role="assistant", content=content)):
    ...     print(piece.kind, piece.label, piece.text)
    text  Look:
    call Read path=a.py
    """
    found = [_piece(part, full) for part in parts_of(message)]
    if not found and message.description:
        found.append(Piece("text", message.description))
    return [piece for piece in found if piece.text.strip() or piece.label]


def _piece(part: Part, full: bool) -> Piece:
    if part.kind == "call":
        return Piece("call", arguments_of(part, full=full), part.name or "")
    return Piece("other" if part.kind == "attachment" else part.kind, part.text)
