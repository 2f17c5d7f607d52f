"""Replaces what patterns find in texts and in JSON, also where a text is itself JSON in a string.

Matching is on decoded text. A text with backslashes is looked at again with its escapes undone, and
again, since arguments of tools are often JSON inside JSON; what is found there is replaced where it
stands, so that the text around it stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from traceark.models import Json, JsonObject
from traceark.redaction.patterns import Pattern

# Escapes of JSON, and those of Python, shells and JavaScript that stand for a character of a secret.
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([\"'\\/bfnrt]))")
_MEANT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# JSON in a string in a string … deeper than anybody writes it.
_MOST_LEVELS = 8
_SHORT, _REMEMBERED = 64, 100_000

# What was found: by pattern and field, how many times.
Found = Counter[tuple[str, str]]
Span = tuple[int, int]


@dataclass(slots=True)
class Redactor:
    """Replaces what some patterns find, and counts it.

    Attributes
    ----------
    patterns : sequence of Pattern
        In their order: what one replaced, the next does not see.
    replaced, left : Counter
        Matches by the pattern's name and the field: those that were replaced, and those that stay
        since an id has to stay.

    Examples
    --------
    >>> from traceark.redaction.patterns import patterns_of
    >>> redactor = Redactor(patterns_of())
    >>> redactor.text("write to ann@example.org", "messages.content"), dict(redactor.replaced)
    ('write to [redacted:email]', {('email', 'messages.content'): 1})
    """

    patterns: Sequence[Pattern]
    replaced: Found = field(default_factory=Counter)
    left: Found = field(default_factory=Counter)
    # Short texts in which nothing was found: names of fields come again and again.
    _clean: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def text(self, text: str, where: str) -> str:
        """Return a text with all matches replaced."""
        return self._replace(text, where, self.replaced)

    def keep(self, text: str, where: str) -> None:
        """Count what is in a text that has to stay."""
        self._replace(text, where, self.left)

    def value(self, value: Json, where: str) -> Json:
        """Return a JSON value with all matches in its texts and keys replaced; numbers stay.

        Keys that would become one get a number.
        """
        # One call a level: values may be nested as deep as half of what Python's stack holds.
        if isinstance(value, str):
            return self.text(value, where)
        if isinstance(value, list):
            items: list[Json] = []
            for item in value:
                items.append(self.value(item, where))
            return items
        if isinstance(value, dict):
            names = self.names(value, where)
            fields: JsonObject = {}
            for key, child in value.items():
                fields[names[key]] = self.value(child, where)
            return fields
        return value

    def names(self, keys: Iterable[str], where: str) -> dict[str, str]:
        """Return what keys of one object become, each another."""
        found = {key: self.text(key, where) for key in keys}
        taken = {key for key, name in found.items() if key == name}
        for key, name in found.items():
            if key != name:
                found[key] = _unique(name, taken)
                taken.add(found[key])
        return found

    def _replace(self, text: str, where: str, counts: Found) -> str:
        if text in self._clean:
            return text
        found = self._looked_through(text, where, counts)
        if len(text) <= _SHORT and found == text and len(self._clean) < _REMEMBERED:
            self._clean.add(text)
        return found

    def _looked_through(self, text: str, where: str, counts: Found) -> str:
        # The innermost first: there a value ends where it ends, and not in an escape.
        for level in reversed(range(len(_views(text)))):
            views = _views(text)[: level + 1]
            for pattern in self.patterns:
                if not pattern.may_be_in(views[-1]):
                    continue
                spans = [_span(match) for match in pattern.compiled.finditer(views[-1])]
                if spans:
                    counts[pattern.name, where] += len(spans)
                    text = _with_spans(text, _originals(views, spans), pattern.replacement)
                    views = _views(text)[: level + 1]
        return text


def _unique(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found


def _span(match: re.Match[str]) -> Span:
    return match.span("secret") if "secret" in match.re.groupindex else match.span()


def _with_spans(text: str, spans: Iterable[Span], replacement: str) -> str:
    pieces, at = [], 0
    for begin, end in spans:
        pieces += [text[at:begin], replacement]
        at = end
    return "".join([*pieces, text[at:]])


def _views(text: str) -> list[str]:
    """Return a text, and it with one, two, … levels of escapes undone, as far as there are any."""
    views = [text]
    while "\\" in views[-1] and len(views) < _MOST_LEVELS:
        undone = _ESCAPE.sub(_character, views[-1])
        if undone == views[-1]:
            break
        views.append(undone)
    return views


def _character(match: re.Match[str]) -> str:
    code = cast("str | None", match[1] or match[2])
    return chr(int(code, 16)) if code else _MEANT.get(match[3], match[3])


def _originals(views: Sequence[str], spans: Sequence[Span]) -> Sequence[Span]:
    """Return where spans of the last view stand in the first one, escapes whole."""
    for view in reversed(views[:-1]):
        places: list[int] = []
        at = 0
        for match in _ESCAPE.finditer(view):
            begin, end = match.span()
            places += range(at, begin + 1)
            at = end
        places += range(at, len(view) + 1)
        spans = [(places[begin], places[end]) for begin, end in spans]
    return spans
