"""Tokens as providers count them, as kinds that do not overlap."""

from __future__ import annotations

from traceark.importers.typed import Typed
from traceark.models import Usage


def usage_of(
    typed: Typed,
    *,
    input_tokens: object = None,
    output_tokens: object = None,
    cache_read: object = None,
    cache_write: object = None,
    reasoning: object = None,
    total: object = None,
) -> Usage | None:
    """Return the usage of a call; None where nothing is told, or nothing but zeros.

    Cached tokens are among the input's with OpenAI and Google, and beside them with Anthropic. They
    are taken for beside where they are more than the input, or where the total says so.

    Examples
    --------
    >>> from collections import Counter
    >>> typed = Typed(Counter())
    >>> usage = usage_of(typed, input_tokens=100, output_tokens=7, cache_read=60)
    >>> usage.input_tokens, usage.cache_read_tokens, usage.total()
    (40, 60, 107)
    >>> usage_of(typed, input_tokens=100, output_tokens=7, cache_read=60, total=167).total()
    167
    """
    told = (input_tokens, output_tokens, cache_read, cache_write, reasoning)
    fresh, written, read, stored, thought = (typed.count(each) for each in told)
    if not any((fresh, written, read, stored)):
        return None
    cached = (read or 0) + (stored or 0)
    beside = typed.count(total) == (fresh or 0) + (written or 0) + cached
    if fresh is not None and cached <= fresh and not beside:
        fresh -= cached
    return Usage(
        input_tokens=fresh,
        output_tokens=written,
        cache_read_tokens=read,
        cache_write_tokens=stored,
        reasoning_tokens=thought,
    )
