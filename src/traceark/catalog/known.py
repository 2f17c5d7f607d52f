"""What one process knows of all traces: their rows in memory, and which of them want a look.

Knows no files of the catalog.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import cast

import pyarrow as pa

from traceark.catalog.lookup import COPIED, Lookup, merged, with_openings
from traceark.catalog.names import Names
from traceark.catalog.notes import Note, changed, is_doubtful
from traceark.catalog.rows import DAMAGED, OPEN, SETTLED
from traceark.catalog.table import CatalogTable, Rows
from traceark.layout import trace_id_of, trace_key
from traceark.models import JsonObject

Mark = tuple[int, int]
_numbers = itertools.count(1)
# So many changes of rows are remembered for those who ask what changed; who asks later hears that all may have.
_MOST_LOGGED = 100_000
# When more traces changed while no directory came or went, all names are compared with all rows once more.
_MOST_TOUCHED = 10_000


class KnownTraces:
    """The rows of all traces, and those among them that are looked at whenever somebody asks.

    Parameters
    ----------
    table : CatalogTable
        Where the rows are kept; those of before are forgotten.
    lookup : Lookup
        Reads traces from their directories, or from memory where this process has them open.
    writer : str
        This process, as its openings name it.
    watches_names : bool
        Whether directories that come and go are noticed, so that looking at one is cheap.

    Attributes
    ----------
    open : dict
        The openings of traces that are looked at.
    problems : dict
        By trace id, why a trace cannot be read.
    strangers : sequence of str
        Directories whose names are no trace keys.
    doubted : set of str
        Traces that others may have changed: what this process has in memory of them is no proof.
    untold : int
        How many traces arrived since the last snapshot that no change file tells of.
    """

    def __init__(self, table: CatalogTable, lookup: Lookup, writer: str, *, watches_names: bool) -> None:
        self.table = table
        self.open: dict[str, list[str]] = {}
        self.problems: dict[str, str] = {}
        self.strangers: Sequence[str] = ()
        self.doubted: set[str] = set()
        self.untold = 0
        # Tells this from what was known before.
        self._number = next(_numbers)
        # The traces whose rows changed since `load`, in order, without so many that were forgotten.
        self._log: list[str] = []
        self._forgotten = 0
        self._folded = self.mark()
        # The names of all directories as they were checked last, the traces whose rows changed since, and
        # directories of which there was nothing to know.
        self._names: Names | None = None
        self._touched: set[str] = set()
        self._empty: set[str] = set()
        self._lookup = lookup
        self._writer = writer
        self._watches_names = watches_names
        lookup.forget_all()
        table.clear()

    async def load(self, snapshot: Rows) -> None:
        """Take the rows of a snapshot."""
        await asyncio.to_thread(self.table.load, snapshot)
        # Arrow would keep the memory of what DuckDB has now, another half of it.
        await asyncio.to_thread(pa.default_memory_pool().release_unused)
        wanting = {str(row["trace_id"]): row for row in await asyncio.to_thread(self.table.wanting)}
        self.open = {
            each: cast("list[str]", row["_openings"])
            for each, row in wanting.items()
            if row["_state"] in (OPEN, DAMAGED)
        }
        self.doubted = set(self.open)
        self.problems = {each: str(row["_problem"]) for each, row in wanting.items() if "_problem" in row}

    async def put(self, rows: Sequence[JsonObject]) -> None:
        """Take rows in place of those of the same traces."""
        if rows:
            await asyncio.to_thread(self.table.put, rows)
        for row in rows:
            trace_id = str(row["trace_id"])
            self._changed(trace_id)
            self._lookup.forget(trace_id)
            self.problems.pop(trace_id, None)
            if row.get("_problem") is not None:
                self.problems[trace_id] = str(row["_problem"])
            # A damaged trace may be mended; where looking is cheap, it is looked at again.
            if row["_state"] == OPEN or (row["_state"] == DAMAGED and self._watches_names):
                self.open[trace_id] = cast("list[str]", row["_openings"])
            else:
                self.open.pop(trace_id, None)
                self.doubted.discard(trace_id)

    async def remove(self, missing: Sequence[str]) -> None:
        """Drop the rows of traces that are not there, but for what is known of who is about to write to them."""
        held = {each: sorted({*self.open.get(each, ())} - {COPIED}) for each in missing}
        gone = [each for each in missing if not held[each]]
        await asyncio.to_thread(self.table.remove, gone)
        for each in gone:
            self._changed(each)
            self.open.pop(each, None)
            self.problems.pop(each, None)
            self.doubted.discard(each)
            self._lookup.forget(each)
        await self.put([with_openings({"trace_id": each, "_listed": False}, ids) for each, ids in held.items() if ids])
        self.doubted.update(each for each, ids in held.items() if ids)

    def _changed(self, trace_id: str) -> None:
        self._log.append(trace_id)
        if len(self._log) > _MOST_LOGGED:
            self._forgotten += len(self._log) // 2
            del self._log[: len(self._log) // 2]
        if self._names is not None:
            self._touched.add(trace_id)
            if len(self._touched) > _MOST_TOUCHED:
                self._names, self._touched = None, set()

    def mark(self) -> Mark:
        """Return what tells later which rows changed since."""
        return self._number, self._forgotten + len(self._log)

    def changed_since(self, mark: Mark) -> list[str] | None:
        """Return the traces whose rows changed since a mark; None where all may have."""
        number, position = mark
        if number != self._number or position < self._forgotten:
            return None
        return sorted(set(self._log[position - self._forgotten :]))

    def folded(self) -> None:
        """Hear that a snapshot was made of the rows as they are."""
        self._folded = self.mark()

    def unfolded(self) -> list[str] | None:
        """Return the traces whose rows may not be as in the newest snapshot; None where all may not be."""
        return self.changed_since(self._folded)

    async def apply(self, notes: Sequence[Note]) -> None:
        """Take in what processes tell of traces."""
        by_trace: dict[str, list[Note]] = {}
        for note in notes:
            by_trace.setdefault(note.trace_id, []).append(note)
        if not by_trace:
            return
        known = await asyncio.to_thread(self.table.rows, list(by_trace))
        doubtful = [each for each, group in by_trace.items() if is_doubtful(known.get(each), group)]
        looked = {str(row["trace_id"]): row for row in await self._lookup.rows(doubtful)}
        rows = {each: changed(known.get(each), group) for each, group in by_trace.items()}
        for each in doubtful:
            rows[each] = merged(rows[each], looked.get(each), each, arrived=False)
        if self._watches_names:
            # What nobody had seen may have been removed by hand before the note came, or be another by now.
            unseen = [each for each, row in rows.items() if row["_listed"] and not known.get(each, {}).get("_listed")]
            found = await self._lookup.fingerprints(unseen)
            for each in unseen:
                if found[each] != rows[each].get("_files"):
                    with_openings(rows[each], {*cast("list[str]", rows[each]["_openings"]), COPIED})
        # What others told of, or told of while this process did not write there, is not in its memory yet.
        doubted = {note.trace_id for note in notes if note.writer != self._writer}
        doubted |= {each for each in by_trace if known.get(each, {}).get("_listed") and each not in self.open}
        if self._watches_names:
            # Nor is what this process begins to write to where no directory was seen.
            doubted |= {each for each in by_trace if not known.get(each, {}).get("_listed")}
        await self.put(list(rows.values()))
        self.doubted |= doubted & self.open.keys()

    async def look(self) -> None:
        """Bring the rows of traces that somebody has open up to date."""
        looks = await self._lookup.looks({each: self._is_alone(each) for each in self.open})
        differing = {each: look for each, look in looks.items() if look.differs}
        if differing:
            known = await asyncio.to_thread(self.table.rows, list(differing))
            rows = [merged(known.get(each), look.row, each, arrived=look.arrived) for each, look in differing.items()]
            self.untold += sum(row["_state"] == SETTLED and COPIED in self.open[str(row["trace_id"])] for row in rows)
            await self.put(rows)
        self._lookup.saw({each: look for each, look in differing.items() if each in self.open})
        self.doubted -= {each for each, look in looks.items() if look.live}

    def _is_alone(self, trace_id: str) -> bool:
        """Whether what this process has in memory of a trace is all there is."""
        openings = self.open[trace_id]
        own = all(opening.startswith(self._writer) for opening in openings)
        return bool(openings) and own and trace_id not in self.doubted

    async def check_names(self, keys: Sequence[str]) -> None:
        """Notice the directories that came and went by other means than notes, given the names of all."""
        before, self._names = self._names, None
        now, new, missing = await asyncio.to_thread(self._apart, before, keys)
        rows = await self._lookup.rows(new)
        await self.remove(missing)
        await self.put([with_openings(row, [COPIED]) for row in rows])
        # What was found empty may be filled without a change of the names.
        self._names, self._touched, self._empty = now, set(), set(new)

    def _apart(self, before: Names | None, keys: Sequence[str]) -> tuple[Names, list[str], list[str]]:
        """Return which traces of these directories nothing is known of, and which known ones are not among them."""
        now = Names(keys)
        self.doubted |= _without(now, self.open)
        came, went = now.since(before, keys) if before is not None else ([], set())
        if before is None or went - {hash(trace_key(each)) for each in self._touched}:
            ids = [*map(trace_id_of, keys)]
            self.strangers = sorted(key for key, each in zip(keys, ids, strict=True) if each is None)
            return now, *self.table.names_apart([each for each in ids if each is not None])
        # All else is as it was when names and rows were compared.
        new = {key: trace_id_of(key) for key in came}
        gone = now.without(self.strangers)
        new_strangers = {key for key, each in new.items() if each is None}
        self.strangers = sorted(new_strangers.union(self.strangers).difference(gone))
        ids_apart = {each for each in new.values() if each is not None} | self._touched | self._empty
        absent = _without(now, ids_apart)
        rows = self.table.rows(ids_apart)
        is_there = {each for each, row in rows.items() if row.get("_listed") or row["_state"] == DAMAGED}
        is_open = {each for each, row in rows.items() if row["_state"] == OPEN}
        return now, sorted(ids_apart - absent - is_there - is_open), sorted(absent & is_there)

    def told_problems(self) -> list[str]:
        """Return what is wrong with what is left out."""
        strangers = [
            f"traces/{key} is no trace key; rename the directory or move it out of the archive"
            for key in self.strangers
        ]
        return [*strangers, *self.problems.values()]

    def count(self) -> int:
        """Return how many rows there are."""
        return int(self.table.query("SELECT count(*) FROM catalog").column(0)[0].as_py())


def _without(names: Names, trace_ids: Collection[str]) -> set[str]:
    """Return the traces that have no directory among some names."""
    by_key = {trace_key(each): each for each in trace_ids}
    return {by_key[key] for key in names.without(by_key)}
