"""What is whole of a document that breaks off: the records of its lists up to there.

It knows JSON, and is told where a format has its records; it knows no format.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from traceark.importers.jsonl import Decoder, Whole, text_of
from traceark.models import Json, JsonObject

# The names of the lists around a record, from the outside; a document that is a list itself has no name.
Place = tuple[str, ...]
_BLANKS = " \t\r\n"
_BREAKS = (ValueError, RecursionError)


def whole_records(data: bytes, places: Collection[Place]) -> Whole:
    """Return a document up to the record in which it breaks, without that; no value where no record is whole.

    Parameters
    ----------
    data : bytes
        What is no JSON.
    places : collection of tuple of str
        Where records are. What a document says in front of them stays, what follows is not known.

    Examples
    --------
    >>> whole_records(b'[{"id": 1}, {"id": 2}, {"id"', {()}).value
    [{'id': 1}, {'id': 2}]
    >>> whole_records(b'{"by": "me", "runs": [{"id": 1}, {"i', {("runs",)}).value
    {'by': 'me', 'runs': [{'id': 1}]}
    >>> whole_records(b'{"spans": [{"id"', {("spans",)}).value
    """
    found = _Beginning(text_of(data.removeprefix(b"\xef\xbb\xbf")), frozenset(places))
    return Whole(found.value(0, ()), found.exact)


class _Beginning:
    def __init__(self, text: str, places: frozenset[Place]) -> None:
        self.exact = True
        self._text = text
        self._places = places
        self._around = {place[:length] for place in places for length in range(len(place) + 1)}
        self._decoder = Decoder()

    def value(self, at: int, place: Place) -> Json:
        """Return what is whole of a value that breaks off; None where that is no record."""
        at = self._behind_blanks(at)
        if place not in self._around:
            return None
        if self._text.startswith("[", at):
            return self._list(at, place) if place in self._places else None
        return self._object(at, place) if self._text.startswith("{", at) else None

    def _list(self, at: int, place: Place) -> Json:
        found: list[Json] = []
        more = True
        while more:
            at = self._behind_blanks(at + 1)
            try:
                item, end = self._decoded(at)
            except _BREAKS:
                # Perhaps it has a list of records itself.
                part = self._object(at, place) if self._text.startswith("{", at) else None
                return [*found, part] if part is not None else found or None
            found.append(item)
            at = self._behind_blanks(end)
            more = self._text.startswith(",", at)
        return found

    def _object(self, at: int, place: Place) -> Json:
        """Return what precedes the field that breaks off, with what of that is whole; None where that is no record.

        Nothing is returned of what breaks off behind its records, for what else it says of them is not known.
        """
        found: JsonObject = {}
        more = True
        while more:
            name, at = self._name(self._behind_blanks(at + 1))
            if name is None:
                return None
            try:
                found[name], end = self._decoded(at)
            except _BREAKS:
                part = self.value(at, (*place, name))
                return {**found, name: part} if part is not None else None
            at = self._behind_blanks(end)
            more = self._text.startswith(",", at)
        return None

    def _name(self, at: int) -> tuple[str | None, int]:
        """Return the name of a field and where its value begins; no name where it is not whole."""
        try:
            name, end = self._decoded(at)
        except _BREAKS:
            return None, at
        at = self._behind_blanks(end)
        is_whole = isinstance(name, str) and self._text.startswith(":", at)
        return (name if isinstance(name, str) and is_whole else None), self._behind_blanks(at + 1)

    def _decoded(self, at: int) -> tuple[Json, int]:
        value, end = self._decoder.decode(self._text, at)
        self.exact &= self._decoder.exact
        return cast("Json", value), end

    def _behind_blanks(self, at: int) -> int:
        while self._text[at : at + 1] in _BLANKS and at < len(self._text):
            at += 1
        return at
