"""`tail --follow`: what comes to a run, a line each, until the run ends."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import click

from traceark.cli.as_json import line_of
from traceark.cli.content import pieces_of
from traceark.cli.settings import FINE, FOUND_WRONG, Settings
from traceark.errors import TraceNotFoundError
from traceark.exporters.telling import UNKNOWN, made_of
from traceark.following import Follower, News
from traceark.models import Message, Trace
from traceark.showing import one_line

if TYPE_CHECKING:
    from traceark import Archive

# Of one text on a terminal; in a pipe all of it.
_CHARS, _ALL = 200, 1_000_000_000


def follow(settings: Settings, source: Archive, trace_id: str, since: int, interval: float) -> int:
    """Print what comes to a trace until its run has ended; return the exit code."""
    follower = Follower(source.store.storage, trace_id, since)
    limit = _CHARS if sys.stdout.isatty() else _ALL
    while True:
        try:
            look = source.run(follower.look())
        except TraceNotFoundError as error:
            click.echo(f"traceark: {one_line(str(error))}", err=True)
            return FOUND_WRONG
        if look is not None:
            for each in look.news:
                click.echo(line_of({each.kind: each.record}) if settings.as_json else text_of(each, look.trace, limit))
            if look.ended:
                return FINE
        time.sleep(interval)


def text_of(news: News, trace: Trace, limit: int = _CHARS) -> str:
    """Return what came as one line: the event's id, the time, what happened in at most `limit` characters.

    Examples
    --------
    >>> said = {"role": "user", "content": "hi\\x1b[1m", "created_at": "2026-01-02T03:04:05.000000Z"}
    >>> text_of(News("message", said), Trace(trace_id="run-7"))
    '     -  03:04:05  user  hi\\\\x1b[1m'
    """
    record = news.record
    told = (str(record["event_type"]), record.get("payload")) if news.kind == "event" else (news.kind, record)
    number = str(record["event_id"]) if news.kind == "event" else "-"
    told_at = str(record.get("created_at", ""))
    is_known = not told_at or made_of(datetime.fromisoformat(told_at), trace) is not None
    moment = told_at[11:19] if is_known else UNKNOWN
    return f"{number:>6}  {moment:8}  {_said(*told, limit, is_change='change' in record or news.kind != 'event')}"


def _said(event_type: str, payload: Any, limit: int, *, is_change: bool) -> str:
    if is_change and event_type in ("message", "message.added"):
        message = Message.parse({"trace_id": "-", **payload})
        pieces = " ".join(filter(None, (each for piece in pieces_of(message) for each in (piece.label, piece.text))))
        who = " ".join(filter(None, (message.role, message.tool_name)))
        return f"{one_line(who, 40)}  {one_line(pieces or message.error or '', limit)}".rstrip()
    if is_change and event_type in ("goal.added", "goal.updated"):
        return one_line(f"{event_type}  {payload['id']} {payload['status']} {payload['description']}", limit)
    shown = cast("dict[str, Any]", payload)
    if is_change and event_type == "trace.updated":
        return one_line(f"{event_type}  {shown['status']} {shown.get('task') or ''}", limit)
    return one_line(f"{event_type}  {json.dumps(payload, ensure_ascii=False)}", limit)
