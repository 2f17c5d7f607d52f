"""What whole columns of numbers and texts say: of long ones Arrow tells it, of others their values.

Pure. A call into Arrow's functions takes as long as some hundred values in Python.
"""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa

from traceark.codec import compute as pc

# From so many values on a column is long.
LONG_FROM = 256


def is_long(column: pa.ChunkedArray) -> bool:
    """Say whether a column is long enough for Arrow's functions."""
    return len(column) >= LONG_FROM


def is_rising(numbers: pa.ChunkedArray) -> bool:
    """Say whether each of some numbers, none of them null, is greater than the one before."""
    if is_long(numbers):
        return _all(pc.less(numbers[:-1], numbers[1:]))
    values = numbers.to_pylist()
    return all(one < other for one, other in pairwise(values))


def are_distinct(values: pa.ChunkedArray) -> bool:
    """Say whether no value, none of them null, is there twice."""
    count = pc.count_distinct(values).as_py() if is_long(values) else len(set(values.to_pylist()))
    return bool(count == len(values))


def are_all(values: pa.ChunkedArray, value: str) -> bool:
    """Say whether each value, none of them null, is this one."""
    if is_long(values):
        return bool(values[0].as_py() == value and pc.count_distinct(values).as_py() == 1)
    return {value}.issuperset(values.to_pylist())


def are_same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Say whether two columns without nulls have the same numbers."""
    return _all(pc.equal(one, other)) if is_long(one) else bool(one.to_pylist() == other.to_pylist())


def are_between(times: pa.ChunkedArray, first: int, end: int) -> bool:
    """Say whether all times are, in microseconds, from one to before another; null ones count for nothing."""
    if is_long(times):
        ends = pc.min_max(times)
        return ends["min"].value is None or (ends["min"].value >= first and ends["max"].value < end)
    for chunk in times.chunks:
        numbers = (chunk.drop_null() if chunk.null_count else chunk).view(pa.int64()).to_pylist()
        if numbers and not (min(numbers) >= first and max(numbers) < end):
            return False
    return True


def _all(truths: pa.ChunkedArray) -> bool:
    return bool(pc.all(truths, min_count=0).as_py())
