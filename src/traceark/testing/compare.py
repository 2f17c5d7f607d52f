"""Equality that sees what `==` does not: 1 and 1.0, 0.0 and -0.0, True and 1, the order of keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from traceark.codec.lines import to_record
from traceark.models import ArchiveModel, Goal, Message


def exact_text(model: ArchiveModel, *, without: Collection[str] = ()) -> str:
    """Return a model as text that differs wherever its JSON would, fields sorted by name.

    Parameters
    ----------
    model : ArchiveModel
        Any model; fields that are None count as absent.
    without : collection of str
        Fields to leave out.

    Examples
    --------
    >>> from traceark import Message
    >>> exact_text(Message(trace_id="t", role="user", content=-0.0))
    '{"content": -0.0, "role": "user", "trace_id": "t"}'
    """
    fields = ((name, value) for name, value in to_record(model).items() if name not in without)
    return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(fields)) + "}"


def exact_texts(models: Iterable[ArchiveModel], *, without: Collection[str] = ()) -> list[str]:
    """Return `exact_text` of each model."""
    return [exact_text(model, without=without) for model in models]


def same_message(given: Message, known: Message) -> bool:
    """Say whether a message is the known one, whatever the caller left to the store."""
    if known.message_id != given.message_id and given.message_id is not None:
        return False
    left_out = {"message_id"} | {name for name in ("sequence", "created_at") if getattr(given, name) is None}
    return exact_text(given, without=left_out) == exact_text(known, without=left_out)


def same_goal(given: Goal, known: Goal) -> bool:
    """Say whether a goal is the known one, but for its stats, which the store keeps."""
    left_out = {"self_stats", "cumulative_stats"}
    return exact_text(given, without=left_out) == exact_text(known, without=left_out)
