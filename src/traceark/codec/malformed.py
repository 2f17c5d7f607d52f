"""What a file that says something else than it should raises where it is taken apart. Knows no format and no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# What comes of JSON that is none, nests too deep for a parser, or says something else than it should, as 1e999 where an
# integer belongs. Whoever takes apart what a file says turns these into an error of the file.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def stated(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a field of a record, which has to be of that very type.

    Raises
    ------
    TypeError
        It is of another.
    KeyError
        It is not there.

    Examples
    --------
    >>> stated({"_revision": 3}, "_revision", int)
    3
    """
    value = record[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is no {kind.__name__}")
    return value
