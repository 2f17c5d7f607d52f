"""Tokens as providers count them, as kinds that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable

from traceark.importers.typed import Typed
from traceark.models import Json, Message, Usage


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
    are taken for beside where they are more than the input, or where the total says so; who knows
    that they are gives the sum of all parts as the total. Those of reasoning are among the output's,
    with Google beside them; that the total alone tells.

    Examples
    --------
    >>> from collections import Counter
    >>> typed = Typed(Counter())
    >>> usage = usage_of(typed, input_tokens=100, output_tokens=7, cache_read=60)
    >>> usage.input_tokens, usage.cache_read_tokens, usage.total()
    (40, 60, 107)
    >>> usage_of(typed, input_tokens=100, output_tokens=7, cache_read=60, total=167).total()
    167
    >>> usage_of(typed, input_tokens=100, output_tokens=7, reasoning=40, total=147).output_tokens
    47
    """
    told = (input_tokens, output_tokens, cache_read, cache_write, reasoning)
    fresh, written, read, stored, thought = (typed.count(each) for each in told)
    if not any((fresh, written, read, stored)):
        return None
    stated, cached = typed.count(total), (read or 0) + (stored or 0)
    apart = (fresh or 0) + (written or 0) + cached
    if fresh is not None and cached <= fresh and stated not in (apart, apart + (thought or 0)):
        fresh -= cached
    if thought and stated == (fresh or 0) + (written or 0) + cached + thought:
        written = (written or 0) + thought
    return Usage(
        input_tokens=fresh,
        output_tokens=written,
        cache_read_tokens=read,
        cache_write_tokens=stored,
        reasoning_tokens=thought,
    )


def of_whole_run(usage: Usage | None) -> Usage:
    """Return the usage of a whole run, marked `whole_run`: it stands at the last message, and moves as the run grows.

    Examples
    --------
    >>> of_whole_run(Usage(input_tokens=3)).model_extra
    {'whole_run': True}
    """
    return Usage.parse({**(usage.fields() if usage is not None else {}), "whole_run": True})


def number_of(value: Json) -> Json:
    """Return a number that is told as text, as decimals are; any other value as it is.

    Examples
    --------
    >>> number_of("0.25"), number_of("12"), number_of("n/a")
    (0.25, 12, 'n/a')
    """
    if isinstance(value, str) and len(value) <= 40:
        try:
            return int(value) if value.isascii() and value.isdigit() else float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sum_of(usages: Iterable[Usage]) -> Usage:
    """Return what several calls used together; what none of them tells is not told.

    Examples
    --------
    >>> both = sum_of([Usage(input_tokens=10, output_tokens=2), Usage(input_tokens=5)])
    >>> both.input_tokens, both.output_tokens, both.cache_read_tokens
    (15, 2, None)
    """
    sums: dict[str, int] = {}
    for usage in usages:
        for name in Usage.model_fields:
            if (count := getattr(usage, name)) is not None:
                sums[name] = sums.get(name, 0) + count
    return Usage(**sums)


def spend(message: Message, usage: Usage) -> None:
    """Say what a message used."""
    message.usage, message.tokens = usage, usage.total()


def spend_in_all(message: Message, usage: Usage | None = None, cost: float | None = None) -> None:
    """Say at a message what the whole run used or cost, or both, and mark its usage `whole_run`."""
    if usage is not None:
        message.tokens = usage.total()
    if cost is not None:
        message.cost = cost
    message.usage = of_whole_run(usage if usage is not None else message.usage)
