"""When the records of a source were made, where it tells that of some of them or of none.

Never the time of the import, nor of the file: the same source is the same trace wherever and
whenever it is imported. It knows plain records and no format.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from traceark.importers.base import GOAL_STATUS, SourceEvent, SourceTrace
from traceark.models import TIMES

# Of a trace of which nothing tells when it began.
UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
# Of ids with times in them, the first drafts of which were written in 2020; the same wherever a source is imported.
_FIRST_MILLISECONDS, _LAST_MILLISECONDS = (
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000) for year in (2020, 2070)
)
_DATES = (
    re.compile(r"(?<![0-9A-Za-z])(\d{4})-(\d\d)-(\d\d)(?:[T_ -](\d\d)[-:](\d\d)(?:[-:](\d\d))?)?(?![0-9A-Za-z])"),
    re.compile(r"(?<![0-9A-Za-z])(\d{4})(\d\d)(\d\d)[T_-](\d\d)(\d\d)(\d\d)(?![0-9A-Za-z])"),
)


def give_times(source: SourceTrace) -> None:
    """Give a time to every record of a source that tells none of its own.

    A message has that of the one before it, the first ones that of the first that has one, or that of
    the trace; events likewise. A trace of which nothing tells a time began when its id says
    (``metadata.times`` is ``"id"``), else at the epoch (``"unknown"``): the file's name and place may
    differ between machines. Where the run tells its time and no message does, it is ``"run"``.
    """
    trace = source.trace
    said, happened = [each.created_at for each in source.messages], [each.created_at for each in source.events]
    if trace.created_at is None:
        trace.created_at = min((each for each in (*said, *happened) if each is not None), default=None)
    if trace.created_at is None:
        named = time_in(trace.trace_id)
        trace.created_at = named or UNKNOWN
        trace.metadata = {**trace.metadata, TIMES: "id" if named is not None else "unknown"}
    elif said and not any(said):
        trace.metadata = {**trace.metadata, TIMES: "run"}
    if None in said:
        for message, at in zip(source.messages, _filled(said, trace.created_at), strict=True):
            message.created_at = at
    if None in happened:
        # A goal may change long after what comes before its event.
        told = [None if each.event_type == GOAL_STATUS else each.created_at for each in source.events]
        times = _filled(told, trace.created_at)
        source.events = [
            SourceEvent(event.event_type, event.payload, event.created_at or at)
            for event, at in zip(source.events, times, strict=True)
        ]


def _filled(told: Sequence[datetime | None], begun: datetime) -> Iterator[datetime]:
    last = next((each for each in told if each is not None), begun)
    for each in told:
        last = each or last
        yield last


def time_in(trace_id: str) -> datetime | None:
    """Return the time that an id names: that of a UUID of version 7, or a date, which is taken as UTC.

    Examples
    --------
    >>> time_in("2025-02-11T15-17-00_popularity").isoformat()
    '2025-02-11T15:17:00+00:00'
    >>> time_in("sympy__sympy-20154")
    """
    if (made := time_of_id(trace_id)) is not None:
        return made
    for match in (found for pattern in _DATES for found in pattern.finditer(trace_id)):
        try:
            return datetime(*(int(each or 0) for each in match.groups()), tzinfo=UTC)  # type: ignore[misc, arg-type]
        except ValueError:
            continue
    return None


def time_of_id(told: object) -> datetime | None:
    """Return when a UUID of version 7 was made (RFC 9562: milliseconds in its first 48 bits); None for other ids.

    One of 64 hashes looks like such an id; few of these name a time at which there were any.

    Examples
    --------
    >>> time_of_id("019d78fc-c449-7300-92a1-1e92604a4f6a")
    datetime.datetime(2026, 4, 10, 20, 2, 4, 489000, tzinfo=datetime.timezone.utc)
    """
    try:
        number = uuid.UUID(str(told))
    except ValueError:
        return None
    milliseconds = number.int >> 80
    if number.version != 7 or not _FIRST_MILLISECONDS <= milliseconds < _LAST_MILLISECONDS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
