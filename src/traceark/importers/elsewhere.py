"""What a row says that its message, or the call it answers, says too: kept once, and told where.

A Claude Code row tells a tool's result twice, for the model and for the program, and what was
written or edited stands in the call as well. Two columns of a part share nothing, so that each
copy costs its own bytes. This module knows rows and messages; it knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy
from datetime import datetime
from typing import Any

from traceark.models import Message

ELSEWHERE = "source_elsewhere"
# A shorter text costs little more said twice than referred to, and is easier to read where it was said.
_LEAST = 100
# A file's lines as a model is shown them.
_LINE_NUMBER = re.compile(r"^ *\d+(?:→|\t)", re.MULTILINE)


def shorten(message: Message, call: Message | None = None) -> None:
    """Take out of a message's `source` what stands elsewhere; `whole` puts it back.

    What is taken out is null there. The extra field `source_elsewhere` has its place in `source` (a
    JSON pointer, RFC 6901) and the place in the message where the same value stands; instead of
    the latter an object with that place as `is`, where it is a place in the message whose id is
    `of`, or where `as` is ``unnumbered``: the text without the numbers before its lines.

    Parameters
    ----------
    message : Message
        Its `source` is changed, but nothing in that.
    call : Message, optional
        The message whose call it answers.

    Examples
    --------
    >>> row = {"uuid": "u1", "toolUseResult": {"stdout": "ok " * 40}}
    >>> said = {"message_id": "u1", "trace_id": "s", "role": "tool", "content": "ok " * 40}
    >>> message = Message.parse({**said, "source": dict(row)})
    >>> shorten(message)
    >>> print(message.source, message.source_elsewhere, sep="\\n")
    {'uuid': None, 'toolUseResult': {'stdout': None}}
    {'/uuid': '/message_id', '/toolUseResult/stdout': '/content'}
    >>> whole(message, {}).source == row
    True
    """
    extra: Any = message.__pydantic_extra__
    source = extra["source"]
    found: dict[str, Any] = {}
    if "uuid" in source and source["uuid"] == message.message_id:
        source["uuid"], found["/uuid"] = None, "/message_id"
    if "timestamp" in source and message.created_at and source["timestamp"] == _milliseconds(message.created_at):
        source["timestamp"], found["/timestamp"] = None, "/created_at"
    if texts := list(_texts(source.get("toolUseResult"), "/toolUseResult")):
        own = list(_texts(message.content, "/content"))
        known: dict[str, Any] = {text: place for place, text in own}
        if not all(text in known for _, text in texts):
            known = _further(own, call) | known
        for place, text in texts:
            if text in known:
                found[place] = known[text]
                _replace(source, place, None)
    if found:
        extra[ELSEWHERE] = found


def whole(message: Message, others: Mapping[str, Message]) -> Message:
    """Return a message with all of its `source` in it, as the row said it.

    Parameters
    ----------
    message : Message
    others : mapping of str to Message
        The messages of its trace by their ids.
    """
    extra = message.__pydantic_extra__ or {}
    if ELSEWHERE not in extra:
        return message
    source = dict(extra["source"])
    for place, reference in extra[ELSEWHERE].items():
        told = {"is": reference} if isinstance(reference, str) else reference
        value = _value(others[told["of"]] if "of" in told else message, told["is"])
        _replace(source, place, _unnumbered(value) if told.get("as") == "unnumbered" else value)
    found = message.model_copy()
    found.__pydantic_extra__ = {name: value for name, value in extra.items() if name != ELSEWHERE} | {"source": source}
    return found


def _further(own: list[tuple[str, str]], call: Message | None) -> dict[str, Any]:
    """Return where further texts stand, by text: the message's `own` without numbers, else those of the call."""
    known: dict[str, Any] = {}
    if call is not None:
        known = {text: {"is": place, "of": call.message_id} for place, text in _texts(call.content, "/content")}
    return known | {_unnumbered(text): {"is": place, "as": "unnumbered"} for place, text in own}


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the places of the texts in a value that are long enough to be referred to, and the texts."""
    waiting: list[tuple[str, Any]] = [(place, value)]
    while waiting:
        place, value = waiting.pop()
        if type(value) is str:
            if len(value) >= _LEAST:
                yield place, value
        elif type(value) is dict or type(value) is list:
            for step, item in value.items() if type(value) is dict else enumerate(value):
                if type(item) in _LONG and len(item) >= (_LEAST if type(item) is str else 1):
                    waiting.append((f"{place}/{_escaped(str(step))}", item))


_LONG = frozenset({str, dict, list})


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _steps(place: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in place.split("/")[1:]]


def _unnumbered(text: str) -> str:
    return _LINE_NUMBER.sub("", text) if "→" in text or "\t" in text else text


def _milliseconds(moment: datetime) -> str:
    """Return a time as the rows say it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(message: Message, place: str) -> Any:
    name, *steps = _steps(place)
    value: Any = getattr(message, name)
    for step in steps:
        value = value[int(step) if isinstance(value, list) else step]
    return _milliseconds(value) if isinstance(value, datetime) else value


def _replace(source: dict[str, Any], place: str, item: object) -> None:
    """Put an item at a place; what is in the source is copied, not changed."""
    at: Any = source
    *steps, last = _steps(place)
    for step in steps:
        key = int(step) if isinstance(at, list) else step
        at[key] = copy(at[key])
        at = at[key]
    at[int(last) if isinstance(at, list) else last] = item
