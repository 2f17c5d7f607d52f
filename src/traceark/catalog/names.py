"""Which names came to a directory, and which went, since it was looked at before.

Of each name its hash is kept, eight bytes. Two names of one hash would be taken for one, which befalls a
name that comes to a million others once in ten million million times; `refresh` goes by the names.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from itertools import compress

import pyarrow as pa

from traceark.codec import compute as pc


class Names:
    """The names of a directory at one moment.

    Examples
    --------
    >>> before, now = Names(["a", "b"]), Names(["b", "c"])
    >>> now.came_since(before, ["b", "c"]), now.without(["a", "b", "d"])
    (['c'], ['a', 'd'])
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._hashes = _hashes(names)

    def came_since(self, before: Names, names: Sequence[str]) -> list[str]:
        """Return which of these names were not there before; `names` are all of now, in their order."""
        return list(compress(names, _absent(self._hashes, before._hashes).to_pylist()))

    def went_since(self, before: Names) -> set[int]:
        """Return the hashes of the names that were there before and are not now."""
        return set(before._hashes.filter(_absent(before._hashes, self._hashes)).to_pylist())

    def without(self, names: Collection[str]) -> list[str]:
        """Return which of some names are not among these."""
        return list(compress(names, _absent(_hashes(names), self._hashes).to_pylist())) if names else []


def _hashes(names: Iterable[str]) -> pa.Array:
    hashes = array("q", map(hash, names))
    return pa.Array.from_buffers(pa.int64(), len(hashes), [None, pa.py_buffer(hashes)])


def _absent(hashes: pa.Array, among: pa.Array) -> pa.Array:
    return pc.invert(pc.is_in(hashes, value_set=among))
