"""Which names came to a directory, and which went, since it was looked at before.

Of each name its hash is kept, eight bytes. Two names of one hash would be taken for one, which befalls a
name that comes to a million others once in ten million million times; `refresh` goes by the names.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from traceark.codec import compute as pc

# Of more names that came, each one's place takes longer to find than the hashes of all to look up.
_LITTLE = 1_000
_STEP = 16


class Names:
    """The names of a directory at one moment.

    Examples
    --------
    >>> before, now = Names(["a", "b"]), Names(["b", "c"])
    >>> came, went = now.since(before, ["b", "c"])
    >>> came, went == {hash("a")}, now.without(["a", "b", "d"])
    (['c'], True, ['a', 'd'])
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._hashes = _hashes(names)

    def since(self, before: Names, names: Sequence[str]) -> tuple[list[str], set[int]]:
        """Return the names that were not there before, and the hashes of those that were and are not now.

        `names` are all of now, in their order.
        """
        added = _added(before._hashes, self._hashes)
        if added is not None:
            return [names[at] for at in added], set()
        came = _absent(self._hashes, before._hashes)
        went = before._hashes.take(_absent(before._hashes, self._hashes))
        return [names[at] for at in came.to_pylist()], set(went.to_pylist())

    def without(self, names: Collection[str]) -> list[str]:
        """Return which of some names are not among these."""
        if not names:
            return []
        # What is to be found is put into a table, and that takes much longer than a look into one: so the few are.
        there = set(self._hashes.filter(pc.is_in(self._hashes, value_set=_hashes(names))).to_pylist())
        return [name for name in names if hash(name) not in there]


def _hashes(names: Iterable[str]) -> pa.Array:
    hashes = array("q", map(hash, names))
    return pa.Array.from_buffers(pa.int64(), len(hashes), [None, pa.py_buffer(hashes)])


def _absent(hashes: pa.Array, among: pa.Array) -> pa.Array:
    """Return the places of the hashes that are not among others."""
    return pc.indices_nonzero(pc.invert(pc.is_in(hashes, value_set=among)))


def _added(before: pa.Array, now: pa.Array) -> list[int] | None:
    """Return the places of what came, if it is little, and all else is as it was, in the same order; None if not.

    File systems mostly keep the order of names, and to compare memory takes a fraction of looking hashes up.
    """
    count = len(now) - len(before)
    if not 0 <= count <= _LITTLE:
        return None
    came: list[int] = []
    place = 0
    while len(came) < count:
        place += _alike(before.slice(place - len(came)), now.slice(place))
        came.append(place)
        place += 1
    return came if now.slice(place).equals(before.slice(place - count)) else None


def _alike(one: pa.Array, other: pa.Array) -> int:
    """Return how many hashes are the same from the beginning on."""

    def differ(last: int) -> bool:
        return not one.slice(0, last + 1).equals(other.slice(0, last + 1))

    most, reach = min(len(one), len(other)), _STEP
    while reach < most and not differ(reach):
        reach *= _STEP
    return bisect_left(range(min(reach, most)), True, key=differ)
