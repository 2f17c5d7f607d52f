"""Values of a source as typed fields: what fits is taken, what does not is counted as repaired.

The raw value always stays in the record's JSON fields, so that nothing is lost by a repair here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, datetime

from traceark.models import INT64_MAX

# Keeps the sum over any real trace within 64 bits.
_MOST_TOKENS = 2**53
_FRACTION = re.compile(r"\.\d{6}(\d+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAIVE, _TOO_FINE = "a time without a zone, taken as UTC", "a time finer than a microsecond, cut"


class Typed:
    """Turns JSON values into values of typed fields.

    Parameters
    ----------
    repaired : Counter
        Counts, by reason, the values that did not fit.
    """

    def __init__(self, repaired: Counter[str]) -> None:
        self._repaired = repaired

    def text(self, value: object) -> str | None:
        """Return a text, lone surrogates replaced; None for what is no text or empty."""
        if not isinstance(value, str) or not value:
            return None
        if value.isascii() or not _SURROGATE.search(value):
            return value
        self._repaired["a lone surrogate, replaced"] += 1
        return _SURROGATE.sub("\ufffd", value)

    def identifier(self, value: object) -> str | None:
        """Return a text that can identify; None where two might become one by repair."""
        if not isinstance(value, str) or not value:
            return None
        if _SURROGATE.search(value):
            self._repaired["a lone surrogate in an id, not taken"] += 1
            return None
        return value

    def summary(self, value: object, length: int = 200) -> str | None:
        """Return a text on one line, cut to `length` characters with an ellipsis."""
        text = " ".join(value.split()) if isinstance(value, str) else ""
        return self.text(text if len(text) <= length else text[: length - 1].rstrip() + "…")

    def time(self, value: object) -> datetime | None:
        """Return a time in UTC from ISO 8601 text or from seconds or milliseconds since 1970."""
        if value is None:
            return None
        moment = self._epoch(value) if isinstance(value, int | float) else self._iso(value)
        if moment is None:
            self._repaired["not a time"] += 1
        return moment

    def _iso(self, value: object) -> datetime | None:
        if not isinstance(value, str):
            return None
        try:
            # What is finer than a microsecond is cut.
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                self._repaired[_NAIVE] += 1
                moment = moment.replace(tzinfo=UTC)
            moment = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        fraction = _FRACTION.search(value)
        if fraction and fraction[1].strip("0"):
            self._repaired[_TOO_FINE] += 1
        return moment

    def milliseconds(self, value: object) -> datetime | None:
        """Return a time in UTC from milliseconds since 1970, where the format says that they are."""
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 1e11 <= value < 1e13:
            return datetime.fromtimestamp(value / 1000, UTC)
        self._repaired["not a time"] += 1
        return None

    def cut(self) -> None:
        """Count a time that is finer than a microsecond."""
        self._repaired[_TOO_FINE] += 1

    def _epoch(self, value: float) -> datetime | None:
        if isinstance(value, bool) or not 1e8 <= value < 1e13:
            return None
        self._repaired["a time as a number, taken as an epoch"] += 1
        return datetime.fromtimestamp(value / 1000 if value >= 1e11 else value, UTC)

    def count(self, value: object) -> int | None:
        """Return a number of tokens; None for what cannot be one."""
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
            return value
        self._repaired["not a number of tokens"] += 1
        return None

    def duration_ms(self, value: object) -> int | None:
        """Return whole milliseconds; None for what cannot be a duration."""
        if value is None:
            return None
        whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
        if (isinstance(value, int) and not isinstance(value, bool)) or whole:
            number = int(value)  # type: ignore[call-overload]
            if 0 <= number <= min(_MOST_TOKENS, INT64_MAX):
                return int(number)
        self._repaired["not a duration"] += 1
        return None

    def cost(self, value: object) -> float | None:
        """Return a cost; None for what cannot be one."""
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            return float(value)
        self._repaired["not a cost"] += 1
        return None
