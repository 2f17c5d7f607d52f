"""The conversation of a run, which each of its calls is given whole: told in full once.

An event names where the beginning of a list stands, and has what is new of it. It knows JSON and
nothing of messages.
"""

from __future__ import annotations

from collections import deque
from operator import is_

from traceark.models import Json

# Conversations of a run that go on at the same time, at most.
_MOST_LISTS = 32


class History:
    """Lists that were told in earlier records of a trace.

    Examples
    --------
    >>> history, hi, hello = History(), {"content": "hi"}, {"content": "Hello."}
    >>> history.shortened("run-1", "inputs", [hi])
    [{'content': 'hi'}]
    >>> history.shortened("run-2", "inputs", [hi, hello])
    {'after': {'id': 'run-1', 'path': ['inputs'], 'items': 1}, 'items': [{'content': 'Hello.'}]}
    """

    def __init__(self) -> None:
        self._lists: deque[tuple[list[Json], Json]] = deque(maxlen=_MOST_LISTS)

    def shortened(self, record_id: str, name: str, value: Json) -> Json:
        """Return a record's value as it is to be told; a list is looked at, and those right in an object.

        Parameters
        ----------
        record_id : str
        name : str
            Of the value in its record.
        value : JSON
            Of what is told again the same objects, not equal ones.
        """
        if isinstance(value, dict):
            return {key: self._told(record_id, [name, key], each) for key, each in value.items()}
        return self._told(record_id, [name], value)

    def _told(self, record_id: str, path: list[Json], value: Json) -> Json:
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value) or not value:
            return value
        before = [each for each in self._lists if len(each[0]) <= len(value) and all(map(is_, each[0], value))]
        self._lists.append((value, {"id": record_id, "path": path, "items": len(value)}))
        if not before:
            return value
        known, place = max(before, key=lambda each: len(each[0]))
        return {"after": place, "items": value[len(known) :]}
