"""Which traces, in which order, from where on: filters without SQL, and pages that stay put.

Pure. It makes SQL over the table `traces` whose values are all bound; a condition in SQL that a
user gives (`where`) is only carried along, for whoever runs the query to apply.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeAlias, TypedDict, cast, get_args

from traceark.codec.fields import TRACES
from traceark.errors import InvalidValueError
from traceark.models import INT64_MAX, INT64_MIN, Trace, TraceStatus

Wanted: TypeAlias = "str | Iterable[str | None] | None"
Moment: TypeAlias = "datetime | date | str | None"

NEWEST_FIRST = "-created_at"
PAGE_SIZE = 50
# Columns that have an order, and what their values are.
ORDERED = {column.name: column.kind for column in TRACES if column.kind in ("text", "int64", "float64", "time")}
_TYPES: dict[str, tuple[type, ...]] = {"text": (str,), "time": (str,), "int64": (int,), "float64": (float, int)}
_SURROGATE = re.compile("[\ud800-\udfff]")
_EQUAL = {"status": "status", "agent_type": "agent_type", "uid": "uid", "mode": "mode", "model": "model"}


class Filters(TypedDict, total=False):
    """The keywords of a `TraceFilter`, for those who take them."""

    status: Wanted
    agent_type: Wanted
    uid: Wanted
    mode: Wanted
    model: Wanted
    parent: Wanted
    roots: bool
    since: Moment
    until: Moment
    where: str | None


@dataclass(frozen=True)
class TraceFilter:
    """Which traces are meant; all that is given must hold.

    Parameters
    ----------
    status, agent_type, uid, mode, model : str or iterable of str, optional
        The value, or one of several; None among several means traces that have none.
    parent : str or iterable of str, optional
        The trace id of the parent.
    roots : bool
        Only traces without a parent.
    since, until : datetime, date or str, optional
        ``since <= created_at < until``; text is ISO 8601, and what has no zone is UTC.
    where : str, optional
        A condition in DuckDB's SQL over the columns of the view `traces`.

    Raises
    ------
    InvalidValueError
        A value cannot be one of its field.

    Examples
    --------
    >>> TraceFilter(status="failed", since="2026-03-01").condition()[0]
    '"status" IN ($status_0) AND "created_at" >= $since'
    """

    status: Wanted = None
    agent_type: Wanted = None
    uid: Wanted = None
    mode: Wanted = None
    model: Wanted = None
    parent: Wanted = None
    roots: bool = False
    since: Moment = None
    until: Moment = None
    where: str | None = None

    def __post_init__(self) -> None:
        for name in (*_EQUAL, "parent"):
            object.__setattr__(self, name, values_of(getattr(self, name), name))
        for name in ("since", "until"):
            object.__setattr__(self, name, utc_moment(getattr(self, name), name))
        known = get_args(TraceStatus)
        for status in self.status or ():
            if status not in known:
                raise InvalidValueError(f"{status!r} is no status; there are {', '.join(known)}", "status")
        if self.roots and self.parent is not None:
            raise InvalidValueError("a root has no parent; give one of roots and parent", "roots")
        where: object = self.where
        if where is not None and not (isinstance(where, str) and where.strip() and can_be_bound(where)):
            raise InvalidValueError("expected a condition in SQL, such as total_tokens > 1000", "where")

    def is_given(self) -> bool:
        """Say whether anything is asked for."""
        return self != TraceFilter()

    def condition(self) -> tuple[str, dict[str, Any]]:
        """Return the condition as SQL, without `where`, and the values to bind by name."""
        told: list[str] = []
        bound: dict[str, Any] = {}
        for name, column in {**_EQUAL, "parent": "parent_trace_id"}.items():
            values = getattr(self, name)
            if values is not None:
                told.append(one_of(column, name, values, bound))
        if self.roots:
            told.append('"parent_trace_id" IS NULL')
        for name, comparison in (("since", ">="), ("until", "<")):
            if getattr(self, name) is not None:
                bound[name] = getattr(self, name)
                told.append(f'"created_at" {comparison} ${name}')
        return " AND ".join(told) or "true", bound


@dataclass(frozen=True)
class TraceQuery:
    """One page of the traces that a filter means.

    Ties are broken by trace id, and traces without a value come last, whatever the direction. A
    page begins right behind the last trace of the one before by *value*: traces that arrive meanwhile
    move nothing. Only a trace whose own value changes may turn up again, or not at all.

    Parameters
    ----------
    filter : TraceFilter
    order_by : str
        A column of the view `traces`, with ``-`` in front for descending.
    limit : int
        How many at most.
    after : str, optional
        The cursor of the page before; it holds for the order that it was given for.

    Raises
    ------
    InvalidValueError
        The column has no order, the limit is below 1, or the cursor is not one of this order.

    Examples
    --------
    >>> query = TraceQuery(TraceFilter(), order_by="-total_cost", limit=10)
    >>> query.to_sql("trace_id")[0]
    'SELECT trace_id FROM traces WHERE true ORDER BY "total_cost" DESC NULLS LAST, "trace_id" LIMIT $limit'
    """

    filter: TraceFilter
    order_by: str = NEWEST_FIRST
    limit: int = PAGE_SIZE
    after: str | None = None
    _last: tuple[Any, str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_limit(self.limit)
        column_of(self.order_by)
        if self.after is not None:
            object.__setattr__(self, "_last", _decode(self.after, self.order_by))

    def to_sql(self, columns: str, *, more: int = 0) -> tuple[str, dict[str, Any]]:
        """Return the query over the table `traces`, and the values to bind by name.

        Parameters
        ----------
        columns : str
            What to select.
        more : int
            So many rows more than the limit, to see whether there is a next page.
        """
        column, descending = column_of(self.order_by)
        told, bound = self.filter.condition()
        if self._last is not None:
            told = f"{told} AND {_behind(column, descending, self._last, bound)}"
        bound["limit"] = self.limit + more
        direction = " DESC" if descending else ""
        order = f'"{column}"{direction} NULLS LAST, "trace_id"'
        return f"SELECT {columns} FROM traces WHERE {told} ORDER BY {order} LIMIT $limit", bound


def column_of(order_by: str) -> tuple[str, bool]:
    """Return the column of an order, and whether it descends.

    Examples
    --------
    >>> column_of("-created_at"), column_of("uid")
    (('created_at', True), ('uid', False))
    """
    told: object = order_by
    if not isinstance(told, str) or told.removeprefix("-") not in ORDERED:
        raise InvalidValueError(
            f"traces cannot be ordered by {order_by!r}; by {', '.join(ORDERED)}, with - in front for descending",
            "order_by",
        )
    return order_by.removeprefix("-"), order_by.startswith("-")


def check_limit(limit: object) -> None:
    """Refuse a limit that is no number from 1 on."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidValueError(f"expected a whole number from 1 on, not {limit!r}", "limit")


def cursor_behind(trace: Trace, order_by: str = NEWEST_FIRST) -> str:
    """Return the cursor of the page that begins right behind a trace, as it is now.

    Examples
    --------
    >>> TraceQuery(TraceFilter(), "uid", after=cursor_behind(Trace(trace_id="run-7", uid="rosa"), "uid")).order_by
    'uid'
    """
    column, _ = column_of(order_by)
    value = getattr(trace, column)
    return pack([order_by, value.isoformat() if isinstance(value, datetime) else value, trace.trace_id])


def pack(values: list[Any]) -> str:
    """Return values as the text of a cursor."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def unpack(cursor: str, kinds: tuple[tuple[type, ...], ...]) -> list[Any]:
    """Return the values of a cursor, checked to be of these types.

    Raises
    ------
    InvalidValueError
        It is broken, or another kind of cursor.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, AttributeError, RecursionError):
        values = None
    fits = isinstance(values, list) and len(values) == len(kinds)
    if fits:
        fits = all(type(value) in kind for value, kind in zip(values, kinds, strict=True)) and can_be_bound(*values)
    if not fits:
        raise InvalidValueError(f"{cursor!r:.60} is no cursor of this; pass the `next` of a page as it is", "after")
    return list(values)


def _decode(cursor: str, order_by: str) -> tuple[Any, str]:
    order, value, trace_id = unpack(cursor, ((str,), (str, int, float, type(None)), (str,)))
    if order != order_by:
        raise InvalidValueError(f"the cursor is one of the order {order!r}, not of {order_by!r}", "after")
    column, _ = column_of(order_by)
    kind = ORDERED[column]
    sound = value is None or type(value) in _TYPES[kind]
    if sound and isinstance(value, int):
        sound = INT64_MIN <= value <= INT64_MAX
    if not sound:
        raise InvalidValueError(f"the cursor holds {value!r:.60}, which no {column} can be", "after")
    return (utc_moment(value, "after") if kind == "time" else value), trace_id


def _behind(column: str, descending: bool, last: tuple[Any, str], bound: dict[str, Any]) -> str:
    value, bound["after_id"] = last
    if value is None:
        return f'"{column}" IS NULL AND "trace_id" > $after_id'
    bound["after"] = value
    further = "<" if descending else ">"
    tied = f'"{column}" = $after AND "trace_id" > $after_id'
    return f'("{column}" {further} $after OR "{column}" IS NULL OR ({tied}))'


def one_of(column: str, name: str, values: tuple[str | None, ...], bound: dict[str, Any]) -> str:
    """Return SQL that says that a column is one of some values, which are put into `bound`."""
    texts = [value for value in values if value is not None]
    names = [f"{name}_{index}" for index in range(len(texts))]
    bound.update(zip(names, texts, strict=True))
    told = [f'"{column}" IN ({", ".join(f"${each}" for each in names)})'] if names else []
    if len(texts) < len(values):
        told.append(f'"{column}" IS NULL')
    if len(told) == 1:
        return told[0]
    return f"({' OR '.join(told)})" if told else "false"


def values_of(given: object, name: str) -> tuple[str | None, ...] | None:
    """Return one text or several as several, each once; None is no filter.

    Examples
    --------
    >>> values_of("failed", "status"), values_of(["a", None, "a"], "uid")
    (('failed',), ('a', None))
    """
    if given is None:
        return None
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    values: list[object] = list(cast("Iterable[object]", given)) if several else [given]
    texts = [value for value in values if value is None or isinstance(value, str)]
    if len(texts) < len(values) or not can_be_bound(*texts):
        raise InvalidValueError(f"expected a text or several, not {given!r:.60}", name)
    return tuple(dict.fromkeys(texts))


def can_be_bound(*values: object) -> bool:
    """Say whether no text holds a lone surrogate, which DuckDB cannot take and no column holds."""
    return not any(isinstance(value, str) and _SURROGATE.search(value) for value in values)


def utc_moment(given: object, name: str) -> datetime | None:
    """Return a time in UTC; text is ISO 8601, and what has no zone is UTC.

    Examples
    --------
    >>> print(utc_moment("2026-01-02", "since"), utc_moment("2026-01-02T03:00+03:00", "since"))
    2026-01-02 00:00:00+00:00 2026-01-02 00:00:00+00:00
    """
    moment = given
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given.strip())
        except ValueError:
            raise InvalidValueError(f"{given!r:.60} is not an ISO 8601 date or time", name) from None
    elif isinstance(given, date) and not isinstance(given, datetime):
        moment = datetime(given.year, given.month, given.day)
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidValueError(f"expected a datetime, a date or an ISO 8601 text, not {given!r:.60}", name)
    if moment.utcoffset() is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValueError(f"{moment.isoformat()} is outside the years that UTC can say", name) from None
