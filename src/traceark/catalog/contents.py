"""The files in `catalog/`: their names, and which of them count.

Pure text. Names carry the binding, so that what was copied here from another archive, or with
this one from another place, is told apart without being read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from traceark.catalog.snapshot import parse_snapshot_name

CATALOG = "catalog"
_CHANGES = re.compile(r"changes/([0-9a-f]{8})-([0-9a-f]{8})-(\d{8})\.jsonl")


def binding_of(archive_id: str, location: str) -> str:
    """Return what binds derived files to an archive in one place.

    Examples
    --------
    >>> binding_of("5f3a", "s3://runs/all")
    '6832eae3'
    """
    return hashlib.sha256(f"{archive_id}\n{location}".encode()).hexdigest()[:8]


def changes_name(binding: str, writer: str, number: int) -> str:
    """Return the name of a writer's change file; they are numbered from 1 without gaps."""
    return f"changes/{binding}-{writer}-{number:08d}.jsonl"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a listing of `catalog/` holds for one binding.

    Attributes
    ----------
    generations : tuple of (int, str)
        Snapshots by generation, newest first.
    changes : dict
        Per writer, the names of its change files by number.
    foreign : str
        Changes when the change files of other bindings do; empty where there are none.
    """

    generations: tuple[tuple[int, str], ...]
    changes: Mapping[str, Mapping[int, str]]
    foreign: str

    @property
    def count(self) -> int:
        """How many change files there are."""
        return sum(map(len, self.changes.values()))

    def unseen(self, seen: Mapping[str, int]) -> dict[str, list[str]]:
        """Return the change files past those seen, in order, per writer."""
        found = {
            writer: [files[number] for number in sorted(files) if number > seen.get(writer, 0)]
            for writer, files in self.changes.items()
        }
        return {writer: names for writer, names in found.items() if names}

    def has_gap(self, seen: Mapping[str, int]) -> bool:
        """Say whether a change file is missing among those past the ones seen."""
        for writer, files in self.changes.items():
            past = [number for number in files if number > seen.get(writer, 0)]
            if past and max(past) - seen.get(writer, 0) != len(past):
                return True
        return False

    def ends(self) -> dict[str, int]:
        """Return each writer's last number."""
        return {writer: max(files) for writer, files in self.changes.items()}


def contents_of(names: Iterable[str], binding: str) -> Contents:
    """Return what a listing of `catalog/` holds.

    Examples
    --------
    >>> contents_of(["000000000002-5f3a9c21.parquet", "changes/5f3a9c21-aaaaaaaa-00000001.jsonl"], "5f3a9c21").count
    1
    """
    generations: list[tuple[int, str]] = []
    changes: dict[str, dict[int, str]] = {}
    others: list[str] = []
    for name in names:
        snapshot = parse_snapshot_name(name)
        if snapshot is not None:
            if snapshot[1] == binding:
                generations.append((snapshot[0], name))
            continue
        match = _CHANGES.fullmatch(name)
        if match is None:
            continue
        if match[1] == binding:
            changes.setdefault(match[2], {})[int(match[3])] = name
        else:
            others.append(name)
    foreign = hashlib.sha256("\n".join(sorted(others)).encode()).hexdigest()[:8] if others else ""
    return Contents(tuple(sorted(generations, reverse=True)), changes, foreign)
