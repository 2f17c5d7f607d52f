"""The files in `catalog/`: their names, and which of them count.

Pure text. Names carry the binding, so that what was copied here from another archive, or with
this one from another place, is told apart without being read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from traceark.catalog.snapshot import parse_snapshot_name
from traceark.storage.base import Entry

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


class SnapshotFile(NamedTuple):
    """A snapshot as it was listed; another file under the same name has another version."""

    generation: int
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a listing of `catalog/` holds for one binding.

    Attributes
    ----------
    snapshots : tuple of SnapshotFile
        By generation, newest first.
    changes : dict
        Per writer, the names of its change files by number.
    foreign : str
        Changes when files come that are bound elsewhere; empty where there are none.
    elsewhere : tuple of str
        The names of snapshots that are bound elsewhere.
    told_elsewhere : tuple of str
        The names of change files that are.
    """

    snapshots: tuple[SnapshotFile, ...]
    changes: Mapping[str, Mapping[int, str]]
    foreign: str
    elsewhere: tuple[str, ...]
    told_elsewhere: tuple[str, ...]

    @property
    def newest(self) -> SnapshotFile | None:
        """The snapshot of the highest generation. An older one is no help: what it lacks is folded into the newest."""
        return self.snapshots[0] if self.snapshots else None

    @property
    def count(self) -> int:
        """How many change files there are."""
        return sum(map(len, self.changes.values()))

    def unseen(self, seen: Mapping[str, int]) -> list[str]:
        """Return the change files past those seen, per writer in order."""
        return [
            files[number]
            for writer, files in self.changes.items()
            for number in sorted(files)
            if number > seen.get(writer, 0)
        ]

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

    def superseded_by(self, generation: int, folded: Mapping[str, int]) -> tuple[list[str], list[str]]:
        """Return the snapshots and the change files that a snapshot makes needless."""
        snapshots = [each.name for each in self.snapshots if each.generation < generation]
        changes = [
            name
            for writer, files in self.changes.items()
            for number, name in files.items()
            if number <= folded.get(writer, 0)
        ]
        return snapshots, changes


def contents_of(listed: Mapping[str, Entry], binding: str) -> Contents:
    """Return what a listing of `catalog/` holds.

    Examples
    --------
    >>> names = "snapshot-000000000002-5f3a9c21.parquet", "changes/5f3a9c21-aaaaaaaa-00000001.jsonl"
    >>> contents_of(dict.fromkeys(names, Entry(1, "", 0.0)), "5f3a9c21").count
    1
    """
    snapshots: list[SnapshotFile] = []
    changes: dict[str, dict[int, str]] = {}
    others: list[str] = []
    elsewhere: list[str] = []
    told_elsewhere: list[str] = []
    for name, entry in listed.items():
        snapshot = parse_snapshot_name(name)
        match = _CHANGES.fullmatch(name)
        if snapshot is not None and snapshot[1] == binding:
            snapshots.append(SnapshotFile(snapshot[0], name, entry.version))
        elif match is not None and match[1] == binding:
            changes.setdefault(match[2], {})[int(match[3])] = name
        elif match is not None or snapshot is not None:
            others.append(f"{name} {entry.version}")
            (elsewhere if snapshot is not None else told_elsewhere).append(name)
    foreign = hashlib.sha256("\n".join(sorted(others)).encode()).hexdigest()[:8] if others else ""
    found = tuple(sorted(snapshots, reverse=True))
    return Contents(found, changes, foreign, tuple(elsewhere), tuple(told_elsewhere))
