"""Objects of a running program as JSON that an archive can keep.

What JSON has no word for is told as text, so that nothing is refused when it is written. It knows
no library; models of pydantic and dataclasses are told by the methods that they have.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping, Set
from datetime import date, datetime, time
from enum import Enum
from uuid import UUID

from traceark.models import Json

# Deeper than any message, and far from where Python itself gives up; a circle ends here, too.
_MOST_DEPTH = 60
_MOST_TEXT = 10_000


class Repeated:
    """Objects that a run tells again and again, such as its messages: each is turned into JSON once.

    One that was changed meanwhile is turned anew. While it is unchanged it is the same JSON, not a copy.

    Parameters
    ----------
    kind : type
        Of these objects, a model of pydantic.
    """

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._known: dict[int, tuple[object, Json]] = {}

    def known(self, value: object) -> Json:
        """Return the JSON of an object that was told before as it is now, else None."""
        known = self._known.get(id(value))
        try:
            return known[1] if known is not None and known[1] == vars(value) else None
        except Exception:  # whatever a value in it makes of being compared: it is told anew
            return None

    def take(self, value: object, told: Json) -> None:
        """Keep the JSON of an object."""
        if isinstance(value, self._kind):
            self._known[id(value)] = (value, told)


def plain(value: object, repeated: Repeated | None = None, depth: int = 0) -> Json:
    """Return a value as JSON.

    Examples
    --------
    >>> plain({"at": date(2026, 3, 1), 7: (1, float("nan")), "key": b"ab"})
    {'at': '2026-03-01', '7': [1, 'nan'], 'key': 'YWI='}
    """
    if repeated is not None and (known := repeated.known(value)) is not None:
        return known
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if depth >= _MOST_DEPTH:
        return _shown(value)
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(key): plain(each, repeated, depth + 1) for key, each in value.items()
        }
    if isinstance(value, list | tuple | Set):
        return [plain(each, repeated, depth + 1) for each in value]
    told = _told(value, repeated, depth)
    if repeated is not None:
        repeated.take(value, told)
    return told


def _told(value: object, repeated: Repeated | None, depth: int) -> Json:
    """Return what an object tells of itself, or how Python shows it."""
    dump = getattr(type(value), "model_dump", None)
    try:
        if dump is not None:
            return plain(dump(value), None, depth + 1)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return {name: plain(getattr(value, name), repeated, depth + 1) for name in names}
    except Exception:  # whatever the user's class raises: its text is told then
        return _shown(value)
    return _shown(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a class that cannot even be shown
        return f"<{type(value).__name__}, not shown: {type(error).__name__}>"
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"
