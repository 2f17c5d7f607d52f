"""Which names came to a directory, and which went, since it was looked at before.

Of each name its hash is kept, eight bytes. Two names of one hash would be taken for one, which befalls a
name that comes to a million others once in ten million million times; `refresh` goes by the names.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from traceark.codec import compute as pc

_ALL_BITS = (1 << 64) - 1


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
        at = _absent(self._hashes, before._hashes)
        came = self._hashes.take(at)
        went: set[int] = set()
        # To look for those that went takes as long as for those that came, and mostly none did.
        if _sums(self._hashes) != _sums(before._hashes, came):
            went.update(before._hashes.take(_absent(before._hashes, self._hashes)).to_pylist())
        return [names[each] for each in at.to_pylist()], went

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


def _sums(*parts: pa.Array) -> tuple[int, int]:
    """Return how many hashes there are, and their sum: without those that came, both differ if any went."""
    return sum(map(len, parts)), sum(pc.sum(part).as_py() or 0 for part in parts) & _ALL_BITS
