"""What a file that says something else than it should raises where it is taken apart. Knows no format and no file."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")

# What comes of JSON that is none, nests too deep for a parser, or says something else than it should, as 1e999 where an
# integer belongs. Whoever takes apart what a file says turns these into an error of the file.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

# Powers of ten between which are all digits of a double, of a 64-bit integer and of the difference of two of them.
_FINEST, _LARGEST = -350, 320


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


def stated_decimal(record: Mapping[str, Any], name: str) -> Decimal:
    """Return a field that is a decimal as a text; what it is added to ends up exact, and soon.

    Raises
    ------
    TypeError
        It is no text.
    ArithmeticError, ValueError
        It is no number, or larger or finer than what is added up.
    KeyError
        It is not there.

    Examples
    --------
    >>> stated_decimal({"cost": "-0.25"}, "cost")
    Decimal('-0.25')
    >>> stated_decimal({"cost": "1e999999999"}, "cost")
    Traceback (most recent call last):
    ValueError: cost is out of range
    """
    value = Decimal(stated(record, name, str))
    finest = value.as_tuple().exponent
    if isinstance(finest, str) or finest < _FINEST or value.adjusted() > _LARGEST:
        raise ValueError(f"{name} is out of range")
    return value
